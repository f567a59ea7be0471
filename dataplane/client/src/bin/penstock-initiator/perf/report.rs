//! What `perf` tells at its end.

use std::time::Duration;

use penstock_client::ControllerInfo;
use serde::Serialize;

use super::tally::Tally;
use super::{Arguments, Plan, Workload};
use crate::latency::Figures;
use crate::{cpu, size, table};

/// What `--help` says of `--json`; a test keeps it true.
pub const JSON_HELP: &str = "\
Keys of --json, one object; counts and rates are of the measured span unless told otherwise:
  workload, transport, address, nqn, nsid, seed  as asked for
  block_size_bytes      bytes of one command
  read_percent          share of reads; null but for mixed
  queue_depth, queue_pairs, reactors  as asked for
  header_digest, data_digest  whether they were in force
  elapsed_s             the measured span
  reads, writes         commands completed
  checked_reads         reads whose content was checked, at any time (verify only)
  iops                  commands completed a second
  throughput_mib_per_s  2^20 bytes a second
  latency_min_us, latency_mean_us, latency_p50_us, latency_p99_us, latency_p99_9_us,
  latency_p99_99_us, latency_max_us  from sending a command to its completion
  cpu_s                 CPU time of this process; null where the kernel does not tell
  cpu_s_per_gb          the same a 10^9 bytes moved
  errors                commands that failed or brought wrong data, at any time
  first_error           the first one's words, or null";

/// Keys of `--json`, one object. Counts and rates are of the measured span, except errors.
#[derive(Debug, Serialize)]
pub struct Report {
    workload: Workload,
    transport: &'static str,
    address: String,
    nqn: String,
    nsid: u32,
    /// Bytes of one command.
    block_size_bytes: u64,
    read_percent: Option<u8>,
    queue_depth: u16,
    queue_pairs: u16,
    reactors: usize,
    header_digest: bool,
    data_digest: bool,
    seed: u64,
    elapsed_s: f64,
    reads: u64,
    writes: u64,
    /// Reads whose content was checked (verify only), at any time.
    checked_reads: u64,
    /// Commands completed a second.
    iops: f64,
    throughput_mib_per_s: f64,
    #[serde(flatten)]
    latency: Figures,
    /// CPU time of this process; null where the kernel does not tell.
    cpu_s: Option<f64>,
    cpu_s_per_gb: Option<f64>,
    errors: u64,
    first_error: Option<String>,
}

impl Report {
    pub fn new(
        arguments: &Arguments,
        plan: &Plan,
        info: &ControllerInfo,
        reactors: usize,
        tally: &Tally,
        cpu: Option<Duration>,
    ) -> Report {
        let commands = tally.reads + tally.writes;
        let bytes = commands * plan.io_bytes as u64;
        Report {
            workload: plan.workload,
            transport: "tcp",
            address: info.options.address.to_string(),
            nqn: arguments.nqn.clone(),
            nsid: plan.geometry.nsid.get(),
            block_size_bytes: plan.io_bytes as u64,
            read_percent: (plan.workload == Workload::Mixed).then_some(plan.read_percent),
            queue_depth: plan.queue_depth,
            queue_pairs: plan.queue_pairs,
            reactors,
            header_digest: info.header_digest,
            data_digest: info.data_digest,
            seed: plan.seed,
            elapsed_s: arguments.seconds,
            reads: tally.reads,
            writes: tally.writes,
            checked_reads: tally.checked,
            iops: commands as f64 / arguments.seconds,
            throughput_mib_per_s: bytes as f64 / f64::from(1 << 20) / arguments.seconds,
            latency: tally.latencies.figures(),
            cpu_s: cpu.map(|cpu| cpu.as_secs_f64()),
            cpu_s_per_gb: cpu::seconds_per_gb(cpu, bytes),
            errors: tally.errors,
            first_error: tally.first_error.clone(),
        }
    }

    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            table::print(&(serde_json::to_string_pretty(self)? + "\n"));
            return Ok(());
        }
        let on = |on: bool| if on { "on" } else { "off" };
        let workload = format!(
            "{:?}, {} commands, depth {} on {} queue pairs, {} reactors, digests: header {}, data {}",
            self.workload,
            size::show(self.block_size_bytes),
            self.queue_depth,
            self.queue_pairs,
            self.reactors,
            on(self.header_digest),
            on(self.data_digest),
        );
        let mut rows = vec![
            ("workload", workload.to_lowercase()),
            (
                "target",
                format!("{} at {}, namespace {}", self.nqn, self.address, self.nsid),
            ),
            ("IOPS", format!("{:.0}", self.iops)),
            (
                "throughput",
                format!("{:.1} MiB/s", self.throughput_mib_per_s),
            ),
        ];
        rows.extend(self.latency.rows());
        if let (Some(cpu), Some(per_gb)) = (self.cpu_s, self.cpu_s_per_gb) {
            rows.push((
                "CPU",
                format!("{cpu:.2} s in {:.1} s, {per_gb:.3} s a GB", self.elapsed_s),
            ));
        }
        if self.workload == Workload::Verify {
            rows.push(("checked reads", self.checked_reads.to_string()));
        }
        rows.push(("errors", self.errors.to_string()));
        table::print(&table::pairs(&rows));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_key_and_no_other() {
        let report = Report {
            workload: Workload::Mixed,
            transport: "tcp",
            address: String::new(),
            nqn: String::new(),
            nsid: 1,
            block_size_bytes: 4096,
            read_percent: Some(70),
            queue_depth: 1,
            queue_pairs: 1,
            reactors: 1,
            header_digest: false,
            data_digest: false,
            seed: 1,
            elapsed_s: 1.0,
            reads: 0,
            writes: 0,
            checked_reads: 0,
            iops: 0.0,
            throughput_mib_per_s: 0.0,
            latency: Figures::default(),
            cpu_s: None,
            cpu_s_per_gb: None,
            errors: 0,
            first_error: None,
        };
        crate::table::assert_documented(JSON_HELP, &serde_json::to_value(report).expect("JSON"));
    }
}
