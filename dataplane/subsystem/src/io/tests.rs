use std::sync::atomic::Ordering;

use penstock_block::{BlockError, Op};
use penstock_buffer::Payload;
use penstock_nvme::command::{DSM_DEALLOCATE, DatasetManagement, DsmRange, flush};
use penstock_nvme::{IntoBytes, IoOpcode, Le32, Sqe, Status};
use penstock_seam::LinkError;
use penstock_units::{BlockSize, Lba, Nsid};

use crate::fakes::{FakeDevice, LinkState, held, release_held};
use crate::metrics::{ErrorClass, IoKind};
use crate::namespace::NamespaceConfig;
use crate::testing::{Bed, NQN, bytes, io, status};

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect()
}

fn one() -> Nsid {
    Nsid::new(1).unwrap()
}

#[test]
fn what_is_written_is_read_back_in_both_block_sizes() {
    for size in [BlockSize::B512, BlockSize::B4096] {
        let bed = Bed::with(size);
        let (_admin, queue) = bed.pair();
        let data = pattern(size.bytes() as usize * 3);
        let reply = queue.exec(io(IoOpcode::Write, 5, 3), &data);
        assert_eq!(status(&reply), Status::SUCCESS);
        assert!(reply.payload.is_empty());
        assert_eq!(bytes(&queue.read(5, 3, data.len())), data);
        assert_eq!(
            bed.device.take_seen(),
            [(Op::Write { fua: false }, 5, 3), (Op::Read, 5, 3)]
        );
    }
}

#[test]
fn ranges_and_lengths_are_checked() {
    let bed = Bed::new();
    let (_admin, queue) = bed.pair();
    let dnr = |status: Status| status.dnr();
    // (first block, blocks, bytes of the SGL, status)
    let table = [
        (1023, 1, 512, Status::SUCCESS),
        (1024, 1, 512, dnr(Status::LBA_OUT_OF_RANGE)),
        (1023, 2, 1024, dnr(Status::LBA_OUT_OF_RANGE)),
        (u64::MAX, 1, 512, dnr(Status::LBA_OUT_OF_RANGE)),
        (u64::MAX - 1, 65536, 512, dnr(Status::LBA_OUT_OF_RANGE)),
        (0, 2, 512, dnr(Status::DATA_SGL_LENGTH_INVALID)),
        (0, 1, 1024, dnr(Status::DATA_SGL_LENGTH_INVALID)),
        (0, 1, 0, dnr(Status::DATA_SGL_LENGTH_INVALID)),
        (0, 256, 256 * 512, Status::SUCCESS),
        (0, 257, 257 * 512, dnr(Status::INVALID_FIELD)),
    ];
    for (lba, blocks, len, expected) in table {
        assert_eq!(
            status(&queue.read(lba, blocks, len)),
            expected,
            "read {lba} {blocks} {len}"
        );
        let write = queue.exec(io(IoOpcode::Write, lba, blocks), &vec![0; len]);
        assert_eq!(status(&write), expected, "write {lba} {blocks} {len}");
    }
}

#[test]
fn unsupported_fields_are_refused() {
    let bed = Bed::new();
    let (admin, queue) = bed.pair();
    let with_cdw12 = |bits: u32| {
        let mut sqe = io(IoOpcode::Read, 0, 1);
        sqe.cdw12 = Le32::new(sqe.cdw12.get() | bits);
        sqe
    };
    // PRINFO, storage tag check, directive type; where the error log says it is.
    for (bits, location) in [
        (1 << 26, 51 | 2 << 8),
        (1 << 24, 51),
        (1 << 20, 50 | 4 << 8),
    ] {
        let reply = queue.fetch(with_cdw12(bits), 512);
        assert_eq!(status(&reply), Status::INVALID_FIELD.dnr(), "{bits:#x}");
        let logged = admin
            .session
            .controller()
            .unwrap()
            .with_errors(|log| *log.iter().next().unwrap());
        assert_eq!(logged.location, location, "{bits:#x}");
    }
    let mut prp = io(IoOpcode::Read, 0, 1);
    prp.flags = 0;
    assert_eq!(status(&queue.fetch(prp, 512)), Status::INVALID_FIELD.dnr());
    for opcode in (0..=255u8).filter(|o| ![0, 1, 2, 5, 8, 9, 12, 0x7f].contains(o)) {
        let mut sqe = io(IoOpcode::Read, 0, 1);
        sqe.opcode = opcode;
        assert_eq!(
            status(&queue.fetch(sqe, 512)),
            Status::INVALID_OPCODE.dnr(),
            "{opcode:#x}"
        );
    }
    for nsid in [0, 2, 1024, 1025, u32::MAX] {
        let mut sqe = io(IoOpcode::Read, 0, 1);
        sqe.nsid = Le32::new(nsid);
        assert_eq!(
            status(&queue.fetch(sqe, 512)),
            Status::INVALID_NAMESPACE.dnr(),
            "{nsid}"
        );
    }
}

