//! A device made of ranges of others, one after the other. It grows at its end while in use.
//!
//! Blocks may be larger than those of the devices. A request within one range goes to that range's
//! device as it is; one across a border is split without copying its payload.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use penstock_buffer::{Lease, Payload};
use penstock_units::{BlockSize, ByteCount, Lba};

use crate::gather::Gather;
use crate::split::{self, LayoutError};
use crate::{
    BlockDevice, BlockError, BlockQueue, Direction, Geometry, Op, Outcome, Request, Ticket,
};

/// A range of a device.
#[derive(Clone)]
pub struct DeviceRange {
    /// The device.
    pub device: Arc<dyn BlockDevice>,
    /// First byte on it: a multiple of the layer's block size.
    pub offset_bytes: u64,
    /// Length in bytes: a positive multiple of the layer's block size.
    pub length_bytes: u64,
}

/// A checked range.
#[derive(Clone)]
struct Part {
    device: Arc<dyn BlockDevice>,
    /// First block of the layer.
    start: u64,
    /// Blocks of the layer.
    blocks: u64,
    /// First block on the device.
    device_lba: u64,
    /// log2 of device blocks in one block of the layer.
    shift: u8,
}

/// Parts that came together, and those that came after. Only ever added to, so that nobody has to
/// lock to look.
struct Segment {
    parts: Vec<Part>,
    next: OnceLock<Box<Segment>>,
}

impl Segment {
    fn new(parts: Vec<Part>) -> Segment {
        Segment {
            parts,
            next: OnceLock::new(),
        }
    }

    fn and_later(&self) -> impl Iterator<Item = &Segment> {
        std::iter::successors(Some(self), |segment| segment.next.get().map(|next| &**next))
    }
}

/// A device made of ranges of others.
pub struct Extents {
    name: String,
    block_size: BlockSize,
    blocks: AtomicU64,
    /// Moves with every growth. Read once a request.
    version: AtomicU64,
    first: Segment,
    /// Held by who adds to it.
    growing: Mutex<()>,
}

impl Extents {
    /// A device on `ranges`, in their order.
    ///
    /// # Errors
    /// [`LayoutError`] where a range does not fit its device or the block size.
    pub fn new(
        name: &str,
        block_size: BlockSize,
        ranges: &[DeviceRange],
    ) -> Result<Arc<Extents>, LayoutError> {
        let parts = parts(name, block_size, 0, ranges)?;
        if parts.is_empty() {
            return Err(LayoutError::Empty {
                name: name.to_owned(),
            });
        }
        Ok(Arc::new(Extents {
            name: name.to_owned(),
            block_size,
            blocks: AtomicU64::new(end_of(&parts)),
            version: AtomicU64::new(1),
            first: Segment::new(parts),
            growing: Mutex::default(),
        }))
    }

    /// Adds `ranges` at the end.
    ///
    /// # Errors
    /// [`LayoutError`]; nothing has changed then.
    pub fn extend(&self, ranges: &[DeviceRange]) -> Result<(), LayoutError> {
        // It guards no data of its own.
        let _growing = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        let start = self.blocks.load(Ordering::Acquire);
        let parts = parts(&self.name, self.block_size, start, ranges)?;
        if parts.is_empty() {
            return Ok(());
        }
        let blocks = end_of(&parts);
        if let Some(last) = self.first.and_later().last() {
            // Nobody else adds: it is the last one's first successor.
            let _ = last.next.set(Box::new(Segment::new(parts)));
        }
        // Whoever sees the new version finds the new parts. The size comes last.
        self.version.fetch_add(1, Ordering::Release);
        self.blocks.store(blocks, Ordering::Release);
        Ok(())
    }

    /// The ranges, in order.
    pub fn ranges(&self) -> Vec<DeviceRange> {
        let bytes = |part: &Part| DeviceRange {
            device: Arc::clone(&part.device),
            offset_bytes: (part.device_lba >> part.shift) << self.block_size.shift(),
            length_bytes: part.blocks << self.block_size.shift(),
        };
        self.parts().map(bytes).collect()
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        let segments = self.first.and_later();
        segments.flat_map(|segment| segment.parts.iter())
    }
}

