//! The node's reactors: what lives on each of their threads, and the way there from others.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use penstock_buffer::{Pool, PoolConfig, PoolError, PoolStats};
use penstock_reactor::{
    AcceptSink, ListenerGuard, PollMode, ReactorConfig, ReactorError, ReactorHandle, Socket,
    TcpListener,
};
use penstock_subsystem::{SessionContext, Target};
use penstock_topology::{Placement, Seat};
use penstock_transport_tcp::{ConnectionRef, TcpConfig};

use crate::config::{ReactorSettings, TcpSettings};
use crate::gate::{Gate, Gated};
use crate::traffic::Traffic;

/// Connections that are gone and not yet folded into the totals, above which that is done.
const CLOSED_KEPT: usize = 64;

/// Why a reactor did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The thread, its core or its ring.
    #[error(transparent)]
    Reactor(#[from] ReactorError),
    /// Its payload memory.
    #[error("reactor {id}: {source}")]
    Pool {
        /// The reactor.
        id: u32,
        /// What was refused.
        source: PoolError,
    },
}

/// One reactor, as the other threads see it.
#[derive(Clone)]
pub struct Reactor {
    handle: ReactorHandle,
    core: usize,
    numa_node: Option<u32>,
    /// Addresses of its payload and receive memory.
    memory: Arc<[Range<usize>]>,
    /// Sockets on their way to it.
    coming: Arc<AtomicUsize>,
}

/// Everything a reactor's thread keeps for the node.
struct Here {
    handle: ReactorHandle,
    target: Arc<Target>,
    pool: Pool,
    tcp: Rc<TcpConfig>,
    gate: Rc<Gate>,
    listeners: HashMap<SocketAddr, ListenerGuard>,
    connections: Vec<ConnectionRef>,
    /// Of connections that are gone.
    past: Traffic,
}

thread_local! {
    static HERE: RefCell<Option<Here>> = const { RefCell::new(None) };
}

/// What a reactor tells when asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Its payload memory.
    pub pool: PoolStats,
    /// Connections open now.
    pub connections: usize,
    /// What its connections, those that are gone included, have moved.
    pub traffic: Traffic,
    /// I/O commands not answered yet.
    pub in_flight: usize,
}

/// All reactors of the node. Dropping the last clone does not stop them: [`Fleet::stop`] does.
#[derive(Clone)]
pub struct Fleet {
    reactors: Arc<Vec<Reactor>>,
}

impl Fleet {
    /// Starts a reactor on every seat, each with its pool. Where memory `is_numa`, a pinned reactor's
    /// comes from the node of its core.
    ///
    /// # Errors
    /// [`StartError`]; reactors started before are stopped again.
    pub fn start(
        settings: &ReactorSettings,
        tcp: &TcpSettings,
        target: &Arc<Target>,
        placement: &Placement,
        is_numa: bool,
    ) -> Result<Fleet, StartError> {
        let mut reactors: Vec<Reactor> = Vec::new();
        for (id, seat) in (0..).zip(&placement.seats) {
            let numa_node = seat.node.filter(|_| settings.pin && is_numa);
            let seat = Seat {
                node: numa_node,
                ..*seat
            };
            match start_one(id, seat, settings, tcp, target) {
                Ok(reactor) => reactors.push(reactor),
                Err(error) => {
                    Fleet {
                        reactors: Arc::new(reactors),
                    }
                    .stop();
                    return Err(error);
                }
            }
        }
        Ok(Fleet {
            reactors: Arc::new(reactors),
        })
    }

    /// The reactors.
    pub fn reactors(&self) -> &[Reactor] {
        &self.reactors
    }

    /// Accepts hosts on `listener`, on the reactor whose turn `number` says, and spreads them.
    /// False where that reactor does not take messages.
    pub fn listen(&self, number: usize, address: SocketAddr, listener: TcpListener) -> bool {
        let Some(reactor) = self.reactors.get(number % self.reactors.len().max(1)) else {
            return false;
        };
        let fleet = self.clone();
        let sent = reactor.handle.run(move || {
            let sink = Rc::new(Spread {
                fleet,
                address,
                quiet_until: RefCell::new(None),
            });
            let guard = listener.start(sink);
            with_here(|here| here.listeners.insert(address, guard));
        });
        sent.is_ok()
    }

