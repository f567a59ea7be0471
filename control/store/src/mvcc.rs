//! Keys with their history, in memory: what the simulated and the embedded store share.
//!
//! It does no I/O and knows no clock: `now` is the time since a moment that its owner chose.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use crate::{
    Change, Committed, Compare, Entry, LeaseId, Page, Range, Revision, StoreError, Txn, Write,
};

/// The revision of a store that nothing was written to yet (as etcd has it).
pub(crate) const FIRST_REVISION: Revision = 1;

/// What a key was from one revision on.
#[derive(Clone, Debug)]
struct Version {
    revision: Revision,
    /// `None`: it did not exist.
    entry: Option<Arc<Entry>>,
}

/// A lease.
#[derive(Clone, Debug)]
struct Lease {
    time_to_live: Duration,
    /// When it ends.
    deadline: Duration,
    keys: BTreeSet<String>,
}

/// One key's change: the key, what it was before, what it is after.
pub(crate) type KeyChange = (String, Option<Arc<Entry>>, Option<Arc<Entry>>);

/// Keys with their history, and leases.
#[derive(Clone, Debug)]
pub(crate) struct Mvcc {
    revision: Revision,
    oldest: Revision,
    /// Versions of each key, oldest first; of those before `oldest` only the last.
    keys: BTreeMap<String, Vec<Version>>,
    /// The keys that each revision changed, in their order.
    log: BTreeMap<Revision, Vec<String>>,
    leases: BTreeMap<LeaseId, Lease>,
    /// The leases in the order of their ends.
    deadlines: BTreeSet<(Duration, LeaseId)>,
}

/// One key's change as it is saved: the key, and what it was before.
pub(crate) type SavedChange = (String, Option<Entry>);

/// What a store's file holds, to make an [`Mvcc`] of.
pub(crate) struct Saved {
    pub(crate) revision: Revision,
    pub(crate) oldest: Revision,
    pub(crate) entries: Vec<Entry>,
    /// The keys each revision changed, with what they were before; newest first.
    pub(crate) log: Vec<(Revision, Vec<SavedChange>)>,
    pub(crate) leases: Vec<(LeaseId, Duration)>,
}

impl Mvcc {
    /// Nothing written yet.
    pub(crate) fn new() -> Self {
        Self {
            revision: FIRST_REVISION,
            oldest: FIRST_REVISION,
            keys: BTreeMap::new(),
            log: BTreeMap::new(),
            leases: BTreeMap::new(),
            deadlines: BTreeSet::new(),
        }
    }

    /// As it was when it was saved. Leases get their full time from `now`.
    pub(crate) fn restore(saved: Saved, now: Duration) -> Self {
        let mut mvcc = Self::new();
        mvcc.revision = saved.revision;
        mvcc.oldest = saved.oldest;
        for (id, time_to_live) in saved.leases {
            mvcc.grant(id, time_to_live, now);
        }
        let mut after = BTreeMap::new();
        for entry in saved.entries {
            if let Some(lease) = entry.lease.and_then(|id| mvcc.leases.get_mut(&id)) {
                lease.keys.insert(entry.key.clone());
            }
            after.insert(entry.key.clone(), Arc::new(entry));
        }
        for (revision, changes) in saved.log {
            let mut keys = Vec::new();
            for (key, before) in changes {
                let entry = match before {
                    Some(before) => after.insert(key.clone(), Arc::new(before)),
                    None => after.remove(&key),
                };
                let versions = mvcc.keys.entry(key.clone()).or_default();
                versions.push(Version { revision, entry });
                keys.push(key);
            }
            mvcc.log.insert(revision, keys);
        }
        for (key, entry) in after {
            mvcc.keys.entry(key).or_default().push(Version {
                revision: entry.mod_revision,
                entry: Some(entry),
            });
        }
        for versions in mvcc.keys.values_mut() {
            versions.reverse();
        }
        mvcc
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) fn oldest(&self) -> Revision {
        self.oldest
    }

    /// A key as of a revision that history has.
    pub(crate) fn get(&self, key: &str, at: Revision) -> Option<&Arc<Entry>> {
        version_at(self.keys.get(key)?, at)
    }

