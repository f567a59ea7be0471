//! Every decoder over valid inputs with random damage, from a seed that a failure prints. The
//! coverage-guided version is in `fuzz/`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

#[path = "../fuzz/decoders.rs"]
mod decoders;

use penstock_nvme::command::{BlockRange, GetLogPage, Identify};
use penstock_nvme::fabrics::{ConnectCommand, ConnectData};
use penstock_nvme::identify::{self, NamespaceDescriptor};
use penstock_nvme::nqn::DISCOVERY_NQN;
use penstock_nvme::tcp::{self, DataHeader};
use penstock_nvme::{Cqe, IntoBytes, IoOpcode, SglDescriptor, Sqe};
use penstock_units::{Lba, Nsid};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const ROUNDS: u32 = 20_000;

/// `NVME_FUZZ_SEED` repeats a run; without it each run takes a new seed.
fn seed() -> u64 {
    let given = std::env::var("NVME_FUZZ_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| rand::rng().random())
}

/// Valid PDUs, each behind the two bytes `decoders::pdu` takes its parameters from.
fn pdus() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let read = BlockRange::new(Lba(7), 8)
        .encode(IoOpcode::Read, Nsid::new(1).unwrap())
        .unwrap();
    let data = DataHeader {
        cccid: 3,
        ttag: 9,
        datao: 516,
        datal: 512,
        last: false,
        success: false,
    };
    for choice in 0..4u8 {
        let (hdgst, ddgst) = (choice & 1 != 0, choice & 2 != 0);
        let mut keep = |to_host: u8, pdu: &[u8]| all.push([&[choice | to_host, 3], pdu].concat());
        let mut out = [0; tcp::HEADER_BYTES_MAX];
        let sqe = read.with_sgl(SglDescriptor::transport(4096));
        let n = tcp::encode_capsule_cmd(&mut out, &sqe, 0, hdgst, ddgst, 16);
        keep(0, &out[..n]);
        let n = tcp::encode_capsule_cmd(&mut out, &sqe, 4096, hdgst, ddgst, 16);
        keep(0, &out[..n]);
        let n = tcp::encode_h2c_data(&mut out, &data, hdgst, ddgst, 16);
        keep(0, &out[..n]);
        let n = tcp::encode_c2h_data(&mut out, &data, hdgst, ddgst, 16);
        keep(4, &out[..n]);
        let mut small = [0; 28];
        let n = tcp::encode_r2t(&mut small, 3, 9, 515, 512, hdgst);
        keep(4, &small[..n]);
        let n = tcp::encode_capsule_resp(&mut small, &Cqe::new(1, 2, 3, 4), hdgst);
        keep(4, &small[..n]);
        keep(0, &tcp::encode_icreq(0, hdgst, ddgst, 4));
        keep(4, &tcp::encode_icresp(0, hdgst, ddgst, 8192));
        let mut term = [0; tcp::TERM_BYTES_MAX];
        let fes = tcp::FatalError::SequenceError;
        let n = tcp::encode_term_req(&mut term, false, fes, 0, &out);
        keep(0, &term[..n]);
    }
    all
}

fn valid_inputs() -> Vec<Vec<u8>> {
    let mut all = pdus();
    let nsid = Nsid::new(5).unwrap();
    let sqe = |sqe: Sqe| sqe.to_bytes().to_vec();
    all.push(sqe(BlockRange::new(Lba(1 << 40), 65536)
        .encode(IoOpcode::Write, nsid)
        .unwrap()));
    all.push(sqe(GetLogPage::new(2, u32::MAX, 1 << 33, 4096)
        .encode()
        .unwrap()));
    all.push(sqe(Identify::new(3, 1).encode()));
    all.push(sqe(ConnectCommand::new(1, 128, 0).into()));
    let data =
        ConnectData::new([7; 16], 0xffff, DISCOVERY_NQN, "nqn.2024-01.org.example:a").unwrap();
    all.push(data.as_bytes().to_vec());
    let mut list = [0; 4096];
    let descriptors = [
        NamespaceDescriptor::Uuid([1; 16]),
        NamespaceDescriptor::Csi(0),
    ];
    identify::encode_namespace_descriptors(&mut list, &descriptors);
    all.push(list[..64].to_vec());
    all.push(DISCOVERY_NQN.as_bytes().to_vec());
    all.push(Cqe::new(0x0004_0002, 1, 2, 0x4004).as_bytes().to_vec());
    all
}

fn damage(rng: &mut StdRng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.random_range(0..4) {
        let len = bytes.len();
        match rng.random_range(0..5) {
            0 if len > 0 => bytes[rng.random_range(0..len)] ^= 1 << rng.random_range(0..8),
            1 if len > 0 => bytes[rng.random_range(0..len.min(24))] = rng.random(),
            2 => bytes.truncate(rng.random_range(0..=len)),
            3 => bytes.extend((0..rng.random_range(1..64)).map(|i: u32| i.to_le_bytes()[0])),
            _ if len >= 4 => {
                let at = rng.random_range(0..=len - 4);
                let edges = [0u32, 1, 3, 127, 128, 4095, 65536, u32::MAX - 3, u32::MAX];
                let value = edges[rng.random_range(0..edges.len())];
                bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            }
            _ => {}
        }
    }
}

#[test]
fn damaged_inputs_never_panic() {
    let seed = seed();
    println!("NVME_FUZZ_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let valid = valid_inputs();
    for input in &valid {
        for (_, decode) in decoders::ALL {
            decode(input);
        }
    }
    for round in 0..ROUNDS {
        let mut bytes = valid[rng.random_range(0..valid.len())].clone();
        damage(&mut rng, &mut bytes);
        for (name, decode) in decoders::ALL {
            let run = std::panic::catch_unwind(|| decode(&bytes));
            assert!(
                run.is_ok(),
                "{name} panics: seed {seed}, round {round}, input {bytes:02x?}"
            );
        }
    }
}
