//! The target: every subsystem, the discovery subsystem, and the listeners; changed at run time from
//! any thread, never on the I/O path.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use penstock_block::BlockDevice;
use penstock_buffer::Pool;
use penstock_nvme::nqn::DISCOVERY_NQN;
use penstock_units::{BlockSize, Nsid};

use crate::controller::Controller;
use crate::event::EventKind;
use crate::local::{Runner, lock};
use crate::metrics::{ControllerTotals, NamespaceTotals};
use crate::namespace::{Namespace, NamespaceConfig};
use crate::refusal::RefusalLog;
use crate::session::Session;
use crate::state::State;
use crate::subsystem::{ConfigError, Subsystem, SubsystemConfig};

/// The clock everything is measured with: monotonic, the same on every thread, no system call.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Ticks now.
    pub now: fn() -> u64,
    /// Ticks a second.
    pub per_second: u64,
}

/// Limits and identity that all subsystems share.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// Longest data transfer of a command in bytes (MDTS): a power of two, at least 4096.
    pub mdts_bytes: u32,
    /// In-capsule data an I/O queue takes, in bytes: a multiple of 16.
    pub in_capsule_data_bytes: u32,
    /// Most entries of a queue, 2 to 4096.
    pub queue_entries_max: u16,
    /// Most I/O queues of a controller.
    pub io_queues_max: u16,
    /// Firmware revision, up to 8 ASCII characters.
    pub firmware: String,
    /// The clock.
    pub clock: Clock,
}

impl TargetConfig {
    /// Every value at its default.
    pub fn new(clock: Clock) -> TargetConfig {
        TargetConfig {
            mdts_bytes: 1 << 20,
            in_capsule_data_bytes: 8192,
            queue_entries_max: 1024,
            io_queues_max: 128,
            firmware: env!("CARGO_PKG_VERSION").to_owned(),
            clock,
        }
    }
}

/// What a connection brings along.
pub struct SessionContext {
    /// The host's address.
    pub peer: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
    /// Payload memory of the connection's reactor.
    pub pool: Pool,
    /// Runs jobs on the connection's reactor, from any thread. A job must be run later, never
    /// before the call returns.
    pub runner: Runner,
}

/// The target.
pub struct Target {
    config: Arc<TargetConfig>,
    discovery: Arc<Subsystem>,
    inner: Mutex<Inner>,
    generation: AtomicU64,
    closing: AtomicBool,
    started: u64,
    refusals: RefusalLog,
}

#[derive(Default)]
struct Inner {
    subsystems: BTreeMap<String, Arc<Subsystem>>,
    listeners: Vec<SocketAddr>,
    remote: Arc<Vec<RemotePort>>,
}

/// A subsystem's port on another node, for the discovery log. Only control knows of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RemotePort {
    /// NQN of the subsystem.
    pub nqn: String,
    /// Where it is served.
    pub address: SocketAddr,
    /// Whether any host may connect.
    pub allow_any_host: bool,
    /// NQNs of the hosts that may connect, where not every one may.
    pub hosts: BTreeSet<String>,
}

impl RemotePort {
    /// Whether the host may connect.
    pub fn allows(&self, host_nqn: &str) -> bool {
        self.allow_any_host || self.hosts.contains(host_nqn)
    }
}

impl Target {
    /// A target with nothing but the discovery subsystem.
    pub fn new(config: TargetConfig) -> Arc<Target> {
        let config = Arc::new(config);
        let discovery = SubsystemConfig {
            model: "Penstock discovery".to_owned(),
            ..SubsystemConfig::new(DISCOVERY_NQN, "discovery")
        };
        let clock = config.clock;
        Arc::new(Target {
            discovery: Arc::new(Subsystem::discovery(discovery, &config)),
            config,
            inner: Mutex::default(),
            generation: AtomicU64::new(1),
            closing: AtomicBool::new(false),
            started: (clock.now)(),
            refusals: RefusalLog::new(clock.per_second),
        })
    }

    /// Limits and clock.
    pub fn config(&self) -> &Arc<TargetConfig> {
        &self.config
    }

    /// The clock's value when the target was made.
    pub fn started_ticks(&self) -> u64 {
        self.started
    }

    /// Lines about refused hosts.
    pub fn refusals(&self) -> &RefusalLog {
        &self.refusals
    }

    /// The discovery subsystem.
    pub fn discovery(&self) -> &Arc<Subsystem> {
        &self.discovery
    }

    /// The subsystem of that name, the discovery subsystem included.
    pub fn subsystem(&self, nqn: &str) -> Option<Arc<Subsystem>> {
        if nqn == self.discovery.nqn() {
            return Some(Arc::clone(&self.discovery));
        }
        lock(&self.inner).subsystems.get(nqn).cloned()
    }

    /// Every subsystem but the discovery subsystem.
    pub fn subsystems(&self) -> Vec<Arc<Subsystem>> {
        lock(&self.inner).subsystems.values().cloned().collect()
    }

