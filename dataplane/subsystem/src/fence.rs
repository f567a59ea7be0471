//! Exclusive access to a namespace for a fused operation, free for everybody else.
//!
//! A fused Compare-and-Write must not see another write between its halves. Writers pay one relaxed
//! load of [`Fence::raised`] and a thread-local count of writes in progress; no barrier, no lock. The
//! fused operation does the expensive part: it raises the flag, then sends every reactor that uses
//! the namespace a message, and waits until each has none of its earlier writes left. The message
//! orders the flag before it: whoever starts a write on that reactor later sees the flag and waits.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use crate::local::{Home, lock};

/// The fence of one namespace, shared by all reactors.
#[derive(Default)]
pub struct Fence {
    raised: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    owned: bool,
    members: Vec<(u64, Home)>,
    waiting: Vec<Waker>,
}

/// Writes in progress on one reactor.
#[derive(Default)]
pub struct WriteCount {
    writes: Cell<u32>,
    drains: RefCell<Vec<DrainToken>>,
}

impl WriteCount {
    /// A write begins.
    #[inline]
    pub fn begin(&self) {
        self.writes.set(self.writes.get() + 1);
    }

    /// A write ended.
    #[inline]
    pub fn end(&self) {
        let left = self.writes.get() - 1;
        self.writes.set(left);
        if left == 0 {
            self.drained();
        }
    }

    fn drained(&self) {
        // `take` costs a compare when nobody waits: an empty Vec has no memory.
        for token in self.drains.take() {
            token.done();
        }
    }

    /// Tells `token` when no write is in progress any more.
    pub fn when_drained(&self, token: DrainToken) {
        if self.writes.get() == 0 {
            token.done();
        } else {
            self.drains.borrow_mut().push(token);
        }
    }
}

#[derive(Default)]
struct Drain {
    left: usize,
    failed: bool,
    waker: Option<Waker>,
}

/// One reactor's part of a drain. Dropped unanswered, the drain has failed.
pub struct DrainToken {
    drain: Arc<Mutex<Drain>>,
    answered: bool,
}

impl DrainToken {
    fn new(drain: &Arc<Mutex<Drain>>) -> DrainToken {
        lock(drain).left += 1;
        DrainToken {
            drain: Arc::clone(drain),
            answered: false,
        }
    }

    /// The reactor has no earlier write left.
    pub fn done(mut self) {
        self.answered = true;
    }
}

impl Drop for DrainToken {
    fn drop(&mut self) {
        let waker = {
            let mut drain = lock(&self.drain);
            drain.left -= 1;
            drain.failed |= !self.answered;
            drain.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The fence could not be raised: a reactor did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotRaised;

impl Fence {
    /// Whether writers must wait. One relaxed load.
    #[inline]
    pub fn raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }

    /// A reactor begins to use the namespace.
    pub fn join(&self, key: u64, home: Home) {
        lock(&self.inner).members.push((key, home));
    }

    /// A reactor ends to use the namespace.
    pub fn leave(&self, key: u64) {
        lock(&self.inner).members.retain(|(k, _)| *k != key);
    }

    /// Waits while the fence is raised.
    pub async fn lowered(&self) {
        std::future::poll_fn(|cx| {
            let mut inner = lock(&self.inner);
            if !inner.owned {
                return Poll::Ready(());
            }
            inner.waiting.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Raises the fence and waits until no write that began earlier is in progress on any reactor.
    /// `drain_on` is run on each reactor with the key it joined with.
    ///
    /// # Errors
    /// [`NotRaised`] where a reactor cannot be reached; the fence is down again then.
    pub async fn raise(&self, drain_on: fn(u64, DrainToken)) -> Result<Raised<'_>, NotRaised> {
        let members = std::future::poll_fn(|cx| {
            let mut inner = lock(&self.inner);
            if inner.owned {
                inner.waiting.push(cx.waker().clone());
                return Poll::Pending;
            }
            inner.owned = true;
            self.raised.store(true, Ordering::Release);
            Poll::Ready(inner.members.clone())
        })
        .await;
        let raised = Raised(self);
        let drain = Arc::new(Mutex::new(Drain::default()));
        for (key, home) in members {
            let token = DrainToken::new(&drain);
            home.run(move || drain_on(key, token));
        }
        let failed = std::future::poll_fn(|cx| {
            let mut state = lock(&drain);
            if state.left == 0 {
                return Poll::Ready(state.failed);
            }
            state.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
        if failed { Err(NotRaised) } else { Ok(raised) }
    }
}

/// The fence is up and no other write is in progress. Dropped, it goes down and waiters go on.
pub struct Raised<'a>(&'a Fence);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        let waiting = {
            let mut inner = lock(&self.0.inner);
            inner.owned = false;
            self.0.raised.store(false, Ordering::Release);
            std::mem::take(&mut inner.waiting)
        };
        for waker in waiting {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::{Tasks, block_on};
    use std::rc::Rc;
    use std::thread;

    thread_local! {
        static COUNT: Rc<WriteCount> = Rc::new(WriteCount::default());
    }

    fn drain_here(_key: u64, token: DrainToken) {
        COUNT.with(|count| count.when_drained(token));
    }

    fn here() -> Home {
        Home::here(Arc::new(|_| false))
    }

    #[test]
    fn raising_waits_for_earlier_writes_and_holds_later_ones() {
        let fence = Rc::new(Fence::default());
        fence.join(1, here());
        let count = COUNT.with(Rc::clone);
        count.begin();
        let tasks = Tasks::default();
        let (log, f) = (Rc::new(RefCell::new(Vec::new())), Rc::clone(&fence));
        let seen = Rc::clone(&log);
        tasks.spawn(async move {
            let raised = f.raise(drain_here).await.unwrap();
            seen.borrow_mut().push("raised");
            drop(raised);
        });
        tasks.run();
        assert!(
            fence.raised() && log.borrow().is_empty(),
            "an earlier write is in progress"
        );
        let (f, seen) = (Rc::clone(&fence), Rc::clone(&log));
        tasks.spawn(async move {
            f.lowered().await;
            seen.borrow_mut().push("later write");
        });
        tasks.run();
        assert!(log.borrow().is_empty());
        count.end();
        tasks.run();
        assert_eq!(*log.borrow(), ["raised", "later write"]);
        assert!(!fence.raised());
    }

    #[test]
    fn one_owner_at_a_time_and_an_abandoned_raise_lets_go() {
        let fence = Fence::default();
        let first = block_on(fence.raise(drain_here)).unwrap();
        let mut second = Box::pin(fence.raise(drain_here));
        let mut cx = std::task::Context::from_waker(Waker::noop());
        assert!(second.as_mut().poll(&mut cx).is_pending());
        drop(first);
        assert!(second.as_mut().poll(&mut cx).is_ready());
        drop(second);
        assert!(!fence.raised());
    }

    #[test]
    fn an_unreachable_reactor_fails_the_raise() {
        let fence = Arc::new(Fence::default());
        let f = Arc::clone(&fence);
        // Joined from a thread whose runner refuses every job.
        thread::spawn(move || f.join(1, here())).join().unwrap();
        assert_eq!(block_on(fence.raise(drain_here)).err(), Some(NotRaised));
        assert!(!fence.raised());
        fence.leave(1);
        assert!(block_on(fence.raise(drain_here)).is_ok());
    }
}
