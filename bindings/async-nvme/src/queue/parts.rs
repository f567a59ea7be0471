//! What a queue pair is opened from.

use std::ptr::NonNull;
use std::sync::Arc;

use penstock_units::QueueId;

use super::{LIST_BYTES, Limits, Link};
use crate::bar::Bar;
use crate::cmb::ControllerMemory;
use crate::dma::Regions;
use crate::memory::DeviceMemory;

/// Where a queue pair is and how it reaches the controller: all that is needed to open it on the
/// thread that will use it.
pub struct QueueParts {
    /// Queue identifier, of both queues of the pair.
    pub id: QueueId,
    /// Entries of both queues.
    pub entries: u16,
    /// Registers.
    pub bar: Bar,
    /// Offsets of the submission and completion doorbells.
    pub doorbells: (u32, u32),
    /// Where the submission queue lies if not in `memory`: on the controller.
    pub submission: Option<ControllerMemory>,
    /// [`memory_bytes`] of memory: completion queue, submission queue, a list for every command.
    pub memory: DeviceMemory,
    /// What the device reaches.
    pub regions: Arc<Regions>,
    /// Limits of the drive.
    pub limits: Limits,
    /// How the keeper of the controller and the queue pair talk.
    pub link: Arc<Link>,
    /// Shadow doorbells, where the controller was told of them.
    pub(crate) shadow: Option<Shadow>,
}

/// Shadow doorbells of a queue pair: a page of them, and a page of event indexes behind it.
#[derive(Clone, Copy)]
pub(crate) struct Shadow {
    pub(crate) page: NonNull<u8>,
    pub(crate) tail_offset: usize,
    pub(crate) head_offset: usize,
}

// SAFETY: names two words of memory that are only reached atomically.
unsafe impl Send for Shadow {}

impl Shadow {
    /// Shadow and event index at `offset`.
    pub(super) fn pair(self, offset: usize) -> (NonNull<u32>, NonNull<u32>) {
        // SAFETY: whoever made the value saw to it that the offsets lie in their page.
        unsafe {
            (
                self.page.add(offset).cast(),
                self.page.add(offset + 4096).cast(),
            )
        }
    }
}

/// Bytes of a submission queue of `entries` entries, whole pages.
#[must_use]
pub fn submission_bytes(entries: u16) -> usize {
    (usize::from(entries) * 64).next_multiple_of(LIST_BYTES)
}

/// Bytes of a completion queue of `entries` entries, whole pages.
#[must_use]
pub fn completion_bytes(entries: u16) -> usize {
    (usize::from(entries) * 16).next_multiple_of(LIST_BYTES)
}

/// Bytes of memory of a queue pair of `entries` entries: completion queue, submission queue and
/// lists, in this order.
#[must_use]
pub fn memory_bytes(entries: u16) -> usize {
    completion_bytes(entries) + submission_bytes(entries) + usize::from(entries) * LIST_BYTES
}

impl QueueParts {
    /// Where the controller sees the submission queue.
    #[must_use]
    pub fn submission_address(&self) -> u64 {
        match &self.submission {
            Some(memory) => memory.device_address(),
            None => self.memory.device_address() + completion_bytes(self.entries) as u64,
        }
    }

    pub(super) fn submission_base(&self) -> NonNull<u8> {
        match &self.submission {
            Some(memory) => memory.base(),
            // SAFETY: `open` checks that the memory is long enough for all three parts.
            None => unsafe { self.memory.base().add(completion_bytes(self.entries)) },
        }
    }
}
