//! Packages of Debian that a build needs beside Rust itself.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::say;

/// A program that must be there, and the packages that bring it.
struct Need {
    program: &'static str,
    packages: &'static [&'static str],
    reason: &'static str,
}

/// Everything the build needs. No C library but libc, no code generator.
const NEEDS: [Need; 1] = [Need {
    program: "cc",
    packages: &["gcc", "libc6-dev"],
    reason: "Rust links with it",
}];

/// Installs what the build needs and is not there, and says what.
///
/// # Errors
/// Something is missing and cannot be installed; the message has the command to run.
pub fn ensure() -> Result<()> {
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| !present(need.program)).collect();
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
            need.program, need.reason, need.packages
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_is_there() {
        assert!(present("sh"));
        assert!(!present("no-such-program-as-this"));
    }
}
