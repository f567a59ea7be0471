//! `cargo xtask test`: every check of the project, one summary.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::{build, packages, say};

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Options {
    /// Leave out the machine lab (Linux guests in QEMU) and the outages; the summary says so.
    #[arg(long)]
    no_lab: bool,
}

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// How the tests in a stage's output are counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// The stage is one test.
    One,
    /// Rust's test harness.
    Harness,
    /// The lab: its last line counts.
    Lab,
}

/// Which etcd a stage's tests are given.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Etcd {
    /// That of this machine's release.
    Own,
    /// That of another release: of another series.
    Other,
}

struct Stage {
    name: &'static str,
    command: Command,
    form: Form,
    etcd: Option<Etcd>,
}

struct Outcome {
    name: &'static str,
    counts: Counts,
    took: Duration,
}

/// Runs every stage, whatever the others say, and sums up.
///
/// # Errors
/// A stage cannot be started, or the build lacks something that cannot be installed.
pub fn run(options: &Options) -> Result<bool> {
    packages::ensure()?;
    let mut outcomes = Vec::new();
    for mut stage in stages() {
        if stage.form == Form::Lab && options.no_lab {
            outcomes.push(skipped(stage.name, "by --no-lab"));
            continue;
        }
        let given = stage
            .etcd
            .is_none_or(|etcd| give_etcd(&mut stage.command, etcd));
        outcomes.push(if stage.etcd == Some(Etcd::Other) && !given {
            skipped(stage.name, "that etcd cannot be had, see above")
        } else {
            run_stage(stage)?
        });
    }
    Ok(sum_up(&outcomes))
}

fn skipped(name: &'static str, why: &str) -> Outcome {
    say(&format!("\n==== {name}\nskipped: {name}, {why}"));
    let counts = Counts {
        skipped: 1,
        ..Counts::default()
    };
    Outcome {
        name,
        counts,
        took: Duration::ZERO,
    }
}

fn stages() -> Vec<Stage> {
    let cargo = |line: &str| build::cargo(&line.split(' ').collect::<Vec<_>>());
    let stage = |name, form, line: &str| Stage {
        name,
        command: cargo(line),
        form,
        etcd: None,
    };
    let with = |etcd, stage| Stage {
        etcd: Some(etcd),
        ..stage
    };
    let mut doc = stage(
        "documentation",
        Form::One,
        "doc --workspace --no-deps --quiet",
    );
    doc.command.env("RUSTDOCFLAGS", "-D warnings");
    let clippy = "clippy --workspace --all-targets --quiet -- -D warnings";
    // Programs first: tests and the lab start those that lie beside them.
    let programs = "build --workspace --bins --quiet";
    let tests = "test --workspace --no-fail-fast -- --show-output";
    let store = "test --package penstock-store --test etcd -- --show-output";
    let lab = "run --quiet --package penstock-hwtests -- run-all";
    let outages = "run --quiet --package penstock-hwtests -- outage";
    vec![
        stage("format", Form::One, "fmt --all --check"),
        stage("lints", Form::One, clippy),
        doc,
        stage("programs", Form::One, programs),
        with(Etcd::Own, stage("tests", Form::Harness, tests)),
        with(Etcd::Other, stage("another etcd", Form::Harness, store)),
        stage("lab", Form::Lab, lab),
        stage("outages", Form::Lab, outages),
    ]
}

/// Tells the tests where etcd's programs are, and whether that was possible; without them the tests
/// that need etcd say so.
fn give_etcd(command: &mut Command, which: Etcd) -> bool {
    let mut words = vec![
        "run",
        "--quiet",
        "--package",
        "penstock-hwtests",
        "--",
        "etcd",
    ];
    if which == Etcd::Other {
        words.push("--other");
    }
    let mut fetch = build::cargo(&words);
    // What it says of a download goes on standard error, which is passed on.
    let output = fetch.stderr(Stdio::inherit()).output();
    let text = match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
        Ok(output) => {
            say(String::from_utf8_lossy(&output.stdout).trim_end());
            String::new()
        }
        Err(error) => {
            say(&error.to_string());
            String::new()
        }
    };
    let mut lines = text.lines();
    let (Some(etcd), Some(etcdctl)) = (lines.next(), lines.next()) else {
        say("etcd cannot be fetched; the reason is above, and the tests that need it are skipped");
        return false;
    };
    command.env("PENSTOCK_ETCD", etcd);
    command.env("PENSTOCK_ETCDCTL", etcdctl);
    true
}

