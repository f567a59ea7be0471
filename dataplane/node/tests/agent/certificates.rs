//! A certificate authority of one test.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut parameters = CertificateParams::new(Vec::new()).expect("parameters");
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(parameters, key).expect("a certificate");
        Authority { issuer }
    }

    /// Certificate and key in PEM.
    fn issue(&self, names: &[&str], organization: &str, name: &str, expired: bool) -> [String; 2] {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = CertificateParams::new(names).expect("parameters");
        let subject = &mut parameters.distinguished_name;
        subject.push(DnType::OrganizationName, organization);
        subject.push(DnType::CommonName, name);
        if expired {
            parameters.not_before = date_time_ymd(2001, 1, 1);
            parameters.not_after = date_time_ymd(2002, 1, 1);
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("signed");
        [certificate.pem(), key.serialize_pem()]
    }

    /// TLS of a control that asks for certificates of this authority.
    pub fn server(&self, expired: bool) -> ServerTlsConfig {
        let [certificate, key] =
            self.issue(&["control.test"], "penstock:control", "control", expired);
        ServerTlsConfig::new()
            .identity(Identity::from_pem(certificate, key))
            .client_ca_root(Certificate::from_pem(self.issuer.pem()))
    }

    /// Writes what a node `n1` needs to `folder`; keys for its `[control]`.
    pub fn node(&self, folder: &Path, expired: bool) -> String {
        let [certificate, key] = self.issue(&[], "penstock:node", "n1", expired);
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).expect("written");
            path.display().to_string()
        };
        format!(
            "tls_ca_file = \"{}\"\ntls_certificate_file = \"{}\"\ntls_key_file = \"{}\"\n",
            write("ca.pem", &self.issuer.pem()),
            write("node.pem", &certificate),
            write("node.key", &key)
        )
    }
}
