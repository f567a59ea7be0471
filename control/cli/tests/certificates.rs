//! Certificates of `penstock certs` between the real program and a server that asks for them.

#![allow(clippy::expect_used, reason = "a test that cannot be set up must fail")]
#![allow(dead_code, reason = "of the fake server, the other tests use more")]

mod fake;

use std::fs;
use std::path::Path;

use fake::{Fake, penstock, told};
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

fn init(folder: &Path) -> (i32, String, String) {
    let mut command = penstock("");
    command.args([
        "certs",
        "init",
        "--node",
        "n1",
        "--san",
        "c1.example",
        "--directory",
    ]);
    told(&command.arg(folder).output().expect("run penstock"))
}

fn server(folder: &Path) -> ServerTlsConfig {
    let read = |name: &str| fs::read(folder.join(name)).expect("a file of the authority");
    ServerTlsConfig::new()
        .identity(Identity::from_pem(read("control.pem"), read("control.key")))
        .client_ca_root(Certificate::from_pem(read("ca.pem")))
}

#[test]
fn what_is_made_lets_its_holder_in_and_nobody_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path().join("authority");
    let (code, out, err) = init(&at);
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("node-n1.pem") && err.contains("ca.key to yourself"),
        "{out}{err}"
    );
    let fake = Fake::default();
    let address = fake.serve(Some(server(&at))).to_string();
    let list = |endpoint: &str, flags: &[&str]| {
        let mut command = penstock(endpoint);
        told(
            &command
                .args(["host", "list"])
                .args(flags)
                .output()
                .expect("run penstock"),
        )
    };
    let config = at.join("cli.toml").display().to_string();
    let (code, _, err) = list(&format!("https://{address}"), &["--config", &config]);
    assert_eq!(code, 0, "{err}");
    let ca = at.join("ca.pem").display().to_string();
    let (code, _, err) = list(&address, &["--ca", &ca]);
    assert_ne!(code, 0, "{err}");
    assert!(
        err.contains("--cert") || err.contains("certificate"),
        "{err}"
    );
    let (code, _, err) = list(&address, &[]);
    assert_eq!(code, 4, "{err}");
    assert!(err.contains("https://"), "{err}");
    let other = folder.path().join("other");
    assert_eq!(init(&other).0, 0);
    let config = other.join("cli.toml").display().to_string();
    let (code, _, err) = list(&format!("https://{address}"), &["--config", &config]);
    assert_eq!(code, 4, "{err}");
}

#[test]
fn an_authority_is_made_once_and_issues_more() {
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(init(folder.path()).0, 0);
    let before = fs::read(folder.path().join("ca.key")).expect("the key");
    let (code, _, err) = init(folder.path());
    assert_eq!(code, 1);
    assert!(err.contains("not overwritten"), "{err}");
    assert_eq!(
        fs::read(folder.path().join("ca.key")).expect("the key"),
        before
    );
    let mut issue = penstock("");
    issue.args([
        "certs", "issue", "--role", "operator", "--name", "alice", "--days", "7",
    ]);
    let (code, _, err) = told(
        &issue
            .arg("--directory")
            .arg(folder.path())
            .output()
            .expect("run"),
    );
    assert_eq!(code, 0, "{err}");
    let path = folder.path().join("operator-alice.pem");
    let shown = penstock("")
        .args(["certs", "show"])
        .arg(path)
        .output()
        .expect("run");
    let (_, out, _) = told(&shown);
    assert!(
        out.contains("operator  alice") && out.contains("6d23h"),
        "{out}"
    );
}
