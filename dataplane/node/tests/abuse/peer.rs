//! A host made by hand on a blocking socket: it can say anything at any time.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use penstock_nvme::fabrics::{ConnectCommand, ConnectData, PropertyCommand, PropertySize};
use penstock_nvme::register::{OFFSET_CC, OFFSET_CSTS};
use penstock_nvme::tcp::{
    CommonHeader, DataHeader, Frame, HEADER_BYTES_MAX, Header, Params, Receiver, check, crc32c,
    decode_header, encode_capsule_cmd, encode_h2c_data, encode_icreq,
};
use penstock_nvme::{Cqe, IntoBytes, SglDescriptor, Sqe};

/// The subsystem whose namespaces 1 (memory) and 2 (a file) may be spoilt; blocks of 4 KiB.
pub const ABUSED: &str = "nqn.2026-01.io.penstock:abused";
/// Who these hosts say they are.
pub const HOSTILE: &str = "nqn.2014-08.org.example:hostile";
/// Their identifier.
pub const HOST_ID: [u8; 16] = *b"hostile-host-id!";
/// No digests.
pub const PLAIN: Digests = Digests(false, false);
/// Both digests.
pub const DIGESTS: Digests = Digests(true, true);

/// Header digest, data digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digests(pub bool, pub bool);

pub struct Peer {
    pub stream: TcpStream,
    pub data_max: u32,
    params: Params,
}

/// A received PDU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pdu {
    IcResp { dgst: u8, data_max: u32 },
    Response(Cqe),
    Data { cid: u16, success: bool, len: usize },
    R2t(R2t),
    Term { fes: u16, fei: u32, echo: Vec<u8> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct R2t {
    pub cid: u16,
    pub tag: u16,
    pub offset: u32,
    pub len: u32,
}

/// An answered command: identifier, status, result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub cid: u16,
    pub status: u16,
    pub result: u64,
}

/// The two queues of a connected controller.
pub struct Pair {
    pub admin: Peer,
    pub io: Peer,
}

impl Peer {
    /// A connected socket, nothing sent.
    pub fn raw(address: SocketAddr) -> Peer {
        let stream = TcpStream::connect(address).expect("connect");
        stream.set_nodelay(true).expect("nodelay");
        let limit = Some(Duration::from_secs(15));
        stream.set_read_timeout(limit).expect("a limit");
        stream.set_write_timeout(limit).expect("a limit");
        Peer {
            stream,
            data_max: 4096,
            params: Params {
                data_max: u32::MAX,
                ..Params::INITIAL
            },
        }
    }

    /// With parameters exchanged.
    pub fn initialised(address: SocketAddr, digests: Digests) -> Peer {
        let mut peer = Peer::raw(address);
        peer.send(&icreq(digests));
        let Pdu::IcResp { dgst, data_max } = peer.recv() else {
            panic!("ICResp expected");
        };
        peer.data_max = data_max;
        peer.params.header_digest = dgst & 1 != 0;
        peer.params.data_digest = dgst & 2 != 0;
        peer
    }

    /// An admin queue of an enabled controller, and the controller's identifier.
    pub fn admin(address: SocketAddr, digests: Digests) -> (Peer, u16) {
        let mut peer = Peer::initialised(address, digests);
        let capsule = peer.capsule(&connect(0, 32), connect_data(0xffff).as_bytes());
        peer.send(&capsule);
        let answer = peer.answer();
        assert_eq!(answer.status, 0, "Connect of the admin queue");
        peer.enable();
        let controller = u16::try_from(answer.result & 0xffff).expect("16 bits");
        (peer, controller)
    }

    /// An I/O queue.
    pub fn io(address: SocketAddr, digests: Digests, controller: u16, queue: (u16, u32)) -> Peer {
        let mut peer = Peer::initialised(address, digests);
        let data = connect_data(controller);
        let capsule = peer.capsule(&connect(queue.0, queue.1), data.as_bytes());
        peer.send(&capsule);
        assert_eq!(peer.answer().status, 0, "Connect of an I/O queue");
        peer
    }

