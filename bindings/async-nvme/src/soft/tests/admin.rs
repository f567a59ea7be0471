//! Admin commands: each one's good path and refusals.

use penstock_nvme::command::{
    Abort, GetFeatures, GetLogPage, Identify, SetFeatures, async_event_request, keep_alive,
};
use penstock_nvme::event::AsyncEvent;
use penstock_nvme::feature::{AsyncEventConfig, FeatureId, NumberOfQueues, Select, Timestamp};
use penstock_nvme::identify::{
    Cns, IdentifyController, IdentifyNamespace, IdentifyNvmController, NamespaceDescriptor,
    NamespaceList, decode_namespace_descriptors,
};
use penstock_nvme::log::{ChangedNamespaceList, ErrorEntry, HealthLog, LogPage};
use penstock_nvme::pcie::{
    CreateQueue, delete_completion_queue, delete_submission_queue, doorbell_buffer_config,
    format_nvm,
};
use penstock_nvme::{FromBytes, IntoBytes, IoOpcode, Le32, Sqe, Status};
use penstock_units::QueueId;

use super::super::{Fault, SoftConfig, SoftHealth, SoftNamespace};
use super::host::{ENTRIES, Host, Shared};

fn two_namespaces() -> SoftConfig {
    SoftConfig {
        namespaces: vec![
            SoftNamespace::new(1 << 20, 9),
            SoftNamespace {
                noiob: 64,
                ..SoftNamespace::new(2 << 20, 12)
            },
        ],
        ..SoftConfig::default()
    }
}

#[test]
fn identify_tells_what_was_configured() {
    let mut host = Host::ready(two_namespaces());
    let mut identify = |cns: Cns, nsid| host.admin_data(Identify::new(cns, nsid).encode());
    let data = identify(Cns::Controller, 0).unwrap();
    let controller = IdentifyController::read_from_bytes(&data).unwrap();
    assert_eq!(controller.transfer_bytes_max(0), Some(131_072));
    assert_eq!((controller.sqes, controller.cqes), (0x66, 0x44));
    assert_eq!((controller.aerl, controller.elpe), (3, 63));
    assert_eq!(controller.tnvmcap.get(), 3 << 20);

    let data = identify(Cns::ActiveNamespaces, 0).unwrap();
    let list = NamespaceList::read_from_bytes(&data).unwrap();
    assert_eq!(list.iter().collect::<Vec<_>>(), [1, 2]);
    let data = identify(Cns::ActiveNamespaces, 1).unwrap();
    let list = NamespaceList::read_from_bytes(&data).unwrap();
    assert_eq!(list.iter().collect::<Vec<_>>(), [2]);

    let data = identify(Cns::Namespace, 2).unwrap();
    let namespace = IdentifyNamespace::read_from_bytes(&data).unwrap();
    assert_eq!((namespace.nsze.get(), namespace.noiob.get()), (512, 64));
    let format = namespace.format().unwrap();
    assert_eq!((format.lbads, format.ms.get(), namespace.nlbaf), (12, 0, 2));
    assert!(identify(Cns::Namespace, 3).unwrap().iter().all(|b| *b == 0));

    let of = |data: Vec<u8>| decode_namespace_descriptors(&data).collect::<Vec<_>>();
    let (first, second) = (
        of(identify(Cns::NamespaceDescriptors, 1).unwrap()),
        of(identify(Cns::NamespaceDescriptors, 2).unwrap()),
    );
    assert!(matches!(first[0], NamespaceDescriptor::Uuid(_)));
    assert_ne!(first[0], second[0]);
    let data = identify(Cns::CommandSetController, 0).unwrap();
    assert_eq!(
        IdentifyNvmController::read_from_bytes(&data).unwrap().wzsl,
        0
    );
    for cns in [Cns::CommandSetNamespace, Cns::IndependentNamespace] {
        assert!(identify(cns, 1).is_ok());
    }

    let missing = Err(Status::INVALID_NAMESPACE);
    assert_eq!(identify(Cns::Namespace, 0), missing);
    assert_eq!(identify(Cns::Namespace, u32::MAX), missing);
    assert_eq!(identify(Cns::NamespaceDescriptors, 3), missing);
    assert_eq!(identify(Cns::ActiveNamespaces, u32::MAX), missing);
    assert_eq!(identify(Cns::NvmSets, 0), Err(Status::INVALID_FIELD));
    host.is_clean();
}

