use penstock_async_nvme::soft::{SoftCmb, SoftConfig, SoftSgl};
use penstock_async_nvme::{ControllerConfig, ControllerMemory, IoError, IoQueue};
use penstock_buffer::Payload;
use penstock_nvme::{IoOpcode, Status};
use penstock_units::Lba;

use crate::rig::Rig;

fn rig(change: impl FnOnce(&mut SoftConfig)) -> Rig {
    let mut soft = SoftConfig::with_namespace(64 << 20, 9);
    change(&mut soft);
    Rig::new(soft, ControllerConfig::default())
}

fn write_and_read(rig: &Rig, slba: u64, payload: Payload, into: Payload) {
    let blocks = payload.len() as u64 / 512;
    let wrote = Rig::bytes(&payload);
    let (result, _) = rig.wait(
        rig.queue
            .write(&rig.namespace, Lba(slba), blocks, false, payload),
    );
    result.unwrap();
    let mut media = vec![0; wrote.len()];
    rig.soft.read_media(1, slba, &mut media);
    assert!(media == wrote, "what was written is not what the drive has");
    let (result, got) = rig.wait(rig.queue.read(&rig.namespace, Lba(slba), blocks, into));
    result.unwrap();
    assert!(
        Rig::bytes(&got) == wrote,
        "what was read is not what was written"
    );
}

#[test]
fn every_length_goes_there_and_back() {
    for sgl in [SoftSgl::None, SoftSgl::Dword] {
        let rig = rig(|soft| soft.sgl = sgl);
        for blocks in [1, 7, 8, 9, 16, 17, 64, 1000, 4096, 10_000] {
            let payload = rig.pattern(blocks * 512, blocks as u8);
            let into = Payload::from(rig.lease(blocks * 512));
            write_and_read(&rig, 3, payload, into);
        }
    }
}

#[test]
fn payloads_may_start_anywhere_on_a_dword() {
    for sgl in [SoftSgl::None, SoftSgl::Dword] {
        let rig = rig(|soft| soft.sgl = sgl);
        for offset in [4, 512, 4092, 4096, 5000] {
            let lease = rig.lease(1 << 20).slice(offset, 64 * 512).unwrap();
            lease.write_at(0, &vec![offset as u8; 64 * 512]);
            let into = rig.lease(1 << 20).slice(offset + 8, 64 * 512).unwrap();
            write_and_read(&rig, 99, Payload::from(lease), Payload::from(into));
        }
    }
}

#[test]
fn payloads_may_be_in_pieces() {
    for sgl in [SoftSgl::None, SoftSgl::Dword] {
        let rig = rig(|soft| soft.sgl = sgl);
        let pieces = |seed: u8| {
            let mut payload = Payload::none();
            for (index, bytes) in [4096, 512, 8192, 1024, 512, 4096].into_iter().enumerate() {
                let lease = rig.lease(bytes);
                lease.write_at(0, &vec![seed ^ index as u8; bytes]);
                payload.push(lease);
            }
            payload
        };
        write_and_read(&rig, 11, pieces(0x5a), pieces(0));
        let writes = rig.soft.stats().io[usize::from(u8::from(IoOpcode::Write))];
        // Where a run does not end on a page, only SGLs go on in the same command.
        assert_eq!(writes == 1, sgl == SoftSgl::Dword, "{writes} commands");
    }
}

#[test]
fn memory_the_drive_does_not_reach_or_cannot_describe_is_refused() {
    let rig = rig(|soft| soft.sgl = SoftSgl::None);
    let later = penstock_buffer::Pool::new(&penstock_buffer::PoolConfig {
        size_bytes: 2 << 20,
        hugepages: false,
        ..penstock_buffer::PoolConfig::default()
    })
    .unwrap();
    let unmapped = Payload::from(later.try_lease(512).unwrap());
    let (result, memory) = rig.wait(rig.queue.read(&rig.namespace, Lba(0), 1, unmapped));
    assert_eq!((result, memory.len()), (Err(IoError::Unmapped), 512));
    let odd = rig.lease(4096).slice(1, 512).unwrap();
    let (result, _) = rig.wait(
        rig.queue
            .read(&rig.namespace, Lba(0), 1, Payload::from(odd)),
    );
    assert_eq!(result, Err(IoError::Unaligned));
    let short = Payload::from(rig.lease(512));
    let (result, _) = rig.wait(rig.queue.read(&rig.namespace, Lba(0), 2, short));
    assert_eq!(result, Err(IoError::Invalid));
    assert_eq!(rig.queue.in_flight(), 0);
}

