//! The clients that make the load: SPDK's `spdk_nvme_perf` and our own initiator.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::case::{Case, MIXED_READ_PERCENT, Workload};
use crate::child::{self, Owned};
use crate::figures::Figures;

/// What a client may take beyond the time it measures, to connect and to leave.
const SLACK: Duration = Duration::from_secs(45);

/// The host that the clients say they are.
const HOST_NQN: &str = "nqn.2014-08.org.nvmexpress:uuid:5f3d1c9a-2b8e-4e0f-9a63-7c1d0e4b2f58";

/// A target that listens.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where.
    pub address: SocketAddr,
    /// The subsystem with namespace 1.
    pub nqn: String,
}

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Seconds measured.
    pub seconds: u32,
    /// Seconds of load before that.
    pub warm_up_seconds: u32,
}

/// A program that makes load.
#[derive(Clone, Debug)]
pub enum Client {
    /// `spdk_nvme_perf` at this path, with hugepages or without.
    Spdk { program: PathBuf, hugepages: bool },
    /// `penstock-initiator` at this path.
    Penstock { program: PathBuf },
}

impl Client {
    /// What it is called.
    pub fn name(&self) -> &'static str {
        match self {
            Client::Spdk { .. } => "spdk_nvme_perf",
            Client::Penstock { .. } => "penstock-initiator perf",
        }
    }

    /// Puts the case's load on the target and tells what came out; uses `folder` for its output.
    ///
    /// # Errors
    /// The client fails, or says nothing that can be read.
    pub fn measure(
        &self,
        case: &Case,
        target: &Target,
        span: Span,
        core: usize,
        folder: &Path,
    ) -> Result<Figures> {
        let log = folder.join("client.txt");
        let mut child = Owned::spawn(self.command(case, target, span, core), self.name(), &log)?;
        let time = Duration::from_secs(u64::from(span.seconds + span.warm_up_seconds));
        let status = child.wait(time + SLACK)?;
        let text = fs::read_to_string(&log).context("the client's output is gone")?;
        let figures = match self {
            // Its exit status is 0 whatever happens.
            Client::Spdk { .. } => parse_spdk(&text),
            Client::Penstock { .. } if status.success() => parse_penstock(&text),
            Client::Penstock { .. } => None,
        };
        match figures {
            Some(figures) => Ok(figures),
            None => bail!("{} gave no result:\n{}", self.name(), child::tail(&log)),
        }
    }

    /// The command line.
    pub fn command(&self, case: &Case, target: &Target, span: Span, core: usize) -> Command {
        match self {
            Client::Spdk { program, hugepages } => {
                spdk_command(program, *hugepages, case, target, span, core)
            }
            Client::Penstock { program } => penstock_command(program, case, target, span, core),
        }
    }
}

fn spdk_command(
    program: &Path,
    hugepages: bool,
    case: &Case,
    target: &Target,
    span: Span,
    core: usize,
) -> Command {
    let mut command = child::tied(program);
    let mut add = |key: &str, value: String| {
        command.args([key, value.as_str()]);
    };
    add("-c", format!("{:#x}", 1_u64 << core));
    add("-o", case.io_bytes.to_string());
    let pattern = match case.workload {
        Workload::RandomRead => "randread",
        Workload::RandomWrite => "randwrite",
        Workload::Read => "read",
        Workload::Write => "write",
        Workload::Mixed => "randrw",
    };
    add("-w", pattern.to_owned());
    if case.workload == Workload::Mixed {
        add("-M", MIXED_READ_PERCENT.to_string());
    }
    // The depth is that of all queue pairs together.
    let depth = u32::from(case.depth) * u32::from(case.connections);
    add("-q", depth.to_string());
    add("-P", case.connections.to_string());
    add("-t", span.seconds.to_string());
    add("-a", span.warm_up_seconds.to_string());
    let (ip, port) = (target.address.ip(), target.address.port());
    let place = format!(
        "trtype:TCP adrfam:IPv4 traddr:{ip} trsvcid:{port} subnqn:{} hostnqn:{HOST_NQN} ns:1",
        target.nqn
    );
    add("-r", place);
    command.arg("-L");
    if case.digests {
        command.args(["-H", "-I"]);
    }
    if !hugepages {
        command.args(["--no-huge", "-s", "512"]);
    }
    command
}

fn penstock_command(
    program: &Path,
    case: &Case,
    target: &Target,
    span: Span,
    core: usize,
) -> Command {
    let mut command = child::tied(program);
    command.args(["perf", "--json", "--poll", "busy", "--host-nqn", HOST_NQN]);
    let workload = match case.workload {
        Workload::RandomRead => "randread",
        Workload::RandomWrite => "randwrite",
        Workload::Read => "read",
        Workload::Write => "write",
        Workload::Mixed => "mixed",
    };
    for (key, value) in [
        ("--address", target.address.to_string()),
        ("--nqn", target.nqn.clone()),
        ("--workload", workload.to_owned()),
        ("--read-percent", MIXED_READ_PERCENT.to_string()),
        ("--queue-depth", case.depth.to_string()),
        ("--queue-pairs", case.connections.to_string()),
        ("--block-size-bytes", case.io_bytes.to_string()),
        ("--seconds", span.seconds.to_string()),
        ("--warm-up-seconds", span.warm_up_seconds.to_string()),
        ("--cores", core.to_string()),
    ] {
        command.args([key, value.as_str()]);
    }
    if case.digests {
        command.args(["--header-digest", "--data-digest"]);
    }
    command
}

