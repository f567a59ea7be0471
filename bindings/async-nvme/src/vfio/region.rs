//! Base address registers mapped into this process.

use super::error::DeviceError;
use super::sys::{self, RegionInfo, WithCaps};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::Arc;

/// Base address registers of a PCI function.
const BARS: u8 = 6;

/// Where a region lies in the device's file, and what of it may be mapped.
#[derive(Debug)]
pub(super) struct Region {
    pub offset: u64,
    pub size: u64,
    /// Stretches of the region that the kernel maps, ascending.
    areas: Vec<Range<u64>>,
}

impl Region {
    /// Fails unless `len` bytes at `offset` are inside.
    pub fn within(&self, offset: u64, len: usize) -> io::Result<()> {
        let end = offset.checked_add(len as u64);
        if end.is_some_and(|end| end <= self.size) {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{len} bytes at {offset} are outside of {} bytes", self.size),
        ))
    }
}

/// Asks the kernel about region `index`.
pub(super) fn region(device: &File, index: u32) -> io::Result<Region> {
    let first = RegionInfo {
        index,
        ..Default::default()
    };
    // SAFETY: `DEVICE_GET_REGION_INFO` takes this structure.
    let info = unsafe { WithCaps::ask(device.as_fd(), sys::DEVICE_GET_REGION_INFO, first)? };
    read_region(&info).ok_or_else(|| io::Error::other("the kernel's answer is cut short"))
}

/// Reads a `struct vfio_region_info` and its capabilities.
fn read_region(info: &WithCaps) -> Option<Region> {
    let (flags, caps) = (info.u32(4)?, info.u32(12)?);
    let (size, offset) = (info.u64(16)?, info.u64(24)?);
    let mut region = Region {
        offset,
        size,
        areas: Vec::new(),
    };
    if flags & sys::REGION_CAN_MMAP == 0 || size == 0 {
        return Some(region);
    }
    let sparse = (flags & sys::REGION_HAS_CAPS != 0)
        .then(|| info.find(caps, sys::REGION_CAP_SPARSE))
        .flatten();
    let Some(sparse) = sparse else {
        region.areas.push(0..size);
        return Some(region);
    };
    // `struct vfio_region_info_cap_sparse_mmap`: a header of 8 bytes, the count, and the areas.
    let count = usize::try_from(info.u32(sparse + 8)?).ok()?;
    for index in 0..count.min(64) {
        let at = sparse + 16 + index * 16;
        let (start, len) = (info.u64(at)?, info.u64(at + 8)?);
        let end = start.checked_add(len).filter(|end| *end <= size)?;
        if len > 0 {
            region.areas.push(start..end);
        }
    }
    region.areas.sort_by_key(|area| area.start);
    Some(region)
}

/// A base address register, mapped: registers, or controller memory. Unmapped when dropped.
///
/// Where the kernel withholds parts (the interrupt table, of old kernels), touching those ends this
/// process; [`MappedBar::at`] never points there.
pub struct MappedBar {
    base: NonNull<u8>,
    len: usize,
    areas: Vec<Range<usize>>,
    /// The mapping goes before the device does.
    _device: Arc<File>,
}

// SAFETY: the mapping is only given out as pointers, whose use has its own conditions; unmapping
// may be done by any thread.
unsafe impl Send for MappedBar {}
// SAFETY: as above; nothing here changes it.
unsafe impl Sync for MappedBar {}

impl MappedBar {
    /// Maps `bar`, as much of it as the kernel gives.
    pub(super) fn map(device: &Arc<File>, bar: u8) -> Result<MappedBar, DeviceError> {
        let not_mappable = |why: String| DeviceError::NotMappable { bar, why };
        if bar >= BARS {
            return Err(not_mappable(format!("there are {BARS} of them")));
        }
        let region = region(device, u32::from(bar)).map_err(|source| DeviceError::Kernel {
            step: "ask about a base address register",
            source,
        })?;
        if region.size == 0 {
            return Err(not_mappable("the drive does not have it".into()));
        }
        if region.areas.is_empty() {
            return Err(not_mappable("the kernel offers no mapping of it".into()));
        }
        let len = usize::try_from(region.size).map_err(|err| not_mappable(err.to_string()))?;
        let base = reserve(len).map_err(|err| not_mappable(err.to_string()))?;
        let mut mapped = MappedBar {
            base,
            len,
            areas: Vec::new(),
            _device: Arc::clone(device),
        };
        for area in &region.areas {
            mapped
                .map_area(device, region.offset, area)
                .map_err(|err| not_mappable(err.to_string()))?;
        }
        Ok(mapped)
    }

