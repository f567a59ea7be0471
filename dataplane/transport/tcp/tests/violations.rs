//! What the transport answers to hosts that break the rules: the right fatal error status, the
//! right information, the header echoed, then the end; and commands refused with a status where the
//! connection can go on.
#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used, clippy::panic)]

mod common;

use std::time::{Duration, Instant};

use common::host::{
    Host, Pdu, WRONG_WAY, Wishes, icreq, plain, read, with_dw10, write, write_in_capsule,
};
use common::{FLUSH, HANG, Node, WRITE, patterned, wait_for};
use penstock_nvme::tcp::{FatalError, PduType, encode_term_req};
use penstock_nvme::{SglDescriptor, Status};
use penstock_transport_tcp::TcpConfig;

const FIELD: u16 = FatalError::InvalidHeaderField as u16;
const SEQUENCE: u16 = FatalError::SequenceError as u16;
const HEADER_DIGEST: u16 = FatalError::HeaderDigest as u16;
const RANGE: u16 = FatalError::DataOutOfRange as u16;
const LIMIT: u16 = FatalError::LimitExceeded as u16;
const UNSUPPORTED: u16 = FatalError::UnsupportedParameter as u16;

/// Sends `pdu` and checks the termination request; its echo has to be the start of the PDU.
fn refused(mut host: Host, pdu: &[u8], fes: u16, fei: u32) {
    host.send(pdu);
    let (found_fes, found_fei, echo) = host.term();
    assert_eq!((found_fes, found_fei), (fes, fei), "{pdu:02x?}");
    assert!(
        !echo.is_empty() && pdu.starts_with(&echo),
        "{echo:02x?} of {pdu:02x?}"
    );
}

fn header(pdu_type: u8, flags: u8, hlen: u8, pdo: u8, plen: u32) -> Vec<u8> {
    let mut pdu = vec![pdu_type, flags, hlen, pdo];
    pdu.extend(plen.to_le_bytes());
    pdu.resize(usize::from(hlen).max(8), 0);
    pdu
}

#[test]
fn wrong_icreqs() {
    let node = Node::start(TcpConfig::default());
    let good = icreq(&Wishes::default());
    let cases: [(usize, u8, u16, u32); 6] = [
        (0, 0x0a, FIELD, 0),
        (2, 127, FIELD, 2),
        (4, 129, FIELD, 4),
        (8, 1, UNSUPPORTED, 8),
        (9, 1, UNSUPPORTED, 8),
        (10, 32, FIELD, 10),
    ];
    for (at, value, fes, fei) in cases {
        let mut bad = good;
        bad[at] = value;
        refused(Host::raw(node.address), &bad, fes, fei);
    }
}

#[test]
fn pdus_in_the_wrong_state_or_direction() {
    let node = Node::start(TcpConfig::default());
    let ready = || Host::connected(node.address, Wishes::default());
    let plain_host = Host::raw(node.address);
    let command = plain_host.command(&plain(FLUSH, 1, 0));
    let data = plain_host.h2c(1, 0, 0, &[0; 8], true);
    refused(Host::raw(node.address), &command, SEQUENCE, 0);
    refused(Host::raw(node.address), &data, SEQUENCE, 0);
    refused(ready(), &icreq(&Wishes::default()), SEQUENCE, 0);
    for kind in WRONG_WAY {
        let hlen = u8::try_from(kind.hlen()).unwrap();
        let pdu = header(kind as u8, 0, hlen, 0, u32::from(hlen));
        refused(Host::raw(node.address), &pdu, FIELD, 0);
        refused(ready(), &pdu, FIELD, 0);
    }
    for unknown in [0x08, 0x0a, 0x80, 0xff] {
        refused(ready(), &header(unknown, 0, 24, 0, 24), FIELD, 0);
    }
}

