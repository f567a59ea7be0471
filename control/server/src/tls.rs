//! TLS of the API: certificates on both sides, and a word in the log on each client that is not let
//! in, for TLS 1.3 tells most of them only that the connection is closed.

use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::{Stream, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{CertificateError, Error, RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::TcpIncoming;

use crate::config::Identity;

/// How long a client may take to show who it is.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Handshakes at once; more clients wait.
const HANDSHAKES: usize = 256;

/// The server's certificate, and whose clients it takes.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// A file that cannot be read or holds something else, or a key of another certificate.
    pub fn load(files: &Identity) -> anyhow::Result<Tls> {
        let mut authorities = RootCertStore::empty();
        for authority in certificates("ca_file", &files.ca_file)? {
            authorities
                .add(authority)
                .with_context(|| format!("tls.ca_file: {}", files.ca_file.display()))?;
        }
        let own = certificates("cert_file", &files.cert_file)?;
        let key = PrivateKeyDer::from_pem_slice(&read("key_file", &files.key_file)?)
            .with_context(|| wrong("key_file", &files.key_file, "private key"))?;
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(
            Arc::new(authorities),
            Arc::clone(&provider),
        );
        let verifier = verifier
            .build()
            .context("tls.ca_file: no client could be verified by it")?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(own, key)
            .context("tls: certificate and key do not fit together, or are damaged")?;
        config.alpn_protocols.push(b"h2".to_vec());
        Ok(Tls {
            acceptor: TlsAcceptor::from(Arc::new(config)),
        })
    }

    /// Connections of clients that have shown a good certificate.
    pub fn incoming(
        self,
        listener: TcpListener,
    ) -> impl Stream<Item = io::Result<TlsStream<TcpStream>>> {
        let handshakes = plain(listener).map(move |accepted| {
            let acceptor = self.acceptor.clone();
            async move {
                match accepted {
                    Ok(stream) => handshake(&acceptor, stream).await.map(Ok),
                    Err(error) => Some(Err(error)),
                }
            }
        });
        handshakes.buffer_unordered(HANDSHAKES).filter_map(ready)
    }
}

/// Connections without TLS.
pub fn plain(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}

fn read(key: &str, file: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(file).with_context(|| {
        format!(
            "tls.{key}: {} cannot be read; check the path and its permissions",
            file.display()
        )
    })
}

fn wrong(key: &str, file: &Path, wanted: &str) -> String {
    format!(
        "tls.{key}: {} holds no {wanted} in PEM; `penstock certs init` makes such files",
        file.display()
    )
}

fn certificates(key: &str, file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let bytes = read(key, file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.with_context(|| wrong(key, file, "certificate"))?;
    anyhow::ensure!(!found.is_empty(), wrong(key, file, "certificate"));
    Ok(found)
}

/// Lets a client in, or says in the log why not.
async fn handshake(acceptor: &TlsAcceptor, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
    let peer = stream.peer_addr().ok();
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            refused(peer, &error);
            None
        }
        Err(_) => {
            let limit = HANDSHAKE.as_secs();
            let peer = peer.map(tracing::field::display);
            tracing::debug!(peer, "a client has not shown itself within {limit} s");
            None
        }
    }
}

fn refused(peer: Option<SocketAddr>, error: &io::Error) {
    let peer = peer.map(tracing::field::display);
    let reason = error.get_ref().and_then(|inner| inner.downcast_ref());
    match reason.and_then(meaning) {
        Some(why) => tracing::warn!(peer, %error, "a client is not let in: {why}"),
        // Who connects and leaves only looked whether somebody listens.
        None => tracing::debug!(peer, %error, "a client is not let in"),
    }
}

fn meaning(error: &Error) -> Option<&'static str> {
    match error {
        Error::NoCertificatesPresented => Some(
            "it shows no certificate; give it one (`penstock certs issue`, then --cert and --key, or \
             a node's tls_certificate_file and tls_key_file)",
        ),
        Error::InvalidCertificate(why) => Some(match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired; issue a new one"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet; look at both machines' clocks"
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "its certificate is from no authority in tls.ca_file; issue one with that authority"
            }
            _ => "its certificate is not good",
        }),
        Error::AlertReceived(_) => Some(
            "it does not take this server's certificate; look at what it trusts, and at the names \
             and the end of tls.cert_file",
        ),
        Error::InvalidMessage(_) => Some("it does not speak TLS; its endpoint is to be https://"),
        _ => None,
    }
}
