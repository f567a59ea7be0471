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

/// A group of the ANA log page, with the namespace identifiers that follow its descriptor.
#[derive(Clone, Copy, Debug)]
pub struct AnaGroupView<'a> {
    /// Descriptor.
    pub descriptor: &'a AnaGroup,
    nsids: &'a [Le32],
}

impl<'a> AnaGroupView<'a> {
    /// Namespace identifiers of the group.
    pub fn nsids(&self) -> impl Iterator<Item = u32> + 'a {
        self.nsids.iter().map(|nsid| nsid.get())
    }

    /// State of the group, where it is not reserved.
    pub fn state(&self) -> Option<AnaState> {
        AnaState::try_from(self.descriptor.state & 0xf).ok()
    }
}

/// The groups of an ANA log page. Ends at the header's count, or where the page is cut off.
pub fn ana_groups(page: &[u8]) -> impl Iterator<Item = AnaGroupView<'_>> {
    let parsed = AnaHeader::ref_from_prefix(page).ok();
    let (mut left, mut rest) =
        parsed.map_or((0, page), |(header, rest)| (header.ngrps.get(), rest));
    core::iter::from_fn(move || {
        left = left.checked_sub(1)?;
        let (descriptor, after) = AnaGroup::ref_from_prefix(rest).ok()?;
        let count = usize::try_from(descriptor.nnsids.get()).ok()?;
        let (nsids, after) = <[Le32]>::ref_from_prefix_with_elems(after, count).ok()?;
        rest = after;
        Some(AnaGroupView { descriptor, nsids })
    })
}