    /// A page as of its revision or, without, as of `now`.
    pub(crate) fn list(&self, range: &Range, now: Revision) -> Result<Page, StoreError> {
        let revision = range.revision.unwrap_or(now);
        if revision > now {
            return Err(StoreError::FutureRevision {
                asked: revision,
                current: now,
            });
        }
        if revision < self.oldest {
            return Err(StoreError::Compacted {
                oldest: self.oldest,
            });
        }
        let mut page = Page {
            entries: Vec::new(),
            revision: now,
            more: false,
        };
        if range.revision.is_some() {
            page.revision = revision;
        }
        let start = match &range.after {
            Some(after) if *after >= range.prefix => Bound::Excluded(after.as_str()),
            _ => Bound::Included(range.prefix.as_str()),
        };
        for (key, versions) in self.keys.range::<str, _>((start, Bound::Unbounded)) {
            if !key.starts_with(&range.prefix) {
                break;
            }
            let Some(entry) = version_at(versions, revision) else {
                continue;
            };
            if range.limit > 0 && page.entries.len() == range.limit {
                page.more = true;
                break;
            }
            page.entries.push(copy(entry, range.keys_only));
        }
        Ok(page)
    }

    fn holds(&self, compare: &Compare) -> bool {
        let entry = self.get(compare.key(), self.revision);
        match compare {
            Compare::Absent(_) => entry.is_none(),
            Compare::Present(_) => entry.is_some(),
            Compare::ModRevision(_, revision) => {
                entry.map_or(0, |entry| entry.mod_revision) == *revision
            }
            Compare::CreateRevision(_, revision) => {
                entry.map_or(0, |entry| entry.create_revision) == *revision
            }
            Compare::Value(_, value) => entry.is_some_and(|entry| entry.value == *value),
        }
    }

    /// Does a transaction whose form was checked.
    pub(crate) fn apply(&mut self, txn: &Txn) -> Result<Committed, StoreError> {
        if !txn.compares.iter().all(|compare| self.holds(compare)) {
            return Ok(Committed::No(self.revision));
        }
        let lost_lease = txn.writes.iter().any(|write| match write {
            Write::Put { lease, .. } => lease.is_some_and(|id| !self.leases.contains_key(&id)),
            Write::Delete { .. } => false,
        });
        if lost_lease {
            return Err(StoreError::LeaseExpired);
        }
        let revision = self.revision + 1;
        let mut changed = BTreeMap::new();
        for write in &txn.writes {
            let before = self.get(write.key(), self.revision);
            match write {
                Write::Put { key, value, lease } => {
                    let entry = Entry {
                        key: key.clone(),
                        value: value.clone(),
                        create_revision: before.map_or(revision, |entry| entry.create_revision),
                        mod_revision: revision,
                        lease: *lease,
                    };
                    changed.insert(key.clone(), Some(Arc::new(entry)));
                }
                Write::Delete { key } if before.is_some() => {
                    changed.insert(key.clone(), None);
                }
                Write::Delete { .. } => {}
            }
        }
        self.record(changed);
        Ok(Committed::Yes(self.revision))
    }

    /// Makes these changes the next revision, unless there are none.
    fn record(&mut self, changed: BTreeMap<String, Option<Arc<Entry>>>) {
        if changed.is_empty() {
            return;
        }
        let revision = self.revision + 1;
        for (key, entry) in &changed {
            self.move_lease(key, entry.as_ref().and_then(|entry| entry.lease));
            self.keys.entry(key.clone()).or_default().push(Version {
                revision,
                entry: entry.clone(),
            });
        }
        self.log.insert(revision, changed.into_keys().collect());
        self.revision = revision;
    }

    /// Takes a key from the lease that it went with and gives it to another.
    fn move_lease(&mut self, key: &str, to: Option<LeaseId>) {
        let from = self
            .get(key, self.revision)
            .and_then(|entry| entry.lease)
            .filter(|from| Some(*from) != to);
        if let Some(lease) = from.and_then(|from| self.leases.get_mut(&from)) {
            lease.keys.remove(key);
        }
        if let Some(lease) = to.and_then(|to| self.leases.get_mut(&to)) {
            lease.keys.insert(key.to_owned());
        }
    }

    /// The changes of one revision.
    pub(crate) fn changes_of(&self, revision: Revision) -> Vec<KeyChange> {
        let keys = self.log.get(&revision).map_or(&[][..], Vec::as_slice);
        keys.iter()
            .map(|key| {
                let before = self.get(key, revision - 1).cloned();
                (key.clone(), before, self.get(key, revision).cloned())
            })
            .collect()
    }

