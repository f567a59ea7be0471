//! A store in memory for simulations and tests: etcd's semantics, faults on demand, and the same
//! every time for the same seed.
//!
//! It starts no tasks and reads only tokio's clock, so that under a paused single-threaded runtime
//! a run repeats exactly. Leases end when the next request or a waiting watch would see it.
//!
//! ```
//! # use penstock_store::{sim::SimStore, Store, Txn, Write};
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
//! # runtime.block_on(async {
//! let store = SimStore::new(1);
//! let client = store.client("c1");
//! let put = Write::Put { key: "k".into(), value: b"v".to_vec(), lease: None };
//! client.txn(Txn { writes: vec![put], ..Txn::default() }).await.unwrap();
//! store.partition("c1", true); // from now on c1 does not reach the store
//! # });
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use crate::check::{check_txn, marker_value};
use crate::mvcc::Mvcc;
use crate::{
    Change, Committed, Entry, LeaseId, Page, Range, Revision, Store, StoreError, Txn, Watch,
    WatchItem, Write,
};

/// How long a request waits for a store that does not answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// After how long a quiet watch tells how far the store is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// Name of the client that [`SimStore`] is itself.
const OWN_CLIENT: &str = "";

/// What becomes of a transaction whose answer is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostAnswer {
    /// It happened.
    Applied,
    /// It did not happen.
    NotApplied,
}

/// The store's data at a moment: what a backup holds.
#[derive(Clone, Debug)]
pub struct Snapshot {
    mvcc: Mvcc,
}

impl Snapshot {
    /// The store's revision then.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.mvcc.revision()
    }
}

/// A simulated store, and the handle to its faults. Clones are the same store.
#[derive(Clone, Debug)]
pub struct SimStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Counts what waiters must look at: writes, leases, faults.
    /// Wakes in the order of waiting, unlike `tokio::sync::watch`, whose order is random.
    changed: Notify,
    started: Instant,
}

#[derive(Debug)]
struct State {
    id: String,
    mvcc: Mvcc,
    random: u64,
    next_lease: i64,
    committed_at: BTreeMap<Revision, Duration>,
    faults: Faults,
}

#[derive(Debug)]
struct Faults {
    available: bool,
    full: bool,
    latency: (Duration, Duration),
    watch_latency: (Duration, Duration),
    request_timeout: Duration,
    lose_next: Vec<LostAnswer>,
    lose_probability: f64,
    cut_off: BTreeSet<String>,
    watches_down_until: Duration,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            available: true,
            full: false,
            latency: (Duration::ZERO, Duration::ZERO),
            watch_latency: (Duration::ZERO, Duration::ZERO),
            request_timeout: REQUEST_TIMEOUT,
            lose_next: Vec::new(),
            lose_probability: 0.0,
            cut_off: BTreeSet::new(),
            watches_down_until: Duration::ZERO,
        }
    }
}

impl State {
    /// The next number of a splitmix64 sequence.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn new_id(&mut self) -> String {
        format!("sim-{:016x}", self.random())
    }

    fn draw(&mut self, (low, high): (Duration, Duration)) -> Duration {
        if high <= low {
            return low;
        }
        let span = u64::try_from((high - low).as_nanos()).unwrap_or(u64::MAX);
        low + Duration::from_nanos(self.random() % span)
    }

    fn draw_lost_answer(&mut self) -> Option<LostAnswer> {
        if !self.faults.lose_next.is_empty() {
            return Some(self.faults.lose_next.remove(0));
        }
        if self.faults.lose_probability <= 0.0 {
            return None;
        }
        let draw = self.random();
        // 53 bits are exact in a double.
        #[allow(clippy::cast_precision_loss)]
        let uniform = (draw >> 11) as f64 / (1_u64 << 53) as f64;
        (uniform < self.faults.lose_probability).then_some(if draw & 1 == 0 {
            LostAnswer::Applied
        } else {
            LostAnswer::NotApplied
        })
    }

    fn reachable(&self, client: &str) -> bool {
        self.faults.available && !self.faults.cut_off.contains(client)
    }

    /// Notes when revisions after `before` came to be.
    fn stamp(&mut self, before: Revision, now: Duration) {
        for revision in before + 1..=self.mvcc.revision() {
            self.committed_at.insert(revision, now);
        }
    }

    /// Ends the leases whose time is over. A store that is down ends none.
    fn expire(&mut self, now: Duration) -> bool {
        if !self.faults.available {
            return false;
        }
        let before = self.mvcc.revision();
        let ended = self.mvcc.expire(now);
        self.stamp(before, now);
        !ended.is_empty()
    }

    fn apply(&mut self, txn: &Txn, now: Duration) -> Result<Committed, StoreError> {
        let puts = txn.writes.iter().any(|w| matches!(w, Write::Put { .. }));
        if self.faults.full && puts {
            return Err(StoreError::Full("simulated".into()));
        }
        let before = self.mvcc.revision();
        let committed = self.mvcc.apply(txn);
        self.stamp(before, now);
        committed
    }

    fn replace(&mut self, snapshot: &Snapshot, now: Duration) {
        self.mvcc = snapshot.mvcc.clone();
        self.mvcc.renew_all(now);
        self.committed_at.clear();
    }
}

