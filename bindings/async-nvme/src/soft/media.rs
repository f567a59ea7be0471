//! The media of a namespace: sparse blocks, and the write cache that a loss of power takes.

use std::collections::BTreeMap;

use penstock_nvme::identify::LbaFormat;

use super::config::SoftNamespace;
use super::random::Random;

/// What is wrong with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaFault {
    /// Reads fail until it is written: Unrecovered Read Error.
    Read,
    /// Writes fail: Write Fault.
    Write,
}

/// A namespace and what it holds. Blocks that are not there read as zeroes.
pub(super) struct Media {
    pub(super) bytes: u64,
    pub(super) formats: Vec<LbaFormat>,
    pub(super) format: u8,
    pub(super) noiob: u16,
    block_bytes: usize,
    stable: BTreeMap<u64, Box<[u8]>>,
    /// Written or deallocated (`None`) and not durable yet.
    cached: BTreeMap<u64, Option<Box<[u8]>>>,
    faults: BTreeMap<u64, MediaFault>,
}

impl Media {
    pub(super) fn new(namespace: &SoftNamespace) -> Media {
        let mut media = Media {
            bytes: namespace.bytes,
            formats: namespace.formats.iter().take(64).copied().collect(),
            format: 0,
            noiob: namespace.noiob,
            block_bytes: 512,
            stable: BTreeMap::new(),
            cached: BTreeMap::new(),
            faults: BTreeMap::new(),
        };
        media.set_format(namespace.format);
        media
    }

    /// Makes the namespace empty, with another format.
    pub(super) fn set_format(&mut self, format: u8) {
        self.format = format;
        let lbads = self.formats.get(usize::from(format)).map_or(9, |f| f.lbads);
        self.block_bytes = 1 << lbads.clamp(9, 16);
        self.stable.clear();
        self.cached.clear();
        self.faults.clear();
    }

    pub(super) fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    pub(super) fn blocks(&self) -> u64 {
        self.bytes / self.block_bytes as u64
    }

    pub(super) fn blocks_used(&self) -> u64 {
        self.stable.len() as u64
    }

    /// Another size; what lies beyond is lost.
    pub(super) fn resize(&mut self, bytes: u64) {
        self.bytes = bytes;
        let blocks = self.blocks();
        let _beyond = self.stable.split_off(&blocks);
        let _beyond = self.cached.split_off(&blocks);
    }

    fn block(&self, lba: u64) -> Option<&[u8]> {
        match self.cached.get(&lba) {
            Some(cached) => cached.as_deref(),
            None => self.stable.get(&lba).map(AsRef::as_ref),
        }
    }

    /// Whole blocks from `lba` on, as a read gives them.
    pub(super) fn read(&self, lba: u64, to: &mut [u8]) {
        for (lba, to) in (lba..).zip(to.chunks_exact_mut(self.block_bytes)) {
            match self.block(lba) {
                Some(from) => to.copy_from_slice(from),
                None => to.fill(0),
            }
        }
    }

    /// Whole blocks from `lba` on; `durable` past the cache.
    pub(super) fn write(&mut self, lba: u64, from: &[u8], durable: bool) {
        for (lba, from) in (lba..).zip(from.chunks_exact(self.block_bytes)) {
            self.faults.remove(&lba);
            if durable {
                self.cached.remove(&lba);
                self.stable.insert(lba, from.into());
            } else {
                self.cached.insert(lba, Some(from.into()));
            }
        }
    }

    /// Blocks that read as zeroes from now on.
    pub(super) fn deallocate(&mut self, lba: u64, blocks: u64, durable: bool) {
        let range = lba..lba.saturating_add(blocks);
        let cached: Vec<u64> = self.cached.range(range.clone()).map(|(l, _)| *l).collect();
        for lba in cached {
            self.cached.remove(&lba);
        }
        let stable: Vec<u64> = self.stable.range(range.clone()).map(|(l, _)| *l).collect();
        for lba in stable {
            if durable {
                self.stable.remove(&lba);
            } else {
                self.cached.insert(lba, None);
            }
        }
        let healed: Vec<u64> = self.faults.range(range).map(|(l, _)| *l).collect();
        for lba in healed {
            self.faults.remove(&lba);
        }
    }

