//! Connected TCP streams.
//!
//! Receiving has three shapes, as the states of [`Receiving`]: a multishot receive into shared
//! buffers (headers and small payloads; nothing to re-arm), a single receive into a shared buffer,
//! and a direct receive into a command's own memory with a short tail for the header that follows.
//! A stream that was asked for a direct receive stays off multishot for a while, so that the rest of
//! a large transfer is not caught by the shared buffers and copied.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use io_uring::{cqueue, opcode, types};
use penstock_buffer::Lease;

use crate::batch::{SendBatch, empty_message};
use crate::core::{self, Core};
use crate::recv_buffers::{GROUP, RecvChunk, TAIL_BYTES, TailBuffer};
use crate::ring::{Op, OpId};

/// Receives without a direct one after which a stream goes back to multishot.
const DIRECT_MEMORY: u32 = 64;
/// Length of a single receive on a stream that expects payload behind the next header, in bytes.
const SINGLE_BYTES: u32 = 4096;

/// Gets what happens on a stream. Called on the stream's reactor, never from within a call of the
/// sink into the stream.
pub trait StreamSink {
    /// Bytes arrived.
    fn on_data(&self, chunk: RecvChunk);
    /// The memory given to [`Stream::recv_direct`] is full.
    fn on_direct(&self, lease: Lease);
    /// The batch is with the kernel, or the stream is broken.
    fn on_sent(&self, result: io::Result<()>);
    /// The stream is over, once, after its last operation. `None`: the peer closed it in order.
    fn on_closed(&self, error: Option<io::Error>);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiving {
    Idle,
    Multishot(OpId),
    Single(OpId),
    Direct(OpId),
    /// Waits for a receive buffer.
    Starved,
}

struct Direct {
    lease: Lease,
    filled: usize,
}

/// What the kernel reads and writes during a direct receive.
struct DirectMessage {
    header: libc::msghdr,
    pieces: [libc::iovec; 2],
    tail: Rc<TailBuffer>,
}

struct Inner {
    fd: OwnedFd,
    peer: SocketAddr,
    local: SocketAddr,
    sink: RefCell<Option<Rc<dyn StreamSink>>>,
    receiving: Cell<Receiving>,
    cancelling: Cell<bool>,
    direct: RefCell<Option<Direct>>,
    direct_message: RefCell<Option<Box<DirectMessage>>>,
    direct_memory: Cell<u32>,
    paused: Cell<bool>,
    held: RefCell<VecDeque<RecvChunk>>,
    send: RefCell<Option<SendBatch>>,
    sending: Cell<bool>,
    deferred: Cell<bool>,
    closing: Cell<bool>,
    error: RefCell<Option<io::Error>>,
}

/// A connected stream on this reactor. Clones refer to the same stream.
#[derive(Clone)]
pub struct Stream(Rc<Inner>);

/// A stream an operation refers to.
pub(crate) type StreamRef = Stream;

impl Stream {
    pub(crate) fn start(
        fd: OwnedFd,
        peer: SocketAddr,
        local: SocketAddr,
        sink: Rc<dyn StreamSink>,
    ) -> Stream {
        let stream = Stream(Rc::new(Inner {
            fd,
            peer,
            local,
            sink: RefCell::new(Some(sink)),
            receiving: Cell::new(Receiving::Idle),
            cancelling: Cell::new(false),
            direct: RefCell::new(None),
            direct_message: RefCell::new(None),
            direct_memory: Cell::new(0),
            paused: Cell::new(false),
            held: RefCell::default(),
            send: RefCell::new(None),
            sending: Cell::new(false),
            deferred: Cell::new(false),
            closing: Cell::new(false),
            error: RefCell::new(None),
        }));
        core::with(|core| {
            core.shared.stats.open_streams.fetch_add(1, Relaxed);
            stream.arm(core);
        });
        stream
    }

    /// The other side's address.
    pub fn peer(&self) -> SocketAddr {
        self.0.peer
    }

    /// This side's address.
    pub fn local(&self) -> SocketAddr {
        self.0.local
    }

    /// The next `lease.len()` bytes of the stream go straight into `lease`, then
    /// [`StreamSink::on_direct`] gives it back. Call it only when every byte received so far is
    /// consumed: at the end of `on_data`, or from `on_direct`.
    pub fn recv_direct(&self, lease: Lease) {
        *self.0.direct.borrow_mut() = Some(Direct { lease, filled: 0 });
        self.0.direct_memory.set(DIRECT_MEMORY);
        core::with(|core| {
            self.leave_multishot(core);
            self.look_later(core);
        });
    }

