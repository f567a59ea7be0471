//! Memory for commands that need two pieces of it at once.
//!
//! Who holds one lease and waits for another can wait for ever: enough commands that do so hold the
//! whole pool between them. So only one command of a reactor at a time is between its two leases.
//! Every other holder of memory has all it needs and gives it back some day, so that one gets its
//! second lease (a pool has room for at least four of the longest).

use std::cell::{Cell, RefCell};
use std::task::{Poll, Waker};

use penstock_buffer::{Lease, Pool};

/// Whose turn it is on this thread; a reactor's pool is used by its own thread only.
#[derive(Default)]
struct Line {
    taken: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

thread_local! {
    static LINE: Line = Line::default();
}

/// The right to be between two leases.
struct Turn;

impl Turn {
    async fn take() -> Turn {
        std::future::poll_fn(|cx| {
            LINE.with(|line| {
                if !line.taken.replace(true) {
                    return Poll::Ready(Turn);
                }
                line.waiting.borrow_mut().push(cx.waker().clone());
                Poll::Pending
            })
        })
        .await
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Where the thread is ending nobody waits any more.
        let _ = LINE.try_with(|line| {
            line.taken.set(false);
            // All of them, in the order they came: the first takes the turn, even where some have
            // been aborted meanwhile.
            for waker in line.waiting.take() {
                waker.wake();
            }
        });
    }
}

/// Two leases of `len` bytes each.
pub(super) async fn two_leases(pool: &Pool, len: usize) -> (Lease, Lease) {
    let _turn = Turn::take().await;
    let first = pool.lease(len).await;
    (first, pool.lease(len).await)
}
