//! `perf`: keeps a number of commands in flight and measures them.

mod lane;
mod report;
mod tally;
mod verify;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::{Args, ValueEnum};
use penstock_client::ControllerInfo;
use penstock_reactor::{now, ticks_per_second};
use penstock_units::Nsid;
use serde::Serialize;

use crate::cpu;
use crate::host::{Target, parse_nsid};
use crate::runtime::{Poll, Reactors, pool_for};
use crate::session::{Geometry, Session, blocks_of};
use crate::size;
use tally::Tally;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// Reads at random places
    Randread,
    /// Writes at random places
    Randwrite,
    /// Reads one after the other
    Read,
    /// Writes one after the other
    Write,
    /// Reads and writes at random places, as --read-percent says
    Mixed,
    /// Writes patterns and reads them back, checking every byte
    Verify,
}

impl Workload {
    fn writes(self) -> bool {
        !matches!(self, Workload::Randread | Workload::Read)
    }
}

/// Arguments of `perf`. All workloads but the reading ones DESTROY what the namespace holds.
#[derive(Args, Debug)]
#[command(after_long_help = report::JSON_HELP)]
pub struct Arguments {
    #[command(flatten)]
    target: Target,
    /// Subsystem NQN
    #[arg(long)]
    nqn: String,
    /// Namespace
    #[arg(long, default_value = "1", value_parser = parse_nsid)]
    nsid: Nsid,
    /// What to do; all but the reading ones destroy what the namespace holds
    #[arg(long, value_enum, default_value = "randread")]
    workload: Workload,
    /// Share of reads of the mixed workload, in percent
    #[arg(long, default_value_t = 70, value_parser = clap::value_parser!(u8).range(0..=100))]
    read_percent: u8,
    /// Commands in flight on each queue pair
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=4096))]
    queue_depth: u16,
    /// Bytes of one command, such as 4096, 4KiB or 1MiB
    #[arg(long, default_value = "4KiB", value_parser = size::parse, value_name = "BYTES")]
    block_size_bytes: u64,
    /// I/O queue pairs (TCP connections), spread over the cores
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    queue_pairs: u16,
    /// How long to measure
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    seconds: f64,
    /// How long to run before measuring
    #[arg(long, default_value_t = 1.0, value_parser = not_negative)]
    warm_up_seconds: f64,
    /// CPUs to run on, one reactor each, such as 1 or 2,3; one reactor anywhere where not given
    #[arg(long, value_delimiter = ',', value_name = "CPUS")]
    cores: Vec<usize>,
    /// What idle reactors do
    #[arg(long, value_enum, default_value_t)]
    poll: Poll,
    /// Seed of places and patterns
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

fn not_negative(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|n| (0.0..=1e9).contains(n));
    number.ok_or_else(|| format!("`{text}` is no number of seconds"))
}

fn positive(text: &str) -> Result<f64, String> {
    not_negative(text).and_then(|n| {
        if n > 0.0 {
            Ok(n)
        } else {
            Err("must be above 0".into())
        }
    })
}

/// What every lane needs to know.
#[derive(Clone, Debug)]
struct Plan {
    workload: Workload,
    read_percent: u8,
    geometry: Geometry,
    io_bytes: usize,
    io_blocks: u32,
    /// Places of one I/O in the namespace.
    places: u64,
    queue_depth: u16,
    queue_pairs: u16,
    seed: u64,
}

impl Plan {
    fn lanes(&self) -> u64 {
        u64::from(self.queue_depth) * u64::from(self.queue_pairs)
    }
}

/// When the measurement starts and ends, in ticks; set once all queues are connected.
struct Clock {
    ready: AtomicUsize,
    start: AtomicU64,
    end: AtomicU64,
}

impl Clock {
    fn new() -> Arc<Clock> {
        Arc::new(Clock {
            ready: AtomicUsize::new(0),
            start: AtomicU64::new(u64::MAX),
            end: AtomicU64::new(u64::MAX),
        })
    }

    fn start(&self) -> u64 {
        self.start.load(Ordering::Relaxed)
    }

