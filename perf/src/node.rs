//! Our node, with a configuration made for one measurement.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::child::{self, Owned};
use crate::client::Target;

/// Name of the subsystem.
const NQN: &str = "nqn.2026-01.io.penstock:perf";

/// Size of namespace 1 in bytes, of ours and of the peer's.
pub const NAMESPACE_BYTES: u64 = 512 << 20;

/// Logical block size in bytes, of ours and of the peer's.
pub const BLOCK_BYTES: u32 = 512;

/// What an idle reactor does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Poll {
    /// Sleeps.
    Adaptive,
    /// Polls on, as the peer does.
    Busy,
}

/// What namespace 1 is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Namespace {
    /// Memory.
    Memory,
    /// Nothing: reads give zeroes, writes are thrown away.
    Null,
}

/// How the node runs.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// What its reactor does when idle.
    pub poll: Poll,
    /// What namespace 1 is made of.
    pub namespace: Namespace,
    /// The core of its reactor.
    pub core: usize,
    /// Whether it tries hugepages.
    pub hugepages: bool,
}

/// A running node.
pub struct Node {
    /// Its process.
    pub process: Owned,
    /// How to reach it.
    pub target: Target,
}

/// The program `name` of ours, beside this one unless `folder` names another place.
///
/// # Errors
/// It is not there.
pub fn program(folder: Option<&Path>, name: &str) -> Result<PathBuf> {
    let folder = match folder {
        Some(folder) => folder.to_path_buf(),
        None => std::env::current_exe()
            .ok()
            .and_then(|path| path.parent().map(Path::to_path_buf))
            .context("this program does not know where it is: give --programs")?,
    };
    let found = folder.join(name);
    if !found.is_file() {
        bail!(
            "{} is not there: run `cargo xtask perf`, which builds it, or give --programs",
            found.display()
        );
    }
    Ok(found)
}

impl Node {
    /// Starts the node and waits until it listens. `wrapper` runs it where given, in `folder`.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start(
        program: &Path,
        setup: Setup,
        wrapper: Option<Command>,
        folder: &Path,
    ) -> Result<Node> {
        let address = child::free_address()?;
        let target = Target {
            address,
            nqn: NQN.to_owned(),
        };
        let config = folder.join("node.toml");
        fs::write(&config, configuration(setup, &target))
            .with_context(|| format!("cannot write {}", config.display()))?;
        let mut command = match wrapper {
            Some(mut command) => {
                command.arg(program);
                command
            }
            None => child::tied(program),
        };
        command.arg("--config").arg(&config).current_dir(folder);
        let log = folder.join("node.log");
        let mut process = Owned::spawn(command, "penstock-node", &log)?;
        process.wait_for_port(address, &log, Duration::from_secs(60))?;
        Ok(Node { process, target })
    }
}

fn configuration(setup: Setup, target: &Target) -> String {
    let poll = match setup.poll {
        Poll::Adaptive => "adaptive",
        Poll::Busy => "busy",
    };
    let backend = match setup.namespace {
        Namespace::Memory => "memory",
        Namespace::Null => "null",
    };
    format!(
        "[node]\nname = \"perf\"\n\n\
         [reactors]\ncores = [{core}]\npoll = \"{poll}\"\nhugepages = {hugepages}\n\n\
         [log]\nlevel = \"warn\"\n\n\
         [[listener]]\naddress = \"{address}\"\n\n\
         [[subsystem]]\nnqn = \"{nqn}\"\nallow_any_host = true\n\n\
         [[subsystem.namespace]]\nnsid = 1\nbackend = \"{backend}\"\n\
         size_bytes = {NAMESPACE_BYTES}\nblock_size_bytes = {BLOCK_BYTES}\n",
        core = setup.core,
        hugepages = setup.hugepages,
        address = target.address,
        nqn = target.nqn,
    )
}