/// The block after the last.
fn end_of(parts: &[Part]) -> u64 {
    parts.last().map_or(0, |last| last.start + last.blocks)
}

fn parts(
    name: &str,
    block_size: BlockSize,
    start: u64,
    ranges: &[DeviceRange],
) -> Result<Vec<Part>, LayoutError> {
    let mut parts: Vec<Part> = Vec::with_capacity(ranges.len());
    for range in ranges {
        let start = start.max(end_of(&parts));
        parts.push(part(name, block_size, start, range)?);
    }
    Ok(parts)
}

fn part(
    name: &str,
    block_size: BlockSize,
    start: u64,
    range: &DeviceRange,
) -> Result<Part, LayoutError> {
    let geometry = range.device.geometry();
    let device = || range.device.name().to_owned();
    let name = || name.to_owned();
    let shift = split::block_shift(block_size, geometry.block_size).ok_or_else(|| {
        LayoutError::BlockSize {
            name: name(),
            device: device(),
            block_size_bytes: block_size.bytes(),
            device_block_size_bytes: geometry.block_size.bytes(),
        }
    })?;
    let whole = |bytes| block_size.blocks_in(ByteCount(bytes));
    let (Some(offset), Some(blocks @ 1..)) = (whole(range.offset_bytes), whole(range.length_bytes))
    else {
        return Err(LayoutError::Unaligned {
            name: name(),
            device: device(),
            block_size_bytes: block_size.bytes(),
        });
    };
    let end_bytes = range.offset_bytes.saturating_add(range.length_bytes);
    if end_bytes > geometry.size_bytes() || start.checked_add(blocks).is_none() {
        return Err(LayoutError::OutsideDevice {
            name: name(),
            device: device(),
            offset_bytes: range.offset_bytes,
            end_bytes,
            size_bytes: geometry.size_bytes(),
        });
    }
    Ok(Part {
        device: Arc::clone(&range.device),
        start,
        blocks,
        device_lba: offset << shift,
        shift,
    })
}

/// What `layer` is like on top of devices like `below`: every weakness of any is the whole's.
pub(crate) fn combine(
    block_size: BlockSize,
    blocks: u64,
    below: impl Iterator<Item = Geometry>,
) -> Geometry {
    let mut whole = Geometry {
        block_size,
        blocks,
        volatile_cache: false,
        deallocate: false,
        deallocated_reads_zero: true,
        read_only: false,
        optimal_blocks: 1,
    };
    for geometry in below {
        let optimal_bytes = u64::from(geometry.optimal_blocks) * geometry.block_size.bytes_u64();
        let optimal = optimal_bytes.div_ceil(block_size.bytes_u64());
        whole.volatile_cache |= geometry.volatile_cache;
        whole.deallocate |= geometry.deallocate;
        whole.deallocated_reads_zero &= geometry.deallocate && geometry.deallocated_reads_zero;
        whole.read_only |= geometry.read_only;
        whole.optimal_blocks = whole
            .optimal_blocks
            .max(u32::try_from(optimal).unwrap_or(u32::MAX));
    }
    whole
}

impl BlockDevice for Extents {
    fn geometry(&self) -> Geometry {
        let blocks = self.blocks.load(Ordering::Acquire);
        let below = self.parts().map(|part| part.device.geometry());
        combine(self.block_size, blocks, below)
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn open(self: Arc<Self>) -> Result<Rc<dyn BlockQueue>, BlockError> {
        let queue = ExtentsQueue {
            version: Cell::new(0),
            here: RefCell::new(Rc::default()),
            device: self,
        };
        queue.refresh(queue.device.version.load(Ordering::Acquire))?;
        Ok(Rc::new(queue))
    }
}

struct PartHere {
    part: Part,
    queue: Rc<dyn BlockQueue>,
}

struct ExtentsQueue {
    device: Arc<Extents>,
    version: Cell<u64>,
    here: RefCell<Rc<Vec<PartHere>>>,
}

impl PartHere {
    fn end(&self) -> u64 {
        self.part.start + self.part.blocks
    }

