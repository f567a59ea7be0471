//! Where things are, and building them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The repository's root.
pub fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// A cargo command in the repository.
pub fn cargo(arguments: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.args(arguments).current_dir(root());
    command
}

/// Builds the binaries of `packages` in release and returns the folder they lie in.
///
/// # Errors
/// The build fails.
pub fn release(packages: &[&str]) -> Result<PathBuf> {
    let mut command = cargo(&["build", "--release", "--bins"]);
    for package in packages {
        command.args(["--package", package]);
    }
    let status = command
        .status()
        .context("cannot run cargo; is Rust installed (rustup.rs)?")?;
    if !status.success() {
        bail!("the release build failed ({status}); what cargo says is above");
    }
    Ok(target_folder()?.join("release"))
}

/// Cargo's target folder, found from where this program lies in it.
fn target_folder() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let profile = own.parent().and_then(Path::parent);
    Ok(profile
        .context("this program does not lie in a target folder")?
        .to_owned())
}
