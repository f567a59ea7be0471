//! A subsystem: namespaces, controllers, and the hosts that may connect.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use penstock_units::{ControllerId, Nsid};

use crate::controller::{Controller, Host};
use crate::event::EventKind;
use crate::local::lock;
use crate::metrics::NamespaceTotals;
use crate::namespace::{Debt, Namespace};
use crate::target::TargetConfig;

/// Highest controller identifier (Base 2.1, 3.1.1; FFF0h to FFFFh are reserved).
pub const CNTLID_MAX: u16 = 0xffef;

/// What a subsystem is made of.
#[derive(Clone, Debug)]
pub struct SubsystemConfig {
    /// NQN.
    pub nqn: String,
    /// Serial number, up to 20 ASCII characters.
    pub serial: String,
    /// Model number, up to 40 ASCII characters.
    pub model: String,
    /// Whether any host may connect.
    pub allow_any_host: bool,
    /// NQNs of the hosts that may connect, where not every one may.
    pub hosts: Vec<String>,
    /// Highest namespace identifier (Identify's NN), 1 to 65536.
    pub namespaces_max: u32,
    /// Lowest controller identifier handed out.
    pub cntlid_min: u16,
    /// Highest controller identifier handed out, at most FFEFh.
    pub cntlid_max: u16,
}

impl SubsystemConfig {
    /// A subsystem any host may connect to, with every other value at its default.
    pub fn new(nqn: &str, serial: &str) -> SubsystemConfig {
        SubsystemConfig {
            nqn: nqn.to_owned(),
            serial: serial.to_owned(),
            model: "Penstock".to_owned(),
            allow_any_host: true,
            hosts: Vec::new(),
            namespaces_max: 1024,
            cntlid_min: 1,
            cntlid_max: CNTLID_MAX,
        }
    }
}

/// What kind of subsystem it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubsystemKind {
    /// Namespaces and I/O.
    Nvm,
    /// The discovery subsystem: its controllers only tell where others are.
    Discovery,
}

/// Why a namespace or subsystem cannot be changed as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The NQN is not valid.
    #[error("subsystem {nqn:?}: {source}")]
    Nqn {
        /// As given.
        nqn: String,
        /// What is wrong with it.
        source: penstock_nvme::nqn::NqnError,
    },
    /// A subsystem of that name exists.
    #[error("subsystem {0} exists already; give each its own NQN")]
    SubsystemExists(String),
    /// There is no such subsystem.
    #[error("there is no subsystem {0}")]
    NoSubsystem(String),
    /// A namespace of that number exists.
    #[error("subsystem {nqn} has a namespace {nsid} already; give each its own nsid")]
    NamespaceExists {
        /// Subsystem.
        nqn: String,
        /// Namespace.
        nsid: Nsid,
    },
    /// There is no such namespace.
    #[error("subsystem {nqn} has no namespace {nsid}")]
    NoNamespace {
        /// Subsystem.
        nqn: String,
        /// Namespace.
        nsid: Nsid,
    },
    /// The number is above the limit, or none is free.
    #[error(
        "subsystem {nqn} takes namespaces 1 to {max}; use a free number there or raise the limit"
    )]
    NamespaceLimit {
        /// Subsystem.
        nqn: String,
        /// The limit.
        max: u32,
    },
    /// A value of the configuration is outside its limits.
    #[error("subsystem {nqn}: {what}")]
    Value {
        /// Subsystem.
        nqn: String,
        /// What is wrong, and the limits.
        what: &'static str,
    },
}

/// The namespaces at one moment.
pub type NamespaceMap = Arc<BTreeMap<Nsid, Arc<Namespace>>>;

/// A subsystem.
pub struct Subsystem {
    config: SubsystemConfig,
    kind: SubsystemKind,
    target: Arc<TargetConfig>,
    /// Moves with every change of the namespaces. Read once a command.
    version: AtomicU64,
    inner: Mutex<Inner>,
}

struct Inner {
    namespaces: NamespaceMap,
    controllers: BTreeMap<u16, Arc<Controller>>,
    /// Controllers whose admin queue is gone while I/O connections are still closing.
    dying: Vec<Arc<Controller>>,
    next_cntlid: u16,
    allow_any_host: bool,
    hosts: BTreeSet<String>,
    debts: HashMap<String, Debt>,
    retired: NamespaceTotals,
}

impl Subsystem {
    /// A subsystem without namespaces.
    ///
    /// # Errors
    /// [`ConfigError`] where a value is outside its limits.
    pub fn new(
        config: SubsystemConfig,
        target: &Arc<TargetConfig>,
    ) -> Result<Subsystem, ConfigError> {
        let bad = |what| ConfigError::Value {
            nqn: config.nqn.clone(),
            what,
        };
        if let Err(source) = penstock_nvme::nqn::validate(&config.nqn) {
            return Err(ConfigError::Nqn {
                nqn: config.nqn,
                source,
            });
        }
        if !(1..=65536).contains(&config.namespaces_max) {
            return Err(bad("namespaces_max must be 1 to 65536"));
        }
        if config.cntlid_max > CNTLID_MAX || config.cntlid_min > config.cntlid_max {
            return Err(bad(
                "controller identifiers must be an ascending range up to 65519",
            ));
        }
        Ok(Subsystem::build(config, SubsystemKind::Nvm, target))
    }

