//! Disks for tests: bytes in memory, answered at once or when the test says so.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use penstock_buffer::{Lease, Payload, Pool, PoolConfig};
use penstock_units::{BlockSize, Lba};

use crate::{
    BlockDevice, BlockError, BlockQueue, Completer, Direction, Geometry, Op, Outcome, Request,
    Ticket,
};

/// A request as a disk has seen it.
pub(crate) type Seen = (Op, u64, u64);

pub(crate) struct Disk {
    name: String,
    block_size: BlockSize,
    data: Mutex<Vec<u8>>,
    pub(crate) seen: Mutex<Vec<Seen>>,
    pub(crate) late: AtomicBool,
    pub(crate) fails: Mutex<Option<BlockError>>,
    pub(crate) traits: Mutex<Geometry>,
}

thread_local! {
    static LATE: RefCell<Vec<(Completer, Outcome)>> = const { RefCell::new(Vec::new()) };
}

/// Ends one late request, by a number that picks it; false where there is none.
pub(crate) fn release_one(pick: usize) -> bool {
    let late = LATE.with_borrow_mut(|late| match late.len() {
        0 => None,
        n => Some(late.swap_remove(pick % n)),
    });
    late.map(|(completer, outcome)| completer.complete(outcome))
        .is_some()
}

impl Disk {
    pub(crate) fn new(name: &str, block_size: BlockSize, blocks: u64) -> Arc<Disk> {
        let bytes = usize::try_from(blocks * block_size.bytes_u64()).unwrap();
        Arc::new(Disk {
            name: name.to_owned(),
            block_size,
            data: Mutex::new(vec![0; bytes]),
            seen: Mutex::default(),
            late: AtomicBool::new(false),
            fails: Mutex::default(),
            traits: Mutex::new(Geometry {
                block_size,
                blocks,
                volatile_cache: false,
                deallocate: true,
                deallocated_reads_zero: true,
                read_only: false,
                optimal_blocks: 1,
            }),
        })
    }

    pub(crate) fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    pub(crate) fn grow(&self, blocks: u64) {
        let bytes = usize::try_from(blocks * self.block_size.bytes_u64()).unwrap();
        self.data.lock().unwrap().resize(bytes, 0);
        self.traits.lock().unwrap().blocks = blocks;
    }

    fn run(&self, request: &Request) -> Result<(), BlockError> {
        if let Some(error) = *self.fails.lock().unwrap() {
            return Err(error);
        }
        let range = self.geometry().check(request)?;
        let at = usize::try_from(range.offset).unwrap();
        let len = usize::try_from(range.len).unwrap();
        let mut data = self.data.lock().unwrap();
        match request.op {
            Op::Read => {
                request.payload.write_at(0, &data[at..at + len]);
            }
            Op::Write { .. } => {
                let mut to = at;
                for run in request.payload.segments() {
                    data[to..to + run.len()].copy_from_slice(run.bytes());
                    to += run.len();
                }
            }
            Op::Flush => {}
            Op::WriteZeroes { .. } | Op::Deallocate => data[at..at + len].fill(0),
        }
        Ok(())
    }
}

impl BlockDevice for Disk {
    fn geometry(&self) -> Geometry {
        *self.traits.lock().unwrap()
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn open(self: Arc<Self>) -> Result<Rc<dyn BlockQueue>, BlockError> {
        Ok(Rc::new(DiskQueue {
            pool: pool(),
            disk: self,
        }))
    }
}

struct DiskQueue {
    disk: Arc<Disk>,
    pool: Pool,
}

impl BlockQueue for DiskQueue {
    fn submit(&self, request: Request) -> Ticket {
        let seen = (request.op, request.lba.0, request.blocks);
        self.disk.seen.lock().unwrap().push(seen);
        let outcome = Outcome {
            result: self.disk.run(&request),
            payload: request.payload,
        };
        if !self.disk.late.load(Ordering::Relaxed) {
            return Ticket::ready(outcome);
        }
        let (ticket, completer) = Ticket::pending();
        LATE.with_borrow_mut(|late| late.push((completer, outcome)));
        ticket
    }

    fn lend(&self, _direction: Direction, lba: Lba, blocks: u64) -> Option<Lease> {
        let bytes = usize::try_from(blocks * self.disk.block_size.bytes_u64()).unwrap();
        let lease = self.pool.try_lease(bytes)?;
        // The first byte tells which block was lent.
        lease.write_at(0, &[u8::try_from(lba.0 % 256).unwrap()]);
        Some(lease)
    }
}

pub(crate) fn pool() -> Pool {
    Pool::new(&PoolConfig {
        size_bytes: 4 << 20,
        lease_max_bytes: 1 << 20,
        hugepages: false,
        ..PoolConfig::default()
    })
    .unwrap()
}

/// A payload with `bytes`, cut into runs of at most `run` bytes.
pub(crate) fn payload_of(pool: &Pool, bytes: &[u8], run: usize) -> Payload {
    let mut payload = Payload::none();
    for piece in bytes.chunks(run.max(1)) {
        let lease = pool.try_lease(piece.len()).unwrap();
        lease.write_at(0, piece);
        payload.push(lease);
    }
    payload
}

pub(crate) fn bytes_of(payload: &Payload) -> Vec<u8> {
    let runs = payload.segments().map(|run| run.bytes().to_vec());
    runs.collect::<Vec<_>>().concat()
}

/// Runs a request to its end, ending late parts in an order that `picks` gives.
pub(crate) fn run(queue: &dyn BlockQueue, request: Request, mut picks: usize) -> Outcome {
    let mut ticket = queue.submit(request);
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(outcome) = Pin::new(&mut ticket).poll(&mut cx) {
            return outcome;
        }
        assert!(release_one(picks), "nothing is late, and no outcome");
        picks = picks.wrapping_mul(31).wrapping_add(7);
    }
}

pub(crate) fn request(op: Op, lba: u64, blocks: u64, payload: Payload) -> Request {
    Request {
        op,
        lba: Lba(lba),
        blocks,
        payload,
    }
}
