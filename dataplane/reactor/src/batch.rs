//! Gather lists: everything a connection has ready, sent with one operation.

use std::alloc::Layout;
use std::cell::RefCell;

use penstock_buffer::{Lease, Payload};

/// Pieces of a batch: the kernel's limit on a gather list (UIO_MAXIOV).
const PIECES_MAX: usize = 1024;
/// Bytes of headers and small replies a batch copies in.
const ARENA_BYTES: usize = 32 * 1024;
/// Batches kept for reuse by a reactor.
const SPARE_MAX: usize = 64;

pub(crate) struct Storage {
    arena: Box<[u8]>,
    arena_used: usize,
    pieces: Vec<libc::iovec>,
    leases: Vec<Lease>,
    bytes: usize,
    message: libc::msghdr,
    /// First piece not sent yet.
    first: usize,
}

/// A gather list of copied bytes and leased memory, in order. Storage is reused.
pub struct SendBatch(Option<Box<Storage>>);

thread_local! {
    // Boxes, so that taking and giving back moves a pointer and not the storage.
    #[allow(clippy::vec_box)]
    static SPARE: RefCell<Vec<Box<Storage>>> = const { RefCell::new(Vec::new()) };
}

impl SendBatch {
    /// An empty batch.
    pub fn new() -> SendBatch {
        let spare = SPARE.with_borrow_mut(Vec::pop);
        SendBatch(Some(spare.unwrap_or_else(Storage::new)))
    }

    /// Appends a copy of `bytes`. False, and nothing appended, if there is no room.
    #[inline]
    pub fn push_bytes(&mut self, bytes: &[u8]) -> bool {
        self.has_room(1, bytes.len()) && self.storage_mut().is_some_and(|s| s.push_bytes(bytes))
    }

    /// Appends leased memory without copying; it is held until sent. False if there is no room.
    #[inline]
    pub fn push_lease(&mut self, lease: Lease) -> bool {
        self.has_room(1, 0) && self.storage_mut().is_some_and(|s| s.push_lease(lease))
    }

    /// Appends all runs of a payload. False, and nothing appended, if there is no room.
    pub fn push_payload(&mut self, payload: Payload) -> bool {
        if !self.has_room(payload.segment_count(), 0) {
            return false;
        }
        match payload.into_single() {
            Ok(lease) => self.push_lease(lease),
            Err(payload) => payload
                .segments()
                .all(|lease| self.push_lease(lease.clone())),
        }
    }

    /// Whether `pieces` more entries and `bytes` more copied bytes fit.
    #[inline]
    pub fn has_room(&self, pieces: usize, bytes: usize) -> bool {
        self.0.as_ref().is_some_and(|s| {
            s.pieces.len() + pieces <= PIECES_MAX && s.arena_used + bytes <= s.arena.len()
        })
    }

    /// Bytes in the batch.
    pub fn len_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |s| s.bytes)
    }

    /// Whether nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.len_bytes() == 0
    }

    #[inline]
    fn storage_mut(&mut self) -> Option<&mut Storage> {
        self.0.as_deref_mut()
    }

    /// The message header for the kernel, over what is not sent yet. Stays valid until the batch is
    /// changed or dropped.
    pub(crate) fn message(&mut self) -> *const libc::msghdr {
        match self.storage_mut() {
            Some(storage) => storage.message(),
            None => std::ptr::null(),
        }
    }

    /// Notes that `count` bytes are sent. True when nothing is left.
    pub(crate) fn consume(&mut self, count: usize) -> bool {
        self.storage_mut()
            .is_none_or(|storage| storage.consume(count))
    }
}

impl Default for SendBatch {
    fn default() -> SendBatch {
        SendBatch::new()
    }
}

impl Drop for SendBatch {
    fn drop(&mut self) {
        if let Some(mut storage) = self.0.take() {
            storage.clear();
            // During thread exit the list may be gone; then the storage is simply freed.
            let _ = SPARE.try_with(|spare| {
                let mut spare = spare.borrow_mut();
                if spare.len() < SPARE_MAX {
                    spare.push(storage);
                }
            });
        }
    }
}

impl Storage {
    fn new() -> Box<Storage> {
        debug_assert!(Layout::new::<libc::iovec>().size() == 16);
        Box::new(Storage {
            arena: vec![0; ARENA_BYTES].into_boxed_slice(),
            arena_used: 0,
            pieces: Vec::with_capacity(PIECES_MAX),
            leases: Vec::with_capacity(PIECES_MAX),
            bytes: 0,
            message: empty_message(),
            first: 0,
        })
    }

    #[inline]
    fn push_bytes(&mut self, bytes: &[u8]) -> bool {
        let target = &mut self.arena[self.arena_used..self.arena_used + bytes.len()];
        target.copy_from_slice(bytes);
        let start: *mut libc::c_void = target.as_mut_ptr().cast();
        self.arena_used += bytes.len();
        self.bytes += bytes.len();
        // Neighbouring headers become one entry: fewer entries, a cheaper send.
        if let Some(last) = self.pieces.last_mut()
            && last.iov_base.wrapping_byte_add(last.iov_len) == start
        {
            last.iov_len += bytes.len();
            return true;
        }
        self.pieces.push(libc::iovec {
            iov_base: start,
            iov_len: bytes.len(),
        });
        true
    }

    #[inline]
    fn push_lease(&mut self, lease: Lease) -> bool {
        self.bytes += lease.len();
        self.pieces.push(libc::iovec {
            iov_base: lease.as_ptr().cast(),
            iov_len: lease.len(),
        });
        self.leases.push(lease);
        true
    }

    fn message(&mut self) -> *const libc::msghdr {
        self.message = empty_message();
        let rest = &mut self.pieces[self.first..];
        self.message.msg_iov = rest.as_mut_ptr();
        self.message.msg_iovlen = rest.len();
        &raw const self.message
    }

    fn consume(&mut self, mut count: usize) -> bool {
        while let Some(piece) = self.pieces.get_mut(self.first) {
            if count < piece.iov_len {
                piece.iov_base = piece.iov_base.wrapping_byte_add(count);
                piece.iov_len -= count;
                return false;
            }
            count -= piece.iov_len;
            self.first += 1;
        }
        true
    }

    fn clear(&mut self) {
        self.arena_used = 0;
        self.pieces.clear();
        self.leases.clear();
        self.bytes = 0;
        self.first = 0;
    }
}

pub(crate) fn empty_message() -> libc::msghdr {
    // SAFETY: msghdr is plain data for which all zeroes is a valid value.
    unsafe { std::mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_bytes_share_an_entry_and_partial_sends_resume() {
        let mut batch = SendBatch::new();
        assert!(batch.push_bytes(b"head") && batch.push_bytes(b"er"));
        assert_eq!(batch.len_bytes(), 6);
        let storage = batch.storage_mut().expect("storage");
        assert_eq!(storage.pieces.len(), 1);
        assert!(!batch.consume(4));
        let message = batch.message();
        // SAFETY: the batch lives and is not changed while the header is read.
        let piece = unsafe { *(*message).msg_iov };
        assert_eq!(piece.iov_len, 2);
        assert!(batch.consume(2));
    }

    #[test]
    fn a_full_batch_refuses_without_a_trace() {
        let mut batch = SendBatch::new();
        let block = vec![0; ARENA_BYTES];
        assert!(batch.push_bytes(&block));
        assert!(!batch.push_bytes(b"x"));
        assert_eq!(batch.len_bytes(), ARENA_BYTES);
    }
}