#[test]
fn admin_commands_have_prps() {
    let mut host = Host::ready(SoftConfig::default());
    let identify = Identify::new(Cns::Controller, 0).encode();
    assert_eq!(identify.flags, 0x40);
    assert_eq!(host.command(0, identify), Err(Status::INVALID_FIELD));
    let unknown = Sqe::new(0xc5).with_prps(0, 0);
    assert_eq!(host.command(0, unknown), Err(Status::INVALID_OPCODE));
    let odd = identify.with_prps(host.data.address + 1, 0);
    assert_eq!(host.command(0, odd), Err(Status::PRP_OFFSET_INVALID));
    assert_eq!(host.admin(keep_alive()), Err(Status::INVALID_OPCODE));
}

#[test]
fn queues_are_made_and_deleted_in_order() {
    let mut host = Host::with_queue(SoftConfig::default());
    let delete_cq = delete_completion_queue(QueueId(1));
    let delete_sq = delete_submission_queue(QueueId(1));
    let early = host.admin(delete_cq);
    assert_eq!(early, Err(Status::INVALID_QUEUE_DELETION));
    assert_eq!(host.admin(delete_sq), Ok(0));
    let missing = Err(Status::INVALID_QUEUE_ID);
    assert_eq!(host.admin(delete_sq), missing);
    assert_eq!(host.admin(delete_cq), Ok(0));
    assert_eq!(host.admin(delete_cq), missing);
    for queue in [0, 77] {
        assert_eq!(host.admin(delete_submission_queue(QueueId(queue))), missing);
        assert_eq!(host.admin(delete_completion_queue(QueueId(queue))), missing);
    }
    host.pairs.truncate(1);
    host.create_pair(1).unwrap();
    assert_eq!(host.io(IoOpcode::Flush, 0, 1), Ok(0));
    host.is_clean();
}

#[test]
fn queues_that_cannot_be_are_refused() {
    let mut host = Host::with_queue(SoftConfig {
        queue_entries_max: 64,
        ..SoftConfig::default()
    });
    let memory = Shared::new(&host.controller, 8 * 4096);
    let queue = |queue, entries, address| CreateQueue {
        queue: QueueId(queue),
        entries,
        address,
    };
    let at = memory.address;
    let cases = [
        (queue(1, 8, at), Status::INVALID_QUEUE_ID),
        (queue(0, 8, at), Status::INVALID_QUEUE_ID),
        (queue(9, 8, at), Status::INVALID_QUEUE_ID),
        (queue(2, 1, at), Status::INVALID_QUEUE_SIZE),
        (queue(2, 65, at), Status::INVALID_QUEUE_SIZE),
        (queue(2, 8, at + 64), Status::PRP_OFFSET_INVALID),
    ];
    for (queue, status) in cases {
        let cq = host.admin(queue.completion(None).unwrap());
        let sq = host.admin(queue.submission(QueueId(1)).unwrap());
        assert_eq!((cq, sq), (Err(status), Err(status)), "{queue:?}");
    }
    let good = queue(2, 8, at);
    let vector = host.admin(good.completion(Some(9)).unwrap());
    assert_eq!(vector, Err(Status::INVALID_INTERRUPT_VECTOR));
    for (cq, status) in [
        (0, Status::CQ_INVALID),
        (2, Status::CQ_INVALID),
        (9, Status::INVALID_QUEUE_ID),
    ] {
        let sq = host.admin(good.submission(QueueId(cq)).unwrap());
        assert_eq!(sq, Err(status));
    }
    let mut scattered = good.completion(None).unwrap();
    scattered.cdw11 = Le32::new(0);
    assert_eq!(host.admin(scattered), Err(Status::INVALID_FIELD));
    host.is_clean();
    let missing = host.admin(queue(2, 8, 0x4000).completion(None).unwrap());
    assert_eq!(missing, Err(Status::DATA_TRANSFER_ERROR));
    assert_eq!(host.controller.violations().len(), 1);
}

