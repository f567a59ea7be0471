//! Every codec over arbitrary values: what is decoded is encoded to the same, and bytes of any
//! kind never panic.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

#[path = "../fuzz/decoders.rs"]
mod decoders;

use penstock_nvme::command::{
    Abort, BlockRange, DatasetManagement, GetFeatures, GetLogPage, Identify, SetFeatures,
};
use penstock_nvme::event::AsyncEvent;
use penstock_nvme::fabrics::{ConnectData, ConnectResult, InvalidParameter};
use penstock_nvme::feature::NumberOfQueues;
use penstock_nvme::identify::{self, NamespaceDescriptor};
use penstock_nvme::nqn::{self, Nqn};
use penstock_nvme::register::{Cap, Cc, Csts};
use penstock_nvme::sgl::Sgl;
use penstock_nvme::{AdminOpcode, Cqe, IoOpcode, SglDescriptor, Sqe, Status};
use penstock_units::{Lba, Nsid};
use proptest::prelude::*;

prop_compose! {
    fn any_range()(slba: u64, blocks in 1u32..=65536, fua: bool, limited_retry: bool,
                   deallocate: bool, storage_tag_check: bool, prinfo in 0u8..16,
                   directive_type in 0u8..16, directive: u16, hints: u8) -> BlockRange {
        BlockRange { slba: Lba(slba), blocks, fua, limited_retry, deallocate, storage_tag_check,
                     prinfo, directive_type, directive, hints }
    }
}

prop_compose! {
    fn any_log_page()(lid: u8, nsid: u32, lsp in 0u8..128, rae: bool, dwords in 1u64..=1 << 32,
                      lsi: u16, offset: u64, index_offset: bool, csi: u8,
                      uuid_index in 0u8..128) -> GetLogPage {
        GetLogPage { lid, nsid, lsp, rae, dwords, lsi, offset, index_offset, csi, uuid_index }
    }
}

fn any_descriptor() -> impl Strategy<Value = NamespaceDescriptor> {
    prop_oneof![
        any::<[u8; 8]>().prop_map(NamespaceDescriptor::Eui64),
        any::<[u8; 16]>().prop_map(NamespaceDescriptor::Nguid),
        any::<[u8; 16]>().prop_map(NamespaceDescriptor::Uuid),
        any::<u8>().prop_map(NamespaceDescriptor::Csi),
    ]
}

