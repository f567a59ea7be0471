//! The one seam between transports and the subsystem: a capsule in, a responder out.
//!
//! DESIGN names the seam but no crate for it: it has its own, so that neither side depends on the
//! other and the rule can be tested. A transport knows how to move capsules and payloads and calls
//! a [`Handler`]; the subsystem knows what a capsule means and calls the [`Link`] of the command.
#![forbid(unsafe_code)]

use std::future::Future;
use std::rc::Rc;

use penstock_buffer::{Lease, Payload};

/// One command, as it came in.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// The 64-byte submission queue entry, little-endian as on the wire.
    pub sqe: [u8; 64],
    /// Bytes of payload the command's SGL describes, in the direction its opcode tells.
    pub data_len: u32,
    /// When the capsule was received, in the clock's ticks (same clock as the subsystem's).
    pub received_ticks: u64,
}

/// Why the host's data did not arrive. The command is over; the transport drops its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The connection is going away.
    #[error("connection closed")]
    Closed,
    /// A data digest did not match; the transport has noted it. The command is to be answered with
    /// Transient Transport Error.
    #[error("data digest mismatch")]
    DataDigest,
    /// The host took the command back.
    #[error("aborted by the host")]
    Aborted,
}

/// What a transport offers to the command it carries. One for each command in flight.
pub trait Link {
    /// The host's own memory for this payload, where a device can reach it directly (vhost-user
    /// guest memory). `None` over a network.
    fn host_memory(&self) -> Option<Payload> {
        None
    }

    /// Whether payload of a reply must not change once handed over (a digest is computed over it).
    /// Then lent device memory that others write to must not be used.
    fn needs_private_payload(&self) -> bool;

    /// From here on a device works on the command: it can no longer be taken back by Abort.
    fn committed(&self);

    /// Moves the host's data (`into.len()` bytes, at most the command's `data_len`) into the lease:
    /// in-capsule data is copied at once, the rest is fetched (R2T, RDMA READ). Call it once.
    fn receive(&self, into: Lease) -> impl Future<Output = Result<Lease, LinkError>>;
}

/// What became of a successful Fabrics Connect: the transport needs it for flow control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Established {
    /// Queue identifier, 0 for admin.
    pub queue_id: u16,
    /// Entries in the submission queue (not 0's based).
    pub queue_entries: u16,
    /// Whether the host disabled SQ flow control (SQHD is then FFFFh).
    pub flow_control_disabled: bool,
}

/// A command's answer. Exactly one for every command.
#[derive(Debug)]
pub struct Reply {
    /// Completion dwords 0 and 1.
    pub result: u64,
    /// Status field, bits 15:1 as on the wire with the phase bit clear: `(DNR|M|CRD|SCT|SC) << 1`.
    pub status: u16,
    /// Data for the host (controller-to-host commands), empty otherwise.
    pub payload: Payload,
    /// Set on the reply to a successful Connect.
    pub established: Option<Established>,
    /// Close the connection after this reply (Disconnect, fatal conditions).
    pub close: bool,
}

impl Reply {
    /// A reply without data.
    pub fn status(status: u16) -> Reply {
        Reply {
            result: 0,
            status,
            payload: Payload::none(),
            established: None,
            close: false,
        }
    }
}

/// What the transport offers to whoever must act on a connection from outside (controller reset,
/// keep-alive expiry, Abort). Called on the connection's own reactor.
pub trait ConnectionControl {
    /// Takes the command back if it still waits (for memory, for the host's data, for an event):
    /// its future is dropped and it is answered with `status`. False where no such command is
    /// outstanding or a device works on it already.
    fn abort(&self, command_id: u16, status: u16) -> bool;

    /// Closes the connection once replies already given are sent; nothing more is read.
    fn close(&self, reason: &'static str);
}

/// Meaning of the commands of one connection. Lives on the connection's reactor.
pub trait Handler: 'static {
    /// Executes one command. Called in the order of arrival; the first poll follows at once, so
    /// fused pairs meet in order. Every call resolves to exactly one reply.
    fn execute<L: Link + 'static>(
        self: Rc<Self>,
        command: Command,
        link: L,
    ) -> impl Future<Output = Reply> + 'static;

    /// Gives the handler the means to act on its connection, before the first command.
    fn attach(&self, control: Rc<dyn ConnectionControl>);

    /// A batch of capsules or data arrived (for traffic-based keep alive).
    fn traffic(&self, now_ticks: u64);

    /// The connection is gone; commands in flight are being dropped.
    fn closed(&self);

    /// NQN of the host, once a Connect has named it: for the transport's log.
    fn host_nqn(&self) -> Option<String> {
        None
    }
}
