//! Queue pairs whose threads sleep until the drive interrupts: nothing else ever wakes them here, so
//! that one wake-up lost ends the test.
#![allow(clippy::unwrap_used, clippy::panic, reason = "for tests only")]

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{Runs, small};
use penstock_async_nvme::soft::{SoftConfig, SoftController};
use penstock_async_nvme::{
    Controller, ControllerError, DeviceMemory, Event, Io, Notice, Pace, Queue, QueueInterrupt,
    Regions, Verb,
};
use penstock_units::{Lba, Nsid};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const BLOCKS: u64 = 8;
const BYTES: usize = 4096;
/// Longer than anything takes here, in nanoseconds of the model.
const FOR_EVER_NS: u64 = 1_000_000_000;
/// Longer than a whole test takes.
const AGES_NS: u64 = 100_000_000_000;

/// A queue pair and whether its thread is awake.
struct Sleeper {
    queue: RefCell<Queue<Runs, usize>>,
    event: Event,
    awake: Cell<bool>,
}

impl Sleeper {
    /// What its thread does from a wake-up on: ends what has ended, and sleeps again if it may. Time
    /// goes on in `between`. Tags of what ended.
    fn run(&self, now_ns: u64, between: &mut dyn FnMut()) -> Vec<usize> {
        if self.event.wait(std::time::Duration::ZERO) {
            self.awake.set(true);
        }
        if !self.awake.get() {
            return Vec::new();
        }
        let mut ended = Vec::new();
        let mut queue = self.queue.borrow_mut();
        queue.tick(now_ns);
        while let Some(done) = queue.next_done() {
            done.result.unwrap();
            ended.push(done.tag);
        }
        queue.round_end();
        between();
        self.event.take();
        between();
        let may_sleep = queue.may_sleep_ns().is_some();
        between();
        self.awake.set(!may_sleep);
        ended
    }
}

