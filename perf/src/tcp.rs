//! `penstock-perf tcp`: our node and SPDK's target in turns, under the same client.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::case::{self, Case, Workload};
use crate::child::{self, Owned};
use crate::client::{Client, Span, Target};
use crate::figures::Figures;
use crate::machine::{Facts, Hugepages};
use crate::node::{Namespace, Node, Poll, Setup, program};
use crate::peer::{Peer, TREE_VARIABLE, Tree};
use crate::{Programs, note, plot, procfs, report, say};

/// Share of one core that others may use during a measurement.
const OTHER_MAX: f64 = 0.05;

/// Free hugepages (2 MiB) that both targets and the client need together.
const HUGEPAGES_WANTED: u64 = 1000;

/// Long enough to write the namespace once on a quiet machine, many times over.
const FILL_SPAN: Span = Span {
    seconds: 2,
    warm_up_seconds: 0,
};

/// Options of `penstock-perf tcp`.
#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    programs: Programs,
    /// Case to measure; may be given several times. Default: the six that count.
    #[arg(long, value_name = "NAME")]
    case: Vec<String>,
    /// Measure the extra cases too: random writes, digests, mixed.
    #[arg(long, conflicts_with = "case")]
    all: bool,
    /// Measurements of each case and target; their medians are compared.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Seconds of load before each measurement.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=600))]
    warm_up_seconds: u32,
    /// How often a measurement is repeated at most where others used the processor meanwhile.
    #[arg(long, default_value_t = 2)]
    repeats: u32,
    /// What namespace 1 is made of.
    #[arg(long, value_enum, default_value = "memory")]
    namespace: Namespace,
    /// What our reactor does when idle; the peer always polls.
    #[arg(long, value_enum, default_value = "busy")]
    poll: Poll,
    /// Where the table, the raw figures and the plot go.
    #[arg(long, default_value = "target/perf", value_name = "FOLDER")]
    out: PathBuf,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// Name of the case.
    pub case: &'static str,
    /// Who was measured.
    pub target: &'static str,
    /// Counts from 0.
    pub run: u32,
    /// What came out.
    pub figures: Figures,
    /// Processor time spent by anything but target and client, as a share of one core.
    pub other_share: f64,
    /// How often it was measured until others were quiet enough, or patience ended.
    pub attempts: u32,
}

impl Sample {
    /// Whether others used too much of the processor.
    pub fn disturbed(&self) -> bool {
        self.other_share > OTHER_MAX
    }
}

/// Everything that was measured, and how.
#[derive(Serialize)]
pub struct Outcome {
    /// The machine.
    pub facts: Facts,
    /// The peer's version; none where there is none.
    pub peer: Option<String>,
    /// The client.
    pub client: &'static str,
    /// How both were set up, in words.
    pub setup: String,
    /// Every measurement that counts.
    pub samples: Vec<Sample>,
    /// The cases, in order.
    #[serde(skip)]
    pub cases: Vec<Case>,
}

/// Name of our node in results.
pub const OURS: &str = "Penstock";
/// Name of the peer in results.
pub const PEER: &str = "SPDK";

/// One side of the comparison.
struct Side<'a> {
    name: &'static str,
    process: &'a Owned,
    target: &'a Target,
}

/// Runs the comparison.
///
/// # Errors
/// A program is missing or fails, or somebody interrupts; nothing keeps running.
pub fn run(options: &Options) -> Result<()> {
    let tree = Tree::from_environment()?;
    let cases = case::choose(&options.case, options.all)?;
    let hugepages = Hugepages::at_least(HUGEPAGES_WANTED);
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let client = match &tree {
        Some(tree) => Client::Spdk {
            program: tree.perf(),
            hugepages: hugepages.enough,
        },
        None => Client::Penstock {
            program: program(options.programs.programs.as_deref(), "penstock-initiator")?,
        },
    };
    let mut outcome = Outcome {
        facts: Facts::gather(),
        peer: tree.as_ref().map(Tree::version),
        client: client.name(),
        setup: setup_in_words(options, hugepages.enough),
        samples: Vec::new(),
        cases,
    };
    let samples = in_turns(
        options,
        tree.as_ref(),
        &client,
        &outcome.cases,
        &hugepages,
        folder.path(),
    );
    // The node's pages must be free before their number is put back.
    drop(hugepages);
    outcome.samples = samples?;
    write(&options.out, &outcome)?;
    if tree.is_none() {
        say(&format!(
            "skipped: {TREE_VARIABLE} is not set, no peer to compare with"
        ));
    }
    Ok(())
}

fn setup_in_words(options: &Options, hugepages: bool) -> String {
    let namespace = format!("{:?}", options.namespace).to_lowercase();
    format!(
        "target on core {}, client on core {}, loopback; 512 MiB {namespace} namespace, \
         written full before, 512 B blocks, \
         hugepages {}; our reactor polls {}; {} runs of {} s after {} s of warm-up, in turns",
        options.programs.target_core,
        options.programs.client_core,
        if hugepages { "in use" } else { "not to be had" },
        if options.poll == Poll::Busy {
            "always (busy)"
        } else {
            "while there is work (adaptive)"
        },
        options.runs,
        options.seconds,
        options.warm_up_seconds,
    )
}

