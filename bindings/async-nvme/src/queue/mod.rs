//! One queue pair: requests in, commands to the controller, completions back.
//!
//! A request is cut into as many commands as the drive's limits ask for and ends when all of them
//! have. Nothing here waits: [`Queue::submit`] takes a request, [`Queue::next_done`] gives one that
//! ended, [`Queue::round_end`] rings the doorbells once for all there is, and [`Queue::tick`] looks
//! for commands that take too long. A queue pair belongs to one thread and takes no lock; once its
//! tables have grown to the most requests ever in flight it allocates nothing.
//!
//! A request that cannot be sent (the queue is full, or the controller is being reset) waits in
//! line. After a reset every request that had not ended is sent again from its beginning: all the
//! verbs of [`Verb`] may be repeated, and the host has not been told yet that they ended, so it
//! orders nothing after them. But what was to be written or compared and lay in the controller's own
//! memory may be gone with the reset: such a request ends with [`IoError::Forgotten`]. Data put there
//! for a request that was not submitted yet is no better: see [`Queue::resets`].

mod commands;
mod data;
mod link;
mod parts;
pub(crate) mod rings;
mod wire;

use std::collections::VecDeque;
use std::sync::Arc;

use penstock_nvme::Cqe;
use penstock_nvme::pcie::SqeWords;
use penstock_units::{Lba, QueueId};

use crate::cmb::ControllerMemory;
use crate::dma::{DmaError, Region, Regions};
use crate::io::{Buffers, Done, Io, IoError, Verb};
use crate::memory::DeviceMemory;
use commands::{Commands, Overdue};
pub(crate) use data::LIST_BYTES;
use data::{Cursor, List, Lookup};
use link::Wish;
pub use link::{Link, Stage};
pub(crate) use parts::Shadow;
pub use parts::{QueueParts, completion_bytes, memory_bytes, submission_bytes};
use rings::{Completions, Doorbell, Submission};
use wire::Rings;
pub use wire::Wire;

/// How often [`Queue::tick`] looks at all commands, nanoseconds.
const LOOK_EVERY_NS: u64 = 10_000_000;
/// How long a thread may sleep at most while commands are out, nanoseconds.
const SLEEP_LEAST_NS: u64 = 1_000_000;
const SLEEP_MOST_NS: u64 = 1_000_000_000;
/// Blocks of one Write Zeroes command or one range of Dataset Management.
const WRITE_ZEROES_BLOCKS_MAX: u64 = 1 << 16;
const DEALLOCATE_BLOCKS_MAX: u64 = u32::MAX as u64;

/// What one command may do at most, and how its data is described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// log2 of the controller's memory page size (CC.MPS).
    pub page_shift: u8,
    /// Most bytes of one command (MDTS and what a list holds).
    pub transfer_bytes_max: u32,
    /// Most bytes that a Write Zeroes command may cover (WZSL); `None` where only the encoding of the
    /// count limits it.
    pub write_zeroes_bytes_max: Option<u64>,
    /// Whether the controller takes SGLs with dword granularity (SGLS, Base 2.1, 5.1.13.2.1).
    pub sgl: bool,
    /// How long a command may take, nanoseconds.
    pub timeout_ns: u64,
}

/// How far a request is. What came with it lies apart, so that this never moves.
struct Request {
    io: Io,
    /// Blocks that have been put into commands.
    sent_blocks: u64,
    /// How far the memory has been described.
    cursor: Cursor,
    /// Commands that are not answered yet.
    outstanding: u32,
    /// In the line of those that have more to send.
    in_line: bool,
    /// Last dwords, or what went wrong first.
    result: Result<u64, IoError>,
}

impl Request {
    fn is_sent(&self) -> bool {
        self.result.is_err() || self.sent_blocks >= self.io.blocks.max(1)
    }
}

/// What a queue pair has done, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Commands sent.
    pub commands: u64,
    /// Completions that named no outstanding command.
    pub stray_completions: u64,
    /// Commands that took too long.
    pub late_commands: u64,
    /// Requests sent again after a reset.
    pub resent_requests: u64,
}

