//! What reports mean, in tables; and what nodes are told.
#![allow(
    clippy::expect_used,
    reason = "a test ends where it finds something unexpected"
)]

use std::collections::BTreeMap;

use penstock_api::v1::{
    BlockSize, Condition, ConditionStatus, Extent, Layout, Listener, ListenerSpec, Namespace,
    NamespaceSpec, Node, ObservedObject, ObservedVolume, Operation, Orphan, OrphanObject, Report,
    Subsystem, SubsystemSpec, SubsystemStatus, TransportAddress, Volume, VolumeSpec, VolumeState,
};
use penstock_api::well_known::Timestamp;
use penstock_plan::desired;
use penstock_plan::observe::{self, Outcome};
use penstock_plan::place::{NoPlace, Placed};

const M: u64 = 1 << 20;

fn at(seconds: i64) -> Timestamp {
    Timestamp { seconds, nanos: 0 }
}

fn volume() -> Volume {
    Volume {
        name: "volumes/v".to_owned(),
        uid: "u".to_owned(),
        generation: 2,
        spec: Some(VolumeSpec {
            size_bytes: 4 << 20,
            ..VolumeSpec::default()
        }),
        ..Volume::default()
    }
}

fn layout(epoch: u64, mib: u64) -> Layout {
    let device = "nodes/n1/devices/d0".to_owned();
    let extent = Extent {
        device,
        offset_bytes: 0,
        length_bytes: mib * M,
    };
    let node = "nodes/n1".to_owned();
    Layout {
        node,
        epoch,
        stripe_unit_bytes: 0,
        extents: vec![extent],
        stripe_width: 1,
    }
}

fn placed() -> Volume {
    let mut volume = volume();
    let place = Placed {
        layout: layout(1, 4),
        reason: "n1/d0: most free space".to_owned(),
    };
    volume.status = Some(observe::placed(&volume, &place, &at(1)));
    volume
}

fn seen(state: VolumeState, generation: i64, reason: &str) -> ObservedVolume {
    ObservedVolume {
        uid: "u".to_owned(),
        generation,
        epoch: 1,
        state: state.into(),
        size_bytes: 4 * M,
        reason: reason.to_owned(),
        message: if reason.is_empty() {
            String::new()
        } else {
            format!("because {reason}")
        },
        ..ObservedVolume::default()
    }
}

fn condition<'a>(conditions: &'a [Condition], kind: &str) -> &'a Condition {
    conditions
        .iter()
        .find(|c| c.r#type == kind)
        .expect("the condition is there")
}

fn operation(verb: &str) -> Operation {
    Operation {
        verb: verb.to_owned(),
        target: "volumes/v".to_owned(),
        target_generation: 2,
        ..Operation::default()
    }
}

#[test]
fn placing_is_seen_in_the_status() {
    let no = NoPlace {
        reason: "NoSpace",
        message: "all full".to_owned(),
    };
    let pending = observe::not_placed(&volume(), &no, &at(1));
    assert_eq!(pending.state(), VolumeState::Pending);
    let told = condition(&pending.conditions, "Placed");
    assert_eq!(
        (told.status(), told.reason.as_str()),
        (ConditionStatus::False, "NoSpace")
    );
    assert_eq!(condition(&pending.conditions, "Ready").reason, "Pending");

    let creating = placed().status.expect("a status");
    assert_eq!(creating.state(), VolumeState::Creating);
    assert_eq!(creating.finalizers, ["node"]);
    let told = condition(&creating.conditions, "Placed");
    assert_eq!(
        (told.status(), told.reason.as_str()),
        (ConditionStatus::True, "Chosen")
    );
    assert_eq!(told.message, "n1/d0: most free space");

    // No space to grow leaves what it has.
    let mut ready = placed();
    ready
        .status
        .as_mut()
        .expect("a status")
        .set_state(VolumeState::Ready);
    let status = observe::not_placed(&ready, &no, &at(2));
    assert_eq!(
        (status.state(), status.layout.is_some()),
        (VolumeState::Ready, true)
    );
    assert_eq!(
        condition(&status.conditions, "Placed").status(),
        ConditionStatus::False
    );
    let place = Placed {
        layout: layout(2, 8),
        reason: "grown by 4 MiB on n1/d0".to_owned(),
    };
    let status = observe::placed(&ready, &place, &at(3));
    assert_eq!(
        (status.state(), status.finalizers.len()),
        (VolumeState::Ready, 1)
    );
    assert_eq!(condition(&status.conditions, "Placed").reason, "Grown");
}

