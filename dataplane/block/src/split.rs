//! What layers that split requests share.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use penstock_buffer::Payload;
use penstock_units::BlockSize;

use crate::{BlockDevice, BlockError, BlockQueue, Op, Request};

/// Why a layer cannot be made as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Nothing to lie on.
    #[error("{name}: it has no extent; give it at least one")]
    Empty {
        /// The layer.
        name: String,
    },
    /// A range that the device does not have.
    #[error(
        "{name}: bytes {offset_bytes} to {end_bytes} are outside device {device} of {size_bytes} \
         bytes; place it elsewhere, or enlarge the device"
    )]
    OutsideDevice {
        /// The layer.
        name: String,
        /// The device.
        device: String,
        /// First byte.
        offset_bytes: u64,
        /// Byte after the last.
        end_bytes: u64,
        /// What the device has.
        size_bytes: u64,
    },
    /// A range that is not made of whole blocks.
    #[error(
        "{name}: offset or length on device {device} is no multiple of {block_size_bytes} bytes; align it"
    )]
    Unaligned {
        /// The layer.
        name: String,
        /// The device.
        device: String,
        /// The layer's block size.
        block_size_bytes: u32,
    },
    /// The device's blocks are larger than the layer's.
    #[error(
        "{name}: blocks of {block_size_bytes} bytes do not fit device {device} with blocks of \
         {device_block_size_bytes} bytes; use blocks as large as the device's or larger"
    )]
    BlockSize {
        /// The layer.
        name: String,
        /// The device.
        device: String,
        /// The layer's block size.
        block_size_bytes: u32,
        /// The device's.
        device_block_size_bytes: u32,
    },
    /// The stripe unit is no power of two of at least a block.
    #[error(
        "{name}: a stripe unit of {unit_bytes} bytes is not served; use a power of two from the block size to 1 GiB"
    )]
    StripeUnit {
        /// The layer.
        name: String,
        /// As asked.
        unit_bytes: u32,
    },
}

/// log2 of how many blocks of `device` are one block of `layer`; `None` where they are larger.
pub(crate) fn block_shift(layer: BlockSize, device: BlockSize) -> Option<u8> {
    layer.shift().checked_sub(device.shift())
}

/// Whether a request moves a payload.
pub(crate) fn moves_data(op: Op) -> bool {
    matches!(op, Op::Read | Op::Write { .. })
}

/// Checks a request's range against `blocks`; for one that moves data, its payload against the range.
pub(crate) fn check(request: &Request, blocks: u64, size: BlockSize) -> Result<(), BlockError> {
    let end = request
        .lba
        .checked_add(request.blocks)
        .ok_or(BlockError::OutOfRange)?;
    if end.0 > blocks {
        return Err(BlockError::OutOfRange);
    }
    let bytes = request.blocks.checked_mul(size.bytes_u64());
    if moves_data(request.op) && bytes != Some(request.payload.len() as u64) {
        return Err(BlockError::Internal);
    }
    Ok(())
}

/// Further handles on `len` bytes of `payload` from byte `offset`: no byte is copied, and nothing
/// allocated where they lie in one run.
pub(crate) fn slice(payload: &Payload, offset: u64, len: u64) -> Payload {
    let to_usize = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let (mut skip, mut left) = (to_usize(offset), to_usize(len));
    let mut part = Payload::none();
    for lease in payload.segments() {
        if skip >= lease.len() {
            skip -= lease.len();
            continue;
        }
        let take = left.min(lease.len() - skip);
        if let Some(run) = lease.slice(skip, take)
            && take > 0
        {
            part.push(run);
        }
        skip = 0;
        left -= take;
        if left == 0 {
            break;
        }
    }
    part
}

/// A queue in use, and the device it is of.
struct OpenQueue {
    queue: Weak<dyn BlockQueue>,
    device: std::sync::Weak<dyn BlockDevice>,
}

thread_local! {
    /// By the devices' addresses.
    static OPEN: RefCell<HashMap<usize, OpenQueue>> = RefCell::new(HashMap::new());
}

/// This thread's queue on `device`, shared by all layers above it: a device with a thousand volumes
/// has one queue a reactor.
pub(crate) fn open_shared(device: &Arc<dyn BlockDevice>) -> Result<Rc<dyn BlockQueue>, BlockError> {
    let key = Arc::as_ptr(device).cast::<()>() as usize;
    let known = OPEN.with_borrow(|open| {
        let known = open.get(&key)?;
        // An address may have come to another device.
        let of = known.device.upgrade()?;
        Arc::ptr_eq(&of, device)
            .then(|| known.queue.upgrade())
            .flatten()
    });
    if let Some(queue) = known {
        return Ok(queue);
    }
    let queue = Arc::clone(device).open()?;
    OPEN.with_borrow_mut(|open| {
        open.retain(|_, known| known.queue.strong_count() > 0);
        let known = OpenQueue {
            queue: Rc::downgrade(&queue),
            device: Arc::downgrade(device),
        };
        open.insert(key, known);
    });
    Ok(queue)
}