/// A queue pair in use. `M` is the memory of a request, `T` whatever else goes back with its end, `W`
/// the way to the controller.
pub struct Queue<M, T, W = Rings> {
    wire: W,
    commands: Commands,
    requests: Vec<Request>,
    /// Memory and tag of each request; `None` where its place is free.
    held: Vec<Option<(M, T)>>,
    free_requests: Vec<u32>,
    /// Requests with more to send, in order.
    line: VecDeque<u32>,
    /// Requests that ended without an answer of the controller.
    ended: VecDeque<u32>,
    lookup: Lookup,
    limits: Limits,
    stage: Stage,
    wish: Wish,
    link: Arc<Link>,
    memory: DeviceMemory,
    lists_offset: usize,
    now_ns: u64,
    looked_ns: u64,
    stats: QueueStats,
    resets: u64,
    id: QueueId,
}

impl<M: Buffers, T> Queue<M, T> {
    /// Opens a queue pair on this thread.
    ///
    /// # Errors
    /// [`DmaError::Memory`] where the parts do not fit each other.
    pub fn open(parts: QueueParts) -> Result<Queue<M, T>, DmaError> {
        let misfit = || DmaError::Memory {
            len_bytes: parts.memory.len(),
            source: std::io::Error::other("the parts of the queue pair do not fit"),
        };
        let room = parts.submission.as_ref().map(ControllerMemory::len);
        let fits = parts.memory.len() >= memory_bytes(parts.entries)
            && room.is_none_or(|room| room >= submission_bytes(parts.entries))
            && parts.entries >= 2;
        let tail = parts.bar.word(parts.doorbells.0).ok_or_else(misfit)?;
        let head = parts.bar.word(parts.doorbells.1).ok_or_else(misfit)?;
        if !fits {
            return Err(misfit());
        }
        let entries = u32::from(parts.entries);
        let mut tail = Doorbell::new(parts.bar.clone(), tail);
        let mut head = Doorbell::new(parts.bar.clone(), head);
        if let Some(shadow) = parts.shadow {
            // SAFETY: the pages are held by `regions`, as we do.
            unsafe {
                tail.set_shadow(shadow.pair(shadow.tail_offset));
                head.set_shadow(shadow.pair(shadow.head_offset));
            }
        }
        // SAFETY: the memory is as long as checked, page aligned and held by `memory` and `regions`.
        let (submission, completions) = unsafe {
            (
                Submission::new(parts.submission_base(), entries, tail),
                Completions::new(parts.memory.base(), entries, head),
            )
        };
        let wire = Rings {
            submission,
            completions,
            _memory: parts.submission,
        };
        Ok(Queue::on(
            wire,
            Base {
                id: parts.id,
                entries: parts.entries,
                regions: parts.regions,
                limits: parts.limits,
                link: parts.link,
                lists_offset: completion_bytes(parts.entries) + submission_bytes(parts.entries),
                memory: parts.memory,
            },
        ))
    }
}

/// What every queue pair is made of, whatever its way to the controller.
pub(crate) struct Base {
    pub(crate) id: QueueId,
    /// Entries of both queues.
    pub(crate) entries: u16,
    pub(crate) regions: Arc<Regions>,
    pub(crate) limits: Limits,
    pub(crate) link: Arc<Link>,
    /// Holds a list for each entry from `lists_offset`.
    pub(crate) memory: DeviceMemory,
    pub(crate) lists_offset: usize,
}

impl<M: Buffers, T, W: Wire> Queue<M, T, W> {
    pub(crate) fn on(wire: W, base: Base) -> Queue<M, T, W> {
        base.link.open();
        Queue {
            wire,
            // One entry stays empty, so that a full queue is told from an empty one.
            commands: Commands::new(base.entries - 1),
            requests: Vec::new(),
            held: Vec::new(),
            free_requests: Vec::new(),
            line: VecDeque::new(),
            ended: VecDeque::new(),
            lookup: Lookup {
                regions: base.regions,
                last: Region::default(),
            },
            limits: base.limits,
            stage: Wish::START.stage(),
            wish: Wish::START,
            link: base.link,
            lists_offset: base.lists_offset,
            memory: base.memory,
            now_ns: 0,
            looked_ns: 0,
            stats: QueueStats::default(),
            resets: 0,
            id: base.id,
        }
    }

