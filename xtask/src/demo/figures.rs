//! The figures at the demonstration's end.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// What one phase measured.
pub struct Phase {
    result: Value,
    node_cpu_seconds: f64,
}

impl Phase {
    /// Reads the client's result.
    ///
    /// # Errors
    /// The file is not there or not as expected.
    pub fn read(file: &Path, node_cpu_seconds: f64) -> Result<Phase> {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("the client left no {}", file.display()))?;
        let result = serde_json::from_str(&text)
            .with_context(|| format!("{} is no JSON", file.display()))?;
        Ok(Phase {
            result,
            node_cpu_seconds,
        })
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.result[key].as_f64()
    }

    fn cells(&self) -> [String; 10] {
        let text = |key: &str| self.result[key].as_str().unwrap_or("?").to_owned();
        let fixed = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "?".to_owned(), |value| format!("{value:.digits$}"))
        };
        let microseconds = |key: &str| fixed(self.number(key), 0);
        let gigabytes = self
            .number("bytes")
            .map(|bytes| bytes / 1e9)
            .filter(|gb| *gb > 0.0);
        [
            text("phase"),
            fixed(self.number("bytes").map(|bytes| bytes / 1e6), 0),
            fixed(self.number("elapsed_s"), 2),
            fixed(self.number("samples_per_s"), 1),
            fixed(self.number("throughput_mb_per_s"), 0),
            microseconds("latency_p50_us"),
            microseconds("latency_p99_us"),
            microseconds("latency_p99_9_us"),
            fixed(self.number("cpu_s_per_gb"), 3),
            fixed(gigabytes.map(|gb| self.node_cpu_seconds / gb), 3),
        ]
    }
}

const HEAD: [&str; 10] = [
    "phase",
    "MB",
    "s",
    "samples/s",
    "MB/s",
    "p50 us",
    "p99 us",
    "p99.9 us",
    "client CPU s/GB",
    "node CPU s/GB",
];

/// A table of the phases, its columns aligned.
pub fn table(phases: &[Phase]) -> String {
    let rows: Vec<[String; 10]> = phases.iter().map(Phase::cells).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].len());
        cells.chain([HEAD[column].len()]).max().unwrap_or(0)
    };
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().enumerate().map(|(column, cell)| {
            let width = width(column);
            if column == 0 {
                format!("{cell:<width$}")
            } else {
                format!("{cell:>width$}")
            }
        });
        padded.collect::<Vec<_>>().join("  ")
    };
    let mut lines = vec![String::new(), line(HEAD.to_vec())];
    lines.extend(
        rows.iter()
            .map(|row| line(row.iter().map(String::as_str).collect())),
    );
    lines.push(
        "Every byte read was checked. Latencies are of one request of the client.".to_owned(),
    );
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_figure() {
        let result = serde_json::json!({
            "phase": "read", "bytes": 2_000_000_000_u64, "elapsed_s": 1.0, "samples_per_s": 24.0,
            "throughput_mb_per_s": 2000.0, "latency_p50_us": 410.4, "latency_p99_us": 999.0, "latency_p99_9_us": 1500.0,
            "cpu_s_per_gb": 0.5,
        });
        let table = table(&[Phase {
            result,
            node_cpu_seconds: 0.6,
        }]);
        let row = table
            .lines()
            .find(|line| line.starts_with("read"))
            .expect("a row");
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(
            cells,
            [
                "read", "2000", "1.00", "24.0", "2000", "410", "999", "1500", "0.500", "0.300"
            ]
        );
    }
}
