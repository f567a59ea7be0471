//! What goes wrong, for people (what, why, remedy) and for shells (the exit code).

use std::fmt;

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// What is told to the shell. Documented in the program's help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Anything without a code of its own.
    Failure = 1,
    /// Arguments or a file that this program refuses.
    Usage = 2,
    /// The server knows no such thing.
    NotFound = 3,
    /// No server answers.
    Unreachable = 4,
    /// `--timeout` is over.
    TimeOver = 5,
}

/// An error with its exit code.
#[derive(Debug)]
pub struct Failure {
    /// For the shell.
    pub exit: Exit,
    /// For people. May have several lines.
    pub message: String,
    /// What the server said, where it did.
    pub status: Option<Box<Status>>,
}

/// What commands give back.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure of this kind.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            status: None,
        }
    }

    /// A failure without a code of its own.
    pub fn other(message: impl Into<String>) -> Self {
        Self::new(Exit::Failure, message)
    }

    /// Arguments or a file that this program refuses.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// The gRPC code that the server answered with, if it was one.
    pub fn code(&self) -> Option<Code> {
        self.status.as_ref().map(|status| status.code())
    }

    /// The reason in the server's `ErrorInfo`; empty where there is none.
    pub fn reason(&self) -> String {
        let info = self
            .status
            .as_ref()
            .and_then(|s| s.get_details_error_info());
        info.map(|info| info.reason).unwrap_or_default()
    }

    /// The same with more said before it.
    #[must_use]
    pub fn within(mut self, place: &str) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// What the server answered, in words. `endpoint` is who answered.
    pub fn from_status(status: Status, endpoint: &str) -> Self {
        let exit = match status.code() {
            Code::NotFound => Exit::NotFound,
            Code::DeadlineExceeded => Exit::TimeOver,
            _ => Exit::Failure,
        };
        if let Some(broken) = broken_connection(&status, endpoint) {
            return broken;
        }
        if let Some(foreign) = foreign_server(&status, endpoint) {
            return foreign;
        }
        Self {
            exit,
            message: words(&status),
            status: Some(Box::new(status)),
        }
    }
}

/// A status that no server wrote: the connection failed.
fn broken_connection(status: &Status, endpoint: &str) -> Option<Failure> {
    let source = std::error::Error::source(status)?;
    if status.get_details_error_info().is_some() {
        return None;
    }
    let cause = root_cause(source);
    if cause == "Timeout expired" {
        let told = format!("{endpoint} did not answer in time; give it longer with --timeout");
        return Some(Failure::new(Exit::TimeOver, told));
    }
    let remedy = match endpoint.starts_with("https://") {
        true => {
            "the server wants a certificate of its authority that has not expired: --cert and --key \
             (`penstock certs show`); its log says why it lets a client not in"
        }
        false => "does the server speak TLS? then it is https:// with --ca, --cert and --key",
    };
    let told = format!(
        "the connection to {endpoint} broke: {cause}\n  {remedy}\n  \
         where a change was asked for, look with `get` whether it was made"
    );
    Some(Failure {
        exit: Exit::Unreachable,
        message: told,
        status: Some(Box::new(status.clone())),
    })
}

/// A status that was made of the answer of something that speaks HTTP, but not gRPC.
fn foreign_server(status: &Status, endpoint: &str) -> Option<Failure> {
    let told = status
        .message()
        .strip_prefix("grpc-status header missing")?;
    let answer = told.rsplit("HTTP status code ").next().unwrap_or_default();
    let told = format!(
        "what answers at {endpoint} is no control server (HTTP status {answer})\n  \
         correct --endpoint or PENSTOCK_ENDPOINT; where a proxy is between, let it pass HTTP/2"
    );
    Some(Failure {
        exit: Exit::Unreachable,
        message: told,
        status: Some(Box::new(status.clone())),
    })
}

