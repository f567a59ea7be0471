//! The quick way of a read or write: nothing to wait for before the device (or the host's data).
//!
//! Nearly every command goes this way. It does what [`super::rw`] does, as plain calls instead of
//! nested futures, which cost as much as the work. Whatever is not at once in order (a range, a
//! length, memory, a fused operation) answers `None` before anything was touched: the ordinary way
//! does it again, waits, and tells what is wrong.

use std::rc::Rc;

use penstock_block::{Direction, Op, Outcome, Request};
use penstock_buffer::{Lease, Payload};
use penstock_nvme::{Sqe, Status};
use penstock_seam::{Command, Link, Reply};

use super::rw::{kind_of, read_memory};
use super::{Busy, IoQueue, PLAIN, READ, Range, WRITE, range, transfer};
use crate::controller::{FLAG_READY, FLAG_WRITE_THROUGH};
use crate::namespace::{DeviceOp, NamespaceHere, Writing};
use crate::session::Session;
use crate::status::Fail;

/// A read or write under way.
pub(crate) struct Quick<'a> {
    busy: Busy<'a>,
    here: Rc<NamespaceHere>,
    range: Range,
}

/// Memory for a write, and the write itself where it begins with the first byte.
pub(crate) struct Incoming {
    /// To be filled with the host's data.
    pub(crate) lease: Lease,
    writing: Option<Writing>,
    fua: bool,
}

impl IoQueue {
    #[inline]
    fn quick(&self, command: &Command, opcode: u8) -> Option<(Quick<'_>, usize, bool)> {
        let sqe = Sqe::from_bytes(&command.sqe);
        let flags = self.controller.flags();
        if sqe.opcode != opcode || sqe.flags != PLAIN || self.fused.is_waiting() {
            return None;
        }
        if flags & FLAG_READY == 0 {
            return None;
        }
        let here = self.namespace(sqe.nsid.get()).ok()?;
        let (asked, range) = range(&here, sqe).ok()?;
        let len = transfer(&range, command.data_len, sqe, self.mdts_bytes).ok()?;
        let busy = self.begin(command.received_ticks);
        let fua = asked.fua || flags & FLAG_WRITE_THROUGH != 0;
        Some((Quick { busy, here, range }, len, fua))
    }

    /// Starts a read whose memory is there at once.
    #[inline]
    pub(crate) fn quick_read<L: Link>(
        &self,
        session: &Session,
        command: &Command,
        link: &L,
    ) -> Option<(Quick<'_>, DeviceOp)> {
        let (quick, len, _) = self.quick(command, READ)?;
        let payload = match read_memory(&quick.here, &quick.range, link) {
            Some(payload) => payload,
            None => Payload::from(session.pool().try_lease(len)?),
        };
        link.committed();
        let Range { lba, blocks, .. } = quick.range;
        let op = DeviceOp::read(
            &quick.here,
            Request {
                op: Op::Read,
                lba,
                blocks,
                payload,
            },
        );
        Some((quick, op))
    }

    /// Memory for a write over a network, there at once.
    #[inline]
    pub(crate) fn quick_write<L: Link>(
        &self,
        session: &Session,
        command: &Command,
        link: &L,
    ) -> Option<(Quick<'_>, Incoming)> {
        let (quick, len, fua) = self.quick(command, WRITE)?;
        if quick.here.namespace().read_only() || link.host_memory().is_some() {
            return None;
        }
        let writing = quick.here.try_begin_write()?;
        let Range { lba, blocks, .. } = quick.range;
        let incoming = match quick.here.queue().lend(Direction::ToDevice, lba, blocks) {
            Some(lease) => Incoming {
                lease,
                writing: Some(writing),
                fua,
            },
            // A host may take its time; a fused operation need not wait for it.
            None => Incoming {
                lease: session.pool().try_lease(len)?,
                writing: None,
                fua,
            },
        };
        Some((quick, incoming))
    }

    /// The host's data is in the lease: writes it.
    #[inline]
    pub(crate) fn quick_submit<L: Link>(
        &self,
        quick: &Quick<'_>,
        lease: Lease,
        (writing, fua): (Writing, bool),
        link: &L,
    ) -> DeviceOp {
        link.committed();
        let Range { lba, blocks, .. } = quick.range;
        let op = Op::Write { fua };
        let request = Request {
            op,
            lba,
            blocks,
            payload: Payload::from(lease),
        };
        DeviceOp::write(&quick.here, request, writing, self.controller.debt())
    }

    /// The reply to a read.
    #[inline]
    pub(crate) fn quick_read_done(
        &self,
        session: &Session,
        command: &Command,
        quick: Quick<'_>,
        outcome: Outcome,
    ) -> Reply {
        if let Err(error) = outcome.result {
            return self.quick_failed(session, command, quick, error.into());
        }
        let ticks = self.quick_end(session, command, quick.busy);
        let bytes = quick.range.bytes;
        self.shared.counters.read_bytes.add(bytes);
        quick
            .here
            .shard()
            .read(bytes, kind_of(&outcome.payload), ticks);
        let mut reply = Reply::status(Status::SUCCESS.wire());
        reply.payload = outcome.payload;
        reply
    }

    /// The reply to a write.
    #[inline]
    pub(crate) fn quick_write_done(
        &self,
        session: &Session,
        command: &Command,
        quick: Quick<'_>,
        outcome: Outcome,
    ) -> Reply {
        if let Err(error) = outcome.result {
            return self.quick_failed(session, command, quick, error.into());
        }
        let ticks = self.quick_end(session, command, quick.busy);
        let bytes = quick.range.bytes;
        self.shared.counters.written_bytes.add(bytes);
        quick
            .here
            .shard()
            .written(bytes, kind_of(&outcome.payload), ticks);
        Reply::status(Status::SUCCESS.wire())
    }

    #[inline]
    fn quick_end(&self, session: &Session, command: &Command, busy: Busy<'_>) -> u64 {
        let now = session.now();
        drop(busy);
        self.end(now);
        self.shared.counters.commands.add(1);
        now.saturating_sub(command.received_ticks)
    }

    /// The reply to a read or write that failed on the way.
    #[cold]
    pub(crate) fn quick_failed(
        &self,
        session: &Session,
        command: &Command,
        quick: Quick<'_>,
        fail: Fail,
    ) -> Reply {
        drop(quick.busy);
        self.end(session.now());
        let sqe = Sqe::from_bytes(&command.sqe);
        let fail = fail.with_lba(quick.range.lba.0);
        self.failed(session, sqe, &fail, Some(&quick.here))
    }
}

impl Incoming {
    /// Begins the write where it has not begun; waits while a fused operation has the namespace.
    #[inline]
    pub(crate) fn begin(writing: Option<Writing>, quick: &Quick<'_>) -> Option<Writing> {
        writing.or_else(|| quick.here.try_begin_write())
    }

    /// The lease, and what [`Incoming::begin`] and [`IoQueue::quick_submit`] want of the rest.
    #[inline]
    pub(crate) fn into_parts(self) -> (Lease, Option<Writing>, bool) {
        (self.lease, self.writing, self.fua)
    }
}

impl Quick<'_> {
    /// Waits until no fused operation has the namespace.
    pub(crate) async fn lowered(&self) {
        self.here.fence_lowered().await;
    }
}
