//! A host of one test: our own initiator on a reactor of this process.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use penstock_buffer::{Pool, PoolConfig};
use penstock_client::{ClientError, ConnectOptions, Controller, IoQueue};
use penstock_nvme::nqn::Nqn;
use penstock_reactor::{ReactorConfig, ReactorHandle};
use penstock_units::{Lba, Nsid, QueueId};

use crate::daemon::NQN;

static NEXT_REACTOR: AtomicU32 = AtomicU32::new(100);

/// A reactor for the host's side; stopped when dropped.
pub struct Host {
    reactor: ReactorHandle,
}

impl Host {
    pub fn new() -> Host {
        let id = NEXT_REACTOR.fetch_add(1, Ordering::Relaxed);
        let config = ReactorConfig {
            id,
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
        assert!(
            self.reactor.run(job).is_ok(),
            "the host's reactor takes messages"
        );
        receiver
    }

    /// Runs `work` on the reactor and waits for its result.
    pub fn run<T, F>(&self, work: impl FnOnce(Pool) -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        self.begin(work)
            .recv_timeout(Duration::from_secs(60))
            .expect("the work ends in time")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.reactor.stop();
        self.reactor.join();
    }
}

pub fn options(address: SocketAddr) -> ConnectOptions {
    options_for(address, NQN)
}

pub fn options_for(address: SocketAddr, nqn: &str) -> ConnectOptions {
    let nqn = Nqn::new(nqn).expect("an NQN");
    ConnectOptions::new(address, nqn, *b"penstock-test-16")
}

pub fn nsid(number: u32) -> Nsid {
    Nsid::new(number).expect("a namespace id")
}

/// A connected controller with one I/O queue.
pub async fn connect(
    options: &ConnectOptions,
    pool: &Pool,
    depth: u16,
) -> Result<(Controller, IoQueue), ClientError> {
    let controller = Controller::connect(options, pool).await?;
    controller.request_io_queues(1).await?;
    let queue = IoQueue::connect(controller.info(), QueueId(1), depth, pool).await?;
    Ok((controller, queue))
}

/// A block's content that tells its address.
pub fn content(lba: u64, blocks: u32) -> Vec<u8> {
    (0..u64::from(blocks))
        .flat_map(|block| block_content(lba + block))
        .collect()
}

fn block_content(lba: u64) -> Vec<u8> {
    let word = lba.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bd1_e995;
    word.to_le_bytes().repeat(4096 / 8)
}

/// Writes blocks that tell their address.
pub async fn write(
    queue: &IoQueue,
    pool: &Pool,
    (ns, lba, blocks): (u32, u64, u32),
    fua: bool,
) -> Result<(), ClientError> {
    let lease = pool.lease(blocks as usize * 4096).await;
    lease.write_at(0, &content(lba, blocks));
    queue
        .write(nsid(ns), Lba(lba), blocks, lease, fua)
        .await
        .map(drop)
}

/// Whether the blocks hold what [`write`] writes.
pub async fn holds(
    queue: &IoQueue,
    pool: &Pool,
    (ns, lba, blocks): (u32, u64, u32),
) -> Result<bool, ClientError> {
    let lease = pool.lease(blocks as usize * 4096).await;
    let lease = queue.read(nsid(ns), Lba(lba), blocks, lease).await?;
    Ok(lease.bytes() == content(lba, blocks))
}
