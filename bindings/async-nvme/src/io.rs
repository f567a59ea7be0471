//! What is asked of a drive, and how it ends.

use penstock_buffer::Payload;
use penstock_nvme::command::DSM_DEALLOCATE;
use penstock_nvme::pcie::{DWORD12_DEALLOCATE, DWORD12_FUA, SqeWords};
use penstock_nvme::{IoOpcode, Status};
use penstock_units::{Lba, Nsid};

use crate::cmb::ControllerMemory;

/// Memory of a request.
///
/// # Safety
/// The memory of every segment stays valid for the device to read and write until the value is
/// dropped, and the segments stay the same.
pub unsafe trait Buffers {
    /// Start and length in bytes of the segment with this index, counted from 0; `None` behind the
    /// last.
    fn segment(&self, index: usize) -> Option<(*mut u8, usize)>;
}

// SAFETY: there is no memory.
unsafe impl Buffers for () {
    fn segment(&self, _index: usize) -> Option<(*mut u8, usize)> {
        None
    }
}

// SAFETY: a lease holds its memory, and neither leases nor their order change behind `&self`.
unsafe impl Buffers for Payload {
    #[inline]
    fn segment(&self, index: usize) -> Option<(*mut u8, usize)> {
        if let Some(lease) = self.single() {
            return (index == 0).then(|| (lease.as_ptr(), lease.len()));
        }
        let lease = self.segments().nth(index)?;
        Some((lease.as_ptr(), lease.len()))
    }
}

// SAFETY: a run of controller memory is its holder's alone until dropped, and stays where it is.
unsafe impl Buffers for ControllerMemory {
    #[inline]
    fn segment(&self, index: usize) -> Option<(*mut u8, usize)> {
        (index == 0).then(|| (self.base().as_ptr(), self.len()))
    }
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Read the blocks into memory (NVM 1.1, 3.3.4).
    Read,
    /// Write the blocks from memory (NVM 1.1, 3.3.6).
    Write {
        /// Durable when completed.
        fua: bool,
    },
    /// Compare the blocks with memory (NVM 1.1, 3.3.1).
    Compare,
    /// Write zeroes (NVM 1.1, 3.3.8).
    WriteZeroes {
        /// Durable when completed.
        fua: bool,
        /// The drive may deallocate instead.
        deallocate: bool,
    },
    /// The blocks are needed no more (NVM 1.1, 3.3.3).
    Deallocate,
    /// Make completed writes durable (Base 2.1, 7.2). Blocks are ignored.
    Flush,
}

impl Verb {
    /// Whether memory goes with it.
    #[must_use]
    pub fn moves_data(self) -> bool {
        matches!(self, Verb::Read | Verb::Write { .. } | Verb::Compare)
    }
}

/// A range of blocks of a namespace and what to do with it. The driver cuts it into as many commands
/// as the drive's limits ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Io {
    /// What to do.
    pub verb: Verb,
    /// Namespace.
    pub nsid: Nsid,
    /// First block.
    pub slba: Lba,
    /// Blocks, counted from one.
    pub blocks: u64,
    /// log2 of the block size in bytes.
    pub block_shift: u8,
    /// Blocks that no command should cross a multiple of (NOIOB, NVM 1.1, 4.1.5.1); 0 for none.
    pub boundary_blocks: u32,
}

impl Io {
    /// The command for one piece of the range: `blocks` is 1 to 65536 where the command counts them.
    /// The data pointer is still to be set.
    #[inline]
    pub(crate) fn command(&self, slba: Lba, blocks: u32) -> SqeWords {
        // 0's based.
        let nlb = blocks.wrapping_sub(1) & 0xffff;
        let flag = |set: bool, bit: u32| if set { bit } else { 0 };
        let (opcode, dwords_10_11, dword12) = match self.verb {
            Verb::Read => (IoOpcode::Read, slba.0, nlb),
            Verb::Write { fua } => (IoOpcode::Write, slba.0, nlb | flag(fua, DWORD12_FUA)),
            Verb::Compare => (IoOpcode::Compare, slba.0, nlb),
            Verb::WriteZeroes { fua, deallocate } => {
                let flags = flag(fua, DWORD12_FUA) | flag(deallocate, DWORD12_DEALLOCATE);
                (IoOpcode::WriteZeroes, slba.0, nlb | flags)
            }
            // One range, and dword 11 says to deallocate it.
            Verb::Deallocate => (
                IoOpcode::DatasetManagement,
                u64::from(DSM_DEALLOCATE) << 32,
                0,
            ),
            Verb::Flush => (IoOpcode::Flush, 0, 0),
        };
        SqeWords::new(opcode, self.nsid, dwords_10_11, dword12)
    }
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    /// The drive says so.
    #[error("the drive answered: {0}")]
    Status(Status),
    /// The drive was taken away or given up.
    #[error("the drive is gone")]
    Gone,
    /// The drive was reset, and the data to be written lay in its own memory, whose contents a reset
    /// may take. Nothing tells whether the request was carried out; with its data put there again
    /// it may be.
    #[error("the drive was reset and the request's data in its memory went with it; try again")]
    Forgotten,
    /// Memory that the device cannot address: not of a known region.
    #[error("payload memory that the device does not reach")]
    Unmapped,
    /// Memory laid out in a way that no command can describe.
    #[error("payload memory with an alignment the drive cannot use")]
    Unaligned,
    /// The request and its memory do not fit each other; a mistake of the caller.
    #[error("a request whose memory and range differ, or an empty one")]
    Invalid,
}

/// How a request ended; memory and tag come back either way.
#[derive(Debug)]
pub struct Done<M, T> {
    /// Dwords 0 and 1 of the last completion, or what went wrong first.
    pub result: Result<u64, IoError>,
    /// The request's memory.
    pub memory: M,
    /// What was submitted with it.
    pub tag: T,
}
