//! The guest's kernel: an image that QEMU starts directly, and modules in loading order.

use crate::error::{IoContext, LabError, Result};
use crate::process;
use crate::root::Root;
use std::path::{Path, PathBuf};
use std::time::Duration;

const DEPMOD_LIMIT: Duration = Duration::from_secs(120);
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const UNPACK_LIMIT: Duration = Duration::from_secs(60);

/// Modules in the guest, each loaded with `load NAME`; the target's serve the lab's check of itself.
///
/// CRC32C comes first: the digests and file systems ask for the algorithm when they start.
pub const MODULES: [&str; 11] = [
    "crc32c_intel",
    "virtio_net",
    "nvme_tcp",
    "ext4",
    "xfs",
    "nvmet_tcp",
    "null_blk",
    "nvme",
    "vfio_pci",
    "vfio_iommu_type1",
    "virtio_blk",
];

/// Modules that newer kernels have no more, because another does their work.
const BYGONE: [&str; 1] = ["crc32c_intel"];

/// An unpacked kernel package.
#[derive(Debug)]
pub struct Kernel {
    image: PathBuf,
    modules: PathBuf,
}

impl Kernel {
    /// Finds the one kernel under `root`, and lists what its modules depend on.
    ///
    /// # Errors
    /// The package is not laid out as expected, or `depmod` fails.
    pub fn find(root: &Root, tools: &Root) -> Result<Self> {
        let dirs = ["lib/modules", "usr/lib/modules"].map(|dir| root.dir().join(dir));
        let modules = dirs.into_iter().find(|dir| dir.is_dir());
        let modules = modules.ok_or_else(|| {
            LabError::Setup(format!("no kernel modules in {}", root.dir().display()))
        })?;
        let release = only_entry(&modules, "")?;
        let base = modules.join(&release);
        // Since 7.x the image lies beside its modules.
        let image = root.file(&format!("boot/vmlinuz-{release}"));
        let beside = base.join("vmlinuz");
        let image = image.or_else(|err| beside.is_file().then_some(beside).ok_or(err))?;
        // depmod looks there only.
        let link = root.dir().join("lib");
        if !link.exists() {
            let linked = std::os::unix::fs::symlink("usr/lib", &link);
            linked.doing(|| format!("make {}", link.display()))?;
        }
        let mut depmod = tools.command("kmod", "depmod")?;
        depmod.arg("-b").arg(root.dir()).arg(&release);
        process::run(&mut depmod, DEPMOD_LIMIT)?;
        Ok(Self {
            image,
            modules: base,
        })
    }

    /// The file of module `name` after those of all it depends on; empty if it is built in.
    ///
    /// # Errors
    /// The module is neither a file nor built in: the kernel package is of the wrong kind.
    pub fn module_files(&self, name: &str) -> Result<Vec<PathBuf>> {
        let read = |name: &str| {
            let path = self.modules.join(name);
            std::fs::read_to_string(&path).doing(|| format!("read {}", path.display()))
        };
        let order = order(&read("modules.dep")?, &read("modules.builtin")?, name);
        let order = order.or_else(|| BYGONE.contains(&name).then(Vec::new));
        let files = order.ok_or_else(|| {
            LabError::Setup(format!(
                "the kernel under {} has no module {name}; the lab needs Debian's full (not cloud) \
                 kernel image",
                self.modules.display()
            ))
        })?;
        Ok(files.iter().map(|file| self.modules.join(file)).collect())
    }
}

/// Writes the kernel to `path` in the form that starts soonest: unpacked here rather than by the
/// emulated machine, which takes it about two seconds.
///
/// # Errors
/// The image cannot be read or written.
pub fn write_image(kernel: &Kernel, path: &Path, tools: &Root, scratch: &Path) -> Result<()> {
    let image = &kernel.image;
    let bytes = std::fs::read(image).doing(|| format!("read {}", image.display()))?;
    let packed = payload(&bytes).filter(|packed| packed.starts_with(&ZSTD));
    // The last four bytes tell the length once unpacked and are not zstd's.
    let Some(packed) = packed.and_then(|packed| packed.split_last_chunk::<4>()) else {
        // Packed in another way than Debian's 6.12: the image itself boots as well, only later.
        let copied = std::fs::copy(image, path).map(drop);
        return copied.doing(|| format!("write {}", path.display()));
    };
    let copy = scratch.join("vmlinux.zst");
    std::fs::write(&copy, packed.0).doing(|| format!("write {}", copy.display()))?;
    let mut zstd = tools.command("zstd", "zstd")?;
    zstd.args(["-q", "-d", "-f", "-o"]).arg(path).arg(&copy);
    process::run(&mut zstd, UNPACK_LIMIT).map(drop)
}

