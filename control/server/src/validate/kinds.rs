//! What users may write into nodes, devices, hosts, subsystems, namespaces and listeners.

use std::net::IpAddr;

use penstock_api::names::{Kind, ResourceName, check_id, check_nqn, is_uuid};
use penstock_api::v1::{Device, Host, Listener, Namespace, Node, Subsystem};
use penstock_plan::desired::{DEFAULT_PORT, serial_of};

use super::{LABEL_BYTES_MAX, Policy, Violations, field, short};

/// Most failure domains of a node.
const DOMAINS_MAX: usize = 16;
/// Most hosts that a subsystem names.
const HOSTS_MAX: usize = 1_024;
/// Highest number of namespaces of a subsystem.
const NAMESPACES_MAX: u32 = 4_096;
/// Number of namespaces where none is given.
const NAMESPACES_DEFAULT: u32 = 1_024;
/// Characters of a serial number, NVMe Base 2.1, 5.1.13.2.1.
const SERIAL_MAX: usize = 20;
/// Characters of a model number, NVMe Base 2.1, 5.1.13.2.1.
const MODEL_MAX: usize = 40;

impl Policy for Node {
    const FIELD: &'static str = "node";
    const MUTABLE: &'static [&'static str] = &["labels", "spec.failure_domains", "spec.cordoned"];
    const FIXED: &'static [&'static str] = &[];

    fn check(&self, found: &mut Violations) {
        let domains = self.spec.iter().flat_map(|spec| &spec.failure_domains);
        let path = field::<Node>("spec.failure_domains");
        if domains.clone().count() > DOMAINS_MAX {
            found.add(
                &path,
                format!("there are more than {DOMAINS_MAX}; use fewer"),
            );
        }
        for (domain, value) in domains {
            found.check(&path, check_id(domain));
            if value.is_empty() || value.len() > LABEL_BYTES_MAX {
                found.add(
                    &path,
                    format!(
                        "the value of {domain} has {} bytes; use 1 to {LABEL_BYTES_MAX}",
                        value.len()
                    ),
                );
            }
        }
    }

    fn fill(&mut self, _cluster: &str) {
        self.spec.get_or_insert_default();
    }

    fn inherit(&mut self, _existing: &Node) {}

    fn take(&mut self, path: &str, from: &Node) {
        let (to, from) = (self.spec.get_or_insert_default(), from.spec.clone());
        let from = from.unwrap_or_default();
        match path {
            "spec.failure_domains" => to.failure_domains = from.failure_domains,
            "spec.cordoned" => to.cordoned = from.cordoned,
            _ => {}
        }
    }
}

impl Policy for Device {
    const FIELD: &'static str = "device";
    const MUTABLE: &'static [&'static str] = &["labels", "spec.cordoned"];
    const FIXED: &'static [&'static str] = &[];

    fn check(&self, _found: &mut Violations) {}

    fn fill(&mut self, _cluster: &str) {
        self.spec.get_or_insert_default();
    }

    fn inherit(&mut self, _existing: &Device) {}

    fn take(&mut self, path: &str, from: &Device) {
        if path == "spec.cordoned" {
            let cordoned = from.spec.as_ref().is_some_and(|spec| spec.cordoned);
            self.spec.get_or_insert_default().cordoned = cordoned;
        }
    }
}

impl Policy for Host {
    const FIELD: &'static str = "host";
    const MUTABLE: &'static [&'static str] = &["labels"];
    const FIXED: &'static [&'static str] = &["spec.nqn"];

    fn check(&self, found: &mut Violations) {
        let nqn = self.spec.as_ref().map_or("", |spec| spec.nqn.as_str());
        found.check(field::<Host>("spec.nqn"), check_nqn(nqn));
    }

    fn fill(&mut self, _cluster: &str) {
        self.spec.get_or_insert_default();
    }

    fn inherit(&mut self, existing: &Host) {
        let (to, from) = (self.spec.get_or_insert_default(), existing.spec.as_ref());
        if to.nqn.is_empty() {
            to.nqn = from.map(|spec| spec.nqn.clone()).unwrap_or_default();
        }
    }

    fn take(&mut self, _path: &str, _from: &Host) {}
}

