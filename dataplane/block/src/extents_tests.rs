use std::sync::atomic::Ordering;

use super::*;
use crate::testing::{Disk, bytes_of, payload_of, pool, release_one, request, run};

const B: BlockSize = BlockSize::B512;

fn range(disk: &Arc<Disk>, offset_blocks: u64, blocks: u64) -> DeviceRange {
    DeviceRange {
        device: Arc::clone(disk) as Arc<dyn BlockDevice>,
        offset_bytes: offset_blocks * B.bytes_u64(),
        length_bytes: blocks * B.bytes_u64(),
    }
}

fn two() -> (Arc<Disk>, Arc<Disk>, Arc<Extents>) {
    let (a, b) = (Disk::new("a", B, 64), Disk::new("b", B, 64));
    let extents = Extents::new("v", B, &[range(&a, 8, 16), range(&b, 32, 8)]).unwrap();
    (a, b, extents)
}

#[test]
fn a_request_within_one_range_passes_as_it_is_and_one_across_is_split() {
    let (a, b, extents) = two();
    let queue = Arc::clone(&extents).open().unwrap();
    let pool = pool();
    let data: Vec<u8> = (1..7_u8).flat_map(|block| [block; 512]).collect();
    let write = Op::Write { fua: true };
    let outcome = run(
        &*queue,
        request(write, 13, 6, payload_of(&pool, &data, 700)),
        0,
    );
    assert_eq!(outcome.result, Ok(()));
    assert_eq!(bytes_of(&outcome.payload), data, "the payload comes back");
    assert_eq!(a.take_seen(), [(write, 21, 3)]);
    assert_eq!(b.take_seen(), [(write, 32, 3)]);
    let back = run(
        &*queue,
        request(Op::Read, 13, 6, payload_of(&pool, &[0xee; 6 * 512], 3072)),
        0,
    );
    assert_eq!(bytes_of(&back.payload), data);
    a.take_seen();
    b.take_seen();
    let zeroes = Op::WriteZeroes {
        fua: false,
        may_deallocate: true,
    };
    run(&*queue, request(zeroes, 16, 4, Payload::none()), 0);
    run(&*queue, request(Op::Flush, 0, 0, Payload::none()), 0);
    assert_eq!(a.take_seen(), [(Op::Flush, 8, 0)]);
    assert_eq!(b.take_seen(), [(zeroes, 32, 4), (Op::Flush, 32, 0)]);
}

#[test]
fn a_device_with_two_ranges_is_flushed_once() {
    let a = Disk::new("a", B, 64);
    let extents = Extents::new("v", B, &[range(&a, 0, 4), range(&a, 32, 4)]).unwrap();
    let queue = extents.open().unwrap();
    run(&*queue, request(Op::Flush, 0, 0, Payload::none()), 0);
    assert_eq!(a.take_seen().len(), 1);
}

#[test]
fn ranges_and_payloads_are_checked_and_nothing_is_nothing() {
    let (a, b, extents) = two();
    let queue = extents.open().unwrap();
    let pool = pool();
    let end = |op, lba, blocks, bytes: usize| {
        let payload = payload_of(&pool, &vec![0; bytes], 512);
        run(&*queue, request(op, lba, blocks, payload), 0).result
    };
    assert_eq!(end(Op::Read, 23, 2, 1024), Err(BlockError::OutOfRange));
    assert_eq!(
        end(Op::Deallocate, u64::MAX, 1, 0),
        Err(BlockError::OutOfRange)
    );
    assert_eq!(end(Op::Read, 15, 2, 512), Err(BlockError::Internal));
    assert_eq!(end(Op::Deallocate, 24, 0, 0), Ok(()));
    assert!(a.take_seen().is_empty() && b.take_seen().is_empty());
}

#[test]
fn the_worst_part_decides_after_all_have_ended() {
    let (a, b, extents) = two();
    let queue = extents.open().unwrap();
    a.late.store(true, Ordering::Relaxed);
    *b.fails.lock().unwrap() = Some(BlockError::WriteMedia);
    let zeroes = request(Op::Deallocate, 15, 2, Payload::none());
    let Err(ticket) = queue.submit(zeroes).try_take() else {
        panic!("a part is late")
    };
    assert!(release_one(0));
    let outcome = ticket.try_take().ok().map(|outcome| outcome.result);
    assert_eq!(outcome, Some(Err(BlockError::WriteMedia)));
}