/// A report, whether deletion was asked for; then the state, the reason of `Ready`, whether it is
/// gone, and what a create operation waits for (`-`: it is done; `!`: it has failed).
type Case = (
    ObservedVolume,
    bool,
    VolumeState,
    &'static str,
    bool,
    &'static str,
);

fn case(
    report: ObservedVolume,
    state: VolumeState,
    reason: &'static str,
    end: &'static str,
) -> Case {
    (report, false, state, reason, false, end)
}

fn volume_cases() -> Vec<Case> {
    use VolumeState::{Creating, Deleting, Failed, Ready};
    let gone = || ObservedVolume {
        gone: true,
        ..seen(Deleting, 2, "")
    };
    let failed = |reason| seen(Failed, 0, reason);
    let behind = seen(Ready, 2, "EpochBehind");
    let in_use = seen(Deleting, 2, "InUse");
    let clears = "the node clears the space it gets";
    let takes = "the node takes it away and clears its data";
    let conflict = "because ExtentConflict";
    vec![
        case(seen(Creating, 0, ""), Creating, "Creating", clears),
        case(seen(Ready, 2, ""), Ready, "Serving", "-"),
        case(
            seen(Ready, 1, ""),
            Ready,
            "Serving",
            "the node has it ready",
        ),
        case(behind, Ready, "EpochBehind", "because EpochBehind"),
        case(
            failed("DeviceError"),
            Failed,
            "DeviceError",
            "because DeviceError",
        ),
        case(failed("ExtentConflict"), Failed, "ExtentConflict", conflict),
        case(failed("DataDeleted"), Failed, "DataDeleted", "!"),
        case(gone(), Failed, "DataDeleted", "!"),
        (
            seen(Deleting, 2, ""),
            true,
            Deleting,
            "Deleting",
            false,
            takes,
        ),
        (in_use, true, Deleting, "InUse", false, "because InUse"),
        (gone(), true, Deleting, "Deleted", true, "!"),
    ]
}

#[test]
fn what_a_node_says_of_a_volume() {
    for (report, deleting, state, reason, is_gone, end) in volume_cases() {
        let mut volume = placed();
        volume.delete_time = deleting.then(|| at(5));
        let told = observe::volume(&volume, &report, &at(9));
        assert_eq!(told.status.state(), state, "{report:?}");
        let ready = condition(&told.status.conditions, "Ready");
        assert_eq!(ready.reason, reason, "{report:?}");
        let is_ready = report.state() == VolumeState::Ready;
        assert_eq!(ready.status() == ConditionStatus::True, is_ready);
        assert_eq!(told.gone, is_gone, "{report:?}");
        assert_eq!(told.status.finalizers.is_empty(), is_gone);
        let outcome = match observe::operation(&operation("create"), &told) {
            Outcome::Done => "-".to_owned(),
            Outcome::Failed(_) => "!".to_owned(),
            Outcome::Waiting(text) => text,
        };
        assert_eq!(outcome, end, "{report:?}");
        let outcome = observe::operation(&operation("delete"), &told);
        assert_eq!(outcome == Outcome::Done, is_gone, "{report:?}");
    }
}

#[test]
fn errors_of_operations_name_the_reason() {
    let told = observe::volume(
        &placed(),
        &seen(VolumeState::Failed, 0, "DataDeleted"),
        &at(9),
    );
    let Outcome::Failed(error) = observe::operation(&operation("create"), &told) else {
        panic!("it cannot get ready");
    };
    assert_eq!((error.code, error.reason.as_str()), (9, "DATA_DELETED"));
    assert_eq!(error.message, "because DataDeleted");
    assert_eq!(observe::upper_snake("NoSpace"), "NO_SPACE");
}