#[test]
fn wrong_lengths_and_flags_of_capsules() {
    let node = Node::start(TcpConfig::default());
    let plain_wishes = Wishes::default();
    let digests = Wishes {
        header_digest: true,
        data_digest: true,
        ..plain_wishes
    };
    let ready = |wishes| Host::connected(node.address, wishes);
    let cmd = PduType::CapsuleCmd as u8;
    // Header length, total length, data offset.
    refused(ready(plain_wishes), &header(cmd, 0, 71, 0, 72), FIELD, 2);
    refused(ready(plain_wishes), &header(cmd, 0, 72, 0, 71), FIELD, 3);
    refused(ready(plain_wishes), &header(cmd, 0, 72, 72, 71), FIELD, 4);
    refused(ready(plain_wishes), &header(cmd, 0, 72, 68, 100), FIELD, 3);
    refused(ready(plain_wishes), &header(cmd, 0, 72, 73, 100), FIELD, 3);
    refused(
        ready(plain_wishes),
        &header(cmd, 0, 72, 72, 72 + 8193),
        FIELD,
        4,
    );
    refused(
        ready(plain_wishes),
        &header(cmd, 0, 72, 72, u32::MAX),
        FIELD,
        4,
    );
    // Digest flags against the agreement.
    refused(ready(plain_wishes), &header(cmd, 1, 72, 0, 76), FIELD, 1);
    refused(ready(plain_wishes), &header(cmd, 2, 72, 72, 80), FIELD, 1);
    refused(ready(digests), &header(cmd, 0, 72, 0, 72), FIELD, 1);
    refused(ready(digests), &header(cmd, 1, 72, 76, 100), FIELD, 1);
}

#[test]
fn a_wrong_header_digest() {
    let node = Node::start(TcpConfig::default());
    let wishes = Wishes {
        header_digest: true,
        ..Wishes::default()
    };
    let host = Host::connected(node.address, wishes);
    let mut pdu = host.command(&plain(FLUSH, 1, 0));
    pdu[40] ^= 1;
    let received = u32::from_le_bytes(pdu[72..76].try_into().unwrap());
    let stats = node.stats();
    refused(host, &pdu, HEADER_DIGEST, received);
    assert_eq!(
        (stats.header_digest_errors.get(), stats.violations.get()),
        (1, 1)
    );
}

/// A host with an R2T for 8 KiB of command 7: the host and the tag.
fn asked(node: &Node, config_r2t: u32) -> (Host, u16) {
    let mut host = Host::connected(node.address, Wishes::default());
    host.send(&host.command(&write(7, 2 * config_r2t)));
    let (tag, offset, len) = host.r2t();
    assert_eq!((offset, len), (0, config_r2t));
    (host, tag)
}

#[test]
fn h2c_data_that_does_not_answer_its_r2t() {
    let config = TcpConfig {
        r2t_max_bytes: 8192,
        h2c_data_max_bytes: 4096,
        ..TcpConfig::default()
    };
    let node = Node::start(config);
    let four = patterned(0, 4096);
    let case =
        |cid: u16, tag_xor: u16, offset: u32, data: &[u8], last: bool, fes: u16, fei: u32| {
            let (host, tag) = asked(&node, 8192);
            let pdu = host.h2c(cid, tag ^ tag_xor, offset, data, last);
            refused(host, &pdu, fes, fei);
        };
    case(8, 0, 0, &four, false, FIELD, 8);
    case(7, 1, 0, &four, false, FIELD, 10);
    case(7, 0x1000, 0, &four, false, FIELD, 10);
    case(7, 0, 4096, &four, false, SEQUENCE, 0);
    case(7, 0, 8192, &four, false, RANGE, 0);
    case(7, 0, u32::MAX - 3, &four, false, RANGE, 0);
    case(7, 0, 0, &four, true, FIELD, 1);
    case(7, 0, 0, &patterned(0, 8192), true, LIMIT, 0);
    case(7, 0, 0, &four[..10], false, FIELD, 16);
    // DATAL against PLEN.
    let (host, tag) = asked(&node, 8192);
    let mut pdu = host.h2c(7, tag, 0, &four, false);
    pdu[16] = 4;
    refused(host, &pdu, FIELD, 16);
    // The second half without LAST_PDU.
    let (mut host, tag) = asked(&node, 8192);
    let first = host.h2c(7, tag, 0, &four, false);
    host.send(&first);
    let second = host.h2c(7, tag, 4096, &four, false);
    refused(host, &second, FIELD, 1);
    // A tag whose R2T is complete is stale.
    let (mut host, tag) = asked(&node, 8192);
    host.answer_r2t(7, tag, 0, &patterned(0, 8192), 4096);
    assert_ne!(host.r2t().0, tag);
    let stale = host.h2c(7, tag, 0, &four, false);
    refused(host, &stale, FIELD, 10);
}

