//! Media that are full, and media that are block devices.

use std::path::{Path, PathBuf};
use std::process::Command;

use penstock_nvme::Status;
use penstock_units::Lba;

use crate::daemon::{NQN, file, head, listener, memory, subsystem};
use crate::host;
use crate::rig::{Rig, pattern, refusal};

/// Runs a system command; what it said on its standard output, or why it failed.
fn system(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{program}: {}", text(&output.stderr)))
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of plain letters")
}

/// A small file system of its own; gone when dropped.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path) -> Result<Small, String> {
        std::fs::create_dir(at).map_err(|error| error.to_string())?;
        system("mount", &["-t", "tmpfs", "-o", "size=4m", "none", text(at)])?;
        Ok(Small(at.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: the node may still have its file open.
        let _ = system("umount", &["-l", text(&self.0)]);
    }
}

#[test]
fn a_full_file_system_is_capacity_exceeded() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = match Small::mount(&folder.path().join("small")) {
        Ok(small) => small,
        Err(why) => {
            println!("skipped: {why}");
            return;
        }
    };
    let image = small.0.join("a.img");
    let rig = Rig::with(move |_| {
        head()
            + &listener("127.0.0.1:0")
            + &subsystem(NQN)
            + &file(1, &image, 16 << 20)
            + &memory(2, 1 << 20)
    });
    rig.run(|session| async move {
        let (disk, other) = (session.disk(1, 4096), session.disk(2, 4096));
        let data = |lba| pattern(lba, 64 * 4096);
        let mut full = None;
        for lba in (0..4096).step_by(64) {
            match disk.write(lba, &data(lba), false).await {
                Ok(()) => {}
                error => {
                    full = Some((lba, refusal(error)));
                    break;
                }
            }
        }
        let (lba, status) = full.expect("4 MiB do not hold 16");
        assert_eq!(status, Status::CAPACITY_EXCEEDED.dnr());
        assert!(lba >= 512, "full at block {lba}");
        for written in (0..lba).step_by(64) {
            assert!(disk.read(written, 64).await? == data(written), "{written}");
        }
        other.write(0, &pattern(1, 4096), true).await?;
        // Space given back can be used.
        let ranges = [(Lba(0), 128)];
        session.queue.deallocate(host::nsid(1), &ranges).await?;
        disk.write(lba, &data(lba), true).await?;
        assert!(disk.read(lba, 64).await? == data(lba));
        assert!(disk.read(0, 1).await? == [0; 4096]);
        Ok(())
    });
    drop(rig);
    drop(small);
}

/// A loop device over a file; detached when dropped.
struct LoopDevice(String);

impl LoopDevice {
    fn over(image: &Path) -> Result<LoopDevice, String> {
        let file = std::fs::File::create(image).map_err(|error| error.to_string())?;
        file.set_len(32 << 20).map_err(|error| error.to_string())?;
        system("losetup", &["--find", "--show", text(image)]).map(LoopDevice)
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = system("losetup", &["--detach", &self.0]);
    }
}

#[test]
fn a_block_device_is_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let device = match LoopDevice::over(&folder.path().join("disk.img")) {
        Ok(device) => device,
        Err(why) => {
            println!("skipped: {why}");
            return;
        }
    };
    let namespace = format!(
        "[[subsystem.namespace]]\nnsid = 1\nbackend = \"block\"\npath = \"{}\"\n",
        device.0
    );
    let rig = Rig::new(&namespace);
    rig.run(|session| async move {
        let disk = session.disk(1, 4096);
        let ns = host::nsid(1);
        let info = session.controller.identify_namespace(ns).await?;
        assert_eq!(info.blocks, (32 << 20) / 4096);
        for (lba, blocks, fua) in [(0, 1, true), (17, 256, false), (8000, 192, false)] {
            let data = pattern(lba, blocks * 4096);
            disk.write(lba, &data, fua).await?;
            let count = u32::try_from(blocks).expect("few blocks");
            assert!(disk.read(lba, count).await? == data, "{lba}");
            disk.compare(lba, &data).await?;
            session.queue.verify(ns, Lba(lba), count).await?;
        }
        session.queue.flush(ns).await?;
        let status = refusal(disk.read(8192, 1).await);
        assert_eq!(status, Status::LBA_OUT_OF_RANGE.dnr());
        session.queue.write_zeroes(ns, Lba(20), 4, false).await?;
        session.queue.write_zeroes(ns, Lba(40), 4, true).await?;
        session.queue.deallocate(ns, &[(Lba(64), 64)]).await?;
        let mut expected = pattern(17, 256 * 4096);
        expected[3 * 4096..7 * 4096].fill(0);
        expected[23 * 4096..27 * 4096].fill(0);
        let found = disk.read(17, 256).await?;
        if info.identity.dlfeat & 7 == 1 {
            expected[47 * 4096..111 * 4096].fill(0);
        } else {
            // What deallocated blocks hold is not said; both are right.
            expected[47 * 4096..111 * 4096].copy_from_slice(&found[47 * 4096..111 * 4096]);
        }
        assert!(found == expected);
        let old = disk.read(100, 1).await?;
        disk.swap(100, &old, &pattern(3, 4096)).await?;
        disk.compare(100, &pattern(3, 4096)).await
    });
    drop(rig);
    drop(device);
}
