//! The daemon: one configuration file, one node, signals.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::agent;
use crate::config::Config;
use crate::logging::{self, LogControl};
use crate::node::Node;
use crate::notify::Notifier;
use crate::signals::{self, Request};

/// How often the node looks after itself.
const TICK: Duration = Duration::from_millis(100);

/// Runs a node on the configuration in `file` until it is told to stop.
///
/// # Errors
/// Everything that is wrong with the configuration, what the machine refuses, or a reactor that
/// ended by itself.
pub fn run(file: &Path) -> anyhow::Result<()> {
    let config = Config::load(file)?;
    let log = logging::start(&config.log)?;
    raise_descriptor_limit();
    // Signals that arrive while the node starts wait in the queue.
    let (sender, requests) = mpsc::channel();
    signals::listen(sender.clone()).context("cannot take signals")?;
    let notifier = Notifier::from_environment();
    let mut remembered = agent::remember(&config)?;
    let node = Node::start_restored(config, |node| {
        if let Some(remembered) = &mut remembered {
            remembered.restore(node);
        }
    })?;
    let mut daemon = Daemon {
        file: file.to_owned(),
        log,
        notifier,
        node,
        told: String::new(),
    };
    daemon.warn_of_oddities();
    daemon.tell_ready();
    tracing::info!(node = daemon.node.config().node.name, "ready");
    let agent = remembered.map(|remembered| remembered.start(&daemon.node, sender));
    let agent = agent.transpose().context("cannot start the agent")?;
    let outcome = daemon.attend(&requests);
    daemon.notifier.stopping();
    // Nobody answers the agent any more.
    drop(requests);
    if let Some(agent) = agent {
        agent.stop();
    }
    daemon.node.stop();
    outcome
}

struct Daemon {
    file: PathBuf,
    log: LogControl,
    notifier: Notifier,
    node: Node,
    /// What the service manager was told.
    told: String,
}

impl Daemon {
    /// Looks after the node until it is to stop.
    fn attend(&mut self, requests: &Receiver<Request>) -> anyhow::Result<()> {
        let mut tick = Instant::now();
        loop {
            let left = tick.saturating_duration_since(Instant::now());
            match requests.recv_timeout(left) {
                Ok(Request::Stop) => {
                    tracing::info!("stopping: finishing the commands in flight");
                    return Ok(());
                }
                Ok(Request::Reload) => self.reload(),
                Ok(Request::Node(job)) => job(&mut self.node),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("signals are no longer taken"),
            }
            if Instant::now() < tick {
                continue;
            }
            tick = Instant::now() + TICK;
            if let Err(dead) = self.node.tick() {
                bail!("reactors {dead:?} ended by themselves; the log before this says why");
            }
            self.notifier.alive();
            let status = self.status();
            if status != self.told {
                self.notifier.status(&status);
                self.told = status;
            }
        }
    }

    fn tell_ready(&mut self) {
        self.told = self.status();
        self.notifier.ready(&self.told);
    }

    fn reload(&mut self) {
        tracing::info!(file = %self.file.display(), "reloading the configuration");
        self.notifier.reloading();
        let level = self.node.config().log.level.clone();
        let changes = Config::load(&self.file).and_then(|new| self.node.reload(new));
        match changes {
            Ok(changes) => {
                let settings = &self.node.config().log;
                if settings.level != level {
                    match self.log.change(settings) {
                        Ok(()) => tracing::info!(level = settings.level, "log level changed"),
                        Err(error) => tracing::error!(%error, "the log level stays"),
                    }
                }
                changes
                    .applied
                    .iter()
                    .for_each(|change| tracing::info!("reload: {change}"));
                changes
                    .failed
                    .iter()
                    .for_each(|failure| tracing::error!("reload: {failure}"));
                for key in &changes.need_restart {
                    tracing::warn!("reload: {key} differs: it changes with a restart only");
                }
                tracing::info!(changes = changes.applied.len(), "reloaded");
                self.warn_of_oddities();
            }
            Err(problems) => {
                for problem in &problems.0 {
                    tracing::error!("reload: {problem}");
                }
                tracing::error!("not reloaded: the node serves as before");
            }
        }
        self.tell_ready();
    }

    fn status(&self) -> String {
        let config = self.node.config();
        let namespaces: usize = config.subsystems.iter().map(|s| s.namespaces.len()).sum();
        let of_control = self.node.served_for_control();
        let mut text = format!(
            "serving {} subsystem(s), {} namespace(s) on {} listener(s)",
            config.subsystems.len() + of_control.0,
            namespaces + of_control.1,
            self.node.listening().len() + of_control.2
        );
        if let Some(control) = self.node.agent.status() {
            text.push_str("; ");
            text.push_str(&control);
        }
        text
    }

    /// What is allowed, but hardly meant.
    fn warn_of_oddities(&self) {
        for subsystem in &self.node.config().subsystems {
            if !subsystem.allow_any_host && subsystem.hosts.is_empty() {
                tracing::warn!(
                    subsystem = subsystem.nqn,
                    "no host may connect: name some in hosts, or set allow_any_host = true"
                );
            }
        }
    }
}

/// A connection is a descriptor: as many as the process may have.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, all) {
        tracing::warn!(%error, "the limit on open descriptors stays as it is");
    }
}
