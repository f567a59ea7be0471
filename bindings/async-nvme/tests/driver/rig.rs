//! A controller in software, a driver for it, and time that passes only when somebody waits.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use penstock_async_nvme::soft::{SoftConfig, SoftController};
use penstock_async_nvme::{
    Buffers, Controller, ControllerConfig, ControllerError, ControllerMapping, IoQueue, Namespace,
    Notice, Pace, Regions,
};
use penstock_buffer::{Lease, Payload, Pool, PoolConfig, pools_of_this_thread};
use penstock_units::Nsid;

/// How far time moves at every pause, in nanoseconds.
const STEP_NS: u64 = 100_000;

thread_local! {
    /// The queue pairs of the test, which go on while the keeper waits.
    static QUEUES: RefCell<Vec<Rc<IoQueue<Payload>>>> = const { RefCell::new(Vec::new()) };
}

/// Simulated time: a pause moves the clock, the controller and the test's queue pairs.
pub struct Steps {
    pub soft: Arc<SoftController>,
    now_ns: AtomicU64,
}

impl Steps {
    pub fn step(&self) {
        let now_ns = self.now_ns.fetch_add(STEP_NS, Ordering::Relaxed) + STEP_NS;
        self.soft.step(now_ns);
        let queues = QUEUES.with_borrow(Clone::clone);
        for queue in queues {
            queue.poll(now_ns);
        }
    }
}

impl Pace for Steps {
    fn now_ns(&self) -> u64 {
        self.now_ns.load(Ordering::Relaxed)
    }

    fn pause(&self) {
        self.step();
    }
}

pub struct Rig {
    pub soft: Arc<SoftController>,
    pub pace: Arc<Steps>,
    pub controller: Controller,
    pub queue: Rc<IoQueue<Payload>>,
    pub namespace: Namespace,
    pub pool: Pool,
}

pub fn start(
    soft: SoftConfig,
    config: ControllerConfig,
) -> Result<(Arc<SoftController>, Arc<Steps>, Controller), ControllerError> {
    let cmb = soft.cmb.clone();
    let soft = Arc::new(SoftController::new(soft));
    let pace = Arc::new(Steps {
        soft: Arc::clone(&soft),
        now_ns: AtomicU64::new(0),
    });
    let regions = Arc::new(Regions::new(soft.mapper()));
    let as_pace = Arc::clone(&pace) as Arc<dyn Pace>;
    let mut controller = Controller::start(soft.bar(), regions, as_pace, config)?;
    if let Some((base, len)) = soft.cmb_mapping() {
        let mapping = ControllerMapping {
            base,
            len,
            keeper: Arc::clone(&soft) as Arc<_>,
            export: None,
        };
        let legacy = cmb.is_some_and(|cmb| cmb.legacy);
        let address = match soft.cmb_bus_address() {
            Some(address) if legacy => address,
            _ => 0x70_0000_0000,
        };
        controller.use_controller_memory(mapping, address)?;
    }
    Ok((soft, pace, controller))
}

impl Rig {
    pub fn new(soft: SoftConfig, config: ControllerConfig) -> Rig {
        let (soft, pace, mut controller) = start(soft, config).expect("the controller starts");
        let pool = Pool::new(&PoolConfig {
            size_bytes: 32 << 20,
            lease_max_bytes: 8 << 20,
            hugepages: false,
            ..PoolConfig::default()
        })
        .expect("memory");
        for memory in pools_of_this_thread() {
            controller.regions().add_pool(&memory).expect("mapped");
        }
        let parts = controller.create_queue().expect("a queue pair");
        let queue = IoQueue::open(parts).expect("opened");
        QUEUES.with_borrow_mut(|queues| queues.push(Rc::clone(&queue)));
        let first = Nsid::new(1).expect("an nsid");
        let namespace = controller.namespace(first).expect("identify");
        Rig {
            soft,
            pace,
            controller,
            queue,
            namespace: namespace.expect("namespace 1"),
            pool,
        }
    }

    /// Steps until a future is ready.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..1_000_000 {
            if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
                return value;
            }
            self.pace.step();
        }
        panic!("a command never ended");
    }

    /// Steps until a future of another queue pair is ready.
    pub fn wait_polling<M: Buffers, T>(
        &self,
        queue: &IoQueue<M>,
        future: impl Future<Output = T>,
    ) -> T {
        let mut future = pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..1_000_000 {
            if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
                return value;
            }
            self.pace.step();
            queue.poll(self.pace.now_ns());
        }
        panic!("a command never ended");
    }

    /// Steps, and lets the keeper look, until a future is ready; what the keeper noticed.
    pub fn wait_kept<T>(&mut self, future: impl Future<Output = T>) -> (T, Vec<Notice>) {
        let mut future = pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        let mut notices = Vec::new();
        for _ in 0..1_000_000 {
            if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
                return (value, notices);
            }
            self.pace.step();
            notices.extend(self.controller.service());
        }
        panic!("a command never ended");
    }

    pub fn lease(&self, bytes: usize) -> Lease {
        self.pool.try_lease(bytes).expect("a lease")
    }

    /// A payload full of a pattern that differs from block to block.
    pub fn pattern(&self, bytes: usize, seed: u8) -> Payload {
        let lease = self.lease(bytes);
        let content: Vec<u8> = (0..bytes)
            .map(|at| (at / 512 + at % 251) as u8 ^ seed)
            .collect();
        lease.write_at(0, &content);
        Payload::from(lease)
    }

    pub fn bytes(payload: &Payload) -> Vec<u8> {
        payload
            .segments()
            .flat_map(|lease| lease.bytes().to_vec())
            .collect()
    }

    pub fn assert_clean(&self) {
        assert_eq!(self.soft.violations(), Vec::<String>::new());
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.assert_clean();
        }
        QUEUES.with_borrow_mut(Vec::clear);
    }
}
