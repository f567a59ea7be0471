//! What a run counts.

use crate::latency::Latencies;

/// Counts of one reactor, or of all.
pub struct Tally {
    pub latencies: Latencies,
    /// Commands completed in the measured span.
    pub reads: u64,
    pub writes: u64,
    /// Commands sent at any time.
    pub attempts: u64,
    /// Reads whose content was checked, at any time.
    pub checked: u64,
    /// Commands that failed, or brought wrong data, at any time.
    pub errors: u64,
    pub first_error: Option<String>,
}

impl Tally {
    pub fn new() -> anyhow::Result<Tally> {
        Ok(Tally {
            latencies: Latencies::new()?,
            reads: 0,
            writes: 0,
            attempts: 0,
            checked: 0,
            errors: 0,
            first_error: None,
        })
    }

    pub fn add(&mut self, other: &Tally) -> anyhow::Result<()> {
        self.latencies.add(&other.latencies)?;
        self.reads += other.reads;
        self.writes += other.writes;
        self.attempts += other.attempts;
        self.checked += other.checked;
        self.errors += other.errors;
        if self.first_error.is_none() {
            self.first_error.clone_from(&other.first_error);
        }
        Ok(())
    }

    /// Notes a failure; the first one's words are kept.
    pub fn fail(&mut self, error: impl ToString) {
        self.errors += 1;
        if self.first_error.is_none() {
            self.first_error = Some(error.to_string());
        }
    }
}