#[test]
fn times_change_with_the_status_of_a_condition_only() {
    let mut volume = placed();
    let first = observe::volume(
        &volume,
        &seen(VolumeState::Failed, 0, "DeviceError"),
        &at(10),
    );
    assert!(first.changed);
    volume.status = Some(first.status);
    let same = observe::volume(
        &volume,
        &seen(VolumeState::Failed, 0, "DeviceError"),
        &at(20),
    );
    assert!(!same.changed, "the same report again changes nothing");
    let other = observe::volume(
        &volume,
        &seen(VolumeState::Failed, 0, "DeviceMissing"),
        &at(30),
    );
    assert!(other.changed);
    let ready = condition(&other.status.conditions, "Ready");
    // False since it was placed, whatever the reason.
    assert_eq!(ready.last_transition_time, Some(at(1)));
    volume.status = Some(other.status);
    let ready = observe::volume(&volume, &seen(VolumeState::Ready, 2, ""), &at(40));
    let ready = condition(&ready.status.conditions, "Ready");
    assert_eq!(ready.last_transition_time, Some(at(40)));
}

#[test]
fn extents_that_held_data_are_never_forgotten() {
    let mut volume = placed();
    let ready = ObservedVolume {
        ready_extents: 1,
        ..seen(VolumeState::Ready, 2, "")
    };
    volume.status = Some(observe::volume(&volume, &ready, &at(2)).status);
    let forgot = seen(VolumeState::Creating, 0, "");
    volume.status = Some(observe::volume(&volume, &forgot, &at(3)).status);
    assert_eq!(desired::volume(&volume).expect("placed").ready_extents, 1);
}

#[test]
fn namespaces_and_listeners() {
    let seen = |ready, gone, reason: &str| ObservedObject {
        uid: "u".to_owned(),
        generation: 3,
        ready,
        gone,
        reason: reason.to_owned(),
        message: reason.to_owned(),
        size_bytes: 4 * M,
    };
    let table = [
        (seen(true, false, ""), false, "Serving", 3, false),
        (seen(false, false, ""), false, "Applying", 0, false),
        (
            seen(false, false, "VolumeNotReady"),
            false,
            "VolumeNotReady",
            0,
            false,
        ),
        (seen(true, false, ""), true, "Deleting", 3, false),
        (seen(false, true, ""), true, "Removed", 0, true),
        (seen(false, true, ""), false, "Removed", 0, false),
    ];
    for (report, deleting, reason, generation, gone) in table {
        let delete_time = deleting.then(|| at(1));
        let namespace = Namespace {
            generation: 3,
            delete_time,
            ..Namespace::default()
        };
        let told = observe::namespace(&namespace, "nodes/n1", &report, &at(2));
        assert_eq!(condition(&told.status.conditions, "Ready").reason, reason);
        assert_eq!(
            (told.ready_generation, told.gone),
            (generation, gone),
            "{report:?}"
        );
        assert_eq!(told.status.node, "nodes/n1");
        assert_eq!(told.status.size_bytes, if report.gone { 0 } else { 4 * M });
        let again = Namespace {
            status: Some(told.status),
            ..namespace
        };
        assert!(!observe::namespace(&again, "nodes/n1", &report, &at(3)).changed);

        let listener = Listener {
            generation: 3,
            delete_time,
            ..Listener::default()
        };
        let told = observe::listener(&listener, &report, &at(2));
        assert_eq!(condition(&told.status.conditions, "Ready").reason, reason);
        assert_eq!((told.ready_generation, told.gone), (generation, gone));
        assert_eq!(told.status.observed_generation, 3);
    }
}

