//! Resources in the store: reading them with spec and status as of one revision, and building the
//! transactions that change them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use penstock_api::names::{Kind, ResourceName};
use penstock_api::resource::Resource;
use penstock_api::v1::Operation;
use penstock_store::{Committed, Compare, Entry, LeaseId, Range, Revision, Store, Txn, Write};
use prost::Message;

use crate::env::Env;
use crate::fault::{Fault, Result};
use crate::keys::{Keys, ids_of, unchanged};

/// A resource with where it stands in the store.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored<R> {
    /// The resource with its status and etag.
    pub resource: R,
    /// The ids of its name, joined by `/`.
    pub ids: String,
    /// Revision at which it was created.
    pub create_revision: Revision,
    /// Revision of the last change of spec or labels.
    pub spec_revision: Revision,
    /// Revision of the last change of the status; 0 where there is none.
    pub status_revision: Revision,
    /// The store's revision when it was read.
    pub revision: Revision,
}

/// A page of resources, all as of one revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Resources<R> {
    /// In the order of their keys.
    pub items: Vec<Stored<R>>,
    /// The revision they are of.
    pub revision: Revision,
    /// Whether more follow.
    pub more: bool,
}

/// Typed access to the store. Cheap to clone.
#[derive(Clone)]
pub struct Repo {
    store: Arc<dyn Store>,
    keys: Keys,
    /// The store's revision when a resource was read last.
    read_at: Arc<AtomicI64>,
}

impl Repo {
    /// Access to the store of this environment.
    pub fn new(env: &Env) -> Repo {
        Repo {
            store: Arc::clone(&env.store),
            keys: Keys::new(env.settings.prefix()),
            read_at: Arc::default(),
        }
    }

    /// The store's revision when a resource was read last by [`Repo::get`]; 0 before the first.
    pub fn read_at(&self) -> Revision {
        self.read_at.load(Ordering::Relaxed)
    }

    /// The store below.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Where things lie in it.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// One key as of a revision, or now.
    ///
    /// # Errors
    /// The store's.
    pub async fn entry(&self, key: &str, revision: Option<Revision>) -> Result<Option<Entry>> {
        let Some(revision) = revision else {
            return Ok(self.store.get(key).await?.0);
        };
        // The key itself is the first of all keys that start with it.
        let range = Range {
            prefix: key.to_owned(),
            limit: 1,
            revision: Some(revision),
            ..Range::default()
        };
        let page = self.store.list(range).await?;
        Ok(page.entries.into_iter().find(|entry| entry.key == key))
    }

    /// A resource by the ids of its name, spec and status as of the same revision.
    ///
    /// # Errors
    /// The store's; `STORE_DAMAGED` where a value cannot be read.
    pub async fn get<R: Resource>(&self, ids: &str) -> Result<Option<Stored<R>>> {
        let (spec, revision) = self.store.get(&self.keys.spec(R::KIND, ids)).await?;
        self.read_at.store(revision, Ordering::Relaxed);
        let Some(spec) = spec else {
            return Ok(None);
        };
        let status_key = self.keys.status(R::KIND, ids);
        let status = match self.entry(&status_key, Some(revision)).await {
            // The history went between the two reads: what is now is as good.
            Err(fault) if fault.reason == "HISTORY_COMPACTED" => {
                self.entry(&status_key, None).await?
            }
            other => other?,
        };
        merge(ids, &spec, status.as_ref(), revision).map(Some)
    }

    /// A resource by its name. See [`Repo::get`].
    ///
    /// # Errors
    /// As [`Repo::get`]; `NOT_FOUND`, also where it is no name of the kind.
    pub async fn named<R: Resource>(&self, name: &str) -> Result<Stored<R>> {
        let ids = ids_of(R::KIND, name).ok_or_else(|| Fault::not_found(name))?;
        self.get(&ids).await?.ok_or_else(|| Fault::not_found(name))
    }

