//! Data both ways over a real reactor: in capsules, by R2T, as C2HData, with digests, in pieces.
#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::host::{Host, Pdu, Wishes, icreq, plain, read, with_dw10, write, write_in_capsule};
use common::{FLUSH, IGNORE_WRITE, Node, READ_SCATTERED, SLOW_WRITE, patterned};
use penstock_nvme::{SglDescriptor, Status};
use penstock_transport_tcp::TcpConfig;

fn digests() -> [Wishes; 4] {
    [(false, false), (true, false), (false, true), (true, true)].map(
        |(header_digest, data_digest)| Wishes {
            header_digest,
            data_digest,
            ..Wishes::default()
        },
    )
}

fn stored(node: &Node) -> Vec<u8> {
    node.seen.disk.lock().unwrap().clone()
}

#[test]
fn parameters_are_negotiated() {
    let node = Node::start(TcpConfig {
        data_digest: false,
        ..TcpConfig::default()
    });
    let mut host = Host::raw(node.address);
    let all = Wishes {
        header_digest: true,
        data_digest: true,
        ..Wishes::default()
    };
    host.send(&icreq(&all));
    let answer = host.recv();
    assert_eq!(
        answer,
        Pdu::IcResp {
            dgst: 1,
            cpda: 0,
            data_max: 256 << 10
        }
    );
}

#[test]
fn reads_writes_and_flushes_with_every_digest_setting() {
    let node = Node::start(TcpConfig::default());
    for wishes in digests() {
        let mut host = Host::connected(node.address, wishes);
        host.send(&host.command(&plain(FLUSH, 1, 77)));
        let cqe = host.response();
        assert_eq!(
            (cqe.cid.get(), cqe.result.get(), cqe.status.get()),
            (1, 77, 0)
        );
        for len in [4_u32, 512, 4096, 8192] {
            let data = patterned(len, len as usize);
            host.send(&host.capsule(&write_in_capsule(2, len), &data));
            assert_eq!(host.response().status.get(), 0);
            assert_eq!(stored(&node), data, "{wishes:?} {len}");
        }
        for len in [512_u32, 4096, 65_536, 1 << 20, (1 << 20) + 512] {
            let data = patterned(len + 1, len as usize);
            host.send(&host.command(&write(3, len)));
            host.feed(3, &data, host.data_max as usize);
            assert_eq!(host.response().status.get(), 0);
            assert!(stored(&node) == data, "{wishes:?} {len}");
            host.send(&host.command(&read(4, len, 9)));
            let (got, cqe) = host.read_data(4);
            assert!(got == patterned(9, len as usize), "{wishes:?} {len}");
            assert_eq!(cqe, None, "success flag");
        }
    }
}

#[test]
fn data_lands_by_every_path() {
    let node = Node::start(TcpConfig::default());
    let mut host = Host::connected(node.address, Wishes::default());
    let data = patterned(1, 128 << 10);
    host.send(&host.command(&write(1, 128 << 10)));
    let (tag, offset, len) = host.r2t();
    assert_eq!((offset, len), (0, 128 << 10));
    let pdu = host.h2c(1, tag, 0, &data, true);
    // The header alone first, so that the rest is received directly.
    host.send(&pdu[..24]);
    std::thread::sleep(Duration::from_millis(20));
    host.send(&pdu[24..]);
    assert_eq!(host.response().status.get(), 0);
    assert!(stored(&node) == data);
    let stats = node.stats();
    assert!(stats.direct_bytes.get() > 0, "direct receive was used");
    let moved = stats.direct_bytes.get() + stats.chunk_copied_bytes.get();
    assert_eq!(moved, 128 << 10);
    let before = stats.in_capsule_copied_bytes.get();
    host.send(&host.capsule(&write_in_capsule(2, 4096), &data[..4096]));
    assert_eq!(host.response().status.get(), 0);
    assert_eq!(stats.in_capsule_copied_bytes.get() - before, 4096);
}

