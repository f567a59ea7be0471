//! Drives listed, bound and refused, against a made-up `/sys`, `/proc` and `/dev`, with a thread that
//! does what the kernel does when a driver's files are written.

use super::*;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const DRIVE: &str = "0000:01:00.0";

struct Machine {
    dir: tempfile::TempDir,
    stop: Arc<AtomicBool>,
    kernel: Option<std::thread::JoinHandle<()>>,
}

fn put(path: &Path, text: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

impl Machine {
    /// A drive bound to nvme behind an IOMMU, with one empty disk of 4 MiB.
    fn new() -> Machine {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine {
            dir,
            stop: Arc::default(),
            kernel: None,
        };
        for driver in ["nvme", "vfio-pci"] {
            fs::create_dir_all(machine.path("sys/bus/pci/drivers").join(driver)).unwrap();
        }
        put(&machine.path("sys/bus/pci/drivers_probe"), "");
        let device = machine.device();
        for (file, text) in [
            ("class", "0x010802\n"),
            ("vendor", "0x1b36\n"),
            ("device", "0x0010\n"),
            ("numa_node", "1\n"),
            ("driver_override", "(null)\n"),
            ("nvme/nvme0/model", "A drive   \n"),
            ("nvme/nvme0/serial", "S1\n"),
        ] {
            put(&device.join(file), text);
        }
        symlink("../../../kernel/iommu_groups/7", device.join("iommu_group")).unwrap();
        machine.bind_to("nvme");
        fs::create_dir_all(device.join("nvme/nvme0/nvme0c0n1")).unwrap();
        machine.disk(&[]);
        put(&machine.path("proc/self/mountinfo"), "");
        put(
            &machine.path("proc/swaps"),
            "Filename Type Size Used Priority\n",
        );
        machine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn device(&self) -> PathBuf {
        self.path("sys/bus/pci/devices").join(DRIVE)
    }

    fn class(&self) -> PathBuf {
        self.path("sys/class/block/nvme0n1")
    }

    fn bind_to(&self, driver: &str) {
        let link = self.device().join("driver");
        symlink(self.path("sys/bus/pci/drivers").join(driver), link).unwrap();
    }

    fn disk(&self, begin: &[u8]) {
        let mut disk = vec![0; 4 << 20];
        disk[..begin.len()].copy_from_slice(begin);
        put(&self.path("dev/nvme0n1"), disk);
        put(&self.class().join("size"), "8192\n");
        put(&self.class().join("dev"), "259:0\n");
    }

    fn partition(&self) {
        let partition = self.class().join("nvme0n1p1");
        put(&partition.join("partition"), "1\n");
        put(&self.path("sys/class/block/nvme0n1p1/dev"), "259:1\n");
    }

    fn host(&self) -> Host {
        Host {
            sysfs: self.path("sys"),
            proc: self.path("proc"),
            dev: self.path("dev"),
        }
    }

    fn drive(&self) -> Drive {
        self.host().drive(DRIVE.parse().unwrap()).unwrap()
    }

    fn bind(&self, force: bool) -> Result<(), BindError> {
        self.host().bind(DRIVE.parse().unwrap(), force)
    }

    /// The kernel from now on: unbinds and probes as it is told. `takes`: vfio-pci takes the drive.
    fn run_kernel(&mut self, takes: bool) {
        let (root, device) = (self.dir.path().to_owned(), self.device());
        let stop = Arc::clone(&self.stop);
        self.kernel = Some(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                kernel_round(&root, &device, takes);
                std::thread::sleep(Duration::from_millis(1));
            }
        }));
    }
}

/// Told to unbind: the link goes. Told to probe: the driver of the override, else nvme, takes it.
fn kernel_round(root: &Path, device: &Path, takes: bool) {
    let told = |path: &Path| fs::read_to_string(path).is_ok_and(|text| text == DRIVE);
    let link = device.join("driver");
    let unbind = link.join("unbind");
    if told(&unbind) {
        fs::remove_file(&unbind).unwrap();
        fs::remove_file(&link).unwrap();
    }
    let probe = root.join("sys/bus/pci/drivers_probe");
    if told(&probe) && !link.exists() {
        let wanted = fs::read_to_string(device.join("driver_override")).unwrap();
        let driver = if wanted == "vfio-pci" {
            "vfio-pci"
        } else {
            "nvme"
        };
        if takes || driver == "nvme" {
            symlink(root.join("sys/bus/pci/drivers").join(driver), link).unwrap();
        }
        fs::write(probe, "").unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(kernel) = self.kernel.take() {
            kernel.join().unwrap();
        }
    }
}

#[test]
fn a_drive_is_listed_with_all_that_is_known() {
    let machine = Machine::new();
    put(
        &machine.path("sys/bus/pci/devices/0000:00:01.0/class"),
        "0x060400\n",
    );
    machine.partition();
    let drives = machine.host().drives().unwrap();
    let [drive] = drives.as_slice() else {
        panic!("{drives:?}")
    };
    assert_eq!(drive.address.to_string(), DRIVE);
    assert_eq!((drive.vendor_id, drive.device_id), (0x1b36, 0x0010));
    assert_eq!(drive.driver.as_deref(), Some("nvme"));
    assert_eq!((drive.numa_node, drive.iommu_group), (Some(1), Some(7)));
    assert_eq!(drive.model.as_deref(), Some("A drive"));
    assert_eq!(drive.serial.as_deref(), Some("S1"));
    let [block] = drive.blocks.as_slice() else {
        panic!("{drive:?}")
    };
    assert_eq!(
        (block.name.as_str(), block.size_bytes),
        ("nvme0n1", 4 << 20)
    );
    assert_eq!(block.partitions, ["nvme0n1p1"]);
}

