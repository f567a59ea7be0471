//! Devices that are looked at every round, and the events that wake a reactor for them.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;

use crate::core::{self, Core};
use crate::ring::{Op, OpId};

/// What a [`Poller`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polled {
    /// Nothing to do, and nothing that only polling would find: the reactor may sleep.
    Idle,
    /// Nothing yet, but a device works for us. Without an event that tells when it is done the
    /// reactor must not sleep.
    Waiting,
    /// Something was done.
    Worked,
}

/// A device that is looked at every round, because no completion of the kernel tells of it.
pub trait Poller {
    /// Looks, and does what there is to do. After a sleep it is called first thing.
    fn poll(&self) -> Polled;

    /// For a poller with an event, whenever the reactor would sleep: how long it may, nanoseconds;
    /// `None` where there is something to do already. What comes after this call must signal the
    /// event; what was signalled before it may have been forgotten.
    fn may_sleep_ns(&self) -> Option<u64> {
        None
    }
}

/// Polls `poller` every round from now on, until the guard is dropped (on the same thread).
///
/// # Panics
/// Outside a reactor's thread.
#[must_use = "polling ends when the guard is dropped"]
pub fn add_poller(poller: Rc<dyn Poller>) -> PollerGuard {
    add(poller, None)
}

/// As [`add_poller`], for a device that signals `event`, an eventfd that never blocks, when there is
/// something for the poller to do: the reactor may sleep while the device works. The event is emptied
/// and watched when the reactor is about to sleep only, so that an awake one pays nothing for it.
///
/// # Panics
/// Outside a reactor's thread.
#[must_use = "polling ends when the guard is dropped"]
pub fn add_poller_with_event(poller: Rc<dyn Poller>, event: impl AsFd + 'static) -> PollerGuard {
    let watch = Watch {
        event: Box::new(event),
        armed: Cell::new(None),
    };
    add(poller, Some(WatchRef(Rc::new(watch))))
}

fn add(poller: Rc<dyn Poller>, watch: Option<WatchRef>) -> PollerGuard {
    let polling = Rc::new(Polling { poller, watch });
    core::with(|core| core.pollers.list.borrow_mut().push(Rc::clone(&polling)));
    PollerGuard(polling)
}

/// Keeps a poller going.
pub struct PollerGuard(Rc<Polling>);

impl Drop for PollerGuard {
    fn drop(&mut self) {
        // Without a reactor the pollers are gone already.
        core::try_with(|core| {
            let mut list = core.pollers.list.borrow_mut();
            list.retain(|polling| !Rc::ptr_eq(polling, &self.0));
            drop(list);
            if let Some(id) = self.0.watch.as_ref().and_then(|watch| watch.0.armed.get()) {
                core.ring.cancel(id, core.ops.insert(Op::Ignored));
            }
        });
    }
}

/// A descriptor that the ring watches now and then.
struct Watch {
    event: Box<dyn AsFd>,
    /// The operation that watches it now.
    armed: Cell<Option<OpId>>,
}

/// Shared by a poller and the operation that watches for it.
#[derive(Clone)]
pub(crate) struct WatchRef(Rc<Watch>);

impl WatchRef {
    /// The operation ended.
    pub(crate) fn fired(&self) {
        self.0.armed.set(None);
    }

    fn arm(&self, core: &Core) {
        if self.0.armed.get().is_some() {
            return;
        }
        let fd = self.0.event.as_fd().as_raw_fd();
        let mut count = 0_u64;
        // SAFETY: reads at most 8 bytes into a live u64.
        unsafe { libc::read(fd, (&raw mut count).cast(), 8) };
        let id = core.ops.insert(Op::Event(self.clone()));
        core.ring.watch_once(fd, id);
        self.0.armed.set(Some(id));
    }
}

/// A poller and its event.
pub(crate) struct Polling {
    poller: Rc<dyn Poller>,
    watch: Option<WatchRef>,
}

impl Polling {
    pub(crate) fn poll(&self) -> Polled {
        self.poller.poll()
    }

    pub(crate) fn has_event(&self) -> bool {
        self.watch.is_some()
    }
}

/// All pollers of a reactor.
#[derive(Default)]
pub(crate) struct Pollers {
    list: RefCell<Vec<Rc<Polling>>>,
}

impl Pollers {
    pub(crate) fn at(&self, index: usize) -> Option<Rc<Polling>> {
        self.list.borrow().get(index).map(Rc::clone)
    }

    /// Empties every event that is not watched, and watches it.
    pub(crate) fn arm(&self, core: &Core) {
        for watch in self.list.borrow().iter().filter_map(|it| it.watch.as_ref()) {
            watch.arm(core);
        }
    }

    /// How long the reactor may sleep as far as devices with events go; `None`: not at all.
    pub(crate) fn may_sleep_ns(&self) -> Option<u64> {
        let list = self.list.borrow();
        let mut with_event = list.iter().filter(|polling| polling.has_event());
        with_event.try_fold(u64::MAX, |limit, polling| {
            Some(limit.min(polling.poller.may_sleep_ns()?))
        })
    }

    pub(crate) fn clear(&self) {
        let list = std::mem::take(&mut *self.list.borrow_mut());
        drop(list);
    }
}
