//! A PCI function in this process's hands: its registers, its memory, its interrupts, and the
//! memory of ours that it may reach, through the kernel's VFIO.
//!
//! Order at the end: the drive is told to stop reaching memory, its mappings go, its descriptor is
//! closed (the kernel then disables it), and last the IOMMU's mappings are taken back, as far as
//! nobody else still holds the [`Mapper`].

mod addresses;
mod error;
mod interrupts;
mod iommufd;
mod mapper;
mod memory;
mod open;
mod region;
mod sys;
mod type1;

#[cfg(test)]
mod tests;

pub use error::{DeviceError, OpenError};
pub use interrupts::Interrupts;
#[cfg(feature = "spdk")]
pub(crate) use open::check;
pub use region::MappedBar;

use crate::bar::Bar;
use crate::dma::Mapper;
use crate::event::Event;
use crate::pci::{Host, PciAddress};
use mapper::Space;
use region::Region;
use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Offset of the command register in the configuration space (PCI Express Base 5.0, 7.5.1.1.3).
const COMMAND: u64 = 4;
const MEMORY_SPACE: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;

/// Registers before the first doorbell (Base 2.1, 3.1.4; PCIe Transport 1.1, 3.1.2), and two
/// doorbells, the least a controller has.
const BAR0_LEAST: usize = 0x1008;

/// Which of the kernel's ways to the IOMMU to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IommuChoice {
    /// iommufd where the kernel offers it, else the type 1 container.
    #[default]
    Newest,
    /// The container, even where there is iommufd.
    Type1,
    /// iommufd, or an error.
    Iommufd,
}

/// How to open a device.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Where the kernel's files are.
    pub host: Host,
    /// The way to the IOMMU.
    pub iommu: IommuChoice,
}

/// An NVMe controller opened through VFIO, its memory space and bus mastering switched on.
pub struct Device {
    address: PciAddress,
    iommu: IommuChoice,
    can_reset: bool,
    bar0: Bar,
    /// Where the bus has each base address register.
    bars: Vec<Option<RangeInclusive<u64>>>,
    config: Region,
    request: Watched,
    error: Watched,
    device: Arc<File>,
    space: Arc<dyn Space>,
}

/// An event that once seen stays seen. `None` where the kernel does not offer it.
struct Watched {
    event: Option<Event>,
    seen: AtomicBool,
}

impl Watched {
    fn on(device: &File, index: u32) -> Watched {
        let event = match interrupts::count(device, index) {
            Ok(1..) => Event::new()
                .and_then(|event| {
                    interrupts::signal(device, index, std::slice::from_ref(&event))?;
                    Ok(event)
                })
                .inspect_err(
                    |err| tracing::warn!(%err, index, "cannot listen for a device's event"),
                )
                .ok(),
            _ => None,
        };
        Watched {
            event,
            seen: AtomicBool::new(false),
        }
    }

    fn happened(&self) -> bool {
        if self.event.as_ref().is_some_and(|event| event.take() > 0) {
            self.seen.store(true, Ordering::Relaxed);
        }
        self.seen.load(Ordering::Relaxed)
    }
}

impl Device {
    /// Opens the drive at `address`, which must be bound to vfio-pci.
    ///
    /// # Errors
    /// Each thing that is not as it must be has its own, with the remedy.
    pub fn open(address: &PciAddress, options: &OpenOptions) -> Result<Device, OpenError> {
        let address = *address;
        let opened = open::open(address, &options.host, options.iommu)?;
        let device = opened.device;
        let kernel = |step| {
            move |source| OpenError::Kernel {
                address,
                step,
                source,
            }
        };
        let flags = device_flags(&device).map_err(kernel("ask what it is"))?;
        if flags & sys::DEVICE_IS_PCI == 0 {
            return Err(OpenError::Unsupported {
                address,
                what: "VFIO says that this is no PCI device; bind it to vfio-pci",
            });
        }
        let config = region::region(&device, sys::CONFIG_REGION)
            .map_err(kernel("find its configuration space"))?;
        let bars = options.host.bars(address);
        let bars = bars.map_err(kernel("read where the bus has its memory"))?;
        for bar in bars.iter().flatten() {
            // Memory there would be out of the device's reach, behind its own; and controller memory
            // is addressed there.
            opened.space.exclude(bar.clone());
        }
        let bar0 = registers(&device).map_err(|source| OpenError::Registers { address, source })?;
        let device = Device {
            address,
            iommu: opened.iommu,
            can_reset: flags & sys::DEVICE_CAN_RESET != 0,
            bar0,
            bars,
            config,
            request: Watched::on(&device, sys::REQUEST_IRQ),
            error: Watched::on(&device, sys::ERROR_IRQ),
            device,
            space: opened.space,
        };
        device
            .switch_on()
            .map_err(kernel("switch on its memory space and bus mastering"))?;
        tracing::info!(%address, iommu = ?device.iommu, "drive opened");
        Ok(device)
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> PciAddress {
        self.address
    }

    /// The way to the IOMMU that was taken; never [`IommuChoice::Newest`].
    #[must_use]
    pub fn iommu(&self) -> IommuChoice {
        self.iommu
    }

    /// The controller's registers. The mapping lives as long as any clone.
    #[must_use]
    pub fn bar0(&self) -> Bar {
        self.bar0.clone()
    }

    /// What makes memory of this process reachable for the device.
    #[must_use]
    pub fn mapper(&self) -> Arc<dyn Mapper> {
        Arc::clone(&self.space) as Arc<dyn Mapper>
    }

    /// Maps base address register `bar` (0 to 5), such as the one with controller memory.
    ///
    /// # Errors
    /// [`DeviceError::NotMappable`], [`DeviceError::Kernel`].
    pub fn map_bar(&self, bar: u8) -> Result<MappedBar, DeviceError> {
        MappedBar::map(&self.device, bar)
    }

    /// Switches on the first `count` MSI-X vectors, until what is returned is dropped. Only one set
    /// at a time.
    ///
    /// # Errors
    /// [`DeviceError::TooFewInterrupts`], [`DeviceError::Kernel`].
    pub fn interrupts(&self, count: u32) -> Result<Interrupts, DeviceError> {
        Interrupts::new(&self.device, count)
    }

    /// Whether the kernel wants the device back: it is being unplugged, or bound to another driver.
    /// Once true, always true. The kernel waits until this device and all its mappings are dropped.
    #[must_use]
    pub fn removal_requested(&self) -> bool {
        self.request.happened()
    }

    /// The descriptor that is readable when [`Device::removal_requested`] becomes true. `None`
    /// where the kernel does not offer it.
    #[must_use]
    pub fn removal_event(&self) -> Option<BorrowedFd<'_>> {
        self.request.event.as_ref().map(Event::as_fd)
    }

