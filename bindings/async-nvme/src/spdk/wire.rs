//! The way of commands to the controller and back through one of SPDK's queue pairs.
//!
//! SPDK hands a completion to a callback, in the midst of being asked for completions. The callback
//! gets the command's slot, which has this driver's identifier, and leaves the completion in the
//! inbox. Slots and inbox are made once; nothing is allocated for a command, here or in SPDK, whose
//! requests and trackers are its queue pair's own.

use std::cell::{Cell, UnsafeCell};
use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use penstock_nvme::Cqe;
use penstock_nvme::command::Abort;
use penstock_nvme::pcie::SqeWords;
use penstock_spdk_sys as sys;
use penstock_units::QueueId;

use crate::controller::Notice;
use crate::queue::{Link, Wire};

/// What callbacks leave for the controller's keeper.
#[derive(Default)]
pub(super) struct Notices(Mutex<VecDeque<Notice>>);

impl Notices {
    pub(super) fn put(&self, notice: Notice) {
        let mut notices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notices.push_back(notice);
    }

    pub(super) fn take(&self) -> Option<Notice> {
        let mut notices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notices.pop_front()
    }
}

type Inbox = UnsafeCell<VecDeque<Cqe>>;

/// What a callback gets for a command.
struct Slot {
    inbox: *const Inbox,
    cid: Cell<u16>,
}

/// What callbacks reach, kept until the controller is detached: SPDK may call them till then.
pub(super) struct Callbacks {
    inbox: Box<Inbox>,
    slots: Box<[Slot]>,
}

// SAFETY: callbacks run in calls of the thread that has the queue pair, or of the controller's keeper
// while that thread holds: whoever calls SPDK for the queue pair has slots and inbox to itself.
unsafe impl Send for Callbacks {}
// SAFETY: as above.
unsafe impl Sync for Callbacks {}

impl Callbacks {
    pub(super) fn new(entries: u16) -> Arc<Callbacks> {
        let inbox = Box::new(UnsafeCell::new(VecDeque::with_capacity(entries.into())));
        let slots = (0..entries)
            .map(|_| Slot {
                inbox: &raw const *inbox,
                cid: Cell::new(0),
            })
            .collect();
        Arc::new(Callbacks { inbox, slots })
    }
}

/// The completion as SPDK has it, with our identifier in the place of its own.
///
/// # Safety
/// `completion` is valid.
unsafe fn completion(completion: *const sys::spdk_nvme_cpl, cid: u16) -> Cqe {
    // SAFETY: 16 bytes as they lay in the queue; they may be aligned to less than eight.
    let words = unsafe { completion.cast::<[u64; 2]>().read_unaligned() };
    let cid_bits = 0xffff_u64 << 32;
    Cqe::from_words([words[0], words[1] & !cid_bits | u64::from(cid) << 32])
}

/// A command has ended.
unsafe extern "C" fn ended(context: *mut c_void, cpl: *const sys::spdk_nvme_cpl) {
    // SAFETY: the context is a slot of callbacks that are kept until the controller is detached.
    let slot = unsafe { &*context.cast::<Slot>() };
    // SAFETY: SPDK's completion is valid for the call. Nobody else has the inbox: see `Callbacks`.
    unsafe {
        let cqe = completion(cpl, slot.cid.get());
        (*UnsafeCell::raw_get(slot.inbox)).push_back(cqe);
    }
}

/// An abort that is under way.
struct Aborting {
    notices: Arc<Notices>,
    queue: QueueId,
    cid: u16,
}

/// An abort has ended.
unsafe extern "C" fn aborted(context: *mut c_void, cpl: *const sys::spdk_nvme_cpl) {
    // SAFETY: made by `Carrier::late` for this call alone.
    let of = unsafe { Box::from_raw(context.cast::<Aborting>()) };
    // SAFETY: SPDK's completion is valid for the call.
    let cqe = unsafe { completion(cpl, of.cid) };
    let done = cqe.status().is_success() && cqe.dw0() & Abort::NOT_ABORTED == 0;
    of.notices.put(Notice::Aborted {
        queue: of.queue,
        cid: of.cid,
        done,
    });
}

/// One of SPDK's queue pairs.
pub struct Carrier {
    pub(super) controller: *mut sys::spdk_nvme_ctrlr,
    pub(super) pair: *mut sys::spdk_nvme_qpair,
    pub(super) id: QueueId,
    pub(super) link: Arc<Link>,
    pub(super) notices: Arc<Notices>,
    pub(super) callbacks: Arc<Callbacks>,
    /// Something was pushed that SPDK has not told the controller of.
    pub(super) untold: bool,
}

