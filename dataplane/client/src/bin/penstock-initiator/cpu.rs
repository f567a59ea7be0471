//! CPU time of this process.

use std::fs;
use std::time::Duration;

/// CPU time all threads of this process have used so far, from the scheduler's own nanosecond
/// counts; `None` where the kernel does not offer them. Threads that have ended are not counted.
pub fn used() -> Option<Duration> {
    let mut total = 0_u64;
    for entry in fs::read_dir("/proc/self/task").ok()? {
        let text = fs::read_to_string(entry.ok()?.path().join("schedstat")).ok()?;
        total += text.split_ascii_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(Duration::from_nanos(total))
}

/// CPU seconds a gigabyte (10^9 bytes) of data took.
pub fn seconds_per_gb(cpu: Option<Duration>, bytes: u64) -> Option<f64> {
    (bytes > 0)
        .then(|| cpu.map(|cpu| cpu.as_secs_f64() / (bytes as f64 / 1e9)))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;
    use std::time::Instant;

    #[test]
    fn work_costs_time() {
        let Some(before) = used() else {
            println!("skipped: the kernel has no schedstat");
            return;
        };
        let start = Instant::now();
        let mut n = 0_u64;
        while start.elapsed() < Duration::from_millis(50) {
            n = black_box(n + 1);
        }
        let after = used().expect("it was there before");
        assert!(after > before, "{before:?} to {after:?}, {n} turns");
        assert_eq!(
            seconds_per_gb(Some(Duration::from_secs(2)), 4_000_000_000),
            Some(0.5)
        );
        assert_eq!(seconds_per_gb(None, 1), None);
    }
}
