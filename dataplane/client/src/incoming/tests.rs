//! Whatever comes in and however it is cut, nothing panics and whole PDUs mean the same.

use penstock_buffer::{Pool, PoolConfig};
use penstock_nvme::command::{BlockRange, flush};
use penstock_nvme::nqn::Nqn;
use penstock_nvme::tcp::{
    CAPSULE_RESP_BYTES, DATA_HEADER_BYTES, DataHeader, HEADER_BYTES_MAX, encode_c2h_data,
    encode_capsule_resp, encode_icresp, encode_r2t,
};
use penstock_nvme::{Cqe, FromZeros, IoOpcode};
use penstock_units::{Lba, Nsid};
use proptest::prelude::*;

use super::*;
use crate::error::CommandName;
use crate::options::ConnectOptions;
use crate::slot::{Request, State};

const READ_BYTES: usize = 100 * 1024;
const WRITE_BYTES: usize = 64 * 1024;

#[test]
fn a_reserved_fatal_status_is_not_given_a_name() {
    let mut request = TermReq::new_zeroed();
    request.fes.set(0x77);
    let CloseReason::Terminated {
        status, meaning, ..
    } = Fatal::terminated(&request).reason
    else {
        panic!("not a termination");
    };
    assert_eq!((status, meaning), (0x77, "reserved"));
    assert!(Fatal::terminated(&request).parting().is_none());
}

/// A connection that waits for ICResp, and memory for its commands.
struct Side {
    core: Core,
    incoming: Incoming,
    pool: Pool,
}

impl Side {
    fn new(digests: (bool, bool)) -> Side {
        let address = ([127, 0, 0, 1], 4420).into();
        let nqn = Nqn::new("nqn.2024-01.com.example:test").unwrap();
        let mut options = ConnectOptions::new(address, nqn, [1; 16]);
        (options.header_digest, options.data_digest) = digests;
        let config = PoolConfig {
            size_bytes: 4 << 20,
            hugepages: false,
            ..PoolConfig::default()
        };
        let pool = Pool::new(&config).unwrap();
        Side {
            core: Core::new(&options, 4),
            incoming: Incoming::new(),
            pool,
        }
    }

    /// Starts a read (0), a write (1) and a flush (2).
    fn start(&mut self) {
        let nsid = Nsid::new(1).unwrap();
        let range = BlockRange::new(Lba(0), 1);
        for (sqe, bytes) in [
            (range.encode(IoOpcode::Read, nsid).unwrap(), READ_BYTES),
            (range.encode(IoOpcode::Write, nsid).unwrap(), WRITE_BYTES),
            (flush(nsid), 0),
        ] {
            let lease = (bytes > 0).then(|| self.pool.try_lease(bytes).unwrap());
            let command = CommandName {
                name: "test",
                nsid: Some(nsid),
            };
            self.core
                .start(
                    Request {
                        sqe,
                        command,
                        lease,
                        limit: None,
                    },
                    0,
                )
                .unwrap();
        }
    }

    /// Feeds bytes as the reactor would: what is asked for directly is filled, then handed back.
    /// Gives why it ended, if it did.
    fn feed(&mut self, mut bytes: &[u8], cuts: &[usize]) -> Option<CloseReason> {
        let mut cuts = cuts.iter().cycle();
        let mut direct: Option<(Lease, usize)> = None;
        while !bytes.is_empty() {
            let (piece, rest) = match &mut direct {
                Some((lease, filled)) => {
                    let count = lease.write_at(*filled, bytes);
                    *filled += count;
                    bytes.split_at(count)
                }
                None => bytes.split_at(bytes.len().min(1 + cuts.next().unwrap_or(&0))),
            };
            bytes = rest;
            let step = match direct.take() {
                None => self.incoming.take(&mut self.core, piece),
                Some((lease, filled)) if filled == lease.len() => {
                    self.incoming.direct_done(&mut self.core)
                }
                unfinished => {
                    direct = unfinished;
                    Step::More
                }
            };
            match step {
                Step::More => {}
                Step::Direct(lease) => direct = Some((lease, 0)),
                Step::Fatal(fatal) => return Some(fatal.reason),
            }
        }
        None
    }