#[test]
fn fua_and_the_write_cache_reach_the_device() {
    let bed = Bed::new();
    let (admin, queue) = bed.pair();
    let mut fua = io(IoOpcode::Write, 0, 1);
    fua.cdw12 = Le32::new(1 << 30);
    queue.exec(fua, &[0; 512]);
    assert_eq!(bed.device.take_seen(), [(Op::Write { fua: true }, 0, 1)]);
    let set = penstock_nvme::command::SetFeatures::new(0x06, 0).encode();
    assert_eq!(status(&admin.exec(set, &[])), Status::SUCCESS);
    queue.exec(io(IoOpcode::Write, 0, 1), &[0; 512]);
    queue.exec(io(IoOpcode::WriteZeroes, 0, 1), &[]);
    assert_eq!(
        bed.device.take_seen(),
        [
            (Op::Write { fua: true }, 0, 1),
            (
                Op::WriteZeroes {
                    fua: true,
                    may_deallocate: false
                },
                0,
                1
            )
        ]
    );
}

#[test]
fn flush_reaches_one_namespace_or_all() {
    let bed = Bed::new();
    let second = FakeDevice::new(8, BlockSize::B512);
    bed.target
        .add_namespace(
            NQN,
            Nsid::new(7),
            NamespaceConfig::default(),
            second.clone(),
        )
        .unwrap();
    let (_admin, queue) = bed.pair();
    assert_eq!(status(&queue.exec(flush(one()), &[])), Status::SUCCESS);
    assert_eq!(
        (bed.device.take_seen().len(), second.take_seen().len()),
        (1, 0)
    );
    let mut all = flush(one());
    all.nsid = Le32::new(u32::MAX);
    assert_eq!(status(&queue.exec(all, &[])), Status::SUCCESS);
    assert_eq!(
        (bed.device.take_seen(), second.take_seen()),
        (vec![(Op::Flush, 0, 0)], vec![(Op::Flush, 0, 0)])
    );
}

#[test]
fn write_zeroes_takes_as_many_blocks_as_its_field_holds() {
    let bed = Bed::new();
    bed.device.blocks.store(100_000, Ordering::Relaxed);
    bed.target.namespace_resized(NQN, one()).unwrap();
    let (_admin, queue) = bed.pair();
    bed.device.fail_next(BlockError::CapacityExceeded);
    let mut sqe = io(IoOpcode::WriteZeroes, 3, 65536);
    sqe.cdw12 = Le32::new(sqe.cdw12.get() | 1 << 25);
    // The first use opens the device, which takes the injected error.
    assert_eq!(
        status(&queue.exec(sqe, &[])),
        Status::CAPACITY_EXCEEDED.dnr()
    );
    bed.device.set_block(4, 9);
    let mut small = io(IoOpcode::WriteZeroes, 3, 2);
    small.cdw12 = Le32::new(small.cdw12.get() | 1 << 25);
    assert_eq!(status(&queue.exec(small, &[])), Status::SUCCESS);
    assert_eq!(bed.device.block(4), 0);
    let op = Op::WriteZeroes {
        fua: false,
        may_deallocate: true,
    };
    assert_eq!(bed.device.take_seen(), [(op, 3, 2)]);
}

fn deallocate(ranges: &[(u64, u32)]) -> (Sqe, Vec<u8>) {
    let count = u32::try_from(ranges.len()).unwrap();
    let command = DatasetManagement {
        ranges: count,
        attributes: DSM_DEALLOCATE,
    };
    let data = ranges
        .iter()
        .flat_map(|&(lba, n)| DsmRange::new(Lba(lba), n).as_bytes().to_vec());
    (command.encode(one()).unwrap(), data.collect())
}

