//! What a node is told: resources as the messages of the stream to its agent.

use penstock_api::v1::{
    BlockSize, DesiredListener, DesiredNamespace, DesiredSubsystem, DesiredVolume, Listener,
    Namespace, RemotePort, Subsystem, TransportAddress, Volume,
};

/// Controller identifiers that a node gets for a subsystem.
pub const CONTROLLER_IDS_PER_NODE: u32 = 1023;

/// Most nodes that a subsystem can be served by.
pub const SUBSYSTEM_NODES_MAX: usize = 64;

/// Model number of subsystems that have none in their spec.
pub const DEFAULT_MODEL: &str = "Penstock";

/// Highest namespace identifier of subsystems that have none in their spec.
pub const DEFAULT_NAMESPACES_MAX: u32 = 1024;

/// Port of listeners that have none in their spec.
pub const DEFAULT_PORT: u32 = 4420;

/// A volume as its node is told to have it; `None` while it has no place. Deleted where its
/// deletion was asked for.
#[must_use]
pub fn volume(volume: &Volume) -> Option<DesiredVolume> {
    let status = volume.status.as_ref()?;
    let layout = status.layout.clone()?;
    let spec = volume.spec.clone().unwrap_or_default();
    let wanted = u64::try_from(spec.size_bytes).unwrap_or(0);
    let size_bytes = placed_size(&layout, wanted);
    // Only growth makes generations. One that has no space yet is not what the node has carried out
    // when it has carried out this.
    let carried = status.observed_generation.max(1);
    let generation = if size_bytes < wanted {
        volume.generation.min(carried)
    } else {
        volume.generation
    };
    Some(DesiredVolume {
        uid: volume.uid.clone(),
        name: volume.name.clone(),
        size_bytes,
        block_size_bytes: block_size_bytes(spec.block_size()),
        layout: Some(layout),
        generation,
        deleted: volume.delete_time.is_some(),
        spec: Some(spec),
        labels: volume.labels.clone(),
        ready_extents: status.ready_extents,
    })
}

/// The wanted size, or less where the layout has not grown yet.
fn placed_size(layout: &penstock_api::v1::Layout, wanted: u64) -> u64 {
    let capacity = layout
        .extents
        .iter()
        .fold(0u64, |sum, e| sum.saturating_add(e.length_bytes));
    wanted.min(capacity)
}

/// The block size in bytes; not set is 4096.
#[must_use]
pub fn block_size_bytes(size: BlockSize) -> u32 {
    match size {
        BlockSize::BlockSize512 => 512,
        BlockSize::BlockSize4096 | BlockSize::Unspecified => 4096,
    }
}

/// First and last controller identifier of the node at this place in
/// [`SubsystemStatus::nodes`](penstock_api::v1::SubsystemStatus::nodes); `None` beyond the last
/// place.
#[must_use]
pub fn controller_ids(block: usize) -> Option<(u32, u32)> {
    if block >= SUBSYSTEM_NODES_MAX {
        return None;
    }
    let block = u32::try_from(block).ok()?;
    let first = 1 + CONTROLLER_IDS_PER_NODE * block;
    Some((first, first + CONTROLLER_IDS_PER_NODE - 1))
}

/// A subsystem as `node` (`nodes/{node}`) is told to serve it; `None` where the node has no place in
/// its status. `host_nqn` gives the NQN of `hosts/{host}`; hosts without one are left out.
///
/// Names that the spec leaves open must have been filled in by the server; only where they are not,
/// defaults stand in.
#[must_use]
pub fn subsystem(
    subsystem: &Subsystem,
    node: &str,
    host_nqn: &dyn Fn(&str) -> Option<String>,
) -> Option<DesiredSubsystem> {
    let places = &subsystem.status.as_ref()?.nodes;
    let (first, last) = controller_ids(places.iter().position(|name| name == node)?)?;
    let spec = subsystem.spec.clone().unwrap_or_default();
    Some(DesiredSubsystem {
        uid: subsystem.uid.clone(),
        name: subsystem.name.clone(),
        nqn: spec.nqn,
        serial: or(spec.serial, || serial_of(&subsystem.uid)),
        model: or(spec.model, || DEFAULT_MODEL.to_owned()),
        allow_any_host: spec.allow_any_host,
        host_nqns: host_nqns(&spec.hosts, host_nqn),
        namespaces_max: if spec.namespaces_max == 0 {
            DEFAULT_NAMESPACES_MAX
        } else {
            spec.namespaces_max
        },
        controller_id_min: first,
        controller_id_max: last,
        deleted: subsystem.delete_time.is_some(),
    })
}

