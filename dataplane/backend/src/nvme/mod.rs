//! Namespaces of a drive that this process drives itself, with no kernel on the way.
//!
//! An [`NvmeDrive`] is one controller: a thread of its own keeps it (events, late commands, resets,
//! health), and every reactor has one queue pair on it, shared by all its namespaces. An
//! [`NvmeDevice`] is one namespace as the block layer sees it.
//!
//! Payloads go to the drive as they are where the drive reaches their memory: the pools of a reactor
//! are mapped for the drive when the reactor first opens a namespace of it. What it does not reach,
//! or what lies so that no command can describe it, is copied through memory that it does. What hosts
//! write may lie in the drive's own memory instead, where the drive and the configuration have it so.

mod drive;
mod errors;
mod keeper;
mod own;
mod queue;
mod stats;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use penstock_async_nvme::{IoError, Namespace};
use penstock_block::{BlockDevice, BlockError, BlockQueue, Geometry};
use penstock_nvme::Status;
use penstock_units::BlockSize;

pub use drive::{DriveError, DriveMemory, NvmeDrive, NvmeDriveConfig};
pub use keeper::{DriveHealth, Kept};
pub use stats::{DriveStats, Kind as RequestKind, KindSnapshot, LATENCY_BUCKETS, bucket_limit_ns};

/// A namespace of a drive.
pub struct NvmeDevice {
    drive: Arc<NvmeDrive>,
    name: String,
    namespace: Namespace,
    block_size: BlockSize,
    /// Size now, in blocks; told anew when the drive says that it changed.
    blocks: Arc<AtomicU64>,
}

impl NvmeDevice {
    /// The drive it is on.
    pub fn drive(&self) -> &Arc<NvmeDrive> {
        &self.drive
    }

    /// The namespace as it was when opened.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }
}

impl BlockDevice for NvmeDevice {
    fn geometry(&self) -> Geometry {
        let identity = self.drive.identity();
        Geometry {
            block_size: self.block_size,
            blocks: self.blocks.load(Ordering::Acquire),
            volatile_cache: identity.volatile_cache,
            deallocate: identity.deallocate,
            deallocated_reads_zero: self.namespace.deallocated_reads_zero,
            read_only: false,
            optimal_blocks: self.namespace.write_granularity_blocks.max(1),
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn open(self: Arc<Self>) -> Result<Rc<dyn BlockQueue>, BlockError> {
        let pair = self.drive.queue_of_this_reactor()?;
        Ok(Rc::new(queue::NvmeQueue::new(self, pair)))
    }
}

/// What a drive's answer means to the layers above (Base 2.1, 4.2.3; NVM 1.1, 3.1).
fn block_error(error: IoError, write: bool) -> BlockError {
    match error {
        IoError::Gone => BlockError::Gone,
        // Nothing was promised, and the host has the data still.
        IoError::Forgotten => BlockError::NotReady,
        IoError::Unmapped | IoError::Unaligned => BlockError::Unsupported,
        IoError::Invalid => BlockError::Internal,
        IoError::Status(status) => status_error(status.code(), write),
    }
}

fn status_error(status: Status, write: bool) -> BlockError {
    match status {
        Status::LBA_OUT_OF_RANGE => BlockError::OutOfRange,
        Status::CAPACITY_EXCEEDED => BlockError::CapacityExceeded,
        Status::NAMESPACE_NOT_READY
        | Status::FORMAT_IN_PROGRESS
        | Status::SANITIZE_IN_PROGRESS
        | Status::COMMAND_INTERRUPTED => BlockError::NotReady,
        Status::ABORT_REQUESTED | Status::ABORT_SQ_DELETION => BlockError::TimedOut,
        Status::INVALID_NAMESPACE => BlockError::Gone,
        Status::INVALID_OPCODE => BlockError::Unsupported,
        Status::NAMESPACE_WRITE_PROTECTED | Status::WRITE_TO_READ_ONLY_RANGE => {
            BlockError::ReadOnly
        }
        Status::GUARD_CHECK_ERROR
        | Status::APPLICATION_TAG_ERROR
        | Status::REFERENCE_TAG_ERROR
        | Status::STORAGE_TAG_ERROR => BlockError::Integrity,
        other if other.sct() == MEDIA_ERRORS && write => BlockError::WriteMedia,
        other if other.sct() == MEDIA_ERRORS => BlockError::ReadMedia,
        _ => BlockError::Internal,
    }
}

/// Status code type of media and data integrity errors.
const MEDIA_ERRORS: u8 = 2;

#[cfg(test)]
#[path = "../nvme_tests.rs"]
mod tests;
