//! Commands that fail, take too long, are given up, or wait for a slot.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on must fail"
)]

mod common;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use common::{Hello, nsid, with_queue};
use penstock_client::{ClientError, CloseReason};
use penstock_nvme::Status;
use penstock_nvme::tcp::FatalError;
use penstock_reactor::{sleep, spawn};
use penstock_units::Lba;

#[test]
fn a_failed_command_tells_name_namespace_status_and_remedy() {
    with_queue(
        Hello::default(),
        4,
        |_| {},
        |peer| {
            let cid = peer.pdu().sqe().cid.get();
            peer.respond(cid, Status::LBA_OUT_OF_RANGE.dnr(), 0);
            assert!(peer.is_closed());
        },
        |queue, pool| async move {
            let lease = pool.lease(512).await;
            let error = queue
                .read(nsid(), Lba(1 << 40), 1, lease)
                .await
                .expect_err("failed");
            let told = error.to_string();
            for part in ["Read", "namespace 1", "LBA Out of Range", "DNR", "resized"] {
                assert!(told.contains(part), "{part} in: {told}");
            }
        },
    );
}

#[test]
fn a_termination_request_ends_every_command() {
    with_queue(
        Hello::default(),
        4,
        |_| {},
        |peer| {
            peer.pdu();
            peer.pdu();
            peer.terminate(FatalError::InvalidHeaderField, 5);
            assert!(peer.is_closed());
        },
        |queue, _| async move {
            let (other, failed) = (queue.clone(), Rc::new(RefCell::new(None)));
            let told = Rc::clone(&failed);
            spawn(async move { *told.borrow_mut() = other.flush(nsid()).await.err() });
            let error = queue.flush(nsid()).await.expect_err("terminated");
            sleep(Duration::from_millis(10)).await;
            for error in [error, failed.take().expect("the other failed too")] {
                let ClientError::Closed {
                    reason:
                        CloseReason::Terminated {
                            status: 1,
                            offset: 5,
                            ..
                        },
                    ..
                } = error
                else {
                    panic!("{error}");
                };
                assert!(
                    error.to_string().contains("Invalid PDU Header Field"),
                    "{error}"
                );
            }
            let error = queue
                .flush(nsid())
                .await
                .expect_err("the queue stays closed");
            assert!(matches!(error, ClientError::Closed { .. }), "{error}");
        },
    );
}

#[test]
fn an_answer_to_nothing_ends_the_connection() {
    with_queue(
        Hello::default(),
        4,
        |_| {},
        |peer| {
            let cid = peer.pdu().sqe().cid.get();
            peer.respond(cid ^ 1, Status::SUCCESS, 0);
            let term = peer.pdu().term();
            assert_eq!(term.fes.get(), u16::from(FatalError::InvalidHeaderField));
            assert_eq!(term.fei.get(), 20, "the offset of the command identifier");
            assert!(peer.is_closed());
        },
        |queue, _| async move {
            queue.flush(nsid()).await.expect_err("given up");
        },
    );
}

#[test]
fn a_late_answer_frees_the_slot_that_a_time_out_left_taken() {
    with_queue(
        Hello::default(),
        1,
        |options| options.command_timeout_ms = 50,
        |peer| {
            let cid = peer.pdu().sqe().cid.get();
            std::thread::sleep(Duration::from_millis(200));
            peer.c2h(cid, 0, &[9; 512], true, true);
            let cid = peer.pdu().sqe().cid.get();
            peer.respond(cid, Status::SUCCESS, 0);
            assert!(peer.is_closed());
        },
        |queue, pool| async move {
            let lease = pool.lease(512).await;
            let error = queue
                .read(nsid(), Lba(0), 1, lease)
                .await
                .expect_err("too slow");
            assert!(
                matches!(
                    error,
                    ClientError::TimedOut {
                        after_ms: 49..=50,
                        ..
                    }
                ),
                "{error}"
            );
            // The only slot is still taken: this waits for the late answer.
            queue.flush(nsid()).await.expect("flushed");
            assert_eq!(
                pool.stats().leased_bytes,
                0,
                "the late answer's memory is free again"
            );
        },
    );
}

#[test]
fn a_command_given_up_keeps_its_memory_until_it_is_answered() {
    with_queue(
        Hello::default(),
        2,
        |_| {},
        |peer| {
            let cid = peer.pdu().sqe().cid.get();
            let second = peer.pdu().sqe().cid.get();
            assert_ne!(
                cid, second,
                "the slot of a command given up is not used again"
            );
            peer.c2h(cid, 0, &[9; 4096], true, true);
            peer.respond(second, Status::SUCCESS, 0);
            assert!(peer.is_closed());
        },
        |queue, pool| async move {
            let lease = pool.lease(4096).await;
            let mut read = Box::pin(queue.read(nsid(), Lba(0), 8, lease));
            let polled = std::future::poll_fn(|cx| {
                std::task::Poll::Ready(read.as_mut().poll(cx).is_pending())
            });
            assert!(polled.await);
            drop(read);
            assert_eq!(
                pool.stats().leased_bytes,
                4096,
                "the controller may still write to it"
            );
            queue.flush(nsid()).await.expect("flushed");
            assert_eq!(pool.stats().leased_bytes, 0);
        },
    );
}

#[test]
fn commands_beyond_the_depth_wait_in_line() {
    with_queue(
        Hello::default(),
        3,
        |_| {},
        |peer| {
            let mut order = Vec::new();
            for _ in 0..5 {
                let first = peer.pdu().sqe();
                let others = [peer.pdu().sqe(), peer.pdu().sqe()];
                for sqe in [first].iter().chain(&others) {
                    order.push(sqe.cdw10.get());
                }
                for sqe in [first].iter().chain(&others) {
                    peer.respond(sqe.cid.get(), Status::SUCCESS, 0);
                }
            }
            assert_eq!(
                order,
                (0..15).collect::<Vec<_>>(),
                "first come, first served"
            );
            assert!(peer.is_closed());
        },
        |queue, _| async move {
            let done = Rc::new(RefCell::new(0));
            for lba in 0..15 {
                let (queue, done) = (queue.clone(), Rc::clone(&done));
                spawn(async move {
                    queue.verify(nsid(), Lba(lba), 1).await.expect("verified");
                    *done.borrow_mut() += 1;
                });
            }
            while *done.borrow() < 15 {
                sleep(Duration::from_millis(1)).await;
            }
        },
    );
}

#[test]
fn a_lost_connection_is_told_as_such() {
    with_queue(
        Hello::default(),
        4,
        |_| {},
        |peer| {
            peer.pdu();
        },
        |queue, _| async move {
            let error = queue.flush(nsid()).await.expect_err("lost");
            assert!(
                matches!(
                    error,
                    ClientError::Closed {
                        reason: CloseReason::Remote,
                        ..
                    }
                ),
                "{error}"
            );
        },
    );
}

#[test]
fn impossible_calls_are_refused_before_anything_is_sent() {
    with_queue(
        Hello::default(),
        4,
        |_| {},
        |peer| assert!(peer.is_closed(), "nothing was sent"),
        |queue, pool| async move {
            let lease = pool.lease(512).await;
            let error = queue
                .read(nsid(), Lba(0), 0, lease)
                .await
                .expect_err("no blocks");
            assert!(error.to_string().contains("1 to 65536 blocks"), "{error}");
            let error = queue.deallocate(nsid(), &[]).await.expect_err("no ranges");
            assert!(error.to_string().contains("1 to 256 ranges"), "{error}");
        },
    );
}
