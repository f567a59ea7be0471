//! Packages of Debian that a build needs beside Rust itself.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::say;

/// A program that must be there, and the packages that bring it.
struct Need {
    /// A command that succeeds where all of it is there.
    trial: &'static [&'static str],
    packages: &'static [&'static str],
    reason: &'static str,
}

/// Everything the build needs. The one C library beside libc is hwloc.
const NEEDS: [Need; 3] = [
    Need {
        trial: &["cc", "--version"],
        packages: &["gcc", "libc6-dev"],
        reason: "Rust links with it",
    },
    Need {
        // The types that come with the compiler are in a package of their own.
        trial: &[
            "protoc",
            "--descriptor_set_out=/dev/null",
            "google/protobuf/struct.proto",
        ],
        packages: &["protobuf-compiler", "libprotobuf-dev"],
        reason: "etcd's client is generated with it",
    },
    Need {
        // hwlocality links as if statically, so what hwloc itself links must be there too.
        trial: &["pkg-config", "--exists", "hwloc >= 2.5", "libudev"],
        packages: &["libhwloc-dev", "libudev-dev", "pkg-config"],
        reason: "the node places its reactors with hwloc",
    },
];

/// Installs what the build needs and is not there, and says what.
///
/// # Errors
/// Something is missing and cannot be installed; the message has the command to run.
pub fn ensure() -> Result<()> {
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| !works(need.trial)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing
        .iter()
        .flat_map(|need| need.packages)
        .copied()
        .collect();
    for need in &missing {
        say(&format!(
            "missing: {} ({}), from {:?}",
            need.trial[0], need.reason, need.packages
        ));
    }
    let by_hand = format!("apt-get install --yes {}", packages.join(" "));
    if !present("apt-get") {
        bail!("this is no Debian: install the packages that bring {packages:?}");
    }
    let mut install = if rustix::process::geteuid().is_root() {
        Command::new("apt-get")
    } else if present("sudo") {
        let mut sudo = Command::new("sudo");
        sudo.arg("apt-get");
        sudo
    } else {
        bail!("run this as root first: {by_hand}");
    };
    say(&format!("installing: {}", packages.join(" ")));
    install
        .args(["install", "--yes", "--no-install-recommends"])
        .args(&packages);
    let status = install.status().context("cannot run apt-get")?;
    if !status.success() {
        bail!("apt-get failed ({status}); run as root: apt-get update && {by_hand}");
    }
    Ok(())
}

fn present(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", "command -v \"$0\"", program])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    found.is_ok_and(|status| status.success())
}

/// Whether the command can be started and succeeds.
fn works(trial: &[&str]) -> bool {
    let Some((program, arguments)) = trial.split_first() else {
        return false;
    };
    let ended = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    ended.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_is_there() {
        assert!(present("sh"));
        assert!(!present("no-such-program-as-this"));
        assert!(works(&["sh", "-c", "exit 0"]));
        assert!(!works(&["sh", "-c", "exit 1"]));
        assert!(!works(&["no-such-program-as-this"]));
    }
}
