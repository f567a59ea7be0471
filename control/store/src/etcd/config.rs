//! How to reach an etcd cluster.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};

use crate::StoreError;

/// How long a request may take by default, with all its retries.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long connecting to a member may take by default.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Where the store keeps its fences by default, see [`EtcdConfig::fence_prefix`].
pub const FENCE_PREFIX: &str = "/penstock/fence/";

/// After how long of silence a connection is tested. Under 5 s etcd takes it for abuse.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// How to reach an etcd cluster.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdConfig {
    /// The members' client addresses, such as `https://10.0.0.1:2379`. One that fails is left for
    /// the next.
    pub endpoints: Vec<String>,
    /// PEM file with the certificates that the members' certificates must be signed by. Without,
    /// the connection is not encrypted.
    pub ca_file: Option<PathBuf>,
    /// PEM file with this client's certificate; needs `key_file` and `ca_file`.
    pub cert_file: Option<PathBuf>,
    /// PEM file with the key of `cert_file`.
    pub key_file: Option<PathBuf>,
    /// User, where etcd's authentication is on; needs `password`. The user must be allowed to read
    /// and write all keys under `/penstock/`.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<String>,
    /// How long a request may take with all its retries. Finding out what became of a transaction
    /// without an answer may take as long again.
    pub request_timeout: Duration,
    /// How long connecting to a member may take.
    pub connect_timeout: Duration,
    /// Keys with this prefix are the store's own. A client writes one after a lost answer, so that
    /// the transaction in question cannot happen any more if it did not happen yet; it goes away
    /// after an hour.
    pub fence_prefix: String,
}

impl EtcdConfig {
    /// The usual settings for these members.
    #[must_use]
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            user: None,
            password: None,
            request_timeout: REQUEST_TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
            fence_prefix: FENCE_PREFIX.to_owned(),
        }
    }

    /// Checks the settings and reads the files.
    pub(super) fn options(&self) -> Result<ConnectOptions, StoreError> {
        if self.endpoints.is_empty() {
            return Err(wrong("no endpoints are given; give at least one"));
        }
        let mut options = ConnectOptions::new()
            .with_connect_timeout(self.connect_timeout)
            .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
            // etcd hangs up on who tests a connection without requests on it.
            .with_keep_alive_while_idle(false)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        match (&self.user, &self.password) {
            (Some(user), Some(password)) => options = options.with_user(user, password),
            (None, None) => {}
            _ => return Err(wrong("user and password go together; give both or none")),
        }
        if let Some(tls) = self.tls()? {
            options = options.with_tls(tls);
        }
        Ok(options)
    }

    fn tls(&self) -> Result<Option<TlsOptions>, StoreError> {
        let identity = match (&self.cert_file, &self.key_file) {
            (Some(cert), Some(key)) => Some(Identity::from_pem(read(cert)?, read(key)?)),
            (None, None) => None,
            _ => {
                return Err(wrong(
                    "cert_file and key_file go together; give both or none",
                ));
            }
        };
        let Some(ca) = &self.ca_file else {
            if identity.is_some() {
                return Err(wrong("cert_file needs ca_file"));
            }
            if let Some(endpoint) = self.endpoints.iter().find(|e| e.starts_with("https:")) {
                return Err(wrong(&format!("{endpoint} needs ca_file")));
            }
            return Ok(None);
        };
        if let Some(endpoint) = self.endpoints.iter().find(|e| e.starts_with("http:")) {
            return Err(wrong(&format!(
                "{endpoint} is not encrypted although ca_file is given; write https"
            )));
        }
        let tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read(ca)?));
        Ok(Some(match identity {
            Some(identity) => tls.identity(identity),
            None => tls,
        }))
    }
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("ca_file", &self.ca_file)
            .field("cert_file", &self.cert_file)
            .field("key_file", &self.key_file)
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "(hidden)"))
            .field("request_timeout", &self.request_timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("fence_prefix", &self.fence_prefix)
            .finish()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    std::fs::read(path).map_err(|error| wrong(&format!("cannot read {}: {error}", path.display())))
}

fn wrong(what: &str) -> StoreError {
    StoreError::Internal(format!("the settings for etcd: {what}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_wrong() {
        let good = EtcdConfig::new(["http://127.0.0.1:2379"]);
        assert!(good.options().is_ok());
        let change = |change: fn(&mut EtcdConfig)| {
            let mut config = good.clone();
            change(&mut config);
            config.options().map(|_| ()).unwrap_err().to_string()
        };
        assert!(change(|c| c.endpoints.clear()).contains("at least one"));
        assert!(change(|c| c.user = Some("u".into())).contains("password"));
        assert!(change(|c| c.cert_file = Some("x".into())).contains("key_file"));
        assert!(change(|c| c.ca_file = Some("/none/ca".into())).contains("write https"));
        let https = |config: &mut EtcdConfig| config.endpoints = vec!["https://x:2379".into()];
        assert!(change(https).contains("needs ca_file"));
        let unreadable = change(|c| {
            c.endpoints = vec!["https://x:2379".into()];
            c.ca_file = Some("/none/ca".into());
        });
        assert!(unreadable.contains("/none/ca"), "{unreadable}");
    }

    #[test]
    fn hides_the_password() {
        let mut config = EtcdConfig::new(["x"]);
        config.password = Some("secret".into());
        assert!(!format!("{config:?}").contains("secret"));
    }
}
