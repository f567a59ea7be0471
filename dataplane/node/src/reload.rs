//! A changed configuration applied to a running node: checked and opened first, then applied.
//!
//! Subsystems, namespaces (added, resized, removed), hosts and listeners change at run time, without
//! touching anything else. What needs a restart is named in the log and stays as it is.

use std::collections::BTreeMap;
use std::path::Path;

use penstock_reactor::TcpListener;

use crate::config::{Config, NamespaceSettings, Problem, Problems, SubsystemSettings};
use crate::device::Device;
use crate::node::{
    Listening, NamespaceName, Node, add_namespace, add_subsystem, bind, open_device, told,
};

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// One line a change.
    pub applied: Vec<String>,
    /// Keys whose change waits for a restart.
    pub need_restart: Vec<String>,
    /// What failed although it had been checked; the rest went on.
    pub failed: Vec<String>,
}

/// Everything that must succeed before anything changes.
#[derive(Default)]
struct Prepared {
    devices: BTreeMap<NamespaceName, Device>,
    listeners: Vec<(Listening, TcpListener)>,
    /// Devices already resized: the size before, to go back to.
    resized: Vec<(NamespaceName, u64)>,
}

impl Changes {
    fn note<E: std::fmt::Display>(&mut self, result: Result<(), E>, what: impl FnOnce() -> String) {
        match result {
            Ok(()) => self.applied.push(what()),
            Err(error) => self.failed.push(error.to_string()),
        }
    }
}

impl Node {
    /// Goes over to `new`. The log's level is the caller's to change.
    ///
    /// # Errors
    /// Everything that is refused; the node then serves as before.
    pub fn reload(&mut self, new: Config) -> Result<Changes, Problems> {
        let mut prepared = Prepared::default();
        let mut problems = Vec::new();
        self.prepare(&new, &mut prepared, &mut problems);
        if !problems.is_empty() {
            self.undo(&prepared);
            return Err(Problems(problems));
        }
        let mut changes = Changes {
            need_restart: self.fixed(&new),
            ..Changes::default()
        };
        self.remove_old(&new, &mut changes);
        self.add_new(&new, prepared, &mut changes);
        self.config = self.in_force(new);
        Ok(changes)
    }

    fn prepare(&self, new: &Config, prepared: &mut Prepared, problems: &mut Vec<Problem>) {
        for (nqn, namespace) in namespaces(new) {
            let name = (nqn.to_owned(), namespace.nsid);
            let outcome = match self.kept(&name, namespace) {
                Some(device) => self.resize(new, &name, namespace, device, prepared),
                None => open_device(new, nqn, namespace).map(|device| {
                    prepared.devices.insert(name, device);
                }),
            };
            problems.extend(
                outcome
                    .err()
                    .map(|problem| self.explained(namespace, problem)),
            );
        }
        problems.extend(self.above_limit(new));
        problems.extend(self.of_control(new));
        for address in &new.listeners {
            if self.managed.has_listener(address.value) {
                continue;
            }
            if self
                .listening
                .iter()
                .any(|known| known.configured == address.value)
            {
                continue;
            }
            match bind(new, address) {
                Ok(listener) => prepared.listeners.push(listener),
                Err(problem) => problems.push(problem),
            }
        }
    }

    /// What control has here already under the same name or address.
    fn of_control(&self, new: &Config) -> Vec<Problem> {
        let remedy = "remove it from the file, or from control (`penstock` tells)";
        let subsystems = new
            .subsystems
            .iter()
            .filter(|wanted| self.managed.has_subsystem(&wanted.nqn))
            .map(|wanted| {
                let what = format!("{} is served for control already", wanted.nqn);
                new.problem(wanted.line, "subsystem.nqn", what, remedy)
            });
        let listeners = new
            .listeners
            .iter()
            .filter(|wanted| self.managed.has_listener(wanted.value))
            .map(|wanted| {
                let what = format!("{} is a listener of control already", wanted.value);
                new.problem(wanted.line, "listener.address", what, remedy)
            });
        subsystems.chain(listeners).collect()
    }

    /// Namespaces above a limit that a restart would raise.
    fn above_limit(&self, new: &Config) -> Vec<Problem> {
        let limit = |nqn: &str| subsystem_of(&self.config, nqn).map(|known| known.namespaces_max);
        let above = namespaces(new).filter(|(nqn, namespace)| {
            limit(nqn).is_some_and(|limit| namespace.nsid.get() > limit)
        });
        above
            .map(|(nqn, namespace)| {
                let what = format!("{} is above the namespaces_max in force", namespace.nsid);
                let remedy = format!("use a lower nsid, or restart to raise the limit of {nqn}");
                new.problem(namespace.line, "namespace.nsid", what, &remedy)
            })
            .collect()
    }

