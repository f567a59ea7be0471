//! Figures of the server for Prometheus. The names are fixed: dashboards and alerts use them.

use std::time::Duration;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

/// Bounds of the histograms' buckets in seconds.
const BUCKETS: &[f64] = &[
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
];

/// All figures of one server.
pub struct Metrics {
    registry: Registry,
    /// Requests by method and gRPC code.
    pub requests: IntCounterVec,
    /// How long requests took, in seconds, by method.
    pub request_duration: HistogramVec,
    /// Requests being served.
    pub requests_in_flight: IntGauge,
    /// From a change seen in the store to the status written, in seconds.
    pub reconcile_lag: Histogram,
    /// Objects that wait for the engine.
    pub reconcile_queue: IntGauge,
    /// Running watches of clients.
    pub watchers: IntGauge,
    /// How long the store took, in seconds, by operation.
    pub store_duration: HistogramVec,
    /// Failures of the store, by operation and kind.
    pub store_errors: IntCounterVec,
    /// Whether this server is the leader.
    pub leader: IntGauge,
    /// Agents whose stream this server holds.
    pub agents_connected: IntGauge,
    /// Resources by kind.
    pub resources: IntGaugeVec,
    /// Operations that have not ended.
    pub operations_unfinished: IntGauge,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// Figures that are all zero.
    ///
    /// # Panics
    /// Where a name below is no name of a metric or is there twice, which a test rules out.
    #[allow(
        clippy::expect_used,
        reason = "names are constants; a test makes them all"
    )]
    pub fn new() -> Metrics {
        Metrics::try_new().expect("the names of the metrics are sound and unique")
    }

    fn try_new() -> prometheus::Result<Metrics> {
        let registry = Registry::new();
        let make = Maker(&registry);
        Ok(Metrics {
            requests: make.counters(
                "requests_total",
                "Requests by method and code.",
                &["method", "code"],
            )?,
            request_duration: make.histograms(
                "request_duration_seconds",
                "How long requests took.",
                &["method"],
            )?,
            requests_in_flight: make.gauge("requests_in_flight", "Requests being served.")?,
            reconcile_lag: make.histogram(
                "reconcile_lag_seconds",
                "From a change seen in the store to the status written.",
            )?,
            reconcile_queue: make.gauge("reconcile_queue", "Objects that wait for the engine.")?,
            watchers: make.gauge("watchers", "Running watches of clients.")?,
            store_duration: make.histograms(
                "store_duration_seconds",
                "How long the store took.",
                &["operation"],
            )?,
            store_errors: make.counters(
                "store_errors_total",
                "Failures of the store.",
                &["operation", "kind"],
            )?,
            leader: make.gauge("leader", "Whether this server is the leader.")?,
            agents_connected: make
                .gauge("agents_connected", "Agents whose stream this server holds.")?,
            resources: make.gauges("resources", "Resources by kind.", &["kind"])?,
            operations_unfinished: make
                .gauge("operations_unfinished", "Operations that have not ended.")?,
            registry,
        })
    }

    /// All figures in Prometheus's text format.
    ///
    /// # Errors
    /// Where a figure cannot be told, which happens to figures without a value only.
    pub fn text(&self) -> prometheus::Result<String> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Counts a request that ended.
    pub fn request_ended(&self, method: &str, code: &str, took: Duration) {
        self.requests.with_label_values(&[method, code]).inc();
        self.request_duration
            .with_label_values(&[method])
            .observe(took.as_secs_f64());
    }
}

struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn options(name: &str, help: &str) -> Opts {
        Opts::new(format!("penstock_control_{name}"), help)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        let made = IntCounterVec::new(Self::options(name, help), labels)?;
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        let made = IntGaugeVec::new(Self::options(name, help), labels)?;
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        let made = IntGauge::with_opts(Self::options(name, help))?;
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn histogram_options(name: &str, help: &str) -> HistogramOpts {
        HistogramOpts::from(Self::options(name, help)).buckets(BUCKETS.to_vec())
    }

    fn histogram(&self, name: &str, help: &str) -> prometheus::Result<Histogram> {
        let made = Histogram::with_opts(Self::histogram_options(name, help))?;
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<HistogramVec> {
        let made = HistogramVec::new(Self::histogram_options(name, help), labels)?;
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_has_its_name() {
        let metrics = Metrics::new();
        metrics.request_ended("Get", "OK", Duration::from_millis(3));
        metrics.resources.with_label_values(&["volume"]).set(4);
        metrics
            .store_duration
            .with_label_values(&["get"])
            .observe(0.001);
        metrics
            .store_errors
            .with_label_values(&["get", "unavailable"])
            .inc();
        let text = metrics.text().expect("text");
        for part in [
            "penstock_control_requests_total{code=\"OK\",method=\"Get\"} 1",
            "penstock_control_request_duration_seconds_bucket{method=\"Get\",le=\"0.005\"} 1",
            "penstock_control_requests_in_flight 0",
            "penstock_control_reconcile_lag_seconds_count 0",
            "penstock_control_reconcile_queue 0",
            "penstock_control_watchers 0",
            "penstock_control_store_duration_seconds_count{operation=\"get\"} 1",
            "penstock_control_store_errors_total{kind=\"unavailable\",operation=\"get\"} 1",
            "penstock_control_leader 0",
            "penstock_control_agents_connected 0",
            "penstock_control_resources{kind=\"volume\"} 4",
            "penstock_control_operations_unfinished 0",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}
