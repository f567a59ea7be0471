use penstock_nvme::fabrics::{
    CNTLID_STATIC_ANY, ConnectCommand, ConnectData, DisconnectCommand, PropertyCommand,
    PropertySize,
};
use penstock_nvme::register::{
    Cap, Cc, OFFSET_CAP, OFFSET_CC, OFFSET_CRTO, OFFSET_CSTS, OFFSET_NSSR, OFFSET_VS,
};
use penstock_nvme::{IntoBytes, IoOpcode, Le16, Sqe, Status};
use penstock_seam::Handler;

use crate::state::State;
use crate::testing::{Bed, HOST, HOST_ID, NQN, Peer, advance_ms, bytes, cc_enable, io, status};

const OTHER: &str = "nqn.2024-01.com.example:other";

fn good() -> (ConnectCommand, ConnectData) {
    (
        ConnectCommand::new(0, 32, 0),
        ConnectData::new(HOST_ID, 0xffff, NQN, HOST).unwrap(),
    )
}

/// Connect Invalid Parameters, with IATTR (true: data) and IPO.
fn invalid(reply: &penstock_seam::Reply, in_data: bool, offset: u64) {
    assert_eq!(status(reply), Status::CONNECT_INVALID_PARAMETERS.dnr());
    assert_eq!(reply.result, offset | u64::from(in_data) << 16);
    assert!(reply.established.is_none());
}

#[test]
fn connect_makes_an_admin_queue() {
    let bed = Bed::new();
    let peer = bed.dial();
    assert_eq!(peer.session.host_nqn(), None);
    let (mut command, data) = good();
    command.cattr = 1 << 2;
    let reply = peer.connect(&command, &data);
    assert_eq!(status(&reply), Status::SUCCESS);
    assert_eq!(reply.result, 1, "the first controller; no authentication");
    let established = reply.established.unwrap();
    assert_eq!((established.queue_id, established.queue_entries), (0, 32));
    assert!(established.flow_control_disabled);
    assert_eq!(peer.session.host_nqn().as_deref(), Some(HOST));
    assert_eq!(
        status(&peer.connect(&command, &data)),
        Status::COMMAND_SEQUENCE_ERROR.dnr()
    );
}

#[test]
fn connect_names_the_invalid_parameter() {
    let bed = Bed::new();
    let try_it = |change: &dyn Fn(&mut ConnectCommand, &mut ConnectData)| {
        let (mut command, mut data) = good();
        change(&mut command, &mut data);
        bed.dial().connect(&command, &data)
    };
    invalid(&try_it(&|c, _| c.sqsize = Le16::new(0)), false, 44);
    invalid(&try_it(&|c, _| c.sqsize = Le16::new(1024)), false, 44);
    invalid(
        &try_it(&|_, d| d.subnqn = penstock_nvme::nqn::nqn_field(OTHER).unwrap()),
        true,
        256,
    );
    invalid(&try_it(&|_, d| d.subnqn = [b'x'; 256]), true, 256);
    invalid(&try_it(&|_, d| d.hostnqn = [b'x'; 256]), true, 512);
    invalid(&try_it(&|_, d| d.hostid = [0; 16]), true, 0);
    invalid(&try_it(&|_, d| d.cntlid = Le16::new(1)), true, 16);
    invalid(
        &try_it(&|_, d| d.cntlid = Le16::new(CNTLID_STATIC_ANY)),
        true,
        16,
    );
    let reply = try_it(&|c, _| c.recfmt = Le16::new(1));
    assert_eq!(status(&reply), Status::CONNECT_INCOMPATIBLE_FORMAT.dnr());
    assert_eq!(
        status(&try_it(&|c, _| c.sqsize = Le16::new(1023))),
        Status::SUCCESS
    );
    let (command, _) = good();
    let short = bed.dial().exec(Sqe::from(command), &[0; 1023]);
    assert_eq!(status(&short), Status::DATA_SGL_LENGTH_INVALID.dnr());
    assert_eq!(bed.target.snapshot().refused_connects, 9);
}

#[test]
fn a_host_without_a_name_needs_a_subsystem_for_everyone() {
    let bed = Bed::new();
    let (command, mut data) = good();
    data.hostnqn = [0; 256];
    assert_eq!(
        status(&bed.dial().connect(&command, &data)),
        Status::SUCCESS
    );
    bed.target
        .set_hosts(NQN, false, &[HOST.to_owned()])
        .unwrap();
    let refused = bed.dial().connect(&command, &data);
    assert_eq!(status(&refused), Status::CONNECT_INVALID_HOST.dnr());
}

