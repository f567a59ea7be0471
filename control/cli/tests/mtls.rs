//! TLS with certificates on both sides, made by `penstock certs`, between the real programs: what a
//! role lets its holder do, and how everybody else is sent away.

#![allow(clippy::expect_used, reason = "a test that cannot be set up must fail")]
#![allow(dead_code, reason = "of the shared parts, the other tests use more")]

mod fake;
mod programs;

use std::fs;
use std::path::{Path, PathBuf};

use fake::{penstock, told};
use penstock_api::v1::ListVolumesRequest;
use penstock_api::v1::volume_service_client::VolumeServiceClient;
use programs::{Program, both_are_built, free_port, within};
use rcgen::{CertificateParams, DnType, Issuer, KeyPair};
use time::{Duration, OffsetDateTime};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

/// An authority, the server that trusts it, and where their files are.
struct Site {
    folder: tempfile::TempDir,
    port: u16,
    control: Program,
}

impl Site {
    fn start() -> Site {
        let folder = tempfile::tempdir().expect("a folder");
        let certs = folder.path().join("certs");
        let shown = certs.display().to_string();
        run(&[
            "certs",
            "init",
            "--node",
            "n1",
            "--node",
            "n2",
            "--directory",
            &shown,
        ]);
        for (role, name) in [("operator", "alice"), ("viewer", "bob")] {
            let words = [
                "certs",
                "issue",
                "--role",
                role,
                "--name",
                name,
                "--directory",
                &shown,
            ];
            run(&words);
        }
        expire(&certs, "operator", "alice", "expired");
        expire(&certs, "node", "n1", "node-expired");
        let other = folder.path().join("other").display().to_string();
        run(&["certs", "init", "--node", "n1", "--directory", &other]);

        let port = free_port();
        let config = format!(
            "[control]\nlisten = \"127.0.0.1:{port}\"\n\
             [store]\npath = \"{}/store.redb\"\n\
             [metrics]\nlisten = \"127.0.0.1:{}\"\n\
             [tls]\nca_file = \"{shown}/ca.pem\"\ncert_file = \"{shown}/control.pem\"\n\
             key_file = \"{shown}/control.key\"\n",
            folder.path().display(),
            port + 1,
        );
        let control = Program::start("penstock-control", folder.path(), "control", &config);
        let site = Site {
            folder,
            port,
            control,
        };
        within(30, "control to answer its administrator", || {
            site.ask("admin", "node list").0 == 0
        });
        site
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs the program as the holder of a certificate of this site's authority.
    fn ask(&self, who: &str, line: &str) -> (i32, String, String) {
        self.ask_with(Some(&format!("certs/{who}")), "certs/ca.pem", line)
    }

    fn ask_with(&self, own: Option<&str>, ca: &str, line: &str) -> (i32, String, String) {
        let mut command = penstock(&format!("https://127.0.0.1:{}", self.port));
        command.arg("--ca").arg(self.file(ca));
        if let Some(own) = own {
            command.arg("--cert").arg(self.file(&format!("{own}.pem")));
            command.arg("--key").arg(self.file(&format!("{own}.key")));
        }
        command.args(line.split_whitespace());
        told(&command.output().expect("run penstock"))
    }

    /// Starts a node of this name with this certificate, which trusts the authority in `ca`.
    fn node(&self, name: &str, own: &str, ca: &str) -> Program {
        let run = format!("{name}-{}-{}", own.replace('/', "-"), ca.replace('/', "-"));
        let config = format!(
            "[node]\nname = \"{name}\"\n\
             [reactors]\npoll = \"adaptive\"\npin = false\n\
             [[listener]]\naddress = \"127.0.0.1:{}\"\n\
             [control]\nendpoints = [\"https://127.0.0.1:{}\"]\nstate_directory = \"{run}-state\"\n\
             tls_ca_file = \"{ca}\"\ntls_certificate_file = \"{own}.pem\"\n\
             tls_key_file = \"{own}.key\"\n\
             [[device]]\nname = \"d0\"\nbackend = \"memory\"\nsize_bytes = 67108864\n",
            free_port(),
            self.port,
            run = self.file(&run).display(),
            ca = self.file(ca).display(),
            own = self.file(own).display(),
        );
        Program::start("penstock-node", self.folder.path(), &run, &config)
    }

    fn is_online(&self, node: &str) -> bool {
        let (_, out, _) = self.ask("admin", &format!("node get {node} -o json"));
        let told: serde_json::Value = serde_json::from_str(&out).unwrap_or_default();
        let conditions = told["status"]["conditions"].as_array();
        conditions.is_some_and(|all| {
            all.iter().any(|one| {
                one["type"] == "Online"
                    && one["status"].as_str().is_some_and(|s| s.ends_with("TRUE"))
            })
        })
    }
}

fn run(words: &[&str]) {
    let (code, _, err) = told(&penstock("").args(words).output().expect("run penstock"));
    assert_eq!(code, 0, "penstock {words:?}: {err}");
}

/// Makes a certificate of the authority in `folder` that held until an hour ago.
fn expire(folder: &Path, role: &str, name: &str, stem: &str) {
    let read = |name: &str| fs::read_to_string(folder.join(name)).expect("the authority");
    let pair = KeyPair::from_pem(&read("ca.key")).expect("its key");
    let issuer = Issuer::from_ca_cert_pem(&read("ca.pem"), pair).expect("its certificate");
    let mut params = CertificateParams::default();
    let subject = &mut params.distinguished_name;
    subject.push(DnType::OrganizationName, format!("penstock:{role}"));
    subject.push(DnType::CommonName, name);
    params.not_before = OffsetDateTime::now_utc() - Duration::days(2);
    params.not_after = OffsetDateTime::now_utc() - Duration::hours(1);
    let key = KeyPair::generate().expect("a key");
    let signed = params.signed_by(&key, &issuer).expect("a certificate");
    fs::write(folder.join(format!("{stem}.pem")), signed.pem()).expect("written");
    fs::write(folder.join(format!("{stem}.key")), key.serialize_pem()).expect("written");
}

/// What control's port answers to somebody without this program's own checks.
fn connect(site: &Site, own: Option<&str>) -> Result<(), String> {
    let read = |name: &str| fs::read(site.file(name)).expect("a file");
    let mut tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("certs/ca.pem")));
    if let Some(own) = own {
        let (cert, key) = (read(&format!("{own}.pem")), read(&format!("{own}.key")));
        tls = tls.identity(Identity::from_pem(cert, key));
    }
    let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{}", site.port));
    let endpoint = endpoint.expect("an address").tls_config(tls).expect("TLS");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| error.to_string())?;
        let mut volumes = VolumeServiceClient::new(channel);
        let asked = volumes.list_volumes(ListVolumesRequest::default()).await;
        asked.map(drop).map_err(|status| status.to_string())
    })
}

