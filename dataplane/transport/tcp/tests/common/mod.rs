//! A node with a fake handler on a real reactor, and a host made by hand from a blocking socket.
#![allow(
    dead_code,
    missing_docs,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic
)]

pub mod host;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use penstock_buffer::{Lease, Payload, Pool, PoolConfig};
use penstock_nvme::fabrics::FabricsCommand;
use penstock_nvme::{Sqe, Status};
use penstock_reactor::{
    AcceptSink, ListenerGuard, PollMode, ReactorConfig, ReactorHandle, Socket, TcpListener, sleep,
};
use penstock_seam::{Command, ConnectionControl, Established, Handler, Link, LinkError, Reply};
use penstock_transport_tcp::{ConnectionStats, TcpConfig, for_each_connection, serve};

/// Opcodes of the fake command set. The two low bits tell the direction, as NVMe wants it.
pub const FLUSH: u8 = 0x00;
pub const WRITE: u8 = 0x01;
pub const READ: u8 = 0x02;
/// Waits `cdw10` ms before it takes its data.
pub const SLOW_WRITE: u8 = 0x05;
/// Answers without taking its data.
pub const IGNORE_WRITE: u8 = 0x0d;
/// Never answers.
pub const HANG: u8 = 0x0c;
/// As HANG, but a device works on it.
pub const HANG_COMMITTED: u8 = 0x1c;
/// Takes command `cdw10` back with Abort Requested; result 1 where that failed.
pub const ABORT: u8 = 0x08;
/// Takes its data, but gives up waiting for it after `cdw10` ms.
pub const IMPATIENT_WRITE: u8 = 0x11;
/// Closes the connection after its reply.
pub const END: u8 = 0x18;
/// A device works on it for `cdw10` ms.
pub const SLOW_FLUSH: u8 = 0x10;
/// Reads in two leases of half the length each.
pub const READ_SCATTERED: u8 = 0x06;

/// What handlers of all connections have seen.
#[derive(Default)]
pub struct Seen {
    pub handlers: AtomicI64,
    pub executing: AtomicI64,
    pub closed: AtomicU64,
    /// What the last write brought.
    pub disk: Mutex<Vec<u8>>,
    /// What the last write with each command identifier brought.
    pub written: Mutex<HashMap<u16, Vec<u8>>>,
}

pub struct Fake {
    pool: Pool,
    seen: Arc<Seen>,
    control: RefCell<Option<Rc<dyn ConnectionControl>>>,
    keep: Cell<bool>,
}

struct Executing(Arc<Seen>);

impl Drop for Executing {
    fn drop(&mut self) {
        self.0.executing.fetch_sub(1, SeqCst);
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.seen.handlers.fetch_sub(1, SeqCst);
    }
}

pub fn pattern(seed: u32, at: usize) -> u8 {
    let mixed = (at as u64)
        .wrapping_mul(2_654_435_761)
        .wrapping_add(seed.into());
    mixed.to_le_bytes()[2]
}

pub fn patterned(seed: u32, len: usize) -> Vec<u8> {
    (0..len).map(|at| pattern(seed, at)).collect()
}

impl Fake {
    async fn connect<L: Link>(&self, sqe: &Sqe, data_len: u32, link: &L) -> Reply {
        let FabricsCommand::Connect(connect) = FabricsCommand::decode(sqe) else {
            return Reply::status(Status::INVALID_FIELD.wire());
        };
        let lease = self.pool.lease(data_len as usize).await;
        if link.receive(lease).await.is_err() {
            return Reply::status(Status::INVALID_FIELD.wire());
        }
        let established = Some(Established {
            queue_id: connect.qid.get(),
            queue_entries: u16::try_from(connect.queue_entries()).unwrap_or(u16::MAX),
            flow_control_disabled: connect.flow_control_disabled(),
        });
        Reply {
            result: 1,
            established,
            ..Reply::status(0)
        }
    }

    fn keep(&self, cid: u16, lease: &Lease) {
        if self.keep.get() {
            let mut disk = self.seen.disk.lock().unwrap();
            disk.clear();
            disk.extend_from_slice(lease.bytes());
            self.seen
                .written
                .lock()
                .unwrap()
                .insert(cid, lease.bytes().to_vec());
        }
    }

