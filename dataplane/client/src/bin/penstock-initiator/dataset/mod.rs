//! x
#[derive(clap::Args, Debug)]
pub struct Arguments {}
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    Ok(())
}
