//! The node's configuration: read, checked, with defaults filled in.
//!
//! A [`Config`] that exists is sound in itself and fits this machine's cores and limits. What only
//! opening can tell (a file's lock, a port in use) is found when the node starts, and reported in
//! the same form, with the line kept in each entry.

mod check;
mod control;
mod files;
mod machine;
mod problem;
mod schema;
mod summary;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use penstock_async_nvme::DriverChoice;
use penstock_async_nvme::pci::PciAddress;
use penstock_units::{BlockSize, Nsid};
use uuid::Uuid;

pub use control::{ControlEndpoint, ControlSettings, TlsFiles};
pub use machine::Machine;
pub(crate) use machine::core_list;
pub use problem::{Problem, Problems};

/// A checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The file it was read from.
    pub file: PathBuf,
    /// `[node]`
    pub node: NodeSettings,
    /// `[reactors]`
    pub reactors: ReactorSettings,
    /// `[log]`
    pub log: LogSettings,
    /// `[metrics]`: where to serve them; `None` for nowhere.
    pub metrics_listen: Option<Placed<SocketAddr>>,
    /// `[tcp]`
    pub tcp: TcpSettings,
    /// `[nvme]`
    pub nvme: NvmeSettings,
    /// `[control]`; `None` where the node is on its own.
    pub control: Option<ControlSettings>,
    /// `[[device]]`
    pub devices: Vec<DeviceSettings>,
    /// `[[listener]]`
    pub listeners: Vec<Placed<SocketAddr>>,
    /// `[[subsystem]]`
    pub subsystems: Vec<SubsystemSettings>,
}

/// A value with its line in the file. Two are equal where the values are: lines move.
#[derive(Clone, Debug, Eq)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Line in the file, from 1.
    pub line: usize,
}

impl<T: PartialEq> PartialEq for Placed<T> {
    fn eq(&self, other: &Placed<T>) -> bool {
        self.value == other.value
    }
}

/// `[node]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSettings {
    /// Name in logs and metrics.
    pub name: String,
    /// How long commands in flight may take to finish when the node is told to stop.
    pub shutdown_timeout: Duration,
}

/// Who chooses the cores of the reactors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cores {
    /// The configuration: one reactor each.
    Named(Vec<usize>),
    /// The node, when it starts: so many, by the machine's topology.
    Placed(usize),
}

impl Cores {
    /// How many reactors there are.
    pub fn count(&self) -> usize {
        match self {
            Cores::Named(cores) => cores.len(),
            Cores::Placed(count) => *count,
        }
    }
}

/// `[reactors]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReactorSettings {
    /// How many reactors there are, and on which cores.
    pub cores: Cores,
    /// Whether reactors are pinned to their cores.
    pub pin: bool,
    /// Whether an idle reactor sleeps.
    pub adaptive: bool,
    /// How long an adaptive reactor polls in vain before it sleeps, in microseconds.
    pub idle_us: u32,
    /// Entries of each io_uring submission queue.
    pub ring_entries: u32,
    /// Receive buffers a reactor shares among its connections.
    pub receive_buffers: u16,
    /// Size of a receive buffer in bytes.
    pub receive_buffer_size_bytes: u32,
    /// Payload memory of each reactor in bytes.
    pub buffer_pool_size_bytes: usize,
    /// Whether to try hugepages for payload memory.
    pub hugepages: bool,
    /// Whether the node runs with hugepages only.
    pub hugepages_required: bool,
    /// Whether to lock payload memory.
    pub lock_memory: bool,
    /// A poller that takes longer than this is named in the log, in milliseconds.
    pub stall_threshold_ms: u32,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// JSON lines instead of text.
    pub json: bool,
    /// Filter directives of `tracing`.
    pub level: String,
}

/// Who chooses the congestion control of accepted connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CongestionControl {
    /// Nothing was configured: [`CongestionControl::PREFERRED`] where the kernel has it.
    Preferred,
    /// The system, by `net.ipv4.tcp_congestion_control`.
    System,
    /// The configuration; refused where the kernel does not have it.
    Named(String),
}

impl CongestionControl {
    /// A storage network is short and fast: BBR, where it is the system's, paces each send and costs
    /// a good part of the throughput.
    pub const PREFERRED: &str = "cubic";
}

/// `[tcp]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpSettings {
    /// Data a command capsule may carry, in bytes (I/O queues).
    pub in_capsule_data_size_bytes: u32,
    /// Maximum data transfer size in bytes.
    pub mdts_bytes: u32,
    /// Longest H2CData PDU payload the node asks for, in bytes.
    pub max_h2c_data_bytes: u32,
    /// Most R2Ts outstanding for one command; the host may allow fewer.
    pub r2t_max: u8,
    /// Most entries of a submission queue.
    pub queue_depth_max: u16,
    /// Most I/O queues of a controller.
    pub io_queues_max: u16,
    /// Whether hosts that ask for header digests get them.
    pub header_digest: bool,
    /// Whether hosts that ask for data digests get them.
    pub data_digest: bool,
    /// How long a connection may take to send its ICReq, and then to Connect, in milliseconds.
    pub connect_timeout_ms: u32,
    /// How long a host may take to finish a transfer it started, in milliseconds.
    pub transfer_timeout_ms: u32,
    /// How long a host may refuse to read what is sent to it, in milliseconds.
    pub send_timeout_ms: u32,
    /// Congestion control of accepted connections, by the kernel's name.
    pub congestion_control: CongestionControl,
}

/// `[[device]]`: what volumes of control are placed on. Two are equal where the values are.
#[derive(Clone, Debug, Eq)]
pub struct DeviceSettings {
    /// Line of the table in the file.
    pub line: usize,
    /// What control calls it on this node.
    pub name: String,
    /// Where the blocks are kept: memory, a file or a block device.
    pub backend: BackendSettings,
    /// Logical block size.
    pub block_size: BlockSize,
}

