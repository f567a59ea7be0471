//! The NVMe controllers and the kernel's disks on them.

use super::host::{Host, NVME_CLASS, names, number, text};
use super::usage::{self, Objection};
use super::{BindError, PciAddress};

/// A disk that the kernel's driver shows for a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its name under `/dev`.
    pub name: String,
    /// Length in bytes.
    pub size_bytes: u64,
    /// Names of its partitions under `/dev`.
    pub partitions: Vec<String>,
    /// What uses it now.
    pub uses: Vec<Objection>,
}

/// An NVMe controller of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drive {
    /// Where it is.
    pub address: PciAddress,
    /// PCI vendor.
    pub vendor_id: u16,
    /// PCI device of that vendor.
    pub device_id: u16,
    /// The driver that has it.
    pub driver: Option<String>,
    /// NUMA node, where the machine has several.
    pub numa_node: Option<u32>,
    /// IOMMU group, where an IOMMU is in use.
    pub iommu_group: Option<u32>,
    /// Model and serial number, while the kernel's driver has it.
    pub model: Option<String>,
    /// As `model`.
    pub serial: Option<String>,
    /// The kernel's disks on it, while its driver has it.
    pub blocks: Vec<Block>,
}

impl Host {
    /// All NVMe controllers, by address.
    ///
    /// # Errors
    /// [`BindError::Sysfs`]: sysfs cannot be read.
    pub fn drives(&self) -> Result<Vec<Drive>, BindError> {
        let dir = self.devices();
        std::fs::read_dir(&dir).map_err(BindError::sysfs("list", &dir))?;
        let addresses = names(&dir).into_iter().filter_map(|name| name.parse().ok());
        // One that goes away meanwhile is no error.
        let drives = addresses.filter_map(|address| self.drive(address).ok());
        Ok(drives.collect())
    }

    /// The controller at `address`.
    ///
    /// # Errors
    /// [`BindError::NotFound`], [`BindError::NotNvme`], [`BindError::Sysfs`].
    pub fn drive(&self, address: PciAddress) -> Result<Drive, BindError> {
        let dir = self.device(address);
        if !dir.exists() {
            return Err(BindError::NotFound { address });
        }
        let file = |name: &str| {
            let path = dir.join(name);
            number(&path).map_err(BindError::sysfs("read", &path))
        };
        let class = file("class")?;
        if class != NVME_CLASS {
            return Err(BindError::NotNvme { address, class });
        }
        let short = |number| u16::try_from(number).unwrap_or(u16::MAX);
        let controller = names(&dir.join("nvme")).into_iter().next();
        let told = |name: &str| {
            let path = dir.join("nvme").join(controller.as_ref()?).join(name);
            text(&path).ok().filter(|text| !text.is_empty())
        };
        Ok(Drive {
            address,
            vendor_id: short(file("vendor")?),
            device_id: short(file("device")?),
            driver: self.driver(address),
            // The kernel writes -1 for none.
            numa_node: number(&dir.join("numa_node")).ok(),
            iommu_group: self.group(address),
            model: told("model"),
            serial: told("serial"),
            blocks: controller.map_or_else(Vec::new, |name| self.blocks(address, &name)),
        })
    }

    fn blocks(&self, address: PciAddress, controller: &str) -> Vec<Block> {
        let dir = self.device(address).join("nvme").join(controller);
        let entries = names(&dir);
        let mut disks: Vec<_> = entries.iter().filter_map(|entry| disk_of(entry)).collect();
        disks.sort();
        disks.dedup();
        disks.into_iter().map(|name| self.block(name)).collect()
    }

    fn block(&self, name: String) -> Block {
        let class = self.sysfs.join("class/block").join(&name);
        let is_partition = |entry: &String| class.join(entry).join("partition").exists();
        // The kernel counts in units of 512 bytes whatever the block size.
        let sectors = text(&class.join("size"))
            .ok()
            .and_then(|text| text.parse().ok());
        let mut block = Block {
            size_bytes: sectors.unwrap_or(0_u64).saturating_mul(512),
            partitions: names(&class).into_iter().filter(is_partition).collect(),
            uses: Vec::new(),
            name,
        };
        block.uses = usage::uses(self, &block);
        block
    }
}

/// The disk's name, where `entry` is a namespace (`nvme0n1`) or, with multipathing, a path to one:
/// `nvme0c1n1` is subsystem 0's namespace 1 by controller 1, and its disk is the subsystem's.
fn disk_of(entry: &str) -> Option<String> {
    let (place, namespace) = entry.strip_prefix("nvme")?.split_once('n')?;
    let subsystem = match place.split_once('c') {
        Some((subsystem, path)) if is_number(path) => subsystem,
        Some(_) => return None,
        None => place,
    };
    (is_number(subsystem) && is_number(namespace)).then(|| format!("nvme{subsystem}n{namespace}"))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_told_from_paths_to_them_and_from_other_files() {
        assert_eq!(disk_of("nvme0n1").as_deref(), Some("nvme0n1"));
        assert_eq!(disk_of("nvme12c1n20").as_deref(), Some("nvme12n20"));
        for other in [
            "ng0n1",
            "nvme0",
            "nvme0n",
            "nvme0n1p1",
            "nvmecn1",
            "hwmon1",
            "numa_node",
        ] {
            assert_eq!(disk_of(other), None, "{other}");
        }
    }
}
