//! Checks of received PDUs, and what a termination request is to say where one fails
//! (TCP 1.1, 3.6.2; fatal errors 3.5). Reserved fields and flags are not looked at.

use zerocopy::FromBytes;

use super::header::{
    C2hData, CapsuleCmd, CapsuleResp, CommonHeader, FatalError, H2cData, IcReq, IcResp, PduType,
    R2t, TermReq,
};
use super::{
    DIGEST_BYTES, FLAG_DDGST, FLAG_HDGST, FLAG_LAST, FLAG_SUCCESS, MAXH2CDATA_MIN, TERM_BYTES_MAX,
    crc32c, data_offset,
};

const FEI_TYPE: u32 = 0;
const FEI_FLAGS: u32 = 1;
const FEI_HLEN: u32 = 2;
const FEI_PDO: u32 = 3;
const FEI_PLEN: u32 = 4;

/// Who looks at the PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receiver {
    /// A controller: PDUs from a host.
    Controller,
    /// A host: PDUs from a controller.
    Host,
}

/// What is agreed about the PDUs a side receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// Header digests are in force.
    pub header_digest: bool,
    /// Data digests are in force.
    pub data_digest: bool,
    /// Alignment of data in bytes: from CPDA for a controller, from HPDA for a host.
    pub align: usize,
    /// Most bytes of in-capsule data (controllers only).
    pub in_capsule_max: u32,
    /// Most data bytes in one H2CData or C2HData PDU.
    pub data_max: u32,
}

impl Params {
    /// Before the connection is initialised: no digests, alignment of a dword, no data.
    pub const INITIAL: Params = Params {
        header_digest: false,
        data_digest: false,
        align: 4,
        in_capsule_max: 0,
        data_max: 0,
    };
}

/// Why a PDU is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// PDU type unknown, or one this side never receives.
    #[error("PDU type {0:#04x} is not one this side receives")]
    Type(u8),
    /// PDU not allowed in this state of the connection.
    #[error("{0} PDU in a state that does not allow it")]
    Sequence(PduType),
    /// HLEN is not that of the type.
    #[error("{0} PDU has HLEN {1}")]
    HeaderLength(PduType, u8),
    /// Digest or other flags contradict what is agreed.
    #[error("{0} PDU has flags {1:#04x}, against what was agreed")]
    Flags(PduType, u8),
    /// PDO lies within the header or is not aligned.
    #[error("{0} PDU has PDO {1}")]
    DataOffset(PduType, u8),
    /// PLEN does not fit the type or the other lengths.
    #[error("{0} PDU has PLEN {1}")]
    PduLength(PduType, u32),
    /// Fewer bytes were given than the header has.
    #[error("{0} PDU is cut off within its header")]
    Truncated(PduType),
    /// The header digest does not match.
    #[error("header digest {received:#010x} received, {computed:#010x} computed")]
    HeaderDigest {
        /// As received.
        received: u32,
        /// As it should be.
        computed: u32,
    },
    /// PDU format version other than 0.
    #[error("PDU format version {0} is not supported, only 0 is")]
    Version(u16),
    /// HPDA or CPDA above 31.
    #[error("PDU data alignment {0} is above 31")]
    Alignment(u8),
    /// The controller enabled a digest the host did not ask for, or the other way round.
    #[error("digests {0:#04x} were not agreed")]
    Digests(u8),
    /// MAXH2CDATA below 4096 or no multiple of 4.
    #[error("MAXH2CDATA {0} is not a multiple of 4 from 4096 on")]
    MaxH2cData(u32),
    /// No such command awaits data.
    #[error("command identifier {0} awaits no data")]
    Command(u16),
    /// No such transfer is under way.
    #[error("transfer tag {0} belongs to no transfer under way")]
    Tag(u16),
    /// DATAL contradicts PLEN or is no whole dwords, or R2TL asks for nothing or for too much.
    #[error("a data length of {0} does not fit")]
    DataLength(u32),
    /// Data before, after or beyond what was asked for.
    #[error("data of {length} bytes at {offset} is not what was asked for")]
    OutOfRange {
        /// Offset in bytes.
        offset: u32,
        /// Length in bytes.
        length: u32,
    },
    /// More data in a PDU, or more R2Ts for a command, than was agreed.
    #[error("{0} is more than the agreed limit")]
    Limit(u32),
}

