//! A controller: one host's association with a subsystem, shared by the connections (queues) it is
//! made of, which may live on different reactors.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;

use penstock_nvme::register::{CC_CSS_ALL, CC_CSS_NVM, Cc, Shutdown};
use penstock_units::{ControllerId, Nsid};

use crate::admin::feature::Features;
use crate::error_log::ErrorLog;
use crate::event::{EventKind, Events};
use crate::local::{Remote, lock};
use crate::metrics::{ControllerTotals, QueueCounters};
use crate::namespace::Debt;
use crate::state::{Event, Illegal, State};
use crate::subsystem::Subsystem;

/// Who is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Host NQN.
    pub nqn: String,
    /// Host identifier, 128 bits.
    pub id: [u8; 16],
}

/// What the threads of a controller see of one of its queues.
#[derive(Debug, Default)]
pub struct QueueShared {
    /// When the queue's connection received something last, in ticks.
    pub last_traffic: AtomicU64,
    /// Counters.
    pub counters: QueueCounters,
}

#[derive(Clone)]
struct Queue {
    remote: Remote,
    shared: Arc<QueueShared>,
    /// Why it is to be closed, where it is: repeated until it is gone.
    closing: Option<&'static str>,
}

/// Bit of [`Controller::flags`]: I/O commands are served.
pub const FLAG_READY: u32 = 1;
/// Bit of [`Controller::flags`]: the host disabled the volatile write cache, so every write is FUA.
pub const FLAG_WRITE_THROUGH: u32 = 2;

/// A controller.
pub struct Controller {
    id: ControllerId,
    subsystem: Arc<Subsystem>,
    host: Host,
    peer: SocketAddr,
    flags: AtomicU32,
    debt: Debt,
    inner: Mutex<Inner>,
}

struct Inner {
    state: State,
    cc: Cc,
    kato_ms: u32,
    features: Features,
    events: Events,
    errors: ErrorLog,
    changed: Changed,
    aborts: u16,
    queues: BTreeMap<u16, Queue>,
    retired: ControllerTotals,
}

/// Namespaces that changed since the host looked last: up to 1024, then "more" (Base 2.1,
/// 5.1.12.1.5).
#[derive(Default)]
struct Changed {
    nsids: BTreeSet<Nsid>,
    overflow: bool,
}

/// Most namespaces the changed namespace list names.
pub const CHANGED_MAX: usize = 1024;

/// Why a queue cannot join its controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachError {
    /// The queue exists already.
    Duplicate,
    /// The controller is not enabled, or no more.
    NotReady,
}

impl Controller {
    /// A controller without queues.
    pub fn new(
        id: ControllerId,
        subsystem: &Arc<Subsystem>,
        host: Host,
        peer: SocketAddr,
        kato_ms: u32,
    ) -> Arc<Controller> {
        let debt = subsystem.debt_of(&host.nqn);
        Arc::new(Controller {
            id,
            subsystem: Arc::clone(subsystem),
            host,
            peer,
            flags: AtomicU32::new(0),
            debt,
            inner: Mutex::new(Inner {
                state: State::Disabled,
                cc: Cc(0),
                kato_ms,
                features: Features::default(),
                events: Events::default(),
                errors: ErrorLog::default(),
                changed: Changed::default(),
                aborts: 0,
                queues: BTreeMap::new(),
                retired: ControllerTotals::default(),
            }),
        })
    }

    /// Controller identifier.
    pub fn id(&self) -> ControllerId {
        self.id
    }

    /// The subsystem it belongs to.
    pub fn subsystem(&self) -> &Arc<Subsystem> {
        &self.subsystem
    }

