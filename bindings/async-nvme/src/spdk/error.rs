//! Why SPDK cannot drive a drive here, each with what to do about it.

use std::io;

use crate::controller::ControllerError;
use crate::pci::PciAddress;
use crate::vfio::OpenError;

/// Why SPDK could not take a drive into use.
#[derive(Debug, thiserror::Error)]
pub enum SpdkError {
    /// The drive is not this process's to take.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Too few hugepages are free.
    #[error(
        "SPDK needs {need_bytes} bytes of free hugepages, {free_bytes} are free: reserve more (sysctl vm.nr_hugepages), let it have less (spdk_memory_mib), or do without (spdk_hugepages = false)"
    )]
    Hugepages {
        /// Asked for.
        need_bytes: u64,
        /// Free, of all sizes and nodes.
        free_bytes: u64,
    },
    /// Hugepages are reached through a file system that is not there.
    #[error(
        "SPDK takes hugepages through a hugetlbfs, and none is mounted: mount -t hugetlbfs none /dev/hugepages, or do without (spdk_hugepages = false)"
    )]
    Hugetlbfs,
    /// The IOMMU has too few address bits for addresses of this process.
    #[error(
        "the IOMMU translates addresses of {bits} bits; SPDK, which has drives use this process's addresses, needs {need_bits}: use this project's own driver (driver = \"penstock\")"
    )]
    IommuWidth {
        /// What it has.
        bits: u32,
        /// What is needed.
        need_bits: u32,
    },
    /// SPDK's environment did not start. A process has one chance.
    #[error(
        "SPDK's environment (DPDK) did not start: {what}; its own words stand before this on standard error. Correct what they name and start again"
    )]
    Environment {
        /// What it answered.
        what: String,
    },
    /// SPDK did not bring the controller up.
    #[error(
        "SPDK could not bring up drive {address}; its own words stand before this on standard error. Reset the drive or power cycle it, or use this project's own driver (driver = \"penstock\")"
    )]
    Attach {
        /// The drive.
        address: PciAddress,
    },
    /// A thread could not be started.
    #[error("cannot start a thread for SPDK's environment: {0}; raise the limit on threads")]
    Thread(io::Error),
    /// The controller, once it was up.
    #[error(transparent)]
    Controller(#[from] ControllerError),
}
