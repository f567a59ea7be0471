//! Fields where the specifications put them, bit by bit.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use penstock_nvme::command::{
    Abort, BlockRange, DSM_DEALLOCATE, DatasetManagement, GetFeatures, GetLogPage, Identify,
    SetFeatures,
};
use penstock_nvme::event::{AsyncEvent, EventType};
use penstock_nvme::fabrics::{
    ConnectCommand, ConnectResult, FabricsCommand, InvalidParameter, PropertyCommand, PropertySize,
};
use penstock_nvme::feature::{FeatureId, NumberOfQueues, Timestamp};
use penstock_nvme::log::{self, LogPage};
use penstock_nvme::nqn::{self, NqnError};
use penstock_nvme::register::{Cap, Cc, Crto, Csts, Shutdown};
use penstock_nvme::sgl::Sgl;
use penstock_nvme::sqe::{Fuse, Psdt};
use penstock_nvme::{
    AdminOpcode, Cqe, DataDirection, FabricsType, FromBytes, FromZeros, IoOpcode, SglDescriptor,
    Sqe, Status, ascii_field, identify,
};
use penstock_units::{Lba, Nsid};

/// Base 2.1, 3.1.4.1.
#[test]
fn cap_fields() {
    assert_eq!(Cap::default().with_mqes(1023).0, 0x3ff);
    assert_eq!(Cap(0x3ff).queue_entries_max(), 1024);
    assert_eq!(Cap::default().with_cqr(true).0, 1 << 16);
    assert_eq!(Cap::default().with_to(0xff).0, 0xff << 24);
    assert_eq!(Cap::default().with_dstrd(0xf).0, 0xf << 32);
    assert_eq!(Cap::default().with_nssrs(true).0, 1 << 36);
    assert_eq!(Cap::default().with_css(0x41).0, 1 << 37 | 1 << 43);
    assert_eq!(Cap::default().with_mpsmin(0xf).0, 0xf << 48);
    assert_eq!(Cap::default().with_mpsmax(0xf).0, 0xf << 52);
    assert_eq!(Cap::default().with_nsss(true).0, 1 << 58);
    assert_eq!(Cap::default().with_crms(3).0, 3 << 59);
    assert_eq!(Cap(u64::MAX).with_css(0).0, !(0xff << 37));
    assert_eq!(
        Cap(u64::MAX).with_dstrd(0xff).0,
        u64::MAX,
        "excess bits are dropped"
    );
}

/// Base 2.1, 3.1.4.5, 3.1.4.6 and 3.1.4.21. 460001h is what Linux writes to enable.
#[test]
fn cc_csts_and_crto_fields() {
    let cc = Cc(0x0046_0001);
    assert!(cc.en());
    assert_eq!(
        (cc.iosqes(), cc.iocqes(), cc.css(), cc.mps(), cc.ams()),
        (6, 4, 0, 0, 0)
    );
    assert_eq!(cc.shutdown(), Shutdown::None);
    assert_eq!(Cc(0x0046_4001).shutdown(), Shutdown::Normal);
    assert_eq!(Cc(0x0046_8001).shutdown(), Shutdown::Abrupt);
    assert_eq!(Cc(0x70).css(), 7);
    assert!(Cc(1 << 24).crime());
    let csts = Csts::default().with_rdy(true).with_shst(2);
    assert_eq!(csts.0, 0b1001);
    assert_eq!(Csts::default().with_cfs(true).0, 2);
    assert_eq!(Csts::default().with_st(true).0, 1 << 6);
    assert_eq!(Crto::default().with_crwmt(1).with_crimt(2).0, 0x0002_0001);
}

