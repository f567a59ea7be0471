use super::*;
use crate::testing::{Bytes, lease_of, now, on_reactor, pattern, pool, request, size};
use penstock_buffer::MemoryKind;
use proptest::prelude::*;
use std::hint::black_box;

const ZEROES: Op = Op::WriteZeroes {
    fua: true,
    may_deallocate: false,
};

fn device(size_bytes: u64) -> Arc<MemoryDevice> {
    MemoryDevice::new(&MemoryConfig {
        name: "m".to_owned(),
        size_bytes,
        block_size: BlockSize::B512,
        hugepages: false,
        numa_node: None,
    })
    .unwrap()
}

fn queue(device: &Arc<MemoryDevice>) -> Rc<dyn BlockQueue> {
    Arc::clone(device).open().unwrap()
}

#[test]
fn lent_writes_and_reads_move_nothing_and_are_seen() {
    let device = device(1 << 20);
    let queue = queue(&device);
    let lease = queue.lend(Direction::ToDevice, Lba(3), 2).unwrap();
    assert_eq!((lease.len(), lease.kind()), (1024, MemoryKind::Device));
    lease.fill(0x77);
    let write = request(Op::Write { fua: true }, 3, 2, lease.into());
    assert_eq!(now(queue.submit(write)).result, Ok(()));
    let lease = queue.lend(Direction::FromDevice, Lba(4), 1).unwrap();
    let outcome = now(queue.submit(request(Op::Read, 4, 1, lease.into())));
    assert_eq!(outcome.payload.into_single().unwrap().bytes(), [0x77; 512]);
}

#[test]
fn a_lease_lent_for_another_range_is_copied() {
    let device = device(1 << 20);
    let queue = queue(&device);
    let lent = queue.lend(Direction::ToDevice, Lba(0), 1).unwrap();
    lent.fill(5);
    let write = request(Op::Write { fua: false }, 9, 1, lent.into());
    assert_eq!(now(queue.submit(write)).result, Ok(()));
    assert_eq!(
        queue
            .lend(Direction::FromDevice, Lba(9), 1)
            .unwrap()
            .bytes(),
        [5; 512]
    );
}

#[test]
fn scattered_payloads_are_copied_run_by_run() {
    let device = device(1 << 20);
    let queue = queue(&device);
    let pool = pool();
    let mut payload = Payload::none();
    for (value, len) in [(1, 512), (2, 1024), (3, 512)] {
        payload.push(lease_of(&pool, &vec![value; len]));
    }
    assert_eq!(
        now(queue.submit(request(Op::Write { fua: false }, 8, 4, payload))).result,
        Ok(())
    );
    let mut payload = Payload::none();
    payload.push(pool.try_lease(1536).unwrap());
    payload.push(pool.try_lease(512).unwrap());
    let outcome = now(queue.submit(request(Op::Read, 8, 4, payload)));
    let bytes: Vec<u8> = outcome
        .payload
        .segments()
        .flat_map(|l| l.bytes().to_vec())
        .collect();
    assert_eq!(bytes[..512], [1; 512]);
    assert_eq!(bytes[512..1536], [2; 1024]);
    assert_eq!(bytes[1536..], [3; 512]);
}

#[test]
fn the_end_is_the_end_before_and_after_a_resize() {
    let device = device(8192);
    let queue = queue(&device);
    assert!(queue.lend(Direction::FromDevice, Lba(15), 2).is_none());
    let outcome = now(queue.submit(request(ZEROES, 15, 2, Payload::none())));
    assert_eq!(outcome.result, Err(BlockError::OutOfRange));
    device.resize(16_384).unwrap();
    assert_eq!(device.geometry().blocks, 32);
    assert!(queue.lend(Direction::FromDevice, Lba(15), 2).is_some());
    device.resize(512).unwrap();
    let lease = lease_of(&pool(), &[0; 512]);
    let outcome = now(queue.submit(request(Op::Read, 1, 1, lease.into())));
    assert_eq!(outcome.result, Err(BlockError::OutOfRange));
    assert_eq!(outcome.payload.len(), 512);
}

#[test]
fn impossible_sizes_are_refused_with_the_remedy() {
    for size_bytes in [0, 511, 4097, u64::MAX] {
        let config = MemoryConfig {
            name: "m".to_owned(),
            size_bytes,
            block_size: BlockSize::B512,
            hugepages: true,
            numa_node: None,
        };
        let error = MemoryDevice::new(&config).err().unwrap().to_string();
        assert!(error.contains("multiple of block_size_bytes"), "{error}");
    }
    let error = device(512).resize(1 << 50).unwrap_err().to_string();
    assert!(
        error.contains("memory namespace m") && error.contains("free memory"),
        "{error}"
    );
}

