//! A `penstock-node` under control.

use super::Service;
use crate::error::{IoContext, Result};
use crate::http;
use crate::node::NODE_VARIABLE;
use crate::process;
use crate::transcript::{Source, Transcript};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

const START_LIMIT: Duration = Duration::from_secs(30);

/// What volumes of a node can be placed on.
#[derive(Clone, Copy, Debug)]
pub enum Device {
    /// A file `NAME.img` of so many MiB.
    File(&'static str, u64),
    /// So many MiB of memory.
    Memory(&'static str, u64),
}

/// A node under control.
pub struct Storage {
    /// The process.
    pub service: Service,
    name: String,
    port: u16,
    http_port: u16,
}

impl Storage {
    /// Starts node `name` with its files in `dir`, control at the given ports, and `devices`, and
    /// waits until it runs.
    ///
    /// # Errors
    /// The program is not built, or it does not come up.
    pub fn start(
        dir: &Path,
        name: &str,
        control_ports: &[u16],
        devices: &[Device],
        log: &Transcript,
    ) -> Result<Self> {
        let program = process::beside("penstock-node", NODE_VARIABLE, "penstock-node")?;
        let (port, http_port) = (process::free_port()?, process::free_port()?);
        let urls: Vec<String> = control_ports
            .iter()
            .map(|port| format!("http://127.0.0.1:{port}"))
            .collect();
        let state = dir.join(format!("{name}-state"));
        let mut text = format!(
            "[node]\nname = \"{name}\"\n\n[reactors]\npoll = \"adaptive\"\npin = false\n\n\
             [metrics]\nlisten = \"127.0.0.1:{http_port}\"\n\n\
             [[listener]]\naddress = \"127.0.0.1:{port}\"\n\n\
             [control]\nendpoints = {urls:?}\nstate_directory = {:?}\n",
            state.display().to_string()
        );
        for device in devices {
            // Writing to a String does not fail.
            let _ = match device {
                Device::File(id, size_mib) => write!(
                    text,
                    "\n[[device]]\nname = \"{id}\"\nbackend = \"file\"\npath = {:?}\nsize_bytes = {}\n",
                    dir.join(format!("{name}-{id}.img")).display().to_string(),
                    size_mib << 20
                ),
                Device::Memory(id, size_mib) => write!(
                    text,
                    "\n[[device]]\nname = \"{id}\"\nbackend = \"memory\"\nsize_bytes = {}\n",
                    size_mib << 20
                ),
            };
        }
        log.say(Source::Lab, &text);
        let config = dir.join(format!("{name}.toml"));
        std::fs::write(&config, text).doing(|| format!("write {}", config.display()))?;
        let service = Service::new(name, Source::Node, log, move || {
            let mut command = process::tied(&program);
            command.arg("--config").arg(&config);
            command
        });
        let mut node = Self {
            service,
            name: name.to_owned(),
            port,
            http_port,
        };
        node.launch()?;
        Ok(node)
    }

    /// Starts the process again and waits until it is ready.
    ///
    /// # Errors
    /// It does not come up.
    pub fn launch(&mut self) -> Result<()> {
        let port = self.http_port;
        self.service.start()?;
        self.service
            .wait_ready(START_LIMIT, || http::is_ready(port))
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where hosts connect, on 127.0.0.1: the node's own listener.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A metric's value.
    ///
    /// # Errors
    /// As [`http::metric`].
    pub fn metric(&self, series: &str) -> Result<f64> {
        http::metric(self.http_port, series)
    }

    /// The port of `/metrics`, `/healthz` and `/readyz`.
    #[must_use]
    pub fn http_port(&self) -> u16 {
        self.http_port
    }
}