#[test]
fn deallocate_takes_up_to_256_ranges_and_all_or_nothing_of_them() {
    let bed = Bed::new();
    let (_admin, queue) = bed.pair();
    let ranges: Vec<_> = (0..256).map(|i| (i * 2, 1)).collect();
    let (sqe, data) = deallocate(&ranges);
    assert_eq!(status(&queue.exec(sqe, &data)), Status::SUCCESS);
    assert_eq!(bed.device.take_seen().len(), 256);
    let (sqe, data) = deallocate(&[(0, 1), (1023, 2)]);
    assert_eq!(
        status(&queue.exec(sqe, &data)),
        Status::LBA_OUT_OF_RANGE.dnr()
    );
    assert_eq!(bed.device.take_seen(), []);
    assert_eq!(
        status(&queue.exec(sqe, &data[..16])),
        Status::DATA_SGL_LENGTH_INVALID.dnr()
    );
    let (mut hints, data) = deallocate(&[(0, 1)]);
    hints.cdw11 = Le32::new(3);
    assert_eq!(status(&queue.exec(hints, &data)), Status::SUCCESS);
    assert_eq!(bed.device.take_seen(), [], "hints are only hints");
    let (empty, data) = deallocate(&[(5, 0)]);
    assert_eq!(status(&queue.exec(empty, &data)), Status::SUCCESS);
    assert_eq!(bed.device.take_seen(), []);
}

#[test]
fn compare_and_verify_look_at_what_is_stored() {
    let bed = Bed::new();
    let (_admin, queue) = bed.pair();
    let data = pattern(1024);
    queue.exec(io(IoOpcode::Write, 8, 2), &data);
    assert_eq!(
        status(&queue.exec(io(IoOpcode::Compare, 8, 2), &data)),
        Status::SUCCESS
    );
    let mut other = data.clone();
    other[1023] ^= 1;
    let reply = queue.exec(io(IoOpcode::Compare, 8, 2), &other);
    assert_eq!(status(&reply), Status::COMPARE_FAILURE.dnr());
    bed.device.take_seen();
    // 600 blocks of 512 bytes are more than MDTS (128 KiB): read in three pieces.
    assert_eq!(
        status(&queue.exec(io(IoOpcode::Verify, 0, 600), &[])),
        Status::SUCCESS
    );
    let pieces = [
        (Op::Read, 0, 256),
        (Op::Read, 256, 256),
        (Op::Read, 512, 88),
    ];
    assert_eq!(bed.device.take_seen(), pieces);
    bed.device.fail_next(BlockError::ReadMedia);
    let reply = queue.exec(io(IoOpcode::Verify, 0, 1), &[]);
    assert_eq!(status(&reply), Status::UNRECOVERED_READ_ERROR.dnr());
}

#[test]
fn device_errors_become_status_and_are_counted() {
    let bed = Bed::new();
    let (admin, queue) = bed.pair();
    queue.read(0, 1, 512);
    bed.device.fail_next(BlockError::ReadMedia);
    assert_eq!(
        status(&queue.read(3, 1, 512)),
        Status::UNRECOVERED_READ_ERROR.dnr()
    );
    bed.device.fail_next(BlockError::NoResources);
    assert_eq!(status(&queue.read(3, 1, 512)), Status::COMMAND_INTERRUPTED);
    let totals = bed.target.snapshot().namespaces[0].totals.clone();
    assert_eq!(totals.errors[ErrorClass::Media as usize], 1);
    assert_eq!(totals.errors[ErrorClass::Resource as usize], 1);
    assert_eq!(totals.ops[IoKind::Read as usize], 1);
    let controller = admin.session.controller().unwrap();
    let logged: Vec<_> = controller.with_errors(|log| log.iter().copied().collect());
    assert_eq!(logged.len(), 2);
    assert_eq!(
        (
            logged[1].lba,
            logged[1].queue_id,
            logged[1].nsid,
            logged[1].opcode
        ),
        (3, 1, 1, 2)
    );
}