/// Base 2.1, 4.2.3: SC 8:1, SCT 11:9, CRD 13:12, M 14, DNR 15 of the completion's field.
#[test]
fn status_field() {
    assert_eq!(Status::INVALID_FIELD.dnr().wire(), 0x8004);
    assert_eq!(Status::COMPARE_FAILURE.wire(), 0x050a);
    assert_eq!(Status::INVALID_LOG_PAGE.dnr().more().wire(), 0xc212);
    assert_eq!(Status::NAMESPACE_NOT_READY.with_crd(3).wire(), 0x3104);
    assert_eq!(
        Status::from_wire(0x8005),
        Status::INVALID_FIELD.dnr(),
        "phase is left out"
    );
    assert!(Status::from_wire(0x8000).is_success());
    assert!(!Status::ABORT_REQUESTED.is_success());
    assert_eq!(
        Status::LBA_OUT_OF_RANGE.dnr().code(),
        Status::LBA_OUT_OF_RANGE
    );
    let text = Status::CONNECT_INVALID_HOST
        .dnr()
        .display_fabrics()
        .to_string();
    assert_eq!(text, "Connect Invalid Host (SCT 1h, SC 84h, DNR)");
    assert_eq!(
        Status::WRITE_FAULT.to_string(),
        "Write Fault (SCT 2h, SC 80h)"
    );
    assert_eq!(
        Status::new(7, 1).to_string(),
        "unknown status (SCT 7h, SC 01h)"
    );
}

/// Base 2.1, 4.1: opcode, FUSE, PSDT, CID and NSID of dwords 0 and 1.
#[test]
fn sqe_fields() {
    let mut raw = [0u8; 64];
    raw[..8].copy_from_slice(&[0x01, 0x42, 0x34, 0x12, 0x78, 0x56, 0, 0]);
    let sqe = Sqe::from_bytes(&raw);
    assert_eq!(IoOpcode::try_from(sqe.opcode), Ok(IoOpcode::Write));
    assert_eq!((sqe.fuse(), sqe.psdt()), (Fuse::Second, Psdt::Sgl));
    assert_eq!(sqe.command_id().0, 0x1234);
    assert_eq!(sqe.namespace(), Nsid::new(0x5678));
    assert_eq!(sqe.direction(), DataDirection::HostToController);
    assert_eq!(Sqe::new(2).direction(), DataDirection::ControllerToHost);
    assert_eq!(Sqe::new(0).direction(), DataDirection::None);
    assert_eq!(Sqe::new(0).flags, 0x40);
    let connect = Sqe::from(ConnectCommand::new(0, 32, 0));
    assert_eq!(connect.direction(), DataDirection::HostToController);
    let get = Sqe::from(PropertyCommand::get(0, PropertySize::Eight));
    assert_eq!(get.direction(), DataDirection::None);
    assert!(AdminOpcode::try_from(0x03).is_err());
    assert_eq!(FabricsType::try_from(0x08), Ok(FabricsType::Disconnect));
}

/// Base 2.1, 4.2.1.
#[test]
fn cqe_fields() {
    let raw: [u8; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0x04, 0x80];
    let cqe = Cqe::read_from_bytes(&raw).unwrap();
    assert_eq!(cqe.dw0(), 0x0403_0201);
    assert_eq!(cqe.result.get(), 0x0807_0605_0403_0201);
    assert_eq!(
        (cqe.sqhd.get(), cqe.sqid.get(), cqe.cid.get()),
        (0x0a09, 0x0c0b, 0x0e0d)
    );
    assert_eq!(cqe.status(), Status::INVALID_FIELD.dnr());
}

