//! What kind of controller the model is.

use penstock_nvme::identify::LbaFormat;
use penstock_nvme::register::VERSION_2_1;
use penstock_nvme::{Le16, register};

/// A namespace of the model.
#[derive(Clone, Debug)]
pub struct SoftNamespace {
    /// Bytes of media; the blocks are as many as the format in use makes of them.
    pub bytes: u64,
    /// LBA formats, up to 64. Formats with metadata are told, but refused by Format NVM.
    pub formats: Vec<LbaFormat>,
    /// Index of the format in use at first; one without metadata.
    pub format: u8,
    /// Optimal I/O boundary in blocks; 0 none (NVM 1.1, 4.1.5.1, NOIOB).
    pub noiob: u16,
}

impl SoftNamespace {
    /// A namespace of `bytes` with blocks of 2^`lbads` bytes in use, formats of 512 and 4096 bytes
    /// and one with metadata.
    #[must_use]
    pub fn new(bytes: u64, lbads: u8) -> SoftNamespace {
        let format = |lbads, ms| LbaFormat {
            ms: Le16::new(ms),
            lbads,
            rp: 0,
        };
        let mut formats = vec![format(9, 0), format(12, 0), format(9, 8)];
        let found = formats.iter().position(|f| f.lbads == lbads);
        let format = found.unwrap_or_else(|| {
            formats.push(format(lbads, 0));
            formats.len() - 1
        });
        SoftNamespace {
            bytes,
            formats,
            format: u8::try_from(format).unwrap_or(0),
            noiob: 0,
        }
    }
}

/// A controller memory buffer of the model (Base 2.1, 8.2.1).
#[derive(Clone, Debug)]
pub struct SoftCmb {
    /// Bytes, whole pages of 4 KiB.
    pub bytes: usize,
    /// Bytes from the start of its BAR to the buffer, whole pages.
    pub offset: usize,
    /// Submission queues may lie in it.
    pub sqs: bool,
    /// Completion queues may lie in it.
    pub cqs: bool,
    /// PRP lists and SGL segments may lie in it.
    pub lists: bool,
    /// Data read from the drive may go to it.
    pub rds: bool,
    /// Data written to the drive may come from it.
    pub wds: bool,
    /// One command's data may lie in the buffer and in host memory (CMBLOC.CDMMMS).
    pub mixed_data: bool,
    /// As before revision 1.4: always on, addressed as `bus_address` says, no CMBMSC.
    pub legacy: bool,
    /// Where the bus has its BAR; without `legacy` of no meaning to the model, but a good place
    /// for CMBMSC's base address.
    pub bus_address: u64,
}

impl SoftCmb {
    /// A buffer for everything but completion queues, by CMBMSC.
    #[must_use]
    pub fn new(bytes: usize) -> SoftCmb {
        SoftCmb {
            bytes,
            offset: 0,
            sqs: true,
            cqs: false,
            lists: true,
            rds: true,
            wds: true,
            mixed_data: true,
            legacy: false,
            bus_address: 0x40_0000_0000,
        }
    }
}

/// What SGLs the model takes (Base 2.1, 5.1.13.2.1, SGLS).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoftSgl {
    /// None.
    None,
    /// Any address and length.
    Byte,
    /// Addresses and lengths of data in dwords.
    Dword,
}

