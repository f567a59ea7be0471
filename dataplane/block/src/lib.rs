//! The BlockDevice trait: what every backend and every layer (stripe, mirror, erasure code, pool,
//! checksum) speaks.
//!
//! A [`BlockDevice`] is shared by all reactors; each reactor opens its own [`BlockQueue`] on it. A
//! request carries its payload in and gets it back in the [`Outcome`]: whoever executes a request
//! owns its memory, so dropping a [`Ticket`] never frees memory that a device still writes to.
//!
//! Layers are devices on devices: [`Extents`] puts ranges of devices one after the other, [`Stripe`]
//! goes round over columns. A request that needs no splitting passes them as it is; one that does is
//! a [`Gather`] of its parts. A layer that goes wrong in one part waits for the others before it says
//! so, so that no memory is given back that a device still uses.
#![forbid(unsafe_code)]

mod extents;
mod gather;
mod geometry;
mod split;
mod stripe;
#[cfg(test)]
mod testing;
mod ticket;

use std::rc::Rc;

use penstock_buffer::{Lease, Payload};
use penstock_units::Lba;

pub use extents::{DeviceRange, Extents};
pub use gather::Gather;
pub use geometry::{ByteRange, Geometry};
pub use split::LayoutError;
pub use stripe::Stripe;
pub use ticket::{Completer, Ticket};

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Read `blocks` into the payload.
    Read,
    /// Write the payload; durable on completion with `fua`.
    Write {
        /// Force unit access: durable when completed.
        fua: bool,
    },
    /// Make every completed write durable. LBA and count are ignored.
    Flush,
    /// Write zeroes, no payload.
    WriteZeroes {
        /// Durable when completed.
        fua: bool,
        /// The host allows to deallocate instead.
        may_deallocate: bool,
    },
    /// The host needs the blocks no more, no payload.
    Deallocate,
}

/// One request. The payload's length equals `blocks` times the block size for reads and writes.
#[derive(Debug)]
pub struct Request {
    /// What to do.
    pub op: Op,
    /// First block.
    pub lba: Lba,
    /// Number of blocks.
    pub blocks: u64,
    /// Memory to read into or write from.
    pub payload: Payload,
}

/// How a request ended; the payload comes back either way.
#[derive(Debug)]
pub struct Outcome {
    /// Success, or what went wrong.
    pub result: Result<(), BlockError>,
    /// The request's payload.
    pub payload: Payload,
}

/// What can go wrong on media. Mapped to NVMe status in one table, in the subsystem crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The range is outside the device.
    #[error("block range outside the device")]
    OutOfRange,
    /// The device refuses writes.
    #[error("device is read-only")]
    ReadOnly,
    /// No space left where the data is kept.
    #[error("no space left on the backing store")]
    CapacityExceeded,
    /// Data could not be read back.
    #[error("unrecovered read error")]
    ReadMedia,
    /// Data could not be written.
    #[error("write fault")]
    WriteMedia,
    /// Stored data failed its integrity check.
    #[error("stored data failed its integrity check")]
    Integrity,
    /// The device is gone for good.
    #[error("device is gone")]
    Gone,
    /// The device cannot serve just now; trying again can help.
    #[error("device is not ready")]
    NotReady,
    /// The device did not answer in time.
    #[error("device did not answer in time")]
    TimedOut,
    /// The request was taken back.
    #[error("request was aborted")]
    Aborted,
    /// Out of memory, descriptors or queue room; trying again can help.
    #[error("out of resources")]
    NoResources,
    /// The device cannot do this.
    #[error("operation not supported by the device")]
    Unsupported,
    /// A mistake of ours; the log has more.
    #[error("internal error")]
    Internal,
}

impl BlockError {
    /// The worse of two: what trying again cannot cure outweighs what it may, and lost data
    /// outweighs a refusal. Where a request was split it ends with the worst of its parts.
    #[must_use]
    pub fn worse(self, other: BlockError) -> BlockError {
        if other.severity() > self.severity() {
            other
        } else {
            self
        }
    }

    fn severity(self) -> u8 {
        match self {
            BlockError::Aborted => 0,
            BlockError::NotReady => 1,
            BlockError::NoResources => 2,
            BlockError::TimedOut => 3,
            BlockError::Unsupported => 4,
            BlockError::OutOfRange => 5,
            BlockError::ReadOnly => 6,
            BlockError::CapacityExceeded => 7,
            BlockError::Internal => 8,
            BlockError::ReadMedia => 9,
            BlockError::WriteMedia => 10,
            BlockError::Integrity => 11,
            BlockError::Gone => 12,
        }
    }
}

/// A device, shared by all reactors.
pub trait BlockDevice: Send + Sync {
    /// Size and abilities now. May change at run time (resize).
    fn geometry(&self) -> Geometry;

    /// Name for logs and metrics.
    fn name(&self) -> &str;

    /// Opens this reactor's queue. Called on the reactor's thread.
    ///
    /// # Errors
    /// Whatever keeps the device from being used on this reactor.
    fn open(self: std::sync::Arc<Self>) -> Result<Rc<dyn BlockQueue>, BlockError>;
}

/// Which way payload moves, as the device sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Out of the device (a read).
    FromDevice,
    /// Into the device (a write).
    ToDevice,
}

/// One reactor's way to a device.
pub trait BlockQueue {
    /// Starts a request. The ticket is a future of its outcome, often ready at once.
    fn submit(&self, request: Request) -> Ticket;

    /// Memory of the device itself for the payload of a request over this range (a memory
    /// namespace's own pages, a controller memory buffer), so that data moves once. A request over
    /// exactly this range must follow with this lease as its payload; `None` where the device has
    /// no such memory (then the caller leases from its pool).
    fn lend(&self, direction: Direction, lba: Lba, blocks: u64) -> Option<Lease>;
}