/// A refused PDU: the reason, and the two fields of the termination request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{refusal} ({fes}, FEI {fei:#x})")]
pub struct PduError {
    /// Why.
    pub refusal: Refusal,
    /// Fatal error status.
    pub fes: FatalError,
    /// Fatal error information: byte offset of the field for Invalid PDU Header Field and
    /// Unsupported Parameter, the digest received for Header Digest Error, else 0.
    pub fei: u32,
}

impl PduError {
    /// An invalid field at byte `offset` of the header.
    pub const fn field(refusal: Refusal, offset: u32) -> PduError {
        PduError {
            refusal,
            fes: FatalError::InvalidHeaderField,
            fei: offset,
        }
    }

    /// A parameter at byte `offset` of the header that is valid but not supported.
    pub const fn unsupported(refusal: Refusal, offset: u32) -> PduError {
        PduError {
            refusal,
            fes: FatalError::UnsupportedParameter,
            fei: offset,
        }
    }

    /// A PDU the state of the connection does not allow.
    pub const fn sequence(pdu_type: PduType) -> PduError {
        let refusal = Refusal::Sequence(pdu_type);
        PduError {
            refusal,
            fes: FatalError::SequenceError,
            fei: 0,
        }
    }

    /// A command identifier in H2CData, C2HData or R2T that names no command awaiting it.
    pub const fn command(cccid: u16) -> PduError {
        Self::field(Refusal::Command(cccid), 8)
    }

    /// A transfer tag in H2CData that names no transfer under way.
    pub const fn tag(ttag: u16) -> PduError {
        Self::field(Refusal::Tag(ttag), 10)
    }

    /// Data outside what was asked for.
    pub const fn out_of_range(offset: u32, length: u32) -> PduError {
        let refusal = Refusal::OutOfRange { offset, length };
        PduError {
            refusal,
            fes: FatalError::DataOutOfRange,
            fei: 0,
        }
    }

    /// Whether no termination request is to answer it, only the end of the connection: the PDU is
    /// a termination request itself (TCP 1.1, 3.5).
    pub const fn silent(&self) -> bool {
        use PduType::{C2hTermReq, H2cTermReq};
        matches!(
            self.refusal,
            Refusal::HeaderLength(C2hTermReq | H2cTermReq, _)
                | Refusal::PduLength(C2hTermReq | H2cTermReq, _)
                | Refusal::Truncated(C2hTermReq | H2cTermReq)
        )
    }

    /// More data in a PDU, or more R2Ts for a command, than was agreed.
    pub const fn limit(found: u32) -> PduError {
        PduError {
            refusal: Refusal::Limit(found),
            fes: FatalError::LimitExceeded,
            fei: 0,
        }
    }
}

/// How the bytes of one PDU divide, in their order on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Type.
    pub pdu_type: PduType,
    /// Whether the header is followed by its digest.
    pub header_digest: bool,
    /// Whether the data is followed by its digest.
    pub data_digest: bool,
    /// Header bytes, digest not counted (HLEN).
    pub hlen: usize,
    /// Padding bytes between header (and digest) and data.
    pub pad: usize,
    /// Data bytes.
    pub data_len: u32,
}

impl Frame {
    /// Bytes of header and its digest.
    #[inline]
    pub fn header_len(&self) -> usize {
        self.hlen + if self.header_digest { DIGEST_BYTES } else { 0 }
    }

    /// Bytes before the data: header, digest, padding.
    #[inline]
    pub fn data_start(&self) -> usize {
        self.header_len() + self.pad
    }

    /// Bytes after the data.
    #[inline]
    pub fn trailer_len(&self) -> usize {
        if self.data_digest { DIGEST_BYTES } else { 0 }
    }
}

