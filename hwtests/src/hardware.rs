//! The driver's test on real hardware: a drive of this machine in place of an emulated one.
//!
//! A drive in use, or one that holds anything known, is refused, and there is no way to force it
//! from here: what an empty drive holds is overwritten.

use crate::error::{IoContext, LabError, Result};
use crate::process;
use crate::scenarios::DEVICE_PROGRAM;
use std::path::Path;
use std::process::Command;

/// Takes the drive at `address` from the kernel, tries everything on it that the lab tries on its
/// own, and gives it back. Whether all went well. Needs root; what was tried goes to standard output.
///
/// # Errors
/// The drive is refused, or the kernel does not take it back; standard error says why.
pub fn run(address: &str) -> Result<bool> {
    let program = DEVICE_PROGRAM;
    let file = process::beside(program.name, program.variable, program.package)?;
    try_out(&file, address)
}

fn try_out(program: &Path, address: &str) -> Result<bool> {
    act(program, &["bind", address])?;
    let checked = status(program, &["check", address, "--write"]);
    act(program, &["unbind", address])?;
    checked
}

fn act(program: &Path, arguments: &[&str]) -> Result<()> {
    if status(program, arguments)? {
        return Ok(());
    }
    let command = format!("{} {}", program.display(), arguments.join(" "));
    Err(LabError::Check(format!("{command} did not succeed")))
}

fn status(program: &Path, arguments: &[&str]) -> Result<bool> {
    let ended = Command::new(program).args(arguments).status();
    let ended = ended.doing(|| format!("run {}", program.display()))?;
    Ok(ended.success())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_refused_drive_is_not_tried_and_a_failed_one_is_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let program = |fails: &str| {
            let path = dir.path().join("device");
            let text = format!(
                "#!/bin/sh\necho $1 >>{}\n[ $1 != {fails} ]\n",
                log.display()
            );
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let said = || {
            let said = std::fs::read_to_string(&log).unwrap();
            std::fs::remove_file(&log).unwrap();
            said
        };
        assert!(try_out(&program("bind"), "x").is_err());
        assert_eq!(said(), "bind\n");
        assert!(!try_out(&program("check"), "x").unwrap());
        assert_eq!(said(), "bind\ncheck\nunbind\n");
        assert!(try_out(&program("unbind"), "x").is_err());
        assert_eq!(said(), "bind\ncheck\nunbind\n");
        assert!(try_out(&program("nothing"), "x").unwrap());
    }
}
