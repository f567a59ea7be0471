//! DMA memory through the IOMMU: addresses chosen here, mappings remembered and taken back.

use super::addresses::{Addresses, alignment_of};
use crate::dma::{DmaError, Mapper};
use std::collections::BTreeMap;
use std::io;
use std::ops::RangeInclusive;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The smallest page of every IOMMU in use.
const PAGE: usize = 4096;

/// The kernel's calls for one IOMMU address space.
pub(super) trait AddressSpace: Send + Sync {
    /// Addresses that devices in it may use.
    fn ranges(&self) -> io::Result<Vec<RangeInclusive<u64>>>;

    /// Pins memory of this process and maps it, readable and writable by the device.
    ///
    /// # Safety
    /// As [`Mapper::map`].
    unsafe fn map(&self, start: NonNull<u8>, len: u64, device_address: u64) -> io::Result<()>;

    /// Takes back one mapping, whole.
    fn unmap(&self, device_address: u64, len: u64) -> io::Result<()>;
}

/// Why the kernel did not map `len_bytes`, as this process may lock `limit_bytes` of memory. Both ways
/// to the IOMMU say ENOMEM where the limit is reached, type 1 ENOSPC where it has no more mappings.
fn refusal(len_bytes: usize, source: io::Error, limit_bytes: Option<u64>) -> DmaError {
    match (source.raw_os_error(), limit_bytes) {
        (Some(libc::ENOMEM), Some(limit_bytes)) => DmaError::LockedMemory {
            len_bytes,
            limit_bytes,
        },
        (Some(libc::ENOSPC), _) => DmaError::TooManyMappings { len_bytes },
        _ => DmaError::Map { len_bytes, source },
    }
}

