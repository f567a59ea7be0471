//! Two who want the same: the first keeps it, the other hears why not.

use penstock_node::config::Config;
use penstock_node::managed::ManagedError;

use crate::rig::{Host, NQN, Rig, config, connect, extent, listener, namespace, subsystem, volume};

const OF_FILE: &str = "nqn.2026-01.io.penstock:of-the-file";

fn reason<T: std::fmt::Debug>(result: Result<T, ManagedError>) -> &'static str {
    let error = result.expect_err("refused");
    assert!(error.message.len() > error.reason.len(), "{error:?}");
    error.reason
}

fn of_file() -> String {
    format!("[[subsystem]]\nnqn = \"{OF_FILE}\"\nallow_any_host = true\n")
}

#[test]
fn extents_belong_to_one_volume_and_are_not_cleared_under_it() {
    let mut rig = Rig::new(2, 32);
    let first = volume("v1", 4, 1, &[extent(0, 4, 4)]);
    rig.node.open_volume(&first).expect("open");
    let overlapping = [extent(0, 7, 2)];
    let second = volume("v2", 2, 1, &overlapping);
    assert_eq!(reason(rig.node.open_volume(&second)), "ExtentConflict");
    assert_eq!(reason(rig.clear(&overlapping)), "ExtentConflict");
    let other = volume("v3", 2, 1, &[extent(0, 8, 2)]);
    rig.node.open_volume(&other).expect("the next MiB is free");
    let into_it = volume("v3", 4, 1, &[extent(0, 8, 2), extent(0, 4, 2)]);
    assert_eq!(reason(rig.node.grow_volume(&into_it)), "ExtentConflict");
    let differs = volume("v1", 4, 1, &[extent(1, 4, 4)]);
    assert_eq!(reason(rig.node.open_volume(&differs)), "LayoutDiffers");
    for (bad, expected) in [
        (volume("v4", 2, 1, &[extent(0, 31, 2)]), "LayoutInvalid"),
        (volume("v4", 3, 1, &[extent(0, 20, 2)]), "LayoutInvalid"),
        (volume("v4", 2, 2, &[extent(0, 20, 2)]), "LayoutInvalid"),
        (volume("v4", 2, 1, &[extent(7, 0, 2)]), "DeviceMissing"),
        (volume("v4", 0, 1, &[extent(0, 20, 2)]), "LayoutInvalid"),
    ] {
        assert_eq!(reason(rig.node.open_volume(&bad)), expected, "{bad:?}");
    }
    assert_eq!(reason(rig.clear(&[extent(0, 31, 2)])), "LayoutInvalid");
    assert_eq!(reason(rig.node.grow_volume(&second)), "VolumeMissing");
    rig.node.stop();
}

#[test]
fn names_and_addresses_are_the_files_or_controls_but_not_both() {
    let more = format!("{}[[listener]]\naddress = \"127.0.0.1:0\"\n", of_file());
    let mut rig = Rig::with(1, 32, &more);
    let taken = rig.node.listening()[0].bound.port();
    let node = &mut rig.node;
    assert_eq!(
        reason(node.serve_subsystem(&subsystem("s0", OF_FILE))),
        "NqnConflict"
    );
    node.serve_subsystem(&subsystem("s1", NQN)).expect("served");
    node.serve_subsystem(&subsystem("s1", NQN))
        .expect("once more");
    assert_eq!(
        reason(node.serve_subsystem(&subsystem("s2", NQN))),
        "NqnConflict"
    );
    assert_eq!(
        reason(node.serve_subsystem(&subsystem("s3", "no nqn"))),
        "Invalid"
    );
    assert_eq!(
        reason(node.add_listener(&listener("l0", taken))),
        "AddressInUse"
    );
    let address = node.add_listener(&listener("l1", 0)).expect("listens");
    let again = node.add_listener(&listener("l1", 0)).expect("once more");
    assert_eq!(address, again);
    assert_eq!(
        reason(node.add_listener(&listener("l2", address.port()))),
        "AddressInUse"
    );
    let mut rdma = listener("l3", 1);
    if let Some(address) = &mut rdma.address {
        address.transport = "rdma".to_owned();
    }
    assert_eq!(reason(node.add_listener(&rdma)), "TransportUnsupported");
    assert_eq!(node.configured_listeners().len(), 1);

    node.open_volume(&volume("v1", 1, 1, &[extent(0, 0, 1)]))
        .expect("open");
    node.open_volume(&volume("v2", 1, 1, &[extent(0, 1, 1)]))
        .expect("open");
    node.serve_namespace(&namespace("a", "s1", "v1", 1))
        .expect("served");
    for (wanted, expected) in [
        (namespace("b", "s1", "v1", 2), "VolumeInUse"),
        (namespace("b", "s1", "v2", 1), "NsidConflict"),
        (namespace("b", "s1", "v2", 17), "Invalid"),
        (namespace("b", "s1", "v2", 0), "Invalid"),
        (namespace("b", "s9", "v2", 2), "SubsystemMissing"),
        (namespace("b", "s1", "v9", 2), "VolumeMissing"),
        (namespace("a", "s1", "v2", 1), "NamespaceDiffers"),
    ] {
        assert_eq!(
            reason(node.serve_namespace(&wanted)),
            expected,
            "{wanted:?}"
        );
    }
    assert_eq!(reason(node.close_volume("v1")), "InUse");
    rig.node.stop();
}

#[test]
fn a_reload_leaves_alone_what_control_has() {
    let mut rig = Rig::with(1, 32, &of_file());
    let address = rig.listen("l1");
    let node = &mut rig.node;
    node.serve_subsystem(&subsystem("s1", NQN)).expect("served");
    node.open_volume(&volume("v1", 1, 1, &[extent(0, 0, 1)]))
        .expect("open");
    node.serve_namespace(&namespace("a", "s1", "v1", 1))
        .expect("served");

    let folder = rig.folder.path().to_owned();
    let reload = |node: &mut penstock_node::node::Node, devices, more: &str| {
        let wanted: Config = config(&folder, devices, 32, more);
        node.reload(wanted)
    };
    let changes = reload(&mut rig.node, 1, "").expect("reloaded");
    assert_eq!(changes.applied, [format!("subsystem {OF_FILE} removed")]);
    assert!(changes.failed.is_empty() && changes.need_restart.is_empty());
    let changes = reload(&mut rig.node, 2, "").expect("reloaded");
    assert_eq!(changes.need_restart, ["[[device]]"]);
    let ours = format!(
        "[[subsystem]]\nnqn = \"{NQN}\"\n[[listener]]\naddress = \"{address}\"\n{}",
        of_file()
    );
    let refused = reload(&mut rig.node, 1, &ours).expect_err("control has both");
    let text = refused.to_string();
    assert_eq!(refused.0.len(), 2, "{text}");
    assert!(text.contains("is served for control already"), "{text}");
    assert!(text.contains("is a listener of control already"), "{text}");
    assert!(
        rig.node.target().subsystem(OF_FILE).is_none(),
        "nothing of it was applied"
    );

    let cntlid = Host::new().run(move |pool| async move {
        let (controller, _queue) = connect(address, NQN, &pool).await?;
        Ok::<_, penstock_client::ClientError>(controller.info().controller_id.0)
    });
    let cntlid = cntlid.expect("control's subsystem still serves");
    assert!((1024..=2046).contains(&cntlid), "{cntlid}");
    rig.node.stop();
}
