//! The kernel's side of VFIO and iommufd as numbers and structures, and the one call that reaches
//! it (Linux, `include/uapi/linux/vfio.h` and `iommufd.h`). No policy.

use std::ffi::{c_int, c_ulong};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

const fn number(command: c_ulong) -> c_ulong {
    // `_IO(';', command)`: no direction, no size.
    (b';' as c_ulong) << 8 | command
}

pub(super) const GET_API_VERSION: c_ulong = number(100);
pub(super) const CHECK_EXTENSION: c_ulong = number(101);
pub(super) const SET_IOMMU: c_ulong = number(102);
pub(super) const GROUP_GET_STATUS: c_ulong = number(103);
pub(super) const GROUP_SET_CONTAINER: c_ulong = number(104);
pub(super) const GROUP_GET_DEVICE_FD: c_ulong = number(106);
pub(super) const DEVICE_GET_INFO: c_ulong = number(107);
pub(super) const DEVICE_GET_REGION_INFO: c_ulong = number(108);
pub(super) const DEVICE_GET_IRQ_INFO: c_ulong = number(109);
pub(super) const DEVICE_SET_IRQS: c_ulong = number(110);
pub(super) const DEVICE_RESET: c_ulong = number(111);
pub(super) const IOMMU_GET_INFO: c_ulong = number(112);
pub(super) const IOMMU_MAP_DMA: c_ulong = number(113);
pub(super) const IOMMU_UNMAP_DMA: c_ulong = number(114);
pub(super) const DEVICE_FEATURE: c_ulong = number(117);
pub(super) const DEVICE_BIND_IOMMUFD: c_ulong = number(118);
pub(super) const DEVICE_ATTACH_IOMMUFD_PT: c_ulong = number(119);
pub(super) const IOAS_ALLOC: c_ulong = number(0x81);
pub(super) const IOAS_IOVA_RANGES: c_ulong = number(0x84);
pub(super) const IOAS_MAP: c_ulong = number(0x85);
pub(super) const IOAS_UNMAP: c_ulong = number(0x86);

/// The only API version there ever was.
pub(super) const API_VERSION: c_int = 0;
pub(super) const TYPE1V2: c_ulong = 3;
pub(super) const GROUP_VIABLE: u32 = 1 << 0;
pub(super) const DEVICE_CAN_RESET: u32 = 1 << 0;
pub(super) const DEVICE_IS_PCI: u32 = 1 << 1;
pub(super) const REGION_CAN_MMAP: u32 = 1 << 2;
pub(super) const REGION_HAS_CAPS: u32 = 1 << 3;
pub(super) const REGION_CAP_SPARSE: u16 = 1;
pub(super) const IOMMU_HAS_CAPS: u32 = 1 << 1;
pub(super) const IOMMU_CAP_IOVA_RANGE: u16 = 1;
pub(super) const DMA_READ_WRITE: u32 = 1 << 0 | 1 << 1;
/// Fixed address, writable, readable.
pub(super) const IOAS_MAP_FLAGS: u32 = 1 << 0 | 1 << 1 | 1 << 2;
pub(super) const CONFIG_REGION: u32 = 7;
pub(super) const MSIX_IRQS: u32 = 2;
pub(super) const ERROR_IRQ: u32 = 3;
pub(super) const REQUEST_IRQ: u32 = 4;
pub(super) const IRQ_DATA_NONE: u32 = 1 << 0;
pub(super) const IRQ_DATA_EVENTFD: u32 = 1 << 2;
pub(super) const IRQ_TRIGGER: u32 = 1 << 5;
pub(super) const FEATURE_GET: u32 = 1 << 16;
pub(super) const FEATURE_PROBE: u32 = 1 << 18;
pub(super) const FEATURE_DMA_BUF: u32 = 11;

/// `struct vfio_group_status`.
#[repr(C)]
#[derive(Default)]
pub(super) struct GroupStatus {
    pub argsz: u32,
    pub flags: u32,
}

/// `struct vfio_device_info`, without what newer kernels add.
#[repr(C)]
#[derive(Default)]
pub(super) struct DeviceInfo {
    pub argsz: u32,
    pub flags: u32,
    pub num_regions: u32,
    pub num_irqs: u32,
}

/// `struct vfio_region_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RegionInfo {
    pub argsz: u32,
    pub flags: u32,
    pub index: u32,
    pub cap_offset: u32,
    pub size: u64,
    pub offset: u64,
}
const _: () = assert!(size_of::<RegionInfo>() == 32);

/// `struct vfio_irq_info`.
#[repr(C)]
#[derive(Default)]
pub(super) struct IrqInfo {
    pub argsz: u32,
    pub flags: u32,
    pub index: u32,
    pub count: u32,
}

