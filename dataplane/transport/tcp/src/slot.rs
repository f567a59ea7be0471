//! The command slots of a connection: who is outstanding, where its data comes from, how much of it
//! has arrived. Pure bookkeeping; sending and polling are the connection's.

use std::collections::VecDeque;
use std::task::Waker;

use penstock_buffer::Lease;
use penstock_nvme::tcp::{self, H2cData, PduError, check_h2c_data};
use penstock_reactor::{RecvChunk, TaskId};
use penstock_seam::{Command, Reply};

/// Most R2Ts outstanding for one command, whatever the host allows.
pub(crate) const R2T_MAX: usize = 4;
/// Fused operation bits of a command's second byte, and those of a first half (Base 2.1, 4.1).
const FUSE_MASK: u8 = 3;
const FUSE_FIRST: u8 = 1;
/// Bits of a transfer tag that name the slot; the rest is a serial number that tells stale tags.
const TAG_SLOT_BITS: u32 = 12;
/// Most slots, so that a tag can name each.
pub(crate) const SLOTS_MAX: u16 = 1 << TAG_SLOT_BITS;

/// Where the host's data for a command comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The command carries none.
    None,
    /// Behind the command in its capsule.
    Capsule,
    /// Fetched with R2T.
    Fetch,
}

/// Life of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotState {
    /// No command.
    Free,
    /// Waits because the connection's commands hold too much memory.
    Deferred,
    /// With the handler.
    Running,
    /// Answered, but the host still sends data for it; the reply waits for the rest.
    Draining,
}

/// In-capsule data the command has not taken up yet.
pub(crate) enum Capsule {
    /// Nothing left.
    Taken,
    /// Still in the receive buffer.
    Chunk(RecvChunk),
    /// Set aside.
    Stash(Vec<u8>),
}

/// An R2T whose data has not all arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenR2t {
    tag: u16,
    run: tcp::Transfer,
}

/// Payload memory that is being filled.
pub(crate) struct Fill {
    pub(crate) lease: Lease,
    pub(crate) done: bool,
    pub(crate) waker: Option<Waker>,
}

/// One command slot.
pub(crate) struct Slot {
    pub(crate) generation: u32,
    pub(crate) state: SlotState,
    pub(crate) cid: u16,
    opcode: u8,
    pub(crate) source: Source,
    /// The device works on it; Abort cannot take it back.
    pub(crate) committed: bool,
    pub(crate) digest_error: bool,
    /// The command has named its memory.
    pub(crate) received: bool,
    /// Its bytes are counted in [`SlotTable::held_bytes`].
    pub(crate) counted: bool,
    /// In-capsule data is still on its way.
    pub(crate) arriving: bool,
    /// Whether the command takes data to the host.
    pub(crate) to_host: bool,
    pub(crate) data_len: u32,
    pub(crate) task: Option<TaskId>,
    pub(crate) command: Option<Command>,
    pub(crate) capsule: Capsule,
    pub(crate) fill: Option<Fill>,
    pub(crate) held: Option<Reply>,
    /// When the oldest outstanding transfer began, in ticks.
    pub(crate) transfer_ticks: u64,
    r2ts: [Option<OpenR2t>; R2T_MAX],
    r2ts_open: u8,
    serial: u8,
    next_offset: u32,
}

/// What a slot is taken for.
pub(crate) struct Admission {
    pub(crate) cid: u16,
    pub(crate) source: Source,
    pub(crate) to_host: bool,
    pub(crate) command: Command,
}

/// Why no slot was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The command identifier is in use.
    Duplicate,
    /// More commands than the queue holds.
    Full,
}

/// An R2T to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct R2tOut {
    pub(crate) cid: u16,
    pub(crate) tag: u16,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

/// An H2CData header that is checked against the R2T it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transfer {
    pub(crate) slot: u16,
    pub(crate) r2t: u8,
}

/// All slots of a connection.
pub(crate) struct SlotTable {
    slots: Vec<Slot>,
    free: Vec<u16>,
    limit: u16,
    in_use: Box<[u64; 1024]>,
    pub(crate) outstanding: u16,
    /// Commands that a device works on.
    pub(crate) committed: u16,
    /// R2Ts open over all slots.
    pub(crate) r2ts_open: u32,
    /// Bytes set aside over all slots.
    pub(crate) stash_bytes: usize,
    /// Bytes of memory that running commands hold, or are about to, for data to or from the host.
    pub(crate) held_bytes: u64,
    /// Slots in [`SlotState::Deferred`], oldest first, with their generation.
    pub(crate) deferred: VecDeque<(u16, u32)>,
    /// The command that came last is the first half of a fused operation: its second half is due.
    between_halves: bool,
}