thread_local! {
    static SLEEPERS: RefCell<Vec<Rc<Sleeper>>> = const { RefCell::new(Vec::new()) };
    /// What ended while the controller's keeper waited.
    static ENDED: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Time, in which the model works and woken threads run.
struct Night {
    soft: SoftController,
    now: AtomicU64,
}

impl Night {
    fn pass(&self, ns: u64) -> u64 {
        let now = self.now.fetch_add(ns, Ordering::Relaxed) + ns;
        self.soft.step(now);
        now
    }
}

impl Pace for Night {
    fn now_ns(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    fn pause(&self) {
        let now = self.pass(100_000);
        assert!(now < AGES_NS, "the keeper waits for ever");
        let ended: Vec<usize> = SLEEPERS.with_borrow(|sleepers| {
            let ran = sleepers.iter().map(|sleeper| sleeper.run(now, &mut || {}));
            ran.flatten().collect()
        });
        ENDED.with_borrow_mut(|all| all.extend(ended));
    }
}

struct Rig {
    night: Arc<Night>,
    controller: Controller,
    memory: Rc<DeviceMemory>,
    sleepers: Vec<Rc<Sleeper>>,
    random: StdRng,
}

impl Rig {
    fn new(seed: u64, shadow: bool) -> Rig {
        let mut config = SoftConfig::with_namespace(16 << 20, 9);
        config.seed = seed;
        config.jitter_ns = 300_000;
        config.reorder = true;
        config.doorbell_buffer = shadow;
        let soft = SoftController::new(config);
        let night = Arc::new(Night {
            soft: soft.clone(),
            now: AtomicU64::new(0),
        });
        let regions = Arc::new(Regions::new(soft.mapper()));
        let pace = Arc::clone(&night) as Arc<dyn Pace>;
        let mut controller =
            Controller::start(soft.bar(), Arc::clone(&regions), pace, small(2, 8)).unwrap();
        let sleepers: Vec<_> = (1..=2)
            .map(|vector| {
                let event = Event::new().unwrap();
                let signalled = event.clone();
                soft.set_interrupt(vector, move || signalled.signal());
                let interrupt = QueueInterrupt {
                    vector,
                    event: event.clone(),
                };
                let parts = controller.create_queue_with_interrupt(interrupt).unwrap();
                Rc::new(Sleeper {
                    queue: RefCell::new(Queue::open(parts).unwrap()),
                    event,
                    awake: Cell::new(true),
                })
            })
            .collect();
        SLEEPERS.set(sleepers.clone());
        Rig {
            night,
            controller,
            memory: Rc::new(DeviceMemory::new(&regions, 8 << 20, None).unwrap()),
            sleepers,
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// A random request that touches the blocks of `tag` alone.
    fn submit(&mut self, tag: usize) {
        let write = self.random.random_bool(0.7);
        let runs = Runs::new(&self.memory, &[(tag * BYTES, BYTES)]);
        runs.fill(&content(tag));
        let io = Io {
            verb: match write {
                true => Verb::Write { fua: false },
                false => Verb::Flush,
            },
            nsid: Nsid::new(1).unwrap(),
            slba: Lba(tag as u64 * BLOCKS),
            blocks: if write { BLOCKS } else { 0 },
            block_shift: 9,
            boundary_blocks: 0,
        };
        let sleeper = &self.sleepers[self.random.random_range(0..2)];
        sleeper.queue.borrow_mut().submit(io, runs, tag);
        // Whoever submits is awake.
        sleeper.awake.set(true);
    }

    /// A round of everybody who is awake. How many requests ended.
    fn round(&mut self) -> usize {
        let now = self.night.pass(50_000);
        let (night, random) = (&self.night, &mut self.random);
        let mut ended = 0;
        for sleeper in &self.sleepers {
            let mut between = || {
                for _ in 0..random.random_range(0..3) {
                    night.pass(20_000);
                }
            };
            ended += sleeper.run(now, &mut between).len();
        }
        ended + ENDED.with_borrow_mut(std::mem::take).len()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        SLEEPERS.take();
        self.sleepers.clear();
    }
}

fn content(tag: usize) -> Vec<u8> {
    let byte = |at: usize| (tag ^ (at / 512) ^ at).to_le_bytes()[0];
    (0..BYTES).map(byte).collect()
}

/// Random requests, now and then a reset in their middle. How often the threads slept.
fn random_requests(seed: u64, shadow: bool) -> u64 {
    const REQUESTS: usize = 600;
    let mut rig = Rig::new(seed, shadow);
    let (mut submitted, mut ended, mut sleeps, mut resets) = (0, 0, 0, 0);
    let mut heard_ns = 0;
    while ended < REQUESTS {
        // In bursts: whoever misses the end of one is not woken by the next request's.
        if submitted == ended {
            for _ in 0..rig.random.random_range(1..20).min(REQUESTS - submitted) {
                rig.submit(submitted);
                submitted += 1;
            }
        }
        // Never so late that it would wake one who missed the end of its requests.
        let busy = rig.night.now_ns() - heard_ns < 300_000;
        if busy && submitted > ended && rig.random.random_bool(0.02) {
            rig.controller.reset().unwrap();
            resets += 1;
        }
        let ended_now = rig.round();
        assert_eq!(rig.controller.service(), None::<Notice>, "seed {seed}");
        let now_ns = rig.night.now_ns();
        if ended_now > 0 || submitted == ended {
            heard_ns = now_ns;
        }
        ended += ended_now;
        assert!(
            now_ns - heard_ns < FOR_EVER_NS,
            "seed {seed}: a wake-up was lost after {ended} of {submitted} requests"
        );
        sleeps += rig.sleepers.iter().filter(|it| !it.awake.get()).count() as u64;
    }
    assert!(resets > 0, "seed {seed}: no reset was tried");
    let soft = rig.night.soft.clone();
    assert_eq!(soft.violations(), Vec::<String>::new(), "seed {seed}");
    let mut written = 0;
    for tag in 0..REQUESTS {
        let mut media = vec![0; BYTES];
        soft.read_media(1, tag as u64 * BLOCKS, &mut media);
        if media.iter().any(|byte| *byte != 0) {
            assert!(media == content(tag), "seed {seed}: request {tag}");
            written += 1;
        }
    }
    assert!(written > REQUESTS / 2, "seed {seed}: {written} writes");
    sleeps
}

#[test]
fn interrupts_alone_end_every_request_and_survive_resets() {
    let mut sleeps = 0;
    for seed in 0..60 {
        for shadow in [false, true] {
            sleeps += random_requests(seed, shadow);
        }
    }
    assert!(sleeps > 10_000, "they slept {sleeps} times only");
}

#[test]
fn the_keeper_wakes_a_thread_that_sleeps() {
    let mut rig = Rig::new(7, false);
    for _ in 0..10 {
        rig.round();
    }
    assert!(rig.sleepers.iter().all(|sleeper| !sleeper.awake.get()));
    // It waits for both; nothing else would wake them.
    rig.controller.reset().unwrap();
    for _ in 0..10 {
        rig.round();
    }
    rig.controller.shut_down().unwrap();
    assert!(
        rig.sleepers
            .iter()
            .all(|sleeper| sleeper.event.take() > 0 || sleeper.queue.borrow().is_gone())
    );
}

#[test]
fn a_vector_the_drive_does_not_have_is_refused() {
    let soft = SoftController::new(SoftConfig {
        vectors: 2,
        ..SoftConfig::default()
    });
    let night = Arc::new(Night {
        soft: soft.clone(),
        now: AtomicU64::new(0),
    });
    let regions = Arc::new(Regions::new(soft.mapper()));
    let mut controller = Controller::start(soft.bar(), regions, night, small(1, 8)).unwrap();
    let interrupt = QueueInterrupt {
        vector: 2,
        event: Event::new().unwrap(),
    };
    let Err(error) = controller.create_queue_with_interrupt(interrupt) else {
        panic!("a queue with vector 2 of 2 was made");
    };
    assert!(
        matches!(error, ControllerError::Refused { .. }),
        "it says {error}"
    );
}
