//! A volume's whole life, and I/O that does not care what becomes of control.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use penstock_api::v1::{Desired, VolumeState};
use rustix::process::Signal;

use crate::control::{Control, local};
use crate::daemon::Daemon;
use crate::host::{self, Host};
use crate::wanted::{self, MIB, changes, empty, one_served, uid};

/// Waits until volume 1 is ready and its namespace is served.
pub fn wait_until_served(session: &mut crate::control::Session) {
    session.wait_for("ready volume", |report| {
        let ready = |volume: &&penstock_api::v1::ObservedVolume| {
            volume.uid == uid(1, 1) && volume.state() == VolumeState::Ready
        };
        report.volumes.iter().find(ready).map(drop)
    });
    let served = |report: &penstock_api::v1::Report| {
        let ready = |one: &&penstock_api::v1::ObservedObject| one.uid == uid(3, 1) && one.ready;
        report.namespaces.iter().find(ready).map(drop)
    };
    if !session.heard.iter().any(|report| served(report).is_some()) {
        session.wait_for("ready namespace", served);
    }
}

#[test]
fn a_volume_lives_from_creation_to_deletion() {
    let folder = tempfile::tempdir().expect("a folder");
    // What a former volume left behind.
    std::fs::write(folder.path().join("d0.img"), vec![0xa5; 64 << 20]).expect("written");
    let control = Control::start(local());
    let node = Daemon::start(
        folder.path(),
        &wanted::config(folder.path(), control.address),
    );
    let session = control.session();
    let hello = &session.hello;
    assert_eq!(
        (hello.node.as_str(), hello.accepted_revision),
        ("nodes/n1", 0)
    );
    let inventory = hello.inventory.clone().expect("an inventory");
    assert!(inventory.cores > 0 && !inventory.kernel.is_empty() && !inventory.boot_id.is_empty());
    assert_eq!(inventory.devices.len(), 1);
    assert_eq!(inventory.devices[0].size_bytes, 64 * MIB);
    let listener = inventory.listeners.first().expect("a listener");
    assert_eq!(listener.port, u32::from(node.address().port()));
    session.welcome(wanted::STORE, 7);
    session.want(empty(7));
    node.wait_for_log("control is connected");

    let mut session = session;
    session.want(changes(one_served(8)));
    wait_until_served(&mut session);
    session.wait_until_synced(8);

    let host = Host::new();
    let options = host::options_for(node.address(), &wanted::nqn(1));
    let (zeroes, kept) = host.run(move |pool| async move {
        let (_controller, queue) = host::connect(&options, &pool, 32).await.expect("connected");
        let lease = pool.lease(1 << 20).await;
        let namespace = host::nsid(1);
        let lease = queue
            .read(namespace, penstock_units::Lba(0), 256, lease)
            .await;
        let zeroes = lease.expect("read").bytes().iter().all(|byte| *byte == 0);
        host::write(&queue, &pool, (1, 0, 256), true)
            .await
            .expect("written");
        let kept = host::holds(&queue, &pool, (1, 0, 256)).await.expect("read");
        (zeroes, kept)
    });
    assert!(zeroes, "what was there before is cleared");
    assert!(kept);
    assert_eq!(node.metric("penstock_agent_connected"), 1.0);
    assert_eq!(node.metric("penstock_agent_accepted_revision"), 8.0);
    assert_eq!(node.metric("penstock_agent_volumes{state=\"ready\"}"), 1.0);
    let steps = "penstock_agent_steps_total{step=\"open_volume\",result=\"ok\"}";
    assert!(node.metric(steps) >= 1.0);

    delete_all(&mut session);
    let image = std::fs::read(folder.path().join("d0.img")).expect("read");
    let cleared = &image[..(8 << 20)];
    assert!(cleared.iter().all(|byte| *byte == 0), "the data is gone");
    assert!(
        image[8 << 20..].iter().all(|byte| *byte == 0xa5),
        "neighbours are not"
    );
}

#[test]
fn the_service_manager_is_told_of_what_control_has_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&socket).expect("a socket");
    let patience = Some(Duration::from_secs(20));
    manager.set_read_timeout(patience).expect("a limit");
    let control = Control::start(local());
    let config = wanted::config(folder.path(), control.address);
    let mut command = crate::daemon::command(folder.path(), &config);
    command.env("NOTIFY_SOCKET", &socket);
    let _node = Daemon::start_with(command, folder.path());
    let hear = |wanted: &str| {
        let mut buffer = [0; 512];
        loop {
            let length = manager.recv(&mut buffer).expect("a notification");
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.contains(wanted) {
                return;
            }
        }
    };
    hear("STATUS=serving 0 subsystem(s), 0 namespace(s) on 1 listener(s)");
    let mut session = control.welcome(one_served(3));
    wait_until_served(&mut session);
    hear("STATUS=serving 1 subsystem(s), 1 namespace(s) on 1 listener(s)");
}

