//! From an address to an open device in an IOMMU address space.

use super::IommuChoice;
use super::error::OpenError;
use super::iommufd::IoAddressSpace;
use super::mapper::{IommuMapper, Space};
use super::sys;
use super::type1::Type1;
use crate::pci::{Host, NVME_CLASS, PciAddress};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::path::Path;
use std::sync::Arc;

/// The open device and the memory it may reach.
pub(super) struct Opened {
    pub device: Arc<File>,
    pub space: Arc<dyn Space>,
    pub iommu: IommuChoice,
}

/// Checks all that can be told without opening anything, then opens.
pub(super) fn open(
    address: PciAddress,
    host: &Host,
    choice: IommuChoice,
) -> Result<Opened, OpenError> {
    let group = check(address, host)?;
    let cdev = host.device(address).join("vfio-dev");
    let cdev = crate::pci::names(&cdev).into_iter().next();
    let iommufd = host.dev.join("iommu");
    match (choice, cdev) {
        (IommuChoice::Newest | IommuChoice::Iommufd, Some(name)) if iommufd.exists() => {
            let device = host.dev.join("vfio/devices").join(name);
            by_iommufd(address, &iommufd, &device)
        }
        (IommuChoice::Iommufd, _) => Err(OpenError::Unsupported {
            address,
            what: "this kernel offers no iommufd (Linux 6.6 with CONFIG_VFIO_DEVICE_CDEV, and /dev/iommu); use the type 1 container",
        }),
        (IommuChoice::Newest | IommuChoice::Type1, _) => by_group(address, host, group),
    }
}

/// What sysfs tells. The device's group.
pub(crate) fn check(address: PciAddress, host: &Host) -> Result<u32, OpenError> {
    let class = match host.class(address) {
        Ok(class) => class,
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            return Err(OpenError::NotFound { address });
        }
        Err(source) => {
            return Err(OpenError::Kernel {
                address,
                step: "read its class",
                source,
            });
        }
    };
    if class != NVME_CLASS {
        return Err(OpenError::NotNvme { address, class });
    }
    let group = host.group(address).ok_or(OpenError::NoIommu { address })?;
    let driver = host.driver(address);
    if !driver.as_deref().is_some_and(|name| name.contains("vfio")) {
        return Err(OpenError::OtherDriver { address, driver });
    }
    let others = host.others_in_group(group);
    if others.is_empty() {
        return Ok(group);
    }
    let others: Vec<_> = others
        .iter()
        .map(|(member, driver)| format!("{member} ({driver})"))
        .collect();
    Err(OpenError::GroupNotViable {
        address,
        group,
        others: others.join(", "),
    })
}

fn by_iommufd(address: PciAddress, iommufd: &Path, device: &Path) -> Result<Opened, OpenError> {
    let device = open_file(address, device)?;
    let iommufd = open_file(address, iommufd)?;
    let space = IoAddressSpace::attach(iommufd, &device)
        .map_err(|err| failed(address, "attach it to an address space", err))?;
    let space =
        IommuMapper::new(space).map_err(|err| failed(address, "ask for device addresses", err))?;
    Ok(Opened {
        device: Arc::new(device),
        space: Arc::new(space),
        iommu: IommuChoice::Iommufd,
    })
}

fn by_group(address: PciAddress, host: &Host, number: u32) -> Result<Opened, OpenError> {
    let kernel = |step| move |err| failed(address, step, err);
    let container = open_file(address, &host.dev.join("vfio/vfio"))?;
    let version = sys::call(container.as_fd(), sys::GET_API_VERSION, 0)
        .map_err(kernel("ask for VFIO's version"))?;
    let type1 = sys::call(container.as_fd(), sys::CHECK_EXTENSION, sys::TYPE1V2)
        .map_err(kernel("ask for VFIO's IOMMU types"))?;
    if version != sys::API_VERSION || type1 != 1 {
        return Err(OpenError::Unsupported {
            address,
            what: "the kernel's VFIO offers no type 1 (version 2) IOMMU; run modprobe vfio_iommu_type1",
        });
    }
    let group = open_file(address, &host.dev.join(format!("vfio/{number}")))?;
    let mut status = sys::GroupStatus {
        argsz: sys::size_field::<sys::GroupStatus>(),
        ..Default::default()
    };
    // SAFETY: the structure's size is told.
    unsafe { sys::call_with(group.as_fd(), sys::GROUP_GET_STATUS, &mut status) }
        .map_err(kernel("ask for its group's status"))?;
    if status.flags & sys::GROUP_VIABLE == 0 {
        return Err(OpenError::GroupNotViable {
            address,
            group: number,
            others: "of another bus than PCI, or bound just now".into(),
        });
    }
    put_into(&group, &container).map_err(kernel("put its group into a container"))?;
    sys::call(container.as_fd(), sys::SET_IOMMU, sys::TYPE1V2)
        .map_err(kernel("set the IOMMU's type"))?;
    let device = device_of(&group, address).map_err(kernel("open it through its group"))?;
    let space = Type1 {
        container,
        _group: group,
    };
    let space = IommuMapper::new(space).map_err(kernel("ask for device addresses"))?;
    Ok(Opened {
        device: Arc::new(device),
        space: Arc::new(space),
        iommu: IommuChoice::Type1,
    })
}

fn put_into(group: &File, container: &File) -> io::Result<()> {
    let mut descriptor = container.as_raw_fd();
    // SAFETY: the request reads one descriptor.
    unsafe { sys::call_with(group.as_fd(), sys::GROUP_SET_CONTAINER, &mut descriptor) }.map(drop)
}

fn device_of(group: &File, address: PciAddress) -> io::Result<File> {
    let name = CString::new(address.to_string()).map_err(io::Error::other)?;
    let mut name = name.into_bytes_with_nul();
    // SAFETY: the request reads a string with its end; the descriptor it returns is ours alone.
    unsafe {
        let first = &mut name[0];
        let fd = libc::ioctl(
            group.as_raw_fd(),
            sys::GROUP_GET_DEVICE_FD,
            std::ptr::from_mut(first),
        );
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(File::from_raw_fd(fd))
    }
}

fn open_file(address: PciAddress, path: &Path) -> Result<File, OpenError> {
    let file = File::options().read(true).write(true).open(path);
    file.map_err(|err| match err.kind() {
        io::ErrorKind::NotFound => OpenError::NoVfio { path: path.into() },
        io::ErrorKind::PermissionDenied => OpenError::Denied { path: path.into() },
        // The group's file exists, but VFIO's driver behind it does not.
        _ if err.raw_os_error() == Some(libc::ENODEV) => OpenError::NoVfio { path: path.into() },
        _ => failed(address, "open its files under /dev", err),
    })
}

fn failed(address: PciAddress, step: &'static str, source: io::Error) -> OpenError {
    if source.raw_os_error() == Some(libc::EBUSY) {
        return OpenError::Busy { address };
    }
    OpenError::Kernel {
        address,
        step,
        source,
    }
}
