//! Steps that creations, updates and deletions of all kinds have in common.

use penstock_api::names::{Kind, ResourceName};
use penstock_api::resource::Resource;
use penstock_api::v1::Operation;
use penstock_api::well_known::FieldMask;
use tonic::Code;

use super::core::{Attempt, Call, Core};
use crate::audit;
use crate::fault::{Fault, Result};
use crate::ops::{self, Verb};
use crate::repo::{Change, Stored};
use crate::validate::{self, Policy, short};

impl Core {
    /// What exists under the name of a resource that is to be created: nothing, or the same. Unset
    /// fields of `given` are the same as anything.
    ///
    /// # Errors
    /// ALREADY_EXISTS where it is another; FAILED_PRECONDITION while it is being deleted; the store's.
    pub async fn existing<R: Policy>(
        &self,
        name: &ResourceName,
        given: &R,
    ) -> Result<Option<Stored<R>>> {
        let Some(stored) = self.repo.get::<R>(&name.key()).await? else {
            return Ok(None);
        };
        not_deleting(&stored.resource)?;
        let mut wanted = given.clone();
        wanted.inherit(&stored.resource);
        wanted.spec_mut().get_or_insert_default();
        let mut differences: Vec<String> = validate::differences(&stored.resource, &wanted)
            .iter()
            .map(ToString::to_string)
            .collect();
        // Labels that somebody has set since do not make it another resource.
        if !given.labels().is_empty() && given.labels() != stored.resource.labels() {
            differences.push("labels are others".to_owned());
        }
        if differences.is_empty() {
            return Ok(Some(stored));
        }
        Err(Fault::new(
            Code::AlreadyExists,
            "ALREADY_EXISTS",
            format!(
                "{name} exists already and is another: {}; choose another name, or update or delete the one that exists",
                differences.join(", ")
            ),
        )
        .with("resource", name)
        .with("uid", stored.resource.uid()))
    }

    /// A new resource with its identity and defaults.
    pub fn fresh<R: Policy>(&self, name: &ResourceName, given: &R) -> R {
        let now = self.now();
        let mut new = R::default();
        *new.name_mut() = name.to_string();
        *new.uid_mut() = self.env.ids.text();
        *new.generation_mut() = 1;
        *new.create_time_mut() = Some(now);
        *new.update_time_mut() = Some(now);
        new.labels_mut().clone_from(given.labels());
        *new.spec_mut() = given.spec().cloned();
        new.fill(&self.env.settings.cluster);
        new
    }

    /// Adds a new resource to a change.
    pub fn put_new<R: Policy>(&self, call: &Call, change: &mut Change, ids: &str, new: &R) {
        change.spec_absent::<R>(ids).put_spec(ids, new);
        let marker = change.keys().spec(R::KIND, ids);
        change.marker(marker);
        note::<R>(call, None, Some(new));
    }

    /// A resource as it is, and as it is to be by a mask. `generation` and `update_time` are set
    /// where there is a difference.
    ///
    /// # Errors
    /// NOT_FOUND, ABORTED for another version, INVALID_ARGUMENT, FAILED_PRECONDITION; the store's.
    pub async fn updated<R: Policy>(
        &self,
        name: &ResourceName,
        new: &R,
        mask: Option<&FieldMask>,
    ) -> Result<(Stored<R>, R)> {
        let stored = self
            .repo
            .get::<R>(&name.key())
            .await?
            .ok_or_else(|| Fault::not_found(&name.to_string()))?;
        let existing = &stored.resource;
        let mut updated = validate::paths(existing, new, mask)?;
        validate::resource(&updated)?;
        same_version(existing, new.etag())?;
        not_deleting(existing)?;
        let spec_changed = updated.spec() != existing.spec();
        if spec_changed {
            *updated.generation_mut() += 1;
        }
        if spec_changed || updated.labels() != existing.labels() {
            *updated.update_time_mut() = Some(self.now());
        }
        Ok((stored, updated))
    }

    /// The plain update of a resource: nothing else has to be looked at.
    ///
    /// # Errors
    /// As [`Core::updated`].
    pub async fn plan_update<R: Policy>(
        &self,
        call: &Call,
        name: &ResourceName,
        new: &R,
        mask: Option<&FieldMask>,
    ) -> Result<Attempt<R>> {
        let (stored, updated) = self.updated(name, new, mask).await?;
        if updated == stored.resource {
            return Ok(Attempt::Nothing(updated));
        }
        let mut change = self.repo.change();
        self.put_updated(call, &mut change, &stored, &updated);
        Ok(Attempt::Write(change, updated))
    }

