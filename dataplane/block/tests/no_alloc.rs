//! A request's ticket allocates nothing once warm.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use penstock_block::{Outcome, Ticket};
use penstock_buffer::Payload;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: passes every call on to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn round() {
    let mut cx = Context::from_waker(Waker::noop());
    let pairs: [_; 64] = std::array::from_fn(|_| Ticket::pending());
    for (ticket, completer) in pairs {
        let mut ticket = pin!(ticket);
        assert!(ticket.as_mut().poll(&mut cx).is_pending());
        completer.complete(Outcome {
            result: Ok(()),
            payload: Payload::none(),
        });
        assert!(ticket.as_mut().poll(&mut cx).is_ready());
    }
}

#[test]
fn steady_tickets_allocate_nothing() {
    round();
    let before = ALLOCATIONS.get();
    assert!(before > 0, "the counter counts");
    (0..100).for_each(|_| round());
    assert_eq!(ALLOCATIONS.get(), before);
}
