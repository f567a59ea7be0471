//! The receive path: PDUs out of received chunks, headers in place wherever a chunk holds them
//! whole, data straight from the chunk to the command's memory or, where much is missing, straight
//! from the kernel.

use std::collections::VecDeque;

use penstock_buffer::Lease;
use penstock_nvme::tcp::{
    CapsuleCmd, CommonHeader, Crc32c, DIGEST_BYTES, Frame, H2cData, HLEN_MAX, Header, PduError,
    PduType, Receiver as Role, Refusal, TermReq, check, crc32c, decode_header,
};
use penstock_nvme::{IntoBytes, Status};
use penstock_reactor::{RecvChunk, Ticks, now};
use penstock_seam::Command;

use crate::capsule::{Carried, carried};
use crate::conn::{Complaint, Connection};
use crate::slot::{Admission, Capsule, Refused, Source, Transfer};
use crate::state::{Phase, Verdict, verdict};

/// Chunks held while receiving is stopped; with more, the kernel is told to stop as well.
const WAITING_MAX: usize = 2;
/// Longest header with digest and padding: PDO is one byte.
const GATHER_BYTES: usize = 256;

/// Whose data arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// Nobody's: it is thrown away.
    Nowhere,
    /// In-capsule data of the command in this slot.
    Capsule(u16),
    /// Data of an R2T.
    Transfer(Transfer),
}

/// Data of a PDU on its way.
#[derive(Clone, Copy, Debug)]
struct DataIn {
    to: Target,
    /// Where the next byte belongs within the command's data.
    offset: u32,
    left: u32,
    digest: bool,
}

#[derive(Clone, Copy, Debug)]
enum RxState {
    /// Between PDUs, or within a header.
    Head,
    /// Within data.
    Data(DataIn),
    /// The kernel receives the rest of the data.
    Direct(DataIn),
    /// Within a data digest.
    Digest(DataIn),
}

/// Where the connection is within the stream.
pub(crate) struct Receiver {
    state: RxState,
    gathered: [u8; GATHER_BYTES],
    gathered_len: usize,
    frame: Option<Frame>,
    crc: Crc32c,
    /// When the PDU under way began.
    pdu_ticks: Ticks,
    waiting: VecDeque<RecvChunk>,
}

/// A chunk and how far it is consumed.
struct Cursor<'a> {
    chunk: &'a RecvChunk,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a [u8] {
        &self.chunk[self.at..]
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let part = &self.chunk[self.at..self.at + count];
        self.at += count;
        part
    }
}

impl Receiver {
    pub(crate) fn new() -> Receiver {
        Receiver {
            state: RxState::Head,
            gathered: [0; GATHER_BYTES],
            gathered_len: 0,
            frame: None,
            crc: Crc32c::new(),
            pdu_ticks: 0,
            waiting: VecDeque::with_capacity(4),
        }
    }

    /// When the PDU under way began; `None` between PDUs.
    pub(crate) fn pdu_since(&self) -> Option<Ticks> {
        let between = matches!(self.state, RxState::Head) && self.gathered_len == 0;
        (!between).then_some(self.pdu_ticks)
    }

    /// Lets go of what was received and not consumed.
    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
        self.gathered_len = 0;
        self.frame = None;
        self.state = RxState::Head;
    }

    /// Gathers bytes until `need` are there.
    fn gather(&mut self, need: usize, cursor: &mut Cursor<'_>) -> bool {
        let count = need
            .saturating_sub(self.gathered_len)
            .min(cursor.rest().len());
        let end = self.gathered_len + count;
        self.gathered[self.gathered_len..end].copy_from_slice(cursor.take(count));
        self.gathered_len = end;
        end >= need
    }
}

