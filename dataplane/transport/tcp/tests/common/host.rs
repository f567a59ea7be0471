//! A host made by hand.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use penstock_nvme::fabrics::{ConnectCommand, ConnectData};
use penstock_nvme::tcp::{
    CommonHeader, Crc32c, DataHeader, Frame, HEADER_BYTES_MAX, Header, Params, PduType, R2t,
    Receiver, check, crc32c, decode_header, encode_capsule_cmd, encode_h2c_data, encode_icreq,
};
use penstock_nvme::{Cqe, IntoBytes, SglDescriptor, Sqe};

/// What the host asks for at the start.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    pub header_digest: bool,
    pub data_digest: bool,
    pub hpda: u8,
    pub r2t_max: u32,
    pub queue_id: u16,
    pub entries: u16,
    pub flow_control: bool,
}

impl Default for Wishes {
    fn default() -> Wishes {
        Wishes {
            header_digest: false,
            data_digest: false,
            hpda: 0,
            r2t_max: 1,
            queue_id: 1,
            entries: 128,
            flow_control: false,
        }
    }
}

pub struct Host {
    pub stream: TcpStream,
    pub wishes: Wishes,
    pub data_max: u32,
    params: Params,
}

/// A received PDU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pdu {
    IcResp {
        dgst: u8,
        cpda: u8,
        data_max: u32,
    },
    Response(Cqe),
    Data {
        cid: u16,
        offset: u32,
        last: bool,
        success: bool,
        pdo: u8,
        bytes: Vec<u8>,
    },
    R2t {
        cid: u16,
        tag: u16,
        offset: u32,
        len: u32,
    },
    Term {
        fes: u16,
        fei: u32,
        echo: Vec<u8>,
    },
}

impl Host {
    /// A connected socket, nothing sent.
    pub fn raw(address: SocketAddr) -> Host {
        let stream = TcpStream::connect(address).expect("connect");
        stream.set_nodelay(true).expect("nodelay");
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("timeout");
        stream
            .set_write_timeout(Some(Duration::from_secs(10)))
            .expect("timeout");
        let params = Params {
            data_max: u32::MAX,
            ..Params::INITIAL
        };
        Host {
            stream,
            wishes: Wishes::default(),
            data_max: 0,
            params,
        }
    }

    /// With parameters exchanged.
    pub fn initialised(address: SocketAddr, wishes: Wishes) -> Host {
        let mut host = Host::raw(address);
        host.send(&icreq(&wishes));
        host.take_icresp(wishes);
        host
    }

    pub fn take_icresp(&mut self, wishes: Wishes) {
        match self.recv() {
            Pdu::IcResp { dgst, data_max, .. } => {
                self.wishes = wishes;
                self.data_max = data_max;
                self.params.header_digest = dgst & 1 != 0;
                self.params.data_digest = dgst & 2 != 0;
                self.params.align = (usize::from(wishes.hpda) + 1) * 4;
            }
            other => panic!("ICResp expected: {other:?}"),
        }
    }

    /// With a queue.
    pub fn connected(address: SocketAddr, wishes: Wishes) -> Host {
        let mut host = Host::initialised(address, wishes);
        let capsule = host.connect_capsule();
        host.send(&capsule);
        let cqe = host.response();
        assert_eq!(
            (cqe.cid.get(), cqe.status.get(), cqe.result.get()),
            (0xfffe, 0, 1)
        );
        assert_eq!(cqe.sqhd.get(), if wishes.flow_control { 1 } else { 0xffff });
        host
    }

    pub fn connect_capsule(&self) -> Vec<u8> {
        let Wishes {
            queue_id,
            entries,
            flow_control,
            ..
        } = self.wishes;
        let mut command = ConnectCommand::new(queue_id, entries.into(), 0);
        command.cattr = if flow_control { 0 } else { 4 };
        let data = ConnectData::new(
            [7; 16],
            0xffff,
            "nqn.2014-08.org.example:sub",
            "nqn.2014-08.org.example:host",
        )
        .expect("names");
        let bytes: [u8; 64] = command.as_bytes().try_into().expect("64 bytes");
        let sqe = *Sqe::from_bytes(&bytes);
        let sqe = sqe
            .with_cid(0xfffe)
            .with_sgl(SglDescriptor::in_capsule(0, 1024));
        self.capsule(&sqe, data.as_bytes())
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("send");
    }

