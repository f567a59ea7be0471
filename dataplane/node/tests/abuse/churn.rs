//! Many connections, slow ones, and such that stay and say nothing.

use std::time::{Duration, Instant};

use penstock_nvme::IntoBytes;
use penstock_nvme::fabrics::{ConnectCommand, PropertyCommand, PropertySize};

use crate::arena::Arena;
use crate::peer::{PLAIN, Pair, Peer, connect, connect_data, fabrics, icreq, io};

#[test]
fn a_thousand_connects_and_disconnects() {
    let arena = Arena::start();
    let begun = Instant::now();
    for round in 0..1000 {
        match round % 5 {
            0 | 1 => drop(Peer::raw(arena.address)),
            2 => drop(Peer::initialised(arena.address, PLAIN)),
            3 => drop(Peer::admin(arena.address, PLAIN)),
            _ => {
                let mut pair = arena.pair();
                assert_eq!(pair.io.execute(&io::read(1, 2, 0, 8)).status, 0);
            }
        }
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(60), "it took {took:?}");
    arena.finish();
}

#[test]
fn many_at_once() {
    let arena = Arena::start();
    let raw: Vec<Peer> = (0..100).map(|_| Peer::raw(arena.address)).collect();
    let mut pairs: Vec<Pair> = (0..50).map(|_| arena.pair()).collect();
    for pair in &mut pairs {
        let pdu = pair.io.command(&io::read(1, 2, 0, 8));
        pair.io.send(&pdu);
    }
    for pair in &mut pairs {
        assert_eq!(pair.io.answer().status, 0);
    }
    drop((raw, pairs));
    arena.finish();
}

/// What the node waits for comes never: each ends by its time limit, with a line in the log.
#[test]
fn hosts_that_stay_and_say_nothing() {
    let arena =
        Arena::with("connect_timeout_ms = 500\ntransfer_timeout_ms = 700\nsend_timeout_ms = 700\n");
    let mut silent: Vec<(Peer, bool)> = Vec::new();
    for _ in 0..50 {
        silent.push((Peer::raw(arena.address), false));
    }
    for _ in 0..20 {
        silent.push((Peer::initialised(arena.address, PLAIN), false));
    }
    let mut half = Peer::raw(arena.address);
    half.send(&icreq(PLAIN)[..100]);
    silent.push((half, false));
    // Some that are connected, and owe the rest of a PDU or the data of an R2T.
    let mut admins = Vec::new();
    for stage in 0..12 {
        let Pair { admin, mut io } = arena.pair();
        let write = io.command(&io::write(1, 2, 0, 16));
        let capsule = io.capsule(&io::write_in_capsule(1, 1, 0, 1), &[0; 4096]);
        match stage % 3 {
            0 => io.send(&write[..write.len() - 1]),
            1 => io.send(&capsule[..3000]),
            _ => {
                io.send(&write);
                io.r2t();
            }
        }
        admins.push(admin);
        silent.push((io, true));
    }
    for (peer, known) in silent {
        let local = peer.local();
        let mut peer = peer;
        if known {
            peer.term();
            arena.names(local, true, "the host did not finish a transfer in time");
        } else {
            assert_eq!(peer.try_recv(), None);
            arena.names(local, false, "host timed out");
        }
    }
    drop(admins);
    reads_nothing(&arena);
    falls_silent(&arena);
    arena.finish();
}

/// A host that asks for much and reads nothing is cut off.
fn reads_nothing(arena: &Arena) {
    let Pair { admin, mut io } = arena.pair();
    for cid in 0..16 {
        let pdu = io.command(&io::read(cid, 1, 0, 256));
        io.send(&pdu);
    }
    arena.names(io.local(), true, "does not read what is sent");
    drop((admin, io));
}

/// A host that is gone without a word: its keep alive runs out.
fn falls_silent(arena: &Arena) {
    let mut peer = Peer::initialised(arena.address, PLAIN);
    let command = ConnectCommand::new(0, 32, 500);
    let pdu = peer.capsule(
        &fabrics(command.as_bytes()),
        connect_data(0xffff).as_bytes(),
    );
    peer.send(&pdu);
    assert_eq!(peer.answer().status, 0);
    // The timer runs from CC.EN on.
    let set = PropertyCommand::set(0x14, PropertySize::Four, 0x0046_0001);
    assert_eq!(peer.execute(&fabrics(set.as_bytes())).status, 0);
    assert_eq!(peer.try_recv(), None, "the connection ends");
    arena.names(peer.local(), true, "keep alive timeout");
}

/// Hosts that let the node lease memory for them and then do nothing leave enough for the others.
#[test]
fn hosts_that_hoard_memory() {
    let arena = Arena::start();
    let mut hoards: Vec<Pair> = (0..5).map(|_| arena.pair()).collect();
    for (at, pair) in hoards.iter_mut().enumerate() {
        for cid in 0..64 {
            // Data that never comes, or is never read; and both.
            let pdu = match at {
                0 | 1 => pair.io.command(&io::write(cid, 2, 0, 256)),
                2 | 3 => pair.io.command(&io::read(cid, 2, 0, 256)),
                _ if cid % 2 == 0 => pair.io.command(&io::write(cid, 2, 0, 256)),
                _ => pair.io.command(&io::read(cid, 2, 0, 256)),
            };
            pair.io.send(&pdu);
        }
    }
    std::thread::sleep(Duration::from_secs(2));
    // They get what they asked for as soon as they take part.
    for (at, mut pair) in hoards.into_iter().enumerate() {
        if at != 1 && at != 3 {
            let answers = pair.io.settle(64, &[]);
            assert!(answers.iter().all(|answer| answer.status == 0));
        }
    }
    arena.finish();
}

/// Bytes that come one by one are slow, not wrong.
#[test]
fn hosts_that_send_byte_by_byte() {
    let arena = Arena::start();
    let mut peers: Vec<Peer> = (0..16).map(|_| Peer::raw(arena.address)).collect();
    let trickle = |peers: &mut [Peer], pdu: &[u8]| {
        for byte in pdu {
            for peer in &mut *peers {
                peer.send(&[*byte]);
            }
        }
    };
    trickle(&mut peers, &icreq(PLAIN));
    for peer in &mut peers {
        peer.recv();
    }
    let first = peers.first().expect("a peer");
    let connect = first.capsule(&connect(0, 32), connect_data(0xffff).as_bytes());
    let get = fabrics(PropertyCommand::get(8, PropertySize::Four).as_bytes());
    let get = first.command(&get);
    trickle(&mut peers, &connect);
    for peer in &mut peers {
        assert_eq!(peer.answer().status, 0);
    }
    trickle(&mut peers, &get);
    for peer in &mut peers {
        let answer = peer.answer();
        assert_eq!((answer.status, answer.result), (0, 0x0002_0100), "VS");
    }
    drop(peers);
    arena.finish();
}
