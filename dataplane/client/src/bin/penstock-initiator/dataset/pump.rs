//! Moves samples: every queue pair keeps a number of requests in flight, taken one after the other
//! from the order of the epoch. What is written is made from the sample's key; what is read is
//! compared with that, byte for byte, and its checksum with the index's.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{anyhow, bail};
use crc_fast::{CrcAlgorithm, checksum_combine};
use penstock_buffer::{Lease, Pool};
use penstock_client::{ControllerInfo, IoQueue};
use penstock_nvme::tcp::crc32c;
use penstock_reactor::{Ticks, now, sleep, ticks_to_ns};
use penstock_units::Lba;

use super::index::Entry;
use crate::latency::Latencies;
use crate::pattern::Stream;
use crate::runtime::Crew;
use crate::session::{Geometry, connect_queues};

/// Which way the data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Write,
    Read,
}

/// A sample and where it lies.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub geometry: Geometry,
    pub entry: Entry,
}

/// What one reactor is to do.
#[derive(Clone, Debug)]
pub struct Job {
    pub direction: Direction,
    pub parts: Arc<Vec<Part>>,
    /// Which parts in which order, an epoch each.
    pub epochs: Vec<Vec<usize>>,
    pub request_bytes: u64,
    pub queue_depth: u16,
}

/// How far all reactors are; read by the tool's main thread.
#[derive(Default)]
pub struct Progress {
    /// Reactors that have connected their queues.
    pub ready: AtomicUsize,
    /// Set once all are ready.
    pub go: AtomicBool,
    /// Set when one has failed: the others stop too.
    pub failed: AtomicBool,
    pub bytes: AtomicU64,
    pub samples: AtomicU64,
    /// Epoch in progress, counted from one.
    pub epoch: AtomicU32,
}

/// What a reactor has done.
pub struct Done {
    pub latencies: Latencies,
    /// Checksum of each part written, in no order.
    pub checksums: Vec<(usize, u32)>,
    /// When each epoch began and ended, in ticks.
    pub epochs: Vec<(Ticks, Ticks)>,
}

/// A request to be made.
#[derive(Clone, Copy, Debug)]
struct Piece {
    part: usize,
    /// Number of the piece in its sample.
    number: usize,
    /// Offset in the sample, in bytes.
    offset: u64,
    len: usize,
}

/// A sample some of whose pieces are done.
struct Open {
    left: usize,
    checksums: Vec<u32>,
}

struct State {
    /// Parts of the epoch not begun yet, last one first.
    todo: Vec<usize>,
    current: Option<(usize, u64)>,
    open: HashMap<usize, Open>,
    done: Done,
    failure: Option<anyhow::Error>,
}

struct Pump {
    job: Job,
    pool: Pool,
    progress: Arc<Progress>,
    state: RefCell<State>,
}

/// How often a reactor looks whether the others are ready.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// Connects this reactor's queues and does the job.
pub async fn work(
    job: Job,
    info: ControllerInfo,
    ids: Vec<u16>,
    progress: Arc<Progress>,
    pool: Pool,
) -> anyhow::Result<Done> {
    let queues = connect_queues(&info, &ids, job.queue_depth, &pool).await?;
    progress.ready.fetch_add(1, Ordering::Release);
    while !progress.go.load(Ordering::Acquire) {
        sleep(LOOK_INTERVAL).await;
    }
    let done = Done {
        latencies: Latencies::new()?,
        checksums: Vec::new(),
        epochs: Vec::new(),
    };
    let (todo, open) = (Vec::new(), HashMap::new());
    let state = State {
        todo,
        current: None,
        open,
        done,
        failure: None,
    };
    let pump = Rc::new(Pump {
        job,
        pool,
        progress,
        state: RefCell::new(state),
    });
    for (number, order) in (1..).zip(pump.job.epochs.clone()) {
        pump.progress.epoch.fetch_max(number, Ordering::Relaxed);
        pump.state.borrow_mut().todo = order.into_iter().rev().collect();
        let begun = now();
        let crew = Crew::default();
        for queue in &queues {
            for _ in 0..pump.job.queue_depth {
                crew.spawn(Rc::clone(&pump).lane(Rc::clone(queue)));
            }
        }
        crew.finished().await;
        pump.state.borrow_mut().done.epochs.push((begun, now()));
    }
    if let Some(failure) = pump.state.borrow_mut().failure.take() {
        return Err(failure);
    }
    for queue in queues {
        (*queue).clone().disconnect().await?;
    }
    let pump = Rc::try_unwrap(pump).map_err(|_| anyhow!("a request is still in flight"))?;
    Ok(pump.state.into_inner().done)
}