    /// Lays out a command capsule.
    pub fn capsule(&self, sqe: &Sqe, data: &[u8]) -> Vec<u8> {
        let Params {
            header_digest,
            data_digest,
            ..
        } = self.params;
        let mut head = [0; HEADER_BYTES_MAX];
        let data_len = u32::try_from(data.len()).expect("length");
        let len = encode_capsule_cmd(&mut head, sqe, data_len, header_digest, data_digest, 4);
        let mut pdu = head[..len].to_vec();
        pdu.extend_from_slice(data);
        if data_digest && !data.is_empty() {
            pdu.extend_from_slice(&crc32c(data).to_le_bytes());
        }
        pdu
    }

    /// Lays out an H2CData PDU.
    pub fn h2c(&self, cccid: u16, ttag: u16, datao: u32, data: &[u8], last: bool) -> Vec<u8> {
        let Params {
            header_digest,
            data_digest,
            ..
        } = self.params;
        let datal = u32::try_from(data.len()).expect("length");
        let header = DataHeader {
            cccid,
            ttag,
            datao,
            datal,
            last,
            success: false,
        };
        let mut head = [0; HEADER_BYTES_MAX];
        let len = encode_h2c_data(&mut head, &header, header_digest, data_digest, 4);
        let mut pdu = head[..len].to_vec();
        pdu.extend_from_slice(data);
        if data_digest {
            pdu.extend_from_slice(&crc32c(data).to_le_bytes());
        }
        pdu
    }

    /// A command without in-capsule data.
    pub fn command(&self, sqe: &Sqe) -> Vec<u8> {
        self.capsule(sqe, &[])
    }