#[test]
fn a_role_lets_its_holder_do_what_it_may() {
    if !both_are_built() {
        return;
    }
    let site = Site::start();
    let (code, _, err) = site.ask("admin", "node create n1");
    assert_eq!(code, 0, "{err}");
    let node = site.node("n1", "certs/node-n1", "certs/ca.pem");
    within(20, "n1 to be online", || site.is_online("n1"));
    let (code, _, err) = site.ask("operator-alice", "volume create v1 --size 16MiB --wait");
    assert_eq!(code, 0, "{err}{}", node.log());
    assert!(
        node.log().contains("open volume=\"volumes/v1\""),
        "{}",
        node.log()
    );
    let (code, out, err) = site.ask("viewer-bob", "volume list");
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("v1    ready") && out.contains("n1"), "{out}");

    for (who, line, part) in [
        (
            "viewer-bob",
            "volume create v2 --size 16MiB",
            "the role operator or admin",
        ),
        (
            "viewer-bob",
            "volume delete v1",
            "the role operator or admin",
        ),
        ("operator-alice", "node create n3", "the role admin"),
        (
            "node-n1",
            "volume list",
            "the role viewer, operator or admin",
        ),
        (
            "control",
            "volume list",
            "the role viewer, operator or admin",
        ),
    ] {
        let (code, out, err) = site.ask(who, line);
        assert_eq!(code, 1, "{who} {line}: {out}");
        assert!(
            err.contains("ROLE_TOO_LOW") && err.contains(part),
            "{who} {line}: {err}"
        );
    }
    let (_, out, _) = site.ask("viewer-bob", "volume list");
    assert!(out.contains("v1    ready") && !out.contains("v2"), "{out}");
}

#[test]
fn nobody_speaks_for_a_node_but_the_holder_of_its_certificate() {
    if !both_are_built() {
        return;
    }
    let site = Site::start();
    let (code, _, err) = site.ask("admin", "node create n2");
    assert_eq!(code, 0, "{err}");
    for (own, part) in [
        ("certs/node-n1", "n1 (node) may not speak for nodes/n2"),
        (
            "certs/operator-alice",
            "the role operator and may not call AgentService.Sync",
        ),
    ] {
        let other = site.node("n2", own, "certs/ca.pem");
        within(20, part, || other.log().contains(part));
        assert!(
            other.log().contains("(PermissionDenied)"),
            "{}",
            other.log()
        );
        assert!(!site.is_online("n2"));
    }
    let right = site.node("n2", "certs/node-n2", "certs/ca.pem");
    within(20, "n2 to be online", || site.is_online("n2"));
    drop(right);
}

