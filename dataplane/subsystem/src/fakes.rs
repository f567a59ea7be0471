//! What the tests of this crate run on: a one-thread executor, a fake link, a fake device.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use penstock_block::{
    BlockDevice, BlockError, BlockQueue, Completer, Direction, Geometry, Op, Outcome, Request,
    Ticket,
};
use penstock_buffer::{Lease, Payload, Pool, PoolConfig};
use penstock_seam::{ConnectionControl, Link, LinkError};
use penstock_units::{BlockSize, Lba};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future to its end, sleeping while it waits for another thread.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = Box::pin(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            return value;
        }
        thread::park();
    }
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

struct Task {
    id: u64,
    future: Pin<Box<dyn Future<Output = ()>>>,
    flag: Arc<Flag>,
}

/// Tasks of one thread, run when told to.
#[derive(Default)]
pub struct Tasks {
    next: Cell<u64>,
    tasks: RefCell<VecDeque<Task>>,
    spawned: RefCell<Vec<Task>>,
    cancelled: RefCell<Vec<u64>>,
}

impl Tasks {
    /// Adds a task.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) -> u64 {
        let id = self.next.get();
        self.next.set(id + 1);
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        self.spawned.borrow_mut().push(Task {
            id,
            future: Box::pin(future),
            flag,
        });
        id
    }

    /// Drops a task's future (at the next run, where it is being run).
    pub fn cancel(&self, id: u64) {
        self.cancelled.borrow_mut().push(id);
    }

    /// Polls every task that was woken, until none is.
    pub fn run(&self) {
        loop {
            let mut tasks = self.tasks.take();
            tasks.extend(self.spawned.take());
            let mut progress = false;
            tasks.retain_mut(|task| {
                if self.cancelled.borrow().contains(&task.id) {
                    progress = true;
                    return false;
                }
                if !task.flag.0.swap(false, Ordering::Acquire) {
                    return true;
                }
                progress = true;
                let waker = Waker::from(Arc::clone(&task.flag));
                task.future
                    .as_mut()
                    .poll(&mut Context::from_waker(&waker))
                    .is_pending()
            });
            self.tasks.replace(tasks);
            if !progress && self.spawned.borrow().is_empty() {
                return;
            }
        }
    }
}

/// A pool as the tests need it.
pub fn pool() -> Pool {
    Pool::new(&PoolConfig {
        size_bytes: 8 << 20,
        lease_max_bytes: 1 << 20,
        hugepages: false,
        hugepages_required: false,
        lock: false,
        numa_node: None,
    })
    .expect("8 MiB are there")
}

/// How a [`FakeLink`] behaves; the test keeps one end.
#[derive(Default)]
pub struct LinkState {
    /// The host's data.
    pub data: RefCell<Vec<u8>>,
    /// While set, the host's data does not arrive.
    pub withhold: Cell<bool>,
    /// The data never arrives, for this reason.
    pub error: Cell<Option<LinkError>>,
    /// A digest is computed over replies.
    pub private: Cell<bool>,
    /// Set once the command can no longer be aborted.
    pub committed: Cell<bool>,
    /// Host memory offered to the command.
    pub host_memory: RefCell<Option<Lease>>,
    waker: RefCell<Option<Waker>>,
}

impl LinkState {
    /// A link over which the host sends `data`.
    pub fn new(data: &[u8]) -> Rc<LinkState> {
        let state = LinkState::default();
        state.data.replace(data.to_vec());
        Rc::new(state)
    }

