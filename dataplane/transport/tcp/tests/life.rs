//! How connections begin, are acted on from outside, and end; and that nothing of them stays.
#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use common::host::{Host, Wishes, icreq, plain, read, with_dw10, write, write_in_capsule};
use common::{
    ABORT, END, FLUSH, HANG, HANG_COMMITTED, IMPATIENT_WRITE, Node, Options, SLOW_FLUSH,
    SLOW_WRITE, WRITE, patterned, wait_for,
};
use penstock_nvme::{SglDescriptor, Status};
use penstock_transport_tcp::{TcpConfig, close_all, finish_all, totals};

const ABORTED: u16 = Status::ABORT_REQUESTED.wire();

fn abort(host: &mut Host, victim: u16) {
    let pdu = host.command(&plain(ABORT, 0x500, victim.into()));
    host.send(&pdu);
}

#[test]
fn abort_takes_back_what_still_waits() {
    let node = Node::start(TcpConfig::default());
    let mut host = Host::connected(node.address, Wishes::default());
    host.send(&host.command(&plain(HANG, 1, 0)));
    abort(&mut host, 1);
    let cqe = host.response();
    assert_eq!((cqe.cid.get(), cqe.status.get()), (1, ABORTED));
    assert_eq!(host.response().result.get(), 0);
    // What a device works on, what is unknown, what is over: not.
    host.send(&host.command(&plain(HANG_COMMITTED, 2, 0)));
    for victim in [2, 3, 1] {
        abort(&mut host, victim);
        assert_eq!(host.response().result.get(), 1, "command {victim}");
    }
    // The identifier and the slot are free again.
    host.send(&host.command(&plain(FLUSH, 1, 9)));
    assert_eq!(host.response().result.get(), 9);
    assert_eq!(node.seen.executing.load(SeqCst), 1);
    drop(host);
    node.wait_until_empty();
}

/// SPDK's initiator, when it detaches, uses the identifiers of event requests that it has forgotten.
#[test]
fn an_event_request_gives_way_to_a_command_of_its_identifier() {
    const EVENT_REQUEST: u8 = HANG;
    let node = Node::start(TcpConfig::default());
    let wishes = Wishes {
        queue_id: 0,
        entries: 5,
        ..Wishes::default()
    };
    let mut host = Host::connected(node.address, wishes);
    for cid in 0..4 {
        host.send(&host.command(&plain(EVENT_REQUEST, cid, 0)));
    }
    // Each slot and identifier is given up, and used again at once.
    for round in 0..3 {
        for cid in 0..4 {
            host.send(&host.command(&plain(FLUSH, cid, 10 + u32::from(cid))));
            let cqe = host.response();
            let found = (cqe.cid.get(), cqe.status.get(), cqe.result.get());
            assert_eq!(found, (cid, 0, 10 + u64::from(cid)), "round {round}");
            host.send(&host.command(&plain(EVENT_REQUEST, cid, 0)));
        }
    }
    abort(&mut host, 2);
    assert_eq!(host.response().cid.get(), 2, "the new request is the one");
    assert_eq!(host.response().result.get(), 0);
    assert_eq!(node.seen.executing.load(SeqCst), 3, "old ones are dropped");
    assert_eq!(node.stats().violations.get(), 0);
    // A command that a device works on keeps its identifier.
    let conflict = Status::CID_CONFLICT.dnr().wire();
    host.send(&host.command(&plain(HANG_COMMITTED, 2, 0)));
    host.send(&host.command(&plain(FLUSH, 2, 0)));
    assert_eq!(host.response().status.get(), conflict);
    drop(host);
    // On an I/O queue that opcode is Verify, a command like any other.
    let mut host = Host::connected(node.address, Wishes::default());
    host.send(&host.command(&plain(HANG, 1, 0)));
    host.send(&host.command(&plain(FLUSH, 1, 0)));
    assert_eq!(host.response().status.get(), conflict);
    drop(host);
    node.wait_until_empty();
}

#[test]
fn an_aborted_write_is_answered_when_its_data_has_passed() {
    let node = Node::start(TcpConfig::default());
    for wishes in [
        Wishes::default(),
        Wishes {
            header_digest: true,
            data_digest: true,
            ..Wishes::default()
        },
    ] {
        let mut host = Host::connected(node.address, wishes);
        let data = patterned(1, 64 << 10);
        host.send(&host.command(&write(1, 64 << 10)));
        let (tag, _, _) = host.r2t();
        abort(&mut host, 1);
        assert_eq!(
            host.response().cid.get(),
            0x500,
            "the abort is answered first"
        );
        assert_eq!(node.leased_bytes(), 0, "the memory is free at once");
        host.answer_r2t(1, tag, 0, &data, 16 << 10);
        let cqe = host.response();
        assert_eq!((cqe.cid.get(), cqe.status.get()), (1, ABORTED));
        host.send(&host.capsule(&write_in_capsule(1, 512), &data[..512]));
        assert_eq!(host.response().status.get(), 0);
    }
}

