//! A namespace: a block device under a number, as all reactors share it ([`Namespace`]) and as one
//! reactor uses it ([`NamespaceHere`]).

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use penstock_block::{BlockDevice, BlockError, BlockQueue, Geometry, Outcome, Request, Ticket};
use penstock_units::{BlockSize, Nsid};

use crate::fence::{DrainToken, Fence, NotRaised, Raised, WriteCount};
use crate::local::{Home, lock, unique_id};
use crate::metrics::{NamespaceShard, NamespaceTotals};

/// Identity of a namespace, as Identify reports it. All-zero means not given; at least one should
/// be, so that hosts recognise the namespace on every path (Base 2.1, 4.7.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamespaceConfig {
    /// Namespace UUID, network byte order.
    pub uuid: [u8; 16],
    /// Namespace globally unique identifier.
    pub nguid: [u8; 16],
    /// IEEE extended unique identifier.
    pub eui64: [u8; 8],
}

/// A namespace of a subsystem, shared by all reactors.
pub struct Namespace {
    nsid: Nsid,
    /// Tells namespaces apart that had the same number one after the other.
    uid: u64,
    config: NamespaceConfig,
    device: Arc<dyn BlockDevice>,
    block_size: BlockSize,
    blocks: AtomicU64,
    read_only: AtomicBool,
    shards: Mutex<Vec<Arc<NamespaceShard>>>,
    fence: Fence,
}

impl Namespace {
    /// A namespace on `device`.
    pub fn new(nsid: Nsid, config: NamespaceConfig, device: Arc<dyn BlockDevice>) -> Namespace {
        let geometry = device.geometry();
        Namespace {
            nsid,
            uid: unique_id(),
            config,
            block_size: geometry.block_size,
            blocks: AtomicU64::new(geometry.blocks),
            read_only: AtomicBool::new(geometry.read_only),
            device,
            shards: Mutex::default(),
            fence: Fence::default(),
        }
    }

    /// Namespace identifier.
    pub fn nsid(&self) -> Nsid {
        self.nsid
    }

    /// Identity.
    pub fn config(&self) -> &NamespaceConfig {
        &self.config
    }

    /// The device behind it.
    pub fn device(&self) -> &Arc<dyn BlockDevice> {
        &self.device
    }

    /// Size and abilities now.
    pub fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    /// Logical blocks, as hosts were told last.
    #[inline]
    pub fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed)
    }

    /// Whether writes are refused.
    #[inline]
    pub fn read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed)
    }

    /// Asks the device for its size again. True where something changed for hosts.
    pub fn refresh(&self) -> bool {
        let geometry = self.device.geometry();
        let blocks = self.blocks.swap(geometry.blocks, Ordering::Relaxed);
        let read_only = self.read_only.swap(geometry.read_only, Ordering::Relaxed);
        blocks != geometry.blocks || read_only != geometry.read_only
    }

    /// Counters summed over reactors.
    pub fn totals(&self, ticks_per_second: u64) -> NamespaceTotals {
        let shards = lock(&self.shards).clone();
        NamespaceTotals::sum(shards.iter().map(Arc::as_ref), ticks_per_second)
    }

    /// Waits until every write that began before has ended, on all reactors. Of a namespace that was
    /// taken away this means that nothing of it reaches the device any more, once that refuses what
    /// comes later. False where a reactor cannot be reached.
    pub async fn drained(&self) -> bool {
        self.fence.raise(drain_on).await.is_ok()
    }

    /// A shard nobody writes to: a used one that its reactor gave back, or a new one.
    fn take_shard(&self) -> Arc<NamespaceShard> {
        let mut shards = lock(&self.shards);
        if let Some(free) = shards.iter().find(|shard| Arc::strong_count(shard) == 1) {
            return Arc::clone(free);
        }
        let shard = Arc::new(NamespaceShard::default());
        shards.push(Arc::clone(&shard));
        shard
    }
}