    /// Queue identifier.
    pub fn id(&self) -> QueueId {
        self.id
    }

    /// Counters.
    pub fn stats(&self) -> QueueStats {
        self.stats
    }

    /// Resets of the controller that this queue pair has seen begin. Each may take what lies in the
    /// controller's own memory: data put there before belongs to no request after.
    pub fn resets(&self) -> u64 {
        self.resets
    }

    /// Whether commands go to the controller now; during a reset they wait.
    pub fn is_running(&self) -> bool {
        self.stage == Stage::Run
    }

    /// Requests that have not ended, and those that have and were not fetched.
    pub fn in_flight(&self) -> usize {
        self.requests.len() - self.free_requests.len()
    }

    /// Takes a request. It is sent as far as there is room, the rest later; the controller hears of
    /// it at [`Queue::round_end`]. Its end comes out of [`Queue::next_done`].
    #[inline]
    pub fn submit(&mut self, io: Io, memory: M, tag: T) {
        let mut request = Request {
            io,
            sent_blocks: 0,
            cursor: Cursor::default(),
            outstanding: 0,
            in_line: false,
            result: Ok(0),
        };
        if self.stage == Stage::Run
            && self.line.is_empty()
            && let Some(sqe) = data::whole(&io, &memory, &mut self.lookup, &self.limits)
            && let Some(cid) = self.commands.take(self.next_place(), self.deadline_ns())
        {
            request.sent_blocks = io.blocks;
            request.outstanding = 1;
            self.place(request, (memory, tag));
            self.wire.push(sqe, cid, self.commands.place(cid));
            self.stats.commands += 1;
            return;
        }
        let index = self.place(request, (memory, tag));
        if self.stage == Stage::Gone {
            self.end(index, Err(IoError::Gone));
        } else if io.blocks == 0 && io.verb != Verb::Flush {
            self.end(index, Err(IoError::Invalid));
        } else if self.line.is_empty() {
            self.send(index);
        } else {
            self.stand_in_line(index);
        }
    }

    /// Where the next request will be put.
    #[inline]
    fn next_place(&self) -> u32 {
        let next = || u32::try_from(self.requests.len()).unwrap_or(u32::MAX);
        self.free_requests.last().copied().unwrap_or_else(next)
    }

    #[inline]
    fn deadline_ns(&self) -> u64 {
        self.now_ns.saturating_add(self.limits.timeout_ns)
    }

    /// Puts a request in a free place.
    #[inline]
    fn place(&mut self, request: Request, held: (M, T)) -> u32 {
        if let Some(index) = self.free_requests.pop() {
            self.requests[index as usize] = request;
            self.held[index as usize] = Some(held);
            return index;
        }
        self.place_anew(request, held)
    }

    #[cold]
    fn place_anew(&mut self, request: Request, held: (M, T)) -> u32 {
        self.requests.push(request);
        self.held.push(Some(held));
        // Room for every number at once, so that giving one back never allocates.
        self.free_requests.reserve(self.requests.len());
        // More requests than 2^32 do not fit any memory.
        u32::try_from(self.requests.len() - 1).unwrap_or_else(|_| std::process::abort())
    }

    #[inline]
    fn request(&mut self, index: u32) -> Option<&mut Request> {
        self.requests.get_mut(index as usize)
    }

    fn stand_in_line(&mut self, index: u32) {
        if let Some(request) = self.request(index)
            && !std::mem::replace(&mut request.in_line, true)
        {
            self.line.push_back(index);
        }
    }

    /// Notes an end that the controller does not tell, unless commands are still out.
    fn end(&mut self, index: u32, result: Result<u64, IoError>) {
        let Some(request) = self.request(index) else {
            return;
        };
        if request.result.is_ok() {
            request.result = result;
        }
        if request.outstanding == 0 {
            self.ended.push_back(index);
        }
    }

