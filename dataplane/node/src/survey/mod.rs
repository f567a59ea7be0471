//! Who serves what, and from where: the machine's topology, what the configuration serves on it, and
//! the cores that follow.

mod places;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use penstock_topology::{Needs, Placement, Reach, Topology, place};

use crate::config::{BackendSettings, Config, Cores, Machine};

pub use places::Places;

/// What is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// A namespace or a device for volumes.
    Storage,
    /// An address that hosts connect to.
    Listener,
}

/// Something of the configuration that sits somewhere in the machine, or nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// What it is.
    pub kind: ServiceKind,
    /// As the configuration names it: subsystem and namespace, device, address.
    pub name: String,
    /// What it is served from: `nvme 0000:3b:00.0`, `file /x`, `eth0`.
    pub from: String,
    /// The PCI devices that it goes through, by address; none for memory, loopback and the like.
    pub devices: BTreeSet<String>,
    /// The NUMA node of all these devices; `None` where they have none, or different ones.
    pub node: Option<u32>,
}

/// A machine, what is served on it, and where reactors go.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// The machine.
    pub topology: Topology,
    /// What the configuration serves, in its order: storage, then listeners.
    pub services: Vec<Service>,
    /// Where the reactors run.
    pub placement: Placement,
}

impl Survey {
    /// Looks at this machine for `config`. A topology that cannot be read is named in the log, and
    /// taken as one that tells nothing.
    pub fn of(config: &Config) -> Survey {
        let topology = Topology::read().unwrap_or_else(|error| {
            tracing::warn!(%error, "reactors are placed without regard to NUMA");
            Topology::default()
        });
        let allowed = Machine::probe().cores_allowed;
        Survey::on(config, topology, allowed, &Places::of_this_machine())
    }

    /// As [`Survey::of`], for a machine of this topology.
    pub fn on(
        config: &Config,
        topology: Topology,
        allowed: BTreeSet<usize>,
        places: &Places,
    ) -> Survey {
        let mut services = storage(config, &topology, places);
        let addresses = config.listeners.iter().map(|listener| listener.value);
        services.extend(addresses.map(|address| listener(address, &topology, places)));
        let placement = match &config.reactors.cores {
            Cores::Named(cores) => Placement::on(&topology, cores),
            Cores::Placed(count) => place(&topology, &needs(*count, allowed, &services, &topology)),
        };
        Survey {
            topology,
            services,
            placement,
        }
    }

    /// The reactors' cores.
    pub fn cores(&self) -> BTreeSet<usize> {
        self.placement.seats.iter().map(|seat| seat.core).collect()
    }

    /// Which reactors a service is near to; `None` where it sits nowhere.
    pub fn reach(&self, service: &Service) -> Option<Reach> {
        service.node.map(|node| self.placement.reach(node))
    }

    /// Says in the log where reactors run and what is far from all of them.
    pub fn tell(&self) {
        for (reactor, seat) in self.placement.seats.iter().enumerate() {
            match seat.node.filter(|_| self.topology.is_numa()) {
                Some(numa_node) => {
                    tracing::info!(reactor, core = seat.core, numa_node, "reactor placed");
                }
                None => tracing::info!(reactor, core = seat.core, "reactor placed"),
            }
        }
        for service in &self.services {
            let Some(reach) = self.reach(service).filter(Reach::is_cross_node) else {
                continue;
            };
            tracing::warn!(
                service = service.name,
                numa_node = service.node,
                reactors = ?reach.crossing,
                "no reactor is on the NUMA node of {}: every transfer crosses nodes; have \
                 reactors.count place more of them, or name a core of that node in reactors.cores",
                service.from
            );
        }
    }
}

fn needs(
    count: usize,
    allowed: BTreeSet<usize>,
    services: &[Service],
    topology: &Topology,
) -> Needs {
    // A drive counts once, whatever is served from it.
    let nodes = |kind: ServiceKind| {
        let of_kind = services.iter().filter(|service| service.kind == kind);
        let devices: BTreeSet<&String> = of_kind.flat_map(|service| &service.devices).collect();
        let nodes = devices
            .into_iter()
            .filter_map(|address| topology.device(address)?.node);
        nodes.collect()
    };
    Needs {
        count,
        allowed,
        drives: nodes(ServiceKind::Storage),
        networks: nodes(ServiceKind::Listener),
    }
}

fn storage(config: &Config, topology: &Topology, places: &Places) -> Vec<Service> {
    let namespaces = config.subsystems.iter().flat_map(|subsystem| {
        let name = |nsid| format!("{} namespace {nsid}", subsystem.nqn);
        let all = subsystem.namespaces.iter();
        all.map(move |namespace| (name(namespace.nsid), &namespace.backend))
    });
    let devices = config.devices.iter();
    let devices = devices.map(|device| (format!("device {}", device.name), &device.backend));
    devices
        .chain(namespaces)
        .map(|(name, backend)| {
            let word = backend.word();
            let (from, devices) = match (backend, backend.path()) {
                (BackendSettings::Nvme { address, .. }, _) => {
                    let address = address.to_string();
                    (format!("{word} {address}"), BTreeSet::from([address]))
                }
                (_, Some(path)) => (
                    format!("{word} {}", path.display()),
                    places.under_path(path),
                ),
                (_, None) => (word.to_owned(), BTreeSet::new()),
            };
            service(ServiceKind::Storage, name, from, devices, topology)
        })
        .collect()
}

fn listener(address: SocketAddr, topology: &Topology, places: &Places) -> Service {
    let interfaces = places.interfaces_with(address.ip());
    let devices = interfaces
        .iter()
        .flat_map(|interface| places.under_interface(interface));
    let from = match interfaces.is_empty() {
        true if address.ip().is_unspecified() => "any interface".to_owned(),
        true => "no interface of this machine".to_owned(),
        false => interfaces.join(", "),
    };
    let devices = devices.collect();
    service(
        ServiceKind::Listener,
        address.to_string(),
        from,
        devices,
        topology,
    )
}

fn service(
    kind: ServiceKind,
    name: String,
    from: String,
    devices: BTreeSet<String>,
    topology: &Topology,
) -> Service {
    let mut nodes = devices
        .iter()
        .map(|address| topology.device(address).and_then(|device| device.node));
    let first = nodes.next().flatten();
    let node = first.filter(|_| nodes.all(|node| node == first));
    Service {
        kind,
        name,
        from,
        devices,
        node,
    }
}

#[cfg(test)]
mod tests;
