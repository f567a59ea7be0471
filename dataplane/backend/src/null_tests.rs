use super::*;
use crate::testing::{Bytes, now, on_reactor, pool, request};
use penstock_buffer::Payload;
use std::time::Instant;

fn device(latency_us: u32) -> Arc<NullDevice> {
    NullDevice::new(&NullConfig {
        name: "n".to_owned(),
        size_bytes: 1 << 40,
        block_size: BlockSize::B4096,
        lease_max_bytes: 1 << 20,
        latency_us,
    })
    .unwrap()
}

#[test]
fn reads_are_zeroes_wherever_the_memory_is() {
    let queue = device(0).open().unwrap();
    let lent = queue
        .lend(Direction::FromDevice, Lba(1 << 27), 256)
        .unwrap();
    assert!(lent.bytes().iter().all(|b| *b == 0));
    assert_eq!(
        now(queue.submit(request(Op::Read, 1 << 27, 256, lent.into()))).result,
        Ok(())
    );

    let lease = pool().try_lease(4096).unwrap();
    lease.fill(1);
    let outcome = now(queue.submit(request(Op::Read, 0, 1, lease.into())));
    assert_eq!(outcome.payload.into_single().unwrap().bytes(), [0; 4096]);
}

#[test]
fn writes_vanish() {
    let queue = device(0).open().unwrap();
    let lent = queue.lend(Direction::ToDevice, Lba(0), 1).unwrap();
    lent.fill(1);
    assert_eq!(
        now(queue.submit(request(Op::Write { fua: true }, 0, 1, lent.into()))).result,
        Ok(())
    );
    let lent = queue.lend(Direction::FromDevice, Lba(0), 1).unwrap();
    assert_eq!(lent.bytes(), [0; 4096]);
}

#[test]
fn ranges_are_checked_and_long_ones_not_lent() {
    let queue = device(0).open().unwrap();
    assert!(queue.lend(Direction::FromDevice, Lba(0), 257).is_none());
    assert!(queue.lend(Direction::FromDevice, Lba(1 << 28), 1).is_none());
    let outcome = now(queue.submit(request(Op::Deallocate, 1 << 28, 1, Payload::none())));
    assert_eq!(outcome.result, Err(BlockError::OutOfRange));
}

#[test]
fn latency_is_kept() {
    let device = device(20_000);
    let took = on_reactor(move || async move {
        let start = Instant::now();
        Bytes::new(device.open().unwrap())
            .op(Op::Flush, 0, 0)
            .await
            .unwrap();
        start.elapsed()
    });
    assert!(took >= Duration::from_millis(20), "{took:?}");
}

#[test]
fn a_size_of_no_blocks_is_refused() {
    let config = NullConfig {
        name: "n".to_owned(),
        size_bytes: 100,
        block_size: BlockSize::B512,
        lease_max_bytes: 4096,
        latency_us: 0,
    };
    let error = NullDevice::new(&config).err().unwrap().to_string();
    assert!(error.contains("n: size_bytes = 100"), "{error}");
}
