//! Where volumes go, in tables.
#![allow(
    clippy::expect_used,
    reason = "a test ends where it finds something unexpected"
)]

use std::collections::BTreeMap;

use penstock_api::v1::volume_spec::Redundancy;
use penstock_api::v1::{
    BlockSize, Condition, ConditionStatus, Device, DeviceInventory, DeviceSpec, DeviceStatus,
    Layout, Node, NodeSpec, NodeStatus, Placement, Stripe, VolumeSpec,
};
use penstock_plan::place::{Placed, Pool};
use proptest::prelude::*;

const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

fn node(name: &str, rack: &str) -> Node {
    let online = Condition {
        r#type: "Online".to_owned(),
        status: ConditionStatus::True.into(),
        ..Condition::default()
    };
    Node {
        name: format!("nodes/{name}"),
        spec: Some(NodeSpec {
            failure_domains: BTreeMap::from([("rack".to_owned(), rack.to_owned())]),
            cordoned: false,
        }),
        status: Some(NodeStatus {
            conditions: vec![online],
            ..NodeStatus::default()
        }),
        ..Node::default()
    }
}

fn device(name: &str, size_bytes: u64) -> Device {
    let (node, id) = name.split_once('/').expect("node/device");
    let inventory = DeviceInventory {
        id: id.to_owned(),
        kind: "block".to_owned(),
        size_bytes,
        block_size_bytes: 512,
        numa_node: 0,
        persistent: true,
        ..DeviceInventory::default()
    };
    Device {
        name: format!("nodes/{node}/devices/{id}"),
        spec: Some(DeviceSpec::default()),
        status: Some(DeviceStatus {
            inventory: Some(inventory),
            ..DeviceStatus::default()
        }),
        ..Device::default()
    }
}

fn inventory(device: &mut Device) -> &mut DeviceInventory {
    device
        .status
        .as_mut()
        .and_then(|status| status.inventory.as_mut())
        .expect("an inventory")
}

fn spec(size_bytes: u64) -> VolumeSpec {
    VolumeSpec {
        size_bytes: i64::try_from(size_bytes).expect("small"),
        placement: Some(Placement::default()),
        ..VolumeSpec::default()
    }
}

fn with(spec: VolumeSpec, change: impl FnOnce(&mut Placement)) -> VolumeSpec {
    let mut spec = spec;
    change(spec.placement.get_or_insert_default());
    spec
}

fn stripe(size_bytes: u64, width: u32, unit_bytes: u32) -> VolumeSpec {
    let stripe = Stripe { width, unit_bytes };
    VolumeSpec {
        redundancy: Some(Redundancy::Stripe(stripe)),
        ..spec(size_bytes)
    }
}

/// n1 (rack r1) with d0 of 10 GiB and d1 of 20 GiB, n2 (rack r2) with d0 of 15 GiB.
fn pool() -> Pool {
    let mut pool = Pool::new();
    pool.set_node(&node("n1", "r1"));
    pool.set_node(&node("n2", "r2"));
    pool.set_device(&device("n1/d0", 10 * G));
    pool.set_device(&device("n1/d1", 20 * G));
    pool.set_device(&device("n2/d0", 15 * G));
    pool
}

fn at(placed: &Placed) -> Vec<String> {
    let extents = placed.layout.extents.iter();
    extents
        .map(|e| format!("{}+{}", &e.device[6..], e.offset_bytes / M))
        .collect()
}

/// The only extent of what is placed begins here.
fn placed_at(pool: &Pool, spec: &VolumeSpec, what: &str) -> String {
    let placed = pool.place(spec).expect(what);
    assert_eq!((placed.layout.epoch, placed.layout.stripe_width), (1, 1));
    assert_eq!(pool.place(spec).expect(what), placed, "the same again");
    at(&placed).join(" ")
}

