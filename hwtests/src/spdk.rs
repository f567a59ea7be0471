//! Programs of ours with SPDK's driver in them, built where an SPDK is installed.

use crate::error::{IoContext, LabError, Result};
use crate::machine::Program;
use crate::process;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What pkg-config must find.
const MODULES: [&str; 3] = ["spdk_nvme", "spdk_env_dpdk", "spdk_syslibs"];
const FIND_LIMIT: Duration = Duration::from_secs(30);
const BUILD_LIMIT: Duration = Duration::from_secs(3600);

/// The program, built for this in a folder of its own beside the other builds.
pub(crate) fn program(program: &Program) -> Result<PathBuf> {
    if std::env::var_os(program.variable).is_some_and(|path| !path.is_empty()) {
        return process::beside(program.name, program.variable, program.package);
    }
    let mut find = Command::new("pkg-config");
    find.arg("--exists").args(MODULES);
    if process::run(&mut find, FIND_LIMIT).is_err() {
        return Err(LabError::Skip("no SPDK installed".into()));
    }
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = own.parent().unwrap_or(own);
    let lab = std::env::current_exe().doing(|| "find the lab's own program".into())?;
    let target = lab.parent().and_then(Path::parent).unwrap_or(root);
    let target = target.join("spdk");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut build = Command::new(cargo);
    build
        .current_dir(root)
        .args(["build", "--features", "penstock-node/spdk"]);
    build.args(["-p", "penstock-node", "--bin", program.name]);
    build.arg("--target-dir").arg(&target);
    process::run(&mut build, BUILD_LIMIT)?;
    Ok(target.join("debug").join(program.name))
}
