//! Content that can be made again from a seed, at any place, and checked at memory speed.

/// Odd multiplier of the golden ratio: spreads consecutive counters over all 64 bits.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
const MIX_A: u64 = 0xbf58_476d_1ce4_e5b9;
const MIX_B: u64 = 0x94d0_49bb_1331_11eb;
const WORD: usize = size_of::<u64>();

/// Mixes 64 bits so that every input bit moves about half of the output bits.
pub fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(MIX_A);
    let value = (value ^ (value >> 27)).wrapping_mul(MIX_B);
    value ^ (value >> 31)
}

/// An endless byte sequence that `key` chooses. Byte `n` never depends on how it was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    key: u64,
}

impl Stream {
    pub fn new(key: u64) -> Stream {
        Stream {
            key: mix(key ^ STEP),
        }
    }

    fn word(self, index: u64) -> u64 {
        let value = self.key.wrapping_add(index.wrapping_mul(STEP));
        (value ^ (value >> 32)).wrapping_mul(MIX_A) ^ value.rotate_left(23)
    }

    /// Fills `to` with the bytes from `offset`, which is a multiple of 8.
    pub fn fill(self, offset: u64, to: &mut [u8]) {
        let mut index = offset / WORD as u64;
        let mut words = to.chunks_exact_mut(WORD);
        for word in &mut words {
            word.copy_from_slice(&self.word(index).to_le_bytes());
            index += 1;
        }
        let rest = words.into_remainder();
        let last = self.word(index).to_le_bytes();
        rest.copy_from_slice(&last[..rest.len()]);
    }

    /// Compares `found` with the bytes from `offset` (a multiple of 8): the place of the first
    /// difference in `found`, and the byte that belongs there.
    pub fn first_difference(self, offset: u64, found: &[u8]) -> Option<(usize, u8)> {
        const BATCH: usize = 64 * WORD;
        for (at, batch) in (0..).step_by(BATCH).zip(found.chunks(BATCH)) {
            if !self.agrees(offset + at as u64, batch) {
                let mut right = [0_u8; BATCH];
                self.fill(offset + at as u64, &mut right);
                let place = batch.iter().zip(&right).position(|(f, r)| f != r)?;
                return Some((at + place, right[place]));
            }
        }
        None
    }

    fn agrees(self, offset: u64, found: &[u8]) -> bool {
        let mut index = offset / WORD as u64;
        let mut difference = 0;
        let mut words = found.chunks_exact(WORD);
        for word in &mut words {
            let mut bytes = [0; WORD];
            bytes.copy_from_slice(word);
            difference |= u64::from_le_bytes(bytes) ^ self.word(index);
            index += 1;
        }
        let rest = words.remainder();
        difference == 0 && *rest == self.word(index).to_le_bytes()[..rest.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_make_the_whole(key: u64, cut in 0_usize..200, len in 1600_usize..2000) {
            let stream = Stream::new(key);
            let mut whole = vec![0; len];
            stream.fill(0, &mut whole);
            let mut tail = vec![0; len - cut * WORD];
            stream.fill((cut * WORD) as u64, &mut tail);
            prop_assert_eq!(&whole[cut * WORD..], &tail[..]);
            prop_assert_eq!(stream.first_difference(0, &whole), None);
        }

        #[test]
        fn one_wrong_bit_is_found_where_it_is(key: u64, at in 0_usize..3001, bit in 0_u32..8) {
            let stream = Stream::new(key);
            let mut found = vec![0; 3001];
            stream.fill(4096, &mut found);
            let right = found[at];
            found[at] ^= 1 << bit;
            prop_assert_eq!(stream.first_difference(4096, &found), Some((at, right)));
        }
    }

    #[test]
    fn streams_of_neighbouring_keys_differ() {
        let mut a = [0; 64];
        let mut b = [0; 64];
        Stream::new(1).fill(0, &mut a);
        Stream::new(2).fill(0, &mut b);
        assert!(a.iter().zip(&b).filter(|(x, y)| x == y).count() < 8);
    }
}
