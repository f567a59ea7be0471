//! Takes the bytes of a connection apart: PDUs from a controller (TCP 1.1, 3.6), wherever the
//! stream cuts them. Payload goes straight to the memory of its command.

use penstock_buffer::Lease;
use penstock_nvme::sgl::SGL_IN_CAPSULE;
use penstock_nvme::tcp::{
    C2hData, COMMON_HEADER_BYTES, CapsuleResp, CommonHeader, DGST_DATA, DGST_HEADER, DIGEST_BYTES,
    FLAG_SUCCESS, FatalError, Frame, HLEN_MAX, Header, IcResp, Params, PduError, R2t, Receiver,
    Refusal, TERM_BYTES_MAX, TermReq, Transfer, check, check_c2h_data, check_icresp, check_r2t,
    crc32c, decode_header, encode_term_req,
};
use penstock_nvme::{DataDirection, Status};
use penstock_units::CommandId;

use crate::connection::{Core, Phase};
use crate::error::CloseReason;
use crate::outgoing::Agreed;
use crate::slot::{Outcome, Slot};

/// From how many missing bytes on the kernel is to write them to the command's memory itself.
const DIRECT_MIN_BYTES: usize = 16 * 1024;
/// Offset of the command identifier in a response capsule.
const RESPONSE_CID_OFFSET: u32 = 20;

/// What the connection is to do next.
pub(crate) enum Step {
    /// Wait for more bytes.
    More,
    /// Have this memory filled by the kernel, then call [`Incoming::direct_done`].
    Direct(Lease),
    /// Give up.
    Fatal(Box<Fatal>),
}

/// Why a connection cannot go on, and the termination request that says so.
pub(crate) struct Fatal {
    pub(crate) reason: CloseReason,
    parting: [u8; TERM_BYTES_MAX],
    parting_len: usize,
}

impl Fatal {
    fn protocol(error: PduError, header: &[u8]) -> Box<Fatal> {
        let mut parting = [0; TERM_BYTES_MAX];
        let parting_len = encode_term_req(&mut parting, false, error.fes, error.fei, header);
        Box::new(Fatal {
            reason: CloseReason::Protocol(error),
            parting,
            parting_len,
        })
    }

    /// The controller gave up itself: nothing is said to that.
    fn terminated(request: &TermReq) -> Box<Fatal> {
        let status = request.fes.get();
        let meaning = FatalError::try_from(status).map_or("reserved", FatalError::name);
        let offset = request.fei.get();
        let reason = CloseReason::Terminated {
            status,
            meaning,
            offset,
        };
        Box::new(Fatal {
            reason,
            parting: [0; TERM_BYTES_MAX],
            parting_len: 0,
        })
    }

    /// The termination request to send, if any.
    pub(crate) fn parting(&self) -> Option<&[u8]> {
        (self.parting_len > 0).then(|| &self.parting[..self.parting_len])
    }
}

/// Data of a C2HData PDU on its way to a command's memory.
#[derive(Clone, Copy, Debug)]
struct Body {
    id: CommandId,
    pad: usize,
    /// Where the data of this PDU starts in the command's data.
    start: usize,
    len: usize,
    /// Bytes of it received.
    done: usize,
    digest: bool,
    /// The command is over with this PDU.
    success: bool,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Header,
    Data(Body),
    /// The kernel fills the rest.
    Direct(Body),
    Digest {
        body: Body,
        bytes: [u8; DIGEST_BYTES],
        have: usize,
    },
}

/// The receiving side's state between two chunks of the stream.
pub(crate) struct Incoming {
    params: Params,
    stage: Stage,
    /// A header that the stream cut, as far as it came.
    head: [u8; HLEN_MAX + DIGEST_BYTES],
    have: usize,
    frame: Option<Frame>,
}

impl Incoming {
    pub(crate) fn new() -> Incoming {
        Incoming {
            params: Params::INITIAL,
            stage: Stage::Header,
            head: [0; HLEN_MAX + DIGEST_BYTES],
            have: 0,
            frame: None,
        }
    }

    /// Takes the next bytes of the stream.
    pub(crate) fn take(&mut self, core: &mut Core, mut bytes: &[u8]) -> Step {
        loop {
            let stage = match self.stage {
                Stage::Header => match self.take_header(core, &mut bytes) {
                    Ok(true) => continue,
                    Ok(false) => return Step::More,
                    Err(fatal) => return Step::Fatal(fatal),
                },
                Stage::Data(body) => take_data(body, core, &mut bytes),
                // The reactor fills the memory before it hands out anything else.
                Stage::Direct(_) => return Step::More,
                Stage::Digest {
                    body,
                    bytes: digest,
                    have,
                } => take_digest(body, digest, have, core, &mut bytes),
            };
            self.stage = stage;
            match self.stage {
                Stage::Direct(body) => match rest_of(body, core) {
                    Some(rest) => return Step::Direct(rest),
                    None => return Step::More,
                },
                Stage::Header if !bytes.is_empty() => {}
                _ if bytes.is_empty() => return Step::More,
                _ => {}
            }
        }
    }

