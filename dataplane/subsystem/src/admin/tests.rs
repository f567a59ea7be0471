use std::sync::atomic::Ordering;

use penstock_nvme::command::{
    Abort, GetFeatures, GetLogPage, Identify, SetFeatures, async_event_request, keep_alive,
};
use penstock_nvme::event::AsyncEvent;
use penstock_nvme::feature::{FeatureId, NumberOfQueues};
use penstock_nvme::identify::{
    Cns, CommandSetCombinations, ControllerList, IdentifyController, IdentifyIndependentNamespace,
    IdentifyNamespace, IdentifyNvmController, NamespaceDescriptor, NamespaceList,
    decode_namespace_descriptors,
};
use penstock_nvme::{AdminOpcode, IoOpcode, Le32, Sqe, Status};
use penstock_units::{BlockSize, Nsid};

use crate::fakes::{FakeDevice, LinkState};
use crate::namespace::NamespaceConfig;
use crate::testing::{Bed, HOST_ID, NQN, Peer, bytes, data, io, status};

const INVALID_FIELD: Status = Status::INVALID_FIELD.dnr();

fn get(peer: &Peer, fid: FeatureId, select: u8, nsid: u32, cdw11: u32) -> (Status, u64) {
    let sqe = GetFeatures {
        fid: fid.into(),
        select,
        nsid,
        cdw11,
        uuid_index: 0,
    }
    .encode();
    let reply = peer.fetch(sqe, 512);
    (status(&reply), reply.result)
}

fn set(peer: &Peer, fid: FeatureId, value: u32) -> (Status, u64) {
    let reply = peer.exec(SetFeatures::new(fid, value).encode(), &[]);
    (status(&reply), reply.result)
}

#[test]
fn identify_controller_says_what_the_controller_can() {
    let bed = Bed::new();
    let admin = bed.admin();
    let id: IdentifyController = data(&admin.identify(Cns::Controller, 0));
    assert_eq!(&id.sn, b"SN1                 ");
    assert_eq!(id.cntlid.get(), admin.cntlid);
    assert_eq!(id.transfer_bytes_max(0), Some(128 << 10));
    assert_eq!(id.in_capsule_data_bytes(), 8192);
    assert_eq!(
        (id.ver.get(), id.cntrltype, id.nn.get()),
        (0x0002_0100, 1, 1024)
    );
    assert_eq!(
        (id.sqes, id.cqes, id.maxcmd.get(), id.kas.get()),
        (0x66, 0x44, 1024, 1)
    );
    assert_eq!((id.acl, id.aerl, id.elpe, id.npss), (3, 3, 127, 0));
    assert_eq!(
        id.oncs.get(),
        0b1001_1101,
        "compare, DSM, write zeroes, save/select, verify"
    );
    assert_eq!((id.fuses.get(), id.acwu.get(), id.vwc), (1, 0, 0b111));
    assert_eq!(
        id.ctratt.get() & (1 << 6 | 1),
        1 << 6 | 1,
        "TBKAS, 128-bit host identifiers"
    );
    assert_eq!(id.oaes.get(), 1 << 8 | 1 << 11 | 1 << 15);
    assert_eq!(
        (id.cmic, id.anacap, id.nanagrpid.get(), id.anagrpmax.get()),
        (0b1011, 1, 1, 1)
    );
    assert_eq!(id.lpa, 0b10_0110);
    assert_eq!(
        (
            id.ioccsz.get(),
            id.iorcsz.get(),
            id.icdoff.get(),
            id.ofcs.get()
        ),
        (516, 1, 0, 1)
    );
    assert_eq!(id.sgls.get(), 1 | 1 << 20 | 1 << 21);
    assert_eq!(penstock_nvme::nul_terminated(&id.subnqn), NQN.as_bytes());
    assert_eq!(
        (id.wctemp.get(), id.cctemp.get()),
        (0, 0),
        "no temperature is known"
    );
    assert_eq!(id.tnvmcap.get(), 1024 * 512);
}

