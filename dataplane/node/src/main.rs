//! `penstock-node`: the storage node. See the library for how it is built.
#![forbid(unsafe_code)]

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use penstock_node::config::Config;

/// Penstock's storage node: NVMe over TCP.
#[derive(Parser)]
#[command(name = "penstock-node", version)]
#[command(
    after_help = "SIGHUP reads the configuration again, SIGTERM finishes the commands in \
                        flight and ends. PENSTOCK_LOG overrides the log level."
)]
struct Arguments {
    /// The configuration file; configs/node.toml documents every key.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Check the configuration for this machine, say what it amounts to, start nothing.
    #[arg(long)]
    check_config: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = if arguments.check_config {
        check(&arguments)
    } else {
        penstock_node::run::run(&arguments.config)
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing can be done where standard error is gone.
            let _ = writeln!(std::io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check(arguments: &Arguments) -> anyhow::Result<()> {
    let config = Config::load(&arguments.config)?;
    config.check_files()?;
    penstock_reactor::check_kernel()?;
    write!(std::io::stdout(), "{config}")?;
    Ok(())
}
