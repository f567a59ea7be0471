//! The text for made-up machines.

use std::collections::BTreeSet;

use penstock_node::survey::Survey;
use penstock_topology::{Core, Placement, Topology};

use super::*;
use crate::live::Live;

fn topology() -> Topology {
    let node = |id| NumaNode {
        id,
        memory_bytes: 1 << 30,
        distances: if id == 0 { vec![10, 21] } else { vec![21, 10] },
    };
    let device = |address: &str, kind, node, name: &str| PciDevice {
        address: address.to_owned(),
        kind,
        node,
        names: vec![name.to_owned()],
    };
    Topology {
        nodes: vec![node(0), node(1)],
        cores: (0..4)
            .map(|id| Core {
                id,
                physical: id,
                node: u32::from(id >= 2),
            })
            .collect(),
        devices: vec![
            device("0000:01:00.0", PciKind::Drive, Some(0), "nvme0n1"),
            device("0000:02:00.0", PciKind::Storage, Some(0), "sda"),
            device("0000:81:00.0", PciKind::Drive, Some(1), "nvme1n1"),
            device("0000:82:00.0", PciKind::Network, None, "eth1"),
        ],
    }
}

fn service(kind: ServiceKind, name: &str, device: Option<&str>, node: Option<u32>) -> Service {
    Service {
        kind,
        name: name.to_owned(),
        from: "x".to_owned(),
        devices: device.map(str::to_owned).into_iter().collect(),
        node,
    }
}

fn picture(cores: &[usize], source: Source) -> Picture {
    let topology = topology();
    let storage = ServiceKind::Storage;
    Picture {
        survey: Survey {
            placement: Placement::on(&topology, cores),
            topology,
            services: vec![
                service(storage, "one", Some("0000:01:00.0"), Some(0)),
                service(storage, "two", Some("0000:81:00.0"), Some(1)),
                service(ServiceKind::Listener, "127.0.0.1:4420", None, None),
            ],
        },
        source,
        planned_cores: None,
        allowed: BTreeSet::from([0, 1, 2]),
        drives: BTreeMap::new(),
        interfaces: BTreeMap::from([("eth1".to_owned(), BTreeSet::from([[192, 0, 2, 1].into()]))]),
    }
}

#[test]
fn a_tree_shows_who_serves_what_and_what_crosses() {
    let live = Live {
        cores: BTreeMap::from([(0, 1), (1, 2)]),
        memory: BTreeMap::from([
            (0, BTreeMap::from([(0, 3 << 20)])),
            (1, BTreeMap::from([(0, 4096), (1, 5 << 20)])),
        ]),
        misplaced_bytes: Some(4096),
    };
    let picture = picture(&[1, 2], Source::Running(live));
    assert_eq!(
        text(&picture),
        "\
machine: 2 NUMA nodes, 4 cores (1 not allowed to this process), 2.0 GiB
├─ NUMA node 0: 1.0 GiB, distance 21 to node 1
│  ├─ cores 0-1
│  ├─ reactor 0 on core 1: 3.0 MiB of its memory here
│  └─ drive 0000:01:00.0: nvme0n1, no driver
│     └─ one (x): reactor 0 is near; CROSS-NODE from reactor 1 (node 1, distance 21)
├─ NUMA node 1: 1.0 GiB, distance 21 to node 0
│  ├─ cores 2-3
│  ├─ reactor 1 on core 2: 5.0 MiB of its memory here; CROSS-NODE: 4.0 KiB on node 0
│  └─ drive 0000:81:00.0: nvme1n1, no driver
│     └─ two (x): reactor 1 is near; CROSS-NODE from reactor 0 (node 0, distance 21)
└─ on no node
   ├─ network 0000:82:00.0: eth1 (192.0.2.1)
   └─ listener 127.0.0.1:4420 (x)

reactors: as they run now
memory: CROSS-NODE: 4.0 KiB bound to a node lie on another; see `numastat -m`
cross-node paths:
  CROSS-NODE reactor 1 (node 1) to one (node 0), distance 21
  CROSS-NODE reactor 0 (node 0) to two (node 1), distance 21"
    );
}

#[test]
fn a_drive_without_a_reactor_near_stands_out() {
    let planned = Source::Planned("no node".to_owned());
    let text = text(&picture(&[0, 1, 9], planned));
    for line in [
        "one (x): reactors 0, 1 are near",
        "two (x): CROSS-NODE, no reactor is near; from reactor 0 (node 0, distance 21), reactor 1",
        "reactor 2 on core 9, which hwloc does not know",
        "reactors: as a start would place them (no node)",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[test]
fn a_machine_without_numa_says_so() {
    let mut picture = picture(&[], Source::Nothing);
    picture.survey.services.clear();
    picture.survey.topology.nodes.truncate(1);
    picture.survey.topology.nodes[0].distances.clear();
    picture.survey.topology.devices.clear();
    picture.survey.topology.cores.truncate(2);
    assert_eq!(
        text(&picture),
        "machine: no NUMA (one node), 2 cores, 1.0 GiB\n\
         └─ NUMA node 0: 1.0 GiB\n   └─ cores 0-1\n\n\
         who serves what: add --config FILE, the node's configuration"
    );
}

#[test]
fn sizes_take_the_unit_that_suits_them() {
    for (bytes, expected) in [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1536, "1.5 KiB"),
        (u64::MAX, "16384.0 PiB"),
    ] {
        assert_eq!(size(bytes), expected);
    }
}
