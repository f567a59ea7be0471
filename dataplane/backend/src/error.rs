//! What keeps a device from being opened or resized.

use std::io;
use std::path::PathBuf;

use penstock_buffer::PoolError;

use crate::{DriveError, FileKind};

/// Why a device cannot be opened or resized: what, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A memory device got no memory.
    #[error("memory namespace {name}: {source}")]
    Memory {
        /// Name of the device.
        name: String,
        /// What the kernel refused.
        source: PoolError,
    },
    /// A size that does not make whole blocks.
    #[error(
        "{name}: size_bytes = {size_bytes} is not a positive multiple of block_size_bytes = {block_size_bytes}; choose one that is"
    )]
    Size {
        /// Name or path of the device.
        name: String,
        /// Size asked for.
        size_bytes: u64,
        /// Size of one block.
        block_size_bytes: u32,
    },
    /// A file whose own size does not make whole blocks.
    #[error("{}: {has_bytes} bytes are not a positive multiple of block_size_bytes = {block_size_bytes}; choose a block size that divides the file, set size_bytes, or resize the file (truncate -s)", path.display())]
    FileSize {
        /// The file.
        path: PathBuf,
        /// Its size.
        has_bytes: u64,
        /// Size of one block.
        block_size_bytes: u32,
    },
    /// A file or device that holds less than it should.
    #[error("{}: has {has_bytes} bytes, size_bytes asks for {needs_bytes}; lower size_bytes, or enlarge it (truncate -s {needs_bytes} for a file)", path.display())]
    TooSmall {
        /// The file.
        path: PathBuf,
        /// Its size.
        has_bytes: u64,
        /// What was asked for.
        needs_bytes: u64,
    },
    /// No such file, and not to be created.
    #[error("{}: no such file; create it (truncate -s SIZE), or give size_bytes to have it created", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Another writer has it.
    #[error("{}: locked by {}; one writer only: stop it, or use another file", path.display(), holder(*.pid))]
    Locked {
        /// The file.
        path: PathBuf,
        /// Process that holds the lock, where the kernel tells.
        pid: Option<u32>,
    },
    /// A block device that is mounted or claimed.
    #[error("{}: the device is in use (mounted, part of a RAID or volume group, or another node's); free it (findmnt, lsblk show who has it)", path.display())]
    Busy {
        /// The device.
        path: PathBuf,
    },
    /// A file where a block device should be, or the other way round.
    #[error("{}: is not a {wanted}; correct path or backend", path.display())]
    Kind {
        /// The path.
        path: PathBuf,
        /// What it should be.
        wanted: FileKind,
    },
    /// A device whose blocks are of another size.
    #[error(
        "{name}: has blocks of {has_bytes} bytes, block_size_bytes = {block_size_bytes}; set it to {has_bytes}, or format the drive"
    )]
    BlockSize {
        /// Name of the device.
        name: String,
        /// What was asked for.
        block_size_bytes: u32,
        /// What it has.
        has_bytes: u32,
    },
    /// A drive of our own.
    #[error(transparent)]
    Drive(#[from] Box<DriveError>),
    /// Anything else the kernel refused.
    #[error("{}: cannot {what}: {source}; check the path, its permissions and the file system", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl From<DriveError> for OpenError {
    fn from(error: DriveError) -> OpenError {
        OpenError::Drive(Box::new(error))
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid}"),
    )
}
