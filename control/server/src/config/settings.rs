//! The part of the configuration that the server's core needs: what it may do, not where it runs.

use std::time::Duration;

/// What the configuration says, as far as the core needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Name of this server in logs and in its election and session keys.
    pub name: String,
    /// Name of the cluster: part of every key.
    pub cluster: String,
    /// Whether an agent of a node that nobody created makes its node known.
    pub auto_register: bool,
    /// How long a session of an agent outlives the server that holds it.
    pub session_time_to_live: Duration,
    /// How long a leader that does not answer stays leader.
    pub leader_time_to_live: Duration,
    /// What may be created.
    pub quotas: Quotas,
    /// How long things are kept.
    pub retention: Retention,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            name: "penstock-control".to_owned(),
            cluster: "default".to_owned(),
            auto_register: false,
            session_time_to_live: Duration::from_secs(10),
            leader_time_to_live: Duration::from_secs(5),
            quotas: Quotas::default(),
            retention: Retention::default(),
        }
    }
}

impl Settings {
    /// What all keys of this cluster start with: `/penstock/v1/{cluster}/`.
    pub fn prefix(&self) -> String {
        format!("/penstock/v1/{}/", self.cluster)
    }
}

/// The most there may be of things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Nodes.
    pub nodes_max: u64,
    /// Volumes.
    pub volumes_max: u64,
    /// Subsystems.
    pub subsystems_max: u64,
    /// Namespaces of all subsystems together.
    pub namespaces_max: u64,
    /// Hosts.
    pub hosts_max: u64,
    /// Listeners of all nodes together.
    pub listeners_max: u64,
    /// Size of one volume in bytes.
    pub volume_size_bytes_max: u64,
    /// Size of all volumes together in bytes.
    pub volumes_total_bytes_max: u64,
}

impl Default for Quotas {
    fn default() -> Quotas {
        Quotas {
            nodes_max: 1_000,
            volumes_max: 100_000,
            subsystems_max: 10_000,
            namespaces_max: 100_000,
            hosts_max: 10_000,
            listeners_max: 10_000,
            volume_size_bytes_max: 1 << 60,
            volumes_total_bytes_max: 1 << 62,
        }
    }
}

/// How long things are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// History of the store: how far back a watch can resume.
    pub history: Duration,
    /// Operations after their end.
    pub operations: Duration,
    /// Request identifiers, and with them the protection against repetition.
    pub requests: Duration,
}

impl Default for Retention {
    fn default() -> Retention {
        let day = Duration::from_secs(86_400);
        Retention {
            history: Duration::from_secs(3_600),
            operations: day,
            requests: day,
        }
    }
}