    /// The host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The address the host made its admin queue from.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// `FLAG_*`, for the I/O path. One relaxed load.
    #[inline]
    pub fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }

    /// Writes of this host's dead connections that devices still work on.
    #[inline]
    pub fn debt(&self) -> &Debt {
        &self.debt
    }

    /// Where it stands now.
    pub fn state(&self) -> State {
        let mut inner = lock(&self.inner);
        self.settle(&mut inner);
        inner.state
    }

    /// Controller Configuration as written last.
    pub fn cc(&self) -> Cc {
        lock(&self.inner).cc
    }

    /// Runs `f` on the events; not for the I/O path.
    pub fn with_events<T>(&self, f: impl FnOnce(&mut Events) -> T) -> T {
        f(&mut lock(&self.inner).events)
    }

    /// Runs `f` on the error log.
    pub fn with_errors<T>(&self, f: impl FnOnce(&mut ErrorLog) -> T) -> T {
        f(&mut lock(&self.inner).errors)
    }

    /// Runs `f` on the features.
    pub fn with_features<T>(&self, f: impl FnOnce(&mut Features) -> T) -> T {
        let mut inner = lock(&self.inner);
        let result = f(&mut inner.features);
        self.publish(&inner);
        result
    }

    /// Keep alive timeout in milliseconds, 0 for none.
    pub fn kato_ms(&self) -> u32 {
        lock(&self.inner).kato_ms
    }

    /// Sets the keep alive timeout.
    pub fn set_kato_ms(&self, kato_ms: u32) {
        lock(&self.inner).kato_ms = kato_ms;
    }

    /// Writes Controller Configuration (Base 2.1, 3.1.4.5).
    ///
    /// # Errors
    /// [`Illegal`] where the controller's state does not allow it; nothing changes then.
    pub(crate) fn write_cc(&self, cc: Cc) -> Result<(), Illegal> {
        let mut inner = lock(&self.inner);
        self.settle(&mut inner);
        let old = inner.cc;
        let mut wakers = Vec::new();
        if cc.shn() != old.shn() && matches!(cc.shutdown(), Shutdown::Normal | Shutdown::Abrupt) {
            inner.state = inner.state.after(Event::Shutdown)?;
            inner.close_io_queues("controller shutdown");
        }
        if old.en() && !cc.en() {
            inner.state = inner.state.after(Event::Disable)?;
            wakers = inner.reset();
        } else if cc.en() && !old.en() {
            let event = if supported(cc) {
                Event::Enable
            } else {
                Event::EnableInvalid
            };
            inner.state = inner.state.after(event)?;
        }
        inner.cc = cc;
        self.settle(&mut inner);
        let state = inner.state;
        drop(inner);
        for waker in wakers {
            waker.wake();
        }
        tracing::debug!(controller = %self.id, host = %self.host.nqn, %state, "controller");
        Ok(())
    }

    /// Takes the steps that wait for nothing any more, and shows the state to the I/O path.
    fn settle(&self, inner: &mut Inner) {
        let drained = match inner.state {
            State::Enabling => self.debt.load(Ordering::Acquire) == 0,
            State::Resetting | State::ShuttingDown => inner.queues.keys().all(|qid| *qid == 0),
            _ => false,
        };
        if drained && let Ok(next) = inner.state.after(Event::Drained) {
            inner.state = next;
        }
        self.publish(inner);
    }

    fn publish(&self, inner: &Inner) {
        let mut flags = 0;
        if inner.state == State::Ready {
            flags |= FLAG_READY;
        }
        if inner.features.write_through() {
            flags |= FLAG_WRITE_THROUGH;
        }
        self.flags.store(flags, Ordering::Relaxed);
    }

    /// A fatal condition: CSTS.CFS, and every connection is closed.
    pub fn fail(&self, reason: &'static str) {
        let mut inner = lock(&self.inner);
        if let Ok(next) = inner.state.after(Event::Fail) {
            inner.state = next;
        }
        self.publish(&inner);
        inner.close_queues(reason, |_| true);
    }

    /// Closes every connection: the association ends.
    pub fn close(&self, reason: &'static str) {
        lock(&self.inner).close_queues(reason, |_| true);
    }

    /// A connection becomes one of the controller's queues.
    ///
    /// # Errors
    /// [`AttachError`] where it may not.
    pub fn attach(
        &self,
        qid: u16,
        remote: Remote,
        shared: Arc<QueueShared>,
    ) -> Result<(), AttachError> {
        let mut inner = lock(&self.inner);
        self.settle(&mut inner);
        if qid != 0 && inner.state != State::Ready {
            return Err(AttachError::NotReady);
        }
        if inner.queues.contains_key(&qid) {
            return Err(AttachError::Duplicate);
        }
        inner.queues.insert(
            qid,
            Queue {
                remote,
                shared,
                closing: None,
            },
        );
        Ok(())
    }

    /// The connection of a queue is gone. Without its admin queue the controller is gone as well.
    pub fn detach(&self, qid: u16, session: u64) {
        let mut inner = lock(&self.inner);
        if inner
            .queues
            .get(&qid)
            .is_none_or(|queue| queue.remote.id() != session)
        {
            return;
        }
        if let Some(queue) = inner.queues.remove(&qid) {
            inner.retired.add(&queue.shared.counters);
        }
        if qid == 0 {
            if let Ok(next) = inner.state.after(Event::Fail) {
                inner.state = next;
            }
            inner.close_queues("admin queue closed", |_| true);
        }
        self.settle(&mut inner);
        drop(inner);
        if qid == 0 {
            self.subsystem.remove_controller(self);
        }
    }

    /// The way to one of its queues.
    pub fn queue(&self, qid: u16) -> Option<Remote> {
        lock(&self.inner)
            .queues
            .get(&qid)
            .map(|queue| queue.remote.clone())
    }

    /// Number of I/O queues connected.
    pub fn io_queue_count(&self) -> usize {
        lock(&self.inner)
            .queues
            .keys()
            .filter(|qid| **qid != 0)
            .count()
    }

    /// Counts a concurrent Abort; false where `limit` are in progress.
    pub fn begin_abort(&self, limit: u16) -> bool {
        let mut inner = lock(&self.inner);
        let room = inner.aborts < limit;
        inner.aborts += u16::from(room);
        room
    }

    /// An Abort ended.
    pub fn end_abort(&self) {
        lock(&self.inner).aborts -= 1;
    }

    /// Posts an event.
    pub fn post(&self, kind: EventKind) {
        let wakers = lock(&self.inner).events.post(kind);
        for waker in wakers {
            waker.wake();
        }
    }

    /// A namespace was added, changed or removed: notes it, tells the host, and has the I/O queues
    /// look again (so that a removed namespace's device is let go).
    pub fn namespace_changed(&self, nsid: Nsid) {
        let (wakers, remotes) = {
            let mut inner = lock(&self.inner);
            inner.changed.add(nsid);
            let wakers = inner.events.post(EventKind::NamespaceChanged);
            let io = inner.queues.iter().filter(|(qid, _)| **qid != 0);
            (
                wakers,
                io.map(|(_, queue)| queue.remote.clone())
                    .collect::<Vec<_>>(),
            )
        };
        for waker in wakers {
            waker.wake();
        }
        for remote in remotes {
            // A full mailbox only delays it: the next command looks as well.
            remote.run(|session| session.refresh_namespaces());
        }
    }

    /// The changed namespaces, ascending, and whether there are more than can be named.
    pub fn changed_namespaces(&self, clear: bool) -> (Vec<Nsid>, bool) {
        let mut inner = lock(&self.inner);
        let result = (
            inner.changed.nsids.iter().copied().collect(),
            inner.changed.overflow,
        );
        if clear {
            inner.changed = Changed::default();
        }
        result
    }

    /// Counters of all its queues, those closed included.
    pub fn totals(&self) -> ControllerTotals {
        let inner = lock(&self.inner);
        let mut totals = inner.retired;
        for queue in inner.queues.values() {
            totals.add(&queue.shared.counters);
        }
        totals
    }

    /// Periodic work: keep alive, and closes that found a full mailbox. Clock values in ticks.
    pub fn tick(&self, now: u64, ticks_per_second: u64) {
        let mut inner = lock(&self.inner);
        self.settle(&mut inner);
        inner.repeat_closes();
        if inner.state == State::Failed || inner.kato_ms == 0 {
            return;
        }
        let last = inner
            .queues
            .values()
            .map(|q| q.shared.last_traffic.load(Ordering::Relaxed));
        let idle = now.saturating_sub(last.max().unwrap_or(now));
        let limit = u128::from(inner.kato_ms) * u128::from(ticks_per_second) / 1000;
        let kato_ms = inner.kato_ms;
        drop(inner);
        if u128::from(idle) > limit {
            tracing::warn!(
                host = %self.host.nqn, peer = %self.peer, controller = %self.id, kato_ms,
                "keep alive timeout: no command within the time; closing its connections"
            );
            self.fail("keep alive timeout");
        }
    }
}

