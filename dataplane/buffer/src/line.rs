//! Who waits for memory: a queue that can be left anywhere without a search, its entries reused.

use std::task::Waker;

const NONE: u32 = u32::MAX;

#[derive(Default)]
struct Slot {
    next: u32,
    prev: u32,
    order: u8,
    granted: Option<u32>,
    waker: Option<Waker>,
}

/// First come, first served. Whoever is granted a block leaves the queue but keeps its entry until
/// it has fetched the block.
pub(crate) struct Line {
    slots: Vec<Slot>,
    free: u32,
    head: u32,
    tail: u32,
    waiting: usize,
}

impl Line {
    pub(crate) const fn new() -> Line {
        Line {
            slots: Vec::new(),
            free: NONE,
            head: NONE,
            tail: NONE,
            waiting: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head == NONE
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting
    }

    /// Joins at the end; the entry's number.
    pub(crate) fn join(&mut self, order: u8, waker: Waker) -> u32 {
        let slot = Slot {
            next: NONE,
            prev: self.tail,
            order,
            granted: None,
            waker: Some(waker),
        };
        let id = if self.free == NONE {
            self.slots.push(slot);
            u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
        } else {
            let id = self.free;
            self.free = self.slots[id as usize].next;
            self.slots[id as usize] = slot;
            id
        };
        match self.tail {
            NONE => self.head = id,
            tail => self.slots[tail as usize].next = id,
        }
        self.tail = id;
        self.waiting += 1;
        id
    }

    /// What the first in line waits for.
    pub(crate) fn front_order(&self) -> Option<u8> {
        self.slots.get(self.head as usize).map(|slot| slot.order)
    }

    /// Grants `block` to the first in line; the waker to wake.
    pub(crate) fn grant_front(&mut self, block: u32) -> Option<Waker> {
        let id = self.head;
        self.unlink(id);
        let slot = &mut self.slots[id as usize];
        slot.granted = Some(block);
        slot.waker.take()
    }

    /// The granted block, which ends the entry; or a new waker is kept and the old one handed out
    /// for the caller to drop.
    pub(crate) fn poll(&mut self, id: u32, waker: Waker) -> Result<u32, Option<Waker>> {
        let slot = &mut self.slots[id as usize];
        match slot.granted.take() {
            Some(block) => {
                self.recycle(id);
                Ok(block)
            }
            None => Err(slot.waker.replace(waker)),
        }
    }

    /// Leaves, wherever in line; a block granted meanwhile, and the waker for the caller to drop.
    pub(crate) fn leave(&mut self, id: u32) -> (Option<u32>, Option<Waker>) {
        let granted = self.slots[id as usize].granted.take();
        if granted.is_none() {
            self.unlink(id);
        }
        let waker = self.slots[id as usize].waker.take();
        self.recycle(id);
        (granted, waker)
    }

    fn unlink(&mut self, id: u32) {
        let (prev, next) = (self.slots[id as usize].prev, self.slots[id as usize].next);
        match prev {
            NONE => self.head = next,
            prev => self.slots[prev as usize].next = next,
        }
        match next {
            NONE => self.tail = prev,
            next => self.slots[next as usize].prev = prev,
        }
        self.waiting -= 1;
    }

    fn recycle(&mut self, id: u32) {
        self.slots[id as usize].next = self.free;
        self.free = id;
    }
}
