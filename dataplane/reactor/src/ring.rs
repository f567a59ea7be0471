//! The io_uring of one reactor, and the slab that owns what the kernel works on.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::RawFd;

use io_uring::{IoUring, opcode, squeue, types};

use crate::file::FileState;
use crate::listener::ListenerRef;
use crate::poller::WatchRef;
use crate::stream::StreamRef;

/// Who gets a completion, and what must live until it comes.
pub(crate) enum Op {
    Accept(ListenerRef),
    Receive(StreamRef),
    ReceiveDirect(StreamRef),
    Send(StreamRef),
    File(FileState),
    /// The mailbox's event descriptor became readable.
    Bell,
    /// A polled device's event became readable.
    Event(WatchRef),
    /// Nobody waits for it.
    Ignored,
}

/// Names an operation in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OpId(pub(crate) u64);

/// What the kernel says of an operation.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Completion {
    pub(crate) id: OpId,
    pub(crate) result: i32,
    pub(crate) flags: u32,
}

struct Entry {
    op: Option<Op>,
    generation: u32,
}

/// Operations in flight, by index and generation.
#[derive(Default)]
pub(crate) struct Ops {
    entries: RefCell<Vec<Entry>>,
    free: RefCell<Vec<u32>>,
    live: Cell<usize>,
}

impl Ops {
    pub(crate) fn insert(&self, op: Op) -> OpId {
        let mut entries = self.entries.borrow_mut();
        let index = self.free.borrow_mut().pop().unwrap_or_else(|| {
            entries.push(Entry {
                op: None,
                generation: 0,
            });
            u32::try_from(entries.len() - 1).unwrap_or(u32::MAX)
        });
        let entry = &mut entries[index as usize];
        entry.op = Some(op);
        self.live.set(self.live.get() + 1);
        OpId((u64::from(entry.generation) << 32) | u64::from(index))
    }

    /// Takes the operation out for good: its last completion has come.
    pub(crate) fn remove(&self, id: OpId) -> Option<Op> {
        let (index, generation) = split(id);
        let mut entries = self.entries.borrow_mut();
        let entry = entries.get_mut(index as usize)?;
        if entry.generation != generation {
            return None;
        }
        let op = entry.op.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.borrow_mut().push(index);
        self.live.set(self.live.get() - 1);
        Some(op)
    }

    /// Looks at an operation that has more completions to come.
    pub(crate) fn with<R>(&self, id: OpId, f: impl FnOnce(&Op) -> R) -> Option<R> {
        let (index, generation) = split(id);
        let entries = self.entries.borrow();
        let entry = entries.get(index as usize)?;
        if entry.generation != generation {
            return None;
        }
        entry.op.as_ref().map(f)
    }

    pub(crate) fn live(&self) -> usize {
        self.live.get()
    }
}

fn split(id: OpId) -> (u32, u32) {
    let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    (narrow(id.0 & u64::from(u32::MAX)), narrow(id.0 >> 32))
}

/// The ring. Every method is for the reactor's own thread.
pub(crate) struct Ring {
    ring: RefCell<IoUring>,
    enters: Cell<u64>,
}

