//! Memory that a device may reach: who makes it so, and where the device sees it.

use std::any::Any;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use penstock_buffer::PoolMemory;

/// Most regions a device knows at once: pools and queue memory of every reactor, controller
/// memory.
const REGIONS_MAX: usize = 256;

/// Why memory could not be made reachable.
#[derive(Debug, thiserror::Error)]
pub enum DmaError {
    /// More locked memory than this process may have.
    #[error(
        "cannot map {len_bytes} bytes for the device: this process may lock {limit_bytes} bytes of memory (RLIMIT_MEMLOCK), too few with what it has locked already; raise the limit to hold all payload and queue memory (`ulimit -l`, LimitMEMLOCK= in the systemd unit) or give the process CAP_IPC_LOCK"
    )]
    LockedMemory {
        /// Bytes to be mapped.
        len_bytes: usize,
        /// RLIMIT_MEMLOCK.
        limit_bytes: u64,
    },
    /// The kernel has no more mappings for one container.
    #[error(
        "cannot map {len_bytes} bytes for the device: the kernel's limit on mappings is reached; raise it (modprobe vfio_iommu_type1 dma_entry_limit=...) or use fewer, larger pools"
    )]
    TooManyMappings {
        /// Bytes to be mapped.
        len_bytes: usize,
    },
    /// The kernel refused to pin and map it.
    #[error(
        "cannot map {len_bytes} bytes for the device: {source}; the kernel's log (dmesg) may say why"
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
    /// [`DmaError::LockedMemory`], [`DmaError::TooManyMappings`], [`DmaError::Map`],
    /// [`DmaError::NoAddresses`].
    unsafe fn map(&self, start: NonNull<u8>, len: usize) -> Result<u64, DmaError>;

    /// Takes a mapping back. The device reaches the memory no more when this returns.
    fn unmap(&self, device_address: u64, len: usize);
}

/// A run of memory as both sides see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// Where it starts in this process.
    pub start: usize,
    /// Length in bytes.
    pub len: usize,
    /// Where the device sees its start.
    pub device_address: u64,
}

impl Region {
    /// Where the device sees `len` bytes from `start`; `None` where they are not all inside.
    #[inline]
    #[must_use]
    pub fn device_address_of(&self, start: *const u8, len: usize) -> Option<u64> {
        let offset = start.addr().wrapping_sub(self.start);
        let room = self.len.checked_sub(offset)?;
        (len <= room).then(|| self.device_address + offset as u64)
    }
}

#[derive(Default)]
struct Entry {
    start: AtomicUsize,
    len: AtomicUsize,
    device_address: AtomicU64,
}

/// What keeps memory mapped in this process while the device may reach it.
pub type Keeper = Arc<dyn Any + Send + Sync>;

/// All regions a device may reach, from this process's addresses to the device's. Regions are only
/// ever added, and end together; looking one up takes no lock.
pub struct Regions {
    /// How many of `table` are valid. Written last.
    count: AtomicUsize,
    table: Box<[Entry]>,
    /// What was mapped, to be unmapped, and its keepers.
    mapped: Mutex<Vec<(Region, Keeper)>>,
    /// The device's own memory whose contents a reset may take. Known before a request uses it.
    volatile: OnceLock<Region>,
    mapper: Arc<dyn Mapper>,
}

impl Regions {
    /// No regions yet.
    #[must_use]
    pub fn new(mapper: Arc<dyn Mapper>) -> Regions {
        Regions {
            count: AtomicUsize::new(0),
            table: (0..REGIONS_MAX).map(|_| Entry::default()).collect(),
            mapped: Mutex::default(),
            volatile: OnceLock::new(),
            mapper,
        }
    }

    /// Maps memory and remembers it, and its keeper, until these regions are dropped. Memory already
    /// known is left as it is.
    ///
    /// # Safety
    /// As [`Mapper::map`], as long as `keeper` lives.
    ///
    /// # Errors
    /// As [`Mapper::map`], and [`DmaError::TooManyRegions`].
    pub unsafe fn add(
        &self,
        start: NonNull<u8>,
        len: usize,
        keeper: Keeper,
    ) -> Result<u64, DmaError> {
        let mut mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = self.find(start.as_ptr(), len) {
            return Ok(known.device_address_of(start.as_ptr(), len).unwrap_or(0));
        }
        if self.count.load(Ordering::Relaxed) == REGIONS_MAX {
            return Err(DmaError::TooManyRegions);
        }
        // SAFETY: the keeper, held as long as the mapping, is the caller's promise.
        let device_address = unsafe { self.mapper.map(start, len)? };
        let region = Region {
            start: start.addr().get(),
            len,
            device_address,
        };
        self.publish(region);
        mapped.push((region, keeper));
        Ok(device_address)
    }

