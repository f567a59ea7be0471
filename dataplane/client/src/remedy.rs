//! What a person can do about a status.

use penstock_nvme::Status;

/// What to do about a status of an admin or I/O command, where that is known.
pub(crate) fn of(status: Status) -> Option<&'static str> {
    REMEDIES
        .iter()
        .find(|(code, _)| *code == status.code())
        .map(|(_, remedy)| *remedy)
}

/// What to do about a refused Connect (Base 2.1, 6.3).
pub(crate) fn of_connect(status: Status) -> Option<&'static str> {
    CONNECT
        .iter()
        .find(|(code, _)| *code == status.code())
        .map(|(_, r)| *r)
        .or_else(|| of(status))
}

const REMEDIES: &[(Status, &str)] = &[
    (
        Status::INVALID_NAMESPACE,
        "list the active namespaces with `penstock identify`",
    ),
    (
        Status::LBA_OUT_OF_RANGE,
        "the range ends behind the namespace; it may have been resized",
    ),
    (
        Status::INVALID_FIELD,
        "the length may exceed the controller's MDTS or the block size differ",
    ),
    (
        Status::NAMESPACE_WRITE_PROTECTED,
        "the namespace is read-only on the target",
    ),
    (
        Status::CAPACITY_EXCEEDED,
        "free space on the target's backing store",
    ),
    (
        Status::NAMESPACE_NOT_READY,
        "try again shortly; see the target's log if it stays so",
    ),
    (
        Status::KEEP_ALIVE_EXPIRED,
        "raise the keep alive timeout or find what stalls this host",
    ),
    (
        Status::COMPARE_FAILURE,
        "the blocks hold something else than the compare data",
    ),
    (
        Status::UNRECOVERED_READ_ERROR,
        "see the target's log for the medium and its address",
    ),
    (
        Status::WRITE_FAULT,
        "see the target's log for the medium and its address",
    ),
    (Status::TRANSIENT_TRANSPORT_ERROR, "repeat the command"),
    (
        Status::INVALID_QUEUE_ID,
        "ask for no more I/O queues than the controller granted",
    ),
    (
        Status::INVALID_QUEUE_SIZE,
        "use a queue depth within the controller's CAP.MQES",
    ),
    (
        Status::RESERVATION_CONFLICT,
        "another host holds a reservation on the namespace",
    ),
    (
        Status::AUTHENTICATION_REQUIRED,
        "the subsystem wants in-band authentication: not supported",
    ),
];

const CONNECT: &[(Status, &str)] = &[
    (
        Status::CONNECT_INVALID_HOST,
        "allow this host NQN in the subsystem's `hosts`, or set `allow_any_host`",
    ),
    (
        Status::CONNECT_INVALID_PARAMETERS,
        "check the subsystem NQN: `penstock discover` lists what this target offers",
    ),
    (Status::CONNECT_CONTROLLER_BUSY, "try again shortly"),
    (
        Status::CONNECT_RESTART_DISCOVERY,
        "discover again: the subsystem has moved",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn do_not_retry_does_not_hide_the_remedy() {
        assert_eq!(
            of(Status::LBA_OUT_OF_RANGE.dnr()),
            of(Status::LBA_OUT_OF_RANGE)
        );
        assert!(of(Status::LBA_OUT_OF_RANGE).is_some());
        assert_eq!(of(Status::SUCCESS), None);
    }

    #[test]
    fn a_code_of_two_meanings_is_read_as_connect_means_it() {
        assert!(
            of_connect(Status::CONNECT_INVALID_HOST)
                .unwrap()
                .contains("allow_any_host")
        );
        assert_eq!(of(Status::INVALID_COMMAND_ID), None);
        assert_eq!(
            of_connect(Status::INVALID_QUEUE_ID),
            of(Status::INVALID_QUEUE_ID)
        );
    }
}
