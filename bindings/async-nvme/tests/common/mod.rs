//! The driver on a software controller, on one thread, so that a seed decides everything.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "for tests only")]

use std::any::Any;
use std::cell::RefCell;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use penstock_async_nvme::soft::{SoftConfig, SoftController};
use penstock_async_nvme::{
    Buffers, Controller, ControllerConfig, ControllerError, ControllerMapping, ControllerMemory,
    DeviceMemory, Done, Io, Namespace, Notice, Pace, Queue, Regions, Verb,
};
use penstock_units::{Lba, Nsid};

/// Memory of a request: runs of memory that a `DeviceMemory` holds.
pub struct Runs {
    runs: Vec<(*mut u8, usize)>,
    /// Keeps them.
    _memory: Rc<dyn Any>,
}

// SAFETY: the runs lie in the memory held, as `Runs::new` checks, and never change.
unsafe impl Buffers for Runs {
    fn segment(&self, index: usize) -> Option<(*mut u8, usize)> {
        self.runs.get(index).copied()
    }
}

impl Runs {
    /// Offset and length of each run in `memory`.
    pub fn new(memory: &Rc<DeviceMemory>, runs: &[(usize, usize)]) -> Runs {
        Runs::of(memory.base(), memory.len(), runs, memory.clone())
    }

    /// The same in controller memory.
    pub fn in_controller(memory: &Rc<ControllerMemory>, runs: &[(usize, usize)]) -> Runs {
        Runs::of(memory.base(), memory.len(), runs, memory.clone())
    }

    fn of(base: NonNull<u8>, all: usize, runs: &[(usize, usize)], memory: Rc<dyn Any>) -> Runs {
        let run = |(offset, len): &(usize, usize)| {
            assert!(offset + len <= all);
            // SAFETY: inside the memory, as just checked.
            (unsafe { base.as_ptr().add(*offset) }, *len)
        };
        Runs {
            runs: runs.iter().map(run).collect(),
            _memory: memory,
        }
    }

    pub fn none(memory: &Rc<DeviceMemory>) -> Runs {
        Runs::new(memory, &[])
    }

    pub fn len(&self) -> usize {
        self.runs.iter().map(|(_, len)| len).sum()
    }

    pub fn fill(&self, mut from: &[u8]) {
        for (to, len) in &self.runs {
            let (part, rest) = from.split_at(*len);
            // SAFETY: the run is that long; no command has the memory while a test fills it.
            unsafe { std::ptr::copy(part.as_ptr(), *to, *len) };
            from = rest;
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (from, len) in &self.runs {
            let mut part = vec![0; *len];
            // SAFETY: as in `fill`.
            unsafe { std::ptr::copy(*from, part.as_mut_ptr(), *len) };
            bytes.extend(part);
        }
        bytes
    }
}

pub type TestQueue = Rc<RefCell<Queue<Runs, usize>>>;

thread_local! {
    /// Queues that see what the controller's keeper wants while it waits.
    static QUEUES: RefCell<Vec<TestQueue>> = const { RefCell::new(Vec::new()) };
}

/// Time that goes on when somebody waits, and has the model look.
pub struct Steps {
    soft: SoftController,
    now: AtomicU64,
}

impl Steps {
    pub fn pass(&self, ns: u64) -> u64 {
        let now = self.now.fetch_add(ns, Ordering::Relaxed) + ns;
        self.soft.step(now);
        now
    }
}

impl Pace for Steps {
    fn now_ns(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    fn pause(&self) {
        let now = self.pass(100_000);
        QUEUES.with_borrow(|queues| {
            for queue in queues {
                queue.borrow_mut().tick(now);
            }
        });
    }
}

pub fn small(io_queues: u16, queue_entries: u16) -> ControllerConfig {
    ControllerConfig {
        io_queues,
        queue_entries,
        io_timeout_ms: 50,
        admin_timeout_ms: 100,
        ..ControllerConfig::default()
    }
}

/// The driver and what it drives.
pub struct Bench {
    pub queues: Vec<TestQueue>,
    pub controller: Option<Controller>,
    pub namespaces: Vec<Namespace>,
    pub memory: Rc<DeviceMemory>,
    /// As much in controller memory, where the driver uses that and it has room.
    pub own_memory: Option<Rc<ControllerMemory>>,
    pub regions: Arc<Regions>,
    pub steps: Arc<Steps>,
    pub soft: SoftController,
    pub notices: Vec<Notice>,
}

/// Bytes of memory for payloads.
pub const MEMORY_BYTES: usize = 8 << 20;

impl Bench {
    pub fn start(
        soft: &SoftController,
        config: ControllerConfig,
    ) -> Result<(Controller, Arc<Steps>, Arc<Regions>), ControllerError> {
        let steps = Arc::new(Steps {
            soft: soft.clone(),
            now: AtomicU64::new(0),
        });
        let regions = Arc::new(Regions::new(soft.mapper()));
        let pace: Arc<dyn Pace> = steps.clone();
        let controller = Controller::start(soft.bar(), regions.clone(), pace, config)?;
        Ok((controller, steps, regions))
    }

