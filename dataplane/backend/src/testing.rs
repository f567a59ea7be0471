//! What this crate's tests share.

use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use penstock_block::{BlockError, BlockQueue, Op, Outcome, Request, Ticket};
use penstock_buffer::{Lease, Payload, Pool, PoolConfig};
use penstock_reactor::{ReactorConfig, ReactorHandle};
use penstock_units::Lba;

/// Runs a future on a reactor of its own and returns what it returns.
pub(crate) fn on_reactor<T: Send + 'static, F: Future<Output = T> + 'static>(
    make: impl FnOnce() -> F + Send + 'static,
) -> T {
    static IDS: AtomicU32 = AtomicU32::new(0);
    let (send, receive) = mpsc::channel();
    let config = ReactorConfig {
        id: IDS.fetch_add(1, Ordering::Relaxed),
        ..ReactorConfig::default()
    };
    let reactor = ReactorHandle::start(config, move || {
        penstock_reactor::spawn(async move {
            let _ = send.send(make().await);
        });
    })
    .unwrap();
    let answer = receive.recv_timeout(Duration::from_secs(60));
    reactor.stop();
    assert!(reactor.join(), "the reactor panicked");
    answer.expect("the test's future ended without an answer")
}

/// The outcome of a ticket that must be resolved already.
pub(crate) fn now(ticket: Ticket) -> Outcome {
    match pin!(ticket).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => panic!("not resolved at once"),
    }
}

pub(crate) fn poll_once(ticket: &mut Ticket) -> Option<Outcome> {
    match Pin::new(ticket).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => Some(outcome),
        Poll::Pending => None,
    }
}

pub(crate) fn pool() -> Pool {
    Pool::new(&PoolConfig {
        size_bytes: 32 << 20,
        lease_max_bytes: 16 << 20,
        hugepages: false,
        ..PoolConfig::default()
    })
    .unwrap()
}

/// Private memory with `bytes` in it.
pub(crate) fn lease_of(pool: &Pool, bytes: &[u8]) -> Lease {
    let lease = pool.try_lease(bytes.len()).unwrap();
    assert_eq!(lease.write_at(0, bytes), bytes.len());
    lease
}

pub(crate) fn request(op: Op, lba: u64, blocks: u64, payload: Payload) -> Request {
    Request {
        op,
        lba: Lba(lba),
        blocks,
        payload,
    }
}

/// A queue with the bytes in and out that tests want, 512-byte blocks.
pub(crate) struct Bytes {
    pub(crate) queue: Rc<dyn BlockQueue>,
    pub(crate) pool: Pool,
}

impl Bytes {
    pub(crate) fn new(queue: Rc<dyn BlockQueue>) -> Bytes {
        Bytes {
            queue,
            pool: pool(),
        }
    }

    pub(crate) async fn op(&self, op: Op, lba: u64, blocks: u64) -> Result<(), BlockError> {
        self.queue
            .submit(request(op, lba, blocks, Payload::none()))
            .await
            .result
    }

    pub(crate) async fn write(&self, lba: u64, bytes: &[u8], fua: bool) -> Result<(), BlockError> {
        let payload = lease_of(&self.pool, bytes).into();
        let blocks = bytes.len() as u64 / 512;
        let outcome = self
            .queue
            .submit(request(Op::Write { fua }, lba, blocks, payload))
            .await;
        assert_eq!(outcome.payload.len(), bytes.len(), "the payload comes back");
        outcome.result
    }

    pub(crate) async fn read(&self, lba: u64, blocks: u64) -> Result<Vec<u8>, BlockError> {
        let lease = self.pool.try_lease(size(blocks) * 512).unwrap();
        lease.fill(0xee);
        let outcome = self
            .queue
            .submit(request(Op::Read, lba, blocks, lease.into()))
            .await;
        outcome.result?;
        Ok(outcome.payload.into_single().unwrap().bytes().to_vec())
    }
}

/// Bytes that tell where they come from.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A number of bytes as this machine addresses memory.
pub(crate) fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap()
}
