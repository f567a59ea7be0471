//! What happens to volumes, namespaces and listeners, told one by one.

use penstock_api::v1::{Desired, ObservedVolume, Report, VolumeState};
use penstock_plan::agent::{AgentState, Damaged, Step};

use super::node::{
    M, Node, deleted, desired, extents, listener, namespace, subsystem, volume, volumes,
};

fn seen<'a>(report: &'a Report, uid: &str) -> &'a ObservedVolume {
    report
        .volumes
        .iter()
        .find(|seen| seen.uid == uid)
        .expect("it is reported")
}

/// A node that serves volume `v` (MiB 0 to 4) as namespace `n` of subsystem `s`.
pub fn serving() -> Node {
    let mut node = Node::new();
    node.accept(Desired {
        volumes: vec![volume("v", 1, &[(0, 4)])],
        subsystems: vec![subsystem("s")],
        namespaces: vec![namespace("n", "s", "v", 1)],
        listeners: vec![listener("l", 4420)],
        ..desired(5, true)
    });
    node.settle();
    node.report(true);
    node.log.clear();
    node
}

#[test]
fn a_volume_is_cleared_saved_opened_and_then_ready() {
    let mut node = Node::new();
    node.accept(volumes(1, true, vec![volume("v", 1, &[(0, 4)])]));
    assert_eq!(node.agent.steps(), [], "nothing is done before it is saved");
    assert_eq!(
        node.agent.report(false),
        None,
        "nothing is told before it is saved"
    );
    node.save(true);
    let report = node.report(false).expect("news");
    assert_eq!(seen(&report, "v").state(), VolumeState::Creating);
    assert_eq!((report.accepted_revision, report.synced), (1, false));
    let [clear] = node.agent.steps().try_into().expect("one step");
    assert!(matches!(clear, Step::ClearVolume { .. }));
    node.run(&clear);
    assert_eq!(
        node.agent.steps(),
        [],
        "that it is cleared is to be saved first"
    );
    node.save(true);
    let [open] = node.agent.steps().try_into().expect("one step");
    assert!(matches!(open, Step::OpenVolume { .. }));
    node.run(&open);
    assert_eq!(node.agent.steps(), []);
    let report = node.report(false).expect("news");
    let told = seen(&report, "v");
    assert_eq!(
        (told.state(), told.generation, told.epoch),
        (VolumeState::Ready, 1, 1)
    );
    assert_eq!((told.size_bytes, told.ready_extents), (4 * M, 1));
    assert!(report.synced);
    assert_eq!(node.report(false), None);
}

#[test]
fn growth_clears_only_what_is_new_and_tells_hosts() {
    let mut node = serving();
    let mut grown = volume("v", 2, &[(0, 4), (10, 2)]);
    grown.generation = 2;
    node.accept(volumes(6, false, vec![grown]));
    node.save(true);
    let [clear] = node.agent.steps().try_into().expect("one step");
    let Step::ClearExtents { extents, .. } = &clear else {
        panic!("{clear:?}")
    };
    assert_eq!((extents.len(), extents[0].offset_bytes), (1, 10 * M));
    let old = node.report(false).expect("news");
    let told = seen(&old, "v");
    assert_eq!(
        (told.state(), told.generation),
        (VolumeState::Ready, 1),
        "still the old size"
    );
    node.run(&clear);
    node.settle();
    assert_eq!(node.log, ["clear_extents v", "grow_volume v"]);
    let report = node.report(false).expect("news");
    let told = seen(&report, "v");
    assert_eq!(
        (told.generation, told.size_bytes, told.ready_extents),
        (2, 6 * M, 2)
    );
    assert_eq!(report.namespaces[0].size_bytes, 6 * M);
}

#[test]
fn a_larger_size_within_the_extents_needs_no_clearing() {
    let mut node = Node::new();
    let mut small = volume("v", 1, &[(0, 4)]);
    small.size_bytes = 3 * M;
    node.accept(volumes(1, true, vec![small.clone()]));
    node.settle();
    node.log.clear();
    node.accept(volumes(2, false, vec![volume("v", 1, &[(0, 4)])]));
    node.settle();
    assert_eq!(node.log, ["grow_volume v"]);
    let refused = node.accept(volumes(3, false, vec![small])).refusals;
    assert_eq!(refused[0].reason, "LayoutConflict", "it does not shrink");
}

