//! Which samples there are, how long each is, and where it lies.

use std::f64::consts::TAU;

use anyhow::{bail, ensure};

use super::index::{self, Entry};
use crate::pattern::mix;
use crate::session::Geometry;
use crate::size;

/// Samples start at multiples of this many bytes (or of the block size, where that is larger).
pub const ALIGN_BYTES: u64 = 4096;
/// Shortest sample.
const SAMPLE_MIN_BYTES: u64 = 4096;

/// What the data set is to be like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub samples: u32,
    pub mean_bytes: u64,
    /// Standard deviation of the length in percent of the mean.
    pub deviation_percent: f64,
    pub seed: u64,
}

/// Length of a sample: normally distributed, drawn again where shorter than the shortest.
pub fn length_of(shape: &Shape, sample: u32) -> u64 {
    let mean = shape.mean_bytes as f64;
    let deviation = mean * shape.deviation_percent / 100.0;
    let key = mix(shape.seed ^ mix(u64::from(sample)));
    (0..)
        .map(|turn| mean + deviation * normal(mix(key ^ turn)))
        .find(|length| *length >= SAMPLE_MIN_BYTES as f64)
        .map_or(SAMPLE_MIN_BYTES, whole)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be positive"
)]
fn whole(length: f64) -> u64 {
    length as u64
}

/// A normally distributed number (Box and Muller) from 64 random bits.
fn normal(bits: u64) -> f64 {
    let unit = |bits: u64| ((bits >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
    (-2.0 * unit(mix(bits)).ln()).sqrt() * (TAU * unit(mix(!bits))).cos()
}

/// Lays the samples out over the namespaces, one after the other: sample `i` on namespace `i`
/// modulo their number. Gives each namespace's entries.
pub fn lay_out(shape: &Shape, namespaces: &[Geometry]) -> anyhow::Result<Vec<Vec<Entry>>> {
    ensure!(
        shape.samples > 0,
        "a data set needs at least one sample: raise --samples"
    );
    ensure!(
        shape.mean_bytes >= SAMPLE_MIN_BYTES,
        "samples have at least {SAMPLE_MIN_BYTES} bytes: raise --sample-mean-bytes"
    );
    let mut all = Vec::new();
    for (ordinal, geometry) in (0_u32..).zip(namespaces) {
        let step = namespaces.len();
        let own: Vec<u32> = (ordinal..shape.samples).step_by(step).collect();
        let align = ALIGN_BYTES.max(geometry.block_size.bytes_u64());
        let mut offset = index::region_bytes(own.len()).next_multiple_of(align);
        let mut entries = Vec::new();
        for sample in own {
            let length = length_of(shape, sample);
            let key = mix(shape.seed ^ mix(u64::from(sample) << 32));
            entries.push(Entry {
                sample,
                offset,
                length,
                key,
                crc32c: 0,
            });
            offset += length.next_multiple_of(align);
        }
        if offset > geometry.bytes() {
            bail!(
                "namespace {} has {}, its part of the data set needs {}: lower --samples or \
                 --sample-mean-bytes, or name more namespaces",
                geometry.nsid,
                size::show(geometry.bytes()),
                size::show(offset)
            );
        }
        all.push(entries);
    }
    Ok(all)
}

/// The numbers from 0 below `count`, shuffled.
pub fn shuffled(count: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        let random = mix(seed ^ mix(last as u64)) % (last as u64 + 1);
        order.swap(last, usize::try_from(random).unwrap_or(last));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_units::{BlockSize, Nsid};
    use proptest::prelude::*;

    fn shape() -> Shape {
        Shape {
            samples: 24,
            mean_bytes: 32 << 20,
            deviation_percent: 47.0,
            seed: 1,
        }
    }

    #[test]
    fn lengths_have_the_mean_and_deviation_asked_for() {
        let shape = shape();
        let lengths: Vec<f64> = (0..20_000).map(|i| length_of(&shape, i) as f64).collect();
        let mean = lengths.iter().sum::<f64>() / lengths.len() as f64;
        let variance =
            lengths.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / lengths.len() as f64;
        let asked = (32 << 20) as f64;
        // Cutting the negative lengths off moves the mean up by some 2 % and the deviation down.
        assert!((mean / asked - 1.02).abs() < 0.02, "mean {mean}");
        assert!(
            (variance.sqrt() / asked - 0.45).abs() < 0.02,
            "deviation {}",
            variance.sqrt()
        );
    }

    proptest! {
        #[test]
        fn samples_never_overlap(count in 1_u32..4, samples in 1_u32..60, seed: u64, big: bool) {
            let block_size = if big { BlockSize::B4096 } else { BlockSize::B512 };
            let namespaces: Vec<Geometry> = (1..=count)
                .filter_map(Nsid::new)
                .map(|nsid| Geometry { nsid, block_size, blocks: 1 << 40 })
                .collect();
            let shape = Shape { samples, seed, mean_bytes: 100_000, ..shape() };
            let all = lay_out(&shape, &namespaces).expect("a layout");
            prop_assert_eq!(all.iter().map(Vec::len).sum::<usize>(), samples as usize);
            for entries in all {
                let mut free_from = index::region_bytes(entries.len());
                for entry in entries {
                    prop_assert!(entry.offset >= free_from);
                    prop_assert_eq!(entry.offset % ALIGN_BYTES, 0);
                    free_from = entry.offset + entry.length;
                }
            }
        }

        #[test]
        fn shuffling_loses_nothing(count in 0_usize..200, seed: u64) {
            let mut order = shuffled(count, seed);
            order.sort_unstable();
            prop_assert_eq!(order, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn epochs_differ() {
        assert_ne!(shuffled(24, 1), shuffled(24, 2));
    }

    #[test]
    fn a_namespace_that_is_too_small_is_named() {
        let nsid = Nsid::new(3).expect("an identifier");
        let small = Geometry {
            nsid,
            block_size: BlockSize::B4096,
            blocks: 1000,
        };
        let told = lay_out(&shape(), &[small])
            .expect_err("too small")
            .to_string();
        assert!(
            told.contains("namespace 3") && told.contains("--samples"),
            "{told}"
        );
    }
}