    /// Lets the host's data arrive.
    pub fn let_through(&self) {
        self.withhold.set(false);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// A link that hands over what its state says.
pub struct FakeLink(pub Rc<LinkState>);

impl Link for FakeLink {
    fn host_memory(&self) -> Option<Payload> {
        self.0.host_memory.borrow().clone().map(Payload::from)
    }

    fn needs_private_payload(&self) -> bool {
        self.0.private.get()
    }

    fn committed(&self) {
        self.0.committed.set(true);
    }

    async fn receive(&self, into: Lease) -> Result<Lease, LinkError> {
        std::future::poll_fn(|cx| {
            if self.0.withhold.get() {
                self.0.waker.replace(Some(cx.waker().clone()));
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
        if let Some(error) = self.0.error.get() {
            return Err(error);
        }
        let data = self.0.data.borrow();
        assert!(
            data.len() >= into.len(),
            "asked for more than the host sends"
        );
        into.write_at(0, &data[..into.len()]);
        Ok(into)
    }
}

/// Notes what is done to a connection.
#[derive(Default)]
pub struct FakeControl {
    /// Reasons given to close.
    pub closes: RefCell<Vec<&'static str>>,
    /// (command, status) of aborts.
    pub aborts: RefCell<Vec<(u16, u16)>>,
    /// What abort answers.
    pub abort_works: Cell<bool>,
}

impl ConnectionControl for FakeControl {
    fn abort(&self, command_id: u16, status: u16) -> bool {
        self.aborts.borrow_mut().push((command_id, status));
        self.abort_works.get()
    }

    fn close(&self, reason: &'static str) {
        self.closes.borrow_mut().push(reason);
    }
}

/// A device in memory, with switches.
pub struct FakeDevice {
    name: String,
    block_size: BlockSize,
    /// Size in blocks.
    pub blocks: AtomicU64,
    /// Whether writes are refused.
    pub read_only: AtomicBool,
    /// Whether deallocate is offered.
    pub deallocate: AtomicBool,
    /// Whether the device lends its memory.
    pub lends: AtomicBool,
    /// While set, requests are held until [`release_held`].
    pub hold: AtomicBool,
    /// The next request ends so.
    pub fail: Mutex<Option<BlockError>>,
    /// Operations seen, in order.
    pub seen: Mutex<Vec<(Op, u64, u64)>>,
    data: Mutex<Vec<u8>>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FakeDevice {
    /// A device of `blocks` blocks, all zero.
    pub fn new(blocks: u64, block_size: BlockSize) -> Arc<FakeDevice> {
        let bytes = usize::try_from(blocks * block_size.bytes_u64()).expect("small");
        Arc::new(FakeDevice {
            name: "fake".to_owned(),
            block_size,
            blocks: AtomicU64::new(blocks),
            read_only: AtomicBool::new(false),
            deallocate: AtomicBool::new(true),
            lends: AtomicBool::new(false),
            hold: AtomicBool::new(false),
            fail: Mutex::new(None),
            seen: Mutex::new(Vec::new()),
            data: Mutex::new(vec![0; bytes]),
        })
    }

    /// The next request ends with `error`.
    pub fn fail_next(&self, error: BlockError) {
        *locked(&self.fail) = Some(error);
    }

    /// The operations seen so far, which are forgotten then.
    pub fn take_seen(&self) -> Vec<(Op, u64, u64)> {
        std::mem::take(&mut locked(&self.seen))
    }

    /// Writes to the media behind everybody's back.
    pub fn set_block(&self, lba: u64, byte: u8) {
        let size = self.block_size.bytes() as usize;
        let start = usize::try_from(lba).expect("small") * size;
        locked(&self.data)[start..start + size].fill(byte);
    }

    /// The first byte of a block.
    pub fn block(&self, lba: u64) -> u8 {
        locked(&self.data)[usize::try_from(lba).expect("small") * self.block_size.bytes() as usize]
    }

    fn perform(&self, request: &Request) -> Result<(), BlockError> {
        if let Some(error) = locked(&self.fail).take() {
            return Err(error);
        }
        let size = self.block_size.bytes_u64();
        let start = usize::try_from(request.lba.0 * size).expect("small");
        let len = usize::try_from(request.blocks * size).expect("small");
        let mut data = locked(&self.data);
        match request.op {
            Op::Read => {
                assert_eq!(request.payload.len(), len);
                request.payload.write_at(0, &data[start..start + len]);
            }
            Op::Write { .. } => {
                let mut at = start;
                for lease in request.payload.segments() {
                    lease.read_at(0, &mut data[at..at + lease.len()]);
                    at += lease.len();
                }
                assert_eq!(at, start + len);
            }
            Op::WriteZeroes { .. } | Op::Deallocate => data[start..start + len].fill(0),
            Op::Flush => {}
        }
        Ok(())
    }
}

impl BlockDevice for FakeDevice {
    fn geometry(&self) -> Geometry {
        Geometry {
            block_size: self.block_size,
            blocks: self.blocks.load(Ordering::Relaxed),
            volatile_cache: true,
            deallocate: self.deallocate.load(Ordering::Relaxed),
            deallocated_reads_zero: true,
            read_only: self.read_only.load(Ordering::Relaxed),
            optimal_blocks: 8,
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn open(self: Arc<Self>) -> Result<Rc<dyn BlockQueue>, BlockError> {
        if let Some(error) = locked(&self.fail).take() {
            return Err(error);
        }
        // Lent memory is a pool's here: safe code can make no other.
        let memory = block_on(pool().lease(1 << 20));
        memory.fill(0xa5);
        Ok(Rc::new(FakeQueue {
            device: self,
            memory,
        }))
    }
}

struct FakeQueue {
    device: Arc<FakeDevice>,
    memory: Lease,
}

struct Held {
    device: Arc<FakeDevice>,
    request: Request,
    completer: Completer,
}

thread_local! {
    static HELD: RefCell<VecDeque<Held>> = const { RefCell::new(VecDeque::new()) };
}

/// How many requests this thread's devices hold.
pub fn held() -> usize {
    HELD.with_borrow(VecDeque::len)
}

/// Performs the oldest request held; false where there is none.
pub fn release_held() -> bool {
    let Some(Held {
        device,
        request,
        completer,
    }) = HELD.with_borrow_mut(VecDeque::pop_front)
    else {
        return false;
    };
    let result = device.perform(&request);
    completer.complete(Outcome {
        result,
        payload: request.payload,
    });
    true
}

impl BlockQueue for FakeQueue {
    fn submit(&self, request: Request) -> Ticket {
        let device = &self.device;
        // A read of lent memory moves nothing and is not noted: it must not allocate.
        if device.lends.load(Ordering::Relaxed) {
            return Ticket::ready(Outcome {
                result: Ok(()),
                payload: request.payload,
            });
        }
        locked(&device.seen).push((request.op, request.lba.0, request.blocks));
        if device.hold.load(Ordering::Relaxed) {
            let (ticket, completer) = Ticket::pending();
            let device = Arc::clone(device);
            HELD.with_borrow_mut(|held| {
                held.push_back(Held {
                    device,
                    request,
                    completer,
                })
            });
            return ticket;
        }
        let result = device.perform(&request);
        Ticket::ready(Outcome {
            result,
            payload: request.payload,
        })
    }

    fn lend(&self, _direction: Direction, lba: Lba, blocks: u64) -> Option<Lease> {
        if !self.device.lends.load(Ordering::Relaxed) {
            return None;
        }
        let size = self.device.block_size.bytes_u64();
        let (at, len) = (lba.0 * size, blocks * size);
        self.memory
            .slice(usize::try_from(at).ok()?, usize::try_from(len).ok()?)
    }
}
