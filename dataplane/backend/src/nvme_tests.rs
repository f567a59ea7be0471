use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_async_nvme::soft::{Fault, MediaFault, SoftCmb, SoftConfig, SoftController};
use penstock_async_nvme::{
    Controller, ControllerConfig, ControllerMapping, Event, QueueInterrupt, Regions, Sleeping,
};
use penstock_block::{BlockDevice, BlockError, BlockQueue, Direction, Op};
use penstock_buffer::{Lease, MemoryKind};
use penstock_nvme::IoOpcode;
use penstock_units::{Lba, Nsid};

use crate::nvme::{DriveError, DriveMemory, NvmeDevice, NvmeDrive, NvmeDriveConfig, RequestKind};
use crate::testing::{Bytes, on_reactor, pattern, request};

/// A drive in software that runs by itself, and its first namespace.
struct Rig {
    drive: Arc<NvmeDrive>,
    device: Arc<NvmeDevice>,
    soft: SoftController,
    /// Held by whoever has the drive's own memory mapped.
    mapped: Arc<()>,
    _thread: penstock_async_nvme::soft::SoftThread,
}

fn nsid(number: u32) -> Nsid {
    Nsid::new(number).unwrap()
}

fn rig(soft: SoftConfig) -> Rig {
    try_rig(soft, 0, false).unwrap()
}

fn interrupting(soft: SoftConfig) -> Rig {
    try_rig(soft, 0, true).unwrap()
}

/// A vector and an event for each of two queue pairs.
fn interrupts(soft: &SoftController) -> Vec<QueueInterrupt> {
    let of = |vector| {
        let event = Event::new().unwrap();
        let signalled = event.clone();
        soft.set_interrupt(vector, move || signalled.signal());
        QueueInterrupt { vector, event }
    };
    vec![of(1), of(2)]
}

/// With as much of the drive's own memory for payload.
fn try_rig(
    soft: SoftConfig,
    payload_in_controller_bytes: u64,
    interrupting: bool,
) -> Result<Rig, DriveError> {
    let config = NvmeDriveConfig {
        reactors: 2,
        payload_in_controller_bytes,
        ..NvmeDriveConfig::default()
    };
    let soft = SoftController::new(soft);
    let interrupts = match interrupting {
        true => interrupts(&soft),
        false => Vec::new(),
    };
    let thread = soft.run_thread();
    let mut controller = Controller::start(
        soft.bar(),
        Arc::new(Regions::new(soft.mapper())),
        Arc::new(Sleeping::default()),
        ControllerConfig {
            io_queues: 2,
            ..ControllerConfig::default()
        },
    )
    .unwrap();
    let mapped = Arc::new(());
    if let Some((base, len)) = soft.cmb_mapping() {
        let mapping = ControllerMapping {
            base,
            len,
            keeper: Arc::new((soft.clone(), Arc::clone(&mapped))),
            export: None,
        };
        let address = soft.cmb_bus_address().unwrap();
        controller.use_controller_memory(mapping, address).unwrap();
    }
    let drive = NvmeDrive::start("soft".to_owned(), controller, None, interrupts, &config)?;
    let device = drive.open(nsid(1))?;
    Ok(Rig {
        drive,
        device,
        soft,
        mapped,
        _thread: thread,
    })
}

fn plain() -> Rig {
    rig(SoftConfig::with_namespace(64 << 20, 9))
}

/// The rig's device on this reactor, with a pool that the drive reaches.
fn open(device: &Arc<NvmeDevice>) -> Bytes {
    // The pool comes first, as a reactor's does.
    let pool = crate::testing::pool();
    let queue = Arc::clone(device).open().unwrap();
    Bytes { queue, pool }
}

