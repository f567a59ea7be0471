//! Where the pages of this process are, by the kernel's own account.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

/// A range of addresses with one memory policy, and where its pages are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Area {
    /// Its first address.
    pub start: usize,
    /// The one node that its policy asks for, if it asks for one.
    pub meant: Option<u32>,
    /// Bytes with a page behind them, by node.
    pub bytes: BTreeMap<u32, u64>,
}

/// All areas of a process (`/proc/PID/numa_maps`, proc(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Residence {
    areas: Vec<Area>,
}

impl Residence {
    /// Asks the kernel about this process. It walks the page tables for that: not for every second.
    ///
    /// # Errors
    /// The file cannot be read; a kernel without NUMA has none.
    pub fn read() -> io::Result<Residence> {
        std::fs::read_to_string("/proc/self/numa_maps").map(|text| Residence::parse(&text))
    }

    /// Reads the file's text. Lines and words that are not understood are passed over.
    pub fn parse(text: &str) -> Residence {
        Residence {
            areas: text.lines().filter_map(area).collect(),
        }
    }

    /// Bytes with a page behind them, by node, of the areas that begin in one of `ranges`.
    pub fn within(&self, ranges: &[Range<usize>]) -> BTreeMap<u32, u64> {
        let inside = |area: &&Area| ranges.iter().any(|range| range.contains(&area.start));
        let mut sum = BTreeMap::new();
        for (node, bytes) in self
            .areas
            .iter()
            .filter(inside)
            .flat_map(|area| &area.bytes)
        {
            *sum.entry(*node).or_default() += bytes;
        }
        sum
    }

    /// Bytes of memory meant for one node that lie on another, by the node they are meant for.
    pub fn misplaced(&self) -> BTreeMap<u32, u64> {
        let mut sum = BTreeMap::new();
        for area in &self.areas {
            let Some(meant) = area.meant else { continue };
            let elsewhere = area.bytes.iter().filter(|(node, _)| **node != meant);
            let bytes: u64 = elsewhere.map(|(_, bytes)| bytes).sum();
            if bytes > 0 {
                *sum.entry(meant).or_default() += bytes;
            }
        }
        sum
    }

    /// The areas in order of their addresses.
    pub fn areas(&self) -> &[Area] {
        &self.areas
    }
}

fn area(line: &str) -> Option<Area> {
    let mut words = line.split_ascii_whitespace();
    let start = usize::from_str_radix(words.next()?, 16).ok()?;
    let meant = words.next().and_then(meant);
    let mut pages: Vec<(u32, u64)> = Vec::new();
    let mut page_bytes = 4096;
    for word in words {
        let Some((name, value)) = word.split_once('=') else {
            continue;
        };
        if name == "kernelpagesize_kB" {
            page_bytes = value.parse::<u64>().ok()?.saturating_mul(1024);
        } else if let Some(node) = name.strip_prefix('N').and_then(|id| id.parse().ok()) {
            pages.push((node, value.parse().ok()?));
        }
    }
    let bytes = pages.into_iter();
    Some(Area {
        start,
        meant,
        bytes: bytes
            .map(|(node, count)| (node, count.saturating_mul(page_bytes)))
            .collect(),
    })
}

/// The node of a policy that names one: `prefer:1`, `bind:1`, with flags as in `bind=static:1`.
fn meant(policy: &str) -> Option<u32> {
    let (mode, nodes) = policy.split_once(':')?;
    let mode = mode.split('=').next()?;
    matches!(mode, "prefer" | "bind")
        .then(|| nodes.parse().ok())
        .flatten()
}

#[cfg(test)]
#[allow(
    clippy::single_range_in_vec_init,
    reason = "a list of one range is meant"
)]
mod tests {
    use super::*;

    const MAPS: &str = "\
55d8c0000000 default file=/usr/bin/penstock-node mapped=100 N0=60 N1=40 kernelpagesize_kB=4
7f0000000000 prefer:1 anon=20 dirty=20 active=0 N0=4 N1=16 kernelpagesize_kB=4
7f0000200000 prefer:0 huge anon=2 dirty=2 N0=2 kernelpagesize_kB=2048
7f0000a00000 bind=static:0 anon=1 dirty=1 N0=1 kernelpagesize_kB=4
7f0000b00000 prefer (many):0-1 anon=1 N1=1 kernelpagesize_kB=4
7f0000c00000 prefer:1
7ffc00000000 default stack anon=3 dirty=3 N1=3 kernelpagesize_kB=4
nonsense
7f0000d00000 bind:0 N0=x kernelpagesize_kB=4
";

    #[test]
    fn pages_are_counted_by_node_in_bytes() {
        let residence = Residence::parse(MAPS);
        assert_eq!(residence.areas().len(), 7);
        let pool = residence.within(&[0x7f00_0000_0000..0x7f00_0010_0000]);
        assert_eq!(pool, BTreeMap::from([(0, 4 * 4096), (1, 16 * 4096)]));
        let huge = residence.within(&[0x7f00_0020_0000..0x7f00_0060_0000]);
        assert_eq!(huge, BTreeMap::from([(0, 4 << 20)]));
        let both = [
            0x7f00_0000_0000..0x7f00_0010_0000,
            0x7f00_0020_0000..0x7f00_0060_0000,
        ];
        assert_eq!(residence.within(&both)[&0], (4 * 4096) + (4 << 20));
        assert_eq!(residence.within(&[]), BTreeMap::new());
    }

    #[test]
    fn only_memory_meant_for_one_node_can_be_misplaced() {
        assert_eq!(
            Residence::parse(MAPS).misplaced(),
            BTreeMap::from([(1, 4 * 4096)])
        );
        assert_eq!(Residence::parse("").misplaced(), BTreeMap::new());
    }

    #[test]
    fn the_kernel_tells_of_this_process() {
        match Residence::read() {
            Ok(residence) => {
                let bytes: u64 = residence
                    .areas()
                    .iter()
                    .flat_map(|a| a.bytes.values())
                    .sum();
                assert!(bytes > 0, "a process without memory");
            }
            Err(error) => println!("skipped: this kernel has no numa_maps: {error}"),
        }
    }
}
