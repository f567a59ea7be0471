//! Layouts: where a volume lies, and how hosts reach it.

use std::net::IpAddr;
use std::sync::Arc;

use penstock_api::names::Kind;
use penstock_api::resource::Resource as _;
use penstock_api::v1::layout_service_server::LayoutService;
use penstock_api::v1::{
    GetLayoutRequest, Inventory, Listener, Namespace, Node, Path, Subsystem, TransportAddress,
    Volume, VolumeLayout,
};
use penstock_plan::desired::{block_size_bytes, listener_address};
use tonic::{Request, Response, Status};

use super::core::Core;
use super::write::id_in;
use crate::fault::{Fault, Result};

/// The service of layouts.
#[derive(Clone)]
pub struct Layouts(pub(super) Arc<Core>);

impl Layouts {
    async fn get(&self, request: GetLayoutRequest) -> Result<VolumeLayout> {
        let volume = self.0.volume("volume", &request.volume).await?;
        let status = volume.status.clone().unwrap_or_default();
        let Some(layout) = status.layout.clone() else {
            let why = volume
                .condition("Placed")
                .map(|condition| format!(": {}", condition.message))
                .unwrap_or_default();
            return Err(Fault::precondition(
                "NOT_PLACED",
                format!(
                    "{} has no place yet{why}; wait for the operation that creates it, or make room",
                    volume.name
                ),
            )
            .with("resource", &volume.name));
        };
        let paths = self.paths(&volume, &layout.node).await?;
        let spec = volume.spec.unwrap_or_default();
        Ok(VolumeLayout {
            volume: volume.name,
            volume_uid: volume.uid,
            size_bytes: u64::try_from(spec.size_bytes).unwrap_or(0),
            block_size_bytes: block_size_bytes(spec.block_size()),
            layout: Some(layout),
            paths,
        })
    }

    async fn paths(&self, volume: &Volume, node: &str) -> Result<Vec<Path>> {
        let repo = &self.0.repo;
        let served = volume.status.as_ref().map_or("", |s| s.namespace.as_str());
        if served.is_empty() {
            return Ok(Vec::new());
        }
        let ids = id_in(Kind::Namespace, served);
        let subsystem = ids.split('/').next().unwrap_or_default();
        let namespace = repo.get::<Namespace>(&ids).await?;
        let subsystem = repo.get::<Subsystem>(subsystem).await?;
        let (Some(namespace), Some(subsystem)) = (namespace, subsystem) else {
            return Ok(Vec::new());
        };
        let node_id = id_in(Kind::Node, node);
        let inventory = repo
            .get::<Node>(&node_id)
            .await?
            .and_then(|node| node.resource.status?.inventory)
            .unwrap_or_default();
        let mut addresses = inventory.listeners.clone();
        let listeners = repo
            .all::<Listener>(&format!("{node_id}/"), None)
            .await?
            .items;
        addresses.extend(
            listeners
                .iter()
                .filter(|listener| !listener.resource.deleting())
                .map(|listener| listener_address(&listener.resource)),
        );
        let nqn = subsystem.resource.spec.unwrap_or_default().nqn;
        let nsid = namespace.resource.spec.unwrap_or_default().nsid;
        Ok(reachable(&addresses, &inventory)
            .into_iter()
            .map(|address| Path {
                address: Some(address),
                nqn: nqn.clone(),
                nsid,
                node: node.to_owned(),
            })
            .collect())
    }
}

/// Addresses that hosts can connect to: those for all of a family become the node's own, without
/// loopback where it has others.
fn reachable(addresses: &[TransportAddress], inventory: &Inventory) -> Vec<TransportAddress> {
    let own: Vec<IpAddr> = inventory
        .network_interfaces
        .iter()
        .flat_map(|interface| &interface.addresses)
        .filter_map(|address| address.parse().ok())
        .collect();
    let mut found: Vec<TransportAddress> = Vec::new();
    for address in addresses {
        let mut expanded = vec![address.clone()];
        if let Ok(any) = address.address.parse::<IpAddr>()
            && any.is_unspecified()
        {
            let family: Vec<&IpAddr> = own
                .iter()
                .filter(|own| own.is_ipv4() == any.is_ipv4())
                .collect();
            let outer = family.iter().any(|own| !own.is_loopback());
            expanded = family
                .into_iter()
                .filter(|own| !outer || !own.is_loopback())
                .map(|own| TransportAddress {
                    address: own.to_string(),
                    ..address.clone()
                })
                .collect();
        }
        for address in expanded {
            if !found.contains(&address) {
                found.push(address);
            }
        }
    }
    found
}

#[tonic::async_trait]
impl LayoutService for Layouts {
    async fn get_layout(
        &self,
        request: Request<GetLayoutRequest>,
    ) -> Result<Response<VolumeLayout>, Status> {
        let call = self.0.enter("GetLayout", &request)?;
        call.run(self.get(request.into_inner())).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_api::v1::NetworkInterface;

    #[test]
    fn addresses_for_all_become_the_nodes_own() {
        let at = |address: &str| TransportAddress {
            transport: "tcp".to_owned(),
            address: address.to_owned(),
            port: 4420,
        };
        let inventory = |addresses: &[&str]| Inventory {
            network_interfaces: vec![NetworkInterface {
                addresses: addresses.iter().map(ToString::to_string).collect(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let all = inventory(&["127.0.0.1", "10.0.0.1", "::1", "fd00::1"]);
        assert_eq!(
            reachable(&[at("0.0.0.0"), at("10.0.0.1")], &all),
            [at("10.0.0.1")]
        );
        assert_eq!(reachable(&[at("::")], &all), [at("fd00::1")]);
        assert_eq!(
            reachable(&[at("0.0.0.0")], &inventory(&["127.0.0.1"])),
            [at("127.0.0.1")]
        );
        assert_eq!(
            reachable(&[at("::"), at("10.0.0.9")], &inventory(&[])),
            [at("10.0.0.9")]
        );
    }
}
