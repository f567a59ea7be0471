//! Where hosts find subsystems on other nodes: the referrals of a node's discovery log.

use std::collections::BTreeMap;
use std::net::IpAddr;

use penstock_api::names::Kind;
use penstock_api::v1::{NodeStatus, RemotePort, TransportAddress};
use penstock_plan::desired;

use crate::mirror::{View, children, key_of};

/// The NVMe qualified name of `hosts/{host}`.
pub fn host_nqn(view: &View, host: &str) -> Option<String> {
    let held = view.hosts.get(&key_of(Kind::Host, host))?;
    Some(held.resource.spec.as_ref()?.nqn.clone())
}

/// The ports of all subsystems on nodes other than this one (its id), in a fixed order.
pub fn of_others(view: &View, node: &str) -> Vec<RemotePort> {
    let mut known: BTreeMap<&str, Vec<TransportAddress>> = BTreeMap::new();
    let mut ports = Vec::new();
    let nqn = |host: &str| host_nqn(view, host);
    for (subsystem, nodes) in view.served() {
        let Some(held) = view.subsystems.get(subsystem) else {
            continue;
        };
        for other in nodes.filter(|other| *other != node) {
            let addresses = known
                .entry(other)
                .or_insert_with(|| addresses_of(view, other));
            ports.extend(desired::remote_ports(&held.resource, addresses, &nqn));
        }
    }
    ports
}

/// Where hosts can connect to a node: its own listeners and those that control made, with addresses
/// for all interfaces replaced by those of the interfaces.
fn addresses_of(view: &View, node: &str) -> Vec<TransportAddress> {
    let held = view.nodes.get(node);
    let status = held.and_then(|held| held.resource.status.as_ref());
    let inventory = status.and_then(|status| status.inventory.as_ref());
    let own = inventory.map_or(&[][..], |inventory| &inventory.listeners);
    let made = children(&view.listeners, node)
        .filter(|(_, held)| held.resource.delete_time.is_none())
        .map(|(_, held)| desired::listener_address(&held.resource));
    let mut all = Vec::new();
    for address in own.iter().cloned().chain(made) {
        match address.address.parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() => {
                for interface in interface_addresses(status, ip.is_ipv4()) {
                    all.push(TransportAddress {
                        address: interface.to_string(),
                        ..address.clone()
                    });
                }
            }
            _ => all.push(address),
        }
    }
    all
}

/// Addresses of a node's interfaces that hosts can reach: of this family (`::` takes both), without
/// those that mean something on the node only, unless it has no others.
fn interface_addresses(status: Option<&NodeStatus>, only_v4: bool) -> Vec<IpAddr> {
    let inventory = status.and_then(|status| status.inventory.as_ref());
    let interfaces = inventory.map_or(&[][..], |inventory| &inventory.network_interfaces);
    let fitting: Vec<IpAddr> = interfaces
        .iter()
        .flat_map(|interface| &interface.addresses)
        .filter_map(|address| address.parse().ok())
        .filter(|address: &IpAddr| address.is_ipv4() || !only_v4)
        .collect();
    let (local, reachable): (Vec<IpAddr>, Vec<IpAddr>) =
        fitting.into_iter().partition(|address| match address {
            IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
        });
    if reachable.is_empty() {
        local
    } else {
        reachable
    }
}