#[test]
fn an_aborted_write_whose_data_waits_aside() {
    let node = Node::start(TcpConfig::default());
    let mut host = Host::connected(node.address, Wishes::default());
    let data = patterned(1, 4096);
    let sqe = with_dw10(SLOW_WRITE, 1, SglDescriptor::in_capsule(0, 4096), 60_000);
    host.send(&host.capsule(&sqe, &data));
    abort(&mut host, 1);
    assert_eq!(host.response().status.get(), ABORTED);
    assert_eq!(host.response().cid.get(), 0x500);
    // Half of the data is still missing when the command is taken back from another queue.
    host.send(&host.capsule(&sqe, &data)[..2000]);
    drop(host);
    node.wait_until_empty();
}

#[test]
fn a_handler_may_give_up_on_the_hosts_data() {
    let node = Node::start(TcpConfig::default());
    let mut host = Host::connected(node.address, Wishes::default());
    let sqe = with_dw10(IMPATIENT_WRITE, 1, SglDescriptor::transport(8192), 5);
    host.send(&host.command(&sqe));
    let (tag, _, _) = host.r2t();
    std::thread::sleep(Duration::from_millis(30));
    host.send(&host.command(&plain(FLUSH, 2, 1)));
    assert_eq!(host.response().cid.get(), 2, "the reply waits for the data");
    host.answer_r2t(1, tag, 0, &patterned(0, 8192), 8192);
    let cqe = host.response();
    assert_eq!(
        (cqe.cid.get(), cqe.status.get()),
        (1, Status::NAMESPACE_NOT_READY.wire())
    );
}

#[test]
fn aborting_a_command_that_waits_for_its_turn_to_fetch() {
    let config = TcpConfig {
        payload_max_bytes: 64 << 10,
        ..TcpConfig::default()
    };
    let node = Node::start(config);
    let mut host = Host::connected(node.address, Wishes::default());
    host.send(&host.command(&write(1, 64 << 10)));
    host.send(&host.command(&write(2, 64 << 10)));
    host.send(&host.command(&write(3, 4096)));
    let (tag, _, _) = host.r2t();
    abort(&mut host, 2);
    assert_eq!(
        (host.response().cid.get(), host.response().cid.get()),
        (2, 0x500)
    );
    host.answer_r2t(1, tag, 0, &patterned(0, 64 << 10), 64 << 10);
    assert_eq!(host.response().cid.get(), 1);
    host.feed(3, &patterned(0, 4096), 4096);
    assert_eq!(host.response().cid.get(), 3);
}

#[test]
fn a_close_sends_what_is_answered_first() {
    let node = Node::start(TcpConfig {
        linger_ms: 5_000,
        ..TcpConfig::default()
    });
    let mut host = Host::connected(node.address, Wishes::default());
    let mut stream = host.command(&read(1, 1 << 20, 3));
    stream.extend(host.command(&plain(END, 2, 0)));
    stream.extend(host.command(&plain(FLUSH, 3, 0)));
    host.send(&stream);
    assert!(host.read_data(1).0 == patterned(3, 1 << 20));
    assert_eq!(host.response().cid.get(), 2);
    assert_eq!(host.try_recv(), None, "nothing is answered after the end");
    drop(host);
    node.wait_until_empty();
    let hosts: Vec<Host> = (0..5)
        .map(|_| Host::connected(node.address, Wishes::default()))
        .collect();
    assert_eq!(node.connections(), 5);
    node.ask(|| close_all("test"));
    for mut host in hosts {
        assert_eq!(host.try_recv(), None);
    }
    node.wait_until_empty();
}

#[test]
fn a_closed_connection_does_not_linger_for_ever() {
    let node = Node::start(TcpConfig {
        linger_ms: 100,
        ..TcpConfig::default()
    });
    let mut host = Host::connected(node.address, Wishes::default());
    host.send(&host.command(&plain(END, 2, 0)));
    assert_eq!(host.response().cid.get(), 2);
    // The host keeps its side open.
    node.wait_until_empty();
    drop(host);
}

