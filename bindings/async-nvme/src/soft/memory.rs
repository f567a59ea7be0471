//! Memory that stands for a device's: registers, controller memory.

use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

/// Bytes the memory is aligned to and a multiple of.
pub(super) const PAGE_BYTES: usize = 4096;

#[repr(C, align(4096))]
struct Page([u8; PAGE_BYTES]);

/// Zeroed pages, freed with this. Only touched pages take memory.
pub(super) struct Memory {
    pages: NonNull<[MaybeUninit<Page>]>,
}

// SAFETY: the memory is reached through raw pointers and atomics only, by whoever models the
// host and the device.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// At least `len` bytes, whole pages.
    pub(super) fn new(len: usize) -> Memory {
        let pages = Box::<[Page]>::new_zeroed_slice(len.div_ceil(PAGE_BYTES).max(1));
        Memory {
            pages: NonNull::from(Box::leak(pages)),
        }
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.pages.cast()
    }

    pub(super) fn len(&self) -> usize {
        self.pages.len() * PAGE_BYTES
    }

    /// The word at `offset`, which is brought into the memory and to four bytes.
    pub(super) fn word(&self, offset: usize) -> &AtomicU32 {
        let offset = offset.min(self.len() - 4) & !3;
        // SAFETY: inside the memory and aligned, as just made; lives as long as `self`. Hosts
        // write it with single volatile accesses of its size.
        unsafe { AtomicU32::from_ptr(self.base().add(offset).cast().as_ptr()) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: made by `Box::leak` in `new`, and freed here only.
        drop(unsafe { Box::from_raw(self.pages.as_ptr()) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn memory_is_whole_zeroed_pages() {
        let memory = Memory::new(5000);
        assert_eq!(memory.len(), 8192);
        assert_eq!(memory.base().as_ptr().align_offset(PAGE_BYTES), 0);
        assert_eq!(memory.word(8188).load(Ordering::Relaxed), 0);
    }
}
