//! A drive's way from the kernel's driver to VFIO, and back.

use super::host::Host;
use super::usage;
use super::{BindError, Drive, Objection, PciAddress};
use std::path::Path;
use std::time::{Duration, Instant};

/// VFIO's driver for PCI devices.
const VFIO: &str = "vfio-pci";
/// The kernel's own driver of such drives.
const NVME: &str = "nvme";

/// How long the kernel may take to show a driver's link after it said yes.
const SETTLE: Duration = Duration::from_secs(2);

impl Host {
    /// Takes a drive from the kernel and gives it to vfio-pci; fine where vfio-pci has it already.
    ///
    /// Refused for a drive in use, and for one that holds anything known or that cannot be looked
    /// at, unless `force`, which a drive in use resists as well.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(&self, address: PciAddress, force: bool) -> Result<(), BindError> {
        let drive = self.drive(address)?;
        if drive.driver.as_deref() == Some(VFIO) {
            return Ok(());
        }
        if drive.iommu_group.is_none() {
            return Err(BindError::NoIommu { address });
        }
        self.require(VFIO)?;
        self.check_free(&drive, force)?;
        let taken = self.rebind(address, VFIO);
        if taken.is_err() {
            // It goes back to whom it was taken from, as well as that goes.
            let _ = self.rebind(address, NVME);
        }
        taken
    }

    /// Gives a drive back to the kernel's driver. Blocks while a program has it open; a node of
    /// ours lets go when it hears of it.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn unbind(&self, address: PciAddress) -> Result<(), BindError> {
        let drive = self.drive(address)?;
        if drive.driver.as_deref() == Some(NVME) {
            return Ok(());
        }
        self.require(NVME)?;
        self.rebind(address, NVME)
    }

    /// What speaks against taking the drive from the kernel: who uses it now, and what it holds.
    #[must_use]
    pub fn objections(&self, drive: &Drive) -> Vec<Objection> {
        let content = |block| usage::content(self, block);
        let uses = drive.blocks.iter().flat_map(|block| block.uses.clone());
        uses.chain(drive.blocks.iter().flat_map(content)).collect()
    }

    fn check_free(&self, drive: &Drive, force: bool) -> Result<(), BindError> {
        let address = drive.address;
        let (mut uses, content): (Vec<_>, Vec<_>) = self
            .objections(drive)
            .into_iter()
            .partition(Objection::in_use);
        if !uses.is_empty() {
            // "In exclusive use" says nothing new beside who that is.
            let known = uses.iter().any(|o| !matches!(o, Objection::Claimed { .. }));
            uses.retain(|o| !known || !matches!(o, Objection::Claimed { .. }));
            return Err(BindError::InUse {
                address,
                objections: uses,
            });
        }
        if force {
            return Ok(());
        }
        if drive.driver.as_deref() != Some(NVME) {
            return Err(BindError::Unchecked {
                address,
                driver: drive.driver.clone(),
            });
        }
        if content.is_empty() {
            return Ok(());
        }
        Err(BindError::HoldsData {
            address,
            objections: content,
        })
    }

    fn require(&self, driver: &'static str) -> Result<(), BindError> {
        let loaded = self.sysfs.join("bus/pci/drivers").join(driver).exists();
        loaded.then_some(()).ok_or(BindError::NoDriver { driver })
    }

    fn rebind(&self, address: PciAddress, wanted: &'static str) -> Result<(), BindError> {
        let device = self.device(address);
        // A line's end alone takes the override away.
        let name = if wanted == NVME { "\n" } else { wanted };
        write(&device.join("driver_override"), name)?;
        if self.driver(address).is_some() {
            write(&device.join("driver/unbind"), &address.to_string())?;
        }
        let probe = self.sysfs.join("bus/pci/drivers_probe");
        write(&probe, &address.to_string())?;
        let until = Instant::now() + SETTLE;
        loop {
            let driver = self.driver(address);
            if driver.as_deref() == Some(wanted) {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(BindError::NotTaken {
                    address,
                    wanted,
                    driver,
                });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// In one piece, as sysfs wants it.
fn write(path: &Path, text: &str) -> Result<(), BindError> {
    std::fs::write(path, text).map_err(BindError::sysfs("write", path))
}
