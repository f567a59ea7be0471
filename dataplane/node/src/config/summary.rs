//! What a configuration amounts to, in a few lines for a person.

use std::fmt;

use penstock_units::BlockSize;

use super::{BackendSettings, Config, Cores, NamespaceSettings};

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reactors = &self.reactors;
        let poll = if reactors.adaptive {
            "adaptive"
        } else {
            "busy"
        };
        writeln!(
            f,
            "{} is sound: node \"{}\"",
            self.file.display(),
            self.node.name
        )?;
        match &reactors.cores {
            Cores::Named(cores) => write!(f, "  reactors: cores {cores:?}")?,
            Cores::Placed(count) => write!(f, "  reactors: {count}, placed by topology")?,
        }
        writeln!(
            f,
            ", {poll} polling, {} MiB of buffers each",
            reactors.buffer_pool_size_bytes >> 20
        )?;
        for listener in &self.listeners {
            writeln!(f, "  listener: tcp {}", listener.value)?;
        }
        match &self.metrics_listen {
            Some(address) => writeln!(f, "  metrics: http://{}/metrics", address.value)?,
            None => writeln!(f, "  metrics: not served")?,
        }
        if let Some(control) = &self.control {
            let endpoints: Vec<String> =
                control.endpoints.iter().map(ToString::to_string).collect();
            writeln!(
                f,
                "  control: {}, state in {}",
                endpoints.join(", "),
                control.state_directory.display()
            )?;
        }
        for device in &self.devices {
            write!(f, "  device {}: ", device.name)?;
            place(f, &device.backend, device.block_size)?;
            writeln!(f)?;
        }
        for subsystem in &self.subsystems {
            let hosts = match (subsystem.allow_any_host, subsystem.hosts.len()) {
                (true, _) => "any host".to_owned(),
                (false, 0) => "no host (add hosts, or allow_any_host = true)".to_owned(),
                (false, count) => format!("{count} host(s)"),
            };
            writeln!(f, "  subsystem: {}: {hosts}", subsystem.nqn)?;
            for namespace in &subsystem.namespaces {
                writeln!(f, "    namespace {namespace}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for NamespaceSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.nsid)?;
        place(f, &self.backend, self.block_size)
    }
}

/// Where blocks are kept, how many bytes of them, and how large they are.
fn place(
    f: &mut fmt::Formatter<'_>,
    backend: &BackendSettings,
    block_size: BlockSize,
) -> fmt::Result {
    write!(f, "{}", backend.word())?;
    if let Some(path) = backend.path() {
        write!(f, " {}", path.display())?;
    }
    if let BackendSettings::Nvme {
        address,
        drive_nsid,
    } = backend
    {
        write!(f, " {address} namespace {drive_nsid}")?;
    }
    match backend.size_bytes() {
        Some(size_bytes) => write!(f, ", {size_bytes} bytes")?,
        None => write!(f, ", whole size")?,
    }
    write!(f, ", blocks of {block_size} bytes")
}
