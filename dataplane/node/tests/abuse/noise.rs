//! Random bytes, spoilt streams, random commands.

use std::time::{SystemTime, UNIX_EPOCH};

use penstock_nvme::command::Identify;
use penstock_nvme::{FromBytes, IntoBytes, SglDescriptor, Sqe};

use crate::arena::Arena;
use crate::peer::{DIGESTS, PLAIN, Pair, Peer, connect, connect_data, icreq, io};

/// Random numbers that a seed repeats.
struct Random(u64);

impl Random {
    /// Of the seed in `PENSTOCK_ABUSE_SEED`, or of the time; prints it.
    fn new(what: &str) -> Random {
        let given = std::env::var("PENSTOCK_ABUSE_SEED").ok();
        let seed = given.and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            now.map_or(1, |since| u64::from(since.subsec_nanos()) ^ since.as_secs())
        });
        println!("{what}: PENSTOCK_ABUSE_SEED={seed}");
        Random(seed)
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn word(&mut self) -> u32 {
        let [a, b, c, d, ..] = self.next().to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[5]
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap_or(0)
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.byte()).collect()
    }
}

#[test]
fn random_bytes() {
    let arena = Arena::start();
    let mut random = Random::new("random bytes");
    for round in 0..300 {
        let len = 1 + random.below(3000);
        let bytes = random.bytes(len);
        if round % 3 == 0 {
            let Pair { admin, mut io } = arena.pair();
            io.try_send(&bytes);
            io.drain();
            drop(admin);
        } else {
            let mut peer = match round % 3 {
                1 => Peer::raw(arena.address),
                _ => Peer::initialised(arena.address, DIGESTS),
            };
            peer.try_send(&bytes);
            peer.drain();
        }
    }
    arena.finish();
}

/// Changes, drops, repeats or inserts a few bytes.
fn spoil(random: &mut Random, stream: &mut Vec<u8>) {
    for _ in 0..=random.below(4) {
        let at = random.below(stream.len());
        let len = (1 + random.below(100)).min(stream.len() - at);
        match random.below(6) {
            0 | 1 => stream[at] = random.byte(),
            2 => stream[at] ^= 1 << random.below(8),
            3 => drop(stream.drain(at..at + len)),
            4 => {
                let part = stream[at..at + len].to_vec();
                stream.splice(at..at, part);
            }
            _ => {
                let part = random.bytes(len);
                stream.splice(at..at, part);
            }
        }
        if stream.is_empty() {
            return;
        }
    }
    if random.one_in(4) {
        stream.truncate(1 + random.below(stream.len()));
    }
}

#[test]
fn spoilt_streams() {
    let arena = Arena::start();
    let mut random = Random::new("spoilt streams");
    for round in 0..300 {
        let digests = random.pick(&[PLAIN, DIGESTS]);
        if round % 2 == 0 {
            // From the first byte on.
            let mut peer = Peer::raw(arena.address);
            let mut stream = icreq(PLAIN).to_vec();
            let data = connect_data(0xffff);
            stream.extend(peer.capsule(&connect(0, 32), data.as_bytes()));
            stream.extend(peer.command(&Identify::new(1, 0).encode()));
            spoil(&mut random, &mut stream);
            peer.try_send(&stream);
            peer.drain();
            continue;
        }
        let Pair { admin, mut io } = Pair::with(arena.address, digests, 32);
        let mut stream = Vec::new();
        for cid in 0..8 {
            let nsid = 1 + u32::from(cid % 4 > 1);
            let lba = random.word() % 1000;
            stream.extend(match random.below(4) {
                0 => io.command(&io::read(cid, nsid, lba, 16)),
                1 => io.command(&io::write(cid, nsid, lba, 4)),
                2 => io.capsule(&io::write_in_capsule(cid, nsid, lba, 2), &[3; 8192]),
                _ => io.command(&io::flush(cid, nsid)),
            });
        }
        spoil(&mut random, &mut stream);
        io.try_send(&stream);
        io.drain();
        drop(admin);
    }
    arena.finish();
}

/// A data pointer: often right, else anything; and the in-capsule data that goes with it.
fn data_pointer(random: &mut Random, sqe: Sqe, bytes: u32) -> (Sqe, Vec<u8>) {
    let toward_node = sqe.opcode & 3 == 1;
    match random.below(8) {
        0 => (sqe.with_sgl(SglDescriptor::none()), Vec::new()),
        1 => {
            let any = random.bytes(16);
            let any = SglDescriptor::read_from_bytes(&any).expect("16 bytes");
            (sqe.with_sgl(any), Vec::new())
        }
        2 => {
            let wrong = random.word() % 100_000;
            (sqe.with_sgl(SglDescriptor::transport(wrong)), Vec::new())
        }
        3 if toward_node => {
            let len = 4 * (1 + random.word() % 1024);
            let data = random.bytes(len as usize);
            (sqe.with_sgl(SglDescriptor::in_capsule(0, len)), data)
        }
        4 if toward_node && bytes <= 8192 => {
            let data = random.bytes(bytes as usize);
            (sqe.with_sgl(SglDescriptor::in_capsule(0, bytes)), data)
        }
        _ => (sqe.with_sgl(SglDescriptor::transport(bytes)), Vec::new()),
    }
}

