//! Everything a guest needs, prepared once and kept in the cache.

use crate::apt::Apt;
use crate::cache::Cache;
use crate::error::{IoContext, LabError, Result};
use crate::initramfs;
use crate::kernel::{self, Kernel};
use crate::root::Root;
use std::path::{Path, PathBuf};

/// The kernel series that guests boot.
const KERNEL_SERIES: &str = "linux-image-6.12.";

/// Where the newest kernel comes from, in parts since Debian splits it.
const NEWEST_SUITE: &str = "sid";
const NEWEST_PARTS: [&str; 3] = ["linux-binary-", "linux-modules-", "linux-base-"];

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

/// Which kernel a guest boots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// Linux 6.12.
    #[default]
    Stable,
    /// The newest that Debian has, 7.2 or later.
    Newest,
}

/// What a guest boots.
#[derive(Clone, Debug)]
pub struct Boot {
    /// The kernel image.
    pub kernel: PathBuf,
    /// The guest's file system.
    pub initramfs: PathBuf,
}

impl Boot {
    fn at(dir: &Path) -> Self {
        Self {
            kernel: dir.join("kernel"),
            initramfs: dir.join("initramfs"),
        }
    }
}

/// Paths of a prepared lab.
#[derive(Clone, Debug)]
pub struct Lab {
    /// QEMU and its libraries.
    pub qemu: Root,
    stable: Boot,
    /// The newest kernel, or why it could not be had. `None`: nobody asked for it.
    newest: Option<std::result::Result<Boot, String>>,
    guest: Root,
    tools: Root,
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
        let recipe = initramfs_recipe(KERNEL_SERIES);
        let boot = cache.ensure("boot", &recipe, |dir| {
            say("building the guest's initramfs");
            build_boot(dir, &kernel, &guest, &tools)
        })?;
        Ok(Self {
            qemu: Root::new(qemu),
            stable: Boot::at(&boot),
            newest: None,
            guest,
            tools,
        })
    }

    /// Prepares the newest kernel as well. Where it cannot be had, the tests that need it are
    /// skipped with the reason.
    pub fn prepare_newest(&mut self, say: &dyn Fn(&str)) {
        self.newest = Some(self.build_newest(say).map_err(|err| err.to_string()));
    }

    fn build_newest(&self, say: &dyn Fn(&str)) -> Result<Boot> {
        let cache = Cache::open()?;
        let recipe = format!("{RECIPE}: {NEWEST_SUITE} {}\n", NEWEST_PARTS.join(" "));
        let kernel = cache.ensure("kernel-newest", &recipe, |root| {
            say("fetching the newest kernel from Debian's sid (125 MB; unpacked, not installed)");
            let mut apt = Apt::open_release(&cache.root().join("apt-newest"), NEWEST_SUITE)?;
            let image = apt.newest("linux-image-", "-amd64")?;
            let release = image.trim_start_matches("linux-image-");
            for part in NEWEST_PARTS {
                apt.unpack_alone(&format!("{part}{release}"), root)?;
            }
            Ok(())
        })?;
        let boot = cache.ensure("boot-newest", &initramfs_recipe(NEWEST_SUITE), |dir| {
            say("building an initramfs for the newest kernel");
            build_boot(dir, &Root::new(kernel), &self.guest, &self.tools)
        })?;
        Ok(Boot::at(&boot))
    }

    /// What a guest with this kernel boots.
    ///
    /// # Errors
    /// [`LabError::Skip`]: the newest kernel could not be had, or was not prepared.
    pub fn boot(&self, choice: Choice) -> Result<&Boot> {
        match (choice, &self.newest) {
            (Choice::Stable, _) => Ok(&self.stable),
            (Choice::Newest, Some(Ok(boot))) => Ok(boot),
            (Choice::Newest, Some(Err(why))) => Err(LabError::Skip(why.clone())),
            (Choice::Newest, None) => Err(LabError::Skip("no newest kernel was prepared".into())),
        }
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

fn initramfs_recipe(series: &str) -> String {
    format!(
        "{RECIPE}: {series} {:?} {:?} {:?} {}\n{}{}",
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
