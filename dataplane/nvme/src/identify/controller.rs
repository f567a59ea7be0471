//! Identify Controller data, CNS 01h (Base 2.1, 5.1.13.2.1).

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::wire::{Le16, Le32, Le128};

/// Power state descriptor (Base 2.1, 5.1.13.2.1, Power State Descriptor Data Structure).
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
pub struct PowerState {
    /// Maximum power, in 0.01 W unless `flags` bit 0 says 0.0001 W.
    pub mp: Le16,
    /// Reserved.
    pub reserved2: u8,
    /// Bit 0 maximum power scale, bit 1 non-operational.
    pub flags: u8,
    /// Entry latency in microseconds.
    pub enlat: Le32,
    /// Exit latency in microseconds.
    pub exlat: Le32,
    /// Relative read throughput, read latency, write throughput, write latency: 0 is best.
    pub relative: [u8; 4],
    /// Idle and active power, power loss times, reserved.
    pub rest: [u8; 16],
}
layout!(PowerState, 32, mp @ 0, flags @ 3, enlat @ 4, exlat @ 8, relative @ 12, rest @ 16);

/// Identify Controller data (Base 2.1, 5.1.13.2.1).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct IdentifyController {
    /// PCI vendor identifier.
    pub vid: Le16,
    /// PCI subsystem vendor identifier.
    pub ssvid: Le16,
    /// Serial number, ASCII filled with spaces.
    pub sn: [u8; 20],
    /// Model number, ASCII filled with spaces.
    pub mn: [u8; 40],
    /// Firmware revision, ASCII filled with spaces.
    pub fr: [u8; 8],
    /// Recommended arbitration burst, log2.
    pub rab: u8,
    /// IEEE OUI, little-endian.
    pub ieee: [u8; 3],
    /// Multi-path and sharing: `CMIC_*`.
    pub cmic: u8,
    /// Maximum data transfer size, log2 in minimum memory pages; 0 is no limit.
    pub mdts: u8,
    /// Controller identifier.
    pub cntlid: Le16,
    /// Version, as the VS property.
    pub ver: Le32,
    /// RTD3 resume latency in microseconds.
    pub rtd3r: Le32,
    /// RTD3 entry latency in microseconds: bounds a shutdown.
    pub rtd3e: Le32,
    /// Optional asynchronous events supported: bits as of
    /// [`crate::feature::AsyncEventConfig`].
    pub oaes: Le32,
    /// Controller attributes: `CTRATT_*`.
    pub ctratt: Le32,
    /// Read recovery levels supported.
    pub rrls: Le16,
    /// Boot partition capabilities.
    pub bpcap: u8,
    /// Reserved.
    pub reserved103: u8,
    /// NVM subsystem shutdown latency in microseconds.
    pub nssl: Le32,
    /// Reserved.
    pub reserved108: [u8; 2],
    /// Power loss signalling information.
    pub plsi: u8,
    /// Controller type: `CNTRLTYPE_*`.
    pub cntrltype: u8,
    /// FRU globally unique identifier.
    pub fguid: [u8; 16],
    /// Command retry delay time 1, in 100 ms.
    pub crdt1: Le16,
    /// Command retry delay time 2, in 100 ms.
    pub crdt2: Le16,
    /// Command retry delay time 3, in 100 ms.
    pub crdt3: Le16,
    /// Controller reachability capabilities.
    pub crcap: u8,
    /// Reserved.
    pub reserved135: [u8; 118],
    /// NVM subsystem report (NVMe-MI).
    pub nvmsr: u8,
    /// VPD write cycle information (NVMe-MI).
    pub vwci: u8,
    /// Management endpoint capabilities (NVMe-MI).
    pub mec: u8,
    /// Optional admin commands supported: `OACS_*`.
    pub oacs: Le16,
    /// Abort command limit, 0's based.
    pub acl: u8,
    /// Asynchronous event request limit, 0's based.
    pub aerl: u8,
    /// Firmware updates: bit 0 slot 1 is read only, bits 3:1 number of slots.
    pub frmw: u8,
    /// Log page attributes: `LPA_*`.
    pub lpa: u8,
    /// Error log page entries, 0's based.
    pub elpe: u8,
    /// Number of power states, 0's based.
    pub npss: u8,
    /// Admin vendor specific command configuration.
    pub avscc: u8,
    /// Autonomous power state transition attributes.
    pub apsta: u8,
    /// Warning composite temperature in kelvin.
    pub wctemp: Le16,
    /// Critical composite temperature in kelvin.
    pub cctemp: Le16,
    /// Maximum time for firmware activation, in 100 ms.
    pub mtfa: Le16,
    /// Host memory buffer preferred size, in 4 KiB.
    pub hmpre: Le32,
    /// Host memory buffer minimum size, in 4 KiB.
    pub hmmin: Le32,
    /// Total NVM capacity in bytes.
    pub tnvmcap: Le128,
    /// Unallocated NVM capacity in bytes.
    pub unvmcap: Le128,
    /// Replay protected memory block support.
    pub rpmbs: Le32,
    /// Extended device self-test time in minutes.
    pub edstt: Le16,
    /// Device self-test options.
    pub dsto: u8,
    /// Firmware update granularity, in 4 KiB.
    pub fwug: u8,
    /// Keep alive granularity, in 100 ms; 0 is no keep alive.
    pub kas: Le16,
    /// Host controlled thermal management attributes.
    pub hctma: Le16,
    /// Minimum thermal management temperature in kelvin.
    pub mntmt: Le16,
    /// Maximum thermal management temperature in kelvin.
    pub mxtmt: Le16,
    /// Sanitize capabilities.
    pub sanicap: Le32,
    /// Host memory buffer minimum descriptor entry size, in 4 KiB.
    pub hmminds: Le32,
    /// Host memory maximum descriptor entries.
    pub hmmaxd: Le16,
    /// NVM set identifier maximum.
    pub nsetidmax: Le16,
    /// Endurance group identifier maximum.
    pub endgidmax: Le16,
    /// ANA transition time in seconds.
    pub anatt: u8,
    /// ANA capabilities: `ANACAP_*`.
    pub anacap: u8,
    /// ANA group identifier maximum.
    pub anagrpmax: Le32,
    /// Number of ANA group identifiers.
    pub nanagrpid: Le32,
    /// Persistent event log size, in 64 KiB.
    pub pels: Le32,
    /// Domain identifier.
    pub domainid: Le16,
    /// Key per I/O capabilities.
    pub kpioc: u8,
    /// Reserved.
    pub reserved359: u8,
    /// Maximum processing time for firmware activation without reset, in 100 ms.
    pub mptfawr: Le16,
    /// Reserved.
    pub reserved362: [u8; 6],
    /// Maximum endurance group capacity in bytes.
    pub megcap: Le128,
    /// Temperature threshold hysteresis attributes.
    pub tmpthha: u8,
    /// Reserved.
    pub reserved385: u8,
    /// Command quiesce time in milliseconds.
    pub cqt: Le16,
    /// Reserved.
    pub reserved388: [u8; 124],
    /// Submission queue entry size, log2: bits 3:0 required, bits 7:4 maximum; 66h for 64 bytes.
    pub sqes: u8,
    /// Completion queue entry size, log2: bits 3:0 required, bits 7:4 maximum; 44h for 16 bytes.
    pub cqes: u8,
    /// Maximum outstanding commands of a queue.
    pub maxcmd: Le16,
    /// Number of namespaces: the largest valid identifier.
    pub nn: Le32,
    /// Optional NVM commands supported: `ONCS_*`.
    pub oncs: Le16,
    /// Fused operations supported: bit 0 compare and write.
    pub fuses: Le16,
    /// Format NVM attributes.
    pub fna: u8,
    /// Volatile write cache: `VWC_*`.
    pub vwc: u8,
    /// Atomic write unit normal, 0's based blocks.
    pub awun: Le16,
    /// Atomic write unit power fail, 0's based blocks.
    pub awupf: Le16,
    /// I/O command set vendor specific command configuration.
    pub icsvscc: u8,
    /// Namespace write protection capabilities.
    pub nwpc: u8,
    /// Atomic compare and write unit, 0's based blocks.
    pub acwu: Le16,
    /// Copy descriptor formats supported.
    pub cdfs: Le16,
    /// SGL support: `SGLS_*`.
    pub sgls: Le32,
    /// Maximum number of allowed namespaces; 0 is NN.
    pub mnan: Le32,
    /// Maximum domain namespace attachments.
    pub maxdna: Le128,
    /// Maximum I/O controller namespace attachments.
    pub maxcna: Le32,
    /// Optimal aggregated queue depth.
    pub oaqd: Le32,
    /// Recommended host-initiated refresh interval in minutes.
    pub rhiri: u8,
    /// Host-initiated refresh time in minutes.
    pub hirt: u8,
    /// Controller maximum memory range tracking descriptors.
    pub cmmrtd: Le16,
    /// NVM subsystem maximum memory range tracking descriptors.
    pub nmmrtd: Le16,
    /// Minimum memory range tracking granularity.
    pub minmrtg: u8,
    /// Maximum memory range tracking granularity.
    pub maxmrtg: u8,
    /// Tracking attributes.
    pub trattr: u8,
    /// Reserved.
    pub reserved577: u8,
    /// Maximum controller user data migration queues.
    pub mcudmq: Le16,
    /// Maximum NVM subsystem user data migration queues.
    pub mnsudmq: Le16,
    /// Maximum CDQ memory ranges.
    pub mcmr: Le16,
    /// NVM subsystem maximum CDQ memory ranges.
    pub nmcmr: Le16,
    /// Maximum controller data queue PRP count.
    pub mcdqpc: Le16,
    /// Reserved.
    pub reserved588: [u8; 180],
    /// Subsystem NQN, NUL terminated.
    pub subnqn: [u8; 256],
    /// Reserved.
    pub reserved1024: [u8; 768],
    /// I/O queue command capsule size supported, in 16 bytes; 4 is no in-capsule data.
    pub ioccsz: Le32,
    /// I/O queue response capsule size supported, in 16 bytes; 1.
    pub iorcsz: Le32,
    /// In-capsule data offset, in 16 bytes after the submission queue entry.
    pub icdoff: Le16,
    /// Fabrics controller attributes: bit 0 clear is the dynamic controller model.
    pub fcatt: u8,
    /// Maximum SGL data block descriptors in a capsule; 0 is no limit.
    pub msdbd: u8,
    /// Optional fabric commands supported: bit 0 Disconnect.
    pub ofcs: Le16,
    /// Discovery controller type: 0 not reported, 1 direct, 2 central.
    pub dctype: u8,
    /// Reserved.
    pub reserved1807: [u8; 241],
    /// Power state descriptors.
    pub psd: [PowerState; 32],
    /// Vendor specific.
    pub vendor: [u8; 1024],
}
layout!(IdentifyController, 4096, vid @ 0, ssvid @ 2, sn @ 4, mn @ 24, fr @ 64, rab @ 72, ieee @ 73,
    cmic @ 76, mdts @ 77, cntlid @ 78, ver @ 80, rtd3r @ 84, rtd3e @ 88, oaes @ 92, ctratt @ 96,
    rrls @ 100, nssl @ 104, plsi @ 110, cntrltype @ 111, fguid @ 112, crdt1 @ 128, crcap @ 134,
    nvmsr @ 253, oacs @ 256, acl @ 258, aerl @ 259, frmw @ 260, lpa @ 261, elpe @ 262, npss @ 263,
    wctemp @ 266, cctemp @ 268, mtfa @ 270, hmpre @ 272, tnvmcap @ 280, unvmcap @ 296,
    rpmbs @ 312, edstt @ 316, kas @ 320, sanicap @ 328, nsetidmax @ 338, endgidmax @ 340,
    anatt @ 342, anacap @ 343, anagrpmax @ 344, nanagrpid @ 348, pels @ 352, domainid @ 356,
    mptfawr @ 360, megcap @ 368, cqt @ 386, sqes @ 512, cqes @ 513, maxcmd @ 514, nn @ 516,
    oncs @ 520, fuses @ 522, fna @ 524, vwc @ 525, awun @ 526, awupf @ 528, icsvscc @ 530,
    nwpc @ 531, acwu @ 532, cdfs @ 534, sgls @ 536, mnan @ 540, maxdna @ 544, maxcna @ 560,
    oaqd @ 564, mcdqpc @ 586, subnqn @ 768, ioccsz @ 1792, iorcsz @ 1796, icdoff @ 1800,
    fcatt @ 1802, msdbd @ 1803, ofcs @ 1804, dctype @ 1806, psd @ 2048, vendor @ 3072);

