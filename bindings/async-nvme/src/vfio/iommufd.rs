//! The newer way to an IOMMU: an address space of an iommufd that the device is attached to.

use super::mapper::AddressSpace;
use super::sys;
use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;

/// More stretches than any machine has.
const RANGES_MAX: usize = 256;

/// One address space. Closing the descriptor ends it.
pub(super) struct IoAddressSpace {
    iommufd: File,
    id: u32,
}

impl IoAddressSpace {
    /// Binds `device` to `iommufd`, makes an address space and attaches the device to it.
    pub fn attach(iommufd: File, device: &File) -> io::Result<Self> {
        let mut bind = sys::BindIommufd {
            argsz: sys::size_field::<sys::BindIommufd>(),
            iommufd: iommufd.as_raw_fd(),
            ..Default::default()
        };
        // SAFETY: the structure's size is told.
        unsafe { sys::call_with(device.as_fd(), sys::DEVICE_BIND_IOMMUFD, &mut bind)? };
        let mut alloc = sys::IoasAlloc {
            size: sys::size_field::<sys::IoasAlloc>(),
            ..Default::default()
        };
        // SAFETY: as above.
        unsafe { sys::call_with(iommufd.as_fd(), sys::IOAS_ALLOC, &mut alloc)? };
        let id = alloc.out_ioas_id;
        let mut attach = sys::AttachIommufd {
            argsz: sys::size_field::<sys::AttachIommufd>(),
            flags: 0,
            pt_id: id,
        };
        // SAFETY: as above.
        unsafe { sys::call_with(device.as_fd(), sys::DEVICE_ATTACH_IOMMUFD_PT, &mut attach)? };
        Ok(IoAddressSpace { iommufd, id })
    }
}

impl AddressSpace for IoAddressSpace {
    fn ranges(&self) -> io::Result<Vec<RangeInclusive<u64>>> {
        let mut table = [sys::IovaRange::default(); RANGES_MAX];
        let mut ask = sys::IoasRanges {
            size: sys::size_field::<sys::IoasRanges>(),
            ioas_id: self.id,
            num_iovas: u32::try_from(table.len()).unwrap_or(0),
            allowed_iovas: table.as_mut_ptr().expose_provenance() as u64,
            ..Default::default()
        };
        // SAFETY: the structure's size and the table's length are told; the table outlives the call.
        unsafe { sys::call_with(self.iommufd.as_fd(), sys::IOAS_IOVA_RANGES, &mut ask)? };
        let count = usize::try_from(ask.num_iovas).unwrap_or(0).min(table.len());
        let ranges = table[..count].iter().map(|range| range.start..=range.last);
        Ok(ranges.collect())
    }

    unsafe fn map(&self, start: NonNull<u8>, len: u64, device_address: u64) -> io::Result<()> {
        let mut map = sys::IoasMap {
            size: sys::size_field::<sys::IoasMap>(),
            flags: sys::IOAS_MAP_FLAGS,
            ioas_id: self.id,
            reserved: 0,
            user_va: start.addr().get() as u64,
            length: len,
            iova: device_address,
        };
        // SAFETY: the structure's size is told; the memory is the caller's promise.
        unsafe { sys::call_with(self.iommufd.as_fd(), sys::IOAS_MAP, &mut map) }.map(drop)
    }

    fn unmap(&self, device_address: u64, len: u64) -> io::Result<()> {
        let mut unmap = sys::IoasUnmap {
            size: sys::size_field::<sys::IoasUnmap>(),
            ioas_id: self.id,
            iova: device_address,
            length: len,
        };
        // SAFETY: the structure's size is told.
        unsafe { sys::call_with(self.iommufd.as_fd(), sys::IOAS_UNMAP, &mut unmap) }.map(drop)
    }
}
