//! Receive buffers shared by all connections of a reactor (a provided-buffer ring), and the counted
//! chunks that connections see of them.
//!
//! The kernel takes buffers in turn, so all that circulate are touched. Few circulate at first, so
//! that they stay in the core's cache; each time a receive finds none, twice as many do, and they
//! become fewer again after a while without that.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::{Cell, RefCell};
use std::io;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;
use penstock_buffer::{Pages, PoolError};

use crate::ring::Ring;

/// The one buffer group of a reactor.
pub(crate) const GROUP: u16 = 0;
const PAGE_BYTES: usize = 4096;

/// The buffers and the ring through which the kernel takes them.
pub(crate) struct RecvBuffers {
    entries: u16,
    buffer_bytes: u32,
    memory: Pages,
    ring: NonNull<BufRingEntry>,
    ring_layout: Layout,
    tail: Cell<u16>,
    holders: Box<[Cell<u32>]>,
    held: Cell<u32>,
    /// How many buffers are meant to circulate.
    wanted: Cell<u32>,
    /// How many circulate: with the kernel or held by chunks.
    circulating: Cell<u32>,
    parked: RefCell<Vec<u16>>,
}

/// Buffers that circulate at least.
const CIRCULATING_MIN: u32 = 16;

impl RecvBuffers {
    /// Makes the buffers and registers them with the ring.
    ///
    /// # Safety
    /// The result must outlive `uring`.
    pub(crate) unsafe fn new(
        uring: &Ring,
        entries: u16,
        buffer_bytes: u32,
        numa_node: Option<u32>,
    ) -> io::Result<RecvBuffers> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
        if !entries.is_power_of_two() || entries > 1 << 15 {
            return Err(invalid(
                "recv_buffers must be a power of two, at most 32768",
            ));
        }
        if buffer_bytes < 4096 {
            return Err(invalid("recv_buffer_bytes must be at least 4096"));
        }
        let layout =
            |bytes: usize| Layout::from_size_align(bytes, PAGE_BYTES).map_err(io::Error::other);
        let ring_layout = layout(usize::from(entries) * size_of::<BufRingEntry>())?;
        let buffers = RecvBuffers {
            entries,
            buffer_bytes,
            memory: memory(usize::from(entries) * buffer_bytes as usize, numa_node)?,
            ring: allocate(ring_layout).cast(),
            ring_layout,
            tail: Cell::new(0),
            holders: (0..entries).map(|_| Cell::new(0)).collect(),
            held: Cell::new(0),
            wanted: Cell::new(CIRCULATING_MIN.min(entries.into())),
            circulating: Cell::new(0),
            parked: RefCell::new((0..entries).rev().collect()),
        };
        // SAFETY: the caller keeps this struct, which owns the memory, alive longer than the ring.
        unsafe { uring.register_buffers(buffers.ring.as_ptr() as u64, entries, GROUP)? };
        buffers.circulate();
        Ok(buffers)
    }

    /// The addresses of all buffers.
    pub(crate) fn range(&self) -> Range<usize> {
        let start = self.memory.start().as_ptr() as usize;
        start..start + self.memory.len_bytes()
    }

    fn address(&self, buffer: u16) -> NonNull<u8> {
        // SAFETY: buffer < entries, so the offset is inside the allocation.
        unsafe {
            self.memory
                .start()
                .add(usize::from(buffer) * self.buffer_bytes as usize)
        }
    }

    /// Writes the buffer into the next ring entry; visible to the kernel after [`Self::publish`].
    fn offer(&self, buffer: u16) {
        let tail = self.tail.get();
        let slot = usize::from(tail & (self.entries - 1));
        // SAFETY: slot < entries; the kernel reads an entry only after the tail passed it.
        let entry = unsafe { &mut *self.ring.as_ptr().add(slot) };
        entry.set_addr(self.address(buffer).as_ptr() as u64);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(buffer);
        self.tail.set(tail.wrapping_add(1));
    }

    fn publish(&self) {
        // SAFETY: the ring's tail lives in the first entry's reserved field, inside the allocation,
        // aligned for u16; the kernel reads it with acquire semantics.
        let tail = unsafe { &*BufRingEntry::tail(self.ring.as_ptr()).cast::<AtomicU16>() };
        tail.store(self.tail.get(), Ordering::Release);
    }

    /// A chunk of the first `len` bytes the kernel has put into `buffer`.
    pub(crate) fn chunk(self: &Rc<Self>, buffer: u16, len: u32) -> RecvChunk {
        self.holders[usize::from(buffer)].set(1);
        self.held.set(self.held.get() + 1);
        RecvChunk {
            start: self.address(buffer),
            len,
            owner: Owner::Shared {
                buffers: Rc::clone(self),
                buffer,
            },
        }
    }

    fn release(&self, buffer: u16) {
        let holders = &self.holders[usize::from(buffer)];
        holders.set(holders.get() - 1);
        if holders.get() == 0 {
            self.held.set(self.held.get() - 1);
            if self.circulating.get() > self.wanted.get() {
                self.circulating.set(self.circulating.get() - 1);
                self.parked.borrow_mut().push(buffer);
            } else {
                self.offer(buffer);
                self.publish();
            }
        }
    }

    /// Gives the kernel parked buffers until as many circulate as are meant to.
    fn circulate(&self) {
        let mut parked = self.parked.borrow_mut();
        while self.circulating.get() < self.wanted.get() {
            let Some(buffer) = parked.pop() else { break };
            self.circulating.set(self.circulating.get() + 1);
            self.offer(buffer);
        }
        self.publish();
    }

    /// A receive found no buffer: more have to circulate.
    pub(crate) fn widen(&self) {
        self.wanted
            .set((self.wanted.get() * 2).min(self.entries.into()));
        self.circulate();
    }

    /// A while has passed without [`Self::widen`]: fewer may do.
    pub(crate) fn narrow(&self) {
        let wanted = self.wanted.get() - self.wanted.get() / 8;
        self.wanted
            .set(wanted.max(CIRCULATING_MIN).min(self.entries.into()));
    }

    /// Buffers that chunks hold now.
    pub(crate) fn held(&self) -> u32 {
        self.held.get()
    }

    /// Whether the kernel has at least one buffer to fill.
    pub(crate) fn any_free(&self) -> bool {
        self.held.get() < self.circulating.get()
    }
}

