//! How the commands of a queue pair get to its controller, and its completions back.

use penstock_nvme::Cqe;
use penstock_nvme::pcie::SqeWords;

use super::Link;
use super::rings::{Completions, Submission};
use crate::cmb::ControllerMemory;

/// The two queues of a queue pair. Never more commands are pushed and not popped again than entries
/// less one.
pub trait Wire {
    /// Puts a command behind the last, with this identifier and place among the commands.
    fn push(&mut self, sqe: SqeWords, cid: u16, place: usize);

    /// Tells the controller of everything pushed and of everything popped.
    fn ring(&mut self);

    /// The next completion, where the controller has posted one.
    fn pop(&mut self) -> Option<Cqe>;

    /// Whether nothing is posted; false where only [`Wire::pop`] can tell.
    fn is_quiet(&self) -> bool {
        false
    }

    /// Tells the controller again, where it may have missed it.
    fn remind(&mut self);

    /// A command takes too long: has it aborted.
    fn late(&mut self, cid: u16, place: usize, link: &Link);

    /// After a reset: nothing was pushed, and nothing will be popped of before.
    fn restart(&mut self);
}

/// Rings in memory.
pub struct Rings {
    pub(super) submission: Submission,
    pub(super) completions: Completions,
    /// Where the submission queue lies, if on the controller.
    pub(super) _memory: Option<ControllerMemory>,
}

impl Wire for Rings {
    #[inline]
    fn push(&mut self, sqe: SqeWords, cid: u16, _place: usize) {
        self.submission.push(sqe.with_cid(cid));
    }

    #[inline]
    fn ring(&mut self) {
        self.submission.ring();
        self.completions.ring();
    }

    #[inline]
    fn pop(&mut self) -> Option<Cqe> {
        self.completions.pop()
    }

    fn is_quiet(&self) -> bool {
        self.completions.is_empty()
    }

    fn remind(&mut self) {
        self.submission.remind();
    }

    fn late(&mut self, cid: u16, _place: usize, link: &Link) {
        link.tell_late(cid);
    }

    fn restart(&mut self) {
        self.submission.restart();
        self.completions.restart();
    }
}
