//! Requests through stripe and extents allocate nothing once warm, split or not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use penstock_block::{
    BlockDevice, BlockError, BlockQueue, Completer, DeviceRange, Direction, Extents, Geometry, Op,
    Outcome, Request, Stripe, Ticket,
};
use penstock_buffer::{Lease, Payload, Pool, PoolConfig};
use penstock_units::{BlockSize, Lba};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static LATE: RefCell<Vec<(Completer, Payload)>> = const { RefCell::new(Vec::new()) };
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

/// Answers every request later, with success.
struct Late;

impl BlockDevice for Late {
    fn geometry(&self) -> Geometry {
        Geometry {
            block_size: BlockSize::B512,
            blocks: 1 << 20,
            volatile_cache: true,
            deallocate: true,
            deallocated_reads_zero: true,
            read_only: false,
            optimal_blocks: 8,
        }
    }

    fn name(&self) -> &str {
        "late"
    }

    fn open(self: Arc<Self>) -> Result<Rc<dyn BlockQueue>, BlockError> {
        Ok(Rc::new(LateQueue))
    }
}

struct LateQueue;

impl BlockQueue for LateQueue {
    fn submit(&self, request: Request) -> Ticket {
        let (ticket, completer) = Ticket::pending();
        LATE.with_borrow_mut(|late| late.push((completer, request.payload)));
        ticket
    }

    fn lend(&self, _direction: Direction, _lba: Lba, _blocks: u64) -> Option<Lease> {
        None
    }
}

fn release() {
    while let Some((completer, payload)) = LATE.with_borrow_mut(Vec::pop) {
        completer.complete(Outcome {
            result: Ok(()),
            payload,
        });
    }
}

fn striped() -> Rc<dyn BlockQueue> {
    let column = || {
        let device: Arc<dyn BlockDevice> = Arc::new(Late);
        let range = |offset_bytes| DeviceRange {
            device: Arc::clone(&device),
            offset_bytes,
            length_bytes: 1 << 20,
        };
        let ranges = [range(0), range(4 << 20)];
        Extents::new("column", BlockSize::B4096, &ranges).unwrap() as Arc<dyn BlockDevice>
    };
    let columns = (0..4).map(|_| column()).collect();
    Stripe::new("stripe", 16 << 10, columns)
        .unwrap()
        .open()
        .unwrap()
}

/// Eight requests in flight at once, each polled before and after it ends.
fn round(queue: &dyn BlockQueue, pool: &Pool, op: Op, bytes: usize) {
    let mut cx = Context::from_waker(Waker::noop());
    let mut tickets: [Option<Ticket>; 8] = std::array::from_fn(|_| None);
    for (n, slot) in (0..).zip(&mut tickets) {
        let payload = match op {
            Op::Read | Op::Write { .. } => Payload::from(pool.try_lease(bytes).unwrap()),
            _ => Payload::none(),
        };
        *slot = Some(queue.submit(Request {
            op,
            lba: Lba(n * 64),
            blocks: bytes as u64 / 4096,
            payload,
        }));
    }
    for ticket in tickets.iter_mut().flatten() {
        assert!(Pin::new(ticket).poll(&mut cx).is_pending());
    }
    release();
    for ticket in tickets.iter_mut().flatten() {
        match Pin::new(ticket).poll(&mut cx) {
            Poll::Ready(outcome) => assert_eq!(outcome.result, Ok(())),
            Poll::Pending => panic!("every part has ended"),
        }
    }
}

#[test]
fn steady_requests_allocate_nothing_split_or_not() {
    let queue = striped();
    let pool = Pool::new(&PoolConfig {
        size_bytes: 8 << 20,
        hugepages: false,
        ..PoolConfig::default()
    })
    .unwrap();
    let ops = [Op::Read, Op::Write { fua: true }, Op::Deallocate, Op::Flush];
    let all = || {
        for op in ops {
            round(&*queue, &pool, op, 4096);
            round(&*queue, &pool, op, 16 << 10);
            round(&*queue, &pool, op, 256 << 10);
        }
    };
    // Until each kept gathering has been as wide as any request.
    (0..20).for_each(|_| all());
    let before = ALLOCATIONS.get();
    assert!(before > 0, "the counter counts");
    (0..20).for_each(|_| all());
    assert_eq!(ALLOCATIONS.get(), before);
}