#[test]
fn io_queues_need_their_enabled_controller() {
    let bed = Bed::new();
    let admin = bed.connect_as(NQN, HOST, 0).unwrap();
    let try_it = |qid: u16, entries: u32, cntlid: u16, host: &str, id: [u8; 16]| {
        let data = ConnectData::new(id, cntlid, NQN, host).unwrap();
        bed.dial()
            .connect(&ConnectCommand::new(qid, entries, 0), &data)
    };
    let sequence = Status::COMMAND_SEQUENCE_ERROR.dnr();
    let cntlid = admin.cntlid;
    assert_eq!(
        status(&try_it(1, 128, cntlid, HOST, HOST_ID)),
        sequence,
        "not enabled"
    );
    admin.enable();
    invalid(&try_it(1, 128, 99, HOST, HOST_ID), true, 16);
    invalid(&try_it(1, 128, 0xffff, HOST, HOST_ID), true, 16);
    invalid(&try_it(1, 128, cntlid, OTHER, HOST_ID), true, 512);
    invalid(&try_it(1, 128, cntlid, HOST, [8; 16]), true, 0);
    invalid(&try_it(1, 1025, cntlid, HOST, HOST_ID), false, 44);
    invalid(&try_it(129, 128, cntlid, HOST, HOST_ID), false, 42);
    let reply = try_it(128, 1024, cntlid, HOST, HOST_ID);
    assert_eq!(status(&reply), Status::SUCCESS);
    assert_eq!(reply.established.unwrap().queue_entries, 1024);
    let kept = bed.io(&admin, 1);
    assert_eq!(
        status(&try_it(1, 128, cntlid, HOST, HOST_ID)),
        sequence,
        "duplicate"
    );
    kept.hang_up();
    bed.io(&admin, 1);
}

#[test]
fn only_hosts_on_the_list_may_connect_and_leave_when_taken_off() {
    let bed = Bed::new();
    let hosts = [HOST.to_owned()];
    bed.target.set_hosts(NQN, false, &hosts).unwrap();
    let (admin, queue) = bed.pair();
    let refused = bed.connect_as(NQN, OTHER, 0).err().unwrap();
    assert_eq!(status(&refused), Status::CONNECT_INVALID_HOST.dnr());
    bed.target
        .set_hosts(NQN, false, &[OTHER.to_owned()])
        .unwrap();
    bed.run_jobs();
    assert_eq!(admin.control.closes.take(), ["host is no longer allowed"]);
    assert_eq!(queue.control.closes.take(), ["host is no longer allowed"]);
    assert_eq!(
        status(&queue.read(0, 1, 512)),
        Status::COMMAND_SEQUENCE_ERROR.dnr()
    );
    assert!(bed.connect_as(NQN, OTHER, 0).is_ok());
}

#[test]
fn commands_before_connect_or_on_the_wrong_queue_are_refused() {
    let bed = Bed::new();
    let peer = bed.dial();
    let sequence = Status::COMMAND_SEQUENCE_ERROR.dnr();
    let get = |offset, size| Sqe::from(PropertyCommand::get(offset, size));
    let disconnect = Sqe::from(DisconnectCommand::new());
    assert_eq!(status(&peer.fetch(io(IoOpcode::Read, 0, 1), 512)), sequence);
    assert_eq!(
        status(&peer.exec(get(OFFSET_CAP, PropertySize::Eight), &[])),
        sequence
    );
    assert_eq!(status(&peer.exec(disconnect, &[])), sequence);
    let (admin, queue) = bed.pair();
    let wrong = Status::INVALID_QUEUE_TYPE.dnr();
    assert_eq!(
        status(&queue.exec(get(OFFSET_CAP, PropertySize::Eight), &[])),
        wrong
    );
    assert_eq!(status(&admin.exec(disconnect, &[])), wrong);
    let reply = queue.exec(disconnect, &[]);
    assert!(reply.close && status(&reply) == Status::SUCCESS);
    let mut unknown = disconnect;
    unknown.nsid = penstock_nvme::Le32::new(0x05);
    assert_eq!(
        status(&queue.exec(unknown, &[])),
        Status::INVALID_OPCODE.dnr()
    );
}

