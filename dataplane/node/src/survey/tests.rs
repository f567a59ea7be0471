//! A made-up machine of two nodes: what is found under paths and addresses, and what follows.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use penstock_topology::{Core, NumaNode, PciDevice, PciKind};

use super::*;

const NEAR: &str = "0000:01:00.0";
const FAR: &str = "0000:81:00.0";
const NIC: &str = "0000:82:00.0";

fn topology() -> Topology {
    let device = |address: &str, kind, node| PciDevice {
        address: address.to_owned(),
        kind,
        node: Some(node),
        names: Vec::new(),
    };
    let node = |id| NumaNode {
        id,
        memory_bytes: 1 << 30,
        distances: Vec::new(),
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
            device(NEAR, PciKind::Drive, 0),
            device(FAR, PciKind::Drive, 1),
            device(NIC, PciKind::Network, 1),
        ],
    }
}

/// A sysfs in which `file`'s file system lies on the block device described at `place`.
fn sysfs(root: &Path, file: &Path, place: &str) {
    let number = fs::metadata(file).unwrap().dev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    fs::create_dir_all(root.join(place)).unwrap();
    fs::create_dir_all(root.join("dev/block")).unwrap();
    let link = root.join(format!("dev/block/{major}:{minor}"));
    symlink(root.join(place), link).unwrap();
}

fn places(root: &Path) -> Places {
    let addresses = [
        ("eth1", "192.0.2.7"),
        ("bond0", "192.0.2.8"),
        ("lo", "127.0.0.1"),
    ];
    let addresses = addresses.map(|(name, address)| {
        let address: IpAddr = address.parse().unwrap();
        (name.to_owned(), BTreeSet::from([address]))
    });
    Places::at(root.to_owned(), BTreeMap::from(addresses))
}

use std::net::IpAddr;

fn set(addresses: &[&str]) -> BTreeSet<String> {
    addresses.iter().map(ToString::to_string).collect()
}

#[test]
fn files_are_followed_to_their_drives() {
    for (place, links, expected) in [
        (
            "devices/pci0000:00/0000:00:01.0/0000:01:00.0/nvme/nvme0/nvme0n1",
            &[][..],
            set(&[NEAR]),
        ),
        (
            "devices/virtual/block/md0",
            &[
                (
                    "devices/virtual/block/md0/slaves/nvme0n1",
                    "devices/pci/0000:01:00.0/nvme0n1",
                ),
                (
                    "devices/virtual/block/md0/slaves/dm-0",
                    "devices/virtual/block/dm-0",
                ),
                (
                    "devices/virtual/block/dm-0/slaves/nvme1n1p1",
                    "devices/pci/0000:81:00.0/nvme1n1/p1",
                ),
            ],
            set(&[NEAR, FAR]),
        ),
        (
            "devices/virtual/nvme-subsystem/nvme-subsys1/nvme1n1",
            &[(
                "devices/virtual/nvme-subsystem/nvme-subsys1/nvme1",
                "devices/pci/0000:81:00.0/nvme/nvme1",
            )],
            set(&[FAR]),
        ),
        ("devices/virtual/block/loop0", &[], set(&[])),
    ] {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "x").unwrap();
        sysfs(root.path(), &file, place);
        for (from, to) in links {
            let (from, to) = (root.path().join(from), root.path().join(to));
            fs::create_dir_all(&to).unwrap();
            fs::create_dir_all(from.parent().unwrap()).unwrap();
            symlink(to, from).unwrap();
        }
        let places = places(root.path());
        assert_eq!(places.under_path(&file), expected, "{place}");
        // One that is yet to be made will lie where its folder does.
        assert_eq!(
            places.under_path(&root.path().join("new")),
            expected,
            "{place}"
        );
    }
}

#[test]
fn addresses_are_followed_to_their_interfaces() {
    let root = tempfile::tempdir().unwrap();
    let net = root.path().join("class/net");
    let nic = root.path().join("devices/pci0000:80").join(NIC);
    fs::create_dir_all(&nic).unwrap();
    for name in ["eth1", "bond0", "lo"] {
        fs::create_dir_all(net.join(name)).unwrap();
    }
    symlink(&nic, net.join("eth1/device")).unwrap();
    symlink(net.join("eth1"), net.join("bond0/lower_eth1")).unwrap();
    // A loop must not be followed for ever.
    symlink(net.join("bond0"), net.join("bond0/lower_bond0")).unwrap();
    let places = places(root.path());
    assert_eq!(places.under_interface("eth1"), set(&[NIC]));
    assert_eq!(places.under_interface("bond0"), set(&[NIC]));
    assert_eq!(places.under_interface("lo"), set(&[]));
    let topology = topology();
    for (address, from, node) in [
        ("192.0.2.8:4420", "bond0", Some(1)),
        ("127.0.0.1:4420", "lo", None),
        ("0.0.0.0:4420", "any interface", None),
        ("192.0.2.99:4420", "no interface of this machine", None),
    ] {
        let found = listener(address.parse().unwrap(), &topology, &places);
        assert_eq!((found.from.as_str(), found.node), (from, node), "{address}");
    }
}

fn config(reactors: &str) -> Config {
    let text = format!(
        "[reactors]\n{reactors}\n[[listener]]\naddress = \"127.0.0.1:4420\"\n\
         [[subsystem]]\nnqn = \"nqn.2026-01.io.example:a\"\n\
         [[subsystem.namespace]]\nnsid = 1\nbackend = \"nvme\"\npci_address = \"{NEAR}\"\n\
         [[subsystem.namespace]]\nnsid = 2\nbackend = \"nvme\"\npci_address = \"{FAR}\"\n\
         [[subsystem.namespace]]\nnsid = 3\nbackend = \"null\"\nsize_bytes = 4096\n"
    );
    let machine = Machine {
        cores_online: (0..4).collect(),
        cores_allowed: (0..4).collect(),
        memlock_limit_bytes: None,
        memory_bytes: 8 << 30,
        hugepages: 0,
    };
    Config::parse(Path::new("node.toml"), &text, &machine).unwrap()
}

fn survey(reactors: &str) -> Survey {
    let root = tempfile::tempdir().unwrap();
    let allowed = (0..4).collect();
    Survey::on(&config(reactors), topology(), allowed, &places(root.path()))
}

#[test]
fn reactors_are_placed_by_what_is_served_and_far_drives_are_told() {
    let placed = survey("count = 2");
    assert_eq!(placed.cores(), BTreeSet::from([1, 2]));
    let named: Vec<_> = placed
        .services
        .iter()
        .map(|s| (s.name.as_str(), s.node))
        .collect();
    assert_eq!(
        named,
        [
            ("nqn.2026-01.io.example:a namespace 1", Some(0)),
            ("nqn.2026-01.io.example:a namespace 2", Some(1)),
            ("nqn.2026-01.io.example:a namespace 3", None),
            ("127.0.0.1:4420", None),
        ]
    );
    let far = &placed.services[1];
    assert!(!placed.reach(far).unwrap().is_cross_node());
    assert_eq!(placed.reach(&placed.services[2]), None);
    // Named cores are taken as they are.
    let forced = survey("cores = [0, 1]");
    assert_eq!(forced.cores(), BTreeSet::from([0, 1]));
    assert!(forced.reach(far).unwrap().is_cross_node());
    assert!(!forced.reach(&forced.services[0]).unwrap().is_cross_node());
}