/// An I/O command of which most fields make sense, and some do not. Not Fabrics commands: Disconnect
/// ends the connection rightly.
fn random_io(random: &mut Random, cid: u16) -> (Sqe, Vec<u8>) {
    let opcode = match random.below(4) {
        0 => random.byte(),
        _ => random.pick(&[0, 1, 2, 4, 5, 8, 9, 0x0c, 0x0d, 0x0e, 0x11, 0x15, 0x19]),
    };
    let opcode = if opcode == 0x7f { 0x7e } else { opcode };
    let mut sqe = io::sqe(
        opcode,
        cid,
        random.pick(&[1, 1, 1, 2, 2, 2, 0, 3, u32::MAX]),
    );
    let blocks = 1 + random.word() % 16;
    sqe.cdw10 = (random.word() % 1100).into();
    sqe.cdw12 = (blocks - 1).into();
    let mut bytes = blocks * 4096;
    if opcode == 9 {
        bytes = 16 * (1 + sqe.cdw10.get() % 256);
        sqe.cdw11 = random.pick(&[4, 4, 0, u32::MAX]).into();
    }
    if random.one_in(4) {
        sqe.flags |= random.pick(&[1, 2, 3]);
    }
    if random.one_in(8) {
        sqe.flags = random.byte();
    }
    for _ in 0..random.below(2) {
        match random.below(6) {
            0 => sqe.cdw10 = random.word().into(),
            1 => sqe.cdw11 = random.word().into(),
            2 => sqe.cdw12 = random.word().into(),
            3 => sqe.cdw13 = random.word().into(),
            4 => sqe.cdw14 = random.word().into(),
            _ => sqe.cdw15 = random.word().into(),
        }
    }
    data_pointer(random, sqe, bytes)
}

#[test]
fn random_io_commands() {
    let arena = Arena::start();
    let mut random = Random::new("random I/O commands");
    let mut pair = arena.pair();
    for _ in 0..200 {
        let count = 1 + random.below(30);
        let mut stream = Vec::new();
        for cid in 0..u16::try_from(count).expect("few") {
            let (sqe, data) = random_io(&mut random, cid);
            stream.extend(pair.io.capsule(&sqe, &data));
        }
        // One that is not fused, so that none waits for its other half.
        stream.extend(pair.io.command(&io::flush(500, 1)));
        pair.io.send(&stream);
        let mut cids: Vec<u16> = pair
            .io
            .settle(count + 1, &[])
            .iter()
            .map(|a| a.cid)
            .collect();
        cids.sort_unstable();
        let expected = (0..u16::try_from(count).expect("few")).chain([500]);
        assert_eq!(cids, expected.collect::<Vec<_>>(), "each is answered once");
    }
    let healthy = pair.io.execute(&io::read(1, 1, 0, 8));
    assert_eq!(healthy.status, 0);
    drop(pair);
    arena.finish();
}

/// An admin command. Not those that rightly have no answer (Asynchronous Event Request) or end the
/// connection: Fabrics commands but Property Get, and a change of the keep alive timeout.
fn random_admin(random: &mut Random, cid: u16) -> (Sqe, Vec<u8>) {
    let opcode = match random.below(3) {
        0 => random.byte(),
        _ => random.pick(&[0x02, 0x06, 0x08, 0x09, 0x0a, 0x18]),
    };
    let mut sqe = Sqe::new(if opcode == 0x0c { 0x0b } else { opcode }).with_cid(cid);
    sqe.nsid = random.pick(&[0, 1, 2, 3, u32::MAX]).into();
    if sqe.is_fabrics() {
        sqe.nsid = 4.into();
    }
    let (any, low) = (random.word(), random.word() % 256);
    sqe.cdw10 = random.pick(&[any, low]).into();
    let (any, low) = (random.word(), random.word() % 256);
    sqe.cdw11 = random.pick(&[0, any, low]).into();
    if random.one_in(2) {
        sqe.cdw12 = random.word().into();
        sqe.cdw13 = random.word().into();
        sqe.cdw14 = random.word().into();
    }
    if sqe.opcode == 0x09 && sqe.cdw10.get() & 0xff == 0x0f {
        sqe.cdw10 = 7.into();
    }
    if random.one_in(8) {
        sqe.flags = random.byte();
    }
    data_pointer(random, sqe, 4096)
}

#[test]
fn random_admin_commands() {
    let arena = Arena::start();
    let mut random = Random::new("random admin commands");
    let mut pair = arena.pair();
    for cid in 0..3000 {
        let (sqe, data) = random_admin(&mut random, cid);
        let pdu = pair.admin.capsule(&sqe, &data);
        pair.admin.send(&pdu);
        let answer = pair.admin.answer();
        assert_eq!(answer.cid, cid, "{sqe:?}");
    }
    let identify = Identify::new(1, 0).encode();
    let identify = identify.with_sgl(SglDescriptor::transport(4096));
    assert_eq!(pair.admin.execute(&identify).status, 0);
    assert_eq!(pair.io.execute(&io::read(1, 1, 0, 8)).status, 0);
    drop(pair);
    arena.finish();
}