    /// The discovery subsystem.
    pub(crate) fn discovery(config: SubsystemConfig, target: &Arc<TargetConfig>) -> Subsystem {
        Subsystem::build(config, SubsystemKind::Discovery, target)
    }

    fn build(
        config: SubsystemConfig,
        kind: SubsystemKind,
        target: &Arc<TargetConfig>,
    ) -> Subsystem {
        let inner = Inner {
            namespaces: NamespaceMap::default(),
            controllers: BTreeMap::new(),
            dying: Vec::new(),
            next_cntlid: config.cntlid_min,
            allow_any_host: config.allow_any_host,
            hosts: config.hosts.iter().cloned().collect(),
            debts: HashMap::new(),
            retired: NamespaceTotals::default(),
        };
        Subsystem {
            config,
            kind,
            target: Arc::clone(target),
            version: AtomicU64::new(1),
            inner: Mutex::new(inner),
        }
    }

    /// NQN.
    pub fn nqn(&self) -> &str {
        &self.config.nqn
    }

    /// What it was made of; hosts may have changed since.
    pub fn config(&self) -> &SubsystemConfig {
        &self.config
    }

    /// What kind it is.
    pub fn kind(&self) -> SubsystemKind {
        self.kind
    }

    /// Limits and clock of the target.
    pub fn target(&self) -> &Arc<TargetConfig> {
        &self.target
    }

    /// Version of the namespace table.
    #[inline]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The namespaces now.
    pub fn namespaces(&self) -> NamespaceMap {
        Arc::clone(&lock(&self.inner).namespaces)
    }

    /// One namespace.
    pub fn namespace(&self, nsid: Nsid) -> Option<Arc<Namespace>> {
        lock(&self.inner).namespaces.get(&nsid).cloned()
    }

    /// Whether the host may connect.
    pub fn allows(&self, host_nqn: &str) -> bool {
        let inner = lock(&self.inner);
        inner.allow_any_host || inner.hosts.contains(host_nqn)
    }

    /// Replaces the access list. Hosts no longer on it are disconnected.
    pub fn set_hosts(&self, allow_any_host: bool, hosts: &[String]) {
        let refused: Vec<_> = {
            let mut inner = lock(&self.inner);
            inner.allow_any_host = allow_any_host;
            inner.hosts = hosts.iter().cloned().collect();
            let Inner {
                controllers, hosts, ..
            } = &*inner;
            let refused = controllers
                .values()
                .filter(|c| !allow_any_host && !hosts.contains(&c.host().nqn));
            refused.cloned().collect()
        };
        for controller in refused {
            tracing::info!(
                host = %controller.host().nqn, peer = %controller.peer(), subsystem = %self.nqn(),
                "host is no longer allowed; disconnecting it"
            );
            controller.fail("host is no longer allowed");
        }
    }

    /// Adds a namespace, under the lowest free number where none is given.
    ///
    /// # Errors
    /// [`ConfigError`] where the number is taken or none is free.
    pub fn add_namespace(
        &self,
        nsid: Option<Nsid>,
        make: impl FnOnce(Nsid) -> Namespace,
    ) -> Result<Nsid, ConfigError> {
        let nqn = || self.config.nqn.clone();
        let max = self.config.namespaces_max;
        let limit = || ConfigError::NamespaceLimit { nqn: nqn(), max };
        let mut inner = lock(&self.inner);
        let nsid = match nsid {
            Some(nsid) if inner.namespaces.contains_key(&nsid) => {
                return Err(ConfigError::NamespaceExists { nqn: nqn(), nsid });
            }
            Some(nsid) => nsid,
            None => (1..=max)
                .filter_map(Nsid::new)
                .find(|nsid| !inner.namespaces.contains_key(nsid))
                .ok_or_else(limit)?,
        };
        if nsid.get() > max {
            return Err(limit());
        }
        let mut map = BTreeMap::clone(&inner.namespaces);
        map.insert(nsid, Arc::new(make(nsid)));
        self.replace(&mut inner, map);
        drop(inner);
        self.announce(nsid);
        Ok(nsid)
    }

