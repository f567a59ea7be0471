//! Keys and certificates: ECDSA on P-256 with SHA-256, which everything that speaks TLS knows.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

use super::{Role, files};
use crate::failure::{Failure, Outcome};

/// Clocks that are a little behind shall take a certificate too.
const BACKDATED: Duration = Duration::hours(1);

/// A certificate and its private key, PEM.
pub struct Pair {
    /// For all to read.
    pub certificate: String,
    /// For its owner only.
    pub key: String,
}

/// Whom a certificate is for.
#[derive(Clone, Debug)]
pub struct Subject {
    /// What its holder may do.
    pub role: Role,
    /// Who its holder is.
    pub name: String,
    /// Names and addresses it is reached at; none for clients.
    pub names: Vec<String>,
    /// How long it holds.
    pub days: u32,
}

/// Who signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one, with its own certificate.
    pub fn new(days: u32) -> Outcome<(Self, Pair)> {
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = params(days);
        params
            .distinguished_name
            .push(DnType::OrganizationName, "penstock");
        params
            .distinguished_name
            .push(DnType::CommonName, "Penstock private authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(failed)?;
        let pair = Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        };
        Ok((
            Self {
                issuer: Issuer::new(params, key),
            },
            pair,
        ))
    }

    /// The one in a folder.
    pub fn load(folder: &Path) -> Outcome<Self> {
        let (certificate, key) = (folder.join("ca.pem"), folder.join("ca.key"));
        let text = files::read(&certificate)?;
        let pair = KeyPair::from_pem(&files::read(&key)?).map_err(|error| {
            Failure::other(format!("{} is no private key: {error}", key.display()))
        })?;
        let (public, ended) = parsed(&certificate, &text, |parsed| {
            let ended = parsed.validity.not_after.timestamp();
            (parsed.public_key().subject_public_key.data.to_vec(), ended)
        })?;
        if public != pair.public_key_raw() {
            let told = format!(
                "{} is not the key of {}: bring back the two that belong together",
                key.display(),
                certificate.display()
            );
            return Err(Failure::other(told));
        }
        if ended <= OffsetDateTime::now_utc().unix_timestamp() {
            let told = format!(
                "{} has expired: make a new authority with `penstock certs init` in another folder",
                certificate.display()
            );
            return Err(Failure::other(told));
        }
        let issuer = Issuer::from_ca_cert_pem(&text, pair).map_err(failed)?;
        Ok(Self { issuer })
    }

    /// A certificate with a key of its own.
    pub fn issue(&self, subject: &Subject) -> Outcome<Pair> {
        let key = KeyPair::generate().map_err(failed)?;
        let named = CertificateParams::new(subject.names.clone()).map_err(|error| {
            Failure::usage(format!("--san: {error}: write host names or IP addresses"))
        })?;
        let mut params = params(subject.days);
        params.subject_alt_names = named.subject_alt_names;
        let organisation = format!("penstock:{}", subject.role.word());
        params
            .distinguished_name
            .push(DnType::OrganizationName, organisation);
        params
            .distinguished_name
            .push(DnType::CommonName, subject.name.as_str());
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if subject.role == Role::Control {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

fn params(days: u32) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = now - BACKDATED;
    params.not_after = now + Duration::days(i64::from(days));
    params
}

fn failed(error: rcgen::Error) -> Failure {
    Failure::other(format!("cannot make the certificate: {error}"))
}

/// What `certs show` tells of a certificate.
pub struct Told {
    /// Of the organisation; empty where it has none of ours.
    pub role: String,
    /// The common name.
    pub name: String,
    /// Its last day.
    pub until: String,
    /// How long that still is.
    pub holds: String,
    /// Names and addresses of a server.
    pub names: Vec<String>,
}

/// Reads a certificate.
pub fn read(path: &Path) -> Outcome<Told> {
    let text = files::read(path)?;
    parsed(path, &text, |parsed| {
        let subject = parsed.subject();
        let first = |text: Option<&x509_parser::x509::AttributeTypeAndValue<'_>>| {
            text.and_then(|value| value.as_str().ok())
                .unwrap_or_default()
                .to_owned()
        };
        let organisation = first(subject.iter_organization().next());
        let authority = if parsed.is_ca() { "authority" } else { "" };
        let end = parsed.validity.not_after.to_datetime();
        let left = end - OffsetDateTime::now_utc();
        Told {
            role: organisation
                .strip_prefix("penstock:")
                .unwrap_or(authority)
                .to_owned(),
            name: first(subject.iter_common_name().next()),
            until: end.date().to_string(),
            holds: match std::time::Duration::try_from(left) {
                Ok(left) => crate::quantity::duration(left),
                Err(_) => "expired".into(),
            },
            names: alternative_names(parsed),
        }
    })
}

