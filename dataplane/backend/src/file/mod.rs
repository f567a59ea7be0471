//! A namespace in a file or on a block device, through the reactor's io_uring.
//!
//! I/O is direct (O_DIRECT) where the file system and the block size allow; otherwise it goes
//! through the page cache, and a warning names the path. One process writes a file at a time, kept
//! by a lock on the file, or by an exclusive open of a block device.
//!
//! Flush is `fdatasync`, FUA a write with RWF_DSYNC. Zeroing and deallocating are `fallocate`, which
//! block devices translate to their own commands; where it is refused, zeroes are written in pieces
//! and deallocate does nothing, and the geometry says so.
//!
//! Payloads should be aligned as direct I/O needs it ([`FileDevice::alignment_bytes`]; pool leases
//! are). Others are copied through a small pool of the queue, up to 4 MiB each; longer ones are
//! refused as unsupported.

mod flight;
mod lock;
mod open;
mod queue;

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use penstock_block::{BlockDevice, BlockError, BlockQueue, Geometry};
use penstock_units::BlockSize;

use crate::OpenError;

/// What the path of a file device leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A block device.
    Block,
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FileKind::Regular => "regular file",
            FileKind::Block => "block device",
        })
    }
}

/// How a file device is opened.
#[derive(Clone, Debug)]
pub struct FileConfig {
    /// Name for logs and metrics.
    pub name: String,
    /// The file or block device.
    pub path: PathBuf,
    /// What it has to be.
    pub kind: FileKind,
    /// How many bytes of it to use, a multiple of the block size; all of it where `None`.
    pub size_bytes: Option<u64>,
    /// Whether to create a missing file with `size_bytes` (sparse), and to enlarge it when a resize
    /// asks for more. A file is never shortened.
    pub create: bool,
    /// Logical block size.
    pub block_size: BlockSize,
    /// Whether to go around the page cache where possible.
    pub direct: bool,
    /// Whether to refuse writes; the file is then locked against writers only.
    pub read_only: bool,
}

/// A file or block device.
pub struct FileDevice {
    config: FileConfig,
    /// For what is done from control threads. Holds the lock, as its duplicates do.
    file: std::fs::File,
    fd: Arc<OwnedFd>,
    /// What direct I/O needs offsets, lengths and addresses to be a multiple of; 1 when buffered.
    alignment: u32,
    blocks: AtomicU64,
    abilities: Abilities,
}

/// What the file system or device has not refused yet. Set to false by any reactor, never back.
struct Abilities {
    punch: AtomicBool,
    zero_range: AtomicBool,
}

impl Abilities {
    fn has(ability: &AtomicBool) -> bool {
        ability.load(Ordering::Relaxed)
    }
}

impl FileDevice {
    /// Opens, locks, checks, and where asked creates the file. May block.
    ///
    /// # Errors
    /// [`OpenError`]; a file just created is removed again.
    pub fn open_path(config: &FileConfig) -> Result<Arc<FileDevice>, OpenError> {
        open::open(config).map(Arc::new)
    }

    /// Whether I/O goes around the page cache.
    pub fn is_direct(&self) -> bool {
        self.alignment > 1
    }

    /// What offsets, lengths and addresses must be a multiple of to be used without a copy.
    pub fn alignment_bytes(&self) -> u32 {
        self.alignment
    }

    /// Looks at the file's size again and uses `size_bytes` of it from now on (all where `None`).
    /// May block.
    ///
    /// # Errors
    /// [`OpenError`] as at opening; the size is unchanged then.
    pub fn resize(&self, size_bytes: Option<u64>) -> Result<(), OpenError> {
        let config = FileConfig {
            size_bytes,
            ..self.config.clone()
        };
        let blocks = open::resized_blocks(&self.file, &config)?;
        self.blocks.store(blocks, Ordering::Release);
        Ok(())
    }
}

impl BlockDevice for FileDevice {
    fn geometry(&self) -> Geometry {
        let punch = Abilities::has(&self.abilities.punch) && !self.config.read_only;
        Geometry {
            block_size: self.config.block_size,
            blocks: self.blocks.load(Ordering::Acquire),
            volatile_cache: !self.config.read_only,
            deallocate: punch,
            deallocated_reads_zero: punch,
            read_only: self.config.read_only,
            optimal_blocks: (4096 / self.config.block_size.bytes()).max(1),
        }
    }

    fn name(&self) -> &str {
        &self.config.name
    }

    fn open(self: Arc<Self>) -> Result<Rc<dyn BlockQueue>, BlockError> {
        let ring = penstock_reactor::File::from_fd(Arc::clone(&self.fd));
        Ok(queue::FileQueue::new(self, ring))
    }
}

#[cfg(test)]
#[path = "../file_script_tests.rs"]
mod script_tests;
#[cfg(test)]
#[path = "../file_tests.rs"]
mod tests;
