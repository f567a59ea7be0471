//! Messages from other threads: bounded, lock-free, with a wake-up only for a sleeping reactor.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam::queue::{ArrayQueue, SegQueue};

/// How many closures a mailbox holds.
const MAILBOX_ENTRIES: usize = 4096;

/// The reactor's mailbox has no room: it is stalled or stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the reactor's mailbox is full: the reactor is stalled or stopped")]
pub struct MailboxFull;

pub(crate) type Message = Box<dyn FnOnce() + Send>;

/// One reactor's mailbox, written by any thread.
pub(crate) struct Mailbox {
    messages: ArrayQueue<Message>,
    /// Task wake-ups from other threads. Not bounded by count: losing a wake-up would hang a task.
    wakes: SegQueue<u64>,
    sleeping: AtomicBool,
    eventfd: OwnedFd,
}

impl Mailbox {
    pub(crate) fn new() -> std::io::Result<Mailbox> {
        // SAFETY: eventfd takes plain integers; the result is checked before use.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and nobody else owns it.
        let eventfd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Mailbox {
            messages: ArrayQueue::new(MAILBOX_ENTRIES),
            wakes: SegQueue::new(),
            sleeping: AtomicBool::new(false),
            eventfd,
        })
    }

    pub(crate) fn send(&self, message: Message) -> Result<(), MailboxFull> {
        self.messages.push(message).map_err(|_| MailboxFull)?;
        self.ring_bell();
        Ok(())
    }

    pub(crate) fn wake_task(&self, task: u64) {
        self.wakes.push(task);
        self.ring_bell();
    }

    /// Wakes the reactor if it sleeps.
    pub(crate) fn ring_bell(&self) {
        // Pairs with the fence in `may_sleep`: either we see `sleeping`, or it sees our message.
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) {
            let one = 1_u64;
            // SAFETY: writes 8 bytes from a live u64 to a descriptor this struct owns. A full
            // counter (EAGAIN) means a wake-up is pending already.
            unsafe { libc::write(self.eventfd.as_raw_fd(), (&raw const one).cast(), 8) };
        }
    }

    pub(crate) fn pop(&self) -> Option<Message> {
        self.messages.pop()
    }

    pub(crate) fn pop_wake(&self) -> Option<u64> {
        self.wakes.pop()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.wakes.is_empty()
    }

    /// Announces sleep; false if something came in meanwhile.
    pub(crate) fn may_sleep(&self) -> bool {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.is_empty() {
            return true;
        }
        self.awake();
        false
    }

    pub(crate) fn awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    pub(crate) fn event_fd(&self) -> RawFd {
        self.eventfd.as_raw_fd()
    }
}
