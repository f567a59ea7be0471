//! Nodes that are given up, and come back after all.

use penstock_api::v1::listener_service_server::ListenerService;
use penstock_api::v1::namespace_service_server::NamespaceService;
use penstock_api::v1::node_service_server::NodeService;
use penstock_api::v1::volume_service_server::VolumeService;
use penstock_api::v1::{
    CreateListenerRequest, CreateNodeRequest, DeleteListenerRequest, DeleteNamespaceRequest,
    DeleteNodeRequest, DeleteVolumeRequest, Listener, ListenerSpec,
};
use penstock_control::config::Settings;
use penstock_control::control::Control;
use tonic::{Code, Request};

use crate::agent::Agent;
use crate::world::*;

async fn create_node(control: &Control) {
    let request = CreateNodeRequest {
        node_id: "n1".to_owned(),
        ..CreateNodeRequest::default()
    };
    let created = control.services.nodes.create_node(Request::new(request));
    created.await.unwrap();
}

/// A server, and a node that serves `v1` as `s1/ns1`, holds `v2`, and listens.
async fn serving(world: &World) -> (Control, Agent) {
    let control = world.server_with("a", Settings::default()).await;
    create_node(&control).await;
    let agent = Agent::new("n1", GIB);
    let stream = agent.connect(&control);
    until("online", || online(&control, "n1")).await;
    create_subsystem(&control, "s1").await;
    wait(&control, &create_volume(&control, "v1", 8).await).await;
    wait(&control, &create_volume(&control, "v2", 8).await).await;
    let served = create_namespace(&control, "s1", "ns1", "v1").await;
    wait(&control, &served).await;
    let request = CreateListenerRequest {
        parent: "nodes/n1".to_owned(),
        listener_id: "l1".to_owned(),
        listener: Some(Listener {
            spec: Some(ListenerSpec {
                address: "192.0.2.1".to_owned(),
                port: 4430,
                ..ListenerSpec::default()
            }),
            ..Listener::default()
        }),
        ..CreateListenerRequest::default()
    };
    let listeners = &control.services.listeners;
    let created = listeners.create_listener(Request::new(request)).await;
    wait(&control, &created.unwrap().into_inner()).await;
    stream.abort();
    until("offline", || !online(&control, "n1")).await;
    (control, agent)
}

fn keys(world: &World, part: &str) -> Vec<String> {
    let all = world.sim.dump().into_iter().map(|entry| entry.key);
    all.filter(|key| key.contains(part)).collect()
}

/// Identities of the node's orphans, as the store has them.
async fn orphans(control: &Control) -> Vec<String> {
    let node = get_node(control, "n1").await.unwrap();
    let orphans = node.status.unwrap_or_default().orphans;
    let mut names: Vec<String> = orphans.into_iter().map(|orphan| orphan.volume).collect();
    names.sort();
    names
}

#[tokio::test(start_paused = true)]
async fn what_was_forced_is_ended_when_the_node_is_back_but_for_data() {
    let world = World::new();
    let (control, agent) = serving(&world).await;
    let namespace = DeleteNamespaceRequest {
        name: "subsystems/s1/namespaces/ns1".to_owned(),
        force: true,
        ..DeleteNamespaceRequest::default()
    };
    let listener = DeleteListenerRequest {
        name: "nodes/n1/listeners/l1".to_owned(),
        force: true,
        ..DeleteListenerRequest::default()
    };
    let volume = DeleteVolumeRequest {
        name: "volumes/v1".to_owned(),
        force: true,
        ..DeleteVolumeRequest::default()
    };
    let (namespaces, listeners, volumes) = (
        &control.services.namespaces,
        &control.services.listeners,
        &control.services.volumes,
    );
    let ended = [
        namespaces.delete_namespace(Request::new(namespace)).await,
        listeners.delete_listener(Request::new(listener)).await,
        volumes.delete_volume(Request::new(volume)).await,
    ];
    for operation in ended {
        let operation = operation.unwrap().into_inner();
        assert!(operation.done && operation.error.is_none(), "{operation:?}");
    }
    assert_eq!(keys(&world, "/left/").len(), 2);

    agent.connect(&control);
    until("online", || online(&control, "n1")).await;
    until("the node has ended what holds no data", || {
        agent.with(|memory| memory.namespaces.is_empty() && memory.listeners.is_empty())
    })
    .await;
    until("which is noted", || keys(&world, "/left/").is_empty()).await;
    // The data is there, and is told.
    assert_eq!(agent.with(|memory| memory.volumes.len()), 2);
    assert_eq!(orphans(&control).await, ["volumes/v1"]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_forgotten_is_unknown_and_then_holds_orphans() {
    let world = World::new();
    let (control, agent) = serving(&world).await;
    let request = DeleteNodeRequest {
        name: "nodes/n1".to_owned(),
        force: true,
        ..DeleteNodeRequest::default()
    };
    let nodes = &control.services.nodes;
    nodes.delete_node(Request::new(request)).await.unwrap();
    let gone = get_volume(&control, "v1").await.expect_err("gone");
    assert_eq!(gone.code(), Code::NotFound);
    for part in [
        "/node/n1",
        "/device/n1",
        "/listener/n1",
        "/volume/",
        "/left/",
    ] {
        assert_eq!(keys(&world, part), Vec::<String>::new(), "{part}");
    }
    let refused = agent.connect(&control).await.unwrap().expect("refused");
    assert_eq!(refused.code(), Code::NotFound);
    assert!(refused.message().contains("is not known"), "{refused}");

    create_node(&control).await;
    agent.connect(&control);
    until("online", || online(&control, "n1")).await;
    assert_eq!(orphans(&control).await, ["volumes/v1", "volumes/v2"]);
    agent.with(|memory| {
        assert_eq!(memory.volumes.len(), 2);
        assert_eq!((memory.namespaces.len(), memory.listeners.len()), (1, 1));
    });
}
