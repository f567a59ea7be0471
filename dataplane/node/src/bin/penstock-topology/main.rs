//! The machine's topology, who serves what on it, and which paths cross NUMA nodes.
//!
//! Exit codes: 0 done, 1 failed (standard error says what and why), 2 wrong usage.

#![forbid(unsafe_code)]

mod document;
mod live;
mod picture;
mod tree;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use picture::Picture;

/// Shows NUMA nodes, cores, drives and network interfaces, which reactor serves what, and every path
/// that crosses nodes.
#[derive(Parser)]
#[command(name = "penstock-topology", version)]
#[command(
    after_help = "Without --config only the machine is shown. With it, also what is served, and by \
                  which reactors: those of the running node where its [metrics] listen answers, else \
                  those that a start would make."
)]
struct Arguments {
    /// The node's configuration file, such as /etc/penstock/node.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    match show(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            // A reader that has gone away does not want to know.
            let _ = writeln!(std::io::stderr().lock(), "error: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn show(arguments: &Arguments) -> Result<()> {
    let picture = Picture::take(arguments.config.as_deref())?;
    let text = match arguments.json {
        true => serde_json::to_string_pretty(&document::document(&picture))?,
        false => tree::text(&picture),
    };
    writeln!(std::io::stdout().lock(), "{text}").context("cannot write to standard output")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }
}
