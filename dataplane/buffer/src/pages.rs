//! Plain memory from a chosen NUMA node.

use std::ptr::NonNull;

use crate::PoolError;
use crate::mapping::{Backing, Mapping};

/// Zeroed memory in normal pages, faulted in as they are touched. Returned to the system when dropped.
pub struct Pages {
    mapping: Mapping,
    len_bytes: usize,
}

impl Pages {
    /// Maps `len_bytes`, to come from NUMA node `numa_node` while it has any; `None` leaves it to the
    /// kernel, which takes the node of the core that touches a page first.
    ///
    /// # Errors
    /// [`PoolError::Map`] and [`PoolError::Numa`] where the kernel refuses.
    pub fn new(len_bytes: usize, numa_node: Option<u32>) -> Result<Pages, PoolError> {
        let error = |source| PoolError::Map {
            size_bytes: len_bytes,
            source,
        };
        let mapping = Mapping::reserve(len_bytes).map_err(error)?;
        mapping
            .commit(0, len_bytes, Backing::Small)
            .map_err(error)?;
        if let Some(node) = numa_node {
            mapping
                .prefer_node(0, len_bytes, node)
                .map_err(|source| PoolError::Numa { node, source })?;
        }
        Ok(Pages { mapping, len_bytes })
    }

    /// Its first byte, aligned to 2 MiB.
    pub fn start(&self) -> NonNull<u8> {
        self.mapping.base()
    }

    /// Its length in bytes.
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_zeroed_and_writable_to_the_end() {
        let pages = Pages::new(3 * 4096, None).unwrap();
        let last = pages.start().as_ptr().wrapping_add(pages.len_bytes() - 1);
        // SAFETY: the last byte of the memory, which nobody else has.
        unsafe {
            assert_eq!(last.read(), 0);
            last.write(7);
            assert_eq!(last.read(), 7);
        }
    }

    #[test]
    fn a_node_that_is_not_there_is_named() {
        let error = Pages::new(4096, Some(1023)).err().unwrap().to_string();
        assert!(error.contains("NUMA node 1023"), "{error}");
        assert!(Pages::new(usize::MAX, None).is_err());
    }
}
