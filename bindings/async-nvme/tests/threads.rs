//! The driver's threads and the drive at the same time: a queue pair on each of two threads, the
//! keeper on a third, the software controller on a fourth.

#![allow(clippy::unwrap_used, reason = "for tests only")]

mod common;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::{Runs, take_cmb};
use penstock_async_nvme::soft::{Fault, SoftCmb, SoftConfig, SoftController};
use penstock_async_nvme::{
    Controller, ControllerConfig, DeviceMemory, Io, Notice, Pace, Queue, QueueParts, Regions,
    Sleeping, Verb,
};
use penstock_units::{Lba, Nsid};

const THREADS: u16 = 2;
const DEPTH: usize = 16;
const ROUNDS: u32 = 30;
/// Blocks of a request, and of a thread's part of the namespace.
const BLOCKS: usize = 24;
const PART: u64 = (DEPTH * BLOCKS) as u64;
const BYTES: usize = BLOCKS * 512;

fn content(thread: u16, slot: usize, round: u32) -> Vec<u8> {
    let word = u64::from(thread) << 48 | (slot as u64) << 32 | u64::from(round);
    word.to_le_bytes().repeat(BYTES / 8)
}

/// Writes and reads back, all slots at a time, again and again, and until the keeper has made all
/// the `resets` it wants.
fn drive(parts: QueueParts, thread: u16, regions: &Regions, resets: &AtomicU32) {
    let memory = Rc::new(DeviceMemory::new(regions, DEPTH * BYTES, None).unwrap());
    let mut queue: Queue<Runs, usize> = Queue::open(parts).unwrap();
    let io = |verb, slot: usize| Io {
        verb,
        nsid: Nsid::new(1).unwrap(),
        slba: Lba(u64::from(thread) * PART + (slot * BLOCKS) as u64),
        blocks: BLOCKS as u64,
        block_shift: 9,
        boundary_blocks: 0,
    };
    let start = Instant::now();
    for round in 0.. {
        if round >= ROUNDS && resets.load(Ordering::Acquire) == 0 {
            break;
        }
        for verb in [Verb::Write { fua: false }, Verb::Read] {
            for slot in 0..DEPTH {
                let runs = Runs::new(&memory, &[(slot * BYTES, BYTES)]);
                match verb {
                    Verb::Read => runs.fill(&vec![0xee; BYTES]),
                    _ => runs.fill(&content(thread, slot, round)),
                }
                queue.submit(io(verb, slot), runs, slot);
            }
            let mut left = DEPTH;
            while left > 0 {
                queue.round_end();
                let now = u64::try_from(start.elapsed().as_nanos()).unwrap();
                queue.tick(now);
                while let Some(done) = queue.next_done() {
                    assert!(done.result.is_ok(), "{:?}", done.result);
                    let same = done.memory.bytes() == content(thread, done.tag, round);
                    assert!(same, "thread {thread}, round {round}, slot {}", done.tag);
                    left -= 1;
                }
                assert!(
                    start.elapsed() < Duration::from_secs(60),
                    "{left} never end"
                );
                std::thread::yield_now();
            }
        }
    }
}

/// Everything at the same time; what the keeper was told, and the model.
fn run(config: SoftConfig, resets: u32) -> (Vec<Notice>, SoftController) {
    let soft = SoftController::new(config);
    // Far above what a loaded machine keeps a thread waiting.
    (run_on(&soft, resets, 10_000), soft)
}

fn run_on(soft: &SoftController, resets: u32, io_timeout_ms: u32) -> Vec<Notice> {
    let cmb = soft.cmb_mapping().is_some();
    let model = soft.run_thread();
    let regions = Arc::new(Regions::new(soft.mapper()));
    let pace: Arc<dyn Pace> = Arc::new(Sleeping::default());
    let config = ControllerConfig {
        io_queues: THREADS,
        queue_entries: 8,
        io_timeout_ms,
        admin_timeout_ms: 10_000,
        submission_in_controller: cmb,
        ..ControllerConfig::default()
    };
    let mut controller = Controller::start(soft.bar(), regions.clone(), pace, config).unwrap();
    if cmb {
        take_cmb(&mut controller, soft);
    }
    let mut notices = Vec::new();
    let working = AtomicU32::new(u32::from(THREADS));
    let resets = AtomicU32::new(resets);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (parts, regions) = (controller.create_queue().unwrap(), regions.clone());
            let (working, resets) = (&working, &resets);
            scope.spawn(move || {
                // Ends the keeper's loop whether the thread panics or not.
                let _end = Ends(working);
                drive(parts, thread, &regions, resets);
            });
        }
        while working.load(Ordering::Acquire) > 0 {
            notices.extend(controller.service());
            std::thread::sleep(Duration::from_millis(2));
            if resets.load(Ordering::Relaxed) > 0 && soft.stats().fetched > 100 {
                controller.reset().unwrap();
                resets.fetch_sub(1, Ordering::Release);
            }
        }
    });
    drop(controller);
    drop(model);
    notices
}

struct Ends<'a>(&'a AtomicU32);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

fn is_clean(soft: &SoftController) {
    assert_eq!(soft.violations(), Vec::<String>::new());
}

#[test]
fn threads_and_drive_work_at_the_same_time() {
    let (notices, soft) = run(SoftConfig::default(), 0);
    assert_eq!(notices, []);
    let expected = u64::from(ROUNDS) * u64::from(THREADS) * DEPTH as u64;
    assert_eq!(
        (soft.stats().io[1], soft.stats().io[2]),
        (expected, expected)
    );
    is_clean(&soft);
}

#[test]
fn shadow_doorbells_lose_no_wake_up() {
    let (notices, soft) = run(
        SoftConfig {
            doorbell_buffer: true,
            jitter_ns: 20_000,
            reorder: true,
            ..SoftConfig::default()
        },
        0,
    );
    // A tail that was missed would have been a command that took too long.
    assert_eq!(notices, []);
    assert!(soft.stats().shadow_tails > 0);
    is_clean(&soft);
}

#[test]
fn queues_in_controller_memory_are_filled_while_they_are_read() {
    let (notices, soft) = run(
        SoftConfig {
            cmb: Some(SoftCmb::new(64 << 10)),
            ..SoftConfig::default()
        },
        0,
    );
    assert_eq!(notices, []);
    assert_eq!(soft.stats().own_fetches, soft.stats().io.iter().sum());
    is_clean(&soft);
}

#[test]
fn resets_under_load_lose_nothing() {
    let (_, soft) = run(
        SoftConfig {
            jitter_ns: 100_000,
            reorder: true,
            ready_after_ns: 200_000,
            disable_after_ns: 100_000,
            ..SoftConfig::default()
        },
        5,
    );
    assert_eq!(soft.stats().enabled, 6);
    is_clean(&soft);
}

#[test]
fn a_completion_lost_under_load_is_found_and_mended() {
    let controller = SoftController::new(SoftConfig::default());
    let mut seen = 0;
    controller.set_rule(move |command| {
        seen += u32::from(command.queue == 2);
        (command.queue == 2 && seen == 200).then_some(Fault::LoseCompletion)
    });
    let notices = run_on(&controller, 0, 300);
    assert!(notices.contains(&Notice::Reset), "{notices:?}");
    is_clean(&controller);
}
