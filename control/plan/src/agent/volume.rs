//! One volume on its node.
//!
//! ```text
//! New --ClearVolume--> Ready --OpenVolume--> (open) --ClearExtents, GrowVolume--> (open, larger)
//!  \                     \                     /
//!   +--- deleted ---------+------ deleted ----+--> Deleting --CloseVolume, ClearDeleted--> gone
//! ```
//! Each arrow into a phase is durable before the first step in it.

use penstock_api::v1::{DesiredVolume, Extent, Layout};

use super::codec::Encoded;
use super::step::{Step, StepError};

/// Extents begin and end at multiples of this many bytes.
pub(super) const EXTENT_ALIGN_BYTES: u64 = 1 << 20;

/// Where a volume is, durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Never usable so far: its space is to be cleared.
    New,
    /// It can hold data: never cleared again.
    Ready,
    /// It goes, by an explicit word.
    Deleting,
}

/// What of it is open now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Open {
    /// Number of extents.
    pub(super) extents: usize,
    /// Size in bytes.
    pub(super) size_bytes: u64,
}

/// A volume that the node holds.
#[derive(Debug)]
pub(super) struct HeldVolume {
    /// As it was accepted last.
    pub(super) desired: DesiredVolume,
    /// Accepted while a step ran: taken at its end.
    pub(super) next: Option<DesiredVolume>,
    pub(super) phase: Phase,
    /// Extents, from the first, that no other volume has.
    pub(super) claimed: usize,
    /// Extents, from the first, that were cleared for it and can hold data.
    pub(super) cleared: usize,
    /// Extents, from the first, that the store knows to hold data.
    pub(super) known_ready: usize,
    /// The memory it comes from is an older copy: nothing is cleared before control has spoken.
    pub(super) untrusted: bool,
    /// Why it is an orphan, if it is one.
    pub(super) orphan: Option<&'static str>,
    /// The version of the state that first has it as it is.
    pub(super) since: u64,
    pub(super) open: Option<Open>,
    pub(super) running: bool,
    pub(super) error: Option<StepError>,
    /// Why the store's version was not taken.
    pub(super) refusal: Option<(&'static str, String)>,
    /// Who has space that it wants.
    pub(super) conflict: Option<String>,
    /// The generation that is carried out.
    pub(super) carried: i64,
    pub(super) encoded: Encoded,
}

impl HeldVolume {
    /// A volume not known before. So many of its extents are known by the store to hold data.
    pub(super) fn new(desired: DesiredVolume, known_ready: usize) -> Self {
        let mut held = Self {
            desired,
            next: None,
            phase: Phase::New,
            claimed: 0,
            cleared: 0,
            known_ready,
            untrusted: false,
            orphan: None,
            since: 0,
            open: None,
            running: false,
            error: None,
            refusal: None,
            conflict: None,
            carried: 0,
            encoded: None,
        };
        held.heed_ready_extents();
        held
    }

    /// What the store knows to hold data is not cleared, whatever was forgotten here.
    pub(super) fn heed_ready_extents(&mut self) {
        let known = self.known_ready.min(self.extents().len());
        if known > self.cleared && self.phase != Phase::Deleting {
            self.cleared = known;
            self.phase = Phase::Ready;
        }
    }

    /// A volume that goes has nothing (left) to be cleared. That need not be saved: at worst it is
    /// cleared once more.
    pub(super) fn nothing_to_clear(&mut self) {
        self.cleared = 0;
        self.encoded = None;
    }

    /// The newest accepted version.
    pub(super) fn newest(&self) -> &DesiredVolume {
        self.next.as_ref().unwrap_or(&self.desired)
    }

    pub(super) fn extents(&self) -> &[Extent] {
        extents(&self.desired)
    }

    /// It is open with all its extents and at its size.
    pub(super) fn is_whole(&self) -> bool {
        let want = Open {
            extents: self.extents().len(),
            size_bytes: self.desired.size_bytes,
        };
        self.open == Some(want)
    }

    pub(super) fn is_settled(&self) -> bool {
        self.phase == Phase::Ready && self.is_whole() && !self.running && self.error.is_none()
    }

    /// What is to be done next, if something is. `in_use`: a namespace still needs it.
    pub(super) fn next_step(&self, in_use: bool) -> Option<Step> {
        if self.running || self.error.is_some() {
            return None;
        }
        let volume = || self.desired.clone();
        let all = self.extents().len();
        match self.phase {
            Phase::New => {
                let may = self.claimed == all && !self.untrusted;
                may.then(|| Step::ClearVolume { volume: volume() })
            }
            Phase::Ready if self.open.is_none() => {
                (self.claimed >= self.cleared).then(|| Step::OpenVolume {
                    volume: first_extents(&self.desired, self.cleared),
                })
            }
            Phase::Ready if self.cleared < all => {
                let may = self.claimed == all && !self.untrusted;
                let extents = self.extents().get(self.cleared..).unwrap_or_default();
                may.then(|| Step::ClearExtents {
                    volume: volume(),
                    extents: extents.to_vec(),
                })
            }
            Phase::Ready => (!self.is_whole()).then(|| Step::GrowVolume { volume: volume() }),
            Phase::Deleting if in_use => None,
            Phase::Deleting if self.open.is_some() => Some(Step::CloseVolume {
                uid: self.desired.uid.clone(),
            }),
            Phase::Deleting => {
                (self.cleared > 0 && self.claimed >= self.cleared).then(|| Step::ClearDeleted {
                    volume: first_extents(&self.desired, self.cleared),
                })
            }
        }
    }