#[test]
fn queues_may_be_scattered_where_the_controller_says_so() {
    let mut host = Host::ready(SoftConfig {
        cqr: false,
        ..SoftConfig::default()
    });
    let memory = Shared::new(&host.controller, 4 * 4096);
    let list = Shared::new(&host.controller, 4096);
    let page = |index: u64| (memory.address + index * 4096).to_le_bytes();
    for (slot, index) in [3u64, 1].into_iter().enumerate() {
        list.write(slot * 8, &page(index));
    }
    let queue = |entries, address| CreateQueue {
        queue: QueueId(1),
        entries,
        address,
    };
    let cq = queue(128, memory.address).completion(None).unwrap();
    assert_eq!(host.admin(cq), Ok(0));
    let mut sq = queue(128, list.address).submission(QueueId(1)).unwrap();
    sq.cdw11 = Le32::new(sq.cdw11.get() & !1);
    assert_eq!(host.admin(sq), Ok(0));
    // Entry 64 is the first of the second page.
    for (index, at) in [(0, 3 * 4096), (64, 4096)] {
        let sqe = host.sqe(IoOpcode::Read, 0, 1).with_cid(index + 1);
        memory.write(at, &sqe.to_bytes());
    }
    let doorbell = penstock_nvme::pcie::sq_doorbell(QueueId(1), 0);
    for tail in [1, 65] {
        host.bar.write32(doorbell, tail);
        (0..4).for_each(|_| host.step());
    }
    assert_eq!(host.controller.stats().io[2], 2);
}

#[test]
fn features_are_set_and_told() {
    let mut host = Host::ready(SoftConfig::default());
    let get = |fid: FeatureId, select, cdw11| {
        GetFeatures {
            fid: fid.into(),
            select: u8::from(select),
            cdw11,
            ..GetFeatures::default()
        }
        .encode()
    };
    let queues = SetFeatures::new(FeatureId::NumberOfQueues, 0x000f_001f).encode();
    let granted = NumberOfQueues::from_dword(host.admin(queues).unwrap());
    assert_eq!((granted.submission, granted.completion), (8, 8));
    let too_many = SetFeatures::new(FeatureId::NumberOfQueues, 0xffff).encode();
    assert_eq!(host.admin(too_many), Err(Status::INVALID_FIELD));

    let cache = get(FeatureId::VolatileWriteCache, Select::Current, 0);
    assert_eq!(host.admin(cache), Ok(1));
    host.admin(SetFeatures::new(FeatureId::VolatileWriteCache, 0).encode())
        .unwrap();
    assert_eq!(host.admin(cache), Ok(0));
    let default = get(FeatureId::VolatileWriteCache, Select::Default, 0);
    assert_eq!(host.admin(default), Ok(1));
    let what = get(FeatureId::VolatileWriteCache, Select::Capabilities, 0);
    assert_eq!(host.admin(what), Ok(4));

    host.now = 5_000_000_000;
    host.data.write(0, Timestamp::new(1_000_000, 0).as_bytes());
    let data = host.data.address;
    let set = SetFeatures::new(FeatureId::Timestamp, 0).encode();
    host.admin(set.with_prps(data, 0)).unwrap();
    host.now += 3_000_000;
    let told = host
        .admin_data(get(FeatureId::Timestamp, Select::Current, 0))
        .unwrap();
    let told = Timestamp::read_from_prefix(&told).unwrap().0;
    assert_eq!(told.millis(), 1_000_003);

    let unknown = get(FeatureId::HostMemoryBuffer, Select::Current, 0);
    assert_eq!(host.admin(unknown), Err(Status::INVALID_FIELD));
    let mut saved = SetFeatures::new(FeatureId::Arbitration, 7);
    saved.save = true;
    let refused = host.admin(saved.encode());
    assert_eq!(refused, Err(Status::FEATURE_NOT_SAVEABLE));
    host.create_pair(1).unwrap();
    assert_eq!(host.admin(queues), Err(Status::COMMAND_SEQUENCE_ERROR));
    host.is_clean();
}

