//! Counters of a reactor: one writer, any reader.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter only its reactor writes: a plain load and store, no locked instruction.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counters of a reactor, readable from any thread.
#[derive(Debug, Default)]
pub struct ReactorStats {
    pub(crate) rounds: Counter,
    pub(crate) busy_ticks: Counter,
    pub(crate) idle_ticks: Counter,
    pub(crate) sleeps: Counter,
    pub(crate) enters: Counter,
    pub(crate) completions: Counter,
    pub(crate) tasks_polled: Counter,
    pub(crate) messages: Counter,
    pub(crate) stalls: AtomicU64,
    pub(crate) recv_starved: Counter,
    pub(crate) recv_bytes: Counter,
    pub(crate) recv_direct_bytes: Counter,
    pub(crate) sent_bytes: Counter,
    pub(crate) sends: Counter,
    pub(crate) open_streams: AtomicU64,
    pub(crate) recv_buffers_held: AtomicU64,
}

/// What the counters read at one moment. Times in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatsSnapshot {
    /// Rounds of the loop.
    pub rounds: u64,
    /// Time in rounds that did something, in nanoseconds.
    pub busy_ns: u64,
    /// Time in rounds that did nothing or slept, in nanoseconds.
    pub idle_ns: u64,
    /// Times the reactor slept in the kernel.
    pub sleeps: u64,
    /// Calls of `io_uring_enter`.
    pub enters: u64,
    /// Completions handled.
    pub completions: u64,
    /// Task polls.
    pub tasks_polled: u64,
    /// Mailbox messages run.
    pub messages: u64,
    /// Rounds that took longer than the stall threshold.
    pub stalls: u64,
    /// Times a receive found no free receive buffer.
    pub recv_starved: u64,
    /// Bytes received into shared receive buffers.
    pub recv_bytes: u64,
    /// Bytes received directly into payload memory.
    pub recv_direct_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Send operations.
    pub sends: u64,
    /// Streams open now.
    pub open_streams: u64,
    /// Receive buffers held by chunks now.
    pub recv_buffers_held: u64,
}

impl ReactorStats {
    /// All counters now.
    pub fn snapshot(&self) -> StatsSnapshot {
        StatsSnapshot {
            rounds: self.rounds.get(),
            busy_ns: crate::ticks_to_ns(self.busy_ticks.get()),
            idle_ns: crate::ticks_to_ns(self.idle_ticks.get()),
            sleeps: self.sleeps.get(),
            enters: self.enters.get(),
            completions: self.completions.get(),
            tasks_polled: self.tasks_polled.get(),
            messages: self.messages.get(),
            stalls: self.stalls.load(Relaxed),
            recv_starved: self.recv_starved.get(),
            recv_bytes: self.recv_bytes.get(),
            recv_direct_bytes: self.recv_direct_bytes.get(),
            sent_bytes: self.sent_bytes.get(),
            sends: self.sends.get(),
            open_streams: self.open_streams.load(Relaxed),
            recv_buffers_held: self.recv_buffers_held.load(Relaxed),
        }
    }
}