impl Connection {
    /// Bytes arrived.
    pub(crate) fn receive_chunk(&self, chunk: RecvChunk) {
        self.stats.received_bytes.add_len(chunk.len());
        if self.is_closing() {
            return;
        }
        let at = now();
        self.now.set(at);
        self.commands.traffic(at);
        let mut rx = self.rx.borrow_mut();
        if !rx.waiting.is_empty() {
            rx.waiting.push_back(chunk.detach());
            if rx.waiting.len() >= WAITING_MAX {
                self.pause();
            }
            return;
        }
        self.consume(&mut rx, chunk, true);
    }

    /// Memory given to the kernel is full.
    pub(crate) fn receive_direct(&self, lease: &Lease) {
        self.stats.received_bytes.add_len(lease.len());
        if self.is_closing() {
            return;
        }
        let at = now();
        self.now.set(at);
        self.commands.traffic(at);
        let mut rx = self.rx.borrow_mut();
        let RxState::Direct(mut data) = rx.state else {
            return;
        };
        self.stats.direct_bytes.add_len(lease.len());
        if data.digest {
            rx.crc.update(lease.bytes());
        }
        data.left = 0;
        self.data_arrived(&mut rx, data);
    }

    /// Takes up chunks that wait, as far as nothing stands in the way. Called at the round's end.
    pub(crate) fn resume_receiving(&self) {
        let mut rx = self.rx.borrow_mut();
        if rx.waiting.is_empty() && !self.paused.get() {
            return;
        }
        self.now.set(now());
        while !self.is_closing() && !self.is_blocked() {
            let Some(chunk) = rx.waiting.pop_front() else {
                break;
            };
            self.consume(&mut rx, chunk, false);
        }
        if self.is_closing() {
            rx.waiting.clear();
        }
        if rx.waiting.is_empty() {
            self.unpause();
        }
    }

    fn consume(&self, rx: &mut Receiver, mut chunk: RecvChunk, may_direct: bool) {
        let mut cursor = Cursor {
            chunk: &chunk,
            at: 0,
        };
        let done = self.parse(rx, &mut cursor);
        let at = cursor.at;
        if !done {
            chunk.advance(at);
            // A host that has to wait must not hold the receive buffers of the others.
            rx.waiting.push_front(chunk.detach());
            self.stats.back_pressure.add(1);
            return;
        }
        drop(chunk);
        if may_direct && let RxState::Data(data) = rx.state {
            self.go_direct(rx, data);
        }
    }

    /// Consumes PDUs. False where it had to stop before a PDU.
    fn parse(&self, rx: &mut Receiver, cursor: &mut Cursor<'_>) -> bool {
        while !cursor.rest().is_empty() {
            match rx.state {
                RxState::Head => {
                    if rx.gathered_len == 0 && self.is_blocked() {
                        return false;
                    }
                    self.parse_head(rx, cursor);
                }
                RxState::Data(data) => self.parse_data(rx, cursor, data),
                RxState::Digest(data) => self.parse_digest(rx, cursor, data),
                // The stream delivers nothing else before the direct receive is complete.
                RxState::Direct(_) => return true,
            }
            if self.is_closing() {
                return true;
            }
        }
        true
    }

    #[inline]
    fn parse_head(&self, rx: &mut Receiver, cursor: &mut Cursor<'_>) {
        if rx.gathered_len == 0 {
            rx.pdu_ticks = self.now.get();
            let rest = cursor.rest();
            if let Some(common) = CommonHeader::parse(rest) {
                let frame = match self.vet(&common) {
                    Ok(frame) => frame,
                    Err(error) => return self.refuse(&error, rest),
                };
                if rest.len() >= frame.data_start() {
                    let head = cursor.take(frame.data_start());
                    return self.on_header(rx, &frame, head, cursor);
                }
                rx.frame = Some(frame);
            }
        }
        let Some(frame) = rx.frame else {
            if rx.gather(size_of::<CommonHeader>(), cursor) {
                let vetted = CommonHeader::parse(&rx.gathered).map(|common| self.vet(&common));
                match vetted {
                    Some(Ok(frame)) => rx.frame = Some(frame),
                    Some(Err(error)) => self.refuse(&error, &rx.gathered[..rx.gathered_len]),
                    None => {}
                }
            }
            return;
        };
        if rx.gather(frame.data_start(), cursor) {
            let head = rx.gathered;
            rx.gathered_len = 0;
            rx.frame = None;
            self.on_header(rx, &frame, &head[..frame.data_start()], cursor);
        }
    }