    /// Adds a changed resource to a change.
    pub fn put_updated<R: Policy>(
        &self,
        call: &Call,
        change: &mut Change,
        stored: &Stored<R>,
        updated: &R,
    ) {
        change.spec_unchanged(stored).put_spec(&stored.ids, updated);
        let marker = change.keys().spec(R::KIND, &stored.ids);
        change.marker(marker);
        note(call, Some(&stored.resource), Some(updated));
    }

    /// The resource that is to be deleted, if it is there and the version that is meant.
    ///
    /// # Errors
    /// NOT_FOUND unless that is allowed, ABORTED for another version; the store's.
    pub async fn to_delete<R: Policy>(
        &self,
        name: &ResourceName,
        etag: &str,
        allow_missing: bool,
    ) -> Result<Option<Stored<R>>> {
        match self.repo.get::<R>(&name.key()).await? {
            Some(stored) => {
                // Who asks again, after a lost answer, has the etag from before.
                if !stored.resource.deleting() {
                    same_version(&stored.resource, etag)?;
                }
                Ok(Some(stored))
            }
            None if allow_missing => Ok(None),
            None => Err(Fault::not_found(&name.to_string())),
        }
    }

    /// Adds the begin of a deletion that the resource's node (its id) has to finish; or finds that it
    /// has begun.
    ///
    /// # Errors
    /// The store's.
    pub async fn begin_delete<R: Policy>(
        &self,
        call: &Call,
        mut change: Change,
        stored: &Stored<R>,
        node: &str,
    ) -> Result<Attempt<Operation>> {
        let resource = &stored.resource;
        let mut begun = ops::begin(resource, Verb::Delete, &call.caller.name, self.now());
        begun.progress = self.waits_for_node(node).await?;
        if resource.deleting() {
            if let Some(operation) = ops::find(&self.repo, &begun.name).await? {
                return Ok(Attempt::Nothing(operation));
            }
        } else {
            let mut deleting = resource.clone();
            *deleting.delete_time_mut() = Some(self.now());
            self.put_updated(call, &mut change, stored, &deleting);
        }
        self.put_begun(&mut change, &begun);
        Ok(Attempt::Write(change, begun))
    }

    /// Adds the whole deletion of a resource that no node knows of.
    ///
    /// # Errors
    /// The store's.
    pub async fn delete_now<R: Policy>(
        &self,
        call: &Call,
        mut change: Change,
        stored: &Stored<R>,
    ) -> Result<Attempt<Operation>> {
        let ended = self
            .put_removed(&mut change, stored, &call.caller.name)
            .await?;
        note::<R>(call, Some(&stored.resource), None);
        Ok(Attempt::Write(change, ended))
    }

    /// Adds the removal of a resource, the ends of operations on it, and the operation that deletes
    /// it, done.
    ///
    /// # Errors
    /// The store's.
    pub async fn put_removed<R: Resource>(
        &self,
        change: &mut Change,
        stored: &Stored<R>,
        requester: &str,
    ) -> Result<Operation> {
        let (now, lease) = (self.now(), self.lease().await?);
        change
            .spec_unchanged(stored)
            .status_unchanged(stored)
            .delete_resource::<R>(&stored.ids);
        ops::abandon(&self.repo, change, stored, lease, &now).await?;
        let begun = ops::begin(&stored.resource, Verb::Delete, requester, now);
        let ended = ops::ended(begun, None, now);
        change.put_operation(&ended, Some(lease));
        let marker = change.keys().operation_of(&ended.name);
        change.marker(marker);
        Ok(ended)
    }

    /// The operation of a deletion of what does not exist.
    ///
    /// # Errors
    /// The store's.
    pub async fn nothing_to_delete(
        &self,
        call: &Call,
        name: &ResourceName,
    ) -> Result<Attempt<Operation>> {
        let now = self.now();
        let operation = Operation {
            name: format!("operations/{}", self.env.ids.text()),
            verb: Verb::Delete.as_str().to_owned(),
            target: name.to_string(),
            create_time: Some(now),
            requester: call.caller.name.clone(),
            ..Operation::default()
        };
        self.done_at_once(operation).await
    }

