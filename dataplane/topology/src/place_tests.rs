//! Placements by table, and what holds for all of them.

use proptest::prelude::*;

use super::*;
use crate::machine::NumaNode;

/// `nodes` nodes of `physical` cores with two hardware threads each, numbered as Linux does on x86:
/// first threads of all cores, then the second ones.
fn machine(nodes: usize, physical: usize) -> Topology {
    let total = nodes * physical;
    let cores = (0..2 * total).map(|id| Core {
        id,
        physical: id % total,
        node: u32::try_from(id % total / physical).unwrap(),
    });
    let node = |id: usize| NumaNode {
        id: u32::try_from(id).unwrap(),
        memory_bytes: 1 << 30,
        distances: (0..nodes)
            .map(|other| 10 + 11 * id.abs_diff(other) as u64)
            .collect(),
    };
    Topology {
        nodes: (0..nodes).map(node).collect(),
        cores: cores.collect(),
        devices: Vec::new(),
    }
}

fn needs(count: usize, cores: usize, drives: &[u32], networks: &[u32]) -> Needs {
    Needs {
        count,
        allowed: (0..cores).collect(),
        drives: drives.to_vec(),
        networks: networks.to_vec(),
    }
}

fn cores_of(placement: &Placement) -> Vec<usize> {
    placement.seats.iter().map(|seat| seat.core).collect()
}

/// What a case shows, how many reactors, nodes of drives, nodes of interfaces, and the cores chosen.
type Case = (
    &'static str,
    usize,
    &'static [u32],
    &'static [u32],
    &'static [usize],
);

#[test]
fn reactors_go_where_the_drives_are() {
    // Node 0 has cores 0 to 3 and 8 to 11, node 1 has 4 to 7 and 12 to 15.
    let machine = machine(2, 4);
    let table: &[Case] = &[
        ("nothing pulls: off CPU 0", 1, &[], &[], &[1]),
        ("nothing pulls: together", 3, &[], &[], &[1, 2, 3]),
        (
            "whole cores, CPU 0's last, then second threads",
            5,
            &[],
            &[],
            &[1, 2, 3, 0, 9],
        ),
        ("one drive", 1, &[1], &[], &[4]),
        ("a drive on each node", 2, &[0, 1], &[], &[1, 4]),
        ("most drives first", 1, &[0, 1, 1], &[], &[4]),
        (
            "no drive's node is left out",
            2,
            &[0, 0, 0, 1],
            &[],
            &[1, 4],
        ),
        ("the rest by weight", 4, &[0, 0, 0, 1], &[], &[1, 4, 2, 3]),
        ("drives before interfaces", 1, &[1], &[0, 0, 0], &[4]),
        ("then the interfaces", 2, &[1], &[0], &[4, 1]),
        (
            "an interface decides between drives",
            1,
            &[0, 1],
            &[1],
            &[4],
        ),
        ("interfaces alone", 1, &[], &[1], &[4]),
    ];
    for (what, count, drives, networks, expected) in table {
        let placed = place(&machine, &needs(*count, 16, drives, networks));
        assert_eq!(cores_of(&placed), *expected, "{what}");
        for seat in &placed.seats {
            assert_eq!(seat.node, machine.node_of_core(seat.core), "{what}");
        }
    }
}

#[test]
fn a_small_machine_spares_no_core() {
    for (cores, first) in [(2, 0), (3, 0), (4, 1)] {
        let placed = place(&machine(1, cores), &needs(1, 2 * cores, &[], &[]));
        assert_eq!(cores_of(&placed), [first], "{cores} cores");
    }
}

#[test]
fn a_node_without_a_free_core_is_served_from_the_nearest() {
    let machine = machine(3, 1);
    let mut needs = needs(1, 0, &[2], &[]);
    needs.allowed = BTreeSet::from([0, 1, 3, 4]);
    // Node 1 is nearer to node 2 than node 0 is.
    assert_eq!(cores_of(&place(&machine, &needs)), [1]);
    needs.count = 9;
    assert_eq!(cores_of(&place(&machine, &needs)), [1, 4, 0, 3]);
    needs.allowed.clear();
    assert_eq!(place(&machine, &needs), Placement::default());
}

#[test]
fn a_machine_that_tells_nothing_has_its_cores_all_the_same() {
    let placed = place(&Topology::default(), &needs(3, 3, &[], &[]));
    assert_eq!(cores_of(&placed), [0, 1, 2]);
    assert!(placed.seats.iter().all(|seat| seat.node.is_none()));
    assert_eq!(placed.reach(0), Reach::default());
    assert_eq!(
        cores_of(&place(&Topology::default(), &needs(1, 1, &[], &[]))),
        [0]
    );
}

#[test]
fn paths_across_nodes_are_told() {
    let machine = machine(2, 2);
    let placed = Placement::on(&machine, &[0, 3, 77]);
    let nodes: Vec<_> = placed.seats.iter().map(|seat| seat.node).collect();
    assert_eq!(nodes, [Some(0), Some(1), None]);
    let reach = placed.reach(1);
    assert_eq!(
        (&reach.local[..], &reach.crossing[..]),
        (&[1][..], &[0][..])
    );
    assert!(!reach.is_cross_node());
    assert!(Placement::on(&machine, &[0, 1]).reach(1).is_cross_node());
    assert!(!Placement::default().reach(1).is_cross_node());
}

proptest! {
    #[test]
    fn every_placement_is_sound(
        nodes in 1_usize..5,
        physical in 1_usize..5,
        count in 0_usize..40,
        allowed in proptest::collection::btree_set(0_usize..40, 0..40),
        drives in proptest::collection::vec(0_u32..6, 0..6),
        networks in proptest::collection::vec(0_u32..6, 0..6),
    ) {
        let machine = machine(nodes, physical);
        let needs = Needs { count, allowed, drives, networks };
        let placed = place(&machine, &needs);
        prop_assert_eq!(&placed, &place(&machine, &needs));
        let cores: BTreeSet<usize> = cores_of(&placed).into_iter().collect();
        // As many as asked for and possible, on cores that are allowed, none twice.
        prop_assert_eq!(placed.seats.len(), count.min(needs.allowed.len()));
        prop_assert_eq!(cores.len(), placed.seats.len());
        prop_assert!(cores.is_subset(&needs.allowed));
        // With a reactor for each node that has drives, no drive with a core near it is served
        // across nodes.
        let with_drives: BTreeSet<u32> = needs.drives.iter().copied().collect();
        if count >= with_drives.len() {
            for node in with_drives {
                let has_core = needs.allowed.iter().any(|id| machine.node_of_core(*id) == Some(node));
                prop_assert!(!has_core || !placed.reach(node).local.is_empty());
            }
        }
        // A second hardware thread is in use only where its node has no whole core left.
        for seat in &placed.seats {
            let own = core(&machine, seat.core);
            let shared = cores.iter().filter(|id| core(&machine, **id).physical == own.physical);
            if seat.node.is_some() && shared.count() > 1 {
                let idle = needs.allowed.iter().find(|id| {
                    let other = core(&machine, **id);
                    machine.node_of_core(**id) == seat.node
                        && !cores.iter().any(|used| core(&machine, *used).physical == other.physical)
                });
                prop_assert_eq!(idle, None);
            }
        }
    }
}