    /// Whether this PDU may come now and is well-formed so far.
    fn vet(&self, common: &CommonHeader) -> Result<Frame, PduError> {
        if let Ok(kind) = PduType::try_from(common.pdu_type) {
            match verdict(self.phase.get(), kind) {
                Verdict::Accept | Verdict::Discard => {}
                Verdict::Refuse(fes) => {
                    return Err(PduError {
                        refusal: Refusal::Sequence(kind),
                        fes,
                        fei: 0,
                    });
                }
            }
        }
        check(Role::Controller, common, &self.params.get())
    }

    fn on_header(&self, rx: &mut Receiver, frame: &Frame, head: &[u8], cursor: &mut Cursor<'_>) {
        let header = match decode_header(frame, head) {
            Ok(header) => header,
            Err(error) => {
                if matches!(error.refusal, Refusal::HeaderDigest { .. }) {
                    self.stats.header_digest_errors.add(1);
                }
                return self.refuse(&error, head);
            }
        };
        self.stats.received_pdus.add(1);
        match header {
            Header::CapsuleCmd(capsule) => self.on_capsule(rx, frame, capsule, cursor),
            Header::H2cData(header) => self.on_h2c_data(rx, frame, header, head),
            Header::IcReq(request) => self.on_icreq(request),
            Header::TermReq(term) => self.on_term_req(term),
            // `vet` lets nothing else through.
            Header::IcResp(_) | Header::CapsuleResp(_) | Header::C2hData(_) | Header::R2t(_) => {}
        }
    }

    fn on_term_req(&self, term: &TermReq) {
        tracing::warn!(
            peer = %self.peer,
            host = self.commands.host_nqn(),
            fes = term.fes.get(),
            fei = term.fei.get(),
            "host ends the connection with a termination request"
        );
        self.begin_close("termination request from the host");
    }

    /// Ends the connection because of a PDU (TCP 1.1, 3.5).
    fn refuse(&self, error: &PduError, head: &[u8]) {
        let echoed = usize::from(head.get(2).copied().unwrap_or(0))
            .min(head.len())
            .min(HLEN_MAX);
        self.violation(error.fes, error.fei, &head[..echoed], &error.refusal);
    }

    #[inline]
    fn on_capsule(
        &self,
        rx: &mut Receiver,
        frame: &Frame,
        capsule: &CapsuleCmd,
        cursor: &mut Cursor<'_>,
    ) {
        self.stats.commands.add(1);
        self.count_submission();
        let cid = capsule.sqe.cid.get();
        let carried = carried(&capsule.sqe, frame.data_len);
        let slot = match carried {
            Ok(carried) => self.admit(capsule, cid, carried),
            Err(status) => {
                self.reject(cid, status);
                None
            }
        };
        if self.is_closing() {
            return;
        }
        let in_capsule = matches!(
            carried,
            Ok(Carried {
                source: Source::Capsule,
                ..
            })
        );
        match slot {
            Some(slot) if in_capsule => self.offer(rx, frame, slot, cursor),
            slot => {
                if let Some(slot) = slot {
                    self.run(slot);
                }
                if frame.data_len > 0 {
                    self.start_data(rx, frame, Target::Nowhere, 0);
                }
            }
        }
    }

