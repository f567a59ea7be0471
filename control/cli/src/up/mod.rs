//! `penstock up`: control with the embedded store, and a node, for a laptop.

mod child;
mod files;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::api::Api;
use crate::failure::{Exit, Failure, Outcome};
use crate::name::Kind;
use crate::object::{Common, Object};
use crate::output::{Format, line, note};
use crate::quantity::{parse_size, size};
use crate::settings::{GlobalArgs, Settings};
use child::Child;
use files::Setup;

pub use child::become_child;

/// How long each of the two may take until it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks whether it is.
const LOOK: Duration = Duration::from_millis(100);
/// How long one look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// `penstock up`.
///
/// Starts a control server with the embedded store and a node that talk to each other, both on this
/// machine, and stops them with Ctrl-C. Configuration, state, data and logs are in one folder; the
/// configuration is written at first and kept afterwards, to be edited.
#[derive(Args, Debug)]
pub struct Up {
    /// Folder for everything
    #[arg(long, value_name = "DIR", default_value = "./penstock-data")]
    directory: PathBuf,
    /// Size of each device: a file that takes space as it is written [default: 64GiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    device_size: Option<u64>,
    /// Number of devices [default: 1]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=64))]
    devices: Option<u32>,
    /// Where hosts connect [default: 127.0.0.1:4420]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Where the API is, on this machine only [default: 127.0.0.1:7600; metrics one port above]
    #[arg(long, value_name = "ADDRESS:PORT")]
    control_listen: Option<SocketAddr>,
    /// Name of the node [default: n1]
    #[arg(long)]
    name: Option<String>,
}

impl Up {
    /// Runs until it is told to stop, or one of the two ends.
    pub async fn run(self, global: &GlobalArgs) -> Outcome {
        let control = crate::sibling::locate("penstock-control", "penstock-control")
            .map_err(|error| Failure::other(error.to_string()))?;
        let node = crate::sibling::locate("penstock-node", "penstock-node")
            .map_err(|error| Failure::other(error.to_string()))?;
        let setup = self.prepare()?;
        let mut stop = Stop::new()?;
        let mut children = Vec::new();
        let api = Api::new(settings(&setup, global)?);
        let done = tokio::select! {
            done = start(&setup, &api, (&control, &node), &mut children, global.output) => done,
            () = stop.asked() => Ok(()),
        };
        let done = match done {
            Ok(()) if children.len() == 2 && !stop.was_asked => tokio::select! {
                died = died(&mut children) => Err(died),
                () = stop.asked() => Ok(()),
            },
            done => done,
        };
        if stop.was_asked {
            note("stopping (Ctrl-C again: at once)");
        }
        let stopped = stop_all(&mut children, &mut stop).await;
        done.and(stopped)
    }

    fn prepare(&self) -> Outcome<Setup> {
        let wanted = files::Wanted {
            name: self.name.clone().unwrap_or_else(|| "n1".into()),
            listen: self
                .listen
                .unwrap_or(SocketAddr::from(([127, 0, 0, 1], 4420))),
            control_listen: self
                .control_listen
                .unwrap_or(SocketAddr::from(([127, 0, 0, 1], 7600))),
            devices: self.devices.unwrap_or(1),
            device_size_bytes: self.device_size.unwrap_or(64 << 30),
        };
        if !wanted.control_listen.ip().is_loopback() {
            let told = "--control-listen: without TLS the API is for this machine only: give an \
                        address such as 127.0.0.1:7600";
            return Err(Failure::usage(told));
        }
        let setup = files::prepare(&self.directory, &wanted)?;
        let devices = self
            .devices
            .is_some_and(|count| count as usize != setup.devices.len());
        let sizes = self.device_size;
        let ignored = [
            (
                "--device-size",
                sizes.is_some_and(|size| setup.devices.iter().any(|is| *is != size)),
            ),
            ("--devices", devices),
            (
                "--listen",
                self.listen.is_some() && self.listen != setup.listen,
            ),
            (
                "--name",
                self.name.as_ref().is_some_and(|name| *name != setup.name),
            ),
            (
                "--control-listen",
                self.control_listen
                    .is_some_and(|at| at != setup.control_listen),
            ),
        ];
        for (flag, _) in ignored.into_iter().filter(|(_, ignored)| *ignored) {
            let at = self.directory.display();
            note(&format!(
                "{flag} has no effect: the configuration in {at} is kept; edit it there"
            ));
        }
        Ok(setup)
    }
}

/// How to reach the server that is about to start.
fn settings(setup: &Setup, global: &GlobalArgs) -> Outcome<Settings> {
    if !setup.control_tls {
        return Ok(Settings::local(
            format!("http://{}", setup.control_listen),
            LOOK_TIMEOUT,
        ));
    }
    let mut args = global.clone();
    args.endpoint = vec![format!("https://{}", setup.control_listen)];
    args.timeout = Some(LOOK_TIMEOUT);
    Settings::load(&args)
}

