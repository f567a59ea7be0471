//! The thread that writes the embedded store's file.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::file::{Batch, File};
use super::{EmbeddedConfig, Shared, State, ended};
use crate::mvcc::Mvcc;
use crate::{Committed, LeaseId, Revision, StoreError, Txn};

/// Most requests that share one commit: bounds how long the first of them waits.
const BATCH_MAX: usize = 512;
/// How long the thread sleeps where no lease ends before.
const IDLE: Duration = Duration::from_secs(3600);
/// How long it waits between tries to open a file that failed.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// A request to the thread.
#[derive(Debug)]
pub(super) enum Command {
    Txn {
        txn: Txn,
        reply: Reply<Committed>,
    },
    Grant {
        time_to_live: Duration,
        reply: Reply<LeaseId>,
    },
    Revoke {
        lease: LeaseId,
        reply: Reply<()>,
    },
    Compact {
        revision: Revision,
        reply: Reply<()>,
    },
    Close {
        reply: oneshot::Sender<()>,
    },
}

/// Answers a request: with its result once that is on the disk, or with the error of writing it.
type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

fn answer<T: Send + 'static>(reply: Reply<T>, result: Result<T, StoreError>) -> Answer {
    Box::new(move |written| {
        // The caller may have gone.
        let _ = reply.send(written.and(result));
    })
}

/// Refuses a request that was not started.
fn refuse(command: Command, error: StoreError) {
    match command {
        Command::Txn { reply, .. } => drop(reply.send(Err(error))),
        Command::Grant { reply, .. } => drop(reply.send(Err(error))),
        Command::Revoke { reply, .. } | Command::Compact { reply, .. } => {
            drop(reply.send(Err(error)));
        }
        Command::Close { reply } => drop(reply.send(())),
    }
}

/// Says that the store is over, however the thread ends.
struct EndGuard(Arc<Shared>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.broken = Some(ended());
        state.closed = true;
        drop(state);
        self.0.wake();
    }
}

/// Opens the file, tells how that went, and serves requests until all who could send some are gone.
pub(super) fn run(
    config: &EmbeddedConfig,
    commands: &Receiver<Command>,
    opened: oneshot::Sender<Result<Arc<Shared>, StoreError>>,
) {
    let (file, id, saved) = match File::open(&config.path) {
        Ok(parts) => parts,
        Err(error) => {
            let _ = opened.send(Err(error));
            return;
        }
    };
    let mvcc = Mvcc::restore(saved, Duration::ZERO);
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            id,
            durable: mvcc.revision(),
            mvcc,
            broken: None,
            closed: false,
        }),
        changed: watch::Sender::new(0),
        started: std::time::Instant::now(),
    });
    let mut writer = Writer {
        config,
        shared: Arc::clone(&shared),
        file: Some(file),
    };
    let end = EndGuard(Arc::clone(&shared));
    if opened.send(Ok(shared)).is_err() {
        return;
    }
    let closing = writer.serve(commands);
    drop(writer);
    drop(end);
    if let Some(reply) = closing {
        let _ = reply.send(());
    }
}

struct Writer<'a> {
    config: &'a EmbeddedConfig,
    shared: Arc<Shared>,
    /// `None` after it failed, until it could be opened again.
    file: Option<File>,
}

