//! `penstock-control`: the control server. See the library for how it is built.
#![forbid(unsafe_code)]

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use penstock_control::config::Config;
use penstock_control::{logging, serve};
use tokio::signal::unix::{SignalKind, signal};

/// Penstock's control server: the API over a store, and streams to the nodes' agents.
#[derive(Parser)]
#[command(name = "penstock-control", version)]
#[command(
    after_help = "SIGTERM finishes the calls in flight and ends. PENSTOCK_LOG overrides the log \
                  level."
)]
struct Arguments {
    /// The configuration file; configs/control.toml documents every key.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Check the configuration, say what it amounts to, start nothing.
    #[arg(long)]
    check_config: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = if arguments.check_config {
        check(&arguments)
    } else {
        run(&arguments)
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
    write!(std::io::stdout(), "{config}")?;
    Ok(())
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let config = Config::load(&arguments.config)?;
    config.check_files()?;
    logging::start(&config.log)?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            let stop = async move {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            };
            serve::serve(config, stop).await
        })
}
