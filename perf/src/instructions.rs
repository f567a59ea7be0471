//! `penstock-perf instructions`: user-space instructions that the node needs for an I/O.
//!
//! The node runs under callgrind, which counts exactly, twice for each case: under load for a short
//! and for a long time. The difference holds no start and no end. The node is many times slower
//! there than the client, so that its reactor, which polls always, hardly ever polls in vain.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::case::{self, Case};
use crate::child;
use crate::client::{Client, Span};
use crate::node::{Namespace, Node, Poll, Setup, program};
use crate::{Programs, note, say};

/// Cases that keep the node busy; at depth 1 it would mostly count polling in vain.
const CASES: [&str; 4] = ["rr4k", "rw4k", "r128k", "w128k"];

/// How long the node may take to end and write its counts.
const LEAVE_LIMIT: Duration = Duration::from_secs(60);

/// Options of `penstock-perf instructions`.
#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    programs: Programs,
    /// Case to count; may be given several times. Default: rr4k, rw4k, r128k and w128k.
    #[arg(long, value_name = "NAME")]
    case: Vec<String>,
    /// Seconds of the short load; the long one takes four times that.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// What namespace 1 is made of.
    #[arg(long, value_enum, default_value = "memory")]
    namespace: Namespace,
}

/// Counts and prints a table, or says why it is skipped.
///
/// # Errors
/// The node or the client fails.
pub fn run(options: &Options) -> Result<()> {
    let version = Command::new("valgrind").arg("--version").output();
    let Ok(version) = version else {
        say("skipped: valgrind is not installed (Debian: apt-get install valgrind)");
        return Ok(());
    };
    let names = if options.case.is_empty() {
        CASES.map(str::to_owned).to_vec()
    } else {
        options.case.clone()
    };
    let cases = case::choose(&names, false)?;
    say(&format!(
        "User-space instructions of the node an I/O, counted by callgrind ({}), {:?} namespace\n",
        String::from_utf8_lossy(&version.stdout).trim(),
        options.namespace
    ));
    say("| case | instructions an I/O | I/Os counted |");
    say("|---|---:|---:|");
    for case in cases {
        let short = count(options, &case, options.seconds)?;
        let long = count(options, &case, options.seconds * 4)?;
        let ios = long.ios - short.ios;
        if ios < 1000.0 || long.instructions < short.instructions {
            bail!(
                "case {}: too few I/Os to tell; give more --seconds",
                case.name
            );
        }
        let each = (long.instructions - short.instructions) / ios;
        say(&format!("| {} | {each:.0} | {ios:.0} |", case.title));
    }
    Ok(())
}

/// What one life of the node took.
struct Life {
    instructions: f64,
    ios: f64,
}

fn count(options: &Options, case: &Case, seconds: u32) -> Result<Life> {
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let place = options.programs.programs.as_deref();
    let setup = Setup {
        poll: Poll::Busy,
        namespace: options.namespace,
        core: options.programs.target_core,
        hugepages: false,
    };
    let counts = folder.path().join("counts");
    let mut valgrind = child::tied("valgrind");
    // fair-sched: the polling thread must not starve the others of valgrind's one lock.
    valgrind.args(["--tool=callgrind", "--fair-sched=try"]);
    valgrind.arg(format!("--callgrind-out-file={}", counts.display()));
    let node = program(place, "penstock-node")?;
    let mut node = Node::start(&node, setup, Some(valgrind), folder.path())?;
    let client = Client::Penstock {
        program: program(place, "penstock-initiator")?,
    };
    let span = Span {
        seconds,
        warm_up_seconds: 0,
    };
    let core = options.programs.client_core;
    let figures = client.measure(case, &node.target, span, core, folder.path())?;
    node.process.leave(LEAVE_LIMIT)?;
    let instructions = total(&counts)?;
    note(&format!(
        "{}: {instructions:.0} instructions in a life with {seconds} s of load at {:.0} IOPS",
        case.name, figures.iops
    ));
    Ok(Life {
        instructions,
        ios: figures.iops * f64::from(seconds),
    })
}

/// All instructions in a file of callgrind's.
fn total(counts: &Path) -> Result<f64> {
    let text = fs::read_to_string(counts).context("callgrind left no counts")?;
    parse_total(&text).context("callgrind's counts have no line of totals")
}

fn parse_total(text: &str) -> Option<f64> {
    let line = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
    line("totals:")
        .or_else(|| line("summary:"))?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_read() {
        let text =
            "version: 1\npositions: line\nevents: Ir\nsummary: 12\nfn=(1)\n1 5\ntotals: 17\n";
        assert_eq!(parse_total(text), Some(17.0));
        assert_eq!(parse_total("version: 1\n"), None);
    }
}
