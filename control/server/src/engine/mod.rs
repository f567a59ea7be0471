//! The leader: gives volumes their place, and sees to what no node's stream sees to.
//!
//! It works from the mirror, is woken by changes, and looks only at what they touch. Nothing is
//! remembered that a new leader could not rebuild: on taking office the pool of space is made from
//! the state as it is. Two things make sure that space is given away once: every write compares the
//! leader's election key, and every transaction that gives space away compares and sets one key
//! (`guard/allocation`), so that one whose answer was lost can never happen after a later one.

mod compaction;
mod decide;
mod pool;
mod queue;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use penstock_api::names::Kind;
use penstock_store::{Committed, Compare, Revision, StoreError, TXN_OPS_MAX, Txn, Write};
use tokio::time::Instant;

use crate::election::Term;
use crate::ending::Ending;
use crate::env::Env;
use crate::keys::{Keys, unchanged};
use crate::mirror::{Interest, Item, Mirror, Subscription};
use crate::repo::Repo;
use crate::shared_lease::SharedLease;
use pool::Space;
use queue::{Queue, Work};

/// Work that is looked at in one round.
const ROUND: usize = 256;

/// Pieces of work that one transaction carries at most, and at first after a conflict.
const TOGETHER: (usize, usize) = (32, 4);

/// Conditions and writes that a transaction is filled with at most; the store may add its own.
const ROOM: usize = TXN_OPS_MAX - 4;

/// How long to wait where the store does not answer.
const STORE_RETRY: Duration = Duration::from_millis(100);

/// The office is lost, or the store no longer believes it.
struct Deposed;

/// Leads for one term: until the office is lost, which drops this, or a write is refused, which
/// ends it.
pub async fn lead(env: &Env, mirror: &Mirror, ended: &SharedLease, term: Term) {
    mirror.reached(term.revision()).await;
    let work = async {
        let engine = Engine::take_office(env, mirror, ended, term.clone()).await;
        if let Ok(mut engine) = engine {
            engine.work().await;
        }
    };
    tokio::select! {
        biased;
        () = work => {}
        () = compaction::run(env, mirror) => {}
    }
}

/// A piece of work turned into writes.
struct Part {
    work: Work,
    since: Instant,
    failures: u32,
    txn: Txn,
    /// The volume whose space this gives away.
    places: Option<String>,
}

struct Engine<'a> {
    env: &'a Env,
    mirror: &'a Mirror,
    ended: &'a SharedLease,
    repo: Repo,
    keys: Keys,
    term: Term,
    changes: Subscription,
    space: Space,
    queue: Queue,
    /// Volumes that found no place, with when their status last said why.
    blocked: BTreeMap<String, Instant>,
    /// Revision of the newest write.
    written: Revision,
    /// What was written since the mirror was last seen to have come as far.
    unseen: BTreeSet<Work>,
    /// Revision of the allocation guard; 0 where it does not exist.
    allocation: Revision,
    together: usize,
}

