//! What TCP connections have moved, summed over connections, those that are gone included.

use penstock_transport_tcp::ConnectionStats;

/// Sums of [`ConnectionStats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes received, headers included.
    pub received_bytes: u64,
    /// Bytes sent, headers included.
    pub sent_bytes: u64,
    /// PDUs received.
    pub received_pdus: u64,
    /// PDUs sent.
    pub sent_pdus: u64,
    /// Commands received.
    pub commands: u64,
    /// Header digests that did not match.
    pub header_digest_errors: u64,
    /// Data digests that did not match.
    pub data_digest_errors: u64,
    /// Connections ended because the host broke the protocol.
    pub violations: u64,
    /// In-capsule data copied to payload memory, in bytes.
    pub in_capsule_copied_bytes: u64,
    /// H2CData copied from receive buffers to payload memory, in bytes.
    pub chunk_copied_bytes: u64,
    /// Data the kernel wrote straight to payload memory, in bytes.
    pub direct_bytes: u64,
    /// Data set aside because its command had no memory yet, in bytes.
    pub stashed_bytes: u64,
    /// Times receiving stopped to hold a host back.
    pub back_pressure: u64,
}

impl Traffic {
    /// Adds a connection's counters as they stand.
    pub fn add(&mut self, stats: &ConnectionStats) {
        for (sum, counter) in [
            (&mut self.received_bytes, &stats.received_bytes),
            (&mut self.sent_bytes, &stats.sent_bytes),
            (&mut self.received_pdus, &stats.received_pdus),
            (&mut self.sent_pdus, &stats.sent_pdus),
            (&mut self.commands, &stats.commands),
            (&mut self.header_digest_errors, &stats.header_digest_errors),
            (&mut self.data_digest_errors, &stats.data_digest_errors),
            (&mut self.violations, &stats.violations),
            (
                &mut self.in_capsule_copied_bytes,
                &stats.in_capsule_copied_bytes,
            ),
            (&mut self.chunk_copied_bytes, &stats.chunk_copied_bytes),
            (&mut self.direct_bytes, &stats.direct_bytes),
            (&mut self.stashed_bytes, &stats.stashed_bytes),
            (&mut self.back_pressure, &stats.back_pressure),
        ] {
            *sum += counter.get();
        }
    }
}
