//! Pinned memory of this process for queues, lists and identify data.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::dma::{DmaError, Keeper, Regions};

/// `MPOL_PREFERRED` of `set_mempolicy(2)`.
const MPOL_PREFERRED: libc::c_long = 1;
/// Pages of the memory asked for, in bytes.
const PAGE_BYTES: usize = 4096;

/// Pages that the kernel joins others to where it can, in bytes: fewer entries for the processor and
/// the IOMMU to look up.
const HUGE_PAGE_BYTES: usize = 2 << 20;

struct Mapping {
    base: NonNull<u8>,
    len: usize,
    /// What was mapped, to be unmapped: more than is used where the start had to be aligned.
    raw: NonNull<u8>,
    raw_len: usize,
}

// SAFETY: the struct only names a range of addresses.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping, whose users hold it by reference count.
        unsafe { libc::munmap(self.raw.as_ptr().cast(), self.raw_len) };
    }
}

impl Mapping {
    /// Whole pages, from a hugepage's boundary where a hugepage fits in.
    fn new(len: usize) -> std::io::Result<Mapping> {
        let spare = if len < HUGE_PAGE_BYTES {
            0
        } else {
            HUGE_PAGE_BYTES
        };
        let raw_len = len
            .checked_add(spare)
            .ok_or_else(|| std::io::Error::from_raw_os_error(libc::ENOMEM))?;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping at an address the kernel chooses touches nothing.
        let raw = unsafe { libc::mmap(std::ptr::null_mut(), raw_len, prot, flags, -1, 0) };
        let raw = match NonNull::new(raw.cast::<u8>()) {
            Some(raw) if raw.as_ptr().cast() != libc::MAP_FAILED => raw,
            _ => return Err(std::io::Error::last_os_error()),
        };
        let skip = match spare {
            0 => 0,
            _ => raw.as_ptr().align_offset(HUGE_PAGE_BYTES),
        };
        // SAFETY: less than a hugepage on, of which there is one more than is used.
        let base = unsafe { raw.add(skip) };
        if spare > 0 {
            // SAFETY: advice on our own range; a kernel that does not take it changes nothing but speed.
            unsafe { libc::madvise(base.as_ptr().cast(), len, libc::MADV_HUGEPAGE) };
        }
        Ok(Mapping {
            base,
            len,
            raw,
            raw_len,
        })
    }
}

/// Zeroed memory that a device reaches too. Both sides may change it at any time, so it is read and
/// written through raw pointers or atomics only.
pub struct DeviceMemory {
    mapping: Arc<Mapping>,
    device_address: u64,
}

impl DeviceMemory {
    /// Takes at least `len` bytes, whole pages, from NUMA node `numa_node` while it has any, and maps
    /// them for the device of `regions`.
    ///
    /// # Errors
    /// [`DmaError`].
    pub fn new(
        regions: &Regions,
        len: usize,
        numa_node: Option<u32>,
    ) -> Result<DeviceMemory, DmaError> {
        let len = len.max(1).next_multiple_of(PAGE_BYTES);
        let memory_error = |source| DmaError::Memory {
            len_bytes: len,
            source,
        };
        let mapping = Arc::new(Mapping::new(len).map_err(memory_error)?);
        let base = mapping.base;
        if let Some(node) = numa_node {
            prefer_node(&mapping, node).map_err(memory_error)?;
        }
        let keeper: Keeper = Arc::clone(&mapping) as Keeper;
        // SAFETY: the mapping is kept by its keeper, and reached through raw pointers and atomics
        // only.
        let device_address = unsafe { regions.add(base, len, keeper)? };
        Ok(DeviceMemory {
            mapping,
            device_address,
        })
    }

    /// Start of the memory, aligned to a page.
    #[must_use]
    pub fn base(&self) -> NonNull<u8> {
        self.mapping.base
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.mapping.len
    }

    /// Whether there is none; never so.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mapping.len == 0
    }

    /// Where the device sees it.
    #[must_use]
    pub fn device_address(&self) -> u64 {
        self.device_address
    }

    /// Writes zeroes.
    pub fn clear(&self) {
        for offset in 0..self.mapping.len {
            self.byte(offset).store(0, Ordering::Relaxed);
        }
    }

    fn byte(&self, offset: usize) -> &AtomicU8 {
        // SAFETY: every caller checks the offset; an atomic byte may be changed by others.
        unsafe { AtomicU8::from_ptr(self.mapping.base.as_ptr().add(offset)) }
    }

    /// Copies bytes out; as many as there are from `offset`.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        let room = self.mapping.len.saturating_sub(offset);
        for (index, byte) in into.iter_mut().take(room).enumerate() {
            *byte = self.byte(offset + index).load(Ordering::Relaxed);
        }
    }

    /// Copies bytes in; as many as fit from `offset`.
    pub fn write(&self, offset: usize, from: &[u8]) {
        let room = self.mapping.len.saturating_sub(offset);
        for (index, byte) in from.iter().take(room).enumerate() {
            self.byte(offset + index).store(*byte, Ordering::Relaxed);
        }
    }
}

fn prefer_node(mapping: &Mapping, node: u32) -> std::io::Result<()> {
    let mut mask = [0_u64; 16];
    let word = mask
        .get_mut(node as usize / 64)
        .ok_or_else(|| std::io::Error::from_raw_os_error(libc::EINVAL))?;
    *word = 1 << (node % 64);
    // SAFETY: a policy on our own range; the mask outlives the call and has as many bits as told
    // (the kernel counts one more).
    let rc = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            mapping.base.as_ptr(),
            mapping.len,
            MPOL_PREFERRED,
            mask.as_ptr(),
            mask.len() * 64 + 1,
            0_usize,
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_a_hugepage_starts_on_one() {
        for len in [
            4096,
            HUGE_PAGE_BYTES - 4096,
            HUGE_PAGE_BYTES,
            HUGE_PAGE_BYTES + 4096,
        ] {
            let mapping = Mapping::new(len).unwrap();
            let aligned = mapping.base.addr().get().is_multiple_of(HUGE_PAGE_BYTES);
            assert!(len < HUGE_PAGE_BYTES || aligned, "{len} bytes");
            let (start, end) = (mapping.base.addr().get(), mapping.base.addr().get() + len);
            let raw = mapping.raw.addr().get();
            assert!(raw <= start && end <= raw + mapping.raw_len, "{len} bytes");
            // SAFETY: the first and the last byte of our own mapping.
            unsafe {
                mapping.base.write_volatile(1);
                mapping.base.add(len - 1).write_volatile(2);
                assert_eq!(mapping.base.add(len - 1).read_volatile(), 2);
            }
        }
        assert!(Mapping::new(usize::MAX / 4096 * 4096).is_err());
    }
}