fn run_stage(mut stage: Stage) -> Result<Outcome> {
    say(&format!("\n==== {}", stage.name));
    let begun = Instant::now();
    let mut child = stage
        .command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {:?}", stage.command.get_program()))?;
    let mut counts = Counts::default();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            let line = line.context("cannot read what the stage says")?;
            count(&line, stage.form, &mut counts);
            if shown(&line, stage.form) {
                say(&line);
            }
        }
    }
    let status = child.wait().context("cannot wait for the stage")?;
    match (stage.form, status.success()) {
        (Form::One, true) => counts.passed = 1,
        (Form::One, false) => counts.failed = 1,
        // It broke off without counting, for instance because it does not compile.
        (_, false) if counts.failed == 0 => counts.failed = 1,
        _ => {}
    }
    // A test that says it skipped has been counted as passed by the harness.
    if stage.form == Form::Harness {
        counts.passed = counts.passed.saturating_sub(counts.skipped);
    }
    Ok(Outcome {
        name: stage.name,
        counts,
        took: begun.elapsed(),
    })
}

/// Passed tests are not shown one by one: thousands of lines hide the few that matter.
fn shown(line: &str, form: Form) -> bool {
    if form != Form::Harness {
        return true;
    }
    let passed = line.starts_with("test ") && line.ends_with(" ... ok");
    // The harness lists the names of passed and of failed tests once more at its end.
    let name = line
        .strip_prefix("    ")
        .is_some_and(|name| !name.trim().contains(' '));
    let heading = line == "successes:" || line.starts_with("running ") || line.is_empty();
    !(passed || name || heading)
}

fn count(line: &str, form: Form, counts: &mut Counts) {
    match form {
        Form::One => {}
        Form::Harness => {
            if let Some(result) = line.trim().strip_prefix("test result: ") {
                counts.passed += number_before(result, " passed");
                counts.failed += number_before(result, " failed");
                counts.skipped += number_before(result, " ignored");
                counts.passed += number_before(result, " ignored");
            } else if line.trim_start().starts_with("skipped: ") {
                counts.skipped += 1;
            }
        }
        Form::Lab => {
            let numbers = ["passed", "failed", "skipped"];
            if numbers
                .iter()
                .all(|word| line.contains(&format!(" {word}")))
            {
                counts.passed = number_before(line, " passed");
                counts.failed = number_before(line, " failed");
                counts.skipped = number_before(line, " skipped");
            }
        }
    }
}

/// The number that stands before `word`; 0 where there is none.
fn number_before(line: &str, word: &str) -> u64 {
    let before = line
        .split(word)
        .next()
        .filter(|before| before.len() < line.len());
    let digits = before.and_then(|before| before.rsplit([' ', ';', ',']).next());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

fn sum_up(outcomes: &[Outcome]) -> bool {
    say("\n==== summary");
    let mut total = Counts::default();
    for Outcome { name, counts, took } in outcomes {
        say(&format!("{name:<14} {counts}, {:.0} s", took.as_secs_f64()));
        total.passed += counts.passed;
        total.failed += counts.failed;
        total.skipped += counts.skipped;
    }
    say(&total.to_string());
    total.failed == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(lines: &[&str], form: Form) -> Counts {
        let mut counts = Counts::default();
        lines.iter().for_each(|line| count(line, form, &mut counts));
        counts
    }

    #[test]
    fn the_harness_is_counted() {
        let counts = counted(
            &[
                "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out",
                "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
                "skipped: no block device to spare",
                "test a::b ... ok",
            ],
            Form::Harness,
        );
        assert_eq!(
            counts,
            Counts {
                passed: 16,
                failed: 2,
                skipped: 2
            }
        );
    }

    #[test]
    fn the_lab_is_counted_by_its_last_line() {
        let lines = [
            "passed   xfs    9.0 s",
            "skipped: fio: not there",
            "11 passed, 1 failed, 2 skipped",
        ];
        assert_eq!(
            counted(&lines, Form::Lab),
            Counts {
                passed: 11,
                failed: 1,
                skipped: 2
            }
        );
    }

    #[test]
    fn only_passing_tests_are_hidden() {
        for passed in [
            "test a::b ... ok",
            "successes:",
            "    a::b",
            "",
            "running 3 tests",
        ] {
            assert!(!shown(passed, Form::Harness), "{passed}");
        }
        assert!(shown("test a::b ... FAILED", Form::Harness));
        assert!(shown("passed   xfs    9.0 s", Form::Lab));
    }
}
