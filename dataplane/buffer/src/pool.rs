//! The pinned pool of one reactor.
//!
//! One mapping, cut by a buddy allocator into runs of 4 KiB times a power of two. Counts of holders
//! and free lists are side arrays, so the payload pages themselves are touched by payload only and
//! an idle pool stays small (unless it is locked). Once warm, leasing and dropping allocate nothing.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::ptr::NonNull;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::buddy::Buddy;
use crate::line::Line;
use crate::mapping::{self, Backing, HUGE_PAGE_BYTES, Mapping};
use crate::{Lease, LeaseOwner, MemoryKind};

/// Shortest run and alignment of every lease, in bytes.
const BLOCK_BYTES: usize = 4096;

/// How a pool is made.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// Size of the pool in bytes, rounded up to whole longest leases and hugepages.
    pub size_bytes: usize,
    /// The longest lease in bytes (the MDTS), a power of two.
    pub lease_max_bytes: usize,
    /// Whether to try hugepages first. Without any, normal pages serve, transparent hugepages where
    /// the kernel has them.
    pub hugepages: bool,
    /// Whether to have hugepages or no pool; counts with `hugepages` only.
    pub hugepages_required: bool,
    /// Whether to lock the memory (`mlock`); all of it is resident from the start then.
    pub lock: bool,
    /// The NUMA node to take pages from while it has any; `None` leaves it to the kernel.
    pub numa_node: Option<u32>,
}

impl Default for PoolConfig {
    /// 64 MiB, leases up to 1 MiB, hugepages where present, not locked, any NUMA node.
    fn default() -> PoolConfig {
        PoolConfig {
            size_bytes: 64 << 20,
            lease_max_bytes: 1 << 20,
            hugepages: true,
            hugepages_required: false,
            lock: false,
            numa_node: None,
        }
    }
}

/// Why memory could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The kernel refused the memory.
    #[error(
        "cannot map {size_bytes} bytes of memory: {source}; ask for less (buffer_pool_size_bytes for a pool, size_bytes for a memory namespace) or free memory"
    )]
    Map {
        /// What was asked for.
        size_bytes: usize,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Hugepages were demanded, and too few are free.
    #[error(
        "cannot have {size_bytes} bytes of hugepages: {} pages of 2 MiB must be free, and HugePages_Free in /proc/meminfo tells how many are; reserve more (sysctl vm.nr_hugepages, or hugepages= on the kernel's command line) or do not demand them (hugepages_required)", .size_bytes / HUGE_PAGE_BYTES
    )]
    Hugepages {
        /// What was asked for.
        size_bytes: usize,
    },
    /// The kernel refused to lock the memory.
    #[error("cannot lock {size_bytes} bytes of the buffer pool: {source}; RLIMIT_MEMLOCK is {}: raise it (`ulimit -l`, LimitMEMLOCK= in the systemd unit) or do not ask for locked memory", limit(*.limit_bytes))]
    Lock {
        /// What was to be locked.
        size_bytes: usize,
        /// RLIMIT_MEMLOCK in bytes; `None` without a limit.
        limit_bytes: Option<u64>,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The NUMA node does not exist or has no memory.
    #[error(
        "cannot take memory from NUMA node {node}: {source}; choose one that /sys/devices/system/node/has_memory lists"
    )]
    Numa {
        /// The node asked for.
        node: u32,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The numbers do not make a pool.
    #[error(
        "a buffer pool of {size_bytes} bytes with leases up to {lease_max_bytes} bytes is not possible: leases go up to a power of two from 4096 to the pool's size, and the pool is at most 8 TiB"
    )]
    Config {
        /// Size asked for.
        size_bytes: usize,
        /// Longest lease asked for.
        lease_max_bytes: usize,
    },
}

fn limit(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "unlimited".to_owned(), |bytes| format!("{bytes} bytes"))
}

/// What a pool has done and holds now.
#[derive(Clone, Copy, Debug, Default)]
pub struct PoolStats {
    /// Bytes leased now, each lease counted with the run it occupies (a power of two from 4 KiB).
    pub leased_bytes: usize,
    /// Size of the pool in bytes.
    pub size_bytes: usize,
    /// How many requests had to wait.
    pub waits: u64,
    /// Whether hugepages back the pool.
    pub hugepages: bool,
    /// How many requests wait now.
    pub waiting: usize,
}

/// A reactor's pinned pool. Cheap to clone; not `Send`.
#[derive(Clone)]
pub struct Pool {
    inner: Rc<Inner>,
}

