//! What went wrong, as the host is told: one map from block outcomes to NVMe status, and [`Fail`],
//! which every command handler returns for an unsuccessful end.

use penstock_block::BlockError;
use penstock_nvme::Status;
use penstock_seam::{LinkError, Reply};

use crate::metrics::ErrorClass;

/// Parameter error location that names no field (Base 2.1, 5.1.12.1.2).
pub const NO_LOCATION: u16 = 0xffff;

/// Byte offsets in the submission queue entry, for the error information log.
pub mod at {
    /// Opcode.
    pub const OPCODE: u16 = 0;
    /// Fused operation bits and PSDT.
    pub const FLAGS: u16 = 1;
    /// Namespace identifier.
    pub const NSID: u16 = 4;
    /// First SGL descriptor.
    pub const SGL1: u16 = 24;
    /// Length within the first SGL descriptor.
    pub const SGL1_LENGTH: u16 = 32;
    /// Command dword 10.
    pub const CDW10: u16 = 40;
    /// Command dword 11.
    pub const CDW11: u16 = 44;
    /// Command dword 12.
    pub const CDW12: u16 = 48;
    /// Command dword 13.
    pub const CDW13: u16 = 52;
    /// Command dword 14.
    pub const CDW14: u16 = 56;

    /// Bit `bit` (0 to 7) of byte `byte`, in the log's encoding.
    pub const fn bit(byte: u16, bit: u16) -> u16 {
        byte | bit << 8
    }
}

/// An unsuccessful end of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fail {
    /// Status for the completion.
    pub status: Status,
    /// Byte (and bit, in bits 10:8) of the submission queue entry at fault, or [`NO_LOCATION`].
    pub location: u16,
    /// First block the error is about, 0 where it is about none.
    pub lba: u64,
    /// Completion dwords 0 and 1.
    pub result: u64,
}

impl Fail {
    /// A failure that no single field of the command explains.
    pub const fn new(status: Status) -> Fail {
        Fail {
            status,
            location: NO_LOCATION,
            lba: 0,
            result: 0,
        }
    }

    /// A failure of the field at byte offset `location`.
    pub const fn field(status: Status, location: u16) -> Fail {
        Fail {
            status,
            location,
            lba: 0,
            result: 0,
        }
    }

    /// Invalid Field in Command, DNR, for the field at byte offset `location`.
    pub const fn invalid_field(location: u16) -> Fail {
        Fail::field(Status::INVALID_FIELD.dnr(), location)
    }

    /// The same with the first block it is about.
    #[must_use]
    pub const fn with_lba(mut self, lba: u64) -> Fail {
        self.lba = lba;
        self
    }

    /// The same with completion dwords 0 and 1.
    #[must_use]
    pub const fn with_result(mut self, result: u64) -> Fail {
        self.result = result;
        self
    }

    /// The reply.
    pub fn reply(&self) -> Reply {
        let mut reply = Reply::status(self.status.wire());
        reply.result = self.result;
        reply
    }
}

impl From<BlockError> for Fail {
    fn from(error: BlockError) -> Fail {
        Fail::new(block_status(error))
    }
}

impl From<LinkError> for Fail {
    fn from(error: LinkError) -> Fail {
        Fail::new(link_status(error))
    }
}

/// Status of a block error: the one place where they meet. DNR is set where the same command would
/// fail again, left clear where trying again can help.
pub const fn block_status(error: BlockError) -> Status {
    match error {
        BlockError::OutOfRange => Status::LBA_OUT_OF_RANGE.dnr(),
        BlockError::ReadOnly => Status::NAMESPACE_WRITE_PROTECTED.dnr(),
        BlockError::CapacityExceeded => Status::CAPACITY_EXCEEDED.dnr(),
        BlockError::ReadMedia | BlockError::Integrity => Status::UNRECOVERED_READ_ERROR.dnr(),
        BlockError::WriteMedia => Status::WRITE_FAULT.dnr(),
        BlockError::Gone => Status::INTERNAL_ERROR.dnr(),
        BlockError::NotReady => Status::NAMESPACE_NOT_READY,
        BlockError::TimedOut | BlockError::NoResources => Status::COMMAND_INTERRUPTED,
        BlockError::Aborted => Status::ABORT_REQUESTED,
        BlockError::Unsupported => Status::INVALID_OPCODE.dnr(),
        BlockError::Internal => Status::INTERNAL_ERROR,
    }
}

