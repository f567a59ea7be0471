//! A clock without a system call: the time stamp counter where the kernel itself trusts it.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Monotonic time in ticks of [`ticks_per_second`].
pub type Ticks = u64;

struct Source {
    start: Instant,
    tsc: bool,
    per_second: u64,
    /// Nanoseconds a tick, in 2^-32 units.
    ns_scale: u64,
}

static SOURCE: OnceLock<Source> = OnceLock::new();

fn source() -> &'static Source {
    SOURCE.get_or_init(Source::detect)
}

impl Source {
    fn detect() -> Source {
        let start = Instant::now();
        if !kernel_uses_tsc() {
            return Source {
                start,
                tsc: false,
                per_second: 1_000_000_000,
                ns_scale: 1 << 32,
            };
        }
        let (began, from) = paired_reading();
        // 20 ms against a vDSO clock read within a microsecond: a few parts in a hundred thousand.
        while began.elapsed() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        let (ended, to) = paired_reading();
        let elapsed_ns = ended.duration_since(began).as_nanos();
        let ticks = u128::from(to - from);
        let per_second = u64::try_from(ticks * 1_000_000_000 / elapsed_ns.max(1))
            .unwrap_or(u64::MAX)
            .max(1);
        let ns_scale =
            u64::try_from((1_000_000_000_u128 << 32) / u128::from(per_second)).unwrap_or(1 << 32);
        Source {
            start,
            tsc: true,
            per_second,
            ns_scale,
        }
    }
}

/// Both clocks at one moment: taken again while the thread was interrupted in between.
fn paired_reading() -> (Instant, u64) {
    let mut best: Option<(Duration, Instant, u64)> = None;
    for _ in 0..32 {
        let before = Instant::now();
        let ticks = read_tsc();
        let gap = before.elapsed();
        if best.is_none_or(|(smallest, _, _)| gap < smallest) {
            best = Some((gap, before, ticks));
        }
    }
    best.map_or_else(
        || (Instant::now(), read_tsc()),
        |(_, at, ticks)| (at, ticks),
    )
}

/// The kernel drops the TSC as its clock source where it is not constant and synchronous.
fn kernel_uses_tsc() -> bool {
    cfg!(target_arch = "x86_64")
        && std::fs::read_to_string("/proc/cpuinfo")
            .is_ok_and(|text| text.contains("constant_tsc") && text.contains("nonstop_tsc"))
}

#[cfg(target_arch = "x86_64")]
fn read_tsc() -> u64 {
    // SAFETY: reading the time stamp counter has no precondition on x86-64.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
fn read_tsc() -> u64 {
    0
}

/// The time now, on any thread.
#[inline]
pub fn now() -> Ticks {
    let source = source();
    if source.tsc {
        return read_tsc();
    }
    u64::try_from(source.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// How many ticks a second has.
pub fn ticks_per_second() -> u64 {
    source().per_second
}

/// A span of ticks in nanoseconds.
pub fn ticks_to_ns(ticks: Ticks) -> u64 {
    u64::try_from((u128::from(ticks) * u128::from(source().ns_scale)) >> 32).unwrap_or(u64::MAX)
}

/// A duration in ticks.
pub(crate) fn ticks_of(duration: Duration) -> Ticks {
    let ticks = duration.as_nanos() * u128::from(ticks_per_second()) / 1_000_000_000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_agree_with_the_system_clock() {
        now();
        let (wall, from) = (Instant::now(), now());
        std::thread::sleep(Duration::from_millis(50));
        let (wall_ns, ticks_ns) = (
            wall.elapsed().as_nanos() as f64,
            ticks_to_ns(now() - from) as f64,
        );
        assert!(
            (ticks_ns / wall_ns - 1.0).abs() < 0.05,
            "{ticks_ns} against {wall_ns}"
        );
    }
}