struct Inner {
    memory: PoolMemory,
    kind: MemoryKind,
    state: RefCell<State>,
    blocks: u32,
    order_max: u8,
    hugepages: bool,
}

struct State {
    buddy: Buddy,
    /// Holders of the run that starts at each block.
    holders: Vec<u32>,
    line: Line,
    leased_blocks: u32,
    waits: u64,
}

thread_local! {
    /// The pools made on this thread.
    static POOLS: RefCell<Vec<Weak<Inner>>> = const { RefCell::new(Vec::new()) };
}

/// A pool's memory, for a device that shall reach it.
#[derive(Clone)]
pub struct PoolMemory {
    /// Where it starts.
    pub start: NonNull<u8>,
    /// Its length in bytes, whole pages.
    pub len_bytes: usize,
    /// Keeps it mapped, also after the pool has ended.
    pub keeper: Arc<dyn Any + Send + Sync>,
}

/// The memory of every pool of this thread that is the host's. Not for the I/O path: it allocates.
pub fn pools_of_this_thread() -> Vec<PoolMemory> {
    let memory = |inner: &Weak<Inner>| {
        let inner = inner.upgrade()?;
        Some(inner.memory.clone())
    };
    POOLS
        .try_with(|pools| {
            let mut pools = pools.borrow_mut();
            pools.retain(|pool| pool.strong_count() > 0);
            pools.iter().filter_map(memory).collect()
        })
        .unwrap_or_default()
}

impl Pool {
    /// Maps (and locks) the memory.
    ///
    /// # Errors
    /// [`PoolError`] where the numbers make no pool or the kernel refuses.
    pub fn new(config: &PoolConfig) -> Result<Pool, PoolError> {
        let (size, order_max) = shape(config)?;
        let blocks = u32::try_from(size / BLOCK_BYTES).map_err(|_| config_error(config))?;
        let required = config.hugepages && config.hugepages_required;
        let too_few = || PoolError::Hugepages { size_bytes: size };
        if required && !mapping::hugepages_available(size) {
            return Err(too_few());
        }
        let (mapping, hugepages) = map(size, config.hugepages)?;
        if required && !hugepages {
            return Err(too_few());
        }
        if let Some(node) = config.numa_node {
            mapping
                .prefer_node(0, size, node)
                .map_err(|source| PoolError::Numa { node, source })?;
        }
        if config.lock {
            mapping.lock(0, size).map_err(|source| PoolError::Lock {
                size_bytes: size,
                limit_bytes: mapping::memlock_limit(),
                source,
            })?;
        }
        let inner = Rc::new(Inner {
            memory: PoolMemory {
                start: mapping.base(),
                len_bytes: size,
                keeper: Arc::new(mapping),
            },
            kind: MemoryKind::Pool,
            state: RefCell::new(State::new(blocks, order_max)),
            blocks,
            order_max,
            hugepages,
        });
        // On a thread that is ending nobody asks any more.
        let _ = POOLS.try_with(|pools| pools.borrow_mut().push(Rc::downgrade(&inner)));
        Ok(Pool { inner })
    }

    /// Leases memory that is somebody else's, a drive's own for one: as many of its first bytes as
    /// whole longest leases take. The longest lease is `lease_max_bytes`, or less where the memory is
    /// shorter: the greatest power of two that fits.
    ///
    /// # Errors
    /// [`PoolError::Config`] where the memory is shorter than 4 KiB or `lease_max_bytes` is no power of
    /// two from there.
    ///
    /// # Safety
    /// The memory begins on a 4-KiB boundary, is valid for reads and writes as long as its keeper
    /// lives, and nobody else writes to it while it is leased.
    pub unsafe fn over(
        memory: PoolMemory,
        kind: MemoryKind,
        lease_max_bytes: usize,
    ) -> Result<Pool, PoolError> {
        let error = || PoolError::Config {
            size_bytes: memory.len_bytes,
            lease_max_bytes,
        };
        let longest = memory.len_bytes.checked_ilog2().ok_or_else(error)?;
        let lease_max = lease_max_bytes.min(1 << longest);
        if !lease_max_bytes.is_power_of_two() || lease_max < BLOCK_BYTES {
            return Err(error());
        }
        let blocks = memory.len_bytes / lease_max * (lease_max / BLOCK_BYTES);
        let blocks = u32::try_from(blocks)
            .ok()
            .filter(|blocks| *blocks <= 1 << 31)
            .ok_or_else(error)?;
        let order = (lease_max / BLOCK_BYTES).trailing_zeros();
        let order_max = u8::try_from(order).map_err(|_| error())?;
        Ok(Pool {
            inner: Rc::new(Inner {
                memory,
                kind,
                state: RefCell::new(State::new(blocks, order_max)),
                blocks,
                order_max,
                hugepages: false,
            }),
        })
    }