    /// Sends as much of a request as there is room for; what is left stands in line.
    fn send(&mut self, index: u32) {
        loop {
            let Some(request) = self.request(index) else {
                return;
            };
            if request.is_sent() {
                return;
            }
            if self.stage != Stage::Run || !self.commands.has_room() {
                self.stand_in_line(index);
                return;
            }
            if let Err(error) = self.send_piece(index) {
                self.end(index, Err(error));
                return;
            }
        }
    }

    /// Sends one command of a request; there is room for it.
    #[inline]
    fn send_piece(&mut self, index: u32) -> Result<(), IoError> {
        let place = index as usize;
        let (Some(request), Some(Some((memory, _)))) =
            (self.requests.get_mut(place), self.held.get(place))
        else {
            return Err(IoError::Invalid);
        };
        let slba = Lba(request.io.slba.0.saturating_add(request.sent_blocks));
        let blocks = piece(request, memory, slba, &self.limits)?;
        let count = u32::try_from(blocks).map_err(|_| IoError::Invalid)?;
        let sqe = request.io.command(slba, count);
        let deadline_ns = self.now_ns.saturating_add(self.limits.timeout_ns);
        let Some(cid) = self.commands.take(index, deadline_ns) else {
            return Err(IoError::Invalid);
        };
        let slot = self.commands.place(cid);
        let offset = self.lists_offset + slot * LIST_BYTES;
        let list = List {
            // SAFETY: a list for every command identifier lies behind the completion queue.
            at: unsafe { self.memory.base().add(offset) }.cast(),
            device_address: self.memory.device_address() + offset as u64,
        };
        match data_pointer(
            request,
            memory,
            sqe,
            blocks,
            list,
            &mut self.lookup,
            &self.limits,
        ) {
            Ok(sqe) => {
                request.sent_blocks += blocks.max(1);
                request.outstanding += 1;
                self.wire.push(sqe, cid, slot);
                self.stats.commands += 1;
                Ok(())
            }
            Err(error) => {
                self.commands.give_back(cid);
                Err(error)
            }
        }
    }

    /// The next request that ended, from what the controller has posted so far.
    #[inline]
    pub fn next_done(&mut self) -> Option<Done<M, T>> {
        if let Some(index) = self.ended.pop_front() {
            return self.take_out(index);
        }
        if self.stage != Stage::Run {
            return None;
        }
        while let Some(cqe) = self.wire.pop() {
            if let Some(done) = self.completed(&cqe) {
                return Some(done);
            }
        }
        None
    }

    #[inline]
    fn completed(&mut self, cqe: &Cqe) -> Option<Done<M, T>> {
        let Some(index) = self.commands.give_back(cqe.command_id().0) else {
            self.stats.stray_completions += 1;
            // What the controller says can no longer be trusted.
            self.link.ask_reset();
            return None;
        };
        let request = self.request(index)?;
        request.outstanding -= 1;
        let status = cqe.status();
        if request.result.is_ok() {
            request.result = if status.is_success() {
                Ok(cqe.result.get())
            } else {
                Err(IoError::Status(status))
            };
        }
        if request.outstanding == 0 && request.is_sent() {
            return self.take_out(index);
        }
        None
    }

    #[inline]
    fn take_out(&mut self, index: u32) -> Option<Done<M, T>> {
        let (memory, tag) = self.held.get_mut(index as usize)?.take()?;
        self.free_requests.push(index);
        let request = &mut self.requests[index as usize];
        if std::mem::replace(&mut request.in_line, false) {
            self.line.retain(|other| *other != index);
        }
        Some(Done {
            result: request.result,
            memory,
            tag,
        })
    }

    /// The end of a round: what stands in line is sent as far as there is room, and the doorbells
    /// are rung once for everything since the last time.
    #[inline]
    pub fn round_end(&mut self) {
        if self.stage != Stage::Run {
            return;
        }
        while self.commands.has_room()
            && let Some(index) = self.line.pop_front()
        {
            if let Some(request) = self.request(index) {
                request.in_line = false;
            }
            self.send(index);
        }
        self.wire.ring();
    }