impl Drop for RecvBuffers {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout and no chunk is left (each holds an Rc).
        unsafe { dealloc(self.ring.as_ptr().cast(), self.ring_layout) };
    }
}

/// Memory for the buffers. A kernel that takes no wishes (a container's seccomp profile may forbid
/// them) still takes pages from the node of the core that first touches them, which is ours.
fn memory(len_bytes: usize, numa_node: Option<u32>) -> io::Result<Pages> {
    let pages = Pages::new(len_bytes, numa_node).or_else(|error| match error {
        PoolError::Numa { .. } => {
            tracing::warn!(%error, "receive buffers are left to the kernel to place");
            Pages::new(len_bytes, None)
        }
        other => Err(other),
    });
    pages.map_err(io::Error::other)
}

fn allocate(layout: Layout) -> NonNull<u8> {
    // SAFETY: the layout has a size above zero (entries and sizes are checked by the caller).
    let pointer = unsafe { alloc_zeroed(layout) };
    NonNull::new(pointer).unwrap_or_else(|| handle_alloc_error(layout))
}

/// Length of the small buffer behind a direct receive, for the header that follows the payload.
pub(crate) const TAIL_BYTES: usize = 256;

/// Where the bytes behind a directly received payload land.
pub(crate) struct TailBuffer(NonNull<u8>);

impl TailBuffer {
    const LAYOUT: Layout = Layout::new::<[u8; TAIL_BYTES]>();

    pub(crate) fn new() -> Rc<TailBuffer> {
        Rc::new(TailBuffer(allocate(Self::LAYOUT)))
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.0.as_ptr()
    }

    /// A chunk of the first `len` bytes.
    pub(crate) fn chunk(self: &Rc<Self>, len: u32) -> RecvChunk {
        RecvChunk {
            start: self.0,
            len,
            owner: Owner::Tail(Rc::clone(self)),
        }
    }
}

impl Drop for TailBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout; every chunk of it holds an Rc.
        unsafe { dealloc(self.0.as_ptr(), Self::LAYOUT) };
    }
}

enum Owner {
    Shared {
        buffers: Rc<RecvBuffers>,
        buffer: u16,
    },
    Tail(Rc<TailBuffer>),
    /// A private copy; the pointer of the view points into it.
    Private(Rc<[u8]>),
}

