//! In steady state a command allocates nothing.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on must fail"
)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use common::{Hello, content, nsid, with_queue};
use penstock_client::IoQueue;
use penstock_nvme::{IoOpcode, Status};
use penstock_reactor::{sleep, spawn};
use penstock_units::Lba;

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
const LARGE_BYTES: usize = 64 * 1024;

/// Answers reads of 4 KiB and 64 KiB and writes of both, as often as they come.
fn serve(peer: &mut common::Peer) {
    let data = content(LARGE_BYTES);
    let mut held = None;
    while let Some(pdu) = peer.try_pdu() {
        if pdu.kind() == 0x06 {
            let cid = pdu.h2c().cccid.get();
            peer.respond(cid, Status::SUCCESS, 0);
            held = None;
            continue;
        }
        let sqe = pdu.sqe();
        let cid = sqe.cid.get();
        let bytes = (sqe.cdw12.get() as usize & 0xffff).wrapping_add(1) * 512;
        if sqe.opcode == u8::from(IoOpcode::Read) {
            peer.c2h(cid, 0, &data[..bytes], true, cid.is_multiple_of(2));
            if !cid.is_multiple_of(2) {
                peer.respond(cid, Status::SUCCESS, 0);
            }
        } else if pdu.data.is_empty() && bytes > 4096 {
            assert_eq!(held.replace(cid), None, "one large write at a time");
            peer.r2t(cid, 5, 0, u32::try_from(bytes).expect("small"));
        } else {
            peer.respond(cid, Status::SUCCESS, 0);
        }
    }
}

/// Reads and writes, small and large, and a command that waits in line. Gives its memory back.
async fn load(queue: &IoQueue, pool: &penstock_buffer::Pool) {
    for (bytes, blocks) in [(4096, 8), (LARGE_BYTES, 128)] {
        let lease = pool.try_lease(bytes).expect("memory");
        let lease = queue
            .read(nsid(), Lba(0), blocks, lease)
            .await
            .expect("read");
        queue
            .write(nsid(), Lba(0), blocks, lease, false)
            .await
            .expect("written");
    }
    queue.flush(nsid()).await.expect("flushed");
}

#[test]
fn commands_in_steady_state_allocate_nothing() {
    for (header_digest, data_digest) in [(false, false), (true, true)] {
        let hello = Hello {
            header_digest,
            data_digest,
            ..Hello::default()
        };
        let (measured, other) = with_queue(
            hello,
            2,
            |_| {},
            serve,
            |queue, pool| async move {
                // A second task competes for the two slots, so that waiting in line is counted too.
                let running = std::rc::Rc::new(Cell::new(true));
                let turns = std::rc::Rc::new(Cell::new(0_u64));
                for _ in 0..3 {
                    let (queue, running) = (queue.clone(), std::rc::Rc::clone(&running));
                    let turns = std::rc::Rc::clone(&turns);
                    spawn(async move {
                        while running.get() && queue.flush(nsid()).await.is_ok() {
                            turns.set(turns.get() + 1);
                        }
                    });
                }
                for _ in 0..ROUNDS {
                    load(&queue, &pool).await;
                }
                let before = COUNT.get();
                for _ in 0..ROUNDS {
                    load(&queue, &pool).await;
                }
                let measured = COUNT.get() - before;
                running.set(false);
                // The target would find the stream gone while it answers their last commands.
                while std::rc::Rc::strong_count(&running) > 1 {
                    sleep(Duration::from_millis(1)).await;
                }
                (measured, turns.get())
            },
        );
        assert!(other > 0, "the other tasks ran too");
        assert_eq!(measured, 0, "allocations in {ROUNDS} rounds of commands");
    }
}

#[test]
fn the_counter_counts() {
    let before = COUNT.get();
    drop(std::hint::black_box(vec![0_u8; 100]));
    assert!(COUNT.get() > before);
}
