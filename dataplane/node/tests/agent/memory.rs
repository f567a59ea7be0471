//! What the node remembers: restarts without control, damage, epochs, orphans.

use std::path::Path;

use penstock_api::v1::{Desired, ObservedVolume, VolumeState};

use crate::control::{Control, Session, local};
use crate::daemon::Daemon;
use crate::host::{self, Host};
use crate::life::wait_until_served;
use crate::wanted::{self, changes, empty, one_served, uid};

fn write_and_read(node: &Daemon, write: bool) -> bool {
    let host = Host::new();
    let options = host::options_for(node.address(), &wanted::nqn(1));
    host.run(move |pool| async move {
        let (_controller, queue) = host::connect(&options, &pool, 32).await.expect("connected");
        if write {
            host::write(&queue, &pool, (1, 64, 128), true)
                .await
                .expect("written");
        }
        host::holds(&queue, &pool, (1, 64, 128))
            .await
            .expect("read")
    })
}

fn volume_state(session: &mut Session, number: u32, state: VolumeState) -> ObservedVolume {
    session.wait_for("volume in that state", |report| {
        let wanted = |one: &&ObservedVolume| one.uid == uid(1, number) && one.state() == state;
        report.volumes.iter().find(wanted).cloned()
    })
}

fn aside(folder: &Path) -> usize {
    let names = std::fs::read_dir(folder.join("state")).expect("a folder");
    let names = names.map(|entry| entry.expect("an entry").file_name());
    names
        .filter(|name| name.to_string_lossy().starts_with("desired.damaged-"))
        .count()
}

#[test]
fn a_restart_without_control_serves_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let control = Control::start(local());
    let config = wanted::config(folder.path(), control.address);
    let node = Daemon::start(folder.path(), &config);
    let mut session = control.welcome(one_served(3));
    wait_until_served(&mut session);
    assert!(write_and_read(&node, true));
    drop(control);
    node.kill();

    let node = Daemon::start(folder.path(), &config);
    assert!(write_and_read(&node, false), "the data is as it was");
    assert_eq!(node.metric("penstock_agent_connected"), 0.0);
    assert_eq!(node.metric("penstock_agent_accepted_revision"), 3.0);
    assert_eq!(node.metric("penstock_agent_volumes{state=\"ready\"}"), 1.0);
    node.wait_for_log("control is not reached");
}

#[test]
fn one_device_missing_does_not_keep_the_others_from_serving() {
    let folder = tempfile::tempdir().expect("a folder");
    let control = Control::start(local());
    let second = format!(
        "[[device]]\nname = \"d1\"\nbackend = \"file\"\npath = \"{}/d1.img\"\n",
        folder.path().display()
    );
    std::fs::write(folder.path().join("d1.img"), vec![0; 16 << 20]).expect("written");
    let config = wanted::config(folder.path(), control.address) + &second;
    let node = Daemon::start(folder.path(), &config);
    let mut desired = one_served(3);
    let mut other = wanted::volume(2, 1);
    let layout = other.layout.as_mut().expect("a layout");
    layout.extents[0].device = "nodes/n1/devices/d1".to_owned();
    desired.volumes.push(other);
    let mut session = control.welcome(desired.clone());
    wait_until_served(&mut session);
    session.wait_until_synced(3);
    assert!(write_and_read(&node, true));
    node.kill();
    std::fs::remove_file(folder.path().join("d1.img")).expect("removed");

    let node = Daemon::start(folder.path(), &config);
    assert!(write_and_read(&node, false));
    let mut session = control.welcome(desired);
    let failed = volume_state(&mut session, 2, VolumeState::Failed);
    assert_eq!(failed.reason, "DeviceMissing");
    assert!(failed.message.contains("d1"), "{}", failed.message);
    // The node finds the device by itself once it is there.
    std::fs::write(folder.path().join("d1.img"), vec![0; 16 << 20]).expect("written");
    volume_state(&mut session, 2, VolumeState::Ready);
    let told = session.heard.iter().rev().find_map(|r| r.inventory.clone());
    let devices = told.expect("control is told of the devices").devices;
    let problems: Vec<&str> = devices.iter().map(|d| d.problem.as_str()).collect();
    assert_eq!(problems, ["", ""]);
    node.wait_for_log("the device is there");
}

