//! What uses a drive, and what it holds.

use super::host::{Host, names, text};
use super::list::Block;
use super::signature;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// A reason not to take a drive from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Objection {
    /// A file system on it is mounted.
    Mounted {
        /// The disk or partition.
        device: String,
        /// Where.
        at: String,
    },
    /// The kernel swaps to it.
    Swap {
        /// The disk or partition.
        device: String,
    },
    /// Another block device is made of it: device mapper, md RAID.
    Held {
        /// The disk or partition.
        device: String,
        /// That device.
        by: String,
    },
    /// The kernel says that somebody has it for himself.
    Claimed {
        /// The disk.
        device: String,
    },
    /// It has partitions.
    Partitions {
        /// The disk.
        device: String,
        /// How many the kernel knows.
        count: usize,
    },
    /// Its blocks bear the mark of something.
    Content {
        /// The disk.
        device: String,
        /// The mark.
        found: signature::Signature,
    },
    /// Nobody can tell: its blocks could not be read.
    Unreadable {
        /// The disk.
        device: String,
        /// Why.
        why: String,
    },
}

impl Objection {
    /// Whether it is in use at this moment, so that taking it away would break something that runs.
    #[must_use]
    pub fn in_use(&self) -> bool {
        matches!(
            self,
            Objection::Mounted { .. }
                | Objection::Swap { .. }
                | Objection::Held { .. }
                | Objection::Claimed { .. }
        )
    }
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Objection::Mounted { device, at } => write!(f, "{device} is mounted at {at}"),
            Objection::Swap { device } => write!(f, "{device} is swap in use"),
            Objection::Held { device, by } => write!(f, "{device} is part of {by}"),
            Objection::Claimed { device } => write!(f, "{device} is in exclusive use"),
            Objection::Partitions { device, count } => {
                write!(f, "{device} has partitions ({count})")
            }
            Objection::Content { device, found } => write!(f, "{device} holds {found}"),
            Objection::Unreadable { device, why } => {
                write!(f, "{device} cannot be read to see what it holds: {why}")
            }
        }
    }
}

/// What uses `block` or its partitions now.
pub(super) fn uses(host: &Host, block: &Block) -> Vec<Objection> {
    let mut found = Vec::new();
    let mounts = text(&host.proc.join("self/mountinfo")).unwrap_or_default();
    let swaps = text(&host.proc.join("swaps")).unwrap_or_default();
    for name in std::iter::once(&block.name).chain(&block.partitions) {
        let class = host.sysfs.join("class/block").join(name);
        let number = text(&class.join("dev")).unwrap_or_default();
        let device = || name.clone();
        for at in mounted_at(&mounts, &number, name) {
            let device = device();
            found.push(Objection::Mounted { device, at });
        }
        if swaps
            .lines()
            .skip(1)
            .any(|line| named(line.split_whitespace().next(), name))
        {
            found.push(Objection::Swap { device: device() });
        }
        for by in names(&class.join("holders")) {
            let device = device();
            found.push(Objection::Held { device, by });
        }
    }
    found
}

/// What `block` holds, or why nobody can tell.
pub(super) fn content(host: &Host, block: &Block) -> Vec<Objection> {
    let mut found = Vec::new();
    let device = || block.name.clone();
    if !block.partitions.is_empty() {
        let count = block.partitions.len();
        found.push(Objection::Partitions {
            device: device(),
            count,
        });
    }
    match marks(&host.dev.join(&block.name), block.size_bytes) {
        Ok(marks) => found.extend(marks.into_iter().map(|mark| Objection::Content {
            device: device(),
            found: mark,
        })),
        Err(err) if err.raw_os_error() == Some(libc::EBUSY) => {
            found.push(Objection::Claimed { device: device() });
        }
        Err(err) => found.push(Objection::Unreadable {
            device: device(),
            why: err.to_string(),
        }),
    }
    found
}

fn marks(path: &Path, size: u64) -> io::Result<Vec<signature::Signature>> {
    // For a block device, exclusive means: not while anything has it mounted or in use.
    let mut disk = File::options()
        .read(true)
        .custom_flags(libc::O_EXCL)
        .open(path)?;
    signature::scan(&mut disk, size)
}

/// Mount points of device `number` (`major:minor`) called `name`, from `mountinfo`. By name as well,
/// for file systems that number themselves (btrfs).
fn mounted_at(mounts: &str, number: &str, name: &str) -> Vec<String> {
    let point = |line: &str| {
        let (mount, source) = line.split_once(" - ")?;
        let mut words = mount.split(' ').skip(2);
        let (device, at) = (words.next()?, words.nth(1)?);
        let ours = device == number || named(source.split(' ').nth(1), name);
        ours.then(|| at.to_owned())
    };
    mounts.lines().filter_map(point).collect()
}

/// Whether a path under `/dev` is the device called `name`.
fn named(path: Option<&str>, name: &str) -> bool {
    path.and_then(|path| path.strip_prefix("/dev/")) == Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_known_by_number_and_by_name() {
        let mounts = "22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
                      30 22 0:40 /sub /data rw - btrfs /dev/nvme0n1p2 rw\n\
                      31 22 0:41 / /proc rw - proc proc rw\n\
                      torn line - \n - ext4 /dev/nvme0n1\n";
        assert_eq!(mounted_at(mounts, "259:1", "nvme0n1p1"), ["/"]);
        assert_eq!(mounted_at(mounts, "259:2", "nvme0n1p2"), ["/data"]);
        assert!(mounted_at(mounts, "259:3", "nvme0n1p").is_empty());
    }
}