#[test]
fn long_ranges_are_zeroed_in_pieces_beside_other_work() {
    let device = device(64 << 20);
    let left = on_reactor(move || async move {
        let bytes = Bytes::new(device.open().unwrap());
        for lba in [0, 40_000, 131_071] {
            bytes.write(lba, &[1; 512], false).await.unwrap();
        }
        let mut ticket = bytes
            .queue
            .submit(request(Op::Deallocate, 1, 131_070, Payload::none()));
        let at_once = crate::testing::poll_once(&mut ticket).is_some();
        assert_eq!(ticket.await.result, Ok(()));
        let mut values = Vec::new();
        for lba in [0, 40_000, 131_071] {
            values.push(bytes.read(lba, 1).await.unwrap()[0]);
        }
        (at_once, values)
    });
    assert_eq!(left, (false, vec![1, 0, 1]));
}

#[test]
fn reactors_share_one_device() {
    let device = device(1 << 20);
    let there = Arc::clone(&device);
    on_reactor(move || async move {
        Bytes::new(there.open().unwrap())
            .write(7, &[9; 1024], false)
            .await
            .unwrap();
    });
    let seen =
        on_reactor(
            move || async move { Bytes::new(device.open().unwrap()).read(8, 1).await.unwrap() },
        );
    assert_eq!(seen, [9; 512]);
}

#[test]
#[ignore = "measures; run with --release --nocapture"]
fn cost_of_a_request() {
    let queue = queue(&device(1 << 30));
    for (name, op, direction) in [
        ("read", Op::Read, Direction::FromDevice),
        ("write", Op::Write { fua: false }, Direction::ToDevice),
    ] {
        let n = 5_000_000_u32;
        let start = std::time::Instant::now();
        for i in 0..n {
            let lba = u64::from(i % 100_000) * 8;
            let lease = queue.lend(direction, Lba(lba), 8).unwrap();
            let outcome = now(queue.submit(request(op, lba, 8, lease.into())));
            assert!(black_box(outcome).result.is_ok());
        }
        println!(
            "{name}: {:?} to lend, submit, poll and drop",
            start.elapsed() / n
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn behaves_as_an_array_of_bytes(
        steps in prop::collection::vec((0_u8..5, 0_u64..600, 1_u64..200, any::<u64>()), 1..60),
    ) {
        const BLOCKS: u64 = 512;
        let queue = queue(&device(BLOCKS * 512));
        let pool = pool();
        let mut model = vec![0_u8; size(BLOCKS * 512)];
        for (what, lba, blocks, seed) in steps {
            let inside = lba + blocks <= BLOCKS;
            let expected = if inside { Ok(()) } else { Err(BlockError::OutOfRange) };
            let (from, len) = (size(lba) * 512, size(blocks) * 512);
            match what {
                0 | 1 => {
                    let bytes = pattern(seed, len);
                    let lent = (what == 0 && inside)
                        .then(|| queue.lend(Direction::ToDevice, Lba(lba), blocks).unwrap());
                    let lease = lent.unwrap_or_else(|| pool.try_lease(len).unwrap());
                    lease.write_at(0, &bytes);
                    let write = request(Op::Write { fua: false }, lba, blocks, lease.into());
                    prop_assert_eq!(now(queue.submit(write)).result, expected);
                    if inside {
                        model[from..from + len].copy_from_slice(&bytes);
                    }
                }
                2 | 3 => {
                    let op = if what == 2 { Op::Deallocate } else { ZEROES };
                    let outcome = now(queue.submit(request(op, lba, blocks, Payload::none())));
                    prop_assert_eq!(outcome.result, expected);
                    if inside {
                        model[from..from + len].fill(0);
                    }
                }
                _ => {
                    let lease = pool.try_lease(len).unwrap();
                    let outcome = now(queue.submit(request(Op::Read, lba, blocks, lease.into())));
                    prop_assert_eq!(outcome.result, expected);
                    if inside {
                        let lease = outcome.payload.into_single().unwrap();
                        prop_assert!(lease.bytes() == &model[from..from + len]);
                    }
                }
            }
        }
    }
}