#[test]
fn a_tag_of_an_earlier_command_is_stale() {
    let node = Node::start(TcpConfig::default());
    let mut host = Host::connected(node.address, Wishes::default());
    host.send(&host.command(&write(1, 4096)));
    let (tag, _, _) = host.r2t();
    host.answer_r2t(1, tag, 0, &patterned(0, 4096), 4096);
    assert_eq!(host.response().status.get(), 0);
    let pdu = host.h2c(1, tag, 0, &patterned(0, 4096), true);
    refused(host, &pdu, FIELD, 10);
}

#[test]
fn more_commands_than_the_queue_holds() {
    let node = Node::start(TcpConfig::default());
    let mut host = Host::connected(
        node.address,
        Wishes {
            entries: 8,
            ..Wishes::default()
        },
    );
    for cid in 0..8 {
        host.send(&host.command(&plain(HANG, cid, 0)));
    }
    let pdu = host.command(&plain(HANG, 8, 0));
    refused(host, &pdu, SEQUENCE, 0);
    // Before Connect only a few are taken.
    let mut host = Host::initialised(node.address, Wishes::default());
    for cid in 0..4 {
        host.send(&host.command(&plain(HANG, cid, 0)));
    }
    let pdu = host.command(&plain(HANG, 4, 0));
    refused(host, &pdu, SEQUENCE, 0);
    node.wait_until_empty();
}

#[test]
fn a_command_identifier_in_use_is_refused_without_harm() {
    let node = Node::start(TcpConfig::default());
    let mut host = Host::connected(node.address, Wishes::default());
    host.send(&host.command(&write(9, 4096)));
    let (tag, _, _) = host.r2t();
    let conflict = Status::CID_CONFLICT.dnr().wire();
    host.send(&host.capsule(&write_in_capsule(9, 512), &patterned(0, 512)));
    let cqe = host.response();
    assert_eq!((cqe.cid.get(), cqe.status.get()), (9, conflict));
    host.send(&host.command(&read(9, 512, 0)));
    assert_eq!(host.response().status.get(), conflict);
    host.answer_r2t(9, tag, 0, &patterned(4, 4096), 4096);
    assert_eq!(host.response().status.get(), 0);
    assert_eq!(*node.seen.disk.lock().unwrap(), patterned(4, 4096));
}

#[test]
fn wrong_descriptors_fail_the_command_only() {
    let node = Node::start(TcpConfig::default());
    let mut host = Host::connected(node.address, Wishes::default());
    let data = patterned(0, 512);
    let cases = [
        (
            SglDescriptor::in_capsule(0, 1024),
            Status::DATA_SGL_LENGTH_INVALID,
        ),
        (
            SglDescriptor::in_capsule(4, 512),
            Status::SGL_OFFSET_INVALID,
        ),
        (
            SglDescriptor::transport(512),
            Status::DATA_SGL_LENGTH_INVALID,
        ),
    ];
    for (sgl, status) in cases {
        host.send(&host.capsule(&with_dw10(WRITE, 3, sgl, 0), &data));
        assert_eq!(host.response().status.get(), status.dnr().wire(), "{sgl:?}");
    }
    host.send(&host.command(&plain(FLUSH, 1, 5)));
    assert_eq!(host.response().result.get(), 5);
}

#[test]
fn a_termination_request_of_the_host_ends_the_connection() {
    let node = Node::start(TcpConfig::default());
    let mut host = Host::connected(node.address, Wishes::default());
    host.send(&host.command(&plain(HANG, 1, 0)));
    let mut pdu = [0; 152];
    let len = encode_term_req(&mut pdu, false, FatalError::DataOutOfRange, 0, &[5; 24]);
    host.send(&pdu[..len]);
    assert_eq!(host.try_recv(), None);
    node.wait_until_empty();
    let mut host = Host::connected(node.address, Wishes::default());
    host.send(&header(PduType::H2cTermReq as u8, 0, 24, 0, 153));
    assert_eq!(host.term().0, FIELD);
}