#[test]
fn properties_have_their_sizes_and_values() {
    let bed = Bed::new();
    let admin = bed.connect_as(NQN, HOST, 0).unwrap();
    let get = |offset, size| admin.exec(Sqe::from(PropertyCommand::get(offset, size)), &[]);
    let cap = Cap(get(OFFSET_CAP, PropertySize::Eight).result);
    assert_eq!(
        (
            cap.queue_entries_max(),
            cap.cqr(),
            cap.mpsmin(),
            cap.nssrs()
        ),
        (1024, true, 0, false)
    );
    assert_eq!((cap.css(), cap.crms()), (0x41, 1));
    assert_eq!(get(OFFSET_VS, PropertySize::Four).result, 0x0002_0100);
    assert_eq!(get(OFFSET_CC, PropertySize::Four).result, 0);
    assert_eq!(
        get(OFFSET_CRTO, PropertySize::Four).result,
        u64::from(cap.to())
    );
    let bad = Status::INVALID_FIELD.dnr();
    for (offset, size) in [
        (OFFSET_CAP, PropertySize::Four),
        (OFFSET_VS, PropertySize::Eight),
        (OFFSET_CC, PropertySize::Eight),
        (OFFSET_CSTS, PropertySize::Eight),
        (OFFSET_NSSR, PropertySize::Four),
        (0x1000, PropertySize::Four),
        (3, PropertySize::Four),
    ] {
        assert_eq!(status(&get(offset, size)), bad, "{offset:#x} {size:?}");
    }
    let set = |offset, size| admin.exec(Sqe::from(PropertyCommand::set(offset, size, 0)), &[]);
    assert_eq!(status(&set(OFFSET_CAP, PropertySize::Eight)), bad);
    assert_eq!(status(&set(OFFSET_CC, PropertySize::Eight)), bad);
    let mut odd = PropertyCommand::get(OFFSET_CAP, PropertySize::Eight);
    odd.attrib = 2;
    assert_eq!(status(&admin.exec(Sqe::from(odd), &[])), bad);
}

#[test]
fn enabling_needs_supported_values() {
    let bed = Bed::new();
    for cc in [
        cc_enable().with_iosqes(5),
        cc_enable().with_iocqes(0),
        cc_enable().with_mps(1),
        cc_enable().with_ams(1),
        cc_enable().with_css(7),
        cc_enable().with_css(1),
        cc_enable().with_crime(true),
    ] {
        let admin = bed.connect_as(NQN, HOST, 0).unwrap();
        assert_eq!(admin.set_cc(cc), Status::SUCCESS);
        assert_eq!(admin.csts(), 0b10, "CFS for {cc:?}");
        assert_eq!(admin.set_cc(Cc(0)), Status::SUCCESS);
        assert_eq!(admin.csts(), 0, "a reset leads out");
        admin.enable();
    }
    let admin = bed.connect_as(NQN, HOST, 0).unwrap();
    assert_eq!(admin.set_cc(cc_enable().with_css(6)), Status::SUCCESS);
    assert_eq!(admin.csts(), 1);
}

#[test]
fn a_reset_tears_down_io_queues_before_it_is_complete() {
    let bed = Bed::new();
    let (admin, queue) = bed.pair();
    assert_eq!(admin.set_cc(Cc(0)), Status::SUCCESS);
    assert_eq!(admin.csts(), 1, "RDY until the queue is gone");
    bed.run_jobs();
    assert_eq!(queue.control.closes.take(), ["controller reset"]);
    assert_eq!(
        status(&queue.read(0, 1, 512)),
        Status::COMMAND_SEQUENCE_ERROR.dnr()
    );
    assert_eq!(
        admin.set_cc(cc_enable()),
        Status::COMMAND_SEQUENCE_ERROR.dnr(),
        "too early"
    );
    queue.hang_up();
    bed.run_jobs();
    assert_eq!(admin.csts(), 0);
    assert!(
        admin.control.closes.borrow().is_empty(),
        "the admin queue stays"
    );
    admin.enable();
    bed.io(&admin, 1);
}

#[test]
fn shutdown_ends_the_queues_and_says_so() {
    for shn in [1, 2] {
        let bed = Bed::new();
        let (admin, queue) = bed.pair();
        assert_eq!(admin.set_cc(cc_enable().with_shn(shn)), Status::SUCCESS);
        assert_eq!(admin.csts() >> 2 & 3, 1);
        queue.hang_up();
        bed.run_jobs();
        assert_eq!(admin.csts() >> 2 & 3, 2);
        assert_eq!(
            status(&admin.identify(penstock_nvme::identify::Cns::Controller, 0)),
            Status::COMMAND_SEQUENCE_ERROR.dnr()
        );
        assert_eq!(admin.set_cc(Cc(0)), Status::SUCCESS);
        assert_eq!(admin.csts(), 0);
        admin.enable();
    }
}