    /// A device that is to be opened anew under another name is still locked by ourselves.
    fn explained(&self, namespace: &NamespaceSettings, mut problem: Problem) -> Problem {
        let path = namespace.backend.path();
        let ours =
            namespaces(&self.config).find(|(_, old)| path.is_some() && old.backend.path() == path);
        if let Some((nqn, old)) = ours {
            problem.what = format!(
                "{} is in use by namespace {} of {nqn}",
                display(path),
                old.nsid
            );
            problem.remedy = "remove that namespace in one reload and add this one in the next; \
                              block_size_bytes and uuid of a running namespace do not change"
                .to_owned();
        }
        problem
    }

    /// The open device of a namespace that stays, whatever becomes of its size.
    fn kept(&self, name: &NamespaceName, new: &NamespaceSettings) -> Option<&Device> {
        let old = find(&self.config, name)?;
        let same = old.backend.same_place(&new.backend)
            && old.block_size == new.block_size
            && old.uuid == new.uuid;
        self.devices.get(name).filter(|_| same)
    }

    /// Grows now, so that what the file system refuses is refused before anything changes; nobody
    /// is told yet. Shrinking waits until nothing can go wrong any more.
    fn resize(
        &self,
        new: &Config,
        name: &NamespaceName,
        namespace: &NamespaceSettings,
        device: &Device,
        prepared: &mut Prepared,
    ) -> Result<(), Problem> {
        let before = device.size_bytes();
        let size_bytes = namespace.backend.size_bytes();
        if size_bytes.is_some_and(|wanted| wanted <= before) {
            return Ok(());
        }
        device.resize(size_bytes).map_err(|error| {
            told(
                new,
                Some(namespace.line),
                "namespace.size_bytes",
                &error.to_string(),
            )
        })?;
        if device.size_bytes() != before {
            prepared.resized.push((name.clone(), before));
        }
        Ok(())
    }

    fn undo(&self, prepared: &Prepared) {
        for (name, before) in &prepared.resized {
            if let Some(Err(error)) = self
                .devices
                .get(name)
                .map(|device| device.resize(Some(*before)))
            {
                tracing::error!(namespace = ?name, %error, "a size could not be taken back");
            }
        }
    }

    fn remove_old(&mut self, new: &Config, changes: &mut Changes) {
        let gone = self.listening.iter().filter(|known| {
            !new.listeners
                .iter()
                .any(|address| address.value == known.configured)
        });
        for listening in gone.copied().collect::<Vec<_>>() {
            self.fleet.unlisten(listening.bound);
            self.target.remove_listener(listening.bound);
            self.listening.retain(|known| *known != listening);
            changes
                .applied
                .push(format!("listener {} removed", listening.bound));
        }
        for subsystem in &self.config.subsystems {
            if subsystem_of(new, &subsystem.nqn).is_none() {
                let removed = self.target.remove_subsystem(&subsystem.nqn);
                changes.note(removed, || format!("subsystem {} removed", subsystem.nqn));
            }
        }
        for name in self.devices.keys().cloned().collect::<Vec<_>>() {
            let stays =
                find(new, &name).is_some_and(|namespace| self.kept(&name, namespace).is_some());
            if stays {
                continue;
            }
            if subsystem_of(new, &name.0).is_some() {
                let removed = self.target.remove_namespace(&name.0, name.1);
                changes.note(removed, || {
                    format!("namespace {} of {} removed", name.1, name.0)
                });
            }
            self.devices.remove(&name);
        }
    }

    fn add_new(&mut self, new: &Config, prepared: Prepared, changes: &mut Changes) {
        self.devices.extend(prepared.devices.clone());
        for subsystem in &new.subsystems {
            match subsystem_of(&self.config, &subsystem.nqn) {
                None => {
                    let added = add_subsystem(&self.target, new, subsystem, &self.devices);
                    changes.note(added, || format!("subsystem {} added", subsystem.nqn));
                }
                Some(old) => self.change_subsystem(old, subsystem, &prepared, changes),
            }
        }
        for (listening, listener) in prepared.listeners {
            self.listen(listening, listener);
            changes
                .applied
                .push(format!("listener {} added", listening.bound));
        }
    }

