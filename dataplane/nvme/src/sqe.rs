//! Submission and completion queue entries (Base 2.1, 4.1 and 4.2).

use penstock_units::{CommandId, Nsid};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::opcode::DataDirection;
use crate::sgl::SglDescriptor;
use crate::status::Status;
use crate::wire::{Le16, Le32, Le64};

/// Namespace identifier meaning every namespace (Base 2.1, 3.2.1.1).
pub const NSID_BROADCAST: u32 = 0xffff_ffff;

/// Submission queue entry, 64 bytes (Base 2.1, 4.1, Common Command Format). Fabrics commands use
/// the same bytes differently: see [`crate::fabrics`].
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Sqe {
    /// Opcode; its two low bits tell the direction of the data.
    pub opcode: u8,
    /// FUSE in bits 1:0, PSDT in bits 7:6.
    pub flags: u8,
    /// Command identifier.
    pub cid: Le16,
    /// Namespace identifier; the Fabrics command type lies in its first byte.
    pub nsid: Le32,
    /// Command dword 2.
    pub cdw2: Le32,
    /// Command dword 3.
    pub cdw3: Le32,
    /// Metadata pointer.
    pub mptr: Le64,
    /// Data pointer: over Fabrics always one SGL descriptor.
    pub sgl1: SglDescriptor,
    /// Command dword 10.
    pub cdw10: Le32,
    /// Command dword 11.
    pub cdw11: Le32,
    /// Command dword 12.
    pub cdw12: Le32,
    /// Command dword 13.
    pub cdw13: Le32,
    /// Command dword 14.
    pub cdw14: Le32,
    /// Command dword 15.
    pub cdw15: Le32,
}
layout!(Sqe, 64, opcode @ 0, flags @ 1, cid @ 2, nsid @ 4, cdw2 @ 8, cdw3 @ 12, mptr @ 16,
    sgl1 @ 24, cdw10 @ 40, cdw11 @ 44, cdw12 @ 48, cdw13 @ 52, cdw14 @ 56, cdw15 @ 60);

/// Place of a command in a fused operation (Base 2.1, 4.1, FUSE).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fuse {
    /// Not part of one.
    Normal,
    /// First command.
    First,
    /// Second command.
    Second,
    /// The reserved encoding 11b.
    Reserved,
}

/// What the data pointer holds (Base 2.1, 4.1, PSDT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Psdt {
    /// Physical region pages: never valid over Fabrics.
    Prp,
    /// An SGL; the metadata pointer is a contiguous buffer.
    Sgl,
    /// An SGL; the metadata pointer is an SGL segment.
    SglMetadataSgl,
    /// The reserved encoding 11b.
    Reserved,
}

impl Sqe {
    /// An all-zero entry with opcode, and PSDT 01b as Fabrics requires (Base 2.1, 3.3.1).
    pub fn new(opcode: u8) -> Sqe {
        let mut sqe = Sqe::new_zeroed();
        sqe.opcode = opcode;
        sqe.flags = 0x40;
        sqe
    }

    /// Views 64 bytes as an entry.
    #[inline]
    pub fn from_bytes(bytes: &[u8; 64]) -> &Sqe {
        zerocopy::transmute_ref!(bytes)
    }

    /// The 64 bytes of the entry.
    #[inline]
    pub fn to_bytes(self) -> [u8; 64] {
        zerocopy::transmute!(self)
    }

    /// Command identifier.
    #[inline]
    pub fn command_id(&self) -> CommandId {
        CommandId(self.cid.get())
    }

    /// Namespace identifier, or `None` for 0 and for the broadcast value.
    #[inline]
    pub fn namespace(&self) -> Option<Nsid> {
        Nsid::new(self.nsid.get())
    }

    /// Fused operation bits.
    #[inline]
    pub fn fuse(&self) -> Fuse {
        match self.flags & 3 {
            0 => Fuse::Normal,
            1 => Fuse::First,
            2 => Fuse::Second,
            _ => Fuse::Reserved,
        }
    }

    /// Sets the fused operation bits.
    #[must_use]
    pub fn with_fuse(mut self, fuse: Fuse) -> Sqe {
        let bits = match fuse {
            Fuse::Normal => 0,
            Fuse::First => 1,
            Fuse::Second => 2,
            Fuse::Reserved => 3,
        };
        self.flags = (self.flags & !3) | bits;
        self
    }

