//! Counters of namespaces and queues: written by one thread each, summed by whoever reads.
//!
//! A counter is an atomic that only its reactor writes, with a plain load and a plain store: no
//! read-modify-write, no shared cache line on the I/O path. Latencies go into a histogram whose
//! buckets grow by an eighth of a power of two (12.5 %), counted in clock ticks and converted to
//! nanoseconds by the reader.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use penstock_buffer::MemoryKind;

/// A counter that one thread writes and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning thread may call this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Replaces the value. Only the owning thread may call this.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The value now.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Kinds of I/O that are counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum IoKind {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Flush.
    Flush,
    /// Write Zeroes.
    WriteZeroes,
    /// Dataset Management with deallocate.
    Deallocate,
    /// Compare, alone or fused.
    Compare,
    /// Verify.
    Verify,
}

impl IoKind {
    /// Every kind, in the order of the arrays in [`NamespaceTotals`].
    pub const ALL: [IoKind; 7] = [
        IoKind::Read,
        IoKind::Write,
        IoKind::Flush,
        IoKind::WriteZeroes,
        IoKind::Deallocate,
        IoKind::Compare,
        IoKind::Verify,
    ];

    /// Label for metrics.
    pub fn name(self) -> &'static str {
        match self {
            IoKind::Read => "read",
            IoKind::Write => "write",
            IoKind::Flush => "flush",
            IoKind::WriteZeroes => "write_zeroes",
            IoKind::Deallocate => "deallocate",
            IoKind::Compare => "compare",
            IoKind::Verify => "verify",
        }
    }
}

/// Which histogram a kind goes to: reads, writes, everything else.
const LATENCY_CLASSES: usize = 3;

/// Labels of the latency histograms, in order.
pub const LATENCY_CLASS_NAMES: [&str; LATENCY_CLASSES] = ["read", "write", "other"];

/// Classes of status that errors are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum ErrorClass {
    /// The host asked for something invalid (a field, a range, a state).
    Host,
    /// The media failed (read, write, integrity, compare excluded).
    Media,
    /// A compare found a difference.
    CompareFailure,
    /// Resources, capacity or the device's readiness.
    Resource,
    /// Aborted: by the host, with its queue, or with its fused partner.
    Aborted,
    /// Transport: data did not arrive intact.
    Transport,
    /// A mistake of ours.
    Internal,
}

impl ErrorClass {
    /// Every class, in the order of the arrays in [`NamespaceTotals`].
    pub const ALL: [ErrorClass; 7] = [
        ErrorClass::Host,
        ErrorClass::Media,
        ErrorClass::CompareFailure,
        ErrorClass::Resource,
        ErrorClass::Aborted,
        ErrorClass::Transport,
        ErrorClass::Internal,
    ];

    /// Label for metrics.
    pub fn name(self) -> &'static str {
        match self {
            ErrorClass::Host => "host",
            ErrorClass::Media => "media",
            ErrorClass::CompareFailure => "compare_failure",
            ErrorClass::Resource => "resource",
            ErrorClass::Aborted => "aborted",
            ErrorClass::Transport => "transport",
            ErrorClass::Internal => "internal",
        }
    }
}

/// Labels of the memory paths, in the order of [`NamespaceTotals::path_read_bytes`].
pub const PATH_NAMES: [&str; 4] = ["pool", "device", "controller", "guest"];

fn path_index(kind: MemoryKind) -> usize {
    match kind {
        MemoryKind::Pool => 0,
        MemoryKind::Device => 1,
        MemoryKind::Controller => 2,
        MemoryKind::Guest => 3,
    }
}

const SUB_BITS: u32 = 3;
const SUBS: usize = 1 << SUB_BITS;
/// Values of up to 2^40 ticks (minutes, at any clock rate in use); longer ones count as that.
const MAX_BITS: u32 = 40;
/// Number of buckets of a latency histogram.
pub const BUCKETS: usize = (MAX_BITS - SUB_BITS + 1) as usize * SUBS;

/// Bucket of a value: exact below 8, then eight buckets for each power of two.
#[inline]
fn bucket_of(value: u64) -> usize {
    const MASK: u64 = SUBS as u64 - 1;
    if value <= MASK {
        return usize::try_from(value).unwrap_or(0);
    }
    let shift = 63 - value.leading_zeros() - SUB_BITS;
    let index = ((u64::from(shift) + 1) << SUB_BITS) + ((value >> shift) & MASK);
    usize::try_from(index).map_or(BUCKETS - 1, |index| index.min(BUCKETS - 1))
}

/// The smallest value above the bucket `index`.
fn bucket_end(index: usize) -> u64 {
    let (octave, sub) = (index / SUBS, index % SUBS);
    if octave == 0 {
        sub as u64 + 1
    } else {
        (SUBS + sub + 1) as u64 * (1 << (octave - 1))
    }
}

