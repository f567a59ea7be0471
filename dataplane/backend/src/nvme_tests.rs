use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_async_nvme::soft::{Fault, MediaFault, SoftConfig, SoftController};
use penstock_async_nvme::{Controller, ControllerConfig, Regions, Sleeping};
use penstock_block::{BlockDevice, BlockError, Op};
use penstock_nvme::IoOpcode;
use penstock_units::Nsid;

use crate::nvme::{DriveError, NvmeDevice, NvmeDrive, RequestKind};
use crate::testing::{Bytes, on_reactor, pattern};

/// A drive in software that runs by itself, and its first namespace.
struct Rig {
    drive: Arc<NvmeDrive>,
    device: Arc<NvmeDevice>,
    soft: SoftController,
    _thread: penstock_async_nvme::soft::SoftThread,
}

fn nsid(number: u32) -> Nsid {
    Nsid::new(number).unwrap()
}

fn rig(soft: SoftConfig) -> Rig {
    let soft = SoftController::new(soft);
    let thread = soft.run_thread();
    let controller = Controller::start(
        soft.bar(),
        Arc::new(Regions::new(soft.mapper())),
        Arc::new(Sleeping::default()),
        ControllerConfig {
            io_queues: 2,
            ..ControllerConfig::default()
        },
    )
    .unwrap();
    let drive = NvmeDrive::start("soft".to_owned(), controller, None, 2).unwrap();
    let device = drive.open(nsid(1)).unwrap();
    Rig {
        drive,
        device,
        soft,
        _thread: thread,
    }
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
    let drive = NvmeDrive::start("soft".to_owned(), controller, None, 1).unwrap();
    let Err(error) = drive.open(nsid(1)) else {
        panic!("a namespace with metadata was opened");
    };
    assert!(
        error.to_string().contains("format it with one of"),
        "{error}"
    );
}
