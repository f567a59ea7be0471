//! Connecting: ICReq and ICResp, Connect, and what goes wrong there.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on must fail"
)]

mod common;

use std::time::Duration;

use common::{Hello, accept, info, on_reactor, options, target};
use penstock_client::{ClientError, CloseReason, ConnectOptions, IoQueue};
use penstock_nvme::Status;
use penstock_nvme::fabrics::{ConnectCommand, ConnectData};
use penstock_nvme::tcp::FatalError;
use penstock_nvme::{FromBytes, IntoBytes};
use penstock_units::QueueId;

fn connect(options: ConnectOptions) -> Result<(), ClientError> {
    let info = info(options);
    on_reactor(move |pool| async move {
        IoQueue::connect(&info, QueueId(3), 16, &pool)
            .await
            .map(drop)
    })
}

#[test]
fn what_is_asked_for_reaches_the_target() {
    let (address, thread) = target(|listener| {
        let mut peer = accept(&listener);
        let hello = Hello {
            header_digest: true,
            data_digest: true,
            ..Hello::default()
        };
        let request = peer.hello(hello);
        assert_eq!(request.pfv.get(), 0);
        assert!(request.header_digest() && request.data_digest());
        assert_eq!(request.r2t_max(), 16);
        let pdu = peer.pdu();
        let sqe = pdu.sqe();
        let command = ConnectCommand::ref_from_bytes(sqe.as_bytes()).unwrap();
        assert_eq!((command.qid.get(), command.queue_entries()), (3, 17));
        let data = ConnectData::ref_from_bytes(&pdu.data).unwrap();
        assert_eq!(data.cntlid.get(), 1);
        assert_eq!(data.subnqn_bytes(), b"nqn.2024-01.com.example:test");
        assert!(
            data.hostnqn_bytes()
                .starts_with(b"nqn.2014-08.org.nvmexpress:uuid:07070707-")
        );
        peer.respond(sqe.cid.get(), Status::SUCCESS, 1);
        assert!(peer.is_closed(), "dropping the queue closes the connection");
    });
    let mut options = options(address);
    (options.header_digest, options.data_digest) = (true, true);
    connect(options).expect("connected");
    thread.join().expect("the script was followed");
}

#[test]
fn a_refused_connect_names_subsystem_and_remedy() {
    let (address, thread) = target(|listener| {
        let mut peer = accept(&listener);
        peer.hello(Hello::default());
        let cid = peer.pdu().sqe().cid.get();
        peer.respond(cid, Status::CONNECT_INVALID_HOST.dnr(), 0);
    });
    let error = connect(options(address)).expect_err("refused");
    let told = error.to_string();
    assert!(matches!(error, ClientError::Refused { .. }), "{told}");
    for part in [
        "nqn.2024-01.com.example:test",
        "Connect Invalid Host",
        "allow_any_host",
    ] {
        assert!(told.contains(part), "{part} in: {told}");
    }
    thread.join().expect("the script was followed");
}

#[test]
fn a_digest_nobody_asked_for_ends_the_connection_with_a_termination_request() {
    let (address, thread) = target(|listener| {
        let mut peer = accept(&listener);
        peer.hello(Hello {
            header_digest: true,
            ..Hello::default()
        });
        peer.header_digest = false;
        let term = peer.pdu().term();
        assert_eq!(term.fes.get(), u16::from(FatalError::InvalidHeaderField));
        assert_eq!(term.fei.get(), 11, "the offset of DGST");
        assert!(peer.is_closed());
    });
    let error = connect(options(address)).expect_err("given up");
    let ClientError::Closed {
        reason: CloseReason::Protocol(_),
        ..
    } = error
    else {
        panic!("{error}");
    };
    thread.join().expect("the script was followed");
}

#[test]
fn anything_before_icresp_is_out_of_sequence() {
    let (address, thread) = target(|listener| {
        let mut peer = accept(&listener);
        peer.respond(0, Status::SUCCESS, 0);
        let request = peer.pdu();
        assert_eq!(request.kind(), 0x00, "ICReq comes first");
        let term = peer.pdu();
        assert_eq!(term.term().fes.get(), u16::from(FatalError::SequenceError));
        assert_eq!(term.data[0], 0x05, "the header in error is sent back");
        assert!(peer.is_closed());
    });
    connect(options(address)).expect_err("given up");
    thread.join().expect("the script was followed");
}

#[test]
fn a_silent_target_is_given_up_in_time() {
    let (address, thread) = target(|listener| {
        let mut peer = accept(&listener);
        assert_eq!(peer.pdu().kind(), 0x00);
        assert!(peer.is_closed());
    });
    let mut options = options(address);
    options.connect_timeout_ms = 100;
    let begun = std::time::Instant::now();
    let error = connect(options).expect_err("given up");
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(
        matches!(
            error,
            ClientError::Closed {
                reason: CloseReason::HandshakeTimeout,
                ..
            }
        ),
        "{error}"
    );
    thread.join().expect("the script was followed");
}

#[test]
fn nobody_listening_is_told_with_the_address() {
    let (address, thread) = target(drop);
    thread.join().expect("the socket is closed");
    let error = connect(options(address)).expect_err("nobody there");
    let told = error.to_string();
    assert!(matches!(error, ClientError::Connect { .. }), "{told}");
    assert!(told.contains(&address.to_string()), "{told}");
}
