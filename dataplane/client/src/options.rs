//! How to connect.

use std::net::SocketAddr;
use std::time::Duration;

use penstock_nvme::nqn::{Nqn, uuid_nqn};

/// What a host wants of a TCP connection (TCP 1.1, 3.4.1, and NVMe Base 2.1, 6.3). The target may
/// agree to less.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Where the target listens.
    pub address: SocketAddr,
    /// The subsystem to connect to.
    pub subsystem_nqn: Nqn,
    /// Who we are.
    pub host_nqn: Nqn,
    /// Host identifier; the same for all controllers of one host.
    pub host_id: [u8; 16],
    /// Protect PDU headers with CRC32C.
    pub header_digest: bool,
    /// Protect PDU data with CRC32C.
    pub data_digest: bool,
    /// Keep alive timeout in milliseconds; 0 asks for none.
    pub keep_alive_timeout_ms: u32,
    /// Limit for the TCP connection and for each step of the handshake, in milliseconds.
    pub connect_timeout_ms: u64,
    /// Limit for one command, in milliseconds.
    pub command_timeout_ms: u64,
    /// Entries of the admin queue, counted from one; one less may be in flight.
    pub admin_queue_entries: u16,
    /// Transfer requests (R2T) the target may have outstanding for one command, 1 to 65536.
    pub ready_to_transfer_max: u32,
}

impl ConnectOptions {
    /// Options with the usual values: no digests, keep alive 30 s, command limit 30 s. Host NQN and
    /// identifier are made of `host_uuid`.
    pub fn new(address: SocketAddr, subsystem_nqn: Nqn, host_uuid: [u8; 16]) -> ConnectOptions {
        ConnectOptions {
            address,
            subsystem_nqn,
            host_nqn: uuid_nqn(host_uuid),
            host_id: host_uuid,
            header_digest: false,
            data_digest: false,
            keep_alive_timeout_ms: 30_000,
            connect_timeout_ms: 5_000,
            command_timeout_ms: 30_000,
            admin_queue_entries: 32,
            ready_to_transfer_max: 16,
        }
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    pub(crate) fn command_timeout(&self) -> Duration {
        Duration::from_millis(self.command_timeout_ms)
    }
}
