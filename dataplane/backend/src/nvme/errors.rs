//! The error log that a drive keeps: read when something went wrong, and told once.

use std::time::{Duration, Instant};

use penstock_nvme::log::ErrorEntry;

use super::keeper::Kept;

/// The log is read no more often than this, whatever goes wrong.
const READ_EVERY: Duration = Duration::from_secs(1);
/// Entries of one reading that are told one by one; of the others their number.
const TOLD_MAX: usize = 8;

/// How far a drive's error log has been told.
#[derive(Default)]
pub(super) struct ErrorWatch {
    /// Number of the newest entry known; `None` before the first reading.
    known: Option<u64>,
    /// Failures of commands when it was last read.
    failures: u64,
    read_at: Option<Instant>,
}

impl ErrorWatch {
    /// Reads the log where commands failed, or the drive said that there is something in it, since
    /// the last time. What is in it at first is old: it is counted by nobody.
    pub(super) fn look(&mut self, kept: &Kept) {
        let failures = kept.stats().failures();
        if self.read_at.is_some_and(|at| at.elapsed() < READ_EVERY) {
            return;
        }
        let first = self.known.is_none();
        if !first && failures == self.failures && !kept.take_error_event() {
            return;
        }
        self.failures = failures;
        self.read_at = Some(Instant::now());
        match kept.error_log() {
            Ok(entries) => self.tell(kept, &entries),
            Err(error) => {
                self.known.get_or_insert(0);
                tracing::warn!(drive = kept.name(), %error, "no error log from the drive");
            }
        }
    }

    fn tell(&mut self, kept: &Kept, entries: &[ErrorEntry]) {
        let newest = entries.first().map_or(0, |entry| entry.error_count.get());
        let Some(known) = self.known.replace(newest) else {
            if newest > 0 {
                let drive = kept.name();
                tracing::info!(drive, newest, "the drive's error log is not empty");
            }
            return;
        };
        // A drive that begins to count anew has lost what it knew.
        let known = if newest < known { 0 } else { known };
        kept.stats().error_log_entries.add(newest - known);
        let new = entries.iter().take_while(|it| it.error_count.get() > known);
        for entry in new.take(TOLD_MAX) {
            let told = entry.told();
            tracing::warn!(drive = kept.name(), %told, "in the drive's error log");
        }
        let untold = (newest - known).saturating_sub(TOLD_MAX as u64);
        if untold > 0 {
            let drive = kept.name();
            tracing::warn!(drive, untold, "more in the drive's error log");
        }
    }
}
