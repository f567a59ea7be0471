//! The tests: each is a boot, a node, and what a stock Linux host does with it.

mod access;
mod commands;
mod crash;
mod data;
mod discovery;
mod events;
mod files;
mod identify;
mod lab;
mod orchestrator;

use crate::bench::Bench;
use crate::error::Result;
use crate::node::Namespace;

/// One test.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// What `run` calls it.
    pub name: &'static str,
    /// One line on what it shows.
    pub about: &'static str,
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
        namespaces: &[],
        steps: lab::steps,
    },
    Scenario {
        name: "discover",
        about: "nvme discover lists the subsystem, and a new one once it is added",
        namespaces: MIXED,
        steps: discovery::discover,
    },
    Scenario {
        name: "connect",
        about: "connect with two I/O queues; id-ctrl, id-ns, list, smart-log, error-log make sense",
        namespaces: MIXED,
        steps: identify::steps,
    },
    Scenario {
        name: "access",
        about: "a host that is not on the list is refused, one that is gets in",
        namespaces: MIXED,
        steps: access::steps,
    },
    Scenario {
        name: "ext4",
        about: "mkfs.ext4, files with checksums, unmount, fsck, mount again",
        namespaces: &[Namespace::file(1, 256, 4096)],
        steps: files::ext4,
    },
    Scenario {
        name: "xfs",
        about: "mkfs.xfs, files with checksums, unmount, xfs_repair -n, mount again",
        namespaces: &[Namespace::file(1, 512, 512)],
        steps: files::xfs,
    },
    Scenario {
        name: "fio",
        about: "fio --verify=crc32c with random sizes from one block to 1 MiB",
        namespaces: MIXED,
        steps: data::fio,
    },
    Scenario {
        name: "digests",
        about: "header and data digests on, with verified data",
        namespaces: MIXED,
        steps: data::digests,
    },
    Scenario {
        name: "ipv6",
        about: "discover, connect and verified data over IPv6",
        namespaces: MIXED,
        steps: data::ipv6,
    },
    Scenario {
        name: "discard",
        about: "blkdiscard and write zeroes, read back with their neighbours",
        namespaces: MIXED,
        steps: commands::discard,
    },
    Scenario {
        name: "commands",
        about: "compare, verify, flush, reset, and errors told as the specification says",
        namespaces: MIXED,
        steps: commands::commands,
    },
    Scenario {
        name: "namespaces",
        about: "namespaces added, resized and removed under I/O, seen without reconnect",
        namespaces: MIXED,
        steps: events::namespaces,
    },
    Scenario {
        name: "discovery-events",
        about: "a persistent discovery controller hears of a new subsystem",
        namespaces: MIXED,
        steps: discovery::events,
    },
    Scenario {
        name: "crash",
        about: "kill -9 of the node amid verified writes; the host comes back and data verifies",
        namespaces: &[Namespace::file(1, 64, 512), Namespace::file(2, 64, 4096)],
        steps: crash::steps,
    },
    Scenario {
        name: "orchestrator",
        about: "a Python client of the control API makes a volume, the host writes to it",
        namespaces: &[],
        steps: orchestrator::steps,
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