impl Pump {
    async fn lane(self: Rc<Self>, queue: Rc<IoQueue>) {
        let bytes = usize::try_from(self.job.request_bytes).unwrap_or(usize::MAX);
        let memory = self.pool.lease(bytes).await;
        while !self.progress.failed.load(Ordering::Relaxed) {
            let piece = self.state.borrow_mut().next(&self.job);
            let Some(piece) = piece else { return };
            if let Err(error) = self.one(&queue, piece, &memory).await {
                self.progress.failed.store(true, Ordering::Relaxed);
                self.state.borrow_mut().failure.get_or_insert(error);
            }
        }
    }

    /// Makes one request and checks what it brought.
    async fn one(&self, queue: &IoQueue, piece: Piece, memory: &Lease) -> anyhow::Result<()> {
        let part = &self.job.parts[piece.part];
        let block = part.geometry.block_size;
        let whole = piece.len.next_multiple_of(block.bytes() as usize);
        let lba = Lba((part.entry.offset + piece.offset) / block.bytes_u64());
        let blocks = u32::try_from(whole / block.bytes() as usize)?;
        let Some(lease) = memory.slice(0, whole) else {
            bail!("a request is longer than its memory")
        };
        let stream = Stream::new(part.entry.key);
        let writing = self.job.direction == Direction::Write;
        let mut checksum = 0;
        if writing {
            fill(&lease, stream, piece);
            checksum = crc32c(&lease.bytes()[..piece.len]);
        }
        let begun = now();
        let nsid = part.geometry.nsid;
        let lease = if writing {
            queue.write(nsid, lba, blocks, lease, false).await?
        } else {
            queue.read(nsid, lba, blocks, lease).await?
        };
        let ns = ticks_to_ns(now().saturating_sub(begun));
        if !writing {
            check(part, piece, stream, &lease)?;
            checksum = crc32c(&lease.bytes()[..piece.len]);
        }
        self.progress
            .bytes
            .fetch_add(piece.len as u64, Ordering::Relaxed);
        let mut state = self.state.borrow_mut();
        state.done.latencies.record(ns);
        if let Some(sum) = state.finish(&self.job, piece, checksum) {
            self.progress.samples.fetch_add(1, Ordering::Relaxed);
            if writing {
                state.done.checksums.push((piece.part, sum));
            } else if sum != part.entry.crc32c {
                bail!(
                    "sample {}: its content has checksum {sum:#010x}, the index says {:#010x}",
                    part.entry.sample,
                    part.entry.crc32c
                );
            }
        }
        Ok(())
    }
}

impl State {
    /// The next request of the epoch.
    fn next(&mut self, job: &Job) -> Option<Piece> {
        let (part, offset) = match self.current.take() {
            Some(current) => current,
            None => (self.todo.pop()?, 0),
        };
        let length = job.parts[part].entry.length;
        let len = (length - offset).min(job.request_bytes);
        let number = usize::try_from(offset / job.request_bytes).ok()?;
        if offset == 0 {
            let pieces = usize::try_from(length.div_ceil(job.request_bytes)).ok()?;
            self.open.insert(
                part,
                Open {
                    left: pieces,
                    checksums: vec![0; pieces],
                },
            );
        }
        if offset + len < length {
            self.current = Some((part, offset + len));
        }
        Some(Piece {
            part,
            number,
            offset,
            len: usize::try_from(len).ok()?,
        })
    }

    /// Notes a piece as done; the sample's checksum where it was its last.
    fn finish(&mut self, job: &Job, piece: Piece, checksum: u32) -> Option<u32> {
        let open = self.open.get_mut(&piece.part)?;
        open.checksums[piece.number] = checksum;
        open.left -= 1;
        if open.left > 0 {
            return None;
        }
        let open = self.open.remove(&piece.part)?;
        Some(combine(
            &open.checksums,
            job.parts[piece.part].entry.length,
            job.request_bytes,
        ))
    }
}