#[test]
fn every_split_of_a_command_stream_gives_the_same_answers() {
    let node = Node::start(TcpConfig::default());
    for wishes in [digests()[0], digests()[3]] {
        let mut host = Host::connected(node.address, wishes);
        let data = patterned(5, 96);
        let mut stream = host.capsule(&write_in_capsule(1, 96), &data);
        stream.extend(host.command(&read(2, 64, 3)));
        stream.extend(host.command(&plain(FLUSH, 3, 8)));
        for split in 1..stream.len() {
            let (first, second) = stream.split_at(split);
            host.send(first);
            std::thread::sleep(Duration::from_micros(300));
            host.send(second);
            // Commands that arrive together may be answered in any order.
            let mut answers: Vec<Pdu> = (0..3).map(|_| host.recv()).collect();
            answers.sort_by_key(|pdu| match pdu {
                Pdu::Response(cqe) => cqe.cid.get(),
                Pdu::Data { cid, .. } => *cid,
                _ => 0,
            });
            let [
                Pdu::Response(first),
                Pdu::Data { bytes, .. },
                Pdu::Response(third),
            ] = &answers[..]
            else {
                panic!("split at {split}: {answers:?}")
            };
            assert_eq!(
                (first.cid.get(), first.status.get()),
                (1, 0),
                "split at {split}"
            );
            assert_eq!(*bytes, patterned(3, 64), "split at {split}");
            assert_eq!(
                (third.cid.get(), third.result.get()),
                (3, 8),
                "split at {split}"
            );
            assert_eq!(stored(&node), data, "split at {split}");
        }
    }
}

#[test]
fn every_split_of_h2c_data_gives_the_same_data() {
    let node = Node::start(TcpConfig::default());
    for wishes in [digests()[0], digests()[3]] {
        let mut host = Host::connected(node.address, wishes);
        let data = patterned(6, 96);
        for split in 1..24 + 4 + 96 + 4 {
            host.send(&host.command(&write(1, 96)));
            let (tag, _, _) = host.r2t();
            let pdu = host.h2c(1, tag, 0, &data, true);
            let (first, second) = pdu.split_at(split.min(pdu.len() - 1));
            host.send(first);
            std::thread::sleep(Duration::from_micros(300));
            host.send(second);
            assert_eq!(host.response().status.get(), 0, "split at {split}");
            assert_eq!(stored(&node), data, "split at {split}");
        }
    }
}

#[test]
fn the_first_pdu_may_come_in_pieces() {
    let node = Node::start(TcpConfig::default());
    for split in [1, 7, 8, 9, 64, 127] {
        let mut host = Host::raw(node.address);
        let request = icreq(&Wishes::default());
        host.send(&request[..split]);
        std::thread::sleep(Duration::from_millis(1));
        host.send(&request[split..]);
        host.take_icresp(Wishes::default());
        let capsule = host.connect_capsule();
        for byte in &capsule[..100] {
            host.send(std::slice::from_ref(byte));
        }
        host.send(&capsule[100..]);
        assert_eq!(host.response().status.get(), 0);
    }
}

#[test]
fn several_r2ts_are_outstanding_up_to_the_hosts_limit() {
    let node = Node::start(TcpConfig {
        r2t_max_bytes: 8192,
        ..TcpConfig::default()
    });
    for (r2t_max, expected) in [(1_u32, 1_usize), (2, 2), (3, 3), (16, 4)] {
        let mut host = Host::connected(
            node.address,
            Wishes {
                r2t_max,
                ..Wishes::default()
            },
        );
        let data = patterned(r2t_max, 64 << 10);
        host.send(&host.command(&write(1, 64 << 10)));
        let mut open = std::collections::VecDeque::new();
        for _ in 0..expected {
            open.push_back(host.r2t());
        }
        host.stream
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let mut byte = [0; 1];
        assert!(
            host.stream.peek(&mut byte).is_err(),
            "no more than {expected} R2Ts at once"
        );
        host.stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut asked = expected * 8192;
        while let Some((tag, offset, len)) = open.pop_front() {
            assert_eq!(len, 8192);
            let part = &data[offset as usize..(offset + len) as usize];
            host.answer_r2t(1, tag, offset, part, 3000);
            if asked < data.len() {
                open.push_back(host.r2t());
                asked += 8192;
            }
        }
        assert_eq!(host.response().status.get(), 0);
        assert!(stored(&node) == data);
    }
}

#[test]
fn r2ts_of_a_command_may_be_answered_interleaved() {
    let node = Node::start(TcpConfig {
        r2t_max_bytes: 4096,
        ..TcpConfig::default()
    });
    let mut host = Host::connected(
        node.address,
        Wishes {
            r2t_max: 2,
            ..Wishes::default()
        },
    );
    let data = patterned(1, 8192);
    host.send(&host.command(&write(1, 8192)));
    let (first, second) = (host.r2t(), host.r2t());
    for part in 0..2_u32 {
        for (tag, offset, _) in [second, first] {
            let at = offset + part * 2048;
            let bytes = &data[at as usize..at as usize + 2048];
            let pdu = host.h2c(1, tag, at, bytes, part == 1);
            host.send(&pdu);
        }
    }
    assert_eq!(host.response().status.get(), 0);
    assert_eq!(stored(&node), data);
}

