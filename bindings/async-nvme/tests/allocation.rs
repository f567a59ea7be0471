//! In steady state a command allocates nothing, whether it fits one command or is cut, waits in line
//! or not. The controller plays in a thread of its own, whose allocations are its own.
#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on must fail"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use penstock_async_nvme::soft::{SoftConfig, SoftController};
use penstock_async_nvme::{
    Controller, ControllerConfig, Io, IoQueue, Namespace, Queue, Regions, Sleeping, Verb,
};
use penstock_buffer::{Payload, Pool, PoolConfig, pools_of_this_thread};
use penstock_units::{Lba, Nsid};

/// Counts the allocations of each thread for itself.
struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const ROUNDS: u32 = 200;
/// Requests at once: more than the queue pair has entries.
const REQUESTS: u32 = 24;

fn start() -> (SoftController, Controller, Pool, Namespace) {
    let soft = SoftController::new(SoftConfig {
        mdts: 4,
        ..SoftConfig::with_namespace(64 << 20, 9)
    });
    let thread = soft.run_thread();
    let mut controller = Controller::start(
        soft.bar(),
        Arc::new(Regions::new(soft.mapper())),
        Arc::new(Sleeping::default()),
        ControllerConfig {
            queue_entries: 8,
            ..ControllerConfig::default()
        },
    )
    .unwrap();
    // It runs to the end of the test.
    std::mem::forget(thread);
    let pool = Pool::new(&PoolConfig {
        size_bytes: 16 << 20,
        hugepages: false,
        ..PoolConfig::default()
    })
    .unwrap();
    for memory in pools_of_this_thread() {
        controller.regions().add_pool(&memory).unwrap();
    }
    let namespace = controller.namespace(Nsid::new(1).unwrap()).unwrap();
    (soft, controller, pool, namespace.unwrap())
}

#[test]
fn requests_allocate_nothing() {
    let (soft, mut controller, pool, namespace) = start();
    let mut queue = Queue::<Payload, u32>::open(controller.create_queue().unwrap()).unwrap();
    let begun = Instant::now();
    let mut round = |round: u32| {
        for tag in 0..REQUESTS {
            // Every third is cut into four commands.
            let bytes = if tag.is_multiple_of(3) {
                256 << 10
            } else {
                4096
            };
            let io = Io {
                verb: if round.is_multiple_of(2) {
                    Verb::Read
                } else {
                    Verb::Write { fua: false }
                },
                nsid: namespace.nsid,
                slba: Lba(u64::from(tag) * 512),
                blocks: bytes as u64 / 512,
                block_shift: 9,
                boundary_blocks: 0,
            };
            let lease = pool.try_lease(bytes).expect("a lease");
            queue.submit(io, Payload::from(lease), tag);
        }
        let mut left = REQUESTS;
        while left > 0 {
            queue.tick(u64::try_from(begun.elapsed().as_nanos()).unwrap());
            while let Some(done) = queue.next_done() {
                done.result.expect("it succeeds");
                left -= 1;
            }
            queue.round_end();
            std::thread::yield_now();
        }
    };
    (0..10).for_each(&mut round);
    let before = COUNT.get();
    (0..ROUNDS).for_each(&mut round);
    let allocations = COUNT.get() - before;
    assert_eq!(allocations, 0, "{} requests", ROUNDS * REQUESTS);
    assert_eq!(soft.violations(), Vec::<String>::new());
}

#[test]
fn futures_allocate_nothing() {
    let (soft, mut controller, pool, namespace) = start();
    let queue = IoQueue::<Payload>::open(controller.create_queue().unwrap()).unwrap();
    let begun = Instant::now();
    let round = || {
        let lease = pool.try_lease(256 << 10).expect("a lease");
        let mut write = pin!(queue.write(&namespace, Lba(8), 512, true, Payload::from(lease)));
        loop {
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready((result, _)) = write.as_mut().poll(&mut context) {
                result.expect("it succeeds");
                return;
            }
            queue.poll(u64::try_from(begun.elapsed().as_nanos()).unwrap());
            std::thread::yield_now();
        }
    };
    (0..10).for_each(|_| round());
    let before = COUNT.get();
    (0..ROUNDS).for_each(|_| round());
    assert_eq!(COUNT.get() - before, 0, "{ROUNDS} writes");
    assert_eq!(soft.violations(), Vec::<String>::new());
}
