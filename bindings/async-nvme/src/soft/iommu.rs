//! The IOMMU between the software controller and this process's memory, and the list of what a
//! host did wrong.

use std::collections::BTreeMap;
use std::io;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use super::memory::PAGE_BYTES;
use crate::dma::{DmaError, Mapper};

/// Most descriptions kept; all are counted.
const KEPT_MAX: usize = 64;

/// What the host did that no host may do.
#[derive(Default)]
pub(super) struct Violations {
    kept: Mutex<(u64, Vec<String>)>,
}

impl Violations {
    fn lock(&self) -> MutexGuard<'_, (u64, Vec<String>)> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, text: String) {
        let mut kept = self.lock();
        kept.0 += 1;
        if kept.1.len() < KEPT_MAX {
            kept.1.push(text);
        }
    }

    pub(super) fn list(&self) -> Vec<String> {
        let kept = self.lock();
        let mut list = kept.1.clone();
        if kept.0 > list.len() as u64 {
            list.push(format!("and {} more", kept.0 - list.len() as u64));
        }
        list
    }
}

struct Region {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: `Mapper::map`'s caller promised that the device, here another thread perhaps, may reach
// the memory until it is unmapped.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

struct Table {
    regions: BTreeMap<u64, Region>,
    next: u64,
    limit: u64,
}

/// Translates device addresses, which are never those of the process.
pub(super) struct SoftIommu {
    table: RwLock<Table>,
    violations: std::sync::Arc<Violations>,
}

impl SoftIommu {
    /// Hands out addresses from `first` up to 2^`bits`.
    pub(super) fn new(first: u64, bits: u8, violations: std::sync::Arc<Violations>) -> SoftIommu {
        let limit = 1u64.checked_shl(u32::from(bits)).unwrap_or(u64::MAX);
        SoftIommu {
            table: RwLock::new(Table {
                regions: BTreeMap::new(),
                next: first,
                limit,
            }),
            violations,
        }
    }

    /// Calls `access` with the memory at `address`, which stays mapped until it returns. `None`
    /// where not all `len` bytes are inside one mapping.
    pub(super) fn with<T>(
        &self,
        address: u64,
        len: usize,
        access: impl FnOnce(NonNull<u8>) -> T,
    ) -> Option<T> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let (base, region) = table.regions.range(..=address).next_back()?;
        let offset = usize::try_from(address - base).ok()?;
        if region.len.checked_sub(offset)? < len {
            return None;
        }
        // SAFETY: inside the region, as just checked; it stays mapped while the lock is held,
        // since `unmap` takes it for writing.
        Some(access(unsafe { region.start.add(offset) }))
    }

    /// Mappings there are now.
    pub(super) fn mapped(&self) -> usize {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.regions.len()
    }
}

impl Mapper for SoftIommu {
    unsafe fn map(&self, start: NonNull<u8>, len: usize) -> Result<u64, DmaError> {
        let whole = |n: usize| n.is_multiple_of(PAGE_BYTES);
        if len == 0 || !whole(len) || !whole(start.addr().get()) {
            let source = io::Error::from_raw_os_error(libc::EINVAL);
            return Err(DmaError::Map {
                len_bytes: len,
                source,
            });
        }
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let no_room = DmaError::NoAddresses { len_bytes: len };
        let address = table.next;
        // A page between mappings stays unmapped, so that an access that runs over is seen.
        let end = address.checked_add(len as u64 + PAGE_BYTES as u64);
        let Some(end) = end.filter(|end| *end <= table.limit) else {
            return Err(no_room);
        };
        table.next = end;
        table.regions.insert(address, Region { start, len });
        Ok(address)
    }

    fn unmap(&self, device_address: u64, len: usize) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        match table.regions.remove(&device_address) {
            Some(region) if region.len == len => {}
            _ => self.violations.add(format!(
                "unmapped {len} bytes at {device_address:#x}, which is no mapping"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::Memory;
    use super::*;
    use std::sync::Arc;

    #[test]
    fn only_what_is_mapped_is_reached() {
        let violations = Arc::new(Violations::default());
        let iommu = SoftIommu::new(0x1_0000_0000, 39, violations.clone());
        let memory = Memory::new(2 * PAGE_BYTES);
        // SAFETY: the memory outlives the mapping.
        let at = unsafe { iommu.map(memory.base(), memory.len()) }.unwrap();
        assert_ne!(at, memory.base().addr().get() as u64);
        let seen = iommu.with(at + 4096, 4096, |there| there.addr().get());
        assert_eq!(seen, Some(memory.base().addr().get() + 4096));
        assert!(iommu.with(at + 4096, 4097, |_| ()).is_none());
        assert!(iommu.with(at - 1, 1, |_| ()).is_none());
        iommu.unmap(at, memory.len());
        assert!(iommu.with(at, 1, |_| ()).is_none());
        assert!(violations.list().is_empty());
        iommu.unmap(at, memory.len());
        assert_eq!(violations.list().len(), 1);
    }

    #[test]
    fn addresses_end_and_parts_of_pages_are_refused() {
        let iommu = SoftIommu::new(0x1000, 14, Arc::default());
        let memory = Memory::new(4 * PAGE_BYTES);
        // SAFETY: nothing is reached through the mappings.
        let (all, part, one) = unsafe {
            (
                iommu.map(memory.base(), 4 * PAGE_BYTES),
                iommu.map(memory.base(), 512),
                iommu.map(memory.base(), PAGE_BYTES),
            )
        };
        assert!(matches!(all, Err(DmaError::NoAddresses { .. })));
        assert!(matches!(part, Err(DmaError::Map { .. })));
        assert_eq!(one.unwrap(), 0x1000);
    }
}