#[test]
fn without_its_cache_every_write_is_durable() {
    let mut host = Host::with_queue(SoftConfig::default());
    host.admin(SetFeatures::new(FeatureId::VolatileWriteCache, 0).encode())
        .unwrap();
    host.data.write(0, &[6; 8192]);
    host.io(IoOpcode::Write, 0, 16).unwrap();
    host.controller.lose_power();
    let mut there = [0; 8192];
    host.controller.read_media(1, 0, &mut there);
    assert_eq!(there, [6; 8192]);
}

#[test]
fn log_pages_are_given_in_parts() {
    let mut host = Host::with_queue(SoftConfig::default());
    host.io(IoOpcode::Read, 0, 16).unwrap();
    let bad = host.io(IoOpcode::Read, u64::MAX, 1);
    assert_eq!(bad, Err(Status::LBA_OUT_OF_RANGE));
    let page = |lid: LogPage, nsid, offset, bytes| {
        GetLogPage::new(lid, nsid, offset, bytes).encode().unwrap()
    };
    let all = u32::MAX;
    let data = host.admin_data(page(LogPage::Health, all, 0, 512)).unwrap();
    let health = HealthLog::read_from_bytes(&data[..512]).unwrap();
    assert_eq!(
        (health.temperature.get(), health.critical_warning),
        (310, 0)
    );
    assert_eq!(
        (health.data_units_read.get(), health.host_reads.get()),
        (1, 2)
    );
    assert_eq!(health.error_entries.get(), 1);

    let data = host.admin_data(page(LogPage::Error, 0, 0, 64)).unwrap();
    let entry = ErrorEntry::read_from_bytes(&data[..64]).unwrap();
    assert_eq!((entry.sqid.get(), entry.lba.get()), (1, u64::MAX));
    assert_eq!(entry.opcode, u8::from(IoOpcode::Read));
    assert_eq!(
        Status::from_wire(entry.status.get()).code(),
        Status::LBA_OUT_OF_RANGE
    );
    let part = host.admin_data(page(LogPage::Error, 0, 16, 8)).unwrap();
    assert_eq!(part[..8], data[16..24]);
    let slots = host.admin_data(page(LogPage::FirmwareSlot, 0, 0, 512));
    assert_eq!(slots.unwrap()[8..16], *b"soft1   ");
    let supported = host.admin_data(page(LogPage::Supported, 0, 0, 1024));
    assert_eq!(supported.unwrap()[2 * 4], 1);

    let none = host.admin(page(LogPage::Ana, 0, 0, 64));
    assert_eq!(none, Err(Status::INVALID_LOG_PAGE));
    for wrong in [
        page(LogPage::Health, 1, 0, 512),
        page(LogPage::Health, all, 2, 4),
        page(LogPage::Health, all, 516, 4),
        page(LogPage::Error, 0, 0, 1 << 20),
    ] {
        assert_eq!(host.admin_data(wrong), Err(Status::INVALID_FIELD));
    }
    host.is_clean();
}