    fn existing(&self, nqn: &str) -> Result<Arc<Subsystem>, ConfigError> {
        let known = lock(&self.inner).subsystems.get(nqn).cloned();
        known.ok_or_else(|| ConfigError::NoSubsystem(nqn.to_owned()))
    }

    /// Adds a subsystem.
    ///
    /// # Errors
    /// [`ConfigError`] where the NQN is invalid or taken, or a value is outside its limits.
    pub fn add_subsystem(&self, config: SubsystemConfig) -> Result<(), ConfigError> {
        let subsystem = Arc::new(Subsystem::new(config, &self.config)?);
        let nqn = subsystem.nqn().to_owned();
        if nqn == self.discovery.nqn() {
            return Err(ConfigError::SubsystemExists(nqn));
        }
        {
            let mut inner = lock(&self.inner);
            if inner.subsystems.contains_key(&nqn) {
                return Err(ConfigError::SubsystemExists(nqn));
            }
            inner.subsystems.insert(nqn, Arc::clone(&subsystem));
        }
        self.discovery_changed(|host| subsystem.allows(host));
        Ok(())
    }

    /// Removes a subsystem and closes its connections.
    ///
    /// # Errors
    /// [`ConfigError::NoSubsystem`] where there is none of that name.
    pub fn remove_subsystem(&self, nqn: &str) -> Result<(), ConfigError> {
        let removed = lock(&self.inner).subsystems.remove(nqn);
        let subsystem = removed.ok_or_else(|| ConfigError::NoSubsystem(nqn.to_owned()))?;
        for controller in subsystem.controllers() {
            controller.fail("subsystem removed");
        }
        self.discovery_changed(|host| subsystem.allows(host));
        Ok(())
    }

    /// Adds a namespace, under the lowest free number where none is given; its number.
    ///
    /// # Errors
    /// [`ConfigError`] where there is no such subsystem, or the number is taken or too high.
    pub fn add_namespace(
        &self,
        nqn: &str,
        nsid: Option<Nsid>,
        config: NamespaceConfig,
        device: Arc<dyn BlockDevice>,
    ) -> Result<Nsid, ConfigError> {
        self.existing(nqn)?
            .add_namespace(nsid, |nsid| Namespace::new(nsid, config, device))
    }

    /// Removes a namespace; I/O in flight on it finishes.
    ///
    /// # Errors
    /// [`ConfigError`] where there is no such subsystem or namespace.
    pub fn remove_namespace(&self, nqn: &str, nsid: Nsid) -> Result<(), ConfigError> {
        self.existing(nqn)?.remove_namespace(nsid).map(drop)
    }

    /// The device of a namespace changed its size: hosts are told.
    ///
    /// # Errors
    /// [`ConfigError`] where there is no such subsystem or namespace.
    pub fn namespace_resized(&self, nqn: &str, nsid: Nsid) -> Result<(), ConfigError> {
        self.existing(nqn)?.namespace_resized(nsid)
    }

    /// Replaces a subsystem's access list. Hosts no longer allowed are disconnected.
    ///
    /// # Errors
    /// [`ConfigError::NoSubsystem`] where there is none of that name.
    pub fn set_hosts(
        &self,
        nqn: &str,
        allow_any_host: bool,
        hosts: &[String],
    ) -> Result<(), ConfigError> {
        let subsystem = self.existing(nqn)?;
        let asking = self.discovery.controllers();
        let before: Vec<bool> = asking
            .iter()
            .map(|c| subsystem.allows(&c.host().nqn))
            .collect();
        subsystem.set_hosts(allow_any_host, hosts);
        self.generation.fetch_add(1, Ordering::Relaxed);
        for (controller, before) in asking.iter().zip(before) {
            if subsystem.allows(&controller.host().nqn) != before {
                controller.post(EventKind::DiscoveryChanged);
            }
        }
        Ok(())
    }

    /// Adds a listener to the discovery log. A wildcard address stands for the one a host asks at.
    pub fn add_listener(&self, address: SocketAddr) {
        lock(&self.inner).listeners.push(address);
        self.discovery_changed(|_| true);
    }

    /// Takes a listener out of the discovery log.
    pub fn remove_listener(&self, address: SocketAddr) {
        lock(&self.inner)
            .listeners
            .retain(|known| *known != address);
        self.discovery_changed(|_| true);
    }

    /// The listeners of the discovery log.
    pub fn listeners(&self) -> Vec<SocketAddr> {
        lock(&self.inner).listeners.clone()
    }