#[test]
fn the_spec_chooses() {
    let mut pool = pool();
    let mut n2 = node("n2", "r2");
    n2.labels.insert("zone".to_owned(), "a".to_owned());
    pool.set_node(&n2);
    let mut d0 = device("n1/d0", 10 * G);
    inventory(&mut d0).numa_node = 1;
    pool.set_device(&d0);
    let zone = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
    let d0 = vec!["nodes/n1/devices/d0".to_owned()];
    let table = [
        ("space", spec(G), "n1/devices/d1+0"),
        (
            "node",
            with(spec(G), |p| p.node = "nodes/n2".to_owned()),
            "n2/devices/d0+0",
        ),
        (
            "device",
            with(spec(G), |p| p.devices = d0),
            "n1/devices/d0+0",
        ),
        (
            "label",
            with(spec(G), |p| p.node_labels = zone),
            "n2/devices/d0+0",
        ),
        (
            "NUMA",
            with(spec(G), |p| p.numa_node = Some(1)),
            "n1/devices/d0+0",
        ),
    ];
    for (what, spec, wanted) in table {
        assert_eq!(placed_at(&pool, &spec, what), wanted, "{what}");
    }
}

#[test]
fn what_cannot_be_used_now_is_left_out() {
    type Change = fn(&mut Pool);
    let table: [(&str, Change); 5] = [
        ("a cordoned device", |pool| {
            let mut d1 = device("n1/d1", 20 * G);
            d1.spec = Some(DeviceSpec { cordoned: true });
            pool.set_device(&d1);
        }),
        ("a cordoned node", |pool| {
            let mut n1 = node("n1", "r1");
            n1.spec.as_mut().expect("a spec").cordoned = true;
            pool.set_node(&n1);
        }),
        ("a node that is not online", |pool| {
            let mut n1 = node("n1", "r1");
            n1.status = None;
            pool.set_node(&n1);
        }),
        ("larger blocks", |pool| {
            let mut d1 = device("n1/d1", 20 * G);
            inventory(&mut d1).block_size_bytes = 4096;
            pool.set_device(&d1);
        }),
        ("a device with a problem", |pool| {
            let mut d1 = device("n1/d1", 20 * G);
            "it is gone".clone_into(&mut inventory(&mut d1).problem);
            pool.set_device(&d1);
        }),
    ];
    let small_blocks = VolumeSpec {
        block_size: BlockSize::BlockSize512.into(),
        ..spec(G)
    };
    for (what, change) in table {
        let mut pool = pool();
        assert_eq!(placed_at(&pool, &small_blocks, what), "n1/devices/d1+0");
        change(&mut pool);
        assert_eq!(
            placed_at(&pool, &small_blocks, what),
            "n2/devices/d0+0",
            "{what}"
        );
    }
}

#[test]
fn the_reason_is_readable() {
    let mut pool = pool();
    let grouped = with(spec(G), |p| p.anti_affinity_group = "g".to_owned());
    let first = pool.place(&grouped).expect("a place");
    assert_eq!(
        first.reason,
        "n1/d1: most free space (20 GiB of 20 GiB) among 3 devices; rack r1 has no volume of group \
         g yet; host n1 has no volume of group g yet"
    );
    pool.occupy("v1", &first.layout, "g");
    let second = pool.place(&grouped).expect("a place");
    assert_eq!(
        at(&second),
        ["n2/devices/d0+0"],
        "another rack, though it has less space"
    );
    pool.occupy("v2", &second.layout, "g");
    let third = pool.place(&grouped).expect("a place");
    assert_eq!(at(&third), ["n1/devices/d1+1024"]);
    assert!(
        third.reason.contains("rack r1 has 1 volume of group g"),
        "{}",
        third.reason
    );
    pool.release("v1");
    let fourth = pool.place(&grouped).expect("a place");
    assert!(
        fourth
            .reason
            .contains("rack r1 has no volume of group g yet"),
        "{}",
        fourth.reason
    );
}

