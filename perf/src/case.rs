//! What is measured.

/// One pattern of I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Short name, for `--case`.
    pub name: &'static str,
    /// The pattern in words.
    pub title: &'static str,
    /// Bytes of one command.
    pub io_bytes: u32,
    /// The pattern.
    pub workload: Workload,
    /// I/O queue pairs, each a TCP connection.
    pub connections: u16,
    /// Commands in flight on each connection.
    pub depth: u16,
    /// Header and data digests.
    pub digests: bool,
    /// Whether it is measured without being asked for.
    pub usual: bool,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Reads at random places.
    RandomRead,
    /// Writes at random places.
    RandomWrite,
    /// Reads one after the other.
    Read,
    /// Writes one after the other.
    Write,
    /// 70 % reads, 30 % writes at random places.
    Mixed,
}

/// Share of reads of [`Workload::Mixed`], in percent.
pub const MIXED_READ_PERCENT: u8 = 70;

const fn case(
    name: &'static str,
    title: &'static str,
    io_bytes: u32,
    workload: Workload,
    connections: u16,
    depth: u16,
) -> Case {
    Case {
        name,
        title,
        io_bytes,
        workload,
        connections,
        depth,
        digests: false,
        usual: true,
    }
}

const fn extra(case: Case) -> Case {
    Case {
        usual: false,
        ..case
    }
}

const fn with_digests(case: Case) -> Case {
    Case {
        digests: true,
        ..extra(case)
    }
}

use Workload::{Mixed, RandomRead, RandomWrite, Read, Write};

/// Every case, in the order of measuring.
#[rustfmt::skip]
pub const ALL: [Case; 13] = [
    case("rr4k", "4 KiB random read, QD 128 x 2", 4096, RandomRead, 2, 128),
    case("rw4k", "4 KiB random write, QD 128 x 2", 4096, RandomWrite, 2, 128),
    case("r128k", "128 KiB read, QD 32 x 2", 131_072, Read, 2, 32),
    case("w128k", "128 KiB write, QD 32 x 2", 131_072, Write, 2, 32),
    case("rr4k_qd1", "4 KiB random read, QD 1 x 2", 4096, RandomRead, 2, 1),
    case("rr4k_64x8", "4 KiB random read, QD 8 x 64", 4096, RandomRead, 64, 8),
    extra(case("rw4k_qd1", "4 KiB random write, QD 1 x 2", 4096, RandomWrite, 2, 1)),
    extra(case("rr4k_qd1x1", "4 KiB random read, QD 1 x 1", 4096, RandomRead, 1, 1)),
    extra(case("rw4k_64x8", "4 KiB random write, QD 8 x 64", 4096, RandomWrite, 64, 8)),
    extra(case("mix70", "4 KiB 70 % read, QD 128 x 2", 4096, Mixed, 2, 128)),
    with_digests(case("rr4k_dgst", "4 KiB random read, QD 128 x 2, digests", 4096, RandomRead, 2, 128)),
    with_digests(case("r128k_dgst", "128 KiB read, QD 32 x 2, digests", 131_072, Read, 2, 32)),
    with_digests(case("w128k_dgst", "128 KiB write, QD 32 x 2, digests", 131_072, Write, 2, 32)),
];

/// The cases of these names; where there are none, the usual ones, or all.
///
/// # Errors
/// A name that no case has.
pub fn choose(names: &[String], all: bool) -> anyhow::Result<Vec<Case>> {
    if names.is_empty() {
        return Ok(ALL.into_iter().filter(|c| all || c.usual).collect());
    }
    let known = || ALL.map(|c| c.name).join(", ");
    names
        .iter()
        .map(|name| {
            let found = ALL.into_iter().find(|c| c.name == name);
            found.ok_or_else(|| anyhow::anyhow!("there is no case `{name}`; there are {}", known()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_chosen_by_name() {
        assert_eq!(choose(&[], false).expect("usual").len(), 6);
        assert_eq!(choose(&[], true).expect("all").len(), ALL.len());
        let one = choose(&["w128k".to_owned()], false).expect("known");
        assert_eq!((one.len(), one[0].io_bytes), (1, 131_072));
        let told = choose(&["nonsense".to_owned()], false).expect_err("unknown");
        assert!(told.to_string().contains("rr4k_64x8"), "{told}");
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> = ALL.iter().map(|c| c.name).collect();
        assert_eq!(names.len(), ALL.len());
    }
}
