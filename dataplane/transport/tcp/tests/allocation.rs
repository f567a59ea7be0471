//! In steady state the read and write paths allocate nothing, on any connection, with digests or
//! without; and a connection's own memory stays small.
#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used, clippy::panic)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};

use common::host::{Host, Wishes, read, write, write_in_capsule};
use common::{Node, Options, patterned};
use penstock_transport_tcp::TcpConfig;

/// Counts what reactor threads allocate; test threads are not marked.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static LIVE_BYTES: AtomicI64 = AtomicI64::new(0);

thread_local! {
    static MARKED: Cell<bool> = const { Cell::new(false) };
}

fn note(bytes: i64) {
    if MARKED.try_with(Cell::get).unwrap_or(false) {
        if bytes > 0 {
            ALLOCATIONS.fetch_add(1, SeqCst);
        }
        LIVE_BYTES.fetch_add(bytes, SeqCst);
    }
}

// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as i64);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        note(-(layout.size() as i64));
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The counters are shared, so one test at a time.
static TURN: Mutex<()> = Mutex::new(());

fn node() -> Node {
    let options = Options {
        config: TcpConfig::default(),
        pool_bytes: 64 << 20,
        keep: false,
    };
    let node = Node::with(options);
    node.ask(|| MARKED.set(true));
    node
}

/// One round of everything: a burst of reads, in-capsule writes, and R2T writes small and large.
fn load(host: &mut Host, data: &[u8]) {
    let mut stream = Vec::new();
    for cid in 0..32 {
        stream.extend(host.command(&read(cid, 4096, 1)));
    }
    for cid in 32..64 {
        stream.extend(host.capsule(&write_in_capsule(cid, 4096), &data[..4096]));
    }
    host.send(&stream);
    let mut left = 64;
    while left > 0 {
        let _ = host.recv();
        left -= 1;
    }
    for len in [8192, 128 << 10] {
        host.send(&host.command(&write(100, len)));
        host.feed(100, &data[..len as usize], 128 << 10);
        assert_eq!(host.response().status.get(), 0);
    }
    host.send(&host.command(&read(101, 128 << 10, 1)));
    let _ = host.read_data(101);
}

#[test]
fn steady_state_allocates_nothing() {
    let _turn = TURN.lock().unwrap();
    let node = node();
    let data = patterned(1, 128 << 10);
    for digests in [false, true] {
        let wishes = Wishes {
            header_digest: digests,
            data_digest: digests,
            ..Wishes::default()
        };
        let mut host = Host::connected(node.address, wishes);
        (0..50).for_each(|_| load(&mut host, &data));
        let before = ALLOCATIONS.load(SeqCst);
        (0..50).for_each(|_| load(&mut host, &data));
        let after = ALLOCATIONS.load(SeqCst);
        assert_eq!(
            after - before,
            0,
            "digests {digests}: 50 loads of 67 commands"
        );
    }
}

#[test]
fn a_connection_is_small() {
    let _turn = TURN.lock().unwrap();
    let node = node();
    let data = patterned(1, 128 << 10);
    let mut first = Host::connected(node.address, Wishes::default());
    load(&mut first, &data);
    // The reactor's own tables keep the size they once had, so the second time counts.
    let mut before = 0;
    for _ in 0..2 {
        before = LIVE_BYTES.load(SeqCst);
        let hosts: Vec<Host> = (0..16)
            .map(|_| {
                let mut host = Host::connected(node.address, Wishes::default());
                // A queue full of commands at once, so that every slot exists.
                let hang = |cid| host.command(&common::host::plain(common::HANG, cid, 0));
                let stream: Vec<u8> = (0..128).flat_map(hang).collect();
                host.send(&stream);
                host
            })
            .collect();
        common::wait_for("commands", || node.seen.executing.load(SeqCst) == 16 * 128);
        let each = (LIVE_BYTES.load(SeqCst) - before) / 16;
        println!("{each} bytes a connection with 128 commands, futures included");
        assert!(each < 160 << 10, "{each} bytes a connection");
        drop(hosts);
        common::wait_for("the end", || node.connections() == 1);
    }
    let left = LIVE_BYTES.load(SeqCst) - before;
    assert!(left < 4 << 10, "{left} bytes stay after the connections");
}
