//! What `dataset` tells at its end.

use std::time::Duration;

use penstock_reactor::ticks_to_ns;
use serde::Serialize;

use super::Bench;
use super::pump::{Done, Part};
use crate::latency::{Figures, Latencies};
use crate::{cpu, size, table};

/// What `--help` says of the result; a test keeps it true.
pub const JSON_HELP: &str = "\
Keys of --json-file and of the last line of --progress json (MB is 10^6 bytes, GB 10^9):
  event                 result
  phase                 write or read
  address, nqn, nsids   as asked for
  samples               samples of the data set
  dataset_bytes         their bytes
  bytes                 bytes of all epochs
  epochs                for each: epoch, elapsed_s, samples_per_s, throughput_mb_per_s
  elapsed_s             sum of the epochs
  samples_per_s, throughput_mb_per_s  over all epochs
  request_bytes         bytes of one request
  requests              how many were made
  queue_depth, queue_pairs, reactors  as asked for
  header_digest, data_digest  whether they were in force
  latency_min_us, latency_mean_us, latency_p50_us, latency_p99_us, latency_p99_9_us,
  latency_p99_99_us, latency_max_us  of one request
  cpu_s                 CPU time of this process, making and checking the data included
  cpu_s_per_gb          the same a 10^9 bytes moved";

/// Keys of `--json-file` and of the last line of `--progress json`. Rates are decimal: MB is 10^6
/// bytes, GB is 10^9.
#[derive(Debug, Serialize)]
pub struct Report {
    event: &'static str,
    /// `write` or `read`.
    phase: &'static str,
    address: String,
    nqn: String,
    nsids: Vec<u32>,
    samples: usize,
    epochs: Vec<Epoch>,
    /// Data of one epoch.
    dataset_bytes: u64,
    /// Data of all epochs.
    bytes: u64,
    /// Sum of the epochs.
    elapsed_s: f64,
    samples_per_s: f64,
    throughput_mb_per_s: f64,
    /// Bytes of one request.
    request_bytes: u64,
    requests: u64,
    queue_depth: u16,
    queue_pairs: u16,
    reactors: usize,
    header_digest: bool,
    data_digest: bool,
    /// Of one request each.
    #[serde(flatten)]
    latency: Figures,
    /// CPU time of this process, making and checking the data included.
    cpu_s: Option<f64>,
    cpu_s_per_gb: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Epoch {
    epoch: u32,
    elapsed_s: f64,
    samples_per_s: f64,
    throughput_mb_per_s: f64,
}

impl Report {
    pub fn new(
        bench: &Bench<'_>,
        phase: &'static str,
        parts: &[Part],
        done: &[Done],
        cpu: Option<Duration>,
    ) -> anyhow::Result<Report> {
        let mut latencies = Latencies::new()?;
        for one in done {
            latencies.add(&one.latencies)?;
        }
        let dataset_bytes: u64 = parts.iter().map(|part| part.entry.length).sum();
        let epochs = epochs_of(done, parts.len(), dataset_bytes);
        let elapsed_s: f64 = epochs.iter().map(|epoch| epoch.elapsed_s).sum();
        let bytes = dataset_bytes * epochs.len() as u64;
        let (common, info) = (bench.common, &bench.opened().info);
        Ok(Report {
            event: "result",
            phase,
            address: info.options.address.to_string(),
            nqn: common.nqn.clone(),
            nsids: common.nsid.iter().map(|nsid| nsid.get()).collect(),
            samples: parts.len(),
            dataset_bytes,
            bytes,
            elapsed_s,
            samples_per_s: per(elapsed_s, (parts.len() * epochs.len()) as f64),
            throughput_mb_per_s: per(elapsed_s, bytes as f64 / 1e6),
            epochs,
            request_bytes: bench.request_bytes,
            requests: latencies.count(),
            queue_depth: common.queue_depth,
            queue_pairs: common.queue_pairs,
            reactors: bench.reactors.count(),
            header_digest: info.header_digest,
            data_digest: info.data_digest,
            latency: latencies.figures(),
            cpu_s: cpu.map(|cpu| cpu.as_secs_f64()),
            cpu_s_per_gb: cpu::seconds_per_gb(cpu, bytes),
        })
    }

