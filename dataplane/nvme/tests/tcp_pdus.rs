//! PDUs: what is accepted, and what each refusal says (TCP 1.1, 3.3.2, 3.5 and 3.6.2).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use penstock_nvme::tcp::{
    self, CommonHeader, DataHeader, FatalError, Frame, HEADER_BYTES_MAX, Header, Params, PduError,
    Receiver, Transfer,
};
use penstock_nvme::{Cqe, IntoBytes, SglDescriptor, Sqe};
use proptest::prelude::*;

const CONTROLLER: Params = Params {
    header_digest: false,
    data_digest: false,
    align: 4,
    in_capsule_max: 8192,
    data_max: 131_072,
};

fn frame(receiver: Receiver, params: &Params, pdu: &[u8]) -> Result<Frame, PduError> {
    tcp::check(receiver, &CommonHeader::parse(pdu).unwrap(), params)
}

/// FES and FEI of the refusal of a PDU by a controller.
fn refused(params: &Params, pdu: &[u8]) -> (FatalError, u32) {
    let checked = frame(Receiver::Controller, params, pdu);
    let error = checked.and_then(|frame| tcp::decode_header(&frame, pdu).map(|_| frame));
    let error = error.expect_err("the PDU is to be refused");
    (error.fes, error.fei)
}

fn capsule(data: u32, params: &Params) -> Vec<u8> {
    let mut out = [0; HEADER_BYTES_MAX];
    let sqe = Sqe::new(1).with_sgl(SglDescriptor::in_capsule(0, data));
    let (hdgst, ddgst) = (params.header_digest, params.data_digest);
    let n = tcp::encode_capsule_cmd(&mut out, &sqe, data, hdgst, ddgst, params.align);
    out[..n].to_vec()
}

fn h2c(datao: u32, datal: u32, last: bool) -> Vec<u8> {
    let mut out = [0; HEADER_BYTES_MAX];
    let data = DataHeader {
        cccid: 1,
        ttag: 2,
        datao,
        datal,
        last,
        success: false,
    };
    let n = tcp::encode_h2c_data(&mut out, &data, false, false, 4);
    out[..n].to_vec()
}

