//! Reactors for a tool: start some, have each run a future, collect the results.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, channel};
use std::task::Waker;

use anyhow::{Context, anyhow};
use clap::ValueEnum;
use penstock_buffer::{Pool, PoolConfig};
use penstock_reactor::{PollMode, ReactorConfig, ReactorHandle, check_kernel, spawn};

/// What an idle reactor does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Poll {
    /// Polls on and on: lowest latency, a whole core
    Busy,
    /// Sleeps in the kernel after 100 microseconds without work
    #[default]
    Adaptive,
}

/// Microseconds without work before an adaptive reactor sleeps.
const IDLE_US: u32 = 100;

/// From how long a round is reported as stalled: a tool makes and checks data on its reactors, and
/// nobody but itself waits for it.
const STALL_MS: u32 = 2_000;

/// Runs on one reactor; the pool is that reactor's.
pub type Work<T> = Box<dyn FnOnce(Pool) -> Pin<Box<dyn Future<Output = anyhow::Result<T>>>> + Send>;

/// Started reactors; stopped when dropped.
pub struct Reactors {
    handles: Vec<ReactorHandle>,
}

impl Reactors {
    /// One reactor for each core named, or a single one that is not pinned.
    pub fn start(cores: &[usize], poll: Poll) -> anyhow::Result<Reactors> {
        check_kernel()?;
        let places: Vec<Option<usize>> = match cores {
            [] => vec![None],
            cores => cores.iter().map(|core| Some(*core)).collect(),
        };
        let mut reactors = Reactors {
            handles: Vec::new(),
        };
        for (id, core) in (0..).zip(places) {
            let poll = match poll {
                Poll::Busy => PollMode::Busy,
                Poll::Adaptive => PollMode::Adaptive { idle_us: IDLE_US },
            };
            let config = ReactorConfig {
                id,
                core,
                poll,
                stall_threshold_ms: STALL_MS,
                ..ReactorConfig::default()
            };
            reactors.handles.push(ReactorHandle::start(config, || {})?);
        }
        Ok(reactors)
    }

    pub fn count(&self) -> usize {
        self.handles.len()
    }

    /// Has reactor `index` make a pool and do the work; the result comes through the receiver.
    pub fn run<T: Send + 'static>(
        &self,
        index: usize,
        pool: PoolConfig,
        work: Work<T>,
    ) -> anyhow::Result<Receiver<anyhow::Result<T>>> {
        let handle = self
            .handles
            .get(index)
            .context("there is no such reactor")?;
        let (sender, receiver) = channel();
        handle.run(move || {
            spawn(async move {
                let result = match Pool::new(&pool) {
                    Ok(pool) => work(pool).await,
                    Err(error) => Err(error.into()),
                };
                // Who does not wait for it any more does not need it.
                let _ = sender.send(result);
            });
        })?;
        Ok(receiver)
    }

    /// The same on the first reactor, waiting for the result.
    pub fn run_here<T: Send + 'static>(
        &self,
        pool: PoolConfig,
        work: Work<T>,
    ) -> anyhow::Result<T> {
        let result = self.run(0, pool, work)?.recv();
        result.map_err(|_| anyhow!("the reactor ended before its work was done"))?
    }
}

impl Drop for Reactors {
    fn drop(&mut self) {
        for handle in &self.handles {
            handle.stop();
        }
        for handle in &self.handles {
            handle.join();
        }
    }
}

/// Tasks on one reactor that somebody waits for.
#[derive(Clone, Default)]
pub struct Crew(Rc<CrewState>);

#[derive(Default)]
struct CrewState {
    running: Cell<usize>,
    waiter: RefCell<Option<Waker>>,
}

/// Counts a task as running for as long as it lives, however it ends.
struct Member(Rc<CrewState>);

impl Crew {
    /// Spawns a task on this reactor.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.0.running.set(self.0.running.get() + 1);
        let member = Member(Rc::clone(&self.0));
        spawn(async move {
            task.await;
            drop(member);
        });
    }

    /// Waits until all have ended.
    pub async fn finished(&self) {
        poll_fn(|cx| {
            if self.0.running.get() == 0 {
                return std::task::Poll::Ready(());
            }
            *self.0.waiter.borrow_mut() = Some(cx.waker().clone());
            std::task::Poll::Pending
        })
        .await;
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let left = self.0.running.get() - 1;
        self.0.running.set(left);
        if left == 0
            && let Some(waker) = self.0.waiter.borrow_mut().take()
        {
            waker.wake();
        }
    }
}

/// A pool for `leases` leases of up to `lease_bytes`, besides what admin commands need.
pub fn pool_for(leases: u64, lease_bytes: u64) -> PoolConfig {
    const ADMIN_BYTES: u64 = 1 << 20;
    let lease = lease_bytes.next_power_of_two().max(64 * 1024);
    let run = lease_bytes.next_power_of_two().max(4096);
    let size_bytes = usize::try_from(leases * run + ADMIN_BYTES.max(lease)).unwrap_or(usize::MAX);
    let lease_max_bytes = usize::try_from(lease).unwrap_or(usize::MAX);
    PoolConfig {
        size_bytes,
        lease_max_bytes,
        ..PoolConfig::default()
    }
}