impl IdentifyController {
    /// All zero.
    pub fn zeroed() -> IdentifyController {
        IdentifyController::new_zeroed()
    }

    /// Bytes of in-capsule data an I/O queue takes.
    pub fn in_capsule_data_bytes(&self) -> u64 {
        (u64::from(self.ioccsz.get()) * 16).saturating_sub(64)
    }

    /// Most bytes of a command's data for a controller whose minimum memory page is 2^(12 + MPSMIN)
    /// bytes; `None` is no limit (Base 2.1, 5.1.13.2.1, MDTS).
    pub fn transfer_bytes_max(&self, mpsmin: u8) -> Option<u64> {
        let shift = 12 + u32::from(mpsmin) + u32::from(self.mdts);
        if self.mdts == 0 {
            None
        } else {
            1u64.checked_shl(shift)
        }
    }
}

/// CNTRLTYPE: I/O controller.
pub const CNTRLTYPE_IO: u8 = 1;
/// CNTRLTYPE: discovery controller.
pub const CNTRLTYPE_DISCOVERY: u8 = 2;
/// CNTRLTYPE: administrative controller.
pub const CNTRLTYPE_ADMIN: u8 = 3;

/// CMIC bit: the subsystem may have more than one port.
pub const CMIC_MULTI_PORT: u8 = 1 << 0;
/// CMIC bit: the subsystem may have more than one controller.
pub const CMIC_MULTI_CONTROLLER: u8 = 1 << 1;
/// CMIC bit: ANA reporting supported.
pub const CMIC_ANA: u8 = 1 << 3;