impl Slot {
    fn new() -> Slot {
        Slot {
            generation: 0,
            state: SlotState::Free,
            cid: 0,
            opcode: 0,
            source: Source::None,
            committed: false,
            digest_error: false,
            received: false,
            counted: false,
            arriving: false,
            to_host: false,
            data_len: 0,
            task: None,
            command: None,
            capsule: Capsule::Taken,
            fill: None,
            held: None,
            transfer_ticks: 0,
            r2ts: [None; R2T_MAX],
            r2ts_open: 0,
            serial: 0,
            next_offset: 0,
        }
    }

    /// Whether the host still owes data for this command.
    pub(crate) fn owed(&self) -> bool {
        self.arriving || self.r2ts_open > 0
    }

    /// Whether R2Ts for all of the memory are sent.
    pub(crate) fn asked_for_all(&self) -> bool {
        self.fill
            .as_ref()
            .is_none_or(|fill| self.next_offset as usize >= fill.lease.len())
    }

    /// Whether R2Ts are outstanding.
    pub(crate) fn fetching(&self) -> bool {
        self.r2ts_open > 0
    }
}

impl SlotTable {
    pub(crate) fn new(limit: u16) -> SlotTable {
        SlotTable {
            slots: Vec::new(),
            free: Vec::new(),
            limit: limit.min(SLOTS_MAX),
            in_use: Box::new([0; 1024]),
            outstanding: 0,
            committed: 0,
            r2ts_open: 0,
            stash_bytes: 0,
            held_bytes: 0,
            deferred: VecDeque::new(),
            between_halves: false,
        }
    }

    /// The queue exists and has this many entries.
    pub(crate) fn set_limit(&mut self, entries: u16) {
        self.limit = entries.clamp(1, SLOTS_MAX);
    }

    pub(crate) fn get(&self, slot: u16) -> Option<&Slot> {
        self.slots.get(usize::from(slot))
    }

