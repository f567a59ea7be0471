//! What control has on this node: devices to place volumes on, volumes, and what is served of them.
//!
//! All of it is called on the daemon's thread and changes the running node at once; only clearing
//! data takes its time, on the reactors, and tells when it is done. Every call may be repeated: what
//! is as asked already stays so. Nothing here remembers anything over a restart; the agent does.
//!
//! Objects of the configuration file and of control live side by side. Where both want the same name
//! or address, the one that came first keeps it and the other is refused with the reason.
//!
//! Data is safe from its neighbours: extents of a volume that is open are never cleared and never
//! given to another, and a closed volume's are cleared only after every write to it has ended.

mod clear;
mod inventory;
mod layout;
mod listen;
mod serve;
mod volume;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Weak;

use penstock_subsystem::Namespace;
use penstock_units::Nsid;

use crate::config::{BackendSettings, Config, DeviceSettings};
use crate::device::{Device, Surroundings};

pub(crate) use inventory::drive_of;

use clear::Clearing;
use volume::OpenVolume;

/// Told when clearing has ended.
pub type Done = Box<dyn FnOnce(Result<(), ManagedError>) + Send>;

/// Why something cannot be done for control.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ManagedError {
    /// One CamelCase word for programs.
    pub reason: &'static str,
    /// What, why, and the remedy, for people.
    pub message: String,
}

impl ManagedError {
    /// An error with a reason of the API's.
    pub fn new(reason: &'static str, message: impl Into<String>) -> ManagedError {
        ManagedError {
            reason,
            message: message.into(),
        }
    }
}

/// A device of `[[device]]`, or why it is none.
struct ManagedDevice {
    settings: DeviceSettings,
    opened: Result<Device, String>,
}

/// A subsystem that is served for control.
struct ManagedSubsystem {
    nqn: String,
    allow_any_host: bool,
    hosts: Vec<String>,
}

/// A namespace that is served for control.
struct ManagedNamespace {
    subsystem_uid: String,
    volume_uid: String,
    nsid: Nsid,
    uuid: [u8; 16],
}

/// What control has on this node.
#[derive(Default)]
pub struct Managed {
    devices: BTreeMap<String, ManagedDevice>,
    volumes: BTreeMap<String, OpenVolume>,
    subsystems: BTreeMap<String, ManagedSubsystem>,
    namespaces: BTreeMap<String, ManagedNamespace>,
    listeners: BTreeMap<String, ManagedListener>,
    /// Namespaces taken away, to which writes may still be on their way.
    retired: Vec<Weak<Namespace>>,
    clearing: Clearing,
}

/// A listener that control asked for.
struct ManagedListener {
    configured: SocketAddr,
    bound: SocketAddr,
}

impl Managed {
    /// Opens the devices of the configuration. One that cannot be opened is told in the log and in
    /// the inventory; it does not keep the others from serving.
    pub(crate) fn open(config: &Config) -> Managed {
        let open = |settings: &DeviceSettings| {
            let opened = open_device(settings, config);
            if let Err(problem) = &opened {
                tracing::error!(
                    device = settings.name,
                    problem,
                    "the device cannot be used; a file or block device is tried again from time to time"
                );
            }
            let device = ManagedDevice {
                settings: settings.clone(),
                opened,
            };
            (settings.name.clone(), device)
        };
        Managed {
            devices: config.devices.iter().map(open).collect(),
            ..Managed::default()
        }
    }

    /// Tries again to open the files and block devices that could not be opened. Whether any can be
    /// used now. Drives that the node drives itself are not tried: a broken one may hold this thread
    /// up for a minute each time.
    pub(crate) fn reopen(&mut self, config: &Config) -> bool {
        let mut found = false;
        for (name, device) in &mut self.devices {
            let Err(before) = &device.opened else {
                continue;
            };
            if matches!(device.settings.backend, BackendSettings::Nvme { .. }) {
                continue;
            }
            let opened = open_device(&device.settings, config);
            match &opened {
                Ok(_) => {
                    tracing::info!(device = name, "the device is there and can be used");
                    found = true;
                }
                Err(problem) if problem == before => {}
                Err(problem) => {
                    tracing::error!(device = name, problem, "the device cannot be used");
                }
            }
            device.opened = opened;
        }
        found
    }

    /// How much is served for control: subsystems, namespaces, listeners.
    pub(crate) fn served(&self) -> (usize, usize, usize) {
        let (namespaces, listeners) = (self.namespaces.len(), self.listeners.len());
        (self.subsystems.len(), namespaces, listeners)
    }

    /// Whether control has a subsystem of this name here.
    pub(crate) fn has_subsystem(&self, nqn: &str) -> bool {
        self.subsystems.values().any(|known| known.nqn == nqn)
    }

    /// Whether control has a listener at this address here.
    pub(crate) fn has_listener(&self, address: SocketAddr) -> bool {
        let mut listeners = self.listeners.values();
        listeners.any(|known| {
            known.bound == address || (known.configured == address && address.port() != 0)
        })
    }
}

fn open_device(settings: &DeviceSettings, config: &Config) -> Result<Device, String> {
    Device::open_backend(
        settings.name.clone(),
        &settings.backend,
        settings.block_size,
        Surroundings::of(config),
    )
    .map_err(|error| error.to_string())
}
