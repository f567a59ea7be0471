//! Arbitrary commands never panic, and each gets exactly one reply.

use proptest::prelude::*;

use penstock_nvme::{Sqe, Status};
use penstock_seam::Reply;

use crate::fakes::LinkState;
use crate::testing::{Bed, Peer, Pending, status};

/// Commands that are more often nearly right than noise alone would be.
fn command(opcodes: &'static [u8]) -> impl Strategy<Value = ([u8; 64], u32)> {
    let opcode = prop_oneof![3 => prop::sample::select(opcodes), 1 => any::<u8>()];
    let small = prop_oneof![3 => 0u32..4, 1 => any::<u32>()];
    let words = prop::collection::vec(small, 6);
    let len = prop_oneof![
        Just(0u32),
        Just(16),
        Just(512),
        Just(1024),
        Just(4096),
        0u32..140_000,
    ];
    (
        any::<[u8; 64]>(),
        opcode,
        words,
        0u32..4,
        prop::bool::ANY,
        len,
    )
        .prop_map(|(mut sqe, opcode, words, nsid, noise, len)| {
            sqe[0] = opcode;
            if !noise {
                sqe[1] = 0x40 | (sqe[1] & if sqe[1] & 0x30 == 0 { 3 } else { 0 });
                sqe[4..8].copy_from_slice(&nsid.to_le_bytes());
                for (to, word) in sqe[40..].chunks_mut(4).zip(words) {
                    to.copy_from_slice(&word.to_le_bytes());
                }
            }
            (sqe, len)
        })
}

fn check(reply: &Reply, data_len: u32) {
    assert_eq!(reply.status & 1, 0, "the phase bit is not ours");
    assert!(
        reply.payload.len() <= data_len as usize,
        "more data than the host has room for"
    );
    if status(reply) != Status::SUCCESS {
        assert!(reply.payload.is_empty() && reply.established.is_none());
    }
}

/// Runs the commands; every one that waits is an event request or a fused half.
fn run(bed: &Bed, peer: &Peer, commands: &[([u8; 64], u32)]) {
    let mut waiting: Vec<(Pending, u32)> = Vec::new();
    for (sqe, len) in commands {
        let link = LinkState::new(&vec![sqe[63]; *len as usize]);
        let pending = peer.start_on(*Sqe::from_bytes(sqe), *len as usize, link);
        bed.run_jobs();
        bed.tasks.run();
        match pending.take() {
            Some(reply) => check(&reply, *len),
            None => waiting.push((pending, *len)),
        }
        waiting.retain(|(pending, len)| match pending.take() {
            Some(reply) => {
                check(&reply, *len);
                false
            }
            None => true,
        });
        assert!(waiting.len() <= 5, "{} commands hang", waiting.len());
    }
    for (pending, _) in waiting {
        bed.tasks.cancel(pending.task);
    }
    bed.tasks.run();
}

const ADMIN: &[u8] = &[0x02, 0x06, 0x08, 0x09, 0x0a, 0x0c, 0x18, 0x7f];
const IO: &[u8] = &[0, 1, 2, 5, 8, 9, 12, 0x7f];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn of_any_admin_commands(commands in prop::collection::vec(command(ADMIN), 1..40)) {
        let bed = Bed::new();
        run(&bed, &bed.admin(), &commands);
    }

    #[test]
    fn of_any_discovery_commands(commands in prop::collection::vec(command(ADMIN), 1..20)) {
        let bed = Bed::new();
        run(&bed, &bed.discovery(), &commands);
    }

    #[test]
    fn of_any_io_commands(commands in prop::collection::vec(command(IO), 1..40)) {
        let bed = Bed::new();
        let (_admin, queue) = bed.pair();
        run(&bed, &queue, &commands);
        // Whatever came, every lease went back.
        prop_assert_eq!(bed.pool.stats().leased_bytes, 0);
    }

    #[test]
    fn of_any_first_commands(commands in prop::collection::vec(command(ADMIN), 1..10)) {
        let bed = Bed::new();
        run(&bed, &bed.dial(), &commands);
    }

    #[test]
    fn of_any_connect_data(bytes in prop::collection::vec(any::<u8>(), 1024), qid in 0u16..3) {
        let bed = Bed::new();
        let connect = penstock_nvme::fabrics::ConnectCommand::new(qid, 32, 0);
        let reply = bed.dial().exec(Sqe::from(connect), &bytes);
        prop_assert!(status(&reply) != Status::SUCCESS);
    }
}
