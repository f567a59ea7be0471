//! Leases: counted handles on payload memory.

use std::fmt;
use std::ptr::NonNull;
use std::rc::Rc;

use crate::copy::copy_past_cache;

/// Where leased memory lives. Reported per byte in the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemoryKind {
    /// A pinned host pool of this node.
    Pool,
    /// Memory of a device that is host RAM (a memory namespace).
    Device,
    /// Memory on an NVMe controller (CMB or PMR).
    Controller,
    /// Memory of a guest (vhost-user).
    Guest,
}

/// Owner of leased memory. Called on the reactor thread that made the lease.
pub trait LeaseOwner {
    /// One more holder of the run that `key` names.
    fn retain(&self, key: u32);
    /// One holder less; the run is free when none is left.
    fn release(&self, key: u32);
    /// Where the memory lives.
    fn kind(&self) -> MemoryKind;
    /// Whether nobody else writes to the bytes while a lease is held. False for memory lent by a
    /// device that other commands write to as well: a digest over it could go stale.
    fn is_private(&self) -> bool {
        true
    }
}

/// A counted handle on a contiguous run of memory. Not `Send`: it belongs to one reactor.
pub struct Lease {
    ptr: NonNull<u8>,
    len: u32,
    key: u32,
    owner: Rc<dyn LeaseOwner>,
}

impl Lease {
    /// Makes the first handle on a run; the owner must already count one holder for `key`.
    ///
    /// # Safety
    /// `ptr..ptr+len` must stay valid for reads and writes until the owner has seen as many
    /// releases as holders of `key`.
    pub unsafe fn from_raw(
        ptr: NonNull<u8>,
        len: u32,
        key: u32,
        owner: Rc<dyn LeaseOwner>,
    ) -> Lease {
        Lease {
            ptr,
            len,
            key,
            owner,
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the length is zero.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Start of the memory, for the kernel or a device to read or write while this lease is held.
    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// Where the memory lives.
    pub fn kind(&self) -> MemoryKind {
        self.owner.kind()
    }

    /// Whether nobody else writes to the bytes while this lease is held.
    pub fn is_private(&self) -> bool {
        self.owner.is_private()
    }

    /// A further handle on `len` bytes from `offset`; `None` where that is outside.
    pub fn slice(&self, offset: usize, len: usize) -> Option<Lease> {
        if offset.checked_add(len)? > self.len() {
            return None;
        }
        self.owner.retain(self.key);
        // SAFETY: offset is at most self.len, so the pointer stays inside or one past the run.
        let ptr = unsafe { self.ptr.add(offset) };
        Some(Lease {
            ptr,
            len: u32::try_from(len).ok()?,
            key: self.key,
            owner: Rc::clone(&self.owner),
        })
    }

    /// Shortens this handle to its first `len` bytes; longer lengths leave it as it is.
    pub fn truncate(&mut self, len: usize) {
        if let Ok(len) = u32::try_from(len) {
            self.len = self.len.min(len);
        }
    }

    /// Copies `from` into the memory at `offset`. Returns how many bytes fitted.
    pub fn write_at(&self, offset: usize, from: &[u8]) -> usize {
        let room = self.len().saturating_sub(offset);
        let n = room.min(from.len());
        if n > 0 {
            // SAFETY: offset + n <= len, the run is valid for writes while a holder exists, and
            // `from` is a live Rust slice that cannot overlap memory handed out only as raw runs.
            unsafe {
                let to = self.as_ptr().add(offset);
                match self.kind() {
                    MemoryKind::Device => copy_past_cache(from.as_ptr(), to, n),
                    _ => std::ptr::copy_nonoverlapping(from.as_ptr(), to, n),
                }
            }
        }
        n
    }

    /// Copies the memory at `offset` into `to`. Returns how many bytes there were.
    pub fn read_at(&self, offset: usize, to: &mut [u8]) -> usize {
        let room = self.len().saturating_sub(offset);
        let n = room.min(to.len());
        if n > 0 {
            // SAFETY: offset + n <= len, the run is valid for reads, `to` is a live exclusive slice.
            unsafe { std::ptr::copy_nonoverlapping(self.as_ptr().add(offset), to.as_mut_ptr(), n) };
        }
        n
    }

    /// Fills the memory with `value`.
    pub fn fill(&self, value: u8) {
        // SAFETY: the whole run is valid for writes while this holder exists.
        unsafe { std::ptr::write_bytes(self.as_ptr(), value, self.len()) };
    }

    /// The bytes. Only for memory that is private ([`Lease::is_private`]) or that the caller knows
    /// to be quiet; otherwise what is read may be a mix of old and new.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the run is valid for reads while this holder exists; all writes to it go through
        // raw pointers on this thread, the kernel or a device, never through a Rust reference.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len()) }
    }
}

impl Clone for Lease {
    fn clone(&self) -> Lease {
        self.owner.retain(self.key);
        Lease {
            ptr: self.ptr,
            len: self.len,
            key: self.key,
            owner: Rc::clone(&self.owner),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.owner.release(self.key);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("len", &self.len)
            .field("kind", &self.kind())
            .finish()
    }
}

/// The memory of one command's payload: no lease (no data), one (the usual case, no allocation), or
/// several in order (a guest's scattered pages).
#[derive(Debug, Default)]
pub struct Payload {
    first: Option<Lease>,
    rest: Vec<Lease>,
}

impl Payload {
    /// No data.
    pub const fn none() -> Payload {
        Payload {
            first: None,
            rest: Vec::new(),
        }
    }

    /// Adds a run at the end.
    pub fn push(&mut self, lease: Lease) {
        if self.first.is_none() {
            self.first = Some(lease);
        } else {
            self.rest.push(lease);
        }
    }

    /// Total length in bytes.
    pub fn len(&self) -> usize {
        self.segments().map(Lease::len).sum()
    }

    /// Whether there is no data.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The runs, in order.
    pub fn segments(&self) -> impl Iterator<Item = &Lease> {
        self.first.iter().chain(self.rest.iter())
    }

    /// How many runs.
    pub fn segment_count(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    /// The lease, where there is exactly one.
    pub fn single(&self) -> Option<&Lease> {
        if self.rest.is_empty() {
            self.first.as_ref()
        } else {
            None
        }
    }

    /// Takes the lease out, where there is exactly one; otherwise gives the payload back.
    pub fn into_single(self) -> Result<Lease, Payload> {
        match self {
            Payload {
                first: Some(lease),
                rest,
            } if rest.is_empty() => Ok(lease),
            other => Err(other),
        }
    }

    /// Copies `from` into the memory at byte `offset`. Returns how many bytes fitted.
    pub fn write_at(&self, mut offset: usize, mut from: &[u8]) -> usize {
        let mut done = 0;
        for lease in self.segments() {
            if offset >= lease.len() {
                offset -= lease.len();
                continue;
            }
            let n = lease.write_at(offset, from);
            done += n;
            from = &from[n..];
            offset = 0;
            if from.is_empty() {
                break;
            }
        }
        done
    }
}

impl From<Lease> for Payload {
    fn from(lease: Lease) -> Payload {
        Payload {
            first: Some(lease),
            rest: Vec::new(),
        }
    }
}