    /// Looks at the clock and at what the controller's keeper wants; to be called every round.
    #[inline]
    pub fn tick(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        let wanted = self.link.wanted();
        if wanted != self.wish {
            self.go(wanted);
        }
        if now_ns.saturating_sub(self.looked_ns) >= LOOK_EVERY_NS {
            self.looked_ns = now_ns;
            self.look_for_late_commands();
        }
    }

    /// For a thread that would rather sleep until its [`Link::event`] is signalled, to be asked after
    /// it has taken from the event what was there: how long it may sleep at most, nanoseconds. `None`
    /// where there is something to look at already.
    ///
    /// Whatever the controller posts after this was asked, it interrupts for after the event was
    /// emptied: no wake-up is lost.
    pub fn may_sleep_ns(&mut self) -> Option<u64> {
        let quiet = self.ended.is_empty()
            && self.link.wanted() == self.wish
            && (self.stage != Stage::Run || self.wire.is_quiet());
        if !quiet {
            return None;
        }
        if self.stage != Stage::Run || self.commands.in_use() == 0 {
            return Some(u64::MAX);
        }
        // Nobody is there to tell it again later.
        self.wire.remind();
        // Commands that take too long are to be noticed not much later than they are.
        let limit_ns = self.limits.timeout_ns / 8;
        Some(limit_ns.clamp(SLEEP_LEAST_NS, SLEEP_MOST_NS))
    }

    /// Now and then: what may have been missed is told again, what is late is told of.
    fn look_for_late_commands(&mut self) {
        if self.stage != Stage::Run {
            return;
        }
        if self.commands.in_use() > 0 {
            self.wire.remind();
        }
        match self.commands.overdue(self.now_ns, self.limits.timeout_ns) {
            Some(Overdue::Late(cid)) => {
                self.stats.late_commands += 1;
                self.wire.late(cid, self.commands.place(cid), &self.link);
            }
            Some(Overdue::Stuck) => self.link.ask_reset(),
            None => {}
        }
    }

    /// Does what the keeper wants. The controller is not enabled while the stage changes to or from
    /// `Hold`, so it reaches neither the rings nor any memory.
    fn go(&mut self, wish: Wish) {
        let begins = self.wish == Wish::START;
        match wish.stage() {
            Stage::Hold => self.resets += 1,
            Stage::Run if self.stage == Stage::Run => {}
            Stage::Run => {
                // One that begins has not seen the resets before it was opened.
                self.resets += u64::from(begins && wish != Wish::FIRST);
                self.restart();
            }
            Stage::Gone => self.give_up(),
        }
        self.stage = wish.stage();
        self.wish = wish;
        self.link.reach(wish);
    }

    /// After a reset: empty rings, and everything that had not ended from its beginning.
    fn restart(&mut self) {
        self.wire.restart();
        while let Some(index) = self.commands.give_back_any() {
            let Some(request) = self.request(index) else {
                continue;
            };
            request.outstanding -= 1;
            if request.outstanding > 0 {
                continue;
            }
            if request.result.is_err() {
                self.ended.push_back(index);
                continue;
            }
            self.stats.resent_requests += 1;
            self.stand_in_line(index);
        }
        // All that has not ended stands in line now. Also what had a part answered begins anew: a
        // drive that lost its power, or its firmware's state, has lost that part with its write cache.
        for _ in 0..self.line.len() {
            let Some(index) = self.line.pop_front() else {
                return;
            };
            let forgotten = self.is_forgotten(index);
            let Some(request) = self.requests.get_mut(index as usize) else {
                continue;
            };
            if forgotten {
                request.in_line = false;
                self.end(index, Err(IoError::Forgotten));
            } else {
                request.sent_blocks = 0;
                request.cursor = Cursor::default();
                self.line.push_back(index);
            }
        }
    }