    fn admit(&self, capsule: &CapsuleCmd, cid: u16, carried: Carried) -> Option<u16> {
        let mut admitted = self.try_admit(capsule, cid, carried);
        if admitted == Err(Refused::Duplicate) && self.forget_event_request(cid) {
            admitted = self.try_admit(capsule, cid, carried);
        }
        match admitted {
            Ok(slot) => Some(slot),
            Err(Refused::Duplicate) => {
                self.complain(Complaint::CommandId, cid);
                self.reject(cid, Status::CID_CONFLICT.dnr());
                None
            }
            Err(Refused::Full) => {
                let error = PduError::sequence(PduType::CapsuleCmd);
                let what = "more commands outstanding than the queue has entries";
                self.violation(error.fes, error.fei, capsule.as_bytes(), &what);
                None
            }
        }
    }

    #[inline]
    fn try_admit(&self, capsule: &CapsuleCmd, cid: u16, carried: Carried) -> Result<u16, Refused> {
        let command = Command {
            sqe: capsule.sqe.to_bytes(),
            data_len: carried.data_len,
            received_ticks: self.now.get(),
        };
        let Carried {
            source, to_host, ..
        } = carried;
        self.slots.borrow_mut().admit(Admission {
            cid,
            source,
            to_host,
            command,
        })
    }

    /// Hands a command its in-capsule data, as much as the chunk holds, and runs it.
    #[inline]
    fn offer(&self, rx: &mut Receiver, frame: &Frame, slot: u16, cursor: &mut Cursor<'_>) {
        let total = frame.data_len as usize;
        let here = total.min(cursor.rest().len());
        let whole = cursor.rest().len() >= total + frame.trailer_len();
        let Some(view) = cursor.chunk.slice(cursor.at..cursor.at + here) else {
            return;
        };
        let bytes = cursor.take(here);
        let mut good = true;
        if whole {
            if frame.data_digest {
                let digest = cursor.take(DIGEST_BYTES);
                good = crc32c(bytes).to_le_bytes() == digest;
            }
        } else {
            self.start_data(rx, frame, Target::Capsule(slot), 0);
            if let RxState::Data(mut data) = rx.state {
                self.advance(rx, &mut data, bytes);
            }
        }
        if !good {
            self.data_digest_error(slot);
        }
        if let Some(slot) = self.slots.borrow_mut().get_mut(slot) {
            slot.capsule = Capsule::Chunk(view);
            slot.arriving = !whole;
            slot.transfer_ticks = self.now.get();
        }
        self.run(slot);
        let stashed = self.slots.borrow_mut().stash(slot, total);
        self.stats.stashed_bytes.add_len(stashed);
    }

    fn on_h2c_data(&self, rx: &mut Receiver, frame: &Frame, header: &H2cData, head: &[u8]) {
        let begun = self.slots.borrow_mut().begin_transfer(header);
        match begun {
            Ok(transfer) => {
                self.start_data(rx, frame, Target::Transfer(transfer), header.datao.get());
            }
            Err(error) => self.refuse(&error, head),
        }
    }

    fn start_data(&self, rx: &mut Receiver, frame: &Frame, to: Target, offset: u32) {
        let digest = frame.data_digest;
        if digest {
            rx.crc.reset();
        }
        rx.state = RxState::Data(DataIn {
            to,
            offset,
            left: frame.data_len,
            digest,
        });
    }

    /// Counts `bytes` of data as arrived.
    fn advance(&self, rx: &mut Receiver, data: &mut DataIn, bytes: &[u8]) {
        if data.digest {
            rx.crc.update(bytes);
        }
        let count = u32::try_from(bytes.len()).unwrap_or(data.left);
        data.left = data.left.saturating_sub(count);
        data.offset = data.offset.saturating_add(count);
        rx.state = if data.left == 0 && data.digest {
            RxState::Digest(*data)
        } else {
            RxState::Data(*data)
        };
    }

    fn parse_data(&self, rx: &mut Receiver, cursor: &mut Cursor<'_>, mut data: DataIn) {
        let count = (data.left as usize).min(cursor.rest().len());
        let bytes = cursor.take(count);
        self.store(&data, bytes);
        self.advance(rx, &mut data, bytes);
        if data.left == 0 {
            self.data_arrived(rx, data);
        }
    }