    /// Maps a pool's memory, until these regions are dropped.
    ///
    /// # Errors
    /// As [`Regions::add`].
    pub fn add_pool(&self, pool: &PoolMemory) -> Result<u64, DmaError> {
        // SAFETY: the keeper keeps the pool's pages where they are, and a pool's memory is only
        // reached through leases, whose holders know that devices write to it.
        unsafe { self.add(pool.start, pool.len_bytes, Arc::clone(&pool.keeper)) }
    }

    /// Remembers memory that the device reaches without a mapping of ours: its own.
    ///
    /// # Errors
    /// [`DmaError::TooManyRegions`].
    pub fn add_own(&self, region: Region) -> Result<(), DmaError> {
        let _mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        if self.count.load(Ordering::Relaxed) == REGIONS_MAX {
            return Err(DmaError::TooManyRegions);
        }
        self.publish(region);
        Ok(())
    }

    /// Remembers which memory of the device's own loses its contents in a reset; there is one such
    /// region, and it stays where it is.
    pub(crate) fn set_volatile(&self, region: Region) {
        // A second time it is the same.
        let _ = self.volatile.set(region);
    }

    /// Whether a reset may take the contents of any of `len` bytes from `start`.
    pub(crate) fn is_volatile(&self, start: *const u8, len: usize) -> bool {
        self.volatile.get().is_some_and(|own| {
            let (start, end) = (start.addr(), start.addr().saturating_add(len));
            start < own.start.saturating_add(own.len) && own.start < end
        })
    }

    /// One caller at a time: whoever holds `mapped`.
    fn publish(&self, region: Region) {
        let count = self.count.load(Ordering::Relaxed);
        let entry = &self.table[count];
        entry.start.store(region.start, Ordering::Relaxed);
        entry.len.store(region.len, Ordering::Relaxed);
        entry
            .device_address
            .store(region.device_address, Ordering::Relaxed);
        self.count.store(count + 1, Ordering::Release);
    }

    /// The region that holds all of `len` bytes from `start`.
    #[must_use]
    pub fn find(&self, start: *const u8, len: usize) -> Option<Region> {
        let count = self.count.load(Ordering::Acquire);
        self.table[..count]
            .iter()
            .map(|entry| Region {
                start: entry.start.load(Ordering::Relaxed),
                len: entry.len.load(Ordering::Relaxed),
                device_address: entry.device_address.load(Ordering::Relaxed),
            })
            .find(|region| region.device_address_of(start, len).is_some())
    }
}

impl Drop for Regions {
    fn drop(&mut self) {
        let mapped = self
            .mapped
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for (region, keeper) in mapped.drain(..) {
            self.mapper.unmap(region.device_address, region.len);
            drop(keeper);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Shifted(Mutex<Vec<u64>>);

    impl Mapper for Shifted {
        unsafe fn map(&self, start: NonNull<u8>, _len: usize) -> Result<u64, DmaError> {
            Ok(start.addr().get() as u64 + 0x1000_0000)
        }

        fn unmap(&self, device_address: u64, _len: usize) {
            self.0.lock().unwrap().push(device_address);
        }
    }

    #[test]
    fn memory_is_found_where_it_was_mapped_until_the_end() {
        let mapper = Arc::new(Shifted(Mutex::default()));
        let regions = Regions::new(Arc::clone(&mapper) as Arc<dyn Mapper>);
        let memory: Arc<Vec<u8>> = Arc::new(vec![0; 8192]);
        let start = NonNull::new(memory.as_ptr().cast_mut()).unwrap();
        let keeper: Keeper = Arc::clone(&memory) as Keeper;
        // SAFETY: nothing reaches the memory; the keeper holds it anyway.
        let at = unsafe { regions.add(start, 8192, Arc::clone(&keeper)).unwrap() };
        // SAFETY: as above.
        let again = unsafe { regions.add(start, 4096, keeper).unwrap() };
        assert_eq!(at, again);
        let inside = memory[100..].as_ptr();
        let region = regions.find(inside, 8092).unwrap();
        assert_eq!(region.device_address_of(inside, 8092), Some(at + 100));
        assert_eq!(regions.find(inside, 8093), None);
        assert_eq!(regions.find(std::ptr::null(), 1), None);
        assert_eq!(Arc::strong_count(&memory), 2);
        drop(regions);
        assert_eq!(*mapper.0.lock().unwrap(), [at]);
        assert_eq!(Arc::strong_count(&memory), 1);
    }
}