#[test]
fn events_tell_of_namespaces_and_health() {
    let mut host = Host::ready(SoftConfig {
        event_requests_max: 2,
        ..SoftConfig::default()
    });
    let request = async_event_request().with_prps(0, 0);
    let (first, second) = (host.submit(0, request), host.submit(0, request));
    assert!(host.completion(0, first).is_none());
    let third = host.command(0, request);
    assert_eq!(third, Err(Status::ASYNC_EVENT_LIMIT_EXCEEDED));
    // Nothing was asked for yet.
    host.controller.resize_namespace(1, 2 << 20);
    assert!(host.completion(0, first).is_none());

    let enabled = AsyncEventConfig::NAMESPACE | 0b11;
    host.admin(SetFeatures::new(FeatureId::AsyncEvents, enabled).encode())
        .unwrap();
    let added = host
        .controller
        .add_namespace(&SoftNamespace::new(1 << 20, 9));
    assert_eq!(added, 2);
    let cqe = host.completion(0, first).unwrap();
    assert_eq!(
        AsyncEvent::from_dword(cqe.dw0()),
        AsyncEvent::NAMESPACE_CHANGED
    );
    host.controller.remove_namespace(2);
    assert!(host.completion(0, second).is_none());
    let page = GetLogPage::new(LogPage::ChangedNamespaces, 0, 0, 4096);
    let data = host.admin_data(page.encode().unwrap()).unwrap();
    let changed = ChangedNamespaceList::read_from_bytes(&data).unwrap();
    assert_eq!(changed.nsid[..3].as_bytes(), [1u32, 2, 0].as_bytes());

    host.controller.set_health(SoftHealth {
        temperature_kelvin: 400,
        ..SoftHealth::default()
    });
    let cqe = host.completion(0, second).unwrap();
    let event = AsyncEvent::from_dword(cqe.dw0());
    assert_eq!(event, AsyncEvent::TEMPERATURE_THRESHOLD);
    host.is_clean();
}

#[test]
fn what_runs_can_be_aborted() {
    let mut host = Host::with_queue(SoftConfig::default());
    host.controller
        .set_rule(|command| (command.queue == 1).then_some(Fault::Hang));
    let sqe = host.sqe(IoOpcode::Read, 0, 1);
    let hung = host.submit(1, sqe);
    assert!(host.completion(1, hung).is_none());
    let abort = |sqid, cid| Abort { sqid, cid }.encode();
    assert_eq!(host.admin(abort(1, hung + 50)), Ok(Abort::NOT_ABORTED));
    assert_eq!(host.admin(abort(5, hung)), Ok(Abort::NOT_ABORTED));
    assert_eq!(host.admin(abort(1, hung)), Ok(0));
    let cqe = host.completion(1, hung).unwrap();
    assert_eq!(cqe.status().code(), Status::ABORT_REQUESTED);
    let request = host.submit(0, async_event_request().with_prps(0, 0));
    assert_eq!(host.admin(abort(0, request)), Ok(0));
    assert!(host.others.iter().any(|(_, cqe)| cqe.cid.get() == request));
    host.is_clean();
}

#[test]
fn deleting_a_queue_ends_its_commands() {
    let mut host = Host::with_queue(SoftConfig::default());
    host.controller
        .set_rule(|command| (command.queue == 1).then_some(Fault::Hang));
    let sqe = host.sqe(IoOpcode::Read, 0, 1);
    let hung = host.submit(1, sqe);
    host.step();
    host.admin(delete_submission_queue(QueueId(1))).unwrap();
    let cqe = host.completion(1, hung).unwrap();
    assert_eq!(cqe.status().code(), Status::ABORT_SQ_DELETION);
    assert_eq!(host.controller.running(), 0);
}

#[test]
fn identifiers_in_use_are_refused() {
    let mut host = Host::with_queue(SoftConfig::default());
    host.controller
        .set_rule(|command| (command.number == 2).then_some(Fault::Hang));
    let sqe = host.sqe(IoOpcode::Read, 0, 1);
    let hung = host.submit(1, sqe);
    host.step();
    host.cid = hung - 1;
    assert_eq!(host.command(1, sqe), Err(Status::CID_CONFLICT));
    assert_eq!(host.io(IoOpcode::Read, 0, 1), Ok(0));
}

