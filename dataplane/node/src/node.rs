//! A running node: everything opened and bound first, then started; undone on the way where
//! anything is refused.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use penstock_reactor::TcpListener;
use penstock_subsystem::{
    Clock, ConfigError, NamespaceConfig, SubsystemConfig, Target, TargetConfig,
};
use penstock_units::Nsid;

use crate::agent::Gauges;
use crate::config::{
    BackendSettings, Config, CongestionControl, NamespaceSettings, Placed, Problem, Problems,
    SubsystemSettings,
};
use crate::device::{Device, Surroundings};
use crate::managed::Managed;
use crate::memory::MemoryWatch;
use crate::metrics::http::{Endpoint, Serving};
use crate::metrics::{Busy, NodePages};
use crate::reactors::{Fleet, StartError};
use crate::survey::Survey;

/// A namespace's name: the subsystem's NQN and the identifier.
pub type NamespaceName = (String, Nsid);

/// How long hosts are given to hear that the node stops, and to leave by themselves.
const NOTICE_PATIENCE: Duration = Duration::from_millis(200);

/// How long hosts are given to take in that their connection closes.
const CLOSE_PATIENCE: Duration = Duration::from_millis(500);

/// How long a reactor may take to answer while the node stops.
const REPORT_PATIENCE: Duration = Duration::from_millis(500);

/// How long the kernel may keep the listeners of a node that was killed with I/O in flight.
const CLEAN_UP_MAX: Duration = Duration::from_secs(3);
const CLEAN_UP_STEP: Duration = Duration::from_millis(10);

/// A listener as it is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    /// What the configuration asks for.
    pub configured: SocketAddr,
    /// What is bound: the same, with a port where 0 was asked for.
    pub bound: SocketAddr,
}

/// A running node.
pub struct Node {
    pub(crate) config: Config,
    pub(crate) target: Arc<Target>,
    pub(crate) fleet: Fleet,
    pub(crate) devices: BTreeMap<NamespaceName, Device>,
    pub(crate) listening: Vec<Listening>,
    /// Listeners started so far, those that are gone included: the next one's reactor.
    pub(crate) listeners_made: usize,
    /// What control has here.
    pub(crate) managed: Managed,
    /// How the agent is doing.
    pub(crate) agent: Arc<Gauges>,
    survey: Survey,
    memory_watch: Option<MemoryWatch>,
    serving: Option<Serving>,
    closing: Arc<AtomicBool>,
    busy: Arc<Busy>,
}

/// Everything that is opened and bound before anything is started.
struct Opened {
    devices: BTreeMap<NamespaceName, Device>,
    listeners: Vec<(Listening, TcpListener)>,
    endpoint: Option<Endpoint>,
    managed: Managed,
    /// Files that were not there before.
    created: Vec<PathBuf>,
}

impl Node {
    /// Starts what `config` describes.
    ///
    /// # Errors
    /// Everything that is refused, with its line in the file and the remedy; nothing that was
    /// started or made on the way remains.
    pub fn start(config: Config) -> Result<Node, Problems> {
        Node::start_restored(config, |_| {})
    }