    /// Stops accepting at `address`; connections made through it stay.
    pub fn unlisten(&self, address: SocketAddr) {
        self.on_each("stop listening", move |here| {
            here.listeners.remove(&address);
        });
    }

    /// Stops accepting anywhere and lets no further I/O command pass.
    pub fn close_gates(&self) {
        self.on_each("stop taking commands", |here| {
            here.listeners.clear();
            here.gate.close();
        });
    }

    /// Closes every connection once the replies given are sent.
    pub fn close_connections(&self, reason: &'static str) {
        for reactor in self.reactors.iter() {
            // Not within `with_here`: closing a connection may end its session, which is ours.
            let sent = reactor
                .handle
                .run(move || penstock_transport_tcp::close_all(reason));
            if sent.is_err() {
                tracing::warn!(reactor = reactor.id(), "the reactor does not take messages");
            }
        }
    }

    /// Asks every reactor how it is, together within `patience`; `None` for one that is silent.
    pub fn reports(&self, patience: Duration) -> Vec<Option<Report>> {
        let waiting: Vec<_> = self
            .reactors
            .iter()
            .map(|reactor| {
                let (answer, report) = mpsc::channel();
                let sent = reactor.handle.run(move || {
                    if let Some(told) = with_here(Here::report) {
                        // Who asked may have lost patience.
                        let _ = answer.send(told);
                    }
                });
                sent.is_ok().then_some(report)
            })
            .collect();
        let deadline = Instant::now() + patience;
        let left = || deadline.saturating_duration_since(Instant::now());
        waiting
            .into_iter()
            .map(|report| report?.recv_timeout(left()).ok())
            .collect()
    }

    /// The reactors whose threads have ended by themselves.
    pub fn dead(&self) -> Vec<u32> {
        let dead = self
            .reactors
            .iter()
            .filter(|reactor| !reactor.handle.is_running());
        dead.map(Reactor::id).collect()
    }

    /// Ends every reactor and waits for its thread.
    pub fn stop(&self) {
        for reactor in self.reactors.iter() {
            let (answer, gone) = mpsc::channel();
            let sent = reactor.handle.run(move || {
                // What holds memory or sockets goes while the reactor still works.
                drop(HERE.take());
                let _ = answer.send(());
            });
            if sent.is_ok() {
                // A reactor that is stuck is stopped all the same.
                let _ = gone.recv_timeout(Duration::from_millis(500));
            }
            reactor.handle.stop();
        }
        for reactor in self.reactors.iter() {
            if !reactor.handle.join() {
                tracing::error!(reactor = reactor.id(), "the reactor's thread had panicked");
            }
        }
    }

    fn on_each(&self, what: &str, f: impl Fn(&mut Here) + Clone + Send + 'static) {
        for reactor in self.reactors.iter() {
            let f = f.clone();
            let job = move || {
                with_here(f);
            };
            if reactor.handle.run(job).is_err() {
                tracing::warn!(
                    reactor = reactor.id(),
                    "the reactor could not be told to {what}"
                );
            }
        }
    }

    /// The reactor with the fewest connections.
    fn least_loaded(&self) -> Option<&Reactor> {
        self.reactors.iter().min_by_key(|reactor| reactor.load())
    }
}

impl Reactor {
    /// Its number.
    pub fn id(&self) -> u32 {
        self.handle.id()
    }

    /// The core it is meant for.
    pub fn core(&self) -> usize {
        self.core
    }

    /// The NUMA node that its memory is to come from, where there are several.
    pub fn numa_node(&self) -> Option<u32> {
        self.numa_node
    }

    /// Addresses of its payload and receive memory.
    pub fn memory(&self) -> &[Range<usize>] {
        &self.memory
    }

