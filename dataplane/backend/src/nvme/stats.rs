//! What a drive has done, counted by the reactors and read by whoever wants to know.

use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets of a latency histogram.
pub const LATENCY_BUCKETS: usize = 24;

/// Counter that any thread may read.
#[derive(Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Which way a request went, for its statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Flush, Write Zeroes, Deallocate.
    Other,
}

/// Requests of one kind, with their latencies.
#[derive(Default)]
pub(super) struct KindStats {
    requests: Counter,
    errors: Counter,
    bytes: Counter,
    latency_ns: Counter,
    buckets: [Counter; LATENCY_BUCKETS],
}

/// Requests of one kind as they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KindSnapshot {
    /// Requests that ended.
    pub requests: u64,
    /// Those of them that failed.
    pub errors: u64,
    /// Payload of those that did not fail, in bytes.
    pub bytes: u64,
    /// Sum of the latencies, nanoseconds.
    pub latency_ns: u64,
    /// How many took up to [`bucket_limit_ns`] of their index, and longer than the one before.
    pub buckets: [u64; LATENCY_BUCKETS],
}

/// The longest latency of a bucket in nanoseconds: powers of two from 1024; the last has no limit.
#[must_use]
pub fn bucket_limit_ns(index: usize) -> Option<u64> {
    (index + 1 < LATENCY_BUCKETS).then(|| 1024 << index)
}

fn bucket_of(latency_ns: u64) -> usize {
    let above = latency_ns.saturating_sub(1) >> 10;
    let bits = u64::BITS - above.leading_zeros();
    (bits as usize).min(LATENCY_BUCKETS - 1)
}

impl KindStats {
    #[inline]
    fn count(&self, ok: bool, bytes: u64, latency_ns: u64) {
        self.requests.add(1);
        if ok {
            self.bytes.add(bytes);
        } else {
            self.errors.add(1);
        }
        self.latency_ns.add(latency_ns);
        self.buckets[bucket_of(latency_ns)].add(1);
    }

    fn snapshot(&self) -> KindSnapshot {
        let mut buckets = [0; LATENCY_BUCKETS];
        for (value, bucket) in buckets.iter_mut().zip(&self.buckets) {
            *value = bucket.get();
        }
        KindSnapshot {
            requests: self.requests.get(),
            errors: self.errors.get(),
            bytes: self.bytes.get(),
            latency_ns: self.latency_ns.get(),
            buckets,
        }
    }
}

/// All counters of a drive.
#[derive(Default)]
pub struct DriveStats {
    read: KindStats,
    write: KindStats,
    other: KindStats,
    pub(super) resets: Counter,
    pub(super) aborts: Counter,
    pub(super) events: Counter,
    pub(super) copies: Counter,
    pub(super) own_bytes: Counter,
    pub(super) error_log_entries: Counter,
}

impl DriveStats {
    fn of(&self, kind: Kind) -> &KindStats {
        match kind {
            Kind::Read => &self.read,
            Kind::Write => &self.write,
            Kind::Other => &self.other,
        }
    }

    #[inline]
    pub(super) fn count(&self, kind: Kind, ok: bool, bytes: u64, latency_ns: u64) {
        self.of(kind).count(ok, bytes, latency_ns);
    }

    /// Requests of a kind as they stand.
    #[must_use]
    pub fn snapshot(&self, kind: Kind) -> KindSnapshot {
        self.of(kind).snapshot()
    }

    /// Times the controller was reset.
    #[must_use]
    pub fn resets(&self) -> u64 {
        self.resets.get()
    }

    /// Commands that were aborted because they took too long.
    #[must_use]
    pub fn aborts(&self) -> u64 {
        self.aborts.get()
    }

    /// Events the controller told of.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events.get()
    }

    /// Payload bytes written to the drive out of its own memory.
    #[must_use]
    pub fn own_bytes(&self) -> u64 {
        self.own_bytes.get()
    }

    /// Entries that its error log has got since it is in use.
    #[must_use]
    pub fn error_log_entries(&self) -> u64 {
        self.error_log_entries.get()
    }

    /// Requests of all kinds that failed.
    pub(super) fn failures(&self) -> u64 {
        let kinds = [&self.read, &self.write, &self.other];
        kinds.iter().map(|kind| kind.errors.get()).sum()
    }

    /// Requests whose payload had to be copied, because the drive does not reach it as it lay.
    #[must_use]
    pub fn copies(&self) -> u64 {
        self.copies.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_fall_into_their_buckets() {
        for (latency_ns, bucket) in [(0, 0), (1024, 0), (1025, 1), (2048, 1), (2049, 2)] {
            assert_eq!(bucket_of(latency_ns), bucket, "{latency_ns}");
        }
        assert_eq!(bucket_of(u64::MAX), LATENCY_BUCKETS - 1);
        for index in 0..LATENCY_BUCKETS - 1 {
            let limit = bucket_limit_ns(index).unwrap();
            assert_eq!((bucket_of(limit), bucket_of(limit + 1)), (index, index + 1));
        }
        assert_eq!(bucket_limit_ns(LATENCY_BUCKETS - 1), None);
    }

    #[test]
    fn failures_move_no_bytes() {
        let stats = DriveStats::default();
        stats.count(Kind::Write, true, 4096, 10_000);
        stats.count(Kind::Write, false, 4096, 20_000);
        let seen = stats.snapshot(Kind::Write);
        assert_eq!((seen.requests, seen.errors, seen.bytes), (2, 1, 4096));
        assert_eq!(seen.latency_ns, 30_000);
        assert_eq!(stats.snapshot(Kind::Read), KindSnapshot::default());
    }
}
