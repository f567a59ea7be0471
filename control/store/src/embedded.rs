//! A store in one file, for one control server.
//!
//! All data is in memory too; reads never touch the file. One thread writes: what waits for it
//! goes to the file in one commit, synced to the disk before anyone gets an answer, and before
//! anyone can read it. After a crash the file is as of the last commit.

mod codec;
mod file;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::check::check_txn;
use crate::mvcc::Mvcc;
use crate::{
    Committed, Entry, LeaseId, Page, Range, Revision, Store, StoreError, Txn, Watch, WatchItem,
};
use writer::{Command, Reply};

/// After how long a quiet watch tells how far the store is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// Revisions of history that are kept unless told otherwise.
pub const HISTORY_REVISIONS: u64 = 10_000;

/// Where the store is and how much history it keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddedConfig {
    /// The file. Made where it does not exist, readable for its owner only.
    pub path: PathBuf,
    /// Revisions of history to keep, for watches to resume and for reads of the past.
    pub history_revisions: u64,
}

impl EmbeddedConfig {
    /// The usual settings for this file.
    #[must_use]
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            history_revisions: HISTORY_REVISIONS,
        }
    }
}

/// A store in one file. Dropping it closes the file soon after; see [`EmbeddedStore::close`].
#[derive(Debug)]
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

/// What readers and the writing thread share.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Counts what waiters must look at.
    changed: watch::Sender<u64>,
    started: std::time::Instant,
}

#[derive(Debug)]
struct State {
    id: String,
    /// May be ahead of what is on the disk.
    mvcc: Mvcc,
    /// The revision that is on the disk: what readers see.
    durable: Revision,
    /// Why the store cannot be used now.
    broken: Option<StoreError>,
    /// It will not come back.
    closed: bool,
}

impl Shared {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.changed
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    fn read<T>(
        &self,
        work: impl FnOnce(&mut State) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut state = self.lock();
        match &state.broken {
            Some(error) => Err(error.clone()),
            None => work(&mut state),
        }
    }
}

impl EmbeddedStore {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// [`StoreError::Internal`] where another process has it open, it is damaged or cannot be
    /// accessed; the message says which and what to do.
    pub async fn open(config: EmbeddedConfig) -> Result<Self, StoreError> {
        let (commands, received) = mpsc::channel();
        let (opened, is_opened) = oneshot::channel();
        std::thread::Builder::new()
            .name("store".into())
            .spawn(move || writer::run(&config, &received, opened))
            .map_err(|error| {
                StoreError::Internal(format!("cannot start the store's thread: {error}"))
            })?;
        let shared = is_opened.await.map_err(|_| ended())??;
        Ok(Self { shared, commands })
    }

    /// Closes the file; when this returns, it can be opened again. Requests fail from now on.
    pub async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.commands.send(Command::Close { reply }).is_ok() {
            // An error means the same: the thread is gone and the file closed.
            let _ = closed.await;
        }
    }

    async fn command<T>(&self, make: impl FnOnce(Reply<T>) -> Command) -> Result<T, StoreError> {
        // What is sent to a thread on its way out is not answered: then it could be anything.
        if self.shared.lock().closed {
            return Err(ended());
        }
        let (reply, answer) = oneshot::channel();
        self.commands.send(make(reply)).map_err(|_| ended())?;
        answer.await.map_err(|_| {
            StoreError::Unknown("the store's thread ended; see the log and restart".into())
        })?
    }
}

fn ended() -> StoreError {
    StoreError::Unavailable("the store's thread has ended: closed, or see the log".into())
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn id(&self) -> Result<String, StoreError> {
        self.shared.read(|state| Ok(state.id.clone()))
    }

    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision), StoreError> {
        self.shared.read(|state| {
            let entry = state.mvcc.get(key, state.durable);
            Ok((entry.map(|entry| (**entry).clone()), state.durable))
        })
    }

    async fn list(&self, range: Range) -> Result<Page, StoreError> {
        self.shared
            .read(|state| state.mvcc.list(&range, state.durable))
    }

    async fn txn(&self, txn: Txn) -> Result<Committed, StoreError> {
        check_txn(&txn)?;
        self.command(|reply| Command::Txn { txn, reply }).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Box<dyn Watch>, StoreError> {
        let next = from.max(1);
        self.shared
            .read(|state| state.mvcc.check_watch(next, state.durable))?;
        Ok(Box::new(EmbeddedWatch {
            shared: Arc::clone(&self.shared),
            prefix: prefix.to_owned(),
            next,
            scanned: next,
            told_at: Instant::now(),
        }))
    }

    async fn grant(&self, time_to_live: Duration) -> Result<LeaseId, StoreError> {
        self.command(|reply| Command::Grant {
            time_to_live,
            reply,
        })
        .await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let now = self.shared.now();
        self.shared.read(|state| state.mvcc.keep_alive(lease, now))
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.command(|reply| Command::Revoke { lease, reply }).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.command(|reply| Command::Compact { revision, reply })
            .await
    }
}

/// A watch: holds no changes, looks them up in the store's history when asked.
struct EmbeddedWatch {
    shared: Arc<Shared>,
    prefix: String,
    /// The first revision not told yet.
    next: Revision,
    /// The first revision not looked at yet; those in between have nothing of interest.
    scanned: Revision,
    told_at: Instant,
}

impl EmbeddedWatch {
    /// What there is to tell, or until when to wait where nothing changes.
    fn look(&mut self) -> Result<Result<WatchItem, Option<Instant>>, StoreError> {
        let state = self.shared.lock();
        if let Some(error) = &state.broken {
            return if state.closed {
                Err(error.clone())
            } else {
                Ok(Err(None))
            };
        }
        let durable = state.durable;
        state.mvcc.check_watch(self.scanned, durable)?;
        if let Some((revision, changes)) = state.mvcc.changes(&self.prefix, self.scanned, durable) {
            self.next = revision + 1;
            self.scanned = self.next;
            return Ok(Ok(WatchItem::Changes { revision, changes }));
        }
        self.scanned = durable + 1;
        if self.next > durable {
            return Ok(Err(None));
        }
        let tell_at = self.told_at + PROGRESS_INTERVAL;
        if Instant::now() < tell_at {
            return Ok(Err(Some(tell_at)));
        }
        self.next = durable + 1;
        Ok(Ok(WatchItem::Progress { revision: durable }))
    }
}

#[async_trait]
impl Watch for EmbeddedWatch {
    async fn next(&mut self) -> Result<WatchItem, StoreError> {
        let mut changed = self.shared.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let until = match self.look()? {
                Ok(item) => {
                    self.told_at = Instant::now();
                    return Ok(item);
                }
                Err(until) => until,
            };
            match until {
                None => {
                    let _ = changed.changed().await;
                }
                Some(until) => {
                    let _ = tokio::time::timeout_at(until, changed.changed()).await;
                }
            }
        }
    }
}
