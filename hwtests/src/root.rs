//! A directory of unpacked Debian packages whose programs run with their own libraries.

use crate::error::{LabError, Result};
use crate::process;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIST_LIMIT: Duration = Duration::from_secs(30);

/// Where packages put programs.
const PROGRAM_DIRS: [&str; 4] = ["usr/bin", "bin", "usr/sbin", "sbin"];

/// Where packages put libraries; fio's network engines link Ceph's, which lie apart.
const LIBRARY_DIRS: [&str; 3] = [
    "lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu/ceph",
];

const LOADERS: [&str; 3] = [
    "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    "usr/lib64/ld-linux-x86-64.so.2",
];

/// A shared library that a program needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Library {
    /// The name that the program asks for.
    pub name: String,
    /// The file on this machine.
    pub file: PathBuf,
}

/// An unpacked set of packages.
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

impl Root {
    /// Takes `dir` as the root.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self(dir)
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// A file in the set, by its path from the root.
    ///
    /// # Errors
    /// [`LabError::Setup`] when no package brought it.
    pub fn file(&self, path: &str) -> Result<PathBuf> {
        self.first(&[path], path)
    }

    /// A program by its name.
    ///
    /// # Errors
    /// [`LabError::Setup`] when no package brought it.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let paths = PROGRAM_DIRS.map(|dir| format!("{dir}/{name}"));
        self.first(&paths, name)
    }

    /// The dynamic loader.
    ///
    /// # Errors
    /// [`LabError::Setup`] when no package brought it.
    pub fn loader(&self) -> Result<PathBuf> {
        self.first(&LOADERS, "the dynamic loader (libc6)")
    }

    fn first<S: AsRef<str>>(&self, paths: &[S], what: &str) -> Result<PathBuf> {
        let mut found = paths.iter().map(|path| self.0.join(path.as_ref()));
        found.find(|path| path.is_file()).ok_or_else(|| {
            LabError::Setup(format!(
                "the unpacked packages under {0} lack {what}; remove {0} and run again",
                self.0.display()
            ))
        })
    }

    fn library_path(&self) -> String {
        LIBRARY_DIRS
            .map(|dir| self.0.join(dir).display().to_string())
            .join(":")
    }

    /// A command that runs program `name` under this set's own loader, tied to this process.
    ///
    /// Symbolic links between programs are absolute in some packages and would lead out of the
    /// root, so `name` is the real file and `called` what it is to see as its own name.
    ///
    /// # Errors
    /// [`LabError::Setup`] when the program or the loader is missing.
    pub fn command(&self, name: &str, called: &str) -> Result<Command> {
        let mut command = process::tied(self.loader()?);
        command.arg("--library-path").arg(self.library_path());
        command.arg("--argv0").arg(called).arg(self.program(name)?);
        Ok(command)
    }

    /// The libraries that `program` needs, directly or not, without the loader.
    ///
    /// # Errors
    /// One of them is not in the set, or the program cannot be read.
    pub fn libraries(&self, program: &Path) -> Result<Vec<Library>> {
        let mut command = process::tied(self.loader()?);
        command.arg("--library-path").arg(self.library_path());
        command.arg("--list").arg(program);
        Ok(parse_list(&process::run(&mut command, LIST_LIMIT)?))
    }
}

/// Reads the loader's `name => file (address)` lines.
fn parse_list(text: &str) -> Vec<Library> {
    let mut found: Vec<Library> = text
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.trim().split_once(" => ")?;
            let (file, _) = rest.rsplit_once(" (")?;
            let library = Library {
                name: name.to_owned(),
                file: file.into(),
            };
            (!name.starts_with('/')).then_some(library)
        })
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaders_list_gives_names_and_files() {
        let text = "\tlinux-vdso.so.1 (0x00007f)\n\tlibz.so.1 => /r/lib/libz.so.1 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 => /r/ld.so (0x00007f)\n";
        let expected = Library {
            name: "libz.so.1".into(),
            file: "/r/lib/libz.so.1".into(),
        };
        assert_eq!(parse_list(text), vec![expected]);
    }

    #[test]
    fn a_missing_program_names_the_remedy() {
        let tmp = tempfile::tempdir().unwrap();
        let err = Root::new(tmp.path().into())
            .program("fio")
            .unwrap_err()
            .to_string();
        assert!(err.contains("fio") && err.contains("remove"), "{err}");
    }
}
