//! The guest's first and only file system: busybox, the tools, the modules and the init script.

use crate::cpio::Archive;
use crate::error::{IoContext, Result};
use crate::kernel::{self, Kernel};
use crate::root::{Library, Root};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// The script that the guest's kernel runs first.
pub const INIT: &str = include_str!("../guest/init.sh");

/// Loads modules with what they depend on.
pub const LOAD: &str = include_str!("../guest/load.sh");

/// Programs beside busybox: the file in the packages, and the names to call it by.
pub const PROGRAMS: [(&str, &[&str]); 10] = [
    ("nvme", &[]),
    ("fio", &[]),
    ("mke2fs", &["mkfs.ext4"]),
    ("e2fsck", &["fsck.ext4"]),
    ("resize2fs", &[]),
    ("mkfs.xfs", &[]),
    ("xfs_repair", &[]),
    ("blkdiscard", &[]),
    ("flock", &[]),
    ("lsblk", &[]),
];

/// Who the guest says it is to the node.
pub const HOST_NQN: &str = "nqn.2014-08.org.nvmexpress:uuid:6c8e2c6d-5f0b-4a43-9a2c-2a6f9d1e7b11";
const HOST_ID: &str = "6c8e2c6d-5f0b-4a43-9a2c-2a6f9d1e7b11";

const LIBRARY_DIR: &str = "lib/x86_64-linux-gnu";

/// Libraries that glibc opens by name only when a thread ends.
const LATE_LIBRARIES: [&str; 1] = ["libgcc_s.so.1"];

/// Writes the archive to `path`; `scratch` is an empty directory for intermediate files.
///
/// # Errors
/// A package lacks something, or a file cannot be read or written.
pub fn build(
    path: &Path,
    scratch: &Path,
    kernel: &Kernel,
    guest: &Root,
    tools: &Root,
) -> Result<()> {
    let file = File::create(path).doing(|| format!("create {}", path.display()))?;
    let mut archive = Archive::new(BufWriter::new(file));
    archive.file("init", 0o755, INIT.as_bytes())?;
    archive.file("lab/bin/load", 0o755, LOAD.as_bytes())?;
    add(
        &mut archive,
        "bin/busybox",
        0o755,
        &guest.program("busybox")?,
    )?;
    archive.link("bin/sh", "busybox")?;
    archive.file(
        "etc/nvme/hostnqn",
        0o644,
        format!("{HOST_NQN}\n").as_bytes(),
    )?;
    archive.file("etc/nvme/hostid", 0o644, format!("{HOST_ID}\n").as_bytes())?;
    archive.file("etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\n")?;
    add(
        &mut archive,
        "etc/mke2fs.conf",
        0o644,
        &guest.file("etc/mke2fs.conf")?,
    )?;
    archive.link("etc/mtab", "/proc/self/mounts")?;
    add_programs(&mut archive, guest)?;
    add_modules(&mut archive, scratch, kernel, tools)?;
    archive.finish().map(drop)
}

fn add_modules<W: Write>(
    archive: &mut Archive<W>,
    scratch: &Path,
    kernel: &Kernel,
    tools: &Root,
) -> Result<()> {
    let mut present = BTreeSet::new();
    for module in kernel::MODULES {
        let mut order = String::new();
        for file in kernel.module_files(module)? {
            let name = kernel::module_name(&file);
            order.push_str(&format!("{name}\n"));
            if present.insert(name.clone()) {
                let bytes = kernel::module_bytes(&file, tools, scratch)?;
                archive.file(&format!("lab/modules/{name}"), 0o644, &bytes)?;
            }
        }
        archive.file(&format!("lab/order/{module}"), 0o644, order.as_bytes())?;
    }
    Ok(())
}

fn add_programs<W: Write>(archive: &mut Archive<W>, guest: &Root) -> Result<()> {
    let mut libraries = BTreeSet::new();
    for (name, others) in PROGRAMS {
        let file = guest.program(name)?;
        add(archive, &format!("lab/bin/{name}"), 0o755, &file)?;
        for other in others {
            archive.link(&format!("lab/bin/{other}"), name)?;
        }
        libraries.extend(guest.libraries(&file)?);
    }
    for name in LATE_LIBRARIES {
        let file = guest.file(&format!("{LIBRARY_DIR}/{name}"));
        let file = file.or_else(|_| guest.file(&format!("usr/{LIBRARY_DIR}/{name}")))?;
        libraries.insert(Library {
            name: name.to_owned(),
            file,
        });
    }
    for library in libraries {
        add(
            archive,
            &format!("{LIBRARY_DIR}/{}", library.name),
            0o644,
            &library.file,
        )?;
    }
    add(
        archive,
        "lib64/ld-linux-x86-64.so.2",
        0o755,
        &guest.loader()?,
    )
}

fn add<W: Write>(archive: &mut Archive<W>, name: &str, mode: u32, file: &Path) -> Result<()> {
    let bytes = std::fs::read(file).doing(|| format!("read {}", file.display()))?;
    archive.file(name, mode, &bytes)
}