#[test]
fn a_format_empties_a_namespace() {
    let mut host = Host::with_queue(two_namespaces());
    host.data.write(0, &[1; 4096]);
    host.io(IoOpcode::Write, 0, 8).unwrap();
    assert_eq!(host.admin(format_nvm(1, 1, 1)), Ok(0));
    let data = host.admin_data(Identify::new(Cns::Namespace, 1).encode());
    let namespace = IdentifyNamespace::read_from_bytes(&data.unwrap()).unwrap();
    assert_eq!((namespace.format_index(), namespace.nsze.get()), (1, 256));
    host.io(IoOpcode::Read, 0, 1).unwrap();
    assert_eq!(host.data.read(0, 4096), [0; 4096]);
    assert_eq!(host.admin(format_nvm(u32::MAX, 0, 0)), Ok(0));
    let invalid = Err(Status::INVALID_FORMAT);
    // Format 2 has metadata, 40 is not there.
    assert_eq!(host.admin(format_nvm(1, 2, 0)), invalid);
    assert_eq!(host.admin(format_nvm(1, 40, 0)), invalid);
    let missing = host.admin(format_nvm(9, 0, 0));
    assert_eq!(missing, Err(Status::INVALID_NAMESPACE));
    let erase = host.admin(format_nvm(1, 0, 5));
    assert_eq!(erase, Err(Status::INVALID_FIELD));
    host.is_clean();
}

#[test]
fn shadow_doorbells_spare_doorbells() {
    let mut host = Host::ready(SoftConfig {
        doorbell_buffer: true,
        ..SoftConfig::default()
    });
    let pages = Shared::new(&host.controller, 2 * 4096);
    let (shadow, index) = (pages.address, pages.address + 4096);
    let odd = host.admin(doorbell_buffer_config(shadow + 8, index));
    assert_eq!(odd, Err(Status::PRP_OFFSET_INVALID));
    assert_eq!(host.admin(doorbell_buffer_config(shadow, index)), Ok(0));
    host.create_pair(1).unwrap();
    let word = |offset: usize| pages.word(offset);
    let load = |offset| word(offset).load(std::sync::atomic::Ordering::Acquire);
    let sqe = host.sqe(IoOpcode::Read, 0, 1);
    let mut rings = 0;
    for round in 0..40 {
        let before = host.pairs[1].tail;
        let cid = host.put(1, sqe);
        let tail = host.pairs[1].tail;
        word(8).store(tail, std::sync::atomic::Ordering::Release);
        if load(4096 + 8) == before {
            host.ring(1);
            rings += 1;
        }
        // In every other round the controller does not get to sleep in between.
        let looks = if round % 2 == 0 { 1 } else { 4 };
        (0..looks).for_each(|_| host.step());
        let offset = 12;
        let cqe = host.pairs[1].poll().expect("a completion");
        assert_eq!(cqe.cid.get(), cid);
        let head = host.pairs[1].head;
        word(offset).store(head, std::sync::atomic::Ordering::Release);
        if load(4096 + offset) == (head + ENTRIES - 1) % ENTRIES {
            let doorbell = penstock_nvme::pcie::cq_doorbell(QueueId(1), 0);
            host.bar.write32(doorbell, head);
        }
    }
    assert!((10..40).contains(&rings), "{rings}");
    assert_eq!(host.controller.stats().io[2], 40);
    assert_eq!(host.controller.stats().shadow_tails, 40);
    host.is_clean();
    let mut plain = Host::ready(SoftConfig::default());
    let refused = plain.admin(doorbell_buffer_config(0, 0));
    assert_eq!(refused, Err(Status::INVALID_OPCODE));
}