/// A module file's name once unpacked.
#[must_use]
pub fn module_name(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.trim_end_matches(".xz").to_owned()
}

/// Reads a module file, unpacking it into `scratch` if the package has it compressed.
///
/// # Errors
/// It cannot be read or unpacked.
pub fn module_bytes(file: &Path, tools: &Root, scratch: &Path) -> Result<Vec<u8>> {
    let plain = scratch.join(module_name(file));
    let copy = scratch.join(file.file_name().unwrap_or_default());
    std::fs::copy(file, &copy).doing(|| format!("copy {}", file.display()))?;
    if copy != plain {
        let mut xz = tools.command("xz", "xz")?;
        process::run(xz.arg("--decompress").arg(&copy), UNPACK_LIMIT)?;
    }
    std::fs::read(&plain).doing(|| format!("read {}", plain.display()))
}

fn only_entry(dir: &Path, prefix: &str) -> Result<String> {
    let entries = std::fs::read_dir(dir).doing(|| format!("list {}", dir.display()))?;
    let mut names = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        name.strip_prefix(prefix).map(str::to_owned)
    });
    let missing = || LabError::Setup(format!("no {prefix}* in {}", dir.display()));
    names.next().ok_or_else(missing)
}

/// The module's name in the kernel's own spelling.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// The file of `wanted` and of what it depends on, dependencies first; `None` if it is nowhere.
fn order(dependencies: &str, builtin: &str, wanted: &str) -> Option<Vec<String>> {
    let mut lines = dependencies.lines().filter_map(|line| line.split_once(':'));
    if let Some((file, needs)) = lines.find(|(file, _)| name_of(file) == wanted) {
        // modules.dep lists all dependencies, the deepest last.
        let files = needs.split_whitespace().rev().chain([file]);
        return Some(files.map(str::to_owned).collect());
    }
    let built_in = builtin.lines().any(|file| name_of(file) == wanted);
    built_in.then(Vec::new)
}

/// Where the compressed kernel proper lies in a boot image (Linux,
/// Documentation/arch/x86/boot.rst: `setup_sects`, `payload_offset`, `payload_length`).
fn payload(image: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| {
        let bytes = image.get(at..at + 4)?;
        usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
    };
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let setup_sectors = usize::from(*image.get(0x1f1)?);
    let begin = (setup_sectors + 1) * 512 + word(0x248)?;
    image.get(begin..begin + word(0x24c)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "k/nvme-tcp.ko.xz: k/nvme-fabrics.ko.xz k/nvme-core.ko.xz\n\
                       k/nvme-core.ko.xz:\nk/nvme-fabrics.ko.xz: k/nvme-core.ko.xz\n";

    #[test]
    fn dependencies_load_first() {
        let files = order(DEP, "", "nvme_tcp");
        let expected = [
            "k/nvme-core.ko.xz",
            "k/nvme-fabrics.ko.xz",
            "k/nvme-tcp.ko.xz",
        ];
        assert_eq!(files.unwrap(), expected);
    }

    #[test]
    fn built_in_is_nothing_to_load_and_unknown_is_an_error() {
        assert_eq!(
            order(DEP, "k/virtio_pci.ko\n", "virtio_pci"),
            Some(Vec::new())
        );
        assert_eq!(order(DEP, "", "nvme_rdma"), None);
    }

    #[test]
    fn the_payload_is_found_by_the_header() {
        let mut image = vec![0; 2048];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x1f1] = 1;
        image[0x248] = 16;
        image[0x24c] = 3;
        image[1040..1043].copy_from_slice(b"abc");
        assert_eq!(payload(&image), Some(&b"abc"[..]));
        assert_eq!(payload(&image[..1041]), None);
        assert_eq!(payload(b"MZ"), None);
    }
}
