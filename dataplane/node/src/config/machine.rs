//! What this machine offers, as far as a configuration asks for it.

use std::collections::BTreeSet;
use std::fs;

/// Facts that a configuration is checked against.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Cores that are online.
    pub cores_online: BTreeSet<usize>,
    /// Cores this process may run on (cgroup cpuset, affinity).
    pub cores_allowed: BTreeSet<usize>,
    /// How much memory this process may lock, in bytes; `None` where there is no limit.
    pub memlock_limit_bytes: Option<u64>,
    /// Memory of the machine in bytes.
    pub memory_bytes: u64,
    /// Hugepages of 2 MiB that are reserved, in use or not.
    pub hugepages: u64,
}

impl Machine {
    /// Reads the facts from `/proc` and `/sys`; what cannot be read is taken as unlimited,
    /// but for hugepages.
    pub fn probe() -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let status = read("/proc/self/status");
        let allowed = field(&status, "Cpus_allowed_list:")
            .map(core_list)
            .unwrap_or_default();
        let online = core_list(&read("/sys/devices/system/cpu/online"));
        let can_lock_any = field(&status, "CapEff:")
            .and_then(|hex| u64::from_str_radix(hex, 16).ok())
            .is_some_and(|caps| caps & CAP_IPC_LOCK != 0);
        let limit = memlock_limit(&read("/proc/self/limits"));
        let memory_kib = field(&read("/proc/meminfo"), "MemTotal:")
            .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        Machine {
            cores_online: if online.is_empty() {
                allowed.clone()
            } else {
                online
            },
            cores_allowed: allowed,
            memlock_limit_bytes: if can_lock_any { None } else { limit },
            hugepages: read(HUGEPAGES).trim().parse().unwrap_or(0),
            memory_bytes: memory_kib.map_or(u64::MAX, |kib| kib.saturating_mul(1024)),
        }
    }
}

/// Where the kernel tells how many there are; not there where it knows none of this size.
const HUGEPAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

/// The capability that lifts the limit on locked memory (capabilities(7)).
const CAP_IPC_LOCK: u64 = 1 << 14;

fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

/// Reads the kernel's list form: `0-3,8,10-11`.
pub(crate) fn core_list(text: &str) -> BTreeSet<usize> {
    let mut cores = BTreeSet::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse()) {
            cores.extend(first..=last);
        }
    }
    cores
}

/// The soft limit in `/proc/self/limits`; `None` for "unlimited" or where it is not told.
fn memlock_limit(limits: &str) -> Option<u64> {
    field(limits, "Max locked memory")?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_lists_and_limits() {
        assert_eq!(core_list("0-2,5\n"), BTreeSet::from([0, 1, 2, 5]));
        assert_eq!(core_list(""), BTreeSet::new());
        let limits =
            "Limit  Soft Limit  Hard Limit  Units\nMax locked memory  65536  65536  bytes\n";
        assert_eq!(memlock_limit(limits), Some(65536));
        assert_eq!(
            memlock_limit("Max locked memory  unlimited  unlimited  bytes\n"),
            None
        );
    }

    #[test]
    fn probe_sees_at_least_one_core() {
        let machine = Machine::probe();
        assert!(!machine.cores_online.is_empty());
        assert!(machine.memory_bytes > 1 << 20);
    }
}