fn wait_until(what: &str, reached: impl Fn() -> bool) {
    let started = Instant::now();
    while !reached() {
        assert!(started.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn blocks_go_to_the_drive_and_back() {
    let rig = plain();
    let geometry = rig.device.geometry();
    assert_eq!(
        (geometry.blocks, geometry.block_size.bytes()),
        (131_072, 512)
    );
    let device = Arc::clone(&rig.device);
    on_reactor(move || async move {
        let bytes = open(&device);
        let content = pattern(7, 1 << 20);
        bytes.write(100, &content, false).await.unwrap();
        bytes.op(Op::Flush, 0, 0).await.unwrap();
        assert!(bytes.read(100, 2048).await.unwrap() == content);
        let zeroes = Op::WriteZeroes {
            fua: false,
            may_deallocate: true,
        };
        bytes.op(zeroes, 101, 1000).await.unwrap();
        bytes.op(Op::Deallocate, 0, 50).await.unwrap();
        let got = bytes.read(100, 2048).await.unwrap();
        assert!(got[..512] == content[..512]);
        assert!(got[512..512 + 512_000].iter().all(|byte| *byte == 0));
        assert!(got[512 + 512_000..] == content[512 + 512_000..]);
        let beyond = bytes.op(Op::Deallocate, 131_072, 1).await;
        assert_eq!(beyond, Err(BlockError::OutOfRange));
    });
    let stats = rig.drive.kept().stats();
    let reads = stats.snapshot(RequestKind::Read);
    assert_eq!((reads.requests, reads.bytes, reads.errors), (2, 2 << 20, 0));
    assert!(reads.latency_ns > 0 && reads.buckets.iter().sum::<u64>() == 2);
    assert_eq!(stats.copies(), 0, "payloads of the pool go as they are");
    assert_eq!(rig.soft.violations(), Vec::<String>::new());
}

#[test]
fn a_drive_without_write_zeroes_is_given_zeroes_to_write() {
    let mut soft = SoftConfig::with_namespace(64 << 20, 9);
    soft.oncs &= !penstock_nvme::identify::ONCS_WRITE_ZEROES;
    let rig = rig(soft);
    let device = Arc::clone(&rig.device);
    on_reactor(move || async move {
        let bytes = open(&device);
        let content = pattern(11, 4 << 20);
        bytes.write(100, &content, false).await.unwrap();
        for (fua, lba, blocks) in [(false, 101, 1), (true, 200, 512), (false, 1000, 5000)] {
            let zeroes = Op::WriteZeroes {
                fua,
                may_deallocate: true,
            };
            bytes.op(zeroes, lba, blocks).await.unwrap();
        }
        let mut expected = content;
        for (lba, blocks) in [(101, 1), (200, 512), (1000, 5000)] {
            expected[(lba - 100) * 512..][..blocks * 512].fill(0);
        }
        assert!(bytes.read(100, 8192).await.unwrap() == expected);
    });
    let commands = rig.soft.stats().io;
    assert_eq!(commands[usize::from(u8::from(IoOpcode::WriteZeroes))], 0);
    let others = rig.drive.kept().stats().snapshot(RequestKind::Other);
    assert_eq!((others.requests, others.errors), (3, 0), "{others:?}");
    assert_eq!(rig.soft.violations(), Vec::<String>::new());
}

#[test]
fn zeroes_that_fail_in_their_middle_fail_whole() {
    let mut soft = SoftConfig::with_namespace(64 << 20, 9);
    soft.oncs &= !penstock_nvme::identify::ONCS_WRITE_ZEROES;
    let rig = rig(soft);
    rig.soft.set_media_fault(1, 1500, Some(MediaFault::Write));
    let device = Arc::clone(&rig.device);
    on_reactor(move || async move {
        let bytes = open(&device);
        let zeroes = Op::WriteZeroes {
            fua: false,
            may_deallocate: false,
        };
        let failed = bytes.op(zeroes, 0, 4000).await;
        assert_eq!(failed, Err(BlockError::WriteMedia));
        bytes.op(zeroes, 0, 1500).await.unwrap();
    });
}

#[test]
fn payloads_the_drive_does_not_reach_are_copied() {
    let rig = plain();
    let device = Arc::clone(&rig.device);
    on_reactor(move || async move {
        let queue = Arc::clone(&device).open().unwrap();
        // Made after the drive's memory was mapped.
        let bytes = Bytes::new(queue);
        let content = pattern(9, 256 << 10);
        bytes.write(0, &content, true).await.unwrap();
        assert!(bytes.read(0, 512).await.unwrap() == content);
    });
    assert_eq!(rig.drive.kept().stats().copies(), 2);
    assert_eq!(rig.soft.violations(), Vec::<String>::new());
}

#[test]
fn two_reactors_share_a_drive_and_a_third_finds_no_queue() {
    let rig = plain();
    for lba in [0, 1000] {
        let device = Arc::clone(&rig.device);
        on_reactor(move || async move {
            let bytes = open(&device);
            bytes.write(lba, &pattern(lba, 4096), false).await.unwrap();
            // The same queue pair serves every namespace and every opening of it.
            let again = Bytes {
                queue: Arc::clone(&device).open().unwrap(),
                pool: crate::testing::pool(),
            };
            assert!(again.read(lba, 8).await.unwrap() == pattern(lba, 4096));
        });
    }
    let device = Arc::clone(&rig.device);
    let third = on_reactor(move || async move { device.open().map(|_| ()) });
    assert_eq!(third, Err(BlockError::NoResources));
}

#[test]
fn media_errors_are_told_for_what_they_are() {
    let rig = plain();
    rig.soft.set_media_fault(1, 5, Some(MediaFault::Read));
    let device = Arc::clone(&rig.device);
    on_reactor(move || async move {
        let bytes = open(&device);
        assert_eq!(bytes.read(5, 1).await, Err(BlockError::ReadMedia));
        assert!(bytes.read(6, 1).await.is_ok());
    });
    let reads = rig.drive.kept().stats().snapshot(RequestKind::Read);
    assert_eq!((reads.requests, reads.errors, reads.bytes), (2, 1, 512));
}

#[test]
fn a_reset_in_the_middle_loses_nothing() {
    let rig = plain();
    let mut left = 3;
    rig.soft.set_rule(move |command| {
        let is_write = command.queue > 0 && command.sqe.opcode == u8::from(IoOpcode::Write);
        if is_write && command.number % 50 == 0 && left > 0 {
            left -= 1;
            return Some(Fault::Fatal);
        }
        None
    });
    let device = Arc::clone(&rig.device);
    on_reactor(move || async move {
        let bytes = open(&device);
        for lba in 0..400 {
            bytes
                .write(lba * 8, &pattern(lba, 4096), false)
                .await
                .unwrap();
        }
        for lba in 0..400 {
            assert!(bytes.read(lba * 8, 8).await.unwrap() == pattern(lba, 4096));
        }
    });
    assert_eq!(rig.drive.kept().stats().resets(), 3);
    assert_eq!(rig.soft.violations(), Vec::<String>::new());
}

/// Has each I/O command take two milliseconds.
fn slow(soft: &SoftController) {
    soft.set_rule(|command| (command.queue > 0).then_some(Fault::Delay { ns: 2_000_000 }));
}

/// Reads one block after the other. Rounds and sleeps of the reactor meanwhile, and the longest that
/// a read took.
fn slow_reads(rig: &Rig) -> (u64, u64, Duration) {
    slow(&rig.soft);
    let device = Arc::clone(&rig.device);
    on_reactor(move || async move {
        let bytes = open(&device);
        let reactor = penstock_reactor::current();
        let before = reactor.stats().snapshot();
        let mut longest = Duration::ZERO;
        for lba in 0..200 {
            let begun = Instant::now();
            bytes.read(lba, 1).await.unwrap();
            longest = longest.max(begun.elapsed());
        }
        let after = reactor.stats().snapshot();
        let rounds = after.rounds - before.rounds;
        (rounds, after.sleeps - before.sleeps, longest)
    })
}

#[test]
fn a_reactor_sleeps_while_a_drive_that_interrupts_works() {
    let polled = plain();
    let (rounds_polled, sleeps, _) = slow_reads(&polled);
    assert_eq!(sleeps, 0, "nothing would have woken it");
    let told = interrupting(SoftConfig::with_namespace(64 << 20, 9));
    let (rounds, sleeps, longest) = slow_reads(&told);
    assert!(sleeps >= 190, "slept {sleeps} times in 200 reads");
    assert!(
        rounds < rounds_polled / 2,
        "{rounds} rounds, polling takes {rounds_polled}"
    );
    // A wake-up lost would cost a second.
    assert!(longest < Duration::from_millis(900), "{longest:?}");
    assert_eq!(told.soft.violations(), Vec::<String>::new());
}

#[test]
fn a_reset_wakes_a_reactor_that_sleeps_and_loses_nothing() {
    let rig = interrupting(SoftConfig::with_namespace(64 << 20, 9));
    slow(&rig.soft);
    let soft = rig.soft.clone();
    let fail = std::thread::spawn(move || {
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(60));
            soft.fail();
        }
    });
    let device = Arc::clone(&rig.device);
    on_reactor(move || async move {
        let bytes = open(&device);
        for lba in 0..200 {
            let begun = Instant::now();
            bytes
                .write(lba * 8, &pattern(lba, 4096), false)
                .await
                .unwrap();
            let took = begun.elapsed();
            assert!(took < Duration::from_millis(900), "{took:?}");
        }
        for lba in 0..200 {
            assert!(bytes.read(lba * 8, 8).await.unwrap() == pattern(lba, 4096));
        }
    });
    fail.join().unwrap();
    assert!(rig.drive.kept().stats().resets() > 0);
    assert_eq!(rig.soft.violations(), Vec::<String>::new());
}

#[test]
fn a_drive_pulled_out_fails_and_the_node_lives_on() {
    let rig = plain();
    let soft = rig.soft.clone();
    let device = Arc::clone(&rig.device);
    on_reactor(move || async move {
        let bytes = open(&device);
        bytes.write(0, &pattern(1, 4096), false).await.unwrap();
        soft.remove();
        let mut error = None;
        for _ in 0..100 {
            error = bytes.read(0, 8).await.err();
            if error.is_some() {
                break;
            }
        }
        assert_eq!(error, Some(BlockError::Gone));
        assert_eq!(bytes.op(Op::Flush, 0, 0).await, Err(BlockError::Gone));
    });
    wait_until("the keeper notices", || rig.drive.kept().is_gone());
    assert!(rig.drive.shut_down().is_ok());
}

#[test]
fn a_namespace_that_grows_is_served_whole() {
    let rig = plain();
    rig.soft.resize_namespace(1, 128 << 20);
    wait_until("the new size", || rig.device.geometry().blocks == 262_144);
    let device = Arc::clone(&rig.device);
    on_reactor(move || async move {
        let bytes = open(&device);
        bytes
            .write(262_136, &pattern(3, 4096), false)
            .await
            .unwrap();
    });
    assert!(rig.drive.kept().stats().events() >= 1);
}

#[test]
fn the_drives_health_is_read() {
    let rig = plain();
    wait_until("its health", || rig.drive.kept().health().is_some());
    let health = rig.drive.kept().health().unwrap();
    assert!(
        (250..400).contains(&health.temperature_kelvin),
        "{health:?}"
    );
}

#[test]
fn the_drives_error_log_is_read_when_commands_fail() {
    let rig = plain();
    let entries = || rig.drive.kept().stats().error_log_entries();
    wait_until("its health", || rig.drive.kept().health().is_some());
    // What it holds by now is from before.
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(entries(), 0);
    rig.soft.set_media_fault(1, 5, Some(MediaFault::Read));
    let device = Arc::clone(&rig.device);
    on_reactor(move || async move {
        let bytes = open(&device);
        for _ in 0..100 {
            assert_eq!(bytes.read(5, 1).await, Err(BlockError::ReadMedia));
        }
    });
    // More than the log holds: they are counted all the same.
    wait_until("all entries", || entries() == 100);
}

#[test]
fn what_cannot_be_served_is_refused_with_the_remedy() {
    let rig = plain();
    let Err(error) = rig.drive.open(nsid(9)) else {
        panic!("namespace 9 was opened");
    };
    assert!(matches!(error, DriveError::NoNamespace { .. }));
    assert!(
        error.to_string().contains("has no namespace 9; it has 1"),
        "{error}"
    );

    let mut soft = SoftConfig::with_namespace(64 << 20, 12);
    let namespace = &mut soft.namespaces[0];
    let metadata = namespace
        .formats
        .iter()
        .position(|format| format.ms.get() > 0);
    let Some(metadata) = metadata else {
        panic!("no format with metadata among {:?}", namespace.formats);
    };
    namespace.format = u8::try_from(metadata).unwrap();
    let soft = SoftController::new(soft);
    let _thread = soft.run_thread();
    let controller = Controller::start(
        soft.bar(),
        Arc::new(Regions::new(soft.mapper())),
        Arc::new(Sleeping::default()),
        ControllerConfig::default(),
    )
    .unwrap();
    let drive = NvmeDrive::start(
        "soft".to_owned(),
        controller,
        None,
        Vec::new(),
        &NvmeDriveConfig::default(),
    )
    .unwrap();
    let Err(error) = drive.open(nsid(1)) else {
        panic!("a namespace with metadata was opened");
    };
    assert!(
        error.to_string().contains("format it with one of"),
        "{error}"
    );
}

fn with_memory(cmb: SoftCmb) -> SoftConfig {
    SoftConfig {
        cmb: Some(cmb),
        ..SoftConfig::with_namespace(64 << 20, 9)
    }
}

/// Memory of the drive's own for a write of `bytes` at `lba`, with the bytes in it.
fn lent(queue: &dyn BlockQueue, lba: u64, bytes: &[u8]) -> Option<Lease> {
    let blocks = bytes.len() as u64 / 512;
    let lease = queue.lend(Direction::ToDevice, Lba(lba), blocks)?;
    assert_eq!(lease.kind(), MemoryKind::Controller);
    assert_eq!(lease.write_at(0, bytes), bytes.len());
    Some(lease)
}

fn write_of(lba: u64, lease: Lease) -> penstock_block::Request {
    let blocks = lease.len() as u64 / 512;
    request(Op::Write { fua: false }, lba, blocks, lease.into())
}

#[test]
fn what_is_written_may_lie_in_the_drives_memory() {
    let rig = try_rig(with_memory(SoftCmb::new(1 << 20)), 256 << 10, false).unwrap();
    assert_eq!(
        rig.drive.memory(),
        DriveMemory {
            total_bytes: 1 << 20,
            queue_bytes: 0,
            payload_bytes: 256 << 10,
        }
    );
    let device = Arc::clone(&rig.device);
    on_reactor(move || async move {
        let bytes = open(&device);
        let queue = &*bytes.queue;
        // A reactor's half, and not a byte more.
        let all: Vec<_> = (0..32)
            .map(|page| lent(queue, page * 8, &pattern(page, 4096)).unwrap())
            .collect();
        assert!(lent(queue, 0, &[0; 512]).is_none());
        assert!(lent(queue, 0, &vec![0; 129 << 10]).is_none());
        let tickets: Vec<_> = (0..)
            .zip(all)
            .map(|(page, lease)| queue.submit(write_of(page * 8, lease)))
            .collect();
        for ticket in tickets {
            ticket.await.result.unwrap();
        }
        // All of it is free again, and nothing read lies there.
        assert!(lent(queue, 0, &vec![0; 128 << 10]).is_some());
        assert!(queue.lend(Direction::FromDevice, Lba(0), 8).is_none());
        for page in 0..32 {
            assert!(bytes.read(page * 8, 8).await.unwrap() == pattern(page, 4096));
        }
    });
    let stats = rig.drive.kept().stats();
    assert_eq!((stats.own_bytes(), stats.copies()), (32 * 4096, 0));
    assert_eq!(rig.soft.stats().own_bytes, 32 * 4096);
    assert_eq!(rig.soft.violations(), Vec::<String>::new());
}

#[test]
fn a_reset_takes_what_lay_in_the_drives_memory_and_no_more() {
    let rig = try_rig(with_memory(SoftCmb::new(1 << 20)), 1 << 20, false).unwrap();
    let mut once = false;
    rig.soft.set_rule(move |command| {
        let is_flush = command.queue > 0 && command.sqe.opcode == u8::from(IoOpcode::Flush);
        (is_flush && !std::mem::replace(&mut once, true)).then_some(Fault::Fatal)
    });
    let device = Arc::clone(&rig.device);
    on_reactor(move || async move {
        let bytes = open(&device);
        let before = lent(&*bytes.queue, 0, &pattern(1, 4096)).unwrap();
        let part = before.slice(2048, 2048).unwrap();
        let flush = bytes
            .queue
            .submit(request(Op::Flush, 0, 0, Default::default()));
        // The drive fails over the flush, with this write on its way.
        let on_the_way = lent(&*bytes.queue, 8, &pattern(2, 4096)).unwrap();
        let on_the_way = bytes.queue.submit(write_of(8, on_the_way));
        flush.await.result.unwrap();
        match on_the_way.await.result {
            Ok(()) => assert!(bytes.read(8, 8).await.unwrap() == pattern(2, 4096)),
            Err(error) => assert_eq!(error, BlockError::NotReady),
        }
        for (lba, stale) in [(0, before), (16, part)] {
            let outcome = bytes.queue.submit(write_of(lba, stale)).await;
            assert_eq!(outcome.result, Err(BlockError::NotReady));
            assert_eq!(outcome.payload.segment_count(), 1, "the payload comes back");
        }
        let after = lent(&*bytes.queue, 0, &pattern(3, 4096)).unwrap();
        bytes.queue.submit(write_of(0, after)).await.result.unwrap();
        assert!(bytes.read(0, 8).await.unwrap() == pattern(3, 4096));
    });
    assert_eq!(rig.drive.kept().stats().resets(), 1);
    assert_eq!(rig.soft.violations(), Vec::<String>::new());
}

#[test]
fn drives_without_enough_memory_of_their_own_say_so() {
    let small = try_rig(with_memory(SoftCmb::new(64 << 10)), 256 << 10, false);
    let Err(error) = small.map(|_| ()) else {
        panic!("more memory was given than there is");
    };
    let error = error.to_string();
    assert!(
        error.contains("drive soft: no 131072 bytes left in controller memory (65536 of 65536"),
        "{error}"
    );
    // One that takes no such data is used without.
    let unable = SoftCmb {
        wds: false,
        ..SoftCmb::new(1 << 20)
    };
    for soft in [with_memory(unable), SoftConfig::with_namespace(64 << 20, 9)] {
        let rig = try_rig(soft, 256 << 10, false).unwrap();
        assert_eq!(rig.drive.memory().payload_bytes, 0);
        let device = Arc::clone(&rig.device);
        on_reactor(move || async move {
            let bytes = open(&device);
            assert!(lent(&*bytes.queue, 0, &[1; 512]).is_none());
            bytes.write(0, &pattern(1, 4096), false).await.unwrap();
        });
    }
}

#[test]
fn a_drive_that_is_gone_is_held_by_nobody() {
    // Two reactors may use it, one does.
    let rig = try_rig(with_memory(SoftCmb::new(1 << 20)), 256 << 10, false).unwrap();
    let mapped = Arc::downgrade(&rig.mapped);
    let Rig {
        drive,
        device,
        mapped: ours,
        soft: _soft,
        _thread,
    } = rig;
    drop(ours);
    let here = Arc::clone(&device);
    on_reactor(move || async move {
        let bytes = open(&here);
        let lease = lent(&*bytes.queue, 0, &pattern(1, 4096)).unwrap();
        bytes.queue.submit(write_of(0, lease)).await.result.unwrap();
        let gone = std::thread::spawn({
            let drive = Arc::clone(&drive);
            move || drive.shut_down()
        });
        while bytes.op(Op::Flush, 0, 0).await != Err(BlockError::Gone) {}
        gone.join().unwrap().unwrap();
        // The queue is open still, and other reactors may come.
        assert!(lent(&*bytes.queue, 0, &[0; 512]).is_none());
        let started = Instant::now();
        while mapped.strong_count() > 0 {
            assert!(started.elapsed() < Duration::from_secs(20), "held");
            bytes.op(Op::Flush, 0, 0).await.unwrap_err();
        }
        drop(bytes);
    });
    let late = on_reactor(move || async move { device.open().map(|_| ()) });
    assert_eq!(late, Err(BlockError::Gone));
}
