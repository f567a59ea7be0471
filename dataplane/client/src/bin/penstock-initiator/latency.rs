//! Latency figures.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency told apart, in nanoseconds (10 minutes); longer ones count as this.
const LATENCY_MAX_NS: u64 = 600_000_000_000;
/// Significant decimal digits kept.
const DIGITS: u8 = 3;

/// Latencies in nanoseconds, three significant digits.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

/// What is told of latencies, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    pub latency_min_us: f64,
    pub latency_mean_us: f64,
    pub latency_p50_us: f64,
    pub latency_p99_us: f64,
    pub latency_p99_9_us: f64,
    pub latency_p99_99_us: f64,
    pub latency_max_us: f64,
}

impl Latencies {
    /// None yet. Nothing is allocated while recording.
    pub fn new() -> anyhow::Result<Latencies> {
        Ok(Latencies(Histogram::new_with_bounds(
            1,
            LATENCY_MAX_NS,
            DIGITS,
        )?))
    }

    pub fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    pub fn add(&mut self, other: &Latencies) -> anyhow::Result<()> {
        Ok(self.0.add(&other.0)?)
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }

    pub fn figures(&self) -> Figures {
        let us = |ns: u64| ns as f64 / 1000.0;
        if self.0.is_empty() {
            return Figures::default();
        }
        Figures {
            latency_min_us: us(self.0.min()),
            latency_mean_us: self.0.mean() / 1000.0,
            latency_p50_us: us(self.0.value_at_quantile(0.5)),
            latency_p99_us: us(self.0.value_at_quantile(0.99)),
            latency_p99_9_us: us(self.0.value_at_quantile(0.999)),
            latency_p99_99_us: us(self.0.value_at_quantile(0.9999)),
            latency_max_us: us(self.0.max()),
        }
    }
}

impl Figures {
    /// Name and value of each, for tables.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let us = |value: f64| format!("{value:.1} us");
        vec![
            ("latency mean", us(self.latency_mean_us)),
            ("latency p50", us(self.latency_p50_us)),
            ("latency p99", us(self.latency_p99_us)),
            ("latency p99.9", us(self.latency_p99_9_us)),
            ("latency p99.99", us(self.latency_p99_99_us)),
            ("latency max", us(self.latency_max_us)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_thousandth() {
        let mut all = Latencies::new().expect("histogram");
        let mut half = Latencies::new().expect("histogram");
        for ns in 1..=5_000_u64 {
            all.record(ns * 1000);
            half.record((ns + 5_000) * 1000);
        }
        all.add(&half).expect("same bounds");
        let figures = all.figures();
        assert_eq!(all.count(), 10_000);
        for (found, right) in [
            (figures.latency_p50_us, 5_000.0),
            (figures.latency_p99_us, 9_900.0),
            (figures.latency_p99_9_us, 9_990.0),
            (figures.latency_max_us, 10_000.0),
            (figures.latency_mean_us, 5_000.5),
        ] {
            assert!(
                (found / right - 1.0_f64).abs() < 0.002,
                "{found} for {right}"
            );
        }
        all.record(u64::MAX);
        assert!(all.figures().latency_max_us < 700_000_000.0);
    }
}
