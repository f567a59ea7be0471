//! Memory that a device may reach: who makes it so, and where the device sees it.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Most regions a device knows at once: pools and queue memory of every reactor, controller
/// memory.
const REGIONS_MAX: usize = 256;

/// Why memory could not be made reachable.
#[derive(Debug, thiserror::Error)]
pub enum DmaError {
    /// The kernel refused to pin and map it.
    #[error(
        "cannot map {len_bytes} bytes for the device: {source}; RLIMIT_MEMLOCK must cover all payload memory (`ulimit -l`, LimitMEMLOCK= in the systemd unit)"
    )]
    Map {
        /// Bytes to be mapped.
        len_bytes: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// The memory could not be had.
    #[error(
        "cannot take {len_bytes} bytes of memory for the device's queues: {source}; free memory, or reserve hugepages (sysctl vm.nr_hugepages)"
    )]
    Memory {
        /// Bytes asked for.
        len_bytes: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// The device cannot address so much, or where it would lie.
    #[error(
        "no room for {len_bytes} bytes in the addresses the device's IOMMU offers; use smaller pools"
    )]
    NoAddresses {
        /// Bytes to be mapped.
        len_bytes: usize,
    },
    /// Too many regions.
    #[error("more than {REGIONS_MAX} regions of memory for one device; use fewer, larger pools")]
    TooManyRegions,
}

/// Makes memory of this process reachable for one device: VFIO's IOMMU mappings, or the software
/// controller's.
pub trait Mapper: Send + Sync {
    /// Pins `len` bytes from `start` (both whole pages) and maps them. The address as the device
    /// sees it; contiguous there as it is here.
    ///
    /// # Safety
    /// The device may read and write the memory from now on until [`Mapper::unmap`]: it must stay
    /// mapped in this process so long, and be no memory whose change under Rust's feet is unsound.
    ///
    /// # Errors
    /// [`DmaError::Map`], [`DmaError::NoAddresses`].
    unsafe fn map(&self, start: NonNull<u8>, len: usize) -> Result<u64, DmaError>;

    /// Takes a mapping back. The device reaches the memory no more when this returns.
    fn unmap(&self, device_address: u64, len: usize);
}

struct Region {
    start: AtomicUsize,
    len: AtomicUsize,
    device_address: AtomicU64,
}

/// All regions a device may reach, from this process's addresses to the device's. Regions are only
/// ever added; looking one up takes no lock.
pub struct Regions {
    /// How many of `table` are valid. Written last.
    count: AtomicUsize,
    table: Box<[Region]>,
    adding: Mutex<()>,
    mapper: Arc<dyn Mapper>,
}

impl Regions {
    /// No regions yet.
    pub fn new(mapper: Arc<dyn Mapper>) -> Regions {
        let empty = || Region {
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            device_address: AtomicU64::new(0),
        };
        Regions {
            count: AtomicUsize::new(0),
            table: (0..REGIONS_MAX).map(|_| empty()).collect(),
            adding: Mutex::new(()),
            mapper,
        }
    }

    /// Maps memory and remembers it until these regions are dropped. Memory already known is left
    /// as it is.
    ///
    /// # Safety
    /// As [`Mapper::map`], until these regions are dropped.
    ///
    /// # Errors
    /// As [`Mapper::map`], and [`DmaError::TooManyRegions`].
    pub unsafe fn add(&self, start: NonNull<u8>, len: usize) -> Result<u64, DmaError> {
        if let Some(known) = self.device_address(start.as_ptr(), len) {
            return Ok(known);
        }
        let _adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        if self.count.load(Ordering::Relaxed) == REGIONS_MAX {
            return Err(DmaError::TooManyRegions);
        }
        // SAFETY: the caller's promise is the same.
        let device_address = unsafe { self.mapper.map(start, len)? };
        self.remember(start, len, device_address);
        Ok(device_address)
    }

    /// Remembers memory that the device reaches without a mapping of ours: its own.
    ///
    /// # Errors
    /// [`DmaError::TooManyRegions`].
    pub fn add_own(
        &self,
        start: NonNull<u8>,
        len: usize,
        device_address: u64,
    ) -> Result<(), DmaError> {
        let _adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        if self.count.load(Ordering::Relaxed) == REGIONS_MAX {
            return Err(DmaError::TooManyRegions);
        }
        self.remember(start, len, device_address);
        Ok(())
    }

    fn remember(&self, start: NonNull<u8>, len: usize, device_address: u64) {
        let count = self.count.load(Ordering::Relaxed);
        let region = &self.table[count];
        region.start.store(start.addr().get(), Ordering::Relaxed);
        region.len.store(len, Ordering::Relaxed);
        region
            .device_address
            .store(device_address, Ordering::Relaxed);
        self.count.store(count + 1, Ordering::Release);
    }

    /// Where the device sees `len` bytes from `start`; `None` where they are not inside one region.
    #[inline]
    #[must_use]
    pub fn device_address(&self, start: *const u8, len: usize) -> Option<u64> {
        let at = start.addr();
        let count = self.count.load(Ordering::Acquire);
        self.table[..count].iter().find_map(|region| {
            let offset = at.wrapping_sub(region.start.load(Ordering::Relaxed));
            let room = region.len.load(Ordering::Relaxed).checked_sub(offset)?;
            (len <= room).then(|| region.device_address.load(Ordering::Relaxed) + offset as u64)
        })
    }
}
