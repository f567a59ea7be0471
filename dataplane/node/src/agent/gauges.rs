//! How the agent is doing, for the metrics page and the service manager.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use penstock_api::v1::{Report, VolumeState};
use penstock_plan::agent::Step;

use crate::metrics::Families;

/// States of volumes in the metrics, with their label.
const STATES: [(VolumeState, &str); 4] = [
    (VolumeState::Creating, "creating"),
    (VolumeState::Ready, "ready"),
    (VolumeState::Deleting, "deleting"),
    (VolumeState::Failed, "failed"),
];

/// Told by the agent's thread, read by others.
#[derive(Debug, Default)]
pub struct Gauges {
    /// The configuration has `[control]`.
    pub(super) configured: AtomicBool,
    /// Control has let the node in.
    pub(super) connected: AtomicBool,
    /// Revision of the last desired state that was accepted.
    pub(super) accepted_revision: AtomicI64,
    /// Volumes that control's store does not know.
    pub(super) orphans: AtomicU64,
    /// Files of saved state that could not be read at the start.
    pub(super) damaged_files: AtomicU64,
    /// Saves that failed.
    pub(super) save_errors: AtomicU64,
    volumes: Mutex<BTreeMap<String, VolumeState>>,
    steps: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
}

impl Gauges {
    /// Counts the end of a step.
    pub(super) fn step(&self, step: &Step, ok: bool) {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let result = if ok { "ok" } else { "failed" };
        *steps.entry((step.name(), result)).or_default() += 1;
    }

    /// Takes what a report says of volumes.
    pub(super) fn observe(&self, report: &Report, full: bool) {
        let mut volumes = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        if full {
            volumes.clear();
        }
        for volume in &report.volumes {
            if volume.gone {
                volumes.remove(&volume.uid);
            } else {
                volumes.insert(volume.uid.clone(), volume.state());
            }
        }
    }

    /// A few words for the service manager; `None` without `[control]`.
    #[must_use]
    pub fn status(&self) -> Option<String> {
        if !self.configured.load(Ordering::Relaxed) {
            return None;
        }
        let way = match self.connected.load(Ordering::Relaxed) {
            true => "control connected",
            false => "control not connected, serving the saved state",
        };
        Some(match self.damaged_files.load(Ordering::Relaxed) {
            0 => way.to_owned(),
            _ => format!("{way}; SAVED STATE WAS DAMAGED, see the log"),
        })
    }

    /// Adds the agent's families, where there is an agent.
    pub(crate) fn write(&self, families: &mut Families) {
        if !self.configured.load(Ordering::Relaxed) {
            return;
        }
        let connected = u8::from(self.connected.load(Ordering::Relaxed));
        let revision = self.accepted_revision.load(Ordering::Relaxed);
        for (name, help, value) in [
            (
                "penstock_agent_connected",
                "Whether control is connected.",
                f64::from(connected),
            ),
            (
                "penstock_agent_accepted_revision",
                "Revision of the store that was accepted last.",
                revision as f64,
            ),
            (
                "penstock_agent_orphans",
                "Volumes that control's store does not know.",
                self.orphans.load(Ordering::Relaxed) as f64,
            ),
            (
                "penstock_agent_state_damaged_files",
                "Files of saved state that could not be read at the start.",
                self.damaged_files.load(Ordering::Relaxed) as f64,
            ),
        ] {
            families.gauge(name, help, &[], value);
        }
        let errors = self.save_errors.load(Ordering::Relaxed);
        let help = "Times the state could not be saved.";
        families.counter("penstock_agent_save_errors_total", help, &[], errors);
        let volumes = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        for (state, label) in STATES {
            let count = volumes.values().filter(|known| **known == state).count();
            let help = "Volumes of control on this node.";
            let labels = [("state", label)];
            families.gauge("penstock_agent_volumes", help, &labels, count as f64);
        }
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        for ((step, result), count) in steps.iter() {
            families.counter(
                "penstock_agent_steps_total",
                "Steps carried out for control.",
                &[("step", step), ("result", result)],
                *count,
            );
        }
    }
}
