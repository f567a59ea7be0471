//! A node under abuse, a well-behaved host that uses it all the while, and the look at what is left.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use penstock_client::ClientError;

use crate::daemon::{Daemon, NQN, file, head, listener, memory, subsystem};
use crate::host::{self, Host};
use crate::peer::{ABUSED, HOSTILE, Pair, Peer, io};

/// Longest that an I/O of the well-behaved host may take, beside what the machine itself holds up
/// a thread that only sleeps (the tests run side by side on as few as two cores).
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// What may be resident beyond the baseline, in bytes: the allocator keeps freed memory in its
/// arenas, and receive buffers are touched one by one.
const RESIDENT_SLACK_BYTES: u64 = 8 << 20;
/// Until when everything has to be back to where it was.
const SETTLE: Duration = Duration::from_secs(10);

/// A node, its well-behaved host, and what it was like before the abuse.
pub struct Arena {
    pub daemon: Daemon,
    pub address: SocketAddr,
    witness: Witness,
    descriptors: usize,
    resident: u64,
    _folder: tempfile::TempDir,
}

/// The well-behaved host.
struct Witness {
    stop: Arc<AtomicBool>,
    result: mpsc::Receiver<Result<Duty, ClientError>>,
    metronome: std::thread::JoinHandle<()>,
    /// Longest that the metronome overslept, in microseconds.
    overslept_us: Arc<AtomicU64>,
    host: Host,
}

/// What the well-behaved host did.
struct Duty {
    rounds: u64,
    worst: Duration,
}

impl Arena {
    pub fn start() -> Arena {
        Arena::with("")
    }

    /// With these lines in the `[tcp]` table.
    pub fn with(tcp: &str) -> Arena {
        let folder = tempfile::tempdir().expect("a folder");
        let head = head()
            .replace("pin = false", "pin = false\nreceive_buffers = 32")
            .replace("\"info\"", "\"info,penstock_transport_tcp=debug\"");
        let own = folder.path().join("own.img");
        let abused = folder.path().join("abused.img");
        let config = head
            + &format!("[tcp]\n{tcp}\n\n")
            + &listener("127.0.0.1:0")
            + &subsystem(NQN)
            + &memory(1, 4 << 20)
            + &file(2, &own, 4 << 20)
            + &subsystem(ABUSED)
            + &memory(1, 4 << 20)
            + &file(2, &abused, 4 << 20);
        let daemon = Daemon::start(folder.path(), &config);
        let address = daemon.address();
        let witness = Witness::start(address);
        warm_up(address);
        let mut arena = Arena {
            descriptors: 0,
            resident: 0,
            daemon,
            address,
            witness,
            _folder: folder,
        };
        arena.wait_for("the node to be quiet", |arena| arena.connections() == 2);
        // A page of metrics costs memory too.
        arena.descriptors = descriptors(arena.daemon.pid());
        arena.resident = resident_bytes(arena.daemon.pid());
        arena
    }

    /// An admin queue and an I/O queue of the namespaces that may be spoilt.
    pub fn pair(&self) -> Pair {
        Pair::connected(self.address)
    }