    /// Starts what `config` describes, and has `restore` add to it before the first host is let in.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn start_restored(
        config: Config,
        restore: impl FnOnce(&mut Node),
    ) -> Result<Node, Problems> {
        penstock_reactor::check_kernel().map_err(|error| whole(&config, &error.to_string()))?;
        let opened = open(&config)?;
        let created = opened.created.clone();
        Node::start_opened(config, opened, restore).inspect_err(|_| remove(&created))
    }

    fn start_opened(
        config: Config,
        opened: Opened,
        restore: impl FnOnce(&mut Node),
    ) -> Result<Node, Problems> {
        let target = Target::new(target_config(&config));
        for subsystem in &config.subsystems {
            add_subsystem(&target, &config, subsystem, &opened.devices)?;
        }
        let survey = Survey::of(&config);
        survey.tell();
        let is_numa = survey.topology.is_numa();
        let (reactors, tcp) = (&config.reactors, &config.tcp);
        let fleet = Fleet::start(reactors, tcp, &target, &survey.placement, is_numa)
            .map_err(|error| start_problem(&config, &error))?;
        let memory_watch = watch_memory(&fleet, is_numa);
        let mut node = Node {
            config,
            target,
            fleet,
            devices: opened.devices,
            listening: Vec::new(),
            listeners_made: 0,
            managed: opened.managed,
            agent: Arc::default(),
            survey,
            memory_watch,
            serving: None,
            closing: Arc::default(),
            busy: Arc::default(),
        };
        restore(&mut node);
        for (listening, listener) in opened.listeners {
            node.listen(listening, listener);
        }
        let served = opened
            .endpoint
            .map_or(Ok(()), |endpoint| node.serve_metrics(endpoint));
        if let Err(error) = served {
            node.fleet.stop();
            let what = format!("the metrics endpoint cannot be served: {error}");
            return Err(whole(&node.config, &what));
        }
        Ok(node)
    }

    fn serve_metrics(&mut self, endpoint: Endpoint) -> io::Result<()> {
        let pages = NodePages {
            target: Arc::clone(&self.target),
            fleet: self.fleet.clone(),
            node: self.config.node.name.clone(),
            closing: Arc::clone(&self.closing),
            busy: Arc::clone(&self.busy),
            agent: Arc::clone(&self.agent),
        };
        let serving = endpoint.serve(Arc::new(pages))?;
        tracing::info!(address = %serving.address(), "metrics are served");
        self.serving = Some(serving);
        Ok(())
    }

    /// Accepts hosts on a bound listener.
    pub(crate) fn listen(&mut self, listening: Listening, listener: TcpListener) {
        if self.accept(listening.bound, listener) {
            self.listening.push(listening);
        }
    }

    /// Accepts hosts at `bound`, and tells them of it. False where no reactor does.
    pub(crate) fn accept(&mut self, bound: SocketAddr, listener: TcpListener) -> bool {
        if !self.fleet.listen(self.listeners_made, bound, listener) {
            tracing::error!(address = %bound, "the listener could not be started");
            return false;
        }
        self.listeners_made += 1;
        self.target.add_listener(bound);
        tracing::info!(transport = "tcp", address = %bound, "listening");
        true
    }

    /// Where hosts can connect.
    pub fn listening(&self) -> &[Listening] {
        &self.listening
    }

    /// How much is served for control: subsystems, namespaces, listeners. What the configuration file
    /// has is not counted.
    pub fn served_for_control(&self) -> (usize, usize, usize) {
        self.managed.served()
    }

    /// Where metrics are served.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.serving.as_ref().map(Serving::address)
    }

    /// The configuration that is in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where everything is, as it was when the node started.
    pub fn survey(&self) -> &Survey {
        &self.survey
    }

    /// Subsystems, namespaces and controllers.
    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }

    /// Periodic work; call it about ten times a second.
    ///
    /// # Errors
    /// The reactors that have ended by themselves: the node must not go on.
    pub fn tick(&self) -> Result<(), Vec<u32>> {
        self.target.tick(penstock_reactor::now());
        self.busy.sample(&self.fleet);
        let dead = self.fleet.dead();
        if dead.is_empty() { Ok(()) } else { Err(dead) }
    }

    /// Stops in order: accepts nobody any more, tells the hosts, finishes the I/O commands in
    /// flight as far as `node.shutdown_timeout_ms` allows, closes the connections, ends the reactors.
    pub fn stop(mut self) {
        let begun = Instant::now();
        self.closing.store(true, Ordering::Release);
        self.fleet.close_gates();
        self.target.shutdown_notice();
        let left = self.wait(self.config.node.shutdown_timeout, |report| report.in_flight);
        if left > 0 {
            tracing::warn!(
                commands = left,
                "commands in flight are given up: the time is over"
            );
        }
        self.wait(NOTICE_PATIENCE, |report| report.connections);
        self.target.close_all("the node is stopping");
        self.fleet.close_connections("the node is stopping");
        self.wait(CLOSE_PATIENCE, |report| report.connections);
        self.memory_watch = None;
        self.fleet.stop();
        self.serving = None;
        self.devices.clear();
        self.managed = Managed::default();
        tracing::info!(took_ms = begun.elapsed().as_millis(), "stopped");
    }

    /// Waits until `count` is zero on all reactors, or the time is over; what is left.
    fn wait(&self, patience: Duration, count: impl Fn(&crate::reactors::Report) -> usize) -> usize {
        let deadline = Instant::now() + patience;
        loop {
            let reports = self.fleet.reports(REPORT_PATIENCE);
            let left = reports.iter().flatten().map(&count).sum();
            if left == 0 || Instant::now() >= deadline {
                return left;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Has an eye on where memory lies, where it can lie wrong.
fn watch_memory(fleet: &Fleet, is_numa: bool) -> Option<MemoryWatch> {
    let watch = is_numa.then(|| MemoryWatch::start(fleet.clone()))?;
    watch
        .inspect_err(|error| tracing::warn!(%error, "where memory lies is not watched"))
        .ok()
}

fn target_config(config: &Config) -> TargetConfig {
    let clock = Clock {
        now: penstock_reactor::now,
        per_second: penstock_reactor::ticks_per_second(),
    };
    TargetConfig {
        mdts_bytes: config.tcp.mdts_bytes,
        in_capsule_data_bytes: config.tcp.in_capsule_data_size_bytes,
        queue_entries_max: config.tcp.queue_depth_max,
        io_queues_max: config.tcp.io_queues_max,
        ..TargetConfig::new(clock)
    }
}

/// Adds a subsystem with its namespaces.
pub(crate) fn add_subsystem(
    target: &Arc<Target>,
    config: &Config,
    subsystem: &SubsystemSettings,
    devices: &BTreeMap<NamespaceName, Device>,
) -> Result<(), Problems> {
    let refused = |line, error: ConfigError| refused(config, line, &error);
    target
        .add_subsystem(SubsystemConfig {
            serial: subsystem.serial.clone(),
            model: subsystem.model.clone(),
            allow_any_host: subsystem.allow_any_host,
            hosts: subsystem.hosts.clone(),
            namespaces_max: subsystem.namespaces_max,
            ..SubsystemConfig::new(&subsystem.nqn, &subsystem.serial)
        })
        .map_err(|error| refused(subsystem.line, error))?;
    for namespace in &subsystem.namespaces {
        let name = (subsystem.nqn.clone(), namespace.nsid);
        if let Some(device) = devices.get(&name) {
            add_namespace(target, &subsystem.nqn, namespace, device)
                .map_err(|error| refused(namespace.line, error))?;
        }
    }
    Ok(())
}

/// Adds a namespace on an open device.
pub(crate) fn add_namespace(
    target: &Arc<Target>,
    nqn: &str,
    namespace: &NamespaceSettings,
    device: &Device,
) -> Result<(), ConfigError> {
    let uuid = *namespace.uuid.as_bytes();
    let identity = NamespaceConfig {
        uuid,
        nguid: uuid,
        ..NamespaceConfig::default()
    };
    target.add_namespace(nqn, Some(namespace.nsid), identity, device.block())?;
    tracing::info!(subsystem = nqn, namespace = %namespace, "serving");
    Ok(())
}

/// A refusal of the subsystem crate, at its place in the file.
pub(crate) fn refused(config: &Config, line: usize, error: &ConfigError) -> Problems {
    let remedy = "correct this table";
    Problems(vec![config.problem(
        line,
        "subsystem",
        error.to_string(),
        remedy,
    )])
}

fn open(config: &Config) -> Result<Opened, Problems> {
    let mut problems = Vec::new();
    let mut opened = Opened {
        devices: BTreeMap::new(),
        listeners: Vec::new(),
        endpoint: None,
        managed: Managed::default(),
        created: Vec::new(),
    };
    for subsystem in &config.subsystems {
        for namespace in &subsystem.namespaces {
            let new = namespace.backend.path().filter(|path| !path.exists());
            match open_device(config, &subsystem.nqn, namespace) {
                Ok(device) => {
                    opened.created.extend(new.map(Path::to_owned));
                    opened
                        .devices
                        .insert((subsystem.nqn.clone(), namespace.nsid), device);
                }
                Err(problem) => problems.push(problem),
            }
        }
    }
    let of_devices = config.devices.iter().map(|device| &device.backend);
    let missing = of_devices.filter_map(BackendSettings::path);
    let missing: Vec<PathBuf> = missing
        .filter(|p| !p.exists())
        .map(Path::to_owned)
        .collect();
    opened.managed = Managed::open(config);
    opened
        .created
        .extend(missing.into_iter().filter(|path| path.exists()));
    for address in &config.listeners {
        match bind(config, address) {
            Ok(listener) => opened.listeners.push(listener),
            Err(problem) => problems.push(problem),
        }
    }
    if let Some(address) = &config.metrics_listen {
        match Endpoint::bind(address.value) {
            Ok(endpoint) => opened.endpoint = Some(endpoint),
            Err(error) => problems.push(bind_problem(config, address, "metrics.listen", &error)),
        }
    }
    if problems.is_empty() {
        return Ok(opened);
    }
    remove(&opened.created);
    problems.sort_by_key(|problem| problem.line);
    Err(Problems(problems))
}

/// Removes files that were made for a start that failed.
fn remove(created: &[PathBuf]) {
    for path in created {
        if let Err(error) = std::fs::remove_file(path) {
            tracing::warn!(path = %path.display(), %error, "a file made on the way stays behind");
        }
    }
}

/// Opens a namespace's device; the problem names its line.
pub(crate) fn open_device(
    config: &Config,
    nqn: &str,
    namespace: &NamespaceSettings,
) -> Result<Device, Problem> {
    Device::open(nqn, namespace, Surroundings::of(config)).map_err(|error| {
        let key = if namespace.backend.path().is_some() {
            "namespace.path"
        } else {
            "namespace"
        };
        told(config, Some(namespace.line), key, &error.to_string())
    })
}

/// Binds a listener; the problem names its line.
pub(crate) fn bind(
    config: &Config,
    address: &Placed<SocketAddr>,
) -> Result<(Listening, TcpListener), Problem> {
    let bound = bind_patiently(address.value)
        .and_then(|listener| Ok((listener.local_addr()?, listener)))
        .map_err(|error| bind_problem(config, address, "listener.address", &error))?;
    choose_congestion_control(config, address, &bound.1)?;
    Ok((
        Listening {
            configured: address.value,
            bound: bound.0,
        },
        bound.1,
    ))
}

/// Sets the congestion control that connections of the listener will have.
fn choose_congestion_control(
    config: &Config,
    address: &Placed<SocketAddr>,
    listener: &TcpListener,
) -> Result<(), Problem> {
    match &config.tcp.congestion_control {
        CongestionControl::System => Ok(()),
        CongestionControl::Preferred => {
            if let Err(error) = listener.set_congestion_control(CongestionControl::PREFERRED) {
                tracing::info!(%error, "the system chooses the congestion control: cubic is not to be had");
            }
            Ok(())
        }
        CongestionControl::Named(name) => listener.set_congestion_control(name).map_err(|error| {
            let what = format!("the kernel does not give {name:?} ({error})");
            let remedy = "use one that `sysctl net.ipv4.tcp_available_congestion_control` \
                              shows, or \"\" for the system's";
            config.problem(address.line, "tcp.congestion_control", what, remedy)
        }),
    }
}

/// Binds, waiting a little for a port in use: the kernel cleans up after a killed node's io_uring
/// some time after the process is gone, and keeps its listeners open until then.
fn bind_patiently(address: SocketAddr) -> io::Result<TcpListener> {
    let give_up = Instant::now() + CLEAN_UP_MAX;
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < give_up => {
                std::thread::sleep(CLEAN_UP_STEP);
            }
            other => return other,
        }
    }
}

fn bind_problem(
    config: &Config,
    address: &Placed<SocketAddr>,
    key: &str,
    error: &io::Error,
) -> Problem {
    let (what, remedy) = match error.kind() {
        io::ErrorKind::AddrInUse => (
            "the port is in use",
            "stop who has it (`ss -ltnp` tells), or use another port",
        ),
        io::ErrorKind::AddrNotAvailable => (
            "no interface of this machine has the address",
            "use one that `ip address` shows, or 0.0.0.0 for all",
        ),
        io::ErrorKind::PermissionDenied => (
            "the kernel does not permit it",
            "use a port from 1024 on, or give the process CAP_NET_BIND_SERVICE",
        ),
        _ => ("the kernel refuses it", "correct the address"),
    };
    let what = format!("cannot listen on {}: {what} ({error})", address.value);
    config.problem(address.line, key, what, remedy)
}

fn start_problem(config: &Config, error: &StartError) -> Problems {
    Problems(vec![told(config, None, "reactors", &error.to_string())])
}

fn whole(config: &Config, message: &str) -> Problems {
    Problems(vec![told(config, None, "", message)])
}

/// A message of another crate, which has what is wrong and the remedy, apart by a semicolon.
pub(crate) fn told(config: &Config, line: Option<usize>, key: &str, message: &str) -> Problem {
    let (what, remedy) = message.split_once("; ").unwrap_or((message, "see the log"));
    Problem {
        file: config.file.clone(),
        line,
        key: key.to_owned(),
        what: what.to_owned(),
        remedy: remedy.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_let_go_soon_is_waited_for() {
        let held = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = held.local_addr().unwrap();
        let letting_go = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(held);
        });
        let begun = Instant::now();
        bind_patiently(address).unwrap();
        assert!(begun.elapsed() >= CLEAN_UP_STEP, "the port was not held");
        letting_go.join().unwrap();
    }
}
