//! Address space and the pages behind it: the one place that calls `mmap`.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

/// Size of the hugepages asked for.
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;
/// Room for 1024 NUMA nodes, as many as Linux knows.
const NODE_WORDS: usize = 16;
const MAP_HUGE_2MB: libc::c_int = 21 << libc::MAP_HUGE_SHIFT;
/// `MPOL_PREFERRED` of `set_mempolicy(2)`; binding strictly could end in SIGBUS with hugepages.
const MPOL_PREFERRED: libc::c_long = 1;

/// What pages a range gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backing {
    /// Of the system's stock of hugepages.
    Hugetlb,
    /// Normal ones, transparent hugepages where the kernel has them.
    Transparent,
    /// Normal ones, so that touching a little takes little.
    Small,
}

/// A reserved range of addresses, of which a prefix has pages. Unmapped when dropped.
pub(crate) struct Mapping {
    raw: *mut libc::c_void,
    raw_len: usize,
    base: NonNull<u8>,
    /// A `MAP_FIXED` failed, which may have left a hole that is somebody else's by now: the range
    /// is then never unmapped.
    holed: AtomicBool,
}

// SAFETY: the struct only names a range of addresses; system calls on it may come from any thread.
unsafe impl Send for Mapping {}
// SAFETY: as above; `commit` alone needs one caller at a time, which its callers see to.
unsafe impl Sync for Mapping {}

/// `bytes` rounded up to whole hugepages; `None` on overflow.
pub(crate) fn round_to_huge(bytes: usize) -> Option<usize> {
    bytes.checked_next_multiple_of(HUGE_PAGE_BYTES)
}

impl Mapping {
    /// Reserves `bytes` of addresses without pages, starting on a hugepage boundary.
    pub(crate) fn reserve(bytes: usize) -> io::Result<Mapping> {
        let raw_len = bytes
            .checked_add(HUGE_PAGE_BYTES)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh anonymous mapping at an address the kernel chooses touches nothing.
        let raw =
            unsafe { libc::mmap(std::ptr::null_mut(), raw_len, libc::PROT_NONE, flags, -1, 0) };
        if raw == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let skip = raw.cast::<u8>().align_offset(HUGE_PAGE_BYTES);
        let base = raw.cast::<u8>().wrapping_add(skip);
        let base = NonNull::new(base).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        Ok(Mapping {
            raw,
            raw_len,
            base,
            holed: AtomicBool::new(false),
        })
    }

    /// Start of the range.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Puts zeroed, writable pages behind `offset..offset+len` (both whole hugepages for
    /// [`Backing::Hugetlb`]), faulted in as they are touched. The range must be inside the reservation and not
    /// have pages yet; one caller at a time. After an error further calls are refused.
    pub(crate) fn commit(&self, offset: usize, len: usize, backing: Backing) -> io::Result<()> {
        if self.holed.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        let huge = if backing == Backing::Hugetlb {
            libc::MAP_HUGETLB | MAP_HUGE_2MB
        } else {
            0
        };
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | huge;
        let at = self.base.as_ptr().wrapping_add(offset).cast();
        // SAFETY: the range lies inside this reservation, which nobody else uses and which has no
        // pages here yet, so replacing it takes nothing away.
        let got = unsafe { libc::mmap(at, len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if got == libc::MAP_FAILED {
            self.holed.store(true, Ordering::Relaxed);
            return Err(io::Error::last_os_error());
        }
        if backing == Backing::Transparent {
            // SAFETY: advice on our own range; a kernel without transparent hugepages refuses it,
            // which changes nothing but speed.
            unsafe { libc::madvise(at, len, libc::MADV_HUGEPAGE) };
        }
        Ok(())
    }

    /// Gives the pages of a committed range back; it reads as zeroes afterwards. Not for hugetlb
    /// pages: their reservation would be lost and a later touch could end in SIGBUS.
    pub(crate) fn give_back(&self, offset: usize, len: usize) -> io::Result<()> {
        let at = self.base.as_ptr().wrapping_add(offset).cast();
        // SAFETY: our own committed anonymous range; its bytes become zero, which other users of
        // the memory may see at any time by contract.
        check(unsafe { libc::madvise(at, len, libc::MADV_DONTNEED) })
    }

    /// Asks for the pages of the range to come from NUMA node `node` while it has any.
    pub(crate) fn prefer_node(&self, offset: usize, len: usize, node: u32) -> io::Result<()> {
        let mut mask = [0_u64; NODE_WORDS];
        let word = mask
            .get_mut(node as usize / 64)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        *word = 1 << (node % 64);
        let at = self.base.as_ptr().wrapping_add(offset);
        let bits = 64 * NODE_WORDS + 1;
        // SAFETY: a policy on our own range; the mask outlives the call and has as many bits as
        // told (the kernel counts one more).
        let rc = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                at,
                len,
                MPOL_PREFERRED,
                mask.as_ptr(),
                bits,
                0_usize,
            )
        };
        if rc == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Faults the range in and keeps it in memory.
    pub(crate) fn lock(&self, offset: usize, len: usize) -> io::Result<()> {
        let at = self.base.as_ptr().wrapping_add(offset).cast();
        // SAFETY: our own committed range; locking moves no bytes.
        check(unsafe { libc::mlock(at, len) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if !self.holed.load(Ordering::Relaxed) {
            // SAFETY: the whole reservation is ours and its users are gone, as they hold us.
            unsafe { libc::munmap(self.raw, self.raw_len) };
        }
    }
}

/// Whether `bytes` of hugepages are to be had just now, by mapping them elsewhere for a moment, so
/// that `commit` rarely fails.
pub(crate) fn hugepages_available(bytes: usize) -> bool {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | MAP_HUGE_2MB;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a fresh anonymous mapping at an address the kernel chooses touches nothing.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, prot, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        return false;
    }
    // SAFETY: the mapping just made, never used.
    unsafe { libc::munmap(at, bytes) };
    true
}

/// The soft limit on locked memory in bytes; `None` where there is none.
pub(crate) fn memlock_limit() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the struct is a valid place for the answer.
    let rc = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    (rc == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

fn check(rc: libc::c_int) -> io::Result<()> {
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