/// Base 2.1, 4.3.2: keyed descriptors have a 24-bit length and the key after it.
#[test]
fn sgl_descriptors() {
    let mut raw = [0u8; 16];
    raw[0] = 0x10;
    raw[8..16].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 0x4f]);
    let sgl = SglDescriptor::read_from_bytes(&raw).unwrap();
    let keyed = Sgl::Keyed {
        address: 16,
        length: 0x0003_0201,
        key: 0x0706_0504,
        invalidate: true,
    };
    assert_eq!(sgl.decode(), keyed);
    assert_eq!(
        SglDescriptor::keyed(16, 0x0003_0201, 0x0706_0504, true),
        Some(sgl)
    );
    assert_eq!(SglDescriptor::keyed(0, 1 << 24, 0, false), None);
    assert_eq!(SglDescriptor::transport(4096).identifier, 0x5a);
    assert_eq!(SglDescriptor::in_capsule(0, 1024).identifier, 0x01);
    assert_eq!(
        SglDescriptor::none().decode(),
        Sgl::DataBlock {
            address: 0,
            length: 0
        }
    );
    raw[15] = 0x30;
    let last_segment = SglDescriptor::read_from_bytes(&raw).unwrap();
    assert_eq!(last_segment.decode(), Sgl::Other { identifier: 0x30 });
}

/// NVM 1.1, 3.3.6: SLBA in dwords 10 and 11, NLB 15:0 0's based, FUA 30, LR 31 of dword 12.
#[test]
fn read_and_write_fields() {
    let mut sqe = Sqe::new(1);
    sqe.cdw10.set(0x89ab_cdef);
    sqe.cdw11.set(0x0123_4567);
    sqe.cdw12.set(0xffff);
    let range = BlockRange::decode(&sqe);
    assert_eq!(range.slba, Lba(0x0123_4567_89ab_cdef));
    assert_eq!(range.blocks, 65536);
    assert!(!range.fua && !range.limited_retry && !range.deallocate);
    sqe.cdw12.set(1 << 30);
    assert!(BlockRange::decode(&sqe).fua);
    sqe.cdw12.set(1 << 31);
    assert!(BlockRange::decode(&sqe).limited_retry);
    sqe.cdw12.set(1 << 25);
    assert!(BlockRange::decode(&sqe).deallocate);
    sqe.cdw12.set(1 << 24);
    assert!(BlockRange::decode(&sqe).storage_tag_check);
    sqe.cdw12.set(0xf << 26);
    assert_eq!(BlockRange::decode(&sqe).prinfo, 0xf);
    sqe.cdw12.set(0xf << 20);
    assert_eq!(BlockRange::decode(&sqe).directive_type, 0xf);
    let nsid = Nsid::new(1).unwrap();
    assert!(
        BlockRange::new(Lba(0), 0)
            .encode(IoOpcode::Read, nsid)
            .is_none()
    );
    assert!(
        BlockRange::new(Lba(0), 65537)
            .encode(IoOpcode::Read, nsid)
            .is_none()
    );
}

/// NVM 1.1, 3.3.3: NR 7:0 of dword 10, 0's based; AD bit 2 of dword 11.
#[test]
fn dataset_management_fields() {
    let mut sqe = Sqe::new(9);
    sqe.cdw10.set(0xff);
    sqe.cdw11.set(4);
    let dsm = DatasetManagement::decode(&sqe);
    assert_eq!((dsm.ranges, dsm.attributes), (256, DSM_DEALLOCATE));
    assert_eq!(dsm.data_bytes(), 4096);
    assert!(
        DatasetManagement {
            ranges: 257,
            attributes: 4
        }
        .encode(Nsid::new(1).unwrap())
        .is_none()
    );
}