impl<'a> Engine<'a> {
    async fn take_office(
        env: &'a Env,
        mirror: &'a Mirror,
        ended: &'a SharedLease,
        term: Term,
    ) -> Result<Engine<'a>, Deposed> {
        let changes = mirror.subscribe(Interest::All);
        let mut engine = Engine {
            env,
            mirror,
            ended,
            repo: Repo::new(env),
            keys: Keys::new(env.settings.prefix()),
            term,
            changes,
            space: Space::default(),
            queue: Queue::default(),
            blocked: BTreeMap::new(),
            written: 0,
            unseen: BTreeSet::new(),
            allocation: 0,
            together: TOGETHER.0,
        };
        engine.catch_up().await?;
        let now = Instant::now();
        let found = mirror.with(|view| {
            engine.space = Space::of(view);
            decide::everything(view)
        });
        for work in found {
            engine.queue.push(work, now);
        }
        Ok(engine)
    }

    /// Works until deposed.
    async fn work(&mut self) {
        loop {
            self.absorb();
            let queued = i64::try_from(self.queue.len()).unwrap_or(i64::MAX);
            self.env.metrics.reconcile_queue.set(queued);
            match self.round().await {
                Ok(true) => {}
                Ok(false) => {
                    if self.wait().await.is_err() {
                        return;
                    }
                }
                Err(Deposed) => return,
            }
        }
    }

    async fn wait(&mut self) -> Result<(), Deposed> {
        let far = Instant::now() + Duration::from_secs(60);
        let shown = async {
            let there = self.mirror.reached(self.written).await;
            if there && self.unseen.is_empty() {
                std::future::pending::<()>().await;
            }
            there
        };
        tokio::select! {
            biased;
            () = self.changes.changed() => {}
            () = tokio::time::sleep_until(self.queue.next_due().unwrap_or(far)) => {}
            there = shown => {
                if !there {
                    // A store that was put back has lost what was decided: all is to be looked at
                    // anew.
                    return Err(Deposed);
                }
                // The mirror shows what was written. Where it does not, a store that was put back,
                // unseen, has lost it.
                let now = Instant::now();
                for work in std::mem::take(&mut self.unseen) {
                    self.queue.push(work, now);
                }
            }
        }
        Ok(())
    }

    /// Takes in what changed: the pool follows, and work is queued.
    fn absorb(&mut self) {
        let pending = self.changes.take();
        if pending.items.is_empty() {
            return;
        }
        let mut freed = false;
        let mut found = Vec::new();
        self.mirror.with(|view| {
            for (item, since) in &pending.items {
                freed |= self.space.follow(view, item);
                for work in decide::work_of(view, item) {
                    found.push((work, *since));
                }
                if let Item::Of(Kind::Volume, key) = item
                    && !view.volumes.contains_key(key)
                {
                    self.blocked.remove(key);
                }
            }
        });
        for (work, since) in found {
            self.queue.push(work, since);
        }
        if freed {
            let now = Instant::now();
            for key in self.blocked.keys() {
                self.queue.push(Work::Volume(key.clone()), now);
            }
        }
    }

    /// Does what is due. Whether there was anything.
    async fn round(&mut self) -> Result<bool, Deposed> {
        let now = Instant::now();
        let due = self.queue.take(now, ROUND);
        if due.is_empty() {
            return Ok(false);
        }
        let lease = match self.ended.get(self.env.store.as_ref()).await {
            Ok(lease) => lease,
            Err(error) => {
                tracing::debug!(%error, "the engine waits for the store");
                for (work, since, failures) in due {
                    self.queue.failed(work, since, failures, now);
                }
                return Ok(true);
            }
        };
        let ending = Ending {
            now: self.env.clock.now(),
            lease,
        };
        let mut parts: Vec<Part> = Vec::new();
        for (work, since, failures) in due {
            let decided = self.mirror.with(|view| {
                let mut decider = decide::Decider {
                    view,
                    repo: &self.repo,
                    ending: &ending,
                    space: &mut self.space,
                    blocked: &mut self.blocked,
                };
                decider.decide(&work)
            });
            if let Some((change, places)) = decided {
                parts.push(Part {
                    work,
                    since,
                    failures,
                    txn: change.into_txn(),
                    places,
                });
            }
        }
        let mut parts = VecDeque::from(parts);
        while !parts.is_empty() {
            let some = self.some(&mut parts);
            self.commit(some).await?;
        }
        Ok(true)
    }

    /// Takes as many parts as go into one transaction.
    fn some(&self, parts: &mut VecDeque<Part>) -> Vec<Part> {
        // Room for the election and for the allocation guard.
        let (mut compares, mut writes) = (2, 1);
        let mut taken = Vec::new();
        while let Some(part) = parts.front() {
            compares += part.txn.compares.len();
            writes += part.txn.writes.len();
            let full = taken.len() >= self.together || compares > ROOM || writes > ROOM;
            if full && !taken.is_empty() {
                break;
            }
            taken.extend(parts.pop_front());
        }
        taken
    }

    /// Writes parts in one transaction.
    async fn commit(&mut self, parts: Vec<Part>) -> Result<(), Deposed> {
        let mut txn = Txn {
            compares: vec![self.term.compare()],
            ..Txn::default()
        };
        let places = parts.iter().any(|part| part.places.is_some());
        let guard = self.keys.guard_allocation();
        if places {
            txn.compares.push(unchanged(guard.clone(), self.allocation));
            let value = self.env.ids.text().into_bytes();
            txn.marker = Some(guard.clone());
            txn.writes.push(Write::Put {
                key: guard,
                value,
                lease: None,
            });
        }
        for part in &parts {
            for compare in &part.txn.compares {
                if !txn.compares.contains(compare) {
                    txn.compares.push(compare.clone());
                }
            }
            txn.writes.extend(part.txn.writes.iter().cloned());
        }
        match self.env.store.txn(txn).await {
            Ok(Committed::Yes(revision)) => {
                self.written = revision;
                if places {
                    self.allocation = revision;
                }
                self.together = (self.together * 2).min(TOGETHER.0);
                self.committed(parts);
                Ok(())
            }
            Ok(Committed::No(revision)) => {
                tracing::debug!(revision, "the engine's view was behind; looking again");
                self.together = TOGETHER.1.min(self.together).max(1);
                if parts.len() <= self.together {
                    self.together = 1;
                }
                self.refused(parts, None).await
            }
            Err(error) => self.refused(parts, Some(error)).await,
        }
    }

    fn committed(&mut self, parts: Vec<Part>) {
        let now = Instant::now();
        for part in parts {
            let lag = now.saturating_duration_since(part.since);
            self.env.metrics.reconcile_lag.observe(lag.as_secs_f64());
            self.unseen.insert(part.work);
        }
    }

    /// Nothing was written, or that is not known: forgets what was decided, learns how things are,
    /// and queues the work again.
    async fn refused(
        &mut self,
        parts: Vec<Part>,
        error: Option<StoreError>,
    ) -> Result<(), Deposed> {
        if let Some(error) = &error {
            tracing::warn!(%error, "the engine could not write; trying again");
        }
        match error {
            Some(StoreError::LeaseExpired) => self.ended.forget_all().await,
            Some(_) => tokio::time::sleep(STORE_RETRY).await,
            None => {}
        }
        self.catch_up().await?;
        // What was written after all is in the mirror now, and taken in with it.
        let placed: Vec<String> = parts
            .iter()
            .filter_map(|part| part.places.clone())
            .collect();
        self.mirror.with(|view| {
            for key in &placed {
                self.space
                    .follow(view, &Item::Of(Kind::Volume, key.clone()));
            }
        });
        let now = Instant::now();
        for part in parts {
            self.queue.failed(part.work, part.since, part.failures, now);
        }
        Ok(())
    }

    /// Learns the allocation guard's revision, and waits until the mirror shows all that was given
    /// away before.
    async fn catch_up(&mut self) -> Result<(), Deposed> {
        let guard = self.keys.guard_allocation();
        loop {
            match self.term.holds(self.env).await {
                Ok(true) => {}
                Ok(false) => return Err(Deposed),
                Err(error) => {
                    tracing::debug!(%error, "the engine waits for the store");
                    tokio::time::sleep(STORE_RETRY).await;
                    continue;
                }
            }
            match self.env.store.get(&guard).await {
                Ok((entry, revision)) => {
                    self.allocation = entry.map_or(0, |entry| entry.mod_revision);
                    self.mirror.reached(revision).await;
                    return Ok(());
                }
                Err(_) => tokio::time::sleep(STORE_RETRY).await,
            }
        }
    }
}

/// Holds while no stream of this node's agent is there.
fn no_session(keys: &Keys, node: &str) -> Compare {
    Compare::Absent(keys.session(node))
}