    /// CC.EN, and the wait for CSTS.RDY.
    fn enable(&mut self) {
        // I/O queue entries of 64 and 16 bytes, as Identify asks for, and EN.
        let set = PropertyCommand::set(OFFSET_CC, PropertySize::Four, 0x0046_0001);
        assert_eq!(self.execute(&fabrics(set.as_bytes())).status, 0);
        let get = fabrics(PropertyCommand::get(OFFSET_CSTS, PropertySize::Four).as_bytes());
        for _ in 0..1000 {
            if self.execute(&get).result & 1 != 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the controller does not become ready");
    }

    pub fn local(&self) -> SocketAddr {
        self.stream.local_addr().expect("an address")
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("send");
    }

    /// Sends what the node still takes; it may have ended the connection already.
    pub fn try_send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Ends sending and reads whatever comes until the node ends the connection too.
    pub fn drain(mut self) -> usize {
        let _ = self.stream.shutdown(Shutdown::Write);
        let mut sink = vec![0; 1 << 16];
        let mut count = 0;
        loop {
            match self.stream.read(&mut sink) {
                Ok(0) => return count,
                Ok(more) => count += more,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return count,
                Err(error) => panic!("the node does not end the connection: {error}"),
            }
        }
    }

    /// Lays out a command capsule.
    pub fn capsule(&self, sqe: &Sqe, data: &[u8]) -> Vec<u8> {
        let Params {
            header_digest,
            data_digest,
            ..
        } = self.params;
        let mut head = [0; HEADER_BYTES_MAX];
        let data_len = u32::try_from(data.len()).expect("a length");
        let len = encode_capsule_cmd(&mut head, sqe, data_len, header_digest, data_digest, 4);
        self.with_data(&head[..len], data)
    }

    /// A command without in-capsule data.
    pub fn command(&self, sqe: &Sqe) -> Vec<u8> {
        self.capsule(sqe, &[])
    }

    /// Lays out an H2CData PDU.
    pub fn h2c(&self, r2t: &R2t, data: &[u8], last: bool) -> Vec<u8> {
        let header = DataHeader {
            cccid: r2t.cid,
            ttag: r2t.tag,
            datao: r2t.offset,
            datal: u32::try_from(data.len()).expect("a length"),
            last,
            success: false,
        };
        let mut head = [0; HEADER_BYTES_MAX];
        let Params {
            header_digest,
            data_digest,
            ..
        } = self.params;
        let len = encode_h2c_data(&mut head, &header, header_digest, data_digest, 4);
        self.with_data(&head[..len], data)
    }

    fn with_data(&self, head: &[u8], data: &[u8]) -> Vec<u8> {
        let mut pdu = head.to_vec();
        pdu.extend_from_slice(data);
        if self.params.data_digest && !data.is_empty() {
            pdu.extend_from_slice(&crc32c(data).to_le_bytes());
        }
        pdu
    }

    fn exactly(&mut self, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        match self.stream.read_exact(&mut bytes) {
            Ok(()) => Some(bytes),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
                ) =>
            {
                None
            }
            Err(error) => panic!("receive: {error}"),
        }
    }

    /// The next PDU, checked; `None` at the end of the stream.
    pub fn try_recv(&mut self) -> Option<Pdu> {
        let mut bytes = self.exactly(8)?;
        let common = CommonHeader::parse(&bytes).expect("8 bytes");
        let frame = check(Receiver::Host, &common, &self.params).expect("a well-formed PDU");
        bytes.extend(self.exactly(frame.data_start() - 8)?);
        let data = self.exactly(frame.data_len as usize)?;
        let trailer = self.exactly(frame.trailer_len())?;
        if frame.data_digest {
            assert_eq!(trailer, crc32c(&data).to_le_bytes(), "data digest");
        }
        Some(typed(&frame, &bytes, data))
    }

    pub fn recv(&mut self) -> Pdu {
        self.try_recv().expect("a PDU, not the end of the stream")
    }

    /// The next PDU, which has to be an R2T.
    pub fn r2t(&mut self) -> R2t {
        match self.recv() {
            Pdu::R2t(r2t) => r2t,
            other => panic!("R2T expected: {other:?}"),
        }
    }

    /// The next PDU, which has to be a response.
    pub fn answer(&mut self) -> Answer {
        self.settle(1, &[])[0]
    }

    /// Sends a command without in-capsule data and waits for its end.
    pub fn execute(&mut self, sqe: &Sqe) -> Answer {
        let pdu = self.command(sqe);
        self.send(&pdu);
        let answer = self.answer();
        assert_eq!(answer.cid, sqe.cid.get(), "the identifier answered");
        answer
    }

    /// Waits for the ends of `count` commands; their R2Ts get zeroes, but those of the commands in
    /// `deaf` nothing.
    pub fn settle(&mut self, count: usize, deaf: &[u16]) -> Vec<Answer> {
        let mut answers = Vec::new();
        while answers.len() < count {
            match self.recv() {
                Pdu::Response(cqe) => answers.push(Answer {
                    cid: cqe.cid.get(),
                    status: cqe.status.get(),
                    result: cqe.result.get(),
                }),
                Pdu::Data {
                    cid, success: true, ..
                } => answers.push(Answer {
                    cid,
                    status: 0,
                    result: 0,
                }),
                Pdu::Data { .. } => {}
                Pdu::R2t(r2t) if deaf.contains(&r2t.cid) => {}
                Pdu::R2t(r2t) => self.feed(r2t),
                other => panic!("an answer expected: {other:?}, after {answers:?}"),
            }
        }
        answers
    }