/// Base 2.1, 5.1.12: NUMDL 31:16 of dword 10, NUMDU 15:0 of dword 11; LPOL and LPOU; RAE 15.
#[test]
fn get_log_page_fields() {
    let mut sqe = Sqe::new(2);
    sqe.cdw10.set(0xffff_8a02);
    sqe.cdw11.set(0x5555_0003);
    sqe.cdw12.set(0x1000);
    sqe.cdw13.set(2);
    sqe.cdw14.set(0x0680_0005);
    let page = GetLogPage::decode(&sqe);
    assert_eq!(LogPage::try_from(page.lid), Ok(LogPage::Health));
    assert_eq!(page.dwords, 0x0003_ffff + 1, "both halves of NUMD count");
    assert_eq!(page.bytes(), 1 << 20);
    assert_eq!((page.lsp, page.rae, page.lsi), (0x0a, true, 0x5555));
    assert_eq!(page.offset, 0x2_0000_1000);
    assert_eq!((page.index_offset, page.csi, page.uuid_index), (true, 6, 5));
    sqe.cdw10.set(0xffff_0002);
    sqe.cdw11.set(0xffff);
    assert_eq!(
        GetLogPage::decode(&sqe).bytes(),
        1 << 34,
        "the longest read"
    );
    let long = GetLogPage::new(LogPage::Error, u32::MAX, 0, 1 << 18)
        .encode()
        .unwrap();
    assert_eq!((long.cdw10.get(), long.cdw11.get()), (0xffff_0001, 0));
    let longer = GetLogPage::new(LogPage::Error, 0, 0, (1 << 18) + 4)
        .encode()
        .unwrap();
    assert_eq!((longer.cdw10.get(), longer.cdw11.get()), (0x0000_0001, 1));
}

/// Base 2.1, 5.1.13, 5.1.11, 5.1.25 and 5.1.1.
#[test]
fn identify_features_and_abort_fields() {
    let mut sqe = Sqe::new(6);
    sqe.cdw10.set(0x1234_0013);
    sqe.cdw11.set(0x0200_00aa);
    sqe.cdw14.set(0x85);
    let identify = Identify::decode(&sqe);
    assert_eq!(
        (identify.cns, identify.cntid, identify.csi),
        (0x13, 0x1234, 2)
    );
    assert_eq!((identify.cns_specific, identify.uuid_index), (0xaa, 5));
    sqe.cdw10.set(0x0000_030b);
    let get = GetFeatures::decode(&sqe);
    assert_eq!(
        (FeatureId::try_from(get.fid), get.select),
        (Ok(FeatureId::AsyncEvents), 3)
    );
    sqe.cdw10.set(0x8000_0007);
    sqe.cdw11.set(0x0003_0007);
    let set = SetFeatures::decode(&sqe);
    assert!(set.save);
    let queues = NumberOfQueues::from_dword(set.cdw11);
    assert_eq!((queues.submission, queues.completion), (8, 4));
    sqe.cdw10.set(0x0011_0002);
    assert_eq!(Abort::decode(&sqe), Abort { sqid: 2, cid: 0x11 });
}

/// Base 2.1, 6.3, 6.5 and 6.6.
#[test]
fn fabrics_fields() {
    let mut raw = [0u8; 64];
    raw[0] = 0x7f;
    raw[4] = 0x01;
    raw[40..52].copy_from_slice(&[0, 0, 3, 0, 0x7f, 0, 0x04, 0, 0x10, 0x27, 0, 0]);
    let FabricsCommand::Connect(connect) = FabricsCommand::decode(Sqe::from_bytes(&raw)) else {
        panic!("fctype 01h is Connect")
    };
    assert_eq!((connect.qid.get(), connect.queue_entries()), (3, 128));
    assert!(connect.flow_control_disabled());
    assert_eq!(connect.kato.get(), 10_000);
    raw[4] = 0x00;
    raw[40..56].copy_from_slice(&[1, 0, 0, 0, 0x14, 0, 0, 0, 1, 0, 0x46, 0, 0, 0, 0, 0]);
    let FabricsCommand::PropertySet(set) = FabricsCommand::decode(Sqe::from_bytes(&raw)) else {
        panic!("fctype 00h is Property Set")
    };
    assert_eq!(set.size(), Some(PropertySize::Eight));
    assert_eq!((set.ofst.get(), set.value.get()), (0x14, 0x46_0001));
    raw[4] = 0x77;
    let unknown = FabricsCommand::decode(Sqe::from_bytes(&raw));
    assert!(matches!(unknown, FabricsCommand::Unknown(0x77)));
    let answer = ConnectResult {
        cntlid: 0x1234,
        authreq: 2,
    };
    assert_eq!(
        ConnectResult::from_cqe(&Cqe::new(answer.result(), 0, 0, 0)),
        answer
    );
    assert_eq!(InvalidParameter::in_data(256).result(), 0x1_0100);
    let parameter = InvalidParameter::in_sqe(42);
    assert_eq!(
        InvalidParameter::from_cqe(&Cqe::new(parameter.result(), 0, 0, 0)),
        parameter
    );
    assert_eq!(ConnectCommand::new(1, 1 << 16, 0).queue_entries(), 65536);
}

