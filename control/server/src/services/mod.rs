//! The services of the API. Structs that can be called in process as well as over gRPC.

mod core;
mod devices;
mod force;
mod hosts;
mod layouts;
mod list;
mod listeners;
mod namespaces;
mod nodes;
mod operations;
mod orphans;
mod space;
mod subsystems;
mod volumes;
mod write;

use std::sync::Arc;

use crate::env::Env;
use crate::mirror::Mirror;
use crate::watch::Watches;

pub use self::core::Core;
pub use self::devices::Devices;
pub use self::hosts::Hosts;
pub use self::layouts::Layouts;
pub use self::listeners::Listeners;
pub use self::namespaces::{Namespaces, remove_claims};
pub use self::nodes::Nodes;
pub use self::operations::Operations;
pub use self::subsystems::Subsystems;
pub use self::volumes::Volumes;

/// All services but the agents'. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    /// Nodes.
    pub nodes: Nodes,
    /// Devices.
    pub devices: Devices,
    /// Hosts.
    pub hosts: Hosts,
    /// Subsystems.
    pub subsystems: Subsystems,
    /// Namespaces.
    pub namespaces: Namespaces,
    /// Listeners.
    pub listeners: Listeners,
    /// Volumes.
    pub volumes: Volumes,
    /// Operations.
    pub operations: Operations,
    /// Layouts.
    pub layouts: Layouts,
    /// Watches.
    pub watches: Watches,
}

impl Services {
    /// The services in this environment; `mirror` saves counting in the store.
    pub fn new(env: &Env, mirror: Option<Mirror>) -> Services {
        let core = Arc::new(Core::new(env, mirror));
        Services {
            nodes: Nodes(Arc::clone(&core)),
            devices: Devices(Arc::clone(&core)),
            hosts: Hosts(Arc::clone(&core)),
            subsystems: Subsystems(Arc::clone(&core)),
            namespaces: Namespaces::new(Arc::clone(&core)),
            listeners: Listeners(Arc::clone(&core)),
            volumes: Volumes::new(Arc::clone(&core)),
            operations: Operations(Arc::clone(&core)),
            layouts: Layouts(Arc::clone(&core)),
            watches: Watches::new(core),
        }
    }
}

#[cfg(test)]
mod tests;