    /// The longest lease in bytes.
    pub fn lease_max_bytes(&self) -> usize {
        BLOCK_BYTES << self.inner.order_max
    }

    /// A lease of `len` bytes, contiguous, at least 4-KiB aligned, or `None` where none is free now,
    /// somebody waits in line already, or `len` is more than [`Pool::lease_max_bytes`].
    pub fn try_lease(&self, len: usize) -> Option<Lease> {
        let order = self.inner.order_for(len)?;
        let block = {
            let state = &mut *self.inner.state.borrow_mut();
            if !state.line.is_empty() {
                return None;
            }
            state.take(order)?
        };
        Some(self.inner.lease(block, len))
    }

    /// A lease of `len` bytes (contiguous, at least 4-KiB aligned); waits in line (first come, first
    /// served) while none is free. Dropping the future leaves the line. Lengths above
    /// [`Pool::lease_max_bytes`] can never be served: the caller checks them before (MDTS); here
    /// such a request is logged and waits for ever.
    pub fn lease(&self, len: usize) -> impl Future<Output = Lease> + 'static {
        LeaseFuture {
            inner: Rc::clone(&self.inner),
            len,
            stage: Stage::Start,
        }
    }

    /// What the pool holds now.
    pub fn stats(&self) -> PoolStats {
        let state = self.inner.state.borrow();
        PoolStats {
            leased_bytes: state.leased_blocks as usize * BLOCK_BYTES,
            size_bytes: self.inner.blocks as usize * BLOCK_BYTES,
            waits: state.waits,
            hugepages: self.inner.hugepages,
            waiting: state.line.len(),
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("stats", &self.stats())
            .finish()
    }
}

fn config_error(config: &PoolConfig) -> PoolError {
    PoolError::Config {
        size_bytes: config.size_bytes,
        lease_max_bytes: config.lease_max_bytes,
    }
}

/// Size in bytes and order of the longest lease.
fn shape(config: &PoolConfig) -> Result<(usize, u8), PoolError> {
    let max = config.lease_max_bytes;
    if !max.is_power_of_two() || max < BLOCK_BYTES || config.size_bytes < max {
        return Err(config_error(config));
    }
    let size = config
        .size_bytes
        .checked_next_multiple_of(max.max(HUGE_PAGE_BYTES))
        .ok_or_else(|| config_error(config))?;
    let order = (max / BLOCK_BYTES).trailing_zeros();
    // An index + 1 and a run's end must fit 31 bits.
    if size / BLOCK_BYTES > 1 << 31 {
        return Err(config_error(config));
    }
    u8::try_from(order)
        .map(|order| (size, order))
        .map_err(|_| config_error(config))
}

/// Maps `size` bytes (whole hugepages), and whether by hugepages.
pub(crate) fn map(size: usize, hugepages: bool) -> Result<(Mapping, bool), PoolError> {
    let error = |source| PoolError::Map {
        size_bytes: size,
        source,
    };
    if hugepages && mapping::hugepages_available(size) {
        let mapping = Mapping::reserve(size).map_err(error)?;
        match mapping.commit(0, size, Backing::Hugetlb) {
            Ok(()) => return Ok((mapping, true)),
            Err(e) => tracing::info!(size, error = %e, "hugepages went away; using normal pages"),
        }
    }
    let mapping = Mapping::reserve(size).map_err(error)?;
    mapping
        .commit(0, size, Backing::Transparent)
        .map_err(error)?;
    Ok((mapping, false))
}

impl State {
    fn new(blocks: u32, order_max: u8) -> State {
        State {
            buddy: Buddy::new(blocks, order_max),
            holders: vec![0; blocks as usize],
            line: Line::new(),
            leased_blocks: 0,
            waits: 0,
        }
    }

    fn take(&mut self, order: u8) -> Option<u32> {
        let block = self.buddy.take(order)?;
        self.holders[block as usize] = 1;
        self.leased_blocks += 1 << order;
        Some(block)
    }

    fn give(&mut self, block: u32) {
        self.leased_blocks -= 1 << self.buddy.order_of(block);
        self.buddy.give(block);
    }
}