/// RLIMIT_MEMLOCK of this process; `None` where there is none.
fn locked_memory_limit() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a valid place for the answer.
    let rc = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    (rc == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

struct State {
    addresses: Addresses,
    /// Lengths of the mappings, by device address.
    mapped: BTreeMap<u64, u64>,
}

/// [`Mapper`] over an IOMMU address space. Takes all mappings back when dropped, then closes the
/// space.
pub(super) struct IommuMapper<S: AddressSpace> {
    state: Mutex<State>,
    space: S,
}

impl<S: AddressSpace> IommuMapper<S> {
    /// Asks the space, to which the device must be attached, for its addresses.
    pub fn new(space: S) -> io::Result<Self> {
        let ranges = space.ranges()?;
        tracing::debug!(?ranges, "device addresses");
        let state = State {
            addresses: Addresses::new(&ranges),
            mapped: BTreeMap::new(),
        };
        Ok(IommuMapper {
            state: Mutex::new(state),
            space,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What VFIO offers beside [`Mapper`].
pub(super) trait Space: Mapper {
    /// Takes addresses out of use for good, before any memory is mapped.
    fn exclude(&self, range: RangeInclusive<u64>);
}

impl<S: AddressSpace> Space for IommuMapper<S> {
    fn exclude(&self, range: RangeInclusive<u64>) {
        self.state().addresses.take_out(range);
    }
}

impl<S: AddressSpace> Mapper for IommuMapper<S> {
    unsafe fn map(&self, start: NonNull<u8>, len: usize) -> Result<u64, DmaError> {
        let refused = |source| DmaError::Map {
            len_bytes: len,
            source,
        };
        if len == 0 || !len.is_multiple_of(PAGE) || !start.addr().get().is_multiple_of(PAGE) {
            return Err(refused(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not whole pages of 4096 bytes",
            )));
        }
        let (size, from) = (len as u64, start.addr().get() as u64);
        let mut state = self.state();
        let alignment = alignment_of(from, size);
        let at = state.addresses.take(size, alignment);
        // Small pages are better than no mapping.
        let at = at.or_else(|| state.addresses.take(size, PAGE as u64));
        let at = at.ok_or(DmaError::NoAddresses { len_bytes: len })?;
        // SAFETY: the caller's promise is the same.
        if let Err(err) = unsafe { self.space.map(start, size, at) } {
            state.addresses.give_back(at, size);
            return Err(refusal(len, err, locked_memory_limit()));
        }
        state.mapped.insert(at, size);
        Ok(at)
    }

    fn unmap(&self, device_address: u64, len: usize) {
        let mut state = self.state();
        if state.mapped.get(&device_address) != Some(&(len as u64)) {
            tracing::error!(device_address, len, "no such mapping of a device's memory");
            return;
        }
        state.mapped.remove(&device_address);
        match self.space.unmap(device_address, len as u64) {
            Ok(()) => state.addresses.give_back(device_address, len as u64),
            // The addresses stay taken: another mapping there would fail or, worse, be shared.
            Err(err) => {
                tracing::error!(device_address, len, %err, "cannot unmap a device's memory")
            }
        }
    }
}

impl<S: AddressSpace> Drop for IommuMapper<S> {
    fn drop(&mut self) {
        let mapped = std::mem::take(&mut self.state().mapped);
        for (at, len) in mapped {
            if let Err(err) = self.space.unmap(at, len) {
                tracing::error!(at, len, %err, "cannot unmap a device's memory at its end");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Fake {
        calls: Arc<Mutex<Vec<String>>>,
        full: bool,
    }

    impl Fake {
        fn said(&self) -> Vec<String> {
            std::mem::take(&mut self.calls.lock().unwrap())
        }
    }

    impl AddressSpace for Fake {
        fn ranges(&self) -> io::Result<Vec<RangeInclusive<u64>>> {
            Ok(vec![0..=0x7f_ffff_ffff])
        }

        unsafe fn map(&self, _: NonNull<u8>, len: u64, at: u64) -> io::Result<()> {
            if self.full {
                return Err(io::Error::from_raw_os_error(libc::ENOMEM));
            }
            self.calls
                .lock()
                .unwrap()
                .push(format!("map {at:x} {len:x}"));
            Ok(())
        }

        fn unmap(&self, at: u64, len: u64) -> io::Result<()> {
            self.calls
                .lock()
                .unwrap()
                .push(format!("unmap {at:x} {len:x}"));
            Ok(())
        }
    }

    fn address(at: usize) -> NonNull<u8> {
        NonNull::new(std::ptr::without_provenance_mut(at)).unwrap()
    }

    fn map(mapper: &dyn Mapper, at: usize, len: usize) -> Result<u64, DmaError> {
        // SAFETY: the fake space touches no memory.
        unsafe { mapper.map(address(at), len) }
    }

    #[test]
    fn mappings_are_aligned_taken_back_and_the_rest_at_the_end() {
        let fake = Fake::default();
        let mapper = IommuMapper::new(fake.clone()).unwrap();
        assert_eq!(map(&mapper, 0x7f00_0000_1000, 0x3000).unwrap(), 0x20_0000);
        // Huge pages go to huge pages.
        assert_eq!(
            map(&mapper, 0x7f00_0020_0000, 0x40_0000).unwrap(),
            0x40_0000
        );
        mapper.unmap(0x20_0000, 0x3000);
        assert_eq!(map(&mapper, 0x7f00_0000_1000, 0x1000).unwrap(), 0x20_0000);
        // Of another length than it was mapped with: refused.
        mapper.unmap(0x40_0000, 0x1000);
        drop(mapper);
        let expected = [
            "map 200000 3000",
            "map 400000 400000",
            "unmap 200000 3000",
            "map 200000 1000",
            "unmap 200000 1000",
            "unmap 400000 400000",
        ];
        assert_eq!(fake.said(), expected);
    }

    #[test]
    fn excluded_addresses_are_never_mapped() {
        let mapper = IommuMapper::new(Fake::default()).unwrap();
        let lowest = map(&mapper, 0x7f00_0000_0000, 4096).unwrap();
        let next = lowest + 4096..=lowest + (64 << 20);
        mapper.exclude(next.clone());
        // What is taken already is no mistake.
        mapper.exclude(next.clone());
        let at = map(&mapper, 0x7f00_0000_1000, 4096).unwrap();
        assert!(at > *next.end());
    }

    #[test]
    fn too_little_locked_memory_names_the_limit() {
        let errno = io::Error::from_raw_os_error;
        let said = refusal(1 << 20, errno(libc::ENOMEM), Some(65_536)).to_string();
        for part in ["1048576 bytes", "may lock 65536 bytes", "LimitMEMLOCK="] {
            assert!(said.contains(part), "no {part} in: {said}");
        }
        // Without a limit the machine itself is out of memory.
        let err = refusal(4096, errno(libc::ENOMEM), None);
        assert!(matches!(err, DmaError::Map { .. }), "{err}");
        let err = refusal(4096, errno(libc::ENOSPC), Some(65_536));
        assert!(err.to_string().contains("dma_entry_limit"), "{err}");
    }

    #[test]
    fn what_the_kernel_refuses_leaves_nothing_behind() {
        let fake = Fake {
            full: true,
            ..Fake::default()
        };
        let mapper = IommuMapper::new(fake.clone()).unwrap();
        let limit = locked_memory_limit();
        let err = map(&mapper, 0x7f00_0000_1000, 0x1000).unwrap_err();
        match err {
            DmaError::LockedMemory { limit_bytes, .. } => assert_eq!(Some(limit_bytes), limit),
            DmaError::Map { .. } => assert_eq!(limit, None),
            other => panic!("{other}"),
        }
        drop(mapper);
        assert!(fake.said().is_empty());
    }

    #[test]
    fn odd_lengths_and_lengths_beyond_the_width_are_refused() {
        let mapper = IommuMapper::new(Fake::default()).unwrap();
        for (at, len) in [(0x1000, 0), (0x1000, 0x800), (0x1800, 0x1000)] {
            let err = map(&mapper, at, len).unwrap_err();
            assert!(matches!(err, DmaError::Map { .. }), "{err}");
        }
        let err = map(&mapper, 0x1000, 1 << 40).unwrap_err();
        assert!(matches!(err, DmaError::NoAddresses { .. }), "{err}");
    }
}
