//! One reactor's queue pair on a drive, and the block queues of its namespaces.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use penstock_async_nvme::{AnyQueue, Done, Io, IoError, QueuePair, Regions, Verb};
use penstock_block::{
    BlockDevice, BlockError, BlockQueue, Completer, Direction, Op, Outcome, Request, Ticket,
};
use penstock_buffer::{Lease, MemoryKind, Payload, Pool, PoolConfig, pools_of_this_thread};
use penstock_reactor::{Polled, RoundEnd, Ticks, at_round_end, now, ticks_to_ns};
use penstock_units::Lba;

use super::NvmeDevice;
use super::block_error;
use super::keeper::{Kept, Share};
use super::own::OwnMemory;
use super::stats::Kind;

/// Memory for payloads that the drive does not reach as they are.
const SPARE_BYTES: usize = 8 << 20;
const BOUNCE_MAX_BYTES: usize = 4 << 20;
/// Zeroes that a drive without Write Zeroes is given to write, one time after the other.
const ZEROES_BYTES: usize = 256 << 10;

/// What goes along with a request.
pub(super) struct Flight {
    completer: Completer,
    io: Io,
    started: Ticks,
    /// The request's payload, where other memory is at the drive.
    kept: Option<Payload>,
    /// Of zeroes that go to the drive as writes: how many blocks are left after those under way.
    zeroes_left: Option<u64>,
}

/// What a queue pair has of its drive.
struct Live {
    queue: AnyQueue<Payload, Flight>,
    own: Option<OwnMemory>,
}

/// A queue pair.
pub(super) struct Pair {
    /// `None` once the drive is gone: then nothing of ours keeps its registers and memory mapped.
    live: RefCell<Option<Live>>,
    kept: Arc<Kept>,
    spare: Option<Pool>,
    /// Zeroes, for a drive that has no command for them.
    zeroes: Option<Lease>,
    /// Will be called at the end of this round.
    hooked: Cell<bool>,
}

fn now_ns() -> u64 {
    ticks_to_ns(now())
}

impl Pair {
    /// Opens a queue pair on this reactor, and maps the reactor's pools for the drive.
    pub(super) fn open(
        share: Share,
        kept: &Arc<Kept>,
        regions: &Regions,
        writes_zeroes: bool,
    ) -> Result<Rc<Pair>, BlockError> {
        let spare = Pool::new(&PoolConfig {
            size_bytes: SPARE_BYTES,
            lease_max_bytes: BOUNCE_MAX_BYTES,
            hugepages: false,
            ..PoolConfig::default()
        })
        .inspect_err(|error| tracing::warn!(%error, "no memory for payloads to be copied"))
        .ok();
        let zeroes = spare
            .as_ref()
            .filter(|_| !writes_zeroes)
            .and_then(|pool| pool.try_lease(ZEROES_BYTES))
            .inspect(|zeroes| zeroes.fill(0));
        for memory in pools_of_this_thread() {
            regions.add_pool(&memory).map_err(|error| {
                tracing::error!(%error, "a pool cannot be reached by the drive");
                BlockError::NoResources
            })?;
        }
        let own = share.memory.and_then(OwnMemory::new);
        let mut queue = share.parts.open().map_err(|error| {
            tracing::error!(%error, "a queue pair cannot be opened");
            BlockError::NoResources
        })?;
        queue.tick(now_ns());
        Ok(Rc::new(Pair {
            live: RefCell::new(Some(Live { queue, own })),
            kept: Arc::clone(kept),
            spare,
            zeroes,
            hooked: Cell::new(false),
        }))
    }

    /// Whether the pair is on the drive with this keeper.
    pub(super) fn is_of(&self, kept: &Arc<Kept>) -> bool {
        Arc::ptr_eq(&self.kept, kept)
    }

    /// Whether the drive is gone and everything has been answered.
    pub(super) fn is_over(&self) -> bool {
        self.live.borrow().is_none()
    }

    fn next_done(&self) -> Option<Done<Payload, Flight>> {
        self.live.borrow_mut().as_mut()?.queue.next_done()
    }

