//! `penstock-perf`: measures a node on this machine, side by side with a peer where there is one.
//!
//! Results go to standard output and files, progress to standard error. Only figures taken in turns
//! in one run compare; nothing here judges absolute ones.
#![forbid(unsafe_code)]

mod case;
mod child;
mod client;
mod control;
mod figures;
mod instructions;
mod machine;
mod memory;
mod node;
mod peer;
mod plot;
mod procfs;
mod report;
mod tcp;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures Penstock's node, side by side with SPDK's target where SPDK_DIR names a built tree.
#[derive(Parser)]
#[command(name = "penstock-perf", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// NVMe/TCP: IOPS, throughput and latency of our node and of SPDK's target, in turns.
    Tcp(tcp::Options),
    /// Resident memory of the idle node, and what each connection adds.
    Memory(memory::Options),
    /// User-space instructions that the node needs for an I/O.
    Instructions(instructions::Options),
    /// The control plane: volumes and namespaces made through the API, and how long one change takes.
    Control(control::Options),
}

/// Where the programs under test are.
#[derive(clap::Args, Clone)]
struct Programs {
    /// Folder of penstock-node and penstock-initiator; default: where this program is.
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
    /// Core that the target under test is pinned to.
    #[arg(long, default_value_t = 0)]
    target_core: usize,
    /// Core that the client is pinned to.
    #[arg(long, default_value_t = 1)]
    client_core: usize,
}

fn main() -> ExitCode {
    let result = child::take_signals().and_then(|()| match Arguments::parse().command {
        Command::Tcp(options) => tcp::run(&options),
        Command::Memory(options) => memory::run(&options),
        Command::Instructions(options) => instructions::run(&options),
        Command::Control(options) => control::run(&options),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(&format!("penstock-perf: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Tells progress on standard error; a reader that has gone away is no reason to fail.
fn note(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Prints a result.
fn say(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }
}