#[test]
fn a_node_that_has_seen_more_than_the_store_is_told_of() {
    let table: [((&str, i64), Option<&str>); 5] = [
        (("", 0), None),
        (("a", 9), None),
        (("a", 10), None),
        (("a", 11), Some("RevisionBehind")),
        (("b", 1), Some("OtherStore")),
    ];
    for (accepted, reason) in table {
        let mut node = Node {
            generation: 4,
            ..Node::default()
        };
        let status = observe::node_connected(&node, None, accepted, ("a", 10), &at(1));
        assert!(observe::is_true(&status.conditions, "Online"));
        let regressed = condition(&status.conditions, "StoreRegressed");
        let holds = regressed.status() == ConditionStatus::True;
        assert_eq!(holds, reason.is_some(), "{accepted:?}");
        assert_eq!(regressed.reason, reason.unwrap_or("UpToDate"));
        assert_eq!(status.observed_generation, 4);
        // It stays while there are orphans, also over a reconnect.
        node.status = Some(status);
        let orphans = vec![Orphan {
            volume_uid: "x".to_owned(),
            ..Orphan::default()
        }];
        let report = Report {
            accepted_revision: 10,
            orphans_told: true,
            orphans,
            ..Report::default()
        };
        node.status = Some(observe::node_report(&node, &report, 10, &at(2)));
        node.status = Some(observe::node_connected(
            &node,
            None,
            ("a", 10),
            ("a", 10),
            &at(3),
        ));
        let conditions = &node.status.as_ref().expect("a status").conditions;
        assert_eq!(
            observe::is_true(conditions, "StoreRegressed"),
            holds,
            "{accepted:?}"
        );
        let report = Report {
            accepted_revision: 10,
            orphans_told: true,
            synced: true,
            ..Report::default()
        };
        let status = observe::node_report(&node, &report, 10, &at(4));
        assert!(!observe::is_true(&status.conditions, "StoreRegressed"));
        assert!(observe::is_true(&status.conditions, "Synced"));
    }
}

#[test]
fn a_node_is_synced_when_it_has_carried_out_the_last_word() {
    let table = [
        (10, true, 0, 0, "Synced"),
        (9, true, 0, 0, "Applying"),
        (11, true, 0, 0, "Applying"),
        (10, false, 0, 0, "Applying"),
        (10, true, 1, 0, "Orphans"),
        (10, true, 0, 2, "OrphanObjects"),
        (10, true, 1, 1, "Orphans"),
    ];
    for (accepted_revision, synced, orphans, objects, reason) in table {
        let orphans = vec![Orphan::default(); orphans];
        let object = OrphanObject {
            name: "subsystems/s/namespaces/n".to_owned(),
            volume: "volumes/v".to_owned(),
        };
        let report = Report {
            accepted_revision,
            synced,
            orphans_told: true,
            orphans,
            orphan_objects: vec![object; objects],
            ..Report::default()
        };
        let status = observe::node_report(&Node::default(), &report, 10, &at(1));
        assert_eq!(status.orphan_objects.len(), objects);
        let told = condition(&status.conditions, "Synced");
        assert_eq!(told.reason, reason);
        assert_eq!(told.status() == ConditionStatus::True, reason == "Synced");
    }
    // A restored store may say that it is away.
    let away = Node {
        status: Some(observe::node_disconnected(
            &Node::default(),
            "the stream ended",
            &at(1),
        )),
        ..Node::default()
    };
    let status = observe::node_report(&away, &Report::default(), 10, &at(2));
    assert!(observe::is_true(&status.conditions, "Online"));
    let status = observe::node_disconnected(&Node::default(), "the stream ended", &at(7));
    assert_eq!(
        condition(&status.conditions, "Online").status(),
        ConditionStatus::False
    );
    assert_eq!(
        condition(&status.conditions, "Synced").status(),
        ConditionStatus::Unknown
    );
    assert_eq!(status.last_seen_time, Some(at(7)));
}

