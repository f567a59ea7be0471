//! Timers for what is rare: time-outs, sweeps, retries. Not for each command.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::clock::{Ticks, now, ticks_of};
use crate::core;

#[derive(Default)]
pub(crate) struct Timers {
    queue: RefCell<BinaryHeap<Reverse<(Ticks, u64)>>>,
    waiting: RefCell<HashMap<u64, Waker>>,
    next: std::cell::Cell<u64>,
}

impl Timers {
    fn add(&self, deadline: Ticks, waker: Waker) -> u64 {
        let id = self.next.get();
        self.next.set(id + 1);
        self.waiting.borrow_mut().insert(id, waker);
        self.queue.borrow_mut().push(Reverse((deadline, id)));
        id
    }

    /// Wakes what is due. Returns how many.
    pub(crate) fn fire(&self, now: Ticks) -> usize {
        let mut fired = 0;
        loop {
            let id = {
                let mut queue = self.queue.borrow_mut();
                match queue.peek() {
                    Some(Reverse((deadline, id))) if *deadline <= now => {
                        let id = *id;
                        queue.pop();
                        id
                    }
                    _ => return fired,
                }
            };
            let waker = self.waiting.borrow_mut().remove(&id);
            if let Some(waker) = waker {
                waker.wake();
                fired += 1;
            }
        }
    }

    /// When the next timer is due.
    pub(crate) fn next_deadline(&self) -> Option<Ticks> {
        self.queue
            .borrow()
            .peek()
            .map(|Reverse((deadline, _))| *deadline)
    }
}

/// A future that is ready once its time has passed. Made by [`sleep`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Sleep {
    deadline: Ticks,
    id: Option<u64>,
}

/// Waits on this reactor's timers.
pub fn sleep(duration: Duration) -> Sleep {
    Sleep {
        deadline: now().saturating_add(ticks_of(duration)),
        id: None,
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if now() >= self.deadline {
            return Poll::Ready(());
        }
        core::with(|core| match self.id {
            Some(id) => {
                core.timers
                    .waiting
                    .borrow_mut()
                    .insert(id, cx.waker().clone());
            }
            None => self.id = Some(core.timers.add(self.deadline, cx.waker().clone())),
        });
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            core::try_with(|core| core.timers.waiting.borrow_mut().remove(&id));
        }
    }
}