#[test]
fn replies_given_before_a_violation_still_arrive() {
    let node = Node::start(TcpConfig::default());
    let mut host = Host::connected(node.address, Wishes::default());
    let mut stream = host.command(&read(1, 65_536, 3));
    stream.extend(host.command(&plain(FLUSH, 2, 4)));
    stream.extend(header(0x0b, 0, 24, 0, 24));
    stream.extend(vec![0xaa; 100_000]);
    host.send(&stream);
    assert_eq!(host.read_data(1).0, patterned(3, 65_536));
    assert_eq!(host.response().result.get(), 4);
    assert_eq!(host.term().0, FIELD);
    drop(host);
    node.wait_until_empty();
}

#[test]
fn hosts_that_owe_something_are_timed_out() {
    let config = TcpConfig {
        icreq_timeout_ms: 300,
        connect_timeout_ms: 300,
        transfer_timeout_ms: 300,
        linger_ms: 100,
        ..TcpConfig::default()
    };
    let node = Node::start(config);
    let start = Instant::now();
    let mut silent = Host::raw(node.address);
    let mut unconnected = Host::initialised(node.address, Wishes::default());
    let mut half_header = Host::connected(node.address, Wishes::default());
    half_header.send(&half_header.command(&plain(FLUSH, 1, 0))[..30]);
    let mut half_data = Host::connected(node.address, Wishes::default());
    half_data.send(&half_data.capsule(&write_in_capsule(1, 512), &[0; 512])[..300]);
    let mut no_data = Host::connected(node.address, Wishes::default());
    no_data.send(&no_data.command(&write(1, 4096)));
    let _ = no_data.r2t();
    let mut idle = Host::connected(node.address, Wishes::default());
    assert_eq!(silent.try_recv(), None);
    assert_eq!(unconnected.try_recv(), None);
    for host in [&mut half_header, &mut half_data, &mut no_data] {
        let (fes, _, _) = host.term();
        assert_eq!(fes, SEQUENCE);
    }
    assert!(start.elapsed() >= Duration::from_millis(300));
    std::thread::sleep(Duration::from_millis(700));
    idle.send(&idle.command(&plain(FLUSH, 1, 6)));
    assert_eq!(idle.response().result.get(), 6, "an idle host stays");
    drop((idle, silent, unconnected, half_header, half_data, no_data));
    node.wait_until_empty();
}

#[test]
fn a_host_that_does_not_read_is_cut_off_and_hoards_nothing() {
    let config = TcpConfig {
        send_timeout_ms: 600,
        send_queue_max_bytes: 1 << 20,
        linger_ms: 100,
        ..TcpConfig::default()
    };
    let node = Node::start(config);
    let mut host = Host::connected(node.address, Wishes::default());
    let mut stream = Vec::new();
    for cid in 0..128 {
        stream.extend(host.command(&read(cid, 256 << 10, 1)));
    }
    host.send(&stream);
    std::thread::sleep(Duration::from_millis(100));
    // The cap, one command above it, and what the kernel's socket buffer holds do not count twice.
    assert!(
        node.leased_bytes() <= (1 << 20) + 2 * (256 << 10),
        "{}",
        node.leased_bytes()
    );
    // Another host is not disturbed.
    let mut other = Host::connected(node.address, Wishes::default());
    other.send(&other.command(&read(1, 4096, 2)));
    assert_eq!(other.read_data(1).0, patterned(2, 4096));
    wait_for("the host to be cut off", || node.connections() == 1);
    drop((other, host));
    node.wait_until_empty();
}

#[test]
fn what_comes_back_is_a_pdu_whatever_comes_in() {
    // Bytes without sense: each gets a termination request or the end, never a hang.
    let node = Node::start(TcpConfig {
        linger_ms: 0,
        ..TcpConfig::default()
    });
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..100 {
        let mut host = match round % 2 {
            0 => Host::raw(node.address),
            _ => Host::connected(node.address, Wishes::default()),
        };
        let bytes: Vec<u8> = (0..200)
            .map(|_| {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                seed.to_le_bytes()[4]
            })
            .collect();
        let _ = std::io::Write::write_all(&mut host.stream, &bytes);
        while let Some(pdu) = host.try_recv() {
            assert!(
                matches!(pdu, Pdu::Term { .. } | Pdu::Response(_)),
                "{pdu:?}"
            );
        }
    }
    node.wait_until_empty();
}