/// Histogram of ticks, one writer.
#[derive(Debug)]
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    sum: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram {
            buckets: array::from_fn(|_| Counter::default()),
            sum: Counter::default(),
        }
    }
}

impl Histogram {
    /// Counts one value.
    #[inline]
    pub fn record(&self, ticks: u64) {
        self.buckets[bucket_of(ticks)].add(1);
        self.sum.add(ticks);
    }
}

/// Latencies summed over all writers, in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LatencyTotals {
    /// (upper bound in nanoseconds, count) of each bucket that is not empty, ascending.
    pub buckets: Vec<(u64, u64)>,
    /// Number of values.
    pub count: u64,
    /// Sum of the values in nanoseconds.
    pub sum_ns: u64,
}

impl LatencyTotals {
    /// The upper bound in nanoseconds of the bucket that the `q` quantile (0 to 1) lies in.
    pub fn quantile_ns(&self, q: f64) -> u64 {
        let mut left = (self.count as f64 * q).ceil().max(1.0);
        for &(end, count) in &self.buckets {
            left -= count as f64;
            if left <= 0.0 {
                return end;
            }
        }
        self.buckets.last().map_or(0, |&(end, _)| end)
    }
}

fn ticks_to_ns(ticks: u64, per_second: u64) -> u64 {
    let ns = u128::from(ticks) * 1_000_000_000 / u128::from(per_second.max(1));
    u64::try_from(ns).unwrap_or(u64::MAX)
}

/// Counters of one namespace on one reactor.
#[derive(Debug, Default)]
pub struct NamespaceShard {
    ops: [Counter; IoKind::ALL.len()],
    read_bytes: Counter,
    written_bytes: Counter,
    path_read_bytes: [Counter; PATH_NAMES.len()],
    path_written_bytes: [Counter; PATH_NAMES.len()],
    errors: [Counter; ErrorClass::ALL.len()],
    latency: [Histogram; LATENCY_CLASSES],
}

impl NamespaceShard {
    /// Counts a read that succeeded.
    #[inline]
    pub fn read(&self, bytes: u64, kind: MemoryKind, ticks: u64) {
        self.ops[IoKind::Read as usize].add(1);
        self.read_bytes.add(bytes);
        self.path_read_bytes[path_index(kind)].add(bytes);
        self.latency[0].record(ticks);
    }

    /// Counts a write that succeeded.
    #[inline]
    pub fn written(&self, bytes: u64, kind: MemoryKind, ticks: u64) {
        self.ops[IoKind::Write as usize].add(1);
        self.written_bytes.add(bytes);
        self.path_written_bytes[path_index(kind)].add(bytes);
        self.latency[1].record(ticks);
    }

    /// Counts a command of another kind that succeeded.
    #[inline]
    pub fn other(&self, kind: IoKind, ticks: u64) {
        self.ops[kind as usize].add(1);
        self.latency[2].record(ticks);
    }

    /// Counts a command that failed.
    pub fn failed(&self, class: ErrorClass) {
        self.errors[class as usize].add(1);
    }
}

/// Counters of one namespace, summed over reactors.
#[derive(Clone, Debug, Default)]
pub struct NamespaceTotals {
    /// Commands that succeeded, by [`IoKind::ALL`].
    pub ops: [u64; IoKind::ALL.len()],
    /// Bytes that hosts read.
    pub read_bytes: u64,
    /// Bytes that hosts wrote.
    pub written_bytes: u64,
    /// Bytes of reads by the memory they went through, by [`PATH_NAMES`].
    pub path_read_bytes: [u64; PATH_NAMES.len()],
    /// Bytes of writes by the memory they went through, by [`PATH_NAMES`].
    pub path_written_bytes: [u64; PATH_NAMES.len()],
    /// Commands that failed, by [`ErrorClass::ALL`].
    pub errors: [u64; ErrorClass::ALL.len()],
    /// Latencies, by [`LATENCY_CLASS_NAMES`], from the capsule's arrival to the completion.
    pub latency: [LatencyTotals; LATENCY_CLASSES],
}

