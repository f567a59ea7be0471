//! The steady I/O path of every backend allocates nothing.
#![allow(clippy::expect_used)] // a test may stop at what should not happen

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use penstock_async_nvme::soft::{SoftCmb, SoftConfig, SoftController};
use penstock_async_nvme::{Controller, ControllerConfig, ControllerMapping, Regions, Sleeping};
use penstock_backend::{
    FileConfig, FileDevice, FileKind, MemoryConfig, MemoryDevice, NullConfig, NullDevice,
    NvmeDevice, NvmeDrive, NvmeDriveConfig,
};
use penstock_block::{BlockDevice, BlockQueue, Direction, Op, Request, Ticket};
use penstock_buffer::{Lease, Payload, Pool, PoolConfig};
use penstock_reactor::{ReactorConfig, ReactorHandle};
use penstock_units::{BlockSize, Lba, Nsid};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: passes every call on to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const SIZE: u64 = 8 << 20;
const DEPTH: usize = 32;

async fn lease(queue: &Rc<dyn BlockQueue>, pool: &Pool, direction: Direction, lba: u64) -> Lease {
    match queue.lend(direction, Lba(lba), 1) {
        Some(lease) => lease,
        None => pool.lease(4096).await,
    }
}

/// Writes and reads `DEPTH` blocks at a time, then flushes.
async fn round(queue: &Rc<dyn BlockQueue>, pool: &Pool) {
    let ways = [
        (Op::Write { fua: false }, Direction::ToDevice),
        (Op::Write { fua: true }, Direction::ToDevice),
        (Op::Read, Direction::FromDevice),
    ];
    for (op, direction) in ways {
        let mut tickets: [Option<Ticket>; DEPTH] = [const { None }; DEPTH];
        for (lba, slot) in (0..).zip(&mut tickets) {
            let payload = lease(queue, pool, direction, lba).await.into();
            *slot = Some(queue.submit(Request {
                op,
                lba: Lba(lba),
                blocks: 1,
                payload,
            }));
        }
        for ticket in tickets.into_iter().flatten() {
            assert_eq!(ticket.await.result, Ok(()));
        }
    }
    let flush = Request {
        op: Op::Flush,
        lba: Lba(0),
        blocks: 0,
        payload: Payload::none(),
    };
    assert_eq!(queue.submit(flush).await.result, Ok(()));
}

async fn steady_allocations(device: Arc<dyn BlockDevice>) -> u64 {
    // The pool comes first, as a reactor's does: a drive reaches it then.
    let pool = Pool::new(&PoolConfig {
        hugepages: false,
        ..PoolConfig::default()
    })
    .expect("64 MiB");
    let queue = device.open().expect("opens");
    for _ in 0..3 {
        round(&queue, &pool).await;
    }
    let before = ALLOCATIONS.get();
    for _ in 0..20 {
        round(&queue, &pool).await;
    }
    ALLOCATIONS.get() - before
}

fn soft_drive() -> SoftController {
    SoftController::new(SoftConfig {
        cmb: Some(SoftCmb::new(1 << 20)),
        ..SoftConfig::with_namespace(SIZE, 12)
    })
}

/// A drive that lends memory of its own for half of what is in flight.
fn nvme(soft: &SoftController) -> Arc<NvmeDevice> {
    let regions = Arc::new(Regions::new(soft.mapper()));
    let pace = Arc::new(Sleeping::default());
    let mut controller =
        Controller::start(soft.bar(), regions, pace, ControllerConfig::default()).expect("starts");
    let (base, len) = soft.cmb_mapping().expect("a buffer");
    let mapping = ControllerMapping {
        base,
        len,
        keeper: Arc::new(soft.clone()),
        export: None,
    };
    let address = soft.cmb_bus_address().expect("a buffer");
    controller
        .use_controller_memory(mapping, address)
        .expect("in use");
    let config = NvmeDriveConfig {
        payload_in_controller_bytes: (DEPTH as u64 / 2) << 12,
        ..NvmeDriveConfig::default()
    };
    let drive =
        NvmeDrive::start("nvme".to_owned(), controller, None, Vec::new(), &config).expect("starts");
    let nsid = Nsid::new(1).expect("not zero");
    drive.open(nsid).expect("a namespace")
}

#[test]
fn steady_requests_allocate_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let block_size = BlockSize::B4096;
    let memory = MemoryDevice::new(&MemoryConfig {
        name: "memory".to_owned(),
        size_bytes: SIZE,
        block_size,
        hugepages: false,
        numa_node: None,
    })
    .expect("8 MiB of memory");
    let null = NullDevice::new(&NullConfig {
        name: "null".to_owned(),
        size_bytes: SIZE,
        block_size,
        lease_max_bytes: 1 << 20,
        latency_us: 0,
    })
    .expect("2 MiB of memory");
    let file = FileDevice::open_path(&FileConfig {
        name: "file".to_owned(),
        path: folder.path().join("a"),
        kind: FileKind::Regular,
        size_bytes: Some(SIZE),
        create: true,
        block_size,
        direct: true,
        read_only: false,
    })
    .expect("a new file");
    let soft = soft_drive();
    let _thread = soft.run_thread();
    let drive = nvme(&soft);
    let devices: [Arc<dyn BlockDevice>; 4] = [memory, null, file, drive];
    let (send, receive) = mpsc::channel();
    let reactor = ReactorHandle::start(ReactorConfig::default(), move || {
        penstock_reactor::spawn(async move {
            for device in devices {
                let name = device.name().to_owned();
                let _ = send.send((name, steady_allocations(device).await));
            }
        });
    })
    .expect("a reactor");
    for _ in 0..4 {
        let (name, allocations) = receive
            .recv_timeout(Duration::from_secs(60))
            .expect("an answer in a minute");
        assert_eq!(allocations, 0, "{name}");
    }
    reactor.stop();
    assert!(reactor.join());
    assert!(ALLOCATIONS.get() > 0, "the counter counts");
}
