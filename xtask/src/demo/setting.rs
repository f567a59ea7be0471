//! Where the demonstration takes place: folder, files, ports, cores, sizes.

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

/// What the device has beyond the volumes, in MiB.
const SPARE_MIB: u64 = 64;

/// Port of control's API; another free one where it is taken. Its metrics are one port above.
const CONTROL_PORT: u16 = 7600;

/// Volumes, each a namespace, that the samples are spread over.
pub const VOLUMES: u32 = 2;

/// The prepared place.
pub struct Setting {
    /// Everything that control and the node keep.
    pub folder: PathBuf,
    /// What `penstock up` says when it is ready.
    pub ready: PathBuf,
    /// What it says of itself.
    pub log: PathBuf,
    /// Size of each volume.
    pub volume_mib: u64,
    /// Where our client connects.
    pub address: SocketAddr,
    /// Where the node listens.
    pub listen: SocketAddr,
    /// Where the API is.
    pub control: SocketAddr,
    pub client_core: Option<usize>,
}

impl Setting {
    /// Makes the folder anew: what an earlier demonstration left is removed.
    ///
    /// # Errors
    /// No room on the disk, or the folder cannot be made.
    pub fn prepare(options: &Options) -> Result<Setting> {
        let folder = build::root().join(&options.data_dir).join("demo");
        remove(&folder)?;
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let volume_bytes = volume_bytes(options);
        check_room(&folder, volume_bytes * u64::from(VOLUMES))?;
        let listen = free_address(options.listen, PORT)?;
        Ok(Setting {
            ready: folder.join("ready.json"),
            log: folder.join("up.log"),
            volume_mib: volume_bytes >> 20,
            address: reachable(listen),
            listen,
            control: free_pair()?,
            client_core: last_core(),
            folder,
        })
    }

    /// Size of the node's device.
    pub fn device_mib(&self) -> u64 {
        self.volume_mib * u64::from(VOLUMES) + SPARE_MIB
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

fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Size of each volume: its share of the samples with room for their spread, in whole MiB.
fn volume_bytes(options: &Options) -> u64 {
    let samples = u64::from(options.samples.div_ceil(VOLUMES));
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

fn free_address(ip: IpAddr, wanted: u16) -> Result<SocketAddr> {
    for port in [wanted, 0] {
        if let Ok(listener) = TcpListener::bind((ip, port)) {
            return Ok(listener.local_addr()?);
        }
    }
    bail!("no TCP port is free on {ip}; name another address with --listen")
}

/// An address for the API whose next port is free too.
fn free_pair() -> Result<SocketAddr> {
    for wanted in [CONTROL_PORT, 0, 0, 0] {
        let address = free_address(Ipv4Addr::LOCALHOST.into(), wanted)?;
        let next = address.port().checked_add(1);
        if next.is_some_and(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()) {
            return Ok(address);
        }
    }
    bail!("no two TCP ports in a row are free on this machine for control and its metrics")
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

/// A core for our client: the node's one reactor takes one of the first.
fn last_core() -> Option<usize> {
    let allowed = rustix::thread::sched_getaffinity(None).ok()?;
    let cores = (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
    // Sharing the only core is left to the kernel.
    cores.skip(1).last()
}