    fn map_area(&mut self, device: &File, offset: u64, area: &Range<u64>) -> io::Result<()> {
        let wide = |_| io::Error::from(io::ErrorKind::InvalidData);
        let start = usize::try_from(area.start).map_err(wide)?;
        let end = usize::try_from(area.end).map_err(wide)?;
        let from = libc::off_t::try_from(offset + area.start).map_err(wide)?;
        // SAFETY: replaces a part of our own reservation, which is as long as the region.
        let at = unsafe {
            libc::mmap(
                self.base.as_ptr().add(start).cast(),
                end - start,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_FIXED,
                device.as_raw_fd(),
                from,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        self.areas.push(start..end);
        Ok(())
    }

    /// Bytes of the whole register, mapped or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes; never so.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What of it is mapped, as offsets in bytes, ascending.
    #[must_use]
    pub fn areas(&self) -> &[Range<usize>] {
        &self.areas
    }

    /// The `len` bytes at `offset`, valid while this mapping lives; `None` where they are not all
    /// mapped.
    #[must_use]
    pub fn at(&self, offset: usize, len: usize) -> Option<NonNull<u8>> {
        let end = offset.checked_add(len)?;
        let inside = |area: &&Range<usize>| area.start <= offset && end <= area.end;
        self.areas.iter().find(inside)?;
        // SAFETY: inside an area, which is inside the reservation.
        Some(unsafe { self.base.add(offset) })
    }
}

impl Drop for MappedBar {
    fn drop(&mut self) {
        // SAFETY: our own reservation with all that was mapped into it; who holds pointers into it
        // holds this as well.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Addresses of this process with nothing behind them, so that the parts keep their distances.
fn reserve(len: usize) -> io::Result<NonNull<u8>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(at.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A region of 16 KiB at 0x10000, with the areas told in a capability.
    fn answer(flags: u64, areas: &[(u64, u64)]) -> WithCaps {
        let mut words = vec![flags << 32, 32 << 32, 0x4000, 0x1_0000];
        words.extend([1 | 1 << 16, areas.len() as u64]);
        words.extend(areas.iter().flat_map(|(start, len)| [*start, *len]));
        WithCaps::of(words)
    }

    #[test]
    fn what_may_be_mapped_is_the_whole_or_the_areas_told() {
        let areas = |flags: u64, told: &[(u64, u64)]| {
            let region = read_region(&answer(flags, told)).unwrap();
            assert_eq!((region.offset, region.size), (0x1_0000, 0x4000));
            let areas = region.areas.into_iter();
            areas.map(|area| (area.start, area.end)).collect::<Vec<_>>()
        };
        assert_eq!(areas(0b0011, &[]), []);
        assert_eq!(areas(0b0111, &[]), [(0, 0x4000)]);
        let told = [(0x3000, 0x1000), (0, 0x2000)];
        assert_eq!(areas(0b1111, &told), [(0, 0x2000), (0x3000, 0x4000)]);
        assert_eq!(areas(0b1111, &[(0, 0)]), []);
        // Beyond the region: not to be trusted.
        assert!(read_region(&answer(0b1111, &[(0x3000, 0x2000)])).is_none());
    }

    #[test]
    fn only_mapped_parts_have_an_address() {
        let device = Arc::new(tempfile::tempfile().unwrap());
        device.set_len(0x4000).unwrap();
        let mut bar = MappedBar {
            base: reserve(0x4000).unwrap(),
            len: 0x4000,
            areas: Vec::new(),
            _device: Arc::clone(&device),
        };
        bar.map_area(&device, 0, &(0..0x2000)).unwrap();
        bar.map_area(&device, 0, &(0x3000..0x4000)).unwrap();
        assert!(bar.at(0, 0x2000).is_some() && bar.at(0x3ffc, 4).is_some());
        assert!(bar.at(0x1ffd, 4).is_none() && bar.at(0x2800, 4).is_none());
        assert!(bar.at(usize::MAX, 4).is_none());
        // SAFETY: inside the file's mapping.
        unsafe { bar.at(0x3000, 1).unwrap().write_volatile(7) };
        let mut byte = [0];
        std::os::unix::fs::FileExt::read_exact_at(&*device, &mut byte, 0x3000).unwrap();
        assert_eq!(byte, [7]);
    }
}