/// Takes namespace, subsystem and volume away, as control does: in turn.
fn delete_all(session: &mut crate::control::Session) {
    let mut namespace = wanted::namespace(1);
    namespace.deleted = true;
    let mut subsystem = wanted::subsystem(1);
    subsystem.deleted = true;
    session.want(Desired {
        namespaces: vec![namespace],
        subsystems: vec![subsystem],
        ..changes(empty(9))
    });
    session.wait_for("namespace gone", |report| {
        let gone = |one: &&penstock_api::v1::ObservedObject| one.uid == uid(3, 1) && one.gone;
        report.namespaces.iter().find(gone).map(drop)
    });
    let mut volume = wanted::volume(1, 1);
    volume.deleted = true;
    session.want(Desired {
        volumes: vec![volume],
        ..changes(empty(10))
    });
    session.wait_for("volume gone", |report| {
        let gone = |one: &&penstock_api::v1::ObservedVolume| one.uid == uid(1, 1) && one.gone;
        report.volumes.iter().find(gone).map(drop)
    });
}

#[test]
fn a_volume_grows_under_its_host() {
    let folder = tempfile::tempdir().expect("a folder");
    let control = Control::start(local());
    let node = Daemon::start(
        folder.path(),
        &wanted::config(folder.path(), control.address),
    );
    let mut session = control.welcome(one_served(3));
    wait_until_served(&mut session);
    let mut volume = wanted::volume(1, 2);
    volume.size_bytes = 16 * MIB;
    volume.generation = 2;
    let layout = volume.layout.as_mut().expect("a layout");
    let mut more = layout.extents[0].clone();
    more.offset_bytes = 32 * MIB;
    layout.extents.push(more);
    session.want(Desired {
        volumes: vec![volume],
        ..changes(empty(4))
    });
    session.wait_for("grown volume", |report| {
        let grown = |volume: &&penstock_api::v1::ObservedVolume| {
            volume.size_bytes == 16 * MIB && volume.generation == 2
        };
        report.volumes.iter().find(grown).map(drop)
    });
    let host = Host::new();
    let options = host::options_for(node.address(), &wanted::nqn(1));
    let kept = host.run(move |pool| async move {
        let (_controller, queue) = host::connect(&options, &pool, 32).await.expect("connected");
        host::write(&queue, &pool, (1, 2000, 128), true)
            .await
            .expect("over the seam");
        host::holds(&queue, &pool, (1, 2000, 128))
            .await
            .expect("read")
    });
    assert!(kept);
}

#[test]
fn io_goes_on_while_control_dies_and_comes_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let control = Control::start(local());
    let address = control.address;
    let node = Daemon::start(folder.path(), &wanted::config(folder.path(), address));
    let mut session = control.welcome(one_served(3));
    wait_until_served(&mut session);

    let host = Host::new();
    let options = host::options_for(node.address(), &wanted::nqn(1));
    let busy = host.begin(move |pool| async move {
        let (_controller, queue) = host::connect(&options, &pool, 32).await.expect("connected");
        let (begun, mut longest, mut count) = (Instant::now(), Duration::ZERO, 0u64);
        while begun.elapsed() < Duration::from_secs(2) {
            let one = Instant::now();
            let lba = (count % 16) * 128;
            host::write(&queue, &pool, (1, lba, 8), false)
                .await
                .expect("written");
            assert!(host::holds(&queue, &pool, (1, lba, 8)).await.expect("read"));
            longest = longest.max(one.elapsed());
            count += 1;
        }
        (longest, count)
    });
    std::thread::sleep(Duration::from_millis(300));
    drop(control);
    node.wait_for_log("control is lost");
    node.wait_for_log("nobody listens there; start penstock-control");
    assert_eq!(node.metric("penstock_agent_connected"), 0.0);
    assert_eq!(node.metric("penstock_agent_volumes{state=\"ready\"}"), 1.0);

    let control = Control::start(address);
    let mut session = control.session();
    let hello = &session.hello;
    assert_eq!(
        (hello.accepted_revision, hello.store_id.as_str()),
        (3, wanted::STORE)
    );
    assert_eq!(hello.volumes.len(), 1);
    session.welcome(wanted::STORE, 3);
    session.want(one_served(3));
    session.wait_until_synced(3);
    let (longest, count) = busy
        .recv_timeout(Duration::from_secs(30))
        .expect("the host's word");
    assert!(
        count > 10 && longest < Duration::from_secs(1),
        "{count} with {longest:?}"
    );
}

#[test]
fn the_node_takes_leave_of_control() {
    let folder = tempfile::tempdir().expect("a folder");
    let control = Control::start(local());
    let mut node = Daemon::start(
        folder.path(),
        &wanted::config(folder.path(), control.address),
    );
    let mut session = control.welcome(one_served(3));
    wait_until_served(&mut session);
    node.signal(Signal::TERM);
    assert!(session.ends_within(Duration::from_secs(5)));
    assert!(node.wait(Duration::from_secs(5)).success());
    assert!(
        !node.log().iter().any(|line| line.contains("ERROR")),
        "{:?}",
        node.log()
    );
}