proptest! {
    #[test]
    fn block_commands(range in any_range(), nsid in 1u32..u32::MAX) {
        let nsid = Nsid::new(nsid).unwrap();
        let sqe = range.encode(IoOpcode::WriteZeroes, nsid).unwrap();
        prop_assert_eq!(BlockRange::decode(&sqe), range);
        prop_assert_eq!(sqe.namespace(), Some(nsid));
    }

    #[test]
    fn dataset_management(ranges in 1u32..=256, attributes in 0u8..8) {
        let dsm = DatasetManagement { ranges, attributes };
        let sqe = dsm.encode(Nsid::new(1).unwrap()).unwrap();
        prop_assert_eq!(DatasetManagement::decode(&sqe), dsm);
    }

    #[test]
    fn log_pages(page in any_log_page()) {
        prop_assert_eq!(GetLogPage::decode(&page.encode().unwrap()), page);
    }

    #[test]
    fn admin_commands(a: u8, b in 0u8..8, c: u16, d: u32, e: u32, save: bool) {
        let identify = Identify { cns: a, nsid: d, cntid: c, cns_specific: c ^ 1, csi: b,
                                  uuid_index: b };
        prop_assert_eq!(Identify::decode(&identify.encode()), identify);
        let get = GetFeatures { fid: a, select: b, nsid: d, cdw11: e, uuid_index: b };
        prop_assert_eq!(GetFeatures::decode(&get.encode()), get);
        let set = SetFeatures { fid: a, save, nsid: d, cdw11: e, cdw12: d ^ 1, cdw13: e ^ 1,
                                uuid_index: b, cdw15: d ^ 2 };
        prop_assert_eq!(SetFeatures::decode(&set.encode()), set);
        let abort = Abort { sqid: c, cid: c ^ 2 };
        prop_assert_eq!(Abort::decode(&abort.encode()), abort);
    }

    #[test]
    fn statuses(sct in 0u8..8, sc: u8, crd in 0u8..4, more: bool, dnr: bool) {
        let mut status = Status::new(sct, sc).with_crd(crd);
        if more { status = status.more(); }
        if dnr { status = status.dnr(); }
        prop_assert_eq!((status.sct(), status.sc(), status.crd()), (sct, sc, crd));
        prop_assert_eq!((status.is_more(), status.is_dnr()), (more, dnr));
        prop_assert_eq!(Status::from_wire(status.wire()), status);
        prop_assert_eq!(Cqe::new(0, 0, 0, status.wire()).status(), status);
    }

    #[test]
    fn descriptors(address: u64, length: u32, short in 0u32..1 << 24, key: u32, invalidate: bool) {
        let sgl = SglDescriptor::data_block(address, length);
        prop_assert_eq!(sgl.decode(), Sgl::DataBlock { address, length });
        let sgl = SglDescriptor::in_capsule(address, length);
        prop_assert_eq!(sgl.decode(), Sgl::InCapsule { offset: address, length });
        prop_assert_eq!(SglDescriptor::transport(length).decode(), Sgl::Transport { length });
        let sgl = SglDescriptor::keyed(address, short, key, invalidate).unwrap();
        prop_assert_eq!(sgl.decode(), Sgl::Keyed { address, length: short, key, invalidate });
    }

    #[test]
    fn registers(raw: u64, value: u8) {
        let cap = Cap(raw);
        let again = Cap::default()
            .with_mqes(cap.mqes()).with_cqr(cap.cqr()).with_ams(cap.ams()).with_to(cap.to())
            .with_dstrd(cap.dstrd()).with_nssrs(cap.nssrs()).with_css(cap.css())
            .with_bps(cap.bps()).with_cps(cap.cps()).with_mpsmin(cap.mpsmin())
            .with_mpsmax(cap.mpsmax()).with_pmrs(cap.pmrs()).with_cmbs(cap.cmbs())
            .with_nsss(cap.nsss()).with_crms(cap.crms()).with_nsses(cap.nsses());
        let reserved: u64 = 0x1f << 19 | 3 << 62;
        prop_assert_eq!(again.0, raw & !reserved);
        prop_assert_eq!(Cc(0).with_mps(value).mps(), value & 0xf);
        prop_assert_eq!(Csts(u32::MAX).with_shst(value).shst(), value & 3);
    }

    #[test]
    fn results(cntlid: u16, authreq: u16, in_data: bool, event: u32, sq in 1u32..=65536,
               cq in 1u32..=65536) {
        let answer = ConnectResult { cntlid, authreq };
        prop_assert_eq!(ConnectResult::from_cqe(&Cqe::new(answer.result(), 0, 0, 0)), answer);
        let parameter = InvalidParameter { in_data, offset: cntlid };
        let cqe = Cqe::new(parameter.result(), 0, 0, 0);
        prop_assert_eq!(InvalidParameter::from_cqe(&cqe), parameter);
        let event = AsyncEvent::from_dword(event);
        prop_assert_eq!(AsyncEvent::from_dword(event.dword()), event);
        let queues = NumberOfQueues { submission: sq, completion: cq };
        prop_assert_eq!(NumberOfQueues::from_dword(queues.dword()), queues);
    }

    #[test]
    fn descriptor_lists(all in prop::collection::vec(any_descriptor(), 0..40)) {
        let mut page = [0xff; 4096];
        identify::encode_namespace_descriptors(&mut page, &all);
        let found: Vec<_> = identify::decode_namespace_descriptors(&page).collect();
        prop_assert_eq!(found, all);
    }

    #[test]
    fn namespace_lists(mut nsids in prop::collection::vec(1u32..u32::MAX, 0..2000), after: u32) {
        nsids.sort_unstable();
        nsids.dedup();
        let list = identify::NamespaceList::after(after, nsids.iter().copied());
        let expected: Vec<u32> =
            nsids.into_iter().filter(|nsid| *nsid > after).take(1024).collect();
        prop_assert_eq!(list.iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn connect_data(hostid: [u8; 16], cntlid: u16, name in "[a-z0-9.:-]{1,190}", uuid: [u8; 16]) {
        let sub = format!("nqn.2024-12.org.example:{name}");
        let host = nqn::uuid_nqn(uuid);
        let data = ConnectData::new(hostid, cntlid, &sub, host.as_str()).unwrap();
        let seen = Nqn::from_field(&data.subnqn).unwrap();
        prop_assert_eq!(seen.as_str(), sub);
        prop_assert_eq!(Nqn::from_field(&data.hostnqn), Ok(host));
        prop_assert_eq!((data.hostid, data.cntlid.get()), (hostid, cntlid));
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
        for (_, decode) in decoders::ALL {
            decode(&bytes);
        }
    }

    #[test]
    fn any_text_as_nqn(text: String) {
        decoders::nqn(text.as_bytes());
        decoders::nqn(format!("nqn.2014-08.org.nvmexpress:uuid:{text}").as_bytes());
        decoders::nqn(format!("nqn.{text}").as_bytes());
    }
}

/// Numbers of opcodes and directions agree with the direction bits (Base 2.1, 3.1.3.4).
#[test]
fn opcodes_convert_both_ways() {
    for opcode in AdminOpcode::ALL {
        assert_eq!(AdminOpcode::try_from(u8::from(*opcode)), Ok(*opcode));
        assert!(!opcode.name().is_empty());
    }
    let known = (0..=u8::MAX)
        .filter(|code| IoOpcode::try_from(*code).is_ok())
        .count();
    assert_eq!(known, IoOpcode::ALL.len());
    let _ = Sqe::new(IoOpcode::Read.into());
}