/// CTRATT bit: 128-bit host identifiers supported.
pub const CTRATT_HOST_ID_128: u32 = 1 << 0;
/// CTRATT bit: traffic based keep alive supported.
pub const CTRATT_TBKAS: u32 = 1 << 6;
/// CTRATT bit: UUID list supported.
pub const CTRATT_UUID_LIST: u32 = 1 << 9;
/// CTRATT bit: extended LBA formats supported.
pub const CTRATT_ELBAS: u32 = 1 << 15;

/// OACS bit: Security Send and Receive.
pub const OACS_SECURITY: u16 = 1 << 0;
/// OACS bit: Format NVM.
pub const OACS_FORMAT: u16 = 1 << 1;
/// OACS bit: firmware commands.
pub const OACS_FIRMWARE: u16 = 1 << 2;
/// OACS bit: namespace management.
pub const OACS_NAMESPACE_MANAGEMENT: u16 = 1 << 3;
/// OACS bit: Doorbell Buffer Config.
pub const OACS_DOORBELL_BUFFER: u16 = 1 << 8;

/// LPA bit: SMART log of a namespace.
pub const LPA_SMART_NAMESPACE: u8 = 1 << 0;
/// LPA bit: commands supported and effects log.
pub const LPA_EFFECTS: u8 = 1 << 1;
/// LPA bit: extended data (NUMD of 32 bits and log page offset).
pub const LPA_EXTENDED: u8 = 1 << 2;
/// LPA bit: telemetry.
pub const LPA_TELEMETRY: u8 = 1 << 3;
/// LPA bit: supported log pages (00h), effects of features (12h) and of NVMe-MI (13h).
pub const LPA_SUPPORTED_PAGES: u8 = 1 << 5;

