//! Queues: fetching commands, executing what is due, posting completions.

use penstock_nvme::event::AsyncEvent;
use penstock_nvme::sqe::Fuse;
use penstock_nvme::{Cqe, Le16, Sqe, Status};

use super::bus::Kind;
use super::fault::{Fault, Fetched};
use super::machine::{Answer, Machine, Running};

/// Where a queue's entries are: from an address on, or in pages of any addresses.
pub(super) struct Place {
    base: u64,
    pages: Vec<u64>,
    page_bytes: u64,
}

impl Place {
    pub(super) fn contiguous(base: u64) -> Place {
        Place {
            base,
            pages: Vec::new(),
            page_bytes: u64::MAX,
        }
    }

    pub(super) fn scattered(pages: Vec<u64>, page_bytes: u64) -> Place {
        Place {
            base: 0,
            pages,
            page_bytes,
        }
    }

    fn entry(&self, index: u32, size: u64) -> u64 {
        let offset = u64::from(index) * size;
        let page = usize::try_from(offset / self.page_bytes).unwrap_or(usize::MAX);
        match self.pages.get(page) {
            Some(page) => page + offset % self.page_bytes,
            None => self.base + offset,
        }
    }
}

pub(super) struct Sq {
    place: Place,
    kind: Kind,
    pub(super) entries: u32,
    pub(super) head: u32,
    pub(super) tail: u32,
    /// Head as the last completion told it.
    pub(super) told: u32,
    pub(super) cq: u16,
    /// With shadow doorbells: whether their tail is looked at, since the doorbell was written.
    pub(super) awake: bool,
}

impl Sq {
    pub(super) fn new(place: Place, entries: u32, cq: u16, kind: Kind) -> Sq {
        Sq {
            place,
            kind,
            entries,
            head: 0,
            tail: 0,
            told: 0,
            cq,
            awake: false,
        }
    }
}

pub(super) struct Cq {
    place: Place,
    pub(super) entries: u32,
    pub(super) head: u32,
    pub(super) tail: u32,
    phase: bool,
    /// Interrupt vector, where interrupts are enabled.
    vector: Option<u16>,
    /// Something was posted since the last interrupt.
    posted: bool,
    /// With shadow doorbells: full, and waiting for a write of the doorbell.
    pub(super) asleep: bool,
}

impl Cq {
    pub(super) fn new(place: Place, entries: u32, vector: Option<u16>) -> Cq {
        Cq {
            place,
            entries,
            head: 0,
            tail: 0,
            phase: true,
            vector,
            posted: false,
            asleep: false,
        }
    }

    /// Completions that can be posted.
    pub(super) fn room(&self) -> u32 {
        (self.head + self.entries - self.tail - 1) % self.entries
    }
}

impl Machine {
    pub(super) fn sq(&mut self, queue: u16) -> Option<&mut Sq> {
        self.sqs.get_mut(usize::from(queue))?.as_mut()
    }

    pub(super) fn cq(&mut self, queue: u16) -> Option<&mut Cq> {
        self.cqs.get_mut(usize::from(queue))?.as_mut()
    }

    /// Queue identifiers there may be, the admin queue's first.
    pub(super) fn queue_ids(&self) -> std::ops::RangeInclusive<u16> {
        0..=u16::try_from(self.sqs.len().saturating_sub(1)).unwrap_or(0)
    }

    pub(super) fn fetch(&mut self) {
        for queue in self.queue_ids() {
            for _ in 0..self.config.fetch_max {
                if !self.fetch_one(queue) {
                    break;
                }
            }
        }
    }

    fn read_sqe(&mut self, queue: u16, ahead: u32) -> Option<Sqe> {
        let sq = self.sqs.get(usize::from(queue))?.as_ref()?;
        let waiting = (sq.tail + sq.entries - sq.head) % sq.entries;
        if waiting <= ahead {
            return None;
        }
        let index = (sq.head + ahead) % sq.entries;
        let own = sq.kind != Kind::Host;
        let mut bytes = [0; 64];
        if self
            .bus
            .read(sq.place.entry(index, 64), &mut bytes)
            .is_err()
        {
            self.fail();
            return None;
        }
        self.stats.own_fetches += u64::from(own);
        Some(*Sqe::from_bytes(&bytes))
    }