impl Shared {
    fn now(&self) -> Duration {
        Instant::now().saturating_duration_since(self.started)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at or changes the state, after leases that are over have ended; wakes the waiters
    /// where the revision or a lease moved.
    fn with<T>(&self, work: impl FnOnce(&mut State, Duration) -> T) -> T {
        let now = self.now();
        let mut state = self.lock();
        let mut wake = state.expire(now);
        let before = (state.mvcc.revision(), state.mvcc.next_expiry());
        let result = work(&mut state, now);
        wake |= before != (state.mvcc.revision(), state.mvcc.next_expiry());
        drop(state);
        if wake {
            self.wake();
        }
        result
    }

    fn wake(&self) {
        self.changed.notify_waiters();
    }

    /// Changes the faults and lets everyone look again.
    fn fault<T>(&self, change: impl FnOnce(&mut State, Duration) -> T) -> T {
        let result = self.with(change);
        self.wake();
        result
    }
}

impl SimStore {
    /// An empty store without faults.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut state = State {
            id: String::new(),
            mvcc: Mvcc::new(),
            random: seed,
            next_lease: 1,
            committed_at: BTreeMap::new(),
            faults: Faults::default(),
        };
        state.id = state.new_id();
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                changed: Notify::new(),
                started: Instant::now(),
            }),
        }
    }

    /// The store as one client sees it; see [`SimStore::partition`].
    #[must_use]
    pub fn client(&self, name: &str) -> Arc<dyn Store> {
        Arc::new(self.view(name))
    }

    fn view(&self, name: &str) -> Client {
        Client {
            shared: Arc::clone(&self.shared),
            name: name.to_owned(),
        }
    }

    /// The store's revision now.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.shared.with(|state, _| state.mvcc.revision())
    }

    /// All entries now, past all faults: for a test's own checks.
    #[must_use]
    pub fn dump(&self) -> Vec<Entry> {
        self.shared.with(|state, _| {
            let now = state.mvcc.revision();
            let all = state.mvcc.list(&Range::default(), now);
            all.map(|page| page.entries).unwrap_or_default()
        })
    }

    /// Puts a key past all faults, as somebody with `etcdctl` might. Returns the revision.
    pub fn put(&self, key: &str, value: &[u8]) -> Revision {
        let put = Write::Put {
            key: key.to_owned(),
            value: value.to_vec(),
            lease: None,
        };
        self.write(put)
    }

    /// Removes a key past all faults. Returns the revision.
    pub fn delete(&self, key: &str) -> Revision {
        self.write(Write::Delete {
            key: key.to_owned(),
        })
    }

    fn write(&self, write: Write) -> Revision {
        let txn = Txn {
            writes: vec![write],
            ..Txn::default()
        };
        self.shared.with(|state, now| {
            let before = state.mvcc.revision();
            // Without conditions and leases it cannot fail.
            let _ = state.mvcc.apply(&txn);
            state.stamp(before, now);
            state.mvcc.revision()
        })
    }

    /// Requests take between `low` and `high` from now on, half of it before they happen.
    pub fn set_latency(&self, low: Duration, high: Duration) {
        self.shared.fault(|s, _| s.faults.latency = (low, high));
    }

    /// Changes reach watches between `low` and `high` after they happened from now on.
    pub fn set_watch_latency(&self, low: Duration, high: Duration) {
        self.shared
            .fault(|s, _| s.faults.watch_latency = (low, high));
    }

    /// Takes the store down or up. While down, requests wait and then fail, watches are silent and
    /// leases do not end; when it is up again, every lease gets its full time.
    pub fn set_available(&self, available: bool) {
        self.shared.fault(|state, now| {
            if available && !state.faults.available {
                state.mvcc.renew_all(now);
            }
            state.faults.available = available;
        });
    }

    /// How long requests wait for a store that does not answer (default 5 s).
    pub fn set_request_timeout(&self, timeout: Duration) {
        self.shared.fault(|s, _| s.faults.request_timeout = timeout);
    }

    /// Cuts a client off from the store, or connects it again.
    pub fn partition(&self, client: &str, cut_off: bool) {
        self.shared.fault(|state, _| {
            if cut_off {
                state.faults.cut_off.insert(client.to_owned());
            } else {
                state.faults.cut_off.remove(client);
            }
        });
    }

    /// The answer to the next transaction (of those not spoken for yet) is lost.
    pub fn lose_next_answer(&self, what: LostAnswer) {
        self.shared.fault(|s, _| s.faults.lose_next.push(what));
    }

    /// Every transaction's answer is lost with this probability (0 to 1) from now on; half of those
    /// happened.
    pub fn set_lost_answers(&self, probability: f64) {
        self.shared
            .fault(|s, _| s.faults.lose_probability = probability);
    }

    /// All watches lose their connection and resume after this time.
    pub fn disconnect_watches(&self, time: Duration) {
        self.shared
            .fault(|s, now| s.faults.watches_down_until = now.saturating_add(time));
    }

    /// The store takes no more data, or does again.
    pub fn set_full(&self, full: bool) {
        self.shared.fault(|s, _| s.faults.full = full);
    }

    /// Forgets history before the present, past all faults.
    pub fn compact_all(&self) {
        self.shared.fault(|state, _| {
            let now = state.mvcc.revision();
            let _ = state.mvcc.compact(now);
            state.committed_at.clear();
        });
    }

    /// A backup.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.shared.with(|state, _| Snapshot {
            mvcc: state.mvcc.clone(),
        })
    }

    /// Puts a backup in the place of the data: the revision goes back and the store is another one.
    pub fn restore(&self, snapshot: &Snapshot) {
        self.shared.fault(|state, now| {
            state.replace(snapshot, now);
            state.id = state.new_id();
        });
    }

    /// As [`SimStore::restore`], but the store keeps its identity: what an etcd restored with its
    /// old cluster token and peer addresses does.
    pub fn rewind(&self, snapshot: &Snapshot) {
        self.shared.fault(|state, now| state.replace(snapshot, now));
    }
}