    async fn write<L: Link>(&self, cid: u16, len: u32, link: &L) -> Reply {
        let lease = match self.pool.try_lease(len as usize) {
            Some(lease) => lease,
            None => self.pool.lease(len as usize).await,
        };
        match link.receive(lease).await {
            Ok(lease) => {
                link.committed();
                self.keep(cid, &lease);
                Reply::status(0)
            }
            Err(LinkError::DataDigest) => Reply::status(Status::TRANSIENT_TRANSPORT_ERROR.wire()),
            Err(_) => Reply::status(Status::INTERNAL_ERROR.wire()),
        }
    }

    fn filled(&self, seed: u32, from: usize, len: usize) -> Lease {
        let lease = self.pool.try_lease(len).expect("pool");
        if self.keep.get() {
            lease.write_at(0, &patterned(seed, from + len)[from..]);
        }
        lease
    }

    fn read(&self, sqe: &Sqe, len: u32) -> Reply {
        let (seed, len) = (sqe.cdw10.get(), len as usize);
        let mut payload = Payload::none();
        if sqe.opcode == READ_SCATTERED {
            payload.push(self.filled(seed, 0, len / 2));
            payload.push(self.filled(seed, len / 2, len - len / 2));
        } else {
            payload.push(self.filled(seed, 0, len));
        }
        Reply {
            payload,
            result: sqe.cdw11.get().into(),
            ..Reply::status(0)
        }
    }
}

impl Handler for Fake {
    async fn execute<L: Link + 'static>(self: Rc<Self>, command: Command, link: L) -> Reply {
        self.seen.executing.fetch_add(1, SeqCst);
        let _executing = Executing(Arc::clone(&self.seen));
        let sqe = *Sqe::from_bytes(&command.sqe);
        let wait = Duration::from_millis(sqe.cdw10.get().into());
        match sqe.opcode {
            0x7f => self.connect(&sqe, command.data_len, &link).await,
            FLUSH => Reply {
                result: sqe.cdw10.get().into(),
                ..Reply::status(0)
            },
            WRITE => self.write(sqe.cid.get(), command.data_len, &link).await,
            SLOW_WRITE => {
                sleep(wait).await;
                self.write(sqe.cid.get(), command.data_len, &link).await
            }
            IMPATIENT_WRITE => {
                let lease = self.pool.lease(command.data_len as usize).await;
                let mut receive = std::pin::pin!(link.receive(lease));
                let mut timeout = std::pin::pin!(sleep(wait));
                std::future::poll_fn(|cx| {
                    let _ = receive.as_mut().poll(cx);
                    timeout.as_mut().poll(cx).map(drop)
                })
                .await;
                Reply::status(Status::NAMESPACE_NOT_READY.wire())
            }
            IGNORE_WRITE => Reply::status(Status::LBA_OUT_OF_RANGE.wire()),
            READ | READ_SCATTERED => self.read(&sqe, command.data_len),
            HANG => std::future::pending().await,
            HANG_COMMITTED => {
                link.committed();
                std::future::pending().await
            }
            SLOW_FLUSH => {
                link.committed();
                sleep(wait).await;
                Reply::status(0)
            }
            ABORT => {
                let control = self.control.borrow().clone().expect("attached");
                let cid = u16::try_from(sqe.cdw10.get()).unwrap();
                let done = control.abort(cid, Status::ABORT_REQUESTED.wire());
                Reply {
                    result: u64::from(!done),
                    ..Reply::status(0)
                }
            }
            END => Reply {
                close: true,
                ..Reply::status(0)
            },
            _ => Reply::status(Status::INVALID_OPCODE.wire()),
        }
    }

    fn attach(&self, control: Rc<dyn ConnectionControl>) {
        *self.control.borrow_mut() = Some(control);
    }

    fn traffic(&self, _now_ticks: u64) {}

    fn closed(&self) {
        self.seen.closed.fetch_add(1, SeqCst);
    }

    fn host_nqn(&self) -> Option<String> {
        Some("nqn.2014-08.org.nvmexpress:uuid:test".to_owned())
    }
}

