//! PDUs that break the transport's rules: the right fatal error status and information, the header
//! echoed, the end, and a line in the log that names the host.

use penstock_nvme::IntoBytes;
use penstock_nvme::tcp::{FatalError, PduType, encode_term_req};

use crate::arena::Arena;
use crate::peer::{DIGESTS, PLAIN, Pair, Peer, R2t, icreq, io};

const FIELD: u16 = FatalError::InvalidHeaderField as u16;
const SEQUENCE: u16 = FatalError::SequenceError as u16;
const HEADER_DIGEST: u16 = FatalError::HeaderDigest as u16;
const RANGE: u16 = FatalError::DataOutOfRange as u16;
const LIMIT: u16 = FatalError::LimitExceeded as u16;
const UNSUPPORTED: u16 = FatalError::UnsupportedParameter as u16;

const CAPSULE: u8 = PduType::CapsuleCmd as u8;
const DATA: u8 = PduType::H2cData as u8;

/// Sends `pdu`, and checks the answer and the log.
fn refused(arena: &Arena, peer: &mut Peer, known: bool, pdu: &[u8], (fes, fei): (u16, u32)) {
    peer.try_send(pdu);
    let (found_fes, found_fei, echo) = peer.term();
    assert_eq!((found_fes, found_fei), (fes, fei), "{pdu:02x?}");
    // The echo has the length that HLEN claims.
    let starts = echo.is_empty() == (pdu[2] == 0) && pdu.starts_with(&echo);
    assert!(starts, "{echo:02x?} of {pdu:02x?}");
    arena.names(peer.local(), known, "protocol violation");
}

fn header(pdu_type: u8, flags: u8, hlen: u8, pdo: u8, plen: u32) -> Vec<u8> {
    let mut pdu = vec![pdu_type, flags, hlen, pdo];
    pdu.extend(plen.to_le_bytes());
    pdu.resize(usize::from(hlen).max(8), 0);
    pdu
}

#[test]
fn before_the_queue_exists() {
    let arena = Arena::start();
    let good = icreq(PLAIN);
    // Type, HLEN, PLEN, PFV (two bytes), HPDA.
    let spoilt = [
        (0, 0x0a, FIELD, 0),
        (0, 0xff, FIELD, 0),
        (2, 127, FIELD, 2),
        (4, 129, FIELD, 4),
        (7, 0x80, FIELD, 4),
        (8, 1, UNSUPPORTED, 8),
        (9, 1, UNSUPPORTED, 8),
        (10, 32, FIELD, 10),
    ];
    for (at, value, fes, fei) in spoilt {
        let mut bad = good;
        bad[at] = value;
        let mut peer = Peer::raw(arena.address);
        refused(&arena, &mut peer, false, &bad, (fes, fei));
    }
    let mut early = Peer::raw(arena.address);
    let command = early.command(&io::flush(1, 1));
    refused(&arena, &mut early, false, &command, (SEQUENCE, 0));
    let nothing = R2t {
        cid: 1,
        tag: 0,
        offset: 0,
        len: 8,
    };
    let mut early = Peer::raw(arena.address);
    let data = early.h2c(&nothing, &[0; 8], true);
    refused(&arena, &mut early, false, &data, (SEQUENCE, 0));
    // Data that nobody asked for, and a second ICReq.
    let mut ready = Peer::initialised(arena.address, PLAIN);
    refused(&arena, &mut ready, false, &data, (FIELD, 10));
    let mut ready = Peer::initialised(arena.address, PLAIN);
    refused(&arena, &mut ready, false, &good, (SEQUENCE, 0));
    arena.finish();
}

#[test]
fn of_the_wrong_type_or_with_wrong_lengths() {
    let arena = Arena::start();
    let wrong_way = [
        PduType::IcResp,
        PduType::C2hTermReq,
        PduType::CapsuleResp,
        PduType::C2hData,
        PduType::R2t,
    ];
    let mut cases: Vec<(Vec<u8>, u16, u32)> = Vec::new();
    for kind in wrong_way {
        let hlen = u8::try_from(kind.hlen()).expect("a byte");
        cases.push((header(kind as u8, 0, hlen, 0, hlen.into()), FIELD, 0));
    }
    for unknown in [0x08, 0x0a, 0x0b, 0x80, 0xff] {
        cases.push((header(unknown, 0, 24, 0, 24), FIELD, 0));
    }
    cases.push((icreq(PLAIN).to_vec(), SEQUENCE, 0));
    // Flags, HLEN, PDO and PLEN of a capsule.
    cases.push((header(CAPSULE, 1, 72, 0, 76), FIELD, 1));
    cases.push((header(CAPSULE, 2, 72, 72, 80), FIELD, 1));
    for hlen in [0, 8, 71, 73, 255] {
        cases.push((header(CAPSULE, 0, hlen, 0, 72), FIELD, 2));
    }
    for pdo in [0, 68, 71, 73, 76, 255] {
        cases.push((header(CAPSULE, 0, 72, pdo, 400), FIELD, 3));
    }
    for plen in [0, 8, 71, 72 + 8193, u32::MAX] {
        cases.push((header(CAPSULE, 0, 72, 72, plen), FIELD, 4));
    }
    // The same of data.
    cases.push((header(DATA, 0, 23, 24, 32), FIELD, 2));
    cases.push((header(DATA, 0, 24, 0, 32), FIELD, 3));
    cases.push((header(DATA, 0, 24, 28, 36), FIELD, 3));
    for plen in [0, 23, 24] {
        cases.push((header(DATA, 0, 24, 24, plen), FIELD, 4));
    }
    cases.push((header(DATA, 0, 24, 24, 24 + (256 << 10) + 4), LIMIT, 0));
    cases.push((header(DATA, 0, 24, 24, u32::MAX), LIMIT, 0));
    for (pdu, fes, fei) in cases {
        let mut pair = arena.pair();
        refused(&arena, &mut pair.io, true, &pdu, (fes, fei));
    }
    arena.finish();
}

