//! `cargo xtask perf`: builds release, then hands over to `penstock-perf`.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context, Result};

use crate::build;

/// Builds what is measured and what measures, and runs the latter.
///
/// # Errors
/// The build fails or the program cannot be run.
pub fn run(arguments: &[OsString]) -> Result<bool> {
    let folder = build::release(&[
        "penstock-node",
        "penstock-client",
        "penstock-cli",
        "penstock-control",
        "penstock-perf",
    ])?;
    let program = folder.join("penstock-perf");
    let mut command = Command::new(&program);
    let status = command.args(arguments).current_dir(build::root()).status();
    let status = status.with_context(|| format!("cannot run {}", program.display()))?;
    Ok(status.success())
}