    fn state(&mut self, id: u16) -> State {
        self.core.slots.get(CommandId(id)).state
    }
}

fn content() -> Vec<u8> {
    (0..READ_BYTES)
        .map(|i| u8::try_from((i * 31 + i / 255) % 256).unwrap())
        .collect()
}

/// ICResp, then: data of the read in two PDUs, an R2T for the write, the answers of all three.
fn conversation((header, data): (bool, bool)) -> Vec<u8> {
    let mut stream = encode_icresp(0, header, data, 8192).to_vec();
    let content = content();
    let half = READ_BYTES / 2;
    for (offset, piece) in [(0, &content[..half]), (half, &content[half..])] {
        let pdu = DataHeader {
            cccid: 0,
            ttag: 0,
            datao: u32::try_from(offset).unwrap(),
            datal: u32::try_from(piece.len()).unwrap(),
            last: offset > 0,
            success: false,
        };
        let mut out = [0; HEADER_BYTES_MAX];
        let used = encode_c2h_data(&mut out, &pdu, header, data, 4);
        stream.extend_from_slice(&out[..used]);
        stream.extend_from_slice(piece);
        if data {
            stream.extend(crc32c(piece).to_le_bytes());
        }
    }
    let mut out = [0; DATA_HEADER_BYTES + DIGEST_BYTES];
    let used = encode_r2t(
        &mut out,
        1,
        9,
        0,
        u32::try_from(WRITE_BYTES).unwrap(),
        header,
    );
    stream.extend_from_slice(&out[..used]);
    for cid in [2, 0, 1] {
        let mut out = [0; CAPSULE_RESP_BYTES + DIGEST_BYTES];
        let used = encode_capsule_resp(&mut out, &Cqe::new(7, 0, cid, 0), header);
        stream.extend_from_slice(&out[..used]);
    }
    stream
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn cuts_of_the_stream_change_nothing(
        header: bool,
        data: bool,
        cuts in prop::collection::vec(0_usize..70_000, 1..8),
        fine: bool,
    ) {
        let cuts: Vec<usize> = if fine { cuts.iter().map(|c| c % 40).collect() } else { cuts };
        let mut side = Side::new((header, data));
        side.start();
        prop_assert_eq!(side.feed(&conversation((header, data)), &cuts), None);
        let answered = Outcome::Answered { result: 7, status: Status::SUCCESS };
        for id in 0..3 {
            prop_assert_eq!(side.state(id), State::Done(answered));
        }
        let lease = side.core.slots.get(CommandId(0)).lease.clone().unwrap();
        prop_assert!(lease.bytes() == content(), "the content differs");
    }

    #[test]
    fn damage_never_panics_and_never_passes_for_success_under_digests(
        at in 128_usize..103_000,
        bit in 0_u32..8,
        cuts in prop::collection::vec(0_usize..9_000, 1..8),
    ) {
        let mut stream = conversation((true, true));
        let at = at % stream.len();
        prop_assume!(at >= 128);
        stream[at] ^= 1 << bit;
        let mut side = Side::new((true, true));
        side.start();
        let ended = side.feed(&stream, &cuts);
        let succeeded = Outcome::Answered { result: 7, status: Status::SUCCESS };
        let all = (0..3).all(|id| side.state(id) == State::Done(succeeded));
        prop_assert!(!all, "byte {} was damaged: {:?}", at, ended);
    }

    #[test]
    fn no_bytes_make_it_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        kinds in prop::collection::vec(prop::sample::select(vec![1_u8, 3, 5, 7, 9]), 0..4),
        ready: bool,
        cuts in prop::collection::vec(0_usize..100, 1..4),
    ) {
        let mut stream = if ready { conversation((false, false))[..128].to_vec() } else { vec![] };
        for kind in kinds {
            // A header that looks right as far as its first bytes go.
            let len = if kind == 1 { 128 } else { 24 };
            stream.extend([kind, 0, len, if kind == 7 { 24 } else { 0 }]);
            stream.extend((u32::from(len) + u32::from(kind == 7) * 64).to_le_bytes());
            stream.extend(bytes.iter().cycle().take(usize::from(len) - 8));
        }
        stream.extend(&bytes);
        let mut side = Side::new((false, false));
        side.start();
        side.feed(&stream, &cuts);
    }
}
