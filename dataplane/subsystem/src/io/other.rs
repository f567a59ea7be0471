//! Flush, Write Zeroes, Dataset Management, Compare and Verify (Base 2.1, 7.2; NVM 1.1, 3.3).

use std::rc::Rc;

use penstock_block::{Geometry, Op, Request};
use penstock_buffer::{Lease, Payload};
use penstock_nvme::command::{DSM_DEALLOCATE, DatasetManagement, DsmRange};
use penstock_nvme::{FromBytes, Sqe, Status};
use penstock_seam::Link;
use penstock_units::Lba;

use super::two_leases::two_leases;
use super::{Done, Entry, IoQueue, Range, checked, range, transfer, writable};
use crate::metrics::IoKind;
use crate::namespace::{DeviceOp, NamespaceHere};
use crate::session::Session;
use crate::status::{Fail, at};

/// Ranges of Dataset Management at their most: 256 of 16 bytes.
const RANGES_BYTES_MAX: usize = 4096;

impl IoQueue {
    pub(super) async fn flush<L: Link>(
        &self,
        here: &NamespaceHere,
        link: &L,
    ) -> Result<Done, Fail> {
        link.committed();
        let request = Request {
            op: Op::Flush,
            lba: Lba(0),
            blocks: 0,
            payload: Payload::none(),
        };
        checked(DeviceOp::read(here, request).await, Lba(0))?;
        Ok(Done::without_data(IoKind::Flush))
    }

    /// Flush of every namespace, one after the other (Base 2.1, 7.2: NSID FFFFFFFFh).
    pub(super) async fn flush_all<L: Link>(
        &self,
        session: &Session,
        link: &L,
    ) -> Result<Done, Fail> {
        link.committed();
        let mut nsid = 0;
        while let Some(next) = self.next_namespace(nsid) {
            nsid = next;
            let here = self.namespace(nsid)?;
            self.flush(&here, link).await?;
            let ticks = session.now();
            here.shard()
                .other(IoKind::Flush, session.now().saturating_sub(ticks));
        }
        Ok(Done::without_data(IoKind::Flush))
    }

    /// The first namespace above `nsid`.
    fn next_namespace(&self, nsid: u32) -> Option<u32> {
        if self.subsystem.version() != self.version.get() {
            self.refresh();
        }
        let table = self.table.borrow();
        let above = table.iter().enumerate().skip(nsid as usize + 1);
        let next = above.filter_map(|(index, entry): (usize, &Option<Entry>)| {
            entry.as_ref().and_then(|_| u32::try_from(index).ok())
        });
        next.min()
    }

    pub(super) async fn write_zeroes<L: Link>(
        &self,
        here: &Rc<NamespaceHere>,
        sqe: &Sqe,
        link: &L,
    ) -> Result<Done, Fail> {
        let (asked, range) = range(here, sqe)?;
        writable(here, range.lba)?;
        let writing = here.begin_write().await;
        link.committed();
        let op = Op::WriteZeroes {
            fua: asked.fua || self.write_through(),
            may_deallocate: asked.deallocate,
        };
        let Range { lba, blocks, .. } = range;
        let request = Request {
            op,
            lba,
            blocks,
            payload: Payload::none(),
        };
        checked(
            DeviceOp::write(here, request, writing, self.controller.debt()).await,
            lba,
        )?;
        Ok(Done::without_data(IoKind::WriteZeroes))
    }

    /// Dataset Management (NVM 1.1, 3.3.3): deallocate is done, other attributes are hints. Every
    /// range is checked before the first is touched.
    pub(super) async fn deallocate<L: Link>(
        &self,
        session: &Session,
        here: &Rc<NamespaceHere>,
        sqe: &Sqe,
        data_len: u32,
        link: &L,
    ) -> Result<Done, Fail> {
        let asked = DatasetManagement::decode(sqe);
        let len = asked.data_bytes() as usize;
        // Linux sends room for all 256 ranges whatever their number: more than asked is fine.
        let room = data_len as usize;
        if !(len..=RANGES_BYTES_MAX).contains(&room) {
            return Err(Fail::field(
                Status::DATA_SGL_LENGTH_INVALID.dnr(),
                at::SGL1_LENGTH,
            ));
        }
        let mut lease = link.receive(session.pool().lease(room).await).await?;
        lease.truncate(len);
        let blocks = here.namespace().blocks();
        let mut index = 0;
        while let Some((lba, count)) = dsm_range(&lease, index) {
            index += 1;
            if lba.checked_add(count).is_none_or(|end| end.0 > blocks) {
                return Err(Fail::new(Status::LBA_OUT_OF_RANGE.dnr()).with_lba(lba.0));
            }
        }
        if asked.attributes & DSM_DEALLOCATE != 0 {
            writable(here, Lba(0))?;
            link.committed();
            self.deallocate_ranges(here, &lease).await?;
        }
        Ok(Done::without_data(IoKind::Deallocate))
    }

