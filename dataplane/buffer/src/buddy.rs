//! Which blocks of a pool are taken: a buddy allocator over indices, apart from the memory itself.
//!
//! All state is in side arrays (zero means "nothing", so untouched parts of them stay unfaulted).
//! A block that comes back first rests on a short stack of its order, the hottest on top, and is
//! merged with its buddy only when that stack is full or somebody needs a longer run: the usual
//! take/give pair neither splits nor merges.

/// How many blocks of one order may rest unmerged.
const HOT_MAX: usize = 64;
const FREE: u8 = 0x40;
const TAKEN: u8 = 0x80;
const ORDER_MASK: u8 = 0x3f;

/// Allocates runs of `1 << order` blocks out of a fixed number of them.
pub(crate) struct Buddy {
    order_max: u8,
    /// For the first block of a run: `FREE` or `TAKEN` with its order.
    tags: Vec<u8>,
    /// Links of the free lists: index + 1.
    next: Vec<u32>,
    prev: Vec<u32>,
    heads: Vec<u32>,
    hot: Vec<Vec<u32>>,
    /// First block that was never used; from here on the longest runs are handed out one by one.
    fresh: u32,
    blocks: u32,
}

impl Buddy {
    /// For `blocks` blocks, a multiple of `1 << order_max`.
    pub(crate) fn new(blocks: u32, order_max: u8) -> Buddy {
        let n = blocks as usize;
        let orders = usize::from(order_max) + 1;
        Buddy {
            order_max,
            tags: vec![0; n],
            next: vec![0; n],
            prev: vec![0; n],
            heads: vec![0; orders],
            hot: (0..orders).map(|_| Vec::with_capacity(HOT_MAX)).collect(),
            fresh: 0,
            blocks,
        }
    }

    /// Takes a run of `1 << order` blocks; its first index, a multiple of its length.
    pub(crate) fn take(&mut self, order: u8) -> Option<u32> {
        if order > self.order_max {
            return None;
        }
        if let Some(index) = self.hot[usize::from(order)].pop() {
            return Some(index);
        }
        self.carve(order).or_else(|| {
            self.merge_hot();
            self.carve(order)
        })
    }

    /// Gives back a run that [`Buddy::take`] returned.
    pub(crate) fn give(&mut self, index: u32) {
        let order = self.order_of(index);
        let hot = &mut self.hot[usize::from(order)];
        if hot.len() < HOT_MAX {
            hot.push(index);
        } else {
            self.merge(index, order);
        }
    }

    /// Order of a taken run.
    pub(crate) fn order_of(&self, index: u32) -> u8 {
        let tag = self.tags[index as usize];
        debug_assert!(tag & TAKEN != 0, "block {index} is not taken");
        tag & ORDER_MASK
    }

    fn carve(&mut self, order: u8) -> Option<u32> {
        let found = (order..=self.order_max).find(|k| self.heads[usize::from(*k)] != 0);
        let (index, mut at) = match found {
            Some(k) => {
                let index = self.heads[usize::from(k)] - 1;
                self.unlink(index, k);
                (index, k)
            }
            None if self.fresh < self.blocks => {
                let index = self.fresh;
                self.fresh += 1 << self.order_max;
                (index, self.order_max)
            }
            None => return None,
        };
        while at > order {
            at -= 1;
            self.link(index + (1 << at), at);
        }
        self.tags[index as usize] = TAKEN | order;
        Some(index)
    }

    fn merge_hot(&mut self) {
        for order in 0..=self.order_max {
            while let Some(index) = self.hot[usize::from(order)].pop() {
                self.merge(index, order);
            }
        }
    }

    fn merge(&mut self, mut index: u32, mut order: u8) {
        self.tags[index as usize] = 0;
        while order < self.order_max {
            let buddy = index ^ (1 << order);
            if self.tags[buddy as usize] != FREE | order {
                break;
            }
            self.unlink(buddy, order);
            index &= !(1 << order);
            order += 1;
        }
        self.link(index, order);
    }

    fn link(&mut self, index: u32, order: u8) {
        let head = self.heads[usize::from(order)];
        if head != 0 {
            self.prev[head as usize - 1] = index + 1;
        }
        self.next[index as usize] = head;
        self.prev[index as usize] = 0;
        self.heads[usize::from(order)] = index + 1;
        self.tags[index as usize] = FREE | order;
    }

    fn unlink(&mut self, index: u32, order: u8) {
        let (prev, next) = (self.prev[index as usize], self.next[index as usize]);
        match prev {
            0 => self.heads[usize::from(order)] = next,
            p => self.next[p as usize - 1] = next,
        }
        if next != 0 {
            self.prev[next as usize - 1] = prev;
        }
        self.tags[index as usize] = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn last_given_is_first_taken() {
        let mut buddy = Buddy::new(16, 4);
        let (a, b) = (buddy.take(0).unwrap(), buddy.take(0).unwrap());
        buddy.give(a);
        buddy.give(b);
        assert_eq!(buddy.take(0), Some(b));
        assert_eq!(buddy.take(0), Some(a));
    }

    #[test]
    fn resting_blocks_merge_when_a_long_run_is_needed() {
        let mut buddy = Buddy::new(32, 4);
        let small: Vec<u32> = (0..32).map_while(|_| buddy.take(0)).collect();
        assert_eq!(small.len(), 32);
        assert_eq!(buddy.take(0), None);
        small.into_iter().for_each(|index| buddy.give(index));
        assert!(buddy.take(4).is_some());
        assert!(buddy.take(4).is_some());
        assert_eq!(buddy.take(0), None);
    }

    #[test]
    fn longer_than_the_longest_is_refused() {
        assert_eq!(Buddy::new(16, 4).take(5), None);
    }

    proptest! {
        #[test]
        fn runs_never_overlap_and_all_come_back(
            steps in prop::collection::vec((any::<bool>(), 0_u8..6, any::<prop::sample::Index>()), 1..600),
        ) {
            const ORDER_MAX: u8 = 5;
            const BLOCKS: u32 = 128;
            let mut buddy = Buddy::new(BLOCKS, ORDER_MAX);
            let mut owner = vec![false; BLOCKS as usize];
            let mut held: Vec<(u32, u8)> = Vec::new();
            for (take, order, pick) in steps {
                if take {
                    let Some(index) = buddy.take(order) else {
                        // Refused only where no aligned run of that length is free.
                        let run = 1_usize << order;
                        prop_assert!(owner.chunks(run).all(|c| c.iter().any(|taken| *taken)));
                        continue;
                    };
                    prop_assert_eq!(index % (1 << order), 0);
                    for block in index..index + (1 << order) {
                        prop_assert!(!std::mem::replace(&mut owner[block as usize], true));
                    }
                    held.push((index, order));
                } else if !held.is_empty() {
                    let (index, order) = held.swap_remove(pick.index(held.len()));
                    prop_assert_eq!(buddy.order_of(index), order);
                    owner[index as usize..(index + (1 << order)) as usize].fill(false);
                    buddy.give(index);
                }
            }
            held.into_iter().for_each(|(index, _)| buddy.give(index));
            for _ in 0..BLOCKS >> ORDER_MAX {
                prop_assert!(buddy.take(ORDER_MAX).is_some());
            }
        }
    }
}
