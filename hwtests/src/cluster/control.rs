//! A `penstock-control` on its own ports.

use super::{Api, Service};
use crate::error::{IoContext, Result};
use crate::http;
use crate::process;
use crate::transcript::{Source, Transcript};
use std::path::Path;
use std::time::Duration;

/// Names the control server's program outright.
const PROGRAM_VARIABLE: &str = "PENSTOCK_CONTROL";
const START_LIMIT: Duration = Duration::from_secs(30);

/// Where a control server keeps its state.
#[derive(Clone, Debug)]
pub enum Store {
    /// In a file of its own.
    Embedded,
    /// In the etcd cluster at these URLs.
    Etcd(Vec<String>),
}

/// A control server.
pub struct Control {
    /// The process.
    pub service: Service,
    grpc_port: u16,
    http_port: u16,
}

impl Control {
    /// Starts a server named `name` with its files in `dir` and waits until it is ready.
    ///
    /// # Errors
    /// The program is not built, or it does not come up.
    pub fn start(dir: &Path, name: &str, store: &Store, log: &Transcript) -> Result<Self> {
        let program = process::beside("penstock-control", PROGRAM_VARIABLE, "penstock-control")?;
        let (grpc_port, http_port) = (process::free_port()?, process::free_port()?);
        let store = match store {
            Store::Embedded => format!("kind = \"embedded\"\npath = \"{name}-store\"\n"),
            Store::Etcd(endpoints) => format!("kind = \"etcd\"\nendpoints = {endpoints:?}\n"),
        };
        let text = format!(
            "[control]\nname = \"{name}\"\nlisten = \"127.0.0.1:{grpc_port}\"\n\n\
             [store]\n{store}\n[metrics]\nlisten = \"127.0.0.1:{http_port}\"\n"
        );
        log.say(Source::Lab, &text);
        let config = dir.join(format!("{name}.toml"));
        std::fs::write(&config, text).doing(|| format!("write {}", config.display()))?;
        let dir = dir.to_owned();
        let service = Service::new(name, Source::Control, log, move || {
            let mut command = process::tied(&program);
            command.arg("--config").arg(&config).current_dir(&dir);
            command
        });
        let mut control = Self {
            service,
            grpc_port,
            http_port,
        };
        control.launch()?;
        Ok(control)
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

    /// The API's port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.grpc_port
    }

    /// The port of `/metrics`, `/healthz` and `/readyz`.
    #[must_use]
    pub fn http_port(&self) -> u16 {
        self.http_port
    }

    /// A client of this server.
    ///
    /// # Errors
    /// As [`Api::new`].
    pub fn api(&self) -> Result<Api> {
        Api::new(self.grpc_port)
    }

    /// A metric's value.
    ///
    /// # Errors
    /// As [`http::metric`].
    pub fn metric(&self, series: &str) -> Result<f64> {
        http::metric(self.http_port, series)
    }

    /// Whether it says that it is the leader.
    ///
    /// # Errors
    /// It does not answer.
    pub fn is_leader(&self) -> Result<bool> {
        Ok(self.metric("penstock_control_leader")? > 0.5)
    }
}
