//! Connections that end at every state of a transfer, by an orderly end and by a reset.

use std::net::Shutdown;

use crate::arena::Arena;
use crate::peer::{Pair, Peer, io};

/// How far a transfer gets before the host is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    CommandHeader,
    CapsuleData,
    CapsuleWhole,
    CommandSent,
    R2tReceived,
    DataHeader,
    DataBegun,
    /// As much as the kernel is asked to put straight into payload memory.
    DataMostly,
    BetweenPieces,
    DataWhole,
    ReadAsked,
    ReadBegun,
    ReadsUnread,
    FusedHalf,
}

const STAGES: [Stage; 14] = [
    Stage::CommandHeader,
    Stage::CapsuleData,
    Stage::CapsuleWhole,
    Stage::CommandSent,
    Stage::R2tReceived,
    Stage::DataHeader,
    Stage::DataBegun,
    Stage::DataMostly,
    Stage::BetweenPieces,
    Stage::DataWhole,
    Stage::ReadAsked,
    Stage::ReadBegun,
    Stage::ReadsUnread,
    Stage::FusedHalf,
];

/// Who goes, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The I/O queue, then the admin queue.
    Close,
    /// The host ends sending first, and reads nothing.
    HalfClose,
    /// The admin queue goes first.
    AdminFirst,
}

const MIB_BLOCKS: u32 = 256;

fn advance(peer: &mut Peer, nsid: u32, stage: Stage) {
    let capsule = peer.capsule(&io::write_in_capsule(1, nsid, 3, 1), &[1; 4096]);
    let write = peer.command(&io::write(1, nsid, 0, MIB_BLOCKS));
    match stage {
        Stage::CommandHeader => peer.send(&capsule[..40]),
        Stage::CapsuleData => peer.send(&capsule[..2000]),
        Stage::CapsuleWhole => peer.send(&capsule),
        Stage::CommandSent => peer.send(&write),
        Stage::ReadAsked | Stage::ReadBegun => {
            let read = peer.command(&io::read(1, nsid, 0, MIB_BLOCKS));
            peer.send(&read);
            if stage == Stage::ReadBegun {
                let mut some = [0; 10_000];
                std::io::Read::read_exact(&mut peer.stream, &mut some).expect("data");
            }
        }
        Stage::ReadsUnread => {
            for cid in 0..16 {
                let read = peer.command(&io::read(cid, nsid, 0, MIB_BLOCKS));
                peer.send(&read);
            }
            // Until the node has filled what the kernels take.
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Stage::FusedHalf => {
            let mut compare = io::read(1, nsid, 0, 1);
            compare.opcode = 5;
            compare.flags |= 1;
            let pdu = peer.command(&compare);
            peer.send(&pdu);
        }
        _ => {
            peer.send(&write);
            send_data(peer, stage);
        }
    }
}

/// The stages after an R2T.
fn send_data(peer: &mut Peer, stage: Stage) {
    let r2t = peer.r2t();
    let data = vec![2; peer.data_max as usize];
    let pdu = peer.h2c(&r2t, &data, false);
    match stage {
        Stage::DataHeader => peer.send(&pdu[..13]),
        Stage::DataBegun => peer.send(&pdu[..5000]),
        Stage::DataMostly => {
            peer.send(&pdu[..60_000]);
            std::thread::sleep(std::time::Duration::from_millis(2));
            peer.send(&pdu[60_000..pdu.len() - 1]);
        }
        Stage::BetweenPieces => peer.send(&pdu),
        Stage::DataWhole => peer.feed(r2t),
        _ => {}
    }
}

#[test]
fn at_every_state_of_a_transfer() {
    let arena = Arena::start();
    for round in 0..2 {
        for stage in STAGES {
            for nsid in [1, 2] {
                for end in [End::Close, End::HalfClose, End::AdminFirst] {
                    let Pair { admin, mut io } = arena.pair();
                    advance(&mut io, nsid, stage);
                    match end {
                        End::Close => drop(io),
                        End::HalfClose => {
                            io.stream.shutdown(Shutdown::Write).expect("ended");
                            if round == 1 {
                                io.drain();
                            }
                        }
                        End::AdminFirst => {
                            drop(admin);
                            continue;
                        }
                    }
                    drop(admin);
                }
            }
        }
    }
    // Nothing of that holds a new host up.
    let mut pair = arena.pair();
    for nsid in [1, 2] {
        let answer = pair.io.execute(&io::read(1, nsid, 0, MIB_BLOCKS));
        assert_eq!(answer.status, 0);
    }
    drop(pair);
    arena.finish();
}
