//! A thread with a queue pair, as a reactor would have one, for steps written in straight lines.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use penstock_units::Lba;

use super::Stop;
use crate::cmb::ControllerMemory;
use crate::controller::Namespace;
use crate::driver::{PairParts, QueuePair};
use crate::event::Event;
use crate::io::{Buffers, Io, IoError, Verb};
use crate::memory::DeviceMemory;

/// No request takes so long, resets in between included.
const ANSWER_LIMIT: Duration = Duration::from_secs(90);

/// How long the thread rests where nothing goes on, and no interrupt would tell when something does.
const REST: Duration = Duration::from_micros(50);

/// Payload, in host memory or in the controller's.
#[derive(Clone)]
pub(super) enum Memory {
    Host(Arc<DeviceMemory>),
    Controller(Arc<ControllerMemory>),
}

impl Memory {
    fn place(&self) -> (NonNull<u8>, usize) {
        match self {
            Memory::Host(memory) => (memory.base(), memory.len()),
            Memory::Controller(memory) => (memory.base(), memory.len()),
        }
    }

    pub fn len(&self) -> usize {
        self.place().1
    }

    /// Writes the pattern of `seed`, a word at a time: controller memory takes no other.
    pub fn fill(&self, seed: u64) {
        let (base, len) = self.place();
        for index in 0..len / 8 {
            // SAFETY: inside the memory, which is aligned to pages; the device may look on.
            unsafe {
                base.cast::<u64>()
                    .add(index)
                    .write_volatile(word(seed, index))
            };
        }
    }

    /// The offset of the first word that is not the pattern of `seed`.
    pub fn differs(&self, seed: u64) -> Option<usize> {
        let (base, len) = self.place();
        (0..len / 8)
            // SAFETY: as in `fill`.
            .find(|index| unsafe { base.cast::<u64>().add(*index).read_volatile() } != word(seed, *index))
            .map(|index| index * 8)
    }
}

/// A word that tells its place (SplitMix64).
fn word(seed: u64, index: usize) -> u64 {
    let mut z = seed.wrapping_add((index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

// SAFETY: the memory is held by the value, and its place never changes.
unsafe impl Buffers for Memory {
    fn segment(&self, index: usize) -> Option<(*mut u8, usize)> {
        let (base, len) = self.place();
        (index == 0).then_some((base.as_ptr(), len))
    }
}

struct Job {
    io: Io,
    memory: Memory,
    answer: Sender<Result<u64, IoError>>,
}

/// How the thread of a queue pair that interrupts was woken.
#[derive(Default)]
pub(super) struct WakeUps {
    /// Because of its event.
    by_event: AtomicU64,
    /// Because it had slept for as long as it may.
    by_time: AtomicU64,
}

/// The thread. Ends when dropped.
pub(super) struct Worker {
    jobs: Option<Sender<Job>>,
    /// What wakes it, where it sleeps.
    event: Option<Event>,
    wake_ups: Arc<WakeUps>,
    thread: Option<JoinHandle<()>>,
}

/// A request under way.
pub(super) struct Pending(Receiver<Result<u64, IoError>>);

impl Pending {
    /// How it ended; `None` while it is under way.
    pub fn ended(&self) -> Option<Result<u64, IoError>> {
        self.0.try_recv().ok()
    }

    pub fn wait(self) -> Result<(), Stop> {
        match self.0.recv_timeout(ANSWER_LIMIT) {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(err)) => Err(err.into()),
            Err(err) => Err(Stop::Failed(format!("no answer: {err}"))),
        }
    }
}

impl Worker {
    pub fn start(parts: PairParts) -> Result<Worker, Stop> {
        let (jobs, todo) = channel();
        let event = parts.event().cloned();
        let wake_ups = Arc::new(WakeUps::default());
        let counts = Arc::clone(&wake_ups);
        let thread = std::thread::Builder::new()
            .name("check-queue".into())
            .spawn(move || {
                if let Err(err) = serve(parts, &todo, &counts) {
                    tracing::error!(%err, "cannot open a queue pair");
                }
            })?;
        Ok(Worker {
            jobs: Some(jobs),
            event,
            wake_ups,
            thread: Some(thread),
        })
    }

    /// How often it was woken by its event, and by time.
    pub fn wake_ups(&self) -> (u64, u64) {
        let counts = &self.wake_ups;
        (
            counts.by_event.load(Ordering::Relaxed),
            counts.by_time.load(Ordering::Relaxed),
        )
    }

    fn wake(&self) {
        if let Some(event) = &self.event {
            event.signal();
        }
    }

    /// Begins to read or write `memory`, all of it, from block `slba`.
    pub fn submit(&self, verb: Verb, namespace: &Namespace, slba: u64, memory: &Memory) -> Pending {
        let shift = namespace.format.block_bytes.trailing_zeros();
        let io = Io {
            verb,
            nsid: namespace.nsid,
            slba: Lba(slba),
            blocks: (memory.len() as u64) >> shift,
            block_shift: u8::try_from(shift).unwrap_or(u8::MAX),
            boundary_blocks: namespace.boundary_blocks,
        };
        let (answer, pending) = channel();
        let job = Job {
            io,
            memory: memory.clone(),
            answer,
        };
        if let Some(jobs) = &self.jobs {
            // A thread that ended drops the job, and its sender with it: the waiter hears of it.
            let _ = jobs.send(job);
            self.wake();
        }
        Pending(pending)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        self.wake();
        if let Some(thread) = self.thread.take() {
            // It logs its own errors.
            let _ = thread.join();
        }
    }
}

/// Rounds of a queue pair until nobody can send jobs any more and all have ended.
fn serve(
    parts: PairParts,
    todo: &Receiver<Job>,
    wake_ups: &WakeUps,
) -> Result<(), crate::dma::DmaError> {
    let event = parts.event().cloned();
    let mut queue = parts.open::<Memory, Sender<Result<u64, IoError>>>()?;
    let begun = Instant::now();
    loop {
        // Emptied before anything is looked at: what comes later signals it again.
        event.as_ref().map(Event::take);
        queue.tick(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
        let mut ended = false;
        loop {
            match todo.try_recv() {
                Ok(job) => queue.submit(job.io, job.memory, job.answer),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    ended = true;
                    break;
                }
            }
        }
        queue.round_end();
        while let Some(done) = queue.next_done() {
            // Who does not wait any more does not want to know.
            let _ = done.tag.send(done.result);
        }
        if queue.in_flight() == 0 && ended {
            return Ok(());
        }
        match &event {
            None => std::thread::sleep(REST),
            Some(event) => {
                if let Some(limit_ns) = queue.may_sleep_ns() {
                    wake_ups.sleep(event, Duration::from_nanos(limit_ns));
                }
            }
        }
    }
}

impl WakeUps {
    fn sleep(&self, event: &Event, limit: Duration) {
        let by = match event.wait(limit) {
            true => &self.by_event,
            false => &self.by_time,
        };
        by.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::word;

    #[test]
    fn patterns_differ_by_seed_and_place() {
        let mut words: Vec<u64> = (0..64)
            .flat_map(|index| [word(1, index), word(2, index)])
            .collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), 128);
    }
}