#[test]
fn transfers_are_cut_at_the_drives_limit_and_at_its_boundary() {
    let rig = rig(|soft| {
        soft.mdts = 4;
        soft.namespaces[0].noiob = 100;
    });
    let payload = rig.pattern(1 << 20, 3);
    write_and_read(&rig, 50, payload, Payload::from(rig.lease(1 << 20)));
    let stats = rig.soft.stats();
    let writes = stats.io[usize::from(u8::from(IoOpcode::Write))];
    // 2048 blocks from block 50 with a boundary every 100: 50, then 19 of 100, then 98.
    assert_eq!(writes, 21);
}

#[test]
fn more_requests_than_entries_wait_in_line() {
    let mut soft = SoftConfig::with_namespace(64 << 20, 9);
    soft.fetch_max = 3;
    let config = ControllerConfig {
        queue_entries: 8,
        ..ControllerConfig::default()
    };
    let rig = Rig::new(soft, config);
    let mut reads: Vec<_> = (0..100)
        .map(|lba| {
            let memory = Payload::from(rig.lease(512));
            Box::pin(rig.queue.read(&rig.namespace, Lba(lba), 1, memory))
        })
        .collect();
    // All are submitted at their first poll.
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    for read in &mut reads {
        assert!(std::future::Future::poll(read.as_mut(), &mut context).is_pending());
    }
    assert_eq!(rig.queue.in_flight(), 100);
    for read in reads {
        rig.wait(read).0.unwrap();
    }
}

#[test]
fn a_dropped_future_keeps_its_memory_until_the_drive_is_done() {
    let rig = rig(|_| {});
    let memory = rig.pattern(4096, 9);
    let before = rig.pool.stats().leased_bytes;
    {
        let write = rig.queue.write(&rig.namespace, Lba(0), 8, false, memory);
        let mut write = Box::pin(write);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(std::future::Future::poll(write.as_mut(), &mut context).is_pending());
    }
    assert_eq!(rig.pool.stats().leased_bytes, before);
    while rig.queue.in_flight() > 0 {
        rig.pace.step();
    }
    assert_eq!(rig.pool.stats().leased_bytes, before - 4096);
}

#[test]
fn compare_zeroes_deallocate_and_flush() {
    let rig = rig(|_| {});
    let payload = rig.pattern(8192, 1);
    let same = rig.pattern(8192, 1);
    let other = rig.pattern(8192, 2);
    let ns = &rig.namespace;
    rig.wait(rig.queue.write(ns, Lba(0), 16, true, payload))
        .0
        .unwrap();
    rig.wait(rig.queue.compare(ns, Lba(0), 16, same)).0.unwrap();
    let (result, _) = rig.wait(rig.queue.compare(ns, Lba(0), 16, other));
    let Err(IoError::Status(status)) = result else {
        panic!("{result:?}");
    };
    assert_eq!(status.code(), Status::COMPARE_FAILURE);
    rig.wait(rig.queue.flush(ns, Payload::none())).0.unwrap();
    // More than one command's worth of blocks.
    let zeroes = rig
        .queue
        .write_zeroes(ns, Lba(4), 100_000, false, Payload::none());
    rig.wait(zeroes).0.unwrap();
    rig.wait(rig.queue.deallocate(ns, Lba(2), 2, Payload::none()))
        .0
        .unwrap();
    let mut media = vec![1; 8192];
    rig.soft.read_media(1, 0, &mut media);
    assert!(media[..1024] == Rig::bytes(&rig.pattern(8192, 1))[..1024]);
    assert!(media[2048..].iter().all(|byte| *byte == 0));
    let beyond = Payload::from(rig.lease(512));
    let (result, _) = rig.wait(rig.queue.read(ns, Lba(1 << 40), 1, beyond));
    let Err(IoError::Status(status)) = result else {
        panic!("{result:?}");
    };
    assert_eq!(status.code(), Status::LBA_OUT_OF_RANGE);
}