#[test]
fn identify_namespace_describes_the_device() {
    let bed = Bed::with(BlockSize::B4096);
    let admin = bed.admin();
    let id: IdentifyNamespace = data(&admin.identify(Cns::Namespace, 1));
    assert_eq!(
        (id.nsze.get(), id.ncap.get(), id.nuse.get()),
        (1024, 1024, 1024)
    );
    assert_eq!(id.format().unwrap().lbads, 12);
    assert_eq!(
        (id.nguid, id.eui64, id.nmic, id.anagrpid.get()),
        ([2; 16], [3; 8], 1, 1)
    );
    assert_eq!((id.npwg.get(), id.nows.get(), id.dlfeat), (7, 7, 0b1001));
    let id: IdentifyIndependentNamespace = data(&admin.identify(Cns::IndependentNamespace, 1));
    assert_eq!(
        (id.nstat, id.nmic, id.anagrpid.get(), id.nsfeat),
        (1, 1, 1, 0)
    );
    let list = bytes(&admin.identify(Cns::NamespaceDescriptors, 1));
    let found: Vec<_> = decode_namespace_descriptors(&list).collect();
    let expected = [
        NamespaceDescriptor::Eui64([3; 8]),
        NamespaceDescriptor::Nguid([2; 16]),
        NamespaceDescriptor::Uuid([1; 16]),
        NamespaceDescriptor::Csi(0),
    ];
    assert_eq!(found, expected);
    // A valid number without a namespace: zeroes. An invalid one: refused.
    assert_eq!(bytes(&admin.identify(Cns::Namespace, 1024)), [0; 4096]);
    assert_eq!(
        bytes(&admin.identify(Cns::CommandSetNamespace, 1)),
        [0; 4096]
    );
    for nsid in [0, 1025, u32::MAX] {
        let reply = admin.identify(Cns::Namespace, nsid);
        assert_eq!(status(&reply), Status::INVALID_NAMESPACE.dnr());
    }
    let reply = admin.identify(Cns::NamespaceDescriptors, 2);
    assert_eq!(status(&reply), Status::INVALID_NAMESPACE.dnr());
}

#[test]
fn identify_lists() {
    let bed = Bed::new();
    let admin = bed.admin();
    let other = bed.admin();
    let device = FakeDevice::new(8, BlockSize::B512);
    bed.target
        .add_namespace(NQN, Nsid::new(9), NamespaceConfig::default(), device)
        .unwrap();
    let list = |cns, nsid| -> Vec<u32> {
        let list: NamespaceList = data(&admin.identify(cns, nsid));
        list.iter().collect()
    };
    for cns in [
        Cns::ActiveNamespaces,
        Cns::CommandSetActiveNamespaces,
        Cns::AllocatedNamespaces,
    ] {
        assert_eq!(list(cns, 0), [1, 9]);
        assert_eq!(list(cns, 1), [9]);
        assert_eq!(list(cns, 9), []);
        let reply = admin.identify(cns, u32::MAX);
        assert_eq!(status(&reply), Status::INVALID_NAMESPACE.dnr());
    }
    let controllers = |cns, nsid, from| -> Vec<u16> {
        let sqe = Identify {
            cntid: from,
            ..Identify::new(cns, nsid)
        }
        .encode();
        let list: ControllerList = data(&admin.fetch(sqe, 4096));
        list.iter().collect()
    };
    let both = [admin.cntlid, other.cntlid];
    assert_eq!(controllers(Cns::SubsystemControllers, 0, 0), both);
    assert_eq!(
        controllers(Cns::SubsystemControllers, 0, other.cntlid),
        both[1..]
    );
    assert_eq!(controllers(Cns::NamespaceControllers, 1, 0), both);
    let reply = admin.identify(Cns::NamespaceControllers, 5);
    assert_eq!(status(&reply), Status::INVALID_NAMESPACE.dnr());
    let sets: CommandSetCombinations = {
        let sqe = Identify {
            cntid: 0xffff,
            ..Identify::new(Cns::CommandSetCombinations, 0)
        };
        data(&admin.fetch(sqe.encode(), 4096))
    };
    assert_eq!((sets.vectors[0].get(), sets.vectors[1].get()), (1, 0));
    let id: IdentifyNvmController = data(&admin.identify(Cns::CommandSetController, 0));
    assert_eq!(
        (id.vsl, id.wzsl, id.dmrl, id.dmsl.get()),
        (0, 0, 0, 0),
        "no limits"
    );
}

#[test]
fn identify_refuses_what_is_not_there() {
    let bed = Bed::new();
    let admin = bed.admin();
    for cns in [
        0x04, 0x09, 0x0a, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1d, 0x30, 0xff,
    ] {
        let reply = admin.fetch(Identify::new(cns, 1).encode(), 4096);
        assert_eq!(status(&reply), INVALID_FIELD, "{cns:#x}");
    }
    for cns in [
        Cns::CommandSetNamespace,
        Cns::CommandSetController,
        Cns::CommandSetActiveNamespaces,
    ] {
        let sqe = Identify {
            csi: 2,
            ..Identify::new(cns, 1)
        }
        .encode();
        assert_eq!(
            status(&admin.fetch(sqe, 4096)),
            INVALID_FIELD,
            "zoned {cns}"
        );
    }
    let short = admin.fetch(Identify::new(Cns::Controller, 0).encode(), 4092);
    assert_eq!(status(&short), Status::DATA_SGL_LENGTH_INVALID.dnr());
}

