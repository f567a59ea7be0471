//! Memory of the controller itself: the controller memory buffer (CMB) and the persistent memory
//! region (PMR), and who has which part of it (Base 2.1, 8.2.1 and 8.2.4).

use std::any::Any;
use std::io;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use penstock_buffer::{MemoryKind, Pool, PoolError, PoolMemory};
use penstock_nvme::pcie::{Cmbloc, Cmbsz};

/// What may lie in a controller memory buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CmbAbilities {
    /// Submission queues (SQS).
    pub submission_queues: bool,
    /// Completion queues (CQS).
    pub completion_queues: bool,
    /// PRP and SGL lists (LISTS).
    pub lists: bool,
    /// Data that the drive writes: payload of reads (RDS).
    pub read_data: bool,
    /// Data that the drive reads: payload of writes (WDS).
    pub write_data: bool,
}

/// Where a controller memory buffer is and what it can do, from CMBLOC and CMBSZ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CmbLayout {
    /// Base address register that holds it.
    pub bar_index: u8,
    /// Offset in it, in bytes.
    pub offset_bytes: u64,
    /// Length in bytes.
    pub len_bytes: u64,
    /// What may lie in it.
    pub abilities: CmbAbilities,
}

impl CmbLayout {
    /// From the registers; `None` where there is no buffer or its size unit is reserved
    /// (Base 2.1, 3.1.4.11 and 3.1.4.12).
    #[must_use]
    pub fn of(location: Cmbloc, size: Cmbsz) -> Option<CmbLayout> {
        let unit = size.unit_bytes()?;
        let len_bytes = size.size_bytes().filter(|len| *len > 0)?;
        Some(CmbLayout {
            bar_index: location.bir(),
            offset_bytes: u64::from(location.ofst()) * unit,
            len_bytes,
            abilities: CmbAbilities {
                submission_queues: size.sqs(),
                completion_queues: size.cqs(),
                lists: size.lists(),
                read_data: size.rds(),
                write_data: size.wds(),
            },
        })
    }
}

/// A mapping of controller memory in this process.
#[derive(Clone)]
pub struct ControllerMapping {
    /// Start in this process, page aligned.
    pub base: NonNull<u8>,
    /// Length in bytes.
    pub len: usize,
    /// Keeps it mapped.
    pub keeper: Arc<dyn Any + Send + Sync>,
    /// What exports it to other devices, where that can be had.
    pub export: Option<Arc<dyn DmaBufExport>>,
}

/// Exports a mapping of controller memory to other devices.
pub trait DmaBufExport: Send + Sync {
    /// A dma-buf of `len` bytes from `offset` of the mapping, both whole pages.
    ///
    /// # Errors
    /// The kernel refuses.
    fn export(&self, offset: u64, len: u64) -> io::Result<OwnedFd>;
}

/// Why controller memory has no dma-buf.
#[derive(Debug, thiserror::Error)]
pub enum DmaBufError {
    /// Nobody exports it.
    #[error(
        "this drive's memory cannot be exported as a dma-buf: that needs Linux 6.19 or newer with CONFIG_VFIO_PCI_DMABUF and the drive bound to vfio-pci; payload goes through host memory without"
    )]
    NotOffered,
    /// The kernel refused.
    #[error("the kernel does not export the drive's memory as a dma-buf: {0}")]
    Refused(#[source] io::Error),
}

// SAFETY: names a range of addresses; whoever reaches the bytes answers for it.
unsafe impl Send for ControllerMapping {}
// SAFETY: as above.
unsafe impl Sync for ControllerMapping {}

/// All of a controller's memory that this process has mapped and the controller answers to, given
/// out in runs of whole pages. First fit; runs given back join their neighbours.
pub struct ControllerMemoryPool {
    mapping: ControllerMapping,
    device_address: u64,
    abilities: CmbAbilities,
    page_bytes: usize,
    /// Free runs by offset: (offset, length), sorted, never touching each other.
    free: Mutex<Vec<(usize, usize)>>,
}