#[test]
fn a_deletion_waits_for_its_namespace_and_is_told_when_saved() {
    let mut node = serving();
    node.accept(volumes(6, false, vec![deleted(volume("v", 1, &[(0, 4)]))]));
    node.settle();
    assert!(node.log.is_empty(), "served on: {:?}", node.log);
    let report = node.report(false).expect("news");
    let told = seen(&report, "v");
    assert_eq!(
        (told.state(), told.reason.as_str()),
        (VolumeState::Deleting, "InUse")
    );
    assert!(!report.synced);

    let mut gone = namespace("n", "s", "v", 1);
    gone.deleted = true;
    node.accept(Desired {
        namespaces: vec![gone],
        ..desired(7, false)
    });
    for _ in 0..10 {
        node.save(true);
        let steps = node.agent.steps();
        if steps.is_empty() {
            break;
        }
        steps.iter().for_each(|step| node.run(step));
        if node
            .log
            .last()
            .is_some_and(|last| last == "clear_deleted v")
        {
            break;
        }
    }
    assert_eq!(
        node.log,
        ["remove_namespace n", "close_volume v", "clear_deleted v"]
    );
    assert_eq!(node.agent.steps(), []);
    let gone = |report: &Option<Report>| {
        report
            .iter()
            .flat_map(|report| &report.volumes)
            .any(|seen| seen.gone)
    };
    assert!(!gone(&node.report(false)), "told before it was saved");
    node.save(true);
    assert!(gone(&node.report(false)));
    assert_eq!(node.agent.deleted_uids(), ["v"]);
}

#[test]
fn what_an_older_store_lacks_is_served_on_until_a_person_decides() {
    for delete in [false, true] {
        let mut node = serving();
        let accepted = node.accept(volumes(3, true, vec![]));
        assert!(accepted.regression.expect("told").contains("has seen 5"));
        assert_eq!(accepted.new_orphans, ["v"]);
        node.settle();
        assert!(node.log.is_empty(), "{:?}", node.log);
        let report = node.report(false).expect("news");
        assert!(report.orphans_told);
        let [orphan] = report.orphans.try_into().expect("one orphan");
        assert_eq!(
            (orphan.volume_uid.as_str(), orphan.reason.as_str()),
            ("v", "MissingInStore")
        );
        assert_eq!(orphan.namespaces, ["subsystems/s/namespaces/n"]);
        let mut known = orphan.known.expect("for its adoption");
        assert_eq!(known.ready_extents, 1);
        if delete {
            // The store knows nothing of it: the word names the epoch held.
            node.accept(volumes(4, false, vec![deleted(known)]));
            node.settle();
            assert_eq!(
                node.log,
                [
                    "remove_namespace n",
                    "close_volume v",
                    "remove_subsystem s",
                    "clear_deleted v"
                ]
            );
            assert!(node.agent.hello_volumes().is_empty());
        } else {
            known.layout.as_mut().expect("a layout").epoch += 1;
            node.accept(volumes(4, false, vec![known]));
            node.settle();
            assert!(node.log.is_empty(), "{:?}", node.log);
            assert!(node.has_data("v"));
        }
        let report = node.report(false).expect("news");
        assert!(report.orphans_told && report.orphans.is_empty());
        assert_eq!(node.agent.orphans(), 0);
    }
}

#[test]
fn an_older_epoch_is_not_taken_and_cannot_delete() {
    let mut node = serving();
    node.accept(volumes(6, false, vec![volume("v", 3, &[(0, 4), (8, 2)])]));
    node.settle();
    node.log.clear();
    for old in [
        volume("v", 1, &[(0, 4)]),
        deleted(volume("v", 1, &[(0, 4)])),
    ] {
        let refusals = node.accept(volumes(2, true, vec![old])).refusals;
        assert_eq!(refusals[0].reason, "EpochBehind");
        node.settle();
        let report = node.report(true).expect("news");
        let told = seen(&report, "v");
        assert_eq!((told.state(), told.epoch), (VolumeState::Ready, 3));
        assert_eq!(told.reason, "EpochBehind");
        assert_eq!(report.orphans[0].reason, "EpochBehind");
    }
    assert!(node.log.is_empty() && node.has_data("v"));
}