/// The innermost cause, which says what happened.
pub fn root_cause(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(inner) = last.source() {
        last = inner;
    }
    last.to_string()
}

fn words(status: &Status) -> String {
    let mut told = if status.message().is_empty() {
        status.code().description().to_owned()
    } else {
        status.message().to_owned()
    };
    let details = status.get_error_details();
    for violation in details
        .bad_request()
        .iter()
        .flat_map(|b| &b.field_violations)
    {
        let line = format!("{}: {}", violation.field, violation.description);
        if !told.contains(&violation.description) {
            told.push_str("\n  ");
            told.push_str(&line);
        }
    }
    for violation in details
        .precondition_failure()
        .iter()
        .flat_map(|p| &p.violations)
    {
        if !told.contains(&violation.description) {
            told.push_str("\n  ");
            told.push_str(&violation.description);
        }
    }
    if let Some(remedy) = own_remedy(status) {
        told.push_str("\n  ");
        told.push_str(remedy);
    }
    if let Some(info) = details.error_info() {
        let facts: Vec<String> = info
            .metadata
            .iter()
            .collect::<std::collections::BTreeMap<_, _>>()
            .into_iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let facts = if facts.is_empty() {
            String::new()
        } else {
            format!(": {}", facts.join(", "))
        };
        told.push_str(&format!("\n  [{}{facts}]", info.reason));
    }
    told
}

/// What the server cannot know: how this program is told to do better.
fn own_remedy(status: &Status) -> Option<&'static str> {
    match status.code() {
        Code::Unauthenticated => Some(
            "show a certificate of the server's authority: --ca, --cert and --key (or \
             PENSTOCK_CA, PENSTOCK_CERT, PENSTOCK_KEY)",
        ),
        Code::PermissionDenied => Some(
            "use a certificate of a role that may: `penstock certs issue --role operator --name NAME`",
        ),
        Code::Unimplemented => {
            Some("the server is older than this program: use the `penstock` of its version")
        }
        _ => None,
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    #[test]
    fn a_status_becomes_what_why_and_remedy() {
        let mut details = ErrorDetails::with_error_info(
            "SIZE_UNALIGNED",
            "penstock",
            [("unit_bytes".to_owned(), "1048576".to_owned())],
        );
        details.add_bad_request_violation("volume.spec.size_bytes", "is no multiple of 1 MiB");
        let status = Status::with_error_details(
            Code::InvalidArgument,
            "the volume is not as it may be; correct the fields",
            details,
        );
        let told = Failure::from_status(status, "http://c1:7600");
        assert_eq!(told.exit, Exit::Failure);
        assert_eq!(told.reason(), "SIZE_UNALIGNED");
        assert_eq!(
            told.to_string(),
            "the volume is not as it may be; correct the fields\n  \
             volume.spec.size_bytes: is no multiple of 1 MiB\n  \
             [SIZE_UNALIGNED: unit_bytes=1048576]"
        );
    }

    #[test]
    fn what_is_not_found_has_a_code_of_its_own() {
        let told = Failure::from_status(Status::not_found("volumes/v1 does not exist"), "e");
        assert_eq!(told.exit, Exit::NotFound);
        assert_eq!(told.to_string(), "volumes/v1 does not exist");
    }

    #[test]
    fn what_is_no_control_server_is_told_from_one() {
        let text = "grpc-status header missing, mapped from HTTP status code 404";
        let told = Failure::from_status(Status::unimplemented(text), "http://c1:80");
        assert_eq!(told.exit, Exit::Unreachable);
        let text = told.to_string();
        assert!(
            text.starts_with("what answers at http://c1:80 is no control server (HTTP status 404)")
        );
        assert!(text.contains("--endpoint"), "{text}");
    }

    #[test]
    fn who_is_not_let_in_is_told_how() {
        let told = Failure::from_status(Status::unauthenticated("no certificate"), "e");
        assert!(told.to_string().contains("--cert"), "{told}");
    }
}
