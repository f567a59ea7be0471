//! What a case breaks: store, control, node, a volume in memory and one in a file.

use super::load::{self, Load, Target};
use crate::cluster::{Api, Control, Device, Etcd, Options, Proxy, Storage, Store, until};
use crate::error::{LabError, Result, check};
use crate::etcd::Programs;
use crate::process;
use crate::transcript::{Source, Transcript};
use penstock_api::v1;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The node's name.
pub const NODE: &str = "n1";
/// The device in memory.
pub const MEMORY: &str = "d-memory";
/// The device in a file.
pub const FILE: &str = "d-file";
/// Namespace of the volume in memory.
pub const MEMORY_NSID: u32 = 1;
/// Namespace of the volume in the file, which holds the data set.
pub const FILE_NSID: u32 = 2;
/// The subsystem.
pub const SUBSYSTEM: &str = "s1";

const NQN: &str = "nqn.2026-01.io.penstock:outage";
/// Names the command line's program outright.
const CLI_VARIABLE: &str = "PENSTOCK_CLI";
const VOLUME_MIB: u32 = 64;
const OPERATION_LIMIT: Duration = Duration::from_secs(60);

/// Everything that runs in a case.
pub struct Stack {
    /// The store.
    pub etcd: Etcd,
    /// Control servers; the agent reaches the first through `proxy`, the others directly.
    pub controls: Vec<Control>,
    /// Between the agent and the first control server.
    pub proxy: Proxy,
    /// Between the last control server and the store, after [`Stack::add_control`].
    pub store_proxy: Option<Proxy>,
    /// The node.
    pub node: Storage,
    /// The case's files.
    pub dir: PathBuf,
    log: Transcript,
    probes: u32,
    loads: u32,
}

impl Stack {
    /// Starts everything, makes the volumes, and writes the data set.
    ///
    /// # Errors
    /// Something does not come up, or control does not do what it is asked.
    pub fn set_up(
        dir: &Path,
        programs: &Programs,
        etcd: Options,
        controls: usize,
        log: &Transcript,
    ) -> Result<Self> {
        let etcd = Etcd::start(programs, dir, etcd, log)?;
        let store = Store::Etcd(etcd.endpoints());
        let controls = (0..controls)
            .map(|index| Control::start(dir, &format!("control-{index}"), &store, log))
            .collect::<Result<Vec<Control>>>()?;
        let first = controls
            .first()
            .ok_or_else(|| LabError::Setup("a case needs a control server".into()))?;
        let proxy = Proxy::start(first.port())?;
        let mut ports = vec![proxy.port()];
        ports.extend(controls.iter().skip(1).map(Control::port));
        first.api()?.create_node(NODE)?;
        let devices = [Device::Memory(MEMORY, 256), Device::File(FILE, 512)];
        let node = Storage::start(dir, NODE, &ports, &devices, log)?;
        let mut stack = Self {
            etcd,
            controls,
            proxy,
            store_proxy: None,
            node,
            dir: dir.to_owned(),
            log: log.clone(),
            probes: 0,
            loads: 0,
        };
        stack.wait_synced(OPERATION_LIMIT)?;
        let api = stack.api()?;
        api.create_subsystem(SUBSYSTEM, NQN)?;
        stack.serve(&api, "in-memory", MEMORY, MEMORY_NSID)?;
        stack.serve(&api, "in-file", FILE, FILE_NSID)?;
        load::dataset("write", &stack.target(), FILE_NSID)?;
        stack.note("all is set up");
        Ok(stack)
    }

    /// Adds a control server that reaches the store's only member through `store_proxy`. The agent
    /// does not know of it.
    ///
    /// # Errors
    /// It does not come up.
    pub fn add_control(&mut self) -> Result<()> {
        let proxy = Proxy::recording(self.etcd.port())?;
        let store = Store::Etcd(vec![format!("http://127.0.0.1:{}", proxy.port())]);
        let name = format!("control-{}", self.controls.len());
        let control = Control::start(&self.dir, &name, &store, &self.log)?;
        self.controls.push(control);
        self.store_proxy = Some(proxy);
        Ok(())
    }

    /// Makes a volume on a device and serves it as namespace `nsid`.
    ///
    /// # Errors
    /// Control does not do it.
    pub fn serve(&mut self, api: &Api, volume: &str, device: &str, nsid: u32) -> Result<()> {
        let made = api.create_volume(volume, VOLUME_MIB, NODE, device)?;
        api.finish(&made, OPERATION_LIMIT)?;
        let served = api.create_namespace(SUBSYSTEM, nsid, volume)?;
        api.finish(&served, OPERATION_LIMIT)
    }