impl Inner {
    fn order_for(&self, len: usize) -> Option<u8> {
        let blocks = len
            .div_ceil(BLOCK_BYTES)
            .checked_next_power_of_two()?
            .max(1);
        let order = u8::try_from(blocks.trailing_zeros()).ok()?;
        (order <= self.order_max).then_some(order)
    }

    /// The handle on a run just taken; it counts one holder already.
    fn lease(self: &Rc<Inner>, block: u32, len: usize) -> Lease {
        let owner: Rc<dyn LeaseOwner> = Rc::<Inner>::clone(self);
        // SAFETY: a taken block's run lies inside the memory.
        let ptr = unsafe { self.memory.start.add(block as usize * BLOCK_BYTES) };
        // `order_for` bounds len by the longest lease, and that by the number of blocks.
        let len = u32::try_from(len).unwrap_or(0);
        // SAFETY: the run is valid memory as long as its keeper lives, which the owner holds; it was
        // marked taken with one holder and goes to nobody else until that count is zero again.
        unsafe { Lease::from_raw(ptr, len, block, owner) }
    }

    /// Serves the line from its front for as long as memory lasts.
    fn serve(&self) {
        loop {
            let waker = {
                let state = &mut *self.state.borrow_mut();
                let Some(order) = state.line.front_order() else {
                    return;
                };
                let Some(block) = state.take(order) else {
                    return;
                };
                state.line.grant_front(block)
            };
            // Outside the borrow: a waker runs code that is not ours.
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    fn give(&self, block: u32) {
        let waited_for = {
            let state = &mut *self.state.borrow_mut();
            state.give(block);
            !state.line.is_empty()
        };
        if waited_for {
            self.serve();
        }
    }
}

impl LeaseOwner for Inner {
    fn retain(&self, key: u32) {
        let holders = &mut self.state.borrow_mut().holders[key as usize];
        // Wrapping to zero would free memory in use; 2^32 holders need 160 GiB of handles.
        *holders = holders
            .checked_add(1)
            .unwrap_or_else(|| std::process::abort());
    }

    fn release(&self, key: u32) {
        {
            let holders = &mut self.state.borrow_mut().holders[key as usize];
            debug_assert!(*holders > 0, "block {key} released too often");
            *holders -= 1;
            if *holders > 0 {
                return;
            }
        }
        self.give(key);
    }

    fn kind(&self) -> MemoryKind {
        self.kind
    }
}

enum Stage {
    Start,
    Waiting(u32),
    Over,
}

struct LeaseFuture {
    inner: Rc<Inner>,
    len: usize,
    stage: Stage,
}

impl LeaseFuture {
    fn start(&mut self, cx: &mut Context<'_>) -> Poll<Lease> {
        let Some(order) = self.inner.order_for(self.len) else {
            self.stage = Stage::Over;
            tracing::error!(
                len = self.len,
                "lease longer than the pool's longest; check MDTS"
            );
            return Poll::Pending;
        };
        let taken = {
            let state = &mut *self.inner.state.borrow_mut();
            if state.line.is_empty() {
                state.take(order)
            } else {
                None
            }
        };
        if let Some(block) = taken {
            self.stage = Stage::Over;
            return Poll::Ready(self.inner.lease(block, self.len));
        }
        let waker = cx.waker().clone();
        let state = &mut *self.inner.state.borrow_mut();
        state.waits += 1;
        self.stage = Stage::Waiting(state.line.join(order, waker));
        Poll::Pending
    }
}

impl Future for LeaseFuture {
    type Output = Lease;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Lease> {
        match self.stage {
            Stage::Start => self.start(cx),
            Stage::Over => Poll::Pending,
            Stage::Waiting(id) => {
                let waker = cx.waker().clone();
                // Bound first: an old waker is dropped after the borrow has ended.
                let answer = self.inner.state.borrow_mut().line.poll(id, waker);
                match answer {
                    Ok(block) => {
                        self.stage = Stage::Over;
                        Poll::Ready(self.inner.lease(block, self.len))
                    }
                    Err(_old_waker) => Poll::Pending,
                }
            }
        }
    }
}

impl Drop for LeaseFuture {
    fn drop(&mut self) {
        if let Stage::Waiting(id) = self.stage {
            let (granted, _waker) = self.inner.state.borrow_mut().line.leave(id);
            match granted {
                Some(block) => self.inner.give(block),
                // Whoever stood behind may need less.
                None => self.inner.serve(),
            }
        }
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
