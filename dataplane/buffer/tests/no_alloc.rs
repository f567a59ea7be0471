//! Leasing and dropping allocate nothing once warm.
#![allow(clippy::expect_used)] // a test may stop at what should not happen

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use penstock_buffer::{Payload, Pool, PoolConfig};

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

fn allocations(f: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    f();
    ALLOCATIONS.get() - before
}

fn round(pool: &Pool) {
    for len in [512, 4096, 131_072, 1 << 20] {
        let lease = pool.try_lease(len).expect("the pool is idle");
        let slice = lease.slice(0, 512).expect("inside");
        let payload = Payload::from(lease.clone());
        drop(lease);
        black_box((&slice, &payload));
    }
    let held: [_; 100] = std::array::from_fn(|_| pool.try_lease(4096));
    black_box(&held);
}

fn wait_in_line(pool: &Pool) {
    let mut cx = Context::from_waker(Waker::noop());
    let all = pool.try_lease(4 << 20);
    let mut first = pin!(pool.lease(4096));
    let mut second = pin!(pool.lease(8192));
    assert!(first.as_mut().poll(&mut cx).is_pending());
    assert!(second.as_mut().poll(&mut cx).is_pending());
    drop(all);
    assert!(matches!(first.as_mut().poll(&mut cx), Poll::Ready(_)));
    assert!(matches!(second.as_mut().poll(&mut cx), Poll::Ready(_)));
}

#[test]
fn the_counter_counts() {
    assert!(allocations(|| drop(black_box(Box::new(1)))) > 0);
}

#[test]
fn steady_leasing_and_waiting_allocate_nothing() {
    let config = PoolConfig {
        size_bytes: 4 << 20,
        lease_max_bytes: 4 << 20,
        hugepages: false,
        ..PoolConfig::default()
    };
    let pool = Pool::new(&config).expect("4 MiB of memory");
    round(&pool);
    wait_in_line(&pool);
    let n = allocations(|| {
        for _ in 0..100 {
            round(&pool);
            wait_in_line(&pool);
        }
    });
    assert_eq!(n, 0);
    assert_eq!(pool.stats().leased_bytes, 0);
}

#[test]
#[ignore = "measures; run with --release --nocapture"]
fn cost_of_a_lease() {
    let config = PoolConfig {
        hugepages: false,
        ..PoolConfig::default()
    };
    let pool = Pool::new(&config).expect("64 MiB of memory");
    for len in [4096, 131_072] {
        let n = 5_000_000_u32;
        let start = std::time::Instant::now();
        for _ in 0..n {
            black_box(pool.try_lease(len));
        }
        println!("{len} bytes: {:?} a lease and drop", start.elapsed() / n);
    }
}