    /// Its counters.
    pub fn stats(&self) -> penstock_reactor::StatsSnapshot {
        self.handle.stats().snapshot()
    }

    /// Runs `job` on its thread soon. False where it does not take messages.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) -> bool {
        self.handle.run(job).is_ok()
    }

    /// Connections on it and on their way to it.
    fn load(&self) -> u64 {
        self.stats().open_streams + self.coming.load(Ordering::Relaxed) as u64
    }

    fn take(&self, socket: Socket) {
        let peer = socket.peer();
        let coming = Arc::clone(&self.coming);
        coming.fetch_add(1, Ordering::Relaxed);
        let sent = self.handle.run(move || {
            with_here(|here| here.serve(socket));
            coming.fetch_sub(1, Ordering::Relaxed);
        });
        if sent.is_err() {
            self.coming.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!(%peer, reactor = self.id(), "connection dropped: the reactor is stalled");
        }
    }
}

fn start_one(
    id: u32,
    seat: Seat,
    settings: &ReactorSettings,
    tcp: &TcpSettings,
    target: &Arc<Target>,
) -> Result<Reactor, StartError> {
    let Seat {
        core,
        node: numa_node,
    } = seat;
    let config = ReactorConfig {
        id,
        core: settings.pin.then_some(core),
        poll: match settings.adaptive {
            true => PollMode::Adaptive {
                idle_us: settings.idle_us,
            },
            false => PollMode::Busy,
        },
        ring_entries: settings.ring_entries,
        recv_buffers: settings.receive_buffers,
        recv_buffer_bytes: settings.receive_buffer_size_bytes,
        numa_node,
        stall_threshold_ms: settings.stall_threshold_ms,
    };
    let pool = PoolConfig {
        size_bytes: settings.buffer_pool_size_bytes,
        lease_max_bytes: usize::try_from(tcp.mdts_bytes).unwrap_or(usize::MAX),
        hugepages: settings.hugepages,
        hugepages_required: settings.hugepages_required,
        lock: settings.lock_memory,
        numa_node,
    };
    let (tcp, target) = (
        tcp_config(tcp, settings.buffer_pool_size_bytes),
        Arc::clone(target),
    );
    let (report, made) = mpsc::channel();
    let handle = ReactorHandle::start(config, move || {
        let settled = pool_near(id, &pool).map(|pool| {
            Here::settle(pool, tcp, target);
            memory_of_this_thread()
        });
        // The starter waits for exactly this.
        let _ = report.send(settled);
    })?;
    match made.recv() {
        Ok(Ok(memory)) => Ok(Reactor {
            handle,
            core,
            numa_node,
            memory,
            coming: Arc::default(),
        }),
        Ok(Err(source)) => {
            handle.stop();
            handle.join();
            Err(StartError::Pool { id, source })
        }
        Err(_) => {
            let source = std::io::Error::other("the reactor's thread ended while starting");
            Err(StartError::Reactor(ReactorError::Thread { id, source }))
        }
    }
}

/// The pool. A kernel that takes no wishes as to nodes (a container's seccomp profile may forbid them)
/// still takes pages from the node of the core that first touches them, which is the reactor's.
fn pool_near(id: u32, config: &PoolConfig) -> Result<Pool, PoolError> {
    Pool::new(config).or_else(|error| match error {
        PoolError::Numa { .. } => {
            tracing::warn!(reactor = id, %error, "payload memory is left to the kernel to place");
            Pool::new(&PoolConfig {
                numa_node: None,
                ..config.clone()
            })
        }
        other => Err(other),
    })
}

fn memory_of_this_thread() -> Arc<[Range<usize>]> {
    let pools = penstock_buffer::pools_of_this_thread().into_iter();
    let pools = pools.map(|memory| {
        let start = memory.start.as_ptr() as usize;
        start..start + memory.len_bytes
    });
    pools.chain([penstock_reactor::receive_memory()]).collect()
}

