//! The agent: does on this node what control wants, and remembers it.
//!
//! It lives on a thread of its own, off the reactors' cores where there are others, with the only
//! tokio runtime of the node. What it does to the node it does through the daemon's thread; nothing
//! here waits for a reactor or makes one wait. While control is away everything goes on as it is, and
//! after a restart the node serves from its saved state before it has heard of control.
//!
//! - `folder` keeps the state on the disk; what it says is the plan crate's.
//! - `link` keeps a stream to control, `explain` says why there is none.
//! - `engine` takes, saves, carries out (`carry`, `door`) and reports.
//! - `inventory` describes the machine, `gauges` the agent itself.

mod carry;
mod door;
mod engine;
mod explain;
mod folder;
mod gauges;
mod inventory;
mod link;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use penstock_plan::agent::{AgentState, Damaged, Step, StepError};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

pub use folder::{FolderError, Loaded, StateFolder, Unusable};
pub use gauges::Gauges;
pub(crate) use inventory::addresses as interface_addresses;

use crate::config::{Config, ControlSettings, Machine};
use crate::node::Node;
use crate::signals::Request;
use carry::Finished;
use engine::Engine;
use link::Link;

/// Messages of control that wait for the engine.
const EVENTS_MAX: usize = 1024;
/// How long control is given to take in that the node leaves.
const FAREWELL_PATIENCE: Duration = Duration::from_millis(300);
/// How long a save under way may take when the node leaves.
const SAVE_PATIENCE: Duration = Duration::from_secs(1);

/// What the node remembers, read and locked, before it is carried out.
pub struct Remembered {
    settings: ControlSettings,
    folder: StateFolder,
    state: AgentState,
    damage: Vec<String>,
    finish: mpsc::UnboundedSender<Finished>,
    finished: mpsc::UnboundedReceiver<Finished>,
    failures: BTreeMap<String, StepError>,
}

/// A running agent. Dropping it without [`Agent::stop`] lets the thread go on.
pub struct Agent {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// Reads what the node must remember; `None` where the configuration has no `[control]`.
///
/// # Errors
/// Where the folder cannot be used. Damaged files are no error: they are put aside and told.
pub fn remember(config: &Config) -> Result<Option<Remembered>, FolderError> {
    let Some(settings) = config.control.clone() else {
        return Ok(None);
    };
    let folder = StateFolder::open(&settings.state_directory)?;
    let loaded = folder.load(|bytes| {
        AgentState::decode(bytes).map_err(|error| match error {
            Damaged::Newer(..) => Unusable::Newer(error.to_string()),
            Damaged::Foreign | Damaged::Content(_) => Unusable::Damaged(error.to_string()),
        })
    })?;
    for damage in &loaded.damage {
        tracing::error!("{damage}");
    }
    let mut state = match (loaded.state, loaded.damage.is_empty()) {
        (Some(state), true) => {
            tracing::info!(folder = %folder.path().display(), "serving from the saved state");
            state
        }
        (Some(mut state), false) => {
            tracing::error!("the state saved before is used: what control said last is missing");
            state.distrust();
            state
        }
        (None, true) => AgentState::new(),
        (None, false) => {
            tracing::error!(
                "NO SAVED STATE CAN BE READ: nothing of control is served until control has been \
                 reached; the damaged files are kept"
            );
            AgentState::new()
        }
    };
    state.disconnected();
    let (finish, finished) = mpsc::unbounded_channel();
    Ok(Some(Remembered {
        settings,
        folder,
        state,
        damage: loaded.damage,
        finish,
        finished,
        failures: BTreeMap::new(),
    }))
}

impl Remembered {
    /// Does what was wanted before the restart, as far as it can be done at once. Listeners come
    /// last: who connects finds everything there.
    pub fn restore(&mut self, node: &mut Node) {
        let gauges = Arc::clone(&node.agent);
        gauges.configured.store(true, Ordering::Relaxed);
        gauges
            .damaged_files
            .store(self.damage.len() as u64, Ordering::Relaxed);
        gauges
            .accepted_revision
            .store(self.state.accepted().1, Ordering::Relaxed);
        gauges
            .orphans
            .store(self.state.orphans() as u64, Ordering::Relaxed);
        let mut listeners = Vec::new();
        loop {
            let steps = self.state.steps();
            if steps.is_empty() {
                break;
            }
            for step in steps {
                match step {
                    Step::AddListener { .. } => listeners.push(step),
                    _ => self.carry_out(node, &step, &gauges),
                }
            }
        }
        for step in listeners {
            self.carry_out(node, &step, &gauges);
        }
        if let Some(report) = self.state.report(true) {
            gauges.observe(&report, true);
        }
    }

