//! Writing PDUs: headers with their digest and padding, into buffers of the caller; nothing is
//! allocated. Data and data digest are the caller's to send after them.

use zerocopy::IntoBytes;

use super::header::{
    C2hData, CapsuleCmd, CapsuleResp, CommonHeader, FatalError, H2cData, IcReq, IcResp, PduType,
    R2t, TermReq,
};
use super::{
    CAPSULE_CMD_BYTES, CAPSULE_RESP_BYTES, DATA_HEADER_BYTES, DGST_DATA, DGST_HEADER, DIGEST_BYTES,
    FLAG_DDGST, FLAG_HDGST, FLAG_LAST, FLAG_SUCCESS, HLEN_MAX, IC_BYTES, TERM_BYTES_MAX,
    TERM_HEADER_BYTES, crc32c,
};
use crate::sqe::{Cqe, Sqe};
use crate::wire::{Le16, Le32};

/// Most bytes before the data of any PDU: alignments need not be powers of two, and a command
/// capsule with its digest (76 bytes) under an alignment of 72 has its data at 144.
pub const HEADER_BYTES_MAX: usize = 144;

/// What a data PDU says of its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataHeader {
    /// Command identifier.
    pub cccid: u16,
    /// Transfer tag (H2CData only).
    pub ttag: u16,
    /// Offset within the command's data, in bytes.
    pub datao: u32,
    /// Length in bytes.
    pub datal: u32,
    /// Last PDU of this transfer.
    pub last: bool,
    /// The command succeeded and no response capsule follows (C2HData only, with `last`).
    pub success: bool,
}

/// Offset of the data of a PDU: header and digest, rounded up to `align` (a multiple of 4 from 4
/// to 128: [`IcReq::align_bytes`], [`IcResp::align_bytes`]).
#[inline]
pub const fn data_offset(hlen: usize, header_digest: bool, align: usize) -> usize {
    let used = if header_digest {
        hlen + DIGEST_BYTES
    } else {
        hlen
    };
    used.next_multiple_of(if align == 0 { 4 } else { align })
}

#[inline]
#[allow(
    clippy::cast_possible_truncation,
    reason = "HLEN is at most 128, PDO at most 144"
)]
fn common(pdu_type: PduType, flags: u8, pdo: usize, plen: u32) -> CommonHeader {
    CommonHeader {
        pdu_type: pdu_type as u8,
        flags,
        hlen: pdu_type.hlen() as u8,
        pdo: pdo as u8,
        plen: Le32::new(plen),
    }
}

/// Copies the header, and its digest if `digest`; the length written.
#[inline]
fn put(out: &mut [u8], header: &[u8], digest: bool) -> usize {
    let n = header.len();
    out[..n].copy_from_slice(header);
    if !digest {
        return n;
    }
    out[n..n + DIGEST_BYTES].copy_from_slice(&crc32c(header).to_le_bytes());
    n + DIGEST_BYTES
}

/// Flags and PLEN of a PDU with `data` bytes from `offset`.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "offsets are at most 144")]
fn lengths(offset: usize, data: u32, hdgst: bool, ddgst: bool) -> (u8, u32) {
    let mut flags = if hdgst { FLAG_HDGST } else { 0 };
    let mut plen = (offset as u32).saturating_add(data);
    if ddgst && data > 0 {
        flags |= FLAG_DDGST;
        plen = plen.saturating_add(DIGEST_BYTES as u32);
    }
    (flags, plen)
}

/// An ICReq (TCP 1.1, 3.6.2.2). `hpda` in dwords, 0's based; `r2t_max` counted from one.
pub fn encode_icreq(
    hpda: u8,
    header_digest: bool,
    data_digest: bool,
    r2t_max: u32,
) -> [u8; IC_BYTES] {
    zerocopy::transmute!(IcReq {
        ch: common(PduType::IcReq, 0, 0, 128),
        pfv: Le16::new(0),
        hpda,
        dgst: dgst(header_digest, data_digest),
        maxr2t: Le32::new(r2t_max.saturating_sub(1)),
        reserved16: [0; 112],
    })
}

/// An ICResp (TCP 1.1, 3.6.2.3). `cpda` in dwords, 0's based; `maxh2cdata` in bytes.
pub fn encode_icresp(
    cpda: u8,
    header_digest: bool,
    data_digest: bool,
    maxh2cdata: u32,
) -> [u8; IC_BYTES] {
    zerocopy::transmute!(IcResp {
        ch: common(PduType::IcResp, 0, 0, 128),
        pfv: Le16::new(0),
        cpda,
        dgst: dgst(header_digest, data_digest),
        maxh2cdata: Le32::new(maxh2cdata),
        reserved16: [0; 112],
    })
}

fn dgst(header: bool, data: bool) -> u8 {
    (if header { DGST_HEADER } else { 0 }) | (if data { DGST_DATA } else { 0 })
}