#[test]
fn read_only_namespaces_refuse_every_write() {
    let bed = Bed::new();
    bed.device.read_only.store(true, Ordering::Relaxed);
    bed.target.namespace_resized(NQN, one()).unwrap();
    let (_admin, queue) = bed.pair();
    let refused = Status::NAMESPACE_WRITE_PROTECTED.dnr();
    assert_eq!(
        status(&queue.exec(io(IoOpcode::Write, 0, 1), &[0; 512])),
        refused
    );
    assert_eq!(
        status(&queue.exec(io(IoOpcode::WriteZeroes, 0, 1), &[])),
        refused
    );
    let (sqe, data) = deallocate(&[(0, 1)]);
    assert_eq!(status(&queue.exec(sqe, &data)), refused);
    assert_eq!(status(&queue.read(0, 1, 512)), Status::SUCCESS);
    assert_eq!(status(&queue.exec(flush(one()), &[])), Status::SUCCESS);
}

#[test]
fn host_data_that_does_not_arrive_ends_the_command() {
    let bed = Bed::new();
    let (_admin, queue) = bed.pair();
    for (error, expected) in [
        (LinkError::DataDigest, Status::TRANSIENT_TRANSPORT_ERROR),
        (LinkError::Aborted, Status::ABORT_REQUESTED),
        (LinkError::Closed, Status::ABORT_SQ_DELETION),
    ] {
        let link = LinkState::new(&[0; 512]);
        link.error.set(Some(error));
        let pending = queue.start_on(io(IoOpcode::Write, 0, 1), 512, link);
        assert_eq!(pending.status(), expected);
        assert!(!pending.link.committed.get());
    }
    assert_eq!(bed.device.take_seen(), []);
    let done = queue.start(io(IoOpcode::Write, 0, 1), &[0; 512]);
    assert!(done.link.committed.get());
}

#[test]
fn lent_memory_goes_to_the_host_without_a_copy() {
    let bed = Bed::new();
    bed.device.lends.store(true, Ordering::Relaxed);
    let (_admin, queue) = bed.pair();
    let reply = queue.read(2, 2, 1024);
    assert_eq!(bytes(&reply), [0xa5; 1024]);
    let again = queue.read(2, 2, 1024);
    let place = |reply: &penstock_seam::Reply| reply.payload.single().unwrap().as_ptr();
    assert_eq!(
        place(&reply),
        place(&again),
        "the device's own memory, both times"
    );
    // What the host writes lands in it as well.
    queue.exec(io(IoOpcode::Write, 2, 2), &[7; 1024]);
    assert_eq!(bytes(&reply), [7; 1024]);
}

#[test]
fn host_memory_is_used_as_it_is() {
    let bed = Bed::new();
    let (_admin, queue) = bed.pair();
    let guest = bed.pool.try_lease(512).unwrap();
    guest.fill(0x5a);
    let link = LinkState::new(&[]);
    link.host_memory.replace(Some(guest.clone()));
    // The link has no data to receive: the write must come from the guest's memory.
    let pending = queue.start_on(io(IoOpcode::Write, 9, 1), 512, link.clone());
    assert_eq!(pending.status(), Status::SUCCESS);
    assert_eq!(bed.device.block(9), 0x5a);
    bed.device.set_block(9, 0x11);
    let pending = queue.start_on(io(IoOpcode::Read, 9, 1), 512, link);
    assert_eq!(pending.status(), Status::SUCCESS);
    assert_eq!(guest.bytes(), [0x11; 512]);
}

#[test]
fn a_full_pool_is_waited_for() {
    let bed = Bed::new();
    let (_admin, queue) = bed.pair();
    let mut all = Vec::new();
    while let Some(lease) = bed.pool.try_lease(4096) {
        all.push(lease);
    }
    let pending = queue.start_on(io(IoOpcode::Read, 0, 1), 512, LinkState::new(&[]));
    assert!(pending.take().is_none());
    all.clear();
    bed.tasks.run();
    assert_eq!(pending.status(), Status::SUCCESS);
}

