//! A node in this process with file devices, and a host.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use penstock_api::v1::{
    DesiredListener, DesiredNamespace, DesiredSubsystem, DesiredVolume, Extent, Layout,
    TransportAddress,
};
use penstock_buffer::{Pool, PoolConfig};
use penstock_client::{ClientError, ConnectOptions, Controller, IoQueue};
use penstock_node::config::Config;
use penstock_node::managed::ManagedError;
use penstock_node::node::Node;
use penstock_nvme::nqn::Nqn;
use penstock_reactor::{ReactorConfig, ReactorHandle};
use penstock_units::{Lba, Nsid, QueueId};

pub const NQN: &str = "nqn.2026-01.io.penstock:managed";
pub const MIB: u64 = 1 << 20;

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One node at a time: reactors are known by their numbers in a process, and every node counts its
/// own from 0.
static ONE_NODE: Mutex<()> = Mutex::new(());

/// A node and its folder.
pub struct Rig {
    pub node: Node,
    pub folder: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

pub fn config(folder: &Path, devices: usize, device_mib: u64, more: &str) -> Config {
    let mut text = "[reactors]\npin = false\nbuffer_pool_size_bytes = 16777216\n\n".to_owned();
    for n in 0..devices {
        text += &format!(
            "[[device]]\nname = \"d{n}\"\nbackend = \"file\"\npath = \"{}\"\nsize_bytes = {}\n\
             block_size_bytes = 512\n\n",
            image(folder, n).display(),
            device_mib * MIB
        );
    }
    text += &format!(
        "[control]\nendpoints = [\"http://127.0.0.1:1\"]\nstate_directory = \"{}\"\n\n{more}",
        folder.join("state").display()
    );
    let path = folder.join("node.toml");
    std::fs::write(&path, text).expect("written");
    Config::load(&path).expect("sound")
}

pub fn image(folder: &Path, device: usize) -> PathBuf {
    folder.join(format!("d{device}.img"))
}

impl Rig {
    /// A node with file devices `d0` and so on, and nothing else.
    pub fn new(devices: usize, device_mib: u64) -> Rig {
        Rig::with(devices, device_mib, "")
    }

    pub fn with(devices: usize, device_mib: u64, more: &str) -> Rig {
        let alone = ONE_NODE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().expect("a folder");
        let node = Node::start(config(folder.path(), devices, device_mib, more)).expect("starts");
        Rig {
            node,
            folder,
            _alone: alone,
        }
    }

    /// A listener of control on a free port.
    pub fn listen(&mut self, uid: &str) -> SocketAddr {
        self.node.add_listener(&listener(uid, 0)).expect("listens")
    }

    pub fn clear(&mut self, extents: &[Extent]) -> Result<(), ManagedError> {
        let (sender, receiver) = mpsc::channel();
        let done = Box::new(move |result| {
            // The test may be over.
            let _ = sender.send(result);
        });
        self.node.clear_extents(extents, done);
        receiver.recv_timeout(PATIENCE).expect("cleared in time")
    }
}

pub fn listener(uid: &str, port: u16) -> DesiredListener {
    DesiredListener {
        uid: uid.to_owned(),
        name: format!("nodes/n1/listeners/{uid}"),
        address: Some(TransportAddress {
            transport: "tcp".to_owned(),
            address: "127.0.0.1".to_owned(),
            port: port.into(),
        }),
        ..DesiredListener::default()
    }
}

/// An extent, in MiB.
pub fn extent(device: usize, offset_mib: u64, length_mib: u64) -> Extent {
    Extent {
        device: format!("nodes/n1/devices/d{device}"),
        offset_bytes: offset_mib * MIB,
        length_bytes: length_mib * MIB,
    }
}

/// A volume of 4096-byte blocks.
pub fn volume(uid: &str, size_mib: u64, width: u32, extents: &[Extent]) -> DesiredVolume {
    DesiredVolume {
        uid: uid.to_owned(),
        name: format!("volumes/{uid}"),
        size_bytes: size_mib * MIB,
        block_size_bytes: 4096,
        layout: Some(Layout {
            node: "nodes/n1".to_owned(),
            epoch: 1,
            stripe_unit_bytes: if width > 1 { 64 << 10 } else { 0 },
            extents: extents.to_vec(),
            stripe_width: width,
        }),
        ..DesiredVolume::default()
    }
}

pub fn subsystem(uid: &str, nqn: &str) -> DesiredSubsystem {
    DesiredSubsystem {
        uid: uid.to_owned(),
        name: format!("subsystems/{uid}"),
        nqn: nqn.to_owned(),
        serial: "S1".to_owned(),
        model: "Penstock".to_owned(),
        allow_any_host: true,
        namespaces_max: 16,
        controller_id_min: 1024,
        controller_id_max: 2046,
        ..DesiredSubsystem::default()
    }
}

pub fn namespace(uid: &str, subsystem: &str, volume: &str, nsid: u32) -> DesiredNamespace {
    DesiredNamespace {
        uid: uid.to_owned(),
        name: format!("subsystems/{subsystem}/namespaces/{uid}"),
        subsystem_uid: subsystem.to_owned(),
        volume_uid: volume.to_owned(),
        nsid,
        uuid: format!("a6b3f2c4-7f3d-4a57-9c0e-{nsid:012x}"),
        ..DesiredNamespace::default()
    }
}

static NEXT_REACTOR: AtomicU32 = AtomicU32::new(100);

/// A reactor for the host's side; stopped when dropped.
pub struct Host {
    reactor: ReactorHandle,
}

impl Host {
    pub fn new() -> Host {
        let config = ReactorConfig {
            id: NEXT_REACTOR.fetch_add(1, Ordering::Relaxed),
            ..ReactorConfig::default()
        };
        Host {
            reactor: ReactorHandle::start(config, || {}).expect("a reactor"),
        }
    }