#[test]
fn a_burst_of_changes_is_saved_in_few_pieces() {
    let folder = tempfile::tempdir().expect("a folder");
    let control = Control::start(local());
    let node = Daemon::start(
        folder.path(),
        &wanted::config(folder.path(), control.address),
    );
    let mut session = control.welcome(empty(1));
    session.wait_until_synced(1);
    for number in 1..=1000 {
        session.want(Desired {
            subsystems: vec![wanted::subsystem(u32::try_from(number).expect("small"))],
            ..changes(empty(1 + number))
        });
    }
    session.wait_until_synced(1001);
    assert!(session.heard.len() < 300, "{} reports", session.heard.len());
    assert_eq!(node.metric("penstock_agent_accepted_revision"), 1001.0);
}

/// Leads to `target` until it is frozen: then connections stay open and nothing comes any more, as
/// of a process that was stopped.
fn relay(target: std::net::SocketAddr, frozen: Arc<AtomicBool>) -> std::net::SocketAddr {
    let listener = TcpListener::bind(local()).expect("bound");
    let address = listener.local_addr().expect("an address");
    let pass = |mut from: TcpStream, mut to: TcpStream, frozen: Arc<AtomicBool>| {
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                while frozen.load(Ordering::Acquire) {
                    std::thread::sleep(Duration::from_millis(10));
                }
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            // The other side may be gone already.
            let _ = to.shutdown(std::net::Shutdown::Both);
        });
    };
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(target) else {
                continue;
            };
            let (a, b) = (
                client.try_clone().expect("a clone"),
                server.try_clone().expect("a clone"),
            );
            pass(a, server, Arc::clone(&frozen));
            pass(b, client, Arc::clone(&frozen));
        }
    });
    address
}

#[test]
fn a_control_that_freezes_is_left_for_another() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, other) = (Control::start(local()), Control::start(local()));
    let frozen = Arc::new(AtomicBool::new(false));
    let way = relay(one.address, Arc::clone(&frozen));
    let endpoints = format!(
        "endpoints = [\"http://{way}\", \"http://{}\"]\n",
        other.address
    );
    let node = Daemon::start(
        folder.path(),
        &wanted::config_with(folder.path(), &endpoints),
    );
    one.welcome(empty(1)).wait_until_synced(1);
    frozen.store(true, Ordering::Release);
    let begun = Instant::now();
    other.welcome(empty(1)).wait_until_synced(1);
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    node.wait_for_log("control is lost");
    frozen.store(false, Ordering::Release);
}

/// Volume `number` of 1 MiB on the large device, ready as far as control knows.
fn small_volume(number: u32) -> penstock_api::v1::DesiredVolume {
    let mut volume = wanted::volume(number, 1);
    volume.size_bytes = MIB;
    let layout = volume.layout.as_mut().expect("a layout");
    layout.extents[0].offset_bytes = MIB * u64::from(number);
    layout.extents[0].length_bytes = MIB;
    volume
}

/// How long it takes from telling the agent of a new volume to its word that it is ready: the median
/// of some.
fn median_change(session: &mut crate::control::Session, first: u32, revision: i64) -> Duration {
    let mut times: Vec<Duration> = (0..9)
        .map(|turn| {
            let (number, begun) = (first + turn, Instant::now());
            session.want(Desired {
                volumes: vec![small_volume(number)],
                ..changes(empty(revision + i64::from(turn)))
            });
            session.wait_for("ready volume", |report| {
                let ready = |one: &&penstock_api::v1::ObservedVolume| {
                    one.uid == uid(1, number) && one.state() == VolumeState::Ready
                };
                report.volumes.iter().find(ready).map(drop)
            });
            begun.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

#[test]
fn ten_thousand_volumes_do_not_hold_up_one_change() {
    let folder = tempfile::tempdir().expect("a folder");
    let control = Control::start(local());
    let config = wanted::config(folder.path(), control.address);
    let config = config.replace("size_bytes = 67108864\n", "size_bytes = 17179869184\n");
    let _node = Daemon::start(folder.path(), &config);
    let mut session = control.welcome(empty(1));
    session.wait_until_synced(1);
    let alone = median_change(&mut session, 1, 2);
    let many = (100..10_100).map(|number| {
        let mut volume = small_volume(number);
        volume.ready_extents = 1;
        volume
    });
    session.want(Desired {
        volumes: many.collect(),
        ..changes(empty(20))
    });
    session.wait_until_synced(20);
    let among = median_change(&mut session, 11_000, 21);
    println!("one change takes {alone:?} alone, {among:?} among 10,000 volumes");
    assert!(
        among < alone * 4 + Duration::from_millis(500),
        "{alone:?}, then {among:?}"
    );
}