    /// Replaces the ports of other nodes in the discovery log. Hosts for which something changed are
    /// told; the log's generation moves only where anything did.
    pub fn set_remote_ports(&self, mut ports: Vec<RemotePort>) {
        ports.sort_unstable();
        ports.dedup();
        let (old, new) = {
            let mut inner = lock(&self.inner);
            if *inner.remote == ports {
                return;
            }
            let old = std::mem::replace(&mut inner.remote, Arc::new(ports));
            (old, Arc::clone(&inner.remote))
        };
        self.discovery_changed(|host| !seen_by(&old, host).eq(seen_by(&new, host)));
    }

    /// The ports of other nodes, by NQN and address.
    pub fn remote_ports(&self) -> Arc<Vec<RemotePort>> {
        Arc::clone(&lock(&self.inner).remote)
    }

    /// Generation counter of the discovery log: it moves with every change.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    fn discovery_changed(&self, concerns: impl Fn(&str) -> bool) {
        self.generation.fetch_add(1, Ordering::Relaxed);
        for controller in self.discovery.controllers() {
            if concerns(&controller.host().nqn) {
                controller.post(EventKind::DiscoveryChanged);
            }
        }
    }

    /// The meaning of one connection's commands. Called on the connection's reactor.
    pub fn session(self: &Arc<Self>, context: SessionContext) -> Rc<Session> {
        Session::new(self, context)
    }

    /// Periodic work, about every 100 ms, on any one thread: keep alive.
    pub fn tick(&self, now_ticks: u64) {
        self.discovery.tick(now_ticks);
        for subsystem in self.subsystems() {
            subsystem.tick(now_ticks);
        }
    }

    /// The node ends in order: hosts that asked for it are told, new connections are refused.
    pub fn shutdown_notice(&self) {
        self.closing.store(true, Ordering::Relaxed);
        for controller in self.all_controllers() {
            controller.post(EventKind::Shutdown);
        }
    }

    /// Closes every connection once the replies given are sent.
    pub fn close_all(&self, reason: &'static str) {
        for controller in self.all_controllers() {
            controller.close(reason);
        }
    }

    /// Whether [`Target::shutdown_notice`] was given.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    fn all_controllers(&self) -> Vec<Arc<Controller>> {
        let mut all = self.discovery.controllers();
        for subsystem in self.subsystems() {
            all.extend(subsystem.controllers());
        }
        all
    }

    /// Counters of every namespace and controller.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for subsystem in self.subsystems() {
            let nqn = subsystem.nqn();
            for (nsid, namespace) in subsystem.namespaces().iter() {
                snapshot.namespaces.push(NamespaceSnapshot {
                    subsystem: nqn.to_owned(),
                    nsid: *nsid,
                    device: namespace.device().name().to_owned(),
                    blocks: namespace.blocks(),
                    block_size: namespace.geometry().block_size,
                    totals: namespace.totals(self.config.clock.per_second),
                });
            }
        }
        for controller in self.all_controllers() {
            snapshot.controllers.push(ControllerSnapshot {
                subsystem: controller.subsystem().nqn().to_owned(),
                cntlid: controller.id().0,
                host_nqn: controller.host().nqn.clone(),
                peer: controller.peer(),
                state: controller.state(),
                io_queues: controller.io_queue_count(),
                totals: controller.totals(),
                errors_logged: controller.with_errors(|log| log.count()),
            });
        }
        snapshot.refused_connects = self.refusals.count();
        snapshot
    }
}

/// What a host sees of other nodes' ports.
pub(crate) fn seen_by<'p>(
    ports: &'p [RemotePort],
    host_nqn: &'p str,
) -> impl Iterator<Item = (&'p str, SocketAddr)> {
    let seen = ports.iter().filter(move |port| port.allows(host_nqn));
    seen.map(|port| (port.nqn.as_str(), port.address))
}

/// Counters of a target at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Every namespace.
    pub namespaces: Vec<NamespaceSnapshot>,
    /// Every controller.
    pub controllers: Vec<ControllerSnapshot>,
    /// Connects refused since the start.
    pub refused_connects: u64,
}

/// Counters of one namespace.
#[derive(Clone, Debug)]
pub struct NamespaceSnapshot {
    /// NQN of its subsystem.
    pub subsystem: String,
    /// Namespace identifier.
    pub nsid: Nsid,
    /// Name of its device.
    pub device: String,
    /// Size in blocks.
    pub blocks: u64,
    /// Logical block size.
    pub block_size: BlockSize,
    /// Counters.
    pub totals: NamespaceTotals,
}

/// Counters of one controller.
#[derive(Clone, Debug)]
pub struct ControllerSnapshot {
    /// NQN of its subsystem.
    pub subsystem: String,
    /// Controller identifier.
    pub cntlid: u16,
    /// NQN of its host.
    pub host_nqn: String,
    /// Address of its host.
    pub peer: SocketAddr,
    /// Where it stands.
    pub state: State,
    /// I/O queues connected.
    pub io_queues: usize,
    /// Counters.
    pub totals: ControllerTotals,
    /// Errors noted in its error information log.
    pub errors_logged: u64,
}
