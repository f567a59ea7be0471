//! Finding the programs that are installed beside this one, and becoming the one that does the work.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program of the data plane, and the package that it is built from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    name: &'static str,
    package: &'static str,
}

/// What talks to storage targets.
pub const INITIATOR: Program = Program {
    name: "penstock-initiator",
    package: "penstock-client",
};

/// What handles the drives of this machine.
pub const DEVICE: Program = Program {
    name: "penstock-device",
    package: "penstock-node",
};

/// What shows the machine and who serves what on it.
pub const TOPOLOGY: Program = Program {
    name: "penstock-topology",
    package: "penstock-node",
};

/// What shells answer for a program that is not there.
const EXIT_NOT_FOUND: u8 = 127;
/// What shells answer for a program that is there and does not run.
const EXIT_NOT_RUN: u8 = 126;

/// Why the sibling program did not take over.
#[derive(Debug)]
pub struct Failure {
    /// What to tell the person.
    pub error: io::Error,
    /// What to tell the shell.
    pub exit_code: u8,
}

/// Replaces this process with the sibling program. Comes back only where that failed.
pub fn run(program: Program, arguments: &[OsString]) -> Failure {
    let own = env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent);
    let Program { name, package } = program;
    let Some(program) = find(name, beside, env::var_os("PATH").as_deref()) else {
        return Failure {
            error: not_found(name, package, beside),
            exit_code: EXIT_NOT_FOUND,
        };
    };
    let error = Command::new(&program).args(arguments).exec();
    let told = format!("cannot run {}: {error}", program.display());
    Failure {
        error: io::Error::new(error.kind(), told),
        exit_code: EXIT_NOT_RUN,
    }
}

/// Where a program is that is built from this package; else what to tell the person.
pub fn locate(program: &str, package: &str) -> io::Result<PathBuf> {
    let own = env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent);
    find(program, beside, env::var_os("PATH").as_deref())
        .ok_or_else(|| not_found(program, package, beside))
}

fn not_found(program: &str, package: &str, beside: Option<&Path>) -> io::Error {
    let place = beside.map_or_else(
        || "beside this program".into(),
        |dir| format!("in {}", dir.display()),
    );
    let told = format!(
        "{program} is neither {place} nor in PATH; \
         install it there, or build it with `cargo build --release -p {package}`"
    );
    io::Error::new(io::ErrorKind::NotFound, told)
}

/// The first executable of that name: beside this program, then along `path`.
fn find(program: &str, beside: Option<&Path>, path: Option<&OsStr>) -> Option<PathBuf> {
    let along_path = path.into_iter().flat_map(env::split_paths);
    beside
        .map(Path::to_path_buf)
        .into_iter()
        .chain(along_path)
        .map(|dir| dir.join(program))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const PROGRAM: &str = INITIATOR.name;

    fn place(dir: &Path, mode: u32) -> PathBuf {
        let path = dir.join(PROGRAM);
        fs::write(&path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn the_one_beside_this_program_wins() {
        let (beside, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let near = place(beside.path(), 0o755);
        let far = place(elsewhere.path(), 0o755);
        let path = elsewhere.path().as_os_str();
        assert_eq!(
            find(PROGRAM, Some(beside.path()), Some(path)),
            Some(near.clone())
        );
        fs::remove_file(near).unwrap();
        assert_eq!(find(PROGRAM, Some(beside.path()), Some(path)), Some(far));
    }

    #[test]
    fn what_cannot_be_executed_is_passed_over() {
        let beside = tempfile::tempdir().unwrap();
        place(beside.path(), 0o644);
        assert_eq!(find(PROGRAM, Some(beside.path()), None), None);
        let told = not_found(PROGRAM, "penstock-client", Some(beside.path()));
        assert!(told.to_string().contains("cargo build"), "{told}");
    }
}