/// Received bytes: a counted view on a receive buffer. The buffer goes back to the kernel when the
/// last view is dropped, so do not hold one for long.
pub struct RecvChunk {
    start: NonNull<u8>,
    len: u32,
    owner: Owner,
}

impl RecvChunk {
    /// A further view on part of the bytes; `None` where the range is outside.
    pub fn slice(&self, range: Range<usize>) -> Option<RecvChunk> {
        if range.start > range.end || range.end > self.len() {
            return None;
        }
        let mut part = self.clone();
        part.advance(range.start);
        part.len = u32::try_from(range.len()).ok()?;
        Some(part)
    }

    /// The same bytes in private memory, for whoever has to hold them for long: the receive buffer
    /// goes back to the kernel, so one slow connection cannot starve the others. Copies, and
    /// allocates, unless they are private already.
    #[must_use]
    pub fn detach(self) -> RecvChunk {
        if matches!(self.owner, Owner::Private(_)) {
            return self;
        }
        let copy: Rc<[u8]> = Rc::from(&self[..]);
        let start = NonNull::from(&*copy).cast();
        RecvChunk {
            start,
            len: self.len,
            owner: Owner::Private(copy),
        }
    }

    /// Drops `count` bytes from the front (at most all).
    pub fn advance(&mut self, count: usize) {
        let count = count.min(self.len());
        // SAFETY: count is at most the length, so the start stays inside or one past the view.
        self.start = unsafe { self.start.add(count) };
        self.len -= u32::try_from(count).unwrap_or(self.len);
    }
}

impl Deref for RecvChunk {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the kernel has filled these bytes and writes to the buffer again only after the
        // last view has given it back.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len as usize) }
    }
}

impl Clone for RecvChunk {
    fn clone(&self) -> RecvChunk {
        let owner = match &self.owner {
            Owner::Shared { buffers, buffer } => {
                let holders = &buffers.holders[usize::from(*buffer)];
                holders.set(holders.get() + 1);
                Owner::Shared {
                    buffers: Rc::clone(buffers),
                    buffer: *buffer,
                }
            }
            Owner::Tail(tail) => Owner::Tail(Rc::clone(tail)),
            Owner::Private(copy) => Owner::Private(Rc::clone(copy)),
        };
        RecvChunk {
            start: self.start,
            len: self.len,
            owner,
        }
    }
}

impl Drop for RecvChunk {
    fn drop(&mut self) {
        if let Owner::Shared { buffers, buffer } = &self.owner {
            buffers.release(*buffer);
        }
    }
}

impl std::fmt::Debug for RecvChunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecvChunk").field("len", &self.len).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_buffers_circulate_as_are_needed() {
        let ring = Ring::new(64).expect("a ring");
        // SAFETY: the buffers are dropped after the ring, at the end of the test.
        let buffers = unsafe { RecvBuffers::new(&ring, 64, 4096, None) }.expect("buffers");
        let buffers = Rc::new(buffers);
        assert_eq!(buffers.circulating.get(), CIRCULATING_MIN);
        buffers.widen();
        assert_eq!(buffers.circulating.get(), 32);
        buffers.widen();
        buffers.widen();
        assert_eq!(buffers.circulating.get(), 64, "never more than there are");

        for _ in 0..40 {
            buffers.narrow();
        }
        assert_eq!(buffers.wanted.get(), CIRCULATING_MIN);
        // Each buffer that comes back is parked until few enough circulate.
        for buffer in 0..64 {
            drop(buffers.chunk(buffer, 1));
        }
        assert_eq!(buffers.circulating.get(), CIRCULATING_MIN);
        assert_eq!(buffers.parked.borrow().len(), 48);
        assert_eq!(buffers.held(), 0);
        drop(ring);
    }

    #[test]
    fn a_buffer_goes_back_with_its_last_view() {
        let ring = Ring::new(64).expect("a ring");
        // SAFETY: the buffers are dropped after the ring, at the end of the test.
        let buffers = unsafe { RecvBuffers::new(&ring, 16, 4096, None) }.expect("buffers");
        let buffers = Rc::new(buffers);
        let chunk = buffers.chunk(3, 100);
        let part = chunk.slice(10..20).expect("inside");
        assert!(chunk.slice(90..101).is_none());
        drop(chunk);
        assert_eq!((part.len(), buffers.held()), (10, 1));
        let kept = part.detach();
        assert_eq!((kept.len(), buffers.held()), (10, 0));
        drop(ring);
    }
}