/// Status of host data that did not arrive.
pub const fn link_status(error: LinkError) -> Status {
    match error {
        LinkError::Closed => Status::ABORT_SQ_DELETION,
        LinkError::DataDigest => Status::TRANSIENT_TRANSPORT_ERROR,
        LinkError::Aborted => Status::ABORT_REQUESTED,
    }
}

/// The class an error is counted by.
pub fn error_class(status: Status) -> ErrorClass {
    let code = status.code();
    match code {
        Status::COMPARE_FAILURE => ErrorClass::CompareFailure,
        Status::TRANSIENT_TRANSPORT_ERROR | Status::DATA_TRANSFER_ERROR => ErrorClass::Transport,
        Status::INTERNAL_ERROR => ErrorClass::Internal,
        Status::ABORT_REQUESTED
        | Status::ABORT_SQ_DELETION
        | Status::ABORT_FAILED_FUSED
        | Status::ABORT_MISSING_FUSED => ErrorClass::Aborted,
        Status::COMMAND_INTERRUPTED | Status::CAPACITY_EXCEEDED | Status::NAMESPACE_NOT_READY => {
            ErrorClass::Resource
        }
        _ if code.sct() == 2 => ErrorClass::Media,
        _ => ErrorClass::Host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_error_has_its_status() {
        // (error, SCT, SC, DNR, class)
        let table = [
            (BlockError::OutOfRange, 0, 0x80, true, ErrorClass::Host),
            (BlockError::ReadOnly, 0, 0x20, true, ErrorClass::Host),
            (
                BlockError::CapacityExceeded,
                0,
                0x81,
                true,
                ErrorClass::Resource,
            ),
            (BlockError::ReadMedia, 2, 0x81, true, ErrorClass::Media),
            (BlockError::WriteMedia, 2, 0x80, true, ErrorClass::Media),
            (BlockError::Integrity, 2, 0x81, true, ErrorClass::Media),
            (BlockError::Gone, 0, 0x06, true, ErrorClass::Internal),
            (BlockError::NotReady, 0, 0x82, false, ErrorClass::Resource),
            (BlockError::TimedOut, 0, 0x21, false, ErrorClass::Resource),
            (BlockError::Aborted, 0, 0x07, false, ErrorClass::Aborted),
            (
                BlockError::NoResources,
                0,
                0x21,
                false,
                ErrorClass::Resource,
            ),
            (BlockError::Unsupported, 0, 0x01, true, ErrorClass::Host),
            (BlockError::Internal, 0, 0x06, false, ErrorClass::Internal),
        ];
        for (error, sct, sc, dnr, class) in table {
            let status = block_status(error);
            assert_eq!(
                (status.sct(), status.sc(), status.is_dnr()),
                (sct, sc, dnr),
                "{error:?}"
            );
            assert_eq!(error_class(status), class, "{error:?}");
        }
    }

    #[test]
    fn host_data_that_fails_to_arrive_may_be_sent_again() {
        let table = [
            (LinkError::Closed, 0x08, ErrorClass::Aborted),
            (LinkError::DataDigest, 0x22, ErrorClass::Transport),
            (LinkError::Aborted, 0x07, ErrorClass::Aborted),
        ];
        for (error, sc, class) in table {
            let status = link_status(error);
            assert_eq!(
                (status.sct(), status.sc(), status.is_dnr()),
                (0, sc, false),
                "{error:?}"
            );
            assert_eq!(error_class(status), class);
        }
    }

    #[test]
    fn a_reply_carries_status_and_result() {
        let reply = Fail::invalid_field(at::bit(at::CDW10, 3))
            .with_result(7)
            .with_lba(9)
            .reply();
        assert_eq!(reply.status, Status::INVALID_FIELD.dnr().wire());
        assert_eq!((reply.result, reply.close), (7, false));
        assert!(reply.payload.is_empty() && reply.established.is_none());
    }
}