    /// Whether PCI Express reported an error of the device that nothing corrected. Once true,
    /// always true; open the device anew.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.error.happened()
    }

    /// The descriptor that is readable when [`Device::failed`] becomes true. `None` where the
    /// kernel does not offer it.
    #[must_use]
    pub fn error_event(&self) -> Option<BorrowedFd<'_>> {
        self.error.event.as_ref().map(Event::as_fd)
    }

    /// Resets the whole function. The controller is disabled afterwards; nothing it was told
    /// before holds.
    ///
    /// # Errors
    /// [`DeviceError::NoReset`], [`DeviceError::Kernel`].
    pub fn reset(&self) -> Result<(), DeviceError> {
        if !self.can_reset {
            return Err(DeviceError::NoReset);
        }
        let kernel = |step| move |source| DeviceError::Kernel { step, source };
        sys::call(self.device.as_fd(), sys::DEVICE_RESET, 0)
            .map_err(kernel("reset the function"))?;
        self.switch_on()
            .map_err(kernel("switch its memory space and bus mastering on again"))
    }

    /// Reads the PCI configuration space from `offset`.
    ///
    /// # Errors
    /// Outside of it, or the kernel refuses.
    pub fn read_config(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.config.within(offset, into.len())?;
        self.device.read_exact_at(into, self.config.offset + offset)
    }

    /// Writes the PCI configuration space at `offset`; the kernel keeps some of it to itself.
    ///
    /// # Errors
    /// As [`Device::read_config`].
    pub fn write_config(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.config.within(offset, bytes.len())?;
        self.device.write_all_at(bytes, self.config.offset + offset)
    }

    /// Gives the device back once nothing of it is mapped any more, or after `limit`. Who lets go of
    /// it last waits in the kernel until it has been reset, a minute and more where it was pulled
    /// out: that is to be the caller, not a thread that has other things to do.
    pub fn close(self, limit: Duration) {
        let last = Arc::clone(&self.device);
        drop(self);
        let begun = Instant::now();
        while Arc::strong_count(&last) > 1 && begun.elapsed() < limit {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn command(&self) -> io::Result<u16> {
        let mut command = [0; 2];
        self.read_config(COMMAND, &mut command)?;
        Ok(u16::from_le_bytes(command))
    }

    fn switch_on(&self) -> io::Result<()> {
        let command = self.command()? | MEMORY_SPACE | BUS_MASTER;
        self.write_config(COMMAND, &command.to_le_bytes())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Registers may still be held elsewhere, which keeps the device open; it must not reach
        // memory any more all the same.
        let off = self
            .command()
            .and_then(|command| self.write_config(COMMAND, &(command & !BUS_MASTER).to_le_bytes()));
        if let Err(err) = off {
            // A drive that was pulled out has no configuration space.
            tracing::debug!(address = %self.address, %err, "cannot switch bus mastering off");
        }
    }
}

fn device_flags(device: &File) -> io::Result<u32> {
    let mut info = sys::DeviceInfo {
        argsz: sys::size_field::<sys::DeviceInfo>(),
        ..Default::default()
    };
    // SAFETY: the structure's size is told.
    unsafe { sys::call_with(device.as_fd(), sys::DEVICE_GET_INFO, &mut info)? };
    Ok(info.flags)
}

/// The controller's registers: what is mapped of BAR 0 from its start.
fn registers(device: &Arc<File>) -> Result<Bar, DeviceError> {
    let mapped = MappedBar::map(device, 0)?;
    let first = mapped.areas().first().filter(|area| area.start == 0);
    let len = first.map_or(0, |area| area.end);
    let base = mapped.at(0, len).filter(|_| len >= BAR0_LEAST);
    let Some(base) = base else {
        return Err(DeviceError::NotMappable {
            bar: 0,
            why: format!("only {len} bytes of it are mapped, registers need {BAR0_LEAST}"),
        });
    };
    // SAFETY: page-aligned, `len` bytes mapped as long as `mapped` lives, which the bar holds.
    Ok(unsafe { Bar::new(base, len, Arc::new(mapped)) })
}