#[test]
fn data_to_the_host_is_aligned_split_and_gathered() {
    let node = Node::start(TcpConfig {
        c2h_data_max_bytes: 4096,
        ..TcpConfig::default()
    });
    for (hpda, data_digest) in [(0, false), (1, true), (7, false), (31, true)] {
        let wishes = Wishes {
            hpda,
            data_digest,
            header_digest: data_digest,
            ..Wishes::default()
        };
        let mut host = Host::connected(node.address, wishes);
        let sgl = SglDescriptor::transport(10_000);
        for sqe in [read(1, 10_000, 4), with_dw10(READ_SCATTERED, 1, sgl, 4)] {
            host.send(&host.command(&sqe));
            let mut got = Vec::new();
            for (len, ends) in [(4096, false), (4096, false), (1808, true)] {
                let Pdu::Data {
                    last,
                    success,
                    pdo,
                    bytes,
                    ..
                } = host.recv()
                else {
                    panic!("data expected")
                };
                assert_eq!((bytes.len(), last, success), (len, ends, ends));
                assert_eq!(usize::from(pdo) % ((usize::from(hpda) + 1) * 4), 0);
                got.extend(bytes);
            }
            assert_eq!(got, patterned(4, 10_000), "hpda {hpda}");
        }
    }
}

#[test]
fn a_response_follows_data_where_the_success_flag_cannot_tell_it_all() {
    let node = Node::start(TcpConfig::default());
    let mut host = Host::connected(node.address, Wishes::default());
    let mut sqe = read(1, 512, 2);
    sqe.cdw11 = 5.into();
    host.send(&host.command(&sqe));
    let (data, cqe) = host.read_data(1);
    assert_eq!(data, patterned(2, 512));
    assert_eq!(cqe.expect("a response").result.get(), 5);
    drop(host);
    let node = Node::start(TcpConfig {
        c2h_success: false,
        ..TcpConfig::default()
    });
    let mut host = Host::connected(node.address, Wishes::default());
    host.send(&host.command(&read(1, 512, 2)));
    assert_eq!(host.read_data(1).1.expect("a response").sqhd.get(), 0xffff);
}

#[test]
fn the_head_pointer_moves_on_where_flow_control_is_on() {
    let node = Node::start(TcpConfig::default());
    let wishes = Wishes {
        entries: 16,
        flow_control: true,
        ..Wishes::default()
    };
    let mut host = Host::connected(node.address, wishes);
    // Connect took entry 0.
    let mut head = 1;
    let mut silent = 0;
    for cid in 0..100 {
        host.send(&host.command(&read(cid, 512, 1)));
        head = (head + 1) % 16;
        match host.read_data(cid).1 {
            Some(cqe) => {
                assert_eq!(cqe.sqhd.get(), head);
                silent = 0;
            }
            None => silent += 1,
        }
        assert!(silent <= 4, "a quarter of the queue at most without SQHD");
    }
    host.send(&host.command(&plain(FLUSH, 5, 0)));
    assert_eq!(host.response().sqhd.get(), (head + 1) % 16);
}

#[test]
fn data_that_nobody_takes_is_skipped() {
    let node = Node::start(TcpConfig::default());
    for wishes in [digests()[0], digests()[3]] {
        let mut host = Host::connected(node.address, wishes);
        let data = patterned(1, 8192);
        for cid in 0..20 {
            let sqe = with_dw10(IGNORE_WRITE, cid, SglDescriptor::in_capsule(0, 8192), 0);
            let pdu = host.capsule(&sqe, &data);
            let (first, second) = pdu.split_at(usize::from(cid) * 400 + 1);
            host.send(first);
            std::thread::sleep(Duration::from_micros(300));
            host.send(second);
            assert_eq!(
                host.response().status.get(),
                Status::LBA_OUT_OF_RANGE.wire()
            );
        }
        host.send(&host.command(&with_dw10(
            IGNORE_WRITE,
            1,
            SglDescriptor::transport(4096),
            0,
        )));
        assert_eq!(
            host.response().status.get(),
            Status::LBA_OUT_OF_RANGE.wire()
        );
    }
}

#[test]
fn data_may_wait_for_memory() {
    let config = TcpConfig {
        capsule_stash_max_bytes: 8192,
        ..TcpConfig::default()
    };
    let node = Node::start(config);
    for wishes in [digests()[0], digests()[3]] {
        let mut host = Host::connected(node.address, wishes);
        let data = patterned(1, 4096);
        for cid in 0..20 {
            let sqe = with_dw10(SLOW_WRITE, cid, SglDescriptor::in_capsule(0, 4096), 5);
            host.send(&host.capsule(&sqe, &data));
        }
        for _ in 0..20 {
            assert_eq!(host.response().status.get(), 0);
        }
        assert_eq!(stored(&node), data);
        assert!(node.stats().stashed_bytes.get() > 0);
        assert!(
            node.stats().back_pressure.get() > 0,
            "three capsules are beyond the limit"
        );
    }
}