#[test]
fn a_deleted_volume_does_not_come_back() {
    let mut node = serving();
    let mut gone = namespace("n", "s", "v", 1);
    gone.deleted = true;
    let gone = Desired {
        namespaces: vec![gone],
        ..desired(6, false)
    };
    node.accept(Desired {
        volumes: vec![deleted(volume("v", 1, &[(0, 4)]))],
        ..gone
    });
    node.settle();
    node.crash();
    let refusals = node
        .accept(volumes(5, true, vec![volume("v", 7, &[(0, 4)])]))
        .refusals;
    assert_eq!(refusals[0].reason, "DataDeleted");
    node.settle();
    let report = node.report(true).expect("news");
    let told = seen(&report, "v");
    assert_eq!((told.state(), told.gone), (VolumeState::Failed, false));
    assert_eq!(told.reason, "DataDeleted");
    node.accept(volumes(6, false, vec![deleted(volume("v", 7, &[(0, 4)]))]));
    node.settle();
    let report = node.report(false).expect("news");
    assert!(seen(&report, "v").gone);
}

#[test]
fn who_wants_space_of_another_waits_until_it_is_free() {
    let mut node = serving();
    node.accept(volumes(3, true, vec![volume("w", 1, &[(2, 4)])]));
    node.settle();
    let report = node.report(false).expect("news");
    let told = seen(&report, "w");
    assert_eq!(
        (told.state(), told.reason.as_str()),
        (VolumeState::Failed, "ExtentConflict")
    );
    assert!(told.message.contains("volumes/v"), "{}", told.message);
    assert_eq!(report.orphans[0].reason, "ExtentConflict");
    node.crash();
    node.settle();
    assert!(node.has_data("v") && !node.open.contains_key("w"));
    node.accept(volumes(4, false, vec![deleted(volume("v", 1, &[(0, 4)]))]));
    node.settle();
    assert!(node.open.contains_key("w"), "{:?}", node.log);
    let report = node.report(false).expect("news");
    assert_eq!(seen(&report, "w").state(), VolumeState::Ready);
    assert!(report.synced);
}

#[test]
fn a_node_boots_without_control_from_what_it_saved() {
    let mut node = serving();
    node.crash();
    node.settle();
    assert!(node.has_data("v"));
    let mut log = std::mem::take(&mut node.log);
    assert_eq!(log.pop().as_deref(), Some("serve_namespace n"));
    log.sort();
    assert_eq!(
        log,
        ["add_listener l", "open_volume v", "serve_subsystem s"]
    );
    assert_eq!(node.agent.accepted(), ("a", 5));
    assert!(node.agent.synced());
}

#[test]
fn a_node_that_lost_its_memory_does_not_clear_what_the_store_knows_to_be_ready() {
    let mut node = serving();
    node.files = [None, None];
    node.crash();
    let known = |ready| {
        let mut volume = volume("v", 2, &[(0, 4), (6, 2)]);
        volume.ready_extents = ready;
        volume
    };
    node.accept(volumes(9, true, vec![known(1)]));
    node.settle();
    assert_eq!(
        node.log,
        ["open_volume v", "clear_extents v", "grow_volume v"]
    );
    assert!(node.has_data("v"));
    // That the store has learnt of the growth is no news.
    node.accept(volumes(10, false, vec![known(2)]));
    assert_eq!(node.agent.unsaved(), None);
}

#[test]
fn an_older_copy_of_the_memory_clears_nothing_before_control_has_spoken() {
    let mut node = Node::new();
    node.accept(volumes(1, true, vec![volume("v", 1, &[(0, 4)])]));
    node.save(true);
    let new = node.files[0].clone();
    node.settle();
    node.files = [None, new];
    node.log.clear();
    node.crash();
    node.settle();
    assert!(node.log.is_empty(), "{:?}", node.log);
    let report = node.report(true).expect("news");
    let told = seen(&report, "v");
    assert_eq!(
        (told.state(), told.reason.as_str()),
        (VolumeState::Failed, "StateBehind")
    );
    let mut known = volume("v", 1, &[(0, 4)]);
    known.ready_extents = 1;
    node.accept(volumes(2, true, vec![known]));
    node.settle();
    assert_eq!(node.log, ["open_volume v"]);
    assert!(node.has_data("v"));
}