/// Checks a common header for who receives it under what is agreed. ICReq and ICResp never carry
/// digests, nor do termination requests.
#[inline]
pub fn check(receiver: Receiver, ch: &CommonHeader, params: &Params) -> Result<Frame, PduError> {
    let unknown = || PduError::field(Refusal::Type(ch.pdu_type), FEI_TYPE);
    let pdu_type = PduType::try_from(ch.pdu_type).map_err(|_| unknown())?;
    if pdu_type.is_to_controller() != (receiver == Receiver::Controller) {
        return Err(unknown());
    }
    let hlen = pdu_type.hlen();
    let mut frame = Frame {
        pdu_type,
        header_digest: false,
        data_digest: false,
        hlen,
        pad: 0,
        data_len: 0,
    };
    // Where several fields are wrong, FEI names the first: type, flags, HLEN, PDO, PLEN.
    digests(ch, params, &mut frame)?;
    if usize::from(ch.hlen) != hlen {
        return Err(PduError::field(
            Refusal::HeaderLength(pdu_type, ch.hlen),
            FEI_HLEN,
        ));
    }
    match pdu_type {
        PduType::IcReq | PduType::IcResp => exact_length(ch, &frame)?,
        PduType::H2cTermReq | PduType::C2hTermReq => {
            let data = (ch.plen.get() as usize).checked_sub(hlen);
            match data.filter(|_| ch.plen.get() as usize <= TERM_BYTES_MAX) {
                Some(_) => frame.data_len = ch.plen.get() - u32::from(ch.hlen),
                None => return Err(bad_length(ch, pdu_type)),
            }
        }
        PduType::CapsuleResp | PduType::R2t => exact_length(ch, &frame)?,
        PduType::CapsuleCmd if ch.plen.get() as usize == frame.header_len() => {}
        PduType::CapsuleCmd => {
            data_part(ch, params, &mut frame)?;
            if frame.data_len > params.in_capsule_max {
                return Err(bad_length(ch, pdu_type));
            }
        }
        PduType::H2cData | PduType::C2hData => {
            data_part(ch, params, &mut frame)?;
            if frame.data_len > params.data_max {
                return Err(PduError::limit(frame.data_len));
            }
        }
    }
    Ok(frame)
}

fn bad_length(ch: &CommonHeader, pdu_type: PduType) -> PduError {
    PduError::field(Refusal::PduLength(pdu_type, ch.plen.get()), FEI_PLEN)
}

fn bad_flags(ch: &CommonHeader, pdu_type: PduType) -> PduError {
    PduError::field(Refusal::Flags(pdu_type, ch.flags), FEI_FLAGS)
}

#[inline]
fn exact_length(ch: &CommonHeader, frame: &Frame) -> Result<(), PduError> {
    if ch.plen.get() as usize == frame.header_len() {
        Ok(())
    } else {
        Err(bad_length(ch, frame.pdu_type))
    }
}

/// Digests of the PDU, whose flags must be what was agreed. A capsule without data has no data
/// digest, whatever its flag says.
#[inline]
fn digests(ch: &CommonHeader, params: &Params, frame: &mut Frame) -> Result<(), PduError> {
    use PduType as T;
    if matches!(
        frame.pdu_type,
        T::IcReq | T::IcResp | T::H2cTermReq | T::C2hTermReq
    ) {
        return Ok(());
    }
    frame.header_digest = ch.flags & FLAG_HDGST != 0;
    let has_data = match frame.pdu_type {
        T::H2cData | T::C2hData => true,
        T::CapsuleCmd => ch.plen.get() as usize != frame.header_len(),
        _ => false,
    };
    frame.data_digest = has_data && ch.flags & FLAG_DDGST != 0;
    let data_wrong = has_data && frame.data_digest != params.data_digest;
    if frame.header_digest != params.header_digest || data_wrong {
        return Err(bad_flags(ch, frame.pdu_type));
    }
    Ok(())
}

/// Padding and data of a PDU that has at least one byte of data. Padding is exactly what the
/// alignment takes.
#[inline]
fn data_part(ch: &CommonHeader, params: &Params, frame: &mut Frame) -> Result<(), PduError> {
    let start = data_offset(frame.hlen, frame.header_digest, params.align);
    if usize::from(ch.pdo) != start {
        return Err(PduError::field(
            Refusal::DataOffset(frame.pdu_type, ch.pdo),
            FEI_PDO,
        ));
    }
    frame.pad = start - frame.header_len();
    let trailer = if frame.data_digest { 4 } else { 0 };
    let data = ch.plen.get().checked_sub(u32::from(ch.pdo) + trailer);
    match data {
        Some(data) if data > 0 => frame.data_len = data,
        _ => return Err(bad_length(ch, frame.pdu_type)),
    }
    Ok(())
}

