//! Which PCI devices a path or an IP address leads to, by the kernel's files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use penstock_async_nvme::pci::PciAddress;

/// How deep devices are followed that stand on others: RAID on device mapper on partitions.
const DEPTH_MAX: usize = 8;

/// The kernel's files, and the addresses of the interfaces.
pub struct Places {
    sysfs: PathBuf,
    addresses: BTreeMap<String, BTreeSet<IpAddr>>,
}

impl Places {
    /// Those of this machine now.
    pub fn of_this_machine() -> Places {
        Places::at(PathBuf::from("/sys"), crate::agent::interface_addresses())
    }

    /// Those under another root than `/sys`.
    pub fn at(sysfs: PathBuf, addresses: BTreeMap<String, BTreeSet<IpAddr>>) -> Places {
        Places { sysfs, addresses }
    }

    /// The addresses of each interface that is up.
    pub fn addresses(&self) -> &BTreeMap<String, BTreeSet<IpAddr>> {
        &self.addresses
    }

    /// The PCI devices under what `path` is or lies on; where it is not there yet, its folder.
    pub fn under_path(&self, path: &Path) -> BTreeSet<String> {
        let found = path.ancestors().find(|part| part.exists());
        // What is left of a relative path is nothing, which is here.
        let found = found.unwrap_or(Path::new("."));
        let drive = crate::managed::drive_of(found, &self.sysfs);
        drive.map_or_else(BTreeSet::new, |drive| under_block(&drive, DEPTH_MAX))
    }

    /// The interfaces that have the address; none for "any".
    pub fn interfaces_with(&self, address: IpAddr) -> Vec<String> {
        let with = |(_, known): &(&String, &BTreeSet<IpAddr>)| known.contains(&address);
        let found = self.addresses.iter().filter(with);
        found.map(|(name, _)| name.clone()).collect()
    }

    /// The PCI devices under a network interface: its own, or those of the interfaces that a bond, a
    /// bridge or a VLAN stands on.
    pub fn under_interface(&self, name: &str) -> BTreeSet<String> {
        self.interface(name, DEPTH_MAX)
    }

    fn interface(&self, name: &str, depth: usize) -> BTreeSet<String> {
        let folder = self.sysfs.join("class/net").join(name);
        if let Some(own) = pci_of(&folder.join("device")) {
            return BTreeSet::from([own]);
        }
        let Some(depth) = depth.checked_sub(1) else {
            return BTreeSet::new();
        };
        let names = names(&folder);
        let lower = names.iter().filter_map(|name| name.strip_prefix("lower_"));
        lower
            .flat_map(|lower| self.interface(lower, depth))
            .collect()
    }
}

/// The PCI devices under a block device, described in `folder`.
fn under_block(folder: &Path, depth: usize) -> BTreeSet<String> {
    if let Some(own) = pci_of(folder) {
        return BTreeSet::from([own]);
    }
    let Some(depth) = depth.checked_sub(1) else {
        return BTreeSet::new();
    };
    let slaves = folder.join("slaves");
    let below = names(&slaves).into_iter().map(|name| slaves.join(name));
    // With multipathing a namespace belongs to a subsystem, which links to its controllers.
    let subsystem = folder.parent().filter(|_| {
        folder
            .components()
            .any(|part| part.as_os_str() == "nvme-subsystem")
    });
    let controllers = subsystem.into_iter().flat_map(|subsystem| {
        let names = names(subsystem).into_iter();
        let controllers = names.filter(|name| {
            let number = name.strip_prefix("nvme").unwrap_or_default();
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        });
        controllers.map(|name| subsystem.join(name))
    });
    below
        .chain(controllers)
        .filter_map(|link| fs::canonicalize(link).ok())
        .flat_map(|folder| under_block(&folder, depth))
        .collect()
}

/// The last PCI device on the way to what `path` really is: those before it are bridges.
fn pci_of(path: &Path) -> Option<String> {
    let real = fs::canonicalize(path).ok()?;
    let parts = real.components().rev();
    let mut names = parts.filter_map(|part| part.as_os_str().to_str());
    // Exactly as the kernel writes them: shorter forms are other things' names.
    let is_address = |name: &&str| {
        let parsed = name.parse::<PciAddress>();
        parsed.is_ok_and(|address| address.to_string() == **name)
    };
    names.find(is_address).map(str::to_owned)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.collect()
}
