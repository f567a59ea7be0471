//! Why a drive does not change its driver.

use super::{Objection, PciAddress};
use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

/// Why a drive could not be looked at, or given to another driver.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Nothing is at the address.
    #[error(
        "there is no PCI device {address}; `penstock device list --local` shows the NVMe drives of this machine"
    )]
    NotFound {
        /// The address asked for.
        address: PciAddress,
    },
    /// Something else is there.
    #[error(
        "PCI device {address} is of class {class:#08x}, no NVMe controller (0x010802); `penstock device list --local` shows those"
    )]
    NotNvme {
        /// The address asked for.
        address: PciAddress,
        /// Its class code.
        class: u32,
    },
    /// A program could reach all memory through the drive.
    #[error(
        "drive {address} is behind no IOMMU; switch VT-d or AMD-Vi on in the firmware's setup and start the kernel with intel_iommu=on or amd_iommu=on"
    )]
    NoIommu {
        /// The drive's address.
        address: PciAddress,
    },
    /// The driver to bind to is not loaded.
    #[error("the kernel's driver {driver} is not loaded; run modprobe {driver}")]
    NoDriver {
        /// Its name.
        driver: &'static str,
    },
    /// It is in use; no force helps.
    #[error("drive {address} is in use: {}; stop using it (umount, swapoff, vgchange -an, mdadm --stop)", list(.objections))]
    InUse {
        /// The drive's address.
        address: PciAddress,
        /// Who uses it.
        objections: Vec<Objection>,
    },
    /// It holds something.
    #[error("drive {address} is not empty: {}; clear it with wipefs -a, or force if nobody needs that any more", list(.objections))]
    HoldsData {
        /// The drive's address.
        address: PciAddress,
        /// What.
        objections: Vec<Objection>,
    },
    /// Nobody can tell whether it is empty.
    #[error(
        "drive {address} is bound to {}, so what it holds cannot be looked at; bind it to nvme first, or force",
        .driver.as_deref().unwrap_or("no driver")
    )]
    Unchecked {
        /// The drive's address.
        address: PciAddress,
        /// The driver that has it.
        driver: Option<String>,
    },
    /// Not as this user.
    #[error("no permission to {step} {}; run as root", .path.display())]
    Denied {
        /// What was done.
        step: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// A file of sysfs did not take it.
    #[error("cannot {step} {}: {source}", .path.display())]
    Sysfs {
        /// What was done.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel said yes and did no.
    #[error(
        "drive {address} is bound to {} and not to {wanted}; the kernel's log (dmesg) says why",
        .driver.as_deref().unwrap_or("no driver")
    )]
    NotTaken {
        /// The drive's address.
        address: PciAddress,
        /// The driver asked for.
        wanted: &'static str,
        /// The driver that has it now.
        driver: Option<String>,
    },
}

impl BindError {
    pub(super) fn sysfs(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BindError {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::PermissionDenied => BindError::Denied { step, path },
            _ => BindError::Sysfs { step, path, source },
        }
    }
}

fn list(objections: &[Objection]) -> String {
    let mut text = String::new();
    for (index, objection) in objections.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        // Writing to a String cannot fail.
        let _ = write!(text, "{comma}{objection}");
    }
    text
}