    /// A block of the layer, on the device.
    fn device_lba(&self, lba: u64) -> Lba {
        Lba(self.part.device_lba + ((lba - self.part.start) << self.part.shift))
    }

    fn submit(&self, op: Op, lba: u64, blocks: u64, payload: Payload) -> Ticket {
        self.queue.submit(Request {
            op,
            lba: self.device_lba(lba),
            blocks: blocks << self.part.shift,
            payload,
        })
    }
}

/// The part that holds block `lba`.
fn find(parts: &[PartHere], lba: u64) -> usize {
    parts.partition_point(|here| here.end() <= lba)
}

impl ExtentsQueue {
    /// Opens what has been added since.
    fn refresh(&self, version: u64) -> Result<(), BlockError> {
        let open = |part: &Part| {
            Ok(PartHere {
                part: part.clone(),
                queue: split::open_shared(&part.device)?,
            })
        };
        let parts: Result<Vec<PartHere>, BlockError> = self.device.parts().map(open).collect();
        *self.here.borrow_mut() = Rc::new(parts?);
        self.version.set(version);
        Ok(())
    }

    /// The parts as of now. Where a device that came with a growth cannot be opened, those known
    /// before stay in use.
    fn parts(&self) -> Rc<Vec<PartHere>> {
        let version = self.device.version.load(Ordering::Acquire);
        if version != self.version.get() {
            // What cannot be reached is refused below; the next request tries again.
            let _ = self.refresh(version);
        }
        Rc::clone(&self.here.borrow())
    }

    fn flush(&self, parts: &[PartHere], request: Request) -> Ticket {
        let mut gather = Gather::new();
        for (index, here) in parts.iter().enumerate() {
            let known = parts[..index]
                .iter()
                .any(|earlier| Rc::ptr_eq(&earlier.queue, &here.queue));
            if !known {
                gather.add(here.submit(Op::Flush, here.part.start, 0, Payload::none()));
            }
        }
        gather.into_ticket(request.payload)
    }

    fn across(&self, parts: &[PartHere], request: Request) -> Ticket {
        let Request {
            op,
            lba: Lba(first),
            blocks,
            payload,
        } = request;
        let (mut lba, end) = (first, first + blocks);
        let mut gather = Gather::new();
        for here in &parts[find(parts, first)..] {
            if lba >= end {
                break;
            }
            let count = end.min(here.end()) - lba;
            let part = match split::moves_data(op) {
                true => {
                    let bytes = |blocks: u64| blocks << self.device.block_size.shift();
                    split::slice(&payload, bytes(lba - first), bytes(count))
                }
                false => Payload::none(),
            };
            gather.add(here.submit(op, lba, count, part));
            lba += count;
        }
        gather.into_ticket(payload)
    }
}

impl BlockQueue for ExtentsQueue {
    fn submit(&self, request: Request) -> Ticket {
        let parts = self.parts();
        if request.op == Op::Flush {
            return match parts.as_slice() {
                [one] => one.queue.submit(request),
                _ => self.flush(&parts, request),
            };
        }
        let blocks = parts.last().map_or(0, PartHere::end);
        let ended = |result, payload| Ticket::ready(Outcome { result, payload });
        if let Err(error) = split::check(&request, blocks, self.device.block_size) {
            return ended(Err(error), request.payload);
        }
        if request.blocks == 0 {
            return ended(Ok(()), request.payload);
        }
        match parts.get(find(&parts, request.lba.0)) {
            Some(here) if request.lba.0 + request.blocks <= here.end() => {
                here.submit(request.op, request.lba.0, request.blocks, request.payload)
            }
            _ => self.across(&parts, request),
        }
    }

    fn lend(&self, direction: Direction, lba: Lba, blocks: u64) -> Option<Lease> {
        let parts = self.parts();
        let here = parts.get(find(&parts, lba.0))?;
        if lba.checked_add(blocks)?.0 > here.end() {
            return None;
        }
        here.queue
            .lend(direction, here.device_lba(lba.0), blocks << here.part.shift)
    }
}

#[cfg(test)]
#[path = "extents_tests.rs"]
mod tests;
