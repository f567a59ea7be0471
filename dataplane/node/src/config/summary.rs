//! What a configuration amounts to, in a few lines for a person.

use std::fmt;

use super::{BackendSettings, Config, NamespaceSettings};

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
        writeln!(
            f,
            "  reactors: cores {:?}, {poll} polling, {} MiB of buffers each",
            reactors.cores,
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
        write!(f, "{}: {}", self.nsid, self.backend.word())?;
        if let Some(path) = self.backend.path() {
            write!(f, " {}", path.display())?;
        }
        match &self.backend {
            BackendSettings::Memory { size_bytes }
            | BackendSettings::Null { size_bytes, .. }
            | BackendSettings::File {
                size_bytes: Some(size_bytes),
                ..
            } => {
                write!(f, ", {size_bytes} bytes")?;
            }
            BackendSettings::File { .. } | BackendSettings::Block { .. } => {
                write!(f, ", whole size")?;
            }
        }
        write!(f, ", blocks of {} bytes", self.block_size)
    }
}
