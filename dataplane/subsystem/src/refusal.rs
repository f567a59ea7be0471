//! One log line for each host that is refused or breaks the protocol, and not more than a few a
//! second: a hostile peer must not fill the log.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use penstock_nvme::Status;

use crate::local::lock;

/// Lines a second at most.
const LINES_PER_SECOND: u64 = 10;

/// The rate-limited log.
pub struct RefusalLog {
    count: AtomicU64,
    per_second: u64,
    window: Mutex<Window>,
}

#[derive(Default)]
struct Window {
    start: u64,
    lines: u64,
    suppressed: u64,
}

impl RefusalLog {
    /// A log measured with a clock of `per_second` ticks a second.
    pub fn new(per_second: u64) -> RefusalLog {
        RefusalLog {
            count: AtomicU64::new(0),
            per_second,
            window: Mutex::default(),
        }
    }

    /// Refusals so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Notes that a host's Connect (or another step of the protocol) was refused.
    pub fn note(&self, now: u64, peer: SocketAddr, host_nqn: &str, why: &str, status: Status) {
        self.count.fetch_add(1, Ordering::Relaxed);
        if let Some(suppressed) = self.admit(now) {
            let status = status.display_fabrics();
            tracing::warn!(host = %host_nqn, %peer, %status, suppressed, "refused: {why}");
        }
    }

    /// Whether a line may be written now; how many were left out before it.
    fn admit(&self, now: u64) -> Option<u64> {
        let mut window = lock(&self.window);
        if now.saturating_sub(window.start) >= self.per_second {
            window.start = now;
            window.lines = 0;
        }
        if window.lines >= LINES_PER_SECOND {
            window.suppressed += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_limited_and_what_is_left_out_is_counted() {
        let log = RefusalLog::new(1000);
        let admitted = (0..100).filter(|_| log.admit(5000).is_some()).count();
        assert_eq!(admitted as u64, LINES_PER_SECOND);
        assert_eq!(log.admit(6000), Some(90), "the next second tells");
        assert_eq!(log.admit(6001), Some(0));
    }
}
