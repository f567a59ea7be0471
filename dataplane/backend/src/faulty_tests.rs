use super::*;
use crate::testing::{now, on_reactor, request};
use crate::{NullConfig, NullDevice};
use penstock_buffer::Payload;
use penstock_units::BlockSize;
use std::time::Instant;

fn device(seed: u64) -> Arc<FaultyDevice> {
    let inner = NullDevice::new(&NullConfig {
        name: "n".to_owned(),
        size_bytes: 1 << 20,
        block_size: BlockSize::B512,
        lease_max_bytes: 4096,
        latency_us: 0,
    })
    .unwrap();
    FaultyDevice::new(inner, seed)
}

fn flush(queue: &Rc<dyn BlockQueue>) -> Result<(), BlockError> {
    now(queue.submit(request(Op::Flush, 0, 0, Payload::none()))).result
}

fn deallocate(queue: &Rc<dyn BlockQueue>, lba: u64, blocks: u64) -> Result<(), BlockError> {
    now(queue.submit(request(Op::Deallocate, lba, blocks, Payload::none()))).result
}

const GONE: Fault = Fault::Fail(BlockError::Gone);

#[test]
fn rules_strike_as_often_as_told() {
    let device = device(1);
    let queue = Arc::clone(&device).open().unwrap();
    device.add(Rule {
        skip: 1,
        times: 2,
        ..Rule::always(|op| *op == Op::Flush, GONE)
    });
    assert_eq!(deallocate(&queue, 0, 1), Ok(()));
    let results: Vec<_> = (0..4).map(|_| flush(&queue)).collect();
    let gone = Err(BlockError::Gone);
    assert_eq!(results, [Ok(()), gone, gone, Ok(())]);
    device.add(Rule::always(|_| true, GONE));
    assert_eq!(flush(&queue), gone);
    device.clear();
    assert_eq!(flush(&queue), Ok(()));
}

#[test]
fn rules_know_their_blocks() {
    let device = device(1);
    let queue = Arc::clone(&device).open().unwrap();
    device.add(Rule {
        blocks: Some(10..12),
        ..Rule::always(|_| true, GONE)
    });
    for (lba, blocks, struck) in [
        (0, 10, false),
        (0, 11, true),
        (11, 1, true),
        (12, 4, false),
        (5, 100, true),
    ] {
        assert_eq!(
            deallocate(&queue, lba, blocks).is_err(),
            struck,
            "{lba}+{blocks}"
        );
    }
}

#[test]
fn chance_repeats_with_its_seed() {
    let run = |seed| -> Vec<bool> {
        let device = device(seed);
        let queue = Arc::clone(&device).open().unwrap();
        device.add(Rule {
            per_mille: 500,
            ..Rule::always(|_| true, GONE)
        });
        (0..200).map(|_| flush(&queue).is_err()).collect()
    };
    let (first, again, other) = (run(7), run(7), run(8));
    assert_eq!(first, again);
    assert_ne!(first, other);
    let struck = first.iter().filter(|hit| **hit).count();
    assert!(
        (50..150).contains(&struck),
        "{struck} of 200 at 500 per mille"
    );
}

#[test]
fn delays_keep_the_request_and_pass_it_on() {
    let device = device(1);
    device.add(Rule::always(
        |_| true,
        Fault::Delay(Duration::from_millis(10)),
    ));
    let (result, took) = on_reactor(move || async move {
        let start = Instant::now();
        let queue = device.open().unwrap();
        let outcome = queue
            .submit(request(Op::Deallocate, 1 << 30, 1, Payload::none()))
            .await;
        (outcome.result, start.elapsed())
    });
    assert_eq!(
        result,
        Err(BlockError::OutOfRange),
        "the inner device decides"
    );
    assert!(took >= Duration::from_millis(10), "{took:?}");
}
