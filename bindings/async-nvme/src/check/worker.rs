//! A thread with a queue pair, as a reactor would have one, for steps written in straight lines.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use penstock_units::Lba;

use super::Stop;
use crate::cmb::ControllerMemory;
use crate::controller::Namespace;
use crate::io::{Buffers, Io, IoError, Verb};
use crate::memory::DeviceMemory;
use crate::queue::{Queue, QueueParts};

/// No request takes so long, resets in between included.
const ANSWER_LIMIT: Duration = Duration::from_secs(90);

/// How long the thread rests where nothing goes on.
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

/// The thread. Ends when dropped.
pub(super) struct Worker {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// A request under way.
pub(super) struct Pending(Receiver<Result<u64, IoError>>);

impl Pending {
    pub fn wait(self) -> Result<(), Stop> {
        match self.0.recv_timeout(ANSWER_LIMIT) {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(err)) => Err(err.into()),
            Err(err) => Err(Stop::Failed(format!("no answer: {err}"))),
        }
    }
}

impl Worker {
    pub fn start(parts: QueueParts) -> Result<Worker, Stop> {
        let (jobs, todo) = channel();
        let thread = std::thread::Builder::new()
            .name("check-queue".into())
            .spawn(move || {
                if let Err(err) = serve(parts, &todo) {
                    tracing::error!(%err, "cannot open a queue pair");
                }
            })?;
        Ok(Worker {
            jobs: Some(jobs),
            thread: Some(thread),
        })
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
        }
        Pending(pending)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // It logs its own errors.
            let _ = thread.join();
        }
    }
}

/// Rounds of a queue pair until nobody can send jobs any more and all have ended.
fn serve(parts: QueueParts, todo: &Receiver<Job>) -> Result<(), crate::dma::DmaError> {
    let mut queue = Queue::<Memory, Sender<Result<u64, IoError>>>::open(parts)?;
    let begun = Instant::now();
    loop {
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
        std::thread::sleep(REST);
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