thread_local! {
    static OPEN: RefCell<HashMap<u64, Weak<NamespaceHere>>> = RefCell::new(HashMap::new());
}

/// A namespace on this reactor: its queue to the device, its counters, its writes in progress.
/// Shared by the reactor's connections.
pub struct NamespaceHere {
    ns: Arc<Namespace>,
    queue: Rc<dyn BlockQueue>,
    shard: Arc<NamespaceShard>,
    writes: WriteCount,
    key: u64,
}

impl NamespaceHere {
    /// This reactor's view of `ns`, made on first use.
    ///
    /// # Errors
    /// What the device says to being opened here.
    pub fn open(ns: &Arc<Namespace>, home: &Home) -> Result<Rc<NamespaceHere>, BlockError> {
        if let Some(here) = find(ns.uid) {
            return Ok(here);
        }
        let queue = Arc::clone(&ns.device).open()?;
        let here = Rc::new(NamespaceHere {
            ns: Arc::clone(ns),
            queue,
            shard: ns.take_shard(),
            writes: WriteCount::default(),
            key: unique_id(),
        });
        OPEN.with_borrow_mut(|map| map.insert(ns.uid, Rc::downgrade(&here)));
        KEYS.with_borrow_mut(|map| map.insert(here.key, Rc::downgrade(&here)));
        ns.fence.join(here.key, home.clone());
        Ok(here)
    }

    /// The namespace.
    #[inline]
    pub fn namespace(&self) -> &Arc<Namespace> {
        &self.ns
    }

    /// Logical block size.
    #[inline]
    pub fn block_size(&self) -> BlockSize {
        self.ns.block_size
    }

    /// This reactor's queue to the device.
    #[inline]
    pub fn queue(&self) -> &Rc<dyn BlockQueue> {
        &self.queue
    }

    /// This reactor's counters.
    #[inline]
    pub fn shard(&self) -> &NamespaceShard {
        &self.shard
    }

    /// Begins a write; waits while a fused operation has the namespace for itself.
    #[inline]
    pub async fn begin_write(self: &Rc<Self>) -> Writing {
        while self.ns.fence.raised() {
            self.ns.fence.lowered().await;
        }
        self.begin_write_fenced()
    }

    /// Begins a write; `None` while a fused operation has the namespace for itself.
    #[inline]
    pub fn try_begin_write(self: &Rc<Self>) -> Option<Writing> {
        (!self.ns.fence.raised()).then(|| self.begin_write_fenced())
    }

    /// Waits until no fused operation has the namespace.
    pub async fn fence_lowered(&self) {
        self.ns.fence.lowered().await;
    }

    /// Begins a write of the fused operation that holds the fence.
    #[inline]
    pub fn begin_write_fenced(self: &Rc<Self>) -> Writing {
        self.writes.begin();
        Writing(Rc::clone(self))
    }

    /// Waits until this caller is alone with the namespace, on all reactors.
    ///
    /// # Errors
    /// [`NotRaised`] where a reactor cannot be reached.
    pub async fn exclusive(&self) -> Result<Raised<'_>, NotRaised> {
        self.ns.fence.raise(drain_on).await
    }
}

impl Drop for NamespaceHere {
    fn drop(&mut self) {
        self.ns.fence.leave(self.key);
        let _ = KEYS.try_with(|map| map.borrow_mut().remove(&self.key));
        let _ = OPEN.try_with(|map| {
            let mut map = map.borrow_mut();
            if map
                .get(&self.ns.uid)
                .is_some_and(|known| known.strong_count() == 0)
            {
                map.remove(&self.ns.uid);
            }
        });
    }
}

thread_local! {
    static KEYS: RefCell<HashMap<u64, Weak<NamespaceHere>>> = RefCell::new(HashMap::new());
}

fn find(uid: u64) -> Option<Rc<NamespaceHere>> {
    OPEN.with_borrow(|map| map.get(&uid).and_then(Weak::upgrade))
}

