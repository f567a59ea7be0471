//! How the slow paths (start, reset, admin commands) let time pass.

use std::time::{Duration, Instant};

/// Time, and letting it pass. The steady path takes time as an argument instead.
pub trait Pace: Send + Sync {
    /// Nanoseconds since some moment.
    fn now_ns(&self) -> u64;

    /// Lets a little time pass while the controller works.
    fn pause(&self);
}

/// The machine's time; pauses by sleeping. For a thread that may block.
pub struct Sleeping {
    start: Instant,
}

/// How long one pause takes.
const PAUSE: Duration = Duration::from_micros(100);

impl Default for Sleeping {
    fn default() -> Sleeping {
        Sleeping {
            start: Instant::now(),
        }
    }
}

impl Pace for Sleeping {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn pause(&self) {
        std::thread::sleep(PAUSE);
    }
}
