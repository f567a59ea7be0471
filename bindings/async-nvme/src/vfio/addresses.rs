//! Which addresses a device may use, and which of them are taken.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Where interrupts are written on x86; never memory, whatever a kernel too old to tell says.
const MESSAGE_WINDOW: RangeInclusive<u64> = 0xfee0_0000..=0xfeef_ffff;

/// Nothing is placed below: address 0 means "none" in many a structure.
const LOWEST: u64 = 2 << 20;

/// Free device addresses.
#[derive(Debug)]
pub(super) struct Addresses {
    /// First and last address of each free stretch; they neither touch nor overlap.
    free: BTreeMap<u64, u64>,
}

impl Addresses {
    /// All of `ranges` but what no memory may have.
    pub fn new(ranges: &[RangeInclusive<u64>]) -> Self {
        let mut addresses = Addresses {
            free: BTreeMap::new(),
        };
        for range in ranges.iter().filter(|range| !range.is_empty()) {
            addresses.free.insert(*range.start(), *range.end());
        }
        addresses.take_out(0..=LOWEST - 1);
        addresses.take_out(MESSAGE_WINDOW);
        addresses
    }

    /// Takes what is free of `hole`.
    pub fn take_out(&mut self, hole: RangeInclusive<u64>) {
        let (first, last) = (*hole.start(), *hole.end());
        let touched: Vec<_> = self
            .free
            .range(..=last)
            .filter(|(_, end)| **end >= first)
            .map(|(start, end)| (*start, *end))
            .collect();
        for (start, end) in touched {
            self.free.remove(&start);
            if start < first {
                self.free.insert(start, first - 1);
            }
            if end > last {
                self.free.insert(last + 1, end);
            }
        }
    }

    /// Takes the lowest `len` bytes free at a multiple of `alignment` (a power of two).
    pub fn take(&mut self, len: u64, alignment: u64) -> Option<u64> {
        let found = self.free.iter().find_map(|(start, end)| {
            let at = start.checked_next_multiple_of(alignment)?;
            let last = at.checked_add(len.checked_sub(1)?)?;
            (last <= *end).then_some((at, last))
        });
        let (at, last) = found?;
        self.take_out(at..=last);
        Some(at)
    }

    /// Gives back what [`Addresses::take`] gave.
    pub fn give_back(&mut self, at: u64, len: u64) {
        let Some(mut last) = len.checked_sub(1).and_then(|more| at.checked_add(more)) else {
            return;
        };
        let mut first = at;
        if let Some(after) = last.checked_add(1).and_then(|next| self.free.remove(&next)) {
            last = after;
        }
        if let Some((start, end)) = self.free.range(..at).next_back()
            && end.checked_add(1) == Some(at)
        {
            first = *start;
        }
        self.free.insert(first, last);
    }
}

/// How to align `len` bytes at `start` for the device: as the largest page that the IOMMU could use
/// for memory that lies so.
pub(super) fn alignment_of(start: u64, len: u64) -> u64 {
    [1 << 30, 2 << 20]
        .into_iter()
        .find(|page| start.is_multiple_of(*page) && len >= *page)
        .unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What Intel's IOMMU offers behind a 39-bit address width.
    fn typical() -> Addresses {
        Addresses::new(&[0..=0xfedf_ffff, 0xfef0_0000..=0x7f_ffff_ffff])
    }

    #[test]
    fn memory_is_aligned_as_its_pages_are() {
        let huge = 2 << 20;
        assert_eq!(alignment_of(0x7f00_0020_0000, huge), huge);
        assert_eq!(alignment_of(0x7f00_0020_0000, huge - 4096), 4096);
        assert_eq!(alignment_of(0x7f00_0020_1000, 8 * huge), 4096);
        assert_eq!(alignment_of(0x7f00_4000_0000, 1 << 30), 1 << 30);
    }

    #[test]
    fn neither_address_zero_nor_the_interrupt_window_is_given() {
        let mut all = Addresses::new(&[0..=u64::MAX]);
        assert_eq!(all.take(4096, 4096), Some(LOWEST));
        // The first that crosses the window goes behind it.
        let below = all.take(0xf000_0000, 4096).unwrap();
        assert!(below + 0xf000_0000 <= *MESSAGE_WINDOW.start());
        let next = all.take(0x0f00_0000, 4096).unwrap();
        assert_eq!(next, MESSAGE_WINDOW.end() + 1);
    }

    #[test]
    fn the_end_of_the_width_is_the_end() {
        let mut addresses = typical();
        assert_eq!(addresses.take(1 << 39, 4096), None);
        assert!(addresses.take(1 << 38, 1 << 30).is_some());
        assert_eq!(addresses.take(1 << 38, 4096), None);
        assert_eq!(Addresses::new(&[]).take(4096, 4096), None);
        assert_eq!(typical().take(0, 4096), None);
    }

    proptest! {
        #[test]
        fn what_is_taken_never_overlaps_and_all_comes_back(
            steps in proptest::collection::vec((1_u64..2048, 0_u32..3, any::<bool>()), 1..80)
        ) {
            let mut addresses = typical();
            let before = addresses.free.clone();
            let mut held: Vec<(u64, u64)> = Vec::new();
            for (pages, shift, give) in steps {
                if give && !held.is_empty() {
                    let (at, len) = held.swap_remove(held.len() / 2);
                    addresses.give_back(at, len);
                }
                let (len, alignment) = (pages * 4096, 4096_u64 << (9 * shift));
                let Some(at) = addresses.take(len, alignment) else { continue };
                prop_assert!(at.is_multiple_of(alignment));
                prop_assert!(held.iter().all(|(other, size)| at + len <= *other || other + size <= at));
                held.push((at, len));
            }
            for (at, len) in held {
                addresses.give_back(at, len);
            }
            prop_assert_eq!(addresses.free, before);
        }
    }
}