#[test]
fn unknown_and_unready_commands_are_refused() {
    let bed = Bed::new();
    let admin = bed.connect_as(NQN, crate::testing::HOST, 0).unwrap();
    let reply = admin.identify(Cns::Controller, 0);
    assert_eq!(
        status(&reply),
        Status::COMMAND_SEQUENCE_ERROR.dnr(),
        "not enabled"
    );
    admin.enable();
    let known = [0x02, 0x06, 0x08, 0x09, 0x0a, 0x0c, 0x18, 0x7f];
    for opcode in (0..=255).filter(|o| !known.contains(o)) {
        let reply = admin.exec(Sqe::new(opcode), &[]);
        assert_eq!(status(&reply), Status::INVALID_OPCODE.dnr(), "{opcode:#x}");
    }
    let mut fused = keep_alive();
    fused.flags |= 1;
    assert_eq!(status(&admin.exec(fused, &[])), INVALID_FIELD);
    assert_eq!(status(&admin.exec(keep_alive(), &[])), Status::SUCCESS);
}

#[test]
fn features_have_current_default_saved_and_capabilities() {
    let bed = Bed::new();
    let admin = bed.admin();
    // (feature, new value, default, read back, capabilities)
    let table = [
        (FeatureId::Arbitration, 3, 0, 3, 4),
        (FeatureId::PowerManagement, 0, 0, 0, 4),
        (FeatureId::TemperatureThreshold, 350, 0xffff, 350, 4),
        (FeatureId::VolatileWriteCache, 0, 1, 0, 4),
        (
            FeatureId::NumberOfQueues,
            3 | 7 << 16,
            127 | 127 << 16,
            3 | 3 << 16,
            4,
        ),
        (FeatureId::WriteAtomicity, 1, 0, 1, 4),
        (FeatureId::AsyncEvents, 1 << 8, 0, 1 << 8, 4),
        (FeatureId::KeepAliveTimer, 2450, 0, 2500, 4),
    ];
    for (fid, value, default, read_back, capabilities) in table {
        assert_eq!(set(&admin, fid, value).0, Status::SUCCESS, "{fid}");
        let got: Vec<u64> = (0..4)
            .map(|select| get(&admin, fid, select, 0, 0).1)
            .collect();
        assert_eq!(got, [read_back, default, default, capabilities], "{fid}");
        assert_eq!(get(&admin, fid, 4, 0, 0).0, INVALID_FIELD);
        let save = SetFeatures {
            save: true,
            ..SetFeatures::new(fid, value)
        }
        .encode();
        assert_eq!(
            status(&admin.exec(save, &[])),
            Status::FEATURE_NOT_SAVEABLE.dnr()
        );
        let of_namespace = SetFeatures {
            nsid: 1,
            ..SetFeatures::new(fid, value)
        }
        .encode();
        let reply = admin.exec(of_namespace, &[]);
        assert_eq!(status(&reply), Status::FEATURE_NOT_NAMESPACE_SPECIFIC.dnr());
    }
    for fid in [
        FeatureId::Timestamp,
        FeatureId::HostMemoryBuffer,
        FeatureId::LbaRangeType,
    ] {
        assert_eq!(get(&admin, fid, 0, 0, 0).0, INVALID_FIELD, "{fid}");
        assert_eq!(set(&admin, fid, 0).0, INVALID_FIELD, "{fid}");
    }
    assert_eq!(set(&admin, FeatureId::PowerManagement, 1).0, INVALID_FIELD);
    assert_eq!(set(&admin, FeatureId::AsyncEvents, 1 << 9).0, INVALID_FIELD);
    assert_eq!(
        set(&admin, FeatureId::TemperatureThreshold, 1 << 16).0,
        INVALID_FIELD
    );
    // The under temperature threshold is another value.
    assert_eq!(
        get(&admin, FeatureId::TemperatureThreshold, 0, 0, 1 << 20).1,
        0
    );
}

#[test]
fn number_of_queues_is_granted_before_the_first_queue() {
    let bed = Bed::new();
    let admin = bed.admin();
    let (code, result) = set(&admin, FeatureId::NumberOfQueues, 999 | 999 << 16);
    assert_eq!(code, Status::SUCCESS);
    let granted = NumberOfQueues::from_dword(u32::try_from(result).unwrap());
    assert_eq!((granted.submission, granted.completion), (128, 128));
    assert_eq!(
        set(&admin, FeatureId::NumberOfQueues, 0xffff).0,
        INVALID_FIELD
    );
    let _queue = bed.io(&admin, 1);
    let late = set(&admin, FeatureId::NumberOfQueues, 0).0;
    assert_eq!(late, Status::COMMAND_SEQUENCE_ERROR.dnr());
}

