//! Errors before anything is opened, against a made-up `/sys` and `/dev`.

use super::*;
use std::os::unix::fs::symlink;
use std::path::Path;

const DRIVE: &str = "0000:01:00.0";

struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    fn new() -> Machine {
        let dir = tempfile::tempdir().unwrap();
        for sub in ["sys/bus/pci/devices", "sys/kernel/iommu_groups", "dev/vfio"] {
            std::fs::create_dir_all(dir.path().join(sub)).unwrap();
        }
        Machine { dir }
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join(path)
    }

    fn add(&self, address: &str, class: &str, driver: Option<&str>, group: Option<u32>) {
        let device = self.path("sys/bus/pci/devices").join(address);
        std::fs::create_dir_all(&device).unwrap();
        std::fs::write(device.join("class"), format!("{class}\n")).unwrap();
        if let Some(driver) = driver {
            symlink(
                format!("../../../bus/pci/drivers/{driver}"),
                device.join("driver"),
            )
            .unwrap();
        }
        if let Some(group) = group {
            let place = self.path(&format!("sys/kernel/iommu_groups/{group}"));
            std::fs::create_dir_all(place.join("devices")).unwrap();
            symlink(&device, place.join("devices").join(address)).unwrap();
            symlink(place, device.join("iommu_group")).unwrap();
        }
    }

    fn file(&self, path: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
        std::fs::write(path, "").unwrap();
    }

    fn open(&self, iommu: IommuChoice) -> OpenError {
        let options = OpenOptions {
            host: Host {
                sysfs: self.path("sys"),
                proc: self.path("proc"),
                dev: self.path("dev"),
            },
            iommu,
        };
        let address = DRIVE.parse().unwrap();
        Device::open(&address, &options).err().unwrap()
    }
}

/// Fails unless the message names each of `parts`.
fn names(err: &OpenError, parts: &[&str]) {
    let text = err.to_string();
    for part in parts {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn a_device_that_is_not_there_or_is_no_drive() {
    let machine = Machine::new();
    let err = machine.open(IommuChoice::Newest);
    assert!(matches!(err, OpenError::NotFound { .. }), "{err}");
    names(&err, &[DRIVE, "penstock device list"]);
    machine.add(DRIVE, "0x020000", Some("vfio-pci"), Some(3));
    let err = machine.open(IommuChoice::Newest);
    assert!(
        matches!(
            err,
            OpenError::NotNvme {
                class: 0x02_0000,
                ..
            }
        ),
        "{err}"
    );
}

#[test]
fn a_machine_without_an_iommu_is_told_the_kernel_parameters() {
    let machine = Machine::new();
    machine.add(DRIVE, "0x010802", Some("vfio-pci"), None);
    let err = machine.open(IommuChoice::Newest);
    assert!(matches!(err, OpenError::NoIommu { .. }), "{err}");
    names(&err, &["intel_iommu=on", "amd_iommu=on"]);
}

#[test]
fn a_drive_of_another_driver_is_told_how_to_bind_it() {
    for (driver, said) in [(Some("nvme"), "kernel driver nvme"), (None, "no driver")] {
        let machine = Machine::new();
        machine.add(DRIVE, "0x010802", driver, Some(3));
        let err = machine.open(IommuChoice::Newest);
        assert!(matches!(err, OpenError::OtherDriver { .. }), "{err}");
        names(&err, &[said, "penstock device bind 0000:01:00.0"]);
    }
}

#[test]
fn neighbours_in_the_group_are_named_and_bridges_are_none() {
    let machine = Machine::new();
    machine.add(DRIVE, "0x010802", Some("vfio-pci"), Some(3));
    machine.add("0000:00:1c.0", "0x060400", Some("pcieport"), Some(3));
    machine.add("0000:02:00.0", "0x020000", Some("e1000e"), Some(3));
    machine.add("0000:02:00.1", "0x020000", None, Some(3));
    let err = machine.open(IommuChoice::Newest);
    let OpenError::GroupNotViable { group, others, .. } = &err else {
        panic!("{err}")
    };
    assert_eq!((*group, others.as_str()), (3, "0000:02:00.0 (e1000e)"));
}

#[test]
fn missing_vfio_names_the_module_and_iommufd_is_taken_where_it_is() {
    let machine = Machine::new();
    machine.add(DRIVE, "0x010802", Some("vfio-pci"), Some(3));
    let err = machine.open(IommuChoice::Newest);
    assert!(matches!(err, OpenError::NoVfio { .. }), "{err}");
    names(&err, &["dev/vfio/vfio", "modprobe vfio-pci"]);
    let err = machine.open(IommuChoice::Iommufd);
    assert!(matches!(err, OpenError::Unsupported { .. }), "{err}");

    machine.file("dev/iommu");
    let cdev = "sys/bus/pci/devices/0000:01:00.0/vfio-dev/vfio0/dev";
    machine.file(cdev);
    let err = machine.open(IommuChoice::Newest);
    names(&err, &["dev/vfio/devices/vfio0"]);
    machine.file("dev/vfio/devices/vfio0");
    // Files of ours are no devices: the first call to the kernel says so.
    let err = machine.open(IommuChoice::Newest);
    assert!(matches!(err, OpenError::Kernel { .. }), "{err}");
    let err = machine.open(IommuChoice::Type1);
    names(&err, &["dev/vfio/vfio"]);
}