#[test]
fn hosts_may_vanish_at_any_point_of_a_transfer() {
    let node = Node::start(TcpConfig::default());
    let data = patterned(0, 64 << 10);
    let wishes = Wishes {
        header_digest: true,
        data_digest: true,
        r2t_max: 4,
        ..Wishes::default()
    };
    for cut in 0..12 {
        let mut host = Host::raw(node.address);
        if cut == 0 {
            host.send(&icreq(&wishes)[..50]);
            continue;
        }
        let mut host = Host::connected(node.address, wishes);
        match cut {
            1 => {}
            2 => host.send(&host.command(&write(1, 64 << 10))[..40]),
            3 => host.send(&host.command(&write(1, 64 << 10))),
            4..=7 => {
                host.send(&host.command(&write(1, 64 << 10)));
                let (tag, _, _) = host.r2t();
                let pdu = host.h2c(1, tag, 0, &data, true);
                let parts = [20, 1000, 40_000, pdu.len() - 2];
                host.send(&pdu[..parts[cut - 4]]);
            }
            8 => host.send(&host.capsule(&write_in_capsule(1, 4096), &data[..4096])[..1000]),
            9 => (0..64).for_each(|cid| host.send(&host.command(&read(cid, 1 << 16, 0)))),
            10 => {
                let sgl = SglDescriptor::in_capsule(0, 4096);
                let sqe = with_dw10(SLOW_WRITE, 1, sgl, 60_000);
                host.send(&host.capsule(&sqe, &data[..4096]));
            }
            _ => (0..64).for_each(|cid| host.send(&host.command(&plain(HANG, cid, 0)))),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    node.wait_until_empty();
}

#[test]
fn a_thousand_connections_leave_nothing_behind() {
    let node = Node::start(TcpConfig::default());
    for round in 0..1000_u32 {
        let mut host = match round % 4 {
            0 => Host::raw(node.address),
            _ => Host::connected(node.address, Wishes::default()),
        };
        match round % 4 {
            0 => host.send(&icreq(&Wishes::default())[..64]),
            1 => host.send(&host.command(&plain(HANG, 1, 0))),
            2 => host.send(&host.command(&write(1, 64 << 10))),
            _ => {}
        }
    }
    node.wait_until_empty();
    assert_eq!(node.seen.closed.load(SeqCst), 1000);
}

#[test]
fn memory_that_r2t_data_needs_is_not_blocked_by_capsules_that_wait_for_it() {
    // All memory is held by a fetching write; capsules behind it wait for memory, and the data that
    // frees it lies behind those capsules in the stream.
    let config = TcpConfig {
        capsule_stash_max_bytes: 8192,
        ..TcpConfig::default()
    };
    let node = Node::with(Options {
        config,
        pool_bytes: 4 << 20,
        keep: true,
    });
    let mut host = Host::connected(node.address, Wishes::default());
    let data = patterned(1, 4 << 20);
    let sqe = with_dw10(WRITE, 1, SglDescriptor::transport(4 << 20), 0);
    host.send(&host.command(&sqe));
    let mut asked = vec![host.r2t()];
    for cid in 10..40 {
        host.send(&host.capsule(&write_in_capsule(cid, 8192), &data[..8192]));
    }
    while let Some((tag, offset, len)) = asked.pop() {
        let part = &data[offset as usize..(offset + len) as usize];
        host.answer_r2t(1, tag, offset, part, 256 << 10);
        if offset as usize + (len as usize) < data.len() {
            asked.push(host.r2t());
        }
    }
    let mut answered: Vec<u16> = (0..31).map(|_| host.response().cid.get()).collect();
    answered.sort_unstable();
    let expected: Vec<u16> = std::iter::once(1).chain(10..40).collect();
    assert_eq!(answered, expected);
    drop(host);
    wait_for("memory", || node.leased_bytes() == 0);
}

#[test]
fn finishing_waits_for_devices_and_takes_nothing_new() {
    let node = Node::start(TcpConfig::default());
    let mut host = Host::connected(node.address, Wishes::default());
    // A device works on this one for 100 ms; the other only waits.
    host.send(&host.command(&plain(SLOW_FLUSH, 1, 100)));
    host.send(&host.command(&plain(HANG, 2, 0)));
    wait_for("commands", || node.seen.executing.load(SeqCst) == 2);
    node.ask(|| finish_all("shutdown"));
    host.send(&host.command(&plain(FLUSH, 3, 0)));
    assert_eq!(host.response().cid.get(), 1);
    assert_eq!(host.try_recv(), None);
    drop(host);
    node.wait_until_empty();
    let totals = node.ask(totals);
    assert_eq!(totals.commands, 3, "Connect and two");
    assert!(totals.received_bytes > 0 && totals.sent_bytes > 0);
}

#[test]
fn a_slow_host_does_not_take_the_receive_buffers_of_the_others() {
    let config = TcpConfig {
        send_queue_max_bytes: 64 << 10,
        ..TcpConfig::default()
    };
    let node = Node::start(config);
    // More hosts than there are receive buffers, none of which reads.
    let slow: Vec<Host> = (0..40)
        .map(|_| {
            let mut host = Host::connected(node.address, Wishes::default());
            let reads: Vec<u8> = (0..100)
                .flat_map(|cid| host.command(&read(cid, 128 << 10, 1)))
                .collect();
            host.send(&reads);
            host
        })
        .collect();
    std::thread::sleep(Duration::from_millis(50));
    let mut other = Host::connected(node.address, Wishes::default());
    for _ in 0..20 {
        other.send(&other.command(&read(1, 4096, 2)));
        assert_eq!(other.read_data(1).0, patterned(2, 4096));
    }
    assert_eq!(node.reactor.stats().snapshot().recv_buffers_held, 0);
    drop((slow, other));
    node.wait_until_empty();
}