#[test]
fn the_larger_domain_counts_first() {
    let mut pool = pool();
    pool.set_node(&node("n3", "r1"));
    pool.set_device(&device("n3/d0", 100 * G));
    let grouped = with(spec(G), |p| p.anti_affinity_group = "g".to_owned());
    let on_n1 = with(grouped.clone(), |p| p.node = "nodes/n1".to_owned());
    pool.occupy("v1", &pool.place(&on_n1).expect("a place").layout, "g");
    // n3 is another host and has most space, but is in the same rack.
    assert_eq!(
        at(&pool.place(&grouped).expect("a place")),
        ["n2/devices/d0+0"]
    );
}

#[test]
fn why_there_is_no_place_is_said_of_each() {
    let mut pool = pool();
    let mut d1 = device("n1/d1", 20 * G);
    d1.spec = Some(DeviceSpec { cordoned: true });
    pool.set_device(&d1);
    let mut bad = device("n1/d2", 50 * G);
    "does not answer".clone_into(&mut inventory(&mut bad).problem);
    pool.set_device(&bad);
    let mut n2 = node("n2", "r2");
    n2.status = None;
    pool.set_node(&n2);
    let no = pool.place(&spec(12 * G)).expect_err("no place");
    assert_eq!(no.reason, "NoSpace");
    assert_eq!(
        no.message,
        "no place for 12 GiB: n1/d0: 10 GiB free; n1/d1: cordoned; n1/d2: unusable (does not \
         answer); n2: not online. Delete volumes, add devices, or ask for less."
    );
    let nowhere = with(spec(G), |p| p.node = "nodes/n9".to_owned());
    assert_eq!(pool.place(&nowhere).expect_err("no place").reason, "NoNode");
    let no = pool
        .place(&with(spec(G), |p| p.numa_node = Some(7)))
        .expect_err("no place");
    assert_eq!(no.reason, "NoDevice");
    let no = Pool::new().place(&spec(G)).expect_err("no place");
    assert_eq!(no.reason, "NoNode");
    for size in [0, -1, i64::MIN] {
        let bad = VolumeSpec {
            size_bytes: size,
            ..VolumeSpec::default()
        };
        assert_eq!(
            pool.place(&bad).expect_err("no place").reason,
            "InvalidSpec"
        );
    }
}

#[test]
fn devices_that_forget_are_not_taken_for_those_that_are_full() {
    let mut pool = Pool::new();
    pool.set_node(&node("n1", "r1"));
    let mut memory = device("n1/m0", 100 * G);
    inventory(&mut memory).persistent = false;
    pool.set_device(&memory);
    assert_eq!(
        at(&pool.place(&spec(G)).expect("nothing else")),
        ["n1/devices/m0+0"]
    );
    pool.set_device(&device("n1/d0", 2 * G));
    assert_eq!(
        at(&pool.place(&spec(G)).expect("a place")),
        ["n1/devices/d0+0"]
    );
    let no = pool.place(&spec(3 * G)).expect_err("full");
    assert!(
        no.message.contains("n1/m0: forgets its data"),
        "{}",
        no.message
    );
    let named = with(spec(3 * G), |p| {
        p.devices = vec!["nodes/n1/devices/m0".to_owned()]
    });
    assert_eq!(
        at(&pool.place(&named).expect("asked for")),
        ["n1/devices/m0+0"]
    );
}

#[test]
fn stripes_have_equal_columns_on_distinct_devices_of_one_node() {
    let mut pool = pool();
    let placed = pool.place(&stripe(5 * M, 2, 0)).expect("a place");
    assert_eq!(at(&placed), ["n1/devices/d1+0", "n1/devices/d0+0"]);
    let layout = &placed.layout;
    assert_eq!(
        (layout.stripe_width, layout.stripe_unit_bytes),
        (2, 128 << 10)
    );
    assert!(
        layout
            .extents
            .iter()
            .all(|extent| extent.length_bytes == 3 * M),
        "rounded up"
    );
    let placed = pool.place(&stripe(20 * M, 2, 16 << 20)).expect("a place");
    assert!(
        placed
            .layout
            .extents
            .iter()
            .all(|e| e.length_bytes == 16 * M),
        "whole units"
    );
    let no = pool
        .place(&stripe(5 * M, 3, 0))
        .expect_err("too few devices");
    assert_eq!(no.reason, "NoSpace");
    assert!(
        no.message.contains("n1: 2 of 3 devices fit"),
        "{}",
        no.message
    );
    assert_eq!(
        pool.place(&stripe(5 * M, 1, 0)).expect_err("one").reason,
        "InvalidSpec"
    );
    assert_eq!(
        pool.place(&stripe(5 * M, 2, 3)).expect_err("odd").reason,
        "InvalidSpec"
    );
    // A full device takes the node out.
    pool.occupy(
        "v",
        &pool.place(&with(spec(20 * G), |_| {})).expect("d1").layout,
        "",
    );
    assert!(pool.place(&stripe(5 * M, 2, 0)).is_err());
}