/// A whole typed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header<'a> {
    /// Initialize Connection Request.
    IcReq(&'a IcReq),
    /// Initialize Connection Response.
    IcResp(&'a IcResp),
    /// Termination request, from the peer of either role.
    TermReq(&'a TermReq),
    /// Command capsule.
    CapsuleCmd(&'a CapsuleCmd),
    /// Response capsule.
    CapsuleResp(&'a CapsuleResp),
    /// Data from the host.
    H2cData(&'a H2cData),
    /// Data from the controller.
    C2hData(&'a C2hData),
    /// Ready to transfer.
    R2t(&'a R2t),
}

/// Views the header of a PDU whose [`Frame`] is known, its digest verified and the fields that
/// need no state checked. `bytes` starts at the PDU and holds at least [`Frame::header_len`].
#[inline]
pub fn decode_header<'a>(frame: &Frame, bytes: &'a [u8]) -> Result<Header<'a>, PduError> {
    let truncated = || PduError::field(Refusal::Truncated(frame.pdu_type), FEI_PLEN);
    if frame.header_digest {
        verify_header_digest(frame, bytes)?;
    }
    macro_rules! view {
        ($type:ty) => {
            <$type>::ref_from_prefix(bytes).map_err(|_| truncated())?.0
        };
    }
    Ok(match frame.pdu_type {
        PduType::IcReq => Header::IcReq(check_icreq(view!(IcReq))?),
        PduType::IcResp => Header::IcResp(view!(IcResp)),
        PduType::H2cTermReq | PduType::C2hTermReq => Header::TermReq(view!(TermReq)),
        PduType::CapsuleCmd => Header::CapsuleCmd(view!(CapsuleCmd)),
        PduType::CapsuleResp => Header::CapsuleResp(view!(CapsuleResp)),
        PduType::H2cData => {
            let header = view!(H2cData);
            data_length(header.datal.get(), frame)?;
            Header::H2cData(header)
        }
        PduType::C2hData => {
            let header = view!(C2hData);
            data_length(header.datal.get(), frame)?;
            let flags = header.ch.flags;
            if flags & FLAG_SUCCESS != 0 && flags & FLAG_LAST == 0 {
                return Err(bad_flags(&header.ch, frame.pdu_type));
            }
            Header::C2hData(header)
        }
        PduType::R2t => Header::R2t(view!(R2t)),
    })
}

/// Verifies the digest that follows the header (TCP 1.1, 3.3.1.1).
#[inline]
pub fn verify_header_digest(frame: &Frame, bytes: &[u8]) -> Result<(), PduError> {
    let split = bytes.split_at_checked(frame.hlen);
    let parts = split.and_then(|(header, rest)| Some((header, rest.first_chunk::<4>()?)));
    let Some((header, digest)) = parts else {
        return Err(PduError::field(
            Refusal::Truncated(frame.pdu_type),
            FEI_PLEN,
        ));
    };
    let (received, computed) = (u32::from_le_bytes(*digest), crc32c(header));
    if received == computed {
        return Ok(());
    }
    let refusal = Refusal::HeaderDigest { received, computed };
    Err(PduError {
        refusal,
        fes: FatalError::HeaderDigest,
        fei: received,
    })
}

#[inline]
fn data_length(datal: u32, frame: &Frame) -> Result<(), PduError> {
    if datal == frame.data_len {
        Ok(())
    } else {
        Err(PduError::field(Refusal::DataLength(datal), 16))
    }
}

/// Checks an ICReq: format version and alignment (TCP 1.1, 3.6.2.2).
pub fn check_icreq(request: &IcReq) -> Result<&IcReq, PduError> {
    if request.pfv.get() != 0 {
        return Err(PduError::unsupported(
            Refusal::Version(request.pfv.get()),
            8,
        ));
    }
    if request.hpda > 31 {
        return Err(PduError::field(Refusal::Alignment(request.hpda), 10));
    }
    Ok(request)
}

/// Checks an ICResp against the `DGST_*` the host asked for: format version, alignment, digests
/// and least data length (TCP 1.1, 3.6.2.3). A controller may refuse a digest, but not force one.
pub fn check_icresp(response: &IcResp, asked_dgst: u8) -> Result<&IcResp, PduError> {
    if response.pfv.get() != 0 {
        return Err(PduError::unsupported(
            Refusal::Version(response.pfv.get()),
            8,
        ));
    }
    if response.cpda > 31 {
        return Err(PduError::field(Refusal::Alignment(response.cpda), 10));
    }
    if response.dgst & 3 & !asked_dgst != 0 {
        return Err(PduError::field(Refusal::Digests(response.dgst), 11));
    }
    let max = response.maxh2cdata.get();
    if max < MAXH2CDATA_MIN || !max.is_multiple_of(4) {
        return Err(PduError::field(Refusal::MaxH2cData(max), 12));
    }
    Ok(response)
}

/// Every PDU of a transfer but its last carries whole dwords, or the next could not start at one.
#[inline]
fn whole_dwords(datal: u32, last: bool) -> Result<(), PduError> {
    if last || datal.is_multiple_of(4) {
        Ok(())
    } else {
        Err(PduError::field(Refusal::DataLength(datal), 16))
    }
}

/// A run of a command's data that comes in one or more PDUs: what an R2T asked for, or all of the
/// data a controller sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Offset of the run within the command's data, in bytes.
    pub offset: u32,
    /// Length of the run in bytes.
    pub length: u32,
    /// Bytes of it that have come.
    pub done: u32,
}

impl Transfer {
    /// Data must lie within the run, or is out of range, and go on where the last ended, or is out
    /// of sequence (TCP 1.1, 3.3.2.1 and 3.3.2.2). Gives whether it ends the run.
    #[inline]
    fn accept(&self, pdu_type: PduType, offset: u32, length: u32) -> Result<bool, PduError> {
        let from = offset.checked_sub(self.offset);
        let end = from.and_then(|from| from.checked_add(length));
        let Some(end) = end.filter(|end| *end <= self.length) else {
            return Err(PduError::out_of_range(offset, length));
        };
        if from != Some(self.done) {
            return Err(PduError::sequence(pdu_type));
        }
        Ok(end == self.length)
    }
}

/// Checks H2CData against the transfer its R2T began. The last PDU, and only it, must say so. The
/// caller has found the transfer by CCCID and TTAG: [`PduError::command`] and [`PduError::tag`]
/// where there is none (TCP 1.1, 3.3.2.2).
#[inline]
pub fn check_h2c_data(header: &H2cData, transfer: &Transfer) -> Result<(), PduError> {
    let (datao, datal) = (header.datao.get(), header.datal.get());
    let ends = transfer.accept(PduType::H2cData, datao, datal)?;
    if ends != (header.ch.flags & FLAG_LAST != 0) {
        return Err(bad_flags(&header.ch, PduType::H2cData));
    }
    whole_dwords(datal, ends)
}

/// Checks C2HData against its command, whose whole data is `transfer`. A controller may end it
/// short of the host's buffer, so whether the last PDU came is the caller's to see in FLAGS. The
/// caller has found the command by CCCID: [`PduError::command`] where there is none
/// (TCP 1.1, 3.3.2.1).
#[inline]
pub fn check_c2h_data(header: &C2hData, transfer: &Transfer) -> Result<(), PduError> {
    let (datao, datal) = (header.datao.get(), header.datal.get());
    transfer.accept(PduType::C2hData, datao, datal)?;
    whole_dwords(datal, header.ch.flags & FLAG_LAST != 0)
}

/// Checks an R2T against its command, whose whole data is `transfer`, `done` being what earlier
/// R2Ts asked for. One that is not contiguous is out of sequence (TCP 1.1, 3.3.2.2). Whether there
/// are too many at once is the caller's to see: [`PduError::limit`].
#[inline]
pub fn check_r2t(header: &R2t, transfer: &Transfer) -> Result<(), PduError> {
    let (offset, length) = (header.r2to.get(), header.r2tl.get());
    let from = offset.checked_sub(transfer.offset);
    if from != Some(transfer.done) {
        return Err(PduError::sequence(PduType::R2t));
    }
    let left = transfer.length.saturating_sub(transfer.done);
    if length == 0 || length > left {
        return Err(PduError::field(Refusal::DataLength(length), 16));
    }
    Ok(())
}