#[test]
fn space_that_holds_the_data_of_another_is_not_cleared_for_one_long_gone() {
    let mut node = Node::new();
    node.accept(volumes(1, true, vec![volume("v", 1, &[(0, 4)])]));
    node.settle();
    let old = node.files[0].clone();
    node.accept(volumes(2, false, vec![deleted(volume("v", 1, &[(0, 4)]))]));
    node.settle();
    node.accept(volumes(3, false, vec![volume("w", 1, &[(2, 4)])]));
    node.settle();
    // A copy from long ago still has v; the store knows better.
    node.agent = AgentState::decode(&old.expect("saved")).expect("readable");
    node.agent.distrust();
    node.open.clear();
    node.log.clear();
    let mut known = volume("w", 1, &[(2, 4)]);
    known.ready_extents = 1;
    let gone = deleted(volume("v", 1, &[(0, 4)]));
    node.accept(volumes(4, true, vec![known, gone]));
    node.settle();
    assert_eq!(node.log, ["open_volume w"]);
    assert!(node.has_data("w"));
}

#[test]
fn a_complete_state_in_parts_takes_effect_with_the_last() {
    let mut node = serving();
    let mut first = volumes(6, true, vec![volume("w", 1, &[(8, 1)])]);
    first.more = true;
    assert!(node.accept(first.clone()).incomplete);
    assert_eq!((node.agent.unsaved(), node.agent.orphans()), (None, 0));
    node.agent.disconnected();
    assert!(node.accept(first).incomplete);
    let last = volumes(6, true, vec![volume("v", 1, &[(0, 4)])]);
    let accepted = node.accept(last);
    assert!(!accepted.incomplete && accepted.new_orphans.is_empty());
    node.settle();
    assert_eq!(node.open.len(), 2);
}

#[test]
fn the_same_state_again_is_no_news() {
    let mut node = serving();
    let again = Desired {
        volumes: vec![volume("v", 1, &[(0, 4)])],
        subsystems: vec![subsystem("s")],
        namespaces: vec![namespace("n", "s", "v", 1)],
        listeners: vec![listener("l", 4420)],
        ..desired(9, true)
    };
    node.accept(again);
    assert_eq!(
        node.agent.unsaved(),
        None,
        "a revision alone is not worth writing"
    );
    let report = node.report(false).expect("the revision is told");
    assert_eq!(
        report,
        Report {
            accepted_revision: 9,
            synced: true,
            ..Report::default()
        }
    );
    assert!(node.agent.steps().is_empty());
}

#[test]
fn a_failed_step_is_told_and_done_again_on_retry() {
    let mut node = Node::new();
    node.failing.insert("clear_volume");
    node.accept(volumes(1, true, vec![volume("v", 1, &[(0, 4)])]));
    node.settle();
    let report = node.report(false).expect("news");
    let told = seen(&report, "v");
    assert_eq!(
        (told.state(), told.reason.as_str()),
        (VolumeState::Failed, "DeviceError")
    );
    assert_eq!((node.agent.failed(), node.agent.synced()), (1, false));
    node.failing.clear();
    node.agent.retry();
    node.settle();
    let report = node.report(false).expect("news");
    assert_eq!(seen(&report, "v").state(), VolumeState::Ready);
    assert_eq!(node.agent.failed(), 0);
}

#[test]
fn an_identifier_is_used_again_once_it_is_free() {
    let mut node = serving();
    let mut gone = namespace("n", "s", "v", 1);
    gone.deleted = true;
    node.accept(Desired {
        volumes: vec![volume("w", 1, &[(8, 1)])],
        namespaces: vec![namespace("m", "s", "w", 1)],
        ..desired(6, false)
    });
    node.settle();
    let report = node.report(false).expect("news");
    let told = report
        .namespaces
        .iter()
        .find(|seen| seen.uid == "m")
        .expect("told");
    assert_eq!((told.ready, told.reason.as_str()), (false, "NsidInUse"));
    node.accept(Desired {
        namespaces: vec![gone],
        ..desired(7, false)
    });
    node.settle();
    assert!(node.namespaces.contains_key("m") && !node.namespaces.contains_key("n"));
    let report = node.report(false).expect("news");
    assert!(
        report
            .namespaces
            .iter()
            .any(|seen| seen.uid == "n" && seen.gone)
    );
    assert!(
        report
            .namespaces
            .iter()
            .any(|seen| seen.uid == "m" && seen.ready)
    );
}

