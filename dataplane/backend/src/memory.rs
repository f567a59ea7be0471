//! A namespace in this node's memory.
//!
//! The pages are shared by all reactors and lent to whoever moves the payload: a read is sent from
//! them, a write is received into them, and submitting such a lent lease copies nothing. A payload
//! elsewhere (a digest wants bytes that hold still) is copied. Requests that race on one block see
//! a mix of old and new bytes; as on any drive, hosts order what they share.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use penstock_block::{
    BlockDevice, BlockError, BlockQueue, ByteRange, Completer, Direction, Geometry, Op, Outcome,
    Request, Ticket,
};
use penstock_buffer::{Lease, Lender, Payload, PoolError, SharedMemory, SharedMemoryConfig};
use penstock_units::{BlockSize, ByteCount, Lba};

use crate::OpenError;

/// Longest range zeroed in one go: returning pages takes some 100 ns each, and the reactor has
/// other things to do.
const ZERO_PIECE_BYTES: u64 = 8 << 20;

/// How a memory device is made.
#[derive(Clone, Debug)]
pub struct MemoryConfig {
    /// Name for logs and metrics.
    pub name: String,
    /// Size in bytes, a multiple of the block size.
    pub size_bytes: u64,
    /// Logical block size.
    pub block_size: BlockSize,
    /// Whether to try hugepages first.
    pub hugepages: bool,
    /// The NUMA node to take pages from while it has any; `None` leaves it to the kernel.
    pub numa_node: Option<u32>,
}

/// A device in memory; its content ends with the process.
pub struct MemoryDevice {
    name: String,
    block_size: BlockSize,
    memory: Arc<SharedMemory>,
}

impl MemoryDevice {
    /// Maps the memory, all zeroes; pages come as they are written.
    ///
    /// # Errors
    /// [`OpenError::Size`] or [`OpenError::Memory`].
    pub fn new(config: &MemoryConfig) -> Result<Arc<MemoryDevice>, OpenError> {
        let size_bytes = whole_blocks(&config.name, config.size_bytes, config.block_size)?;
        let memory = SharedMemory::new(&SharedMemoryConfig {
            size_bytes,
            hugepages: config.hugepages,
            numa_node: config.numa_node,
        })
        .map_err(|source| memory_error(&config.name, source))?;
        Ok(Arc::new(MemoryDevice {
            name: config.name.clone(),
            block_size: config.block_size,
            memory: Arc::new(memory),
        }))
    }

    /// Grows (with zeroes) or shrinks (the tail is lost). May block.
    ///
    /// # Errors
    /// [`OpenError::Size`] or [`OpenError::Memory`]; the size is unchanged then.
    pub fn resize(&self, size_bytes: u64) -> Result<(), OpenError> {
        let size_bytes = whole_blocks(&self.name, size_bytes, self.block_size)?;
        self.memory
            .resize(size_bytes)
            .map_err(|source| memory_error(&self.name, source))
    }

    /// Whether hugepages back the device.
    pub fn hugepages(&self) -> bool {
        self.memory.hugepages()
    }
}

fn memory_error(name: &str, source: PoolError) -> OpenError {
    OpenError::Memory {
        name: name.to_owned(),
        source,
    }
}

fn whole_blocks(name: &str, size_bytes: u64, block_size: BlockSize) -> Result<usize, OpenError> {
    let blocks = block_size.blocks_in(ByteCount(size_bytes)).unwrap_or(0);
    match usize::try_from(size_bytes) {
        Ok(bytes) if blocks > 0 => Ok(bytes),
        _ => Err(OpenError::Size {
            name: name.to_owned(),
            size_bytes,
            block_size_bytes: block_size.bytes(),
        }),
    }
}

fn geometry(memory: &SharedMemory, block_size: BlockSize) -> Geometry {
    Geometry {
        block_size,
        blocks: memory.len_bytes() as u64 >> block_size.shift(),
        // What is written is as durable at once as it ever gets.
        volatile_cache: false,
        deallocate: true,
        deallocated_reads_zero: true,
        read_only: false,
        optimal_blocks: (4096 / block_size.bytes()).max(1),
    }
}

