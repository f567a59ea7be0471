//! Discovery log page (Base 2.1, 5.1.12.3.1).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::wire::{Le16, Le64, nul_terminated};

/// Header of the Discovery log page; entries follow.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct DiscoveryHeader {
    /// Generation counter: moves with every change of the log.
    pub genctr: Le64,
    /// Number of records.
    pub numrec: Le64,
    /// Record format, 0.
    pub recfmt: Le16,
    /// Reserved.
    pub reserved18: [u8; 1006],
}
layout!(DiscoveryHeader, 1024, genctr @ 0, numrec @ 8, recfmt @ 16);

/// Discovery log page entry.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct DiscoveryEntry {
    /// Transport type: `TRTYPE_*`.
    pub trtype: u8,
    /// Address family: `ADRFAM_*`.
    pub adrfam: u8,
    /// Subsystem type: `SUBTYPE_*`.
    pub subtype: u8,
    /// Transport requirements: secure channel in bits 1:0 (0 not specified, 1 required, 2 not
    /// required), bit 2 SQ flow control may be disabled.
    pub treq: u8,
    /// Port identifier.
    pub portid: Le16,
    /// Controller identifier, FFFFh for the dynamic model.
    pub cntlid: Le16,
    /// Admin max SQ size in entries.
    pub asqsz: Le16,
    /// Entry flags: `EFLAGS_*`.
    pub eflags: Le16,
    /// Reserved.
    pub reserved12: [u8; 20],
    /// Transport service identifier (port), ASCII.
    pub trsvcid: [u8; 32],
    /// Reserved.
    pub reserved64: [u8; 192],
    /// Subsystem NQN, NUL terminated.
    pub subnqn: [u8; 256],
    /// Transport address, ASCII.
    pub traddr: [u8; 256],
    /// Transport specific address subtype; TCP: security type in byte 0 (0 none, 1 TLS 1.2,
    /// 2 TLS 1.3).
    pub tsas: [u8; 256],
}
layout!(DiscoveryEntry, 1024, trtype @ 0, adrfam @ 1, subtype @ 2, treq @ 3, portid @ 4,
    cntlid @ 6, asqsz @ 8, eflags @ 10, trsvcid @ 32, subnqn @ 256, traddr @ 512, tsas @ 768);

impl DiscoveryEntry {
    /// Subsystem NQN up to its NUL.
    pub fn subnqn_bytes(&self) -> &[u8] {
        nul_terminated(&self.subnqn)
    }

    /// Transport address without its filling of NULs or spaces.
    pub fn traddr_bytes(&self) -> &[u8] {
        nul_terminated(&self.traddr).trim_ascii_end()
    }

    /// Transport service identifier without its filling of NULs or spaces.
    pub fn trsvcid_bytes(&self) -> &[u8] {
        nul_terminated(&self.trsvcid).trim_ascii_end()
    }
}

/// Transport type: RDMA.
pub const TRTYPE_RDMA: u8 = 1;
/// Transport type: Fibre Channel.
pub const TRTYPE_FC: u8 = 2;
/// Transport type: TCP.
pub const TRTYPE_TCP: u8 = 3;
/// Transport type: within a host.
pub const TRTYPE_LOOP: u8 = 254;

/// Address family: IPv4.
pub const ADRFAM_IPV4: u8 = 1;
/// Address family: IPv6.
pub const ADRFAM_IPV6: u8 = 2;
/// Address family: InfiniBand.
pub const ADRFAM_IB: u8 = 3;
/// Address family: Fibre Channel.
pub const ADRFAM_FC: u8 = 4;

/// Subsystem type: another discovery service (referral).
pub const SUBTYPE_REFERRAL: u8 = 1;
/// Subsystem type: NVM subsystem.
pub const SUBTYPE_NVM: u8 = 2;
/// Subsystem type: the discovery subsystem that gives this log.
pub const SUBTYPE_CURRENT_DISCOVERY: u8 = 3;

/// TREQ bits: secure channel not required.
pub const TREQ_NOT_REQUIRED: u8 = 2;
/// TREQ bit: the controller can disable SQ flow control.
pub const TREQ_DISABLE_SQ_FLOW: u8 = 1 << 2;

/// EFLAGS bit: the same information is returned on every port (DUPRETINFO).
pub const EFLAGS_DUPLICATE: u16 = 1 << 0;
/// EFLAGS bit: explicit persistent connections to this discovery controller supported (EPCSD).
pub const EFLAGS_PERSISTENT: u16 = 1 << 1;