    /// Takes back the memory of a direct receive that must not go on, with how much of it is filled.
    /// `None` where there is none or the kernel has it: then it comes through `on_direct` or is
    /// dropped at the close.
    pub fn take_direct(&self) -> Option<(Lease, usize)> {
        if matches!(self.0.receiving.get(), Receiving::Direct(_)) {
            return None;
        }
        self.0
            .direct
            .borrow_mut()
            .take()
            .map(|direct| (direct.lease, direct.filled))
    }

    /// Stops handing out received bytes.
    pub fn pause(&self) {
        self.0.paused.set(true);
        core::with(|core| self.leave_multishot(core));
    }

    /// Hands out received bytes again, from the next step of the reactor on.
    pub fn resume(&self) {
        if self.0.paused.replace(false) {
            core::with(|core| self.look_later(core));
        }
    }

    /// Sends a batch; [`StreamSink::on_sent`] follows. One batch at a time.
    pub fn send(&self, batch: SendBatch) {
        debug_assert!(!self.sending(), "one batch in flight at a time");
        *self.0.send.borrow_mut() = Some(batch);
        self.0.sending.set(true);
        core::with(|core| self.push_send(core));
    }

    /// Whether a batch is in flight.
    pub fn sending(&self) -> bool {
        self.0.sending.get()
    }

    /// Ends our side of the stream after what is sent already; receiving goes on.
    pub fn shutdown_write(&self) {
        self.shutdown(libc::SHUT_WR);
    }

    /// Closes the stream; [`StreamSink::on_closed`] follows after the last operation.
    pub fn close(&self) {
        core::with(|core| self.begin_close(core, None));
    }

    fn shutdown(&self, how: i32) {
        // SAFETY: plain integers on a descriptor this struct owns; an error means it is down already.
        unsafe { libc::shutdown(self.0.fd.as_raw_fd(), how) };
    }

    fn sink(&self) -> Option<Rc<dyn StreamSink>> {
        self.0.sink.borrow().clone()
    }

    // Receiving.

    fn arm(&self, core: &Core) {
        if self.0.receiving.get() != Receiving::Idle || self.0.closing.get() {
            return;
        }
        if core.shared.stop.load(Relaxed) {
            // The reactor ends and has cancelled this stream's receive: the stream ends with it.
            self.begin_close(core, None);
            return;
        }
        if self.0.direct.borrow().is_some() {
            self.arm_direct(core);
        } else if self.0.paused.get() {
            // Nothing to receive into: the peer waits for window.
        } else if self.0.direct_memory.get() > 0 {
            self.arm_single(core);
        } else {
            self.arm_multishot(core);
        }
    }

    fn arm_multishot(&self, core: &Core) {
        let id = core.ops.insert(Op::Receive(self.clone()));
        let fd = types::Fd(self.0.fd.as_raw_fd());
        let entry = opcode::RecvMulti::new(fd, GROUP).build().user_data(id.0);
        self.0.receiving.set(Receiving::Multishot(id));
        // SAFETY: the kernel takes its memory from the registered buffers, which outlive the ring.
        unsafe { core.ring.push(entry) };
    }

    fn arm_single(&self, core: &Core) {
        let id = core.ops.insert(Op::Receive(self.clone()));
        let fd = types::Fd(self.0.fd.as_raw_fd());
        let entry = opcode::Recv::new(fd, std::ptr::null_mut(), SINGLE_BYTES)
            .buf_group(GROUP)
            .build()
            .flags(io_uring::squeue::Flags::BUFFER_SELECT)
            .user_data(id.0);
        self.0.receiving.set(Receiving::Single(id));
        // SAFETY: the kernel takes its memory from the registered buffers, which outlive the ring.
        unsafe { core.ring.push(entry) };
    }

    fn arm_direct(&self, core: &Core) {
        let pointer = {
            let direct = self.0.direct.borrow();
            let Some(direct) = direct.as_ref() else {
                return;
            };
            let mut message = self.0.direct_message.borrow_mut();
            let message = message.get_or_insert_with(|| {
                let empty = libc::iovec {
                    iov_base: std::ptr::null_mut(),
                    iov_len: 0,
                };
                Box::new(DirectMessage {
                    header: empty_message(),
                    pieces: [empty; 2],
                    tail: TailBuffer::new(),
                })
            });
            message.prepare(direct)
        };
        let id = core.ops.insert(Op::ReceiveDirect(self.clone()));
        let fd = types::Fd(self.0.fd.as_raw_fd());
        let entry = opcode::RecvMsg::new(fd, pointer).build().user_data(id.0);
        self.0.receiving.set(Receiving::Direct(id));
        // SAFETY: header, pieces and tail are boxed in this stream, which the operation holds; the
        // lease stays in `direct` until the completion (`take_direct` refuses while it is armed).
        unsafe { core.ring.push(entry) };
    }

