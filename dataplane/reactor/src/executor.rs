//! The single-thread executor: boxed tasks in a slab, plain wakers without a reference count.
//!
//! A waker is a packed number (reactor, generation, slot), so cloning and dropping one costs nothing
//! and a waker that outlives its task is harmless. Woken on its own reactor it pushes the slot on
//! the ready list; woken elsewhere it goes through the reactor's mailbox.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, RawWaker, RawWakerVTable, Waker};

use crate::core;
use crate::handle;
use crate::stall::Activity;

const INDEX_BITS: u32 = 28;
const GENERATION_BITS: u32 = 24;
const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;

/// Names a task of one reactor. Stale ids are harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskId {
    index: u32,
    generation: u32,
}

type BoxedTask = Pin<Box<dyn Future<Output = ()>>>;

struct Slot {
    future: Option<BoxedTask>,
    name: Activity,
    generation: u32,
    alive: bool,
    queued: bool,
    polling: bool,
    cancelled: bool,
}

/// Tasks of one reactor.
#[derive(Default)]
pub(crate) struct Executor {
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<u32>>,
    ready: RefCell<VecDeque<u32>>,
}

impl Executor {
    pub(crate) fn spawn(&self, name: Activity, future: BoxedTask) -> TaskId {
        let mut slots = self.slots.borrow_mut();
        let index = self.free.borrow_mut().pop();
        let index = index.unwrap_or_else(|| {
            slots.push(Slot {
                future: None,
                name,
                generation: 0,
                alive: false,
                queued: false,
                polling: false,
                cancelled: false,
            });
            u32::try_from(slots.len() - 1).unwrap_or(u32::MAX)
        });
        let slot = &mut slots[index as usize];
        slot.future = Some(future);
        slot.name = name;
        slot.alive = true;
        slot.queued = true;
        slot.cancelled = false;
        let generation = slot.generation;
        drop(slots);
        self.ready.borrow_mut().push_back(index);
        TaskId { index, generation }
    }

    /// Queues the task for this or the next round.
    pub(crate) fn wake(&self, id: TaskId) {
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get_mut(id.index as usize) else {
            return;
        };
        if slot.alive && slot.generation == id.generation && !slot.queued {
            slot.queued = true;
            self.ready.borrow_mut().push_back(id.index);
        }
    }

    /// Polls up to `budget` tasks that are ready now. Returns how many.
    pub(crate) fn run_ready(
        &self,
        reactor: u32,
        budget: usize,
        activity: impl Fn(Activity),
    ) -> usize {
        let mut polled = 0;
        while polled < budget {
            let Some(index) = self.ready.borrow_mut().pop_front() else {
                break;
            };
            let id = {
                let mut slots = self.slots.borrow_mut();
                let slot = &mut slots[index as usize];
                if !slot.queued {
                    continue;
                }
                slot.queued = false;
                activity(slot.name);
                TaskId {
                    index,
                    generation: slot.generation,
                }
            };
            self.poll(reactor, id);
            polled += 1;
        }
        polled
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.borrow().is_empty()
    }

    /// Polls one task now. Does nothing if it is gone or being polled already.
    pub(crate) fn poll(&self, reactor: u32, id: TaskId) {
        let future = {
            let mut slots = self.slots.borrow_mut();
            let Some(slot) = slots.get_mut(id.index as usize) else {
                return;
            };
            if !slot.alive || slot.generation != id.generation || slot.polling {
                return;
            }
            slot.polling = true;
            slot.future.take()
        };
        let Some(mut future) = future else { return };
        let waker = waker(reactor, id);
        let ready = future
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_ready();
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots[id.index as usize];
        slot.polling = false;
        if ready || slot.cancelled {
            self.retire(slot, id.index);
            drop(slots);
            // The future's own drop may wake or spawn, so it runs with nothing borrowed.
            drop(future);
        } else {
            slot.future = Some(future);
        }
    }

    /// Drops the task's future; at the end of its poll if it is being polled.
    pub(crate) fn cancel(&self, id: TaskId) {
        let future = {
            let mut slots = self.slots.borrow_mut();
            let Some(slot) = slots.get_mut(id.index as usize) else {
                return;
            };
            if !slot.alive || slot.generation != id.generation {
                return;
            }
            if slot.polling {
                slot.cancelled = true;
                return;
            }
            let future = slot.future.take();
            self.retire(slot, id.index);
            future
        };
        drop(future);
    }

    fn retire(&self, slot: &mut Slot, index: u32) {
        slot.alive = false;
        slot.queued = false;
        slot.cancelled = false;
        slot.generation = (slot.generation + 1) & GENERATION_MASK;
        self.free.borrow_mut().push(index);
    }

    /// Drops every task; used when the reactor ends.
    pub(crate) fn clear(&self) {
        let count = self.slots.borrow().len();
        for index in 0..count {
            let id = {
                let slots = self.slots.borrow();
                TaskId {
                    index: u32::try_from(index).unwrap_or(u32::MAX),
                    generation: slots[index].generation,
                }
            };
            self.cancel(id);
        }
    }
}

/// Drops a task's future: at once, or at the end of its poll if it is being polled.
pub fn cancel(id: TaskId) {
    core::with(|core| core.executor.cancel(id));
}

fn pack(reactor: u32, id: TaskId) -> u64 {
    (u64::from(reactor) << (INDEX_BITS + GENERATION_BITS))
        | (u64::from(id.generation) << INDEX_BITS)
        | u64::from(id.index)
}

fn unpack(packed: u64) -> (u32, TaskId) {
    let reactor = packed >> (INDEX_BITS + GENERATION_BITS);
    let generation = (packed >> INDEX_BITS) & u64::from(GENERATION_MASK);
    let index = packed & ((1 << INDEX_BITS) - 1);
    let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    (
        narrow(reactor),
        TaskId {
            index: narrow(index),
            generation: narrow(generation),
        },
    )
}

pub(crate) fn task_of(packed: u64) -> TaskId {
    unpack(packed).1
}

static VTABLE: RawWakerVTable = RawWakerVTable::new(
    |data| RawWaker::new(data, &VTABLE),
    wake_packed,
    wake_packed,
    |_| {},
);

fn waker(reactor: u32, id: TaskId) -> Waker {
    let data = std::ptr::without_provenance::<()>(usize::try_from(pack(reactor, id)).unwrap_or(0));
    // SAFETY: the data pointer is a number that is never dereferenced; clone copies it, drop does
    // nothing, wake looks the task up by it from any thread.
    unsafe { Waker::from_raw(RawWaker::new(data, &VTABLE)) }
}

fn wake_packed(data: *const ()) {
    let packed = data.addr() as u64;
    let (reactor, id) = unpack(packed);
    let local = core::try_with(|core| {
        if core.id != reactor {
            return false;
        }
        core.executor.wake(id);
        true
    });
    if local != Some(true) {
        handle::wake_remote(reactor, packed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_round_trips() {
        let id = TaskId {
            index: (1 << INDEX_BITS) - 1,
            generation: GENERATION_MASK,
        };
        assert_eq!(unpack(pack(4095, id)), (4095, id));
        assert_eq!(
            unpack(pack(
                0,
                TaskId {
                    index: 3,
                    generation: 1
                }
            )),
            (
                0,
                TaskId {
                    index: 3,
                    generation: 1
                }
            )
        );
    }
}
