//! A read or write of lent memory, from capsule to reply: no allocation, a small future, few
//! nanoseconds; and lent memory that is not private is not used where a digest is computed.
#![allow(clippy::unwrap_used)] // a test may stop at what should not happen

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use penstock_block::{
    BlockDevice, BlockError, BlockQueue, Direction, Geometry, Outcome, Request, Ticket,
};
use penstock_buffer::{Lease, LeaseOwner, MemoryKind, Pool, PoolConfig};
use penstock_nvme::command::{BlockRange, flush};
use penstock_nvme::fabrics::{ConnectCommand, ConnectData, PropertyCommand, PropertySize};
use penstock_nvme::register::{Cc, OFFSET_CC};
use penstock_nvme::{IntoBytes, IoOpcode, Sqe};
use penstock_seam::{Command, Handler, Link, LinkError, Reply};
use penstock_subsystem::{
    Clock, NamespaceConfig, Session, SessionContext, SubsystemConfig, Target, TargetConfig,
};
use penstock_units::{BlockSize, Lba, Nsid};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: passes every call on to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
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

const BLOCK: usize = 4096;
const BLOCKS: usize = 256;

/// Memory as a device lends it: others write to it as well.
struct Lender;

impl LeaseOwner for Lender {
    fn retain(&self, _key: u32) {}
    fn release(&self, _key: u32) {}
    fn kind(&self) -> MemoryKind {
        MemoryKind::Device
    }
    fn is_private(&self) -> bool {
        false
    }
}

struct Memory;

impl BlockDevice for Memory {
    fn geometry(&self) -> Geometry {
        Geometry {
            block_size: BlockSize::B4096,
            blocks: BLOCKS as u64,
            volatile_cache: false,
            deallocate: true,
            deallocated_reads_zero: true,
            read_only: false,
            optimal_blocks: 1,
        }
    }

    fn name(&self) -> &str {
        "memory"
    }

    fn open(self: Arc<Self>) -> Result<Rc<dyn BlockQueue>, BlockError> {
        let pages: &'static mut [u8] = vec![0x3c; BLOCK * BLOCKS].leak();
        let start = NonNull::from(pages).cast();
        Ok(Rc::new(MemoryQueue {
            start,
            owner: Rc::new(Lender),
        }))
    }
}

struct MemoryQueue {
    start: NonNull<u8>,
    owner: Rc<Lender>,
}

impl BlockQueue for MemoryQueue {
    fn submit(&self, request: Request) -> Ticket {
        Ticket::ready(Outcome {
            result: Ok(()),
            payload: request.payload,
        })
    }

    fn lend(&self, _direction: Direction, lba: Lba, blocks: u64) -> Option<Lease> {
        let offset = usize::try_from(lba.0).ok()? * BLOCK;
        let len = u32::try_from(blocks).ok()? << 12;
        // SAFETY: the subsystem has checked the range, which lies within the leaked pages.
        let lease = unsafe {
            Lease::from_raw(
                self.start.add(offset),
                len,
                0,
                self.owner.clone() as Rc<dyn LeaseOwner>,
            )
        };
        Some(lease)
    }
}

/// A link of an in-capsule command: what it receives is there at once.
#[derive(Clone, Copy)]
struct ReadyLink {
    private: bool,
}

impl Link for ReadyLink {
    fn needs_private_payload(&self) -> bool {
        self.private
    }
    fn committed(&self) {}
    async fn receive(&self, into: Lease) -> Result<Lease, LinkError> {
        Ok(into)
    }
}

/// A link over which a Connect's data comes.
struct DataLink(Vec<u8>);

impl Link for DataLink {
    fn needs_private_payload(&self) -> bool {
        false
    }
    fn committed(&self) {}
    async fn receive(&self, into: Lease) -> Result<Lease, LinkError> {
        into.write_at(0, &self.0);
        Ok(into)
    }
}

fn now() -> u64 {
    thread_local! {
        static NOW: Cell<u64> = const { Cell::new(0) };
    }
    NOW.set(NOW.get() + 1);
    NOW.get()
}

fn finish<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("everything is there at once"),
    }
}

fn exec(session: &Rc<Session>, sqe: Sqe, data: &[u8]) -> Reply {
    let command = command(sqe, u32::try_from(data.len()).unwrap());
    finish(Rc::clone(session).execute(command, DataLink(data.to_vec())))
}

fn command(sqe: Sqe, data_len: u32) -> Command {
    Command {
        sqe: sqe.to_bytes(),
        data_len,
        received_ticks: now(),
    }
}