    /// Ends a multishot receive; what it has caught still arrives.
    fn leave_multishot(&self, core: &Core) {
        if let Receiving::Multishot(target) = self.0.receiving.get()
            && !self.0.cancelling.replace(true)
        {
            let id = core.ops.insert(Op::Ignored);
            core.ring.cancel(target, id);
        }
    }

    fn look_later(&self, core: &Core) {
        if !self.0.deferred.replace(true) {
            core.defer(self.clone());
        }
    }

    /// A receive into a shared buffer completed (or, multishot, brought something).
    pub(crate) fn on_receive(&self, core: &Rc<Core>, result: i32, flags: u32) {
        if !cqueue::more(flags) {
            self.0.receiving.set(Receiving::Idle);
            self.0.cancelling.set(false);
        }
        match u32::try_from(result) {
            Ok(0) => {
                // With a buffer selected and nothing in it, the buffer still has to go back.
                if let Some(buffer) = cqueue::buffer_select(flags) {
                    drop(core.recv_buffers.chunk(buffer, 0));
                }
                self.begin_close(core, None);
            }
            Ok(len) => {
                core.shared.stats.recv_bytes.add(u64::from(len));
                if let Some(buffer) = cqueue::buffer_select(flags) {
                    self.0
                        .direct_memory
                        .set(self.0.direct_memory.get().saturating_sub(1));
                    self.deliver(core.recv_buffers.chunk(buffer, len));
                }
            }
            Err(_) => self.on_receive_error(core, -result),
        }
        self.proceed(core);
    }

    fn on_receive_error(&self, core: &Rc<Core>, errno: i32) {
        match errno {
            libc::ENOBUFS => {
                if self.0.receiving.get() == Receiving::Idle && !self.0.closing.get() {
                    self.0.receiving.set(Receiving::Starved);
                    core.starve(self.clone());
                }
            }
            libc::ECANCELED | libc::EINTR | libc::EAGAIN => {}
            _ => self.begin_close(core, Some(io::Error::from_raw_os_error(errno))),
        }
    }

    /// A direct receive completed.
    pub(crate) fn on_receive_direct(&self, core: &Rc<Core>, result: i32) {
        self.0.receiving.set(Receiving::Idle);
        match usize::try_from(result) {
            Ok(0) => self.begin_close(core, None),
            Ok(count) => {
                self.0.direct_memory.set(DIRECT_MEMORY);
                self.take_received(core, count);
            }
            Err(_) => self.on_receive_error(core, -result),
        }
        self.proceed(core);
    }

    fn take_received(&self, core: &Core, count: usize) {
        let (tail_len, full) = {
            let mut direct = self.0.direct.borrow_mut();
            let Some(current) = direct.as_mut() else {
                return;
            };
            let into_lease = count.min(current.lease.len() - current.filled);
            current.filled += into_lease;
            core.shared.stats.recv_direct_bytes.add(into_lease as u64);
            let full = current.filled == current.lease.len();
            (count - into_lease, if full { direct.take() } else { None })
        };
        let Some(full) = full else { return };
        let tail = (tail_len > 0).then(|| self.tail_chunk(tail_len)).flatten();
        if let Some(sink) = self.sink() {
            sink.on_direct(full.lease);
        }
        if let Some(tail) = tail {
            core.shared.stats.recv_bytes.add(tail_len as u64);
            self.deliver(tail);
        }
    }

    fn tail_chunk(&self, len: usize) -> Option<RecvChunk> {
        let message = self.0.direct_message.borrow();
        message
            .as_ref()
            .and_then(|m| Some(m.tail.chunk(u32::try_from(len).ok()?)))
    }

    /// Hands bytes out: first what a direct receive still misses, then to the sink.
    fn deliver(&self, mut chunk: RecvChunk) {
        while !chunk.is_empty() && !self.0.closing.get() {
            let full = {
                let mut direct = self.0.direct.borrow_mut();
                match direct.as_mut() {
                    Some(current) => {
                        let count = current.lease.write_at(current.filled, &chunk);
                        current.filled += count;
                        chunk.advance(count);
                        if current.filled < current.lease.len() {
                            return;
                        }
                        direct.take()
                    }
                    None => None,
                }
            };
            let Some(sink) = self.sink() else { return };
            if let Some(full) = full {
                sink.on_direct(full.lease);
            } else if self.0.paused.get() || !self.0.held.borrow().is_empty() {
                self.0.held.borrow_mut().push_back(chunk.detach());
                return;
            } else {
                sink.on_data(chunk);
                return;
            }
        }
    }

