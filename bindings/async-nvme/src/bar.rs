//! The controller's registers: a base address register mapped into this process.

use std::ptr::NonNull;
use std::sync::Arc;

/// Mapped registers of a controller (Base 2.1, 3.1.4), little-endian words read and written one at
/// a time, as the specification asks (PCIe 1.1, 3.1.1).
///
/// Cheap to clone; the mapping lives as long as its owner, which every clone holds.
#[derive(Clone)]
pub struct Bar {
    base: NonNull<u8>,
    len: usize,
    _owner: Arc<dyn Send + Sync>,
}

// SAFETY: registers are reached with single volatile accesses only, from any thread; `owner` is
// `Send + Sync`.
unsafe impl Send for Bar {}
// SAFETY: as above.
unsafe impl Sync for Bar {}

impl Bar {
    /// Registers at `base`, `len` bytes of them.
    ///
    /// # Safety
    /// `base` is aligned to 8 bytes, and `base..base+len` stays valid for volatile reads and writes
    /// as long as `owner` lives.
    pub unsafe fn new(base: NonNull<u8>, len: usize, owner: Arc<dyn Send + Sync>) -> Bar {
        Bar {
            base,
            len,
            _owner: owner,
        }
    }

    /// Bytes mapped.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is mapped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address of a register, for what writes it often (doorbells). `None` where it is outside the
    /// mapping or not aligned to its four bytes.
    #[must_use]
    pub fn word(&self, offset: u32) -> Option<NonNull<u32>> {
        let offset = usize::try_from(offset).ok()?;
        if offset % 4 != 0 || offset.checked_add(4)? > self.len {
            return None;
        }
        // SAFETY: inside the mapping, as just checked.
        Some(unsafe { self.base.add(offset) }.cast())
    }

    /// Reads a 4-byte register. All ones where it is outside the mapping, as a controller that is
    /// gone answers.
    #[must_use]
    pub fn read32(&self, offset: u32) -> u32 {
        match self.word(offset) {
            // SAFETY: `word` gives valid, aligned addresses of live mappings only.
            Some(at) => u32::from_le(unsafe { at.as_ptr().read_volatile() }),
            None => u32::MAX,
        }
    }

    /// Writes a 4-byte register; outside the mapping nothing happens.
    pub fn write32(&self, offset: u32, value: u32) {
        if let Some(at) = self.word(offset) {
            // SAFETY: as in `read32`.
            unsafe { at.as_ptr().write_volatile(value.to_le()) };
        }
    }

    /// Reads an 8-byte register as two words, low first, which every controller takes
    /// (PCIe 1.1, 3.1.1).
    #[must_use]
    pub fn read64(&self, offset: u32) -> u64 {
        let low = self.read32(offset);
        let high = self.read32(offset.saturating_add(4));
        u64::from(high) << 32 | u64::from(low)
    }

    /// Writes an 8-byte register as two words, low first.
    pub fn write64(&self, offset: u32, value: u64) {
        let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
        self.write32(offset, u32::from_le_bytes([a, b, c, d]));
        self.write32(offset.saturating_add(4), u32::from_le_bytes([e, f, g, h]));
    }
}