/// CRC-32C of RFC 3720, B.4, and the usual check value.
#[test]
fn crc32c_check_values() {
    assert_eq!(tcp::crc32c(b"123456789"), 0xe306_9283);
    assert_eq!(tcp::crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(tcp::crc32c(&[0xff; 32]), 0x62a8_ab43);
    let mut crc = tcp::Crc32c::new();
    crc.update(b"1234");
    crc.update(b"");
    crc.update(b"56789");
    assert_eq!(crc.value(), 0xe306_9283);
    crc.reset();
    assert_eq!(crc.value(), tcp::crc32c(b""));
}

/// Bytes of a data header as they go over the wire.
#[test]
fn h2c_data_bytes() {
    let pdu = h2c(0x2bb8, 0x448, true);
    assert_eq!(pdu[..8], [6, 4, 24, 24, 0x60, 4, 0, 0]);
    assert_eq!(
        pdu[8..24],
        [1, 0, 2, 0, 0xb8, 0x2b, 0, 0, 0x48, 4, 0, 0, 0, 0, 0, 0]
    );
}

#[test]
fn initialization_bytes() {
    let request = tcp::encode_icreq(3, true, false, 16);
    assert_eq!(
        request[..16],
        [0, 0, 128, 0, 128, 0, 0, 0, 0, 0, 3, 1, 15, 0, 0, 0]
    );
    let frame = frame(Receiver::Controller, &Params::INITIAL, &request).unwrap();
    let Ok(Header::IcReq(seen)) = tcp::decode_header(&frame, &request) else {
        panic!()
    };
    assert_eq!((seen.align_bytes(), seen.r2t_max()), (16, 16));
    assert!(seen.header_digest() && !seen.data_digest());
    let response = tcp::encode_icresp(0, false, true, 131_072);
    assert_eq!(
        response[..16],
        [1, 0, 128, 0, 128, 0, 0, 0, 0, 0, 0, 2, 0, 0, 2, 0]
    );
}

/// One wrong byte or field at a time in a common header: (offset, value, FEI).
#[test]
fn common_header_refusals_name_the_field() {
    let data = capsule(512, &CONTROLLER);
    let cases: &[(usize, u8, u32)] = &[
        (0, 0x08, 0),
        (0, 0xff, 0),
        (0, 0x05, 0),
        (0, 0x07, 0),
        (1, tcp::FLAG_HDGST, 1),
        (1, tcp::FLAG_DDGST, 1),
        (2, 71, 2),
        (2, 0, 2),
        (3, 71, 3),
        (3, 74, 3),
        (3, 76, 3),
        (3, 255, 3),
        (4, 0, 4),
        (6, 0xff, 4),
    ];
    for &(offset, value, fei) in cases {
        let mut pdu = data.clone();
        pdu[offset] = value;
        if offset == 4 {
            pdu[5] = 0;
        }
        let expected = (FatalError::InvalidHeaderField, fei);
        assert_eq!(
            refused(&CONTROLLER, &pdu),
            expected,
            "byte {offset} = {value:#x}"
        );
    }
    let mut several = data;
    several[1] = tcp::FLAG_HDGST;
    several[2] = 0;
    several[4] = 9;
    assert_eq!(
        refused(&CONTROLLER, &several).1,
        1,
        "the lowest offset is named"
    );
}

#[test]
fn capsule_lengths() {
    assert!(frame(Receiver::Controller, &CONTROLLER, &capsule(0, &CONTROLLER)).is_ok());
    let most = frame(
        Receiver::Controller,
        &CONTROLLER,
        &capsule(8192, &CONTROLLER),
    )
    .unwrap();
    assert_eq!(
        (most.data_start(), most.data_len, most.trailer_len()),
        (72, 8192, 0)
    );
    let too_long = capsule(8193, &CONTROLLER);
    assert_eq!(
        refused(&CONTROLLER, &too_long),
        (FatalError::InvalidHeaderField, 4)
    );
    let digests = Params {
        header_digest: true,
        data_digest: true,
        align: 128,
        ..CONTROLLER
    };
    let framed = frame(Receiver::Controller, &digests, &capsule(512, &digests)).unwrap();
    assert_eq!(
        (framed.header_len(), framed.pad, framed.trailer_len()),
        (76, 52, 4)
    );
    let mut unflagged = capsule(512, &digests);
    unflagged[1] = tcp::FLAG_HDGST;
    assert_eq!(
        refused(&digests, &unflagged),
        (FatalError::InvalidHeaderField, 1)
    );
    let bare = capsule(0, &digests);
    assert_eq!(
        bare[1],
        tcp::FLAG_HDGST,
        "without data there is no data digest"
    );
    assert!(frame(Receiver::Controller, &digests, &bare).is_ok());
}

/// Alignments that are no powers of two put the data furthest back.
#[test]
fn every_alignment_fits_the_header_buffer() {
    let offsets = (1..=32).flat_map(|dwords| {
        [24, 72].map(|hlen| [false, true].map(|digest| tcp::data_offset(hlen, digest, dwords * 4)))
    });
    assert_eq!(offsets.flatten().max(), Some(HEADER_BYTES_MAX));
}

#[test]
fn header_digest_error_returns_the_digest() {
    let params = Params {
        header_digest: true,
        ..CONTROLLER
    };
    let mut pdu = capsule(0, &params);
    let frame = frame(Receiver::Controller, &params, &pdu).unwrap();
    assert!(tcp::decode_header(&frame, &pdu).is_ok());
    pdu[10] ^= 1;
    let digest = u32::from_le_bytes(pdu[72..76].try_into().unwrap());
    assert_eq!(refused(&params, &pdu), (FatalError::HeaderDigest, digest));
}

#[test]
fn initialization_refusals() {
    let mut request = tcp::encode_icreq(0, false, false, 1);
    request[8] = 1;
    assert_eq!(
        refused(&Params::INITIAL, &request),
        (FatalError::UnsupportedParameter, 8)
    );
    request[8] = 0;
    request[10] = 32;
    assert_eq!(
        refused(&Params::INITIAL, &request),
        (FatalError::InvalidHeaderField, 10)
    );
    let response = |cpda, header, data, max| {
        let pdu = tcp::encode_icresp(cpda, header, data, max);
        let frame = frame(Receiver::Host, &Params::INITIAL, &pdu).unwrap();
        let Ok(Header::IcResp(response)) = tcp::decode_header(&frame, &pdu) else {
            panic!()
        };
        tcp::check_icresp(response, tcp::DGST_DATA)
            .map(|_| ())
            .map_err(|e| (e.fes, e.fei))
    };
    assert_eq!(response(31, false, true, 4096), Ok(()));
    assert_eq!(response(0, false, false, 4096), Ok(()));
    let field = |fei| Err((FatalError::InvalidHeaderField, fei));
    assert_eq!(response(32, false, true, 4096), field(10));
    assert_eq!(
        response(0, true, true, 4096),
        field(11),
        "a digest nobody asked for"
    );
    assert_eq!(response(0, false, true, 4092), field(12));
    assert_eq!(response(0, false, true, 4098), field(12));
}

#[test]
fn h2c_data_against_its_transfer() {
    let transfer = Transfer {
        offset: 4096,
        length: 8192,
        done: 1000,
    };
    let outcome = |datao, datal, last| {
        let pdu = h2c(datao, datal, last);
        let frame = frame(Receiver::Controller, &CONTROLLER, &pdu).unwrap();
        let Ok(Header::H2cData(header)) = tcp::decode_header(&frame, &pdu) else {
            panic!()
        };
        tcp::check_h2c_data(header, &transfer).map_err(|e| (e.fes, e.fei))
    };
    assert_eq!(outcome(5096, 7192, true), Ok(()));
    assert_eq!(outcome(5096, 1000, false), Ok(()));
    assert_eq!(
        outcome(5100, 1000, false),
        Err((FatalError::SequenceError, 0)),
        "a hole"
    );
    assert_eq!(
        outcome(4096, 1000, false),
        Err((FatalError::SequenceError, 0)),
        "again"
    );
    assert_eq!(
        outcome(5096, 7196, true),
        Err((FatalError::DataOutOfRange, 0)),
        "beyond"
    );
    assert_eq!(
        outcome(0, 512, false),
        Err((FatalError::DataOutOfRange, 0)),
        "before"
    );
    assert_eq!(
        outcome(u32::MAX, 8, false),
        Err((FatalError::DataOutOfRange, 0))
    );
    let flags = Err((FatalError::InvalidHeaderField, 1));
    assert_eq!(
        outcome(5096, 7192, false),
        flags,
        "the end, but not said so"
    );
    assert_eq!(outcome(5096, 1000, true), flags, "last, but not the end");
    assert_eq!(
        outcome(5096, 1002, false),
        Err((FatalError::InvalidHeaderField, 16))
    );
}

#[test]
fn data_limits_and_lengths() {
    let over = h2c(0, 131_076, false);
    assert_eq!(refused(&CONTROLLER, &over), (FatalError::LimitExceeded, 0));
    let mut lie = h2c(0, 4096, false);
    lie[16] = 4;
    assert_eq!(
        refused(&CONTROLLER, &lie),
        (FatalError::InvalidHeaderField, 16)
    );
    let mut empty = h2c(0, 4, false);
    empty[4] = 24;
    assert_eq!(
        refused(&CONTROLLER, &empty),
        (FatalError::InvalidHeaderField, 4)
    );
    let cut = h2c(0, 4096, false);
    let checked = frame(Receiver::Controller, &CONTROLLER, &cut).unwrap();
    assert!(tcp::decode_header(&checked, &cut[..20]).is_err());
}

#[test]
fn what_a_host_refuses() {
    let host = Params {
        in_capsule_max: 0,
        ..CONTROLLER
    };
    let whole = Transfer {
        offset: 0,
        length: 8192,
        done: 4096,
    };
    let c2h = |datao, datal, last, success| {
        let mut out = [0; HEADER_BYTES_MAX];
        let data = DataHeader {
            cccid: 1,
            ttag: 0,
            datao,
            datal,
            last,
            success,
        };
        let n = tcp::encode_c2h_data(&mut out, &data, false, false, 4);
        let frame = frame(Receiver::Host, &host, &out[..n]).unwrap();
        let header = tcp::decode_header(&frame, &out[..n]).map_err(|e| (e.fes, e.fei))?;
        let Header::C2hData(header) = header else {
            panic!()
        };
        tcp::check_c2h_data(header, &whole).map_err(|e| (e.fes, e.fei))
    };
    assert_eq!(c2h(4096, 4096, true, true), Ok(()));
    assert_eq!(
        c2h(4096, 512, false, true),
        Err((FatalError::InvalidHeaderField, 1))
    );
    assert_eq!(
        c2h(0, 512, false, false),
        Err((FatalError::SequenceError, 0))
    );
    assert_eq!(
        c2h(4096, 4100, true, false),
        Err((FatalError::DataOutOfRange, 0))
    );
    let r2t = |offset, length| {
        let mut out = [0; 28];
        let n = tcp::encode_r2t(&mut out, 1, 2, offset, length, false);
        let frame = frame(Receiver::Host, &host, &out[..n]).unwrap();
        let Ok(Header::R2t(header)) = tcp::decode_header(&frame, &out[..n]) else {
            panic!()
        };
        tcp::check_r2t(header, &whole).map_err(|e| (e.fes, e.fei))
    };
    assert_eq!(r2t(4096, 4096), Ok(()));
    assert_eq!(r2t(0, 4096), Err((FatalError::SequenceError, 0)));
    assert_eq!(r2t(4096, 4097), Err((FatalError::InvalidHeaderField, 16)));
    assert_eq!(r2t(4096, 0), Err((FatalError::InvalidHeaderField, 16)));
}

#[test]
fn termination_requests() {
    let mut out = [0; tcp::TERM_BYTES_MAX];
    let long = [0xaa; 200];
    let n = tcp::encode_term_req(
        &mut out,
        false,
        FatalError::HeaderDigest,
        0x1234_5678,
        &long,
    );
    assert_eq!(n, 152);
    assert_eq!(out[..8], [2, 0, 24, 0, 152, 0, 0, 0]);
    assert_eq!(out[8..14], [3, 0, 0x78, 0x56, 0x34, 0x12]);
    let seen = frame(Receiver::Controller, &CONTROLLER, &out).unwrap();
    assert_eq!(seen.data_len, 128);
    let digests = Params {
        header_digest: true,
        ..CONTROLLER
    };
    assert_eq!(
        frame(Receiver::Controller, &digests, &out),
        Ok(seen),
        "never with digests"
    );
    for plen in [23, 153] {
        out[4] = plen;
        let error = frame(Receiver::Controller, &CONTROLLER, &out).unwrap_err();
        assert!(error.silent(), "no termination request answers one");
    }
    assert!(!PduError::tag(1).silent());
    let to_host = tcp::encode_term_req(&mut out, true, FatalError::SequenceError, 0, &[]);
    assert_eq!((to_host, out[0]), (24, 3));
}

prop_compose! {
    fn any_params()(header_digest: bool, data_digest: bool, dwords in 1usize..=32) -> Params {
        Params { header_digest, data_digest, align: dwords * 4, ..CONTROLLER }
    }
}

proptest! {
    /// What is encoded under any agreement is accepted under it, with the same content.
    #[test]
    fn capsules_round_trip(params in any_params(), raw: [u8; 32], data in 0u32..=8192) {
        let mut sqe = Sqe::new(raw[0]);
        sqe.as_mut_bytes()[8..40].copy_from_slice(&raw);
        let mut out = [0xee; HEADER_BYTES_MAX];
        let (hdgst, ddgst) = (params.header_digest, params.data_digest);
        let n = tcp::encode_capsule_cmd(&mut out, &sqe, data, hdgst, ddgst, params.align);
        let seen = frame(Receiver::Controller, &params, &out).unwrap();
        prop_assert_eq!(seen.data_start(), n);
        prop_assert_eq!(seen.data_len, data);
        prop_assert!(data == 0 || n.is_multiple_of(params.align));
        prop_assert!(out[seen.header_len()..n].iter().all(|b| *b == 0));
        let Ok(Header::CapsuleCmd(header)) = tcp::decode_header(&seen, &out[..n]) else { panic!() };
        prop_assert_eq!(header.sqe, sqe);
    }

    #[test]
    fn data_round_trips(params in any_params(), cccid: u16, ttag: u16, datao: u32,
                        datal in 1u32..=131_072, last: bool) {
        let data = DataHeader { cccid, ttag, datao, datal, last, success: last };
        let (hdgst, ddgst, align) = (params.header_digest, params.data_digest, params.align);
        let mut out = [0xee; HEADER_BYTES_MAX];
        let n = tcp::encode_h2c_data(&mut out, &data, hdgst, ddgst, align);
        let seen = frame(Receiver::Controller, &params, &out).unwrap();
        prop_assert_eq!((seen.data_start(), seen.data_len), (n, datal));
        let Ok(Header::H2cData(header)) = tcp::decode_header(&seen, &out[..n]) else { panic!() };
        prop_assert_eq!((header.cccid.get(), header.ttag.get()), (cccid, ttag));
        prop_assert_eq!((header.datao.get(), header.datal.get()), (datao, datal));
        prop_assert_eq!(header.ch.flags & tcp::FLAG_LAST != 0, last);
        let n = tcp::encode_c2h_data(&mut out, &data, hdgst, ddgst, align);
        let seen = frame(Receiver::Host, &params, &out).unwrap();
        prop_assert_eq!((seen.data_start(), seen.data_len), (n, datal));
        let Ok(Header::C2hData(header)) = tcp::decode_header(&seen, &out[..n]) else { panic!() };
        prop_assert_eq!(header.ch.flags & tcp::FLAG_SUCCESS != 0, last);
        prop_assert_eq!((header.datao.get(), header.datal.get()), (datao, datal));
    }

    #[test]
    fn answers_round_trip(digest: bool, result: u64, a: u16, b: u16, status: u16, x: u32, y: u32) {
        let params = Params { header_digest: digest, ..CONTROLLER };
        let mut out = [0; 28];
        let cqe = Cqe::new(result, a, b, status);
        let n = tcp::encode_capsule_resp(&mut out, &cqe, digest);
        let seen = frame(Receiver::Host, &params, &out).unwrap();
        prop_assert_eq!(seen.header_len(), n);
        let Ok(Header::CapsuleResp(header)) = tcp::decode_header(&seen, &out) else { panic!() };
        prop_assert_eq!(header.cqe, cqe);
        let n = tcp::encode_r2t(&mut out, a, b, x, y, digest);
        let seen = frame(Receiver::Host, &params, &out).unwrap();
        prop_assert_eq!(seen.header_len(), n);
        let Ok(Header::R2t(header)) = tcp::decode_header(&seen, &out) else { panic!() };
        prop_assert_eq!((header.cccid.get(), header.ttag.get()), (a, b));
        prop_assert_eq!((header.r2to.get(), header.r2tl.get()), (x, y));
    }

    /// Whatever comes, a frame's parts make up PLEN and no more than was agreed.
    #[test]
    fn any_common_header(raw: [u8; 8], params in any_params(), host: bool) {
        let receiver = if host { Receiver::Host } else { Receiver::Controller };
        if let Ok(seen) = frame(receiver, &params, &raw) {
            let total = seen.data_start() as u64 + u64::from(seen.data_len)
                + seen.trailer_len() as u64;
            prop_assert_eq!(total, u64::from(u32::from_le_bytes(raw[4..].try_into().unwrap())));
            prop_assert!(seen.data_len <= params.data_max);
            prop_assert!(seen.hlen <= tcp::HLEN_MAX);
        }
    }

    #[test]
    fn crc_of_pieces(bytes: Vec<u8>, cut: prop::sample::Index) {
        let (a, b) = bytes.split_at(cut.index(bytes.len() + 1));
        let mut crc = tcp::Crc32c::new();
        crc.update(a);
        crc.update(b);
        prop_assert_eq!(crc.value(), tcp::crc32c(&bytes));
    }
}
