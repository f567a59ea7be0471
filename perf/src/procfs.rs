//! What the kernel tells in `/proc`.

use std::fs;

use anyhow::{Context, Result};

/// Clock ticks a second in `/proc`: the kernel's USER_HZ, 100 on every Linux we run on.
const TICKS_PER_SECOND: f64 = 100.0;

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

/// Seconds of processor time that the machine has spent: on everything but idling, and stolen by
/// its own host.
pub fn machine_seconds() -> Result<f64> {
    parse_machine(&read("/proc/stat")?).context("/proc/stat is not as proc(5) has it")
}

fn parse_machine(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with("cpu "))?;
    let ticks: Vec<f64> = line
        .split_whitespace()
        .skip(1)
        .map_while(|field| field.parse().ok())
        .collect();
    // user, nice, system, (idle, iowait,) irq, softirq, steal
    let busy = [0, 1, 2, 5, 6, 7].map(|index| ticks.get(index).copied());
    busy.into_iter()
        .sum::<Option<f64>>()
        .map(|t| t / TICKS_PER_SECOND)
}

/// Seconds of processor time of a process: its own, and that of its children which have ended.
pub fn process_seconds(pid: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    parse_process(&read(&path)?).with_context(|| format!("{path} is not as proc(5) has it"))
}

fn parse_process(text: &str) -> Option<f64> {
    // The command's name, in parentheses, may hold anything; fields count from its end.
    let fields: Vec<&str> = text.rsplit(')').next()?.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)? + ticks(13)? + ticks(14)?) / TICKS_PER_SECOND)
}

/// Resident memory of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resident {
    /// All of it (VmRSS), in bytes.
    pub total_bytes: u64,
    /// What lies in anonymous mappings as large as a configured pool, in bytes.
    pub pool_bytes: u64,
}

impl Resident {
    /// What is resident besides pools, in bytes.
    pub fn besides_pools_bytes(self) -> u64 {
        self.total_bytes.saturating_sub(self.pool_bytes)
    }
}

/// Resident memory of `pid`; anonymous mappings of `pool_min_bytes` and more count as pools.
pub fn resident(pid: u32, pool_min_bytes: u64) -> Result<Resident> {
    let path = format!("/proc/{pid}/smaps");
    parse_smaps(&read(&path)?, pool_min_bytes)
        .with_context(|| format!("{path} is not as proc(5) has it"))
}

fn parse_smaps(text: &str, pool_min_bytes: u64) -> Option<Resident> {
    let mut found = Resident::default();
    let (mut anonymous, mut size) = (false, 0);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let first = words.next()?;
        if !first.ends_with(':') {
            // START-END PERMISSIONS OFFSET DEVICE INODE [PATH]
            anonymous = words.nth(3) == Some("0") && words.next().is_none();
            continue;
        }
        let kib = || words.clone().next()?.parse::<u64>().ok();
        if first == "Size:" {
            size = kib()? * 1024;
        } else if first == "Rss:" {
            let bytes = kib()? * 1024;
            found.total_bytes += bytes;
            if anonymous && size >= pool_min_bytes {
                found.pool_bytes += bytes;
            }
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_time_leaves_idling_out() {
        let text = "cpu  100 10 50 99999 777 5 20 15 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(parse_machine(text), Some(2.0));
        assert_eq!(parse_machine("intr 1\n"), None);
    }

    #[test]
    fn process_time_is_read_past_the_name() {
        let text = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 2 3 4 100 50 30 20 20 0 1 0 9";
        assert_eq!(parse_process(text), Some(2.0));
    }

    #[test]
    fn pools_are_told_from_the_rest() {
        let text = "7f00-7f40 rw-p 00000000 00:00 0 \nSize: 65536 kB\nRss: 2048 kB\nVmFlags: rd wr\n\
                    5500-5510 r-xp 00000000 fe:00 123 /bin/node\nSize: 65536 kB\nRss: 1024 kB\n\
                    5600-5610 rw-p 00000000 00:00 0 [heap]\nSize: 100 kB\nRss: 64 kB\n";
        let found = parse_smaps(text, 16 << 20).expect("as the kernel writes it");
        assert_eq!(found.total_bytes, (2048 + 1024 + 64) * 1024);
        assert_eq!(found.pool_bytes, 2048 * 1024);
        assert_eq!(found.besides_pools_bytes(), 1088 * 1024);
    }

    #[test]
    fn our_own_memory_is_seen() {
        let mine = resident(std::process::id(), 1 << 40).expect("our own");
        assert!(mine.total_bytes > 100 << 10, "{mine:?}");
        assert_eq!(mine.pool_bytes, 0);
    }
}
