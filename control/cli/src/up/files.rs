//! The configuration of both programs: written once, then the user's.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Outcome};
use crate::name::Kind;

/// What is to be written where nothing is yet.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Name of the node.
    pub name: String,
    /// Where hosts connect.
    pub listen: SocketAddr,
    /// Where the API is.
    pub control_listen: SocketAddr,
    /// Number of devices.
    pub devices: u32,
    /// Size of each.
    pub device_size_bytes: u64,
}

/// What the configuration says, as far as `up` has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// The folder, absolute.
    pub directory: PathBuf,
    /// Configuration of control.
    pub control_toml: PathBuf,
    /// Configuration of the node.
    pub node_toml: PathBuf,
    /// Name of the node.
    pub name: String,
    /// Name of the cluster.
    pub cluster: String,
    /// First address where hosts connect, where the node's configuration has one.
    pub listen: Option<SocketAddr>,
    /// Where the API is.
    pub control_listen: SocketAddr,
    /// Whether it speaks TLS.
    pub control_tls: bool,
    /// Sizes of the devices that are told one.
    pub devices: Vec<u64>,
}

/// Makes the folder and what is missing in it, and reads what is there.
pub fn prepare(directory: &Path, wanted: &Wanted) -> Outcome<Setup> {
    Kind::Node.full(&wanted.name)?;
    if wanted.device_size_bytes == 0 || !wanted.device_size_bytes.is_multiple_of(1 << 20) {
        return Err(Failure::usage(
            "--device-size: write a multiple of 1 MiB above 0, like 64GiB",
        ));
    }
    let made = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory);
    let failed = |error| Failure::other(format!("cannot make {}: {error}", directory.display()));
    let directory = made
        .and_then(|()| directory.canonicalize())
        .map_err(failed)?;
    let (control_toml, node_toml) = (directory.join("control.toml"), directory.join("node.toml"));
    keep_or_write(&control_toml, &control_text(&directory, wanted))?;
    keep_or_write(&node_toml, &node_text(&directory, wanted))?;
    let (control, node) = (parse(&control_toml)?, parse(&node_toml)?);
    let control_listen = address(&control, "control", &control_toml)?;
    let listeners = node.get("listener").and_then(toml::Value::as_array);
    let listen = listeners
        .and_then(|all| all.first())
        .and_then(|l| l.get("address"));
    let devices = node
        .get("device")
        .and_then(toml::Value::as_array)
        .cloned()
        .unwrap_or_default();
    let sizes = devices
        .iter()
        .filter_map(|device| device.get("size_bytes")?.as_integer());
    Ok(Setup {
        name: text(&node, "node", "name").unwrap_or_else(|| "penstock".into()),
        cluster: text(&control, "store", "cluster").unwrap_or_else(|| "default".into()),
        listen: listen
            .and_then(toml::Value::as_str)
            .and_then(|text| text.parse().ok()),
        control_listen,
        control_tls: text(&control, "tls", "cert_file").is_some(),
        devices: sizes
            .filter_map(|bytes| u64::try_from(bytes).ok())
            .collect(),
        directory,
        control_toml,
        node_toml,
    })
}

fn text(config: &toml::Table, table: &str, key: &str) -> Option<String> {
    Some(config.get(table)?.get(key)?.as_str()?.to_owned())
}

fn address(config: &toml::Table, table: &str, path: &Path) -> Outcome<SocketAddr> {
    let written = text(config, table, "listen").unwrap_or_else(|| "127.0.0.1:7600".into());
    written.parse().map_err(|_| {
        let told = format!(
            "{}: [{table}] listen = \"{written}\" is no address and port",
            path.display()
        );
        Failure::other(told)
    })
}

fn parse(path: &Path) -> Outcome<toml::Table> {
    let read = std::fs::read_to_string(path)
        .map_err(|error| Failure::other(format!("cannot read {}: {error}", path.display())))?;
    read.parse().map_err(|error: toml::de::Error| {
        Failure::other(format!(
            "{}: {}",
            path.display(),
            error.to_string().trim_end()
        ))
    })
}

