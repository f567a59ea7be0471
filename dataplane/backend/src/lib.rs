//! Backends: where the blocks of a namespace are kept.
//!
//! - [`MemoryDevice`]: pages of this node, lent to transports so that data moves once.
//! - [`NullDevice`]: nothing; for measuring everything else.
//! - [`FileDevice`]: a file or a block device through the reactor's io_uring.
//! - [`NvmeDevice`]: a namespace of a drive that this process drives itself.
//! - [`faulty`]: any of them with errors and delays on demand, for tests of the layers above.
//!
//! All are opened from a control thread (that may block) and shared by the reactors, each of which
//! opens its own queue. What keeps a device from being opened is an [`OpenError`] that names the
//! thing and the remedy; what goes wrong later is a [`penstock_block::BlockError`].
#![forbid(unsafe_code)]

mod errno;
mod error;
pub mod faulty;
mod file;
mod memory;
mod null;
mod nvme;
mod slab;
#[cfg(test)]
mod testing;

pub use error::OpenError;
pub use file::{FileConfig, FileDevice, FileKind};
pub use memory::{MemoryConfig, MemoryDevice};
pub use null::{NullConfig, NullDevice};
pub use nvme::{
    DriveError, DriveHealth, DriveMemory, DriveStats, Kept, KindSnapshot, LATENCY_BUCKETS,
    NvmeDevice, NvmeDrive, NvmeDriveConfig, RequestKind, bucket_limit_ns,
};