#[test]
fn volumes_grow_on_the_devices_they_have() {
    let mut pool = pool();
    let layout = pool.place(&spec(G)).expect("a place").layout;
    pool.occupy("v", &layout, "");
    assert_eq!(pool.grow(&layout, G).expect("it has room").layout, layout);
    let grown = pool.grow(&layout, G + M).expect("room").layout;
    assert_eq!((grown.epoch, grown.extents.len()), (2, 2));
    assert_eq!(grown.extents[0], layout.extents[0]);
    assert_eq!(
        (grown.extents[1].offset_bytes, grown.extents[1].length_bytes),
        (G, M)
    );
    pool.occupy("v", &grown, "");
    let usage = pool.usage("nodes/n1/devices/d1").expect("known");
    assert_eq!(
        (usage.allocated_bytes, usage.free_bytes),
        (G + M, 19 * G - M)
    );
    let no = pool.grow(&grown, 100 * G).expect_err("too much");
    assert_eq!(no.reason, "NoSpace");
    assert!(no.message.contains("n1/d1 has"), "{}", no.message);
    pool.remove_device("nodes/n1/devices/d1");
    assert_eq!(
        pool.grow(&grown, 2 * G).expect_err("away").reason,
        "NoDevice"
    );
}

#[test]
fn growth_takes_several_pieces_where_there_is_no_long_one() {
    let mut pool = Pool::new();
    pool.set_node(&node("n1", "r1"));
    for name in ["n1/d0", "n1/d1"] {
        pool.set_device(&device(name, 10 * M));
    }
    let layout = pool.place(&stripe(2 * M, 2, 0)).expect("a place").layout;
    pool.occupy("v", &layout, "");
    let mut wall = layout.clone();
    for extent in &mut wall.extents {
        extent.offset_bytes = if extent.device.ends_with("d0") {
            4 * M
        } else {
            7 * M
        };
    }
    pool.occupy("wall", &wall, "");
    // Free: d0 3 and 5 MiB, d1 6 and 2 MiB.
    let grown = pool.grow(&layout, 2 * M + 16 * M).expect("room").layout;
    assert_eq!(grown.extents.len() % 2, 0);
    for row in grown.extents.chunks(2) {
        assert_eq!(row[0].length_bytes, row[1].length_bytes);
        assert_eq!(row[0].device, layout.extents[0].device);
    }
    pool.occupy("v", &grown, "");
    for device in ["nodes/n1/devices/d0", "nodes/n1/devices/d1"] {
        let usage = pool.usage(device).expect("known");
        assert_eq!((usage.free_bytes, usage.overlapping_bytes), (0, 0));
    }
    assert_eq!(
        pool.grow(&grown, 20 * M).expect_err("full").reason,
        "NoSpace"
    );
}

