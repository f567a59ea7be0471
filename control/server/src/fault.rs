//! Why a call is refused: gRPC codes with details for programs and a message for people.
//!
//! Codes follow the conventions of AIP-193 and of the container storage interface. Each carries an
//! `ErrorInfo` (reason, domain `penstock`, metadata); refused fields come as `BadRequest` too.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use penstock_api::v1::OperationError;
use penstock_store::StoreError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The domain of all reasons.
pub const DOMAIN: &str = "penstock";

/// A field that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path from the request: `volume.spec.size_bytes`.
    pub field: String,
    /// What is wrong, the limit, the remedy.
    pub description: String,
}

/// Why a call is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The gRPC code.
    pub code: Code,
    /// For programs: UPPER_SNAKE.
    pub reason: &'static str,
    /// For people: what, why, remedy.
    pub message: String,
    /// Facts for programs: names, limits.
    pub metadata: BTreeMap<String, String>,
    /// Fields that are refused.
    pub violations: Vec<Violation>,
}

/// What may be refused.
pub type Result<T, E = Fault> = std::result::Result<T, E>;

impl Fault {
    /// A refusal.
    pub fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Fault {
        Fault {
            code,
            reason,
            message: message.into(),
            metadata: BTreeMap::new(),
            violations: Vec::new(),
        }
    }

    /// With a fact for programs.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Fault {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// Fields are refused, for these reasons.
    pub fn invalid(violations: Vec<Violation>) -> Fault {
        let text: Vec<String> = violations
            .iter()
            .map(|violation| format!("{}: {}", violation.field, violation.description))
            .collect();
        Fault {
            violations,
            ..Fault::new(Code::InvalidArgument, "INVALID_FIELD", text.join("; "))
        }
    }

    /// One field is refused.
    pub fn field(field: impl Into<String>, description: impl fmt::Display) -> Fault {
        Fault::invalid(vec![Violation {
            field: field.into(),
            description: description.to_string(),
        }])
    }

    /// A name in a field is refused.
    pub fn name(field: &str, error: &penstock_api::names::NameError) -> Fault {
        Fault::field(field, error)
    }

    /// A resource does not exist.
    pub fn not_found(name: &str) -> Fault {
        Fault::new(
            Code::NotFound,
            "NOT_FOUND",
            format!("{name} does not exist; list what exists, or create it"),
        )
        .with("resource", name)
    }

    /// UNAVAILABLE (SERVER_STOPPING): what ends because this server does.
    pub fn stopping() -> Fault {
        Fault::new(
            Code::Unavailable,
            "SERVER_STOPPING",
            "this server stops; connect again, to it or to another, and go on from where this ended",
        )
    }

    /// Something stands in the way.
    pub fn precondition(reason: &'static str, message: impl Into<String>) -> Fault {
        Fault::new(Code::FailedPrecondition, reason, message)
    }

    /// The resource is not the version that the caller means.
    pub fn etag_mismatch(name: &str, given: &str, current: &str) -> Fault {
        Fault::new(
            Code::Aborted,
            "ETAG_MISMATCH",
            format!(
                "{name} has changed: its etag is {current:?}, not {given:?}; read it again, apply the change to what it is now, and send its new etag"
            ),
        )
        .with("resource", name)
        .with("etag", current)
    }

    /// A value in the store cannot be read.
    pub fn damaged(key: &str, why: impl fmt::Display) -> Fault {
        Fault::new(
            Code::DataLoss,
            "STORE_DAMAGED",
            format!(
                "the store's value of {key} cannot be read ({why}); restore the store from a snapshot, or upgrade this server if a newer one wrote it"
            ),
        )
        .with("key", key)
    }

    /// What an operation that failed so carries.
    pub fn to_operation_error(&self) -> OperationError {
        OperationError {
            code: i32::from(self.code),
            message: self.message.clone(),
            reason: self.reason.to_owned(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.reason)
    }
}

impl std::error::Error for Fault {}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Status {
        let mut details = ErrorDetails::new();
        let metadata: HashMap<String, String> = fault.metadata.into_iter().collect();
        details.set_error_info(fault.reason, DOMAIN, metadata);
        for violation in fault.violations {
            details.add_bad_request_violation(violation.field, violation.description);
        }
        Status::with_error_details(fault.code, fault.message, details)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Fault {
        let (code, reason, remedy) = match &error {
            StoreError::Compacted { .. } => (
                Code::OutOfRange,
                "HISTORY_COMPACTED",
                "start the list anew, without a page token",
            ),
            StoreError::FutureRevision { .. } | StoreError::Replaced { .. } => (
                Code::OutOfRange,
                "STORE_REPLACED",
                "start the list or watch anew, without a token",
            ),
            StoreError::Unavailable(_) => (
                Code::Unavailable,
                "STORE_UNAVAILABLE",
                "nothing was changed; try again, and look after the store if it lasts",
            ),
            StoreError::Unknown(_) => (
                Code::Unavailable,
                "OUTCOME_UNKNOWN",
                "repeat the call with the same request_id, or read the resource",
            ),
            StoreError::LeaseExpired => (Code::Aborted, "LEASE_EXPIRED", "try again"),
            StoreError::Full(_) => (Code::ResourceExhausted, "STORE_FULL", ""),
            StoreError::Denied(_) => (
                Code::Internal,
                "STORE_DENIED",
                "check the store's user and password in this server's configuration",
            ),
            StoreError::TooLarge(_) => (
                Code::InvalidArgument,
                "TOO_LARGE",
                "send fewer or shorter values in one request",
            ),
            StoreError::Internal(_) => (Code::Internal, "STORE_FAILED", "see the server's log"),
        };
        let message = if remedy.is_empty() {
            error.to_string()
        } else {
            format!("{error}; {remedy}")
        };
        Fault::new(code, reason, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_carries_its_details() {
        let fault = Fault::field("volume.spec.size_bytes", "it is 0; use at least 1048576");
        let status = Status::from(fault.with("limit", 1_048_576));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("volume.spec.size_bytes: it is 0"));
        let info = status.get_details_error_info().unwrap();
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            ("INVALID_FIELD", DOMAIN)
        );
        assert_eq!(
            info.metadata.get("limit").map(String::as_str),
            Some("1048576")
        );
        let bad = status.get_details_bad_request().unwrap();
        assert_eq!(bad.field_violations[0].field, "volume.spec.size_bytes");
    }

    #[test]
    fn every_error_of_the_store_has_a_code_and_reason() {
        let table = [
            (StoreError::Compacted { oldest: 3 }, Code::OutOfRange),
            (
                StoreError::FutureRevision {
                    asked: 9,
                    current: 3,
                },
                Code::OutOfRange,
            ),
            (
                StoreError::Replaced {
                    expected: "a".into(),
                    found: "b".into(),
                },
                Code::OutOfRange,
            ),
            (StoreError::Unavailable("x".into()), Code::Unavailable),
            (StoreError::Unknown("x".into()), Code::Unavailable),
            (StoreError::LeaseExpired, Code::Aborted),
            (StoreError::Full("x".into()), Code::ResourceExhausted),
            (StoreError::Denied("x".into()), Code::Internal),
            (StoreError::TooLarge("x".into()), Code::InvalidArgument),
            (StoreError::Internal("x".into()), Code::Internal),
        ];
        for (error, code) in table {
            let told = error.to_string();
            let fault = Fault::from(error);
            assert_eq!(fault.code, code, "{told}");
            assert!(fault.message.starts_with(&told));
            assert!(
                fault
                    .reason
                    .bytes()
                    .all(|b| b.is_ascii_uppercase() || b == b'_')
            );
        }
    }
}
