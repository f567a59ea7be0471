//! Asymmetric Namespace Access log page (Base 2.1, 5.1.12.1.13).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::wire::{Le16, Le32, Le64};

/// Header of the ANA log page.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct AnaHeader {
    /// Counts changes of the page.
    pub chgcnt: Le64,
    /// How many group descriptors follow.
    pub ngrps: Le16,
    /// Reserved.
    pub reserved10: [u8; 6],
}
layout!(AnaHeader, 16, chgcnt @ 0, ngrps @ 8);

/// ANA group descriptor; `nnsids` namespace identifiers follow it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct AnaGroup {
    /// ANA group identifier, from 1.
    pub grpid: Le32,
    /// How many namespace identifiers follow.
    pub nnsids: Le32,
    /// Counts changes of the group.
    pub chgcnt: Le64,
    /// State in bits 3:0: an [`AnaState`].
    pub state: u8,
    /// Reserved.
    pub reserved17: [u8; 15],
}
layout!(AnaGroup, 32, grpid @ 0, nnsids @ 4, chgcnt @ 8, state @ 16);

wire_enum! {
    /// ANA state (Base 2.1, 5.1.12.1.13 and 8.1.1).
    pub enum AnaState: u8 = "ANA state" {
        Optimized = 0x1 "ANA Optimized",
        NonOptimized = 0x2 "ANA Non-Optimized",
        Inaccessible = 0x3 "ANA Inaccessible",
        PersistentLoss = 0x4 "ANA Persistent Loss",
        Change = 0xf "ANA Change",
    }
}

/// Log specific field bit: return groups only, no namespace identifiers (RGO).
pub const ANA_GROUPS_ONLY: u8 = 1 << 0;
