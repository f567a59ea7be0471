//! What reports mean: new statuses, which finalizers are done, how operations end.
//!
//! A condition's `last_transition_time` changes only where its status does; a status that is equal
//! to the present one need not be written.

use penstock_api::v1::{
    Condition, ConditionStatus, Inventory, Listener, ListenerStatus, Namespace, NamespaceStatus,
    Node, NodeStatus, ObservedObject, ObservedVolume, Operation, OperationError, OrphanObject,
    Report, Volume, VolumeState, VolumeStatus,
};
use penstock_api::well_known::Timestamp;

use crate::place::{NoPlace, Placed};

/// The finalizer that holds a volume while its node has space of it.
pub const NODE_FINALIZER: &str = "node";

/// gRPC status code FAILED_PRECONDITION.
const FAILED_PRECONDITION: i32 = 9;

/// gRPC status code ABORTED.
const ABORTED: i32 = 10;

/// Reasons that waiting does not heal.
const FINAL_REASONS: [&str; 4] = [
    "DataDeleted",
    "InvalidLayout",
    "LayoutConflict",
    "StateBehind",
];

/// What a report says of one resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed<S> {
    /// The status to be written, with everything in it that the report does not tell of unchanged.
    pub status: S,
    /// Whether it differs from the present one.
    pub changed: bool,
    /// Its deletion was asked for and the node has nothing of it any more: the finalizer is done;
    /// remove spec, status and claims.
    pub gone: bool,
    /// The generation that is carried out and usable; 0 where none is.
    pub ready_generation: i64,
    /// It will not get ready without somebody doing something.
    pub failure: Option<OperationError>,
    /// What is being waited for, for people.
    pub progress: String,
}

/// What becomes of an operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It goes on; what it waits for.
    Waiting(String),
    /// It has succeeded.
    Done,
    /// It has failed.
    Failed(OperationError),
}

