//! Metrics and health: collected from the target and the reactors, written as Prometheus text.

mod drives;
pub mod http;
mod memory;
mod page;
mod text;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use penstock_subsystem::Target;

use crate::agent::Gauges;
use crate::reactors::Fleet;

pub(crate) use text::Families;

/// How long a reactor may take to answer before it counts as stalled.
const PATIENCE: Duration = Duration::from_secs(1);

/// Over how long the busy share is measured.
const BUSY_WINDOW: Duration = Duration::from_secs(1);

/// What the metrics and health pages are made from.
pub struct NodePages {
    /// Namespaces and controllers.
    pub target: Arc<Target>,
    /// The reactors.
    pub fleet: Fleet,
    /// The node's name.
    pub node: String,
    /// Whether the node is stopping.
    pub closing: Arc<AtomicBool>,
    /// How busy the reactors are.
    pub busy: Arc<Busy>,
    /// How the agent is doing.
    pub agent: Arc<Gauges>,
}

impl http::Pages for NodePages {
    fn metrics(&self) -> String {
        let reports = self.fleet.reports(PATIENCE);
        page::page(self, &reports)
    }

    fn healthy(&self) -> Result<(), String> {
        let reports = self.fleet.reports(PATIENCE);
        let silent = self
            .fleet
            .reactors()
            .iter()
            .zip(&reports)
            .find(|(_, report)| report.is_none());
        match silent {
            None => Ok(()),
            Some((reactor, _)) => Err(format!(
                "reactor {} on core {} has not answered for {} ms: it is stalled or gone, see the log",
                reactor.id(),
                reactor.core(),
                PATIENCE.as_millis()
            )),
        }
    }

    fn ready(&self) -> Result<(), String> {
        if self.closing.load(Ordering::Acquire) {
            return Err("the node is stopping".to_owned());
        }
        self.healthy()
    }
}

/// The share of the last second that each reactor spent working, from 0 to 1.
#[derive(Default)]
pub struct Busy {
    reactors: Mutex<HashMap<u32, Sample>>,
}

#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    busy_ns: u64,
    idle_ns: u64,
    share: f64,
}

impl Busy {
    /// Looks at the reactors where the last look is a second old.
    pub fn sample(&self, fleet: &Fleet) {
        let mut reactors = self.reactors.lock().unwrap_or_else(PoisonError::into_inner);
        for reactor in fleet.reactors() {
            let last = reactors.get(&reactor.id()).copied();
            if last.is_some_and(|last| last.at.elapsed() < BUSY_WINDOW) {
                continue;
            }
            let now = reactor.stats();
            let (busy_before, idle_before) = last.map_or((0, 0), |l| (l.busy_ns, l.idle_ns));
            let busy = now.busy_ns.saturating_sub(busy_before) as f64;
            let idle = now.idle_ns.saturating_sub(idle_before) as f64;
            let share = if busy + idle > 0.0 {
                busy / (busy + idle)
            } else {
                0.0
            };
            let (busy_ns, idle_ns) = (now.busy_ns, now.idle_ns);
            let sample = Sample {
                at: Instant::now(),
                busy_ns,
                idle_ns,
                share,
            };
            reactors.insert(reactor.id(), sample);
        }
    }

    /// The share of a reactor.
    pub fn share(&self, reactor: u32) -> f64 {
        let reactors = self.reactors.lock().unwrap_or_else(PoisonError::into_inner);
        reactors.get(&reactor).map_or(0.0, |sample| sample.share)
    }
}