/// Starts both, one after the other, and tells when they are ready.
async fn start(
    setup: &Setup,
    api: &Api,
    (control, node): (&Path, &Path),
    children: &mut Vec<Child>,
    format: Format,
) -> Outcome {
    children.push(Child::start(
        "penstock-control",
        control,
        &setup.control_toml,
    )?);
    tokio::select! {
        ready = answers(api) => ready?,
        died = died(children) => return Err(died),
    }
    children.push(Child::start("penstock-node", node, &setup.node_toml)?);
    let name = format!("nodes/{}", setup.name);
    tokio::select! {
        ready = online(api, &name) => ready?,
        died = died(children) => return Err(died),
    }
    tell(setup, children, format)
}

/// Waits until the API answers.
async fn answers(api: &Api) -> Outcome {
    let tries = async {
        while api.list(Kind::Host, "").await.is_err() {
            api.forget();
            tokio::time::sleep(LOOK).await;
        }
    };
    let late = |_| {
        let told = format!("the control server does not answer at {}", api.endpoint());
        Failure::new(Exit::TimeOver, told)
    };
    tokio::time::timeout(READY_TIMEOUT, tries)
        .await
        .map_err(late)
}

/// Waits until the node's agent is connected.
async fn online(api: &Api, name: &str) -> Outcome {
    let tries = async {
        loop {
            if let Ok(object) = api.get(Kind::Node, name).await
                && is_online(&object)
            {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let late = |_| {
        let told =
            format!("{name} does not come online: its log tells why, and `penstock node describe`");
        Failure::new(Exit::TimeOver, told)
    };
    tokio::time::timeout(READY_TIMEOUT, tries)
        .await
        .map_err(late)
}

fn is_online(object: &Object) -> bool {
    use penstock_api::v1::ConditionStatus;
    let mut conditions = object.conditions().iter();
    conditions.any(|c| c.r#type == "Online" && c.status() == ConditionStatus::True)
}

/// Waits until one of the children has ended by itself, and says why.
async fn died(children: &mut [Child]) -> Failure {
    loop {
        for child in children.iter_mut() {
            if let Some(failure) = child.has_ended() {
                return failure;
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Stops the node first, so that it can still tell control.
async fn stop_all(children: &mut Vec<Child>, stop: &mut Stop) -> Outcome {
    let mut failure = None;
    while let Some(mut child) = children.pop() {
        tokio::select! {
            stopped = child.stop() => failure = stopped.err().or(failure),
            () = stop.asked() => child.kill().await,
        }
    }
    failure.map_or(Ok(()), Err)
}

fn tell(setup: &Setup, children: &[Child], format: Format) -> Outcome {
    let endpoint = format!(
        "http{}://{}",
        if setup.control_tls { "s" } else { "" },
        setup.control_listen
    );
    if format != Format::Table {
        let pids = children
            .iter()
            .map(|child| (child.name().to_owned(), json!(child.id())));
        let pids: serde_json::Map<_, _> = pids.collect();
        let told = json!({
            "ready": true,
            "node": format!("nodes/{}", setup.name),
            "endpoint": endpoint,
            "listen": setup.listen.map(|listen| listen.to_string()),
            "directory": setup.directory,
            "processes": pids,
        });
        return line(&told.to_string());
    }
    let at = setup.directory.display();
    let devices = match setup.devices.as_slice() {
        [] => "no devices".to_owned(),
        sizes => {
            let total = size(sizes.iter().sum());
            format!(
                "{} device{} ({total})",
                sizes.len(),
                if sizes.len() == 1 { "" } else { "s" }
            )
        }
    };
    line(&format!("node {} is online: {devices} in {at}", setup.name))?;
    line(&format!(
        "control answers at {endpoint}; logs: {at}/control.log, {at}/node.log"
    ))?;
    line("")?;
    next_steps(setup, &endpoint)?;
    line("")?;
    line("Ctrl-C stops both; what is stored stays.")
}

fn next_steps(setup: &Setup, endpoint: &str) -> Outcome {
    line("Next, in another shell:")?;
    if endpoint != crate::settings::DEFAULT_ENDPOINT {
        line(&format!("  export PENSTOCK_ENDPOINT={endpoint}"))?;
    }
    for command in [
        "volume create v1 --size 10GiB --wait",
        "subsystem create s1 --allow-any-host",
        "namespace create s1/ns1 --volume v1 --wait",
        "volume layout v1",
    ] {
        line(&format!("  penstock {command}"))?;
    }
    let Some(listen) = setup.listen else {
        let at = format!(
            "penstock listener create {}/l1 --address ADDRESS --wait",
            setup.name
        );
        return line(&format!("  {at}   # hosts connect nowhere yet"));
    };
    let address = match listen.ip() {
        ip if !ip.is_unspecified() => ip.to_string(),
        IpAddr::V4(_) => "127.0.0.1".into(),
        IpAddr::V6(_) => "::1".into(),
    };
    let nqn = format!("nqn.2026-01.io.penstock:{}:s1", setup.cluster);
    line(&format!(
        "  sudo nvme connect -t tcp -a {address} -s {} -n {nqn}",
        listen.port()
    ))
}

/// Ctrl-C and the wish of the system.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
    was_asked: bool,
}

impl Stop {
    fn new() -> Outcome<Self> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::other(format!("cannot take signals: {error}")))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            was_asked: false,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
        self.was_asked = true;
    }
}
