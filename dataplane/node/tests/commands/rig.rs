//! A node with its configuration, and a host's view of one of its namespaces.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use penstock_buffer::{Lease, Pool};
use penstock_client::{ClientError, Controller, IoQueue};
use penstock_nvme::Status;
use penstock_units::Lba;
use tempfile::TempDir;

use crate::daemon::{Daemon, NQN, head, listener, subsystem};
use crate::host::{self, Host};

/// A running node with its folder.
pub struct Rig {
    pub daemon: Daemon,
    pub config: String,
    _folder: TempDir,
}

impl Rig {
    /// A node with these namespaces in one subsystem.
    pub fn new(namespaces: &str) -> Rig {
        Rig::with(|_| head() + &listener("127.0.0.1:0") + &subsystem(NQN) + namespaces)
    }

    /// A node with the configuration that `config` makes for its folder.
    pub fn with(config: impl FnOnce(&TempDir) -> String) -> Rig {
        let folder = tempfile::tempdir().expect("a folder");
        let config = config(&folder);
        Rig {
            daemon: Daemon::start(folder.path(), &config),
            config,
            _folder: folder,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.daemon.address()
    }

    /// Runs `work` as a host with one I/O queue of 32 commands. Counted references, so that all of
    /// the session lives as long as the work, not only what the work names.
    pub fn run<T, F>(&self, work: impl FnOnce(Rc<Session>) -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ClientError>> + 'static,
    {
        let address = self.address();
        let work = move |pool: Pool| async move {
            work(Rc::new(Session::new(address, pool).await?)).await
        };
        Host::new().run(work).expect("the host's work")
    }

    /// The same for work that changes the node meanwhile.
    pub fn run_with<T, F>(self, work: impl FnOnce(Rc<Session>, Rc<Rig>) -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ClientError>> + 'static,
    {
        let address = self.address();
        let work = move |pool: Pool| async move {
            work(Rc::new(Session::new(address, pool).await?), Rc::new(self)).await
        };
        Host::new().run(work).expect("the host's work")
    }
}

/// A connected host.
pub struct Session {
    pub controller: Controller,
    pub queue: IoQueue,
    pub pool: Pool,
}

impl Session {
    /// One I/O queue of 32 commands.
    pub async fn new(address: SocketAddr, pool: Pool) -> Result<Session, ClientError> {
        let (controller, queue) = host::connect(&host::options(address), &pool, 32).await?;
        Ok(Session {
            controller,
            queue,
            pool,
        })
    }

    pub fn disk(&self, nsid: u32, block_bytes: usize) -> Disk {
        Disk {
            queue: self.queue.clone(),
            pool: self.pool.clone(),
            nsid,
            block_bytes,
        }
    }
}

/// One namespace through one queue, in whole blocks.
#[derive(Clone)]
pub struct Disk {
    pub queue: IoQueue,
    pub pool: Pool,
    pub nsid: u32,
    pub block_bytes: usize,
}

impl Disk {
    pub async fn lease(&self, data: &[u8]) -> Lease {
        lease(&self.pool, data).await
    }

    fn blocks(&self, data: &[u8]) -> u32 {
        u32::try_from(data.len() / self.block_bytes).expect("few blocks")
    }

    pub async fn write(&self, lba: u64, data: &[u8], fua: bool) -> Result<(), ClientError> {
        let lease = self.lease(data).await;
        let (nsid, blocks) = (host::nsid(self.nsid), self.blocks(data));
        let written = self.queue.write(nsid, Lba(lba), blocks, lease, fua).await;
        written.map(drop)
    }

    pub async fn read(&self, lba: u64, blocks: u32) -> Result<Vec<u8>, ClientError> {
        let lease = self.pool.lease(blocks as usize * self.block_bytes).await;
        let nsid = host::nsid(self.nsid);
        let lease = self.queue.read(nsid, Lba(lba), blocks, lease).await?;
        Ok(lease.bytes().to_vec())
    }

    pub async fn compare(&self, lba: u64, data: &[u8]) -> Result<(), ClientError> {
        let lease = self.lease(data).await;
        let (nsid, blocks) = (host::nsid(self.nsid), self.blocks(data));
        let compared = self.queue.compare(nsid, Lba(lba), blocks, lease).await;
        compared.map(drop)
    }

    /// Writes `new` where the blocks hold `old`, atomically.
    pub async fn swap(&self, lba: u64, old: &[u8], new: &[u8]) -> Result<(), ClientError> {
        let (compare, write) = (self.lease(old).await, self.lease(new).await);
        let (nsid, blocks) = (host::nsid(self.nsid), self.blocks(old));
        let swapped = self
            .queue
            .compare_and_write(nsid, Lba(lba), blocks, compare, write);
        swapped.await.map(drop)
    }
}

/// Memory with `data` in it.
pub async fn lease(pool: &Pool, data: &[u8]) -> Lease {
    let lease = pool.lease(data.len()).await;
    lease.write_at(0, data);
    lease
}

/// Bytes that differ from place to place and from seed to seed.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let words = (0..(len as u64).div_ceil(8)).map(|index| {
        let word = (seed << 32 | index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (word ^ word >> 29 | 1).to_le_bytes()
    });
    let mut bytes: Vec<u8> = words.flatten().collect();
    bytes.truncate(len);
    bytes
}

/// The status a command ended with, which must not be success.
pub fn refusal<T>(result: Result<T, ClientError>) -> Status {
    match result {
        Ok(_) => panic!("the command succeeded"),
        Err(error) => match error.status() {
            Some(status) => status,
            None => panic!("no status, but: {error}"),
        },
    }
}

/// Runs all of them at once on this reactor; their results in the same order.
pub async fn all<F: Future>(work: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<Pin<Box<F>>> = work.into_iter().map(Box::pin).collect();
    let mut results: Vec<Option<F::Output>> = running.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        let mut left = false;
        for (future, result) in running.iter_mut().zip(&mut results) {
            if result.is_none() {
                match future.as_mut().poll(cx) {
                    Poll::Ready(value) => *result = Some(value),
                    Poll::Pending => left = true,
                }
            }
        }
        if left { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    results.into_iter().flatten().collect()
}

/// Runs both at once.
pub async fn both<A: Future, B: Future>(a: A, b: B) -> (A::Output, B::Output) {
    let (mut a, mut b) = (Box::pin(a), Box::pin(b));
    let (mut x, mut y) = (None, None);
    std::future::poll_fn(|cx| {
        if x.is_none()
            && let Poll::Ready(value) = a.as_mut().poll(cx)
        {
            x = Some(value);
        }
        if y.is_none()
            && let Poll::Ready(value) = b.as_mut().poll(cx)
        {
            y = Some(value);
        }
        match (x.take(), y.take()) {
            (Some(x), Some(y)) => Poll::Ready((x, y)),
            (first, second) => {
                (x, y) = (first, second);
                Poll::Pending
            }
        }
    })
    .await
}

/// What `work` gives within `limit`; it goes on otherwise.
pub async fn within<F: Future>(work: &mut Pin<Box<F>>, limit: Duration) -> Option<F::Output> {
    let mut sleep = Box::pin(penstock_reactor::sleep(limit));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(value) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(value));
        }
        sleep.as_mut().poll(cx).map(|_| None)
    })
    .await
}

/// With this block size; goes behind a namespace.
pub fn block_size(bytes: usize) -> String {
    format!("block_size_bytes = {bytes}\n\n")
}

/// A namespace that keeps nothing and takes its time.
pub fn slow_null(nsid: u32, latency_us: u64) -> String {
    format!(
        "[[subsystem.namespace]]\nnsid = {nsid}\nbackend = \"null\"\nsize_bytes = 16777216\n\
         latency_us = {latency_us}\n\n"
    )
}
