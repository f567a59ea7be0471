//! Whether list, pages, watch and the node's own metrics tell the same.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use penstock_api::v1;
use v1::namespace_service_client::NamespaceServiceClient;
use v1::volume_service_client::VolumeServiceClient;
use v1::watch_service_client::WatchServiceClient;

use super::load::Clients;
use super::setup::Setup;

/// Checks that every volume and namespace is in all views, each in its right number.
///
/// # Errors
/// They do not agree; says which.
pub async fn agree(
    clients: &Clients,
    setup: &Setup,
    volumes: usize,
    namespaces: usize,
) -> Result<()> {
    let large = volume_pages(clients, 1000).await?;
    let small = volume_pages(clients, 37).await?;
    ensure!(
        large.len() == volumes,
        "lists tell of {} volumes, not {volumes}",
        large.len()
    );
    ensure!(
        large == small,
        "small pages tell other volumes than large ones"
    );
    let listed = namespace_pages(clients).await?;
    ensure!(
        listed.len() == namespaces,
        "lists tell of {} namespaces, not {namespaces}",
        listed.len()
    );
    let watched = watched(clients).await?;
    let all: BTreeSet<String> = large.into_iter().chain(listed).collect();
    ensure!(
        watched == all,
        "a watch tells of {} objects, lists of {}",
        watched.len(),
        all.len()
    );
    let page = metrics(setup.node_metrics())?;
    let held = gauge(&page, "penstock_agent_volumes{", "ready")?;
    ensure!(
        held == volumes,
        "the node holds {held} ready volumes, not {volumes}"
    );
    Ok(())
}

async fn volume_pages(clients: &Clients, page_size: i32) -> Result<BTreeSet<String>> {
    let mut client = VolumeServiceClient::new(clients.channel());
    let (mut names, mut page_token) = (BTreeSet::new(), String::new());
    loop {
        let request = v1::ListVolumesRequest {
            page_size,
            page_token,
        };
        let page = client.list_volumes(request).await?.into_inner();
        for volume in page.volumes {
            let ready = volume.status.as_ref().map(v1::VolumeStatus::state);
            ensure!(
                ready == Some(v1::VolumeState::Ready),
                "{} is {ready:?}",
                volume.name
            );
            ensure!(names.insert(volume.name), "a volume is on two pages");
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(names);
        }
    }
}

async fn namespace_pages(clients: &Clients) -> Result<BTreeSet<String>> {
    let mut client = NamespaceServiceClient::new(clients.channel());
    let (mut names, mut page_token) = (BTreeSet::new(), String::new());
    loop {
        let request = v1::ListNamespacesRequest {
            parent: "subsystems/-".to_owned(),
            page_size: 1000,
            page_token,
        };
        let page = client.list_namespaces(request).await?.into_inner();
        names.extend(page.namespaces.into_iter().map(|namespace| namespace.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(names);
        }
    }
}

/// Names that a new watch tells of before it is in step.
async fn watched(clients: &Clients) -> Result<BTreeSet<String>> {
    let mut client = WatchServiceClient::new(clients.channel());
    let request = v1::WatchRequest {
        kinds: vec!["volume".to_owned(), "namespace".to_owned()],
        ..v1::WatchRequest::default()
    };
    let mut events = client.watch(request).await?.into_inner();
    let mut names = BTreeSet::new();
    loop {
        let event = events.message().await?.context("the watch ended")?;
        if event.r#type() == v1::WatchEventType::Synced {
            return Ok(names);
        }
        match event.resource {
            Some(v1::watch_event::Resource::Volume(volume)) => names.insert(volume.name),
            Some(v1::watch_event::Resource::Namespace(namespace)) => names.insert(namespace.name),
            _ => false,
        };
    }
}

fn metrics(at: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(at).context("the node's metrics do not answer")?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}

/// The value of the first line that starts with `name` and has `label` in it.
fn gauge(page: &str, name: &str, label: &str) -> Result<usize> {
    let line = page
        .lines()
        .find(|line| line.starts_with(name) && line.contains(label));
    let line = line.with_context(|| format!("the node's metrics lack {name}"))?;
    let value = line.rsplit(' ').next().unwrap_or_default();
    value
        .parse()
        .with_context(|| format!("not a count: {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_are_read_from_the_page() {
        let page = "a 1\nx{state=\"FAILED\"} 2\nx{state=\"READY\"} 37\n";
        assert_eq!(gauge(page, "x{", "READY").expect("there"), 37);
        assert!(gauge(page, "y{", "READY").is_err());
    }
}