/// Writes a file unless it is there.
fn keep_or_write(path: &Path, text: &str) -> Outcome {
    let opened = OpenOptions::new().write(true).create_new(true).open(path);
    let written = match opened {
        Ok(mut file) => file.write_all(text.as_bytes()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => Err(error),
    };
    let failed = |error| Failure::other(format!("cannot write {}: {error}", path.display()));
    written.map_err(failed)
}

/// A path or name as TOML has it.
fn quoted(text: &Path) -> String {
    toml::Value::String(text.display().to_string()).to_string()
}

fn control_text(directory: &Path, wanted: &Wanted) -> String {
    let port = wanted.control_listen.port().checked_add(1);
    let metrics = port.map(|port| SocketAddr::new(wanted.control_listen.ip(), port).to_string());
    format!(
        "# Written by `penstock up`, once; edit it as you like. Every key is explained in\n\
         # configs/control.toml.\n\n\
         [control]\nlisten = \"{}\"\n\n\
         [store]\nkind = \"embedded\"\npath = {}\n\n\
         [metrics]\nlisten = \"{}\"\n\n\
         [nodes]\nauto_register = true\n",
        wanted.control_listen,
        quoted(&directory.join("control.redb")),
        metrics.unwrap_or_default(),
    )
}

fn node_text(directory: &Path, wanted: &Wanted) -> String {
    let mut text = format!(
        "# Written by `penstock up`, once; edit it as you like. Every key is explained in\n\
         # configs/node.toml.\n\n\
         [node]\nname = \"{}\"\n\n\
         [control]\nendpoints = [\"http://{}\"]\nstate_directory = {}\n\n\
         [[listener]]\naddress = \"{}\"\n",
        wanted.name,
        wanted.control_listen,
        quoted(&directory.join("node-state")),
        wanted.listen,
    );
    for index in 0..wanted.devices {
        text.push_str(&format!(
            "\n[[device]]\nname = \"d{index}\"\nbackend = \"file\"\npath = {}\nsize_bytes = {}\n",
            quoted(&directory.join(format!("d{index}.img"))),
            wanted.device_size_bytes,
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted {
            name: "n1".into(),
            listen: "127.0.0.1:4420".parse().unwrap(),
            control_listen: "127.0.0.1:7600".parse().unwrap(),
            devices: 2,
            device_size_bytes: 1 << 30,
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a \"folder\"");
        let first = prepare(&folder, &wanted()).unwrap();
        assert_eq!(first.name, "n1");
        assert_eq!(first.devices, [1 << 30, 1 << 30]);
        assert_eq!(first.listen, Some("127.0.0.1:4420".parse().unwrap()));
        let other = Wanted {
            name: "n2".into(),
            devices: 1,
            ..wanted()
        };
        let second = prepare(&folder, &other).unwrap();
        assert_eq!(second.name, "n1");
        assert_eq!(second.devices.len(), 2);
    }

    #[test]
    fn what_is_wrong_in_a_kept_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("control.toml"),
            "[control]\nlisten = \"here\"\n",
        )
        .unwrap();
        let told = prepare(dir.path(), &wanted()).unwrap_err();
        assert!(
            told.message.contains("control.toml") && told.message.contains("here"),
            "{told}"
        );
        std::fs::write(dir.path().join("control.toml"), "[control\n").unwrap();
        let told = prepare(dir.path(), &wanted()).unwrap_err();
        assert!(told.message.contains("control.toml"), "{told}");
    }

    #[test]
    fn sizes_that_no_device_can_have_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let wrong = Wanted {
            device_size_bytes: 1000,
            ..wanted()
        };
        assert!(
            prepare(dir.path(), &wrong)
                .unwrap_err()
                .message
                .contains("1 MiB")
        );
    }
}