/// Refuses a certificate that has expired.
///
/// # Errors
/// It has. What is no certificate is left to whoever uses it.
pub fn refuse_expired(path: &Path) -> Outcome {
    let end = files::read(path).and_then(|text| {
        parsed(path, &text, |parsed| {
            parsed.validity.not_after.to_datetime()
        })
    });
    match end {
        Ok(end) if end <= OffsetDateTime::now_utc() => Err(Failure::usage(format!(
            "--cert: {} has expired on {}; `penstock certs issue` makes another",
            path.display(),
            end.date()
        ))),
        _ => Ok(()),
    }
}

fn alternative_names(parsed: &X509Certificate<'_>) -> Vec<String> {
    let extension = parsed.subject_alternative_name().ok().flatten();
    let names = extension.map(|extension| extension.value.general_names.clone());
    let told = names
        .unwrap_or_default()
        .into_iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_owned()),
            GeneralName::IPAddress(bytes) => <[u8; 4]>::try_from(bytes)
                .map(|four| std::net::IpAddr::from(four).to_string())
                .or_else(|_| {
                    <[u8; 16]>::try_from(bytes).map(|six| std::net::IpAddr::from(six).to_string())
                })
                .ok(),
            _ => None,
        });
    told.collect()
}

fn parsed<T>(path: &Path, text: &str, read: impl FnOnce(&X509Certificate<'_>) -> T) -> Outcome<T> {
    let told =
        |what: String| Failure::other(format!("{} is no certificate: {what}", path.display()));
    let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes())
        .map_err(|_| told("it holds no PEM text".into()))?;
    let certificate = pem.parse_x509().map_err(|error| told(error.to_string()))?;
    Ok(read(&certificate))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(role: Role, names: &[&str]) -> Subject {
        Subject {
            role,
            name: "n1".into(),
            names: names.iter().map(ToString::to_string).collect(),
            days: 2,
        }
    }

    #[test]
    fn what_is_issued_says_who_it_is_for_and_is_signed_by_the_authority() {
        let folder = tempfile::tempdir().unwrap();
        let (_, pair) = Authority::new(20).unwrap();
        files::write_pair(folder.path(), "ca", &pair).unwrap();
        let authority = Authority::load(folder.path()).unwrap();
        let issued = authority
            .issue(&subject(Role::Control, &["localhost", "::1"]))
            .unwrap();
        files::write_pair(folder.path(), "x", &issued).unwrap();
        let told = read(&folder.path().join("x.pem")).unwrap();
        assert_eq!((told.role.as_str(), told.name.as_str()), ("control", "n1"));
        assert_eq!(told.names, ["localhost", "::1"]);
        assert_eq!(told.holds, "1d23h");
        let (_, ca) = x509_parser::pem::parse_x509_pem(pair.certificate.as_bytes()).unwrap();
        let (_, leaf) = x509_parser::pem::parse_x509_pem(issued.certificate.as_bytes()).unwrap();
        let (ca, leaf) = (ca.parse_x509().unwrap(), leaf.parse_x509().unwrap());
        assert!(leaf.verify_signature(Some(ca.public_key())).is_ok());
        assert_eq!(leaf.issuer(), ca.subject());
        assert!(ca.is_ca() && !leaf.is_ca());
    }

    #[test]
    fn an_authority_with_anothers_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (_, mut pair) = Authority::new(20).unwrap();
        pair.key = Authority::new(20).unwrap().1.key;
        files::write_pair(folder.path(), "ca", &pair).unwrap();
        let told = Authority::load(folder.path()).map(|_| ()).unwrap_err();
        assert!(told.message.contains("is not the key of"), "{told}");
        let (none, _) = (Authority::load(Path::new("/nonexistent")), ());
        let told = none.map(|_| ()).unwrap_err();
        assert!(told.message.contains("penstock certs init"), "{told}");
    }

    #[test]
    fn keys_are_for_their_owner_and_nothing_is_overwritten() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (_, pair) = Authority::new(20).unwrap();
        files::write_pair(folder.path(), "ca", &pair).unwrap();
        let mode = folder
            .path()
            .join("ca.key")
            .metadata()
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let told = files::refuse_overwriting(folder.path(), &["ca"]).unwrap_err();
        assert!(told.message.contains("not overwritten"), "{told}");
        assert!(files::write_pair(folder.path(), "ca", &pair).is_err());
    }
}
