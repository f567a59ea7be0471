//! Runs tests, a few guests at a time, and tells how they went.

use crate::bench::Bench;
use crate::error::{IoContext, LabError, Result};
use crate::lab::Lab;
use crate::scenarios::Scenario;
use crate::transcript::{Source, Transcript};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How many times a test is made again that the emulation spoiled.
const AGAIN_MAX: u32 = 2;
/// Lines of a failed test's log that are shown.
const SHOWN_LINES: usize = 60;

/// How a test ended.
#[derive(Debug)]
pub enum Verdict {
    /// Everything held.
    Passed,
    /// Something did not; the text says what, where the log is, and how it ends.
    Failed(String),
    /// It could not be run here, for this reason.
    Skipped(String),
}

/// One test's result.
#[derive(Debug)]
pub struct Report {
    /// The test's name.
    pub name: &'static str,
    /// How long it took, boot included.
    pub took: Duration,
    /// How it ended.
    pub verdict: Verdict,
}

/// Counts over a whole run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed.
    pub failed: usize,
    /// Tests that could not be run here.
    pub skipped: usize,
}

impl Totals {
    /// Counts one more.
    pub fn add(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Passed => self.passed += 1,
            Verdict::Failed(_) => self.failed += 1,
            Verdict::Skipped(_) => self.skipped += 1,
        }
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// Runs `scenarios` with up to `guests` at once; `tell` hears of each as it ends.
///
/// # Errors
/// The directory for the logs cannot be made.
pub fn run(
    lab: &Lab,
    scenarios: &[Scenario],
    guests: usize,
    logs: &Path,
    tell: &(dyn Fn(&Report) + Sync),
) -> Result<Totals> {
    std::fs::create_dir_all(logs).doing(|| format!("create {}", logs.display()))?;
    let next = AtomicUsize::new(0);
    let totals = Mutex::new(Totals::default());
    std::thread::scope(|scope| {
        for _ in 0..guests.clamp(1, scenarios.len().max(1)) {
            scope.spawn(|| {
                while let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let report = run_one(lab, scenario, logs);
                    let mut totals = totals
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner);
                    totals.add(&report.verdict);
                    tell(&report);
                }
            });
        }
    });
    Ok(totals
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// Runs one test, keeping its log under `logs`; those of attempts that the emulation spoiled beside it.
fn run_one(lab: &Lab, scenario: &Scenario, logs: &Path) -> Report {
    let begun = Instant::now();
    let path = logs.join(format!("{}.log", scenario.name));
    let mut again = 0;
    let verdict = loop {
        let log = match Transcript::create(&path) {
            Ok(log) => log,
            Err(err) => break Verdict::Failed(err.to_string()),
        };
        let result = attempt(lab, scenario, &log);
        let spoiled = result.as_ref().err().and_then(|err| spoiled(err, &log));
        match spoiled {
            Some(why) if again < AGAIN_MAX => {
                again += 1;
                let text = format!("{why}, which tells nothing of the node: once more");
                log.say(Source::Lab, &text);
                let kept = logs.join(format!("{}.spoiled-{again}.log", scenario.name));
                if let Err(err) = std::fs::rename(&path, kept) {
                    break Verdict::Failed(format!("{text}, but its log cannot be kept: {err}"));
                }
            }
            _ => break verdict(result, &log),
        }
    };
    Report {
        name: scenario.name,
        took: begun.elapsed(),
        verdict,
    }
}

/// What the emulation did wrong, where that explains a failure.
fn spoiled(err: &LabError, log: &Transcript) -> Option<&'static str> {
    if matches!(err, LabError::Skip(_)) {
        None
    } else if matches!(err, LabError::Gone(_)) && emulator_crashed(log) {
        Some("QEMU failed an assertion of its own")
    } else if log.has(Source::Guest, LOST_TIMER) {
        Some("a processor of the emulated machine lost its timer")
    } else {
        None
    }
}

/// What the guest's kernel says when the timer of an idle processor never fired. Emulated with more
/// threads than there are processors, a machine stops like that once in a while (seen: four on two,
/// beside a build).
const LOST_TIMER: &str = "rcu: \tPossible timer handling issue on cpu";

/// Whether QEMU ended by an assertion in its own source. Its emulation with several threads does so
/// once in a while on a loaded machine (seen: `physmem.c`, `iotlb_to_section`).
fn emulator_crashed(log: &Transcript) -> bool {
    // Its last words may still be on their way.
    std::thread::sleep(Duration::from_millis(200));
    log.last_lines(SHOWN_LINES)
        .lines()
        .any(|line| line.contains("qemu-system") && line.contains("Assertion `"))
}

fn attempt(lab: &Lab, scenario: &Scenario, log: &Transcript) -> Result<()> {
    let mut bench = Bench::set_up(lab, &scenario.machine, scenario.namespaces, log)?;
    (scenario.steps)(&mut bench)?;
    bench.tear_down()
}

fn verdict(result: Result<()>, log: &Transcript) -> Verdict {
    match result {
        Ok(()) => Verdict::Passed,
        Err(LabError::Skip(why)) => Verdict::Skipped(why),
        Err(err) => {
            // Let the console's last words arrive before they are shown.
            std::thread::sleep(Duration::from_millis(200));
            log.say(Source::Lab, &format!("FAILED: {err}"));
            Verdict::Failed(format!(
                "{err}\n--- the end of {} ---\n{}\n---",
                log.path().display(),
                log.last_lines(SHOWN_LINES)
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_assertion_of_the_emulator_counts_as_its_crash() {
        let dir = tempfile::tempdir().unwrap();
        let log = Transcript::create(&dir.path().join("x.log")).unwrap();
        log.say(Source::Guest, "Kernel panic: Assertion `x' failed");
        assert!(!emulator_crashed(&log));
        log.say(
            Source::Qemu,
            "qemu-system-x86_64: system/physmem.c:1: f: Assertion `x' failed.",
        );
        assert!(emulator_crashed(&log));
    }

    #[test]
    fn a_lost_timer_of_the_guest_spoils_a_failure_and_no_skip() {
        let dir = tempfile::tempdir().unwrap();
        let log = Transcript::create(&dir.path().join("x.log")).unwrap();
        let failure = LabError::Check("late".into());
        let said = "[   44.262283] rcu: \tPossible timer handling issue on cpu=3 timer-softirq=4";
        log.say(Source::Lab, said);
        assert_eq!(spoiled(&failure, &log), None);
        log.say(Source::Guest, said);
        assert!(spoiled(&failure, &log).is_some());
        assert_eq!(spoiled(&LabError::Skip("no drive".into()), &log), None);
    }

    #[test]
    fn verdicts_tell_skips_from_failures_and_show_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = Transcript::create(&dir.path().join("x.log")).unwrap();
        log.say(Source::Guest, "Kernel panic");
        let mut totals = Totals::default();
        let skip = verdict(Err(LabError::Skip("no drive".into())), &log);
        let fail = verdict(Err(LabError::Check("wrong".into())), &log);
        for verdict in [&skip, &fail, &verdict(Ok(()), &log)] {
            totals.add(verdict);
        }
        assert_eq!(totals.to_string(), "1 passed, 1 failed, 1 skipped");
        let Verdict::Failed(text) = fail else {
            panic!("not a failure")
        };
        assert!(text.contains("wrong") && text.contains("Kernel panic") && text.contains("x.log"));
    }
}