#[test]
fn a_removed_namespace_finishes_what_is_in_flight_and_leaves_others_alone() {
    let bed = Bed::new();
    let other = FakeDevice::new(8, BlockSize::B512);
    bed.target
        .add_namespace(NQN, Nsid::new(2), NamespaceConfig::default(), other)
        .unwrap();
    let (_admin, queue) = bed.pair();
    bed.device.hold.store(true, Ordering::Relaxed);
    let pending = queue.start_on(io(IoOpcode::Read, 0, 1), 512, LinkState::new(&[]));
    assert_eq!(held(), 1);
    bed.target.remove_namespace(NQN, one()).unwrap();
    assert_eq!(
        status(&queue.read(0, 1, 512)),
        Status::INVALID_NAMESPACE.dnr()
    );
    let mut second = io(IoOpcode::Read, 0, 1);
    second.nsid = Le32::new(2);
    assert_eq!(status(&queue.fetch(second, 512)), Status::SUCCESS);
    assert!(release_held());
    bed.tasks.run();
    assert_eq!(pending.status(), Status::SUCCESS);
    bed.run_jobs();
    // Nobody holds the device any more: its file or memory can be given back.
    assert_eq!(std::sync::Arc::strong_count(&bed.device), 1);
}

#[test]
fn a_namespace_grows_under_io() {
    let bed = Bed::new();
    let (_admin, queue) = bed.pair();
    assert_eq!(
        status(&queue.exec(io(IoOpcode::WriteZeroes, 1024, 1), &[])),
        Status::LBA_OUT_OF_RANGE.dnr()
    );
    bed.device.blocks.store(1025, Ordering::Relaxed);
    bed.target.namespace_resized(NQN, one()).unwrap();
    bed.device.fail_next(BlockError::CapacityExceeded);
    let grown = queue.exec(io(IoOpcode::WriteZeroes, 1024, 1), &[]);
    assert_eq!(
        status(&grown),
        Status::CAPACITY_EXCEEDED.dnr(),
        "the device was asked"
    );
}

#[test]
fn a_write_that_outlives_its_connection_delays_the_hosts_next_controller() {
    let bed = Bed::new();
    let (admin, queue) = bed.pair();
    bed.device.hold.store(true, Ordering::Relaxed);
    let pending = queue.start(io(IoOpcode::Write, 0, 1), &[1; 512]);
    assert_eq!(held(), 1);
    queue.hang_up();
    admin.hang_up();
    bed.tasks.cancel(pending.task);
    bed.tasks.run();
    bed.run_jobs();
    let next = bed.connect_as(NQN, crate::testing::HOST, 0).unwrap();
    assert_eq!(next.set_cc(crate::testing::cc_enable()), Status::SUCCESS);
    assert_eq!(next.csts(), 0, "not ready while the old write is under way");
    assert!(release_held());
    assert_eq!(next.csts(), 1);
    assert_eq!(bed.device.block(0), 1, "the old write ended first");
}

#[test]
fn counters_tell_bytes_by_path_and_busy_time() {
    let bed = Bed::new();
    let (admin, queue) = bed.pair();
    queue.exec(io(IoOpcode::Write, 0, 2), &[0; 1024]);
    queue.read(0, 1, 512);
    let snapshot = bed.target.snapshot();
    let totals = &snapshot.namespaces[0].totals;
    assert_eq!((totals.written_bytes, totals.read_bytes), (1024, 512));
    assert_eq!(
        (totals.path_written_bytes[0], totals.path_read_bytes[0]),
        (1024, 512)
    );
    assert_eq!((totals.latency[0].count, totals.latency[1].count), (1, 1));
    let controller = snapshot
        .controllers
        .iter()
        .find(|c| c.cntlid == admin.cntlid)
        .unwrap();
    assert_eq!(
        (
            controller.totals.read_bytes,
            controller.totals.written_bytes
        ),
        (512, 1024)
    );
    assert_eq!(controller.io_queues, 1);
    bed.device.hold.store(true, Ordering::Relaxed);
    let pending = queue.start_on(io(IoOpcode::Read, 0, 1), 512, LinkState::new(&[]));
    crate::testing::advance_ms(70);
    release_held();
    bed.tasks.run();
    assert_eq!(pending.status(), Status::SUCCESS);
    let controller = admin.session.controller().unwrap();
    assert_eq!(controller.totals().busy_ticks, 70);
}

#[test]
fn compare_works_on_scattered_host_memory() {
    let bed = Bed::new();
    let lease = bed.pool.try_lease(1024).unwrap();
    lease.write_at(0, &pattern(1024));
    let mut payload = Payload::from(lease.slice(0, 100).unwrap());
    payload.push(lease.slice(100, 924).unwrap());
    assert!(super::other::same_bytes(&payload, &lease));
    let short = Payload::from(lease.slice(0, 100).unwrap());
    assert!(!super::other::same_bytes(&short, &lease));
}