/// Why controller memory could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CmbError {
    /// The buffer is too small, or too full.
    #[error(
        "no {asked_bytes} bytes left in controller memory ({free_bytes} of {len_bytes} bytes free, the longest run {longest_bytes}); ask for fewer or smaller queues and buffers in it, or use host memory"
    )]
    Full {
        /// Asked for.
        asked_bytes: usize,
        /// Free in all.
        free_bytes: usize,
        /// The longest free run.
        longest_bytes: usize,
        /// All of it.
        len_bytes: usize,
    },
    /// The controller does not take this kind of thing in its memory.
    #[error("the drive's controller memory cannot hold {what}; use host memory for it")]
    Unable {
        /// What was to lie there.
        what: &'static str,
    },
}

impl ControllerMemoryPool {
    /// Gives out `mapping`, which commands address from `device_address`.
    #[must_use]
    pub fn new(
        mapping: ControllerMapping,
        device_address: u64,
        abilities: CmbAbilities,
        page_bytes: usize,
    ) -> Arc<ControllerMemoryPool> {
        let len = mapping.len / page_bytes * page_bytes;
        Arc::new(ControllerMemoryPool {
            mapping,
            device_address,
            abilities,
            page_bytes,
            free: Mutex::new(if len > 0 { vec![(0, len)] } else { Vec::new() }),
        })
    }

    /// What may lie here.
    #[must_use]
    pub fn abilities(&self) -> CmbAbilities {
        self.abilities
    }

    /// Length in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.mapping.len / self.page_bytes * self.page_bytes
    }

    /// Free bytes.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.iter().map(|(_, len)| len).sum()
    }

    /// Takes `bytes`, rounded up to whole pages.
    ///
    /// # Errors
    /// [`CmbError::Full`].
    pub fn take(self: &Arc<Self>, bytes: usize) -> Result<ControllerMemory, CmbError> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let longest_bytes = free.iter().map(|(_, len)| *len).max().unwrap_or(0);
        let full = CmbError::Full {
            asked_bytes: bytes,
            free_bytes: free.iter().map(|(_, len)| len).sum(),
            longest_bytes,
            len_bytes: self.len_bytes(),
        };
        let wanted = bytes
            .max(1)
            .checked_next_multiple_of(self.page_bytes)
            .ok_or(full)?;
        let index = free
            .iter()
            .position(|(_, len)| *len >= wanted)
            .ok_or(full)?;
        let (offset, len) = free[index];
        if len == wanted {
            free.remove(index);
        } else {
            free[index] = (offset + wanted, len - wanted);
        }
        Ok(ControllerMemory {
            pool: Arc::clone(self),
            offset,
            len: wanted,
        })
    }

    fn give_back(&self, offset: usize, len: usize) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let index = free.partition_point(|(start, _)| *start < offset);
        free.insert(index, (offset, len));
        // Join with the next, then with the one before.
        if let Some((start, next)) = free.get(index + 1).copied()
            && offset + len == start
        {
            free[index].1 += next;
            free.remove(index + 1);
        }
        if let Some(before) = index.checked_sub(1)
            && free[before].0 + free[before].1 == offset
        {
            free[before].1 += free[index].1;
            free.remove(index);
        }
    }
}

/// A run of controller memory, given back when dropped. A reset of the controller may take what lies
/// in a controller memory buffer ([`crate::IoError::Forgotten`]); a persistent memory region keeps it.
pub struct ControllerMemory {
    pool: Arc<ControllerMemoryPool>,
    offset: usize,
    len: usize,
}