    /// After something happened: hand out what was held, receive on, or finish closing.
    fn proceed(&self, core: &Rc<Core>) {
        while !self.0.paused.get() && !self.0.closing.get() {
            let Some(chunk) = self.0.held.borrow_mut().pop_front() else {
                break;
            };
            // Taken off the queue's front, so it may not be queued behind what is still held.
            let rest = std::mem::take(&mut *self.0.held.borrow_mut());
            self.deliver(chunk);
            let mut held = self.0.held.borrow_mut();
            held.extend(rest);
        }
        if self.0.closing.get() {
            self.finish_close(core);
        } else {
            self.arm(core);
        }
    }

    /// The reactor's step for streams that asked for a look.
    pub(crate) fn on_deferred(&self, core: &Rc<Core>) {
        self.0.deferred.set(false);
        self.proceed(core);
    }

    /// There are receive buffers again.
    pub(crate) fn on_fed(&self, core: &Rc<Core>) {
        if self.0.receiving.get() == Receiving::Starved {
            self.0.receiving.set(Receiving::Idle);
        }
        self.proceed(core);
    }

    // Sending.

    fn push_send(&self, core: &Core) {
        let message = match self.0.send.borrow_mut().as_mut() {
            Some(batch) => batch.message(),
            None => return,
        };
        let id = core.ops.insert(Op::Send(self.clone()));
        let flags = (libc::MSG_NOSIGNAL | libc::MSG_WAITALL).unsigned_abs();
        let entry = opcode::SendMsg::new(types::Fd(self.0.fd.as_raw_fd()), message)
            .flags(flags)
            .build()
            .user_data(id.0);
        // SAFETY: the batch's storage is boxed and owned by this stream, which the operation holds;
        // it is neither changed nor dropped before the completion.
        unsafe { core.ring.push(entry) };
    }

    /// A send completed.
    pub(crate) fn on_sent(&self, core: &Rc<Core>, result: i32) {
        let outcome = match usize::try_from(result) {
            Ok(count) => {
                core.shared.stats.sent_bytes.add(count as u64);
                core.shared.stats.sends.add(1);
                let done = self
                    .0
                    .send
                    .borrow_mut()
                    .as_mut()
                    .is_none_or(|b| b.consume(count));
                if !done && !self.0.closing.get() && count > 0 {
                    self.push_send(core);
                    return;
                }
                if done {
                    Ok(())
                } else {
                    Err(io::ErrorKind::ConnectionAborted.into())
                }
            }
            Err(_) if -result == libc::EINTR && !self.0.closing.get() => {
                self.push_send(core);
                return;
            }
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
        };
        let batch = self.0.send.borrow_mut().take();
        self.0.sending.set(false);
        drop(batch);
        let broken = outcome.as_ref().err().and_then(io::Error::raw_os_error);
        if let Some(sink) = self.sink() {
            sink.on_sent(outcome);
        }
        if let Some(errno) = broken {
            self.begin_close(core, Some(io::Error::from_raw_os_error(errno)));
        }
        if self.0.closing.get() {
            self.finish_close(core);
        }
    }

    // Closing.

    fn begin_close(&self, core: &Core, error: Option<io::Error>) {
        if self.0.closing.replace(true) {
            return;
        }
        *self.0.error.borrow_mut() = error;
        // Ends armed receives and sends by themselves: their completions follow.
        self.shutdown(libc::SHUT_RDWR);
        self.look_later(core);
    }

    fn finish_close(&self, core: &Core) {
        let receiving = !matches!(self.0.receiving.get(), Receiving::Idle | Receiving::Starved);
        if receiving || self.sending() {
            return;
        }
        // Only the first to come here finds the sink.
        let Some(sink) = self.0.sink.borrow_mut().take() else {
            return;
        };
        self.0.held.borrow_mut().clear();
        drop(self.0.direct.borrow_mut().take());
        core.shared.stats.open_streams.fetch_sub(1, Relaxed);
        let error = self.0.error.borrow_mut().take();
        sink.on_closed(error);
    }
}

impl DirectMessage {
    /// Points the header at the rest of the lease and, unless a chunk of it is still held, the tail.
    fn prepare(&mut self, direct: &Direct) -> *mut libc::msghdr {
        let rest = direct.lease.len() - direct.filled;
        let start = direct.lease.as_ptr().wrapping_add(direct.filled);
        self.pieces[0] = libc::iovec {
            iov_base: start.cast(),
            iov_len: rest,
        };
        self.pieces[1] = libc::iovec {
            iov_base: self.tail.as_ptr().cast(),
            iov_len: TAIL_BYTES,
        };
        self.header = empty_message();
        self.header.msg_iov = self.pieces.as_mut_ptr();
        self.header.msg_iovlen = if Rc::strong_count(&self.tail) == 1 {
            2
        } else {
            1
        };
        &raw mut self.header
    }
}
