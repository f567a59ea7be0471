//! Runs every decoder of the crate over arbitrary bytes; none may panic, and what one accepts, the
//! encoder must write again as it was. Shared by the fuzz targets and the smoke test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use penstock_nvme::command::{
    Abort, BlockRange, DatasetManagement, DsmRange, GetFeatures, GetLogPage, Identify, SetFeatures,
};
use penstock_nvme::event::AsyncEvent;
use penstock_nvme::fabrics::{ConnectData, FabricsCommand};
use penstock_nvme::feature;
use penstock_nvme::identify::{self, IdentifyController, IdentifyNamespace};
use penstock_nvme::log;
use penstock_nvme::nqn::Nqn;
use penstock_nvme::tcp::{self, CommonHeader, Header, Params, Receiver, Transfer};
use penstock_nvme::{Cqe, FromBytes, IntoBytes, IoOpcode, Sqe, Status};

/// A decoder of bytes, and its name.
pub type Decoder = (&'static str, fn(&[u8]));

/// All of them.
#[allow(dead_code, reason = "each fuzz target uses one alone")]
pub const ALL: &[Decoder] = &[
    ("pdu", pdu),
    ("command", command),
    ("completion", completion),
    ("connect", connect),
    ("identify", identify_data),
    ("log_page", log_page),
    ("nqn", nqn),
];

/// A PDU as either side receives it, under parameters taken from the first two bytes.
pub fn pdu(bytes: &[u8]) {
    let Some(([choice, align], pdu)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let params = Params {
        header_digest: choice & 1 != 0,
        data_digest: choice & 2 != 0,
        align: (usize::from(align & 31) + 1) * 4,
        in_capsule_max: 8192,
        data_max: 65536,
    };
    let receiver = if choice & 4 != 0 {
        Receiver::Host
    } else {
        Receiver::Controller
    };
    let Some(ch) = CommonHeader::parse(pdu) else {
        return;
    };
    let Ok(frame) = tcp::check(receiver, &ch, &params) else {
        return;
    };
    let whole = frame.data_start() as u64 + u64::from(frame.data_len) + frame.trailer_len() as u64;
    assert_eq!(
        whole,
        u64::from(ch.plen.get()),
        "the parts of a PDU add up to PLEN"
    );
    let transfer = Transfer {
        offset: u32::from(*align),
        length: 4096,
        done: 512,
    };
    match tcp::decode_header(&frame, pdu) {
        Ok(Header::H2cData(data)) => drop(tcp::check_h2c_data(data, &transfer)),
        Ok(Header::C2hData(data)) => drop(tcp::check_c2h_data(data, &transfer)),
        Ok(Header::R2t(r2t)) => drop(tcp::check_r2t(r2t, &transfer)),
        Ok(Header::IcResp(response)) => drop(tcp::check_icresp(response, choice >> 3)),
        Ok(_) => {}
        Err(error) => drop(error.to_string()),
    }
}

/// A submission queue entry as every command.
pub fn command(bytes: &[u8]) {
    let Some((raw, data)) = bytes.split_first_chunk::<64>() else {
        return;
    };
    let sqe = Sqe::from_bytes(raw);
    assert_eq!(sqe.to_bytes(), *raw);
    let _ = (
        sqe.direction(),
        sqe.fuse(),
        sqe.psdt(),
        sqe.namespace(),
        sqe.sgl1.decode(),
    );
    if let Some(nsid) = sqe.namespace() {
        let range = BlockRange::decode(sqe);
        let again = range
            .encode(IoOpcode::Write, nsid)
            .expect("a decoded count fits");
        assert_eq!(BlockRange::decode(&again), range);
        let dsm = DatasetManagement::decode(sqe);
        let again = dsm.encode(nsid).expect("a decoded count fits");
        assert_eq!(DatasetManagement::decode(&again), dsm);
        assert!(dsm.data_bytes() <= 4096);
    }
    let page = GetLogPage::decode(sqe);
    let again = page.encode().expect("a decoded count fits");
    assert_eq!(GetLogPage::decode(&again), page);
    let identify = Identify::decode(sqe);
    assert_eq!(Identify::decode(&identify.encode()), identify);
    let get = GetFeatures::decode(sqe);
    assert_eq!(GetFeatures::decode(&get.encode()), get);
    let set = SetFeatures::decode(sqe);
    assert_eq!(SetFeatures::decode(&set.encode()), set);
    let abort = Abort::decode(sqe);
    assert_eq!(Abort::decode(&abort.encode()), abort);
    feature_values(sqe.cdw11.get());
    match FabricsCommand::decode(sqe) {
        FabricsCommand::Connect(c) => {
            let _ = (c.queue_entries(), c.flow_control_disabled());
        }
        FabricsCommand::PropertyGet(p) | FabricsCommand::PropertySet(p) => drop(p.size()),
        _ => {}
    }
    drop(<[DsmRange]>::ref_from_prefix_with_elems(
        data,
        data.len() / 16,
    ));
}

fn feature_values(dword: u32) {
    let queues = feature::NumberOfQueues::from_dword(dword);
    assert_eq!(queues.dword(), dword);
    let arbitration = feature::Arbitration::from_dword(dword);
    assert_eq!(
        feature::Arbitration::from_dword(arbitration.dword()),
        arbitration
    );
    let power = feature::PowerManagement::from_dword(dword);
    assert_eq!(feature::PowerManagement::from_dword(power.dword()), power);
    let threshold = feature::TemperatureThreshold::from_dword(dword);
    assert_eq!(
        feature::TemperatureThreshold::from_dword(threshold.dword()),
        threshold
    );
    let recovery = feature::ErrorRecovery::from_dword(dword);
    assert_eq!(
        feature::ErrorRecovery::from_dword(recovery.dword()),
        recovery
    );
}

/// A completion queue entry: status, event.
pub fn completion(bytes: &[u8]) {
    let Ok((cqe, _)) = Cqe::read_from_prefix(bytes) else {
        return;
    };
    let status = cqe.status();
    assert_eq!(status.wire(), cqe.status.get() & !1);
    assert_eq!(Status::from_wire(status.wire()), status);
    {
        let _ = (status.to_string(), status.display_fabrics().to_string());
    }
    let event = AsyncEvent::from_dword(cqe.dw0());
    assert_eq!(AsyncEvent::from_dword(event.dword()), event);
    let _ = (event.kind(), event.name());
}

/// Connect data, zero-filled to its 1024 bytes.
pub fn connect(bytes: &[u8]) {
    let mut page = [0; 1024];
    let n = bytes.len().min(page.len());
    page[..n].copy_from_slice(&bytes[..n]);
    let Ok(data) = ConnectData::ref_from_bytes(&page) else {
        return;
    };
    let (Ok(sub), Ok(host)) = (
        Nqn::from_field(&data.subnqn),
        Nqn::from_field(&data.hostnqn),
    ) else {
        return;
    };
    let again = ConnectData::new(data.hostid, data.cntlid.get(), sub.as_str(), host.as_str());
    let again = again.expect("accepted names can be written");
    assert_eq!(again.subnqn_bytes(), data.subnqn_bytes());
    assert_eq!(again.hostnqn_bytes(), data.hostnqn_bytes());
}

/// Identify data, zero-filled to its 4096 bytes.
pub fn identify_data(bytes: &[u8]) {
    let mut page = [0; 4096];
    let n = bytes.len().min(page.len());
    page[..n].copy_from_slice(&bytes[..n]);
    if let Ok(controller) = IdentifyController::ref_from_bytes(&page) {
        let _ = controller.transfer_bytes_max(0);
        let _ = controller.in_capsule_data_bytes();
    }
    if let Ok(namespace) = IdentifyNamespace::ref_from_bytes(&page) {
        let _ = namespace.format();
    }
    if let Ok(list) = identify::NamespaceList::ref_from_bytes(&page) {
        assert!(list.iter().count() <= 1024);
    }
    if let Ok(list) = identify::ControllerList::ref_from_bytes(&page) {
        assert!(list.iter().count() <= 2047);
    }
    let found: Vec<_> = identify::decode_namespace_descriptors(&page).collect();
    let mut again = [0; 4096];
    identify::encode_namespace_descriptors(&mut again, &found);
    let twice: Vec<_> = identify::decode_namespace_descriptors(&again).collect();
    assert_eq!(twice, found);
    let _ = identify::decode_namespace_descriptors(bytes).count();
}

/// Log pages.
pub fn log_page(bytes: &[u8]) {
    if let Ok((header, rest)) = log::DiscoveryHeader::ref_from_prefix(bytes) {
        let _ = header.numrec.get();
        if let Ok((entry, _)) = log::DiscoveryEntry::ref_from_prefix(rest) {
            {
                let _ = (
                    entry.subnqn_bytes(),
                    entry.traddr_bytes(),
                    entry.trsvcid_bytes(),
                );
            }
        }
    }
    for group in log::ana_groups(bytes) {
        {
            let _ = (group.state(), group.nsids().count());
        }
    }
    if let Ok((entry, _)) = log::ErrorEntry::read_from_prefix(bytes) {
        assert_eq!(entry.as_bytes(), &bytes[..64]);
    }
}

/// An NQN as text, and as a field of the wire.
pub fn nqn(bytes: &[u8]) {
    if let Ok(text) = core::str::from_utf8(bytes)
        && let Ok(name) = Nqn::new(text)
    {
        let field = penstock_nvme::nqn::nqn_field(name.as_str()).expect("a valid name fits");
        assert_eq!(
            Nqn::from_field(&field).expect("what was written is valid"),
            name
        );
    }
    let mut field = [0; 256];
    let n = bytes.len().min(256);
    field[..n].copy_from_slice(&bytes[..n]);
    drop(Nqn::from_field(&field));
}