    /// Prints the result: a table, or one JSON line.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            table::print(&(serde_json::to_string(self)? + "\n"));
            return Ok(());
        }
        let what = format!(
            "{} samples, {}",
            self.samples,
            size::show(self.dataset_bytes)
        );
        let requests = format!("{} of {}", self.requests, size::show(self.request_bytes));
        let mut rows = vec![(self.phase, what), ("requests", requests)];
        for epoch in &self.epochs {
            let rates = format!(
                "{:.2} samples/s, {:.0} MB/s ({:.2} s)",
                epoch.samples_per_s, epoch.throughput_mb_per_s, epoch.elapsed_s
            );
            rows.push(("epoch", rates));
        }
        rows.extend(self.latency.rows());
        if let Some(per_gb) = self.cpu_s_per_gb {
            rows.push(("CPU", format!("{per_gb:.3} s a GB")));
        }
        table::print(&table::pairs(&rows));
        Ok(())
    }
}

/// An epoch lasts from the first reactor's begin to the last one's end.
fn epochs_of(done: &[Done], samples: usize, bytes: u64) -> Vec<Epoch> {
    let count = done.iter().map(|one| one.epochs.len()).min().unwrap_or(0);
    let mut epochs = Vec::new();
    for (number, index) in (1..).zip(0..count) {
        let begun = done
            .iter()
            .map(|one| one.epochs[index].0)
            .min()
            .unwrap_or(0);
        let ended = done
            .iter()
            .map(|one| one.epochs[index].1)
            .max()
            .unwrap_or(0);
        let elapsed_s = ticks_to_ns(ended.saturating_sub(begun)) as f64 / 1e9;
        epochs.push(Epoch {
            epoch: number,
            elapsed_s,
            samples_per_s: per(elapsed_s, samples as f64),
            throughput_mb_per_s: per(elapsed_s, bytes as f64 / 1e6),
        });
    }
    epochs
}

fn per(elapsed_s: f64, count: f64) -> f64 {
    if elapsed_s > 0.0 {
        count / elapsed_s
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_key_and_no_other() {
        let epoch = Epoch {
            epoch: 1,
            elapsed_s: 1.0,
            samples_per_s: 1.0,
            throughput_mb_per_s: 1.0,
        };
        let report = Report {
            event: "result",
            phase: "read",
            address: String::new(),
            nqn: String::new(),
            nsids: vec![1],
            samples: 1,
            epochs: vec![epoch],
            dataset_bytes: 1,
            bytes: 1,
            elapsed_s: 1.0,
            samples_per_s: 1.0,
            throughput_mb_per_s: 1.0,
            request_bytes: 1,
            requests: 1,
            queue_depth: 1,
            queue_pairs: 1,
            reactors: 1,
            header_digest: false,
            data_digest: false,
            latency: Figures::default(),
            cpu_s: None,
            cpu_s_per_gb: None,
        };
        crate::table::assert_documented(JSON_HELP, &serde_json::to_value(report).expect("JSON"));
    }

    #[test]
    fn an_epoch_lasts_from_the_first_begin_to_the_last_end() {
        let done = |epochs| Done {
            latencies: Latencies::new().expect("histogram"),
            checksums: Vec::new(),
            epochs,
        };
        let second = penstock_reactor::ticks_per_second();
        let all = [
            done(vec![(0, second)]),
            done(vec![(second / 2, 2 * second)]),
        ];
        let epochs = epochs_of(&all, 10, 4_000_000);
        assert_eq!(epochs.len(), 1);
        assert!((epochs[0].elapsed_s - 2.0).abs() < 0.001, "{epochs:?}");
        assert!(
            (epochs[0].throughput_mb_per_s - 2.0).abs() < 0.01,
            "{epochs:?}"
        );
        assert!((epochs[0].samples_per_s - 5.0).abs() < 0.01, "{epochs:?}");
    }
}