/// Sets a condition; its time of transition changes only where its status does. Whether anything
/// changed.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    kind: &str,
    status: ConditionStatus,
    reason: &str,
    message: &str,
    now: &Timestamp,
) -> bool {
    let mut new = Condition {
        r#type: kind.to_owned(),
        status: status.into(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: Some(*now),
    };
    let Some(old) = conditions
        .iter_mut()
        .find(|condition| condition.r#type == kind)
    else {
        conditions.push(new);
        return true;
    };
    if old.status == new.status {
        new.last_transition_time
            .clone_from(&old.last_transition_time);
    }
    let changed = *old != new;
    *old = new;
    changed
}

/// Whether the condition is there and true.
#[must_use]
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    conditions
        .iter()
        .any(|c| c.r#type == kind && c.status() == ConditionStatus::True)
}

fn truth(holds: bool) -> ConditionStatus {
    if holds {
        ConditionStatus::True
    } else {
        ConditionStatus::False
    }
}

/// The status of a volume that was just given a place, or space to grow.
#[must_use]
pub fn placed(volume: &Volume, placed: &Placed, now: &Timestamp) -> VolumeStatus {
    let mut status = volume.status.clone().unwrap_or_default();
    let first = status.layout.is_none();
    status.layout = Some(placed.layout.clone());
    if !status.finalizers.iter().any(|name| name == NODE_FINALIZER) {
        status.finalizers.push(NODE_FINALIZER.to_owned());
    }
    let conditions = &mut status.conditions;
    let why = if first { "Chosen" } else { "Grown" };
    set_condition(
        conditions,
        "Placed",
        ConditionStatus::True,
        why,
        &placed.reason,
        now,
    );
    if first {
        status.set_state(VolumeState::Creating);
        let message = "the node is told to prepare it";
        let conditions = &mut status.conditions;
        set_condition(
            conditions,
            "Ready",
            ConditionStatus::False,
            "Creating",
            message,
            now,
        );
    }
    status
}

/// The status of a volume for which there is no place now, or no space to grow.
#[must_use]
pub fn not_placed(volume: &Volume, no: &NoPlace, now: &Timestamp) -> VolumeStatus {
    let mut status = volume.status.clone().unwrap_or_default();
    if status.layout.is_none() {
        status.set_state(VolumeState::Pending);
        let message = "it has no place yet, see the condition Placed";
        let conditions = &mut status.conditions;
        set_condition(
            conditions,
            "Ready",
            ConditionStatus::False,
            "Pending",
            message,
            now,
        );
    }
    let conditions = &mut status.conditions;
    set_condition(
        conditions,
        "Placed",
        ConditionStatus::False,
        no.reason,
        &no.message,
        now,
    );
    status
}

/// What a report says of a volume.
#[must_use]
pub fn volume(volume: &Volume, seen: &ObservedVolume, now: &Timestamp) -> Observed<VolumeStatus> {
    let before = volume.status.clone().unwrap_or_default();
    let deleting = volume.delete_time.is_some();
    let gone = seen.gone && deleting;
    let mut status = before.clone();
    if seen.gone {
        status.size_bytes = 0;
    } else {
        status.size_bytes = seen.size_bytes;
    }
    if gone {
        status.finalizers.retain(|name| name != NODE_FINALIZER);
    }
    // Never down: what once held data is not cleared, whatever a node has forgotten.
    status.ready_extents = status.ready_extents.max(seen.ready_extents);
    status.observed_generation = seen.generation.min(volume.generation);
    status.set_state(volume_state(seen, deleting));
    let ready = status.state() == VolumeState::Ready;
    let (reason, message) = volume_words(seen, deleting);
    let usable = seen.state() == VolumeState::Ready && !seen.gone;
    set_condition(
        &mut status.conditions,
        "Ready",
        truth(usable),
        &reason,
        &message,
        now,
    );
    let behind = seen.reason == "EpochBehind";
    Observed {
        changed: status != before,
        status,
        gone,
        ready_generation: if ready && !behind { seen.generation } else { 0 },
        failure: failure(&reason, &message).filter(|_| !deleting),
        progress: if gone { String::new() } else { message },
    }
}

fn volume_state(seen: &ObservedVolume, deleting: bool) -> VolumeState {
    match (seen.gone, deleting) {
        (_, true) => VolumeState::Deleting,
        (true, false) => VolumeState::Failed,
        (false, false) => match seen.state() {
            VolumeState::Unspecified | VolumeState::Pending => VolumeState::Creating,
            // An orphan that the node was told to delete, while the store has taken it back.
            VolumeState::Deleting => VolumeState::Failed,
            state @ (VolumeState::Creating | VolumeState::Ready | VolumeState::Failed) => state,
        },
    }
}

/// Reason and message of the condition `Ready`.
fn volume_words(seen: &ObservedVolume, deleting: bool) -> (String, String) {
    if !seen.reason.is_empty() {
        return (seen.reason.clone(), seen.message.clone());
    }
    let (reason, message) = match (seen.gone, deleting, seen.state()) {
        (true, true, _) => ("Deleted", "the node has given its space back"),
        (true, false, _) => (
            "DataDeleted",
            "the node has deleted its data; delete the volume",
        ),
        (false, true, _) => ("Deleting", "the node takes it away and clears its data"),
        (false, false, VolumeState::Ready) => ("Serving", "the node has it ready"),
        (false, false, _) => ("Creating", "the node clears the space it gets"),
    };
    (reason.to_owned(), message.to_owned())
}

/// How operations that wait for it fail, where waiting does not heal.
fn failure(reason: &str, message: &str) -> Option<OperationError> {
    FINAL_REASONS.contains(&reason).then(|| OperationError {
        code: FAILED_PRECONDITION,
        message: message.to_owned(),
        reason: upper_snake(reason),
    })
}

/// `DataDeleted` as `DATA_DELETED`: reasons of conditions as reasons of errors.
#[must_use]
pub fn upper_snake(camel: &str) -> String {
    let mut text = String::with_capacity(camel.len() + 4);
    for (at, letter) in camel.chars().enumerate() {
        if letter.is_ascii_uppercase() && at > 0 {
            text.push('_');
        }
        text.push(letter.to_ascii_uppercase());
    }
    text
}

/// What is common to namespaces and listeners: reason and message of the condition `Ready`.
fn object_words(seen: &ObservedObject, deleting: bool) -> (String, String) {
    if !seen.reason.is_empty() {
        return (seen.reason.clone(), seen.message.clone());
    }
    let (reason, message) = match (seen.gone, deleting, seen.ready) {
        (true, _, _) => ("Removed", "the node has taken it away"),
        (false, true, _) => ("Deleting", "the node takes it away"),
        (false, false, true) => ("Serving", "the node serves it"),
        (false, false, false) => ("Applying", "the node is preparing it"),
    };
    (reason.to_owned(), message.to_owned())
}

fn object<S: PartialEq>(
    seen: &ObservedObject,
    deleting: bool,
    before: Option<&S>,
    status: S,
) -> Observed<S> {
    let gone = seen.gone && deleting;
    let (_, message) = object_words(seen, deleting);
    Observed {
        changed: before != Some(&status),
        status,
        gone,
        ready_generation: if seen.ready && !seen.gone {
            seen.generation
        } else {
            0
        },
        failure: failure(&seen.reason, &seen.message).filter(|_| !deleting),
        progress: if gone { String::new() } else { message },
    }
}

/// What the report of `node` (`nodes/{node}`) says of a namespace.
#[must_use]
pub fn namespace(
    namespace: &Namespace,
    node: &str,
    seen: &ObservedObject,
    now: &Timestamp,
) -> Observed<NamespaceStatus> {
    let deleting = namespace.delete_time.is_some();
    let mut status = namespace.status.clone().unwrap_or_default();
    status.observed_generation = seen.generation.min(namespace.generation);
    node.clone_into(&mut status.node);
    status.size_bytes = if seen.gone { 0 } else { seen.size_bytes };
    let (reason, message) = object_words(seen, deleting);
    let ready = truth(seen.ready && !seen.gone);
    set_condition(
        &mut status.conditions,
        "Ready",
        ready,
        &reason,
        &message,
        now,
    );
    object(seen, deleting, namespace.status.as_ref(), status)
}

/// What a report says of a listener.
#[must_use]
pub fn listener(
    listener: &Listener,
    seen: &ObservedObject,
    now: &Timestamp,
) -> Observed<ListenerStatus> {
    let deleting = listener.delete_time.is_some();
    let mut status = listener.status.clone().unwrap_or_default();
    status.observed_generation = seen.generation.min(listener.generation);
    let (reason, message) = object_words(seen, deleting);
    let ready = truth(seen.ready && !seen.gone);
    set_condition(
        &mut status.conditions,
        "Ready",
        ready,
        &reason,
        &message,
        now,
    );
    object(seen, deleting, listener.status.as_ref(), status)
}

/// What becomes of an operation by what was seen of its target (the one with `target_uid`).
#[must_use]
pub fn operation<S>(operation: &Operation, seen: &Observed<S>) -> Outcome {
    if operation.verb == "delete" {
        return if seen.gone {
            Outcome::Done
        } else {
            Outcome::Waiting(seen.progress.clone())
        };
    }
    if seen.gone {
        return Outcome::Failed(deleted_meanwhile(&operation.target));
    }
    if seen.ready_generation > 0 && seen.ready_generation >= operation.target_generation {
        return Outcome::Done;
    }
    match &seen.failure {
        Some(error) => Outcome::Failed(error.clone()),
        None => Outcome::Waiting(seen.progress.clone()),
    }
}

/// The end of operations on something that was deleted before they were done.
#[must_use]
pub fn deleted_meanwhile(target: &str) -> OperationError {
    OperationError {
        code: ABORTED,
        message: format!(
            "{target} was deleted before this was done: nothing is left to do; create it again if \
             it is still wanted"
        ),
        reason: "DELETED".to_owned(),
    }
}

/// The status of a node whose agent has just connected. `accepted` is what its Hello says it
/// accepted last, `store` what the store is at: identity and revision each.
#[must_use]
pub fn node_connected(
    node: &Node,
    inventory: Option<&Inventory>,
    accepted: (&str, i64),
    store: (&str, i64),
    now: &Timestamp,
) -> NodeStatus {
    let mut status = node.status.clone().unwrap_or_default();
    status.observed_generation = node.generation;
    status.last_seen_time = Some(*now);
    if let Some(inventory) = inventory {
        status.inventory = Some(inventory.clone());
    }
    let conditions = &mut status.conditions;
    online(conditions, now);
    let message = "the agent has not answered yet";
    set_condition(
        conditions,
        "Synced",
        ConditionStatus::False,
        "Applying",
        message,
        now,
    );
    match regression(accepted, store) {
        Some((reason, message)) => {
            let holds = ConditionStatus::True;
            set_condition(conditions, "StoreRegressed", holds, reason, &message, now);
        }
        None if !is_true(conditions, "StoreRegressed") => not_regressed(conditions, now),
        // It stays until the node's report has no orphan.
        None => {}
    }
    status
}

fn not_regressed(conditions: &mut Vec<Condition>, now: &Timestamp) {
    let message = "the store holds all that the node has seen";
    let holds = ConditionStatus::False;
    set_condition(
        conditions,
        "StoreRegressed",
        holds,
        "UpToDate",
        message,
        now,
    );
}

/// Whether the node has seen something newer than the store, and how to say it.
fn regression(accepted: (&str, i64), store: (&str, i64)) -> Option<(&'static str, String)> {
    if accepted.0.is_empty() {
        return None;
    }
    let remedy =
        "what the store lacks is served on as orphan; see the node's orphans and resolve them";
    if accepted.0 != store.0 {
        let message = format!(
            "the node has taken its state from store {} (revision {}), this is store {}: {remedy}",
            accepted.0, accepted.1, store.0
        );
        return Some(("OtherStore", message));
    }
    (accepted.1 > store.1).then(|| {
        let message = format!(
            "the node has seen revision {} of the store, which is at {}: {remedy}",
            accepted.1, store.1
        );
        ("RevisionBehind", message)
    })
}

/// The status of a node whose agent's stream has ended.
#[must_use]
pub fn node_disconnected(node: &Node, why: &str, now: &Timestamp) -> NodeStatus {
    let mut status = node.status.clone().unwrap_or_default();
    status.last_seen_time = Some(*now);
    let message = format!(
        "its agent is not connected ({why}); what it serves it serves on. Check the node and its \
         connection to control"
    );
    let conditions = &mut status.conditions;
    set_condition(
        conditions,
        "Online",
        ConditionStatus::False,
        "Disconnected",
        &message,
        now,
    );
    let message = "not known while its agent is not connected";
    set_condition(
        conditions,
        "Synced",
        ConditionStatus::Unknown,
        "Disconnected",
        message,
        now,
    );
    status
}

fn online(conditions: &mut Vec<Condition>, now: &Timestamp) {
    let message = "its agent is connected";
    set_condition(
        conditions,
        "Online",
        ConditionStatus::True,
        "Connected",
        message,
        now,
    );
}

/// The status of a node after a report. `sent_revision` is that of the last desired state sent to
/// it.
#[must_use]
pub fn node_report(
    node: &Node,
    report: &Report,
    sent_revision: i64,
    now: &Timestamp,
) -> NodeStatus {
    let mut status = node.status.clone().unwrap_or_default();
    if let Some(inventory) = &report.inventory {
        status.inventory = Some(inventory.clone());
    }
    if report.orphans_told {
        status.orphans.clone_from(&report.orphans);
        status.orphan_objects.clone_from(&report.orphan_objects);
    }
    // Its session lives. The Hello may have said so to a store that was put back since.
    online(&mut status.conditions, now);
    let orphans = status.orphans.len();
    let none = orphans == 0 && status.orphan_objects.is_empty();
    // A report from before the agent took this store's state tells of another revision.
    let current = report.accepted_revision == sent_revision;
    let conditions = &mut status.conditions;
    let (holds, reason, message) = if orphans > 0 {
        let message = format!(
            "it holds {orphans} volumes that the store does not know so: resolve each with \
             ResolveOrphan (ADOPT or DELETE)"
        );
        (ConditionStatus::False, "Orphans", message)
    } else if let Some(message) = orphan_objects(&status.orphan_objects) {
        (ConditionStatus::False, "OrphanObjects", message)
    } else if report.synced && current {
        (
            ConditionStatus::True,
            "Synced",
            "it serves what is wanted".to_owned(),
        )
    } else {
        (
            ConditionStatus::False,
            "Applying",
            "it is carrying out what is wanted".to_owned(),
        )
    };
    set_condition(conditions, "Synced", holds, reason, &message, now);
    if report.orphans_told && none && current {
        not_regressed(conditions, now);
    }
    status
}

/// What to do about namespaces and listeners that only the node knows, if there are any.
fn orphan_objects(objects: &[OrphanObject]) -> Option<String> {
    let first = objects.first()?;
    let what = match (first.volume.as_str(), objects.len() - 1) {
        ("", 0) => first.name.clone(),
        (volume, 0) => format!("{} of {volume}", first.name),
        (_, more) => format!("{} and {more} more", first.name),
    };
    Some(format!(
        "it serves {what} without the store's knowledge, see its orphan_objects: create each again (of \
         the same volume, or at the same address), and delete it then where it is not wanted"
    ))
}