    async fn deallocate_ranges(&self, here: &Rc<NamespaceHere>, lease: &Lease) -> Result<(), Fail> {
        let Geometry { deallocate, .. } = here.namespace().geometry();
        let mut index = 0;
        while let Some((lba, blocks)) = dsm_range(lease, index) {
            index += 1;
            if blocks == 0 || !deallocate {
                continue;
            }
            let writing = here.begin_write().await;
            let request = Request {
                op: Op::Deallocate,
                lba,
                blocks,
                payload: Payload::none(),
            };
            let op = DeviceOp::write(here, request, writing, self.controller.debt());
            checked(op.await, lba)?;
        }
        Ok(())
    }

    /// Compare (NVM 1.1, 3.3.1).
    pub(super) async fn compare<L: Link>(
        &self,
        session: &Session,
        here: &NamespaceHere,
        sqe: &Sqe,
        data_len: u32,
        link: &L,
    ) -> Result<Done, Fail> {
        let (_, range) = range(here, sqe)?;
        let len = transfer(&range, data_len, sqe, self.mdts_bytes)?;
        let (expected, lease) = match link.host_memory() {
            Some(memory) => (memory, session.pool().lease(len).await),
            None => {
                let (expected, found) = two_leases(session.pool(), len).await;
                (Payload::from(link.receive(expected).await?), found)
            }
        };
        link.committed();
        let found = read_into(here, range.lba, range.blocks, lease).await?;
        if !same_bytes(&expected, &found) {
            return Err(Fail::new(Status::COMPARE_FAILURE.dnr()).with_lba(range.lba.0));
        }
        Ok(Done::without_data(IoKind::Compare))
    }

    /// Verify (NVM 1.1, 3.3.5): reads what is stored, in pieces, and throws it away.
    pub(super) async fn verify<L: Link>(
        &self,
        session: &Session,
        here: &NamespaceHere,
        sqe: &Sqe,
        link: &L,
    ) -> Result<Done, Fail> {
        let (_, range) = range(here, sqe)?;
        let piece = self
            .mdts_bytes
            .min(u32::try_from(range.bytes).unwrap_or(u32::MAX));
        let mut lease = session.pool().lease(piece as usize).await;
        link.committed();
        let piece_blocks = u64::from(piece) >> here.block_size().shift();
        let mut done = 0;
        while done < range.blocks {
            let blocks = piece_blocks.min(range.blocks - done);
            let len = blocks << here.block_size().shift();
            lease.truncate(usize::try_from(len).unwrap_or(usize::MAX));
            lease = read_into(here, Lba(range.lba.0 + done), blocks, lease).await?;
            done += blocks;
        }
        Ok(Done::without_data(IoKind::Verify))
    }
}

/// Reads blocks into a lease of their length, and gives it back.
pub(super) async fn read_into(
    here: &NamespaceHere,
    lba: Lba,
    blocks: u64,
    lease: Lease,
) -> Result<Lease, Fail> {
    let request = Request {
        op: Op::Read,
        lba,
        blocks,
        payload: Payload::from(lease),
    };
    let payload = checked(DeviceOp::read(here, request).await, lba)?;
    payload
        .into_single()
        .map_err(|_| Fail::new(Status::INTERNAL_ERROR).with_lba(lba.0))
}

/// Whether both hold the same bytes.
pub(super) fn same_bytes(expected: &Payload, found: &Lease) -> bool {
    let found = found.bytes();
    let mut at = 0;
    for run in expected.segments() {
        let end = at + run.len();
        if found.get(at..end) != Some(run.bytes()) {
            return false;
        }
        at = end;
    }
    at == found.len()
}

/// Range `index` of a Dataset Management command's data.
fn dsm_range(data: &Lease, index: usize) -> Option<(Lba, u64)> {
    let mut bytes = [0; size_of::<DsmRange>()];
    let offset = index * bytes.len();
    if data.read_at(offset, &mut bytes) < bytes.len() {
        return None;
    }
    let range = DsmRange::ref_from_bytes(&bytes).ok()?;
    Some((Lba(range.slba.get()), u64::from(range.blocks.get())))
}
