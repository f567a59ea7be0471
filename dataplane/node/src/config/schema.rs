//! The configuration file as serde reads it: every key, none of its meaning.
//!
//! Everything is optional here and carries its place in the file; `check` supplies defaults, refuses
//! what is missing or out of its limits, and names the line. Units, defaults and limits of the keys
//! are documented in `configs/node.toml`, which a test compares with these structs.

use serde::Deserialize;
use toml::Spanned;

/// A value with its place in the file.
pub(super) type Key<T> = Option<Spanned<T>>;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Root {
    #[serde(default)]
    pub node: Node,
    #[serde(default)]
    pub reactors: Reactors,
    #[serde(default)]
    pub log: Log,
    #[serde(default)]
    pub metrics: Metrics,
    #[serde(default)]
    pub tcp: Tcp,
    #[serde(default)]
    pub nvme: Nvme,
    pub control: Option<Spanned<Control>>,
    #[serde(default)]
    pub device: Vec<Spanned<Device>>,
    #[serde(default)]
    pub listener: Vec<Spanned<Listener>>,
    #[serde(default)]
    pub subsystem: Vec<Spanned<Subsystem>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    pub name: Key<String>,
    pub shutdown_timeout_ms: Key<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reactors {
    pub cores: Key<Vec<Spanned<u64>>>,
    pub count: Key<u64>,
    pub pin: Key<bool>,
    pub poll: Key<String>,
    pub idle_us: Key<u64>,
    pub ring_entries: Key<u64>,
    pub receive_buffers: Key<u64>,
    pub receive_buffer_size_bytes: Key<u64>,
    pub buffer_pool_size_bytes: Key<u64>,
    pub hugepages: Key<bool>,
    pub hugepages_required: Key<bool>,
    pub lock_memory: Key<bool>,
    pub stall_threshold_ms: Key<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    pub format: Key<String>,
    pub level: Key<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Metrics {
    pub listen: Key<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tcp {
    pub in_capsule_data_size_bytes: Key<u64>,
    pub mdts_bytes: Key<u64>,
    pub max_h2c_data_bytes: Key<u64>,
    pub r2t_max: Key<u64>,
    pub queue_depth_max: Key<u64>,
    pub io_queues_max: Key<u64>,
    pub header_digest: Key<bool>,
    pub data_digest: Key<bool>,
    pub connect_timeout_ms: Key<u64>,
    pub transfer_timeout_ms: Key<u64>,
    pub send_timeout_ms: Key<u64>,
    pub congestion_control: Key<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nvme {
    pub driver: Key<String>,
    pub spdk_memory_mib: Key<u64>,
    pub spdk_hugepages: Key<bool>,
    pub queue_entries: Key<u64>,
    pub io_timeout_ms: Key<u64>,
    pub queues_in_drive_memory: Key<bool>,
    pub payload_in_drive_memory_bytes: Key<u64>,
    pub interrupts: Key<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Control {
    pub endpoints: Key<Vec<Spanned<String>>>,
    pub state_directory: Key<String>,
    pub tls_ca_file: Key<String>,
    pub tls_certificate_file: Key<String>,
    pub tls_key_file: Key<String>,
    pub tls_server_name: Key<String>,
    pub reconnect_backoff_max_ms: Key<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Device {
    pub name: Key<String>,
    pub backend: Key<String>,
    pub path: Key<String>,
    pub pci_address: Key<String>,
    pub drive_nsid: Key<u64>,
    pub size_bytes: Key<u64>,
    pub block_size_bytes: Key<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listener {
    pub address: Key<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Subsystem {
    pub nqn: Key<String>,
    pub serial: Key<String>,
    pub model: Key<String>,
    pub allow_any_host: Key<bool>,
    pub hosts: Key<Vec<Spanned<String>>>,
    pub namespaces_max: Key<u64>,
    #[serde(default)]
    pub namespace: Vec<Spanned<Namespace>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Namespace {
    pub nsid: Key<u64>,
    pub backend: Key<String>,
    pub path: Key<String>,
    pub pci_address: Key<String>,
    pub drive_nsid: Key<u64>,
    pub size_bytes: Key<u64>,
    pub block_size_bytes: Key<u64>,
    pub uuid: Key<String>,
    pub latency_us: Key<u64>,
}
