//! The connection's state machine as a table: which PDU is welcome in which phase.

use penstock_nvme::tcp::{FatalError, PduType};

/// Phase of a connection (TCP 1.1, 3.2 and 3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// TCP is established; the host has to send ICReq.
    AwaitIcReq,
    /// Parameters are exchanged; a Connect has to succeed.
    AwaitConnect,
    /// The queue exists.
    Live,
    /// The last PDU is queued or sent; whatever comes is thrown away.
    Closing,
    /// The stream is gone.
    Closed,
}

/// What to do with a PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Process it.
    Accept,
    /// Throw it away.
    Discard,
    /// End the connection with this error; the field is the PDU type where one is named.
    Refuse(FatalError),
}

impl Phase {
    #[cfg(test)]
    pub(crate) const ALL: [Phase; 5] = [
        Phase::AwaitIcReq,
        Phase::AwaitConnect,
        Phase::Live,
        Phase::Closing,
        Phase::Closed,
    ];
}

/// The table (TCP 1.1, 3.5: fatal errors; a PDU of the wrong direction or an unknown type is an
/// invalid header field, a good one at the wrong time is a sequence error).
pub(crate) fn verdict(phase: Phase, kind: PduType) -> Verdict {
    use PduType::{
        C2hData, C2hTermReq, CapsuleCmd, CapsuleResp, H2cData, H2cTermReq, IcReq, IcResp, R2t,
    };
    use Verdict::{Accept, Discard, Refuse};
    match (phase, kind) {
        (Phase::Closing | Phase::Closed, _) => Discard,
        (_, IcResp | C2hTermReq | CapsuleResp | C2hData | R2t) => {
            Refuse(FatalError::InvalidHeaderField)
        }
        (_, H2cTermReq) => Accept,
        (Phase::AwaitIcReq, IcReq) => Accept,
        (Phase::AwaitIcReq, CapsuleCmd | H2cData) => Refuse(FatalError::SequenceError),
        (Phase::AwaitConnect | Phase::Live, CapsuleCmd | H2cData) => Accept,
        (Phase::AwaitConnect | Phase::Live, IcReq) => Refuse(FatalError::SequenceError),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TCP 1.1, 3.5: the whole matrix, a letter a PDU type in the order of its codes: `+` accept,
    /// `-` discard, `f` invalid header field, `s` sequence error.
    #[test]
    fn the_whole_matrix() {
        let expected = [
            (Phase::AwaitIcReq, "+f+fsfsff"),
            (Phase::AwaitConnect, "sf+f+f+ff"),
            (Phase::Live, "sf+f+f+ff"),
            (Phase::Closing, "---------"),
            (Phase::Closed, "---------"),
        ];
        assert_eq!(expected.map(|(phase, _)| phase), Phase::ALL);
        for (phase, row) in expected {
            let found: String = PduType::ALL
                .iter()
                .map(|&kind| match verdict(phase, kind) {
                    Verdict::Accept => '+',
                    Verdict::Discard => '-',
                    Verdict::Refuse(FatalError::InvalidHeaderField) => 'f',
                    Verdict::Refuse(FatalError::SequenceError) => 's',
                    Verdict::Refuse(_) => '?',
                })
                .collect();
            assert_eq!(found, row, "{phase:?}");
        }
    }
}
