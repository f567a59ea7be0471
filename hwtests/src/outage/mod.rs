//! Outages of the control plane under verified I/O, with real processes.
//!
//! Each case starts etcd (where it needs it), `penstock-control` and a `penstock-node` with a
//! volume in memory and one in a file, measures a client's verified I/O undisturbed, then breaks
//! something under the same load, heals it, and waits until what is observed is what is wanted
//! again, without a hand. I/O must not fail, and not pause for longer than [`PAUSE_MAX`] because of
//! control.
//!
//! The load runs on the volume in memory: etcd and the node's files share this machine's disk, and
//! what is measured is control, not that disk. The volume in the file holds a data set that is read
//! back, every byte checked, when all is over.
//!
//! ```text
//! cargo build --bins
//! cargo run -p penstock-hwtests -- outage
//! cargo run -p penstock-hwtests -- outage kill-control
//! ```

mod cases;
mod late;
mod load;
mod stack;

pub use cases::ALL;

use crate::cluster::Options;
use crate::error::{IoContext, LabError, Result, check};
use crate::etcd::Programs;
use crate::runner::{Report, Verdict};
use crate::transcript::{Source, Transcript};
use load::Figures;
use stack::{MEMORY_NSID, Stack};
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest pause of I/O that an outage of control may cause.
pub const PAUSE_MAX: Duration = Duration::from_millis(100);

/// How long the undisturbed I/O is measured, in seconds.
const BASELINE_SECONDS: u32 = 5;
/// A pause of a busy machine comes and goes; one that control causes comes again.
const ATTEMPTS: u32 = 3;
const HEAL_LIMIT: Duration = Duration::from_secs(60);
/// Lines of a failed case's log that are shown.
const SHOWN_LINES: usize = 60;

/// One case.
#[derive(Clone, Copy)]
pub struct Case {
    /// What the command line calls it.
    pub name: &'static str,
    /// One line on what is broken.
    pub about: &'static str,
    /// How etcd is made.
    pub etcd: Options,
    /// Control servers.
    pub controls: usize,
    /// How long the load of the case runs, in seconds: longer than its steps take; 0 for none.
    pub load_seconds: u32,
    /// Breaks, heals, and checks what the framework cannot know.
    pub steps: fn(&mut Stack, &mut Times) -> Result<()>,
}

/// How long things took, for the report.
#[derive(Debug, Default)]
pub struct Times(Vec<(String, Duration)>);

impl Times {
    /// Adds one; `what` goes on as in `control back in`.
    pub fn add(&mut self, what: &str, took: Duration) {
        self.0.push((what.to_owned(), took));
    }
}

/// What a case measured.
struct Measured {
    times: Times,
    /// Undisturbed and disturbed; none where the case has no load.
    load: Option<(Figures, Figures)>,
}

impl Measured {
    fn pause_is_fine(&self) -> bool {
        self.load.as_ref().is_none_or(|(undisturbed, disturbed)| {
            disturbed.longest <= PAUSE_MAX.max(undisturbed.longest * 2)
        })
    }

    fn text(&self) -> String {
        let mut parts = Vec::new();
        if let Some((undisturbed, disturbed)) = &self.load {
            parts.push(format!(
                "longest pause {:.1} ms (undisturbed {:.1}), p99.9 {:.2} ms ({:.2}), {} verified reads",
                disturbed.longest.as_secs_f64() * 1e3,
                undisturbed.longest.as_secs_f64() * 1e3,
                disturbed.p99_9.as_secs_f64() * 1e3,
                undisturbed.p99_9.as_secs_f64() * 1e3,
                disturbed.checked_reads
            ));
        }
        for (what, took) in &self.times.0 {
            parts.push(format!("{what} {} ms", took.as_millis()));
        }
        parts.join("; ")
    }
}

