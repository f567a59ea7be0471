//! `cargo xtask`: the project's own commands.
#![forbid(unsafe_code)]

mod build;
mod demo;
mod packages;
mod perf;
mod process;
mod suite;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Penstock's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts a node here, writes and reads a training-like data set through it, shows the figures.
    Demo(demo::Options),
    /// Runs every check: format, lints, documentation, tests, house rules, the machine lab.
    Test(suite::Options),
    /// Builds release and measures: `cargo xtask perf tcp`; arguments go to `penstock-perf`.
    #[command(disable_help_flag = true)]
    Perf {
        /// Arguments of `penstock-perf`; `--help` shows them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => suite::run(&options),
        Command::Perf { arguments } => perf::run(&arguments),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Tells the person something; a reader that has gone away is no reason to fail.
fn say(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}
