//! The node's state machine: what was accepted, what is left to do, what to report.
//!
//! The order of work is: [`AgentState::accept`], then, while [`AgentState::unsaved`] gives a mark,
//! write [`AgentState::encode`] durably and call [`AgentState::saved`]; then do the
//! [`AgentState::steps`], tell the end of each with [`AgentState::done`] (which may again leave
//! something to save), and send [`AgentState::report`]. Steps that depend on something unsaved are
//! not handed out, and nothing unsaved is reported.
//!
//! What holds, whatever the store says and whenever the node stops:
//! - A volume that was READY once is cleared only after a `deleted` for its uid, whose layout's epoch
//!   is not below the one held. A person's word on an orphan comes as just that.
//! - Extents that two volumes claim belong to the one that had them first; the other waits.
//! - What a complete state lacks is served on, as orphan: a volume until a person decides, a namespace
//!   or listener until the store has another for the same volume or address, or the volume goes.
//! - A subsystem that is not wanted, by a `deleted` or because a complete state lacks it, is served as
//!   long as a namespace is in it and goes with the last: without one it holds no data and no host has
//!   a use for it. So one whose end was not told, because the stream broke before, does not stay.
//! - A uid that was deleted never comes back.

mod accept;
mod claims;
mod codec;
mod object;
mod report;
mod step;
mod steps;
mod volume;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use penstock_api::v1::{
    Desired, DesiredListener, DesiredNamespace, DesiredSubsystem, DesiredVolume, Inventory,
    ObservedObject, ObservedVolume, OrphanObject, RemotePort,
};

pub use step::{Accepted, Damaged, Refusal, SaveMark, Step, StepError};

use claims::Claims;
use object::Held;
use volume::HeldVolume;

/// What work is done on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Volume(String),
    Subsystem(String),
    Namespace(String),
    Listener(String),
    Ports,
}

/// What is reported of something the node does not hold.
#[derive(Clone, Debug)]
enum Answer {
    Volume(ObservedVolume),
    Namespace(ObservedObject),
    Listener(ObservedObject),
}

/// The ports of other nodes.
#[derive(Debug, Default)]
struct Ports {
    desired: Vec<RemotePort>,
    served: Vec<RemotePort>,
    running: bool,
    error: Option<StepError>,
    since: u64,
}

/// What the last report said, beside objects.
#[derive(Debug, Default)]
struct Told {
    revision: i64,
    synced: bool,
    orphans: BTreeSet<String>,
    orphan_objects: Vec<OrphanObject>,
}

/// Everything a node must remember, and how far it has come since the start of the process.
#[derive(Debug, Default)]
pub struct AgentState {
    store_id: String,
    revision: i64,
    /// Counts changes of what is to be saved.
    version: u64,
    /// Up to here it is saved.
    saved: u64,
    /// Versions from which on a revision is accepted, not yet saved.
    revisions: VecDeque<(u64, i64)>,
    /// The newest revision that is saved.
    saved_revision: i64,

    volumes: BTreeMap<String, HeldVolume>,
    subsystems: BTreeMap<String, Held<DesiredSubsystem>>,
    namespaces: BTreeMap<String, Held<DesiredNamespace>>,
    listeners: BTreeMap<String, Held<DesiredListener>>,
    ports: Ports,
    /// Volumes that are gone for good.
    deleted: BTreeSet<String>,

    claims: Claims,
    /// Volumes that want space others have.
    blocked: BTreeSet<String>,
    /// Namespaces by the identity of their volume.
    by_volume: BTreeMap<String, BTreeSet<String>>,
    /// Namespaces by the identity of their subsystem.
    by_subsystem: BTreeMap<String, BTreeSet<String>>,

    /// What may have a step.
    dirty: BTreeSet<Key>,
    /// What may have to be reported.
    changed: BTreeSet<Key>,
    /// What is not as it should be.
    unsettled: BTreeSet<Key>,
    /// What has failed and waits for a retry.
    failed: BTreeSet<Key>,
    /// Volumes that are orphans.
    orphans: BTreeSet<String>,
    /// All namespaces and listeners that are orphans, and perhaps some that were.
    loose: BTreeSet<Key>,
    /// Of what is not held: the version from which on it may be told, and what.
    answers: BTreeMap<String, (u64, Answer)>,
    /// Parts of a complete state that has not ended.
    parts: Option<Desired>,
    /// Length of what was encoded last.
    encoded_len: usize,
    inventory: Option<Inventory>,
    inventory_changed: bool,
    told: Told,
}

impl AgentState {
    /// A node that was never told anything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Call after [`AgentState::decode`] of an older copy (the newest was damaged): it does not know
    /// which volumes have become READY since, so that nothing is cleared for a volume before control
    /// has named it again (with the extents it knows to be ready). Until then such volumes are
    /// reported as FAILED with reason `StateBehind`.
    pub fn distrust(&mut self) {
        let version = self.bump();
        let mut keys = Vec::new();
        for (uid, held) in &mut self.volumes {
            if held.phase != volume::Phase::Deleting && held.cleared < held.extents().len() {
                held.untrusted = true;
                held.since = version;
                keys.push(Key::Volume(uid.clone()));
            }
        }
        keys.into_iter().for_each(|key| self.touch(key));
    }

