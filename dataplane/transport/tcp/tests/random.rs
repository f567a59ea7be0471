//! Random commands, digests, PDU sizes and cuts of the stream against one node: every byte that
//! goes in comes out where it belongs, and every command is answered once.
#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::Duration;

use common::host::{Host, Pdu, Wishes, plain, read, with_dw10, write, write_in_capsule};
use common::{FLUSH, IGNORE_WRITE, Node, SLOW_WRITE, patterned};
use penstock_nvme::{SglDescriptor, Status};
use penstock_transport_tcp::TcpConfig;
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Read { len: u32 },
    WriteInCapsule { len: u32 },
    SlowInCapsule { len: u32 },
    Ignored { len: u32 },
    WriteByR2t { len: u32, piece: usize },
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    let words = |max: u32| (1..max).prop_map(|n| n * 4);
    prop_oneof![
        words(20_000).prop_map(|len| Step::Read { len }),
        words(2048).prop_map(|len| Step::WriteInCapsule { len }),
        words(2048).prop_map(|len| Step::SlowInCapsule { len }),
        words(2048).prop_map(|len| Step::Ignored { len }),
        (words(30_000), 1..2000_usize).prop_map(|(len, piece)| Step::WriteByR2t {
            len,
            piece: piece * 4
        }),
        Just(Step::Flush),
    ]
}

fn node() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(|| {
        Node::start(TcpConfig {
            r2t_max_bytes: 16 << 10,
            c2h_data_max_bytes: 32 << 10,
            capsule_stash_max_bytes: 8192,
            direct_receive_min_bytes: 2048,
            ..TcpConfig::default()
        })
    })
}

/// Sends all but the R2T data in pieces cut where `cuts` says.
fn send_cut(host: &mut Host, stream: &[u8], cuts: &[usize]) {
    let mut rest = stream;
    for cut in cuts {
        let (now, later) = rest.split_at((*cut).min(rest.len()));
        host.send(now);
        std::thread::sleep(Duration::from_micros(100));
        rest = later;
    }
    host.send(rest);
}

fn lay_out(host: &Host, steps: &[Step]) -> Vec<u8> {
    let mut stream = Vec::new();
    for (cid, step) in (0_u16..).zip(steps) {
        let in_capsule = |opcode, len: u32| {
            let sqe = with_dw10(opcode, cid, SglDescriptor::in_capsule(0, len), 1);
            host.capsule(&sqe, &patterned(cid.into(), len as usize))
        };
        stream.extend(match *step {
            Step::Read { len } => host.command(&read(cid, len, cid.into())),
            Step::WriteInCapsule { len } => host.capsule(
                &write_in_capsule(cid, len),
                &patterned(cid.into(), len as usize),
            ),
            Step::SlowInCapsule { len } => in_capsule(SLOW_WRITE, len),
            Step::Ignored { len } => in_capsule(IGNORE_WRITE, len),
            Step::WriteByR2t { len, .. } => host.command(&write(cid, len)),
            Step::Flush => host.command(&plain(FLUSH, cid, cid.into())),
        });
    }
    stream
}

fn check_end(step: Step, cid: u16, status: u16, result: u64, got: &[u8]) {
    match step {
        Step::Read { len } => assert!(got == patterned(cid.into(), len as usize)),
        Step::Ignored { .. } => assert_eq!(status, Status::LBA_OUT_OF_RANGE.wire()),
        Step::Flush => assert_eq!((status, result), (0, cid.into())),
        Step::WriteInCapsule { len }
        | Step::SlowInCapsule { len }
        | Step::WriteByR2t { len, .. } => {
            assert_eq!(status, 0);
            let written = node().seen.written.lock().unwrap().remove(&cid);
            assert!(
                written.expect("written") == patterned(cid.into(), len as usize),
                "{step:?}"
            );
        }
    }
}

fn run(wishes: Wishes, steps: &[Step], cuts: &[usize]) {
    let mut host = Host::connected(node().address, wishes);
    let stream = lay_out(&host, steps);
    send_cut(&mut host, &stream, cuts);
    let mut open: HashMap<u16, Vec<u8>> = (0_u16..)
        .zip(steps)
        .map(|(cid, _)| (cid, Vec::new()))
        .collect();
    while !open.is_empty() {
        let (cid, status, result) = match host.recv() {
            Pdu::R2t {
                cid,
                tag,
                offset,
                len,
            } => {
                let Step::WriteByR2t { piece, .. } = steps[usize::from(cid)] else {
                    panic!("R2T")
                };
                let data = patterned(cid.into(), (offset + len) as usize);
                host.answer_r2t(cid, tag, offset, &data[offset as usize..], piece);
                continue;
            }
            Pdu::Data {
                cid,
                offset,
                success,
                bytes,
                ..
            } => {
                let got = open.get_mut(&cid).expect("open command");
                assert_eq!(got.len(), offset as usize);
                got.extend(bytes);
                if !success {
                    continue;
                }
                (cid, 0, 0)
            }
            Pdu::Response(cqe) => (cqe.cid.get(), cqe.status.get(), cqe.result.get()),
            other => panic!("{other:?}"),
        };
        let got = open.remove(&cid).expect("one answer a command");
        check_end(steps[usize::from(cid)], cid, status, result, &got);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_comes_out_where_it_belongs(
        steps in proptest::collection::vec(step(), 1..40),
        cuts in proptest::collection::vec(1..5000_usize, 0..30),
        header_digest: bool,
        data_digest: bool,
        hpda in 0..32_u8,
        r2t_max in 1..6_u32,
    ) {
        let wishes = Wishes { header_digest, data_digest, hpda, r2t_max, ..Wishes::default() };
        run(wishes, &steps, &cuts);
    }
}