impl Ring {
    pub(crate) fn new(entries: u32) -> io::Result<Ring> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(entries.saturating_mul(4))
            .build(entries)?;
        Ok(Ring {
            ring: RefCell::new(ring),
            enters: Cell::new(0),
        })
    }

    /// Queues an entry; enters the kernel only if the submission queue is full.
    ///
    /// # Safety
    /// All memory the entry points to must stay valid until its last completion.
    pub(crate) unsafe fn push(&self, entry: squeue::Entry) {
        loop {
            {
                let mut ring = self.ring.borrow_mut();
                // SAFETY: the caller keeps the entry's memory alive until completion.
                if unsafe { ring.submission().push(&entry) }.is_ok() {
                    return;
                }
            }
            self.enter();
        }
    }

    /// Cancels an operation; its own completion tells the rest.
    pub(crate) fn cancel(&self, target: OpId, id: OpId) {
        let entry = opcode::AsyncCancel::new(target.0).build().user_data(id.0);
        // SAFETY: a cancel entry points to no memory.
        unsafe { self.push(entry) };
    }

    /// Cancels everything in flight.
    pub(crate) fn cancel_all(&self) {
        let ring = self.ring.borrow();
        let _ = ring
            .submitter()
            .register_sync_cancel(Some(types::Timespec::new()), types::CancelBuilder::any());
    }

    /// Completes once when the descriptor is readable, or at once if it is.
    pub(crate) fn watch_once(&self, fd: RawFd, id: OpId) {
        let entry = opcode::PollAdd::new(types::Fd(fd), libc::POLLIN.unsigned_abs().into())
            .build()
            .user_data(id.0);
        // SAFETY: a poll entry points to no memory.
        unsafe { self.push(entry) };
    }

    /// Completes each time that the mailbox's event descriptor is signalled.
    pub(crate) fn watch_bell(&self, fd: RawFd, id: OpId) {
        let entry = opcode::PollAdd::new(types::Fd(fd), libc::POLLIN.unsigned_abs().into())
            .multi(true)
            .build()
            .user_data(id.0);
        // SAFETY: a poll entry points to no memory.
        unsafe { self.push(entry) };
    }

    /// Whether entries are queued that the kernel has not seen.
    pub(crate) fn has_submissions(&self) -> bool {
        !self.ring.borrow_mut().submission().is_empty()
    }

    /// Whether entering the kernel now may do something. May stay true for no reason: a completion
    /// that another core brings just while we take the one before leaves the kernel's flag set until
    /// the next one, so whoever would sleep must not let this keep it awake.
    #[inline]
    pub(crate) fn wants_enter(&self) -> bool {
        let mut ring = self.ring.borrow_mut();
        let submission = ring.submission();
        !submission.is_empty() || submission.taskrun() || submission.cq_overflow()
    }

    /// Submits what is queued and lets the kernel run its deferred work; does not wait.
    pub(crate) fn enter(&self) {
        self.enters.set(self.enters.get() + 1);
        let mut ring = self.ring.borrow_mut();
        let queued = u32::try_from(ring.submission().len()).unwrap_or(0);
        let getevents = 1; // IORING_ENTER_GETEVENTS: run deferred task work
        // SAFETY: no argument is passed, so the kernel reads no memory but the ring's own; the
        // queued entries' memory is kept alive by whoever pushed them.
        let result = unsafe {
            ring.submitter()
                .enter::<libc::sigset_t>(queued, 0, getevents, None)
        };
        report(result);
    }

    /// As [`Ring::enter`], but sleeps until a completion comes or `timeout_ns` has passed.
    pub(crate) fn enter_and_wait(&self, timeout_ns: u64) {
        self.enters.set(self.enters.get() + 1);
        let nanos = u32::try_from(timeout_ns % 1_000_000_000).unwrap_or(0);
        let timeout = types::Timespec::new()
            .sec(timeout_ns / 1_000_000_000)
            .nsec(nanos);
        let ring = self.ring.borrow_mut();
        let args = types::SubmitArgs::new().timespec(&timeout);
        report(ring.submitter().submit_with_args(1, &args));
    }

    /// Takes completions, at most as many as `out` holds. Returns how many.
    pub(crate) fn reap(&self, out: &mut [Completion]) -> usize {
        let mut ring = self.ring.borrow_mut();
        let mut queue = ring.completion();
        let mut count = 0;
        while count < out.len() {
            let Some(entry) = queue.next() else { break };
            out[count] = Completion {
                id: OpId(entry.user_data()),
                result: entry.result(),
                flags: entry.flags(),
            };
            count += 1;
        }
        count
    }

    pub(crate) fn enters(&self) -> u64 {
        self.enters.get()
    }

    /// Registers a provided-buffer ring.
    ///
    /// # Safety
    /// The ring memory and the buffers it names must outlive this ring.
    pub(crate) unsafe fn register_buffers(
        &self,
        address: u64,
        entries: u16,
        group: u16,
    ) -> io::Result<()> {
        // SAFETY: the caller keeps the memory alive.
        unsafe {
            self.ring
                .borrow()
                .submitter()
                .register_buf_ring_with_flags(address, entries, group, 0)
        }
    }
}

fn report(result: io::Result<usize>) {
    if let Err(error) = result {
        let expected = [libc::EINTR, libc::EAGAIN, libc::EBUSY, libc::ETIME];
        if !error
            .raw_os_error()
            .is_some_and(|code| expected.contains(&code))
        {
            tracing::error!(%error, "io_uring_enter failed");
        }
    }
}