/// Runs a case, keeping its log under `logs`; `tell` hears its figures.
pub fn run(case: &Case, logs: &Path, tell: &dyn Fn(&str)) -> Report {
    let begun = Instant::now();
    let path = logs.join(format!("outage-{}.log", case.name));
    let verdict = match attempts(case, &path, tell) {
        Ok(()) => Verdict::Passed,
        Err(LabError::Skip(why)) => Verdict::Skipped(why),
        Err(err) => Verdict::Failed(err.to_string()),
    };
    Report {
        name: case.name,
        took: begun.elapsed(),
        verdict,
    }
}

fn attempts(case: &Case, path: &Path, tell: &dyn Fn(&str)) -> Result<()> {
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        let log = Transcript::create(path)?;
        let measured = attempt(case, &log).map_err(|err| shown(err, &log))?;
        last = measured.text();
        tell(&format!("{}: {last}", case.name));
        if measured.pause_is_fine() {
            return Ok(());
        }
    }
    Err(LabError::Check(format!(
        "I/O paused for too long in each of {ATTEMPTS} runs, at last: {last}"
    )))
}

/// Adds the log's end to what went wrong with the system; a skip is no failure.
fn shown(err: LabError, log: &Transcript) -> LabError {
    if matches!(err, LabError::Skip(_)) {
        return err;
    }
    // Let the processes' last words arrive.
    std::thread::sleep(Duration::from_millis(200));
    log.say(Source::Lab, &format!("FAILED: {err}"));
    LabError::Check(format!(
        "{err}\n--- the end of {} ---\n{}\n---",
        log.path().display(),
        log.last_lines(SHOWN_LINES)
    ))
}

fn attempt(case: &Case, log: &Transcript) -> Result<Measured> {
    let programs = Programs::find(&|step| log.say(Source::Lab, step))?;
    let dir = tempfile::Builder::new()
        .prefix("penstock-outage-")
        .tempdir()
        .doing(|| "create a temporary directory".into())?;
    let mut stack = Stack::set_up(dir.path(), &programs, case.etcd, case.controls, log)?;
    let mut times = Times::default();
    let mut load = None;
    if case.load_seconds == 0 {
        (case.steps)(&mut stack, &mut times)?;
    } else {
        log.say(Source::Lab, "# undisturbed");
        let undisturbed = stack.load(MEMORY_NSID, BASELINE_SECONDS)?.finish()?;
        log.say(Source::Lab, "# disturbed");
        let mut running = stack.load(MEMORY_NSID, case.load_seconds)?;
        running.wait_begun()?;
        (case.steps)(&mut stack, &mut times)?;
        check(running.runs_for(Duration::ZERO)?, || {
            "the load ended before the steps: give the case more load_seconds".into()
        })?;
        load = Some((undisturbed, running.finish()?));
    }
    log.say(Source::Lab, "# healed");
    times.add("all as wanted after", stack.wait_healed(HEAL_LIMIT)?);
    stack.check_dataset()?;
    stack.tear_down()?;
    Ok(Measured { times, load })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(undisturbed_ms: u64, disturbed_ms: u64) -> Measured {
        let figures = |ms| Figures {
            longest: Duration::from_millis(ms),
            p99_9: Duration::from_millis(1),
            checked_reads: 5,
        };
        Measured {
            times: Times::default(),
            load: Some((figures(undisturbed_ms), figures(disturbed_ms))),
        }
    }

    #[test]
    fn a_pause_is_judged_by_the_limit_and_the_machine() {
        assert!(measured(3, 100).pause_is_fine());
        assert!(!measured(3, 101).pause_is_fine());
        assert!(measured(90, 170).pause_is_fine());
        assert!(!measured(90, 190).pause_is_fine());
        assert!(
            measured(3, 7)
                .text()
                .contains("longest pause 7.0 ms (undisturbed 3.0)")
        );
    }

    #[test]
    fn names_are_unique() {
        for (index, case) in ALL.iter().enumerate() {
            assert!(ALL[..index].iter().all(|other| other.name != case.name));
        }
    }
}