/// ONCS bit: Compare.
pub const ONCS_COMPARE: u16 = 1 << 0;
/// ONCS bit: Write Uncorrectable.
pub const ONCS_WRITE_UNCORRECTABLE: u16 = 1 << 1;
/// ONCS bit: Dataset Management.
pub const ONCS_DATASET_MANAGEMENT: u16 = 1 << 2;
/// ONCS bit: Write Zeroes.
pub const ONCS_WRITE_ZEROES: u16 = 1 << 3;
/// ONCS bit: Save and Select of features.
pub const ONCS_FEATURE_SAVE: u16 = 1 << 4;
/// ONCS bit: reservations.
pub const ONCS_RESERVATIONS: u16 = 1 << 5;
/// ONCS bit: Timestamp feature.
pub const ONCS_TIMESTAMP: u16 = 1 << 6;
/// ONCS bit: Verify.
pub const ONCS_VERIFY: u16 = 1 << 7;
/// ONCS bit: Copy.
pub const ONCS_COPY: u16 = 1 << 8;

/// FUSES bit: Compare and Write.
pub const FUSES_COMPARE_WRITE: u16 = 1 << 0;

/// VWC bit: a volatile write cache is there.
pub const VWC_PRESENT: u8 = 1 << 0;
/// VWC bits: Flush with the broadcast NSID is not supported.
pub const VWC_FLUSH_BROADCAST_NO: u8 = 2 << 1;
/// VWC bits: Flush with the broadcast NSID flushes every namespace.
pub const VWC_FLUSH_BROADCAST_YES: u8 = 3 << 1;

