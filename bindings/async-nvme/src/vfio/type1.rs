//! The older way to an IOMMU: a container with the device's group in it.

use super::mapper::AddressSpace;
use super::sys::{self, WithCaps};
use std::fs::File;
use std::io;
use std::mem::size_of;
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::ptr::NonNull;

/// Addresses where the kernel (before 5.4) does not tell: the narrowest width in use.
const ASSUMED: RangeInclusive<u64> = 0..=(1 << 39) - 1;

/// An open container, and the group that was put into it.
pub(super) struct Type1 {
    pub container: File,
    /// Held open so long as mappings are: a group that is closed leaves its container.
    pub _group: File,
}

impl AddressSpace for Type1 {
    fn ranges(&self) -> io::Result<Vec<RangeInclusive<u64>>> {
        let first = sys::IommuInfo::default();
        // SAFETY: `IOMMU_GET_INFO` takes this structure.
        let info = unsafe { WithCaps::ask(self.container.as_fd(), sys::IOMMU_GET_INFO, first)? };
        Ok(ranges_in(&info).unwrap_or_else(|| vec![ASSUMED]))
    }

    unsafe fn map(&self, start: NonNull<u8>, len: u64, device_address: u64) -> io::Result<()> {
        let mut map = sys::DmaMap {
            argsz: sys::size_field::<sys::DmaMap>(),
            flags: sys::DMA_READ_WRITE,
            vaddr: start.addr().get() as u64,
            iova: device_address,
            size: len,
        };
        // SAFETY: the structure's size is told; the memory is the caller's promise.
        unsafe { sys::call_with(self.container.as_fd(), sys::IOMMU_MAP_DMA, &mut map) }.map(drop)
    }

    fn unmap(&self, device_address: u64, len: u64) -> io::Result<()> {
        let mut unmap = sys::DmaUnmap {
            argsz: sys::size_field::<sys::DmaUnmap>(),
            flags: 0,
            iova: device_address,
            size: len,
        };
        // SAFETY: the structure's size is told.
        unsafe { sys::call_with(self.container.as_fd(), sys::IOMMU_UNMAP_DMA, &mut unmap)? };
        if unmap.size == len {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "{} of {len} bytes were mapped",
            unmap.size
        )))
    }
}

/// The capability with the ranges (`struct vfio_iommu_type1_info_cap_iova_range`).
fn ranges_in(info: &WithCaps) -> Option<Vec<RangeInclusive<u64>>> {
    const FLAGS: usize = 4;
    const CAP_OFFSET: usize = 16;
    const COUNT: usize = 8;
    const TABLE: usize = 16;
    if info.u32(FLAGS)? & sys::IOMMU_HAS_CAPS == 0 {
        return None;
    }
    let cap = info.find(info.u32(CAP_OFFSET)?, sys::IOMMU_CAP_IOVA_RANGE)?;
    let count = usize::try_from(info.u32(cap + COUNT)?).ok()?;
    let entry = |index: usize| {
        let at = cap + TABLE + index.checked_mul(size_of::<sys::IovaRange>())?;
        Some(info.u64(at)?..=info.u64(at + 8)?)
    };
    (0..count.min(4096)).map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranges_are_read_from_the_capability() {
        // Flags with capabilities; the chain starts at 24 with id 1, version 1, no next.
        let mut words = vec![2 << 32, 0, 24, 1 | 1 << 16, 2];
        words.extend([0, 0xfedf_ffff, 0xfef0_0000, 0x7f_ffff_ffff]);
        let expected = vec![0..=0xfedf_ffff_u64, 0xfef0_0000..=0x7f_ffff_ffff];
        assert_eq!(ranges_in(&WithCaps::of(words.clone())), Some(expected));
        // More entries told than there are.
        words[4] = 3;
        assert_eq!(ranges_in(&WithCaps::of(words)), None);
        assert_eq!(ranges_in(&WithCaps::of(vec![0, 0, 0])), None);
    }
}