    /// A client of the first control server.
    ///
    /// # Errors
    /// As [`Control::api`].
    pub fn api(&self) -> Result<Api> {
        self.controls[0].api()
    }

    /// Runs the command line against the first control server and returns what it prints.
    ///
    /// # Errors
    /// It fails.
    pub fn command(&self, words: &[&str]) -> Result<String> {
        let program = process::beside("penstock", CLI_VARIABLE, "penstock-cli")?;
        let mut command = process::tied(program);
        let port = self.controls[0].port();
        command.args(["--endpoint", &format!("http://127.0.0.1:{port}")]);
        self.note(&format!("penstock {}", words.join(" ")));
        process::run(command.args(words), OPERATION_LIMIT)
    }

    /// Writes a step into the log.
    pub fn note(&self, text: &str) {
        self.log.say(Source::Lab, &format!("# {text}"));
    }

    /// Whether control has said something since the case began.
    #[must_use]
    pub fn control_said(&self, text: &str) -> bool {
        self.log.has(Source::Control, text)
    }

    /// Where clients connect.
    #[must_use]
    pub fn target(&self) -> Target {
        Target {
            port: self.node.port(),
            nqn: NQN.to_owned(),
        }
    }

    /// Starts verified I/O on a namespace.
    ///
    /// # Errors
    /// As [`Load::start`].
    pub fn load(&mut self, nsid: u32, seconds: u32) -> Result<Load> {
        self.loads += 1;
        let output = self.dir.join(format!("load-{}.json", self.loads));
        Load::start(&self.target(), nsid, seconds, &output, &self.log)
    }

    /// Reads the data set back and checks every byte.
    ///
    /// # Errors
    /// It is not what was written.
    pub fn check_dataset(&self) -> Result<()> {
        load::dataset("read", &self.target(), FILE_NSID)
    }

    /// Waits until control says that the node is connected and serves exactly what is wanted.
    ///
    /// # Errors
    /// It does not within `limit`.
    pub fn wait_synced(&self, limit: Duration) -> Result<Duration> {
        let api = self.api()?;
        until("the node to be in sync", limit, || {
            let node = api.node(NODE)?;
            for condition in ["Online", "Synced"] {
                expect_condition(&node, condition, v1::ConditionStatus::True)?;
            }
            Ok(true)
        })
    }

    /// Waits until all is as wanted again: the node in sync, every volume ready at its present
    /// generation, and a new volume made at once by each control server.
    ///
    /// # Errors
    /// It is not within `limit`.
    pub fn wait_healed(&mut self, limit: Duration) -> Result<Duration> {
        let begun = Instant::now();
        self.wait_synced(limit)?;
        for index in 0..self.controls.len() {
            self.probes += 1;
            let api = self.controls[index].api()?;
            let made = api.create_volume(&format!("probe-{}", self.probes), 1, NODE, MEMORY)?;
            api.finish(&made, OPERATION_LIMIT)?;
        }
        let took = begun.elapsed();
        for volume in self.api()?.volumes()?.volumes {
            let status = volume.status.unwrap_or_default();
            let ready = status.state() == v1::VolumeState::Ready
                && status.observed_generation == volume.generation;
            check(ready, || {
                format!(
                    "{} is not as wanted: {:?}, generation {} of {}",
                    volume.name,
                    status.state(),
                    status.observed_generation,
                    volume.generation
                )
            })?;
        }
        Ok(took)
    }

    /// What every case ends with: all programs run and stop when asked.
    ///
    /// # Errors
    /// One has ended by itself or does not stop well.
    pub fn tear_down(mut self) -> Result<()> {
        self.node.service.check_running()?;
        self.node.service.stop()?;
        for control in &mut self.controls {
            control.service.check_running()?;
            control.service.stop()?;
        }
        Ok(())
    }
}

/// Fails unless a condition of a node has a status.
///
/// # Errors
/// It has another or none.
pub fn expect_condition(node: &v1::Node, name: &str, wanted: v1::ConditionStatus) -> Result<()> {
    let status = node.status.as_ref();
    let conditions = status.map(|status| status.conditions.as_slice());
    let found = conditions
        .unwrap_or_default()
        .iter()
        .find(|condition| condition.r#type == name);
    check(
        found.is_some_and(|condition| condition.status() == wanted),
        || format!("{}: {name} is {found:?}, expected {wanted:?}", node.name),
    )
}
