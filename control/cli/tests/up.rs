//! `penstock up` with the real control server and the real node, built beside this program.

#![allow(clippy::expect_used, reason = "a test that cannot be set up must fail")]
#![allow(dead_code, reason = "of the shared part, the other tests use more")]

mod fake;
mod programs;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use fake::{penstock, told};
use programs::{both_are_built, free_port, within};

struct Running {
    process: Child,
    endpoint: String,
    pids: Vec<i32>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn up(folder: &Path) -> Running {
    let (control, listen) = (free_port(), free_port());
    let mut command = penstock("");
    command.args([
        "up",
        "-o",
        "json",
        "--device-size",
        "1GiB",
        "--devices",
        "2",
    ]);
    command.arg("--directory").arg(folder);
    command.args(["--control-listen", &format!("127.0.0.1:{control}")]);
    command.args(["--listen", &format!("127.0.0.1:{listen}")]);
    let mut process = command
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("run penstock");
    let mut line = String::new();
    let output = process.stdout.take().expect("its output");
    BufReader::new(output).read_line(&mut line).expect("a line");
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|_| {
        let log = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        panic!(
            "not ready: {line}\n{}\n{}",
            log("control.log"),
            log("node.log")
        )
    });
    let pids = ready["processes"].as_object().expect("processes").values();
    let pids = pids
        .map(|pid| i32::try_from(pid.as_i64().expect("a pid")).expect("a pid"))
        .collect();
    Running {
        process,
        endpoint: ready["endpoint"].as_str().expect("an endpoint").into(),
        pids,
    }
}

fn gone(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.is_empty() || status.contains("State:\tZ")
}

fn run(endpoint: &str, line: &str) -> String {
    let output = penstock(endpoint)
        .args(line.split_whitespace())
        .output()
        .expect("run penstock");
    let (code, out, err) = told(&output);
    assert_eq!(code, 0, "penstock {line}: {err}");
    out
}

fn signal(process: &Child, name: &str) {
    let pid = process.id().to_string();
    let sent = Command::new("kill")
        .args(["-s", name, &pid])
        .status()
        .expect("run kill");
    assert!(sent.success());
}

#[test]
fn a_volume_is_served_and_everything_stays_over_a_restart() {
    if !both_are_built() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut running = up(folder.path());
    let at = running.endpoint.clone();
    run(&at, "volume create v1 --size 64MiB --wait");
    run(&at, "volume create v2 --size 64MiB --stripe-width 2 --wait");
    run(&at, "subsystem create s1 --allow-any-host");
    run(&at, "namespace create s1/ns1 --volume v1 --wait");
    let layout = run(&at, "volume layout v1");
    assert!(
        layout.contains("REACHED AT") && layout.contains("nqn."),
        "{layout}"
    );
    let devices = run(&at, "device list");
    assert!(
        devices.contains("n1/d0") && devices.contains("n1/d1"),
        "{devices}"
    );
    let described = run(&at, "volume describe v2");
    assert!(
        described.contains("Placed") && described.contains("create done"),
        "{described}"
    );
    signal(&running.process, "INT");
    assert!(running.process.wait().expect("its end").success());
    within(5, "both ended", || {
        running.pids.iter().all(|pid| gone(*pid))
    });

    let again = up(folder.path());
    let volumes = run(&again.endpoint, "volume list");
    assert_eq!(volumes.matches("ready").count(), 2, "{volumes}");
    run(&again.endpoint, "volume grow v1 --size 128MiB --wait");
    run(&again.endpoint, "namespace delete s1/ns1 --wait");
    run(&again.endpoint, "volume delete v1 v2 --wait");
    assert_eq!(run(&again.endpoint, "volume list"), "");
}

#[test]
fn the_children_end_with_their_parent() {
    if !both_are_built() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut running = up(folder.path());
    running.process.kill().expect("kill it");
    running.process.wait().expect("its end");
    within(10, "both ended", || {
        running.pids.iter().all(|pid| gone(*pid))
    });
}

#[test]
fn a_child_that_dies_takes_the_other_along_and_is_explained() {
    if !both_are_built() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut first = up(folder.path());
    let mut command = penstock("");
    let other = tempfile::tempdir().expect("a folder");
    // The control server finds its port taken.
    command.args([
        "up",
        "--control-listen",
        first.endpoint.trim_start_matches("http://"),
    ]);
    let output = command
        .arg("--directory")
        .arg(other.path())
        .output()
        .expect("run penstock");
    let (code, _, err) = told(&output);
    assert_eq!(code, 1, "{err}");
    assert!(
        err.contains("penstock-control has ended") && err.contains("  | "),
        "{err}"
    );
    let node = first.pids.iter().max().expect("a pid").to_string();
    assert!(
        Command::new("kill")
            .args(["-9", &node])
            .status()
            .expect("run kill")
            .success()
    );
    assert_eq!(first.process.wait().expect("its end").code(), Some(1));
    within(5, "both ended", || first.pids.iter().all(|pid| gone(*pid)));
}
