//! Subsystems, namespaces and listeners that the store does not know (any more).

use penstock_api::v1::Desired;

use super::node::{desired, listener, namespace, subsystem, volume, volumes};
use super::stories::serving;

/// What an older store lacks of [`serving`]: the namespace, and so the subsystem.
fn without_namespace(revision: i64) -> Desired {
    Desired {
        volumes: vec![volume("v", 1, &[(0, 4)])],
        listeners: vec![listener("l", 4420)],
        ..desired(revision, true)
    }
}

#[test]
fn a_subsystem_that_goes_is_served_for_what_is_still_in_it() {
    let mut node = serving();
    // An older store: the namespace is an orphan, the store has no other here and ends the subsystem.
    node.accept(Desired {
        subsystems: vec![subsystem("s")],
        ..without_namespace(3)
    });
    let mut s = subsystem("s");
    s.deleted = true;
    node.accept(Desired {
        subsystems: vec![s],
        ..desired(4, false)
    });
    node.settle();
    assert!(node.log.is_empty() && node.agent.synced(), "{:?}", node.log);
    node.crash();
    node.settle();
    assert!(
        node.namespaces.contains_key("n"),
        "served on after a start, too: {:?}",
        node.log
    );
    assert!(node.agent.synced());
    // It is taken back as long as it is there.
    node.log.clear();
    node.accept(Desired {
        subsystems: vec![subsystem("s")],
        namespaces: vec![namespace("n", "s", "v", 1)],
        ..desired(5, false)
    });
    node.settle();
    assert!(node.log.is_empty() && node.agent.synced(), "{:?}", node.log);
}

#[test]
fn a_subsystem_without_namespaces_that_is_not_wanted_goes_unsaid() {
    let mut node = serving();
    let mut n = namespace("n", "s", "v", 1);
    n.deleted = true;
    node.accept(Desired {
        namespaces: vec![n],
        ..desired(6, false)
    });
    node.settle();
    node.log.clear();
    // The stream broke before the subsystem's end was told; the next complete state lacks it.
    node.accept(without_namespace(7));
    node.settle();
    assert_eq!(node.log, ["remove_subsystem s"]);
    assert!(node.agent.synced() && node.subsystems.is_empty());
}

#[test]
fn a_missing_subsystem_goes_with_its_last_namespace_and_frees_its_name() {
    let mut node = serving();
    node.accept(without_namespace(3));
    node.settle();
    assert!(node.log.is_empty(), "served on: {:?}", node.log);
    // A person makes both anew: of the same NQN, with other identities.
    let mut again = subsystem("t");
    again.nqn = subsystem("s").nqn;
    node.accept(Desired {
        subsystems: vec![again],
        namespaces: vec![namespace("m", "t", "v", 1)],
        ..desired(4, false)
    });
    node.settle();
    assert_eq!(
        node.log,
        [
            "serve_subsystem t",
            "remove_namespace n",
            "remove_subsystem s",
            "serve_subsystem t",
            "serve_namespace m"
        ],
        "without a retry from outside"
    );
    assert!(node.agent.synced());
}

#[test]
fn what_is_served_unknown_to_the_store_is_told() {
    let mut node = serving();
    node.accept(volumes(3, true, vec![volume("v", 1, &[(0, 4)])]));
    node.settle();
    let report = node.report(false).expect("news");
    let told: Vec<_> = report.orphan_objects.iter().map(|o| &o.name).collect();
    assert!(report.orphans_told && report.orphans.is_empty());
    assert_eq!(
        told,
        ["subsystems/s/namespaces/n", "nodes/n1/listeners/l"],
        "{report:?}"
    );
    assert_eq!(report.orphan_objects[0].volume, "volumes/v");
    // They are told after a start as well, and no more once they are known or have given way.
    node.crash();
    node.settle();
    let report = node.report(true).expect("news");
    assert_eq!(report.orphan_objects.len(), 2);
    node.accept(Desired {
        subsystems: vec![subsystem("s")],
        namespaces: vec![namespace("n", "s", "v", 1)],
        listeners: vec![listener("k", 4420)],
        ..desired(4, false)
    });
    node.log.clear();
    node.settle();
    assert_eq!(
        node.log,
        ["add_listener k", "remove_listener l", "add_listener k"]
    );
    let report = node.report(false).expect("news");
    assert!(report.orphans_told && report.orphan_objects.is_empty());
}

#[test]
fn a_namespace_of_an_orphan_is_told_with_that() {
    let mut node = serving();
    node.accept(Desired {
        listeners: vec![listener("l", 4420)],
        ..desired(3, true)
    });
    node.settle();
    let report = node.report(false).expect("news");
    assert_eq!(report.orphans[0].namespaces.len(), 1);
    assert!(report.orphan_objects.is_empty());
}