#[test]
fn a_new_namespace_takes_the_place_of_an_orphan_on_its_volume() {
    let mut node = serving();
    let store = Desired {
        volumes: vec![volume("v", 1, &[(0, 4)])],
        subsystems: vec![subsystem("s")],
        ..desired(3, true)
    };
    node.accept(store);
    node.settle();
    assert!(node.log.is_empty(), "served on");
    node.accept(Desired {
        namespaces: vec![namespace("m", "s", "v", 1)],
        ..desired(4, false)
    });
    node.settle();
    assert_eq!(node.log, ["serve_namespace m"], "its hosts notice nothing");
    let report = node.report(false).expect("news");
    let told = |uid: &str| report.namespaces.iter().find(|seen| seen.uid == uid);
    assert!(told("n").is_some_and(|seen| seen.gone));
    assert!(told("m").is_some_and(|seen| seen.ready));
}

#[test]
fn a_new_namespace_with_another_number_replaces_an_orphan_on_its_volume() {
    let mut node = serving();
    let store = Desired {
        volumes: vec![volume("v", 1, &[(0, 4)])],
        subsystems: vec![subsystem("s")],
        ..desired(3, true)
    };
    node.accept(store);
    node.accept(Desired {
        namespaces: vec![namespace("m", "s", "v", 2)],
        ..desired(4, false)
    });
    node.settle();
    assert_eq!(node.log, ["remove_namespace n", "serve_namespace m"]);
}

#[test]
fn an_orphaned_namespace_without_its_volume_ends() {
    let mut node = serving();
    // Told of a namespace whose volume it does not have, and no more of it in an older store.
    node.accept(Desired {
        namespaces: vec![namespace("m", "s", "w", 2)],
        ..desired(4, false)
    });
    node.settle();
    assert!(!node.agent.synced(), "it waits for its volume");
    node.accept(Desired {
        volumes: vec![volume("v", 1, &[(0, 4)])],
        subsystems: vec![subsystem("s")],
        namespaces: vec![namespace("n", "s", "v", 1)],
        ..desired(3, true)
    });
    node.settle();
    assert!(node.log.is_empty(), "{:?}", node.log);
    assert!(node.agent.synced());
}

#[test]
fn a_subsystem_goes_after_its_namespaces() {
    let mut node = serving();
    let mut s = subsystem("s");
    s.deleted = true;
    node.accept(Desired {
        subsystems: vec![s],
        ..desired(6, false)
    });
    node.settle();
    assert!(node.log.is_empty(), "in use");
    let mut n = namespace("n", "s", "v", 1);
    n.deleted = true;
    node.accept(Desired {
        namespaces: vec![n],
        ..desired(7, false)
    });
    node.settle();
    assert_eq!(node.log, ["remove_namespace n", "remove_subsystem s"]);
}

#[test]
fn listeners_come_move_and_go() {
    let mut node = serving();
    node.accept(Desired {
        listeners: vec![listener("l", 4421)],
        ..desired(6, false)
    });
    node.settle();
    assert_eq!(node.log, ["remove_listener l", "add_listener l"]);
    let mut gone = listener("l", 4421);
    gone.deleted = true;
    node.accept(Desired {
        listeners: vec![gone.clone()],
        ..desired(7, false)
    });
    node.settle();
    let report = node.report(false).expect("news");
    assert!(node.listeners.is_empty() && report.listeners[0].gone);
    // Told again, it is gone again.
    node.accept(Desired {
        listeners: vec![gone],
        ..desired(8, false)
    });
    assert!(node.report(false).expect("news").listeners[0].gone);
}

#[test]
fn a_new_listener_takes_the_place_of_an_orphan_at_its_address() {
    let mut node = serving();
    node.accept(Desired {
        volumes: vec![volume("v", 1, &[(0, 4)])],
        subsystems: vec![subsystem("s")],
        namespaces: vec![namespace("n", "s", "v", 1)],
        ..desired(3, true)
    });
    node.accept(Desired {
        listeners: vec![listener("other", 4421)],
        ..desired(4, false)
    });
    node.settle();
    assert_eq!(node.log, ["add_listener other"], "the orphan listens on");
    node.accept(Desired {
        listeners: vec![listener("new", 4420)],
        ..desired(5, false)
    });
    node.settle();
    assert_eq!(
        node.log[1..],
        ["remove_listener l", "add_listener new"],
        "the first is out of the way of the second"
    );
    assert!(node.agent.synced());
}