impl Policy for Subsystem {
    const FIELD: &'static str = "subsystem";
    const MUTABLE: &'static [&'static str] = &["labels", "spec.allow_any_host", "spec.hosts"];
    const FIXED: &'static [&'static str] = &[
        "spec.nqn",
        "spec.serial",
        "spec.model",
        "spec.namespaces_max",
    ];

    fn check(&self, found: &mut Violations) {
        let Some(spec) = &self.spec else {
            return;
        };
        if !spec.nqn.is_empty() {
            found.check(field::<Subsystem>("spec.nqn"), check_nqn(&spec.nqn));
        }
        printable("spec.serial", &spec.serial, SERIAL_MAX, found);
        printable("spec.model", &spec.model, MODEL_MAX, found);
        if spec.namespaces_max > NAMESPACES_MAX {
            found.add(
                field::<Subsystem>("spec.namespaces_max"),
                format!(
                    "it is {}; use 1 to {NAMESPACES_MAX}, or 0 for {NAMESPACES_DEFAULT}",
                    spec.namespaces_max
                ),
            );
        }
        let path = field::<Subsystem>("spec.hosts");
        if spec.hosts.len() > HOSTS_MAX {
            found.add(
                &path,
                format!(
                    "there are {}; name {HOSTS_MAX} at most, or set allow_any_host",
                    spec.hosts.len()
                ),
            );
            return;
        }
        let mut seen = std::collections::BTreeSet::new();
        for host in &spec.hosts {
            found.check(&path, ResourceName::parse_as(Kind::Host, host));
            if !seen.insert(host) {
                found.add(
                    &path,
                    format!("{:?} is named twice; name it once", short(host)),
                );
            }
        }
    }

    fn fill(&mut self, cluster: &str) {
        let (uid, id) = (self.uid.clone(), self.name.clone());
        let id = id.strip_prefix("subsystems/").unwrap_or(&id);
        let spec = self.spec.get_or_insert_default();
        if spec.nqn.is_empty() {
            spec.nqn = format!("nqn.2026-01.io.penstock:{cluster}:{id}");
        }
        if spec.serial.is_empty() {
            spec.serial = serial_of(&uid);
        }
        if spec.model.is_empty() {
            "Penstock".clone_into(&mut spec.model);
        }
        if spec.namespaces_max == 0 {
            spec.namespaces_max = NAMESPACES_DEFAULT;
        }
    }

    fn inherit(&mut self, existing: &Subsystem) {
        let to = self.spec.get_or_insert_default();
        let from = existing.spec.clone().unwrap_or_default();
        for (to, from) in [
            (&mut to.nqn, from.nqn),
            (&mut to.serial, from.serial),
            (&mut to.model, from.model),
        ] {
            if to.is_empty() {
                *to = from;
            }
        }
        if to.namespaces_max == 0 {
            to.namespaces_max = from.namespaces_max;
        }
    }

    fn take(&mut self, path: &str, from: &Subsystem) {
        let to = self.spec.get_or_insert_default();
        let from = from.spec.clone().unwrap_or_default();
        match path {
            "spec.allow_any_host" => to.allow_any_host = from.allow_any_host,
            "spec.hosts" => to.hosts = from.hosts,
            _ => {}
        }
    }
}

fn printable(path: &str, text: &str, most: usize, found: &mut Violations) {
    if text.len() > most {
        found.add(
            field::<Subsystem>(path),
            format!("it has {} bytes; use {most} at most", text.len()),
        );
    }
    if text.chars().any(|c| !c.is_ascii_graphic() && c != ' ') {
        found.add(
            field::<Subsystem>(path),
            format!(
                "{:?} has characters that are not printable ASCII; leave them out",
                short(text)
            ),
        );
    }
}