    /// Deleted, and there is nothing (left) to clear.
    pub(super) fn is_finished(&self) -> bool {
        let nothing = self.cleared == 0 || self.claimed < self.cleared;
        self.phase == Phase::Deleting && self.open.is_none() && !self.running && nothing
    }
}

/// The extents of its layout.
pub(super) fn extents(volume: &DesiredVolume) -> &[Extent] {
    volume
        .layout
        .as_ref()
        .map_or(&[], |layout| layout.extents.as_slice())
}

/// The epoch of its layout; 0 without one.
pub(super) fn epoch(volume: &DesiredVolume) -> u64 {
    volume.layout.as_ref().map_or(0, |layout| layout.epoch)
}

/// The volume with only its first extents, and no larger than they are.
fn first_extents(volume: &DesiredVolume, count: usize) -> DesiredVolume {
    let mut cut = volume.clone();
    if let Some(layout) = &mut cut.layout {
        layout.extents.truncate(count);
        cut.size_bytes = cut.size_bytes.min(capacity(layout));
    }
    cut
}

/// Bytes that a layout has room for.
fn capacity(layout: &Layout) -> u64 {
    layout
        .extents
        .iter()
        .fold(0, |sum, extent| sum.saturating_add(extent.length_bytes))
}

/// Whether `new` is `old`, grown: all data stays where it is.
pub(super) fn extends(old: &DesiredVolume, new: &DesiredVolume) -> bool {
    let (Some(from), Some(to)) = (&old.layout, &new.layout) else {
        return false;
    };
    from.node == to.node
        && from.stripe_width == to.stripe_width
        && from.stripe_unit_bytes == to.stripe_unit_bytes
        && to.extents.starts_with(&from.extents)
        && old.block_size_bytes == new.block_size_bytes
        && old.size_bytes <= new.size_bytes
}

/// What is wrong with a volume's layout, if something is.
pub(super) fn problem(volume: &DesiredVolume) -> Option<String> {
    if volume.uid.is_empty() {
        return Some("it has no identity".to_owned());
    }
    let Some(layout) = &volume.layout else {
        return Some("it has no layout".to_owned());
    };
    let width = usize::try_from(layout.stripe_width.max(1)).unwrap_or(usize::MAX);
    if layout.extents.is_empty() || !layout.extents.len().is_multiple_of(width) {
        let count = layout.extents.len();
        return Some(format!(
            "{count} extents do not make a stripe of width {width}"
        ));
    }
    if layout.epoch == 0 {
        return Some("its epoch is 0".to_owned());
    }
    if width > 1 && !layout.stripe_unit_bytes.is_power_of_two() {
        let unit = layout.stripe_unit_bytes;
        return Some(format!(
            "its stripe unit of {unit} bytes is no power of two"
        ));
    }
    for row in layout.extents.chunks(width) {
        if row
            .iter()
            .any(|extent| Some(extent.length_bytes) != row.first().map(|e| e.length_bytes))
        {
            return Some("the columns of its stripe differ in length".to_owned());
        }
    }
    if volume.size_bytes == 0 || volume.size_bytes > capacity(layout) {
        let room = capacity(layout);
        return Some(format!(
            "its size of {} bytes is not within its {room}",
            volume.size_bytes
        ));
    }
    bad_extent(&layout.extents)
}

fn bad_extent(extents: &[Extent]) -> Option<String> {
    let mut sorted: Vec<&Extent> = extents.iter().collect();
    sorted.sort_by_key(|extent| (&extent.device, extent.offset_bytes));
    let mut before: Option<(&str, u64)> = None;
    for extent in sorted {
        let Extent {
            device,
            offset_bytes: at,
            length_bytes: length,
        } = extent;
        let aligned =
            at.is_multiple_of(EXTENT_ALIGN_BYTES) && length.is_multiple_of(EXTENT_ALIGN_BYTES);
        let Some(end) = at.checked_add(*length).filter(|_| aligned && *length > 0) else {
            return Some(format!(
                "the extent of {length} bytes at {at} of {device} is empty, not aligned to 1 MiB, or \
                 beyond the end of numbers"
            ));
        };
        if before.is_some_and(|(other, last)| other == device && last > *at) {
            return Some(format!("two of its extents overlap at {at} of {device}"));
        }
        before = Some((device, end));
    }
    None
}