    fn take(&mut self, queue: u16, count: u32) {
        self.stats.fetched += u64::from(count);
        self.work += 1;
        if let Some(sq) = self.sq(queue) {
            sq.head = (sq.head + count) % sq.entries;
        }
    }

    /// Whether a command was taken.
    fn fetch_one(&mut self, queue: u16) -> bool {
        if !self.works() {
            return false;
        }
        let number = self.stats.fetched;
        let Some(sqe) = self.read_sqe(queue, 0) else {
            return false;
        };
        let mut second = None;
        let mut fault = None;
        match sqe.fuse() {
            Fuse::Normal => {}
            _ if queue == 0 || !self.config.fused => {
                fault = Some(Fault::Status(Status::INVALID_FIELD.dnr()));
            }
            Fuse::First => match self.read_sqe(queue, 1) {
                None => return false,
                Some(next) if next.fuse() == Fuse::Second => second = Some(next),
                Some(_) => fault = Some(Fault::Status(Status::ABORT_MISSING_FUSED)),
            },
            _ => fault = Some(Fault::Status(Status::ABORT_MISSING_FUSED)),
        }
        self.take(queue, 1 + u32::from(second.is_some()));
        if self.outstanding(queue, sqe.cid.get()) {
            fault = Some(Fault::Status(Status::CID_CONFLICT.dnr()));
        }
        let fault = fault.or_else(|| self.choose_fault(queue, &sqe, number));
        let mut due = self.now;
        if queue != 0 && self.config.jitter_ns > 0 {
            due += self.random.below(self.config.jitter_ns + 1);
        }
        match fault {
            Some(Fault::Hang) => due = u64::MAX,
            Some(Fault::Delay { ns }) => due = due.saturating_add(ns),
            _ => {}
        }
        self.running.push(Running {
            queue,
            sqe,
            second,
            due,
            fault,
        });
        true
    }

    fn choose_fault(&mut self, queue: u16, sqe: &Sqe, number: u64) -> Option<Fault> {
        let fetched = Fetched { queue, sqe, number };
        let ruled = self.rule.as_mut().and_then(|rule| rule(&fetched));
        if ruled.is_some() || queue == 0 {
            return ruled;
        }
        self.rates.choose(&mut self.random)
    }

    fn outstanding(&self, queue: u16, cid: u16) -> bool {
        let is = |sqe: &Sqe| sqe.cid.get() == cid;
        let running = self.running.iter().any(|command| {
            command.queue == queue && (is(&command.sqe) || command.second.as_ref().is_some_and(is))
        });
        running || (queue == 0 && self.events.is_request(cid))
    }

    /// Executes and completes what is due, as far as completions have room.
    pub(super) fn run(&mut self) {
        if self.config.reorder {
            for last in (1..self.running.len()).rev() {
                let other = self.random.below(last as u64 + 1);
                self.running
                    .swap(last, usize::try_from(other).unwrap_or(last));
            }
        }
        let mut index = 0;
        while index < self.running.len() && self.works() {
            let (queue, due) = (self.running[index].queue, self.running[index].due);
            // Two: a fused operation, or one that is completed twice.
            if due > self.now || !self.has_room(queue, 2) {
                index += 1;
                continue;
            }
            let command = self.running.remove(index);
            self.work += 1;
            self.finish(&command);
            if command.queue == 0 {
                // Admin commands may have removed others.
                index = 0;
            }
        }
    }

    pub(super) fn has_room(&mut self, queue: u16, wanted: u32) -> bool {
        let Some(cq) = self.sq(queue).map(|sq| sq.cq) else {
            return false;
        };
        // A queue of two entries never has room for two.
        let enough = |cq: &Cq| cq.room() >= wanted.min(cq.entries - 1);
        if self.cq(cq).is_none_or(|cq| enough(cq)) {
            return true;
        }
        self.look_at_shadow_head(cq);
        self.cq(cq).is_none_or(|cq| enough(cq))
    }