impl Policy for Namespace {
    const FIELD: &'static str = "namespace";
    const MUTABLE: &'static [&'static str] = &["labels"];
    const FIXED: &'static [&'static str] = &["spec.volume", "spec.nsid", "spec.uuid"];

    fn check(&self, found: &mut Violations) {
        let spec = self.spec.clone().unwrap_or_default();
        found.check(
            field::<Namespace>("spec.volume"),
            ResourceName::parse_as(Kind::Volume, &spec.volume),
        );
        if !spec.uuid.is_empty() && !is_uuid(&spec.uuid) {
            found.add(
                field::<Namespace>("spec.uuid"),
                format!(
                    "{:?} is no UUID; write it as 8-4-4-4-12 hexadecimal digits, or leave it out for the volume's uid",
                    short(&spec.uuid)
                ),
            );
        }
        if spec.nsid > NAMESPACES_MAX {
            found.add(
                field::<Namespace>("spec.nsid"),
                format!(
                    "it is {}; use 1 to the subsystem's namespaces_max (at most {NAMESPACES_MAX}), or 0 to let the server choose",
                    spec.nsid
                ),
            );
        }
    }

    fn fill(&mut self, _cluster: &str) {
        let spec = self.spec.get_or_insert_default();
        spec.uuid = spec.uuid.to_ascii_lowercase();
    }

    fn inherit(&mut self, existing: &Namespace) {
        let to = self.spec.get_or_insert_default();
        let from = existing.spec.clone().unwrap_or_default();
        if to.nsid == 0 {
            to.nsid = from.nsid;
        }
        if to.uuid.is_empty() {
            to.uuid = from.uuid;
        }
        if to.volume.is_empty() {
            to.volume = from.volume;
        }
        to.uuid = to.uuid.to_ascii_lowercase();
    }

    fn take(&mut self, _path: &str, _from: &Namespace) {}
}

impl Policy for Listener {
    const FIELD: &'static str = "listener";
    const MUTABLE: &'static [&'static str] = &["labels"];
    const FIXED: &'static [&'static str] = &["spec.transport", "spec.address", "spec.port"];

    fn check(&self, found: &mut Violations) {
        let spec = self.spec.clone().unwrap_or_default();
        if !matches!(spec.transport.as_str(), "" | "tcp") {
            found.add(
                field::<Listener>("spec.transport"),
                format!("{:?} is no transport; use tcp", short(&spec.transport)),
            );
        }
        let path = field::<Listener>("spec.address");
        match spec.address.parse::<IpAddr>() {
            Err(_) => found.add(
                path,
                format!(
                    "{:?} is no IP address; use one of the node's, or 0.0.0.0 or :: for all",
                    short(&spec.address)
                ),
            ),
            Ok(address) if address.is_multicast() => {
                found.add(
                    path,
                    format!("{address} is a multicast address; use one of the node's"),
                );
            }
            Ok(_) => {}
        }
        if spec.port > u32::from(u16::MAX) {
            found.add(
                field::<Listener>("spec.port"),
                format!(
                    "it is {}; use 1 to 65535, or 0 for {DEFAULT_PORT}",
                    spec.port
                ),
            );
        }
    }

    fn fill(&mut self, _cluster: &str) {
        let spec = self.spec.get_or_insert_default();
        if spec.transport.is_empty() {
            "tcp".clone_into(&mut spec.transport);
        }
        if spec.port == 0 {
            spec.port = DEFAULT_PORT;
        }
        if let Ok(address) = spec.address.parse::<IpAddr>() {
            spec.address = address.to_string();
        }
    }

    fn inherit(&mut self, _existing: &Listener) {
        self.fill("");
    }

    fn take(&mut self, _path: &str, _from: &Listener) {}
}
