//! Counters of a connection: one writer (its reactor), any reader.

use std::ops::AddAssign;
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

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of one connection, readable from any thread.
        #[derive(Debug, Default)]
        pub struct ConnectionStats {
            $($(#[$doc])* pub $name: Counter,)*
        }

        /// What counters read at one moment, of one connection or of many together.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct StatsSnapshot {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl ConnectionStats {
            /// All counters now.
            pub fn snapshot(&self) -> StatsSnapshot {
                StatsSnapshot { $($name: self.$name.get(),)* }
            }
        }

        impl AddAssign for StatsSnapshot {
            fn add_assign(&mut self, other: StatsSnapshot) {
                $(self.$name = self.$name.wrapping_add(other.$name);)*
            }
        }
    };
}

counters! {
    /// Bytes received, headers included.
    received_bytes,
    /// Bytes handed to the kernel for sending, headers included.
    sent_bytes,
    /// PDUs received with a good header.
    received_pdus,
    /// PDUs queued for sending.
    sent_pdus,
    /// Commands received.
    commands,
    /// Header digests that did not match.
    header_digest_errors,
    /// Data digests that did not match.
    data_digest_errors,
    /// Violations of the protocol by the host (each ends its connection).
    violations,
    /// Bytes of in-capsule data copied from a receive buffer to payload memory.
    in_capsule_copied_bytes,
    /// Bytes of H2CData copied from a receive buffer to payload memory.
    chunk_copied_bytes,
    /// Bytes the kernel wrote straight into payload memory.
    direct_bytes,
    /// Bytes set aside in a private copy because the command had no memory yet.
    stashed_bytes,
    /// Times receiving stopped because the host does not read or commands wait for memory.
    back_pressure,
}
