//! Memory that all reactors read and write at once: the pages of a memory namespace.
//!
//! Like a guest's memory, it may change under any reader. Nothing here hands out a Rust reference
//! to it: bytes move through raw runs ([`Lease`]s lent by a [`Lender`]) or volatile copies, and a
//! reader that races a writer sees a mix of old and new bytes, as two hosts racing on one block
//! range would on any drive.

use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::mapping::{self, Backing, Mapping};
use crate::{Lease, LeaseOwner, MemoryKind, PoolError};

const PAGE_BYTES: usize = 4096;
/// From here on zeroing gives pages back instead of writing them.
const GIVE_BACK_MIN_BYTES: usize = 64 << 10;
/// Addresses reserved for growth: this many times the size, at least `RESERVE_MIN_BYTES`.
const RESERVE_FACTOR: usize = 8;
const RESERVE_MIN_BYTES: usize = 64 << 30;

/// How shared memory is made.
#[derive(Clone, Debug)]
pub struct SharedMemoryConfig {
    /// Size in bytes.
    pub size_bytes: usize,
    /// Whether to try hugepages first.
    pub hugepages: bool,
    /// The NUMA node to take pages from while it has any; `None` leaves it to the kernel.
    pub numa_node: Option<u32>,
}

/// Zeroed memory shared by all reactors, whose size may change at run time.
///
/// Addresses are reserved for growth (8 times the size or 64 GiB, whichever is more) and stay mapped
/// for as long as anybody holds the memory, so that a lease outlives neither its pages nor a shrink:
/// what is written through it then lands in pages that are no part of the memory any more.
pub struct SharedMemory {
    mapping: Mapping,
    reserved: usize,
    /// The first so many bytes are hugetlb pages.
    huge: usize,
    len: AtomicUsize,
    /// How many bytes have pages behind them; the lock makes resizes follow one another.
    committed: Mutex<usize>,
    numa_node: Option<u32>,
}

impl SharedMemory {
    /// Maps the memory. Pages come as they are touched.
    ///
    /// # Errors
    /// [`PoolError`] where the kernel refuses.
    pub fn new(config: &SharedMemoryConfig) -> Result<SharedMemory, PoolError> {
        let error = |source| PoolError::Map {
            size_bytes: config.size_bytes,
            source,
        };
        let too_long = || error(std::io::Error::from_raw_os_error(libc::ENOMEM));
        let size = mapping::round_to_huge(config.size_bytes.max(1)).ok_or_else(too_long)?;
        let (mapping, reserved, hugepages) = map(size, config.hugepages).map_err(error)?;
        let memory = SharedMemory {
            mapping,
            reserved,
            huge: if hugepages { size } else { 0 },
            len: AtomicUsize::new(config.size_bytes),
            committed: Mutex::new(size),
            numa_node: config.numa_node,
        };
        memory.prefer_node(0, size)?;
        Ok(memory)
    }