#[test]
fn nodes_are_told_of_volumes_with_a_place() {
    assert_eq!(desired::volume(&volume()), None);
    let mut volume = placed();
    let told = desired::volume(&volume).expect("placed");
    assert_eq!(
        (told.size_bytes, told.block_size_bytes, told.deleted),
        (4 * M, 4096, false)
    );
    assert_eq!((told.generation, told.layout), (2, Some(layout(1, 4))));
    // Wanted larger, but not grown yet.
    let spec = volume.spec.as_mut().expect("a spec");
    spec.size_bytes = 8 << 20;
    spec.set_block_size(BlockSize::BlockSize512);
    volume.delete_time = Some(at(1));
    let told = desired::volume(&volume).expect("placed");
    assert_eq!(
        (told.size_bytes, told.block_size_bytes, told.deleted),
        (4 * M, 512, true)
    );
}

#[test]
fn nodes_are_told_of_subsystems_with_controller_identifiers_of_their_own() {
    assert_eq!(desired::controller_ids(0), Some((1, 1023)));
    assert_eq!(desired::controller_ids(1), Some((1024, 2046)));
    assert_eq!(desired::controller_ids(63), Some((64_450, 65_472)));
    assert_eq!(desired::controller_ids(64), None);
    let hosts = BTreeMap::from([("hosts/a", "nqn.a"), ("hosts/b", "nqn.b")]);
    let host_nqn = |name: &str| hosts.get(name).map(|nqn| (*nqn).to_owned());
    let subsystem = Subsystem {
        uid: "0190f1c2-1111-7222-8333-444455556666".to_owned(),
        name: "subsystems/s".to_owned(),
        spec: Some(SubsystemSpec {
            nqn: "nqn.2026-01.io.penstock:s".to_owned(),
            hosts: ["hosts/b", "hosts/a", "hosts/x", "hosts/b"]
                .map(str::to_owned)
                .to_vec(),
            ..SubsystemSpec::default()
        }),
        status: Some(SubsystemStatus {
            nodes: vec!["nodes/n1".to_owned(), "nodes/n2".to_owned()],
            ..SubsystemStatus::default()
        }),
        ..Subsystem::default()
    };
    assert_eq!(desired::subsystem(&subsystem, "nodes/n3", &host_nqn), None);
    let told = desired::subsystem(&subsystem, "nodes/n2", &host_nqn).expect("it has a place");
    assert_eq!(
        (told.controller_id_min, told.controller_id_max),
        (1024, 2046)
    );
    assert_eq!(told.host_nqns, ["nqn.a", "nqn.b"]);
    assert_eq!(
        (told.serial.as_str(), told.model.as_str()),
        ("0190f1c2111172228333", "Penstock")
    );
    assert_eq!(told.namespaces_max, 1024);

    let address = |ip: &str| TransportAddress {
        transport: "tcp".to_owned(),
        address: ip.to_owned(),
        port: 4420,
    };
    let all = ["10.0.0.1", "0.0.0.0", "::", "10.0.0.1", "fd00::1"].map(address);
    let ports = desired::remote_ports(&subsystem, &all, &host_nqn);
    let told: Vec<_> = ports
        .iter()
        .map(|port| port.address.clone().expect("one"))
        .collect();
    assert_eq!(told, ["10.0.0.1", "fd00::1"].map(address));
    assert_eq!(ports[0].host_nqns, ["nqn.a", "nqn.b"]);
}

#[test]
fn nodes_are_told_of_namespaces_and_listeners() {
    let namespace = Namespace {
        uid: "n".to_owned(),
        generation: 1,
        spec: Some(NamespaceSpec {
            nsid: 7,
            ..NamespaceSpec::default()
        }),
        delete_time: Some(at(1)),
        ..Namespace::default()
    };
    let told = desired::namespace(&namespace, "s-uid", "v-uid");
    assert_eq!(
        (told.nsid, told.uuid.as_str(), told.deleted),
        (7, "v-uid", true)
    );
    assert_eq!(
        (told.subsystem_uid.as_str(), told.volume_uid.as_str()),
        ("s-uid", "v-uid")
    );
    let spec = ListenerSpec {
        address: "::1".to_owned(),
        ..ListenerSpec::default()
    };
    let listener = Listener {
        spec: Some(spec),
        ..Listener::default()
    };
    let address = desired::listener(&listener).address.expect("one");
    assert_eq!((address.transport.as_str(), address.port), ("tcp", 4420));
}
