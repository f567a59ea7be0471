//! `[control]`: where the control plane is, and what the node shows it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tonic::transport::Uri;

/// `[control]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlSettings {
    /// Where control answers, in the order in which it is tried; at least one.
    pub endpoints: Vec<ControlEndpoint>,
    /// Folder of the saved state.
    pub state_directory: PathBuf,
    /// Files for TLS; set wherever an endpoint is `https`.
    pub tls: Option<TlsFiles>,
    /// Name that control's certificate must bear; otherwise the endpoint's host.
    pub tls_server_name: Option<String>,
    /// Longest pause between attempts to reach control.
    pub reconnect_backoff_max: Duration,
}

/// One address of control: `https://HOST:PORT`, or `http://` on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlEndpoint {
    /// The address.
    pub uri: Uri,
}

/// PEM files of a party of mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Authorities whose certificates control may show.
    pub ca: PathBuf,
    /// The node's certificate: role `node`, the node's name.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Why an address of control is refused: what is wrong, and the remedy.
pub(super) type Refused = (String, &'static str);

const FORM: &str = "write https://HOST:PORT, for example \"https://control.example:7600\", or http:// on this \
     machine";

impl ControlEndpoint {
    /// Reads an address.
    pub(super) fn parse(text: &str) -> Result<ControlEndpoint, Refused> {
        let uri: Uri = text
            .parse()
            .map_err(|error| (format!("\"{text}\" is no address: {error}"), FORM))?;
        let sound = uri.host().is_some_and(|host| !host.is_empty())
            && matches!(uri.path(), "" | "/")
            && uri.query().is_none()
            && uri.port_u16().is_some_and(|port| port > 0);
        match uri.scheme_str() {
            Some("http" | "https") if sound => {}
            _ => return Err((format!("\"{text}\" is no address of control"), FORM)),
        }
        let endpoint = ControlEndpoint { uri };
        if !endpoint.is_tls() && !endpoint.is_loopback() {
            let what = format!(
                "\"{text}\" is another machine without TLS: anybody on the way could take the \
                 node's volumes away"
            );
            return Err((
                what,
                "use https:// with tls_ca_file, tls_certificate_file and tls_key_file; http:// is \
                 for 127.0.0.1, [::1] and localhost",
            ));
        }
        Ok(endpoint)
    }

    /// Whether the address asks for TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    fn is_loopback(&self) -> bool {
        let host = self.uri.host().unwrap_or("");
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || bare.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }
}

impl std::fmt::Display for ControlEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = self.uri.scheme_str().unwrap_or("https");
        let authority = self.uri.authority().map_or("", |given| given.as_str());
        write!(f, "{scheme}://{authority}")
    }
}