impl NamespaceTotals {
    /// Sums shards; the clock has `per_second` ticks a second.
    pub fn sum<'a>(
        shards: impl IntoIterator<Item = &'a NamespaceShard>,
        per_second: u64,
    ) -> NamespaceTotals {
        let mut totals = NamespaceTotals::default();
        let mut buckets = [[0u64; BUCKETS]; LATENCY_CLASSES];
        let mut sums = [0u64; LATENCY_CLASSES];
        for shard in shards {
            add_all(&mut totals.ops, &shard.ops);
            totals.read_bytes += shard.read_bytes.get();
            totals.written_bytes += shard.written_bytes.get();
            add_all(&mut totals.path_read_bytes, &shard.path_read_bytes);
            add_all(&mut totals.path_written_bytes, &shard.path_written_bytes);
            add_all(&mut totals.errors, &shard.errors);
            for (class, histogram) in shard.latency.iter().enumerate() {
                add_all(&mut buckets[class], &histogram.buckets);
                sums[class] = sums[class].saturating_add(histogram.sum.get());
            }
        }
        for (class, latency) in totals.latency.iter_mut().enumerate() {
            latency.sum_ns = ticks_to_ns(sums[class], per_second);
            for (index, &count) in buckets[class].iter().enumerate().filter(|(_, c)| **c > 0) {
                latency.count += count;
                latency
                    .buckets
                    .push((ticks_to_ns(bucket_end(index), per_second), count));
            }
        }
        totals
    }

    /// Reads and other commands that fetch data, as SMART counts them (Base 2.1, 5.1.12.1.3).
    pub fn host_reads(&self) -> u64 {
        self.ops[IoKind::Read as usize] + self.ops[IoKind::Compare as usize]
    }

    /// Writes, as SMART counts them.
    pub fn host_writes(&self) -> u64 {
        self.ops[IoKind::Write as usize]
    }

    /// Adds the counts that outlive a namespace (SMART's); latencies are left out.
    pub fn absorb(&mut self, other: &NamespaceTotals) {
        self.read_bytes += other.read_bytes;
        self.written_bytes += other.written_bytes;
        for (to, from) in self.ops.iter_mut().zip(other.ops) {
            *to += from;
        }
        for (to, from) in self.errors.iter_mut().zip(other.errors) {
            *to += from;
        }
    }
}

fn add_all(totals: &mut [u64], counters: &[Counter]) {
    for (total, counter) in totals.iter_mut().zip(counters) {
        *total = total.saturating_add(counter.get());
    }
}

/// Counters of one queue (one connection), written by its reactor.
#[derive(Debug, Default)]
pub struct QueueCounters {
    /// Commands completed, with success or not.
    pub commands: Counter,
    /// Commands completed with an error.
    pub errors: Counter,
    /// Bytes read by the host.
    pub read_bytes: Counter,
    /// Bytes written by the host.
    pub written_bytes: Counter,
    /// Ticks during which at least one I/O command was outstanding.
    pub busy_ticks: Counter,
}

/// Counters of one controller, summed over its queues.
#[derive(Clone, Copy, Debug, Default)]
pub struct ControllerTotals {
    /// Commands completed.
    pub commands: u64,
    /// Commands completed with an error.
    pub errors: u64,
    /// Bytes read by the host.
    pub read_bytes: u64,
    /// Bytes written by the host.
    pub written_bytes: u64,
    /// The longest busy time of any one queue, in ticks.
    pub busy_ticks: u64,
}

impl ControllerTotals {
    /// Adds one queue's counters.
    pub fn add(&mut self, queue: &QueueCounters) {
        self.commands += queue.commands.get();
        self.errors += queue.errors.get();
        self.read_bytes += queue.read_bytes.get();
        self.written_bytes += queue.written_bytes.get();
        self.busy_ticks = self.busy_ticks.max(queue.busy_ticks.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_are_contiguous_and_within_an_eighth() {
        for index in 0..BUCKETS - 1 {
            let end = bucket_end(index);
            assert_eq!(bucket_of(end - 1), index, "last value of bucket {index}");
            assert_eq!(
                bucket_of(end),
                index + 1,
                "first value after bucket {index}"
            );
        }
    }

    proptest! {
        #[test]
        fn resolution_is_an_eighth(value in 8u64..(1 << 39)) {
            let end = bucket_end(bucket_of(value));
            prop_assert!(end > value && (end - value) as f64 <= value as f64 / 8.0 + 1.0);
        }
    }

    #[test]
    fn huge_values_count_in_the_last_bucket() {
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn totals_sum_shards_and_convert_ticks() {
        let (a, b) = (NamespaceShard::default(), NamespaceShard::default());
        a.read(4096, MemoryKind::Pool, 1000);
        b.read(512, MemoryKind::Device, 2000);
        b.written(8192, MemoryKind::Guest, 10);
        b.failed(ErrorClass::Media);
        let totals = NamespaceTotals::sum([&a, &b], 2_000_000_000);
        assert_eq!((totals.host_reads(), totals.host_writes()), (2, 1));
        assert_eq!((totals.read_bytes, totals.written_bytes), (4608, 8192));
        assert_eq!(totals.path_read_bytes, [4096, 512, 0, 0]);
        assert_eq!(totals.path_written_bytes, [0, 0, 0, 8192]);
        assert_eq!(totals.errors[ErrorClass::Media as usize], 1);
        assert_eq!(totals.latency[0].count, 2);
        assert_eq!(totals.latency[0].sum_ns, 1500);
        let p50 = totals.latency[0].quantile_ns(0.5);
        assert!((500..=563).contains(&p50), "{p50}");
        let p100 = totals.latency[0].quantile_ns(1.0);
        assert!((1000..=1125).contains(&p100), "{p100}");
    }
}