    /// The memory given out with [`Step::Direct`] is full.
    pub(crate) fn direct_done(&mut self, core: &mut Core) -> Step {
        if let Stage::Direct(mut body) = self.stage {
            body.done = body.len;
            self.stage = after_data(body, core);
        }
        Step::More
    }

    /// True when a whole header was handled, false when more bytes are needed for one.
    fn take_header(&mut self, core: &mut Core, bytes: &mut &[u8]) -> Result<bool, Box<Fatal>> {
        // The usual case: nothing kept from before, and the whole header is here.
        if self.have == 0 && bytes.len() >= COMMON_HEADER_BYTES {
            let frame = self.frame_of(bytes)?;
            if let Some((head, rest)) = bytes.split_at_checked(frame.header_len()) {
                *bytes = rest;
                self.on_header(core, &frame, head)?;
                return Ok(true);
            }
        }
        loop {
            let need = self
                .frame
                .map_or(COMMON_HEADER_BYTES, |frame| frame.header_len());
            let count = bytes.len().min(need - self.have);
            self.head[self.have..self.have + count].copy_from_slice(&bytes[..count]);
            self.have += count;
            *bytes = &bytes[count..];
            if self.have < need {
                return Ok(false);
            }
            let head = self.head;
            match self.frame {
                None => self.frame = Some(self.frame_of(&head)?),
                Some(frame) => {
                    self.have = 0;
                    self.frame = None;
                    self.on_header(core, &frame, &head[..need])?;
                    return Ok(true);
                }
            }
        }
    }

    fn frame_of(&self, bytes: &[u8]) -> Result<Frame, Box<Fatal>> {
        let common = CommonHeader::parse(bytes).unwrap_or_else(empty_header);
        check(Receiver::Host, &common, &self.params).map_err(|error| {
            Fatal::protocol(error, &bytes[..bytes.len().min(usize::from(common.hlen))])
        })
    }

    fn on_header(&mut self, core: &mut Core, frame: &Frame, head: &[u8]) -> Result<(), Box<Fatal>> {
        let broken = |error| Fatal::protocol(error, &head[..frame.hlen.min(head.len())]);
        let header = decode_header(frame, head).map_err(broken)?;
        let greeting = core.phase == Phase::Greeting;
        match header {
            Header::TermReq(request) => Err(Fatal::terminated(request)),
            Header::IcResp(response) if greeting => self.on_icresp(core, response).map_err(broken),
            _ if greeting => Err(broken(PduError::sequence(frame.pdu_type))),
            Header::CapsuleResp(response) => on_response(core, response).map_err(broken),
            Header::C2hData(data) => {
                let body = on_data(core, data, frame).map_err(broken)?;
                self.stage = Stage::Data(body);
                Ok(())
            }
            Header::R2t(request) => on_r2t(core, request).map_err(broken),
            _ => Err(broken(PduError::sequence(frame.pdu_type))),
        }
    }

    fn on_icresp(&mut self, core: &mut Core, response: &IcResp) -> Result<(), PduError> {
        let (header, data) = core.digests_wanted;
        let asked = (if header { DGST_HEADER } else { 0 }) | (if data { DGST_DATA } else { 0 });
        check_icresp(response, asked)?;
        core.agreed = Agreed {
            header_digest: response.header_digest(),
            data_digest: response.data_digest(),
            align: response.align_bytes(),
            h2c_data_max: response.maxh2cdata.get(),
        };
        self.params = Params {
            header_digest: response.header_digest(),
            data_digest: response.data_digest(),
            align: 4,
            in_capsule_max: 0,
            data_max: u32::MAX,
        };
        core.phase = Phase::Ready;
        core.greeted();
        Ok(())
    }
}

fn empty_header() -> CommonHeader {
    use penstock_nvme::FromZeros;
    CommonHeader::new_zeroed()
}

fn on_response(core: &mut Core, response: &CapsuleResp) -> Result<(), PduError> {
    let cid = response.cqe.cid.get();
    let id = CommandId(cid);
    if core.slots.in_flight(id).is_none() {
        return Err(PduError::field(Refusal::Command(cid), RESPONSE_CID_OFFSET));
    }
    complete(core, id, response.cqe.result.get(), response.cqe.status());
    Ok(())
}

fn complete(core: &mut Core, id: CommandId, result: u64, status: Status) {
    let damaged = core.slots.get(id).damaged;
    let outcome = if damaged && status.is_success() {
        Outcome::DataDamaged
    } else {
        Outcome::Answered { result, status }
    };
    core.finish(id, outcome);
}

