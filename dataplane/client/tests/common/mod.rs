//! A scripted target on a raw socket, in a thread of its own: it says exactly what a test tells it
//! to, right or wrong.

#![allow(dead_code, reason = "every test binary uses its own part")]
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on must fail"
)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "numbers of tests are small"
)]

use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use penstock_buffer::{Pool, PoolConfig};
use penstock_client::{ConnectOptions, ControllerInfo, IoQueue};
use penstock_nvme::fabrics::ConnectResult;
use penstock_nvme::nqn::Nqn;
use penstock_nvme::register::Cap;
use penstock_nvme::tcp::{
    CAPSULE_RESP_BYTES, DATA_HEADER_BYTES, DIGEST_BYTES, DataHeader, FLAG_DDGST, FLAG_HDGST,
    FatalError, H2cData, HEADER_BYTES_MAX, IcReq, TERM_BYTES_MAX, TermReq, crc32c, encode_c2h_data,
    encode_capsule_resp, encode_icresp, encode_r2t, encode_term_req,
};
use penstock_nvme::{Cqe, FromBytes, Sqe, Status};
use penstock_reactor::{PollMode, ReactorConfig, ReactorHandle, spawn};
use penstock_units::{ControllerId, Nsid, QueueId};

/// In-capsule data the scripted target takes, in bytes.
pub const IN_CAPSULE_BYTES: u32 = 8192;
/// No test takes longer.
const LIMIT: Duration = Duration::from_secs(20);

/// A connection as the target sees it.
pub struct Peer {
    pub stream: TcpStream,
    pub header_digest: bool,
    pub data_digest: bool,
}

/// A received PDU.
pub struct Pdu {
    pub header: Vec<u8>,
    pub data: Vec<u8>,
}

impl Pdu {
    pub fn kind(&self) -> u8 {
        self.header[0]
    }

    pub fn flags(&self) -> u8 {
        self.header[1]
    }

    /// The submission queue entry of a command capsule.
    pub fn sqe(&self) -> Sqe {
        assert_eq!(self.kind(), 0x04, "not a command capsule");
        *Sqe::from_bytes(self.header[8..72].try_into().unwrap())
    }

    pub fn h2c(&self) -> H2cData {
        assert_eq!(self.kind(), 0x06, "not H2CData");
        H2cData::read_from_bytes(&self.header[..24]).unwrap()
    }

    pub fn term(&self) -> TermReq {
        assert_eq!(self.kind(), 0x02, "not H2CTermReq");
        TermReq::read_from_bytes(&self.header[..24]).unwrap()
    }
}

/// What the target says in its ICResp.
#[derive(Clone, Copy)]
pub struct Hello {
    pub align: u8,
    pub header_digest: bool,
    pub data_digest: bool,
    pub h2c_data_max: u32,
}

impl Default for Hello {
    fn default() -> Hello {
        Hello {
            align: 0,
            header_digest: false,
            data_digest: false,
            h2c_data_max: 131_072,
        }
    }
}

