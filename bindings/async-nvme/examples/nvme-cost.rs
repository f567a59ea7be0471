//! What a command costs the driver: 4 KiB reads from submission to completion on one core, against
//! a drive that answers at once. The drive's part (reading an identifier, writing a completion) is
//! done in the same loop and told apart by a run of it alone.
//!
//! `cargo run --release -p penstock-async-nvme --features soft --example nvme-cost`; instructions:
//! `valgrind --tool=callgrind --toggle-collect='*measured*'` before the program, with `--commands`.
#![allow(clippy::print_stdout, reason = "a program that tells figures")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use penstock_async_nvme::soft::{SoftConfig, SoftController};
use penstock_async_nvme::{
    Controller, ControllerConfig, Io, Queue, QueueParts, Regions, Sleeping, Verb, completion_bytes,
};
use penstock_buffer::{Payload, Pool, PoolConfig, pools_of_this_thread};
use penstock_units::{Lba, Nsid};

const ENTRIES: u16 = 256;
/// Commands sent and answered in a round.
const BATCH: u32 = 32;

/// A drive that answers whatever is in the submission queue.
struct Answers {
    submissions: *mut u16,
    completions: *mut u32,
    head: usize,
    tail: usize,
    phase: u32,
}

impl Answers {
    fn new(parts: &QueueParts) -> Answers {
        let base = parts.memory.base().as_ptr();
        Answers {
            // SAFETY: the submission queue lies behind the completion queue, in the same memory.
            submissions: unsafe { base.add(completion_bytes(ENTRIES)) }.cast(),
            completions: base.cast(),
            head: 0,
            tail: 0,
            phase: 1,
        }
    }

    /// Answers the next `count` entries.
    #[inline(never)]
    fn answer(&mut self, count: u32) {
        let entries = usize::from(ENTRIES);
        for _ in 0..count {
            // SAFETY: both indexes are below the number of entries; the identifier is the second
            // 16-bit word of an entry's 32, the last of a completion's four words holds it as well.
            unsafe {
                let cid = self.submissions.add(self.head * 32 + 1).read_volatile();
                let last = self.completions.add(self.tail * 4 + 3);
                last.write_volatile(u32::from(cid) | self.phase << 16);
            }
            self.head = (self.head + 1) % entries;
            self.tail += 1;
            if self.tail == entries {
                self.tail = 0;
                self.phase ^= 1;
            }
        }
    }
}

#[inline(never)]
fn measured(
    queue: &mut Queue<Payload, u32>,
    drive: &mut Answers,
    payloads: &mut Vec<Payload>,
    commands: u64,
) {
    let nsid = Nsid::new(1);
    let Some(nsid) = nsid else { return };
    let mut io = Io {
        verb: Verb::Read,
        nsid,
        slba: Lba(0),
        blocks: 8,
        block_shift: 9,
        boundary_blocks: 0,
    };
    let mut now_ns = 0;
    for _ in 0..commands / u64::from(BATCH) {
        now_ns += 1000;
        queue.tick(now_ns);
        for tag in 0..BATCH {
            io.slba = Lba((io.slba.0 + 8) & 0xffff);
            if let Some(payload) = payloads.pop() {
                queue.submit(io, payload, tag);
            }
        }
        queue.round_end();
        drive.answer(BATCH);
        while let Some(done) = queue.next_done() {
            black_box(&done.result);
            payloads.push(done.memory);
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let commands = std::env::args()
        .skip_while(|word| word != "--commands")
        .nth(1)
        .map_or(Ok(20_000_000), |word| word.parse::<u64>())?;
    let soft = SoftController::new(SoftConfig::with_namespace(64 << 20, 9));
    let thread = soft.run_thread();
    let mut controller = Controller::start(
        soft.bar(),
        Arc::new(Regions::new(soft.mapper())),
        Arc::new(Sleeping::default()),
        ControllerConfig {
            queue_entries: ENTRIES,
            shadow_doorbells: false,
            ..ControllerConfig::default()
        },
    )?;
    let pool = Pool::new(&PoolConfig {
        hugepages: false,
        ..PoolConfig::default()
    })?;
    for memory in pools_of_this_thread() {
        controller.regions().add_pool(&memory)?;
    }
    let parts = controller.create_queue()?;
    // From here on nobody but this thread plays the drive.
    drop(thread);
    let mut drive = Answers::new(&parts);
    let mut queue = Queue::open(parts)?;
    let mut payloads: Vec<Payload> = (0..BATCH)
        .filter_map(|_| pool.try_lease(4096).map(Payload::from))
        .collect();
    measured(
        &mut queue,
        &mut drive,
        &mut payloads,
        1_000_000.min(commands),
    );
    let started = Instant::now();
    measured(&mut queue, &mut drive, &mut payloads, commands);
    let whole = started.elapsed();
    let started = Instant::now();
    for _ in 0..commands / u64::from(BATCH) {
        drive.answer(BATCH);
    }
    let alone = started.elapsed();
    let per = |time: std::time::Duration| time.as_nanos() as f64 / commands as f64;
    println!(
        "{commands} reads of 4 KiB, {BATCH} at a time: {:.1} ns each, of which {:.1} ns are the drive's",
        per(whole),
        per(alone)
    );
    std::process::exit(i32::from(payloads.len() != BATCH as usize));
}