#[test]
fn a_damaged_state_falls_back_to_the_one_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let control = Control::start(local());
    let config = wanted::config(folder.path(), control.address);
    let node = Daemon::start(folder.path(), &config);
    let mut session = control.welcome(one_served(3));
    wait_until_served(&mut session);
    for revision in [4, 5] {
        session.want(Desired {
            subsystems: vec![wanted::subsystem(u32::try_from(revision).expect("small"))],
            ..changes(empty(revision))
        });
        session.wait_until_synced(revision);
    }
    assert!(write_and_read(&node, true));
    drop(control);
    node.kill();
    let present = folder.path().join("state/desired");
    let mut bytes = std::fs::read(&present).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&present, &bytes).expect("written");

    let node = Daemon::start(folder.path(), &config);
    node.wait_for_log("is damaged");
    assert!(write_and_read(&node, false), "served from the one before");
    assert_eq!(aside(folder.path()), 1);
    assert_eq!(node.metric("penstock_agent_state_damaged_files"), 1.0);
}

#[test]
fn without_a_sound_state_nothing_of_a_ready_volume_is_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let control = Control::start(local());
    let config = wanted::config(folder.path(), control.address);
    let node = Daemon::start(folder.path(), &config);
    let mut session = control.welcome(one_served(3));
    wait_until_served(&mut session);
    assert!(write_and_read(&node, true));
    node.kill();
    for name in ["desired", "desired.previous"] {
        std::fs::write(folder.path().join("state").join(name), "rubbish").expect("written");
    }

    let node = Daemon::start(folder.path(), &config);
    node.wait_for_log("NO SAVED STATE CAN BE READ");
    let mut session = control.session();
    assert_eq!(
        (session.hello.accepted_revision, session.hello.volumes.len()),
        (0, 0)
    );
    session.welcome(wanted::STORE, 3);
    let mut desired = one_served(3);
    desired.volumes[0].ready_extents = 1;
    session.want(desired);
    wait_until_served(&mut session);
    assert!(
        write_and_read(&node, false),
        "control knows that it was ready"
    );
    assert_eq!(aside(folder.path()), 2);
}

#[test]
fn a_lower_epoch_is_refused_and_the_volume_served_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let control = Control::start(local());
    let node = Daemon::start(
        folder.path(),
        &wanted::config(folder.path(), control.address),
    );
    let mut desired = one_served(3);
    desired.volumes[0] = wanted::volume(1, 5);
    let mut session = control.welcome(desired);
    wait_until_served(&mut session);
    assert!(write_and_read(&node, true));
    let mut behind = wanted::volume(1, 4);
    let layout = behind.layout.as_mut().expect("a layout");
    layout.extents[0].offset_bytes = 32 * wanted::MIB;
    session.want(Desired {
        volumes: vec![behind],
        ..changes(empty(4))
    });
    let told = session.wait_for("refusal", |report| {
        let refused = |one: &&ObservedVolume| one.reason == "EpochBehind";
        report.volumes.iter().find(refused).cloned()
    });
    assert_eq!((told.uid.as_str(), told.epoch), (uid(1, 1).as_str(), 5));
    node.wait_for_log("EpochBehind");
    assert!(write_and_read(&node, false));
}

#[test]
fn what_control_forgets_is_kept_as_an_orphan() {
    let folder = tempfile::tempdir().expect("a folder");
    let control = Control::start(local());
    let address = control.address;
    let node = Daemon::start(folder.path(), &wanted::config(folder.path(), address));
    let mut session = control.welcome(one_served(30));
    wait_until_served(&mut session);
    assert!(write_and_read(&node, true));
    drop(control);

    let control = Control::start(address);
    let mut session = control.welcome(empty(9));
    let orphan = session.wait_for("orphan", |report| {
        report
            .orphans_told
            .then(|| report.orphans.first().cloned())?
    });
    assert_eq!(orphan.volume_uid, uid(1, 1));
    assert_eq!(orphan.reason, "MissingInStore");
    assert!(write_and_read(&node, false), "it is served on");
    assert_eq!(node.metric("penstock_agent_orphans"), 1.0);
    node.wait_for_log("does not know this volume");
}
