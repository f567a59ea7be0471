//! The lab's command line.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use penstock_hwtests::bench::TARGET_VARIABLE;
use penstock_hwtests::cache;
use penstock_hwtests::etcd::Programs;
use penstock_hwtests::hardware;
use penstock_hwtests::lab::{Choice, Lab};
use penstock_hwtests::outage;
use penstock_hwtests::runner::{self, Report, Totals, Verdict};
use penstock_hwtests::scenarios::{ALL, Scenario};
use penstock_hwtests::{error::LabError, guest};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Boots real Linux hosts in QEMU and tests a Penstock node with them.
#[derive(Parser)]
#[command(name = "penstock-hwtests")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lists the tests.
    List,
    /// Fetches and builds what guests need, and stops there.
    Prepare,
    /// Runs the named tests.
    Run {
        /// Names as `list` shows them.
        #[arg(required = true)]
        tests: Vec<String>,
        #[command(flatten)]
        options: Options,
    },
    /// Runs every test.
    RunAll {
        #[command(flatten)]
        options: Options,
    },
    /// Boots a guest with this terminal as its console.
    Shell,
    /// Tries our driver on a drive of this machine; refuses one in use or with anything known on it.
    ///
    /// Needs root, an IOMMU and vfio-pci. What an empty drive holds is OVERWRITTEN.
    Drive {
        /// Its PCI address, such as 0000:3b:00.0.
        address: String,
    },
    /// Breaks the control plane under verified I/O.
    Outage {
        /// Names of cases; all of them where none is given. `list` shows them.
        cases: Vec<String>,
        /// Where the logs go; default: `logs` in the cache.
        #[arg(long)]
        logs_dir: Option<PathBuf>,
    },
    /// Fetches etcd and prints where its server and its command line lie, a line each.
    Etcd {
        /// Of another series than this machine's release packages.
        #[arg(long)]
        other: bool,
    },
}

#[derive(clap::Args)]
struct Options {
    /// How many guests run at once.
    #[arg(long, default_value_t = 2)]
    guests: usize,
    /// Where the logs go; default: `logs` in the cache.
    #[arg(long)]
    logs_dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    match act(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(err) => {
            say(&format!("error: {err:#}"));
            ExitCode::FAILURE
        }
    }
}

fn act(command: Command) -> Result<bool> {
    match command {
        Command::List => {
            for scenario in ALL {
                say(&format!("{:<18} {}", scenario.name, scenario.about));
            }
            for case in outage::ALL {
                say(&format!("outage {:<11} {}", case.name, case.about));
            }
            Ok(true)
        }
        Command::Prepare => Ok(prepare().map(|_| true)?),
        Command::Run { tests, options } => run(&chosen(&tests)?, &options),
        Command::RunAll { options } => run(ALL, &options),
        Command::Shell => {
            guest::shell(&prepare()?)?;
            Ok(true)
        }
        Command::Drive { address } => Ok(hardware::run(&address)?),
        Command::Outage { cases, logs_dir } => outages(&cases, logs_dir),
        Command::Etcd { other } => {
            let find = if other {
                Programs::other
            } else {
                Programs::find
            };
            let programs = find(&|step| tell_step(step))?;
            say(&programs.etcd.display().to_string());
            say(&programs.etcdctl.display().to_string());
            Ok(true)
        }
    }
}

fn chosen(names: &[String]) -> Result<Vec<Scenario>> {
    let find = |name: &String| {
        let found = ALL.iter().find(|scenario| scenario.name == name);
        found
            .copied()
            .with_context(|| format!("no test is called `{name}`; see `list`"))
    };
    names.iter().map(find).collect()
}

fn prepare() -> Result<Lab, LabError> {
    Lab::prepare(&|step| say(&format!("lab: {step}")))
}

fn run(scenarios: &[Scenario], options: &Options) -> Result<bool> {
    let newest = |scenario: &Scenario| scenario.machine.kernel == Choice::Newest;
    let lab = match prepare() {
        Ok(mut lab) => {
            if scenarios.iter().any(newest) {
                lab.prepare_newest(&|step| say(&format!("lab: {step}")));
            }
            lab
        }
        Err(LabError::Skip(why)) => {
            say(&format!("skipped: {why}"));
            say(&format!("0 passed, 0 failed, {} skipped", scenarios.len()));
            return Ok(true);
        }
        Err(err) => return Err(err.into()),
    };
    let logs = place_of_logs(options.logs_dir.clone())?;
    if options.guests == 0 {
        bail!("--guests must be at least 1");
    }
    // Two guests would overwrite each other's data on a target that they share.
    let shared = std::env::var_os(TARGET_VARIABLE).is_some();
    let guests = if shared { 1 } else { options.guests };
    let totals = runner::run(&lab, scenarios, guests, &logs, &tell)?;
    say(&totals.to_string());
    Ok(totals.failed == 0)
}

fn place_of_logs(named: Option<PathBuf>) -> Result<PathBuf> {
    named
        .or_else(cache::place_of_logs)
        .context("no place for the logs; give --logs-dir")
}

/// One after the other: they measure.
fn outages(names: &[String], logs: Option<PathBuf>) -> Result<bool> {
    let logs = place_of_logs(logs)?;
    std::fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    if let Some(name) = names
        .iter()
        .find(|name| outage::ALL.iter().all(|case| case.name != **name))
    {
        bail!("no outage is called `{name}`; see `list`");
    }
    let mut totals = Totals::default();
    for case in outage::ALL {
        if names.is_empty() || names.iter().any(|name| name == case.name) {
            let report = outage::run(case, &logs, &say);
            totals.add(&report.verdict);
            tell(&report);
        }
    }
    say(&totals.to_string());
    Ok(totals.failed == 0)
}

fn tell(report: &Report) {
    let (name, seconds) = (report.name, report.took.as_secs_f64());
    match &report.verdict {
        Verdict::Passed => say(&format!("passed   {name:<18} {seconds:6.1} s")),
        Verdict::Skipped(why) => say(&format!("skipped: {name}: {why}")),
        Verdict::Failed(why) => say(&format!("FAILED   {name:<18} {seconds:6.1} s: {why}")),
    }
}

/// Steps go to standard error where standard output is for another program to read.
fn tell_step(step: &str) {
    let _ = writeln!(std::io::stderr().lock(), "lab: {step}");
}

/// Results go to standard output; a reader that has gone away is no reason to fail.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}