    pub fn connections(&self) -> usize {
        let page = self.daemon.page("/metrics");
        let count = page
            .lines()
            .filter(|line| line.starts_with("penstock_reactor_connections{"))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum::<f64>();
        (0..100_000)
            .find(|n| f64::from(*n) >= count)
            .map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX))
    }

    fn wait_for(&self, what: &str, mut done: impl FnMut(&Arena) -> bool) {
        let deadline = Instant::now() + SETTLE;
        while !done(self) {
            if Instant::now() >= deadline {
                let (log, page) = (self.daemon.log(), self.daemon.page("/metrics"));
                let last = &log[log.len().saturating_sub(40)..];
                panic!("waited {SETTLE:?} for {what}:\n{}\n{page}", last.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for a line that names this peer and says `what`; and the host where it is known.
    pub fn names(&self, peer: SocketAddr, knows_host: bool, what: &str) {
        let name = format!("peer={peer}");
        let deadline = Instant::now() + SETTLE;
        loop {
            let log = self.daemon.log();
            let line = log.iter().find(|l| l.contains(&name) && l.contains(what));
            if let Some(line) = line {
                assert!(!knows_host || line.contains(HOSTILE), "{line}");
                return;
            }
            assert!(
                Instant::now() < deadline,
                "no {what:?} of {peer} in\n{}",
                log.join("\n")
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The abuse is over: nothing is left of it, and the well-behaved host noticed nothing.
    pub fn finish(self) {
        self.wait_for("connections to end", |arena| arena.connections() == 2);
        let pid = self.daemon.pid();
        let before = self.descriptors;
        self.wait_for("descriptors to be closed", |_| descriptors(pid) <= before);
        let limit = self.resident + RESIDENT_SLACK_BYTES;
        self.wait_for("memory to be given back", |_| resident_bytes(pid) <= limit);
        self.witness.end();
        let buffers = "penstock_buffer_pool_leased_bytes{";
        assert_eq!(self.daemon.metric(buffers), 0.0, "payload memory is leased");
        assert!(self.daemon.page("/healthz").ends_with("ok\n"));
        let log = self.daemon.log().join("\n");
        assert!(!log.contains("panicked"), "{log}");
    }
}

impl Witness {
    fn start(address: SocketAddr) -> Witness {
        let stop = Arc::new(AtomicBool::new(false));
        let overslept_us = Arc::new(AtomicU64::new(0));
        let host = Host::new();
        let (ready, is_ready) = mpsc::channel();
        let stopping = Arc::clone(&stop);
        let result =
            host.begin(move |pool| async move { duty(address, pool, stopping, ready).await });
        is_ready
            .recv_timeout(Duration::from_secs(20))
            .expect("the well-behaved host is at work");
        let metronome = {
            let (stop, overslept_us) = (Arc::clone(&stop), Arc::clone(&overslept_us));
            std::thread::spawn(move || {
                while !stop.load(Relaxed) {
                    let begun = Instant::now();
                    std::thread::sleep(Duration::from_millis(2));
                    let took = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                    overslept_us.fetch_max(took.saturating_sub(2000), Relaxed);
                }
            })
        };
        Witness {
            stop,
            result,
            metronome,
            overslept_us,
            host,
        }
    }

    fn end(self) {
        self.stop.store(true, Relaxed);
        let duty = self.result.recv_timeout(Duration::from_secs(20));
        let duty = duty.expect("it ends").expect("it saw no error");
        self.metronome.join().expect("it ends");
        drop(self.host);
        let noise = Duration::from_micros(self.overslept_us.load(Relaxed));
        println!(
            "the well-behaved host: {} rounds, the slowest I/O took {:?}; the machine held up a \
             sleeper for {noise:?}",
            duty.rounds, duty.worst
        );
        assert!(duty.rounds > 0);
        // The I/O passes three threads, each of which the machine may hold up.
        let limit = PAUSE_MAX + 3 * noise;
        assert!(duty.worst < limit, "an I/O took {:?}", duty.worst);
    }
}

/// Writes and reads back, in memory and in a file, until told to stop.
async fn duty(
    address: SocketAddr,
    pool: penstock_buffer::Pool,
    stop: Arc<AtomicBool>,
    ready: mpsc::Sender<()>,
) -> Result<Duty, ClientError> {
    let (_controller, queue) = host::connect(&host::options(address), &pool, 8).await?;
    let mut duty = Duty {
        rounds: 0,
        worst: Duration::ZERO,
    };
    while !stop.load(Relaxed) {
        let place = (
            1 + u32::from(duty.rounds % 2 == 1),
            duty.rounds * 13 % 1000,
            16,
        );
        let begun = Instant::now();
        host::write(&queue, &pool, place, false).await?;
        let written = Instant::now();
        assert!(host::holds(&queue, &pool, place).await?, "{place:?}");
        // The first ones open devices.
        if duty.rounds >= 4 {
            let slower = (written - begun).max(written.elapsed());
            duty.worst = duty.worst.max(slower);
        } else if duty.rounds == 3 {
            // The test waits for it.
            let _ = ready.send(());
        }
        duty.rounds += 1;
        penstock_reactor::sleep(Duration::from_millis(2)).await;
    }
    Ok(duty)
}

/// Touches what the node touches once: payload memory, slots, receive buffers.
fn warm_up(address: SocketAddr) {
    let mut peers: Vec<Pair> = (0..4).map(|_| Pair::connected(address)).collect();
    for pair in &mut peers {
        for cid in 0..8 {
            for nsid in [1, 2] {
                let command = pair.io.command(&io::read(cid + 8, nsid, 0, 64));
                pair.io.send(&command);
                pair.io.settle(1, &[]);
                let command = pair.io.command(&io::write(cid, nsid, 0, 256));
                pair.io.send(&command);
                pair.io.settle(1, &[]);
            }
        }
    }
    let hoards: Vec<Peer> = peers
        .into_iter()
        .flat_map(|pair| {
            let mut peer = pair.io;
            for cid in 0..4 {
                let command = peer.command(&io::write(cid, 2, 0, 256));
                peer.send(&command);
            }
            peer.r2t();
            [peer, pair.admin]
        })
        .collect();
    drop(hoards);
}

pub fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("its descriptors")
        .count()
}

/// Resident memory of the node in bytes, its payload pool left out: that is 16 MiB by configuration
/// (the anonymous mapping of that size), resident page by page as it is used unless hugepages back
/// it, and what of it is leased has a metric of its own.
fn resident_bytes(pid: u32) -> u64 {
    const POOL_KIB: u64 = 16 << 10;
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).expect("its mappings");
    let (mut anonymous, mut size_kib, mut resident_kib) = (false, 0, 0);
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let kib = || words.get(1).and_then(|word| word.parse::<u64>().ok());
        match words.first() {
            // START-END PERMISSIONS OFFSET DEVICE INODE [PATH]
            Some(first) if !first.ends_with(':') => anonymous = words.len() == 5,
            Some(&"Size:") => size_kib = kib().expect("a size"),
            Some(&"Rss:") if !(anonymous && size_kib >= POOL_KIB) => {
                resident_kib += kib().expect("a size");
            }
            _ => {}
        }
    }
    1024 * resident_kib
}
