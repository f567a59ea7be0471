//! Read and Write (NVM 1.1, 3.3.4 and 3.3.6).

use std::rc::Rc;

use penstock_block::{Direction, Op, Request};
use penstock_buffer::{Lease, MemoryKind, Payload};
use penstock_nvme::{Sqe, Status};
use penstock_seam::{Link, Reply};

use super::{Done, IoQueue, Range, checked, range, transfer, writable};
use crate::metrics::IoKind;
use crate::namespace::{DeviceOp, NamespaceHere};
use crate::session::Session;
use crate::status::Fail;

/// Where a payload lives; all its runs are of one kind.
#[inline]
pub(super) fn kind_of(payload: &Payload) -> MemoryKind {
    payload
        .segments()
        .next()
        .map_or(MemoryKind::Pool, Lease::kind)
}

impl IoQueue {
    #[inline]
    pub(super) async fn read<L: Link>(
        &self,
        session: &Session,
        here: &NamespaceHere,
        sqe: &Sqe,
        data_len: u32,
        link: &L,
    ) -> Result<Done, Fail> {
        let (_, range) = range(here, sqe)?;
        let len = transfer(&range, data_len, sqe, self.mdts_bytes)?;
        let payload = match read_memory(here, &range, link) {
            Some(payload) => payload,
            None => Payload::from(session.pool().lease(len).await),
        };
        link.committed();
        let request = Request {
            op: Op::Read,
            lba: range.lba,
            blocks: range.blocks,
            payload,
        };
        let payload = checked(DeviceOp::read(here, request).await, range.lba)?;
        let memory = kind_of(&payload);
        let mut reply = Reply::status(Status::SUCCESS.wire());
        reply.payload = payload;
        Ok(Done {
            reply,
            kind: IoKind::Read,
            bytes: range.bytes,
            memory,
        })
    }

    #[inline]
    pub(super) async fn write<L: Link>(
        &self,
        session: &Session,
        here: &Rc<NamespaceHere>,
        sqe: &Sqe,
        data_len: u32,
        link: &L,
    ) -> Result<Done, Fail> {
        let (asked, range) = range(here, sqe)?;
        writable(here, range.lba)?;
        let len = transfer(&range, data_len, sqe, self.mdts_bytes)?;
        let (payload, writing) = match link.host_memory() {
            Some(memory) => (memory, here.begin_write().await),
            None => {
                // Into the device's own memory the write begins with the first byte that arrives.
                let writing = here.begin_write().await;
                match here
                    .queue()
                    .lend(Direction::ToDevice, range.lba, range.blocks)
                {
                    Some(lease) => (Payload::from(link.receive(lease).await?), writing),
                    None => {
                        // A host may take its time; a fused operation need not wait for it.
                        drop(writing);
                        let lease = session.pool().lease(len).await;
                        let lease = link.receive(lease).await?;
                        (Payload::from(lease), here.begin_write().await)
                    }
                }
            }
        };
        link.committed();
        let memory = kind_of(&payload);
        let op = Op::Write {
            fua: asked.fua || self.write_through(),
        };
        let request = Request {
            op,
            lba: range.lba,
            blocks: range.blocks,
            payload,
        };
        let op = DeviceOp::write(here, request, writing, self.controller.debt());
        checked(op.await, range.lba)?;
        let reply = Reply::status(Status::SUCCESS.wire());
        Ok(Done {
            reply,
            kind: IoKind::Write,
            bytes: range.bytes,
            memory,
        })
    }
}

/// Memory for a read that needs no lease from the pool: the host's own, or the device's.
#[inline]
pub(super) fn read_memory<L: Link>(
    here: &NamespaceHere,
    range: &Range,
    link: &L,
) -> Option<Payload> {
    if let Some(memory) = link.host_memory() {
        return Some(memory);
    }
    let lease = here
        .queue()
        .lend(Direction::FromDevice, range.lba, range.blocks)?;
    (lease.is_private() || !link.needs_private_payload()).then(|| Payload::from(lease))
}