/// Base 2.1, 5.1.2.1: type 2:0, information 15:8, log page 23:16.
#[test]
fn event_dword() {
    assert_eq!(AsyncEvent::NAMESPACE_CHANGED.dword(), 0x0004_0002);
    assert_eq!(AsyncEvent::DISCOVERY_CHANGED.dword(), 0x0070_f002);
    assert_eq!(AsyncEvent::ANA_CHANGED.dword(), 0x000c_0302);
    assert_eq!(AsyncEvent::SUBSYSTEM_NORMAL_SHUTDOWN.dword(), 0x0000_0003);
    let event = AsyncEvent::from_dword(0x0002_0101);
    assert_eq!(event, AsyncEvent::TEMPERATURE_THRESHOLD);
    assert_eq!(event.kind(), Some(EventType::Health));
    assert_eq!(event.name(), Some("Temperature Threshold"));
}

/// Base 2.1, 5.1.13.2.1: capsule sizes in 16 bytes, MDTS a power of two of pages.
#[test]
fn identify_controller_accessors() {
    let mut controller = identify::IdentifyController::zeroed();
    assert_eq!(controller.transfer_bytes_max(0), None);
    controller.mdts = 8;
    controller.ioccsz.set(4 + 512);
    assert_eq!(controller.transfer_bytes_max(0), Some(1 << 20));
    assert_eq!(controller.in_capsule_data_bytes(), 8192);
    controller.sn = ascii_field("PS1é");
    assert_eq!(&controller.sn, b"PS1?                ");
    controller.mdts = 60;
    assert_eq!(
        controller.transfer_bytes_max(0),
        None,
        "more than any length"
    );
}

/// NVM 1.1, 4.1.5.1: the format index has six bits, 3:0 and 6:5 of FLBAS.
#[test]
fn format_index() {
    let mut namespace = identify::IdentifyNamespace::new_zeroed();
    namespace.flbas = 0b0010_0001;
    namespace.lbaf[17].lbads = 12;
    assert_eq!(namespace.format_index(), 17);
    assert_eq!(namespace.format().unwrap().lbads, 12);
}

/// Base 2.1, 5.1.13.2.2, 4.6.1 and 5.1.12.1.5.
#[test]
fn lists() {
    let list = identify::NamespaceList::after(2, [1, 2, 3, 9]);
    assert_eq!(list.iter().collect::<Vec<_>>(), [3, 9]);
    assert_eq!(
        identify::NamespaceList::after(0, 1..=5000).iter().count(),
        1024
    );
    let list = identify::ControllerList::from(2, [1, 2, 3]);
    assert_eq!(list.iter().collect::<Vec<_>>(), [2, 3]);
    let changed = log::ChangedNamespaceList::new(1..=1024);
    assert_eq!(changed.nsid[1023].get(), 1024);
    let changed = log::ChangedNamespaceList::new(1..=1025);
    assert_eq!(
        (changed.nsid[0].get(), changed.nsid[1].get()),
        (u32::MAX, 0)
    );
    assert_eq!(
        (
            log::data_units(0),
            log::data_units(1),
            log::data_units(512_001)
        ),
        (0, 1, 2)
    );
}

