//! Python with gRPC, as somebody else's orchestrator would have it: a virtual environment in the
//! cache, its packages from the package index that the machine's pip uses.

use crate::cache::Cache;
use crate::error::{IoContext, LabError, Result};
use crate::process;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Raise it when the way of building changes.
const RECIPE: u32 = 1;
const PACKAGES: [&str; 2] = ["grpcio>=1.60,<2", "grpcio-tools>=1.60,<2"];
const VENV_LIMIT: Duration = Duration::from_secs(120);
const INSTALL_LIMIT: Duration = Duration::from_secs(600);
const GENERATE_LIMIT: Duration = Duration::from_secs(120);
const SCRIPT_LIMIT: Duration = Duration::from_secs(300);

/// A virtual environment.
#[derive(Clone, Debug)]
pub struct Python {
    program: PathBuf,
}

impl Python {
    /// Makes the environment where it is missing.
    ///
    /// # Errors
    /// [`LabError::Skip`] where this machine has no Python with `venv`; else the packages cannot be
    /// had.
    pub fn prepare() -> Result<Self> {
        let cache = Cache::open()?;
        let recipe = format!("{RECIPE}: {}\n", PACKAGES.join(" "));
        let dir = cache.ensure("python", &recipe, |dir| {
            let mut command = process::tied("python3");
            command.args(["-m", "venv"]).arg(dir);
            process::run(&mut command, VENV_LIMIT).map_err(|err| {
                LabError::Skip(format!(
                    "no Python to make a virtual environment with ({err}); on Debian: apt-get \
                     install python3-venv"
                ))
            })?;
            let mut command = process::tied(dir.join("bin/python"));
            command.args(["-m", "pip", "install", "--quiet"]);
            process::run(command.args(PACKAGES), INSTALL_LIMIT).map(drop)
        })?;
        Ok(Self {
            program: dir.join("bin/python"),
        })
    }

    /// Generates clients from the published protobuf into `dir`, which is to be on `PYTHONPATH`.
    ///
    /// # Errors
    /// The protobuf does not compile.
    pub fn generate(&self, dir: &Path) -> Result<()> {
        let proto = repository().join("control/api/proto");
        let folder = proto.join("penstock/v1");
        let entries = std::fs::read_dir(&folder).doing(|| format!("list {}", folder.display()))?;
        let mut command = process::tied(&self.program);
        command.args(["-m", "grpc_tools.protoc"]);
        command.arg(format!("--proto_path={}", proto.display()));
        command.arg(format!("--python_out={}", dir.display()));
        command.arg(format!("--grpc_python_out={}", dir.display()));
        command.args(entries.flatten().map(|entry| entry.path()));
        process::run(&mut command, GENERATE_LIMIT).map(drop)
    }

    /// Runs a script of this crate's `python` folder with clients generated into `stubs`, and
    /// returns what it prints.
    ///
    /// # Errors
    /// It fails.
    pub fn run(&self, script: &str, arguments: &[&str], stubs: &Path) -> Result<String> {
        let mut command: Command = process::tied(&self.program);
        command.arg(repository().join("hwtests/python").join(script));
        command.args(arguments).env("PYTHONPATH", stubs);
        // Nothing is to be left beside the script.
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        process::run(&mut command, SCRIPT_LIMIT)
    }
}

fn repository() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}