    fn exactly(&mut self, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        match self.stream.read_exact(&mut bytes) {
            Ok(()) => Some(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => None,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("receive: {error}"),
        }
    }

    /// The next PDU, checked; `None` at the end of the stream.
    pub fn try_recv(&mut self) -> Option<Pdu> {
        let mut bytes = self.exactly(8)?;
        let common = CommonHeader::parse(&bytes).expect("8 bytes");
        let frame = check(Receiver::Host, &common, &self.params).expect("well-formed PDU");
        bytes.extend(self.exactly(frame.data_start() - 8).expect("header"));
        let data = self.exactly(frame.data_len as usize).expect("data");
        let trailer = self.exactly(frame.trailer_len()).expect("digest");
        if frame.data_digest {
            let mut crc = Crc32c::new();
            crc.update(&data);
            assert_eq!(trailer, crc.value().to_le_bytes(), "data digest");
        }
        Some(typed(&frame, &bytes, common.pdo, data))
    }

    pub fn recv(&mut self) -> Pdu {
        self.try_recv().expect("a PDU, not the end of the stream")
    }

    /// The next PDU, which has to be a response.
    pub fn response(&mut self) -> Cqe {
        match self.recv() {
            Pdu::Response(cqe) => cqe,
            other => panic!("response expected: {other:?}"),
        }
    }

    /// The next PDU, which has to be an R2T: tag, offset, length.
    pub fn r2t(&mut self) -> (u16, u32, u32) {
        match self.recv() {
            Pdu::R2t {
                tag, offset, len, ..
            } => (tag, offset, len),
            other => panic!("R2T expected: {other:?}"),
        }
    }

    /// The termination request and the end that have to follow.
    pub fn term(&mut self) -> (u16, u32, Vec<u8>) {
        let term = match self.recv() {
            Pdu::Term { fes, fei, echo } => (fes, fei, echo),
            other => panic!("termination request expected: {other:?}"),
        };
        assert_eq!(
            self.try_recv(),
            None,
            "nothing follows a termination request"
        );
        term
    }

    /// Answers R2Ts until the command's data is sent, in PDUs of at most `piece` bytes.
    pub fn feed(&mut self, cid: u16, data: &[u8], piece: usize) {
        let mut sent = 0;
        while sent < data.len() {
            let (tag, offset, len) = self.r2t();
            self.answer_r2t(
                cid,
                tag,
                offset,
                &data[offset as usize..(offset + len) as usize],
                piece,
            );
            sent += len as usize;
        }
    }

    pub fn answer_r2t(&mut self, cid: u16, tag: u16, offset: u32, data: &[u8], piece: usize) {
        let count = data.chunks(piece).count();
        let mut at = offset;
        for (i, part) in data.chunks(piece).enumerate() {
            let pdu = self.h2c(cid, tag, at, part, i + 1 == count);
            self.send(&pdu);
            at += u32::try_from(part.len()).expect("length");
        }
    }

    /// Reads until the command is answered: its data and its response, if one came.
    pub fn read_data(&mut self, cid: u16) -> (Vec<u8>, Option<Cqe>) {
        let (answered, data, response) = self.read_any_data();
        assert_eq!(answered, cid);
        (data, response)
    }

    /// Reads until some command is answered: its identifier, its data and its response, if one came.
    pub fn read_any_data(&mut self) -> (u16, Vec<u8>, Option<Cqe>) {
        let mut got = Vec::new();
        let mut first = None;
        loop {
            match self.recv() {
                Pdu::Data {
                    cid: of,
                    offset,
                    last,
                    success,
                    bytes,
                    ..
                } => {
                    let cid = *first.get_or_insert(of);
                    assert_eq!((of, offset as usize), (cid, got.len()));
                    got.extend(bytes);
                    if success {
                        assert!(last);
                        return (cid, got, None);
                    }
                }
                Pdu::Response(cqe) => {
                    let cid = *first.get_or_insert(cqe.cid.get());
                    assert_eq!(cqe.cid.get(), cid);
                    return (cid, got, Some(cqe));
                }
                other => panic!("data or response expected: {other:?}"),
            }
        }
    }
}

fn typed(frame: &Frame, bytes: &[u8], pdo: u8, data: Vec<u8>) -> Pdu {
    match decode_header(frame, bytes).expect("good header") {
        Header::IcResp(r) => Pdu::IcResp {
            dgst: r.dgst,
            cpda: r.cpda,
            data_max: r.maxh2cdata.get(),
        },
        Header::CapsuleResp(r) => Pdu::Response(r.cqe),
        Header::C2hData(d) => Pdu::Data {
            cid: d.cccid.get(),
            offset: d.datao.get(),
            last: d.ch.flags & 4 != 0,
            success: d.ch.flags & 8 != 0,
            pdo,
            bytes: data,
        },
        Header::R2t(R2t {
            cccid,
            ttag,
            r2to,
            r2tl,
            ..
        }) => Pdu::R2t {
            cid: cccid.get(),
            tag: ttag.get(),
            offset: r2to.get(),
            len: r2tl.get(),
        },
        Header::TermReq(t) => Pdu::Term {
            fes: t.fes.get(),
            fei: t.fei.get(),
            echo: data,
        },
        _ => panic!("{:?} is no PDU for a host", frame.pdu_type),
    }
}

pub fn icreq(wishes: &Wishes) -> [u8; 128] {
    encode_icreq(
        wishes.hpda,
        wishes.header_digest,
        wishes.data_digest,
        wishes.r2t_max,
    )
}

pub fn read(cid: u16, len: u32, seed: u32) -> Sqe {
    with_dw10(super::READ, cid, SglDescriptor::transport(len), seed)
}

pub fn write(cid: u16, len: u32) -> Sqe {
    with_dw10(super::WRITE, cid, SglDescriptor::transport(len), 0)
}

pub fn write_in_capsule(cid: u16, len: u32) -> Sqe {
    with_dw10(super::WRITE, cid, SglDescriptor::in_capsule(0, len), 0)
}

pub fn plain(opcode: u8, cid: u16, cdw10: u32) -> Sqe {
    with_dw10(opcode, cid, SglDescriptor::none(), cdw10)
}

pub fn with_dw10(opcode: u8, cid: u16, sgl: SglDescriptor, cdw10: u32) -> Sqe {
    let mut sqe = Sqe::new(opcode).with_cid(cid).with_sgl(sgl);
    sqe.cdw10 = cdw10.into();
    sqe
}

/// The PDU types a host may wrongly send.
pub const WRONG_WAY: [PduType; 5] = [
    PduType::IcResp,
    PduType::C2hTermReq,
    PduType::CapsuleResp,
    PduType::C2hData,
    PduType::R2t,
];
