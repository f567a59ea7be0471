use proptest::prelude::*;

use super::*;
use crate::testing::{Disk, bytes_of, payload_of, pool, request, run};
use crate::{DeviceRange, Extents};

const B: BlockSize = BlockSize::B512;

fn columns(disks: &[Arc<Disk>]) -> Vec<Arc<dyn BlockDevice>> {
    let as_device = |disk: &Arc<Disk>| Arc::clone(disk) as Arc<dyn BlockDevice>;
    disks.iter().map(as_device).collect()
}

fn disks(sizes: &[u64]) -> Vec<Arc<Disk>> {
    let disk = |(i, blocks): (usize, &u64)| Disk::new(&format!("d{i}"), B, *blocks);
    sizes.iter().enumerate().map(disk).collect()
}

#[test]
fn units_go_round_and_one_unit_passes_as_it_is() {
    let disks = disks(&[16, 16, 16]);
    let stripe = Stripe::new("s", 2048, columns(&disks)).unwrap();
    assert_eq!(stripe.geometry().blocks, 48);
    let queue = stripe.open().unwrap();
    run(&*queue, request(Op::Deallocate, 13, 3, Payload::none()), 0);
    assert_eq!(disks[0].take_seen(), [(Op::Deallocate, 5, 3)]);
    let pool = pool();
    let payload = payload_of(&pool, &[7; 20 * 512], 20 * 512);
    let write = Op::Write { fua: false };
    let outcome = run(&*queue, request(write, 2, 20, payload), 0);
    assert_eq!(outcome.result, Ok(()));
    assert_eq!(outcome.payload.segment_count(), 1, "as it was given");
    assert_eq!(disks[0].take_seen(), [(write, 2, 2), (write, 4, 4)]);
    assert_eq!(disks[1].take_seen(), [(write, 0, 4), (write, 4, 4)]);
    assert_eq!(disks[2].take_seen(), [(write, 0, 4), (write, 4, 2)]);
    run(&*queue, request(Op::Flush, 9, 9, Payload::none()), 0);
    for disk in &disks {
        assert_eq!(disk.take_seen(), [(Op::Flush, 0, 0)]);
    }
    let lease = queue.lend(Direction::ToDevice, Lba(14), 2).unwrap();
    assert_eq!(lease.bytes()[0], 6);
    assert!(queue.lend(Direction::ToDevice, Lba(15), 2).is_none());
    assert!(queue.lend(Direction::ToDevice, Lba(48), 1).is_none());
}

#[test]
fn requests_without_payload_are_one_a_column() {
    let disks = disks(&[64, 64, 64]);
    let queue = Stripe::new("s", 1024, columns(&disks))
        .unwrap()
        .open()
        .unwrap();
    run(&*queue, request(Op::Deallocate, 3, 90, Payload::none()), 0);
    let seen: Vec<_> = disks.iter().map(|disk| disk.take_seen()).collect();
    assert!(seen.iter().all(|seen| seen.len() == 1), "{seen:?}");
    let blocks: u64 = seen.iter().map(|seen| seen[0].2).sum();
    assert_eq!(blocks, 90);
    run(&*queue, request(Op::Deallocate, 1, 2, Payload::none()), 0);
    assert_eq!(disks[0].take_seen(), [(Op::Deallocate, 1, 1)]);
    assert_eq!(disks[1].take_seen(), [(Op::Deallocate, 0, 1)]);
    assert!(disks[2].take_seen().is_empty());
}

#[test]
fn capacity_is_what_columns_hold_without_a_gap() {
    let cases: [(&[u64], u64); 5] = [
        (&[8, 8], 16),
        (&[9, 8], 17),
        (&[8, 9], 16),
        (&[12, 10, 40], 30),
        (&[3, 3], 3),
    ];
    for (sizes, blocks) in cases {
        let stripe = Stripe::new("s", 2048, columns(&disks(sizes))).unwrap();
        assert_eq!(stripe.geometry().blocks, blocks, "{sizes:?}");
    }
}

#[test]
fn refuses_what_makes_no_stripe() {
    let two = disks(&[8, 8]);
    for unit in [0, 256, 1000, 1536, 1 << 31] {
        let refused = Stripe::new("s", unit, columns(&two)).err().unwrap();
        assert!(
            matches!(refused, LayoutError::StripeUnit { .. }),
            "{refused}"
        );
    }
    let none = Stripe::new("s", 4096, Vec::new()).err().unwrap();
    assert!(matches!(none, LayoutError::Empty { .. }));
    let mut mixed = columns(&two);
    mixed.push(Disk::new("large", BlockSize::B4096, 8));
    let refused = Stripe::new("s", 4096, mixed).err().unwrap();
    assert!(
        matches!(refused, LayoutError::BlockSize { .. }),
        "{refused}"
    );
}

