//! Everything that is shown, gathered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use penstock_async_nvme::pci::{Drive, Host};
use penstock_node::config::{Config, Machine};
use penstock_node::survey::{Places, Service, Survey};
use penstock_topology::{PciDevice, PciKind, Placement, Topology};

use crate::live::Live;

/// How the reactors shown are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// No configuration was given: there are none.
    Nothing,
    /// A node runs and told.
    Running(Live),
    /// A start would make them; why no running node was asked.
    Planned(String),
}

/// The machine and what runs, or would run, on it.
pub struct Picture {
    /// The machine, what is served and the reactors.
    pub survey: Survey,
    /// How the reactors are known.
    pub source: Source,
    /// Where a start would place reactors, where those that run are elsewhere.
    pub planned_cores: Option<Vec<usize>>,
    /// Cores that this process may run on.
    pub allowed: BTreeSet<usize>,
    /// Drives by their address.
    pub drives: BTreeMap<String, Drive>,
    /// Addresses by interface.
    pub interfaces: BTreeMap<String, BTreeSet<IpAddr>>,
}

/// A path between a reactor and a service on another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crossing<'p> {
    /// The reactor.
    pub reactor: usize,
    /// Its node.
    pub reactor_node: u32,
    /// What it serves.
    pub service: &'p Service,
    /// The service's node.
    pub service_node: u32,
    /// How far apart they are.
    pub distance: u64,
}

impl Picture {
    /// Looks at this machine, and at the node of the configuration in `file`.
    ///
    /// # Errors
    /// A topology that cannot be read, a configuration that is not sound.
    pub fn take(file: Option<&Path>) -> Result<Picture> {
        let topology = Topology::read()?;
        let allowed = Machine::probe().cores_allowed;
        let places = Places::of_this_machine();
        let mut picture = Picture {
            survey: Survey::default(),
            source: Source::Nothing,
            planned_cores: None,
            drives: drives(),
            interfaces: places.addresses().clone(),
            allowed: allowed.clone(),
        };
        match file {
            None => picture.survey.topology = topology,
            Some(file) => {
                let config = Config::load(file)?;
                picture.survey = Survey::on(&config, topology, allowed, &places);
                picture.look_for_node(&config);
            }
        }
        Ok(picture)
    }

    fn look_for_node(&mut self, config: &Config) {
        let Some(listen) = &config.metrics_listen else {
            let why =
                "the configuration has no [metrics] listen, by which a running node would tell";
            self.source = Source::Planned(why.to_owned());
            return;
        };
        match Live::ask(listen.value).with_context(|| format!("no node at {}", listen.value)) {
            Err(error) => self.source = Source::Planned(format!("{error:#}")),
            Ok(live) => self.show_running(live),
        }
    }

    /// What runs counts, not what a start would make of it.
    fn show_running(&mut self, live: Live) {
        let cores: Vec<usize> = live.cores.values().copied().collect();
        let planned: Vec<usize> = self.survey.placement.seats.iter().map(|s| s.core).collect();
        self.planned_cores = (planned != cores).then_some(planned);
        self.survey.placement = Placement::on(&self.survey.topology, &cores);
        self.source = Source::Running(live);
    }

    /// Every path that crosses nodes.
    pub fn crossings(&self) -> Vec<Crossing<'_>> {
        let services = self.survey.services.iter();
        services
            .flat_map(|service| self.crossings_of(service))
            .collect()
    }

    /// The paths of a service that cross nodes.
    pub fn crossings_of<'p>(&'p self, service: &'p Service) -> Vec<Crossing<'p>> {
        let Some((node, reach)) = service.node.zip(self.survey.reach(service)) else {
            return Vec::new();
        };
        let crossing = |reactor: usize| {
            let own = self.survey.placement.seats.get(reactor)?.node?;
            Some(Crossing {
                reactor,
                reactor_node: own,
                service,
                service_node: node,
                distance: self.survey.topology.distance(own, node),
            })
        };
        reach.crossing.into_iter().filter_map(crossing).collect()
    }

    /// What is served through a device.
    pub fn services_of(&self, device: &PciDevice) -> Vec<&Service> {
        let services = self.survey.services.iter();
        services
            .filter(|service| service.devices.contains(&device.address))
            .collect()
    }

    /// What is served through no device that is known.
    pub fn placeless(&self) -> Vec<&Service> {
        let known = |address: &String| self.survey.topology.device(address).is_some();
        let services = self.survey.services.iter();
        services
            .filter(|service| !service.devices.iter().any(known))
            .collect()
    }

    /// The devices on a node that are worth telling: drives, interfaces, and what else serves.
    pub fn devices_on(&self, node: Option<u32>) -> Vec<&PciDevice> {
        let devices = self.survey.topology.devices.iter();
        devices
            .filter(|device| device.node == node)
            .filter(|device| {
                device.kind != PciKind::Storage || !self.services_of(device).is_empty()
            })
            .collect()
    }
}

/// What the kernel tells of the drives; nothing where it has no PCI.
fn drives() -> BTreeMap<String, Drive> {
    let drives = Host::default().drives().unwrap_or_default();
    drives
        .into_iter()
        .map(|drive| (drive.address.to_string(), drive))
        .collect()
}