/// The store as one client sees it.
#[derive(Clone, Debug)]
struct Client {
    shared: Arc<Shared>,
    name: String,
}

impl Client {
    fn unavailable() -> StoreError {
        StoreError::Unavailable("simulated: no answer in time".into())
    }

    /// The way to the store: the first half of the latency, and waiting where it does not answer.
    /// Returns the other half.
    async fn enter(&self) -> Result<Duration, StoreError> {
        let (latency, timeout) = self.shared.with(|state, _| {
            let range = state.faults.latency;
            (state.draw(range), state.faults.request_timeout)
        });
        let deadline = Instant::now() + timeout;
        pause(latency / 2).await;
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            if self.shared.with(|state, _| state.reachable(&self.name)) {
                break;
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = sleep_until(deadline) => return Err(Self::unavailable()),
            }
        }
        Ok(latency / 2)
    }

    /// The way back. Tells whether the answer arrived.
    async fn leave(&self, latency: Duration) -> bool {
        pause(latency).await;
        self.shared.with(|state, _| state.reachable(&self.name))
    }

    async fn request<T>(
        &self,
        work: impl FnOnce(&mut State, Duration) -> Result<T, StoreError> + Send,
    ) -> Result<T, StoreError>
    where
        T: Send,
    {
        let back = self.enter().await?;
        let result = self.shared.with(work);
        if self.leave(back).await {
            result
        } else {
            Err(Self::unavailable())
        }
    }

    /// Finds out by its marker whether a transaction happened that was sent when the store was at
    /// `before`.
    async fn resolve(&self, txn: &Txn, before: Revision) -> Result<Committed, StoreError> {
        let Some((key, value)) = marker_value(txn) else {
            return Err(StoreError::Unknown("simulated: the answer is lost".into()));
        };
        let found = self
            .request(|state, _| {
                let now = state.mvcc.revision();
                Ok(state.mvcc.get(key, now).cloned())
            })
            .await
            .map_err(|error| StoreError::Unknown(error.to_string()))?;
        match found {
            Some(entry) if entry.value == value => Ok(Committed::Yes(entry.mod_revision)),
            Some(entry) if entry.mod_revision > before => Err(StoreError::Unknown(format!(
                "simulated: the answer is lost, and {key} was changed since"
            ))),
            _ => Err(StoreError::Unavailable(
                "simulated: the transaction was lost on its way".into(),
            )),
        }
    }
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

