//! The real program beside a stand-in for `penstock-initiator`.

#![allow(clippy::expect_used, reason = "a test that cannot be set up must fail")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A program cannot be run while anybody has it open for writing, which a child that another test
/// forks just then would: so the tests take turns.
fn my_turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn install(dir: &Path, stand_in: Option<&str>) -> Command {
    let program = dir.join("penstock");
    fs::copy(env!("CARGO_BIN_EXE_penstock"), &program).expect("copy penstock");
    if let Some(script) = stand_in {
        let sibling = dir.join("penstock-initiator");
        fs::write(&sibling, script).expect("write the stand-in");
        fs::set_permissions(&sibling, fs::Permissions::from_mode(0o755)).expect("make it run");
    }
    let mut command = Command::new(program);
    command.env("PATH", "/nonexistent");
    command
}

#[test]
fn arguments_and_exit_code_go_through() {
    let _turn = my_turn();
    let dir = tempfile::tempdir().expect("temporary folder");
    let script = "#!/bin/sh\nprintf '%s|' \"$@\"\nexit 7\n";
    let output = install(dir.path(), Some(script))
        .args(["perf", "--address", "127.0.0.1:4420", "--help", "two words"])
        .output()
        .expect("run penstock");
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(told, "perf|--address|127.0.0.1:4420|--help|two words|");
    assert_eq!(output.status.code(), Some(7));
}

#[test]
fn a_missing_sibling_is_named_with_the_remedy() {
    let _turn = my_turn();
    let dir = tempfile::tempdir().expect("temporary folder");
    let output = install(dir.path(), None)
        .arg("discover")
        .output()
        .expect("run penstock");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(127));
    assert!(
        told.contains("penstock-initiator") && told.contains("install it"),
        "{told}"
    );
}