    /// Whether a reset took what a request was to write or compare.
    fn is_forgotten(&self, index: u32) -> bool {
        let index = index as usize;
        let (Some(request), Some(Some((memory, _)))) =
            (self.requests.get(index), self.held.get(index))
        else {
            return false;
        };
        let sends = matches!(request.io.verb, Verb::Write { .. } | Verb::Compare);
        sends
            && self.resets > 0
            && (0..)
                .map_while(|segment| memory.segment(segment))
                .any(|(start, len)| self.lookup.regions.is_volatile(start, len))
    }

    /// The controller is gone: everything fails.
    fn give_up(&mut self) {
        while let Some(index) = self.commands.give_back_any() {
            if let Some(request) = self.request(index) {
                request.outstanding -= 1;
                if request.outstanding == 0 {
                    self.end(index, Err(IoError::Gone));
                }
            }
        }
        while let Some(index) = self.line.pop_front() {
            if let Some(request) = self.request(index) {
                request.in_line = false;
                // One with commands out was in the loop above.
                if request.result.is_ok() {
                    self.end(index, Err(IoError::Gone));
                }
            }
        }
    }

    /// Whether the controller is gone, for this queue pair at least.
    pub fn is_gone(&self) -> bool {
        self.stage == Stage::Gone
    }

    /// Commands that the controller works on.
    pub fn outstanding(&self) -> usize {
        self.commands.in_use()
    }
}

impl<M, T, W> Drop for Queue<M, T, W> {
    fn drop(&mut self) {
        if self.stage != Stage::Gone && self.commands.in_use() > 0 {
            // The controller may still write to the memory of these: it is never given back.
            tracing::error!(
                queue = self.id.0,
                commands = self.commands.in_use(),
                "a queue pair is dropped with commands in flight; their memory is lost"
            );
            for held in self.held.drain(..) {
                std::mem::forget(held);
            }
        }
        self.link.close();
    }
}

/// Blocks of the next command of a request.
#[inline]
fn piece<M: Buffers>(
    request: &Request,
    memory: &M,
    slba: Lba,
    limits: &Limits,
) -> Result<u64, IoError> {
    let io = &request.io;
    let left = io.blocks.saturating_sub(request.sent_blocks);
    let most = match io.verb {
        Verb::Flush => return Ok(1),
        Verb::Deallocate => return Ok(left.min(DEALLOCATE_BLOCKS_MAX)),
        Verb::WriteZeroes { .. } => limits
            .write_zeroes_bytes_max
            .map_or(WRITE_ZEROES_BLOCKS_MAX, |most| most >> io.block_shift)
            .min(WRITE_ZEROES_BLOCKS_MAX),
        _ => u64::from(limits.transfer_bytes_max) >> io.block_shift,
    };
    let mut blocks = left.min(most.max(1));
    if io.boundary_blocks > 0 && io.verb.moves_data() {
        let boundary = u64::from(io.boundary_blocks);
        blocks = blocks.min(boundary - slba.0 % boundary);
    }
    if !io.verb.moves_data() {
        return Ok(blocks);
    }
    let want = usize::try_from(blocks << io.block_shift).map_err(|_| IoError::Invalid)?;
    let bytes = data::describable(memory, request.cursor, want, io.block_shift, limits)?;
    Ok(bytes as u64 >> io.block_shift)
}

/// Describes the memory of one command.
#[inline]
fn data_pointer<M: Buffers>(
    request: &mut Request,
    memory: &M,
    sqe: SqeWords,
    blocks: u64,
    list: List,
    lookup: &mut Lookup,
    limits: &Limits,
) -> Result<SqeWords, IoError> {
    let io = &request.io;
    match io.verb {
        Verb::Deallocate => {
            let count = u32::try_from(blocks).map_err(|_| IoError::Invalid)?;
            let slba = io.slba.0.saturating_add(request.sent_blocks);
            let (prp1, prp2) = list.put_range(slba, count);
            Ok(sqe.with_prps(prp1, prp2))
        }
        verb if verb.moves_data() => {
            let bytes = usize::try_from(blocks << io.block_shift).map_err(|_| IoError::Invalid)?;
            data::point(
                sqe,
                memory,
                &mut request.cursor,
                bytes,
                list,
                lookup,
                limits,
            )
        }
        _ => Ok(sqe.with_prps(0, 0)),
    }
}