    fn end(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let options = arguments.target.options(&arguments.nqn)?;
    let reactors = Reactors::start(&arguments.cores, arguments.poll)?;
    if reactors.count() > usize::from(arguments.queue_pairs) {
        bail!(
            "{} cores have only {} queue pairs to serve: give at least as many --queue-pairs",
            reactors.count(),
            arguments.queue_pairs
        );
    }
    let session = Session::open(
        &reactors,
        &options,
        arguments.queue_pairs,
        &[arguments.nsid],
    )?;
    let opened = &session.opened;
    let geometry = *opened
        .namespaces
        .first()
        .context("the namespace was not identified")?;
    let io_blocks = blocks_of(arguments.block_size_bytes, &geometry, &opened.info)?;
    let plan = Plan {
        workload: arguments.workload,
        read_percent: arguments.read_percent,
        geometry,
        io_bytes: usize::try_from(arguments.block_size_bytes)?,
        io_blocks,
        places: geometry.blocks / u64::from(io_blocks),
        queue_depth: arguments.queue_depth,
        queue_pairs: arguments.queue_pairs,
        seed: arguments.seed,
    };
    let (tally, cpu) = measure(arguments, &plan, &opened.info, &reactors)?;
    let info = opened.info.clone();
    let closed = session.close();
    let report = report::Report::new(arguments, &plan, &info, reactors.count(), &tally, cpu);
    report.print(arguments.json)?;
    if tally.errors > 0 {
        let first = tally.first_error.as_deref().unwrap_or("no cause was noted");
        bail!(
            "{} of {} commands failed; the first: {first}",
            tally.errors,
            tally.attempts
        );
    }
    closed
}

/// Runs the workload; gives what was counted and the CPU time of the measured span.
fn measure(
    arguments: &Arguments,
    plan: &Plan,
    info: &ControllerInfo,
    reactors: &Reactors,
) -> anyhow::Result<(Tally, Option<Duration>)> {
    let clock = Clock::new();
    let mut results = Vec::new();
    for index in 0..reactors.count() {
        let ids: Vec<u16> = (1..=plan.queue_pairs)
            .skip(index)
            .step_by(reactors.count())
            .collect();
        let leases = ids.len() as u64 * u64::from(plan.queue_depth);
        let (plan, info, clock) = (plan.clone(), info.clone(), Arc::clone(&clock));
        let work = move |pool| lane::work(Rc::new(plan), info, ids, clock, pool);
        results.push(reactors.run(
            index,
            pool_for(leases, arguments.block_size_bytes),
            Box::new(move |pool| Box::pin(work(pool))),
        )?);
    }
    let mut tallies: Vec<Option<anyhow::Result<Tally>>> = results.iter().map(|_| None).collect();
    while clock.ready.load(Ordering::Acquire) < results.len() {
        // Only a failure ends a worker before the clock is set.
        if gather(&results, &mut tallies)? {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let second = ticks_per_second() as f64;
    let start = now() + ticks(arguments.warm_up_seconds * second);
    clock.start.store(start, Ordering::Relaxed);
    clock
        .end
        .store(start + ticks(arguments.seconds * second), Ordering::Relaxed);
    std::thread::sleep(Duration::from_secs_f64(arguments.warm_up_seconds));
    let before = cpu::used();
    std::thread::sleep(Duration::from_secs_f64(arguments.seconds));
    let cpu = cpu::used()
        .zip(before)
        .map(|(after, before)| after.saturating_sub(before));
    let mut total = Tally::new()?;
    for (result, early) in results.iter().zip(tallies) {
        let tally = match early {
            Some(tally) => tally,
            None => result
                .recv()
                .map_err(|_| anyhow!("a reactor ended early"))?,
        };
        total.add(&tally?)?;
    }
    Ok((total, cpu))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "seconds are checked"
)]
fn ticks(count: f64) -> u64 {
    count as u64
}

/// Takes results that are there already; true when all are.
fn gather(
    results: &[Receiver<anyhow::Result<Tally>>],
    tallies: &mut [Option<anyhow::Result<Tally>>],
) -> anyhow::Result<bool> {
    for (result, tally) in results
        .iter()
        .zip(tallies.iter_mut())
        .filter(|(_, t)| t.is_none())
    {
        match result.try_recv() {
            Ok(Err(error)) => return Err(error),
            Ok(done) => *tally = Some(done),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => bail!("a reactor ended early"),
        }
    }
    Ok(tallies.iter().all(Option::is_some))
}
