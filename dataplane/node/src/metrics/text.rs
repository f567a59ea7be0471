//! Metric families collected by hand and written by the `prometheus` crate's text encoder.

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use prometheus::{Encoder, TextEncoder};

/// Labels of one metric: name and value.
pub type Labels<'l> = &'l [(&'l str, &'l str)];

/// Families in the order of their first metric.
#[derive(Default)]
pub struct Families {
    families: Vec<MetricFamily>,
}

impl Families {
    /// Adds a counter's value.
    pub fn counter(&mut self, name: &str, help: &str, labels: Labels<'_>, value: u64) {
        self.counter_f64(name, help, labels, value as f64);
    }

    /// Adds a counter's value in nanoseconds, told in seconds.
    pub fn counter_ns(&mut self, name: &str, help: &str, labels: Labels<'_>, ns: u64) {
        self.counter_f64(name, help, labels, ns as f64 / 1e9);
    }

    fn counter_f64(&mut self, name: &str, help: &str, labels: Labels<'_>, value: f64) {
        let mut counter = Counter::default();
        counter.set_value(value);
        let mut metric = labelled(labels);
        metric.set_counter(counter);
        self.add(name, help, MetricType::COUNTER, metric);
    }

    /// Adds a gauge's value.
    pub fn gauge(&mut self, name: &str, help: &str, labels: Labels<'_>, value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = labelled(labels);
        metric.set_gauge(gauge);
        self.add(name, help, MetricType::GAUGE, metric);
    }

    /// Adds a histogram: `buckets` are (upper bound, number of values up to it), ascending.
    pub fn histogram(
        &mut self,
        name: &str,
        help: &str,
        labels: Labels<'_>,
        buckets: &[(f64, u64)],
        sum: f64,
        count: u64,
    ) {
        let bucket = |(bound, cumulative): &(f64, u64)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(*cumulative);
            bucket
        };
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.iter().map(bucket).collect());
        histogram.set_sample_sum(sum);
        histogram.set_sample_count(count);
        let mut metric = labelled(labels);
        metric.set_histogram(histogram);
        self.add(name, help, MetricType::HISTOGRAM, metric);
    }

    fn add(&mut self, name: &str, help: &str, kind: MetricType, metric: Metric) {
        let known = self
            .families
            .iter()
            .position(|family| family.name() == name);
        let at = known.unwrap_or_else(|| {
            let mut family = MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help(help.to_owned());
            family.set_field_type(kind);
            self.families.push(family);
            self.families.len() - 1
        });
        self.families[at].mut_metric().push(metric);
    }

    /// Everything, in Prometheus' text format.
    pub fn text(&self) -> String {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.families, &mut text) {
            tracing::error!(%error, "metrics could not be written");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

fn labelled(labels: Labels<'_>) -> Metric {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    Metric::from_label(labels.iter().map(pair).collect())
}

/// Upper bounds of the latency buckets in nanoseconds: 1, 2, 5 a decade from 1 us to 10 s.
const LATENCY_BOUNDS_NS: [u64; 22] = [
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// Sums fine buckets (upper bound in nanoseconds, count; ascending) up to the fixed bounds, in
/// seconds. A fine bucket that reaches over a bound counts above it: the error is the fine bucket's
/// width, an eighth of its value.
pub fn cumulative(fine: &[(u64, u64)]) -> Vec<(f64, u64)> {
    let up_to = |bound: u64| {
        fine.iter()
            .filter(|(end, _)| *end <= bound)
            .map(|(_, n)| n)
            .sum()
    };
    LATENCY_BOUNDS_NS
        .iter()
        .map(|bound| (*bound as f64 / 1e9, up_to(*bound)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_the_text_format() {
        let mut families = Families::default();
        families.counter("penstock_a_total", "Help.", &[("x", "1")], 7);
        families.counter("penstock_a_total", "Help.", &[("x", "q\"")], 8);
        families.gauge("penstock_b", "More.", &[], 0.5);
        assert_eq!(
            families.text(),
            "# HELP penstock_a_total Help.\n# TYPE penstock_a_total counter\n\
             penstock_a_total{x=\"1\"} 7\npenstock_a_total{x=\"q\\\"\"} 8\n\
             # HELP penstock_b More.\n# TYPE penstock_b gauge\npenstock_b 0.5\n"
        );
    }

    #[test]
    fn histograms_are_cumulative_and_end_in_infinity() {
        let mut families = Families::default();
        let buckets = cumulative(&[(900, 2), (1_500, 3), (20_000_000_000, 1)]);
        families.histogram("penstock_c_seconds", "Help.", &[], &buckets, 21.0, 6);
        let text = families.text();
        for line in [
            "penstock_c_seconds_bucket{le=\"0.000001\"} 2\n",
            "penstock_c_seconds_bucket{le=\"0.000002\"} 5\n",
            "penstock_c_seconds_bucket{le=\"10\"} 5\n",
            "penstock_c_seconds_bucket{le=\"+Inf\"} 6\n",
            "penstock_c_seconds_sum 21\n",
            "penstock_c_seconds_count 6\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