    /// The first revision in `from..=to` with changes of keys with this prefix, and those.
    pub(crate) fn changes(
        &self,
        prefix: &str,
        from: Revision,
        to: Revision,
    ) -> Option<(Revision, Vec<Change>)> {
        if from > to {
            return None;
        }
        let (revision, _) = self
            .log
            .range(from..=to)
            .find(|(_, keys)| keys.iter().any(|key| key.starts_with(prefix)))?;
        let changes = self
            .changes_of(*revision)
            .into_iter()
            .filter(|(key, _, _)| key.starts_with(prefix))
            .map(|(key, before, after)| {
                let previous = before.map(|entry| (*entry).clone());
                match after {
                    Some(entry) => Change::Put {
                        entry: (*entry).clone(),
                        previous,
                    },
                    None => Change::Delete {
                        key,
                        revision: *revision,
                        previous,
                    },
                }
            })
            .collect();
        Some((*revision, changes))
    }

    /// Whether a watch can go on at `next`, where the store is at `now`.
    pub(crate) fn check_watch(&self, next: Revision, now: Revision) -> Result<(), StoreError> {
        if next > now + 1 {
            return Err(StoreError::FutureRevision {
                asked: next,
                current: now,
            });
        }
        if next < self.oldest {
            return Err(StoreError::Compacted {
                oldest: self.oldest,
            });
        }
        Ok(())
    }

    /// Forgets history before `revision`.
    pub(crate) fn compact(&mut self, revision: Revision) -> Result<(), StoreError> {
        if revision > self.revision {
            return Err(StoreError::FutureRevision {
                asked: revision,
                current: self.revision,
            });
        }
        if revision <= self.oldest {
            return Ok(());
        }
        let kept = self.log.split_off(&revision);
        let forgotten = std::mem::replace(&mut self.log, kept);
        let touched: BTreeSet<String> = forgotten
            .into_values()
            .flatten()
            .chain(self.log.get(&revision).into_iter().flatten().cloned())
            .collect();
        for key in touched {
            let Some(versions) = self.keys.get_mut(&key) else {
                continue;
            };
            let reached = versions.partition_point(|version| version.revision <= revision);
            versions.drain(..reached.saturating_sub(1));
            if versions
                .first()
                .is_some_and(|first| first.entry.is_none() && first.revision < revision)
            {
                versions.remove(0);
            }
            if versions.is_empty() {
                self.keys.remove(&key);
            }
        }
        self.oldest = revision;
        Ok(())
    }

    /// Adds a lease, or renews it in full where there is one with this id.
    pub(crate) fn grant(&mut self, id: LeaseId, time_to_live: Duration, now: Duration) {
        let deadline = now.saturating_add(time_to_live);
        let lease = self.leases.entry(id).or_insert_with(|| Lease {
            time_to_live,
            deadline,
            keys: BTreeSet::new(),
        });
        self.deadlines.remove(&(lease.deadline, id));
        lease.time_to_live = time_to_live;
        lease.deadline = deadline;
        self.deadlines.insert((deadline, id));
    }

    pub(crate) fn keep_alive(&mut self, id: LeaseId, now: Duration) -> Result<(), StoreError> {
        let lease = self.leases.get(&id).ok_or(StoreError::LeaseExpired)?;
        self.grant(id, lease.time_to_live, now);
        Ok(())
    }

    /// Ends a lease: its keys go in one revision.
    pub(crate) fn revoke(&mut self, id: LeaseId) -> Result<(), StoreError> {
        let lease = self.leases.remove(&id).ok_or(StoreError::LeaseExpired)?;
        self.deadlines.remove(&(lease.deadline, id));
        self.record(lease.keys.into_iter().map(|key| (key, None)).collect());
        Ok(())
    }

    /// When the next lease ends, and which.
    pub(crate) fn next_expiry(&self) -> Option<(Duration, LeaseId)> {
        self.deadlines.first().copied()
    }

    /// Ends the leases whose time is over, in the order of their ends. Tells which.
    pub(crate) fn expire(&mut self, now: Duration) -> Vec<LeaseId> {
        let mut ended = Vec::new();
        while let Some((_, id)) = self.next_expiry().filter(|(deadline, _)| *deadline <= now) {
            if self.revoke(id).is_err() {
                break;
            }
            ended.push(id);
        }
        ended
    }

    /// Gives every lease its full time from now: while nobody could renew them, none ends.
    pub(crate) fn renew_all(&mut self, now: Duration) {
        let all: Vec<LeaseId> = self.leases.keys().copied().collect();
        for id in all {
            let _ = self.keep_alive(id, now);
        }
    }
}

fn version_at(versions: &[Version], at: Revision) -> Option<&Arc<Entry>> {
    let reached = versions.partition_point(|version| version.revision <= at);
    versions[..reached].last()?.entry.as_ref()
}

fn copy(entry: &Entry, keys_only: bool) -> Entry {
    Entry {
        key: entry.key.clone(),
        value: if keys_only {
            Vec::new()
        } else {
            entry.value.clone()
        },
        ..*entry
    }
}
