//! Doorbells (PCIe 1.1, 3.1.2), and shadow doorbells in host memory (Base 2.1, 5.2.5 and B.5).

use std::sync::atomic::{Ordering, fence};

use penstock_nvme::event::AsyncEvent;
use penstock_nvme::pcie::{cq_doorbell, sq_doorbell};
use penstock_units::QueueId;

use super::machine::Machine;

/// What the model leaves in a doorbell it has looked at, so that every write is seen. Doorbells
/// are never read by hosts.
const SEEN: u32 = u32::MAX;

const BAD_REGISTER: AsyncEvent = AsyncEvent::INVALID_DOORBELL_REGISTER;
const BAD_VALUE: AsyncEvent = AsyncEvent::INVALID_DOORBELL_VALUE;

impl Machine {
    pub(super) fn clear_doorbells(&self) {
        for queue in self.queue_ids() {
            self.set32(sq_doorbell(QueueId(queue), self.config.dstrd), SEEN);
            self.set32(cq_doorbell(QueueId(queue), self.config.dstrd), SEEN);
        }
    }

    /// What was written since the last look.
    fn rung(&self, register: u32) -> Option<u32> {
        let word = self
            .registers
            .word(usize::try_from(register).unwrap_or(usize::MAX));
        if word.load(Ordering::Relaxed) == SEEN {
            return None;
        }
        Some(u32::from_le(word.swap(SEEN, Ordering::AcqRel)))
    }

    pub(super) fn look_at_doorbells(&mut self) {
        for queue in self.queue_ids() {
            if let Some(value) = self.rung(sq_doorbell(QueueId(queue), self.config.dstrd)) {
                self.stats.sq_doorbells += 1;
                self.work += 1;
                self.tail_written(queue, value);
            }
            if let Some(value) = self.rung(cq_doorbell(QueueId(queue), self.config.dstrd)) {
                self.stats.cq_doorbells += 1;
                self.work += 1;
                self.head_written(queue, value);
            }
        }
        if self.shadow.is_some() {
            for queue in self.queue_ids().skip(1) {
                self.look_at_shadow_tail(queue);
            }
        }
    }

    /// Whether the queue's doorbells are shadowed.
    fn shadowed(&self, queue: u16) -> bool {
        queue != 0 && self.shadow.is_some()
    }

    fn tail_written(&mut self, queue: u16, value: u32) {
        let shadowed = self.shadowed(queue);
        match self.sq(queue) {
            None => {
                let text = format!("tail doorbell of queue {queue}, which is not there");
                self.violated(text, Some(BAD_REGISTER));
            }
            Some(sq) if shadowed => sq.awake = true,
            Some(_) => self.new_tail(queue, value, false),
        }
    }

    fn new_tail(&mut self, queue: u16, value: u32, again: bool) {
        let Some(sq) = self.sq(queue) else {
            return;
        };
        let advance = (value.wrapping_add(sq.entries).wrapping_sub(sq.tail)) % sq.entries;
        let used = (sq.tail + sq.entries - sq.told) % sq.entries;
        if value >= sq.entries || (advance == 0 && !again) || used + advance >= sq.entries {
            let (tail, told, entries) = (sq.tail, sq.told, sq.entries);
            let text = format!(
                "tail doorbell of queue {queue} of {entries} entries written {value} \
                 after {tail}, its head told as {told}"
            );
            self.violated(text, Some(BAD_VALUE));
            return;
        }
        sq.tail = value;
    }

    fn head_written(&mut self, queue: u16, value: u32) {
        let shadowed = self.shadowed(queue);
        match self.cq(queue) {
            None => {
                let text = format!("head doorbell of queue {queue}, which is not there");
                self.violated(text, Some(BAD_REGISTER));
            }
            Some(cq) if shadowed => cq.asleep = false,
            Some(_) => self.new_head(queue, value, false),
        }
    }

    fn new_head(&mut self, queue: u16, value: u32, again: bool) {
        let Some(cq) = self.cq(queue) else {
            return;
        };
        let advance = (value.wrapping_add(cq.entries).wrapping_sub(cq.head)) % cq.entries;
        let posted = (cq.tail + cq.entries - cq.head) % cq.entries;
        if value >= cq.entries || (advance == 0 && !again) || advance > posted {
            let (head, tail, entries) = (cq.head, cq.tail, cq.entries);
            let text = format!(
                "head doorbell of queue {queue} of {entries} entries written {value} \
                 after {head}, its tail at {tail}"
            );
            self.violated(text, Some(BAD_VALUE));
            return;
        }
        cq.head = value;
    }

    /// Offset of a queue's tail in the shadow and event index pages; its head follows.
    fn shadow_offset(&self, queue: u16) -> u64 {
        u64::from(queue) * 2 * (4 << self.config.dstrd)
    }

    /// Tells the host from which tails on the doorbells must be written, at the start of shadow
    /// doorbells or of a queue.
    pub(super) fn begin_shadow(&mut self, queue: u16) {
        let Some((_, index)) = self.shadow.filter(|_| queue != 0) else {
            return;
        };
        let at = index + self.shadow_offset(queue);
        let stride = 4 << self.config.dstrd;
        let tail = self.sq(queue).map(|sq| sq.tail);
        let head = self.cq(queue).map(|cq| cq.head);
        let tail = tail.map_or(Ok(()), |tail| self.bus.write32(at, tail));
        let head = head.map_or(Ok(()), |head| self.bus.write32(at + stride, head));
        if tail.and(head).is_err() {
            self.fail();
        }
    }

    /// While awake, takes the tail from the shadow. When there is nothing new, tells by the event
    /// index that the next one needs the doorbell, looks once more, and sleeps.
    fn look_at_shadow_tail(&mut self, queue: u16) {
        let Some((shadow, index)) = self.shadow else {
            return;
        };
        let offset = self.shadow_offset(queue);
        let Some(tail) = self.sq(queue).filter(|sq| sq.awake).map(|sq| sq.tail) else {
            return;
        };
        let mut seen = self.bus.read32(shadow + offset);
        if seen == Ok(tail) {
            let told = self.bus.write32(index + offset, tail);
            fence(Ordering::SeqCst);
            seen = told.and_then(|()| self.bus.read32(shadow + offset));
        }
        match seen {
            Err(_) => self.fail(),
            Ok(same) if same == tail => {
                if let Some(sq) = self.sq(queue) {
                    sq.awake = false;
                }
            }
            Ok(value) => {
                self.stats.shadow_tails += 1;
                self.work += 1;
                self.new_tail(queue, value, true);
            }
        }
    }

    /// A full completion queue whose head is shadowed: looks for a new head; where there is none,
    /// asks for the doorbell.
    pub(super) fn look_at_shadow_head(&mut self, queue: u16) {
        let Some((shadow, index)) = self.shadow.filter(|_| queue != 0) else {
            return;
        };
        let offset = self.shadow_offset(queue) + (4 << self.config.dstrd);
        let Some(head) = self.cq(queue).filter(|cq| !cq.asleep).map(|cq| cq.head) else {
            return;
        };
        let mut seen = self.bus.read32(shadow + offset);
        if seen == Ok(head) {
            let told = self.bus.write32(index + offset, head);
            fence(Ordering::SeqCst);
            seen = told.and_then(|()| self.bus.read32(shadow + offset));
        }
        match seen {
            Err(_) => self.fail(),
            Ok(same) if same == head => {
                if let Some(cq) = self.cq(queue) {
                    cq.asleep = true;
                }
            }
            Ok(value) => self.new_head(queue, value, true),
        }
    }
}