    /// A round: ends what the drive has done.
    pub(super) fn poll(self: &Rc<Self>) -> Polled {
        if let Some(live) = self.live.borrow_mut().as_mut() {
            live.queue.tick(now_ns());
        }
        let mut worked = false;
        // Not borrowed while a request ends, as what waits for it may submit the next.
        while let Some(done) = self.next_done() {
            self.finish(done);
            worked = true;
        }
        let mut place = self.live.borrow_mut();
        let Some(Live { queue, .. }) = place.as_mut() else {
            return Polled::Idle;
        };
        queue.round_end();
        let in_flight = queue.in_flight();
        if queue.is_gone() && in_flight == 0 {
            let over = place.take();
            drop(place);
            drop(over);
            return Polled::Idle;
        }
        if worked {
            Polled::Worked
        } else if in_flight > 0 {
            Polled::Waiting
        } else {
            Polled::Idle
        }
    }

    /// How long the reactor may sleep as far as this pair goes; `None` where there is something to do.
    pub(super) fn may_sleep_ns(&self) -> Option<u64> {
        match self.live.borrow_mut().as_mut() {
            Some(live) => live.queue.may_sleep_ns(),
            None => Some(u64::MAX),
        }
    }

    fn submit(self: &Rc<Self>, io: Io, memory: Payload, flight: Flight) {
        let mut place = self.live.borrow_mut();
        let Some(Live { queue, own }) = place.as_mut() else {
            drop(place);
            let payload = flight.kept.unwrap_or(memory);
            let result = Err(BlockError::Gone);
            flight.completer.complete(Outcome { result, payload });
            return;
        };
        let is_stale = |own: &OwnMemory| own.is_stale(&memory, queue.resets());
        if own.as_ref().is_some_and(is_stale) {
            drop(place);
            let result = Err(block_error(IoError::Forgotten, true));
            let payload = memory;
            flight.completer.complete(Outcome { result, payload });
            return;
        }
        queue.submit(io, memory, flight);
        drop(place);
        if !self.hooked.replace(true) {
            at_round_end(Rc::clone(self) as Rc<dyn RoundEnd>);
        }
    }

    /// A run of the drive's own memory for a write; `None` where there is none now.
    fn lend(&self, len: usize) -> Option<Lease> {
        let place = self.live.borrow();
        let live = place.as_ref().filter(|live| live.queue.is_running())?;
        live.own.as_ref()?.lend(len, live.queue.resets())
    }

    fn finish(self: &Rc<Self>, done: Done<Payload, Flight>) {
        let Done {
            result,
            memory,
            tag: mut flight,
        } = done;
        let out_of_reach = matches!(result, Err(IoError::Unmapped | IoError::Unaligned));
        if out_of_reach && flight.kept.is_none() {
            self.copied(memory, flight);
            return;
        }
        if result.is_ok()
            && let Some(left @ 1..) = flight.zeroes_left
        {
            let next = Lba(flight.io.slba.0 + flight.io.blocks);
            self.write_zeroes(next, left, flight);
            return;
        }
        let payload = match flight.kept.take() {
            Some(kept) => {
                if flight.io.verb == Verb::Read && result.is_ok() {
                    copy(&memory, &kept);
                }
                kept
            }
            None => memory,
        };
        let write = flight.io.verb != Verb::Read;
        let latency_ns = ticks_to_ns(now().saturating_sub(flight.started));
        let own = payload.segments().next().map(Lease::kind) == Some(MemoryKind::Controller);
        let (kind, bytes) = match flight.io.verb {
            _ if flight.zeroes_left.is_some() => (Kind::Other, 0),
            Verb::Read => (Kind::Read, payload.len()),
            Verb::Write { .. } => (Kind::Write, payload.len()),
            _ => (Kind::Other, 0),
        };
        let stats = self.kept.stats();
        stats.count(kind, result.is_ok(), bytes as u64, latency_ns);
        if own && result.is_ok() {
            stats.own_bytes.add(bytes as u64);
        }
        let result = result
            .map(|_| ())
            .map_err(|error| block_error(error, write));
        flight.completer.complete(Outcome { result, payload });
    }

    /// Writes zeroes over `blocks` from `lba`, as many at a time as there are, until all are.
    fn write_zeroes(self: &Rc<Self>, lba: Lba, blocks: u64, flight: Flight) {
        let shift = flight.io.block_shift;
        let now = blocks.min(ZEROES_BYTES as u64 >> shift);
        let memory = usize::try_from(now << shift)
            .ok()
            .and_then(|len| self.zeroes.as_ref()?.slice(0, len));
        let Some(memory) = memory else {
            flight.completer.complete(Outcome {
                result: Err(BlockError::NoResources),
                payload: flight.kept.unwrap_or_default(),
            });
            return;
        };
        let io = Io {
            slba: lba,
            blocks: now,
            ..flight.io
        };
        let flight = Flight {
            io,
            zeroes_left: Some(blocks - now),
            ..flight
        };
        self.submit(io, Payload::from(memory), flight);
    }

