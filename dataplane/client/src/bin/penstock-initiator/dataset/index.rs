//! The index at the start of each namespace of a data set. Little-endian throughout:
//!
//! | bytes | what |
//! |---|---|
//! | 0-7 | magic `PNSTKDS1` |
//! | 8-11 | version, 1 |
//! | 12-15 | CRC32C of the whole index, these four bytes taken as zero |
//! | 16-19 | samples in this namespace |
//! | 20-23 | samples of the whole data set |
//! | 24-27 | this namespace's place in the data set |
//! | 28-31 | namespaces of the data set |
//! | 32-39 | seed |
//! | 40-63 | zero |
//! | from 64 on | 32 bytes a sample: number (4), CRC32C (4), byte offset (8), length in bytes (8), content key (8) |

use anyhow::{Context, bail, ensure};
use penstock_nvme::tcp::crc32c;

use super::plan::ALIGN_BYTES;

const MAGIC: [u8; 8] = *b"PNSTKDS1";
const VERSION: u32 = 1;
/// Bytes before the first entry.
pub const HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 32;
const CRC_AT: usize = 12;
/// More samples in a namespace than any data set has; a larger number is damage.
const ENTRIES_MAX: u32 = 1 << 24;

/// One sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Number of the sample in the data set.
    pub sample: u32,
    /// CRC32C of its content.
    pub crc32c: u32,
    /// Where it starts in the namespace, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// What its content is made from.
    pub key: u64,
}

/// The index of one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Samples of the whole data set.
    pub samples: u32,
    /// This namespace's place in the data set.
    pub ordinal: u32,
    /// Namespaces of the data set.
    pub namespaces: u32,
    pub seed: u64,
    pub entries: Vec<Entry>,
}

/// Bytes of an index with so many samples, padding counted.
pub fn region_bytes(entries: usize) -> u64 {
    ((HEADER_BYTES + entries * ENTRY_BYTES) as u64).next_multiple_of(ALIGN_BYTES)
}

impl Index {
    /// The bytes to write, padded with zeroes to [`region_bytes`].
    pub fn encode(&self) -> anyhow::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        bytes.extend(MAGIC);
        for word in [
            VERSION,
            0,
            u32::try_from(self.entries.len())?,
            self.samples,
            self.ordinal,
            self.namespaces,
        ] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(self.seed.to_le_bytes());
        bytes.resize(HEADER_BYTES, 0);
        for entry in &self.entries {
            bytes.extend(entry.sample.to_le_bytes());
            bytes.extend(entry.crc32c.to_le_bytes());
            for long in [entry.offset, entry.length, entry.key] {
                bytes.extend(long.to_le_bytes());
            }
        }
        let crc = crc32c(&bytes);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        bytes.resize(usize::try_from(region_bytes(self.entries.len()))?, 0);
        Ok(bytes)
    }

    /// How many bytes to read for the whole index, from its first ones.
    pub fn region_of(first: &[u8]) -> anyhow::Result<u64> {
        ensure!(first.len() >= HEADER_BYTES, "the index is cut off");
        if first[..8] != MAGIC {
            bail!("there is no data set here: write one with `dataset write`");
        }
        let version = word(first, 8)?;
        ensure!(
            version == VERSION,
            "the data set has format version {version}, this tool knows {VERSION}: write it anew"
        );
        let entries = word(first, 16)?;
        ensure!(
            entries <= ENTRIES_MAX,
            "the index claims {entries} samples: it is damaged"
        );
        Ok(region_bytes(entries as usize))
    }

    /// Reads an index and checks its checksum.
    pub fn decode(bytes: &[u8]) -> anyhow::Result<Index> {
        let region = Index::region_of(bytes)?;
        ensure!(bytes.len() as u64 >= region, "the index is cut off");
        let count = word(bytes, 16)? as usize;
        let mut used = bytes[..HEADER_BYTES + count * ENTRY_BYTES].to_vec();
        let told = word(&used, CRC_AT)?;
        used[CRC_AT..CRC_AT + 4].fill(0);
        let computed = crc32c(&used);
        ensure!(
            told == computed,
            "the index is damaged: checksum {told:#010x}, computed {computed:#010x}"
        );
        let entries = used[HEADER_BYTES..].chunks_exact(ENTRY_BYTES).map(entry);
        Ok(Index {
            samples: word(bytes, 20)?,
            ordinal: word(bytes, 24)?,
            namespaces: word(bytes, 28)?,
            seed: long(bytes, 32)?,
            entries: entries.collect::<anyhow::Result<Vec<Entry>>>()?,
        })
    }
}

fn entry(bytes: &[u8]) -> anyhow::Result<Entry> {
    Ok(Entry {
        sample: word(bytes, 0)?,
        crc32c: word(bytes, 4)?,
        offset: long(bytes, 8)?,
        length: long(bytes, 16)?,
        key: long(bytes, 24)?,
    })
}

fn word(bytes: &[u8], at: usize) -> anyhow::Result<u32> {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    field
        .map(|field| u32::from_le_bytes(*field))
        .context("the index is cut off")
}

fn long(bytes: &[u8], at: usize) -> anyhow::Result<u64> {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    field
        .map(|field| u64::from_le_bytes(*field))
        .context("the index is cut off")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn any_entry()(sample: u32, crc32c: u32, offset: u64, length: u64, key: u64) -> Entry {
            Entry { sample, crc32c, offset, length, key }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            entries in prop::collection::vec(any_entry(), 0..300),
            samples: u32, ordinal: u32, namespaces: u32, seed: u64,
        ) {
            let index = Index { samples, ordinal, namespaces, seed, entries };
            let bytes = index.encode().expect("encoded");
            prop_assert_eq!(bytes.len() as u64, Index::region_of(&bytes).expect("a region"));
            prop_assert_eq!(Index::decode(&bytes).expect("decoded"), index);
        }

        #[test]
        fn a_flipped_bit_is_noticed(entry in any_entry(), at in 0_usize..96, bit in 0_u32..8) {
            let index =
                Index { samples: 1, ordinal: 0, namespaces: 1, seed: 1, entries: vec![entry] };
            let mut bytes = index.encode().expect("encoded");
            bytes[at] ^= 1 << bit;
            prop_assert!(Index::decode(&bytes).is_err());
        }

        #[test]
        fn no_input_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), magic: bool) {
            let mut bytes = bytes;
            if magic && bytes.len() >= 12 {
                bytes[..8].copy_from_slice(&MAGIC);
                bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
            }
            prop_assert!(Index::decode(&bytes).is_err());
        }
    }

    #[test]
    fn a_namespace_without_a_data_set_is_told_what_to_do() {
        let told = Index::region_of(&[0; 4096])
            .expect_err("no data set")
            .to_string();
        assert!(told.contains("dataset write"), "{told}");
    }
}