impl PartialEq for DeviceSettings {
    fn eq(&self, other: &DeviceSettings) -> bool {
        (&self.name, &self.backend, self.block_size)
            == (&other.name, &other.backend, other.block_size)
    }
}

/// `[[subsystem]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubsystemSettings {
    /// Line of the table in the file.
    pub line: usize,
    /// Name.
    pub nqn: String,
    /// Serial number, at most 20 ASCII characters.
    pub serial: String,
    /// Model number, at most 40 ASCII characters.
    pub model: String,
    /// Whether every host may connect.
    pub allow_any_host: bool,
    /// NQNs of the hosts that may connect.
    pub hosts: Vec<String>,
    /// Highest namespace identifier.
    pub namespaces_max: u32,
    /// `[[subsystem.namespace]]`
    pub namespaces: Vec<NamespaceSettings>,
}

/// `[[subsystem.namespace]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceSettings {
    /// Line of the table in the file.
    pub line: usize,
    /// Identifier.
    pub nsid: Nsid,
    /// Where the blocks are kept.
    pub backend: BackendSettings,
    /// Logical block size.
    pub block_size: BlockSize,
    /// Identity that hosts see; stable over restarts.
    pub uuid: Uuid,
}

/// Where a namespace keeps its blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendSettings {
    /// In memory: gone when the node stops.
    Memory {
        /// Size in bytes.
        size_bytes: u64,
    },
    /// Nowhere: reads give zeroes, writes are thrown away.
    Null {
        /// Size in bytes.
        size_bytes: u64,
        /// Time each command takes, in microseconds.
        latency_us: u32,
    },
    /// A file.
    File {
        /// Where.
        path: PathBuf,
        /// Size in bytes: created or grown to this; `None` takes the file as it is.
        size_bytes: Option<u64>,
    },
    /// A block device.
    Block {
        /// Where.
        path: PathBuf,
    },
    /// A namespace of a drive that this process drives itself.
    Nvme {
        /// Where the drive is.
        address: PciAddress,
        /// The drive's own namespace.
        drive_nsid: Nsid,
    },
}

/// `[nvme]`: drives that this process drives itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NvmeSettings {
    /// Whose driver drives them.
    pub driver: DriverChoice,
    /// Entries of each queue pair.
    pub queue_entries: u16,
    /// How long a drive may take over a command before it is aborted, in milliseconds.
    pub io_timeout_ms: u32,
    /// Whether submission queues go into a drive's own memory where it takes them there.
    pub queues_in_drive_memory: bool,
    /// How much of a drive's own memory is for what hosts write, in bytes; 0 for none.
    pub payload_in_drive_memory_bytes: u64,
    /// Whether drives interrupt adaptive reactors, which then sleep while a drive works.
    pub interrupts: bool,
}

impl BackendSettings {
    /// The word in the configuration.
    pub fn word(&self) -> &'static str {
        match self {
            BackendSettings::Memory { .. } => "memory",
            BackendSettings::Null { .. } => "null",
            BackendSettings::File { .. } => "file",
            BackendSettings::Block { .. } => "block",
            BackendSettings::Nvme { .. } => "nvme",
        }
    }

    /// The size asked for, where one is.
    pub fn size_bytes(&self) -> Option<u64> {
        match self {
            BackendSettings::Memory { size_bytes } | BackendSettings::Null { size_bytes, .. } => {
                Some(*size_bytes)
            }
            BackendSettings::File { size_bytes, .. } => *size_bytes,
            BackendSettings::Block { .. } | BackendSettings::Nvme { .. } => None,
        }
    }

    /// Whether both keep their blocks in the same place, whatever the sizes.
    pub fn same_place(&self, other: &BackendSettings) -> bool {
        match (self, other) {
            (BackendSettings::Memory { .. }, BackendSettings::Memory { .. }) => true,
            // A null device holds nothing that would be lost by making it anew.
            (BackendSettings::Null { .. }, BackendSettings::Null { .. })
            | (BackendSettings::Nvme { .. }, BackendSettings::Nvme { .. }) => self == other,
            _ => self.word() == other.word() && self.path() == other.path(),
        }
    }

    /// The path, where there is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            BackendSettings::File { path, .. } | BackendSettings::Block { path } => Some(path),
            BackendSettings::Memory { .. }
            | BackendSettings::Null { .. }
            | BackendSettings::Nvme { .. } => None,
        }
    }
}

impl Config {
    /// Reads and checks `file` for this machine.
    ///
    /// # Errors
    /// Everything that is wrong, each with its line and remedy.
    pub fn load(file: &Path) -> Result<Config, Problems> {
        let text = std::fs::read_to_string(file).map_err(|error| {
            Problems(vec![Problem {
                file: file.to_owned(),
                line: None,
                key: String::new(),
                what: format!("cannot be read: {error}"),
                remedy: "name a readable configuration file with --config".to_owned(),
            }])
        })?;
        Config::parse(file, &text, &Machine::probe())
    }

    /// Checks `text`, which came from `file`, for `machine`.
    ///
    /// # Errors
    /// Everything that is wrong, each with its line and remedy.
    pub fn parse(file: &Path, text: &str, machine: &Machine) -> Result<Config, Problems> {
        check::check(file, text, machine)
    }

    /// A problem on `line` of this configuration's file.
    pub fn problem(&self, line: usize, key: &str, what: String, remedy: &str) -> Problem {
        Problem {
            file: self.file.clone(),
            line: Some(line),
            key: key.to_owned(),
            what,
            remedy: remedy.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