    /// Puts data where it belongs.
    fn store(&self, data: &DataIn, bytes: &[u8]) {
        let (index, copied) = match data.to {
            Target::Nowhere => return,
            Target::Capsule(slot) => (slot, &self.stats.in_capsule_copied_bytes),
            Target::Transfer(transfer) => (transfer.slot, &self.stats.chunk_copied_bytes),
        };
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get_mut(index) else {
            return;
        };
        if let Some(fill) = &slot.fill {
            copied.add_len(fill.lease.write_at(data.offset as usize, bytes));
        } else if slots.stash_more(index, bytes) {
            self.stats.stashed_bytes.add_len(bytes.len());
        }
    }

    /// Lets the kernel receive the rest of the data into the command's memory, if it is much.
    fn go_direct(&self, rx: &mut Receiver, data: DataIn) {
        if data.left < self.config.direct_receive_min_bytes {
            return;
        }
        let index = match data.to {
            Target::Nowhere => return,
            Target::Capsule(slot) => slot,
            Target::Transfer(transfer) => transfer.slot,
        };
        let lease = {
            let slots = self.slots.borrow();
            let fill = slots.get(index).and_then(|slot| slot.fill.as_ref());
            fill.and_then(|fill| fill.lease.slice(data.offset as usize, data.left as usize))
        };
        if let (Some(lease), Some(stream)) = (lease, self.stream.borrow().as_ref()) {
            rx.state = RxState::Direct(data);
            stream.recv_direct(lease);
        }
    }

    fn parse_digest(&self, rx: &mut Receiver, cursor: &mut Cursor<'_>, mut data: DataIn) {
        if !rx.gather(DIGEST_BYTES, cursor) {
            return;
        }
        rx.gathered_len = 0;
        if rx.gathered[..DIGEST_BYTES] != rx.crc.value().to_le_bytes() {
            match data.to {
                Target::Nowhere => self.stats.data_digest_errors.add(1),
                Target::Capsule(slot) => self.data_digest_error(slot),
                Target::Transfer(transfer) => self.data_digest_error(transfer.slot),
            }
        }
        data.digest = false;
        self.data_arrived(rx, data);
    }

    /// All data of a PDU is there; its digest may still be missing.
    fn data_arrived(&self, rx: &mut Receiver, data: DataIn) {
        if data.digest {
            rx.state = RxState::Digest(data);
            return;
        }
        rx.state = RxState::Head;
        match data.to {
            Target::Nowhere => {}
            Target::Capsule(slot) => self.capsule_complete(slot),
            Target::Transfer(transfer) => self.transfer_complete(transfer),
        }
    }

    /// A data digest did not match: the command fails, the connection goes on (TCP 1.1, 3.3.1.1).
    fn data_digest_error(&self, slot: u16) {
        self.stats.data_digest_errors.add(1);
        let cid = self.slots.borrow_mut().get_mut(slot).map(|slot| {
            slot.digest_error = true;
            slot.cid
        });
        self.complain(Complaint::DataDigest, cid.unwrap_or(0));
    }

    /// Whether no further command may be taken from the stream now.
    fn is_blocked(&self) -> bool {
        if self.tx.borrow().pending_bytes() > self.config.send_queue_max_bytes as usize {
            return true;
        }
        if self.is_finishing() {
            return true;
        }
        let slots = self.slots.borrow();
        slots.r2ts_open == 0 && slots.stash_bytes > self.config.capsule_stash_max_bytes as usize
    }

    /// Whether chunks wait because of back-pressure.
    pub(crate) fn is_held_up(&self) -> bool {
        !self.rx.borrow().waiting.is_empty()
    }

    /// Whether the connection is past taking anything.
    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.phase.get(), Phase::Closing | Phase::Closed)
    }
}
