//! `cargo xtask demo`.

use anyhow::Result;

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub struct Options {}

/// Runs it.
///
/// # Errors
/// Any step fails.
pub fn run(_options: &Options) -> Result<bool> {
    crate::packages::ensure()?;
    Ok(true)
}
