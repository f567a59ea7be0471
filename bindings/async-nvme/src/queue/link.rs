//! What a queue pair and the controller's keeper tell each other, from thread to thread.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::event::Event;

/// What the keeper wants of a queue pair, and what the queue pair has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Commands go to the controller.
    Run,
    /// Nothing touches the controller: it is being reset. Requests wait.
    Hold,
    /// The controller is gone; every request fails.
    Gone,
}

impl Stage {
    fn bits(self) -> u32 {
        match self {
            Stage::Run => 0,
            Stage::Hold => 1,
            Stage::Gone => 2,
        }
    }

    fn of(bits: u32) -> Stage {
        match bits & 3 {
            0 => Stage::Run,
            1 => Stage::Hold,
            _ => Stage::Gone,
        }
    }
}

/// No command to abort.
const NONE: u64 = 0;

/// Shared by one queue pair and the keeper of its controller.
///
/// What is wanted carries a number, so that an answer to an old wish is not taken for one to the new
/// wish of the same kind.
#[derive(Default)]
pub struct Link {
    wanted: AtomicU32,
    reached: AtomicU32,
    /// A command that took too long: its identifier plus one.
    late: AtomicU64,
    /// How many times the queue pair asked for a reset.
    resets: AtomicU32,
    opened: AtomicBool,
    closed: AtomicBool,
    /// What the queue pair's thread sleeps on, where it does.
    event: Option<Event>,
}

/// A wish as it stands in a [`Link`]: number and stage.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wish(u32);

impl Wish {
    /// What a queue pair starts from: nobody wished for it.
    pub(crate) const START: Wish = Wish(1);
    /// What stands in a link while the controller has not been reset since the queue was made.
    pub(crate) const FIRST: Wish = Wish(0);

    pub(crate) fn stage(self) -> Stage {
        Stage::of(self.0)
    }
}

impl Link {
    /// For a queue pair whose thread may sleep until `event` is signalled.
    pub(crate) fn new(event: Option<Event>) -> Link {
        Link {
            event,
            ..Link::default()
        }
    }

    /// What tells the queue pair's thread that there is something to look at: commands that ended, or
    /// a wish of the keeper. `None` where it must look by itself.
    #[must_use]
    pub fn event(&self) -> Option<&Event> {
        self.event.as_ref()
    }

    /// For the keeper: what the queue pair shall do at its next poll.
    pub(crate) fn want(&self, stage: Stage) {
        let number = (self.wanted.load(Ordering::Relaxed) >> 2).wrapping_add(1);
        let wish = number << 2 | stage.bits();
        self.wanted.store(wish, Ordering::SeqCst);
        if let Some(event) = &self.event {
            event.signal();
        }
    }

    /// For the keeper: whether the queue pair does what was last wanted, is no more, or has not begun
    /// (it looks before it does).
    pub(crate) fn has_reached_it(&self) -> bool {
        self.is_closed()
            || !self.opened.load(Ordering::SeqCst)
            || self.reached.load(Ordering::Acquire) == self.wanted.load(Ordering::Relaxed)
    }

    /// For the keeper: whether the queue pair is no more.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// For the keeper: a command to abort, told once.
    pub(crate) fn take_late(&self) -> Option<u16> {
        let late = self.late.swap(NONE, Ordering::AcqRel);
        u16::try_from(late.checked_sub(1)?).ok()
    }

    /// For the keeper: whether a reset was asked for since the last call.
    pub(crate) fn take_reset(&self) -> bool {
        self.resets.swap(0, Ordering::AcqRel) != 0
    }

    /// The queue pair begins. It looks at what is wanted before it touches the controller.
    pub(crate) fn open(&self) {
        self.opened.store(true, Ordering::SeqCst);
    }

    pub(crate) fn wanted(&self) -> Wish {
        Wish(self.wanted.load(Ordering::SeqCst))
    }

    pub(crate) fn reach(&self, wish: Wish) {
        self.reached.store(wish.0, Ordering::Release);
    }

    /// False where the keeper has not looked at the last one yet.
    pub(crate) fn tell_late(&self, cid: u16) -> bool {
        let told = u64::from(cid) + 1;
        self.late
            .compare_exchange(NONE, told, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    pub(crate) fn ask_reset(&self) {
        self.resets.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }
}
