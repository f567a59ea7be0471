use std::sync::atomic::Ordering;

use penstock_block::BlockError;
use penstock_nvme::sqe::Fuse;
use penstock_nvme::{IoOpcode, Le32, Sqe, Status};

use crate::fakes::{LinkState, held, release_held};
use crate::testing::{Bed, Peer, Pending, io, status};

fn compare(lba: u64) -> Sqe {
    io(IoOpcode::Compare, lba, 1).with_fuse(Fuse::First)
}

fn write(lba: u64) -> Sqe {
    io(IoOpcode::Write, lba, 1).with_fuse(Fuse::Second)
}

fn pair(queue: &Peer, lba: u64, old: u8, new: u8) -> (Pending, Pending) {
    let first = queue.start(compare(lba), &[old; 512]);
    let second = queue.start(write(lba), &[new; 512]);
    (first, second)
}

#[test]
fn the_write_follows_a_compare_that_holds() {
    let bed = Bed::new();
    let (_admin, queue) = bed.pair();
    bed.device.set_block(4, 1);
    let (first, second) = pair(&queue, 4, 1, 2);
    assert!(first.link.committed.get() && second.link.committed.get());
    assert_eq!(
        (first.status(), second.status()),
        (Status::SUCCESS, Status::SUCCESS)
    );
    assert_eq!(bed.device.block(4), 2);
    let (first, second) = pair(&queue, 4, 1, 3);
    assert_eq!(first.status(), Status::COMPARE_FAILURE.dnr());
    assert_eq!(second.status(), Status::ABORT_FAILED_FUSED.dnr());
    assert_eq!(bed.device.block(4), 2);
}

#[test]
fn a_half_without_its_partner_is_aborted() {
    let bed = Bed::new();
    let (_admin, queue) = bed.pair();
    let missing = Status::ABORT_MISSING_FUSED.dnr();
    assert_eq!(status(&queue.exec(write(0), &[0; 512])), missing);
    let lonely = queue.start(compare(0), &[0; 512]);
    assert!(lonely.take().is_none());
    assert_eq!(
        status(&queue.read(0, 1, 512)),
        Status::SUCCESS,
        "another command goes on"
    );
    bed.tasks.run();
    assert_eq!(lonely.status(), missing);
    let lonely = queue.start(compare(0), &[0; 512]);
    let (first, second) = pair(&queue, 0, 0, 1);
    assert_eq!(lonely.status(), missing);
    assert_eq!(
        (first.status(), second.status()),
        (Status::SUCCESS, Status::SUCCESS)
    );
}

#[test]
fn a_refused_half_takes_the_other_with_it() {
    let bed = Bed::new();
    let (_admin, queue) = bed.pair();
    let failed = Status::ABORT_FAILED_FUSED.dnr();
    // First half out of range.
    let (first, second) = (
        queue.start(compare(5000), &[0; 512]),
        queue.start(write(5000), &[0; 512]),
    );
    assert_eq!(first.status(), Status::LBA_OUT_OF_RANGE.dnr());
    assert_eq!(second.status(), Status::LBA_OUT_OF_RANGE.dnr());
    let (first, second) = (
        queue.start(compare(5000), &[0; 512]),
        queue.start(write(0), &[0; 512]),
    );
    assert_eq!(
        (first.status(), second.status()),
        (Status::LBA_OUT_OF_RANGE.dnr(), failed)
    );
    // Second half refused.
    let first = queue.start(compare(0), &[0; 512]);
    let second = queue.start(io(IoOpcode::Read, 0, 1).with_fuse(Fuse::Second), &[0; 512]);
    assert_eq!(second.status(), Status::INVALID_FIELD.dnr());
    assert_eq!(first.status().code(), Status::ABORT_FAILED_FUSED);
    // Different blocks.
    let (first, second) = (
        queue.start(compare(0), &[0; 512]),
        queue.start(write(1), &[0; 512]),
    );
    let invalid = Status::INVALID_FIELD.dnr();
    assert_eq!((first.status(), second.status()), (invalid, invalid));
    // More than one block.
    let long = io(IoOpcode::Compare, 0, 2).with_fuse(Fuse::First);
    let first = queue.start(long, &[0; 1024]);
    let second = queue.start(write(0), &[0; 512]);
    assert_eq!(first.status(), Status::ATOMIC_WRITE_UNIT_EXCEEDED.dnr());
    assert_eq!(second.status(), failed);
    // The reserved encoding.
    let reserved = io(IoOpcode::Read, 0, 1).with_fuse(Fuse::Reserved);
    assert_eq!(status(&queue.fetch(reserved, 512)), invalid);
    assert_eq!(bed.device.take_seen(), []);
}