/// A command capsule up to its data: header, digest, padding. `data_len` bytes of in-capsule data
/// (may be 0) and their digest, where enabled, are to follow. Gives the length written.
#[inline]
pub fn encode_capsule_cmd(
    out: &mut [u8; HEADER_BYTES_MAX],
    sqe: &Sqe,
    data_len: u32,
    header_digest: bool,
    data_digest: bool,
    align: usize,
) -> usize {
    let bare = CAPSULE_CMD_BYTES + if header_digest { DIGEST_BYTES } else { 0 };
    let (offset, pdo) = match data_len {
        0 => (bare, 0),
        _ => {
            let offset = data_offset(CAPSULE_CMD_BYTES, header_digest, align);
            (offset, offset)
        }
    };
    let (flags, plen) = lengths(offset, data_len, header_digest, data_digest);
    let pdu = CapsuleCmd {
        ch: common(PduType::CapsuleCmd, flags, pdo, plen),
        sqe: *sqe,
    };
    let used = put(out, pdu.as_bytes(), header_digest);
    out[used..offset].fill(0);
    offset
}

/// A response capsule. Gives the length written: 24, or 28 with the digest.
#[inline]
pub fn encode_capsule_resp(
    out: &mut [u8; CAPSULE_RESP_BYTES + DIGEST_BYTES],
    cqe: &Cqe,
    header_digest: bool,
) -> usize {
    let offset = CAPSULE_RESP_BYTES + if header_digest { DIGEST_BYTES } else { 0 };
    let (flags, plen) = lengths(offset, 0, header_digest, false);
    let pdu = CapsuleResp {
        ch: common(PduType::CapsuleResp, flags, 0, plen),
        cqe: *cqe,
    };
    put(out, pdu.as_bytes(), header_digest)
}

/// A C2HData PDU up to its data: header, digest, padding to `align`. Gives the length written.
#[inline]
pub fn encode_c2h_data(
    out: &mut [u8; HEADER_BYTES_MAX],
    data: &DataHeader,
    header_digest: bool,
    data_digest: bool,
    align: usize,
) -> usize {
    let offset = data_offset(DATA_HEADER_BYTES, header_digest, align);
    let (mut flags, plen) = lengths(offset, data.datal, header_digest, data_digest);
    if data.last {
        flags |= FLAG_LAST;
    }
    if data.success {
        flags |= FLAG_SUCCESS;
    }
    let pdu = C2hData {
        ch: common(PduType::C2hData, flags, offset, plen),
        cccid: Le16::new(data.cccid),
        reserved10: [0; 2],
        datao: Le32::new(data.datao),
        datal: Le32::new(data.datal),
        reserved20: [0; 4],
    };
    let used = put(out, pdu.as_bytes(), header_digest);
    out[used..offset].fill(0);
    offset
}

/// An H2CData PDU up to its data: header, digest, padding to `align`. Gives the length written.
#[inline]
pub fn encode_h2c_data(
    out: &mut [u8; HEADER_BYTES_MAX],
    data: &DataHeader,
    header_digest: bool,
    data_digest: bool,
    align: usize,
) -> usize {
    let offset = data_offset(DATA_HEADER_BYTES, header_digest, align);
    let (mut flags, plen) = lengths(offset, data.datal, header_digest, data_digest);
    if data.last {
        flags |= FLAG_LAST;
    }
    let pdu = H2cData {
        ch: common(PduType::H2cData, flags, offset, plen),
        cccid: Le16::new(data.cccid),
        ttag: Le16::new(data.ttag),
        datao: Le32::new(data.datao),
        datal: Le32::new(data.datal),
        reserved20: [0; 4],
    };
    let used = put(out, pdu.as_bytes(), header_digest);
    out[used..offset].fill(0);
    offset
}

/// An R2T. Gives the length written: 24, or 28 with the digest.
#[inline]
pub fn encode_r2t(
    out: &mut [u8; DATA_HEADER_BYTES + DIGEST_BYTES],
    cccid: u16,
    ttag: u16,
    r2to: u32,
    r2tl: u32,
    header_digest: bool,
) -> usize {
    let offset = DATA_HEADER_BYTES + if header_digest { DIGEST_BYTES } else { 0 };
    let (flags, plen) = lengths(offset, 0, header_digest, false);
    let pdu = R2t {
        ch: common(PduType::R2t, flags, 0, plen),
        cccid: Le16::new(cccid),
        ttag: Le16::new(ttag),
        r2to: Le32::new(r2to),
        r2tl: Le32::new(r2tl),
        reserved20: [0; 4],
    };
    put(out, pdu.as_bytes(), header_digest)
}

/// A termination request, to the host where `to_host` (C2HTermReq), else to the controller.
/// `in_error` is the header of the PDU in error; what exceeds 128 bytes is left out. Never carries
/// digests (TCP 1.1, 3.6.2.4). Gives the length written.
pub fn encode_term_req(
    out: &mut [u8; TERM_BYTES_MAX],
    to_host: bool,
    fes: FatalError,
    fei: u32,
    in_error: &[u8],
) -> usize {
    let kept = in_error.len().min(HLEN_MAX);
    let plen = TERM_HEADER_BYTES + kept;
    let pdu_type = if to_host {
        PduType::C2hTermReq
    } else {
        PduType::H2cTermReq
    };
    let pdu = TermReq {
        // At most 152, so the conversion cannot fail.
        ch: common(pdu_type, 0, 0, u32::try_from(plen).unwrap_or(0)),
        fes: Le16::new(fes.into()),
        fei: Le32::new(fei),
        reserved14: [0; 10],
    };
    out[..TERM_HEADER_BYTES].copy_from_slice(pdu.as_bytes());
    out[TERM_HEADER_BYTES..plen].copy_from_slice(&in_error[..kept]);
    plen
}