    /// A page of the resources whose ids start with `prefix`, those after `after`, as of `revision`
    /// (or now). `limit` 0 is all.
    ///
    /// # Errors
    /// As [`Repo::get`].
    pub async fn list<R: Resource>(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        revision: Option<Revision>,
    ) -> Result<Resources<R>> {
        let specs = self.keys.specs(R::KIND);
        let page = self
            .store
            .list(Range {
                prefix: format!("{specs}{prefix}"),
                after: after.map(|ids| format!("{specs}{ids}")),
                limit,
                revision,
                keys_only: false,
            })
            .await?;
        let Some(last) = page.entries.last() else {
            return Ok(Resources {
                items: Vec::new(),
                revision: page.revision,
                more: page.more,
            });
        };
        let last = ids(&specs, &last.key).to_owned();
        let statuses = self.keys.statuses(R::KIND);
        let statuses = self
            .entries(&statuses, prefix, after, &last, limit, page.revision)
            .await?;
        let mut statuses = statuses.into_iter().peekable();
        let mut items = Vec::with_capacity(page.entries.len());
        for entry in &page.entries {
            let ids = ids(&specs, &entry.key);
            while statuses.next_if(|(of, _)| of.as_str() < ids).is_some() {}
            let status = statuses
                .next_if(|(of, _)| of == ids)
                .map(|(_, entry)| entry);
            items.push(merge(ids, entry, status.as_ref(), page.revision)?);
        }
        Ok(Resources {
            items,
            revision: page.revision,
            more: page.more,
        })
    }

    /// All resources whose ids start with `prefix`, now, read in pages of one revision.
    ///
    /// # Errors
    /// As [`Repo::get`].
    pub async fn all<R: Resource>(
        &self,
        prefix: &str,
        revision: Option<Revision>,
    ) -> Result<Resources<R>> {
        const PAGE: usize = 1_000;
        let mut all = self.list::<R>(prefix, None, PAGE, revision).await?;
        while all.more {
            let after = all.items.last().map(|item| item.ids.clone());
            let page = self
                .list::<R>(prefix, after.as_deref(), PAGE, Some(all.revision))
                .await?;
            all.items.extend(page.items);
            all.more = page.more;
        }
        Ok(all)
    }

    /// Entries under `base` from `after` to `last` (by their ids), as of a revision, each with the
    /// rest of its key.
    ///
    /// # Errors
    /// The store's.
    pub async fn entries(
        &self,
        base: &str,
        prefix: &str,
        after: Option<&str>,
        last: &str,
        limit: usize,
        revision: Revision,
    ) -> Result<Vec<(String, Entry)>> {
        let mut after = after.map(|ids| format!("{base}{ids}"));
        let mut found = Vec::new();
        loop {
            let page = self
                .store
                .list(Range {
                    prefix: format!("{base}{prefix}"),
                    after: after.take(),
                    limit,
                    revision: Some(revision),
                    keys_only: false,
                })
                .await?;
            after = page.entries.last().map(|entry| entry.key.clone());
            let past = after.as_deref().is_none_or(|key| ids(base, key) >= last);
            for entry in page.entries {
                let ids = ids(base, &entry.key);
                if ids <= last {
                    found.push((ids.to_owned(), entry));
                }
            }
            if past || !page.more {
                return Ok(found);
            }
        }
    }

    /// Writes a change. `None` where a condition of it did not hold and nothing was written.
    ///
    /// # Errors
    /// The store's.
    pub async fn commit(&self, change: Change) -> Result<Option<Revision>> {
        match self.store.txn(change.txn).await? {
            Committed::Yes(revision) => Ok(Some(revision)),
            Committed::No(_) => Ok(None),
        }
    }

    /// A change without writes yet.
    pub fn change(&self) -> Change {
        Change {
            keys: self.keys.clone(),
            txn: Txn::default(),
        }
    }
}

fn ids<'k>(base: &str, key: &'k str) -> &'k str {
    key.strip_prefix(base).unwrap_or(key)
}

/// A value of the store as a message.
///
/// # Errors
/// `STORE_DAMAGED`.
pub fn decode<M: Message + Default>(entry: &Entry) -> Result<M> {
    M::decode(entry.value.as_slice()).map_err(|error| Fault::damaged(&entry.key, error))
}

/// The etag of a resource whose spec was last changed at this revision.
pub fn etag(spec_revision: Revision) -> String {
    format!("{spec_revision:x}")
}

/// A resource of its two parts.
///
/// # Errors
/// `STORE_DAMAGED`.
pub fn merge<R: Resource>(
    ids: &str,
    spec: &Entry,
    status: Option<&Entry>,
    revision: Revision,
) -> Result<Stored<R>> {
    let mut resource: R = decode(spec)?;
    *resource.etag_mut() = etag(spec.mod_revision);
    *resource.status_mut() = status.map(decode).transpose()?;
    Ok(Stored {
        resource,
        ids: ids.to_owned(),
        create_revision: spec.create_revision,
        spec_revision: spec.mod_revision,
        status_revision: status.map_or(0, |entry| entry.mod_revision),
        revision,
    })
}

/// A transaction in the making.
#[derive(Clone, Debug)]
pub struct Change {
    keys: Keys,
    txn: Txn,
}