/// Runs on a reactor that a fused operation waits for.
fn drain_on(key: u64, token: DrainToken) {
    match KEYS.with_borrow(|map| map.get(&key).and_then(Weak::upgrade)) {
        Some(here) => here.writes.when_drained(token),
        // Closed meanwhile: every write holds the view, so none is left.
        None => token.done(),
    }
}

/// A write in progress on this reactor.
pub struct Writing(Rc<NamespaceHere>);

impl Drop for Writing {
    #[inline]
    fn drop(&mut self) {
        self.0.writes.end();
    }
}

/// Writes that go on in devices although the connections they came by are dead; one count for each
/// host of a subsystem. A new controller of the host becomes ready at zero, so that an old write
/// can never land on top of a newer one.
pub type Debt = Arc<AtomicU64>;

/// Counts as one unfinished write while it lives.
pub struct DebtHold(Debt);

impl DebtHold {
    /// Adds to the debt.
    pub fn new(debt: &Debt) -> DebtHold {
        debt.fetch_add(1, Ordering::Release);
        DebtHold(Arc::clone(debt))
    }
}

impl Drop for DebtHold {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// A request that a device works on. A read may be dropped; a write that is dropped with its
/// connection is followed to its end.
pub struct DeviceOp {
    ticket: Ticket,
    write: Option<(Writing, Debt)>,
}

impl DeviceOp {
    /// Starts a request that changes nothing.
    #[inline]
    pub fn read(here: &NamespaceHere, request: Request) -> DeviceOp {
        DeviceOp {
            ticket: here.queue.submit(request),
            write: None,
        }
    }

    /// Starts a request that changes media.
    #[inline]
    pub fn write(
        here: &NamespaceHere,
        request: Request,
        writing: Writing,
        debt: &Debt,
    ) -> DeviceOp {
        DeviceOp {
            ticket: here.queue.submit(request),
            write: Some((writing, Arc::clone(debt))),
        }
    }
}

impl Future for DeviceOp {
    type Output = Outcome;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let outcome = Pin::new(&mut self.ticket).poll(cx);
        if outcome.is_ready() {
            self.write = None;
        }
        outcome
    }
}

impl Drop for DeviceOp {
    fn drop(&mut self) {
        if let Some((writing, debt)) = self.write.take() {
            let gone = Ticket::ready(Outcome {
                result: Err(BlockError::Aborted),
                payload: penstock_buffer::Payload::none(),
            });
            follow(std::mem::replace(&mut self.ticket, gone), writing, &debt);
        }
    }
}

thread_local! {
    static ORPHANS: RefCell<HashMap<u64, Orphan>> = RefCell::new(HashMap::new());
}

struct Orphan {
    ticket: Ticket,
    _writing: Writing,
    _debt: DebtHold,
}

/// Woken (on this thread) by the orphan's completer.
struct OrphanWaker(u64);

impl Wake for OrphanWaker {
    fn wake(self: Arc<Self>) {
        poll_orphan(self.0);
    }
}

fn follow(ticket: Ticket, writing: Writing, debt: &Debt) {
    let key = unique_id();
    let orphan = Orphan {
        ticket,
        _writing: writing,
        _debt: DebtHold::new(debt),
    };
    ORPHANS.with_borrow_mut(|map| map.insert(key, orphan));
    poll_orphan(key);
}

fn poll_orphan(key: u64) {
    // Taken out while polled: its end may wake others, who must find the map free.
    let Some(mut orphan) = ORPHANS.with_borrow_mut(|map| map.remove(&key)) else {
        return;
    };
    let waker = Waker::from(Arc::new(OrphanWaker(key)));
    let ended = Pin::new(&mut orphan.ticket)
        .poll(&mut Context::from_waker(&waker))
        .is_ready();
    if !ended {
        ORPHANS.with_borrow_mut(|map| map.insert(key, orphan));
    }
}
