//! What keeps a node and its control apart, each with its remedy in the log.

use tonic::Status;

use crate::certificates::Authority;
use crate::control::{Control, local};
use crate::daemon::{self, Daemon};
use crate::wanted::{self, empty};

#[test]
fn an_unknown_node_is_told_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let message = "no node n1 is known; create it: penstock node create n1";
    let control = Control::refusing(Status::not_found(message));
    let node = Daemon::start(
        folder.path(),
        &wanted::config(folder.path(), control.address),
    );
    let line = node.wait_for_log("control is not reached");
    assert!(
        line.contains("create it: penstock node create n1"),
        "{line}"
    );
}

#[test]
fn the_next_endpoint_is_tried() {
    let folder = tempfile::tempdir().expect("a folder");
    let dead = Control::start(local()).address;
    let control = Control::start(local());
    let endpoints = format!(
        "endpoints = [\"http://{dead}\", \"http://{}\"]\n",
        control.address
    );
    let _node = Daemon::start(
        folder.path(),
        &wanted::config_with(folder.path(), &endpoints),
    );
    control.welcome(empty(1)).wait_until_synced(1);
}

#[test]
fn two_nodes_cannot_have_one_state_directory() {
    let folder = tempfile::tempdir().expect("a folder");
    let control = Control::start(local());
    let config = wanted::config(folder.path(), control.address);
    let _node = Daemon::start(folder.path(), &config);
    let mut second = daemon::command(folder.path(), &config);
    let output = second.output().expect("it ends");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(
        message.contains("is in use by another penstock-node"),
        "{message}"
    );
}

/// What the log says of a node with certificates of `nodes` under a control with one of `control`'s
/// authority, each valid or not.
fn told(control_expired: bool, node_expired: bool, same: bool, name: &str, text: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, other) = (Authority::new("one"), Authority::new("other"));
    let trusted = if same { &one } else { &other };
    let control = Control::start_with(local(), Some(one.server(control_expired)), None);
    let keys = trusted.node(folder.path(), node_expired);
    let endpoint = format!(
        "endpoints = [\"https://127.0.0.1:{}\"]\n{keys}tls_server_name = \"{name}\"\n",
        control.address.port()
    );
    let node = Daemon::start(
        folder.path(),
        &wanted::config_with(folder.path(), &endpoint),
    );
    if text.is_empty() {
        control.welcome(empty(1)).wait_until_synced(1);
        return;
    }
    let line = node.wait_for_log("control is not reached");
    assert!(line.contains(text), "{line}");
}

#[test]
fn sound_certificates_on_both_sides_connect() {
    told(false, false, true, "control.test", "");
}

#[test]
fn an_expired_certificate_of_control_is_named() {
    told(
        true,
        false,
        true,
        "control.test",
        "control's certificate has expired",
    );
}

#[test]
fn an_expired_certificate_of_the_node_is_named() {
    told(false, true, true, "control.test", "node.pem, has expired");
}

#[test]
fn another_authority_is_named() {
    told(
        false,
        false,
        false,
        "control.test",
        "is from no authority in tls_ca_file",
    );
}

#[test]
fn another_name_is_named() {
    told(false, false, true, "other.test", "set tls_server_name");
}

#[test]
fn a_missing_file_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let keys = "endpoints = [\"https://127.0.0.1:1\"]\ntls_ca_file = \"/none/ca\"\n\
                tls_certificate_file = \"/none/cert\"\ntls_key_file = \"/none/key\"\n";
    let authority = Authority::new("one");
    let control = Control::start_with(local(), Some(authority.server(false)), None);
    let port = format!(":{}\"", control.address.port());
    let keys = keys.replace(":1\"", &port);
    let node = Daemon::start(folder.path(), &wanted::config_with(folder.path(), &keys));
    let line = node.wait_for_log("control is not reached");
    assert!(line.contains("/none/ca cannot be read"), "{line}");
    assert!(line.contains("control.tls_ca_file"), "{line}");
}
