//! Memory of this process that drives in SPDK's hands reach.

use std::io;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use penstock_spdk_sys as sys;

use crate::dma::{DmaError, Mapper};

/// Registers memory with SPDK, which has the IOMMU translate its addresses to themselves for every
/// drive it has.
pub(super) struct Registered;

/// A range in use: SPDK takes it once, however many drives it is for.
struct Range {
    start: usize,
    len: usize,
    users: usize,
}

static RANGES: Mutex<Vec<Range>> = Mutex::new(Vec::new());

impl Mapper for Registered {
    unsafe fn map(&self, start: NonNull<u8>, len: usize) -> Result<u64, DmaError> {
        let mut ranges = RANGES.lock().unwrap_or_else(PoisonError::into_inner);
        let address = start.addr().get();
        let known = ranges
            .iter_mut()
            .find(|range| (range.start, range.len) == (address, len));
        if let Some(range) = known {
            range.users += 1;
            return Ok(address as u64);
        }
        // SAFETY: the caller keeps the memory where it is until it is unregistered.
        let rc = unsafe { sys::spdk_mem_register(start.as_ptr().cast(), len) };
        if rc != 0 {
            return Err(DmaError::Map {
                len_bytes: len,
                source: io::Error::from_raw_os_error(-rc),
            });
        }
        ranges.push(Range {
            start: address,
            len,
            users: 1,
        });
        Ok(address as u64)
    }

    fn unmap(&self, device_address: u64, len: usize) {
        let mut ranges = RANGES.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |range: &Range| (range.start as u64, range.len) == (device_address, len);
        let Some(index) = ranges.iter().position(of) else {
            return;
        };
        ranges[index].users -= 1;
        if ranges[index].users > 0 {
            return;
        }
        let range = ranges.swap_remove(index);
        let start = std::ptr::with_exposed_provenance_mut(range.start);
        // SAFETY: a range registered by `map`, whose last user has gone.
        let rc = unsafe { sys::spdk_mem_unregister(start, range.len) };
        if rc != 0 {
            let error = io::Error::from_raw_os_error(-rc);
            tracing::warn!(%error, len, "SPDK did not let go of memory");
        }
    }
}
