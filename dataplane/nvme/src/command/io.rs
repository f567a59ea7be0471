//! I/O commands of the NVM command set (NVM 1.1, 3.3; Base 2.1, 7.2 for Flush).

use penstock_units::{Lba, Nsid};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::opcode::IoOpcode;
use crate::sqe::Sqe;
use crate::wire::{Le32, Le64};

/// What Read, Write, Compare, Verify and Write Zeroes have in common: a range of blocks and how to
/// treat it (NVM 1.1, 3.3.1 to 3.3.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRange {
    /// First block.
    pub slba: Lba,
    /// Blocks, 1 to 65536.
    pub blocks: u32,
    /// Force unit access: what is written is on durable media before the completion.
    pub fua: bool,
    /// Limited retry.
    pub limited_retry: bool,
    /// Deallocate: Write Zeroes may free the blocks; reserved elsewhere.
    pub deallocate: bool,
    /// Storage tag check.
    pub storage_tag_check: bool,
    /// Protection information field, four bits: PRACT and the three checks.
    pub prinfo: u8,
    /// Directive type, four bits; 0 none.
    pub directive_type: u8,
    /// Directive specific value.
    pub directive: u16,
    /// Dataset management hints of Read and Write.
    pub hints: u8,
}

impl BlockRange {
    /// A range without any option. `blocks` counts from one.
    pub const fn new(slba: Lba, blocks: u32) -> BlockRange {
        BlockRange {
            slba,
            blocks,
            fua: false,
            limited_retry: false,
            deallocate: false,
            storage_tag_check: false,
            prinfo: 0,
            directive_type: 0,
            directive: 0,
            hints: 0,
        }
    }

    /// Reads the command's dwords 10 to 13.
    #[inline]
    pub fn decode(sqe: &Sqe) -> BlockRange {
        let (cdw12, cdw13) = (sqe.cdw12.get(), sqe.cdw13.get());
        let [_, _, middle, high] = cdw12.to_le_bytes();
        let [hints, _, d0, d1] = cdw13.to_le_bytes();
        BlockRange {
            slba: Lba(u64::from(sqe.cdw10.get()) | u64::from(sqe.cdw11.get()) << 32),
            blocks: (cdw12 & 0xffff) + 1,
            fua: high & 1 << 6 != 0,
            limited_retry: high & 1 << 7 != 0,
            deallocate: high & 1 << 1 != 0,
            storage_tag_check: high & 1 << 0 != 0,
            prinfo: high >> 2 & 0xf,
            directive_type: middle >> 4,
            directive: u16::from_le_bytes([d0, d1]),
            hints,
        }
    }

    /// Builds the command for `opcode`: Read, Write, Compare, Verify or Write Zeroes. `None` where
    /// the count is not 1 to 65536. The data pointer is the caller's to set.
    #[inline]
    pub fn encode(&self, opcode: IoOpcode, nsid: Nsid) -> Option<Sqe> {
        let nlb = u16::try_from(self.blocks.checked_sub(1)?).ok()?;
        let mut sqe = Sqe::new(opcode.into());
        sqe.nsid = Le32::new(nsid.get());
        let [a, b, c, d, e, f, g, h] = self.slba.0.to_le_bytes();
        sqe.cdw10 = Le32::from_bytes([a, b, c, d]);
        sqe.cdw11 = Le32::from_bytes([e, f, g, h]);
        let high = u8::from(self.storage_tag_check)
            | u8::from(self.deallocate) << 1
            | (self.prinfo & 0xf) << 2
            | u8::from(self.fua) << 6
            | u8::from(self.limited_retry) << 7;
        let [n0, n1] = nlb.to_le_bytes();
        sqe.cdw12 = Le32::from_bytes([n0, n1, self.directive_type << 4, high]);
        let [d0, d1] = self.directive.to_le_bytes();
        sqe.cdw13 = Le32::from_bytes([self.hints, 0, d0, d1]);
        Some(sqe)
    }
}

/// A Flush of one namespace (Base 2.1, 7.2).
pub fn flush(nsid: Nsid) -> Sqe {
    let mut sqe = Sqe::new(IoOpcode::Flush.into());
    sqe.nsid = Le32::new(nsid.get());
    sqe
}

/// Most ranges of a Dataset Management command.
pub const DSM_RANGES_MAX: u32 = 256;

/// Attribute bit: deallocate (NVM 1.1, 3.3.3, AD).
pub const DSM_DEALLOCATE: u8 = 1 << 2;

/// Dataset Management (NVM 1.1, 3.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatasetManagement {
    /// Ranges, 1 to 256.
    pub ranges: u32,
    /// Attributes: bit 0 integral dataset for read, bit 1 for write, bit 2 [`DSM_DEALLOCATE`].
    pub attributes: u8,
}

impl DatasetManagement {
    /// Reads the command's dwords 10 and 11.
    pub fn decode(sqe: &Sqe) -> DatasetManagement {
        let [nr, ..] = sqe.cdw10.to_bytes();
        let [attributes, ..] = sqe.cdw11.to_bytes();
        DatasetManagement {
            ranges: u32::from(nr) + 1,
            attributes: attributes & 7,
        }
    }

    /// Bytes of range definitions the command transfers.
    pub fn data_bytes(&self) -> u32 {
        self.ranges * 16
    }

    /// Builds the command; `None` where the ranges are not 1 to 256.
    pub fn encode(&self, nsid: Nsid) -> Option<Sqe> {
        let nr = u8::try_from(self.ranges.checked_sub(1)?).ok()?;
        let mut sqe = Sqe::new(IoOpcode::DatasetManagement.into());
        sqe.nsid = Le32::new(nsid.get());
        sqe.cdw10 = Le32::new(u32::from(nr));
        sqe.cdw11 = Le32::new(u32::from(self.attributes & 7));
        Some(sqe)
    }
}

/// Range definition of Dataset Management, 16 bytes (NVM 1.1, 3.3.3, Range Definition).
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(C)]
pub struct DsmRange {
    /// Context attributes.
    pub attributes: Le32,
    /// Blocks, counted from one; 0 is an empty range.
    pub blocks: Le32,
    /// First block.
    pub slba: Le64,
}
layout!(DsmRange, 16, attributes @ 0, blocks @ 4, slba @ 8);

impl DsmRange {
    /// A range without context attributes.
    pub fn new(slba: Lba, blocks: u32) -> DsmRange {
        DsmRange {
            attributes: Le32::new(0),
            blocks: Le32::new(blocks),
            slba: Le64::new(slba.0),
        }
    }
}
