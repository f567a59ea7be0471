//! What a connection has to send: PDUs laid out in gather batches, one of which is in flight.

use std::collections::VecDeque;

use penstock_buffer::{Lease, Payload};
use penstock_nvme::Cqe;
use penstock_nvme::tcp::{self, Crc32c, DataHeader, FatalError};
use penstock_reactor::{SendBatch, Ticks};

use crate::slot::R2tOut;

/// How PDUs look on this connection: what ICReq and ICResp agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wire {
    pub(crate) header_digest: bool,
    pub(crate) data_digest: bool,
    /// Alignment of data in PDUs to the host, in bytes.
    pub(crate) align_bytes: usize,
    /// R2Ts the host takes at once for a command.
    pub(crate) r2t_max: u8,
}

impl Wire {
    /// Before the parameters are exchanged.
    pub(crate) const PLAIN: Wire = Wire {
        header_digest: false,
        data_digest: false,
        align_bytes: 4,
        r2t_max: 1,
    };
}

/// PDUs queued for sending. Batches come from the reactor's free list, so in steady state nothing
/// is allocated.
pub(crate) struct Outgoing {
    pub(crate) wire: Wire,
    ready: VecDeque<SendBatch>,
    queued_bytes: usize,
    in_flight_bytes: usize,
    in_flight_since: Option<Ticks>,
    pdus: u64,
}

impl Outgoing {
    pub(crate) fn new() -> Outgoing {
        Outgoing {
            wire: Wire::PLAIN,
            ready: VecDeque::with_capacity(4),
            queued_bytes: 0,
            in_flight_bytes: 0,
            in_flight_since: None,
            pdus: 0,
        }
    }