impl Peer {
    pub fn new(stream: TcpStream) -> Peer {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Peer {
            stream,
            header_digest: false,
            data_digest: false,
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Reads ICReq and answers it.
    pub fn hello(&mut self, hello: Hello) -> IcReq {
        let mut bytes = [0; 128];
        self.stream.read_exact(&mut bytes).unwrap();
        let request = IcReq::read_from_bytes(&bytes).unwrap();
        let Hello {
            align,
            header_digest,
            data_digest,
            h2c_data_max,
        } = hello;
        self.send(&encode_icresp(
            align,
            header_digest,
            data_digest,
            h2c_data_max,
        ));
        self.header_digest = header_digest;
        self.data_digest = data_digest;
        request
    }

    /// Handshake and Connect of an I/O queue.
    pub fn queue(&mut self, hello: Hello) -> Pdu {
        self.hello(hello);
        let connect = self.pdu();
        assert_eq!(connect.data.len(), 1024);
        let result = ConnectResult {
            cntlid: 1,
            authreq: 0,
        }
        .result();
        self.respond(connect.sqe().cid.get(), Status::SUCCESS, result);
        connect
    }

    /// Reads one PDU and checks its digests; panics at the end of the stream.
    pub fn pdu(&mut self) -> Pdu {
        self.try_pdu().expect("the stream ended")
    }

    /// Reads one PDU; `None` at the end of the stream.
    pub fn try_pdu(&mut self) -> Option<Pdu> {
        let mut common = [0; 8];
        self.stream.read_exact(&mut common).ok()?;
        let hlen = usize::from(common[2]);
        let pdo = usize::from(common[3]);
        let plen = u32::from_le_bytes(common[4..8].try_into().unwrap()) as usize;
        let mut all = common.to_vec();
        all.resize(plen, 0);
        self.stream.read_exact(&mut all[8..]).ok()?;
        let flags = common[1];
        assert_eq!(
            flags & FLAG_HDGST != 0,
            self.header_digest && common[0] != 2,
            "HDGSTF"
        );
        if flags & FLAG_HDGST != 0 {
            let digest = u32::from_le_bytes(all[hlen..hlen + 4].try_into().unwrap());
            assert_eq!(digest, crc32c(&all[..hlen]), "header digest");
        }
        let mut data = if pdo > 0 {
            all.split_off(pdo)
        } else {
            Vec::new()
        };
        if common[0] == 2 {
            data = all.split_off(hlen);
        }
        if flags & FLAG_DDGST != 0 {
            let digest = data.split_off(data.len() - 4);
            assert_eq!(digest, crc32c(&data).to_le_bytes(), "data digest");
        }
        Some(Pdu { header: all, data })
    }

    /// Whether the other side has closed the connection.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0) | Err(_))
    }

    pub fn respond(&mut self, cid: u16, status: Status, result: u64) {
        let mut out = [0; CAPSULE_RESP_BYTES + DIGEST_BYTES];
        let cqe = Cqe::new(result, 0, cid, status.wire());
        let len = encode_capsule_resp(&mut out, &cqe, self.header_digest);
        self.send(&out[..len]);
    }

    /// The bytes of a C2HData PDU.
    pub fn c2h_bytes(
        &self,
        cid: u16,
        offset: u32,
        data: &[u8],
        last: bool,
        success: bool,
    ) -> Vec<u8> {
        let mut out = [0; HEADER_BYTES_MAX];
        let header = DataHeader {
            cccid: cid,
            ttag: 0,
            datao: offset,
            datal: data.len() as u32,
            last,
            success,
        };
        let len = encode_c2h_data(&mut out, &header, self.header_digest, self.data_digest, 4);
        let mut bytes = out[..len].to_vec();
        bytes.extend_from_slice(data);
        if self.data_digest {
            bytes.extend(crc32c(data).to_le_bytes());
        }
        bytes
    }

    pub fn c2h(&mut self, cid: u16, offset: u32, data: &[u8], last: bool, success: bool) {
        let bytes = self.c2h_bytes(cid, offset, data, last, success);
        self.send(&bytes);
    }

    pub fn r2t(&mut self, cid: u16, tag: u16, offset: u32, len: u32) {
        let mut out = [0; DATA_HEADER_BYTES + DIGEST_BYTES];
        let used = encode_r2t(&mut out, cid, tag, offset, len, self.header_digest);
        self.send(&out[..used]);
    }

    pub fn terminate(&mut self, fes: FatalError, fei: u32) {
        let mut out = [0; TERM_BYTES_MAX];
        let used = encode_term_req(&mut out, true, fes, fei, &[0; 24]);
        self.send(&out[..used]);
    }
}

/// A listening socket and, once `script` is given, the thread that follows it.
pub fn target(script: impl FnOnce(TcpListener) + Send + 'static) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (address, std::thread::spawn(move || script(listener)))
}

pub fn accept(listener: &TcpListener) -> Peer {
    Peer::new(listener.accept().unwrap().0)
}

pub fn options(address: SocketAddr) -> ConnectOptions {
    let nqn = Nqn::new("nqn.2024-01.com.example:test").unwrap();
    let mut options = ConnectOptions::new(address, nqn, [7; 16]);
    options.keep_alive_timeout_ms = 0;
    options
}

pub fn info(options: ConnectOptions) -> ControllerInfo {
    ControllerInfo {
        options,
        controller_id: ControllerId(1),
        cap: Cap::default().with_mqes(1023),
        version: 0,
        transfer_max_bytes: None,
        in_capsule_max_bytes: IN_CAPSULE_BYTES,
        commands_max: 0,
        header_digest: false,
        data_digest: false,
    }
}

pub fn nsid() -> Nsid {
    Nsid::new(1).unwrap()
}

/// Runs a future on a reactor of its own and gives its output.
pub fn on_reactor<T, F>(work: impl FnOnce(Pool) -> F + Send + 'static) -> T
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    // Wakers name their reactor by its number, so it must be unique among the tests of a process.
    static NEXT_ID: AtomicU32 = AtomicU32::new(0);
    let config = ReactorConfig {
        id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
        poll: PollMode::Adaptive { idle_us: 50 },
        ..ReactorConfig::default()
    };
    let reactor = ReactorHandle::start(config, || {}).expect("a reactor");
    let (sender, receiver) = channel();
    reactor
        .run(move || {
            spawn(async move {
                let pool = Pool::new(&PoolConfig {
                    size_bytes: 8 << 20,
                    ..PoolConfig::default()
                });
                let _ = sender.send(work(pool.expect("a pool")).await);
            });
        })
        .expect("room in the mailbox");
    let output = receiver
        .recv_timeout(LIMIT)
        .expect("the test ended in time");
    reactor.stop();
    reactor.join();
    output
}

/// Connects one I/O queue to a target that follows `script` after the handshake, and runs `test`.
pub fn with_queue<T, F>(
    hello: Hello,
    depth: u16,
    change: impl FnOnce(&mut ConnectOptions),
    script: impl FnOnce(&mut Peer) + Send + 'static,
    test: impl FnOnce(IoQueue, Pool) -> F + Send + 'static,
) -> T
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    let (address, thread) = target(move |listener| {
        let mut peer = accept(&listener);
        peer.queue(hello);
        script(&mut peer);
    });
    let mut options = options(address);
    options.header_digest = hello.header_digest;
    options.data_digest = hello.data_digest;
    change(&mut options);
    let info = info(options);
    let output = on_reactor(move |pool| async move {
        let queue = IoQueue::connect(&info, QueueId(1), depth, &pool)
            .await
            .expect("connected");
        test(queue, pool).await
    });
    thread.join().expect("the target followed its script");
    output
}

/// Bytes that differ from place to place.
pub fn content(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}
