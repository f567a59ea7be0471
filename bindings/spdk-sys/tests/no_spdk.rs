//! Where no SPDK is installed, the build says so once, with what to do.

#[path = "../build/find.rs"]
mod find;

use std::process::Command;

/// Set where the test runs itself with an environment of its own.
const INSIDE: &str = "PENSTOCK_INSIDE_FIND";

#[test]
fn a_missing_spdk_is_told_in_one_message_with_the_remedy() {
    if std::env::var_os(INSIDE).is_some() {
        let message = find::find().expect_err("an SPDK was found in an empty folder");
        assert!(message.starts_with("no SPDK installed: pkg-config does not find `spdk_nvme`"));
        assert!(message.contains("PKG_CONFIG_PATH=SPDK/build/lib/pkgconfig"));
        assert!(message.contains("without the feature `spdk`"));
        assert_eq!(message.lines().count(), 1, "{message}");
        return;
    }
    let empty = tempfile::tempdir().expect("a folder");
    let program = std::env::current_exe().expect("this test");
    let ended = Command::new(program)
        .env(INSIDE, "1")
        .env("PKG_CONFIG_PATH", empty.path())
        .env("PKG_CONFIG_LIBDIR", empty.path())
        .output()
        .expect("the test runs itself");
    assert!(
        ended.status.success(),
        "{}{}",
        String::from_utf8_lossy(&ended.stdout),
        String::from_utf8_lossy(&ended.stderr)
    );
}

#[test]
fn an_installed_spdk_is_found_with_its_libraries() {
    match find::find() {
        Ok(found) => {
            assert!(
                found.whole.iter().any(|name| name == "spdk_nvme"),
                "{found:?}"
            );
            assert!(
                found.whole.iter().any(|name| name == "rte_eal"),
                "{found:?}"
            );
            assert!(found.system.iter().all(|name| !name.starts_with("spdk_")));
            assert!(!found.include.is_empty() && !found.folders.is_empty());
        }
        Err(message) => println!("skipped: {message}"),
    }
}