/// Reads the report of `spdk_nvme_perf -L`: the line of totals and the percentiles of the only
/// namespace.
fn parse_spdk(text: &str) -> Option<Figures> {
    let total = text.lines().find(|line| line.starts_with("Total "))?;
    let numbers: Vec<f64> = total
        .split_once(':')?
        .1
        .split_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    let [iops, mib_per_s, mean_us, _min, _max] = numbers[..] else {
        return None;
    };
    let percentile = |name: &str| {
        let line = text.lines().find(|line| {
            line.split_once(':')
                .is_some_and(|(key, _)| key.trim() == name)
        })?;
        line.split_once(':')?
            .1
            .trim()
            .strip_suffix("us")?
            .parse()
            .ok()
    };
    let figures = Figures {
        iops,
        mib_per_s,
        mean_us,
        p50_us: percentile("50.00000%")?,
        p99_us: percentile("99.00000%")?,
        p99_9_us: percentile("99.90000%")?,
    };
    (iops > 0.0).then_some(figures)
}

/// Reads the JSON object of `penstock-initiator perf --json`; lines of its log may stand around it.
fn parse_penstock(text: &str) -> Option<Figures> {
    let json = &text[text.find("{\n")?..=text.rfind("\n}")? + 1];
    let report: serde_json::Value = serde_json::from_str(json).ok()?;
    let number = |key: &str| report.get(key)?.as_f64();
    Some(Figures {
        iops: number("iops")?,
        mib_per_s: number("throughput_mib_per_s")?,
        mean_us: number("latency_mean_us")?,
        p50_us: number("latency_p50_us")?,
        p99_us: number("latency_p99_us")?,
        p99_9_us: number("latency_p99_9_us")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `spdk_nvme_perf` of SPDK v26.05 printed it.
    const SPDK: &str = "\
Initializing NVMe Controllers
Attached to NVMeoF Controller at TCP (addr:127.0.0.1 subnqn:nqn.2016-06.io.spdk:cnode1)
Initialization complete. Launching workers.
========================================================
                                                                    Latency(us)
Device Information             :       IOPS      MiB/s    Average        min        max
TCP (addr:127.0.0.1 subnqn:nqn.2016-06.io.spdk:cnode1) NSID 1 from core  1:  333377.40    1302.26     768.75     126.62  249071.65
========================================================
Total                          :  333377.40    1302.26     768.75     126.62  249071.65

Summary latency data for TCP (addr:127.0.0.1 subnqn:nqn.2016-06.io.s from core 1:
=================================================================================
  1.00000% :   231.582us
 50.00000% :   395.422us
 99.00000% :  7864.320us
 99.90000% : 45976.025us
 99.99000% : 250045.046us
";

    #[test]
    fn spdks_report_is_read() {
        let figures = parse_spdk(SPDK).expect("complete");
        let right = Figures {
            iops: 333_377.40,
            mib_per_s: 1302.26,
            mean_us: 768.75,
            p50_us: 395.422,
            p99_us: 7864.32,
            p99_9_us: 45_976.025,
        };
        assert_eq!(figures, right);
    }

    #[test]
    fn a_run_without_a_target_gives_nothing() {
        assert_eq!(parse_spdk("No valid NVMe controllers found\nrc 0\n"), None);
        assert_eq!(parse_spdk(&SPDK.replace("333377.40", "0.00")), None);
        let cut = &SPDK[..SPDK.find("Summary").expect("there")];
        assert_eq!(parse_spdk(cut), None, "no percentiles");
    }

    #[test]
    fn our_report_is_read() {
        let text = "WARN a line of the log\n{\n  \"iops\": 1000.5,\n  \
                    \"throughput_mib_per_s\": 3.9,\n  \"latency_mean_us\": 10.0,\n  \
                    \"latency_p50_us\": 9.0,\n  \"latency_p99_us\": 20.0,\n  \
                    \"latency_p99_9_us\": 30.0,\n  \"errors\": 0\n}\n";
        let figures = parse_penstock(text).expect("complete");
        assert_eq!((figures.iops, figures.p99_9_us), (1000.5, 30.0));
        assert_eq!(parse_penstock("connection refused"), None);
        assert_eq!(parse_penstock("{\n\"iops\": 1\n}\n"), None);
    }

    #[test]
    fn spdk_is_given_the_depth_of_all_queue_pairs() {
        let case = crate::case::ALL
            .into_iter()
            .find(|c| c.name == "rr4k_64x8")
            .expect("there");
        let target = Target {
            address: "127.0.0.1:4430".parse().expect("an address"),
            nqn: "nqn.x".to_owned(),
        };
        let span = Span {
            seconds: 4,
            warm_up_seconds: 1,
        };
        let client = Client::Spdk {
            program: "perf".into(),
            hugepages: true,
        };
        let line = format!("{:?}", client.command(&case, &target, span, 1));
        assert!(
            line.contains(r#""-q" "512" "-P" "64""#) && line.contains(r#""-c" "0x2""#),
            "{line}"
        );
    }
}
