//! Where the demonstration takes place: folder, files, port, cores, configuration.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::Options;
use crate::build;

/// Name of the demonstration's subsystem.
pub const NQN: &str = "nqn.2026-01.io.penstock:demo";

/// Port of NVMe/TCP I/O controllers; another free one where it is taken.
const PORT: u16 = 4420;

/// What must stay free on the disk beside the data, in bytes.
const SPARE_BYTES: u64 = 256 << 20;

/// Namespaces that the samples are spread over.
const NAMESPACES: u32 = 2;

/// The prepared place.
pub struct Setting {
    pub folder: PathBuf,
    pub config: PathBuf,
    pub log: PathBuf,
    pub images: [PathBuf; 2],
    /// Where our client connects.
    pub address: SocketAddr,
    listen: SocketAddr,
    pub client_core: Option<usize>,
}

impl Setting {
    /// Makes the folder and the configuration, with files of an earlier demonstration removed.
    ///
    /// # Errors
    /// No room on the disk, or the folder cannot be made.
    pub fn prepare(options: &Options) -> Result<Setting> {
        let folder = build::root().join(&options.data_dir);
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let images = [1, 2].map(|nsid| folder.join(format!("demo-{nsid}.img")));
        for image in &images {
            remove(image)?;
        }
        let size_bytes = namespace_bytes(options);
        check_room(&folder, size_bytes * u64::from(NAMESPACES))?;
        let listen = free_address(options.listen)?;
        let (node_core, client_core) = two_cores();
        let setting = Setting {
            config: folder.join("node.toml"),
            log: folder.join("node.log"),
            images,
            address: reachable(listen),
            listen,
            client_core,
            folder,
        };
        let text = setting.config_text(size_bytes, node_core);
        std::fs::write(&setting.config, text)
            .with_context(|| format!("cannot write {}", setting.config.display()))?;
        Ok(setting)
    }

    fn config_text(&self, size_bytes: u64, core: Option<usize>) -> String {
        let core = core
            .map(|core| format!("cores = [{core}]\n"))
            .unwrap_or_default();
        let mut text = format!(
            "# Made by `cargo xtask demo`. configs/node.toml explains every key.\n\
             [node]\nname = \"demo\"\n\n[reactors]\n{core}\n[[listener]]\naddress = \"{}\"\n\n\
             [[subsystem]]\nnqn = \"{NQN}\"\nallow_any_host = true\n",
            self.listen
        );
        for (nsid, image) in (1..).zip(&self.images) {
            text.push_str(&format!(
                "\n[[subsystem.namespace]]\nnsid = {nsid}\nbackend = \"file\"\npath = {:?}\n\
                 size_bytes = {size_bytes}\n",
                image.display().to_string()
            ));
        }
        text
    }

    /// The command that connects a Linux host.
    pub fn connect_line(&self) -> String {
        let address = match self.listen.ip() {
            ip if ip.is_unspecified() => own_address().unwrap_or(Ipv4Addr::LOCALHOST.into()),
            ip => ip,
        };
        let port = self.listen.port();
        format!("nvme connect --transport=tcp --traddr={address} --trsvcid={port} --nqn={NQN}")
    }
}

fn remove(file: &Path) -> Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", file.display()))
        }
        _ => Ok(()),
    }
}

/// Size of each namespace: its share of the samples with room for their spread, in whole MiB.
fn namespace_bytes(options: &Options) -> u64 {
    let samples = u64::from(options.samples.div_ceil(NAMESPACES));
    let data = options.mean_size_bytes * (samples + samples / 2 + 3);
    (data + (64 << 20)).next_multiple_of(1 << 20)
}

fn check_room(folder: &Path, needed: u64) -> Result<()> {
    let disk = rustix::fs::statvfs(folder)
        .with_context(|| format!("cannot look at the disk of {}", folder.display()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < needed + SPARE_BYTES {
        bail!(
            "{} has {} MiB free, the demonstration may need {} MiB; free some, name another place \
             with --data-dir, or ask for less with --samples or --mean-size-bytes",
            folder.display(),
            free >> 20,
            (needed + SPARE_BYTES) >> 20
        );
    }
    Ok(())
}

fn free_address(ip: IpAddr) -> Result<SocketAddr> {
    for port in [PORT, 0] {
        if let Ok(listener) = TcpListener::bind((ip, port)) {
            return Ok(listener.local_addr()?);
        }
    }
    bail!("no TCP port is free on {ip}; name another address with --listen")
}

/// An address that a listener on `listen` can be reached at from here.
fn reachable(listen: SocketAddr) -> SocketAddr {
    match listen {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            (std::net::Ipv6Addr::LOCALHOST, v6.port()).into()
        }
        other => other,
    }
}

/// The address that this machine shows to others: the one of its default route. Sends nothing.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// A core for the node and another for the client, where there are two.
fn two_cores() -> (Option<usize>, Option<usize>) {
    let Ok(allowed) = rustix::thread::sched_getaffinity(None) else {
        return (None, None);
    };
    let mut cores = (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
    match (cores.next(), cores.next()) {
        (Some(node), Some(client)) => (Some(node), Some(client)),
        // Sharing the only core is left to the kernel.
        _ => (None, None),
    }
}
