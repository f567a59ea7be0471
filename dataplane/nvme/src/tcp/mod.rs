//! NVMe/TCP PDUs (TCP 1.1, 3.6.2): headers, digests, checks and encoding.
//!
//! Receiving takes three steps: [`CommonHeader`] from the first 8 bytes; [`check`] of it, which
//! gives the [`Frame`] (how many header, padding, data and digest bytes follow); once
//! [`Frame::header_len`] bytes are there, the header digest and the typed header
//! ([`decode_header`]). Every refusal is a [`PduError`] that holds what a termination request is
//! to say (TCP 1.1, 3.6.2.4 and 3.6.2.5).

mod check;
mod digest;
mod encode;
mod header;

pub use check::{
    Frame, Header, Params, PduError, Receiver, Refusal, Transfer, check, check_c2h_data,
    check_h2c_data, check_icreq, check_icresp, check_r2t, decode_header, verify_header_digest,
};
pub use digest::{Crc32c, crc32c};
pub use encode::{
    DataHeader, HEADER_BYTES_MAX, data_offset, encode_c2h_data, encode_capsule_cmd,
    encode_capsule_resp, encode_h2c_data, encode_icreq, encode_icresp, encode_r2t, encode_term_req,
};
pub use header::{
    C2hData, CapsuleCmd, CapsuleResp, CommonHeader, FatalError, H2cData, IcReq, IcResp, PduType,
    R2t, TermReq,
};

/// Length of the common header in bytes.
pub const COMMON_HEADER_BYTES: usize = 8;
/// Length of a digest in bytes.
pub const DIGEST_BYTES: usize = 4;
/// Length of ICReq and ICResp in bytes.
pub const IC_BYTES: usize = 128;
/// Header length of CapsuleCmd in bytes.
pub const CAPSULE_CMD_BYTES: usize = 72;
/// Header length of CapsuleResp in bytes.
pub const CAPSULE_RESP_BYTES: usize = 24;
/// Header length of H2CData, C2HData and R2T in bytes.
pub const DATA_HEADER_BYTES: usize = 24;
/// Header length of a termination request in bytes.
pub const TERM_HEADER_BYTES: usize = 24;
/// Longest termination request in bytes: 128 bytes of the PDU in error follow its header.
pub const TERM_BYTES_MAX: usize = 152;
/// Longest HLEN of any PDU.
pub const HLEN_MAX: usize = 128;
/// Least value of MAXH2CDATA in bytes (TCP 1.1, 3.6.2.3).
pub const MAXH2CDATA_MIN: u32 = 4096;

/// FLAGS bit: a header digest follows the header.
pub const FLAG_HDGST: u8 = 1 << 0;
/// FLAGS bit: a data digest follows the data.
pub const FLAG_DDGST: u8 = 1 << 1;
/// FLAGS bit of H2CData and C2HData: last PDU of this data transfer.
pub const FLAG_LAST: u8 = 1 << 2;
/// FLAGS bit of C2HData: the command succeeded and no CapsuleResp follows.
pub const FLAG_SUCCESS: u8 = 1 << 3;

/// DGST bit of ICReq and ICResp: header digest enabled.
pub const DGST_HEADER: u8 = 1 << 0;
/// DGST bit of ICReq and ICResp: data digest enabled.
pub const DGST_DATA: u8 = 1 << 1;
