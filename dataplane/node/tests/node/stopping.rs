//! SIGTERM finishes what was begun; SIGKILL loses nothing that was acknowledged as durable.

use std::time::{Duration, Instant};

use penstock_client::ClientError;
use penstock_nvme::event::AsyncEvent;
use rustix::process::Signal;

use crate::daemon::{Daemon, NQN, file, head, listener, memory, subsystem};
use crate::host::{self, Host};

/// What the promise is.
const STOP_LIMIT: Duration = Duration::from_secs(5);

#[test]
fn sigterm_under_load_answers_or_closes_and_fails_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("a.img");
    let config = head()
        + &listener("127.0.0.1:0")
        + &subsystem(NQN)
        + &memory(1, 16 << 20)
        + &file(2, &image, 16 << 20);
    let mut daemon = Daemon::start(folder.path(), &config);
    let address = daemon.address();
    let hosts: Vec<Host> = (0..2).map(|_| Host::new()).collect();
    let loads: Vec<_> = hosts
        .iter()
        .map(|host| host.begin(move |pool| async move { load_until_closed(address, pool).await }))
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    daemon.signal(Signal::TERM);
    let status = daemon.wait(Duration::from_secs(10));
    let took = begun.elapsed();
    assert!(status.success(), "{status}\n{}", daemon.log().join("\n"));
    assert!(took < STOP_LIMIT, "{took:?}");
    for load in loads {
        let answered = load
            .recv_timeout(Duration::from_secs(30))
            .expect("a result");
        assert!(answered.expect("no command ended with an error status") > 0);
    }
    let log = daemon.log().join("\n");
    assert!(!log.contains("given up"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
}

/// Writes until the connection closes; how many writes were answered. An error status is an error.
async fn load_until_closed(
    address: std::net::SocketAddr,
    pool: penstock_buffer::Pool,
) -> Result<u64, ClientError> {
    let (_controller, queue) = host::connect(&host::options(address), &pool, 32).await?;
    let mut answered = 0;
    loop {
        let place = (1 + u32::from(answered % 2 == 1), answered % 4000, 8);
        match host::write(&queue, &pool, place, answered % 8 == 0).await {
            Ok(()) => answered += 1,
            Err(error) if error.status().is_some() => return Err(error),
            Err(_) => return Ok(answered),
        }
    }
}

#[test]
fn hosts_are_told_of_a_stop() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = head() + &listener("127.0.0.1:0") + &subsystem(NQN) + &memory(1, 1 << 20);
    let daemon = Daemon::start(folder.path(), &config);
    let address = daemon.address();
    let host = Host::new();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let told = host.begin(move |pool| async move {
        use penstock_nvme::feature::FeatureId;
        let controller =
            penstock_client::Controller::connect(&host::options(address), &pool).await?;
        // Normal NVM Subsystem Shutdown is bit 15 of the configuration (NVMe Base 2.1, 5.1.25.1.6).
        let wish = penstock_nvme::command::SetFeatures::new(FeatureId::AsyncEvents, 1 << 15);
        controller.set_feature(wish, &[]).await?;
        ready.send(()).expect("the test waits");
        controller.next_event().await
    });
    is_ready.recv().expect("connected");
    daemon.signal(Signal::TERM);
    let event: AsyncEvent = told
        .recv_timeout(STOP_LIMIT)
        .expect("in time")
        .expect("an event");
    assert_eq!(event, AsyncEvent::SUBSYSTEM_NORMAL_SHUTDOWN);
}

#[test]
fn sigkill_loses_nothing_that_was_acknowledged_as_durable() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("a.img");
    let config = head() + &listener("127.0.0.1:0") + &subsystem(NQN) + &file(1, &image, 64 << 20);
    let daemon = Daemon::start(folder.path(), &config);
    let address = daemon.address();
    let host = Host::new();
    let (durable, acknowledged) = std::sync::mpsc::channel();
    let writing = host.begin(move |pool| async move {
        let (_controller, queue) = host::connect(&host::options(address), &pool, 8).await?;
        for lba in (0..16384).step_by(16) {
            // Every other one by FUA, the rest by a Flush.
            let fua = lba % 32 == 0;
            if host::write(&queue, &pool, (1, lba, 16), fua).await.is_err() {
                break;
            }
            if !fua && queue.flush(host::nsid(1)).await.is_err() {
                break;
            }
            durable.send(lba).expect("the test keeps count");
        }
        Ok::<_, ClientError>(())
    });
    let enough = 40;
    let mut written: Vec<u64> = acknowledged.iter().take(enough).collect();
    daemon.kill();
    writing
        .recv_timeout(Duration::from_secs(30))
        .expect("it ends")
        .expect("connected");
    written.extend(acknowledged.try_iter());
    assert!(written.len() >= enough);

    let daemon = Daemon::start(folder.path(), &config);
    let address = daemon.address();
    let verified = Host::new().run(move |pool| async move {
        let (_controller, queue) = host::connect(&host::options(address), &pool, 8).await?;
        for lba in written {
            assert!(
                host::holds(&queue, &pool, (1, lba, 16)).await?,
                "block {lba} is lost"
            );
        }
        Ok::<_, ClientError>(())
    });
    verified.expect("read back");
}

#[test]
fn the_service_manager_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&socket).expect("a socket");
    manager
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a limit");
    let config = head() + &listener("127.0.0.1:0") + &subsystem(NQN) + &memory(1, 1 << 20);
    let mut command = crate::daemon::command(folder.path(), &config);
    command
        .env("NOTIFY_SOCKET", &socket)
        .env("WATCHDOG_USEC", "400000")
        .env_remove("WATCHDOG_PID");
    let mut daemon = Daemon::start_with(command, folder.path());
    let heard = |wanted: &str| {
        let mut buffer = [0; 512];
        loop {
            let length = manager.recv(&mut buffer).expect("a notification");
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.starts_with(wanted) {
                return text;
            }
        }
    };
    let ready = heard("READY=1");
    assert!(
        ready.contains("STATUS=serving 1 subsystem(s), 1 namespace(s) on 1 listener(s)"),
        "{ready}"
    );
    heard("WATCHDOG=1");
    daemon.reload(&config);
    heard("RELOADING=1");
    heard("READY=1");
    daemon.signal(Signal::TERM);
    heard("STOPPING=1");
    assert!(daemon.wait(STOP_LIMIT).success());
}
