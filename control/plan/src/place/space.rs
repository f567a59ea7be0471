//! The space of one device.

use std::collections::{BTreeMap, BTreeSet};

/// Space is given in multiples of this many bytes.
pub(super) const GRANULE_BYTES: u64 = 1 << 20;

/// Which bytes of a device are taken, and by how many.
#[derive(Clone, Debug, Default)]
pub(super) struct Space {
    size_bytes: u64,
    /// Taken ranges: first byte, then end and number of takers. Neighbours may have equal numbers.
    taken: BTreeMap<u64, (u64, u32)>,
    /// Free ranges within the size: first byte, then length.
    free: BTreeMap<u64, u64>,
    /// The same by length.
    by_length: BTreeSet<(u64, u64)>,
    free_bytes: u64,
    overlapping_bytes: u64,
}

impl Space {
    /// The size that volumes can have, in bytes.
    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(super) fn free_bytes(&self) -> u64 {
        self.free_bytes
    }

    pub(super) fn overlapping_bytes(&self) -> u64 {
        self.overlapping_bytes
    }

    /// Length of the longest free range.
    pub(super) fn longest_free(&self) -> u64 {
        self.by_length.last().map_or(0, |(length, _)| *length)
    }

    /// Free ranges as (length, first byte), the longest first.
    pub(super) fn free_ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        self.by_length.iter().rev().copied()
    }

    /// First byte of the shortest free range of at least this length, the lowest of several.
    pub(super) fn best_fit(&self, length: u64) -> Option<u64> {
        self.by_length
            .range((length, 0)..)
            .next()
            .map(|(_, start)| *start)
    }

    /// The device has this size now. What was taken stays so, also beyond the end.
    pub(super) fn resize(&mut self, size_bytes: u64) {
        let size_bytes = size_bytes - size_bytes % GRANULE_BYTES;
        if size_bytes == self.size_bytes {
            return;
        }
        self.size_bytes = size_bytes;
        self.free.clear();
        self.by_length.clear();
        self.free_bytes = 0;
        let mut at = 0;
        let taken: Vec<(u64, u64)> = self.taken.iter().map(|(s, (e, _))| (*s, *e)).collect();
        for (start, end) in taken {
            self.give(at, start);
            at = at.max(end);
        }
        self.give(at, size_bytes);
    }

    /// Takes a range, which may be taken already.
    pub(super) fn occupy(&mut self, start: u64, end: u64) {
        self.split(start);
        self.split(end);
        let mut at = start;
        while at < end {
            if let Some((last, takers)) = self.taken.get_mut(&at) {
                *takers += 1;
                if *takers == 2 {
                    self.overlapping_bytes += *last - at;
                }
                at = *last;
            } else {
                let next = self
                    .taken
                    .range(at..end)
                    .next()
                    .map_or(end, |(next, _)| *next);
                self.taken.insert(at, (next, 1));
                self.take(at, next);
                at = next;
            }
        }
    }

    /// Gives back a range taken by [`Space::occupy`].
    pub(super) fn release(&mut self, start: u64, end: u64) {
        self.split(start);
        self.split(end);
        let inside: Vec<u64> = self.taken.range(start..end).map(|(at, _)| *at).collect();
        for at in inside {
            let Some((last, takers)) = self.taken.get_mut(&at) else {
                continue;
            };
            let last = *last;
            *takers -= 1;
            match *takers {
                0 => {
                    self.taken.remove(&at);
                    self.give(at, last);
                }
                1 => self.overlapping_bytes -= last - at,
                _ => {}
            }
        }
    }

    /// Makes `at` the start of a taken range, where it is inside one.
    fn split(&mut self, at: u64) {
        let Some((start, (end, takers))) = self.taken.range_mut(..at).next_back() else {
            return;
        };
        if *end <= at {
            return;
        }
        let (start, end, takers) = (*start, *end, *takers);
        self.taken.insert(start, (at, takers));
        self.taken.insert(at, (end, takers));
    }

    /// No longer free, as far as within the size. It is all free now, or all beyond the size.
    fn take(&mut self, start: u64, end: u64) {
        let end = end.min(self.size_bytes);
        if start >= end {
            return;
        }
        let Some((from, length)) = self.free.range(..=start).next_back().map(|(s, l)| (*s, *l))
        else {
            return;
        };
        self.forget_free(from, length);
        self.note_free(from, start - from);
        self.note_free(end, (from + length).saturating_sub(end));
    }

    /// Free again, as far as within the size.
    fn give(&mut self, start: u64, end: u64) {
        let (mut start, mut end) = (start, end.min(self.size_bytes));
        if start >= end {
            return;
        }
        if let Some((from, length)) = self.free.range(..start).next_back().map(|(s, l)| (*s, *l))
            && from + length == start
        {
            self.forget_free(from, length);
            start = from;
        }
        if let Some(length) = self.free.get(&end).copied() {
            self.forget_free(end, length);
            end += length;
        }
        self.note_free(start, end - start);
    }

    fn note_free(&mut self, start: u64, length: u64) {
        if length > 0 {
            self.free.insert(start, length);
            self.by_length.insert((length, start));
            self.free_bytes += length;
        }
    }

    fn forget_free(&mut self, start: u64, length: u64) {
        self.free.remove(&start);
        self.by_length.remove(&(length, start));
        self.free_bytes -= length;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const M: u64 = GRANULE_BYTES;

    #[test]
    fn the_shortest_range_that_fits_is_taken() {
        let mut space = Space::default();
        space.resize(100 * M + 5);
        assert_eq!((space.size_bytes(), space.free_bytes()), (100 * M, 100 * M));
        space.occupy(10 * M, 20 * M);
        space.occupy(25 * M, 90 * M);
        // Free: 0..10, 20..25, 90..100.
        assert_eq!(space.best_fit(4 * M), Some(20 * M));
        assert_eq!(space.best_fit(6 * M), Some(0));
        assert_eq!(space.best_fit(11 * M), None);
        assert_eq!(space.longest_free(), 10 * M);
        space.release(10 * M, 20 * M);
        assert_eq!(space.longest_free(), 25 * M);
    }

    #[test]
    fn what_is_taken_stays_when_the_size_changes() {
        let mut space = Space::default();
        space.occupy(8 * M, 12 * M);
        assert_eq!(space.free_bytes(), 0);
        space.resize(10 * M);
        assert_eq!(space.free_bytes(), 8 * M);
        space.resize(20 * M);
        assert_eq!(space.free_bytes(), 16 * M);
        space.release(8 * M, 12 * M);
        assert_eq!((space.free_bytes(), space.longest_free()), (20 * M, 20 * M));
    }

    proptest! {
        /// Against an array with a counter for each granule.
        #[test]
        fn it_agrees_with_a_plain_array(
            ops in prop::collection::vec((0u64..40, 1u64..12, any::<bool>(), 0u64..50), 1..60),
        ) {
            let mut space = Space::default();
            let mut size = 32;
            space.resize(size * M);
            let mut counts = [0u32; 64];
            let mut held: Vec<(u64, u64)> = Vec::new();
            for (start, length, release, pick) in ops {
                if release && !held.is_empty() {
                    let at = usize::try_from(pick).unwrap() % held.len();
                    let (start, end) = held.swap_remove(at);
                    space.release(start * M, end * M);
                    (start..end).for_each(|i| counts[usize::try_from(i).unwrap()] -= 1);
                } else if pick == 0 {
                    size = start + 1;
                    space.resize(size * M);
                } else {
                    let end = start + length;
                    space.occupy(start * M, end * M);
                    (start..end).for_each(|i| counts[usize::try_from(i).unwrap()] += 1);
                    held.push((start, end));
                }
                let within = &counts[..usize::try_from(size).unwrap()];
                let free = within.iter().filter(|count| **count == 0).count() as u64;
                let over = counts.iter().filter(|count| **count > 1).count() as u64;
                let longest = within.split(|c| *c > 0).map(<[u32]>::len).max().unwrap() as u64;
                prop_assert_eq!(space.free_bytes(), free * M);
                prop_assert_eq!(space.overlapping_bytes(), over * M);
                prop_assert_eq!(space.longest_free(), longest * M);
                if let Some(at) = space.best_fit(3 * M) {
                    let at = usize::try_from(at / M).unwrap();
                    prop_assert!(within[at..at + 3].iter().all(|count| *count == 0));
                } else {
                    prop_assert!(longest < 3);
                }
            }
        }
    }
}
