//! PDU headers as they lie on the wire (TCP 1.1, 3.6.2).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{
    CAPSULE_CMD_BYTES, CAPSULE_RESP_BYTES, DATA_HEADER_BYTES, DGST_DATA, DGST_HEADER, IC_BYTES,
    TERM_HEADER_BYTES,
};
use crate::sqe::{Cqe, Sqe};
use crate::wire::{Le16, Le32};

wire_enum! {
    /// PDU type (TCP 1.1, 3.6.2.1, PDU-Type).
    pub enum PduType: u8 = "PDU type" {
        IcReq = 0x00 "ICReq",
        IcResp = 0x01 "ICResp",
        H2cTermReq = 0x02 "H2CTermReq",
        C2hTermReq = 0x03 "C2HTermReq",
        CapsuleCmd = 0x04 "CapsuleCmd",
        CapsuleResp = 0x05 "CapsuleResp",
        H2cData = 0x06 "H2CData",
        C2hData = 0x07 "C2HData",
        R2t = 0x09 "R2T",
    }
}

impl PduType {
    /// The only HLEN this type may have, in bytes.
    #[inline]
    pub const fn hlen(self) -> usize {
        match self {
            PduType::IcReq | PduType::IcResp => IC_BYTES,
            PduType::H2cTermReq | PduType::C2hTermReq => TERM_HEADER_BYTES,
            PduType::CapsuleCmd => CAPSULE_CMD_BYTES,
            PduType::CapsuleResp => CAPSULE_RESP_BYTES,
            PduType::H2cData | PduType::C2hData | PduType::R2t => DATA_HEADER_BYTES,
        }
    }

    /// Whether a controller receives it (else a host does).
    #[inline]
    pub const fn is_to_controller(self) -> bool {
        matches!(
            self,
            PduType::IcReq | PduType::H2cTermReq | PduType::CapsuleCmd | PduType::H2cData
        )
    }
}

wire_enum! {
    /// Fatal error status of a termination request (TCP 1.1, 3.6.2.4 and 3.6.2.5, FES).
    pub enum FatalError: u16 = "fatal error status" {
        InvalidHeaderField = 0x01 "Invalid PDU Header Field",
        SequenceError = 0x02 "PDU Sequence Error",
        HeaderDigest = 0x03 "Header Digest Error",
        DataOutOfRange = 0x04 "Data Transfer Out of Range",
        LimitExceeded = 0x05 "Data Transfer (R2T) Limit Exceeded",
        UnsupportedParameter = 0x06 "Unsupported Parameter",
    }
}

/// Common header of every PDU (TCP 1.1, 3.6.2.1).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct CommonHeader {
    /// PDU type: a [`PduType`].
    pub pdu_type: u8,
    /// `FLAG_*`.
    pub flags: u8,
    /// Header length in bytes, digest not counted.
    pub hlen: u8,
    /// Offset of the data from the start of the PDU, in bytes.
    pub pdo: u8,
    /// Length of the whole PDU in bytes, digests and padding counted.
    pub plen: Le32,
}
layout!(CommonHeader, 8, pdu_type @ 0, flags @ 1, hlen @ 2, pdo @ 3, plen @ 4);

impl CommonHeader {
    /// Views the first bytes of a PDU; `None` where fewer than 8 are there.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Option<CommonHeader> {
        CommonHeader::read_from_prefix(bytes)
            .ok()
            .map(|(header, _)| header)
    }
}

/// Initialize Connection Request (TCP 1.1, 3.6.2.2).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct IcReq {
    /// Common header.
    pub ch: CommonHeader,
    /// PDU format version, 0.
    pub pfv: Le16,
    /// Alignment the host wants for data of PDUs it receives, dwords, 0's based, 0 to 31.
    pub hpda: u8,
    /// `DGST_*` the host wants.
    pub dgst: u8,
    /// R2Ts the host takes at once for a command, 0's based: see [`IcReq::r2t_max`].
    pub maxr2t: Le32,
    /// Reserved.
    pub reserved16: [u8; 112],
}
layout!(IcReq, 128, ch @ 0, pfv @ 8, hpda @ 10, dgst @ 11, maxr2t @ 12, reserved16 @ 16);

impl IcReq {
    /// R2Ts the host takes at once for a command, counted from one.
    pub fn r2t_max(&self) -> u64 {
        u64::from(self.maxr2t.get()) + 1
    }

    /// Alignment in bytes of data in PDUs to the host.
    pub fn align_bytes(&self) -> usize {
        (usize::from(self.hpda) + 1) * 4
    }