#[async_trait]
impl Store for Client {
    async fn id(&self) -> Result<String, StoreError> {
        self.request(|state, _| Ok(state.id.clone())).await
    }

    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision), StoreError> {
        self.request(|state, _| {
            let now = state.mvcc.revision();
            Ok((state.mvcc.get(key, now).map(|e| (**e).clone()), now))
        })
        .await
    }

    async fn list(&self, range: Range) -> Result<Page, StoreError> {
        self.request(move |state, _| state.mvcc.list(&range, state.mvcc.revision()))
            .await
    }

    async fn txn(&self, txn: Txn) -> Result<Committed, StoreError> {
        check_txn(&txn)?;
        let back = self.enter().await?;
        let (lost, before, result) = self.shared.with(|state, now| {
            let lost = state.draw_lost_answer();
            let before = state.mvcc.revision();
            let result = match lost {
                Some(LostAnswer::NotApplied) => Err(Self::unavailable()),
                _ => state.apply(&txn, now),
            };
            (lost, before, result)
        });
        if self.leave(back).await && lost.is_none() {
            return result;
        }
        self.resolve(&txn, before).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Box<dyn Watch>, StoreError> {
        let next = from.max(1);
        let id = self
            .request(|state, _| {
                state.mvcc.check_watch(next, state.mvcc.revision())?;
                Ok(state.id.clone())
            })
            .await?;
        Ok(Box::new(SimWatch {
            client: self.clone(),
            id,
            prefix: prefix.to_owned(),
            next,
            scanned: next,
            told_at: Instant::now(),
        }))
    }

    async fn grant(&self, time_to_live: Duration) -> Result<LeaseId, StoreError> {
        self.request(|state, now| {
            if state.faults.full {
                return Err(StoreError::Full("simulated".into()));
            }
            let id = LeaseId(state.next_lease);
            state.next_lease += 1;
            state.mvcc.grant(id, time_to_live, now);
            Ok(id)
        })
        .await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.request(|state, now| state.mvcc.keep_alive(lease, now))
            .await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.request(|state, now| {
            let before = state.mvcc.revision();
            let result = state.mvcc.revoke(lease);
            state.stamp(before, now);
            result
        })
        .await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.request(|state, _| {
            state.mvcc.compact(revision)?;
            let oldest = state.mvcc.oldest();
            state.committed_at = state.committed_at.split_off(&oldest);
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl Store for SimStore {
    async fn id(&self) -> Result<String, StoreError> {
        self.view(OWN_CLIENT).id().await
    }
    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision), StoreError> {
        self.view(OWN_CLIENT).get(key).await
    }
    async fn list(&self, range: Range) -> Result<Page, StoreError> {
        self.view(OWN_CLIENT).list(range).await
    }
    async fn txn(&self, txn: Txn) -> Result<Committed, StoreError> {
        self.view(OWN_CLIENT).txn(txn).await
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Box<dyn Watch>, StoreError> {
        self.view(OWN_CLIENT).watch(prefix, from).await
    }
    async fn grant(&self, time_to_live: Duration) -> Result<LeaseId, StoreError> {
        self.view(OWN_CLIENT).grant(time_to_live).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.view(OWN_CLIENT).keep_alive(lease).await
    }
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.view(OWN_CLIENT).revoke(lease).await
    }
    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.view(OWN_CLIENT).compact(revision).await
    }
}

/// A watch: holds no changes, looks them up in the store's history when asked.
struct SimWatch {
    client: Client,
    /// The store's identity when the watch began.
    id: String,
    prefix: String,
    /// The first revision not told yet.
    next: Revision,
    /// The first revision not looked at yet; those in between have nothing of interest.
    scanned: Revision,
    told_at: Instant,
}

/// What a watch found when it looked.
enum Found {
    Changes(Revision, Vec<Change>),
    Progress(Revision),
    /// Nothing before this time (since the store's start), unless something changes.
    Wait(Option<Duration>),
}

impl SimWatch {
    fn look(&mut self) -> Result<Found, StoreError> {
        let shared = Arc::clone(&self.client.shared);
        shared.with(|state, now| {
            if !state.reachable(&self.client.name) {
                return Ok(Found::Wait(None));
            }
            if now < state.faults.watches_down_until {
                return Ok(Found::Wait(Some(state.faults.watches_down_until)));
            }
            if state.id != self.id {
                return Err(StoreError::Replaced {
                    expected: self.id.clone(),
                    found: state.id.clone(),
                });
            }
            let current = state.mvcc.revision();
            state.mvcc.check_watch(self.scanned, current)?;
            let Some((revision, changes)) = state.mvcc.changes(&self.prefix, self.scanned, current)
            else {
                self.scanned = current + 1;
                return Ok(self.quiet(state, current));
            };
            self.scanned = revision;
            let low = state.faults.watch_latency.0;
            let extra = state.faults.watch_latency.1.saturating_sub(low);
            // By the revision, not by a draw: looking again must not change when it arrives.
            let part = u32::try_from(revision.unsigned_abs().wrapping_mul(2_654_435_761) % 1024);
            let latency = low + extra * part.unwrap_or(0) / 1024;
            let committed = state.committed_at.get(&revision).copied();
            let due = committed.map_or(Duration::ZERO, |at| at + latency);
            if now < due {
                return Ok(Found::Wait(Some(due)));
            }
            Ok(Found::Changes(revision, changes))
        })
    }

    /// Nothing of interest up to `current`: how long to wait, or that it is time to say so.
    fn quiet(&self, state: &State, current: Revision) -> Found {
        let lease = state.mvcc.next_expiry().map(|(deadline, _)| deadline);
        if self.next > current {
            return Found::Wait(lease);
        }
        let tell_at = self.told_at + PROGRESS_INTERVAL;
        if Instant::now() >= tell_at {
            return Found::Progress(current);
        }
        let tell_at = tell_at.saturating_duration_since(self.client.shared.started);
        Found::Wait(Some(lease.map_or(tell_at, |lease| lease.min(tell_at))))
    }
}

#[async_trait]
impl Watch for SimWatch {
    async fn next(&mut self) -> Result<WatchItem, StoreError> {
        let shared = Arc::clone(&self.client.shared);
        loop {
            let changed = shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let item = match self.look()? {
                Found::Changes(revision, changes) => WatchItem::Changes { revision, changes },
                Found::Progress(revision) => WatchItem::Progress { revision },
                Found::Wait(until) => {
                    let started = self.client.shared.started;
                    tokio::select! {
                        biased;
                        () = changed => {}
                        () = async {
                            match until {
                                Some(until) => sleep_until(started + until).await,
                                None => std::future::pending().await,
                            }
                        } => {}
                    }
                    continue;
                }
            };
            let (WatchItem::Changes { revision, .. } | WatchItem::Progress { revision }) = &item;
            self.next = revision + 1;
            self.scanned = self.scanned.max(self.next);
            self.told_at = Instant::now();
            return Ok(item);
        }
    }
}
