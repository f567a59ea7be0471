//! Bad input that only starting can find: refused with what, where and what to do, and nothing
//! half-started remains. (What the file alone tells is in the unit tests of `config`.)

use std::net::TcpListener;
use std::path::Path;

use crate::daemon::{Daemon, NQN, command, file, head, listener, memory, subsystem};

/// What the node says where it refuses to start on `config`.
fn refusal(folder: &Path, config: &str) -> String {
    let output = command(folder, config).output().expect("the node runs");
    assert!(!output.status.success(), "it started on\n{config}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Line of the first line of `config` that contains `text`.
fn line_of(config: &str, text: &str) -> usize {
    1 + config
        .lines()
        .position(|line| line.contains(text))
        .expect("a line")
}

fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

#[test]
fn a_listeners_port_in_use() {
    let folder = tempfile::tempdir().expect("a folder");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let image = folder.path().join("new.img");
    let config = head()
        + &listener("127.0.0.1:0")
        + &listener(&address)
        + &subsystem(NQN)
        + &file(1, &image, 1 << 20);
    let message = refusal(folder.path(), &config);
    let line = line_of(&config, &address);
    let place = format!("node.toml:{line}: listener.address: cannot listen on {address}");
    says(&message, &[&place, "the port is in use", "ss -ltnp"]);
    assert!(!image.exists(), "the file made on the way is gone again");
}

#[test]
fn a_congestion_control_the_kernel_does_not_have() {
    let folder = tempfile::tempdir().expect("a folder");
    let tcp = "[tcp]\ncongestion_control = \"carrier-pigeon\"\n";
    let config = head() + tcp + &listener("127.0.0.1:0") + &subsystem(NQN) + &memory(1, 1 << 20);
    let message = refusal(folder.path(), &config);
    says(
        &message,
        &[
            "tcp.congestion_control",
            "carrier-pigeon",
            "tcp_available_congestion_control",
        ],
    );
}

#[test]
fn a_metrics_port_in_use() {
    let folder = tempfile::tempdir().expect("a folder");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let head = head().replace("127.0.0.1:0", &address);
    let config = head + &listener("127.0.0.1:0") + &subsystem(NQN) + &memory(1, 1 << 20);
    let message = refusal(folder.path(), &config);
    says(
        &message,
        &["metrics.listen: cannot listen on", "the port is in use"],
    );
}

#[test]
fn a_backing_file_that_is_too_small() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("a.img");
    std::fs::write(&image, [0; 4096]).expect("written");
    let config = head() + &listener("127.0.0.1:0") + &subsystem(NQN) + &file(1, &image, 1 << 20);
    let line = line_of(&config, "[[subsystem.namespace]]");
    let place = format!("node.toml:{line}: namespace.path: ");
    let parts = [
        place.as_str(),
        "has 4096 bytes, size_bytes asks for 1048576",
        "truncate -s 1048576",
    ];
    says(&refusal(folder.path(), &config), &parts);
    let output = command(folder.path(), &config)
        .arg("--check-config")
        .output()
        .expect("it runs");
    assert!(!output.status.success());
    says(&String::from_utf8_lossy(&output.stderr), &parts);
}

#[test]
fn a_block_size_that_does_not_divide_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("a.img");
    std::fs::write(&image, [0; 5000]).expect("written");
    let config = head() + &listener("127.0.0.1:0") + &subsystem(NQN) + &file(1, &image, 4096);
    let config = config.replace("size_bytes = 4096\n", "");
    let place = format!(
        "node.toml:{}: namespace.path: ",
        line_of(&config, "[[subsystem.namespace]]")
    );
    says(
        &refusal(folder.path(), &config),
        &[&place, "5000 bytes", "block size that divides the file"],
    );
}

#[test]
fn a_backing_file_that_another_node_has() {
    let (folder, other) = (
        tempfile::tempdir().expect("one"),
        tempfile::tempdir().expect("two"),
    );
    let image = folder.path().join("a.img");
    let config = head() + &listener("127.0.0.1:0") + &subsystem(NQN) + &file(1, &image, 1 << 20);
    let daemon = Daemon::start(folder.path(), &config);
    let place = format!(
        "node.toml:{}: namespace.path: ",
        line_of(&config, "[[subsystem.namespace]]")
    );
    says(
        &refusal(other.path(), &config),
        &[&place, "locked by", "one writer only"],
    );
    assert!(image.exists(), "the other node's file stays");
    daemon.kill();
    drop(Daemon::start(other.path(), &config));
}

#[test]
fn a_missing_file_a_folder_and_a_device_that_is_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("a.img");
    let start = head() + &listener("127.0.0.1:0") + &subsystem(NQN);
    let config = start.clone() + &file(1, &image, 4096).replace("size_bytes = 4096\n", "");
    says(
        &refusal(folder.path(), &config),
        &["no such file", "give size_bytes to have it created"],
    );
    let config = start.clone() + &file(1, folder.path(), 4096);
    says(&refusal(folder.path(), &config), &["namespace.path"]);
    std::fs::write(&image, [0; 4096]).expect("written");
    let device = file(1, &image, 4096).replace("\"file\"", "\"block\"");
    let config = start + &device.replace("size_bytes = 4096\n", "");
    says(
        &refusal(folder.path(), &config),
        &["is not a block device", "correct path or backend"],
    );
}

#[test]
fn a_file_that_cannot_be_read_and_one_that_is_not_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut absent = command(folder.path(), "");
    std::fs::remove_file(folder.path().join("node.toml")).expect("removed");
    let output = absent.output().expect("the node runs");
    assert!(!output.status.success());
    says(
        &String::from_utf8_lossy(&output.stderr),
        &["node.toml: cannot be read", "--config"],
    );
}

#[test]
fn a_check_says_what_will_run_and_touches_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("a.img");
    let config = head() + &listener("127.0.0.1:0") + &subsystem(NQN) + &file(1, &image, 1 << 20);
    let output = command(folder.path(), &config)
        .arg("--check-config")
        .output()
        .expect("it runs");
    assert!(output.status.success());
    says(
        &String::from_utf8_lossy(&output.stdout),
        &["node.toml is sound", NQN, "1048576 bytes"],
    );
    assert!(!image.exists());
    let output = command(folder.path(), "[tcp]\nmtds_bytes = 1\n")
        .arg("--check-config")
        .output();
    let output = output.expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    says(
        &message,
        &[
            "node.toml:2: mtds_bytes: unknown key",
            "did you mean `mdts_bytes`?",
        ],
    );
}
