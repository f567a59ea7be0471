//! Where control keeps its state: one trait, [`Store`], with the semantics of etcd, and its
//! implementations.
//!
//! - [`sim`]: in memory, with faults on demand, the same every time: for simulations and tests.
//!
//! All pass one conformance suite. Values are opaque here; keys are UTF-8 text.
//!
//! A transaction that timed out may have happened or not. Whoever needs to know gives the
//! transaction a [`Txn::marker`]: a key and value that it writes with the rest. After a lost answer
//! the store reads the marker again and tells which it was.
#![forbid(unsafe_code)]

mod check;
pub mod embedded;
pub mod etcd;
mod mvcc;
pub mod sim;

use std::time::Duration;

use async_trait::async_trait;

/// A revision of the whole store: goes up by one with every transaction that writes.
pub type Revision = i64;

/// A lease's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub i64);

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// Revision at which the key was created.
    pub create_revision: Revision,
    /// Revision of its last change.
    pub mod_revision: Revision,
    /// The lease that it goes with.
    pub lease: Option<LeaseId>,
}

/// What keys to list.
#[derive(Clone, Debug, Default)]
pub struct Range {
    /// Keys that start with this.
    pub prefix: String,
    /// Only keys after this one (exclusive).
    pub after: Option<String>,
    /// Most entries to return; 0 for all.
    pub limit: usize,
    /// As of this revision; `None` for now.
    pub revision: Option<Revision>,
    /// Leave the values out.
    pub keys_only: bool,
}

/// A page of entries in the order of their keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The entries.
    pub entries: Vec<Entry>,
    /// The revision they are of.
    pub revision: Revision,
    /// Whether more follow.
    pub more: bool,
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent(String),
    /// The key exists.
    Present(String),
    /// The key's last change was at this revision.
    ModRevision(String, Revision),
    /// The key was created at this revision (and not deleted since): what a leader compares its
    /// election key with.
    CreateRevision(String, Revision),
    /// The key has this value.
    Value(String, Vec<u8>),
}

/// A write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets a key.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Vec<u8>,
        /// The lease it goes with.
        lease: Option<LeaseId>,
    },
    /// Removes a key; no matter where it does not exist.
    Delete {
        /// The key.
        key: String,
    },
}

/// Writes that happen together if all conditions hold, or not at all. At most [`TXN_OPS_MAX`]
/// conditions and as many writes, none of the keys written twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// The conditions.
    pub compares: Vec<Compare>,
    /// The writes.
    pub writes: Vec<Write>,
    /// One of the written keys whose value is unique to this transaction: after a lost answer the
    /// store tells by it whether the transaction happened. Nobody else may remove or change the key
    /// within the minute after.
    pub marker: Option<String>,
}

/// Most conditions, and most writes, of a transaction (etcd's default).
pub const TXN_OPS_MAX: usize = 128;

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// All conditions held; it was written at this revision.
    Yes(Revision),
    /// A condition did not hold; nothing was written. The revision is the store's.
    No(Revision),
}

/// A change that a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key was set.
    Put {
        /// As it is now.
        entry: Entry,
        /// As it was before, where it existed and history still has it.
        previous: Option<Entry>,
    },
    /// The key was removed, by a transaction or with its lease.
    Delete {
        /// The key.
        key: String,
        /// The revision of its removal.
        revision: Revision,
        /// As it was before, where history still has it.
        previous: Option<Entry>,
    },
}

/// What comes out of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchItem {
    /// All changes of one revision, in the order of their keys.
    Changes {
        /// The revision.
        revision: Revision,
        /// The changes.
        changes: Vec<Change>,
    },
    /// Nothing of interest happened up to this revision.
    Progress {
        /// The revision.
        revision: Revision,
    },
}

/// A running watch. It reconnects by itself and resumes where it was; dropping it ends it.
#[async_trait]
pub trait Watch: Send {
    /// The next item.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] where history no longer has what follows: list again. The watch is
    /// over then. [`StoreError::Replaced`] where another store answers than before. Anything that
    /// passes is retried inside and not told.
    async fn next(&mut self) -> Result<WatchItem, StoreError>;
}

/// Why the store did not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// History before this revision is gone.
    #[error("the store's history before revision {oldest} is compacted; list again")]
    Compacted {
        /// The oldest revision that can be read.
        oldest: Revision,
    },
    /// A revision that the store has not reached: the store is older than who asks.
    #[error(
        "revision {asked} is in the future: the store is at {current}; it may have been restored from a snapshot"
    )]
    FutureRevision {
        /// What was asked for.
        asked: Revision,
        /// Where the store is.
        current: Revision,
    },
    /// Another store answers than before: made anew, or restored.
    #[error(
        "the store is another one ({found}) than before ({expected}): it was made anew or restored from a snapshot"
    )]
    Replaced {
        /// The identity before.
        expected: String,
        /// The identity now.
        found: String,
    },
    /// The store does not answer. For a transaction: it certainly did not happen.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// No answer to a transaction, and it could not be found out whether it happened.
    #[error("the store did not answer in time; the change may or may not have happened: {0}")]
    Unknown(String),
    /// The lease is gone.
    #[error("the lease has expired")]
    LeaseExpired,
    /// The store takes no more data.
    #[error(
        "the store is full ({0}); raise its quota (etcd: --quota-backend-bytes), or compact and defragment it, then clear the alarm (etcdctl alarm disarm)"
    )]
    Full(String),
    /// User or password are refused, or the user may not do this.
    #[error("the store refuses access: {0}")]
    Denied(String),
    /// Too much for one request or transaction.
    #[error("too large for one request to the store: {0}")]
    TooLarge(String),
    /// A mistake of the caller or a damaged store.
    #[error("the store failed: {0}")]
    Internal(String),
}

impl StoreError {
    /// One word for the kind of error, for metrics and logs.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Compacted { .. } => "compacted",
            Self::FutureRevision { .. } => "future_revision",
            Self::Replaced { .. } => "replaced",
            Self::Unavailable(_) => "unavailable",
            Self::Unknown(_) => "unknown",
            Self::LeaseExpired => "lease_expired",
            Self::Full(_) => "full",
            Self::Denied(_) => "denied",
            Self::TooLarge(_) => "too_large",
            Self::Internal(_) => "internal",
        }
    }
}

/// A store. Every method may be called at any time from any task; deadlines are inside
/// ([`StoreError::Unavailable`] after a few seconds, configurable).
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Identity of this store: differs after it was made anew or restored from a snapshot (etcd: the
    /// cluster id of the response headers).
    async fn id(&self) -> Result<String, StoreError>;

    /// One key now, and the store's revision. Linearizable.
    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision), StoreError>;

    /// A page of keys, now (linearizable) or as of a revision.
    async fn list(&self, range: Range) -> Result<Page, StoreError>;

    /// Writes all or nothing.
    async fn txn(&self, txn: Txn) -> Result<Committed, StoreError>;

    /// Watches the keys with this prefix, from the changes of `from` (inclusive) on: at most one
    /// above the store's revision.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] and [`StoreError::FutureRevision`], here or from the watch's first
    /// item.
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Box<dyn Watch>, StoreError>;

    /// Makes a lease. Keys that go with it are removed when it ends.
    async fn grant(&self, time_to_live: Duration) -> Result<LeaseId, StoreError>;

    /// Renews a lease.
    ///
    /// # Errors
    /// [`StoreError::LeaseExpired`] where it is gone.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends a lease and removes its keys.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Forgets history before `revision`; nothing to do where that is forgotten already.
    ///
    /// # Errors
    /// [`StoreError::FutureRevision`] where the store has not reached it.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;
}