#[test]
fn features_with_data() {
    let bed = Bed::new();
    let admin = bed.admin();
    let sqe = |fid: FeatureId, cdw11| {
        GetFeatures {
            fid: fid.into(),
            cdw11,
            ..Default::default()
        }
        .encode()
    };
    let id = admin.fetch(sqe(FeatureId::HostIdentifier, 1), 16);
    assert_eq!(bytes(&id), HOST_ID);
    assert_eq!(
        status(&admin.fetch(sqe(FeatureId::HostIdentifier, 0), 8)),
        INVALID_FIELD
    );
    let change = admin.exec(
        SetFeatures::new(FeatureId::HostIdentifier, 1).encode(),
        &[1; 16],
    );
    assert_eq!(status(&change), Status::COMMAND_SEQUENCE_ERROR.dnr());
    let set_behavior = SetFeatures::new(FeatureId::HostBehavior, 0).encode();
    let mut behavior = [0; 512];
    behavior[0] = 1;
    assert_eq!(
        status(&admin.exec(set_behavior, &behavior)),
        Status::SUCCESS
    );
    assert_eq!(
        bytes(&admin.fetch(sqe(FeatureId::HostBehavior, 0), 512)),
        behavior
    );
    let short = admin.fetch(sqe(FeatureId::HostBehavior, 0), 511);
    assert_eq!(status(&short), Status::DATA_SGL_LENGTH_INVALID.dnr());
    assert_eq!(
        status(&admin.exec(set_behavior, &[0; 4])),
        Status::DATA_SGL_LENGTH_INVALID.dnr()
    );
    behavior[0] = 2;
    assert_eq!(status(&admin.exec(set_behavior, &behavior)), INVALID_FIELD);
    let default = GetFeatures {
        fid: FeatureId::HostBehavior.into(),
        select: 1,
        ..Default::default()
    };
    assert_eq!(bytes(&admin.fetch(default.encode(), 512)), [0; 512]);
}

#[test]
fn error_recovery_belongs_to_a_namespace() {
    let bed = Bed::new();
    let admin = bed.admin();
    let change = |nsid, value| {
        let sqe = SetFeatures {
            nsid,
            ..SetFeatures::new(FeatureId::ErrorRecovery, value)
        };
        status(&admin.exec(sqe.encode(), &[]))
    };
    assert_eq!(change(1, 30), Status::SUCCESS);
    assert_eq!(
        get(&admin, FeatureId::ErrorRecovery, 0, 1, 0),
        (Status::SUCCESS, 30)
    );
    assert_eq!(get(&admin, FeatureId::ErrorRecovery, 3, 1, 0).1, 0b110);
    assert_eq!(change(u32::MAX, 31), Status::SUCCESS);
    assert_eq!(get(&admin, FeatureId::ErrorRecovery, 0, 1, 0).1, 31);
    let gone = Status::INVALID_NAMESPACE.dnr();
    assert_eq!(change(2, 30), gone);
    assert_eq!(get(&admin, FeatureId::ErrorRecovery, 0, 2, 0).0, gone);
    assert_eq!(change(1, 1 << 16), INVALID_FIELD, "DULBE");
}

#[test]
fn a_reset_brings_features_back_to_their_defaults() {
    let bed = Bed::new();
    let admin = bed.admin();
    set(&admin, FeatureId::VolatileWriteCache, 0);
    set(&admin, FeatureId::AsyncEvents, 1 << 8);
    let waiting = admin.start(async_event_request(), &[]);
    admin.set_cc(penstock_nvme::register::Cc(0));
    bed.tasks.run();
    assert_eq!(waiting.status(), Status::ABORT_REQUESTED);
    admin.enable();
    assert_eq!(get(&admin, FeatureId::VolatileWriteCache, 0, 0, 0).1, 1);
    assert_eq!(get(&admin, FeatureId::AsyncEvents, 0, 0, 0).1, 0);
}