fn io_session() -> Rc<Session> {
    let clock = Clock {
        now,
        per_second: 1_000_000_000,
    };
    let target = Target::new(TargetConfig::new(clock));
    let nqn = "nqn.2024-01.com.example:hot";
    target
        .add_subsystem(SubsystemConfig::new(nqn, "1"))
        .unwrap();
    target
        .add_namespace(nqn, None, NamespaceConfig::default(), Arc::new(Memory))
        .unwrap();
    let config = PoolConfig {
        size_bytes: 4 << 20,
        hugepages: false,
        ..PoolConfig::default()
    };
    let pool = Pool::new(&config).unwrap();
    let dial = || {
        target.session(SessionContext {
            peer: "127.0.0.1:1".parse().unwrap(),
            local: "127.0.0.1:2".parse().unwrap(),
            pool: pool.clone(),
            runner: Arc::new(|_| false),
        })
    };
    let host = "nqn.2024-01.com.example:host";
    let connect = |session: &Rc<Session>, qid, cntlid| {
        let data = ConnectData::new([1; 16], cntlid, nqn, host).unwrap();
        let reply = exec(
            session,
            Sqe::from(ConnectCommand::new(qid, 128, 0)),
            data.as_bytes(),
        );
        assert_eq!(reply.status, 0);
        u16::try_from(reply.result & 0xffff).unwrap()
    };
    let admin = dial();
    let cntlid = connect(&admin, 0, 0xffff);
    let cc = Cc(0).with_en(true).with_iosqes(6).with_iocqes(4);
    let enable = PropertyCommand::set(OFFSET_CC, PropertySize::Four, u64::from(cc.0));
    assert_eq!(exec(&admin, Sqe::from(enable), &[]).status, 0);
    let io = dial();
    connect(&io, 1, cntlid);
    // The admin queue must live as long as the I/O queue.
    std::mem::forget(admin);
    io
}

fn sqe(opcode: IoOpcode) -> Sqe {
    BlockRange::new(Lba(3), 1)
        .encode(opcode, Nsid::new(1).unwrap())
        .unwrap()
}

#[test]
fn io_allocates_nothing() {
    let session = io_session();
    let all = [
        sqe(IoOpcode::Read),
        sqe(IoOpcode::Write),
        sqe(IoOpcode::WriteZeroes),
    ];
    let flush = flush(Nsid::new(1).unwrap());
    let link = ReadyLink { private: false };
    let private = ReadyLink { private: true };
    let round = || {
        for (sqe, len) in all.iter().zip([4096, 4096, 0]) {
            for link in [link, private] {
                let reply = finish(Rc::clone(&session).execute(command(*sqe, len), link));
                assert_eq!(reply.status, 0);
            }
        }
        let reply = finish(Rc::clone(&session).execute(command(flush, 0), link));
        assert_eq!(reply.status, 0);
    };
    round();
    let before = ALLOCATIONS.get();
    for _ in 0..100 {
        round();
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
}

#[test]
fn a_digest_is_never_computed_over_memory_that_others_write_to() {
    let session = io_session();
    let read = |private| {
        let command = command(sqe(IoOpcode::Read), 4096);
        let reply = finish(Rc::clone(&session).execute(command, ReadyLink { private }));
        reply.payload.single().map(Lease::kind)
    };
    assert_eq!(read(false), Some(MemoryKind::Device));
    assert_eq!(read(true), Some(MemoryKind::Pool));
    let snapshot = session.target().snapshot();
    assert_eq!(
        snapshot.namespaces[0].totals.path_read_bytes,
        [4096, 4096, 0, 0]
    );
}

#[test]
fn the_future_of_a_command_fits_a_slot() {
    let session = io_session();
    let future = session.execute(
        command(sqe(IoOpcode::Read), 4096),
        ReadyLink { private: false },
    );
    let size = size_of_val(&future);
    println!("future of a command: {size} bytes");
    assert!(size <= 1024, "128 slots are to stay under 128 KiB: {size}");
}

#[test]
fn the_time_of_a_lent_read_is_printed() {
    let session = io_session();
    let link = ReadyLink { private: false };
    let rounds = 200_000u32;
    for opcode in [IoOpcode::Read, IoOpcode::Write] {
        let command = command(sqe(opcode), 4096);
        let start = Instant::now();
        for _ in 0..rounds {
            let reply = finish(Rc::clone(&session).execute(black_box(command), link));
            assert_eq!(black_box(reply).status, 0);
        }
        let each = start.elapsed() / rounds;
        println!("{opcode}: {} ns in this build", each.as_nanos());
    }
}
