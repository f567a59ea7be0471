//! Looking at the files a configuration names, without opening or locking them.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use penstock_units::{BlockSize, ByteCount};

use super::{BackendSettings, Config, Problem, Problems};

/// Where blocks are kept, by which table of the file.
struct Place<'c> {
    key: &'static str,
    line: usize,
    backend: &'c BackendSettings,
    block_size: BlockSize,
}

impl Config {
    /// Checks that the files and drives of devices and namespaces are there, of the right kind and large
    /// enough. Whether another process has locked them only starting can tell.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn check_files(&self) -> Result<(), Problems> {
        let namespaces = self
            .subsystems
            .iter()
            .flat_map(|subsystem| &subsystem.namespaces);
        let of_namespaces = namespaces.map(|namespace| Place {
            key: "namespace.path",
            line: namespace.line,
            backend: &namespace.backend,
            block_size: namespace.block_size,
        });
        let of_devices = self.devices.iter().map(|device| Place {
            key: "device.path",
            line: device.line,
            backend: &device.backend,
            block_size: device.block_size,
        });
        let problems: Vec<Problem> = of_devices
            .chain(of_namespaces)
            .filter_map(|place| self.file_problem(&place))
            .chain(self.control_problems())
            .collect();
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Problems(problems))
        }
    }

    /// What is wrong with the files of `[control]`; what is in them TLS tells.
    fn control_problems(&self) -> Vec<Problem> {
        let Some(control) = &self.control else {
            return Vec::new();
        };
        let mut problems = Vec::new();
        let mut refuse = |key: &str, what: String, remedy: &str| {
            problems.push(Problem {
                file: self.file.clone(),
                line: None,
                key: format!("control.{key}"),
                what,
                remedy: remedy.to_owned(),
            });
        };
        let state = &control.state_directory;
        if state.exists() && !state.is_dir() {
            let what = format!("{} is no folder", state.display());
            refuse("state_directory", what, "correct the path");
        }
        let files = control.tls.iter().flat_map(|tls| {
            [
                ("tls_ca_file", &tls.ca, "CERTIFICATE"),
                ("tls_certificate_file", &tls.certificate, "CERTIFICATE"),
                ("tls_key_file", &tls.key, "PRIVATE KEY"),
            ]
        });
        for (key, path, holds) in files {
            match fs::read_to_string(path) {
                Ok(text) if text.contains(holds) => {}
                Ok(_) => {
                    let what = format!("{} holds no {holds} in PEM", path.display());
                    refuse(
                        key,
                        what,
                        "name a PEM file, such as `penstock certs init` makes",
                    );
                }
                Err(error) => {
                    let what = format!("{}: {error}", path.display());
                    refuse(key, what, "check the path and its permissions");
                }
            }
        }
        problems
    }

    fn file_problem(&self, place: &Place<'_>) -> Option<Problem> {
        let refuse =
            |what: String, remedy: &str| Some(self.problem(place.line, place.key, what, remedy));
        let path = place.backend.path()?;
        let shown = path.display();
        match (place.backend, fs::metadata(path)) {
            (BackendSettings::Block { .. }, Ok(found)) if !found.file_type().is_block_device() => {
                refuse(
                    format!("{shown} is no block device"),
                    "correct path or backend",
                )
            }
            (BackendSettings::File { .. }, Ok(found)) if !found.is_file() => refuse(
                format!("{shown} is no regular file"),
                "correct path or backend",
            ),
            (BackendSettings::File { size_bytes, .. }, Ok(found)) => {
                let (what, remedy) = size_defect(place.block_size, *size_bytes, &found)?;
                refuse(format!("{shown}: {what}"), &remedy)
            }
            (
                BackendSettings::File {
                    size_bytes: Some(_),
                    ..
                },
                Err(error),
            ) if error.kind() == io::ErrorKind::NotFound => {
                let folder = path
                    .parent()
                    .filter(|folder| !folder.as_os_str().is_empty());
                let folder = folder.unwrap_or(Path::new("."));
                match folder.is_dir() {
                    true => None,
                    false => refuse(
                        format!(
                            "{shown} cannot be made: there is no folder {}",
                            folder.display()
                        ),
                        "make the folder, or correct the path",
                    ),
                }
            }
            (BackendSettings::File { .. }, Err(error))
                if error.kind() == io::ErrorKind::NotFound =>
            {
                refuse(
                    format!("there is no file {shown}"),
                    "create it (truncate -s SIZE), or give size_bytes to have it created",
                )
            }
            (_, Err(error)) => refuse(
                format!("{shown}: {error}"),
                "check the path and its permissions",
            ),
            (_, Ok(_)) => None,
        }
    }
}

fn size_defect(
    block: BlockSize,
    wanted: Option<u64>,
    found: &Metadata,
) -> Option<(String, String)> {
    let has = found.len();
    match wanted {
        Some(wanted) if wanted > has => Some((
            format!("has {has} bytes, size_bytes asks for {wanted}"),
            format!("lower size_bytes, or enlarge the file (truncate -s {wanted})"),
        )),
        None if has == 0 || block.blocks_in(ByteCount(has)).is_none() => Some((
            format!("{has} bytes are no positive multiple of the block size, {block} bytes"),
            "choose a block_size_bytes that divides the file, set size_bytes, or resize the file"
                .to_owned(),
        )),
        _ => None,
    }
}
