//! Counters of a connection: one writer (its reactor), any reader.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter with a single writer: a plain load and store, no locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds on the one thread that writes.
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Adds a length.
    #[inline]
    pub(crate) fn add_len(&self, n: usize) {
        self.add(n as u64);
    }

    /// The value now.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counters of one connection, readable from any thread.
#[derive(Debug, Default)]
pub struct ConnectionStats {
    /// Bytes received, headers included.
    pub received_bytes: Counter,
    /// Bytes handed to the kernel for sending, headers included.
    pub sent_bytes: Counter,
    /// PDUs received with a good header.
    pub received_pdus: Counter,
    /// PDUs queued for sending.
    pub sent_pdus: Counter,
    /// Commands received.
    pub commands: Counter,
    /// Header digests that did not match.
    pub header_digest_errors: Counter,
    /// Data digests that did not match.
    pub data_digest_errors: Counter,
    /// Violations of the protocol by the host (each ends the connection).
    pub violations: Counter,
    /// Bytes of in-capsule data copied from a receive buffer to payload memory.
    pub in_capsule_copied_bytes: Counter,
    /// Bytes of H2CData copied from a receive buffer to payload memory.
    pub chunk_copied_bytes: Counter,
    /// Bytes the kernel wrote straight into payload memory.
    pub direct_bytes: Counter,
    /// Bytes set aside in a private copy because the command had no memory yet.
    pub stashed_bytes: Counter,
    /// Times receiving stopped because the host does not read or commands wait for memory.
    pub back_pressure: Counter,
}
