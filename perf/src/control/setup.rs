//! The processes of a control plane on this machine, gone when dropped.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::child::{self, Owned, free_address, tail, tied};
use crate::node::program;

/// Size of the node's device in bytes; the file is sparse.
const DEVICE_BYTES: u64 = 64 << 30;
/// How long a process may take to come up.
const START_MAX: Duration = Duration::from_secs(60);

/// Where state is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum StoreKind {
    /// etcd, one member.
    Etcd,
    /// etcd, three members on loopback.
    Etcd3,
    /// The embedded store.
    Embedded,
}

/// Everything that runs. Dropped in this order: the node first, the store last.
pub struct Setup {
    _node: Owned,
    _control: Owned,
    _etcd: Vec<Owned>,
    folder: tempfile::TempDir,
    endpoint: String,
    node_metrics: SocketAddr,
    store: String,
}

impl Setup {
    /// Starts everything and waits until it answers.
    ///
    /// # Errors
    /// A program is not there or does not come up.
    pub fn start(kind: StoreKind, etcd: Option<&Path>, programs: Option<&Path>) -> Result<Setup> {
        let folder = tempfile::tempdir().context("no temporary folder")?;
        let at = folder.path();
        let members = match kind {
            StoreKind::Etcd => 1,
            StoreKind::Etcd3 => 3,
            StoreKind::Embedded => 0,
        };
        let (cluster, endpoints, version) = start_etcd(members, etcd, at)?;
        let (grpc, control_metrics) = (free_address()?, free_address()?);
        let store = match kind {
            StoreKind::Embedded => "kind = \"embedded\"\npath = \"store\"\n".to_owned(),
            StoreKind::Etcd | StoreKind::Etcd3 => {
                format!("kind = \"etcd\"\nendpoints = {endpoints:?}\n")
            }
        };
        let text = format!(
            "[control]\nname = \"perf\"\nlisten = \"{grpc}\"\n\n[store]\n{store}\n\
             [metrics]\nlisten = \"{control_metrics}\"\n\n[log]\nlevel = \"warn\"\n\n\
             [nodes]\nauto_register = true\n"
        );
        let mut control = spawn(programs, "penstock-control", "control", &text, at)?;
        control.wait_for_port(grpc, &at.join("control.log"), START_MAX)?;
        let (nvme, node_metrics) = (free_address()?, free_address()?);
        let text = format!(
            "[node]\nname = \"perf\"\n\n[reactors]\ncores = [0]\n\n[log]\nlevel = \"warn\"\n\n\
             [metrics]\nlisten = \"{node_metrics}\"\n\n[[listener]]\naddress = \"{nvme}\"\n\n\
             [control]\nendpoints = [\"http://{grpc}\"]\nstate_directory = \"state\"\n\n\
             [[device]]\nname = \"d0\"\nbackend = \"file\"\npath = \"d0.img\"\n\
             size_bytes = {DEVICE_BYTES}\n"
        );
        fs::create_dir_all(at.join("state")).context("no folder for the node's state")?;
        let mut node = spawn(programs, "penstock-node", "node", &text, at)?;
        node.wait_for_port(nvme, &at.join("node.log"), START_MAX)?;
        Ok(Setup {
            _node: node,
            _control: control,
            _etcd: cluster,
            folder,
            endpoint: format!("http://{grpc}"),
            node_metrics,
            store: match kind {
                StoreKind::Embedded => "embedded".to_owned(),
                StoreKind::Etcd => format!("{version}, one member"),
                StoreKind::Etcd3 => format!("{version}, three members on loopback"),
            },
        })
    }

    /// Where the API is.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Where the node's metrics are.
    pub fn node_metrics(&self) -> SocketAddr {
        self.node_metrics
    }

    /// The store, for people.
    pub fn describe(&self) -> &str {
        &self.store
    }

    /// The ends of our processes' logs.
    pub fn logs(&self) -> String {
        let mut out = String::from("the processes' last words:");
        for name in ["control", "node"] {
            let log = self.folder.path().join(format!("{name}.log"));
            // Writing to a String does not fail.
            let _ = write!(out, "\n{name}:\n{}", tail(&log));
        }
        out
    }
}

fn spawn(
    programs: Option<&Path>,
    name: &str,
    short: &str,
    config: &str,
    folder: &Path,
) -> Result<Owned> {
    let file = folder.join(format!("{short}.toml"));
    fs::write(&file, config).with_context(|| format!("cannot write {}", file.display()))?;
    let mut command = tied(program(programs, name)?);
    command.arg("--config").arg(&file).current_dir(folder);
    Owned::spawn(command, name, &folder.join(format!("{short}.log")))
}

fn start_etcd(
    members: usize,
    chosen: Option<&Path>,
    folder: &Path,
) -> Result<(Vec<Owned>, Vec<String>, String)> {
    if members == 0 {
        return Ok((Vec::new(), Vec::new(), String::new()));
    }
    let program = etcd_program(chosen)?;
    let mut addresses = Vec::new();
    for _ in 0..members {
        addresses.push((free_address()?, free_address()?));
    }
    let cluster = (0..members)
        .map(|index| format!("m{index}=http://{}", addresses[index].1))
        .collect::<Vec<_>>()
        .join(",");
    let mut running = Vec::new();
    for (index, (client, peer)) in addresses.iter().enumerate() {
        let mut command = tied(&program);
        command
            .current_dir(folder)
            .args(["--name", &format!("m{index}")])
            .args(["--data-dir", &format!("etcd{index}")])
            .args(["--listen-client-urls", &format!("http://{client}")])
            .args(["--advertise-client-urls", &format!("http://{client}")])
            .args(["--listen-peer-urls", &format!("http://{peer}")])
            .args(["--initial-advertise-peer-urls", &format!("http://{peer}")])
            .args(["--initial-cluster", &cluster]);
        let log = folder.join(format!("etcd{index}.log"));
        running.push(Owned::spawn(command, "etcd", &log)?);
    }
    for (index, (client, _)) in addresses.iter().enumerate() {
        let log = folder.join(format!("etcd{index}.log"));
        running[index].wait_for_port(*client, &log, START_MAX)?;
    }
    let endpoints = addresses
        .iter()
        .map(|(client, _)| format!("http://{client}"));
    Ok((running, endpoints.collect(), version(&program)))
}

fn etcd_program(chosen: Option<&Path>) -> Result<PathBuf> {
    let named = chosen
        .map(Path::to_path_buf)
        .or_else(|| std::env::var_os("PENSTOCK_ETCD").map(PathBuf::from));
    if let Some(named) = named {
        return Ok(named);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join("etcd"))
        .find(|file| file.is_file());
    match found {
        Some(found) => Ok(found),
        None => bail!(
            "etcd is not there: give --etcd FILE, or install Debian's etcd-server; \
             --store embedded needs none"
        ),
    }
}

fn version(program: &Path) -> String {
    let output = child::tied(program).arg("--version").output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let first = text.lines().next().unwrap_or("etcd");
    first.replace("Version: ", "")
}