    /// PRP or SGL for data transfer.
    #[inline]
    pub fn psdt(&self) -> Psdt {
        match self.flags >> 6 {
            0 => Psdt::Prp,
            1 => Psdt::Sgl,
            2 => Psdt::SglMetadataSgl,
            _ => Psdt::Reserved,
        }
    }

    /// Which way the command moves data. For a Fabrics command (opcode 7Fh) the Fabrics command
    /// type tells it instead (Base 2.1, 3.3.1 and 6).
    #[inline]
    pub fn direction(&self) -> DataDirection {
        if self.is_fabrics() {
            DataDirection::of(self.fctype())
        } else {
            DataDirection::of(self.opcode)
        }
    }

    /// Whether this is a Fabrics command (opcode 7Fh).
    #[inline]
    pub fn is_fabrics(&self) -> bool {
        self.opcode == crate::opcode::FABRICS
    }

    /// Fabrics command type; meaningful only where [`Sqe::is_fabrics`].
    #[inline]
    pub fn fctype(&self) -> u8 {
        self.nsid.as_bytes()[0]
    }

    /// Sets the command identifier.
    #[must_use]
    pub fn with_cid(mut self, cid: u16) -> Sqe {
        self.cid = Le16::new(cid);
        self
    }

    /// Sets the data pointer to two PRP entries, which memory-based controllers take
    /// (Base 2.1, 4.3.1).
    #[inline]
    #[must_use]
    pub fn with_prps(mut self, prp1: u64, prp2: u64) -> Sqe {
        let [a, b, c, d, e, f, g, h] = prp2.to_le_bytes();
        self.sgl1 = SglDescriptor {
            address: Le64::new(prp1),
            specific: [a, b, c, d, e, f, g],
            identifier: h,
        };
        self.flags &= 0x3f;
        self
    }

    /// The two PRP entries; meaningful only where [`Sqe::psdt`] says PRP.
    #[inline]
    pub fn prps(&self) -> (u64, u64) {
        let [a, b, c, d, e, f, g] = self.sgl1.specific;
        let prp2 = u64::from_le_bytes([a, b, c, d, e, f, g, self.sgl1.identifier]);
        (self.sgl1.address.get(), prp2)
    }

    /// Sets the data pointer.
    #[must_use]
    pub fn with_sgl(mut self, sgl: SglDescriptor) -> Sqe {
        self.sgl1 = sgl;
        self
    }
}

/// Completion queue entry, 16 bytes (Base 2.1, 4.2.1).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Cqe {
    /// Dwords 0 and 1: command specific.
    pub result: Le64,
    /// Submission queue head pointer (reserved where flow control is disabled).
    pub sqhd: Le16,
    /// Submission queue identifier (reserved over Fabrics).
    pub sqid: Le16,
    /// Command identifier.
    pub cid: Le16,
    /// Status in bits 15:1; bit 0 is the phase tag, reserved over Fabrics.
    pub status: Le16,
}
layout!(Cqe, 16, result @ 0, sqhd @ 8, sqid @ 10, cid @ 12, status @ 14);

impl Cqe {
    /// A completion as Fabrics sends it: SQID 0, phase clear. `status` is in wire form
    /// ([`Status::wire`]).
    #[inline]
    pub fn new(result: u64, sqhd: u16, cid: u16, status: u16) -> Cqe {
        Cqe {
            result: Le64::new(result),
            sqhd: Le16::new(sqhd),
            sqid: Le16::new(0),
            cid: Le16::new(cid),
            status: Le16::new(status),
        }
    }

    /// Identifier of the command it answers.
    #[inline]
    pub fn command_id(&self) -> CommandId {
        CommandId(self.cid.get())
    }

    /// From its 16 bytes as they lie in a queue, read as two words.
    #[inline]
    pub fn from_words(words: [u64; 2]) -> Cqe {
        zerocopy::transmute!(words)
    }

    /// The status, phase bit left out.
    #[inline]
    pub fn status(&self) -> Status {
        Status::from_wire(self.status.get())
    }

    /// Dword 0.
    #[inline]
    pub fn dw0(&self) -> u32 {
        let b = self.result.as_bytes();
        u32::from_le_bytes([b[0], b[1], b[2], b[3]])
    }
}
