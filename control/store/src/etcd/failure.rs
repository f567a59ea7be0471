//! What an error of etcd means.

use etcd_client::Error;

use crate::StoreError;

/// A request that failed.
#[derive(Debug)]
pub(super) struct Failure {
    /// What to tell the caller.
    pub(super) error: StoreError,
    /// Whether trying again may help.
    pub(super) passes: bool,
    /// Whether the request certainly had no effect.
    pub(super) certain: bool,
    /// What etcd complains of is the login, which may be out of date.
    pub(super) login: bool,
}

/// gRPC's codes (its specification, "Status codes and their use in gRPC").
mod code {
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const FAILED_PRECONDITION: i32 = 9;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

impl Failure {
    /// The request was refused; asking again gives the same.
    pub(super) fn refused(error: StoreError) -> Self {
        Self {
            error,
            passes: false,
            certain: true,
            login: false,
        }
    }

    /// No answer, and the request may have had its effect.
    pub(super) fn unanswered(what: impl Into<String>) -> Self {
        Self {
            error: StoreError::Unavailable(what.into()),
            passes: true,
            certain: false,
            login: false,
        }
    }

    /// The request did not get as far as having an effect.
    pub(super) fn not_sent(mut self) -> Self {
        self.certain = true;
        self
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match &error {
            Error::GRpcStatus(status) => {
                let words = status.message();
                // `no leader` comes from the check before the request is looked at.
                let early = words.contains("no leader") || never_connected(status);
                let failure = of_status(status.code() as i32, words, &chain(status));
                if early { failure.not_sent() } else { failure }
            }
            Error::LeaseKeepAliveError(words) if words.contains("not found") => {
                Self::refused(StoreError::LeaseExpired)
            }
            Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::InvalidMetadataValue(_) => {
                Self::refused(StoreError::Internal(error.to_string()))
            }
            Error::TransportError(transport) => Self::unanswered(chain(transport)),
            other => Self::unanswered(other.to_string()),
        }
    }
}

/// What a status means: by etcd's words where its code says too little.
fn of_status(status: i32, words: &str, all_words: &str) -> Failure {
    let says = |what: &str| words.contains(what);
    let told = || words.to_owned();
    if says("space exceeded") {
        return Failure::refused(StoreError::Full(told()));
    }
    if says("too large") || says("too many operations") || says("larger than max") {
        return Failure::refused(StoreError::TooLarge(told()));
    }
    if says("revision has been compacted") {
        return Failure::refused(StoreError::Compacted { oldest: 0 });
    }
    if says("future revision") {
        return Failure::refused(StoreError::FutureRevision {
            asked: 0,
            current: 0,
        });
    }
    if says("lease not found") {
        return Failure::refused(StoreError::LeaseExpired);
    }
    let outdated = says("invalid auth token") || says("auth store is old");
    if outdated || says("user name is empty") || says("authentication") || says("permission") {
        return Failure {
            login: outdated,
            ..Failure::refused(StoreError::Denied(told()))
        };
    }
    match status {
        code::PERMISSION_DENIED | code::UNAUTHENTICATED => {
            Failure::refused(StoreError::Denied(told()))
        }
        code::RESOURCE_EXHAUSTED => Failure::unanswered(told()).not_sent(),
        code::INVALID_ARGUMENT | code::NOT_FOUND | code::FAILED_PRECONDITION => {
            Failure::refused(StoreError::Internal(told()))
        }
        _ => Failure::unanswered(all_words),
    }
}

/// Whether there was no connection to send the request over.
fn never_connected(status: &dyn std::error::Error) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused)
        {
            return true;
        }
        source = error.source();
    }
    false
}

/// An error with its causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !words.contains(&cause) {
            words = format!("{words}: {cause}");
        }
        source = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etcds_words_are_understood() {
        let kind = |code, words: &str| of_status(code, words, words).error.kind();
        for (code, words, expected) in [
            (8, "etcdserver: mvcc: database space exceeded", "full"),
            (3, "etcdserver: request is too large", "too_large"),
            (
                3,
                "etcdserver: too many operations in txn request",
                "too_large",
            ),
            (
                11,
                "etcdserver: mvcc: required revision has been compacted",
                "compacted",
            ),
            (
                11,
                "etcdserver: mvcc: required revision is a future revision",
                "future_revision",
            ),
            (5, "etcdserver: requested lease not found", "lease_expired"),
            (7, "etcdserver: permission denied", "denied"),
            (
                3,
                "etcdserver: authentication failed, invalid user ID or password",
                "denied",
            ),
            (9, "etcdserver: authentication is not enabled", "denied"),
            (16, "etcdserver: invalid auth token", "denied"),
            (
                3,
                "etcdserver: duplicate key given in txn request",
                "internal",
            ),
            (14, "etcdserver: leader changed", "unavailable"),
            (14, "etcdserver: request timed out", "unavailable"),
            (8, "etcdserver: too many requests", "unavailable"),
        ] {
            assert_eq!(kind(code, words), expected, "{words}");
        }
        assert!(of_status(3, "etcdserver: revision of auth store is old", "").login);
    }

    #[test]
    fn only_what_was_refused_is_certain() {
        let certain = |code, words: &str| of_status(code, words, words).certain;
        assert!(!certain(14, "etcdserver: request timed out"));
        assert!(!certain(14, "etcdserver: leader changed"));
        assert!(!certain(2, "transport error"));
        assert!(certain(8, "etcdserver: too many requests"));
        assert!(certain(8, "etcdserver: mvcc: database space exceeded"));
    }
}