    /// Size in bytes now.
    pub fn len_bytes(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// Whether hugepages back the memory (what was added by growing has normal pages).
    pub fn hugepages(&self) -> bool {
        self.huge > 0
    }

    /// The most bytes this memory can grow to.
    pub fn reserved_bytes(&self) -> usize {
        self.reserved
    }

    /// Grows (with zeroes) or shrinks (the tail is lost and its memory returned). Blocks; not for
    /// the I/O path.
    ///
    /// # Errors
    /// [`PoolError::Map`] beyond [`SharedMemory::reserved_bytes`] or where the kernel refuses; the
    /// size is unchanged then.
    pub fn resize(&self, size_bytes: usize) -> Result<(), PoolError> {
        let mut committed = self
            .committed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let old = self.len_bytes();
        if size_bytes < old {
            self.len.store(size_bytes, Ordering::Release);
            self.clear(size_bytes, old - size_bytes);
            return Ok(());
        }
        let error = |source| PoolError::Map { size_bytes, source };
        let needed = mapping::round_to_huge(size_bytes)
            .filter(|needed| *needed <= self.reserved)
            .ok_or_else(|| error(std::io::Error::from_raw_os_error(libc::ENOMEM)))?;
        if needed > *committed {
            let more = needed - *committed;
            self.mapping
                .commit(*committed, more, Backing::Transparent)
                .map_err(error)?;
            self.prefer_node(*committed, more)?;
            *committed = needed;
        }
        // A request that raced an earlier shrink may have written past the end since.
        self.clear(old, size_bytes - old);
        self.len.store(size_bytes, Ordering::Release);
        Ok(())
    }

    fn prefer_node(&self, offset: usize, len: usize) -> Result<(), PoolError> {
        let Some(node) = self.numa_node else {
            return Ok(());
        };
        self.mapping
            .prefer_node(offset, len, node)
            .map_err(|source| PoolError::Numa { node, source })
    }

    fn holds(&self, offset: usize, len: usize) -> bool {
        offset
            .checked_add(len)
            .is_some_and(|end| end <= self.len_bytes())
    }

    /// Zeroes a range. Long runs of whole normal pages are given back to the system and read as
    /// zeroes; the rest (and hugetlb pages, which belong to a reserved stock anyway) is written.
    /// False where the range is outside.
    pub fn zero(&self, offset: usize, len: usize) -> bool {
        let inside = self.holds(offset, len);
        if inside {
            self.clear(offset, len);
        }
        inside
    }

    /// The range must have pages.
    fn clear(&self, offset: usize, len: usize) {
        let end = offset + len;
        let from = offset.max(self.huge).next_multiple_of(PAGE_BYTES);
        let to = end / PAGE_BYTES * PAGE_BYTES;
        if to.saturating_sub(from) < GIVE_BACK_MIN_BYTES {
            self.write_zeroes(offset, len);
            return;
        }
        self.write_zeroes(offset, from - offset);
        if let Err(e) = self.mapping.give_back(from, to - from) {
            tracing::warn!(error = %e, "cannot give pages back; writing zeroes instead");
            self.write_zeroes(from, to - from);
        }
        self.write_zeroes(to, end - to);
    }

    fn write_zeroes(&self, offset: usize, len: usize) {
        // SAFETY: callers pass ranges that have pages; the memory is only ever accessed through
        // raw pointers, and racing accesses are the hosts' own by this type's contract.
        unsafe { self.mapping.base().add(offset).write_bytes(0, len) };
    }

    /// Copies memory at `offset` into the whole of `to`. False where the range is outside.
    pub fn copy_out(&self, offset: usize, to: &Lease) -> bool {
        let inside = self.holds(offset, to.len());
        if inside {
            // SAFETY: both ranges are valid for their length (`holds`; the lease's contract).
            unsafe {
                copy(
                    self.mapping.base().as_ptr().add(offset),
                    to.as_ptr(),
                    to.len(),
                )
            };
        }
        inside
    }

    /// Copies the whole of `from` into memory at `offset`. False where the range is outside.
    pub fn copy_in(&self, offset: usize, from: &Lease) -> bool {
        let inside = self.holds(offset, from.len());
        if inside {
            // SAFETY: both ranges are valid for their length (`holds`; the lease's contract).
            unsafe {
                copy(
                    from.as_ptr(),
                    self.mapping.base().as_ptr().add(offset),
                    from.len(),
                )
            };
        }
        inside
    }
}

/// Addresses with `size` bytes of pages at their start: the mapping, how much is reserved, and
/// whether by hugepages.
fn map(size: usize, hugepages: bool) -> std::io::Result<(Mapping, usize, bool)> {
    let reserved = size.saturating_mul(RESERVE_FACTOR).max(RESERVE_MIN_BYTES);
    let reserve = || {
        // A limit on address space (RLIMIT_AS) costs the room to grow, nothing else.
        Mapping::reserve(reserved)
            .map(|mapping| (mapping, reserved))
            .or_else(|_| Mapping::reserve(size).map(|mapping| (mapping, size)))
    };
    if hugepages && mapping::hugepages_available(size) {
        let (mapping, reserved) = reserve()?;
        match mapping.commit(0, size, Backing::Hugetlb) {
            Ok(()) => return Ok((mapping, reserved, true)),
            Err(e) => tracing::info!(size, error = %e, "hugepages went away; using normal pages"),
        }
    }
    let (mapping, reserved) = reserve()?;
    mapping.commit(0, size, Backing::Transparent)?;
    Ok((mapping, reserved, false))
}

/// Copies `len` bytes that others may write to meanwhile, eight at a time where possible.
///
/// # Safety
/// `from` must be valid for reads and `to` for writes of `len` bytes, and they must not overlap
/// (except being the same).
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    let words = if (from as usize | to as usize).is_multiple_of(8) {
        len / 8
    } else {
        0
    };
    for i in 0..words {
        // SAFETY: i * 8 + 8 <= len and both pointers are 8-aligned.
        unsafe {
            to.cast::<u64>()
                .add(i)
                .write_volatile(from.cast::<u64>().add(i).read_volatile())
        };
    }
    for i in words * 8..len {
        // SAFETY: i < len.
        unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
    }
}

/// One reactor's way to lease shared memory itself. Not `Send`.
#[derive(Clone)]
pub struct Lender {
    inner: Rc<Lent>,
}

/// Every lease holds this, and this the memory: no counting is needed.
struct Lent {
    memory: Arc<SharedMemory>,
}

impl LeaseOwner for Lent {
    fn retain(&self, _key: u32) {}
    fn release(&self, _key: u32) {}
    fn kind(&self) -> MemoryKind {
        MemoryKind::Device
    }
    fn is_private(&self) -> bool {
        false
    }
}

impl Lender {
    /// For the calling thread.
    pub fn new(memory: Arc<SharedMemory>) -> Lender {
        Lender {
            inner: Rc::new(Lent { memory }),
        }
    }

    /// The memory itself at `offset`; `None` where the range is outside or longer than 4 GiB.
    pub fn lend(&self, offset: usize, len: usize) -> Option<Lease> {
        let memory = &self.inner.memory;
        let len32 = u32::try_from(len).ok()?;
        if !memory.holds(offset, len) {
            return None;
        }
        let owner: Rc<dyn LeaseOwner> = Rc::<Lent>::clone(&self.inner);
        // SAFETY: inside the committed part of the mapping.
        let ptr = unsafe { memory.mapping.base().add(offset) };
        // SAFETY: pages once committed stay mapped until the memory is dropped, and the owner that
        // the lease holds keeps it.
        Some(unsafe { Lease::from_raw(ptr, len32, 0, owner) })
    }

    /// Whether `lease` is this memory at `offset`, so that moving its bytes there is done already.
    pub fn is_at(&self, lease: &Lease, offset: usize) -> bool {
        let base = self.inner.memory.mapping.base().as_ptr();
        lease.as_ptr() == base.wrapping_add(offset)
    }

    /// The memory leased from.
    pub fn memory(&self) -> &Arc<SharedMemory> {
        &self.inner.memory
    }
}

#[cfg(test)]
#[path = "shared_tests.rs"]
mod tests;
