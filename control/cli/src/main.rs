//! `penstock`: the command line.
//!
//! The commands that talk to a storage target (`perf`, `discover`, `identify`) belong to the data
//! plane, which the control plane does not link: they are handed, with every argument as it came,
//! to the program `penstock-initiator` that is installed beside this one.
//!
//! Exit codes: those of `penstock-initiator` for its commands (0 success, 1 failure, 2 wrong usage);
//! 127 where that program is not found and 126 where it cannot be run, as shells have it.
#![forbid(unsafe_code)]

mod sibling;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Penstock's command line.
#[derive(Parser, Debug)]
#[command(name = "penstock", version, about, disable_help_subcommand = true)]
#[command(
    after_help = "perf, discover and identify are handed, with all their arguments, to \
    `penstock-initiator`, looked for beside this program and then in PATH; \
    `penstock perf --help` shows that program's own help."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Measure a namespace: IOPS, throughput and latency percentiles (run by penstock-initiator)
    #[command(disable_help_flag = true)]
    Perf(PassedOn),
    /// List the subsystems that a target offers (run by penstock-initiator)
    #[command(disable_help_flag = true)]
    Discover(PassedOn),
    /// Show a controller's and its namespaces' Identify data (run by penstock-initiator)
    #[command(disable_help_flag = true)]
    Identify(PassedOn),
    /// Print this program's name and version
    Version,
}

/// Arguments that are not this program's to understand.
#[derive(Args, Debug)]
struct PassedOn {
    /// Arguments for penstock-initiator, passed on as they are
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGUMENTS"
    )]
    arguments: Vec<OsString>,
}

fn main() -> ExitCode {
    let (name, passed_on) = match Cli::parse().command {
        Command::Perf(passed_on) => ("perf", passed_on),
        Command::Discover(passed_on) => ("discover", passed_on),
        Command::Identify(passed_on) => ("identify", passed_on),
        Command::Version => return version(),
    };
    let failure = sibling::run(name, &passed_on.arguments);
    report(&anyhow::Error::new(failure.error));
    ExitCode::from(failure.exit_code)
}

#[expect(clippy::print_stdout, reason = "a command line prints its answer")]
fn version() -> ExitCode {
    println!("penstock {}", env!("CARGO_PKG_VERSION"));
    ExitCode::SUCCESS
}

fn report(error: &anyhow::Error) {
    eprintln!("penstock: {error:#}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn arguments_are_passed_on_untouched() {
        let given = [
            "penstock",
            "perf",
            "--help",
            "-x",
            "--address",
            "a:1",
            "--",
            "--json",
        ];
        let Command::Perf(passed_on) = Cli::parse_from(given).command else {
            panic!("perf was not recognised");
        };
        assert_eq!(
            passed_on.arguments,
            given[2..].iter().map(OsString::from).collect::<Vec<_>>()
        );
    }

    #[test]
    fn help_says_who_runs_the_command() {
        use clap::CommandFactory;
        let help = Cli::command().render_long_help().to_string();
        assert!(help.contains("penstock-initiator"), "{help}");
    }
}
