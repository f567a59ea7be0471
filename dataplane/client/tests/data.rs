//! Moving data: C2HData, in-capsule data, R2T and H2CData, with and without digests.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on must fail"
)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "numbers of tests are small"
)]

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

mod common;

use common::{Hello, content, nsid, with_queue};
use penstock_client::{ClientError, CloseReason};
use penstock_nvme::sqe::Fuse;
use penstock_nvme::tcp::{FLAG_LAST, FatalError};
use penstock_nvme::{IoOpcode, Status};
use penstock_units::Lba;

const DIGESTS: [(bool, bool); 4] = [(false, false), (true, false), (false, true), (true, true)];

fn hello(header_digest: bool, data_digest: bool) -> Hello {
    Hello {
        header_digest,
        data_digest,
        ..Hello::default()
    }
}

#[test]
fn data_arrives_however_the_stream_is_cut() {
    for (header, data) in DIGESTS {
        with_queue(
            hello(header, data),
            4,
            |_| {},
            |peer| {
                let sqe = peer.pdu().sqe();
                assert_eq!(sqe.opcode, u8::from(IoOpcode::Read));
                assert_eq!((sqe.cdw10.get(), sqe.cdw12.get()), (64, 7));
                let whole = content(4096);
                let mut bytes = peer.c2h_bytes(sqe.cid.get(), 0, &whole[..1000], false, false);
                bytes.extend(peer.c2h_bytes(sqe.cid.get(), 1000, &whole[1000..], true, false));
                for piece in bytes.chunks(37) {
                    peer.send(piece);
                }
                peer.respond(sqe.cid.get(), Status::SUCCESS, 0);
                assert!(peer.is_closed());
            },
            |queue, pool| async move {
                let lease = pool.lease(4096).await;
                let lease = queue.read(nsid(), Lba(64), 8, lease).await.expect("read");
                assert_eq!(lease.bytes(), content(4096));
            },
        );
    }
}

#[test]
fn large_data_goes_straight_to_its_memory() {
    for (header, data) in DIGESTS {
        with_queue(
            hello(header, data),
            4,
            |_| {},
            |peer| {
                for _ in 0..3 {
                    let cid = peer.pdu().sqe().cid.get();
                    let whole = content(1 << 20);
                    let half = whole.len() / 2;
                    peer.c2h(cid, 0, &whole[..half], false, false);
                    peer.c2h(cid, half as u32, &whole[half..], true, true);
                }
                assert!(peer.is_closed());
            },
            |queue, pool| async move {
                for _ in 0..3 {
                    let lease = pool.lease(1 << 20).await;
                    lease.fill(0);
                    let lease = queue.read(nsid(), Lba(0), 2048, lease).await.expect("read");
                    assert!(lease.bytes() == content(1 << 20), "the content differs");
                }
            },
        );
    }
}

#[test]
fn damaged_data_is_told_and_the_queue_goes_on() {
    with_queue(
        hello(false, true),
        4,
        |_| {},
        |peer| {
            for damaged in [true, false] {
                let cid = peer.pdu().sqe().cid.get();
                let mut bytes = peer.c2h_bytes(cid, 0, &content(512), true, true);
                bytes[100] ^= u8::from(damaged);
                peer.send(&bytes);
            }
            assert!(peer.is_closed());
        },
        |queue, pool| async move {
            let error = queue.read(nsid(), Lba(0), 1, pool.lease(512).await).await;
            assert!(
                matches!(error, Err(ClientError::DataDigest { .. })),
                "{error:?}"
            );
            let lease = queue
                .read(nsid(), Lba(0), 1, pool.lease(512).await)
                .await
                .expect("read");
            assert_eq!(lease.bytes(), content(512));
        },
    );
}

#[test]
fn a_damaged_header_ends_the_connection() {
    with_queue(
        hello(true, false),
        4,
        |_| {},
        |peer| {
            let cid = peer.pdu().sqe().cid.get();
            let mut bytes = peer.c2h_bytes(cid, 0, &content(512), true, true);
            bytes[9] ^= 1;
            peer.send(&bytes);
            assert_eq!(
                peer.pdu().term().fes.get(),
                u16::from(FatalError::HeaderDigest)
            );
            assert!(peer.is_closed());
        },
        |queue, pool| async move {
            let error = queue.read(nsid(), Lba(0), 1, pool.lease(512).await).await;
            let Err(ClientError::Closed {
                reason: CloseReason::Protocol(_),
                ..
            }) = error
            else {
                panic!("{error:?}");
            };
        },
    );
}

