//! Why control is not reached, for a person: what, and the remedy.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use tonic::{Code, Status};
use x509_parser::time::ASN1Time;

/// The texts of an error and of what lies behind it, without repetitions.
fn chain(error: &dyn Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if !text.is_empty() && !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
        next = error.source();
    }
    texts.join(": ")
}

/// What TLS and the network say, by what their messages contain: what it means, and the remedy.
/// Alerts come from control and are about this node's certificate; the rest is about control's.
const KNOWN: [(&str, &str); 16] = [
    (
        "alert: CertificateExpired",
        "control refuses this node's certificate, which has expired; renew tls_certificate_file",
    ),
    (
        "alert: UnknownCA",
        "control does not know the authority of this node's certificate; use one from control's own \
         authority in tls_certificate_file",
    ),
    (
        "alert: CertificateRequired",
        "control asks for a certificate of this node; give tls_certificate_file and tls_key_file",
    ),
    (
        "alert: BadCertificate",
        "control refuses this node's certificate; use one from control's own authority in \
         tls_certificate_file",
    ),
    (
        "alert: DecryptError",
        "control refuses this node's certificate; use one from control's own authority in \
         tls_certificate_file",
    ),
    (
        "alert: CertificateUnknown",
        "control refuses this node's certificate; control's log says why",
    ),
    (
        "certificate expired",
        "control's certificate has expired; renew it on control's side, and look at this machine's \
         clock",
    ),
    (
        "peer certificate: Expired",
        "control's certificate has expired; renew it on control's side, and look at this machine's \
         clock",
    ),
    (
        "not valid yet",
        "control's certificate is not valid yet; look at this machine's clock",
    ),
    (
        "UnknownIssuer",
        "control's certificate is from no authority in tls_ca_file; use the file of control's own \
         authority",
    ),
    (
        "BadSignature",
        "control's certificate is from another authority of the same name as that in tls_ca_file; \
         use the file of control's own authority",
    ),
    (
        "not valid for",
        "control's certificate is for another name; correct the endpoint, or set tls_server_name",
    ),
    (
        "NotValidForName",
        "control's certificate is for another name; correct the endpoint, or set tls_server_name",
    ),
    (
        "InvalidContentType",
        "what answers there does not speak TLS; correct the endpoint",
    ),
    (
        "Connection refused",
        "nobody listens there; start penstock-control, or correct the endpoint",
    ),
    (
        "failed to lookup address",
        "the host's name is not known; correct the endpoint or the name service",
    ),
];

fn meaning(text: &str) -> Option<String> {
    let (_, known) = KNOWN.iter().find(|(part, _)| text.contains(part))?;
    Some(format!("{known} ({text})"))
}

/// Whether the node's own certificate is valid now. Control refuses it otherwise, and its refusal
/// may be lost with the connection.
pub(super) fn validity(pem: &[u8], path: &Path) -> Result<(), String> {
    let path = path.display();
    let no_certificate =
        || format!("{path} holds no certificate in PEM; correct control.tls_certificate_file");
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).map_err(|_| no_certificate())?;
    let validity = pem
        .parse_x509()
        .map_err(|_| no_certificate())?
        .validity()
        .clone();
    let now = ASN1Time::now();
    if now > validity.not_after {
        return Err(format!(
            "this node's certificate, {path}, has expired ({}); renew tls_certificate_file",
            validity.not_after
        ));
    }
    if now < validity.not_before {
        return Err(format!(
            "this node's certificate, {path}, is not valid before {}; look at this machine's clock",
            validity.not_before
        ));
    }
    Ok(())
}

/// A connection that could not be made.
pub(super) fn connection(error: &tonic::transport::Error) -> String {
    let text = chain(error);
    meaning(&text).unwrap_or_else(|| format!("{text}; look at control's log and the network"))
}

/// Nothing came in time.
pub(super) fn silent(patience: Duration) -> String {
    format!(
        "no answer within {} s; look whether control and its store work, and at the network",
        patience.as_secs()
    )
}

/// Control refused, or the stream broke.
pub(super) fn status(status: &Status) -> String {
    let message = match status.source() {
        Some(source) => format!("{}: {}", status.message(), chain(source)),
        None => status.message().to_owned(),
    };
    if let Some(known) = meaning(&message) {
        return known;
    }
    let remedy = match status.code() {
        // What TLS 1.3 leaves of a refusal where the connection is closed before it is read.
        _ if message.contains("connection closed") || message.contains("broken pipe") => {
            "control closed the connection: its log says why; it may refuse this node's certificate"
        }
        Code::NotFound => "create the node: `penstock node create NAME` with [node] name",
        Code::Unauthenticated | Code::PermissionDenied => {
            "use a certificate with role node and [node] name as its common name"
        }
        Code::Unimplemented => "what answers there is no penstock-control; correct the endpoint",
        Code::Unavailable => "look whether control and its store work; the node tries again",
        Code::Aborted | Code::AlreadyExists => {
            "look whether another penstock-node runs under the same [node] name"
        }
        _ => "control's log says more",
    };
    let code = format!("{:?}", status.code());
    // Control's own words hold a remedy mostly.
    if message.contains(';') || message.contains("create it") {
        format!("{message} ({code})")
    } else {
        format!("{message} ({code}); {remedy}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_come_with_a_remedy() {
        let bare = status(&Status::not_found("node n1 is not known"));
        assert!(
            bare.contains("node n1 is not known (NotFound); create the node"),
            "{bare}"
        );
        let own = status(&Status::not_found(
            "node n1 is not known; create it: penstock node create n1",
        ));
        assert!(
            own.ends_with("create it: penstock node create n1 (NotFound)"),
            "{own}"
        );
        let role = status(&Status::permission_denied("role viewer may not"));
        assert!(role.contains("role node"), "{role}");
        let reset = status(&Status::unavailable("the store is away"));
        assert!(reset.contains("tries again"), "{reset}");
    }
}