    /// An operation that is done as it begins, with nothing else to write.
    ///
    /// # Errors
    /// The store's.
    pub async fn done_at_once(&self, operation: Operation) -> Result<Attempt<Operation>> {
        let mut change = self.repo.change();
        let ended = self.put_ended(&mut change, operation).await?;
        Ok(Attempt::Write(change, ended))
    }

    /// Adds an operation that is done with the change.
    ///
    /// # Errors
    /// The store's.
    pub async fn put_ended(&self, change: &mut Change, operation: Operation) -> Result<Operation> {
        let ended = ops::ended(operation, None, self.now());
        let lease = self.lease().await?;
        change.put_operation(&ended, Some(lease));
        let marker = change.keys().operation_of(&ended.name);
        change.marker(marker);
        Ok(ended)
    }

    /// Adds an operation that has begun.
    pub fn put_begun(&self, change: &mut Change, operation: &Operation) {
        change.put_operation(operation, None);
        let marker = change.keys().operation_of(&operation.name);
        change.marker(marker);
    }

    /// The operation that creates a resource that exists: as it is, or, where it is forgotten, anew.
    ///
    /// # Errors
    /// The store's.
    pub async fn creation_of<R: Policy>(
        &self,
        call: &Call,
        stored: &Stored<R>,
        ready: bool,
    ) -> Result<Attempt<Operation>> {
        let mut begun = ops::begin(
            &stored.resource,
            Verb::Create,
            &call.caller.name,
            self.now(),
        );
        if let Some(operation) = ops::find(&self.repo, &begun.name).await? {
            return Ok(Attempt::Nothing(operation));
        }
        begun.target_generation = 1;
        let mut change = self.repo.change();
        let key = change.keys().operation_of(&begun.name);
        change.unchanged(key, 0).still_exists(stored);
        if ready {
            begun = self.put_ended(&mut change, begun).await?;
        } else {
            self.put_begun(&mut change, &begun);
        }
        Ok(Attempt::Write(change, begun))
    }
}

/// Notes for the audit what a resource was and what it is.
pub fn note<R: Policy>(call: &Call, before: Option<&R>, after: Option<&R>) {
    let told = |resource: Option<&R>| match resource {
        None => String::new(),
        Some(resource) => {
            // The status is not the caller's doing.
            let mut resource = resource.clone();
            resource.take_status();
            audit::json(&resource)
        }
    };
    call.trail.note(|record| {
        record.before = told(before);
        record.after = told(after);
    });
}

/// Refuses another version than the one that is meant; an empty etag means any.
///
/// # Errors
/// ABORTED.
pub fn same_version<R: Policy>(resource: &R, etag: &str) -> Result<()> {
    if etag.is_empty() || etag == resource.etag() {
        return Ok(());
    }
    Err(Fault::etag_mismatch(
        resource.name(),
        &short(etag),
        resource.etag(),
    ))
}

/// Refuses what is being deleted.
///
/// # Errors
/// FAILED_PRECONDITION.
pub fn not_deleting<R: Policy>(resource: &R) -> Result<()> {
    if !resource.deleting() {
        return Ok(());
    }
    let operation = ops::name(resource.uid(), Verb::Delete);
    Err(Fault::precondition(
        "BEING_DELETED",
        format!(
            "{} is being deleted; wait for {operation}, then try again",
            resource.name()
        ),
    )
    .with("resource", resource.name())
    .with("operation", operation))
}

/// Says that something is still used.
pub fn in_use(name: &str, users: &[String], total: usize, remedy: &str) -> Fault {
    let users = validate::some_of(users, total);
    Fault::precondition("IN_USE", format!("{name} is in use by {users}; {remedy}"))
        .with("resource", name)
        .with("users", users)
}

/// Says that a field names what does not exist.
pub fn no_such(field: &str, name: &str) -> Fault {
    Fault::precondition(
        "REFERENCE_NOT_FOUND",
        format!("{field} names {name}, which does not exist; create it first, or name another"),
    )
    .with("field", field)
    .with("resource", name)
}

/// The id of a name of this kind, whose grammar was checked before.
pub fn id_in(kind: Kind, name: &str) -> String {
    crate::keys::ids_of(kind, name).unwrap_or_default()
}