fn or(text: String, default: impl FnOnce() -> String) -> String {
    if text.is_empty() { default() } else { text }
}

/// A serial number made of an identity: its first 20 hexadecimal digits, without hyphens.
#[must_use]
pub fn serial_of(uid: &str) -> String {
    uid.chars()
        .filter(char::is_ascii_alphanumeric)
        .take(20)
        .collect()
}

/// In order and without repetition, so that the same set is the same message.
fn host_nqns(hosts: &[String], host_nqn: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let mut nqns: Vec<String> = hosts.iter().filter_map(|host| host_nqn(host)).collect();
    nqns.sort();
    nqns.dedup();
    nqns
}

/// A namespace as its node is told to serve it. `subsystem_uid` and `volume_uid` are the identities
/// of what its name and its spec name.
#[must_use]
pub fn namespace(namespace: &Namespace, subsystem_uid: &str, volume_uid: &str) -> DesiredNamespace {
    let spec = namespace.spec.clone().unwrap_or_default();
    DesiredNamespace {
        uid: namespace.uid.clone(),
        name: namespace.name.clone(),
        subsystem_uid: subsystem_uid.to_owned(),
        volume_uid: volume_uid.to_owned(),
        nsid: spec.nsid,
        uuid: or(spec.uuid, || volume_uid.to_owned()),
        generation: namespace.generation,
        deleted: namespace.delete_time.is_some(),
    }
}

/// A listener as its node is told to have it.
#[must_use]
pub fn listener(listener: &Listener) -> DesiredListener {
    DesiredListener {
        uid: listener.uid.clone(),
        name: listener.name.clone(),
        address: Some(listener_address(listener)),
        generation: listener.generation,
        deleted: listener.delete_time.is_some(),
    }
}

/// The listener's address with defaults filled in.
#[must_use]
pub fn listener_address(listener: &Listener) -> TransportAddress {
    let spec = listener.spec.clone().unwrap_or_default();
    TransportAddress {
        transport: or(spec.transport, || "tcp".to_owned()),
        address: spec.address,
        port: if spec.port == 0 {
            DEFAULT_PORT
        } else {
            spec.port
        },
    }
}

/// A subsystem's ports at these addresses of one other node. Addresses for all of a family
/// (`0.0.0.0`, `::`) are left out: no host could connect to them.
#[must_use]
pub fn remote_ports(
    subsystem: &Subsystem,
    addresses: &[TransportAddress],
    host_nqn: &dyn Fn(&str) -> Option<String>,
) -> Vec<RemotePort> {
    let spec = subsystem.spec.clone().unwrap_or_default();
    let host_nqns = host_nqns(&spec.hosts, host_nqn);
    let mut ports: Vec<RemotePort> = Vec::new();
    for address in addresses {
        let known = ports
            .iter()
            .any(|port| port.address.as_ref() == Some(address));
        if is_any(&address.address) || known {
            continue;
        }
        ports.push(RemotePort {
            nqn: spec.nqn.clone(),
            address: Some(address.clone()),
            allow_any_host: spec.allow_any_host,
            host_nqns: host_nqns.clone(),
        });
    }
    ports
}

fn is_any(address: &str) -> bool {
    address
        .parse::<std::net::IpAddr>()
        .is_ok_and(|ip| ip.is_unspecified())
}