#[test]
fn a_bad_data_digest_fails_the_command_and_nothing_else() {
    let node = Node::start(TcpConfig::default());
    let wishes = Wishes {
        header_digest: true,
        data_digest: true,
        ..Wishes::default()
    };
    let mut host = Host::connected(node.address, wishes);
    let data = patterned(1, 4096);
    let transient = Status::TRANSIENT_TRANSPORT_ERROR.wire();
    for split in [false, true] {
        let mut pdu = host.capsule(&write_in_capsule(1, 4096), &data);
        pdu[200] ^= 1;
        let (first, second) = pdu.split_at(if split { 150 } else { 1 });
        host.send(first);
        std::thread::sleep(Duration::from_millis(1));
        host.send(second);
        assert_eq!(host.response().status.get(), transient);
    }
    for len in [4096_u32, 64 << 10] {
        let data = patterned(2, len as usize);
        host.send(&host.command(&write(2, len)));
        let (tag, _, _) = host.r2t();
        let mut pdu = host.h2c(2, tag, 0, &data, true);
        let last = pdu.len() - 1;
        pdu[last] ^= 0x80;
        host.send(&pdu);
        assert_eq!(host.response().status.get(), transient);
    }
    assert_eq!(node.stats().data_digest_errors.get(), 4);
    host.send(&host.capsule(&write_in_capsule(1, 4096), &data));
    assert_eq!(host.response().status.get(), 0);
}

#[test]
fn commands_beyond_the_payload_limit_wait_and_are_served() {
    let config = TcpConfig {
        payload_max_bytes: 64 << 10,
        ..TcpConfig::default()
    };
    let node = Node::start(config);
    let mut host = Host::connected(node.address, Wishes::default());
    let data = patterned(3, 64 << 10);
    for cid in 0..8 {
        host.send(&host.command(&write(cid, 64 << 10)));
    }
    // Only the first has asked; a command that needs no memory passes the others, a read does not.
    let first = host.r2t();
    host.send(&host.command(&read(100, 512, 1)));
    host.send(&host.command(&plain(FLUSH, 101, 5)));
    assert_eq!(host.response().cid.get(), 101);
    host.answer_r2t(0, first.0, 0, &data, 65_536);
    for cid in 1..8 {
        assert_eq!(host.response().cid.get(), cid - 1);
        host.feed(cid, &data, 65_536);
    }
    assert_eq!(host.response().cid.get(), 7);
    assert_eq!(host.read_data(100).0, patterned(1, 512));
}

/// A read takes the slot of a flush whose task, just started, is still in the run queue: it waits for
/// its turn all the same, and is served then.
#[test]
fn a_read_that_waits_in_a_slot_just_used_is_served() {
    let config = TcpConfig {
        payload_max_bytes: 64 << 10,
        ..TcpConfig::default()
    };
    let node = Node::start(config);
    let mut host = Host::connected(node.address, Wishes::default());
    host.send(&host.command(&write(0, 64 << 10)));
    let (tag, _, _) = host.r2t();
    let mut both = host.command(&plain(FLUSH, 1, 5));
    both.extend(host.command(&read(2, 64 << 10, 7)));
    host.send(&both);
    assert_eq!(host.response().cid.get(), 1);
    assert_eq!(node.leased_bytes(), 64 << 10, "the read has to wait");
    host.answer_r2t(0, tag, 0, &patterned(3, 64 << 10), 65_536);
    assert_eq!(host.response().cid.get(), 0);
    assert!(host.read_data(2).0 == patterned(7, 64 << 10));
}

/// Replies that the host does not read hold no more memory than the limit.
#[test]
fn reads_beyond_the_payload_limit_wait_and_are_served() {
    let config = TcpConfig {
        payload_max_bytes: 1 << 20,
        ..TcpConfig::default()
    };
    let node = Node::start(config);
    let mut host = Host::connected(node.address, Wishes::default());
    for cid in 0..64 {
        host.send(&host.command(&read(cid, 1 << 20, u32::from(cid))));
    }
    std::thread::sleep(std::time::Duration::from_millis(100));
    let leased = node.leased_bytes();
    assert!(leased <= 1 << 20, "{leased} bytes are leased");
    // In whatever order: one that arrives while nothing is held need not wait in line.
    let mut answered = std::collections::BTreeSet::new();
    for _ in 0..64 {
        let (cid, data, _) = host.read_any_data();
        assert!(data == patterned(cid.into(), 1 << 20), "command {cid}");
        assert!(answered.insert(cid), "command {cid} was answered twice");
    }
}