impl ControllerMemory {
    /// Where the processor sees it. Uncached: long reads from it are slow.
    #[must_use]
    pub fn base(&self) -> NonNull<u8> {
        // SAFETY: runs lie inside the mapping.
        unsafe { self.pool.mapping.base.add(self.offset) }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it is empty; never so.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where commands address it.
    #[must_use]
    pub fn device_address(&self) -> u64 {
        self.pool.device_address + self.offset as u64
    }

    /// Whether [`ControllerMemory::dma_buf`] may be tried; else it would only fail.
    #[must_use]
    pub fn can_export(&self) -> bool {
        self.pool.mapping.export.is_some()
    }

    /// This run as a dma-buf, which a network card's driver can import. It keeps the drive from being
    /// let go until it is closed.
    ///
    /// # Errors
    /// [`DmaBufError`].
    pub fn dma_buf(&self) -> Result<OwnedFd, DmaBufError> {
        let export = self.pool.mapping.export.as_ref();
        export
            .ok_or(DmaBufError::NotOffered)?
            .export(self.offset as u64, self.len as u64)
            .map_err(DmaBufError::Refused)
    }

    /// What may lie in it.
    #[must_use]
    pub fn abilities(&self) -> CmbAbilities {
        self.pool.abilities
    }

    /// Leases of up to `lease_max_bytes` on it, for the thread that calls. The memory goes back to
    /// its controller's pool when the last lease and the last handle on the pool are gone.
    ///
    /// # Errors
    /// [`PoolError::Config`] where `lease_max_bytes` is no power of two from 4 KiB.
    pub fn into_pool(self, lease_max_bytes: usize) -> Result<Pool, PoolError> {
        let memory = PoolMemory {
            start: self.base(),
            len_bytes: self.len,
            keeper: Arc::new(self),
        };
        // SAFETY: whole pages of a mapping that the run keeps mapped, and this run is nobody else's.
        unsafe { Pool::over(memory, MemoryKind::Controller, lease_max_bytes) }
    }
}

impl Drop for ControllerMemory {
    fn drop(&mut self) {
        self.pool.give_back(self.offset, self.len);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool(pages: usize) -> Arc<ControllerMemoryPool> {
        let memory: Arc<Vec<u64>> = Arc::new(vec![0; pages * 512]);
        let base = NonNull::new(memory.as_ptr().cast_mut().cast()).unwrap();
        let mapping = ControllerMapping {
            base,
            len: pages * 4096,
            keeper: memory,
            export: None,
        };
        ControllerMemoryPool::new(mapping, 0x8000_0000, CmbAbilities::default(), 4096)
    }

    #[test]
    fn registers_tell_the_layout() {
        let location = Cmbloc::default().with_bir(2).with_ofst(3);
        let size = Cmbsz::default().with_sz(64).with_szu(2).with_wds(true);
        let layout = CmbLayout::of(location, size).unwrap();
        assert_eq!((layout.bar_index, layout.offset_bytes), (2, 3 << 20));
        assert_eq!(layout.len_bytes, 64 << 20);
        assert!(layout.abilities.write_data && !layout.abilities.read_data);
        assert_eq!(CmbLayout::of(location, size.with_sz(0)), None);
        assert_eq!(CmbLayout::of(location, size.with_szu(9)), None);
    }

    #[test]
    fn what_does_not_fit_is_told_with_the_figures() {
        let pool = pool(4);
        let run = pool.take(5000).unwrap();
        assert_eq!((run.len(), run.device_address()), (8192, 0x8000_0000));
        let Err(error) = pool.take(3 * 4096) else {
            panic!("more than there is was given out");
        };
        assert!(error.to_string().contains("8192 of 16384 bytes free"));
    }

    proptest! {
        #[test]
        fn runs_never_overlap_and_all_come_back(asks in prop::collection::vec((1_usize..20_000, any::<prop::sample::Index>()), 1..60)) {
            let pool = pool(32);
            let mut held: Vec<ControllerMemory> = Vec::new();
            for (bytes, index) in asks {
                match pool.take(bytes) {
                    Ok(run) => {
                        let end = run.offset + run.len;
                        prop_assert!(end <= pool.len_bytes());
                        for other in &held {
                            prop_assert!(end <= other.offset || other.offset + other.len <= run.offset);
                        }
                        held.push(run);
                    }
                    Err(_) if held.is_empty() => prop_assert!(bytes > pool.len_bytes()),
                    Err(_) => drop(held.swap_remove(index.index(held.len()))),
                }
                let used: usize = held.iter().map(|run| run.len).sum();
                prop_assert_eq!(pool.free_bytes(), pool.len_bytes() - used);
            }
            held.clear();
            prop_assert!(pool.take(pool.len_bytes()).is_ok());
        }
    }
}