/// `struct vfio_iommu_type1_info`, padded as the kernel's is.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct IommuInfo {
    pub argsz: u32,
    pub flags: u32,
    pub iova_pgsizes: u64,
    pub cap_offset: u32,
    pub pad: u32,
}
const _: () = assert!(size_of::<IommuInfo>() == 24);

/// `struct vfio_iommu_type1_dma_map`.
#[repr(C)]
#[derive(Default)]
pub(super) struct DmaMap {
    pub argsz: u32,
    pub flags: u32,
    pub vaddr: u64,
    pub iova: u64,
    pub size: u64,
}
const _: () = assert!(size_of::<DmaMap>() == 32);

/// `struct vfio_iommu_type1_dma_unmap`.
#[repr(C)]
#[derive(Default)]
pub(super) struct DmaUnmap {
    pub argsz: u32,
    pub flags: u32,
    pub iova: u64,
    pub size: u64,
}
const _: () = assert!(size_of::<DmaUnmap>() == 24);

/// `struct vfio_device_bind_iommufd`.
#[repr(C)]
#[derive(Default)]
pub(super) struct BindIommufd {
    pub argsz: u32,
    pub flags: u32,
    pub iommufd: i32,
    pub out_devid: u32,
}

/// `struct vfio_device_attach_iommufd_pt`.
#[repr(C)]
#[derive(Default)]
pub(super) struct AttachIommufd {
    pub argsz: u32,
    pub flags: u32,
    pub pt_id: u32,
}

/// `struct iommu_ioas_alloc`.
#[repr(C)]
#[derive(Default)]
pub(super) struct IoasAlloc {
    pub size: u32,
    pub flags: u32,
    pub out_ioas_id: u32,
}

/// `struct iommu_ioas_iova_ranges`.
#[repr(C)]
#[derive(Default)]
pub(super) struct IoasRanges {
    pub size: u32,
    pub ioas_id: u32,
    pub num_iovas: u32,
    pub reserved: u32,
    pub allowed_iovas: u64,
    pub out_iova_alignment: u64,
}
const _: () = assert!(size_of::<IoasRanges>() == 32);

/// `struct iommu_iova_range`, both ends inside.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct IovaRange {
    pub start: u64,
    pub last: u64,
}

/// `struct iommu_ioas_map`.
#[repr(C)]
#[derive(Default)]
pub(super) struct IoasMap {
    pub size: u32,
    pub flags: u32,
    pub ioas_id: u32,
    pub reserved: u32,
    pub user_va: u64,
    pub length: u64,
    pub iova: u64,
}
const _: () = assert!(size_of::<IoasMap>() == 40);

/// `struct iommu_ioas_unmap`.
#[repr(C)]
#[derive(Default)]
pub(super) struct IoasUnmap {
    pub size: u32,
    pub ioas_id: u32,
    pub iova: u64,
    pub length: u64,
}
const _: () = assert!(size_of::<IoasUnmap>() == 24);

/// `struct vfio_device_feature` with a `vfio_device_feature_dma_buf` of one range.
#[repr(C)]
#[derive(Default)]
pub(super) struct FeatureDmaBuf {
    pub argsz: u32,
    pub flags: u32,
    pub region_index: u32,
    pub open_flags: u32,
    pub buf_flags: u32,
    pub nr_ranges: u32,
    pub offset: u64,
    pub length: u64,
}
const _: () = assert!(size_of::<FeatureDmaBuf>() == 40);

/// The size of `T` as the kernel's structures carry it.
pub(super) const fn size_field<T>() -> u32 {
    // The structures above are all tens of bytes.
    #[allow(clippy::cast_possible_truncation)]
    {
        size_of::<T>() as u32
    }
}

/// A call whose argument is a number, or none (0). What the kernel returned.
pub(super) fn call(fd: BorrowedFd<'_>, request: c_ulong, argument: c_ulong) -> io::Result<c_int> {
    // SAFETY: the requests used so take a number, no pointer.
    let returned = unsafe { libc::ioctl(fd.as_raw_fd(), request, argument) };
    checked(returned)
}

/// A call whose argument points to `argument`. What the kernel returned.
///
/// # Safety
/// `request` must be one that reads and writes no more than the structure's own size field (`argsz`
/// or `size`) tells, and that field must not exceed `T`'s size. Pointers inside must be valid as
/// the request asks.
pub(super) unsafe fn call_with<T>(
    fd: BorrowedFd<'_>,
    request: c_ulong,
    argument: &mut T,
) -> io::Result<c_int> {
    // SAFETY: as the caller promises.
    let returned = unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_mut(argument)) };
    checked(returned)
}

