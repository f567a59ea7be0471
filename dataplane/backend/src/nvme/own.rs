//! Payload in a drive's own memory: a reactor's part of it.

use std::cell::RefCell;

use penstock_async_nvme::ControllerMemory;
use penstock_buffer::{Lease, MemoryKind, Payload, Pool};

/// Most bytes of one lease; a longer payload goes through host memory.
const LEASE_MAX_BYTES: usize = 4 << 20;
/// Every lease starts at a multiple of this.
const BLOCK_BYTES: usize = 4096;

/// One reactor's part of a drive's memory, lent for what hosts write.
///
/// A reset of the drive may take what lies there, at any time between the first byte that arrives and
/// the command that names it. So every lease is remembered with the number of resets seen when it was
/// lent, and is good for a write only while there was no other. Reads get none of it: what the drive
/// put there could be gone before the transport has sent it, and a processor reads such memory slowly.
pub(super) struct OwnMemory {
    pool: Pool,
    start: usize,
    /// Resets seen when each block was lent.
    lent: RefCell<Box<[u64]>>,
}

impl OwnMemory {
    /// Takes the part into use on this thread; `None` where it is too short to lend any.
    pub(super) fn new(memory: ControllerMemory) -> Option<OwnMemory> {
        let start = memory.base().addr().get();
        let blocks = memory.len() / BLOCK_BYTES;
        let pool = memory
            .into_pool(LEASE_MAX_BYTES)
            .inspect_err(|error| tracing::error!(%error, "a drive's memory cannot be lent"))
            .ok()?;
        Some(OwnMemory {
            pool,
            start,
            lent: RefCell::new(vec![0; blocks].into_boxed_slice()),
        })
    }

    fn block(&self, lease: &Lease) -> usize {
        lease.as_ptr().addr().wrapping_sub(self.start) / BLOCK_BYTES
    }

    /// A lease of `len` bytes; `None` where none is free now.
    pub(super) fn lend(&self, len: usize, resets: u64) -> Option<Lease> {
        let lease = self.pool.try_lease(len)?;
        let first = self.block(&lease);
        let blocks = first..first + len.div_ceil(BLOCK_BYTES);
        self.lent.borrow_mut().get_mut(blocks)?.fill(resets);
        Some(lease)
    }

    /// Whether the payload lies here and a reset since it was lent may have taken it.
    pub(super) fn is_stale(&self, payload: &Payload, resets: u64) -> bool {
        let lent = self.lent.borrow();
        payload.segments().any(|lease| {
            lease.kind() == MemoryKind::Controller
                && lent
                    .get(self.block(lease))
                    .is_none_or(|then| *then != resets)
        })
    }
}
