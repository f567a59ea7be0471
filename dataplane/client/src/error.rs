//! What can go wrong for a user of the initiator.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use penstock_nvme::Status;
use penstock_nvme::tcp::PduError;
use penstock_units::Nsid;

/// Which command an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandName {
    /// The specification's name of the command.
    pub name: &'static str,
    /// The namespace it addressed, where it addressed one.
    pub nsid: Option<Nsid>,
}

impl fmt::Display for CommandName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.nsid {
            Some(nsid) => write!(f, "{} on namespace {nsid}", self.name),
            None => f.write_str(self.name),
        }
    }
}

/// Why a connection ended. Every command that was in flight is told the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The user of the library closed it.
    #[error("it was closed on this side")]
    Local,
    /// The target ended the stream in order.
    #[error("the target closed it")]
    Remote,
    /// The socket failed.
    #[error("the socket failed: {0}")]
    Socket(io::ErrorKind),
    /// The target sent a C2HTermReq PDU (TCP 1.1, 3.6.2.4).
    #[error(
        "the target terminated it: fatal error status {status:#06x} ({meaning}), field offset {offset}"
    )]
    Terminated {
        /// Fatal Error Status.
        status: u16,
        /// What the specification calls it.
        meaning: &'static str,
        /// Fatal Error Information: offset of the bad field, where the status has one.
        offset: u32,
    },
    /// The target broke the protocol; an H2CTermReq PDU was sent (TCP 1.1, 3.6.2.3).
    #[error("the target broke the protocol: {0}")]
    Protocol(PduError),
    /// The handshake was not over in time.
    #[error("the target did not answer the connection request in time")]
    HandshakeTimeout,
}

/// Why an operation of the initiator failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No TCP connection could be made.
    #[error(
        "cannot connect to {address}: {cause}; check that a target listens there and no firewall is between"
    )]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// What the system said.
        cause: io::Error,
    },
    /// The connection ended while the command waited or was in flight. Whether the target executed
    /// it is not known.
    #[error("connection to {address} is lost: {reason}; during {command}")]
    Closed {
        /// The peer.
        address: SocketAddr,
        /// Why.
        reason: CloseReason,
        /// What was going on.
        command: CommandName,
    },
    /// The target refused the Connect command (Base 2.1, 6.3).
    #[error("{address} refuses to connect {nqn}: {}{}", status.display_fabrics(), Remedy(remedy))]
    Refused {
        /// The peer.
        address: SocketAddr,
        /// The subsystem asked for.
        nqn: String,
        /// The status of the Connect command.
        status: Status,
        /// What to do about it, where that is known.
        remedy: Option<&'static str>,
    },
    /// The controller answered with a status other than success.
    #[error("{command} failed: {status}{}", Remedy(remedy))]
    Status {
        /// The command.
        command: CommandName,
        /// The controller's status.
        status: Status,
        /// What to do about it, where that is known.
        remedy: Option<&'static str>,
    },
    /// The command did not complete in time. The controller may still execute it.
    #[error(
        "{command} was not completed in {after_ms} ms; abort it, or disconnect and connect again"
    )]
    TimedOut {
        /// The command.
        command: CommandName,
        /// The limit in milliseconds.
        after_ms: u64,
    },
    /// The data digest of received data did not match: the data is not to be trusted.
    #[error("{command}: data digest mismatch, the data was damaged on its way; repeat the command")]
    DataDigest {
        /// The command.
        command: CommandName,
    },
    /// The controller reported success but sent less data than asked for.
    #[error("{command}: the controller sent {received} of {expected} bytes and reported success")]
    ShortData {
        /// The command.
        command: CommandName,
        /// Bytes asked for.
        expected: usize,
        /// Bytes received.
        received: usize,
    },
    /// The call makes no sense as it is: nothing was sent.
    #[error("{command}: {what}")]
    Invalid {
        /// The command.
        command: CommandName,
        /// What is wrong and what to do.
        what: String,
    },
    /// The controller cannot do what is needed, or offers nonsense.
    #[error("controller at {address}: {what}")]
    Controller {
        /// The peer.
        address: SocketAddr,
        /// What is wrong and what to do.
        what: String,
    },
}

struct Remedy<'a>(&'a Option<&'static str>);

impl fmt::Display for Remedy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
    }
}

impl ClientError {
    /// The controller's status, where it answered.
    pub fn status(&self) -> Option<Status> {
        match self {
            ClientError::Status { status, .. } => Some(*status),
            _ => None,
        }
    }
}