#[test]
fn an_empty_drive_is_bound_and_goes_back() {
    let mut machine = Machine::new();
    machine.run_kernel(true);
    machine.bind(false).unwrap();
    assert_eq!(machine.drive().driver.as_deref(), Some("vfio-pci"));
    // Already there.
    machine.bind(false).unwrap();
    let address = DRIVE.parse().unwrap();
    machine.host().unbind(address).unwrap();
    assert_eq!(machine.drive().driver.as_deref(), Some("nvme"));
    let left = fs::read_to_string(machine.device().join("driver_override")).unwrap();
    assert_eq!(left, "\n");
    machine.host().unbind(address).unwrap();
}

#[test]
fn a_drive_that_vfio_does_not_take_goes_back_to_the_kernel() {
    let mut machine = Machine::new();
    machine.run_kernel(false);
    let err = machine.bind(false).unwrap_err();
    assert!(
        matches!(err, BindError::NotTaken { driver: None, .. }),
        "{err}"
    );
    assert_eq!(machine.drive().driver.as_deref(), Some("nvme"));
}

#[test]
fn a_drive_with_content_is_refused_unless_forced() {
    let mut machine = Machine::new();
    machine.run_kernel(true);
    machine.disk(b"XFSB");
    let err = machine.bind(false).unwrap_err();
    assert!(matches!(err, BindError::HoldsData { .. }), "{err}");
    let text = err.to_string();
    assert!(
        text.contains("nvme0n1 holds an XFS file system at byte 0"),
        "{text}"
    );
    assert!(text.contains("wipefs"), "{text}");
    machine.disk(&[]);
    machine.partition();
    let err = machine.bind(false).unwrap_err().to_string();
    assert!(err.contains("nvme0n1 has partitions (1)"), "{err}");
    fs::remove_file(machine.path("dev/nvme0n1")).unwrap();
    let err = machine.bind(false).unwrap_err().to_string();
    assert!(err.contains("nvme0n1 cannot be read"), "{err}");
    assert_eq!(machine.drive().driver.as_deref(), Some("nvme"));
    machine.bind(true).unwrap();
    assert_eq!(machine.drive().driver.as_deref(), Some("vfio-pci"));
}

#[test]
fn a_drive_in_use_is_refused_even_when_forced() {
    let mut machine = Machine::new();
    machine.run_kernel(true);
    machine.partition();
    let cases = [
        (
            "proc/self/mountinfo",
            "30 22 259:1 / /data rw - ext4 /dev/root rw\n",
            "nvme0n1p1 is mounted at /data",
        ),
        (
            "proc/self/mountinfo",
            "30 22 0:9 / /b rw - btrfs /dev/nvme0n1 rw\n",
            "nvme0n1 is mounted at /b",
        ),
        (
            "proc/swaps",
            "Filename\n/dev/nvme0n1p1 partition 1 0 -2\n",
            "nvme0n1p1 is swap in use",
        ),
        (
            "sys/class/block/nvme0n1p1/holders/dm-3",
            "",
            "nvme0n1p1 is part of dm-3",
        ),
    ];
    for (file, content, expected) in cases {
        let path = machine.path(file);
        let before = fs::read(&path).ok();
        put(&path, content);
        for force in [false, true] {
            let err = machine.bind(force).unwrap_err();
            assert!(matches!(err, BindError::InUse { .. }), "{err}");
            assert!(err.to_string().contains(expected), "{err}");
        }
        match before {
            Some(before) => fs::write(path, before).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
    }
    assert_eq!(machine.drive().driver.as_deref(), Some("nvme"));
    machine.bind(true).unwrap();
}

#[test]
fn a_drive_nobody_can_look_at_is_refused_unless_forced() {
    let mut machine = Machine::new();
    machine.run_kernel(true);
    fs::remove_file(machine.device().join("driver")).unwrap();
    fs::remove_dir_all(machine.device().join("nvme")).unwrap();
    let err = machine.bind(false).unwrap_err();
    assert!(
        matches!(err, BindError::Unchecked { driver: None, .. }),
        "{err}"
    );
    machine.bind(true).unwrap();
}

#[test]
fn what_the_machine_lacks_is_told_with_the_remedy() {
    let machine = Machine::new();
    fs::remove_dir(machine.path("sys/bus/pci/drivers/vfio-pci")).unwrap();
    let err = machine.bind(true).unwrap_err().to_string();
    assert!(err.contains("modprobe vfio-pci"), "{err}");
    fs::remove_file(machine.device().join("iommu_group")).unwrap();
    let err = machine.bind(true).unwrap_err().to_string();
    assert!(err.contains("intel_iommu=on"), "{err}");
    put(&machine.device().join("class"), "0x020000\n");
    let err = machine.bind(true).unwrap_err();
    assert!(matches!(err, BindError::NotNvme { .. }), "{err}");
    let err = machine
        .host()
        .bind("02:00.0".parse().unwrap(), true)
        .unwrap_err();
    assert!(matches!(err, BindError::NotFound { .. }), "{err}");
    let nowhere = Host {
        sysfs: machine.path("nowhere"),
        ..machine.host()
    };
    assert!(matches!(nowhere.drives(), Err(BindError::Sysfs { .. })));
}