#[test]
fn it_grows_under_open_queues() {
    let (a, b, extents) = two();
    let queue = Arc::clone(&extents).open().unwrap();
    let deallocate = |lba, blocks| {
        run(
            &*queue,
            request(Op::Deallocate, lba, blocks, Payload::none()),
            0,
        )
        .result
    };
    assert_eq!(deallocate(24, 1), Err(BlockError::OutOfRange));
    let c = Disk::new("c", B, 64);
    extents.extend(&[range(&c, 1, 5)]).unwrap();
    assert_eq!(extents.geometry().blocks, 29);
    assert_eq!(deallocate(23, 6), Ok(()));
    assert_eq!(c.take_seen(), [(Op::Deallocate, 1, 5)]);
    assert_eq!((a.take_seen().len(), b.take_seen().len()), (0, 1));
    let outside = extents.extend(&[range(&c, 60, 5)]).unwrap_err();
    assert!(
        matches!(outside, LayoutError::OutsideDevice { .. }),
        "{outside}"
    );
    assert_eq!(extents.geometry().blocks, 29, "nothing has changed");
    let ranges = extents.ranges();
    assert_eq!(ranges.len(), 3);
    assert_eq!(
        (ranges[1].offset_bytes, ranges[1].length_bytes),
        (32 * 512, 8 * 512)
    );
}

#[test]
fn blocks_may_be_larger_than_the_devices() {
    let small = Disk::new("small", B, 64);
    let on_small = DeviceRange {
        device: small.clone(),
        offset_bytes: 4096,
        length_bytes: 8192,
    };
    let extents = Extents::new("v", BlockSize::B4096, std::slice::from_ref(&on_small)).unwrap();
    assert_eq!(extents.geometry().blocks, 2);
    let queue = extents.open().unwrap();
    run(&*queue, request(Op::Deallocate, 1, 1, Payload::none()), 0);
    assert_eq!(small.take_seen(), [(Op::Deallocate, 16, 8)]);
    let large = Disk::new("large", BlockSize::B4096, 8);
    let refused = Extents::new("v", B, &[range(&large, 0, 8)]).err().unwrap();
    assert!(
        matches!(refused, LayoutError::BlockSize { .. }),
        "{refused}"
    );
    let odd = DeviceRange {
        offset_bytes: 512,
        ..on_small
    };
    let refused = Extents::new("v", BlockSize::B4096, &[odd]).err().unwrap();
    assert!(
        matches!(refused, LayoutError::Unaligned { .. }),
        "{refused}"
    );
    let refused = Extents::new("v", B, &[]).err().unwrap();
    assert!(matches!(refused, LayoutError::Empty { .. }), "{refused}");
}

#[test]
fn memory_is_lent_where_one_device_has_it_all() {
    let (_a, _b, extents) = two();
    let queue = extents.open().unwrap();
    let lease = queue.lend(Direction::ToDevice, Lba(17), 2).unwrap();
    assert_eq!((lease.bytes()[0], lease.len()), (33, 1024));
    assert!(queue.lend(Direction::ToDevice, Lba(15), 2).is_none());
    assert!(queue.lend(Direction::FromDevice, Lba(24), 1).is_none());
    assert!(
        queue
            .lend(Direction::FromDevice, Lba(u64::MAX), 2)
            .is_none()
    );
}

#[test]
fn every_weakness_of_a_device_is_the_wholes() {
    let (a, b, extents) = two();
    a.traits.lock().unwrap().volatile_cache = true;
    a.traits.lock().unwrap().optimal_blocks = 8;
    b.traits.lock().unwrap().deallocated_reads_zero = false;
    b.traits.lock().unwrap().read_only = true;
    let whole = extents.geometry();
    assert!(whole.volatile_cache && whole.read_only && whole.deallocate);
    assert!(!whole.deallocated_reads_zero);
    assert_eq!((whole.optimal_blocks, whole.blocks), (8, 24));
}