/// A step of the comparison with one plain disk.
#[derive(Clone, Debug)]
enum Step {
    Write {
        at: u64,
        blocks: u64,
        seed: u8,
        run: usize,
    },
    Read {
        at: u64,
        blocks: u64,
        run: usize,
    },
    Zero {
        at: u64,
        blocks: u64,
        deallocate: bool,
    },
    Flush,
    Grow,
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0_u64..260;
    let blocks = 1_u64..80;
    prop_oneof![
        4 => (at.clone(), blocks.clone(), any::<u8>(), 1_usize..9).prop_map(
            |(at, blocks, seed, run)| Step::Write { at, blocks, seed, run: run * 512 }
        ),
        4 => (at.clone(), blocks.clone(), 1_usize..9)
            .prop_map(|(at, blocks, run)| Step::Read { at, blocks, run: run * 512 }),
        2 => (at, blocks, any::<bool>())
            .prop_map(|(at, blocks, deallocate)| Step::Zero { at, blocks, deallocate }),
        1 => Just(Step::Flush),
        1 => Just(Step::Grow),
    ]
}

fn op_and_payload(step: &Step, pool: &penstock_buffer::Pool) -> (Op, u64, u64, Payload) {
    let size = |blocks: u64| usize::try_from(blocks).unwrap() * 512;
    match *step {
        Step::Write {
            at,
            blocks,
            seed,
            run,
        } => {
            let bytes: Vec<u8> = (0..size(blocks))
                .map(|i| seed ^ u8::try_from(i / 512 % 256).unwrap())
                .collect();
            let payload = payload_of(pool, &bytes, run);
            (Op::Write { fua: seed % 2 == 0 }, at, blocks, payload)
        }
        Step::Read { at, blocks, run } => {
            let payload = payload_of(pool, &vec![0xee; size(blocks)], run);
            (Op::Read, at, blocks, payload)
        }
        Step::Zero {
            at,
            blocks,
            deallocate,
        } => {
            let op = match deallocate {
                true => Op::Deallocate,
                false => Op::WriteZeroes {
                    fua: true,
                    may_deallocate: false,
                },
            };
            (op, at, blocks, Payload::none())
        }
        Step::Flush | Step::Grow => (Op::Flush, 0, 0, Payload::none()),
    }
}

proptest! {
    #[test]
    fn a_stripe_over_extents_is_like_one_disk(
        width in 1_usize..5,
        unit_shift in 9_u32..14,
        late in any::<bool>(),
        picks in any::<usize>(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        // Each column: pieces of two disks that all columns share.
        let disks = disks(&[1024, 1024]);
        let piece = |disk: usize, at: u64, blocks: u64| DeviceRange {
            device: Arc::clone(&disks[disk]) as Arc<dyn BlockDevice>,
            offset_bytes: at * 512,
            length_bytes: blocks * 512,
        };
        let column = |c: usize| {
            let base = c as u64 * 200;
            let ranges = [piece(0, base, 33), piece(1, base + 5, 31)];
            Extents::new("column", B, &ranges).unwrap()
        };
        let extents: Vec<_> = (0..width).map(column).collect();
        let columns = extents.iter().map(|c| Arc::clone(c) as Arc<dyn BlockDevice>);
        let stripe = Stripe::new("s", 1 << unit_shift, columns.collect()).unwrap();
        let reference = Disk::new("reference", B, stripe.geometry().blocks);
        let queue = Arc::clone(&stripe).open().unwrap();
        let plain = Arc::clone(&reference).open().unwrap();
        let pool = pool();
        for disk in &disks {
            disk.late.store(late, Ordering::Relaxed);
        }
        let mut grown = false;
        for step in steps {
            if matches!(step, Step::Grow) && !grown {
                for (c, column) in extents.iter().enumerate() {
                    column.extend(&[piece(c % 2, c as u64 * 200 + 100, 64)]).unwrap();
                }
                stripe.refresh();
                reference.grow(stripe.geometry().blocks);
                grown = true;
            }
            let (op, at, blocks, payload) = op_and_payload(&step, &pool);
            let one = run(&*queue, request(op, at, blocks, payload), picks);
            let (op, at, blocks, payload) = op_and_payload(&step, &pool);
            let other = run(&*plain, request(op, at, blocks, payload), 0);
            prop_assert_eq!(one.result, other.result, "{:?}", step);
            prop_assert_eq!(bytes_of(&one.payload), bytes_of(&other.payload), "{:?}", step);
        }
    }
}