// SAFETY: a queue pair may be used by any thread, by one at a time; `&mut` and the link see to it.
// Both pointers are reached in stage `Run` only, which the keeper ends before it detaches.
unsafe impl Send for Carrier {}

impl Carrier {
    fn inbox(&mut self) -> &mut VecDeque<Cqe> {
        // SAFETY: no call of SPDK's is under way on this thread, and no other has the inbox.
        unsafe { &mut *self.callbacks.inbox.get() }
    }

    /// Has SPDK ring doorbells and look for completions; whether there are any.
    fn look(&mut self) -> bool {
        self.untold = false;
        // SAFETY: attached, see `Send`.
        let rc = unsafe { sys::spdk_nvme_qpair_process_completions(self.pair, 0) };
        if rc < 0 {
            // What it ended, it ended without the controller. A reset sends it again.
            self.inbox().clear();
            self.link.ask_reset();
        }
        !self.inbox().is_empty()
    }
}

impl Wire for Carrier {
    #[inline]
    fn push(&mut self, sqe: SqeWords, cid: u16, place: usize) {
        let slot = &self.callbacks.slots[place];
        slot.cid.set(cid);
        let context = std::ptr::from_ref(slot).cast_mut().cast();
        let mut words = sqe.to_wire();
        // SAFETY: attached, see `Send`; the command is copied, and the slot is kept.
        let rc = unsafe {
            sys::spdk_nvme_ctrlr_io_cmd_raw_no_payload_build(
                self.controller,
                self.pair,
                words.as_mut_ptr().cast(),
                Some(ended),
                context,
            )
        };
        self.untold = true;
        if rc != 0 {
            // SPDK has given the queue pair up. A reset sends the command again.
            self.link.ask_reset();
        }
    }

    #[inline]
    fn ring(&mut self) {
        if self.untold {
            self.look();
        }
    }

    #[inline]
    fn pop(&mut self) -> Option<Cqe> {
        if self.inbox().is_empty() && !self.look() {
            return None;
        }
        self.inbox().pop_front()
    }

    fn remind(&mut self) {}

    fn late(&mut self, cid: u16, place: usize, _link: &Link) {
        let slot = std::ptr::from_ref(&self.callbacks.slots[place]);
        let aborting = Box::into_raw(Box::new(Aborting {
            notices: Arc::clone(&self.notices),
            queue: self.id,
            cid,
        }));
        // SAFETY: attached, see `Send`. SPDK knows the command by its slot.
        let rc = unsafe {
            sys::spdk_nvme_ctrlr_cmd_abort_ext(
                self.controller,
                self.pair,
                slot.cast_mut().cast(),
                Some(aborted),
                aborting.cast(),
            )
        };
        if rc != 0 {
            // SAFETY: nobody will call back: it is ours again.
            drop(unsafe { Box::from_raw(aborting) });
            // The second time that it is late it calls for a reset.
            tracing::warn!(
                queue = self.id.0,
                cid,
                rc,
                "SPDK does not abort a late command"
            );
        }
    }

    /// What was under way SPDK ends now; it is sent again, and not to be popped.
    fn restart(&mut self) {
        self.look();
        self.inbox().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_comes_back_with_our_identifier() {
        let callbacks = Callbacks::new(4);
        let slot = &callbacks.slots[2];
        slot.cid.set(0xbeef);
        let sent = Cqe::new(0x1122_3344_5566_7788, 7, 3, 0x4004);
        let words: [u64; 2] = [sent.result.get(), 7 | 3 << 32 | 0x4004 << 48];
        let context = std::ptr::from_ref(slot).cast_mut().cast();
        // SAFETY: a slot that lives, and 16 bytes of a completion.
        unsafe { ended(context, words.as_ptr().cast()) };
        // SAFETY: nobody else has the inbox.
        let got = unsafe { (*callbacks.inbox.get()).pop_front() }.unwrap();
        assert_eq!(got.command_id().0, 0xbeef);
        assert_eq!(
            (got.result, got.status, got.sqhd),
            (sent.result, sent.status, sent.sqhd)
        );
    }

    #[test]
    fn an_abort_tells_whether_it_was_done() {
        let notices = Arc::new(Notices::default());
        for (dword0, done) in [(0, true), (1, false)] {
            let of = Box::into_raw(Box::new(Aborting {
                notices: Arc::clone(&notices),
                queue: QueueId(3),
                cid: 9,
            }));
            let words = [dword0, 0_u64];
            // SAFETY: made as `late` makes it.
            unsafe { aborted(of.cast(), words.as_ptr().cast()) };
            let queue = QueueId(3);
            assert_eq!(
                notices.take(),
                Some(Notice::Aborted {
                    queue,
                    cid: 9,
                    done
                })
            );
        }
        assert_eq!(notices.take(), None);
    }
}
