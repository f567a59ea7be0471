//! How things end: operations, and resources that nothing holds any more.

use penstock_api::names::Kind;
use penstock_api::resource::Resource;
use penstock_api::v1::Operation;
use penstock_api::well_known::Timestamp;
use penstock_plan::observe::{self, Outcome};
use penstock_store::{LeaseId, Revision};

use crate::mirror::{View, key_of, parent_of};
use crate::ops;
use crate::repo::Change;

/// Operations that one transaction ends at most; the rest follows.
const OPERATIONS_MAX: usize = 16;

/// What every ending needs: the time, and the lease that ended operations go with.
#[derive(Clone, Debug)]
pub struct Ending {
    /// Now.
    pub now: Timestamp,
    /// The lease of ended operations.
    pub lease: LeaseId,
}

impl Ending {
    /// Adds what becomes of an operation (last changed at `revision`) to a change, where that is
    /// anything new.
    pub fn operation(
        &self,
        change: &mut Change,
        operation: &Operation,
        revision: Revision,
        outcome: Outcome,
    ) {
        let mut next = operation.clone();
        let mut lease = Some(self.lease);
        match outcome {
            Outcome::Waiting(progress) if progress == operation.progress => return,
            Outcome::Waiting(progress) => {
                next.progress = progress;
                lease = None;
            }
            Outcome::Done => next = ops::ended(next, None, self.now),
            Outcome::Failed(error) => next = ops::ended(next, Some(error), self.now),
        }
        let key = change.keys().operation_of(&operation.name);
        change.unchanged(key, revision).put_operation(&next, lease);
    }

    /// Adds the ends of all operations on a resource that is removed: deletions are done, all else
    /// has come to nothing.
    pub fn operations_of_removed(&self, change: &mut Change, view: &View, name: &str, uid: &str) {
        let unfinished = view
            .unfinished_of(name)
            .filter(|(operation, _)| operation.target_uid == uid);
        for (operation, revision) in unfinished.take(OPERATIONS_MAX) {
            let outcome = if operation.verb == "delete" {
                Outcome::Done
            } else {
                Outcome::Failed(observe::deleted_meanwhile(name))
            };
            self.operation(change, operation, *revision, outcome);
        }
    }

    /// Adds the removal of a volume: its spec, its status, and the ends of its operations.
    pub fn remove_volume(&self, change: &mut Change, view: &View, key: &str) {
        if let Some(held) = view.volumes.get(key) {
            let volume = &held.resource;
            change.delete_resource::<penstock_api::v1::Volume>(key);
            forget_guard(change, Kind::Volume, key);
            self.operations_of_removed(change, view, volume.name(), volume.uid());
        }
    }

    /// Adds the removal of a namespace, with what it claimed.
    pub fn remove_namespace(&self, change: &mut Change, view: &View, key: &str) {
        if let Some(held) = view.namespaces.get(key) {
            let namespace = &held.resource;
            let spec = namespace.spec_or_default();
            let keys = change.keys().clone();
            change.delete_resource::<penstock_api::v1::Namespace>(key);
            change.delete(keys.claim_nsid(parent_of(key), spec.nsid));
            change.delete(keys.claim_volume(&key_of(Kind::Volume, &spec.volume)));
            self.operations_of_removed(change, view, namespace.name(), namespace.uid());
        }
    }

    /// Adds the removal of a listener.
    pub fn remove_listener(&self, change: &mut Change, view: &View, key: &str) {
        if let Some(held) = view.listeners.get(key) {
            let listener = &held.resource;
            change.delete_resource::<penstock_api::v1::Listener>(key);
            self.operations_of_removed(change, view, listener.name(), listener.uid());
        }
    }
}

/// Nobody can come to use what is gone; its guard goes too.
fn forget_guard(change: &mut Change, kind: Kind, key: &str) {
    let guard = change.keys().guard_use(kind, key);
    change.delete(guard);
}