    /// All volumes, for Hello.
    #[must_use]
    pub fn hello_volumes(&self) -> Vec<DesiredVolume> {
        self.volumes.values().map(known).collect()
    }

    /// Identities of volumes taken away for good, for Hello.
    #[must_use]
    pub fn deleted_uids(&self) -> Vec<String> {
        self.deleted.iter().cloned().collect()
    }

    /// The store and revision that were accepted last; empty and 0 before the first.
    #[must_use]
    pub fn accepted(&self) -> (&str, i64) {
        (&self.store_id, self.revision)
    }

    /// Forgets the parts of a complete state that has not ended. Call when the stream ends.
    pub fn disconnected(&mut self) {
        self.parts = None;
    }

    /// Whether something is not saved, and the mark up to which [`AgentState::encode`] called now
    /// would save it.
    #[must_use]
    pub fn unsaved(&self) -> Option<SaveMark> {
        (self.version > self.saved).then_some(SaveMark(self.version))
    }

    /// What was encoded when `mark` was given is durable.
    pub fn saved(&mut self, mark: SaveMark) {
        self.saved = self.saved.max(mark.0.min(self.version));
        while let Some((version, revision)) = self.revisions.front().copied() {
            if version > self.saved {
                break;
            }
            self.saved_revision = revision;
            self.revisions.pop_front();
        }
    }

    /// Hands out failed steps again. Call now and then, and after the devices changed.
    pub fn retry(&mut self) {
        for key in std::mem::take(&mut self.failed) {
            self.forgive(&key);
        }
    }

    /// Things whose last step failed, which wait for [`AgentState::retry`].
    #[must_use]
    pub fn failed(&self) -> usize {
        self.failed.len()
    }

    /// What the machine is made of now; reported where it changed.
    pub fn set_inventory(&mut self, inventory: Inventory) {
        if self.inventory.as_ref() != Some(&inventory) {
            self.inventory = Some(inventory);
            self.inventory_changed = true;
        }
    }

    /// Everything accepted is saved and carried out, as far as the last
    /// [`AgentState::steps`] saw.
    #[must_use]
    pub fn synced(&self) -> bool {
        self.version == self.saved && self.dirty.is_empty() && self.unsettled.is_empty()
    }

    /// Number of volumes held without the store's knowledge.
    #[must_use]
    pub fn orphans(&self) -> usize {
        self.orphans.len()
    }

    /// Number of volumes held, by word: `new`, `ready`, `deleting`, for metrics.
    #[must_use]
    pub fn volumes_by_phase(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::from([("new", 0), ("ready", 0), ("deleting", 0)]);
        for held in self.volumes.values() {
            let word = match held.phase {
                volume::Phase::New => "new",
                volume::Phase::Ready => "ready",
                volume::Phase::Deleting => "deleting",
            };
            *counts.entry(word).or_default() += 1;
        }
        counts
    }

    /// Something to be saved changes: the version that will have it.
    fn bump(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// It may have a step or be worth a report.
    fn touch(&mut self, key: Key) {
        self.changed.insert(key.clone());
        self.dirty.insert(key);
    }

    fn touch_namespaces_of_volume(&mut self, volume_uid: &str) {
        for uid in self.by_volume.get(volume_uid).cloned().unwrap_or_default() {
            self.touch(Key::Namespace(uid));
        }
    }

    fn touch_namespaces_of_subsystem(&mut self, subsystem_uid: &str) {
        for uid in self
            .by_subsystem
            .get(subsystem_uid)
            .cloned()
            .unwrap_or_default()
        {
            self.touch(Key::Namespace(uid));
        }
    }

    /// Forgets how the last step of it failed.
    fn forgive(&mut self, key: &Key) {
        match key {
            Key::Volume(uid) => drop(self.volumes.get_mut(uid).and_then(|h| h.error.take())),
            Key::Subsystem(uid) => drop(self.subsystems.get_mut(uid).and_then(|h| h.error.take())),
            Key::Namespace(uid) => drop(self.namespaces.get_mut(uid).and_then(|h| h.error.take())),
            Key::Listener(uid) => drop(self.listeners.get_mut(uid).and_then(|h| h.error.take())),
            Key::Ports => self.ports.error = None,
        }
        self.failed.remove(key);
        self.touch(key.clone());
    }
}

/// A held volume as it is told to control: with the extents that hold data.
fn known(held: &HeldVolume) -> DesiredVolume {
    let mut volume = held.desired.clone();
    volume.ready_extents = u32::try_from(held.cleared).unwrap_or(u32::MAX);
    volume
}