#[test]
fn zeroes_are_cut_at_their_own_limit_whatever_the_block_size() {
    // 128 KiB a command: 256 blocks of 512 bytes, two of 64 KiB.
    for (lbads, blocks, commands) in [(9, 1000, 4), (16, 10, 5)] {
        let mut soft = SoftConfig::with_namespace(64 << 20, lbads);
        soft.wzsl = 5;
        let rig = Rig::new(soft, ControllerConfig::default());
        let zeroes = rig
            .queue
            .write_zeroes(&rig.namespace, Lba(3), blocks, false, Payload::none());
        rig.wait(zeroes).0.unwrap();
        let sent = rig.soft.stats().io[usize::from(u8::from(IoOpcode::WriteZeroes))];
        assert_eq!(sent, commands, "blocks of {} bytes", 1 << lbads);
    }
}

#[test]
fn doorbells_are_rung_once_a_round_and_shadows_spare_them() {
    for doorbell_buffer in [false, true] {
        let rig = rig(|soft| soft.doorbell_buffer = doorbell_buffer);
        let before = rig.soft.stats();
        for round in 0..50 {
            let mut reads: Vec<_> = (0..32)
                .map(|lba| {
                    let memory = Payload::from(rig.lease(512));
                    Box::pin(
                        rig.queue
                            .read(&rig.namespace, Lba(round * 32 + lba), 1, memory),
                    )
                })
                .collect();
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            for read in &mut reads {
                assert!(std::future::Future::poll(read.as_mut(), &mut context).is_pending());
            }
            for read in reads {
                rig.wait(read).0.unwrap();
            }
        }
        let after = rig.soft.stats();
        let rung = after.sq_doorbells - before.sq_doorbells;
        assert!(rung <= 50, "{rung} doorbells for 50 rounds");
        assert_eq!(after.shadow_tails > 0, doorbell_buffer);
    }
}

#[test]
fn data_may_lie_in_controller_memory() {
    let soft = SoftConfig {
        cmb: Some(SoftCmb::new(1 << 20)),
        ..SoftConfig::with_namespace(64 << 20, 9)
    };
    let config = ControllerConfig {
        io_queues: 2,
        ..ControllerConfig::default()
    };
    let mut rig = Rig::new(soft, config);
    let pool = std::sync::Arc::clone(rig.controller.controller_memory().unwrap());
    let parts = rig.controller.create_queue().unwrap();
    let queue = IoQueue::<ControllerMemory>::open(parts).unwrap();
    let run = pool.take(8192).unwrap();
    let content: Vec<u8> = (0..8192_u32).map(|at| (at % 253) as u8).collect();
    // SAFETY: the run is ours, mapped, and as long.
    unsafe {
        std::ptr::copy_nonoverlapping(content.as_ptr(), run.base().as_ptr(), content.len());
    }
    let write = queue.write(&rig.namespace, Lba(8), 16, false, run);
    let (result, run) = rig.wait_polling(&queue, write);
    result.unwrap();
    let mut media = vec![0; 8192];
    rig.soft.read_media(1, 8, &mut media);
    assert!(media == content);
    // SAFETY: as above.
    unsafe { std::ptr::write_bytes(run.base().as_ptr(), 0, 8192) };
    let read = queue.read(&rig.namespace, Lba(8), 16, run);
    let (result, run) = rig.wait_polling(&queue, read);
    result.unwrap();
    // SAFETY: as above; the drive is done with it.
    let got = unsafe { std::slice::from_raw_parts(run.base().as_ptr(), 8192) };
    assert!(got == content.as_slice());
    assert_eq!(rig.soft.stats().own_bytes, 2 * 8192);
}
