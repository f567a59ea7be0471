//! The whole state in memory: listed once, then kept up to date by a watch.
//!
//! Every server has one. Reads of the API do not use it (they ask the store, and so see everything
//! that happened before); the leader and the streams to agents do. Whoever wants to follow it
//! subscribes: a subscription gathers what changed until it is taken, so that a slow follower costs
//! no more than the number of things there are.

mod view;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use penstock_api::resource::KINDS;
use penstock_store::{Change, Range, Revision, StoreError, Watch, WatchItem};
use tokio::sync::Notify;
use tokio::time::Instant;

pub use view::{Changes, Claimed, Held, Item, Table, View, children, key_of, parent_of};

use crate::env::Env;
use crate::keys::Keys;
use crate::signal::Signal;

/// Entries read at a time when everything is listed.
const LIST_PAGE: usize = 1_000;

/// How long to wait after a failure, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// How long a watch is believed before everything is listed again. A store that was put back in its
/// place, and was written past where the watch stood before that came back to it, is not told from
/// one that went on.
const ANEW: Duration = Duration::from_secs(300);

/// After how long a revision that does not come may be one of a store that was put back since.
const LOST_AFTER: Duration = Duration::from_secs(2);

/// What of the state somebody follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Everything.
    All,
    /// What concerns a node (by id), and where subsystems can be reached.
    Node(String),
    /// Who has a role.
    Role(String),
}

/// What changed since it was last taken.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    /// What, each with the time when its oldest change was seen.
    pub items: BTreeMap<Item, Instant>,
    /// Where subsystems can be reached changed, or who may.
    pub ports: bool,
}

struct Inbox {
    interest: Interest,
    pending: Mutex<Pending>,
    notify: Notify,
}

impl Inbox {
    fn tell(&self, changes: &Changes, now: Instant) {
        let (items, ports) = match &self.interest {
            Interest::All => (Some(&changes.items), changes.ports),
            Interest::Node(node) => (changes.by_node.get(node), changes.ports),
            Interest::Role(role) => {
                if changes.items.contains(&Item::Election(role.clone())) {
                    self.notify.notify_one();
                }
                return;
            }
        };
        if items.is_none() && !ports {
            return;
        }
        let mut pending = lock(&self.pending);
        for item in items.into_iter().flatten() {
            pending.items.entry(item.clone()).or_insert(now);
        }
        pending.ports |= ports;
        self.notify.notify_one();
    }
}

/// Gathers changes for one follower. Dropping it ends that.
pub struct Subscription {
    inbox: Arc<Inbox>,
}

impl Subscription {
    /// Returns when there is something to take. May return for nothing.
    pub async fn changed(&self) {
        self.inbox.notify.notified().await;
    }

    /// Takes what has gathered.
    pub fn take(&self) -> Pending {
        std::mem::take(&mut *lock(&self.inbox.pending))
    }
}

/// How far the mirror has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Everything was listed and is watched.
    pub synced: bool,
    /// The store; empty before the first list.
    pub store_id: String,
    /// Everything up to this revision is in.
    pub revision: Revision,
    /// Why it is not synced.
    pub problem: String,
}

struct Shared {
    env: Env,
    keys: Keys,
    view: Mutex<View>,
    inboxes: Mutex<Vec<Weak<Inbox>>>,
    progress: Signal<Progress>,
}

