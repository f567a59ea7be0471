//! The devices of this node, as control is told of them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use penstock_api::v1::DeviceInventory;

use super::ManagedDevice;
use crate::config::BackendSettings;
use crate::node::Node;

impl Node {
    /// Every `[[device]]`, those that cannot be used included.
    pub fn devices_inventory(&self) -> Vec<DeviceInventory> {
        self.managed.devices.values().map(describe).collect()
    }

    /// Tries again to open each `[[device]]` on a file or block device that could not be opened: it may
    /// have come since.
    /// Whether any can be used now that could not before; volumes on it can be opened then. May block.
    pub fn reopen_devices(&mut self) -> bool {
        self.managed.reopen(&self.config)
    }
}

fn describe(device: &ManagedDevice) -> DeviceInventory {
    let settings = &device.settings;
    let path = settings.backend.path();
    let drive = path.and_then(|path| drive_of(path, Path::new("/sys")));
    // A file lies on a drive, but is none.
    let own = drive
        .as_deref()
        .filter(|_| matches!(settings.backend, BackendSettings::Block { .. }));
    let mut told = DeviceInventory {
        id: settings.name.clone(),
        kind: settings.backend.word().to_owned(),
        path: path
            .map(|path| path.display().to_string())
            .unwrap_or_default(),
        size_bytes: 0,
        block_size_bytes: settings.block_size.bytes(),
        numa_node: drive.as_deref().map_or(-1, numa_node),
        model: own
            .map(|drive| text(drive, &["device/model"]))
            .unwrap_or_default(),
        serial: own
            .map(|drive| text(drive, &["device/serial", "serial"]))
            .unwrap_or_default(),
        persistent: path.is_some(),
        deallocate: false,
        controller_memory: false,
        problem: String::new(),
    };
    match &device.opened {
        Ok(open) => {
            let geometry = open.block().geometry();
            told.size_bytes = geometry.size_bytes();
            told.deallocate = geometry.deallocate;
        }
        Err(problem) => told.problem.clone_from(problem),
    }
    told
}

/// Where sysfs describes the drive that `path` is or lies on; of a partition, the whole drive.
pub(crate) fn drive_of(path: &Path, sysfs: &Path) -> Option<PathBuf> {
    let metadata = fs::metadata(path).ok()?;
    let number = match metadata.rdev() {
        0 => metadata.dev(),
        own => own,
    };
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let link = sysfs.join(format!("dev/block/{major}:{minor}"));
    let found = fs::canonicalize(link).ok()?;
    if found.join("partition").exists() {
        return found.parent().map(Path::to_owned);
    }
    Some(found)
}

/// The NUMA node of the nearest device above that knows its own; -1 where none does.
fn numa_node(drive: &Path) -> i32 {
    let above = fs::canonicalize(drive.join("device")).unwrap_or_else(|_| drive.to_owned());
    above
        .ancestors()
        .find_map(|folder| fs::read_to_string(folder.join("numa_node")).ok())
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(-1)
}

/// The first of the attributes that is there.
fn text(drive: &Path, attributes: &[&str]) -> String {
    let read = |name: &&str| fs::read_to_string(drive.join(name)).ok();
    let found = attributes.iter().find_map(read).unwrap_or_default();
    found.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_is_found_by_its_partition_and_tells_about_itself() {
        let sysfs = tempfile::tempdir().unwrap();
        let file = sysfs.path().join("some-file");
        fs::write(&file, "x").unwrap();
        let number = fs::metadata(&file).unwrap().dev();
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        let drive = sysfs
            .path()
            .join("devices/pci0/0000:01:00.0/nvme/nvme0/nvme0n1");
        let partition = drive.join("nvme0n1p1");
        fs::create_dir_all(&partition).unwrap();
        fs::write(partition.join("partition"), "1\n").unwrap();
        fs::create_dir(drive.join("device")).unwrap();
        fs::write(drive.join("device/model"), "Fast Drive   \n").unwrap();
        fs::write(drive.join("serial"), "S1\n").unwrap();
        fs::write(
            sysfs.path().join("devices/pci0/0000:01:00.0/numa_node"),
            "1\n",
        )
        .unwrap();
        fs::create_dir_all(sysfs.path().join("dev/block")).unwrap();
        let link = sysfs.path().join(format!("dev/block/{major}:{minor}"));
        std::os::unix::fs::symlink(&partition, link).unwrap();
        let found = drive_of(&file, sysfs.path()).unwrap();
        assert_eq!(found, fs::canonicalize(&drive).unwrap());
        assert_eq!(numa_node(&found), 1);
        assert_eq!(text(&found, &["device/model"]), "Fast Drive");
        assert_eq!(text(&found, &["device/serial", "serial"]), "S1");
        assert_eq!(text(&found, &["device/none"]), "");
        assert_eq!(drive_of(Path::new("/does/not/exist"), sysfs.path()), None);
    }
}