/// The slot of a command in flight that moves data in `direction`, and how long its data is.
fn moving(
    core: &mut Core,
    cccid: u16,
    direction: DataDirection,
) -> Result<(&mut Slot, u32), PduError> {
    let slot = core
        .slots
        .in_flight(CommandId(cccid))
        .ok_or(PduError::command(cccid))?;
    if slot.sqe.direction() != direction || slot.sqe.sgl1.identifier == SGL_IN_CAPSULE {
        return Err(PduError::command(cccid));
    }
    let len = slot.lease.as_ref().map_or(0, Lease::len);
    Ok((slot, u32::try_from(len).unwrap_or(u32::MAX)))
}

fn on_data(core: &mut Core, data: &C2hData, frame: &Frame) -> Result<Body, PduError> {
    let cccid = data.cccid.get();
    let (slot, len) = moving(core, cccid, DataDirection::ControllerToHost)?;
    check_c2h_data(
        data,
        &Transfer {
            offset: 0,
            length: len,
            done: slot.received,
        },
    )?;
    Ok(Body {
        id: CommandId(cccid),
        pad: frame.pad,
        start: data.datao.get() as usize,
        len: frame.data_len as usize,
        done: 0,
        digest: frame.data_digest,
        success: data.ch.flags & FLAG_SUCCESS != 0,
    })
}

fn on_r2t(core: &mut Core, request: &R2t) -> Result<(), PduError> {
    let cccid = request.cccid.get();
    let transfers_max = core.transfers_max;
    let (slot, len) = moving(core, cccid, DataDirection::HostToController)?;
    check_r2t(
        request,
        &Transfer {
            offset: 0,
            length: len,
            done: slot.requested,
        },
    )?;
    if slot.transfers >= transfers_max {
        return Err(PduError::limit(slot.transfers + 1));
    }
    slot.transfers += 1;
    slot.requested += request.r2tl.get();
    let (offset, count) = (request.r2to.get(), request.r2tl.get());
    core.outbox
        .push_data(CommandId(cccid), request.ttag.get(), offset, count);
    Ok(())
}

fn take_data(mut body: Body, core: &mut Core, bytes: &mut &[u8]) -> Stage {
    let pad = body.pad.min(bytes.len());
    body.pad -= pad;
    *bytes = &bytes[pad..];
    let count = bytes.len().min(body.len - body.done);
    let (data, rest) = bytes.split_at(count);
    if let Some(lease) = core
        .slots
        .in_flight(body.id)
        .and_then(|slot| slot.lease.as_ref())
    {
        lease.write_at(body.start + body.done, data);
    }
    body.done += count;
    *bytes = rest;
    if body.done == body.len && body.pad == 0 {
        return after_data(body, core);
    }
    let direct = body.pad == 0 && body.len - body.done >= DIRECT_MIN_BYTES;
    if direct {
        Stage::Direct(body)
    } else {
        Stage::Data(body)
    }
}

/// What of a PDU's data is still missing, in the command's memory.
fn rest_of(body: Body, core: &mut Core) -> Option<Lease> {
    let slot = core.slots.in_flight(body.id)?;
    slot.lease
        .as_ref()?
        .slice(body.start + body.done, body.len - body.done)
}

fn after_data(body: Body, core: &mut Core) -> Stage {
    if body.digest {
        return Stage::Digest {
            body,
            bytes: [0; DIGEST_BYTES],
            have: 0,
        };
    }
    data_received(body, None, core);
    Stage::Header
}

fn take_digest(
    body: Body,
    mut digest: [u8; DIGEST_BYTES],
    mut have: usize,
    core: &mut Core,
    bytes: &mut &[u8],
) -> Stage {
    let count = bytes.len().min(DIGEST_BYTES - have);
    digest[have..have + count].copy_from_slice(&bytes[..count]);
    have += count;
    *bytes = &bytes[count..];
    if have < DIGEST_BYTES {
        return Stage::Digest {
            body,
            bytes: digest,
            have,
        };
    }
    data_received(body, Some(u32::from_le_bytes(digest)), core);
    Stage::Header
}

fn data_received(body: Body, digest: Option<u32>, core: &mut Core) {
    let Some(slot) = core.slots.in_flight(body.id) else {
        return;
    };
    let end = body.start + body.len;
    if let (Some(digest), Some(lease)) = (digest, slot.lease.as_ref())
        && lease.bytes().get(body.start..end).map(crc32c) != Some(digest)
    {
        slot.damaged = true;
    }
    slot.received = u32::try_from(end).unwrap_or(u32::MAX);
    if body.success {
        complete(core, body.id, 0, Status::SUCCESS);
    }
}

#[cfg(test)]
mod tests;