/// A call whose argument is a structure of 4-byte words with data behind it.
///
/// # Safety
/// As [`call_with`]; the first word tells the structure's size with its data.
pub(super) unsafe fn call_words(
    fd: BorrowedFd<'_>,
    request: c_ulong,
    words: &mut [u32],
) -> io::Result<c_int> {
    // SAFETY: as the caller promises.
    let returned = unsafe { libc::ioctl(fd.as_raw_fd(), request, words.as_mut_ptr()) };
    checked(returned)
}

fn checked(returned: c_int) -> io::Result<c_int> {
    if returned < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(returned)
}

/// An information structure with the chain of capabilities that the kernel puts behind it.
pub(super) struct WithCaps {
    bytes: Vec<u64>,
    len: usize,
}

impl WithCaps {
    /// Asks for the structure `first` (whose first word is `argsz`), and again with the room that
    /// the kernel then asks for.
    ///
    /// # Errors
    /// What the kernel says.
    ///
    /// # Safety
    /// `request` takes a `T`, whose first field is `argsz`, and writes at most `argsz` bytes.
    pub unsafe fn ask<T: Copy>(fd: BorrowedFd<'_>, request: c_ulong, first: T) -> io::Result<Self> {
        let mut len = size_of::<T>();
        // The kernel's demand may grow between two calls, but not for ever.
        for _ in 0..4 {
            let mut bytes = vec![0_u64; len.div_ceil(8)];
            // SAFETY: the vector has room for a `T` and is aligned to 8 bytes, as every T's fields.
            unsafe { bytes.as_mut_ptr().cast::<T>().write(first) };
            let argsz =
                u32::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            // SAFETY: the first word of the vector's memory.
            unsafe { bytes.as_mut_ptr().cast::<u32>().write(argsz) };
            // SAFETY: the kernel writes at most `argsz` bytes, which the vector has.
            let returned = unsafe { libc::ioctl(fd.as_raw_fd(), request, bytes.as_mut_ptr()) };
            checked(returned)?;
            let caps = WithCaps { bytes, len };
            let wanted = usize::try_from(caps.u32(0).unwrap_or(0)).unwrap_or(0);
            if wanted <= len {
                return Ok(caps);
            }
            len = wanted;
        }
        Err(io::Error::other("the kernel's answer keeps growing"))
    }

    #[cfg(test)]
    pub fn of(words: Vec<u64>) -> Self {
        let len = words.len() * 8;
        WithCaps { bytes: words, len }
    }

    /// 4 bytes at `offset`.
    pub fn u32(&self, offset: usize) -> Option<u32> {
        let word = self.bytes.get(offset / 8)?.to_ne_bytes();
        let at = offset % 8;
        let bytes: [u8; 4] = word.get(at..at + 4)?.try_into().ok()?;
        (offset + 4 <= self.len).then(|| u32::from_ne_bytes(bytes))
    }

    /// 8 bytes at `offset`, which need only be aligned to 4.
    pub fn u64(&self, offset: usize) -> Option<u64> {
        let (first, second) = (self.u32(offset)?, self.u32(offset + 4)?);
        let [a, b, c, d] = first.to_ne_bytes();
        let [e, f, g, h] = second.to_ne_bytes();
        Some(u64::from_ne_bytes([a, b, c, d, e, f, g, h]))
    }

    /// Where capability `id` begins, in the chain that starts at `first`.
    pub fn find(&self, first: u32, id: u16) -> Option<usize> {
        let mut at = usize::try_from(first).ok()?;
        // A chain that loops ends here.
        for _ in 0..64 {
            if at == 0 {
                return None;
            }
            let head = self.u32(at)?.to_ne_bytes();
            if u16::from_ne_bytes([head[0], head[1]]) == id {
                return Some(at);
            }
            at = usize::try_from(self.u32(at + 4)?).ok()?;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_numbers_are_the_kernels() {
        // As `_IO` of the kernel's headers makes them.
        assert_eq!(GET_API_VERSION, 0x3b64);
        assert_eq!(DEVICE_FEATURE, 0x3b75);
        assert_eq!(IOAS_MAP, 0x3b85);
    }

    #[test]
    fn capabilities_are_found_and_a_loop_or_an_end_outside_is_none() {
        // Two capabilities: id 7 at 8, whose next is id 1 at 24.
        let chain = |next: u64| {
            WithCaps::of(vec![
                0,
                7 | 24 << 32,
                0xaa,
                1 | next << 32,
                0x0000_0002_0000_0001,
            ])
        };
        let caps = chain(0);
        assert_eq!(caps.find(8, 1), Some(24));
        assert_eq!(caps.u64(32), Some(0x0000_0002_0000_0001));
        assert_eq!(caps.u64(28), Some(1 << 32));
        assert_eq!(caps.find(8, 9), None);
        assert_eq!(caps.find(0, 7), None);
        assert_eq!(chain(8).find(8, 9), None);
        assert_eq!(chain(4096).find(8, 9), None);
        assert_eq!(caps.u32(40), None);
    }
}
