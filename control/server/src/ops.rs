//! Operations: how they are named, begun and ended.
//!
//! The identity of an operation follows from what it does to which resource, so that the operation
//! that a repeated call means is found without a search: the one that creates a resource, the one
//! that brings it to a generation, the one that deletes it.

use penstock_api::names::Kind;
use penstock_api::resource::Resource;
use penstock_api::v1::{Operation, OperationError};
use penstock_api::well_known::Timestamp;
use penstock_store::LeaseId;
use uuid::Uuid;

use crate::fault::Result;
use crate::repo::{Change, Repo, Stored, decode};

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Creates the resource.
    Create,
    /// Brings it to a generation.
    Update(i64),
    /// Deletes it.
    Delete,
}

impl Verb {
    /// As operations tell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Update(_) => "update",
            Verb::Delete => "delete",
        }
    }
}

/// Name of the operation that does this to the resource with this uid.
pub fn name(uid: &str, verb: Verb) -> String {
    let text = match verb {
        Verb::Create | Verb::Delete => format!("{uid}/{}", verb.as_str()),
        Verb::Update(generation) => format!("{uid}/update/{generation}"),
    };
    let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes());
    format!("operations/{id}")
}

/// A new operation on a resource, for the generation that the resource has.
pub fn begin<R: Resource>(resource: &R, verb: Verb, requester: &str, now: Timestamp) -> Operation {
    Operation {
        name: name(resource.uid(), verb),
        verb: verb.as_str().to_owned(),
        target: resource.name().to_owned(),
        target_uid: resource.uid().to_owned(),
        target_generation: resource.generation(),
        create_time: Some(now),
        requester: requester.to_owned(),
        ..Operation::default()
    }
}

/// The operation, ended now, with or without an error.
#[must_use]
pub fn ended(mut operation: Operation, error: Option<OperationError>, now: Timestamp) -> Operation {
    operation.done = true;
    operation.end_time = Some(now);
    operation.progress.clear();
    operation.error = error;
    operation
}

/// An operation by its name.
///
/// # Errors
/// The store's.
pub async fn find(repo: &Repo, name: &str) -> Result<Option<Operation>> {
    let entry = repo.entry(&repo.keys().operation_of(name), None).await?;
    entry.as_ref().map(decode).transpose()
}

/// Ends, with the resource's removal, the operations that wait for something else of it.
///
/// # Errors
/// The store's.
pub async fn abandon<R: Resource>(
    repo: &Repo,
    change: &mut Change,
    stored: &Stored<R>,
    lease: LeaseId,
    now: &Timestamp,
) -> Result<()> {
    // Older generations than these have been reached or overtaken.
    const GENERATIONS: i64 = 8;
    let resource = &stored.resource;
    let newest = resource.generation();
    let oldest = 2.max(newest - GENERATIONS);
    let verbs = std::iter::once(Verb::Create).chain((oldest..=newest).map(Verb::Update));
    for verb in verbs {
        let name = name(resource.uid(), verb);
        let key = repo.keys().operation_of(&name);
        let Some(entry) = repo.entry(&key, None).await? else {
            continue;
        };
        let operation: Operation = decode(&entry)?;
        if !operation.done {
            let error = penstock_plan::observe::deleted_meanwhile(resource.name());
            change.unchanged(key, entry.mod_revision);
            change.put_operation(&ended(operation, Some(error), *now), Some(lease));
        }
    }
    Ok(())
}

/// The kinds whose changes are operations.
pub const KINDS: [Kind; 3] = [Kind::Volume, Kind::Namespace, Kind::Listener];
