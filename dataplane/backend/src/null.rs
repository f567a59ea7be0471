//! A namespace that keeps nothing: reads are zeroes, writes vanish. Measures everything else.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use penstock_block::{
    BlockDevice, BlockError, BlockQueue, Direction, Geometry, Op, Outcome, Request, Ticket,
};
use penstock_buffer::{Lease, Lender, SharedMemory, SharedMemoryConfig};
use penstock_units::{BlockSize, ByteCount, Lba};

use crate::OpenError;

/// How a null device is made.
#[derive(Clone, Debug)]
pub struct NullConfig {
    /// Name for logs and metrics.
    pub name: String,
    /// Size in bytes it claims, a multiple of the block size.
    pub size_bytes: u64,
    /// Logical block size.
    pub block_size: BlockSize,
    /// Longest payload lent in bytes (the MDTS).
    pub lease_max_bytes: usize,
    /// How long each request takes, in microseconds; needs a reactor where not zero.
    pub latency_us: u32,
}

/// A device that keeps nothing. All reads are lent the same page range of zeroes, all writes the
/// same range of pages nobody reads, so no payload is copied.
pub struct NullDevice {
    name: String,
    geometry: Geometry,
    zeroes: Arc<SharedMemory>,
    sink: Arc<SharedMemory>,
    latency: Duration,
}

impl NullDevice {
    /// Maps the two shared ranges.
    ///
    /// # Errors
    /// [`OpenError::Size`] or [`OpenError::Memory`].
    pub fn new(config: &NullConfig) -> Result<Arc<NullDevice>, OpenError> {
        let blocks = config
            .block_size
            .blocks_in(ByteCount(config.size_bytes))
            .unwrap_or(0);
        if blocks == 0 {
            return Err(OpenError::Size {
                name: config.name.clone(),
                size_bytes: config.size_bytes,
                block_size_bytes: config.block_size.bytes(),
            });
        }
        let map = || {
            SharedMemory::new(&SharedMemoryConfig {
                size_bytes: config.lease_max_bytes,
                hugepages: false,
                numa_node: None,
            })
            .map(Arc::new)
            .map_err(|source| OpenError::Memory {
                name: config.name.clone(),
                source,
            })
        };
        Ok(Arc::new(NullDevice {
            name: config.name.clone(),
            geometry: Geometry {
                block_size: config.block_size,
                blocks,
                volatile_cache: false,
                deallocate: true,
                deallocated_reads_zero: true,
                read_only: false,
                optimal_blocks: 1,
            },
            zeroes: map()?,
            sink: map()?,
            latency: Duration::from_micros(config.latency_us.into()),
        }))
    }
}

impl BlockDevice for NullDevice {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn open(self: Arc<Self>) -> Result<Rc<dyn BlockQueue>, BlockError> {
        Ok(Rc::new(NullQueue {
            geometry: self.geometry,
            zeroes: Lender::new(Arc::clone(&self.zeroes)),
            sink: Lender::new(Arc::clone(&self.sink)),
            latency: self.latency,
        }))
    }
}

struct NullQueue {
    geometry: Geometry,
    zeroes: Lender,
    sink: Lender,
    latency: Duration,
}

impl BlockQueue for NullQueue {
    fn submit(&self, request: Request) -> Ticket {
        let result = self.geometry.check(&request).map(|_| ());
        if result.is_ok() && request.op == Op::Read {
            for lease in request.payload.segments() {
                // Memory that is not ours holds what somebody else left there.
                if !self.zeroes.is_at(lease, 0) {
                    lease.fill(0);
                }
            }
        }
        let outcome = Outcome {
            result,
            payload: request.payload,
        };
        if self.latency.is_zero() {
            return Ticket::ready(outcome);
        }
        let (ticket, completer) = Ticket::pending();
        let latency = self.latency;
        penstock_reactor::spawn(async move {
            penstock_reactor::sleep(latency).await;
            completer.complete(outcome);
        });
        ticket
    }

    fn lend(&self, direction: Direction, lba: Lba, blocks: u64) -> Option<Lease> {
        let range = self.geometry.check_range(lba, blocks).ok()?;
        let len = usize::try_from(range.len).ok()?;
        match direction {
            Direction::FromDevice => self.zeroes.lend(0, len),
            Direction::ToDevice => self.sink.lend(0, len),
        }
    }
}

#[cfg(test)]
#[path = "null_tests.rs"]
mod tests;