    /// Bytes queued or in flight.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.queued_bytes + self.in_flight_bytes
    }

    /// Whether nothing is queued or in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.queued_bytes == 0 && self.in_flight_since.is_none()
    }

    /// When the batch in flight was handed over.
    pub(crate) fn in_flight_since(&self) -> Option<Ticks> {
        self.in_flight_since
    }

    /// PDUs queued since the last call.
    pub(crate) fn take_pdu_count(&mut self) -> u64 {
        std::mem::take(&mut self.pdus)
    }

    /// The next batch, unless one is in flight.
    pub(crate) fn take_batch(&mut self, now: Ticks) -> Option<SendBatch> {
        if self.in_flight_since.is_some() {
            return None;
        }
        let batch = self.ready.pop_front()?;
        self.in_flight_bytes = batch.len_bytes();
        self.queued_bytes -= self.in_flight_bytes;
        self.in_flight_since = Some(now);
        Some(batch)
    }

    /// The batch in flight is with the kernel. Returns its bytes.
    pub(crate) fn sent(&mut self) -> usize {
        self.in_flight_since = None;
        std::mem::take(&mut self.in_flight_bytes)
    }

    /// Gives up everything that is queued; the caller drops it once nothing is borrowed.
    pub(crate) fn take_all(&mut self) -> VecDeque<SendBatch> {
        self.queued_bytes = 0;
        std::mem::take(&mut self.ready)
    }

    fn room(&mut self, bytes: usize) -> Option<&mut SendBatch> {
        if !self
            .ready
            .back()
            .is_some_and(|batch| batch.has_room(1, bytes))
        {
            self.ready.push_back(SendBatch::new());
        }
        self.ready.back_mut()
    }

    fn put(&mut self, bytes: &[u8]) {
        if let Some(batch) = self.room(bytes.len()) {
            let fitted = batch.push_bytes(bytes);
            debug_assert!(fitted, "an empty batch takes any header");
            self.queued_bytes += bytes.len();
        }
    }

    fn put_lease(&mut self, lease: Lease) {
        let len = lease.len();
        if len == 0 {
            return;
        }
        if let Some(batch) = self.room(0) {
            let fitted = batch.push_lease(lease);
            debug_assert!(fitted, "an empty batch takes a lease");
            self.queued_bytes += len;
        }
    }

    /// An ICResp, or another PDU that is laid out already.
    pub(crate) fn raw(&mut self, pdu: &[u8]) {
        self.put(pdu);
        self.pdus += 1;
    }

    /// A response capsule (TCP 1.1, 3.6.2.6).
    #[inline]
    pub(crate) fn response(&mut self, cqe: &Cqe) {
        let mut pdu = [0; tcp::CAPSULE_RESP_BYTES + tcp::DIGEST_BYTES];
        let len = tcp::encode_capsule_resp(&mut pdu, cqe, self.wire.header_digest);
        self.raw(&pdu[..len]);
    }

    /// An R2T (TCP 1.1, 3.6.2.9).
    pub(crate) fn r2t(&mut self, r2t: &R2tOut) {
        let mut pdu = [0; tcp::DATA_HEADER_BYTES + tcp::DIGEST_BYTES];
        let digest = self.wire.header_digest;
        let len = tcp::encode_r2t(&mut pdu, r2t.cid, r2t.tag, r2t.offset, r2t.len, digest);
        self.raw(&pdu[..len]);
    }

    /// A termination request that echoes the header in error (TCP 1.1, 3.6.2.4).
    pub(crate) fn term_req(&mut self, fes: FatalError, fei: u32, in_error: &[u8]) {
        let mut pdu = [0; tcp::TERM_BYTES_MAX];
        let len = tcp::encode_term_req(&mut pdu, true, fes, fei, in_error);
        self.raw(&pdu[..len]);
    }

    /// The payload of a reply, `len` bytes long, as C2HData in PDUs of at most `max` bytes (TCP 1.1, 3.6.2.8). The
    /// last carries the success flag where `success`.
    pub(crate) fn data(&mut self, cid: u16, payload: Payload, len: usize, success: bool, max: u32) {
        let total = u32::try_from(len).unwrap_or(u32::MAX);
        if total <= max {
            match payload.into_single() {
                Ok(lease) => self.data_single(cid, lease, success),
                Err(payload) => self.data_piece(cid, &payload, 0, total, true, success),
            }
            return;
        }
        let mut offset = 0;
        while offset < total {
            let len = (total - offset).min(max);
            let last = offset + len == total;
            self.data_piece(cid, &payload, offset, len, last, success && last);
            offset += len;
        }
    }

    fn data_header(&mut self, header: &DataHeader) {
        let mut head = [0; tcp::HEADER_BYTES_MAX];
        let Wire {
            header_digest,
            data_digest,
            align_bytes,
            ..
        } = self.wire;
        let len = tcp::encode_c2h_data(&mut head, header, header_digest, data_digest, align_bytes);
        self.raw(&head[..len]);
    }

    #[inline]
    fn data_single(&mut self, cccid: u16, lease: Lease, success: bool) {
        let datal = u32::try_from(lease.len()).unwrap_or(u32::MAX);
        self.data_header(&DataHeader {
            cccid,
            ttag: 0,
            datao: 0,
            datal,
            last: true,
            success,
        });
        let digest = self.wire.data_digest.then(|| tcp::crc32c(lease.bytes()));
        self.put_lease(lease);
        if let Some(digest) = digest {
            self.put(&digest.to_le_bytes());
        }
    }

    fn data_piece(
        &mut self,
        cccid: u16,
        payload: &Payload,
        datao: u32,
        datal: u32,
        last: bool,
        success: bool,
    ) {
        self.data_header(&DataHeader {
            cccid,
            ttag: 0,
            datao,
            datal,
            last,
            success,
        });
        let mut digest = Crc32c::new();
        let mut skip = datao as usize;
        let mut left = datal as usize;
        for segment in payload.segments() {
            if skip >= segment.len() {
                skip -= segment.len();
                continue;
            }
            let len = left.min(segment.len() - skip);
            let Some(part) = segment.slice(skip, len) else {
                break;
            };
            if self.wire.data_digest {
                digest.update(part.bytes());
            }
            self.put_lease(part);
            skip = 0;
            left -= len;
            if left == 0 {
                break;
            }
        }
        if self.wire.data_digest {
            self.put(&digest.value().to_le_bytes());
        }
    }
}
