//! An idle node costs next to nothing.

use std::time::Duration;

use crate::daemon::{Daemon, NQN, head, listener, memory, subsystem};
use crate::host::{self, Host};

/// Idle memory beside the pools, in bytes: what the project promises.
const RESIDENT_MAX_BYTES: u64 = 64 << 20;

/// How long the node is watched.
const WATCHED: Duration = Duration::from_secs(5);

#[test]
fn an_idle_adaptive_node_sleeps_and_stays_small() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = head() + &listener("127.0.0.1:0") + &subsystem(NQN) + &memory(1, 64 << 20);
    let daemon = Daemon::start(folder.path(), &config);
    let address = daemon.address();
    let host = Host::new();
    // A connected host that asks for nothing does not change that.
    let connected = host.run(move |pool| async move {
        let mut options = host::options(address);
        options.keep_alive_timeout_ms = 0;
        std::mem::forget(host::connect(&options, &pool, 4).await?);
        Ok::<_, penstock_client::ClientError>(())
    });
    connected.expect("connected");
    std::thread::sleep(Duration::from_millis(500));
    let before = cpu_ticks(daemon.pid());
    std::thread::sleep(WATCHED);
    let used = cpu_ticks(daemon.pid()) - before;
    // USER_HZ is 100: a tick is 10 ms, and 1 % of five seconds is five ticks.
    assert!(used < 5, "an idle node used {used} ticks in {WATCHED:?}");
    let resident = resident_bytes(daemon.pid());
    assert!(
        resident < RESIDENT_MAX_BYTES,
        "{resident} bytes are resident"
    );
}

fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("its stat");
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .expect("fields")
        .split_whitespace()
        .collect();
    let number = |index: usize| fields[index].parse::<u64>().expect("a number");
    number(11) + number(12)
}

fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("VmRSS");
    1024 * line
        .split_whitespace()
        .next()
        .and_then(|kib| kib.parse::<u64>().ok())
        .expect("KiB")
}