/// Starts both targets and measures them in turns, whichever is not measured standing still.
fn in_turns(
    options: &Options,
    tree: Option<&Tree>,
    client: &Client,
    cases: &[Case],
    hugepages: &Hugepages,
    folder: &Path,
) -> Result<Vec<Sample>> {
    let core = options.programs.target_core;
    let node_program = program(options.programs.programs.as_deref(), "penstock-node")?;
    let setup = Setup {
        poll: options.poll,
        namespace: options.namespace,
        core,
        hugepages: true,
    };
    let node = Node::start(&node_program, setup, None, folder)?;
    node.process.freeze()?;
    let peer = match tree {
        Some(tree) => Some(tree.start(core, options.namespace, hugepages.enough, folder)?),
        None => None,
    };
    if let Some(Peer { process, .. }) = &peer {
        process.freeze()?;
    }
    let mut sides = vec![Side {
        name: OURS,
        process: &node.process,
        target: &node.target,
    }];
    sides.extend(peer.as_ref().map(|peer| Side {
        name: PEER,
        process: &peer.process,
        target: &peer.target,
    }));
    for side in &sides {
        fill(options, client, side, folder)?;
    }
    let mut samples = Vec::new();
    for case in cases {
        for run in 0..options.runs {
            for side in &sides {
                let sample = turn(options, client, case, side, run, folder)?;
                note(&format!(
                    "{} {} run {}/{}: {:.0} IOPS, p50 {:.1} us, p99.9 {:.1} us, other {:.0} %{}",
                    case.name,
                    side.name,
                    run + 1,
                    options.runs,
                    sample.figures.iops,
                    sample.figures.p50_us,
                    sample.figures.p99_9_us,
                    sample.other_share * 100.0,
                    if sample.disturbed() {
                        " (disturbed)"
                    } else {
                        ""
                    },
                ));
                samples.push(sample);
            }
        }
    }
    Ok(samples)
}

/// Writes the namespace once from end to end, so that no measurement pays for its pages.
fn fill(options: &Options, client: &Client, side: &Side<'_>, folder: &Path) -> Result<()> {
    let case = Case {
        name: "fill",
        title: "128 KiB write, unmeasured",
        io_bytes: 131_072,
        workload: Workload::Write,
        connections: 1,
        depth: 32,
        digests: false,
        usual: false,
    };
    side.process.thaw()?;
    let core = options.programs.client_core;
    client
        .measure(&case, side.target, FILL_SPAN, core, folder)
        .with_context(|| format!("writing {} full", side.name))?;
    side.process.freeze()
}

/// Measures one side, again where others used the processor; the least disturbed attempt counts.
fn turn(
    options: &Options,
    client: &Client,
    case: &Case,
    side: &Side<'_>,
    run: u32,
    folder: &Path,
) -> Result<Sample> {
    let span = Span {
        seconds: options.seconds,
        warm_up_seconds: options.warm_up_seconds,
    };
    let core = options.programs.client_core;
    let mut best: Option<Sample> = None;
    side.process.thaw()?;
    for attempt in 1..=options.repeats + 1 {
        // The target settles: what it missed while it stood still is not part of the figures.
        child::pause(Duration::from_millis(200))?;
        let before = Usage::now(side.process.pid())?;
        let figures = client
            .measure(case, side.target, span, core, folder)
            .with_context(|| format!("case {}, {}", case.name, side.name))?;
        let other_share = Usage::now(side.process.pid())?.others_since(&before);
        let sample = Sample {
            case: case.name,
            target: side.name,
            run,
            figures,
            other_share,
            attempts: attempt,
        };
        let quiet = !sample.disturbed();
        match &mut best {
            Some(best) if best.other_share <= other_share => best.attempts = attempt,
            _ => best = Some(sample),
        }
        if quiet {
            break;
        }
    }
    side.process.freeze()?;
    match best {
        Some(best) => Ok(best),
        None => bail!("nothing was measured"),
    }
}

/// Processor time so far.
struct Usage {
    at: std::time::Instant,
    machine: f64,
    target: f64,
    /// Ours, and our children's that have ended: the client's.
    own: f64,
}

impl Usage {
    fn now(target: u32) -> Result<Usage> {
        Ok(Usage {
            at: std::time::Instant::now(),
            machine: procfs::machine_seconds()?,
            target: procfs::process_seconds(&target.to_string())?,
            own: procfs::process_seconds("self")?,
        })
    }

    /// Share of one core that went elsewhere since `before`.
    fn others_since(&self, before: &Usage) -> f64 {
        let wall = (self.at - before.at).as_secs_f64().max(1e-3);
        let others = (self.machine - before.machine)
            - (self.target - before.target)
            - (self.own - before.own);
        (others / wall).max(0.0)
    }
}

fn write(folder: &Path, outcome: &Outcome) -> Result<()> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let table = report::markdown(outcome);
    let put = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    put("tcp.md", &table)?;
    put("tcp.json", &(serde_json::to_string_pretty(outcome)? + "\n"))?;
    put("tcp.svg", &plot::svg(outcome))?;
    say(&table);
    say(&format!(
        "written to {}: tcp.md, tcp.json, tcp.svg",
        folder.display()
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_used_is_what_is_left() {
        let at = std::time::Instant::now();
        let usage = |seconds, machine, target, own| Usage {
            at: at + Duration::from_secs(seconds),
            machine,
            target,
            own,
        };
        let before = usage(0, 100.0, 10.0, 1.0);
        let share = usage(4, 107.0, 13.0, 4.0).others_since(&before);
        assert!((share - 0.25).abs() < 1e-9, "{share}");
        // Rounding to clock ticks may make it negative.
        let none = usage(4, 106.0, 13.1, 4.0).others_since(&before);
        assert!(none.abs() < 1e-9, "{none}");
    }
}
