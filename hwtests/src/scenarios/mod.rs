//! The tests: each is a boot, a node, and what a stock Linux host does with it.

mod access;
mod commands;
mod crash;
mod data;
mod discovery;
mod drive;
mod drive_node;
mod drive_spdk;
mod drive_surprise;
mod events;
mod files;
mod identify;
mod lab;
mod numa;
mod orchestrator;

use crate::bench::Bench;
use crate::error::Result;
use crate::lab::Choice;
use crate::machine::Machine;
use crate::node::Namespace;

pub use drive::PROGRAM as DEVICE_PROGRAM;

/// One test.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// What `run` calls it.
    pub name: &'static str,
    /// One line on what it shows.
    pub about: &'static str,
    /// What the guest's machine has beside the usual.
    pub machine: Machine,
    /// What the node serves at the start.
    pub namespaces: &'static [Namespace],
    /// The steps.
    pub steps: fn(&mut Bench) -> Result<()>,
}

/// Two namespaces that differ in everything a host could confuse.
const MIXED: &[Namespace] = &[Namespace::file(1, 64, 512), Namespace::memory(2, 96, 4096)];

/// All tests, the quick and basic ones first.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "lab",
        about: "the lab itself: the guest's own target and initiator, no node",
        machine: Machine::PLAIN,
        namespaces: &[],
        steps: lab::steps,
    },
    Scenario {
        name: "discover",
        about: "nvme discover lists the subsystem, and a new one once it is added",
        machine: Machine::PLAIN,
        namespaces: MIXED,
        steps: discovery::discover,
    },
    Scenario {
        name: "connect",
        about: "connect with two I/O queues; id-ctrl, id-ns, list, smart-log, error-log make sense",
        machine: Machine::PLAIN,
        namespaces: MIXED,
        steps: identify::steps,
    },
    Scenario {
        name: "access",
        about: "a host that is not on the list is refused, one that is gets in",
        machine: Machine::PLAIN,
        namespaces: MIXED,
        steps: access::steps,
    },
    Scenario {
        name: "ext4",
        about: "mkfs.ext4, files with checksums, unmount, fsck, mount again",
        machine: Machine::PLAIN,
        namespaces: &[Namespace::file(1, 256, 4096)],
        steps: files::ext4,
    },
    Scenario {
        name: "xfs",
        about: "mkfs.xfs, files with checksums, unmount, xfs_repair -n, mount again",
        machine: Machine::PLAIN,
        namespaces: &[Namespace::file(1, 512, 512)],
        steps: files::xfs,
    },
    Scenario {
        name: "fio",
        about: "fio --verify=crc32c with random sizes from one block to 1 MiB",
        machine: Machine::PLAIN,
        namespaces: MIXED,
        steps: data::fio,
    },
    Scenario {
        name: "digests",
        about: "header and data digests on, with verified data",
        machine: Machine::PLAIN,
        namespaces: MIXED,
        steps: data::digests,
    },
    Scenario {
        name: "ipv6",
        about: "discover, connect and verified data over IPv6",
        machine: Machine::PLAIN,
        namespaces: MIXED,
        steps: data::ipv6,
    },
    Scenario {
        name: "discard",
        about: "blkdiscard and write zeroes, read back with their neighbours",
        machine: Machine::PLAIN,
        namespaces: MIXED,
        steps: commands::discard,
    },
    Scenario {
        name: "commands",
        about: "compare, verify, flush, reset, and errors told as the specification says",
        machine: Machine::PLAIN,
        namespaces: MIXED,
        steps: commands::commands,
    },
    Scenario {
        name: "namespaces",
        about: "namespaces added, resized and removed under I/O, seen without reconnect",
        machine: Machine::PLAIN,
        namespaces: MIXED,
        steps: events::namespaces,
    },
    Scenario {
        name: "discovery-events",
        about: "a persistent discovery controller hears of a new subsystem",
        machine: Machine::PLAIN,
        namespaces: MIXED,
        steps: discovery::events,
    },
    Scenario {
        name: "crash",
        about: "kill -9 of the node amid verified writes; the host comes back and data verifies",
        machine: Machine::PLAIN,
        namespaces: &[Namespace::file(1, 64, 512), Namespace::file(2, 64, 4096)],
        steps: crash::steps,
    },
    Scenario {
        name: "orchestrator",
        about: "a Python client of the control API makes a volume, the host writes to it",
        machine: Machine::PLAIN,
        namespaces: &[],
        steps: orchestrator::steps,
    },
    Scenario {
        name: "drive",
        about: "our driver on a drive behind an IOMMU: bind, data, controller memory, reset, unplug",
        machine: Machine {
            kernel: Choice::Stable,
            drives: drive::DRIVES,
            programs: drive::PROGRAMS,
            ..Machine::PLAIN
        },
        namespaces: &[],
        steps: drive::stable,
    },
    Scenario {
        name: "drive-old",
        about: "our driver on a drive whose controller memory is as before NVMe 1.4",
        machine: Machine {
            drives: drive::OLD_DRIVES,
            programs: drive::PROGRAMS,
            ..Machine::PLAIN
        },
        namespaces: &[],
        steps: drive::old,
    },
    Scenario {
        name: "drive-node",
        about: "a node serves two such drives to Linux, verified data, one drive pulled out",
        machine: Machine {
            kernel: Choice::Stable,
            drives: drive_node::DRIVES,
            programs: drive_node::PROGRAMS,
            ..Machine::PLAIN
        },
        namespaces: &[],
        steps: drive_node::steps,
    },
    Scenario {
        name: "drive-surprise",
        about: "two such drives lose their power under load: a node's, which lives on, and the driver's",
        machine: Machine {
            kernel: Choice::Stable,
            drives: drive_node::DRIVES,
            programs: drive_node::PROGRAMS,
            ..Machine::PLAIN
        },
        namespaces: &[],
        steps: drive_surprise::steps,
    },
    Scenario {
        name: "numa",
        about: "two NUMA nodes with a drive on each: reactors and memory where they belong",
        machine: Machine {
            kernel: Choice::Stable,
            drives: numa::DRIVES,
            programs: numa::PROGRAMS,
            numa_nodes: 2,
        },
        namespaces: &[],
        steps: numa::steps,
    },
    Scenario {
        name: "drive-spdk",
        about: "SPDK in our driver's place: data, controller memory, reset, unplug; a node on it",
        machine: Machine {
            kernel: Choice::Stable,
            drives: drive_spdk::DRIVES,
            programs: drive_spdk::PROGRAMS,
            numa_nodes: 0,
        },
        namespaces: &[],
        steps: drive_spdk::steps,
    },
    Scenario {
        name: "drive-newest",
        about: "the same on the newest kernel, which exports controller memory as a dma-buf",
        machine: Machine {
            kernel: Choice::Newest,
            drives: drive::DRIVES,
            programs: drive::PROGRAMS,
            ..Machine::PLAIN
        },
        namespaces: &[],
        steps: drive::newest,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_fit_a_command_line() {
        for (index, scenario) in ALL.iter().enumerate() {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(scenario.name.chars().all(plain), "{}", scenario.name);
            assert!(ALL[..index].iter().all(|other| other.name != scenario.name));
        }
    }
}