#[test]
fn a_pair_whose_half_is_aborted_does_nothing() {
    let bed = Bed::new();
    let (_admin, queue) = bed.pair();
    let link = LinkState::new(&[0; 512]);
    link.withhold.set(true);
    let first = queue.start_on(compare(0), 512, link);
    let second = queue.start(write(0), &[1; 512]);
    bed.tasks.cancel(first.task);
    bed.tasks.run();
    assert_eq!(second.status(), Status::ABORT_FAILED_FUSED.dnr());
    let first = queue.start(compare(0), &[0; 512]);
    let link = LinkState::new(&[1; 512]);
    link.withhold.set(true);
    let second = queue.start_on(write(0), 512, link);
    bed.tasks.cancel(second.task);
    bed.tasks.run();
    assert_eq!(first.status().code(), Status::ABORT_FAILED_FUSED);
    assert_eq!(bed.device.take_seen(), []);
}

#[test]
fn no_other_write_gets_between_the_halves() {
    let bed = Bed::new();
    let (admin, queue) = bed.pair();
    let other = bed.io(&admin, 2);
    // A write is under way: the pair waits for it.
    bed.device.hold.store(true, Ordering::Relaxed);
    let earlier = other.start(io(IoOpcode::Write, 0, 1), &[1; 512]);
    assert_eq!(held(), 1);
    let (first, second) = pair(&queue, 0, 1, 2);
    assert_eq!(held(), 1, "the pair has not begun");
    // A write that comes now waits for the pair; a read does not.
    let later = other.start(io(IoOpcode::Write, 0, 1), &[3; 512]);
    assert_eq!(held(), 1);
    let read = other.start_on(io(IoOpcode::Read, 9, 1), 512, LinkState::new(&[]));
    assert_eq!(held(), 2);
    for _ in 0..10 {
        release_held();
        bed.tasks.run();
    }
    assert_eq!(earlier.status(), Status::SUCCESS);
    assert_eq!(read.status(), Status::SUCCESS);
    assert_eq!(
        (first.status(), second.status()),
        (Status::SUCCESS, Status::SUCCESS)
    );
    assert_eq!(later.status(), Status::SUCCESS);
    let order: Vec<_> = bed.device.take_seen().iter().map(|seen| seen.1).collect();
    assert_eq!(order, [0, 9, 0, 0, 0]);
    assert_eq!(bed.device.block(0), 3, "the later write came last");
}

#[test]
fn a_device_error_in_a_pair_is_the_first_halfs() {
    let bed = Bed::new();
    let (_admin, queue) = bed.pair();
    queue.read(0, 1, 512);
    bed.device.fail_next(BlockError::ReadMedia);
    let (first, second) = pair(&queue, 0, 0, 1);
    assert_eq!(first.status(), Status::UNRECOVERED_READ_ERROR.dnr());
    assert_eq!(second.status(), Status::ABORT_FAILED_FUSED.dnr());
    let mut wrong = compare(0);
    wrong.nsid = Le32::new(9);
    assert_eq!(
        status(&queue.exec(wrong, &[0; 512])),
        Status::INVALID_NAMESPACE.dnr()
    );
}

#[test]
fn a_write_whose_data_comes_late_waits_for_a_pair_that_began_meanwhile() {
    let bed = Bed::new();
    let (admin, queue) = bed.pair();
    let other = bed.io(&admin, 2);
    let link = LinkState::new(&[3; 512]);
    link.withhold.set(true);
    let late = other.start_on(io(IoOpcode::Write, 0, 1), 512, link);
    bed.device.hold.store(true, Ordering::Relaxed);
    // A host that is slow to send holds up no pair.
    let (first, second) = pair(&queue, 0, 0, 2);
    assert_eq!(held(), 1, "the pair reads");
    late.link.let_through();
    bed.tasks.run();
    assert_eq!(held(), 1, "the late write waits");
    while release_held() {
        bed.tasks.run();
    }
    assert_eq!(
        (first.status(), second.status(), late.status()),
        (Status::SUCCESS, Status::SUCCESS, Status::SUCCESS)
    );
    assert_eq!(bed.device.block(0), 3);
}
