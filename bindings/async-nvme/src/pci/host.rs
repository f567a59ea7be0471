//! The kernel's files about PCI devices.

use super::PciAddress;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// Mass storage, non-volatile memory, NVM Express (PCIe Transport 1.1, 3.1.2).
pub(crate) const NVME_CLASS: u32 = 0x01_08_02;

/// Base address registers of a device; what follows in its resources is no concern of ours.
const BARS: usize = 6;
/// The flag of memory among the kernel's flags of a resource.
const IORESOURCE_MEM: u64 = 0x200;

/// Where the kernel's file systems are mounted; elsewhere only in tests.
#[derive(Clone, Debug)]
pub struct Host {
    /// `/sys`.
    pub sysfs: PathBuf,
    /// `/proc`.
    pub proc: PathBuf,
    /// `/dev`.
    pub dev: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        Host {
            sysfs: "/sys".into(),
            proc: "/proc".into(),
            dev: "/dev".into(),
        }
    }
}

impl Host {
    pub(crate) fn devices(&self) -> PathBuf {
        self.sysfs.join("bus/pci/devices")
    }

    pub(crate) fn device(&self, address: PciAddress) -> PathBuf {
        self.devices().join(address.to_string())
    }

    /// The driver that has a device, if one has.
    pub(crate) fn driver(&self, address: PciAddress) -> Option<String> {
        link_name(&self.device(address).join("driver"))
    }

    /// The IOMMU group of a device, where an IOMMU is in use.
    pub(crate) fn group(&self, address: PciAddress) -> Option<u32> {
        link_name(&self.device(address).join("iommu_group"))?
            .parse()
            .ok()
    }

    /// The class code of a device.
    pub(crate) fn class(&self, address: PciAddress) -> io::Result<u32> {
        number(&self.device(address).join("class"))
    }

    /// Where the bus has each base address register of a device, as the processor sees it, which is
    /// the same on the machines this runs on. `None` where there is none.
    pub(crate) fn bars(&self, address: PciAddress) -> io::Result<Vec<Option<RangeInclusive<u64>>>> {
        let text = text(&self.device(address).join("resource"))?;
        text.lines()
            .take(BARS)
            .map(|line| {
                bar(line).ok_or_else(|| io::Error::other(format!("\"{line}\" in resource")))
            })
            .collect()
    }

    /// Members of an IOMMU group that a driver other than VFIO's uses. Bridges take no part in
    /// transfers and stay with theirs.
    pub(crate) fn others_in_group(&self, group: u32) -> Vec<(PciAddress, String)> {
        let dir = self
            .sysfs
            .join(format!("kernel/iommu_groups/{group}/devices"));
        let mut others: Vec<_> = names(&dir)
            .iter()
            .filter_map(|name| name.parse().ok())
            .filter_map(|member| Some((member, self.driver(member)?)))
            .filter(|(_, driver)| !is_harmless(driver))
            .collect();
        others.sort();
        others
    }
}

/// Start, end and flags of a resource; all zero where it is none.
fn bar(line: &str) -> Option<Option<RangeInclusive<u64>>> {
    let mut words = line.split_whitespace();
    let mut number = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
    let (start, end, flags) = (number()?, number()?, number()?);
    let is_memory = flags & IORESOURCE_MEM != 0;
    Some((is_memory && start < end).then_some(start..=end))
}

/// Drivers that leave a device to user space, or only forward.
fn is_harmless(driver: &str) -> bool {
    driver.contains("vfio") || matches!(driver, "pci-stub" | "pcieport")
}

/// The last part of what a link names.
pub(crate) fn link_name(link: &Path) -> Option<String> {
    let target = std::fs::read_link(link).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}

/// Names in a directory, in order; none where there is no such directory.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// A file's text without the line's end.
pub(crate) fn text(path: &Path) -> io::Result<String> {
    Ok(std::fs::read_to_string(path)?.trim().to_owned())
}

/// A number in a file, decimal or hexadecimal with 0x.
pub(crate) fn number(path: &Path) -> io::Result<u32> {
    let text = text(path)?;
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|err| io::Error::new(io::ErrorKind::InvalidData, err))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_address_registers_are_read_from_the_kernels_resources() {
        let line = |text| bar(text).unwrap();
        let memory = line("0x00000000fe010000 0x00000000fe013fff 0x0000000000140204");
        assert_eq!(memory, Some(0xfe01_0000..=0xfe01_3fff));
        assert!(line("0x0000000000000000 0x0000000000000000 0x0000000000000000").is_none());
        // Ports.
        assert!(line("0x000000000000c000 0x000000000000c0ff 0x0000000000040101").is_none());
        assert_eq!(bar("0x1"), None);
        assert_eq!(bar("1 2 3"), None);
    }
}