#[test]
fn with_wrong_digests() {
    let arena = Arena::start();
    let pair = || Pair::with(arena.address, DIGESTS, 16);
    // Not the digests that were agreed.
    for pdu in [
        header(CAPSULE, 0, 72, 0, 72),
        header(CAPSULE, 1, 72, 76, 100),
    ] {
        refused(&arena, &mut pair().io, true, &pdu, (FIELD, 1));
    }
    // A header digest that does not match: FEI is the digest received.
    let mut victim = pair();
    let mut pdu = victim.io.command(&io::flush(1, 1));
    pdu[40] ^= 1;
    let received = u32::from_le_bytes(pdu[72..76].try_into().expect("four bytes"));
    let expected = (HEADER_DIGEST, received);
    refused(&arena, &mut victim.io, true, &pdu, expected);
    drop(victim);
    // A data digest that does not match fails the command only.
    let mut victim = pair();
    let mut pdu = victim
        .io
        .capsule(&io::write_in_capsule(3, 1, 0, 1), &[7; 4096]);
    pdu[100] ^= 1;
    victim.io.send(&pdu);
    let transport_error = penstock_nvme::Status::TRANSIENT_TRANSPORT_ERROR.wire();
    assert_eq!(victim.io.answer().status, transport_error);
    arena.names(victim.io.local(), true, "data digest does not match");
    assert_eq!(victim.io.execute(&io::flush(4, 1)).status, 0);
    drop(victim);
    arena.finish();
}

/// A host with an R2T for 512 KiB of command 7, in the file.
fn asked(arena: &Arena) -> (Pair, R2t) {
    let mut pair = arena.pair();
    let command = pair.io.command(&io::write(7, 2, 0, 128));
    pair.io.send(&command);
    let r2t = pair.io.r2t();
    assert_eq!((r2t.cid, r2t.offset, r2t.len), (7, 0, 512 << 10));
    (pair, r2t)
}

#[test]
fn data_that_does_not_answer_its_r2t() {
    let arena = Arena::start();
    let data = vec![0; 4096];
    let case = |change: fn(&mut R2t), len: usize, last: bool, expected: (u16, u32)| {
        let (mut pair, mut r2t) = asked(&arena);
        change(&mut r2t);
        let pdu = pair.io.h2c(&r2t, &data[..len], last);
        refused(&arena, &mut pair.io, true, &pdu, expected);
    };
    case(|r2t| r2t.cid = 8, 4096, false, (FIELD, 8));
    case(|r2t| r2t.tag ^= 1, 4096, false, (FIELD, 10));
    case(|r2t| r2t.tag ^= 0x1000, 4096, false, (FIELD, 10));
    case(|r2t| r2t.tag = 0xffff, 4096, false, (FIELD, 10));
    case(|r2t| r2t.offset = 4096, 4096, false, (SEQUENCE, 0));
    case(|r2t| r2t.offset = 512 << 10, 4096, false, (RANGE, 0));
    case(|r2t| r2t.offset = u32::MAX - 3, 4096, false, (RANGE, 0));
    case(|_| {}, 4096, true, (FIELD, 1));
    case(|_| {}, 10, false, (FIELD, 16));
    // DATAL against PLEN, both ways.
    for wrong in [0_u32, 4, 4092, 4100, u32::MAX - 3] {
        let (mut pair, r2t) = asked(&arena);
        let mut pdu = pair.io.h2c(&r2t, &data, false);
        pdu[16..20].copy_from_slice(wrong.as_bytes());
        refused(&arena, &mut pair.io, true, &pdu, (FIELD, 16));
    }
    // Data of a command that is over.
    let (mut pair, r2t) = asked(&arena);
    pair.io.feed(r2t);
    assert_eq!(pair.io.answer().status, 0);
    let pdu = pair.io.h2c(&r2t, &data, false);
    refused(&arena, &mut pair.io, true, &pdu, (FIELD, 10));
    drop(pair);
    arena.finish();
}

#[test]
fn more_commands_than_the_queue_holds() {
    let arena = Arena::start();
    let mut pair = Pair::with(arena.address, PLAIN, 4);
    for cid in 0..4 {
        let command = pair.io.command(&io::write(cid, 2, 0, 8));
        pair.io.send(&command);
        pair.io.r2t();
    }
    let pdu = pair.io.command(&io::flush(4, 1));
    refused(&arena, &mut pair.io, true, &pdu, (SEQUENCE, 0));
    drop(pair);
    arena.finish();
}

#[test]
fn termination_requests_of_the_host() {
    let arena = Arena::start();
    for (fes, echo) in [
        (FatalError::DataOutOfRange, 0),
        (FatalError::HeaderDigest, 128),
    ] {
        let (mut pair, _) = asked(&arena);
        let mut pdu = [0; 152];
        let len = encode_term_req(&mut pdu, false, fes, 0, &vec![5; echo]);
        pair.io.send(&pdu[..len]);
        assert_eq!(pair.io.try_recv(), None);
        arena.names(pair.io.local(), true, "termination request");
    }
    // One that is too long itself: the connection ends, with or without an answer.
    let mut pair = arena.pair();
    let host_term = PduType::H2cTermReq as u8;
    pair.io.send(&header(host_term, 0, 24, 0, 153));
    arena.names(pair.io.local(), true, "");
    pair.io.drain();
    drop(pair.admin);
    arena.finish();
}