#[test]
fn small_writes_go_in_the_capsule_and_honour_alignment() {
    for (header, data) in DIGESTS {
        with_queue(
            Hello {
                align: 31,
                ..hello(header, data)
            },
            4,
            |_| {},
            |peer| {
                let pdu = peer.pdu();
                let sqe = pdu.sqe();
                assert_eq!(pdu.header.len(), 128, "data starts at a multiple of 128");
                assert_eq!(sqe.cdw12.get(), 7 | 1 << 30, "eight blocks, FUA");
                assert_eq!(pdu.data, content(4096));
                peer.respond(sqe.cid.get(), Status::SUCCESS, 0);
                assert!(peer.is_closed());
            },
            |queue, pool| async move {
                let lease = pool.lease(4096).await;
                lease.write_at(0, &content(4096));
                queue
                    .write(nsid(), Lba(0), 8, lease, true)
                    .await
                    .expect("written");
            },
        );
    }
}

#[test]
fn large_writes_wait_for_transfers_and_keep_to_maxh2cdata() {
    for (header, data) in DIGESTS {
        with_queue(
            Hello {
                h2c_data_max: 4096,
                ..hello(header, data)
            },
            4,
            |_| {},
            |peer| {
                let pdu = peer.pdu();
                assert!(pdu.data.is_empty(), "64 KiB do not fit the capsule");
                let cid = pdu.sqe().cid.get();
                // Three transfers at once, of unequal length.
                let runs = [(0_u32, 10_000_u32), (10_000, 20_000), (30_000, 35_536)];
                for (tag, (offset, len)) in (70..).zip(runs) {
                    peer.r2t(cid, tag, offset, len);
                }
                let mut received = vec![0; 65_536];
                for (tag, (offset, len)) in (70..).zip(runs) {
                    let mut done = 0;
                    while done < len {
                        let pdu = peer.pdu();
                        let h2c = pdu.h2c();
                        assert_eq!((h2c.cccid.get(), h2c.ttag.get()), (cid, tag));
                        assert_eq!(h2c.datao.get(), offset + done);
                        assert!(h2c.datal.get() <= 4096);
                        let at = h2c.datao.get() as usize;
                        received[at..at + pdu.data.len()].copy_from_slice(&pdu.data);
                        done += h2c.datal.get();
                        assert_eq!(pdu.flags() & FLAG_LAST != 0, done == len, "LAST_PDU");
                    }
                }
                assert!(received == content(65_536), "the content differs");
                peer.respond(cid, Status::SUCCESS, 0);
                assert!(peer.is_closed());
            },
            |queue, pool| async move {
                let lease = pool.lease(65_536).await;
                lease.write_at(0, &content(65_536));
                queue
                    .write(nsid(), Lba(0), 128, lease, false)
                    .await
                    .expect("written");
            },
        );
    }
}

/// What the target does after a 64-KiB write's capsule, and the status of the termination request
/// that must follow.
fn broken_transfer(act: fn(&mut common::Peer, u16), fes: FatalError) {
    with_queue(
        Hello::default(),
        4,
        |options| options.ready_to_transfer_max = 2,
        move |peer| {
            let cid = peer.pdu().sqe().cid.get();
            act(peer, cid);
            let term = loop {
                let pdu = peer.pdu();
                if pdu.kind() != 0x06 {
                    break pdu.term();
                }
            };
            assert_eq!(term.fes.get(), u16::from(fes));
            assert!(peer.is_closed());
        },
        |queue, pool| async move {
            let lease = pool.lease(65_536).await;
            let error = queue.write(nsid(), Lba(0), 128, lease, false).await;
            let Err(ClientError::Closed {
                reason: CloseReason::Protocol(_),
                ..
            }) = error
            else {
                panic!("{error:?}");
            };
        },
    );
}