/// ANACAP bit: optimised state reported.
pub const ANACAP_OPTIMIZED: u8 = 1 << 0;
/// ANACAP bit: non-optimised state reported.
pub const ANACAP_NON_OPTIMIZED: u8 = 1 << 1;
/// ANACAP bit: inaccessible state reported.
pub const ANACAP_INACCESSIBLE: u8 = 1 << 2;
/// ANACAP bit: persistent loss state reported.
pub const ANACAP_PERSISTENT_LOSS: u8 = 1 << 3;
/// ANACAP bit: change state reported.
pub const ANACAP_CHANGE: u8 = 1 << 4;
/// ANACAP bit: a namespace's ANAGRPID never changes.
pub const ANACAP_FIXED_GROUP: u8 = 1 << 6;
/// ANACAP bit: NANAGRPID and ANAGRPID are meaningful.
pub const ANACAP_GROUP_ID: u8 = 1 << 7;

/// SGLS bits: SGLs supported, no alignment needed.
pub const SGLS_SUPPORTED: u32 = 1;
/// SGLS bits: SGLs supported, data in dwords.
pub const SGLS_SUPPORTED_DWORD: u32 = 2;
/// SGLS bit: keyed SGL data blocks supported (RDMA).
pub const SGLS_KEYED: u32 = 1 << 2;
/// SGLS bit: offsets in SGL descriptors (in-capsule data) supported.
pub const SGLS_OFFSET: u32 = 1 << 20;
/// SGLS bit: transport SGL data blocks supported.
pub const SGLS_TRANSPORT: u32 = 1 << 21;

/// OFCS bit: Disconnect supported.
pub const OFCS_DISCONNECT: u16 = 1 << 0;
