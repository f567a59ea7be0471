//! The configuration file as serde reads it: every key, none of its meaning.
//!
//! Everything is optional here and carries its place in the file; `check` supplies defaults and
//! refuses what is out of its limits. Units, defaults and limits of the keys are documented in
//! `configs/control.toml`, which a test compares with these structs.

use serde::Deserialize;
use toml::Spanned;

/// A value with its place in the file.
pub(super) type Key<T> = Option<Spanned<T>>;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Root {
    pub control: Control,
    pub store: Store,
    pub tls: Tls,
    pub metrics: Metrics,
    pub log: Log,
    pub nodes: Nodes,
    pub quotas: Quotas,
    pub retention: Retention,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Control {
    pub name: Key<String>,
    pub listen: Key<String>,
    pub leader_time_to_live_ms: Key<u64>,
    pub shutdown_timeout_ms: Key<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Store {
    pub kind: Key<String>,
    pub cluster: Key<String>,
    pub path: Key<String>,
    pub endpoints: Key<Vec<Spanned<String>>>,
    pub user: Key<String>,
    pub password_file: Key<String>,
    pub ca_file: Key<String>,
    pub cert_file: Key<String>,
    pub key_file: Key<String>,
    pub request_timeout_ms: Key<u64>,
    pub connect_timeout_ms: Key<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    pub ca_file: Key<String>,
    pub cert_file: Key<String>,
    pub key_file: Key<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Metrics {
    pub listen: Key<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    pub format: Key<String>,
    pub level: Key<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nodes {
    pub auto_register: Key<bool>,
    pub session_time_to_live_ms: Key<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Quotas {
    pub nodes_max: Key<u64>,
    pub volumes_max: Key<u64>,
    pub subsystems_max: Key<u64>,
    pub namespaces_max: Key<u64>,
    pub hosts_max: Key<u64>,
    pub listeners_max: Key<u64>,
    pub volume_size_max_bytes: Key<u64>,
    pub volumes_total_max_bytes: Key<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Retention {
    pub history_s: Key<u64>,
    pub history_revisions: Key<u64>,
    pub operations_s: Key<u64>,
    pub requests_s: Key<u64>,
}