    /// Runs `work` on the reactor; its result comes through the channel.
    pub fn begin<T, F>(&self, work: impl FnOnce(Pool) -> F + Send + 'static) -> mpsc::Receiver<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let (sender, receiver) = mpsc::channel();
        let job = move || {
            let config = PoolConfig {
                size_bytes: 16 << 20,
                ..PoolConfig::default()
            };
            let pool = Pool::new(&config).expect("a pool");
            penstock_reactor::spawn(async move {
                // The test may be over.
                let _ = sender.send(work(pool).await);
            });
        };
        assert!(self.reactor.run(job).is_ok(), "the reactor takes messages");
        receiver
    }

    /// Runs `work` on the reactor and waits for its result.
    pub fn run<T, F>(&self, work: impl FnOnce(Pool) -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let working = self.begin(work);
        working.recv_timeout(PATIENCE).expect("ends in time")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.reactor.stop();
        self.reactor.join();
    }
}

pub fn nsid(number: u32) -> Nsid {
    Nsid::new(number).expect("a namespace id")
}

pub fn options(address: SocketAddr, nqn: &str) -> ConnectOptions {
    let nqn = Nqn::new(nqn).expect("an NQN");
    let mut options = ConnectOptions::new(address, nqn, *b"penstock-test-16");
    // Nobody ticks the node in these tests.
    options.keep_alive_timeout_ms = 0;
    options
}

/// A connected controller with one I/O queue.
pub async fn connect(
    address: SocketAddr,
    nqn: &str,
    pool: &Pool,
) -> Result<(Controller, IoQueue), ClientError> {
    let controller = Controller::connect(&options(address, nqn), pool).await?;
    controller.request_io_queues(1).await?;
    let queue = IoQueue::connect(controller.info(), QueueId(1), 16, pool).await?;
    Ok((controller, queue))
}

/// Content of blocks that tells their address.
pub fn content(lba: u64, blocks: u32) -> Vec<u8> {
    let block = |lba: u64| {
        (lba.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
            .to_le_bytes()
            .repeat(512)
    };
    (lba..lba + u64::from(blocks)).flat_map(block).collect()
}

pub async fn write(
    queue: &IoQueue,
    pool: &Pool,
    (ns, lba, blocks): (u32, u64, u32),
) -> Result<(), ClientError> {
    let lease = pool.lease(blocks as usize * 4096).await;
    lease.write_at(0, &content(lba, blocks));
    let written = queue.write(nsid(ns), Lba(lba), blocks, lease, false);
    written.await.map(drop)
}

pub async fn read(
    queue: &IoQueue,
    pool: &Pool,
    (ns, lba, blocks): (u32, u64, u32),
) -> Result<Vec<u8>, ClientError> {
    let lease = pool.lease(blocks as usize * 4096).await;
    let lease = queue.read(nsid(ns), Lba(lba), blocks, lease).await?;
    Ok(lease.bytes().to_vec())
}

/// Whether all of `blocks` blocks read as zeroes.
pub async fn is_zero(
    queue: &IoQueue,
    pool: &Pool,
    ns: u32,
    blocks: u64,
) -> Result<bool, ClientError> {
    for lba in (0..blocks).step_by(256) {
        if read(queue, pool, (ns, lba, 256))
            .await?
            .iter()
            .any(|byte| *byte != 0)
        {
            return Ok(false);
        }
    }
    Ok(true)
}