/// The checksum of a whole from those of its pieces.
fn combine(checksums: &[u32], length: u64, piece_bytes: u64) -> u32 {
    let mut whole = 0_u64;
    let mut left = length;
    for checksum in checksums {
        let len = left.min(piece_bytes);
        whole = checksum_combine(CrcAlgorithm::Crc32Iscsi, whole, u64::from(*checksum), len);
        left -= len;
    }
    u32::try_from(whole).unwrap_or(0)
}

/// Makes the content of a piece; what is behind it in the last block is zero.
fn fill(memory: &Lease, stream: Stream, piece: Piece) {
    const BATCH: usize = 4096;
    let mut batch = [0; BATCH];
    for at in (0..memory.len()).step_by(BATCH) {
        let len = piece.len.saturating_sub(at).min(BATCH);
        stream.fill(piece.offset + at as u64, &mut batch[..len]);
        batch[len..].fill(0);
        memory.write_at(at, &batch);
    }
}

/// Compares what was read with what was written.
fn check(part: &Part, piece: Piece, stream: Stream, found: &Lease) -> anyhow::Result<()> {
    let found = &found.bytes()[..piece.len];
    let Some((at, right)) = stream.first_difference(piece.offset, found) else {
        return Ok(());
    };
    let place = part.entry.offset + piece.offset + at as u64;
    let block = part.geometry.block_size.bytes_u64();
    bail!(
        "wrong data in sample {}, byte {}: found {:#04x}, written {right:#04x} \
         (namespace {}, LBA {}, byte {} of the block)",
        part.entry.sample,
        piece.offset + at as u64,
        found[at],
        part.geometry.nsid,
        place / block,
        place % block
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_units::{BlockSize, Nsid};
    use proptest::prelude::*;

    fn job(lengths: &[u64], request_bytes: u64) -> Job {
        let nsid = Nsid::new(1).expect("an identifier");
        let geometry = Geometry {
            nsid,
            block_size: BlockSize::B512,
            blocks: 1 << 30,
        };
        let entry = |(sample, length): (u32, &u64)| Entry {
            sample,
            crc32c: 0,
            offset: 0,
            length: *length,
            key: u64::from(sample),
        };
        Job {
            direction: Direction::Read,
            parts: Arc::new(
                (0..)
                    .zip(lengths)
                    .map(|s| Part {
                        geometry,
                        entry: entry(s),
                    })
                    .collect(),
            ),
            epochs: Vec::new(),
            request_bytes,
            queue_depth: 1,
        }
    }

    proptest! {
        #[test]
        fn pieces_make_up_every_sample_and_its_checksum(
            lengths in prop::collection::vec(4096_u64..300_000, 1..6),
            request_bytes in prop::sample::select(vec![4096_u64, 65536, 1 << 20]),
            backwards: bool,
        ) {
            let job = job(&lengths, request_bytes);
            let done = Done {
                latencies: Latencies::new().expect("histogram"),
                checksums: Vec::new(),
                epochs: Vec::new(),
            };
            let todo = (0..lengths.len()).rev().collect();
            let (current, open) = (None, HashMap::new());
            let mut state = State { todo, current, open, done, failure: None };
            let mut pieces: Vec<Piece> = std::iter::from_fn(|| state.next(&job)).collect();
            if backwards {
                pieces.reverse();
            }
            let mut finished = 0;
            for piece in pieces {
                let stream = Stream::new(job.parts[piece.part].entry.key);
                let mut content = vec![0; piece.len];
                stream.fill(piece.offset, &mut content);
                if let Some(sum) = state.finish(&job, piece, crc32c(&content)) {
                    let length = job.parts[piece.part].entry.length;
                    let mut whole = vec![0; usize::try_from(length).expect("small")];
                    stream.fill(0, &mut whole);
                    prop_assert_eq!(sum, crc32c(&whole));
                    finished += 1;
                }
            }
            prop_assert_eq!(finished, lengths.len());
        }
    }
}