#[test]
fn remote_ports_are_set_where_they_changed() {
    let mut node = serving();
    let port = penstock_api::v1::RemotePort {
        nqn: "nqn.x".to_owned(),
        ..Default::default()
    };
    let told = Desired {
        remote_ports_told: true,
        remote_ports: vec![port],
        ..desired(6, false)
    };
    node.accept(told.clone());
    node.settle();
    node.accept(told);
    node.accept(desired(7, false));
    node.settle();
    assert_eq!(node.log, ["set_remote_ports "]);
    node.crash();
    node.settle();
    assert_eq!(
        node.log
            .iter()
            .filter(|step| step.starts_with("set_remote"))
            .count(),
        2
    );
}

#[test]
fn layouts_that_cannot_be_are_refused() {
    let good = || volume("v", 1, &[(0, 4)]);
    type Spoil = fn(&mut penstock_api::v1::Layout);
    let table: [(&str, Spoil); 9] = [
        ("0 extents", |l| l.extents.clear()),
        ("epoch is 0", |l| l.epoch = 0),
        ("not aligned", |l| l.extents[0].offset_bytes = 4096),
        ("empty", |l| {
            let mut second = l.extents[0].clone();
            second.length_bytes = 0;
            l.extents.push(second);
        }),
        ("not within", |l| l.extents[0].length_bytes = M),
        ("beyond the end", |l| {
            l.extents[0].offset_bytes = u64::MAX - M + 1
        }),
        ("overlap", |l| l.extents.push(l.extents[0].clone())),
        ("1 extents do not make a stripe of width 2", |l| {
            l.stripe_width = 2
        }),
        ("no power of two", |l| {
            let mut second = l.extents[0].clone();
            second.device.push('1');
            l.extents.push(second);
            l.stripe_width = 2;
        }),
    ];
    for (words, spoil) in table {
        let mut node = Node::new();
        let mut volume = good();
        spoil(volume.layout.as_mut().expect("a layout"));
        let refusals = node.accept(volumes(1, true, vec![volume])).refusals;
        assert_eq!(refusals.len(), 1, "{words}");
        assert_eq!(refusals[0].reason, "InvalidLayout", "{words}");
        assert!(
            refusals[0].message.contains(words),
            "{}",
            refusals[0].message
        );
        node.settle();
        assert!(node.log.is_empty());
    }
    let mut none = good();
    none.layout = None;
    assert_eq!(
        Node::new()
            .accept(volumes(1, true, vec![none]))
            .refusals
            .len(),
        1
    );
}

#[test]
fn damaged_states_are_told_from_good_ones() {
    let mut node = serving();
    let good = node.agent.encode();
    assert!(AgentState::decode(&good).is_ok());
    assert_eq!(AgentState::decode(b"").unwrap_err(), Damaged::Foreign);
    for cut in 8..good.len() {
        assert!(AgentState::decode(&good[..cut]).is_err(), "cut at {cut}");
    }
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        assert!(AgentState::decode(&bad).is_err(), "changed at {at}");
    }
    let mut newer = good;
    newer[8] = 2;
    assert_eq!(
        AgentState::decode(&newer).unwrap_err(),
        Damaged::Newer(2, 1)
    );
}

#[test]
fn one_change_among_many_volumes_is_little_work() {
    let mut node = Node::new();
    let many = (0..3_000)
        .map(|i| volume(&format!("v{i}"), 1, &[(i * 2, 1)]))
        .collect();
    node.accept(volumes(1, true, many));
    node.settle();
    assert_eq!(node.report(true).expect("all").volumes.len(), 3_000);
    assert!(node.agent.steps().is_empty() && node.report(false).is_none());
    let one = volume("v77", 2, &[(154, 1), (155, 1)]);
    node.accept(volumes(2, false, vec![one]));
    node.save(true);
    let steps = node.agent.steps();
    assert_eq!(steps.len(), 1);
    assert!(matches!(&steps[0], Step::ClearExtents { volume, .. } if extents(volume).len() == 2));
    node.run(&steps[0]);
    node.settle();
    assert_eq!(node.report(false).expect("news").volumes.len(), 1);
}