    fn finish(&mut self, command: &Running) {
        let queue = command.queue;
        let first = match command.fault {
            Some(Fault::Status(status)) => Some(Err(status)),
            Some(Fault::Fatal) => return self.fail(),
            Some(Fault::Remove { reads }) => return self.remove(reads),
            _ => self.execute(queue, &command.sqe),
        };
        let Some(first) = first else {
            return;
        };
        self.complete(queue, &command.sqe, first, command.fault);
        if let Some(second) = &command.second {
            let answer = match first {
                Ok(_) => self.execute(queue, second),
                Err(_) => Some(Err(Status::ABORT_FAILED_FUSED)),
            };
            if let Some(answer) = answer {
                self.complete(queue, second, answer, command.fault);
            }
        }
    }

    /// `None` where the completion comes later by itself.
    fn execute(&mut self, queue: u16, sqe: &Sqe) -> Option<Answer> {
        let opcode = usize::from(sqe.opcode);
        if queue == 0 {
            self.stats.admin[opcode] += 1;
            return self.execute_admin(sqe);
        }
        self.stats.io[opcode] += 1;
        Some(self.execute_io(sqe))
    }

    /// Posts the completion of a command, as far as its fault lets it.
    pub(super) fn complete(&mut self, queue: u16, sqe: &Sqe, answer: Answer, fault: Option<Fault>) {
        let (result, status) = match answer {
            Ok(result) => (result, Status::SUCCESS),
            Err(status) => (0, status),
        };
        if !status.is_success() {
            self.stats.failures += 1;
            self.errors.add(queue, sqe, status);
        }
        let cid = sqe.cid.get();
        match fault {
            Some(Fault::LoseCompletion) => {}
            Some(Fault::Twice) => {
                self.post(queue, cid, result, status, false);
                if self.has_room(queue, 1) {
                    self.post(queue, cid, result, status, false);
                }
            }
            Some(Fault::WrongCid(other)) => self.post(queue, other, result, status, false),
            Some(Fault::WrongPhase) => self.post(queue, cid, result, status, true),
            _ => self.post(queue, cid, result, status, false),
        }
    }

    /// Writes a completion to the queue's completion queue, which has room.
    pub(super) fn post(
        &mut self,
        queue: u16,
        cid: u16,
        result: u32,
        status: Status,
        wrong_phase: bool,
    ) {
        let Some((cq, head)) = self.sq(queue).map(|sq| {
            sq.told = sq.head;
            (sq.cq, sq.head)
        }) else {
            return;
        };
        let Some(cq) = self.cqs.get_mut(usize::from(cq)).and_then(Option::as_mut) else {
            return;
        };
        let head = u16::try_from(head).unwrap_or(0);
        let mut cqe = Cqe::new(u64::from(result), head, cid, status.wire());
        cqe.sqid = Le16::new(queue);
        let phase = cq.phase != wrong_phase;
        cqe.status = Le16::new(status.wire() | u16::from(phase));
        let written = self.bus.write_cqe(cq.place.entry(cq.tail, 16), &cqe);
        cq.posted = true;
        cq.tail += 1;
        if cq.tail == cq.entries {
            cq.tail = 0;
            cq.phase = !cq.phase;
        }
        self.stats.completions += 1;
        if written.is_err() {
            self.fail();
        }
    }

    /// Answers event requests with events.
    pub(super) fn deliver_events(&mut self) {
        while self.works() && self.has_room(0, 1) {
            let Some((cid, event)) = self.events.next() else {
                return;
            };
            self.post(0, cid, AsyncEvent::dword(event), Status::SUCCESS, false);
            self.work += 1;
        }
    }

    pub(super) fn interrupt(&mut self) {
        for cq in self.cqs.iter_mut().flatten() {
            if !std::mem::take(&mut cq.posted) {
                continue;
            }
            if let Some(notify) = cq.vector.and_then(|vector| self.interrupts.get(&vector)) {
                notify();
            }
        }
    }

    /// Ends all commands of a queue that is deleted, and those that are to be aborted.
    pub(super) fn abort_all(&mut self, queue: u16) {
        let mut index = 0;
        while index < self.running.len() {
            if self.running[index].queue != queue {
                index += 1;
                continue;
            }
            let command = self.running.remove(index);
            if self.has_room(queue, 1) {
                let cid = command.sqe.cid.get();
                self.post(queue, cid, 0, Status::ABORT_SQ_DELETION, false);
            }
        }
    }
}