impl BlockDevice for MemoryDevice {
    fn geometry(&self) -> Geometry {
        geometry(&self.memory, self.block_size)
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn open(self: Arc<Self>) -> Result<Rc<dyn BlockQueue>, BlockError> {
        let lender = Lender::new(Arc::clone(&self.memory));
        Ok(Rc::new(MemoryQueue {
            lender,
            block_size: self.block_size,
        }))
    }
}

struct MemoryQueue {
    lender: Lender,
    block_size: BlockSize,
}

/// Both ends of a range as this machine addresses memory.
fn to_usize(range: ByteRange) -> Result<(usize, usize), BlockError> {
    match (usize::try_from(range.offset), usize::try_from(range.len)) {
        (Ok(offset), Ok(len)) => Ok((offset, len)),
        _ => Err(BlockError::OutOfRange),
    }
}

impl MemoryQueue {
    fn memory(&self) -> &SharedMemory {
        self.lender.memory()
    }

    /// Moves each run of the payload, unless it is the range itself.
    fn each_run(
        &self,
        range: ByteRange,
        payload: &Payload,
        copy: impl Fn(&SharedMemory, usize, &Lease) -> bool,
    ) -> Result<(), BlockError> {
        let (mut at, _) = to_usize(range)?;
        for lease in payload.segments() {
            if !self.lender.is_at(lease, at) && !copy(self.memory(), at, lease) {
                return Err(BlockError::OutOfRange);
            }
            at += lease.len();
        }
        Ok(())
    }

    fn zero(&self, range: ByteRange, payload: Payload) -> Ticket {
        if range.len > ZERO_PIECE_BYTES && penstock_reactor::current_id().is_some() {
            let (ticket, completer) = Ticket::pending();
            let lender = self.lender.clone();
            penstock_reactor::spawn(ZeroInPieces {
                lender,
                range,
                end: Some((completer, payload)),
            });
            return ticket;
        }
        let result = zero(self.memory(), range);
        Ticket::ready(Outcome { result, payload })
    }
}

fn zero(memory: &SharedMemory, range: ByteRange) -> Result<(), BlockError> {
    let (offset, len) = to_usize(range)?;
    if memory.zero(offset, len) {
        Ok(())
    } else {
        Err(BlockError::OutOfRange)
    }
}

/// Zeroes one piece a round, so that the reactor is never held up for long.
struct ZeroInPieces {
    lender: Lender,
    range: ByteRange,
    end: Option<(Completer, Payload)>,
}

impl Future for ZeroInPieces {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let ByteRange { offset, len } = self.range;
        let piece = len.min(ZERO_PIECE_BYTES);
        let result = zero(self.lender.memory(), ByteRange { offset, len: piece });
        self.range = ByteRange {
            offset: offset + piece,
            len: len - piece,
        };
        if result.is_ok() && self.range.len > 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some((completer, payload)) = self.end.take() {
            completer.complete(Outcome { result, payload });
        }
        Poll::Ready(())
    }
}

impl BlockQueue for MemoryQueue {
    fn submit(&self, request: Request) -> Ticket {
        let geometry = geometry(self.memory(), self.block_size);
        let result = match (geometry.check(&request), request.op) {
            (Err(error), _) => Err(error),
            (Ok(range), Op::Read) => self.each_run(range, &request.payload, SharedMemory::copy_out),
            (Ok(range), Op::Write { .. }) => {
                self.each_run(range, &request.payload, SharedMemory::copy_in)
            }
            (Ok(_), Op::Flush) => Ok(()),
            (Ok(range), Op::WriteZeroes { .. } | Op::Deallocate) => {
                return self.zero(range, request.payload);
            }
        };
        Ticket::ready(Outcome {
            result,
            payload: request.payload,
        })
    }

    fn lend(&self, _direction: Direction, lba: Lba, blocks: u64) -> Option<Lease> {
        let geometry = geometry(self.memory(), self.block_size);
        let (offset, len) = to_usize(geometry.check_range(lba, blocks).ok()?).ok()?;
        self.lender.lend(offset, len)
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