    /// Removes a namespace. I/O in flight on it finishes; later I/O is refused.
    ///
    /// # Errors
    /// [`ConfigError::NoNamespace`] where there is none of that number.
    pub fn remove_namespace(&self, nsid: Nsid) -> Result<Arc<Namespace>, ConfigError> {
        let mut inner = lock(&self.inner);
        let mut map = BTreeMap::clone(&inner.namespaces);
        let Some(namespace) = map.remove(&nsid) else {
            return Err(ConfigError::NoNamespace {
                nqn: self.config.nqn.clone(),
                nsid,
            });
        };
        let totals = namespace.totals(self.target.clock.per_second);
        inner.retired.absorb(&totals);
        self.replace(&mut inner, map);
        drop(inner);
        self.announce(nsid);
        Ok(namespace)
    }

    /// Looks at a namespace's size again and tells hosts where it changed.
    ///
    /// # Errors
    /// [`ConfigError::NoNamespace`] where there is none of that number.
    pub fn namespace_resized(&self, nsid: Nsid) -> Result<(), ConfigError> {
        let Some(namespace) = self.namespace(nsid) else {
            return Err(ConfigError::NoNamespace {
                nqn: self.config.nqn.clone(),
                nsid,
            });
        };
        if namespace.refresh() {
            self.announce(nsid);
        }
        Ok(())
    }

    fn replace(&self, inner: &mut Inner, map: BTreeMap<Nsid, Arc<Namespace>>) {
        inner.namespaces = Arc::new(map);
        // Under the lock: whoever sees the new version finds the new map.
        self.version.fetch_add(1, Ordering::Release);
    }

    fn announce(&self, nsid: Nsid) {
        for controller in self.controllers() {
            controller.namespace_changed(nsid);
            // The log lists the namespaces of the one ANA group: it changed as well.
            controller.post(EventKind::AnaChanged);
        }
    }

    /// The controllers now.
    pub fn controllers(&self) -> Vec<Arc<Controller>> {
        lock(&self.inner).controllers.values().cloned().collect()
    }

    /// One controller.
    pub fn controller(&self, id: u16) -> Option<Arc<Controller>> {
        lock(&self.inner).controllers.get(&id).cloned()
    }

    /// Makes a controller; `None` where every identifier is in use. Identifiers go round, so that
    /// one given back is used again as late as possible.
    pub fn make_controller(
        self: &Arc<Self>,
        host: Host,
        peer: std::net::SocketAddr,
        kato_ms: u32,
    ) -> Option<Arc<Controller>> {
        let id = self.take_cntlid()?;
        // `Controller::new` asks this subsystem for the host's debt: not under the lock.
        let controller = Controller::new(ControllerId(id), self, host, peer, kato_ms);
        let mut inner = lock(&self.inner);
        if inner.controllers.contains_key(&id) {
            return None;
        }
        inner.controllers.insert(id, Arc::clone(&controller));
        Some(controller)
    }

    fn take_cntlid(&self) -> Option<u16> {
        let (min, max) = (self.config.cntlid_min, self.config.cntlid_max);
        let mut inner = lock(&self.inner);
        let start = inner.next_cntlid;
        let id = (start..=max)
            .chain(min..start)
            .find(|id| !inner.controllers.contains_key(id))?;
        inner.next_cntlid = if id == max { min } else { id + 1 };
        Some(id)
    }

    /// Forgets a controller whose admin queue is gone.
    pub fn remove_controller(&self, controller: &Controller) {
        let mut inner = lock(&self.inner);
        let id = controller.id().0;
        let same = |known: &Arc<Controller>| std::ptr::eq(Arc::as_ptr(known), controller);
        if !inner.controllers.get(&id).is_some_and(same) {
            return;
        }
        if let Some(controller) = inner.controllers.remove(&id)
            && controller.io_queue_count() > 0
        {
            inner.dying.push(controller);
        }
        inner.debts.retain(|_, debt| Arc::strong_count(debt) > 1);
    }

    /// The count of writes that outlive their connection, of one host.
    pub fn debt_of(&self, host_nqn: &str) -> Debt {
        let mut inner = lock(&self.inner);
        Arc::clone(inner.debts.entry(host_nqn.to_owned()).or_default())
    }

    /// Counters of all its namespaces, those removed included (without their latencies).
    pub fn totals(&self) -> NamespaceTotals {
        let (mut totals, namespaces) = {
            let inner = lock(&self.inner);
            (inner.retired.clone(), Arc::clone(&inner.namespaces))
        };
        for namespace in namespaces.values() {
            totals.absorb(&namespace.totals(self.target.clock.per_second));
        }
        totals
    }

    /// Periodic work.
    pub fn tick(&self, now: u64) {
        let (controllers, dying) = {
            let mut inner = lock(&self.inner);
            inner
                .dying
                .retain(|controller| controller.io_queue_count() > 0);
            (
                inner.controllers.values().cloned().collect::<Vec<_>>(),
                inner.dying.clone(),
            )
        };
        for controller in controllers.iter().chain(&dying) {
            controller.tick(now, self.target.clock.per_second);
        }
    }
}
