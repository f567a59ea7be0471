//! A changed configuration goes over to the running node, and disturbs nothing else.

use penstock_client::ClientError;

use crate::daemon::{Daemon, NQN, file, head, listener, memory, subsystem};
use crate::host::{self, Host};

#[test]
fn namespaces_come_grow_and_go_while_others_serve() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("a.img");
    let base = head() + &listener("127.0.0.1:0") + &subsystem(NQN) + &memory(1, 16 << 20);
    let daemon = Daemon::start(folder.path(), &base);
    let address = daemon.address();
    let host = Host::new();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let load = host.begin(move |pool| async move {
        let (_controller, queue) = host::connect(&host::options(address), &pool, 16).await?;
        let mut rounds = 0_u64;
        while stopped.try_recv().is_err() {
            let lba = rounds % 4000;
            host::write(&queue, &pool, (1, lba, 4), false).await?;
            assert!(host::holds(&queue, &pool, (1, lba, 4)).await?);
            rounds += 1;
        }
        Ok::<_, ClientError>(rounds)
    });

    let log = daemon.reload(&(base.clone() + &file(2, &image, 1 << 20)));
    assert!(
        log.contains(&format!("namespace 2 of {NQN} added")),
        "{log}"
    );
    assert_eq!(size_seen(address, 2), Some(256));
    let log = daemon.reload(&(base.clone() + &file(2, &image, 2 << 20)));
    assert!(
        log.contains(&format!("namespace 2 of {NQN} resized to 2097152 bytes")),
        "{log}"
    );
    assert_eq!(size_seen(address, 2), Some(512));
    let log = daemon.reload(&base);
    assert!(
        log.contains(&format!("namespace 2 of {NQN} removed")),
        "{log}"
    );
    assert_eq!(size_seen(address, 2), None);
    let log = daemon.reload(&base);
    assert!(log.contains("reloaded changes=0"), "{log}");

    stop.send(()).expect("the load still runs");
    let rounds = load
        .recv()
        .expect("a result")
        .expect("no I/O on namespace 1 failed");
    assert!(rounds > 0);
}

/// The size in blocks that a new host sees, `None` where there is no such namespace.
fn size_seen(address: std::net::SocketAddr, ns: u32) -> Option<u64> {
    Host::new().run(move |pool| async move {
        let (controller, _queue) = host::connect(&host::options(address), &pool, 4)
            .await
            .ok()?;
        let active = controller.active_namespaces().await.ok()?;
        if !active.contains(&host::nsid(ns)) {
            return None;
        }
        controller
            .identify_namespace(host::nsid(ns))
            .await
            .ok()
            .map(|info| info.blocks)
    })
}

#[test]
fn subsystems_hosts_and_listeners_change() {
    const OTHER: &str = "nqn.2026-01.io.penstock:other";
    let folder = tempfile::tempdir().expect("a folder");
    let first = subsystem(NQN) + &memory(1, 1 << 20);
    let second = subsystem(OTHER) + &memory(1, 1 << 20);
    let base = head() + &listener("127.0.0.1:0");
    let daemon = Daemon::start(folder.path(), &(base.clone() + &first));
    let address = daemon.address();
    let can = move |nqn: &'static str| {
        Host::new().run(move |pool| async move {
            let options = host::options_for(address, nqn);
            host::connect(&options, &pool, 4).await.map(drop)
        })
    };
    assert!(can(NQN).is_ok() && can(OTHER).is_err());

    let log = daemon.reload(&(base.clone() + &first + &second));
    assert!(log.contains(&format!("subsystem {OTHER} added")), "{log}");
    assert!(can(NQN).is_ok() && can(OTHER).is_ok());

    let closed = second.replace(
        "allow_any_host = true",
        "hosts = [\"nqn.2026-01.io.penstock:me\"]",
    );
    let log = daemon.reload(&(base.clone() + &first + &closed));
    assert!(log.contains(&format!("hosts of {OTHER} changed")), "{log}");
    assert!(can(OTHER).is_err());

    let log = daemon.reload(&(base.clone() + &listener("[::1]:0") + &first));
    assert!(log.contains(&format!("subsystem {OTHER} removed")), "{log}");
    assert!(log.contains("listener [::1]:"), "{log}");
    assert!(can(NQN).is_ok() && can(OTHER).is_err());

    let log = daemon.reload(&(head() + &listener("[::1]:0") + &first));
    assert!(
        log.contains(&format!("listener {address} removed")),
        "{log}"
    );
    assert!(can(NQN).is_err(), "nobody listens there any more");
}

#[test]
fn a_bad_file_changes_nothing_and_what_needs_a_restart_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("small.img");
    std::fs::write(&image, [0; 4096]).expect("written");
    let base = head() + &listener("127.0.0.1:0") + &subsystem(NQN) + &memory(1, 1 << 20);
    let daemon = Daemon::start(folder.path(), &base);
    let address = daemon.address();

    let log = daemon.reload("[tcp]\nmtds_bytes = 1\n");
    assert!(log.contains("did you mean `mdts_bytes`?"), "{log}");
    assert!(
        log.contains("not reloaded: the node serves as before"),
        "{log}"
    );

    // Namespace 1 would grow, but namespace 2 cannot be opened: neither happens.
    let bad =
        base.replace("size_bytes = 1048576", "size_bytes = 2097152") + &file(2, &image, 1 << 20);
    let log = daemon.reload(&bad);
    assert!(
        log.contains("has 4096 bytes, size_bytes asks for 1048576"),
        "{log}"
    );
    assert_eq!(size_seen(address, 1), Some(256));

    let limit = |max: u32| subsystem(NQN) + &format!("namespaces_max = {max}\n");
    let raised = base.replace(&subsystem(NQN), &limit(400)) + &memory(300, 1 << 20);
    let log = daemon.reload(&raised);
    assert!(
        log.contains("300 is above the namespaces_max in force"),
        "{log}"
    );
    assert!(log.contains("restart to raise the limit"), "{log}");
    assert_eq!(size_seen(address, 300), None);

    let log = daemon.reload(&(base.clone() + "[tcp]\nmdts_bytes = 524288\n"));
    assert!(
        log.contains("[tcp] differs: it changes with a restart only"),
        "{log}"
    );
    let log =
        daemon.reload(&base.replace("level = \"info\"", "level = \"info,penstock_node=debug\""));
    assert!(log.contains("log level changed"), "{log}");
}
