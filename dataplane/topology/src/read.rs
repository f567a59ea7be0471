//! Reading the machine through hwloc.

use hwlocality::Topology as Hwloc;
use hwlocality::object::TopologyObject;
use hwlocality::object::attributes::{ObjectAttributes, PCIDeviceAttributes};
use hwlocality::object::types::ObjectType;
use hwlocality::topology::builder::{BuildFlags, TopologyBuilder, TypeFilter};

use crate::machine::{Core, NumaNode, PciDevice, PciKind, Topology};

/// Class and subclass of an NVMe controller (PCI Code and ID Assignment 1.15, 1.2: mass storage,
/// non-volatile memory).
const CLASS_NVME: u16 = 0x0108;
const BASE_STORAGE: u16 = 0x01;
const BASE_NETWORK: u16 = 0x02;
/// InfiniBand, a serial bus to PCI.
const CLASS_INFINIBAND: u16 = 0x0c06;

/// Why the topology cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("hwloc cannot read the machine's topology: {0}; is /sys mounted and readable?")]
pub struct TopologyError(String);

fn refused(error: impl std::fmt::Display) -> TopologyError {
    TopologyError(error.to_string())
}

impl Topology {
    /// Reads this machine's topology. Takes milliseconds; the caller's thread stays on its core.
    ///
    /// # Errors
    /// [`TopologyError`].
    pub fn read() -> Result<Topology, TopologyError> {
        Topology::build(Hwloc::builder())
    }

    fn build(builder: TopologyBuilder) -> Result<Topology, TopologyError> {
        let flags = BuildFlags::INCLUDE_DISALLOWED | BuildFlags::DONT_CHANGE_BINDING;
        let hwloc = builder
            .with_flags(flags)
            .map_err(refused)?
            .with_io_type_filter(TypeFilter::KeepImportant)
            .map_err(refused)?
            .build()
            .map_err(refused)?;
        let cores = cores(&hwloc);
        Ok(Topology {
            nodes: nodes(&hwloc),
            devices: devices(&hwloc, &cores),
            cores,
        })
    }
}

fn number(index: Option<usize>) -> Option<u32> {
    index.and_then(|index| u32::try_from(index).ok())
}

fn nodes(hwloc: &Hwloc) -> Vec<NumaNode> {
    let memory = |object: &TopologyObject| match object.attributes() {
        Some(ObjectAttributes::NUMANode(node)) => node.local_memory().map_or(0, u64::from),
        _ => 0,
    };
    let node = |object: &TopologyObject| {
        Some(NumaNode {
            id: number(object.os_index())?,
            memory_bytes: memory(object),
            distances: Vec::new(),
        })
    };
    let objects = hwloc.objects_with_type(ObjectType::NUMANode);
    let mut nodes: Vec<NumaNode> = objects.filter_map(node).collect();
    nodes.sort_by_key(|node| node.id);
    let ids: Vec<u32> = nodes.iter().map(|node| node.id).collect();
    if let Some(table) = distance_table(hwloc, &ids) {
        for (node, row) in nodes.iter_mut().zip(table) {
            node.distances = row;
        }
    }
    nodes
}

/// The firmware's distances among `ids`, a row a node; `None` where they are not all told.
fn distance_table(hwloc: &Hwloc, ids: &[u32]) -> Option<Vec<Vec<u64>>> {
    let matrices = hwloc.distances_with_type(None, ObjectType::NUMANode).ok()?;
    let pairs: Vec<((u32, u32), u64)> = matrices
        .first()?
        .object_distances()
        .filter_map(|((from, to), distance)| {
            Some((
                (number(from?.os_index())?, number(to?.os_index())?),
                distance,
            ))
        })
        .collect();
    let told = |from: u32, to: u32| {
        let found = pairs.iter().find(|(pair, _)| *pair == (from, to));
        found.map(|(_, distance)| *distance)
    };
    ids.iter()
        .map(|from| ids.iter().map(|to| told(*from, *to)).collect())
        .collect()
}

fn cores(hwloc: &Hwloc) -> Vec<Core> {
    let core = |thread: &TopologyObject| {
        let id = thread.os_index()?;
        let physical = thread.first_ancestor_with_type(ObjectType::Core);
        // Of several (high-bandwidth memory has nodes of its own), the ordinary one comes first.
        let nodes = thread.nodeset()?;
        let node = nodes.iter_set().map(usize::from).min()?;
        Some(Core {
            id,
            // A machine that does not tell its physical cores has none to share.
            physical: physical.map_or(id, TopologyObject::logical_index),
            node: number(Some(node))?,
        })
    };
    let mut cores: Vec<Core> = hwloc
        .objects_with_type(ObjectType::PU)
        .filter_map(core)
        .collect();
    cores.sort_by_key(|core| core.id);
    cores
}