    fn settle(&mut self, lba: u64, block: Option<Box<[u8]>>) {
        match block {
            Some(block) => self.stable.insert(lba, block),
            None => self.stable.remove(&lba),
        };
    }

    /// Makes all of the cache durable.
    pub(super) fn flush(&mut self) {
        for (lba, block) in std::mem::take(&mut self.cached) {
            self.settle(lba, block);
        }
    }

    /// The power is gone: each block of the cache had reached the media or not.
    pub(super) fn lose_power(&mut self, random: &mut Random) {
        for (lba, block) in std::mem::take(&mut self.cached) {
            if random.below(2) == 0 {
                self.settle(lba, block);
            }
        }
    }

    pub(super) fn set_fault(&mut self, lba: u64, fault: Option<MediaFault>) {
        match fault {
            Some(fault) => self.faults.insert(lba, fault),
            None => self.faults.remove(&lba),
        };
    }

    /// First block of a range with that fault.
    pub(super) fn fault(&self, lba: u64, blocks: u64, fault: MediaFault) -> Option<u64> {
        let range = lba..lba.saturating_add(blocks);
        let found = self.faults.range(range).find(|(_, there)| **there == fault);
        found.map(|(lba, _)| *lba)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn media() -> Media {
        Media::new(&SoftNamespace::new(1 << 20, 9))
    }

    fn read(media: &Media, lba: u64) -> u8 {
        let mut block = [0xaa; 512];
        media.read(lba, &mut block);
        block[0]
    }

    #[test]
    fn a_loss_of_power_takes_some_of_the_cache_and_nothing_else() {
        let mut media = media();
        for lba in 0..64 {
            media.write(lba, &[1; 512], true);
            media.write(lba, &[2; 512], false);
        }
        media.write(64, &[3; 512], true);
        media.write(65, &[4; 512], false);
        media.flush();
        media.lose_power(&mut Random::new(5));
        assert_eq!((read(&media, 64), read(&media, 65)), (3, 4));

        let mut media = self::media();
        for lba in 0..64 {
            media.write(lba, &[1; 512], true);
            media.write(lba, &[2; 512], false);
        }
        media.lose_power(&mut Random::new(5));
        let kept = (0..64).filter(|lba| read(&media, *lba) == 2).count();
        assert!(kept > 8 && kept < 56, "{kept}");
        assert!((0..64).all(|lba| read(&media, lba) != 0));
    }

    #[test]
    fn deallocated_blocks_read_as_zeroes_and_may_come_back_without_power() {
        let mut media = media();
        media.write(0, &[7; 2048], true);
        media.write(1, &[8; 512], false);
        media.deallocate(0, 3, false);
        let now: Vec<u8> = (0..4).map(|lba| read(&media, lba)).collect();
        assert_eq!(now, [0, 0, 0, 7]);
        let mut random = Random::new(1);
        media.lose_power(&mut random);
        assert!((0..3).all(|lba| matches!(read(&media, lba), 0 | 7)));
        media.deallocate(0, u64::MAX, true);
        assert_eq!(media.blocks_used(), 0);
    }

    #[test]
    fn writing_heals_a_block_that_could_not_be_read() {
        let mut media = media();
        media.set_fault(9, Some(MediaFault::Read));
        assert_eq!(media.fault(0, 16, MediaFault::Read), Some(9));
        assert_eq!(media.fault(0, 16, MediaFault::Write), None);
        media.write(8, &[1; 1024], false);
        assert_eq!(media.fault(0, 16, MediaFault::Read), None);
    }
}