    /// Answers an R2T with zeroes.
    pub fn feed(&mut self, r2t: R2t) {
        let zeroes = vec![0; self.data_max.min(r2t.len) as usize];
        let mut at = R2t { ..r2t };
        let end = r2t.offset + r2t.len;
        while at.offset < end {
            let len = (end - at.offset).min(self.data_max);
            let pdu = self.h2c(&at, &zeroes[..len as usize], at.offset + len == end);
            self.send(&pdu);
            at.offset += len;
        }
    }

    /// The termination request and the end that have to follow, replies given before left aside.
    pub fn term(&mut self) -> (u16, u32, Vec<u8>) {
        loop {
            match self.recv() {
                Pdu::Term { fes, fei, echo } => {
                    assert_eq!(self.try_recv(), None, "it is the last PDU");
                    return (fes, fei, echo);
                }
                Pdu::Response(_) | Pdu::Data { .. } | Pdu::R2t(_) => {}
                other => panic!("termination request expected: {other:?}"),
            }
        }
    }
}

impl Pair {
    pub fn connected(address: SocketAddr) -> Pair {
        Pair::with(address, PLAIN, 128)
    }

    /// With an I/O queue of this many entries.
    pub fn with(address: SocketAddr, digests: Digests, entries: u32) -> Pair {
        let (admin, controller) = Peer::admin(address, digests);
        let io = Peer::io(address, digests, controller, (1, entries));
        Pair { admin, io }
    }
}

fn typed(frame: &Frame, bytes: &[u8], data: Vec<u8>) -> Pdu {
    match decode_header(frame, bytes).expect("a good header") {
        Header::IcResp(r) => Pdu::IcResp {
            dgst: r.dgst,
            data_max: r.maxh2cdata.get(),
        },
        Header::CapsuleResp(r) => Pdu::Response(r.cqe),
        Header::C2hData(d) => Pdu::Data {
            cid: d.cccid.get(),
            success: d.ch.flags & 8 != 0,
            len: data.len(),
        },
        Header::R2t(r) => Pdu::R2t(R2t {
            cid: r.cccid.get(),
            tag: r.ttag.get(),
            offset: r.r2to.get(),
            len: r.r2tl.get(),
        }),
        Header::TermReq(t) => Pdu::Term {
            fes: t.fes.get(),
            fei: t.fei.get(),
            echo: data,
        },
        _ => panic!("{:?} is no PDU for a host", frame.pdu_type),
    }
}

pub fn icreq(digests: Digests) -> [u8; 128] {
    encode_icreq(0, digests.0, digests.1, 4)
}

/// A Fabrics command as a submission queue entry.
pub fn fabrics(bytes: &[u8]) -> Sqe {
    *Sqe::from_bytes(bytes.try_into().expect("64 bytes"))
}

/// A Connect command; flow control is off, so that the answers tell nothing of it.
pub fn connect(queue: u16, entries: u32) -> Sqe {
    let mut command = ConnectCommand::new(queue, entries, 0);
    command.cattr = 4;
    fabrics(command.as_bytes())
}

pub fn connect_data(controller: u16) -> ConnectData {
    ConnectData::new(HOST_ID, controller, ABUSED, HOSTILE).expect("good names")
}

/// I/O commands of blocks of 4 KiB; blocks are counted from one.
pub mod io {
    use super::{SglDescriptor, Sqe};

    pub const FLUSH: u8 = 0;
    pub const WRITE: u8 = 1;
    pub const READ: u8 = 2;

    pub fn sqe(opcode: u8, cid: u16, nsid: u32) -> Sqe {
        let mut sqe = Sqe::new(opcode).with_cid(cid);
        sqe.nsid = nsid.into();
        sqe
    }

    fn range(opcode: u8, cid: u16, nsid: u32, lba: u32, blocks: u32) -> Sqe {
        let mut sqe = sqe(opcode, cid, nsid).with_sgl(SglDescriptor::transport(blocks * 4096));
        sqe.cdw10 = lba.into();
        sqe.cdw12 = (blocks - 1).into();
        sqe
    }

    pub fn flush(cid: u16, nsid: u32) -> Sqe {
        sqe(FLUSH, cid, nsid)
    }

    pub fn read(cid: u16, nsid: u32, lba: u32, blocks: u32) -> Sqe {
        range(READ, cid, nsid, lba, blocks)
    }

    pub fn write(cid: u16, nsid: u32, lba: u32, blocks: u32) -> Sqe {
        range(WRITE, cid, nsid, lba, blocks)
    }

    pub fn write_in_capsule(cid: u16, nsid: u32, lba: u32, blocks: u32) -> Sqe {
        write(cid, nsid, lba, blocks).with_sgl(SglDescriptor::in_capsule(0, blocks * 4096))
    }
}