/// Base 2.1, 5.1.13.2.3: type, length, two reserved bytes, identifier.
#[test]
fn namespace_descriptors() {
    use identify::NamespaceDescriptor as D;
    let mut page = [0xff; 4096];
    let all = [
        D::Uuid([7; 16]),
        D::Nguid([8; 16]),
        D::Eui64([9; 8]),
        D::Csi(0),
    ];
    identify::encode_namespace_descriptors(&mut page, &all);
    assert_eq!(page[..5], [3, 16, 0, 0, 7]);
    assert_eq!(page[40..45], [1, 8, 0, 0, 9]);
    assert_eq!(page[52..58], [4, 1, 0, 0, 0, 0]);
    assert_eq!(
        identify::decode_namespace_descriptors(&page).collect::<Vec<_>>(),
        all
    );
    let unknown_first = [9, 2, 0, 0, 1, 1, 4, 1, 0, 0, 2];
    let found: Vec<_> = identify::decode_namespace_descriptors(&unknown_first).collect();
    assert_eq!(found, [D::Csi(2)]);
}

/// Base 2.1, 5.1.12.1.13.
#[test]
fn ana_log() {
    let mut page = vec![0u8; 16];
    page[8] = 1;
    page.extend([1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    page.resize(48, 0);
    page.extend([5, 0, 0, 0, 6, 0, 0, 0]);
    let groups: Vec<_> = log::ana_groups(&page).collect();
    assert_eq!(groups.len(), 1);
    assert_eq!(groups[0].state(), Some(log::AnaState::Optimized));
    assert_eq!(groups[0].nsids().collect::<Vec<_>>(), [5, 6]);
    assert_eq!(
        log::ana_groups(&page[..52]).count(),
        0,
        "cut off within the list"
    );
}

/// Base 2.1, 5.1.25.1.7.
#[test]
fn timestamp() {
    let stamp = Timestamp::new(0x1234_5678_9abc, Timestamp::ORIGIN_SET);
    assert_eq!(stamp.milliseconds, [0xbc, 0x9a, 0x78, 0x56, 0x34, 0x12]);
    assert_eq!(stamp.millis(), 0x1234_5678_9abc);
}

/// Base 2.1, 4.7.
#[test]
fn nqns() {
    assert_eq!(nqn::validate(nqn::DISCOVERY_NQN), Ok(()));
    assert_eq!(
        nqn::validate("nqn.2014-08.com.example:nvme.host.sys.xyz"),
        Ok(())
    );
    let uuid = nqn::uuid_nqn([0xf8; 16]);
    assert_eq!(
        uuid.as_str(),
        "nqn.2014-08.org.nvmexpress:uuid:f8f8f8f8-f8f8-f8f8-f8f8-f8f8f8f8f8f8"
    );
    assert_eq!(nqn::validate(uuid.as_str()), Ok(()));
    assert_eq!(nqn::validate(""), Err(NqnError::Empty));
    for bad in [
        "iqn.2014-08.com.example",
        "nqn.2014-13.com.example",
        "nqn.2014-08.",
        "nqn.14-8.a",
    ] {
        assert_eq!(nqn::validate(bad), Err(NqnError::Form), "{bad}");
    }
    let no_uuid = "nqn.2014-08.org.nvmexpress:uuid:not-one";
    assert_eq!(nqn::validate(no_uuid), Err(NqnError::Uuid));
    let longest = format!("nqn.2024-01.org.example:{}", "a".repeat(223 - 24));
    assert_eq!(nqn::validate(&longest), Ok(()));
    assert_eq!(
        nqn::validate(&format!("{longest}a")),
        Err(NqnError::TooLong(224))
    );
    assert_eq!(nqn::from_field(&[b'n'; 256]), Err(NqnError::TooLong(256)));
    let mut field = nqn::nqn_field(&longest).unwrap();
    assert_eq!(nqn::from_field(&field), Ok(longest.as_str()));
    field[30] = 0xff;
    assert_eq!(nqn::from_field(&field), Err(NqnError::NotText));
}