/// Whether this controller can be enabled with these values (Base 2.1, 3.1.4.5).
fn supported(cc: Cc) -> bool {
    matches!(cc.css(), CC_CSS_NVM | CC_CSS_ALL)
        && cc.mps() == 0
        && cc.ams() == 0
        && cc.iosqes() == 6
        && cc.iocqes() == 4
        && !cc.crime()
}

impl Inner {
    /// A controller level reset (Base 2.1, 3.7.2): I/O queues go, features are at their defaults.
    fn reset(&mut self) -> Vec<Waker> {
        self.close_io_queues("controller reset");
        self.features = Features::default();
        self.changed = Changed::default();
        self.events.reset()
    }

    fn close_io_queues(&mut self, reason: &'static str) {
        self.close_queues(reason, |qid| qid != 0);
    }

    fn close_queues(&mut self, reason: &'static str, which: impl Fn(u16) -> bool) {
        for (_, queue) in self.queues.iter_mut().filter(|(qid, _)| which(**qid)) {
            queue.closing.get_or_insert(reason);
        }
        self.repeat_closes();
    }

    fn repeat_closes(&self) {
        for queue in self.queues.values() {
            if let Some(reason) = queue.closing {
                // Never run here and now: this thread holds the lock. A full mailbox is met by the
                // next tick.
                queue.remote.run_later(move |session| session.close(reason));
            }
        }
    }
}

impl Changed {
    fn add(&mut self, nsid: Nsid) {
        if self.nsids.len() >= CHANGED_MAX && !self.nsids.contains(&nsid) {
            self.overflow = true;
        } else {
            self.nsids.insert(nsid);
        }
    }
}
