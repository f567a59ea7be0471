//! Memory of the device itself: where it is mapped, where commands address it, and its export to other
//! devices.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use super::{Device, DeviceError, sys};
use crate::cmb::{CmbLayout, ControllerMapping, DmaBufExport};

/// What exports a base address register's memory.
struct Exporter {
    device: Arc<File>,
    bar: u8,
    /// Where the mapping that is exported from begins in it.
    offset: u64,
}

impl DmaBufExport for Exporter {
    fn export(&self, offset: u64, len: u64) -> io::Result<OwnedFd> {
        export(&self.device, self.bar, self.offset + offset, len)
    }
}

impl Device {
    /// Maps controller memory, and tells where commands shall address it: where the bus has it. That
    /// is the only place for controllers before NVMe 1.4, and as good as any for those that are told
    /// (CMBMSC), as no memory of the host is mapped there.
    ///
    /// # Errors
    /// [`DeviceError::NotMappable`], [`DeviceError::Kernel`].
    pub fn controller_memory(
        &self,
        layout: &CmbLayout,
    ) -> Result<(ControllerMapping, u64), DeviceError> {
        let bar = layout.bar_index;
        let mapped = Arc::new(self.map_bar(bar)?);
        let outside = || DeviceError::NotMappable {
            bar,
            why: format!(
                "its controller memory, {} bytes at {}, is not wholly inside of what is mapped",
                layout.len_bytes, layout.offset_bytes
            ),
        };
        let offset = usize::try_from(layout.offset_bytes).map_err(|_| outside())?;
        let len = usize::try_from(layout.len_bytes).map_err(|_| outside())?;
        let base = mapped.at(offset, len).ok_or_else(outside)?;
        let address = self.bus_address(bar).ok_or_else(outside)? + layout.offset_bytes;
        let exporter = Exporter {
            device: Arc::clone(&self.device),
            bar,
            offset: layout.offset_bytes,
        };
        let mapping = ControllerMapping {
            base,
            len,
            keeper: mapped,
            export: is_offered(&self.device).then(|| Arc::new(exporter) as Arc<dyn DmaBufExport>),
        };
        Ok((mapping, address))
    }

    /// Where the bus has a base address register; `None` where it has none.
    fn bus_address(&self, bar: u8) -> Option<u64> {
        Some(*self.bars.get(usize::from(bar))?.as_ref()?.start())
    }
}

/// Whether the kernel exports the device's memory at all.
fn is_offered(device: &File) -> bool {
    let mut probe = sys::FeatureDmaBuf {
        // Feature and flags only; the kernel reads no data when probed.
        argsz: 8,
        flags: sys::FEATURE_PROBE | sys::FEATURE_GET | sys::FEATURE_DMA_BUF,
        ..Default::default()
    };
    // SAFETY: the structure is longer than its size field tells.
    unsafe { sys::call_with(device.as_fd(), sys::DEVICE_FEATURE, &mut probe) }.is_ok()
}

fn export(device: &File, bar: u8, offset: u64, len: u64) -> io::Result<OwnedFd> {
    let mut export = sys::FeatureDmaBuf {
        argsz: sys::size_field::<sys::FeatureDmaBuf>(),
        flags: sys::FEATURE_GET | sys::FEATURE_DMA_BUF,
        region_index: u32::from(bar),
        open_flags: (libc::O_RDWR | libc::O_CLOEXEC).cast_unsigned(),
        buf_flags: 0,
        nr_ranges: 1,
        offset,
        length: len,
    };
    // SAFETY: the structure's size is told, and its one range is in it.
    let fd = unsafe { sys::call_with(device.as_fd(), sys::DEVICE_FEATURE, &mut export) }?;
    // SAFETY: the descriptor that the kernel just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