    pub fn new(config: SoftConfig, driver: ControllerConfig) -> Bench {
        let soft = SoftController::new(config);
        let use_cmb = driver.submission_in_controller;
        let io_queues = driver.io_queues;
        let (mut controller, steps, regions) = Bench::start(&soft, driver).unwrap();
        if use_cmb {
            take_cmb(&mut controller, &soft);
        }
        let namespaces = controller.namespaces().unwrap();
        let memory = Rc::new(DeviceMemory::new(&regions, MEMORY_BYTES, None).unwrap());
        let queues: Vec<TestQueue> = (0..io_queues)
            .map(|_| Queue::open(controller.create_queue().unwrap()).unwrap())
            .map(|queue| Rc::new(RefCell::new(queue)))
            .collect();
        QUEUES.set(queues.clone());
        let pool = controller.controller_memory();
        let own_memory = pool.and_then(|pool| pool.take(MEMORY_BYTES).ok());
        Bench {
            queues,
            controller: Some(controller),
            namespaces,
            memory,
            own_memory: own_memory.map(Rc::new),
            regions,
            steps,
            soft,
            notices: Vec::new(),
        }
    }

    pub fn controller(&mut self) -> &mut Controller {
        self.controller.as_mut().expect("a controller")
    }

    /// A request on namespace 1.
    pub fn io(&self, verb: Verb, slba: u64, blocks: u64) -> Io {
        let namespace = &self.namespaces[0];
        Io {
            verb,
            nsid: Nsid::new(1).unwrap(),
            slba: Lba(slba),
            blocks,
            block_shift: namespace.block_size.unwrap().shift(),
            boundary_blocks: namespace.boundary_blocks,
        }
    }

    pub fn submit(&self, queue: usize, io: Io, memory: Runs, tag: usize) {
        self.queues[queue].borrow_mut().submit(io, memory, tag);
    }

    /// A round of everybody: doorbells, the model, completions, the keeper.
    pub fn round(&mut self, ns: u64) -> Vec<Done<Runs, usize>> {
        let mut ended = Vec::new();
        for queue in &self.queues {
            queue.borrow_mut().round_end();
        }
        let now = self.steps.pass(ns);
        for queue in &self.queues {
            let mut queue = queue.borrow_mut();
            queue.tick(now);
            while let Some(done) = queue.next_done() {
                ended.push(done);
            }
            queue.round_end();
        }
        if let Some(notice) = self.controller().service() {
            self.notices.push(notice);
        }
        ended
    }

    /// Rounds until all requests have ended.
    pub fn finish(&mut self) -> Vec<Done<Runs, usize>> {
        let mut ended = Vec::new();
        for _ in 0..10_000 {
            ended.extend(self.round(100_000));
            if self.queues.iter().all(|q| q.borrow().in_flight() == 0) {
                return ended;
            }
        }
        let left: usize = self.queues.iter().map(|q| q.borrow().in_flight()).sum();
        panic!("{left} requests never ended; notices {:?}", self.notices);
    }

    /// One request, to its end.
    pub fn run(&mut self, io: Io, memory: Runs) -> Done<Runs, usize> {
        self.submit(0, io, memory, 0);
        self.finish().pop().expect("one request ended")
    }

    #[track_caller]
    pub fn is_clean(&self) {
        assert_eq!(self.soft.violations(), Vec::<String>::new());
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // The queues first: the controller's end waits for those that are open.
        QUEUES.take();
        self.queues.clear();
    }
}

/// Has the driver use the model's controller memory.
pub fn take_cmb(controller: &mut Controller, soft: &SoftController) {
    let layout = controller.controller_memory_layout().unwrap();
    let (base, len) = soft.cmb_mapping().unwrap();
    let offset = usize::try_from(layout.offset_bytes).unwrap();
    let bytes = usize::try_from(layout.len_bytes).unwrap();
    assert!(offset + bytes <= len);
    // SAFETY: inside the mapping, as just checked.
    let base: NonNull<u8> = unsafe { base.add(offset) };
    let mapping = ControllerMapping {
        base,
        len: bytes,
        keeper: Arc::new(soft.clone()),
        export: None,
    };
    let address = soft.cmb_bus_address().unwrap() + layout.offset_bytes;
    controller.use_controller_memory(mapping, address).unwrap();
}