/// Settings of the transport. A host that lets memory be leased for it and then does nothing keeps
/// it until a time limit ends its connection: no connection may hold more than an eighth of the
/// pool, or one command's worth.
fn tcp_config(tcp: &TcpSettings, pool_bytes: usize) -> TcpConfig {
    let default = TcpConfig::default();
    let share = u32::try_from(pool_bytes / 8)
        .unwrap_or(u32::MAX)
        .max(64 << 10);
    TcpConfig {
        payload_max_bytes: default.payload_max_bytes.min(share),
        send_queue_max_bytes: default.send_queue_max_bytes.min(share),
        in_capsule_data_bytes: tcp.in_capsule_data_size_bytes,
        h2c_data_max_bytes: tcp.max_h2c_data_bytes,
        r2t_outstanding_max: tcp.r2t_max,
        header_digest: tcp.header_digest,
        data_digest: tcp.data_digest,
        icreq_timeout_ms: tcp.connect_timeout_ms,
        connect_timeout_ms: tcp.connect_timeout_ms,
        transfer_timeout_ms: tcp.transfer_timeout_ms,
        send_timeout_ms: tcp.send_timeout_ms,
        ..default
    }
}

/// Calls `f` with what this reactor keeps; `None` off a reactor or while the thread ends.
fn with_here<T>(f: impl FnOnce(&mut Here) -> T) -> Option<T> {
    HERE.try_with(|here| here.borrow_mut().as_mut().map(f))
        .ok()
        .flatten()
}

impl Here {
    fn settle(pool: Pool, tcp: TcpConfig, target: Arc<Target>) {
        let here = Here {
            handle: penstock_reactor::current(),
            target,
            pool,
            tcp: Rc::new(tcp),
            gate: Rc::default(),
            listeners: HashMap::new(),
            connections: Vec::new(),
            past: Traffic::default(),
        };
        HERE.set(Some(here));
    }

    fn serve(&mut self, socket: Socket) {
        let handle = self.handle.clone();
        let session = self.target.session(SessionContext {
            peer: socket.peer(),
            local: socket.local(),
            pool: self.pool.clone(),
            runner: Arc::new(move |job| handle.run(job).is_ok()),
        });
        let handler = Rc::new(Gated::new(Rc::clone(&self.gate), session));
        let connection = penstock_transport_tcp::serve(socket, Rc::clone(&self.tcp), handler);
        self.connections.push(connection);
        if self.connections.len() > penstock_transport_tcp::connection_count() + CLOSED_KEPT {
            self.fold_closed();
        }
    }

    /// Keeps what connections that are gone have counted, and forgets them.
    fn fold_closed(&mut self) {
        let past = &mut self.past;
        self.connections.retain(|connection| {
            if connection.is_closed() {
                past.add(connection.stats());
            }
            !connection.is_closed()
        });
    }

    fn report(&mut self) -> Report {
        self.fold_closed();
        let mut traffic = self.past;
        self.connections
            .iter()
            .for_each(|connection| traffic.add(connection.stats()));
        Report {
            pool: self.pool.stats(),
            connections: self.connections.len(),
            traffic,
            in_flight: self.gate.in_flight(),
        }
    }
}

/// Takes a listener's connections and spreads them over the reactors.
struct Spread {
    fleet: Fleet,
    address: SocketAddr,
    quiet_until: RefCell<Option<Instant>>,
}

impl AcceptSink for Spread {
    fn on_accept(&self, socket: Socket) {
        if let Some(reactor) = self.fleet.least_loaded() {
            reactor.take(socket);
        }
    }

    fn on_error(&self, error: std::io::Error) {
        // Out of descriptors comes back ten times a second until some are free.
        let now = Instant::now();
        let quiet = self
            .quiet_until
            .replace(Some(now + Duration::from_secs(10)));
        match quiet {
            Some(until) if now < until => drop(self.quiet_until.replace(Some(until))),
            _ => tracing::warn!(
                listener = %self.address,
                %error,
                "a host could not be accepted; where descriptors ran out, raise LimitNOFILE"
            ),
        }
    }
}
