//! Where the controller's addresses lead: host memory through the IOMMU, or its own.

use std::cell::Cell;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use penstock_nvme::{Cqe, IntoBytes, Status};

use super::iommu::{SoftIommu, Violations};
use super::memory::Memory;

/// Whose memory an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Host,
    Cmb,
    Pmr,
}

/// Memory of the controller's own that commands can address.
pub(super) struct Window {
    pub(super) memory: Arc<Memory>,
    /// Bytes into `memory` where it begins.
    pub(super) offset: usize,
    pub(super) len: usize,
    /// Where commands see it; `None` while they cannot.
    pub(super) address: Option<u64>,
}

impl Window {
    fn offset_of(&self, address: u64) -> Option<usize> {
        let offset = usize::try_from(address.checked_sub(self.address?)?).ok()?;
        (offset < self.len).then_some(offset)
    }

    fn at(&self, address: u64, len: usize) -> Option<NonNull<u8>> {
        let offset = self.offset_of(address)?;
        if self.len - offset < len {
            return None;
        }
        // SAFETY: inside the window, which is inside the memory.
        Some(unsafe { self.memory.base().add(self.offset + offset) })
    }
}

/// Bytes moved, by whose memory it was.
#[derive(Default)]
pub(super) struct Moved {
    pub(super) host: Cell<u64>,
    pub(super) own: Cell<u64>,
}

impl Moved {
    fn add(&self, kind: Kind, len: usize) {
        let count = if kind == Kind::Host {
            &self.host
        } else {
            &self.own
        };
        count.set(count.get() + len as u64);
    }
}

pub(super) struct Bus {
    pub(super) iommu: Arc<SoftIommu>,
    pub(super) violations: Arc<Violations>,
    pub(super) cmb: Option<Window>,
    pub(super) pmr: Option<Window>,
    /// No access gets anywhere: the drive is gone.
    pub(super) removed: bool,
    pub(super) moved: Moved,
}

impl Bus {
    /// Whose memory an address is; what is not the controller's is the host's.
    pub(super) fn kind(&self, address: u64) -> Kind {
        let inside = |window: &Option<Window>| {
            let window = window.as_ref()?;
            window.offset_of(address)
        };
        if inside(&self.cmb).is_some() {
            Kind::Cmb
        } else if inside(&self.pmr).is_some() {
            Kind::Pmr
        } else {
            Kind::Host
        }
    }

    /// Nobody promises that a controller memory buffer's contents outlive a reset (Base 2.1, 8.2.1):
    /// these never do.
    pub(super) fn scramble_cmb(&self) {
        let Some(window) = self.cmb.as_ref() else {
            return;
        };
        for offset in (0..window.len).step_by(4) {
            let word = window.memory.word(window.offset + offset);
            word.fetch_xor(0x5a5a_a5a5, Ordering::Relaxed);
        }
    }

    /// Whether all of it can be reached.
    pub(super) fn reaches(&self, address: u64, len: usize) -> bool {
        self.with(address, len, |_| ()).is_ok()
    }

    /// Calls `access` with the memory there. What is not there is the host's fault and told.
    fn with<T>(
        &self,
        address: u64,
        len: usize,
        access: impl FnOnce(NonNull<u8>) -> T,
    ) -> Result<T, Status> {
        let kind = self.kind(address);
        if self.removed {
            return Err(Status::DATA_TRANSFER_ERROR);
        }
        let own = match kind {
            Kind::Cmb => self.cmb.as_ref(),
            Kind::Pmr => self.pmr.as_ref(),
            Kind::Host => None,
        };
        let done = match own {
            Some(window) => window.at(address, len).map(access),
            None => self.iommu.with(address, len, access),
        };
        done.ok_or_else(|| {
            self.violations.add(format!(
                "DMA of {len} bytes at {address:#x}, which is not mapped"
            ));
            Status::DATA_TRANSFER_ERROR
        })
    }

    pub(super) fn read(&self, address: u64, to: &mut [u8]) -> Result<(), Status> {
        self.with(address, to.len(), |from| {
            // SAFETY: `with` gives that many mapped bytes; the host leaves them alone while a
            // command has them.
            unsafe { ptr::copy(from.as_ptr(), to.as_mut_ptr(), to.len()) }
        })
    }

    pub(super) fn write(&self, address: u64, from: &[u8]) -> Result<(), Status> {
        self.with(address, from.len(), |to| {
            // SAFETY: as in `read`.
            unsafe { ptr::copy(from.as_ptr(), to.as_ptr(), from.len()) }
        })
    }

    /// Counts data of a command.
    pub(super) fn count(&self, address: u64, len: usize) {
        self.moved.add(self.kind(address), len);
    }

    /// One little-endian dword, as one access.
    pub(super) fn read32(&self, address: u64) -> Result<u32, Status> {
        self.with(address & !3, 4, |from| {
            // SAFETY: four mapped bytes, aligned since mappings begin at pages.
            let word = unsafe { AtomicU32::from_ptr(from.cast().as_ptr()) };
            u32::from_le(word.load(Ordering::Acquire))
        })
    }

    /// Writes one little-endian dword, as one access.
    pub(super) fn write32(&self, address: u64, value: u32) -> Result<(), Status> {
        self.with(address & !3, 4, |to| {
            // SAFETY: as in `read32`.
            let word = unsafe { AtomicU32::from_ptr(to.cast().as_ptr()) };
            word.store(value.to_le(), Ordering::Release);
        })
    }

    /// Writes a completion, the dword with the phase tag last, so that who sees the tag sees all.
    pub(super) fn write_cqe(&self, address: u64, cqe: &Cqe) -> Result<(), Status> {
        let bytes = cqe.as_bytes();
        let (Some(result), Some(head), Some(last)) = (
            bytes.first_chunk::<8>(),
            bytes.get(8..12).and_then(|b| b.first_chunk::<4>()),
            bytes.last_chunk::<4>(),
        ) else {
            return Err(Status::INTERNAL_ERROR);
        };
        self.with(address & !15, 16, |to| {
            // SAFETY: sixteen mapped bytes at a multiple of sixteen.
            unsafe {
                let base = to.as_ptr();
                AtomicU64::from_ptr(base.cast())
                    .store(u64::from_ne_bytes(*result), Ordering::Relaxed);
                AtomicU32::from_ptr(base.add(8).cast())
                    .store(u32::from_ne_bytes(*head), Ordering::Relaxed);
                AtomicU32::from_ptr(base.add(12).cast())
                    .store(u32::from_ne_bytes(*last), Ordering::Release);
            }
        })
    }
}