#[test]
fn transfers_against_the_rules_end_the_connection() {
    broken_transfer(
        |peer, cid| peer.r2t(cid, 1, 0, 65_537),
        FatalError::InvalidHeaderField,
    );
    broken_transfer(
        |peer, cid| peer.r2t(cid, 1, 4, 100),
        FatalError::SequenceError,
    );
    broken_transfer(
        |peer, cid| peer.r2t(cid + 1, 1, 0, 100),
        FatalError::InvalidHeaderField,
    );
    broken_transfer(
        |peer, cid| peer.c2h(cid, 0, &[0; 16], true, false),
        FatalError::InvalidHeaderField,
    );
    broken_transfer(
        |peer, cid| {
            // In one write, so that the third is there before the first is served.
            let mut bytes = Vec::new();
            for (tag, offset) in [(1, 0), (2, 100), (3, 200)] {
                let mut out = [0; 28];
                let used = penstock_nvme::tcp::encode_r2t(&mut out, cid, tag, offset, 100, false);
                bytes.extend_from_slice(&out[..used]);
            }
            peer.send(&bytes);
        },
        FatalError::LimitExceeded,
    );
}

#[test]
fn data_beyond_the_command_ends_the_connection() {
    with_queue(
        Hello::default(),
        4,
        |_| {},
        |peer| {
            let cid = peer.pdu().sqe().cid.get();
            peer.c2h(cid, 0, &[0; 1024], true, true);
            assert_eq!(
                peer.pdu().term().fes.get(),
                u16::from(FatalError::DataOutOfRange)
            );
            assert!(peer.is_closed());
        },
        |queue, pool| async move {
            queue
                .read(nsid(), Lba(0), 1, pool.lease(512).await)
                .await
                .expect_err("given up");
        },
    );
}

#[test]
fn success_with_too_little_data_is_no_success() {
    with_queue(
        Hello::default(),
        4,
        |_| {},
        |peer| {
            let cid = peer.pdu().sqe().cid.get();
            peer.c2h(cid, 0, &[0; 512], true, true);
            assert!(peer.is_closed());
        },
        |queue, pool| async move {
            let error = queue.read(nsid(), Lba(0), 2, pool.lease(1024).await).await;
            assert!(
                matches!(
                    error,
                    Err(ClientError::ShortData {
                        expected: 1024,
                        received: 512,
                        ..
                    })
                ),
                "{error:?}"
            );
        },
    );
}

#[test]
fn a_fused_pair_leaves_without_another_command_between() {
    with_queue(
        Hello::default(),
        8,
        |_| {},
        |peer| {
            let mut sqes = Vec::new();
            for _ in 0..4 {
                sqes.push(peer.pdu().sqe());
            }
            let first = sqes
                .iter()
                .position(|s| s.fuse() == Fuse::First)
                .expect("a first");
            assert_eq!(sqes[first].opcode, u8::from(IoOpcode::Compare));
            assert_eq!(sqes[first + 1].fuse(), Fuse::Second);
            assert_eq!(sqes[first + 1].opcode, u8::from(IoOpcode::Write));
            for sqe in &sqes {
                let status = match sqe.fuse() {
                    Fuse::First => Status::COMPARE_FAILURE,
                    Fuse::Second => Status::ABORT_FAILED_FUSED,
                    _ => Status::SUCCESS,
                };
                peer.respond(sqe.cid.get(), status, 0);
            }
            assert!(peer.is_closed());
        },
        |queue, pool| async move {
            let flushed = Rc::new(Cell::new(0));
            let flush = || {
                let (queue, flushed) = (queue.clone(), Rc::clone(&flushed));
                penstock_reactor::spawn(async move {
                    drop(queue.flush(nsid()).await);
                    flushed.set(flushed.get() + 1);
                });
            };
            flush();
            let pair = queue.compare_and_write(
                nsid(),
                Lba(0),
                1,
                pool.lease(512).await,
                pool.lease(512).await,
            );
            flush();
            let error = pair.await.expect_err("the compare fails");
            assert_eq!(
                error.status().map(Status::code),
                Some(Status::COMPARE_FAILURE),
                "{error}"
            );
            // The target answers these too, and must not find the connection closed.
            while flushed.get() < 2 {
                penstock_reactor::sleep(Duration::from_millis(1)).await;
            }
        },
    );
}