fn expires(bed: &Bed, peer: &Peer) -> bool {
    bed.target.tick({
        let clock = bed.target.config().clock;
        (clock.now)()
    });
    bed.run_jobs();
    !peer.control.closes.borrow().is_empty()
}

#[test]
fn keep_alive_counts_any_traffic_and_ends_every_connection() {
    let bed = Bed::new();
    let admin = bed.connect_as(NQN, HOST, 5000).unwrap();
    admin.enable();
    let queue = bed.io(&admin, 1);
    advance_ms(4900);
    queue.read(0, 1, 512);
    advance_ms(4900);
    assert!(!expires(&bed, &admin), "traffic on an I/O queue counts");
    admin.exec(penstock_nvme::command::keep_alive(), &[]);
    advance_ms(5000);
    assert!(!expires(&bed, &admin));
    advance_ms(1);
    assert!(expires(&bed, &admin));
    assert_eq!(*queue.control.closes.borrow(), ["keep alive timeout"]);
    assert_eq!(admin.session.controller().unwrap().state(), State::Failed);
    assert_eq!(admin.csts() & 2, 2, "CFS");
    let silent = bed.admin();
    advance_ms(10_000_000);
    assert!(!expires(&bed, &silent), "no timeout was asked for");
}

#[test]
fn without_its_admin_queue_a_controller_is_gone() {
    let bed = Bed::new();
    let (admin, queue) = bed.pair();
    admin.hang_up();
    bed.run_jobs();
    assert_eq!(queue.control.closes.take(), ["admin queue closed"]);
    assert!(bed.target.snapshot().controllers.is_empty());
    assert_eq!(
        status(&queue.read(0, 1, 512)),
        Status::COMMAND_SEQUENCE_ERROR.dnr()
    );
}

#[test]
fn controller_identifiers_go_round() {
    let bed = Bed::new();
    let mut config = crate::subsystem::SubsystemConfig::new(OTHER, "SN2");
    (config.cntlid_min, config.cntlid_max) = (0xffee, 0xffef);
    bed.target.add_subsystem(config).unwrap();
    let connect = || bed.connect_as(OTHER, HOST, 0);
    let (a, b) = (connect().ok().unwrap(), connect().ok().unwrap());
    assert_eq!((a.cntlid, b.cntlid), (0xffee, 0xffef));
    assert_eq!(
        status(&connect().err().unwrap()),
        Status::CONNECT_CONTROLLER_BUSY
    );
    b.hang_up();
    assert_eq!(connect().ok().unwrap().cntlid, 0xffef, "the only one free");
    drop(a);
    let first = bed.connect_as(NQN, HOST, 0).ok().unwrap();
    first.hang_up();
    let second = bed.connect_as(NQN, HOST, 0).ok().unwrap();
    assert_eq!(
        (first.cntlid, second.cntlid),
        (1, 2),
        "not used again at once"
    );
}

#[test]
fn a_node_that_shuts_down_takes_no_more_hosts() {
    let bed = Bed::new();
    let (admin, queue) = bed.pair();
    bed.target.shutdown_notice();
    let refused = bed.connect_as(NQN, HOST, 0).err().unwrap();
    assert_eq!(
        status(&refused),
        Status::CONNECT_CONTROLLER_BUSY,
        "the host may try again"
    );
    assert_eq!(bytes(&queue.read(0, 1, 512)).len(), 512, "I/O goes on");
    bed.target.close_all("node stops");
    bed.run_jobs();
    assert_eq!(admin.control.closes.take(), ["node stops"]);
    assert_eq!(queue.control.closes.take(), ["node stops"]);
}

#[test]
fn a_removed_subsystem_disconnects_its_hosts() {
    let bed = Bed::new();
    let (admin, queue) = bed.pair();
    bed.target.remove_subsystem(NQN).unwrap();
    bed.run_jobs();
    assert_eq!(admin.control.closes.take().len(), 1);
    assert_eq!(queue.control.closes.take().len(), 1);
    let (command, data) = good();
    invalid(
        &bed.dial().exec(Sqe::from(command), data.as_bytes()),
        true,
        256,
    );
}
