//! The peer: SPDK's `nvmf_tgt` from a tree that somebody built.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::child::{self, Owned};
use crate::client::Target;
use crate::node::{BLOCK_BYTES, NAMESPACE_BYTES, Namespace};

/// Names the environment variable with the tree.
pub const TREE_VARIABLE: &str = "SPDK_DIR";

const NQN: &str = "nqn.2016-06.io.spdk:cnode1";

/// Memory that the target and its namespace need without hugepages, in MiB.
const PLAIN_MEMORY_MIB: &str = "1200";

/// A built SPDK tree.
pub struct Tree {
    root: PathBuf,
}

/// A running `nvmf_tgt`.
pub struct Peer {
    /// Its process.
    pub process: Owned,
    /// How to reach it.
    pub target: Target,
}

impl Tree {
    /// The tree that `SPDK_DIR` names; none where it names none.
    ///
    /// # Errors
    /// The tree is not built.
    pub fn from_environment() -> Result<Option<Tree>> {
        let Some(root) = std::env::var_os(TREE_VARIABLE).filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        let tree = Tree {
            root: PathBuf::from(root),
        };
        for needed in [tree.nvmf_tgt(), tree.perf(), tree.rpc()] {
            if !needed.is_file() {
                bail!(
                    "{TREE_VARIABLE}: {} is not there: name a tree that is built, or unset it",
                    needed.display()
                );
            }
        }
        Ok(Some(tree))
    }

    fn nvmf_tgt(&self) -> PathBuf {
        self.root.join("build/bin/nvmf_tgt")
    }

    /// The client.
    pub fn perf(&self) -> PathBuf {
        self.root.join("build/bin/spdk_nvme_perf")
    }

    fn rpc(&self) -> PathBuf {
        self.root.join("scripts/rpc.py")
    }

    /// Version and revision as the target tells them.
    pub fn version(&self) -> String {
        let output = Command::new(self.nvmf_tgt()).arg("--version").output();
        let text = output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
        text.ok()
            .filter(|text| !text.is_empty())
            .unwrap_or_else(|| "SPDK, version not told".to_owned())
    }

    /// Starts the target on `core` with one namespace like ours, and waits until it listens.
    ///
    /// # Errors
    /// It does not come up, or refuses the configuration.
    pub fn start(
        &self,
        core: usize,
        namespace: Namespace,
        hugepages: bool,
        folder: &Path,
    ) -> Result<Peer> {
        let socket = folder.join("spdk.sock");
        let log = folder.join("spdk.log");
        let mut command = child::tied(self.nvmf_tgt());
        command.args(["-m", &format!("{:#x}", 1_u64 << core), "-r"]);
        command.arg(&socket).current_dir(folder);
        // Another target that stands still on this core is no obstacle; one that runs shows up as
        // processor time used by others.
        command.arg("--disable-cpumask-locks");
        if hugepages {
            // Leaves nothing behind even where it is killed.
            command.arg("--huge-unlink");
        } else {
            command.args(["--no-huge", "-s", PLAIN_MEMORY_MIB]);
        }
        let mut process = Owned::spawn(command, "nvmf_tgt", &log)?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while !(socket.exists() && self.call(&socket, "framework_wait_init").is_ok()) {
            if process.ended()?.is_some() || Instant::now() > deadline {
                bail!("nvmf_tgt does not come up:\n{}", child::tail(&log));
            }
            child::pause(Duration::from_millis(100))?;
        }
        let address = child::free_address()?;
        let (mib, port) = (NAMESPACE_BYTES >> 20, address.port());
        let kind = match namespace {
            Namespace::Memory => "malloc",
            Namespace::Null => "null",
        };
        for line in [
            "nvmf_create_transport -t TCP".to_owned(),
            format!("bdev_{kind}_create -b Device0 {mib} {BLOCK_BYTES}"),
            format!("nvmf_create_subsystem {NQN} -a -s SPDK00000000000001 -m 8"),
            format!("nvmf_subsystem_add_ns {NQN} Device0 -n 1"),
            format!("nvmf_subsystem_add_listener {NQN} -t tcp -a 127.0.0.1 -s {port}"),
        ] {
            // The null device takes its name without a flag in older trees too.
            let line = line.replace("bdev_null_create -b", "bdev_null_create");
            self.call(&socket, &line)
                .with_context(|| format!("nvmf_tgt: {}", child::tail(&log)))?;
        }
        process.wait_for_port(address, &log, Duration::from_secs(10))?;
        Ok(Peer {
            process,
            target: Target {
                address,
                nqn: NQN.to_owned(),
            },
        })
    }

    fn call(&self, socket: &Path, line: &str) -> Result<()> {
        let output = Command::new("python3")
            .arg(self.rpc())
            .args(["-t", "10", "-s"])
            .arg(socket)
            .args(line.split(' '))
            .stdin(Stdio::null())
            .output()
            .context("cannot run python3 for SPDK's rpc.py")?;
        if !output.status.success() {
            let told = String::from_utf8_lossy(&output.stderr);
            let last = told.lines().last().unwrap_or("no word");
            bail!("`rpc.py {line}` failed: {last}");
        }
        Ok(())
    }
}
