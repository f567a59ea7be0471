//! The machine as far as placement asks.

/// NUMA nodes, cores and PCI devices of a machine. There is at least one node, and nodes, cores and
/// devices are in order of their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// NUMA nodes; one where the machine has no NUMA.
    pub nodes: Vec<NumaNode>,
    /// Hardware threads that are online, the ones that this process may not use included.
    pub cores: Vec<Core>,
    /// NVMe drives, network interfaces and other mass storage.
    pub devices: Vec<PciDevice>,
}

/// Memory that some cores are nearest to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumaNode {
    /// The kernel's number.
    pub id: u32,
    /// Its memory in bytes; 0 where the kernel does not tell.
    pub memory_bytes: u64,
    /// Distance to each node of the machine as the firmware tells it, in the order of
    /// [`Topology::nodes`]: 10 is local. Empty where the firmware tells none.
    pub distances: Vec<u64>,
}

/// A hardware thread, which the kernel and the configuration call a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Core {
    /// The kernel's number.
    pub id: usize,
    /// Number of the physical core; hardware threads of one core share it.
    pub physical: usize,
    /// Its NUMA node.
    pub node: u32,
}

/// What a PCI device is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PciKind {
    /// An NVMe controller.
    Drive,
    /// Other mass storage, behind the kernel's block layer.
    Storage,
    /// A network interface.
    Network,
}

/// A PCI device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciDevice {
    /// Domain, bus, device and function as the kernel writes them, such as `0000:3b:00.0`.
    pub address: String,
    /// What it is for.
    pub kind: PciKind,
    /// The NUMA node that it is attached to; `None` where the machine does not tell.
    pub node: Option<u32>,
    /// What the kernel calls it, where its driver has it: `eth0`, `nvme0n1`.
    pub names: Vec<String>,
}

impl Topology {
    /// Distance of two nodes as the firmware tells it; where it tells none, 10 for a node to itself
    /// and 20 otherwise, as the ACPI specification has it for systems without a table.
    pub fn distance(&self, from: u32, to: u32) -> u64 {
        let index = |id| self.nodes.iter().position(|node| node.id == id);
        let told = index(from)
            .zip(index(to))
            .and_then(|(from, to)| self.nodes[from].distances.get(to).copied());
        told.unwrap_or(if from == to { 10 } else { 20 })
    }

    /// The node of a core; `None` for one that is not there.
    pub fn node_of_core(&self, core: usize) -> Option<u32> {
        let found = self.cores.iter().find(|known| known.id == core);
        found.map(|core| core.node)
    }

    /// The PCI device at `address`, where it is one of those that are kept.
    pub fn device(&self, address: &str) -> Option<&PciDevice> {
        self.devices.iter().find(|device| device.address == address)
    }

    /// Whether memory can be nearer or farther at all.
    pub fn is_numa(&self) -> bool {
        self.nodes.len() > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_that_the_firmware_does_not_tell_are_the_usual_ones() {
        let node = |id, distances: &[u64]| NumaNode {
            id,
            memory_bytes: 0,
            distances: distances.to_vec(),
        };
        let told = Topology {
            nodes: vec![node(0, &[10, 32]), node(3, &[32, 10])],
            ..Topology::default()
        };
        assert_eq!((told.distance(0, 3), told.distance(3, 3)), (32, 10));
        assert_eq!((told.distance(0, 7), told.distance(7, 7)), (20, 10));
        let untold = Topology {
            nodes: vec![node(0, &[]), node(1, &[])],
            ..Topology::default()
        };
        assert_eq!((untold.distance(0, 1), untold.distance(1, 1)), (20, 10));
        assert!(untold.is_numa() && !Topology::default().is_numa());
    }
}