    pub(crate) fn get_mut(&mut self, slot: u16) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(slot))
    }

    /// The slot, if it still holds the command of that generation.
    pub(crate) fn current(&mut self, slot: u16, generation: u32) -> Option<&mut Slot> {
        self.get_mut(slot)
            .filter(|s| s.generation == generation && s.state != SlotState::Free)
    }

    fn cid_bit(cid: u16) -> (usize, u64) {
        (usize::from(cid >> 6), 1 << (cid & 63))
    }

    /// Takes a slot for a command.
    pub(crate) fn admit(&mut self, admission: Admission) -> Result<u16, Refused> {
        let (word, bit) = Self::cid_bit(admission.cid);
        if self.in_use[word] & bit != 0 {
            return Err(Refused::Duplicate);
        }
        let index = match self.free.pop() {
            Some(index) => index,
            None => self.grow()?,
        };
        self.in_use[word] |= bit;
        self.outstanding += 1;
        self.between_halves = admission.command.sqe[1] & FUSE_MASK == FUSE_FIRST;
        let slot = &mut self.slots[usize::from(index)];
        slot.generation = slot.generation.wrapping_add(1);
        slot.state = SlotState::Running;
        slot.cid = admission.cid;
        slot.opcode = admission.command.sqe[0];
        slot.source = admission.source;
        slot.committed = false;
        slot.digest_error = false;
        slot.received = false;
        slot.arriving = false;
        slot.to_host = admission.to_host;
        slot.data_len = admission.command.data_len;
        slot.next_offset = 0;
        slot.command = Some(admission.command);
        Ok(index)
    }

    fn grow(&mut self) -> Result<u16, Refused> {
        let index = u16::try_from(self.slots.len()).map_err(|_| Refused::Full)?;
        if index >= self.limit {
            return Err(Refused::Full);
        }
        self.slots.push(Slot::new());
        // Room for every slot's return, so that freeing one never allocates.
        let missing = self.slots.capacity().saturating_sub(self.free.len());
        self.free.reserve(missing);
        Ok(index)
    }

    /// Whether a command that has just come may run now. One that moves data needs memory: where
    /// there is none within `max`, or others wait for it already, it joins the line. Replies not
    /// sent yet (`queued` bytes) hold memory too. The two halves of a fused operation never wait:
    /// they have to meet in order.
    #[inline]
    pub(crate) fn may_run(&mut self, index: u16, queued: usize, max: u64) -> bool {
        let Some(slot) = self.slots.get(usize::from(index)) else {
            return false;
        };
        if slot.source != Source::Fetch && !slot.to_host {
            return true;
        }
        let fused = slot
            .command
            .as_ref()
            .is_some_and(|c| c.sqe[1] & FUSE_MASK != 0);
        if fused || (self.first_in_line().is_none() && self.has_memory(index, queued, max)) {
            self.give_memory(index);
            return true;
        }
        let slot = &mut self.slots[usize::from(index)];
        slot.state = SlotState::Deferred;
        self.deferred.push_back((index, slot.generation));
        false
    }

    /// Takes the oldest command out of the line, if it may get memory now. The line stands still while
    /// the second half of a fused operation is due: what came before the first must not come between.
    pub(crate) fn next_deferred(&mut self, queued: usize, max: u64) -> Option<u16> {
        if self.between_halves {
            return None;
        }
        let index = self.first_in_line()?;
        if !self.has_memory(index, queued, max) {
            return None;
        }
        self.deferred.pop_front();
        self.give_memory(index);
        Some(index)
    }

    /// The oldest command that waits for memory. Those taken back meanwhile leave the line here.
    fn first_in_line(&mut self) -> Option<u16> {
        while let Some(&(index, generation)) = self.deferred.front() {
            let waits = self
                .current(index, generation)
                .is_some_and(|slot| slot.state == SlotState::Deferred);
            if waits {
                return Some(index);
            }
            self.deferred.pop_front();
        }
        None
    }

    /// Whether the command's bytes fit. One that is longer than all that is allowed runs alone.
    fn has_memory(&self, index: u16, queued: usize, max: u64) -> bool {
        let held = self.held_bytes + queued as u64;
        held == 0 || held + u64::from(self.slots[usize::from(index)].data_len) <= max
    }

    fn give_memory(&mut self, index: u16) {
        let slot = &mut self.slots[usize::from(index)];
        slot.state = SlotState::Running;
        slot.counted = true;
        self.held_bytes += u64::from(slot.data_len);
    }

    /// The command of a slot, for its task to execute. One that waits in line stays there: a task
    /// may be polled by a waker of the command before.
    pub(crate) fn take_command(&mut self, index: u16) -> Option<(Command, u32)> {
        let slot = self.slots.get_mut(usize::from(index))?;
        if slot.state != SlotState::Running {
            return None;
        }
        Some((slot.command.take()?, slot.generation))
    }

    /// Gives the slot back. The caller has made sure that the host owes it nothing.
    pub(crate) fn release(&mut self, index: u16) {
        self.drop_data(index);
        let Some(slot) = self.slots.get_mut(usize::from(index)) else {
            return;
        };
        if slot.state == SlotState::Free {
            return;
        }
        slot.state = SlotState::Free;
        slot.command = None;
        if std::mem::take(&mut slot.committed) {
            self.committed -= 1;
        }
        if std::mem::take(&mut slot.counted) {
            self.held_bytes = self.held_bytes.saturating_sub(u64::from(slot.data_len));
        }
        let (word, bit) = Self::cid_bit(slot.cid);
        self.in_use[word] &= !bit;
        self.outstanding -= 1;
        self.free.push(index);
    }

    /// Lets go of the command's memory and in-capsule data.
    pub(crate) fn drop_data(&mut self, index: u16) {
        let Some(slot) = self.slots.get_mut(usize::from(index)) else {
            return;
        };
        if let Capsule::Stash(stash) = std::mem::replace(&mut slot.capsule, Capsule::Taken) {
            self.stash_bytes = self.stash_bytes.saturating_sub(stash.len());
        }
        slot.fill = None;
    }

    /// A device works on the command from here on.
    pub(crate) fn commit(&mut self, index: u16, generation: u32) {
        let running = self
            .current(index, generation)
            .filter(|s| s.state == SlotState::Running);
        let newly = running.is_some_and(|slot| !std::mem::replace(&mut slot.committed, true));
        self.committed += u16::from(newly);
    }

    /// The slot of an outstanding command.
    pub(crate) fn find(&self, cid: u16) -> Option<u16> {
        let (word, bit) = Self::cid_bit(cid);
        if self.in_use[word] & bit == 0 {
            return None;
        }
        let at = self
            .slots
            .iter()
            .position(|s| s.state != SlotState::Free && s.cid == cid)?;
        u16::try_from(at).ok()
    }

    /// The slot of an outstanding command of that opcode which is with the handler alone: no device
    /// works on it, no data is on its way.
    pub(crate) fn find_waiting(&self, cid: u16, opcode: u8) -> Option<u16> {
        let index = self.find(cid)?;
        let slot = self.get(index)?;
        let waits = slot.state == SlotState::Running && !slot.committed && !slot.owed();
        (waits && slot.opcode == opcode).then_some(index)
    }

    /// Moves in-capsule data that nobody took up out of the receive buffer. `total` is how much the
    /// capsule carries altogether. Returns how many bytes were set aside.
    pub(crate) fn stash(&mut self, index: u16, total: usize) -> usize {
        let Some(slot) = self.slots.get_mut(usize::from(index)) else {
            return 0;
        };
        let Capsule::Chunk(chunk) = &slot.capsule else {
            return 0;
        };
        let mut stash = Vec::with_capacity(total);
        stash.extend_from_slice(chunk);
        let count = stash.len();
        self.stash_bytes += count;
        slot.capsule = Capsule::Stash(stash);
        count
    }

    /// Appends in-capsule bytes to the stash of a command that has no memory yet.
    pub(crate) fn stash_more(&mut self, index: u16, bytes: &[u8]) -> bool {
        let Some(slot) = self.slots.get_mut(usize::from(index)) else {
            return false;
        };
        let Capsule::Stash(stash) = &mut slot.capsule else {
            return false;
        };
        stash.extend_from_slice(bytes);
        self.stash_bytes += bytes.len();
        true
    }

    /// The next R2T of a fetching command, if the host takes one more.
    pub(crate) fn next_r2t(&mut self, index: u16, piece_max: u32, open_max: u8) -> Option<R2tOut> {
        let slot = self.slots.get_mut(usize::from(index))?;
        let want = u32::try_from(slot.fill.as_ref()?.lease.len()).ok()?;
        let left = want.saturating_sub(slot.next_offset);
        if left == 0 || slot.r2ts_open >= open_max.min(u8::try_from(R2T_MAX).unwrap_or(1)) {
            return None;
        }
        let at = slot.r2ts.iter().position(Option::is_none)?;
        slot.serial = slot.serial.wrapping_add(1);
        let tag = index | (u16::from(slot.serial) << TAG_SLOT_BITS);
        let len = left.min(piece_max);
        let run = tcp::Transfer {
            offset: slot.next_offset,
            length: len,
            done: 0,
        };
        slot.r2ts[at] = Some(OpenR2t { tag, run });
        slot.r2ts_open += 1;
        self.r2ts_open += 1;
        let out = R2tOut {
            cid: slot.cid,
            tag,
            offset: slot.next_offset,
            len,
        };
        slot.next_offset += len;
        Some(out)
    }

    /// Checks an H2CData header against the R2T it names (TCP 1.1, 3.3.2 and 3.6.2.7) and counts its
    /// bytes as arrived.
    ///
    /// # Errors
    /// What the termination request is to say.
    pub(crate) fn begin_transfer(&mut self, header: &H2cData) -> Result<Transfer, PduError> {
        let tag = header.ttag.get();
        let index = tag & (SLOTS_MAX - 1);
        let slot = self
            .slots
            .get_mut(usize::from(index))
            .ok_or(PduError::tag(tag))?;
        let mut open = slot.r2ts.iter_mut().enumerate();
        let found = open.find_map(|(at, r2t)| Some((at, r2t.as_mut().filter(|r| r.tag == tag)?)));
        let (at, r2t) = found.ok_or(PduError::tag(tag))?;
        if slot.cid != header.cccid.get() {
            return Err(PduError::command(header.cccid.get()));
        }
        check_h2c_data(header, &r2t.run)?;
        r2t.run.done += header.datal.get();
        Ok(Transfer {
            slot: index,
            r2t: u8::try_from(at).unwrap_or(0),
        })
    }

    /// The last byte of an H2CData PDU is here. True if its R2T is now complete.
    pub(crate) fn end_transfer(&mut self, transfer: Transfer) -> bool {
        let Some(slot) = self.slots.get_mut(usize::from(transfer.slot)) else {
            return false;
        };
        let Some(open) = slot.r2ts.get_mut(usize::from(transfer.r2t)) else {
            return false;
        };
        if open.is_none_or(|r2t| r2t.run.done < r2t.run.length) {
            return false;
        }
        *open = None;
        slot.r2ts_open = slot.r2ts_open.saturating_sub(1);
        self.r2ts_open = self.r2ts_open.saturating_sub(1);
        true
    }

    /// Whether any transfer of the host began before `limit_ticks`.
    pub(crate) fn any_overdue(&self, limit_ticks: u64) -> bool {
        self.slots
            .iter()
            .any(|s| s.owed() && s.transfer_ticks < limit_ticks)
    }

    /// Everything in the slots, for the end of the connection: tasks to cancel and what to drop
    /// once nothing is borrowed.
    pub(crate) fn take_all(&mut self) -> Vec<Slot> {
        self.free = Vec::new();
        self.deferred = VecDeque::new();
        self.in_use.fill(0);
        self.outstanding = 0;
        self.committed = 0;
        self.r2ts_open = 0;
        self.stash_bytes = 0;
        self.held_bytes = 0;
        self.limit = 0;
        std::mem::take(&mut self.slots)
    }
}

#[cfg(test)]
#[path = "slot_tests.rs"]
mod tests;