#[test]
fn overlaps_are_counted_and_undone() {
    let mut pool = pool();
    let layout = pool.place(&spec(G)).expect("a place").layout;
    pool.occupy("v", &layout, "");
    pool.occupy("orphan", &layout, "");
    let usage = pool.usage("nodes/n1/devices/d1").expect("known");
    assert_eq!((usage.allocated_bytes, usage.overlapping_bytes), (G, G));
    assert_eq!(pool.occupants().len(), 2);
    pool.release("v");
    let usage = pool.usage("nodes/n1/devices/d1").expect("known");
    assert_eq!((usage.allocated_bytes, usage.overlapping_bytes), (G, 0));
    pool.release("orphan");
    pool.release("orphan");
    assert_eq!(
        pool.usage("nodes/n1/devices/d1")
            .expect("known")
            .allocated_bytes,
        0
    );
    pool.occupy("v", &layout, "g");
    pool.remove_node("nodes/n1");
    assert_eq!(pool.usage("nodes/n1/devices/d1"), None);
    assert!(pool.occupants().is_empty());
}

#[test]
fn sizes_beyond_the_pool_are_told_from_a_full_one() {
    let mut full = pool();
    full.occupy("v", &full.place(&spec(20 * G)).expect("d1").layout, "");
    assert_eq!(full.could_hold(&spec(20 * G)), Ok(()));
    let no = full.could_hold(&spec(20 * G + M)).expect_err("too large");
    assert_eq!(no.reason, "SizeBeyondPool");
    assert!(
        no.message.contains("the largest holds 20 GiB"),
        "{}",
        no.message
    );
    assert_eq!(full.could_hold(&stripe(20 * G, 2, 0)), Ok(()));
    assert!(full.could_hold(&stripe(20 * G + 2 * M, 2, 0)).is_err());
    let eight_eib = VolumeSpec {
        size_bytes: i64::MAX - (1 << 20) + 1,
        ..spec(0)
    };
    assert!(full.could_hold(&eight_eib).is_err());
    let on_n2 = with(spec(16 * G), |p| p.node = "nodes/n2".to_owned());
    assert!(full.could_hold(&on_n2).is_err());
    assert_eq!(
        Pool::new().could_hold(&eight_eib),
        Ok(()),
        "nothing is known yet"
    );
}

proptest! {
    /// No two volumes get the same space, and all of it comes back.
    #[test]
    fn places_never_overlap(
        ops in prop::collection::vec((1u64..400, 0u32..4, any::<bool>(), any::<u8>()), 1..60),
    ) {
        let mut pool = pool();
        let mut held: Vec<(String, Layout, u64)> = Vec::new();
        for (number, (mib, width, release, pick)) in ops.into_iter().enumerate() {
            let at = usize::from(pick) % held.len().max(1);
            if release && !held.is_empty() {
                let (uid, layout, size) = held.swap_remove(at);
                if pick % 2 == 0 {
                    pool.release(&uid);
                } else if let Ok(grown) = pool.grow(&layout, size + mib * M) {
                    pool.occupy(&uid, &grown.layout, "g");
                    held.push((uid, grown.layout, size + mib * M));
                } else {
                    pool.release(&uid);
                }
                continue;
            }
            let spec = if width < 2 { spec(mib * M) } else { stripe(mib * M, 2, 1 << 20) };
            let Ok(placed) = pool.place(&spec) else { continue };
            let room: u64 = placed.layout.extents.iter().map(|e| e.length_bytes).sum();
            prop_assert!(room >= mib * M);
            let uid = format!("v{number}");
            pool.occupy(&uid, &placed.layout, "g");
            held.push((uid, placed.layout, mib * M));
        }
        let devices = ["nodes/n1/devices/d0", "nodes/n1/devices/d1", "nodes/n2/devices/d0"];
        let usages = || devices.map(|device| pool.usage(device).expect("known"));
        let extents = held.iter().flat_map(|(_, layout, _)| &layout.extents);
        let given: u64 = extents.map(|extent| extent.length_bytes).sum();
        prop_assert_eq!(usages().iter().map(|usage| usage.allocated_bytes).sum::<u64>(), given);
        prop_assert!(usages().iter().all(|usage| usage.overlapping_bytes == 0));
        for (uid, _, _) in &held {
            pool.release(uid);
        }
        let free = devices.map(|device| pool.usage(device).expect("known").free_bytes);
        prop_assert_eq!(free, [10 * G, 20 * G, 15 * G]);
    }
}
