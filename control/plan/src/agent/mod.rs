//! The node's state machine: what was accepted, what is left to do, what to report.
//!
//! The order of work is: [`AgentState::accept`], then, while [`AgentState::unsaved`] gives a mark,
//! write [`AgentState::encode`] durably and call [`AgentState::saved`]; then do the
//! [`AgentState::steps`], tell the end of each with [`AgentState::done`] (which may again leave
//! something to save), and send [`AgentState::report`]. Steps that depend on something unsaved are
//! not handed out.

mod step;

pub use step::{Accepted, Damaged, Refusal, SaveMark, Step, StepError};

use penstock_api::v1::{Desired, DesiredVolume, Inventory, Report};

/// Everything a node must remember, and how far it has come since the start of the process.
#[derive(Debug, Default)]
pub struct AgentState {
    store_id: String,
    revision: i64,
}

impl AgentState {
    /// A node that was never told anything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The state as it was saved; nothing is open or served yet.
    ///
    /// # Errors
    /// [`Damaged`] where the bytes are not what [`AgentState::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        if bytes.is_empty() {
            Err(Damaged::Foreign)
        } else {
            Ok(Self::default())
        }
    }

    /// The state to be saved: versioned and with a checksum.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Call after [`AgentState::decode`] of an older copy (the newest was damaged): what it says of
    /// volumes in the making cannot be trusted, so that none of those is cleared or opened. They are
    /// reported as FAILED with reason `StateBehind`; deleting them works.
    pub fn distrust(&mut self) {}

    /// All volumes, for Hello.
    #[must_use]
    pub fn hello_volumes(&self) -> Vec<DesiredVolume> {
        Vec::new()
    }

    /// Identities of volumes taken away for good, for Hello.
    #[must_use]
    pub fn deleted_uids(&self) -> Vec<String> {
        Vec::new()
    }

    /// The store and revision that were accepted last; empty and 0 before the first.
    #[must_use]
    pub fn accepted(&self) -> (&str, i64) {
        (&self.store_id, self.revision)
    }

    /// Takes a desired state, complete or what changed.
    pub fn accept(&mut self, _desired: Desired) -> Accepted {
        Accepted::default()
    }

    /// Forgets the parts of a complete state that has not ended. Call when the stream ends.
    pub fn disconnected(&mut self) {}

    /// Whether something is not saved, and up to where [`AgentState::encode`] now would save it.
    #[must_use]
    pub fn unsaved(&self) -> Option<SaveMark> {
        None
    }

    /// What was encoded when `mark` was given is durable.
    pub fn saved(&mut self, _mark: SaveMark) {}

    /// What can be done now. Each step is handed out once, until its end is told.
    pub fn steps(&mut self) -> Vec<Step> {
        Vec::new()
    }

    /// The end of a step.
    pub fn done(&mut self, _step: &Step, _result: Result<(), StepError>) {}

    /// Hands out failed steps again. Call now and then, and after the devices changed.
    pub fn retry(&mut self) {}

    /// Failed steps wait for [`AgentState::retry`].
    #[must_use]
    pub fn failed(&self) -> usize {
        0
    }

    /// What the machine is made of now; reported where it changed.
    pub fn set_inventory(&mut self, _inventory: Inventory) {}

    /// What changed since the last report, or everything where `full` (first in a stream); `None`
    /// where there is nothing to say.
    pub fn report(&mut self, _full: bool) -> Option<Report> {
        None
    }

    /// Everything accepted is saved and carried out.
    #[must_use]
    pub fn synced(&self) -> bool {
        true
    }

    /// Number of volumes held without the store's knowledge.
    #[must_use]
    pub fn orphans(&self) -> usize {
        0
    }
}
