//! `penstock-initiator`: tools on Penstock's user-space NVMe/TCP initiator.
//!
//! Results go to standard output (tables, or JSON with `--json`), everything else to standard
//! error. Exit codes: 0 success, 1 any failure (including a single failed or wrong I/O), 2 wrong
//! usage. `RUST_LOG` chooses what is logged.
#![forbid(unsafe_code)]

mod cpu;
mod dataset;
mod host;
mod latency;
mod pattern;
mod perf;
mod runtime;
mod session;
mod show;
mod size;
mod table;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// User-space NVMe/TCP initiator: measure, look around, write and read data sets
#[derive(Parser, Debug)]
#[command(name = "penstock-initiator", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Measure a namespace: IOPS, throughput and latency percentiles
    Perf(perf::Arguments),
    /// List the subsystems that a target offers
    Discover(show::DiscoverArguments),
    /// Show a controller's and its namespaces' Identify data
    Identify(show::IdentifyArguments),
    /// Write or read a data set shaped as MLPerf Storage's 3D-UNet, checking every byte
    Dataset(dataset::Arguments),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let result = match cli.command {
        Command::Perf(arguments) => perf::run(&arguments),
        Command::Discover(arguments) => show::discover(&arguments),
        Command::Identify(arguments) => show::identify(&arguments),
        Command::Dataset(arguments) => dataset::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("penstock-initiator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
