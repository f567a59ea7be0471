//! Identify structures of namespaces (NVM 1.1, 4.1.5.1 to 4.1.5.3; Base 2.1, 5.1.13.2).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::wire::{Le16, Le32, Le64, Le128};

/// LBA format (NVM 1.1, 4.1.5.1, LBA Format Data Structure).
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(C)]
pub struct LbaFormat {
    /// Metadata bytes a block.
    pub ms: Le16,
    /// Block size, log2 of bytes; below 9 means the format is not there.
    pub lbads: u8,
    /// Relative performance in bits 1:0: 0 best to 3 degraded.
    pub rp: u8,
}
layout!(LbaFormat, 4, ms @ 0, lbads @ 2, rp @ 3);

/// Identify Namespace data of the NVM command set, CNS 00h (NVM 1.1, 4.1.5.1).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct IdentifyNamespace {
    /// Size in blocks.
    pub nsze: Le64,
    /// Capacity in blocks.
    pub ncap: Le64,
    /// Blocks in use.
    pub nuse: Le64,
    /// Features: `NSFEAT_*`.
    pub nsfeat: u8,
    /// Number of LBA formats, 0's based.
    pub nlbaf: u8,
    /// Formatted LBA size: index in bits 3:0 and 6:5.
    pub flbas: u8,
    /// Metadata capabilities.
    pub mc: u8,
    /// End-to-end data protection capabilities.
    pub dpc: u8,
    /// End-to-end data protection settings.
    pub dps: u8,
    /// Multi-path and sharing: bit 0 shared among controllers.
    pub nmic: u8,
    /// Reservation capabilities.
    pub rescap: u8,
    /// Format progress indicator.
    pub fpi: u8,
    /// Deallocated block behaviour: `DLFEAT_*`.
    pub dlfeat: u8,
    /// Atomic write unit normal, 0's based blocks.
    pub nawun: Le16,
    /// Atomic write unit power fail, 0's based blocks.
    pub nawupf: Le16,
    /// Atomic compare and write unit, 0's based blocks.
    pub nacwu: Le16,
    /// Atomic boundary size normal, 0's based blocks.
    pub nabsn: Le16,
    /// Atomic boundary offset, blocks.
    pub nabo: Le16,
    /// Atomic boundary size power fail, 0's based blocks.
    pub nabspf: Le16,
    /// Optimal I/O boundary, blocks.
    pub noiob: Le16,
    /// NVM capacity in bytes.
    pub nvmcap: Le128,
    /// Preferred write granularity, 0's based blocks.
    pub npwg: Le16,
    /// Preferred write alignment, 0's based blocks.
    pub npwa: Le16,
    /// Preferred deallocate granularity, 0's based blocks.
    pub npdg: Le16,
    /// Preferred deallocate alignment, 0's based blocks.
    pub npda: Le16,
    /// Optimal write size, 0's based blocks.
    pub nows: Le16,
    /// Most blocks of one source range of Copy.
    pub mssrl: Le16,
    /// Most blocks of one Copy.
    pub mcl: Le32,
    /// Most source ranges of Copy, 0's based.
    pub msrc: u8,
    /// Key per I/O status.
    pub kpios: u8,
    /// Number of unique attribute LBA formats.
    pub nulbaf: u8,
    /// Reserved.
    pub reserved83: u8,
    /// Key per I/O data access alignment and granularity.
    pub kpiodaag: Le32,
    /// Reserved.
    pub reserved88: [u8; 4],
    /// ANA group identifier.
    pub anagrpid: Le32,
    /// Reserved.
    pub reserved96: [u8; 3],
    /// Attributes: bit 0 write protected.
    pub nsattr: u8,
    /// NVM set identifier.
    pub nvmsetid: Le16,
    /// Endurance group identifier.
    pub endgid: Le16,
    /// Namespace globally unique identifier, big-endian; zero is none.
    pub nguid: [u8; 16],
    /// IEEE extended unique identifier, big-endian; zero is none.
    pub eui64: [u8; 8],
    /// LBA formats.
    pub lbaf: [LbaFormat; 64],
    /// Vendor specific.
    pub vendor: [u8; 3712],
}
layout!(IdentifyNamespace, 4096, nsze @ 0, nsfeat @ 24, flbas @ 26, dps @ 29, nmic @ 30,
    dlfeat @ 33, nawun @ 34, noiob @ 46, nvmcap @ 48, npwg @ 64, nows @ 72, mssrl @ 74, mcl @ 76,
    msrc @ 80, nulbaf @ 82, kpiodaag @ 84, anagrpid @ 92, nsattr @ 99, nvmsetid @ 100, endgid @ 102,
    nguid @ 104, eui64 @ 120, lbaf @ 128, vendor @ 384);

/// NSFEAT bit: thin provisioning (NUSE may be below NCAP).
pub const NSFEAT_THIN: u8 = 1 << 0;
/// NSFEAT bit: the namespace's atomic write fields count.
pub const NSFEAT_ATOMICS: u8 = 1 << 1;
/// NSFEAT bit: reads of deallocated blocks may fail where the host asks for it (DAE).
pub const NSFEAT_DEALLOCATED_ERROR: u8 = 1 << 2;
/// NSFEAT bit: NGUID and EUI64 are never used again.
pub const NSFEAT_UID_REUSE: u8 = 1 << 3;
/// NSFEAT bits: NPWG, NPWA, NPDG, NPDA and NOWS count (OPTPERF, value 1).
pub const NSFEAT_OPTPERF: u8 = 1 << 4;

