//! What a controller and its namespaces are, out of their identify data.

use penstock_nvme::identify::{IdentifyController, IdentifyNamespace};
use penstock_units::{BlockSize, Nsid};

use crate::queue::LIST_BYTES;

/// What a controller is and can do (Base 2.1, 5.1.13.2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Serial number.
    pub serial: String,
    /// Model number.
    pub model: String,
    /// Firmware revision.
    pub firmware: String,
    /// Whether writes may sit in a volatile cache until flushed.
    pub volatile_cache: bool,
    /// Compare supported.
    pub compare: bool,
    /// Dataset Management supported.
    pub deallocate: bool,
    /// Write Zeroes supported.
    pub write_zeroes: bool,
    /// Format NVM supported.
    pub format: bool,
    /// Doorbell Buffer Config supported.
    pub doorbell_buffer: bool,
    /// SGLs taken with dword granularity or better.
    pub sgl: bool,
    /// Most bytes of a command's data; `None` without a limit.
    pub transfer_bytes_max: Option<u64>,
    /// Highest namespace identifier.
    pub namespaces_max: u32,
    /// Event requests it takes at once, counted from one.
    pub event_requests_max: u8,
    /// Events it can send (OAES).
    pub events: u32,
    /// Entries of its error log, counted from one (ELPE).
    pub error_entries_max: u16,
    /// Commands it aborts at once, counted from one.
    pub aborts_max: u16,
    /// How long a shutdown may take in microseconds; 0 where it does not say (RTD3E).
    pub shutdown_us: u32,
}

/// OACS bits (Base 2.1, 5.1.13.2.1).
const OACS_FORMAT: u16 = 1 << 1;
const OACS_DOORBELL_BUFFER: u16 = 1 << 8;
/// ONCS bits.
const ONCS_COMPARE: u16 = 1 << 0;
const ONCS_DSM: u16 = 1 << 2;
const ONCS_WRITE_ZEROES: u16 = 1 << 3;

impl Identity {
    /// From the identify data.
    #[must_use]
    pub fn of(data: &IdentifyController) -> Identity {
        let text = |field: &[u8]| String::from_utf8_lossy(field).trim().to_owned();
        let (oacs, oncs) = (data.oacs.get(), data.oncs.get());
        Identity {
            serial: text(&data.sn),
            model: text(&data.mn),
            firmware: text(&data.fr),
            volatile_cache: data.vwc & 1 != 0,
            compare: oncs & ONCS_COMPARE != 0,
            deallocate: oncs & ONCS_DSM != 0,
            write_zeroes: oncs & ONCS_WRITE_ZEROES != 0,
            format: oacs & OACS_FORMAT != 0,
            doorbell_buffer: oacs & OACS_DOORBELL_BUFFER != 0,
            sgl: matches!(data.sgls.get() & 3, 1 | 2),
            transfer_bytes_max: data.transfer_bytes_max(0),
            namespaces_max: data.nn.get(),
            event_requests_max: data.aerl.saturating_add(1),
            events: data.oaes.get(),
            error_entries_max: u16::from(data.elpe) + 1,
            aborts_max: u16::from(data.acl) + 1,
            shutdown_us: data.rtd3e.get(),
        }
    }
}

impl Identity {
    /// Most bytes of one command of this driver's: MDTS, and what a list has room for.
    pub(crate) fn command_bytes_max(&self) -> u32 {
        let list_bytes = (LIST_BYTES / 8 * 4096) as u64;
        let most = self.transfer_bytes_max.unwrap_or(list_bytes);
        u32::try_from(most.min(list_bytes)).unwrap_or(4096)
    }
}

/// A format that a namespace may have (NVM 1.1, 4.1.5.1, LBA Format).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Index, for Format NVM.
    pub index: u8,
    /// Bytes of a block's data.
    pub block_bytes: u64,
    /// Bytes of metadata a block.
    pub metadata_bytes: u16,
    /// Relative performance: 0 best, 3 degraded.
    pub relative_performance: u8,
}

/// What a namespace is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Identifier.
    pub nsid: Nsid,
    /// Block size, where it is one this project serves: a power of two from 512 B to 64 KiB without
    /// metadata.
    pub block_size: Option<BlockSize>,
    /// Blocks.
    pub blocks: u64,
    /// The format in use.
    pub format: Format,
    /// All formats it may have.
    pub formats: Vec<Format>,
    /// Blocks that no command should cross a multiple of; 0 for none (NOIOB).
    pub boundary_blocks: u32,
    /// Whether deallocated blocks read as zeroes (DLFEAT).
    pub deallocated_reads_zero: bool,
    /// Preferred write granularity in blocks, at least 1 (NPWG).
    pub write_granularity_blocks: u32,
}

impl Namespace {
    /// From the identify data; `None` where the format in use is not in the list.
    #[must_use]
    pub fn of(nsid: Nsid, data: &IdentifyNamespace) -> Option<Namespace> {
        let formats: Vec<Format> = (0..=data.nlbaf)
            .zip(data.lbaf.iter())
            .map(|(index, format)| Format {
                index,
                block_bytes: 1_u64.checked_shl(u32::from(format.lbads)).unwrap_or(0),
                metadata_bytes: format.ms.get(),
                relative_performance: format.rp & 3,
            })
            .collect();
        let format = *formats.get(data.format_index())?;
        let block_size = u32::try_from(format.block_bytes)
            .ok()
            .and_then(BlockSize::from_bytes)
            .filter(|_| format.metadata_bytes == 0);
        // NSFEAT bit 4: the preferences are there.
        let granularity = if data.nsfeat & 1 << 4 != 0 {
            u32::from(data.npwg.get()) + 1
        } else {
            1
        };
        Some(Namespace {
            nsid,
            block_size,
            blocks: data.nsze.get(),
            format,
            formats,
            boundary_blocks: u32::from(data.noiob.get()),
            deallocated_reads_zero: data.dlfeat & 7 == 1,
            write_granularity_blocks: granularity,
        })
    }
}