#[test]
fn whoever_has_no_good_certificate_is_sent_away_and_both_sides_say_why() {
    if !both_are_built() {
        return;
    }
    let site = Site::start();
    let (code, _, err) = site.ask("admin", "node create n1");
    assert_eq!(code, 0, "{err}");

    let (code, _, err) = site.ask("expired", "volume list");
    assert_eq!(code, 2, "{err}");
    assert!(
        err.contains("has expired on") && err.contains("certs issue"),
        "{err}"
    );
    let (code, _, err) = site.ask_with(None, "certs/ca.pem", "volume list");
    assert_eq!(code, 4, "{err}");
    assert!(
        err.contains("wants a certificate") && err.contains("--cert"),
        "{err}"
    );
    let (code, _, err) = site.ask_with(Some("other/admin"), "certs/ca.pem", "volume list");
    assert_eq!(code, 4, "{err}");
    assert!(err.contains("of its authority"), "{err}");
    let (code, _, err) = site.ask_with(Some("certs/admin"), "other/ca.pem", "volume list");
    assert_eq!(code, 4, "{err}");
    assert!(
        err.contains("invalid peer certificate") && err.contains("--ca"),
        "{err}"
    );
    let mut plain = penstock(&format!("http://127.0.0.1:{}", site.port));
    let (code, _, err) = told(
        &plain
            .args(["volume", "list"])
            .output()
            .expect("run penstock"),
    );
    assert_eq!(code, 4, "{err}");
    assert!(err.contains("https://"), "{err}");

    // Whoever does not check its own certificate is sent away by the server.
    assert_eq!(connect(&site, Some("certs/admin")), Ok(()));
    for own in [None, Some("certs/expired"), Some("other/admin")] {
        assert!(connect(&site, own).is_err(), "{own:?} is let in");
    }

    for (own, ca, part) in [
        ("certs/node-expired", "certs/ca.pem", "has expired"),
        ("other/node-n1", "certs/ca.pem", "refuse"),
        (
            "certs/node-n1",
            "other/ca.pem",
            "control's certificate is from another authority",
        ),
    ] {
        let node = site.node("n1", own, ca);
        within(20, part, || node.log().contains(part));
        assert!(
            !node.log().contains("control is connected"),
            "{}",
            node.log()
        );
    }
    assert!(!site.is_online("n1"));
    let log = site.control.log();
    for part in [
        "it shows no certificate",
        "its certificate has expired",
        "from no authority in tls.ca_file",
        "it does not take this server's certificate",
        "it does not speak TLS",
    ] {
        assert!(log.contains(part), "{part} is not in\n{log}");
    }
}

#[test]
fn control_says_what_is_wrong_with_its_files() {
    if !both_are_built() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let shown = folder.path().display().to_string();
    run(&["certs", "init", "--directory", &format!("{shown}/a")]);
    run(&["certs", "init", "--directory", &format!("{shown}/b")]);
    fs::write(folder.path().join("empty.pem"), "").expect("written");
    for (ca, cert, key, part) in [
        ("a/ca.pem", "a/none.pem", "a/control.key", "tls.cert_file"),
        (
            "empty.pem",
            "a/control.pem",
            "a/control.key",
            "empty.pem holds no certificate",
        ),
        (
            "a/ca.pem",
            "a/control.pem",
            "a/ca.pem",
            "ca.pem holds no private key",
        ),
        (
            "a/ca.pem",
            "a/control.pem",
            "b/control.key",
            "do not fit together",
        ),
    ] {
        let (port, name) = (free_port(), key.replace('/', "-"));
        let config = format!(
            "[control]\nlisten = \"127.0.0.1:{port}\"\n[store]\npath = \"{shown}/s.redb\"\n\
             [metrics]\nlisten = \"\"\n[tls]\nca_file = \"{shown}/{ca}\"\n\
             cert_file = \"{shown}/{cert}\"\nkey_file = \"{shown}/{key}\"\n"
        );
        let mut control = Program::start("penstock-control", folder.path(), &name, &config);
        assert_eq!(control.wait(), Some(1), "{}", control.log());
        assert!(
            control.log().contains(part),
            "{part} is not in {}",
            control.log()
        );
    }
}