struct Accept {
    pool: Pool,
    seen: Arc<Seen>,
    config: Rc<TcpConfig>,
    keep: bool,
}

impl AcceptSink for Accept {
    fn on_accept(&self, socket: Socket) {
        self.seen.handlers.fetch_add(1, SeqCst);
        let handler = Rc::new(Fake {
            pool: self.pool.clone(),
            seen: Arc::clone(&self.seen),
            control: RefCell::new(None),
            keep: Cell::new(self.keep),
        });
        serve(socket, Rc::clone(&self.config), handler);
    }

    fn on_error(&self, error: std::io::Error) {
        panic!("accept: {error}");
    }
}

thread_local! {
    static GUARD: RefCell<Option<(ListenerGuard, Pool)>> = const { RefCell::new(None) };
}

pub struct Node {
    pub reactor: ReactorHandle,
    pub address: SocketAddr,
    pub seen: Arc<Seen>,
}

static NEXT_REACTOR: AtomicU32 = AtomicU32::new(0);

pub struct Options {
    pub config: TcpConfig,
    pub pool_bytes: usize,
    /// Whether payload bytes are made and kept (allocates).
    pub keep: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            config: TcpConfig::default(),
            pool_bytes: 64 << 20,
            keep: true,
        }
    }
}

impl Node {
    pub fn start(config: TcpConfig) -> Node {
        Node::with(Options {
            config,
            ..Options::default()
        })
    }

    pub fn with(options: Options) -> Node {
        options.config.check().expect("limits");
        let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).expect("bind");
        let address = listener.local_addr().expect("address");
        let seen = Arc::new(Seen::default());
        let for_sink = Arc::clone(&seen);
        let config = ReactorConfig {
            id: NEXT_REACTOR.fetch_add(1, SeqCst),
            poll: PollMode::Adaptive { idle_us: 20 },
            stall_threshold_ms: 5_000,
            ..ReactorConfig::default()
        };
        let reactor = ReactorHandle::start(config, move || {
            let pool = Pool::new(&PoolConfig {
                size_bytes: options.pool_bytes,
                lease_max_bytes: 4 << 20,
                hugepages: false,
                hugepages_required: false,
                lock: false,
                ..PoolConfig::default()
            })
            .expect("pool");
            let sink = Accept {
                pool: pool.clone(),
                seen: for_sink,
                config: Rc::new(options.config),
                keep: options.keep,
            };
            let guard = listener.start(Rc::new(sink));
            GUARD.with_borrow_mut(|place| *place = Some((guard, pool)));
        })
        .expect("reactor");
        Node {
            reactor,
            address,
            seen,
        }
    }

    /// Runs `f` on the reactor and waits for its answer.
    pub fn ask<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> T {
        let (tx, rx) = mpsc::channel();
        self.reactor
            .run(move || drop(tx.send(f())))
            .expect("mailbox");
        rx.recv_timeout(Duration::from_secs(10))
            .expect("reactor answers")
    }

    pub fn connections(&self) -> usize {
        self.ask(penstock_transport_tcp::connection_count)
    }

    pub fn leased_bytes(&self) -> usize {
        self.ask(|| {
            GUARD.with_borrow(|place| place.as_ref().map_or(0, |g| g.1.stats().leased_bytes))
        })
    }

    /// Counters of the newest connection.
    pub fn stats(&self) -> Arc<ConnectionStats> {
        self.ask(|| {
            let mut last = None;
            for_each_connection(|c| last = Some(Arc::clone(c.stats())));
            last.expect("a connection")
        })
    }

    /// Waits until nothing of any connection is left.
    pub fn wait_until_empty(&self) {
        wait_for("connections to be gone", || {
            self.connections() == 0
                && self.seen.handlers.load(SeqCst) == 0
                && self.seen.executing.load(SeqCst) == 0
                && self.leased_bytes() == 0
        });
        assert_eq!(self.reactor.stats().snapshot().open_streams, 0);
    }
}

pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < until, "waited 10 s for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self
            .reactor
            .run(|| GUARD.with_borrow_mut(|place| *place = None));
        self.reactor.stop();
        self.reactor.join();
    }
}
