//! `discover` and `identify`.

use clap::Args;

use crate::host::Target;

/// Arguments of `discover`.
#[derive(Args, Debug)]
pub struct DiscoverArguments {
    #[command(flatten)]
    target: Target,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Arguments of `identify`.
#[derive(Args, Debug)]
pub struct IdentifyArguments {
    #[command(flatten)]
    target: Target,
}
pub fn discover(arguments: &DiscoverArguments) -> anyhow::Result<()> {
    Ok(())
}
pub fn identify(arguments: &IdentifyArguments) -> anyhow::Result<()> {
    Ok(())
}