/// Parameters of a [`super::SoftController`]. The default is a drive of 64 MiB with blocks of
/// 512 bytes, NVMe 2.1, all optional commands, no controller memory, no shadow doorbells.
#[derive(Clone, Debug)]
pub struct SoftConfig {
    /// Decides all that is left to chance.
    pub seed: u64,
    /// Version property (Base 2.1, 3.1.4.2).
    pub version: u32,
    /// Namespaces; identifiers count from 1.
    pub namespaces: Vec<SoftNamespace>,
    /// Most entries of an I/O queue, 2 to 65536 (CAP.MQES, there 0's based).
    pub queue_entries_max: u32,
    /// Most I/O queues of either kind, 1 to 255.
    pub io_queues_max: u16,
    /// Interrupt vectors.
    pub vectors: u16,
    /// CAP.TO: time-out of becoming ready, in 500 ms.
    pub timeout: u8,
    /// CAP.DSTRD: doorbell stride, log2 in dwords.
    pub dstrd: u8,
    /// CAP.MPSMIN: log2 of the smallest memory page, less 12.
    pub mpsmin: u8,
    /// CAP.MPSMAX: log2 of the largest memory page, less 12.
    pub mpsmax: u8,
    /// CAP.CQR: queues must be physically contiguous.
    pub cqr: bool,
    /// Maximum data transfer size: log2 in smallest pages; 0 is no limit.
    pub mdts: u8,
    /// SGLs taken.
    pub sgl: SoftSgl,
    /// I/O command sets by identifier (CAP.CSS bit 6), which CC.CSS 110b enables.
    pub command_sets: bool,
    /// Optional I/O commands: `ONCS_*` of which the model knows Compare, Dataset Management, Write
    /// Zeroes, Write Uncorrectable, Verify and Timestamp.
    pub oncs: u16,
    /// Fused Compare and Write.
    pub fused: bool,
    /// Write Zeroes size limit, log2 in smallest pages; 0 is no limit.
    pub wzsl: u8,
    /// A volatile write cache, enabled at first.
    pub write_cache: bool,
    /// Doorbell Buffer Config (shadow doorbells).
    pub doorbell_buffer: bool,
    /// Asynchronous event requests taken at a time, from one.
    pub event_requests_max: u8,
    /// Controller memory buffer.
    pub cmb: Option<SoftCmb>,
    /// Bytes of a persistent memory region for data, whole pages.
    pub pmr_bytes: Option<usize>,
    /// NVM subsystem reset by NSSR.
    pub subsystem_reset: bool,
    /// Bits of a device address.
    pub address_bits: u8,
    /// Time from CC.EN to CSTS.RDY.
    pub ready_after_ns: u64,
    /// Time from CC.EN cleared to CSTS.RDY cleared.
    pub disable_after_ns: u64,
    /// Time a shutdown takes.
    pub shutdown_after_ns: u64,
    /// Most commands fetched from a queue in one look.
    pub fetch_max: u32,
    /// Time from fetching an I/O command to its completion: at random from 0 to this.
    pub jitter_ns: u64,
    /// I/O commands that are due at a time are completed in random order.
    pub reorder: bool,
    /// Keep Alive granularity in 100 ms; 0 is no such command.
    pub kas: u16,
}

impl Default for SoftConfig {
    fn default() -> SoftConfig {
        use penstock_nvme::identify as id;
        SoftConfig {
            seed: 1,
            version: VERSION_2_1,
            namespaces: vec![SoftNamespace::new(64 << 20, 9)],
            queue_entries_max: 1024,
            io_queues_max: 8,
            vectors: 9,
            timeout: 20,
            dstrd: 0,
            mpsmin: 0,
            mpsmax: 4,
            cqr: true,
            mdts: 5,
            sgl: SoftSgl::Byte,
            command_sets: true,
            oncs: id::ONCS_COMPARE
                | id::ONCS_DATASET_MANAGEMENT
                | id::ONCS_WRITE_ZEROES
                | id::ONCS_WRITE_UNCORRECTABLE
                | id::ONCS_VERIFY
                | id::ONCS_TIMESTAMP,
            fused: true,
            wzsl: 0,
            write_cache: true,
            doorbell_buffer: false,
            event_requests_max: 4,
            cmb: None,
            pmr_bytes: None,
            subsystem_reset: true,
            address_bits: 39,
            ready_after_ns: 0,
            disable_after_ns: 0,
            shutdown_after_ns: 0,
            fetch_max: 64,
            jitter_ns: 0,
            reorder: false,
            kas: 0,
        }
    }
}

impl SoftConfig {
    /// A drive of one namespace, as [`SoftNamespace::new`].
    #[must_use]
    pub fn with_namespace(bytes: u64, lbads: u8) -> SoftConfig {
        SoftConfig {
            namespaces: vec![SoftNamespace::new(bytes, lbads)],
            ..SoftConfig::default()
        }
    }

    /// The Controller Capabilities this makes (Base 2.1, 3.1.4.1).
    pub(super) fn cap(&self) -> register::Cap {
        let entries = self.queue_entries_max.clamp(2, 65536) - 1;
        let new_cmb = self.cmb.as_ref().is_some_and(|cmb| !cmb.legacy);
        let media_ready = u8::from(self.version >= register::VERSION_2_0);
        let css = match self.command_sets {
            true => register::CSS_NVM | register::CSS_IO_COMMAND_SETS,
            false => register::CSS_NVM,
        };
        register::Cap::default()
            .with_mqes(u16::try_from(entries).unwrap_or(u16::MAX))
            .with_cqr(self.cqr)
            .with_to(self.timeout)
            .with_dstrd(self.dstrd)
            .with_nssrs(self.subsystem_reset)
            .with_css(css)
            .with_mpsmin(self.mpsmin)
            .with_mpsmax(self.mpsmax.max(self.mpsmin))
            .with_pmrs(self.pmr_bytes.is_some())
            .with_cmbs(new_cmb)
            .with_crms(media_ready)
    }
}