    fn change_subsystem(
        &self,
        old: &SubsystemSettings,
        subsystem: &SubsystemSettings,
        prepared: &Prepared,
        changes: &mut Changes,
    ) {
        let nqn = &subsystem.nqn;
        if (old.allow_any_host, &old.hosts) != (subsystem.allow_any_host, &subsystem.hosts) {
            let set = self
                .target
                .set_hosts(nqn, subsystem.allow_any_host, &subsystem.hosts);
            changes.note(set, || format!("hosts of {nqn} changed"));
        }
        for namespace in &subsystem.namespaces {
            let name = (nqn.clone(), namespace.nsid);
            let Some(device) = self.devices.get(&name) else {
                continue;
            };
            if prepared.devices.contains_key(&name) {
                let added = add_namespace(&self.target, nqn, namespace, device);
                changes.note(added, || format!("namespace {} of {nqn} added", name.1));
                continue;
            }
            let mut resized = prepared.resized.iter().any(|(grown, _)| *grown == name);
            let size_bytes = namespace.backend.size_bytes();
            if size_bytes.is_some_and(|wanted| wanted < device.size_bytes()) {
                match device.resize(size_bytes) {
                    Ok(()) => resized = true,
                    Err(error) => changes.failed.push(error.to_string()),
                }
            }
            if resized {
                let size = device.size_bytes();
                let told = self.target.namespace_resized(nqn, namespace.nsid);
                let what = || format!("namespace {} of {nqn} resized to {size} bytes", name.1);
                changes.note(told, what);
            }
        }
    }

    /// The keys that differ and cannot be changed while the node runs.
    fn fixed(&self, new: &Config) -> Vec<String> {
        let old = &self.config;
        let mut keys = Vec::new();
        let mut differs = |differs: bool, key: &str| {
            if differs {
                keys.push(key.to_owned());
            }
        };
        differs(old.node != new.node, "[node]");
        differs(old.reactors != new.reactors, "[reactors]");
        differs(old.tcp != new.tcp, "[tcp]");
        differs(old.nvme != new.nvme, "[nvme]");
        differs(old.metrics_listen != new.metrics_listen, "[metrics] listen");
        differs(old.control != new.control, "[control]");
        differs(old.devices != new.devices, "[[device]]");
        differs(old.log.json != new.log.json, "[log] format");
        for subsystem in &new.subsystems {
            let Some(known) = subsystem_of(old, &subsystem.nqn) else {
                continue;
            };
            let same = (&known.serial, &known.model, known.namespaces_max)
                == (
                    &subsystem.serial,
                    &subsystem.model,
                    subsystem.namespaces_max,
                );
            differs(
                !same,
                &format!("serial, model or namespaces_max of {}", subsystem.nqn),
            );
        }
        keys
    }

    /// The new configuration, with the old values of what waits for a restart.
    fn in_force(&self, new: Config) -> Config {
        let old = self.config.clone();
        let mut config = Config {
            node: old.node,
            reactors: old.reactors,
            tcp: old.tcp,
            nvme: old.nvme,
            metrics_listen: old.metrics_listen,
            control: old.control,
            devices: old.devices,
            ..new
        };
        config.log.json = old.log.json;
        for subsystem in &mut config.subsystems {
            if let Some(known) = subsystem_of(&self.config, &subsystem.nqn) {
                subsystem.serial.clone_from(&known.serial);
                subsystem.model.clone_from(&known.model);
                subsystem.namespaces_max = known.namespaces_max;
            }
        }
        config
    }
}

fn namespaces(config: &Config) -> impl Iterator<Item = (&str, &NamespaceSettings)> {
    config.subsystems.iter().flat_map(|subsystem| {
        subsystem
            .namespaces
            .iter()
            .map(|namespace| (subsystem.nqn.as_str(), namespace))
    })
}

fn subsystem_of<'c>(config: &'c Config, nqn: &str) -> Option<&'c SubsystemSettings> {
    config
        .subsystems
        .iter()
        .find(|subsystem| subsystem.nqn == nqn)
}

fn find<'c>(config: &'c Config, name: &NamespaceName) -> Option<&'c NamespaceSettings> {
    let subsystem = subsystem_of(config, &name.0)?;
    subsystem
        .namespaces
        .iter()
        .find(|namespace| namespace.nsid == name.1)
}

fn display(path: Option<&Path>) -> String {
    path.map(|path| path.display().to_string())
        .unwrap_or_default()
}