/// The state in memory. Cheap to clone.
#[derive(Clone)]
pub struct Mirror {
    shared: Arc<Shared>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mirror {
    /// An empty mirror; [`Mirror::run`] fills it.
    pub fn new(env: Env) -> Mirror {
        let keys = Keys::new(env.settings.prefix());
        Mirror {
            shared: Arc::new(Shared {
                env,
                keys,
                view: Mutex::default(),
                inboxes: Mutex::default(),
                progress: Signal::new(Progress::default()),
            }),
        }
    }

    /// Looks at the state. `look` must be quick: changes wait for it.
    pub fn with<R>(&self, look: impl FnOnce(&View) -> R) -> R {
        look(&lock(&self.shared.view))
    }

    /// Follows changes from now on.
    pub fn subscribe(&self, interest: Interest) -> Subscription {
        let inbox = Arc::new(Inbox {
            interest,
            pending: Mutex::default(),
            notify: Notify::new(),
        });
        lock(&self.shared.inboxes).push(Arc::downgrade(&inbox));
        Subscription { inbox }
    }

    /// How far it has come, now and from now on.
    pub fn progress(&self) -> Signal<Progress> {
        self.shared.progress.clone()
    }

    /// Returns once everything up to `revision` is in, or everything there is where the store was
    /// put back to before it (false): what was written then is lost.
    pub async fn reached(&self, mut revision: Revision) -> bool {
        let wanted = revision;
        loop {
            let there = self
                .shared
                .progress
                .wait_for(|progress| progress.synced && progress.revision >= revision);
            if tokio::time::timeout(LOST_AFTER, there).await.is_ok() {
                return revision == wanted;
            }
            let any = self.shared.keys.root();
            if let Ok((_, current)) = self.shared.env.store.get(any).await {
                revision = revision.min(current);
            }
        }
    }

    /// Keeps the mirror up to date, for ever.
    pub async fn run(&self) {
        let mut backoff = BACKOFF.0;
        loop {
            let error = match self.list().await {
                Ok(mut watch) => {
                    backoff = BACKOFF.0;
                    let follow = self.follow(watch.as_mut());
                    match tokio::time::timeout(ANEW, follow).await {
                        Ok(error) => error,
                        Err(_) => continue,
                    }
                }
                Err(error) => error,
            };
            self.shared.progress.change(|progress| {
                progress.synced = false;
                progress.problem = error.to_string();
            });
            if !matches!(error, StoreError::Compacted { .. }) {
                tracing::warn!(%error, "the state in memory is read anew");
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    /// Lists everything, tells followers what differs, and watches what follows.
    async fn list(&self) -> Result<Box<dyn Watch>, StoreError> {
        let store = &self.shared.env.store;
        let id = store.id().await?;
        let mut range = Range {
            prefix: self.shared.keys.root().to_owned(),
            limit: LIST_PAGE,
            ..Range::default()
        };
        let mut changes = Changes::default();
        let mut view = View::default();
        loop {
            let page = store.list(range.clone()).await?;
            if range.revision.is_none() {
                view = View::new(id.clone(), page.revision);
                range.revision = Some(page.revision);
            }
            // Keys come in their order, and so specs before statuses.
            for entry in &page.entries {
                if let Some(key) = self.shared.keys.parse(&entry.key) {
                    view.put(key, entry, &mut changes);
                }
            }
            range.after = page.entries.last().map(|entry| entry.key.clone());
            if !page.more || range.after.is_none() {
                break;
            }
        }
        let revision = view.revision;
        let watch = store.watch(self.shared.keys.root(), revision + 1).await?;
        let changes = {
            let mut current = lock(&self.shared.view);
            let changes = current.difference(&view);
            let first = current.store_id.is_empty();
            let regressed = current.store_id != view.store_id || revision < current.revision;
            view.regressions = current.regressions + u64::from(regressed && !first);
            *current = view;
            changes
        };
        tracing::debug!(revision, store = id, "the state in memory is complete");
        self.tell(&changes);
        self.shared.progress.set(Progress {
            synced: true,
            store_id: id,
            revision,
            problem: String::new(),
        });
        self.count();
        Ok(watch)
    }

    async fn follow(&self, watch: &mut dyn Watch) -> StoreError {
        loop {
            let (revision, changes) = match watch.next().await {
                Ok(WatchItem::Changes { revision, changes }) => (revision, changes),
                Ok(WatchItem::Progress { revision }) => (revision, Vec::new()),
                Err(error) => return error,
            };
            let told = self.apply(revision, &changes);
            self.tell(&told);
            self.shared
                .progress
                .change(|progress| progress.revision = revision);
            self.count();
        }
    }

    fn apply(&self, revision: Revision, changes: &[Change]) -> Changes {
        let mut told = Changes::default();
        let mut view = lock(&self.shared.view);
        for change in changes {
            match change {
                Change::Put { entry, .. } => {
                    if let Some(key) = self.shared.keys.parse(&entry.key) {
                        view.put(key, entry, &mut told);
                    }
                }
                Change::Delete { key, .. } => {
                    if let Some(key) = self.shared.keys.parse(key) {
                        view.delete(key, &mut told);
                    }
                }
            }
        }
        view.revision = revision;
        told
    }

    fn tell(&self, changes: &Changes) {
        if changes.items.is_empty() && !changes.ports {
            return;
        }
        let now = Instant::now();
        lock(&self.shared.inboxes).retain(|inbox| {
            let Some(inbox) = inbox.upgrade() else {
                return false;
            };
            inbox.tell(changes, now);
            true
        });
    }

    fn count(&self) {
        let metrics = &self.shared.env.metrics;
        self.with(|view| {
            for kind in KINDS {
                let count = i64::try_from(view.count(kind)).unwrap_or(i64::MAX);
                metrics
                    .resources
                    .with_label_values(&[kind.as_str()])
                    .set(count);
            }
            let unfinished = i64::try_from(view.unfinished()).unwrap_or(i64::MAX);
            metrics.operations_unfinished.set(unfinished);
        });
    }
}

#[cfg(test)]
mod tests;