/// DLFEAT: deallocated blocks read as zeroes.
pub const DLFEAT_READ_ZEROES: u8 = 1;
/// DLFEAT bit: DEAC of Write Zeroes supported.
pub const DLFEAT_WRITE_ZEROES_DEAC: u8 = 1 << 3;

/// NMIC bit: the namespace may be attached to several controllers at a time.
pub const NMIC_SHARED: u8 = 1 << 0;

impl IdentifyNamespace {
    /// Index of the LBA format in use.
    pub fn format_index(&self) -> usize {
        usize::from(self.flbas & 0xf) | usize::from(self.flbas >> 5 & 3) << 4
    }

    /// The LBA format in use, `None` where the index lies beyond the list.
    pub fn format(&self) -> Option<LbaFormat> {
        self.lbaf.get(self.format_index()).copied()
    }
}

/// Identify Namespace data of the NVM command set, CNS 05h, CSI 00h (NVM 1.1, 4.1.5.3).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct IdentifyNvmNamespace {
    /// Logical block storage tag mask.
    pub lbstm: Le64,
    /// Protection information capabilities.
    pub pic: u8,
    /// Protection information format attributes.
    pub pifa: u8,
    /// Reserved.
    pub reserved10: [u8; 2],
    /// Extended LBA formats.
    pub elbaf: [Le32; 64],
    /// Preferred deallocate granularity large, blocks.
    pub npdgl: Le32,
    /// Preferred read granularity, blocks.
    pub nprg: Le32,
    /// Preferred read alignment, blocks.
    pub npra: Le32,
    /// Optimal read size, blocks.
    pub nors: Le32,
    /// Preferred deallocate alignment large, blocks.
    pub npdal: Le32,
    /// Most blocks of one Copy of this namespace's format, tracking.
    pub lbapss: Le32,
    /// Tracked LBA allocation granularity.
    pub tlbaag: Le32,
    /// Reserved.
    pub reserved296: [u8; 3800],
}
layout!(IdentifyNvmNamespace, 4096, pic @ 8, pifa @ 9, elbaf @ 12, npdgl @ 268, nprg @ 272,
    npra @ 276, nors @ 280, npdal @ 284, lbapss @ 288, tlbaag @ 292, reserved296 @ 296);

/// Identify Controller data of the NVM command set, CNS 06h, CSI 00h (NVM 1.1, 4.1.5.4).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct IdentifyNvmController {
    /// Verify size limit: log2 in units of the minimum memory page size; 0 is no limit.
    pub vsl: u8,
    /// Write Zeroes size limit, as `vsl`.
    pub wzsl: u8,
    /// Write Uncorrectable size limit, as `vsl`.
    pub wusl: u8,
    /// Dataset Management ranges limit: most ranges of a command; 0 is no limit.
    pub dmrl: u8,
    /// Dataset Management range size limit: most blocks of a range; 0 is no limit.
    pub dmrsl: Le32,
    /// Dataset Management size limit: most blocks of a command; 0 is no limit.
    pub dmsl: Le64,
    /// Key per I/O capabilities, all namespaces.
    pub kpiocap: u8,
    /// Write Zeroes with deallocate size limit, as `vsl`.
    pub wzdsl: u8,
    /// Admin optional command support of the NVM command set.
    pub aocs: Le16,
    /// Version of the NVM command set specification.
    pub ver: Le32,
    /// LBA migration queue features.
    pub lbamqf: u8,
    /// Reserved.
    pub reserved25: [u8; 4071],
}
layout!(IdentifyNvmController, 4096, dmrl @ 3, dmrsl @ 4, dmsl @ 8, kpiocap @ 16, wzdsl @ 17,
    aocs @ 18, ver @ 20, lbamqf @ 24, reserved25 @ 25);

/// I/O Command Set Independent Identify Namespace data, CNS 08h (Base 2.1, 5.1.13.2).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct IdentifyIndependentNamespace {
    /// Common features: bit 3 identifiers never used again, bit 4 rotational, bit 5 volatile
    /// write cache not present.
    pub nsfeat: u8,
    /// Multi-path and sharing: bit 0 shared.
    pub nmic: u8,
    /// Reservation capabilities.
    pub rescap: u8,
    /// Format progress indicator.
    pub fpi: u8,
    /// ANA group identifier.
    pub anagrpid: Le32,
    /// Attributes: bit 0 write protected.
    pub nsattr: u8,
    /// Reserved.
    pub reserved9: u8,
    /// NVM set identifier.
    pub nvmsetid: Le16,
    /// Endurance group identifier.
    pub endgid: Le16,
    /// Status: bit 0 ready.
    pub nstat: u8,
    /// Key per I/O status.
    pub kpios: u8,
    /// Maximum key tag.
    pub maxkt: Le16,
    /// Reserved.
    pub reserved18: [u8; 2],
    /// Reachability group identifier.
    pub rgrpid: Le32,
    /// Reserved.
    pub reserved24: [u8; 4072],
}
layout!(IdentifyIndependentNamespace, 4096, nsfeat @ 0, anagrpid @ 4, nsattr @ 8, nvmsetid @ 10,
    endgid @ 12, nstat @ 14, kpios @ 15, maxkt @ 16, rgrpid @ 20, reserved24 @ 24);

/// NSTAT bit: the namespace is ready.
pub const NSTAT_READY: u8 = 1 << 0;
