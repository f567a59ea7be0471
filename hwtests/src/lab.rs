//! Everything a guest needs, prepared once and kept in the cache.

use crate::apt::Apt;
use crate::cache::Cache;
use crate::error::{IoContext, Result};
use crate::initramfs;
use crate::kernel::{self, Kernel};
use crate::root::Root;
use std::path::{Path, PathBuf};

/// The kernel series that guests boot.
const KERNEL_SERIES: &str = "linux-image-6.12.";

/// Programs that the lab itself runs on this machine.
const HOST_TOOLS: [&str; 3] = ["kmod", "xz-utils", "zstd"];

const QEMU: [&str; 1] = ["qemu-system-x86"];

/// Where the programs of [`initramfs::PROGRAMS`] come from.
const GUEST_TOOLS: [&str; 6] = [
    "busybox-static",
    "e2fsprogs",
    "fio",
    "nvme-cli",
    "util-linux",
    "xfsprogs",
];

/// Raise it when the way of building changes, so that caches of older versions are rebuilt.
const RECIPE: u32 = 1;

/// Paths of a prepared lab.
#[derive(Clone, Debug)]
pub struct Lab {
    /// QEMU and its libraries.
    pub qemu: Root,
    /// The kernel image.
    pub kernel: PathBuf,
    /// The guest's file system.
    pub initramfs: PathBuf,
}

impl Lab {
    /// Prepares what is missing; `say` is told about each long step.
    ///
    /// # Errors
    /// A package cannot be had (the error names it and the remedy), or the cache cannot be written.
    pub fn prepare(say: &dyn Fn(&str)) -> Result<Self> {
        let cache = Cache::open()?;
        let mut packages = Packages {
            dir: cache.root().join("apt"),
            apt: None,
        };
        let set = |names: &[&str]| format!("{RECIPE}: {}\n", names.join(" "));
        let tools = cache.ensure("tools", &set(&HOST_TOOLS), |root| {
            say("fetching kmod, xz and zstd (unpacked into the cache, not installed)");
            packages
                .apt()?
                .unpack_with_dependencies(&HOST_TOOLS, false, root)
        })?;
        let qemu = cache.ensure("qemu", &set(&QEMU), |root| {
            say("fetching QEMU (36 MB; unpacked into the cache, not installed)");
            packages.apt()?.unpack_with_dependencies(&QEMU, true, root)
        })?;
        let guest = cache.ensure("guest", &set(&GUEST_TOOLS), |root| {
            say("fetching the guest's tools: busybox, nvme-cli, fio, e2fsprogs, xfsprogs (71 MB)");
            packages
                .apt()?
                .unpack_with_dependencies(&GUEST_TOOLS, false, root)
        })?;
        let kernel = cache.ensure("kernel", &set(&[KERNEL_SERIES]), |root| {
            say("fetching Debian's 6.12 kernel (107 MB; unpacked, not installed)");
            let apt = packages.apt()?;
            let package = apt.newest(KERNEL_SERIES, "-amd64")?;
            apt.unpack_alone(&package, root)
        })?;
        let (tools, guest, kernel) = (Root::new(tools), Root::new(guest), Root::new(kernel));
        let recipe = initramfs_recipe();
        let boot = cache.ensure("boot", &recipe, |dir| {
            say("building the guest's initramfs");
            build_boot(dir, &kernel, &guest, &tools)
        })?;
        Ok(Self {
            qemu: Root::new(qemu),
            kernel: boot.join("kernel"),
            initramfs: boot.join("initramfs"),
        })
    }
}

/// The private apt, opened only if something must be fetched.
struct Packages {
    dir: PathBuf,
    apt: Option<Apt>,
}

impl Packages {
    fn apt(&mut self) -> Result<&mut Apt> {
        let apt = match self.apt.take() {
            Some(apt) => apt,
            None => Apt::open(&self.dir)?,
        };
        Ok(self.apt.insert(apt))
    }
}

fn initramfs_recipe() -> String {
    format!(
        "{RECIPE}: {KERNEL_SERIES} {:?} {:?} {:?} {}\n{}{}",
        GUEST_TOOLS,
        kernel::MODULES,
        initramfs::PROGRAMS,
        initramfs::HOST_NQN,
        initramfs::INIT,
        initramfs::LOAD
    )
}

fn build_boot(dir: &Path, kernel: &Root, guest: &Root, tools: &Root) -> Result<()> {
    let scratch = tempfile::tempdir_in(dir).doing(|| format!("write {}", dir.display()))?;
    let kernel = Kernel::find(kernel, tools)?;
    let initramfs = dir.join("initramfs");
    initramfs::build(&initramfs, scratch.path(), &kernel, guest, tools)?;
    kernel::write_image(&kernel, &dir.join("kernel"), tools, scratch.path())
}