    /// Sends a request again with a copy of its payload, where the drive reaches it.
    fn copied(self: &Rc<Self>, payload: Payload, flight: Flight) {
        let len = payload.len();
        let lease = self
            .spare
            .as_ref()
            .filter(|_| len <= BOUNCE_MAX_BYTES)
            .and_then(|pool| pool.try_lease(len));
        let Some(lease) = lease else {
            let result = Err(if len > BOUNCE_MAX_BYTES {
                BlockError::Unsupported
            } else {
                BlockError::NoResources
            });
            flight.completer.complete(Outcome { result, payload });
            return;
        };
        let copy_of = Payload::from(lease);
        if flight.io.verb != Verb::Read {
            copy(&payload, &copy_of);
        }
        self.kept.stats().copies.add(1);
        let io = flight.io;
        let flight = Flight {
            kept: Some(payload),
            ..flight
        };
        self.submit(io, copy_of, flight);
    }
}

/// Copies from one payload to another of the same length, the second of one run or the first.
fn copy(from: &Payload, to: &Payload) {
    if let Some(target) = to.single() {
        let mut at = 0;
        for run in from.segments() {
            at += target.write_at(at, run.bytes());
        }
    } else if let Some(source) = from.single() {
        let mut at = 0;
        for run in to.segments() {
            let end = (at + run.len()).min(source.len());
            run.write_at(0, &source.bytes()[at..end]);
            at = end;
        }
    }
}

impl RoundEnd for Pair {
    fn round_end(self: Rc<Self>) {
        self.hooked.set(false);
        if let Some(live) = self.live.borrow_mut().as_mut() {
            live.queue.round_end();
        }
    }
}

/// A namespace's queue on one reactor.
pub(super) struct NvmeQueue {
    device: Arc<NvmeDevice>,
    pair: Rc<Pair>,
}

impl NvmeQueue {
    pub(super) fn new(device: Arc<NvmeDevice>, pair: Rc<Pair>) -> NvmeQueue {
        NvmeQueue { device, pair }
    }
}

fn verb(op: Op) -> Verb {
    match op {
        Op::Read => Verb::Read,
        Op::Write { fua } => Verb::Write { fua },
        Op::Flush => Verb::Flush,
        Op::WriteZeroes {
            fua,
            may_deallocate,
        } => Verb::WriteZeroes {
            fua,
            deallocate: may_deallocate,
        },
        Op::Deallocate => Verb::Deallocate,
    }
}

impl BlockQueue for NvmeQueue {
    fn submit(&self, request: Request) -> Ticket {
        let ready = |result, payload| Ticket::ready(Outcome { result, payload });
        let geometry = self.device.geometry();
        if let Err(error) = geometry.check(&request) {
            return ready(Err(error), request.payload);
        }
        let identity = self.device.drive.identity();
        match request.op {
            // Nothing can be lost that a flush would save.
            Op::Flush if !identity.volatile_cache => return ready(Ok(()), request.payload),
            // To deallocate is advice.
            Op::Deallocate if !identity.deallocate => return ready(Ok(()), request.payload),
            _ => {}
        }
        if request.blocks == 0 && request.op != Op::Flush {
            return ready(Ok(()), request.payload);
        }
        let io = Io {
            verb: verb(request.op),
            nsid: self.device.namespace.nsid,
            slba: request.lba,
            blocks: request.blocks,
            block_shift: geometry.block_size.shift(),
            boundary_blocks: self.device.namespace.boundary_blocks,
        };
        let (ticket, completer) = Ticket::pending();
        let mut flight = Flight {
            completer,
            io,
            started: now(),
            kept: None,
            zeroes_left: None,
        };
        if let Op::WriteZeroes { fua, .. } = request.op
            && !identity.write_zeroes
        {
            flight.io.verb = Verb::Write { fua };
            flight.kept = Some(request.payload);
            self.pair.write_zeroes(request.lba, request.blocks, flight);
            return ticket;
        }
        self.pair.submit(io, request.payload, flight);
        ticket
    }

    fn lend(&self, direction: Direction, _lba: Lba, blocks: u64) -> Option<Lease> {
        if direction == Direction::FromDevice {
            return None;
        }
        let len = blocks.checked_shl(self.device.geometry().block_size.shift().into())?;
        self.pair.lend(usize::try_from(len).ok()?)
    }
}
