//! Why a device cannot be opened or used, each with what to do about it.

use crate::pci::PciAddress;
use std::io;
use std::path::PathBuf;

/// Why a device could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
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
    /// A driver of the kernel has it, or none.
    #[error(
        "drive {address} is bound to {}, not to vfio-pci; bind it: penstock device bind {address}",
        .driver.as_deref().map_or("no driver".to_owned(), |driver| format!("the kernel driver {driver}"))
    )]
    OtherDriver {
        /// The drive's address.
        address: PciAddress,
        /// The driver that has it.
        driver: Option<String>,
    },
    /// No IOMMU protects this machine from the drive.
    #[error(
        "drive {address} is behind no IOMMU; switch VT-d or AMD-Vi on in the firmware's setup and start the kernel with intel_iommu=on or amd_iommu=on"
    )]
    NoIommu {
        /// The drive's address.
        address: PciAddress,
    },
    /// Others that the IOMMU cannot tell from the drive are in use by the kernel.
    #[error(
        "drive {address} shares IOMMU group {group} with devices that kernel drivers use: {others}; bind them to vfio-pci or to no driver, or move the drive to a slot with a group of its own"
    )]
    GroupNotViable {
        /// The drive's address.
        address: PciAddress,
        /// The group's number.
        group: u32,
        /// Those devices, each with its driver.
        others: String,
    },
    /// Another program, or this one, has it open.
    #[error("drive {address} is in use by another program; stop it, then try again")]
    Busy {
        /// The drive's address.
        address: PciAddress,
    },
    /// VFIO is not there.
    #[error("{} does not exist: the kernel's VFIO is not loaded; run modprobe vfio-pci", .path.display())]
    NoVfio {
        /// The file missing.
        path: PathBuf,
    },
    /// The file is not for this user.
    #[error(
        "no permission for {}; run as root, or give the user access to it (a udev rule with OWNER= or GROUP= for SUBSYSTEM==\"vfio\")",
        .path.display()
    )]
    Denied {
        /// The file.
        path: PathBuf,
    },
    /// The device or the kernel lacks what is needed.
    #[error("drive {address}: {what}")]
    Unsupported {
        /// The drive's address.
        address: PciAddress,
        /// What is missing, with the remedy.
        what: &'static str,
    },
    /// Its registers cannot be reached.
    #[error("drive {address}: {source}")]
    Registers {
        /// The drive's address.
        address: PciAddress,
        /// Why.
        source: DeviceError,
    },
    /// A call failed that should not.
    #[error("drive {address}: cannot {step}: {source}")]
    Kernel {
        /// The drive's address.
        address: PciAddress,
        /// What was done.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Why an open device did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The kernel gives no mapping of a base address register.
    #[error(
        "BAR {bar} cannot be mapped: {why}; where the kernel runs with lockdown=confidentiality, that forbids it"
    )]
    NotMappable {
        /// Which.
        bar: u8,
        /// Why.
        why: String,
    },
    /// More interrupts than there are.
    #[error(
        "{asked} interrupts asked for, the drive has {offered}; use fewer I/O queues with interrupts, or poll"
    )]
    TooFewInterrupts {
        /// How many were asked for.
        asked: u32,
        /// How many MSI-X vectors the drive has.
        offered: u32,
    },
    /// There is no way to reset it.
    #[error(
        "the drive offers no function level reset; reset its controller through its registers (CC.EN)"
    )]
    NoReset,
    /// A call failed that should not.
    #[error("cannot {step}: {source}")]
    Kernel {
        /// What was done.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}
