//! What a node's agent reported: the latest of each object, and what of it is still to be written.

use std::collections::{BTreeMap, BTreeSet};

use penstock_api::v1::{Inventory, ObservedObject, ObservedVolume, Report};
use tokio::time::Instant;

/// An object that was reported.
#[derive(Clone, Debug, PartialEq)]
pub enum Observation {
    /// A volume.
    Volume(ObservedVolume),
    /// A namespace or a listener.
    Object(ObservedObject),
}

/// The latest report of everything.
#[derive(Debug, Default)]
pub struct Seen {
    /// Objects by identity.
    pub objects: BTreeMap<String, Observation>,
    /// Identities of objects to be looked at, with when the reason for that came up.
    pub dirty: BTreeMap<String, Instant>,
    /// What was said of the node as a whole; its lists of objects are empty.
    pub node: Report,
    /// Whether anything was reported so far.
    pub reported: bool,
    /// Whether that is to be looked at.
    pub node_dirty: bool,
    /// Whether the inventory in it is new.
    pub inventory_dirty: bool,
}

impl Seen {
    /// Takes in a report.
    pub fn take_in(&mut self, report: Report, now: Instant) {
        for volume in report.volumes {
            self.note(volume.uid.clone(), Observation::Volume(volume), now);
        }
        for object in report.namespaces.into_iter().chain(report.listeners) {
            self.note(object.uid.clone(), Observation::Object(object), now);
        }
        self.node.accepted_revision = report.accepted_revision;
        self.node.synced = report.synced;
        if report.orphans_told {
            self.node.orphans_told = true;
            self.node.orphans = report.orphans;
            self.node.orphan_objects = report.orphan_objects;
        }
        if let Some(inventory) = report.inventory {
            self.set_inventory(inventory);
        }
        self.reported = true;
        self.node_dirty = true;
    }

    fn set_inventory(&mut self, inventory: Inventory) {
        self.node.inventory = Some(inventory);
        self.inventory_dirty = true;
    }

    fn note(&mut self, uid: String, observation: Observation, now: Instant) {
        self.dirty.entry(uid.clone()).or_insert(now);
        self.objects.insert(uid, observation);
    }

    /// Looks again at objects whose resource changed.
    pub fn look_again(&mut self, uids: &BTreeSet<String>, now: Instant) {
        for uid in uids {
            if self.objects.contains_key(uid) {
                self.dirty.entry(uid.clone()).or_insert(now);
            }
        }
    }

    /// Forgets an object that is gone for good.
    pub fn forget(&mut self, uid: &str) {
        self.objects.remove(uid);
        self.dirty.remove(uid);
    }
}