    fn carry_out(&mut self, node: &mut Node, step: &Step, gauges: &Gauges) {
        if let Some(result) = carry::begin(node, step, &self.finish) {
            engine::ended(&mut self.state, gauges, &mut self.failures, step, result);
        }
    }

    /// Starts the agent's thread. `requests` leads to the thread that has `node`.
    ///
    /// # Errors
    /// Where the system refuses the thread or what its runtime needs.
    pub fn start(self, node: &Node, requests: Sender<Request>) -> io::Result<Agent> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(4)
            .thread_name("agent-file")
            .build()?;
        let cores = match node.config().reactors.pin {
            true => node.survey().cores(),
            false => BTreeSet::new(),
        };
        let (events, taken) = mpsc::channel(EVENTS_MAX);
        let link = Link::new(self.settings, events);
        let gauges = Arc::clone(&node.agent);
        let engine = Engine {
            state: self.state,
            folder: Arc::new(self.folder),
            door: door::Door::new(requests),
            gauges: Arc::clone(&gauges),
            node: format!("nodes/{}", node.config().node.name),
            boot_id: Uuid::new_v4().to_string(),
            events: taken,
            finished: self.finished,
            finish: self.finish,
            stream: engine::Stream::default(),
            timers: engine::Timers::default(),
            failures: self.failures,
        };
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("agent".to_owned())
            .spawn(move || {
                keep_off(&cores);
                runtime.block_on(work(link, engine, stopped));
                gauges.connected.store(false, Ordering::Relaxed);
                runtime.shutdown_timeout(SAVE_PATIENCE);
            })?;
        Ok(Agent { stop, thread })
    }
}

impl Agent {
    /// Takes leave of control and ends the thread; what is served stays as it is. Takes about a
    /// second at most.
    pub fn stop(self) {
        // A thread that has ended by itself has said so in the log.
        let _ = self.stop.send(());
        if self.thread.join().is_err() {
            tracing::error!("the agent's thread had panicked");
        }
    }
}

async fn work(link: Link, engine: Engine, stopped: oneshot::Receiver<()>) {
    let mut linked = tokio::spawn(link.run());
    tokio::select! {
        ended = engine.run() => if ended.is_err() {
            tracing::debug!("the agent ends: the daemon is leaving");
        },
        _ = stopped => {}
    }
    // The engine is gone, and with it our half of the stream: control ends its half.
    if tokio::time::timeout(FAREWELL_PATIENCE, &mut linked)
        .await
        .is_err()
    {
        linked.abort();
    }
}

/// Keeps the calling thread off these cores, where it may run on others.
fn keep_off(cores: &BTreeSet<usize>) {
    use rustix::thread::{CpuSet, sched_setaffinity};
    let allowed = Machine::probe().cores_allowed;
    let mut set = CpuSet::new();
    allowed
        .difference(cores)
        .filter(|core| **core < CpuSet::MAX_CPU)
        .for_each(|core| set.set(*core));
    if cores.is_empty() || set.count() == 0 {
        return;
    }
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::warn!(%error, "the agent shares the cores of the reactors");
    }
}
