//! Verified I/O by our initiator, and what it measured.

use crate::error::{IoContext, LabError, Result, check};
use crate::process::{self, Owned};
use crate::transcript::{Source, Transcript};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Names the initiator's program outright.
const PROGRAM_VARIABLE: &str = "PENSTOCK_INITIATOR";
const PROGRAM: &str = "penstock-initiator";
const PACKAGE: &str = "penstock-client";
/// How much longer than asked for the load may take: connecting, and reading all of it once more.
const SPARE: Duration = Duration::from_secs(90);
const DATASET_LIMIT: Duration = Duration::from_secs(120);
/// Before the load's own measurement begins.
const WARM_UP: Duration = Duration::from_millis(500);

/// Where a client connects.
#[derive(Clone, Debug)]
pub struct Target {
    /// Port on 127.0.0.1.
    pub port: u16,
    /// NVMe qualified name of the subsystem.
    pub nqn: String,
}

/// What a load measured.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Longest time that one command took: the longest pause.
    pub longest: Duration,
    /// 99.9 % of commands took no longer.
    pub p99_9: Duration,
    /// Reads whose every byte was checked.
    pub checked_reads: u64,
}

/// A running load.
pub struct Load {
    process: Owned,
    output: PathBuf,
    ends: Instant,
    limit: Instant,
}

impl Load {
    /// Starts writing patterns to a namespace and checking what it reads, for `seconds`. `output`
    /// is a file of its own.
    ///
    /// # Errors
    /// The program is not built or cannot be started.
    pub fn start(
        target: &Target,
        nsid: u32,
        seconds: u32,
        output: &Path,
        log: &Transcript,
    ) -> Result<Self> {
        let file =
            std::fs::File::create(output).doing(|| format!("create {}", output.display()))?;
        let mut command = process::tied(process::beside(PROGRAM, PROGRAM_VARIABLE, PACKAGE)?);
        command.args([
            "perf",
            "--workload",
            "verify",
            "--json",
            "--queue-depth",
            "4",
        ]);
        command.args(["--address", &format!("127.0.0.1:{}", target.port)]);
        command.args(["--nqn", &target.nqn, "--nsid", &nsid.to_string()]);
        command.args(["--seconds", &seconds.to_string()]);
        command.args(["--warm-up-seconds", &WARM_UP.as_secs_f64().to_string()]);
        command.args(["--command-timeout-ms", "60000"]);
        command.stdout(file).stderr(Stdio::piped());
        let mut process = Owned::spawn(&mut command, PROGRAM)?;
        if let Some(err) = process.child().stderr.take() {
            log.follow(Source::Client, err);
        }
        let ends = Instant::now() + Duration::from_secs(u64::from(seconds));
        Ok(Self {
            process,
            output: output.to_owned(),
            ends,
            limit: ends + SPARE,
        })
    }

    /// Waits until the load has connected and measures.
    ///
    /// # Errors
    /// It has ended already.
    pub fn wait_begun(&mut self) -> Result<()> {
        std::thread::sleep(WARM_UP * 2);
        check(self.process.ended()?.is_none(), || {
            "the load ended at once; what it said is in the log".into()
        })
    }

    /// Whether it goes on for at least `more`.
    ///
    /// # Errors
    /// Its state cannot be told.
    pub fn runs_for(&mut self, more: Duration) -> Result<bool> {
        Ok(self.process.ended()?.is_none() && Instant::now() + more < self.ends)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// A single I/O failed or brought wrong data, or it does not end.
    pub fn finish(mut self) -> Result<Figures> {
        let left = self.limit.saturating_duration_since(Instant::now());
        let status = self.process.wait(left)?;
        let path = &self.output;
        let text = std::fs::read_to_string(path).doing(|| format!("read {}", path.display()))?;
        check(status.success(), || {
            format!("client I/O failed ({status}): {}", first_error(&text))
        })?;
        let figures = figures(&text)?;
        check(figures.checked_reads > 0, || {
            format!("the load verified nothing: {text}")
        })?;
        Ok(figures)
    }
}

fn parsed(text: &str) -> Result<Value> {
    serde_json::from_str(text)
        .map_err(|err| LabError::Check(format!("the initiator printed {text:?}: {err}")))
}

fn first_error(text: &str) -> String {
    let json = parsed(text).unwrap_or_default();
    format!(
        "{} errors, the first: {}",
        json["errors"], json["first_error"]
    )
}

fn figures(text: &str) -> Result<Figures> {
    let json = parsed(text)?;
    let time = |field: &str| -> Result<Duration> {
        let us = json[field].as_f64();
        let us = us.ok_or_else(|| LabError::Check(format!("no {field} in {text}")))?;
        Ok(Duration::from_secs_f64(us / 1e6))
    };
    Ok(Figures {
        longest: time("latency_max_us")?,
        p99_9: time("latency_p99_9_us")?,
        checked_reads: json["checked_reads"].as_u64().unwrap_or(0),
    })
}

/// Writes a data set to a namespace, or reads it back and checks every byte.
///
/// # Errors
/// A single I/O failed or brought wrong data.
pub fn dataset(phase: &str, target: &Target, nsid: u32) -> Result<()> {
    let mut command = process::tied(process::beside(PROGRAM, PROGRAM_VARIABLE, PACKAGE)?);
    command.args(["dataset", phase, "--progress", "none"]);
    command.args(["--address", &format!("127.0.0.1:{}", target.port)]);
    command.args(["--nqn", &target.nqn, "--nsid", &nsid.to_string()]);
    match phase {
        "write" => command.args(["--samples", "6", "--sample-mean-bytes", "4MiB"]),
        _ => command.args(["--epochs", "1"]),
    };
    process::run(&mut command, DATASET_LIMIT).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_initiators_answer_is_read() {
        let text = r#"{"latency_max_us": 1500.0, "latency_p99_9_us": 250.0, "checked_reads": 7}"#;
        let figures = figures(text).unwrap();
        assert_eq!(figures.longest, Duration::from_micros(1500));
        assert_eq!(figures.p99_9, Duration::from_micros(250));
        assert_eq!(figures.checked_reads, 7);
        assert!(super::figures("{}").is_err() && super::figures("").is_err());
    }
}