impl Change {
    /// Where things lie.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Only if this holds.
    pub fn require(&mut self, compare: Compare) -> &mut Change {
        if !self.txn.compares.contains(&compare) {
            self.txn.compares.push(compare);
        }
        self
    }

    /// Only if the key is as it was at this revision, or absent (0).
    pub fn unchanged(&mut self, key: String, revision: Revision) -> &mut Change {
        self.require(unchanged(key, revision))
    }

    /// Only if no such resource exists.
    pub fn spec_absent<R: Resource>(&mut self, ids: &str) -> &mut Change {
        let key = self.keys.spec(R::KIND, ids);
        self.require(Compare::Absent(key))
    }

    /// Only if spec and labels are as they were read.
    pub fn spec_unchanged<R: Resource>(&mut self, stored: &Stored<R>) -> &mut Change {
        let key = self.keys.spec(R::KIND, &stored.ids);
        self.unchanged(key, stored.spec_revision)
    }

    /// Only if the status is as it was read.
    pub fn status_unchanged<R: Resource>(&mut self, stored: &Stored<R>) -> &mut Change {
        let key = self.keys.status(R::KIND, &stored.ids);
        self.unchanged(key, stored.status_revision)
    }

    /// Only if the resource that was read still exists, changed or not.
    pub fn still_exists<R: Resource>(&mut self, stored: &Stored<R>) -> &mut Change {
        let key = self.keys.spec(R::KIND, &stored.ids);
        self.require(Compare::CreateRevision(key, stored.create_revision))
    }

    /// Sets a key. A key that is set already stays as it was set first.
    pub fn put(&mut self, key: String, value: Vec<u8>, lease: Option<LeaseId>) -> &mut Change {
        let written = self.txn.writes.iter().any(|write| match write {
            Write::Put { key: other, .. } | Write::Delete { key: other } => *other == key,
        });
        if !written {
            self.txn.writes.push(Write::Put { key, value, lease });
        }
        self
    }

    /// Removes a key.
    pub fn delete(&mut self, key: String) -> &mut Change {
        self.txn.writes.push(Write::Delete { key });
        self
    }

    /// Writes spec and labels of a resource; its status and etag are left out.
    pub fn put_spec<R: Resource>(&mut self, ids: &str, resource: &R) -> &mut Change {
        let mut stored = resource.clone();
        stored.take_status();
        stored.etag_mut().clear();
        let key = self.keys.spec(R::KIND, ids);
        self.put(key, stored.encode_to_vec(), None)
    }

    /// Writes the status of a resource.
    pub fn put_status<R: Resource>(&mut self, ids: &str, status: &R::Status) -> &mut Change {
        let key = self.keys.status(R::KIND, ids);
        self.put(key, status.encode_to_vec(), None)
    }

    /// Removes a resource, spec and status.
    pub fn delete_resource<R: Resource>(&mut self, ids: &str) -> &mut Change {
        let (spec, status) = (self.keys.spec(R::KIND, ids), self.keys.status(R::KIND, ids));
        self.delete(spec).delete(status)
    }

    /// Writes an operation. The lease is that of operations that have ended.
    pub fn put_operation(&mut self, operation: &Operation, lease: Option<LeaseId>) -> &mut Change {
        let key = self.keys.operation_of(&operation.name);
        self.put(key, operation.encode_to_vec(), lease)
    }

    /// Takes something that only one may have, only if nobody has it.
    pub fn claim(&mut self, key: String, owner: &str) -> &mut Change {
        self.require(Compare::Absent(key.clone()));
        self.put(key, owner.as_bytes().to_vec(), None)
    }

    /// Tells deleters of this resource that something refers to it from now on.
    pub fn guard_use(&mut self, kind: Kind, ids: &str) -> &mut Change {
        let key = self.keys.guard_use(kind, ids);
        self.put(key, Vec::new(), None)
    }

    /// As [`Change::guard_use`], by name.
    pub fn guard_name(&mut self, name: &ResourceName) -> &mut Change {
        self.guard_use(name.kind(), &name.key())
    }

    /// The key by whose value the store can tell whether this happened, after a lost answer.
    pub fn marker(&mut self, key: String) -> &mut Change {
        self.txn.marker = Some(key);
        self
    }

    /// Whether a marker is chosen.
    pub fn has_marker(&self) -> bool {
        self.txn.marker.is_some()
    }

    /// Nothing is written.
    pub fn is_empty(&self) -> bool {
        self.txn.writes.is_empty()
    }

    /// The transaction.
    pub fn into_txn(self) -> Txn {
        self.txn
    }
}