impl Writer<'_> {
    /// Serves until told to close, or nobody is left.
    fn serve(&mut self, commands: &Receiver<Command>) -> Option<oneshot::Sender<()>> {
        loop {
            let first = match commands.recv_timeout(self.rest()) {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return None,
            };
            let mut waiting: Vec<Command> = first.into_iter().collect();
            while waiting.len() < BATCH_MAX
                && !matches!(waiting.last(), Some(Command::Close { .. }))
                && let Ok(command) = commands.try_recv()
            {
                waiting.push(command);
            }
            let closing = match waiting.pop() {
                Some(Command::Close { reply }) => Some(reply),
                Some(other) => {
                    waiting.push(other);
                    None
                }
                None => None,
            };
            self.work(waiting);
            if closing.is_some() {
                return closing;
            }
        }
    }

    /// How long to wait for a request.
    fn rest(&self) -> Duration {
        if self.file.is_none() {
            return REOPEN_INTERVAL;
        }
        let next = self.shared.lock().mvcc.next_expiry();
        next.map_or(IDLE, |(at, _)| {
            // A bit later, so that it is over for sure, and not in a tight circle.
            at.saturating_sub(self.shared.now()) + Duration::from_millis(1)
        })
    }

    fn work(&mut self, waiting: Vec<Command>) {
        if self.file.is_none() {
            self.reopen();
        }
        let Some(file) = &self.file else {
            let broken = self.shared.lock().broken.clone().unwrap_or_else(ended);
            for command in waiting {
                refuse(command, broken.clone());
            }
            return;
        };
        let (batch, answers, staged) = self.stage(waiting);
        let written = if batch.is_empty() {
            Ok(())
        } else {
            file.commit(&batch)
        };
        if let Err(error) = &written {
            tracing::error!(%error, "cannot write the store's file; opening it again");
            self.file = None;
            self.reopen();
        } else {
            self.shared.lock().durable = staged;
            self.shared.wake();
        }
        let written = written.map_err(|error| self.outcome(error, staged));
        for answer in answers {
            answer(written.clone());
        }
    }

    /// Does the requests in memory. Returns what to write, whom to answer, and the revision after.
    fn stage(&self, waiting: Vec<Command>) -> (Batch, Vec<Answer>, Revision) {
        let now = self.shared.now();
        let mut state = self.shared.lock();
        let durable = state.durable;
        let mvcc = &mut state.mvcc;
        let mut batch = Batch {
            ended: mvcc.expire(now),
            ..Batch::default()
        };
        let before = mvcc.oldest();
        let mut answers = Vec::with_capacity(waiting.len());
        for command in waiting {
            answers.push(match command {
                Command::Txn { txn, reply } => answer(reply, mvcc.apply(&txn)),
                Command::Grant {
                    time_to_live,
                    reply,
                } => {
                    let id = new_lease();
                    mvcc.grant(id, time_to_live, now);
                    batch.granted.push((id, time_to_live));
                    answer(reply, Ok(id))
                }
                Command::Revoke { lease, reply } => {
                    let revoked = mvcc.revoke(lease);
                    if revoked.is_ok() {
                        batch.ended.push(lease);
                    }
                    answer(reply, revoked)
                }
                Command::Compact { revision, reply } => {
                    let compacted = if revision > durable {
                        Err(StoreError::FutureRevision {
                            asked: revision,
                            current: durable,
                        })
                    } else {
                        mvcc.compact(revision)
                    };
                    answer(reply, compacted)
                }
                Command::Close { reply } => Box::new(move |_| {
                    let _ = reply.send(());
                }),
            });
        }
        self.trim(mvcc, durable);
        batch.oldest = Some(mvcc.oldest()).filter(|oldest| *oldest != before);
        let staged = mvcc.revision();
        batch.changes = (durable + 1..=staged)
            .map(|revision| (revision, mvcc.changes_of(revision)))
            .collect();
        (batch, answers, staged)
    }

    /// Forgets history beyond what is to be kept, some at a time.
    fn trim(&self, mvcc: &mut Mvcc, durable: Revision) {
        let keep = Revision::try_from(self.config.history_revisions).unwrap_or(Revision::MAX);
        let kept = durable - mvcc.oldest();
        if kept > keep.saturating_add(keep / 8) {
            // Not above the present revision, so it cannot fail.
            let _ = mvcc.compact(durable - keep);
        }
    }

    /// Opens the file again after an error and takes what is in it.
    fn reopen(&mut self) {
        let opened = File::open(&self.config.path);
        let now = self.shared.now();
        let mut state = self.shared.lock();
        match opened {
            Ok((file, id, saved)) => {
                state.mvcc = Mvcc::restore(saved, now);
                state.durable = state.mvcc.revision();
                state.id = id;
                state.broken = None;
                self.file = Some(file);
            }
            Err(error) => {
                tracing::error!(%error, "cannot open the store's file");
                state.broken = Some(StoreError::Unavailable(error.to_string()));
            }
        }
        drop(state);
        self.shared.wake();
    }

    /// What to tell those whose batch could not be written.
    fn outcome(&self, error: StoreError, staged: Revision) -> StoreError {
        let state = self.shared.lock();
        let absent = state.broken.is_none() && state.durable < staged;
        match error {
            StoreError::Full(_) if absent => error,
            other => StoreError::Unknown(other.to_string()),
        }
    }
}

/// A lease id that was never used: a random positive number, as etcd's.
fn new_lease() -> LeaseId {
    let random = uuid::Uuid::new_v4().as_u64_pair().0;
    LeaseId(random.cast_signed() & i64::MAX)
}