#[test]
fn events_wake_the_hosts_requests() {
    let bed = Bed::new();
    let admin = bed.admin();
    set(&admin, FeatureId::AsyncEvents, 1 << 8 | 1 << 15);
    let requests: Vec<_> = (0..4)
        .map(|_| admin.start(async_event_request(), &[]))
        .collect();
    let fifth = admin.exec(async_event_request(), &[]);
    assert_eq!(status(&fifth), Status::ASYNC_EVENT_LIMIT_EXCEEDED.dnr());
    bed.device.blocks.store(2048, Ordering::Relaxed);
    bed.target
        .namespace_resized(NQN, Nsid::new(1).unwrap())
        .unwrap();
    bed.target
        .namespace_resized(NQN, Nsid::new(1).unwrap())
        .unwrap();
    bed.tasks.run();
    let answers = || requests.iter().filter_map(|r| r.take()).collect::<Vec<_>>();
    let got = answers();
    assert_eq!(got.len(), 1, "once for one change");
    assert_eq!(
        got[0].result,
        u64::from(AsyncEvent::NAMESPACE_CHANGED.dword())
    );
    // Masked until the list is read.
    bed.device.blocks.store(4096, Ordering::Relaxed);
    bed.target
        .namespace_resized(NQN, Nsid::new(1).unwrap())
        .unwrap();
    bed.tasks.run();
    assert_eq!(answers().len(), 0);
    admin.log(penstock_nvme::log::LogPage::ChangedNamespaces, 4096);
    bed.target
        .remove_namespace(NQN, Nsid::new(1).unwrap())
        .unwrap();
    bed.target.shutdown_notice();
    bed.tasks.run();
    let results: Vec<_> = answers().iter().map(|reply| reply.result).collect();
    assert_eq!(results.len(), 2);
    for event in [
        AsyncEvent::NAMESPACE_CHANGED,
        AsyncEvent::SUBSYSTEM_NORMAL_SHUTDOWN,
    ] {
        assert!(results.contains(&u64::from(event.dword())), "{event:?}");
    }
}

#[test]
fn abort_reaches_other_queues_and_says_whether_it_did() {
    let bed = Bed::new();
    let (admin, queue) = bed.pair();
    let abort = |sqid, cid| {
        let reply = admin.exec(Abort { sqid, cid }.encode(), &[]);
        assert_eq!(status(&reply), Status::SUCCESS);
        reply.result
    };
    queue.control.abort_works.set(true);
    assert_eq!(abort(1, 77), 0);
    assert_eq!(
        queue.control.aborts.take(),
        [(77, Status::ABORT_REQUESTED.wire())]
    );
    queue.control.abort_works.set(false);
    assert_eq!(abort(1, 78), 1, "not aborted");
    assert_eq!(abort(5, 1), 1, "no such queue");
    let event = admin.start(async_event_request(), &[]);
    admin.control.abort_works.set(true);
    assert_eq!(abort(0, event.cid), 0);
    assert_eq!(admin.control.aborts.borrow().len(), 1);
    // An aborted request frees its place.
    bed.tasks.cancel(event.task);
    bed.tasks.run();
    let again: Vec<_> = (0..4)
        .map(|_| admin.start(async_event_request(), &[]))
        .collect();
    assert!(again.iter().all(|pending| pending.take().is_none()));
}

#[test]
fn abort_across_threads_is_waited_for_and_limited() {
    let bed = Bed::new();
    let admin = bed.admin();
    let controller = admin.session.controller().unwrap().clone();
    let aborts: Vec<_> = (0..4)
        .map(|_| assert!(controller.begin_abort(super::ABORTS_MAX)))
        .collect();
    let refused = admin.exec(Abort { sqid: 1, cid: 1 }.encode(), &[]);
    assert_eq!(status(&refused), Status::ABORT_LIMIT_EXCEEDED);
    for () in aborts {
        controller.end_abort();
    }
    let again = admin.exec(Abort { sqid: 1, cid: 1 }.encode(), &[]);
    assert_eq!((status(&again), again.result), (Status::SUCCESS, 1));
}

#[test]
fn every_error_is_in_the_log() {
    let bed = Bed::new();
    let (admin, queue) = bed.pair();
    let mut sqe = io(IoOpcode::Read, 9999, 1);
    sqe.nsid = Le32::new(1);
    queue.fetch(sqe, 512);
    admin.exec(Sqe::new(AdminOpcode::FormatNvm.into()), &[]);
    let controller = admin.session.controller().unwrap();
    let log: Vec<_> = controller.with_errors(|log| log.iter().copied().collect());
    assert_eq!(
        (log[0].queue_id, log[0].location, log[0].opcode),
        (0, 0, 0x80)
    );
    assert_eq!(
        (log[1].queue_id, log[1].location, log[1].lba),
        (1, 40, 9999)
    );
    let _ = (LinkState::new(&[]), GetLogPage::new(1, 0, 0, 4));
}
