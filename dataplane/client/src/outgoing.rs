//! What waits to be sent on a connection, and how it goes into a gather send.

use std::collections::VecDeque;

use penstock_buffer::Lease;
use penstock_nvme::sgl::SGL_IN_CAPSULE;
use penstock_nvme::tcp::{
    DIGEST_BYTES, DataHeader, HEADER_BYTES_MAX, crc32c, encode_capsule_cmd, encode_h2c_data,
};
use penstock_reactor::SendBatch;
use penstock_units::CommandId;

use crate::slot::{Slot, Slots};

/// Most pieces one PDU adds to a gather list: header, data, digest.
const PIECES_MAX: usize = 3;
/// Most bytes one PDU adds besides its data.
const OVERHEAD_MAX: usize = HEADER_BYTES_MAX + DIGEST_BYTES;

/// What host and controller agreed on in the handshake (TCP 1.1, 3.4.1).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Agreed {
    pub(crate) header_digest: bool,
    pub(crate) data_digest: bool,
    /// Alignment of data in PDUs to the controller, in bytes.
    pub(crate) align: usize,
    /// Most data bytes of one H2CData PDU.
    pub(crate) h2c_data_max: u32,
}

/// One thing to send.
#[derive(Debug)]
enum Outgoing {
    /// The command capsule of a slot.
    Capsule(CommandId),
    /// Data a controller asked for with an R2T.
    Data {
        id: CommandId,
        tag: u16,
        offset: u32,
        left: u32,
    },
    /// A PDU of the handshake or a termination request, whole.
    Whole(Box<[u8]>),
}

/// The queue of things to send. Capsules leave in the order they were pushed.
pub(crate) struct Outbox {
    queue: VecDeque<Outgoing>,
}

impl Outbox {
    /// With room for `slots` commands and their transfers.
    pub(crate) fn with_capacity(slots: usize) -> Outbox {
        Outbox {
            queue: VecDeque::with_capacity(slots * 2 + 4),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.queue.clear();
    }

    pub(crate) fn push_capsule(&mut self, id: CommandId) {
        self.queue.push_back(Outgoing::Capsule(id));
    }

    pub(crate) fn push_data(&mut self, id: CommandId, tag: u16, offset: u32, len: u32) {
        self.queue.push_back(Outgoing::Data {
            id,
            tag,
            offset,
            left: len,
        });
    }

    pub(crate) fn push_whole(&mut self, pdu: &[u8]) {
        self.queue.push_back(Outgoing::Whole(pdu.into()));
    }

    /// Forgets transfers of a command that is over: its identifier may soon mean another.
    pub(crate) fn drop_data_of(&mut self, over: CommandId) {
        self.queue
            .retain(|o| !matches!(o, Outgoing::Data { id, .. } if *id == over));
    }

    /// Moves as much as there is room for into `batch`.
    pub(crate) fn fill(&mut self, slots: &mut Slots, agreed: &Agreed, batch: &mut SendBatch) {
        while let Some(next) = self.queue.front_mut() {
            let done = match next {
                Outgoing::Whole(pdu) => {
                    if !batch.has_room(1, pdu.len()) {
                        return;
                    }
                    batch.push_bytes(pdu)
                }
                _ if !batch.has_room(PIECES_MAX, OVERHEAD_MAX) => return,
                Outgoing::Capsule(id) => put_capsule(slots.get(*id), agreed, batch),
                Outgoing::Data {
                    id,
                    tag,
                    offset,
                    left,
                } => {
                    let slot = slots.get(*id);
                    let sent = put_data(slot, *tag, *offset, *left, agreed, batch);
                    *offset += sent;
                    *left -= sent;
                    if *left == 0 {
                        slot.transfers -= 1;
                    }
                    *left == 0
                }
            };
            if done {
                self.queue.pop_front();
            }
        }
    }
}

fn put_capsule(slot: &mut Slot, agreed: &Agreed, batch: &mut SendBatch) -> bool {
    let data = match &slot.lease {
        Some(lease) if slot.sqe.sgl1.identifier == SGL_IN_CAPSULE => Some(lease),
        _ => None,
    };
    let mut header = [0; HEADER_BYTES_MAX];
    let used = encode_capsule_cmd(
        &mut header,
        &slot.sqe,
        data.map_or(0, bytes_of),
        agreed.header_digest,
        agreed.data_digest,
        agreed.align,
    );
    batch.push_bytes(&header[..used]);
    if let Some(lease) = data {
        put_payload(lease.clone(), agreed, batch);
    }
    true
}

/// One H2CData PDU; returns how many data bytes it took.
fn put_data(
    slot: &mut Slot,
    tag: u16,
    offset: u32,
    left: u32,
    agreed: &Agreed,
    batch: &mut SendBatch,
) -> u32 {
    let len = left.min(agreed.h2c_data_max);
    let data = DataHeader {
        cccid: slot.sqe.cid.get(),
        ttag: tag,
        datao: offset,
        datal: len,
        last: len == left,
        success: false,
    };
    // The R2T was checked against the lease's length, so that the slice exists.
    let piece = slot
        .lease
        .as_ref()
        .and_then(|l| l.slice(offset as usize, len as usize));
    if let Some(piece) = piece {
        let mut header = [0; HEADER_BYTES_MAX];
        let used = encode_h2c_data(
            &mut header,
            &data,
            agreed.header_digest,
            agreed.data_digest,
            agreed.align,
        );
        batch.push_bytes(&header[..used]);
        put_payload(piece, agreed, batch);
    }
    len
}

fn put_payload(lease: Lease, agreed: &Agreed, batch: &mut SendBatch) {
    let digest = agreed.data_digest.then(|| crc32c(lease.bytes()));
    batch.push_lease(lease);
    if let Some(digest) = digest {
        batch.push_bytes(&digest.to_le_bytes());
    }
}

fn bytes_of(lease: &Lease) -> u32 {
    u32::try_from(lease.len()).unwrap_or(u32::MAX)
}