    /// Whether the host wants header digests.
    pub fn header_digest(&self) -> bool {
        self.dgst & DGST_HEADER != 0
    }

    /// Whether the host wants data digests.
    pub fn data_digest(&self) -> bool {
        self.dgst & DGST_DATA != 0
    }
}

/// Initialize Connection Response (TCP 1.1, 3.6.2.3).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct IcResp {
    /// Common header.
    pub ch: CommonHeader,
    /// PDU format version, 0.
    pub pfv: Le16,
    /// Alignment the controller wants for data of PDUs it receives, dwords, 0's based, 0 to 31.
    pub cpda: u8,
    /// `DGST_*` in force on this connection.
    pub dgst: u8,
    /// Most data bytes of one H2CData PDU.
    pub maxh2cdata: Le32,
    /// Reserved.
    pub reserved16: [u8; 112],
}
layout!(IcResp, 128, ch @ 0, pfv @ 8, cpda @ 10, dgst @ 11, maxh2cdata @ 12, reserved16 @ 16);

impl IcResp {
    /// Alignment in bytes of data in PDUs to the controller.
    pub fn align_bytes(&self) -> usize {
        (usize::from(self.cpda) + 1) * 4
    }

    /// Whether header digests are in force.
    pub fn header_digest(&self) -> bool {
        self.dgst & DGST_HEADER != 0
    }

    /// Whether data digests are in force.
    pub fn data_digest(&self) -> bool {
        self.dgst & DGST_DATA != 0
    }
}

/// Termination request, either way (TCP 1.1, 3.6.2.4 and 3.6.2.5). The header of the PDU in error
/// follows, 128 bytes of it at most.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct TermReq {
    /// Common header.
    pub ch: CommonHeader,
    /// Fatal error status: a [`FatalError`].
    pub fes: Le16,
    /// Fatal error information: byte offset of the field, or the digest received.
    pub fei: Le32,
    /// Reserved.
    pub reserved14: [u8; 10],
}
layout!(TermReq, 24, ch @ 0, fes @ 8, fei @ 10, reserved14 @ 14);

/// Command capsule (TCP 1.1, 3.6.2.6).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct CapsuleCmd {
    /// Common header.
    pub ch: CommonHeader,
    /// Submission queue entry.
    pub sqe: Sqe,
}
layout!(CapsuleCmd, 72, ch @ 0, sqe @ 8);

/// Response capsule (TCP 1.1, 3.6.2.7).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct CapsuleResp {
    /// Common header.
    pub ch: CommonHeader,
    /// Completion queue entry.
    pub cqe: Cqe,
}
layout!(CapsuleResp, 24, ch @ 0, cqe @ 8);

/// Header of data from the host (TCP 1.1, 3.6.2.8).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct H2cData {
    /// Common header.
    pub ch: CommonHeader,
    /// Command identifier of the command the data belongs to.
    pub cccid: Le16,
    /// Transfer tag of the R2T.
    pub ttag: Le16,
    /// Offset of the data within the command's data, in bytes.
    pub datao: Le32,
    /// Length of the data in bytes.
    pub datal: Le32,
    /// Reserved.
    pub reserved20: [u8; 4],
}
layout!(H2cData, 24, cccid @ 8, ttag @ 10, datao @ 12, datal @ 16, reserved20 @ 20);

/// Header of data from the controller (TCP 1.1, 3.6.2.9).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct C2hData {
    /// Common header.
    pub ch: CommonHeader,
    /// Command identifier of the command the data belongs to.
    pub cccid: Le16,
    /// Reserved.
    pub reserved10: [u8; 2],
    /// Offset of the data within the command's data, in bytes.
    pub datao: Le32,
    /// Length of the data in bytes.
    pub datal: Le32,
    /// Reserved.
    pub reserved20: [u8; 4],
}
layout!(C2hData, 24, cccid @ 8, datao @ 12, datal @ 16, reserved20 @ 20);

/// Ready to transfer (TCP 1.1, 3.6.2.10).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct R2t {
    /// Common header.
    pub ch: CommonHeader,
    /// Command identifier of the command whose data is asked for.
    pub cccid: Le16,
    /// Transfer tag, to be repeated in H2CData.
    pub ttag: Le16,
    /// Offset of the data asked for, in bytes.
    pub r2to: Le32,
    /// Length of the data asked for, in bytes.
    pub r2tl: Le32,
    /// Reserved.
    pub reserved20: [u8; 4],
}
layout!(R2t, 24, cccid @ 8, ttag @ 10, r2to @ 12, r2tl @ 16, reserved20 @ 20);