fn devices(hwloc: &Hwloc, cores: &[Core]) -> Vec<PciDevice> {
    let device = |object: &TopologyObject| {
        let Some(ObjectAttributes::PCIDevice(pci)) = object.attributes() else {
            return None;
        };
        let names = object
            .io_children()
            .filter(|child| child.object_type() == ObjectType::OSDevice)
            .filter_map(|child| Some(child.name()?.to_string_lossy().into_owned()));
        Some(PciDevice {
            address: address(pci),
            kind: kind(pci.class_id())?,
            node: node_of(object, cores),
            names: names.collect(),
        })
    };
    let mut devices: Vec<PciDevice> = hwloc.pci_devices().filter_map(device).collect();
    devices.sort_by(|a, b| a.address.cmp(&b.address));
    devices
}

fn address(pci: &PCIDeviceAttributes) -> String {
    format!(
        "{:04x}:{:02x}:{:02x}.{}",
        pci.domain(),
        pci.bus_id(),
        pci.bus_device(),
        pci.function()
    )
}

fn kind(class: u16) -> Option<PciKind> {
    match (class, class >> 8) {
        (CLASS_NVME, _) => Some(PciKind::Drive),
        (CLASS_INFINIBAND, _) | (_, BASE_NETWORK) => Some(PciKind::Network),
        (_, BASE_STORAGE) => Some(PciKind::Storage),
        _ => None,
    }
}

/// The one node whose cores are all those that the device is near to. A device near to cores of
/// several nodes is where the machine does not tell.
fn node_of(device: &TopologyObject, cores: &[Core]) -> Option<u32> {
    let near = device.first_non_io_ancestor()?.cpuset()?;
    let mut nodes = near
        .iter_set()
        .map(usize::from)
        .filter_map(|id| cores.iter().find(|core| core.id == id))
        .map(|core| core.node);
    let first = nodes.next()?;
    nodes.all(|node| node == first).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two nodes of two hyper-threaded cores each; a drive and a network interface on node 1, a drive
    /// that is near to everything.
    const TWO_NODES: &str = include_str!("two_nodes.xml");

    fn two_nodes() -> Topology {
        Topology::build(Hwloc::builder().from_xml(TWO_NODES).unwrap()).unwrap()
    }

    #[test]
    fn nodes_have_memory_and_distances() {
        let topology = two_nodes();
        let ids: Vec<u32> = topology.nodes.iter().map(|node| node.id).collect();
        assert_eq!(ids, [0, 1]);
        assert_eq!(topology.nodes[0].memory_bytes, 1 << 30);
        assert_eq!(topology.nodes[1].memory_bytes, 2 << 30);
        assert_eq!(topology.nodes[0].distances, [10, 21]);
        assert_eq!(topology.nodes[1].distances, [21, 10]);
        assert!(topology.is_numa());
    }

    #[test]
    fn cores_know_their_node_and_their_siblings() {
        let topology = two_nodes();
        let cores: Vec<_> = topology.cores.iter().map(|c| (c.id, c.node)).collect();
        let expected = [0, 0, 0, 0, 1, 1, 1, 1].into_iter().enumerate();
        assert_eq!(cores, expected.collect::<Vec<_>>());
        let physical: Vec<_> = topology.cores.iter().map(|core| core.physical).collect();
        assert_eq!(physical, [0, 0, 1, 1, 2, 2, 3, 3]);
        assert_eq!(topology.node_of_core(5), Some(1));
        assert_eq!(topology.node_of_core(99), None);
    }

    #[test]
    fn devices_are_where_the_machine_says() {
        let topology = two_nodes();
        let told: Vec<_> = topology
            .devices
            .iter()
            .map(|device| (device.address.as_str(), device.kind, device.node))
            .collect();
        assert_eq!(
            told,
            [
                ("0000:00:03.0", PciKind::Drive, None),
                ("0000:81:00.0", PciKind::Drive, Some(1)),
                ("0000:82:00.1", PciKind::Network, Some(1)),
            ]
        );
        let named = |address| topology.device(address).unwrap().names.clone();
        assert_eq!(named("0000:82:00.1"), ["eth1"]);
        assert_eq!(topology.device("0000:00:00.0"), None);
    }

    #[test]
    fn this_machine_has_nodes_and_cores() {
        let topology = Topology::read().unwrap();
        assert!(!topology.nodes.is_empty() && !topology.cores.is_empty());
        for core in &topology.cores {
            let known = topology.nodes.iter().any(|node| node.id == core.node);
            assert!(known, "{core:?}");
        }
    }
}
