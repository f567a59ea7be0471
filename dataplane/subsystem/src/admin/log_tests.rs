use std::sync::atomic::Ordering;

use penstock_nvme::command::GetLogPage;
use penstock_nvme::log::{
    AnaGroup, AnaHeader, ChangedNamespaceList, EffectsLog, ErrorEntry, FeatureEffectsLog,
    FirmwareSlotLog, HealthLog, LogPage, SupportedLogPages,
};
use penstock_nvme::{FromBytes, IoOpcode, Status};
use penstock_units::{BlockSize, Nsid};

use crate::fakes::FakeDevice;
use crate::namespace::NamespaceConfig;
use crate::testing::{Bed, NQN, Peer, advance_ms, bytes, io, status};

fn page<T: FromBytes>(peer: &Peer, page: LogPage) -> T {
    T::read_from_bytes(&peer.log(page, size_of::<T>()))
        .map_err(drop)
        .expect("its size")
}

fn ask(peer: &Peer, asked: GetLogPage) -> penstock_seam::Reply {
    let len = usize::try_from(asked.bytes()).unwrap();
    peer.fetch(asked.encode().unwrap(), len)
}

#[test]
fn supported_pages_are_those_that_can_be_read() {
    let bed = Bed::new();
    for peer in [bed.admin(), bed.discovery()] {
        let nvm = peer.cntlid == 1 && peer.session.controller().unwrap().subsystem().nqn() == NQN;
        let supported = |lid: u8| {
            let reply = ask(&peer, GetLogPage::new(lid, u32::MAX, 0, 4));
            if status(&reply) == Status::SUCCESS {
                return true;
            }
            assert_eq!(status(&reply), Status::INVALID_LOG_PAGE.dnr(), "{lid:#x}");
            false
        };
        let readable: Vec<u8> = (0..=255).filter(|lid| supported(*lid)).collect();
        if nvm {
            assert_eq!(readable, [0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x0c, 0x12]);
            let list: SupportedLogPages = page(&peer, LogPage::Supported);
            for lid in 0..=255u8 {
                let listed = list.pages[usize::from(lid)].get() & 1 == 1;
                assert_eq!(listed, readable.contains(&lid), "{lid:#x}");
            }
        } else {
            assert_eq!(readable, [0x70]);
        }
    }
}

#[test]
fn pages_are_read_in_parts() {
    let bed = Bed::new();
    let admin = bed.admin();
    let whole = admin.log(LogPage::CommandEffects, 4096);
    let part = ask(
        &admin,
        GetLogPage::new(LogPage::CommandEffects, 0, 1024, 64),
    );
    assert_eq!(bytes(&part), whole[1024..1088]);
    let beyond = ask(
        &admin,
        GetLogPage::new(LogPage::CommandEffects, 0, 4092, 16),
    );
    assert_eq!(bytes(&beyond)[4..], [0; 12], "zeroes behind the end");
    let at_end = ask(&admin, GetLogPage::new(LogPage::CommandEffects, 0, 4096, 4));
    assert_eq!(status(&at_end), Status::SUCCESS);
    let invalid = Status::INVALID_FIELD.dnr();
    for (offset, len) in [(4100, 4), (2, 4), (u64::MAX - 3, 4), (0, (128 << 10) + 4)] {
        let reply = ask(
            &admin,
            GetLogPage::new(LogPage::CommandEffects, 0, offset, len),
        );
        assert_eq!(status(&reply), invalid, "{offset} {len}");
    }
    // More than 16 bits of dwords need NUMDU.
    let long = GetLogPage::new(LogPage::CommandEffects, 0, 0, 128 << 10);
    assert_eq!(bytes(&ask(&admin, long)).len(), 128 << 10);
    let index = GetLogPage {
        index_offset: true,
        ..GetLogPage::new(LogPage::Error, 0, 0, 4)
    };
    assert_eq!(status(&ask(&admin, index)), invalid);
    let small = GetLogPage::new(LogPage::Error, 0, 0, 64).encode().unwrap();
    assert_eq!(
        status(&admin.fetch(small, 60)),
        Status::DATA_SGL_LENGTH_INVALID.dnr()
    );
}

#[test]
fn the_error_page_lists_the_latest_first() {
    let bed = Bed::new();
    let (admin, queue) = bed.pair();
    for lba in 0..130 {
        queue.read(5000 + lba, 1, 512);
    }
    let log = admin.log(LogPage::Error, 128 * 64);
    let entries: Vec<_> = log
        .chunks(64)
        .map(|e| ErrorEntry::read_from_bytes(e).unwrap())
        .collect();
    assert_eq!(
        (entries[0].error_count.get(), entries[127].error_count.get()),
        (130, 3)
    );
    let latest = entries[0];
    assert_eq!(
        (latest.lba.get(), latest.nsid.get(), latest.sqid.get()),
        (5129, 1, 1)
    );
    assert_eq!(
        Status::from_wire(latest.status.get()),
        Status::LBA_OUT_OF_RANGE.dnr()
    );
    assert_eq!(
        (
            latest.parameter_location.get(),
            latest.trtype,
            latest.opcode
        ),
        (40, 3, 2)
    );
    assert_eq!(latest.version, 1);
}

#[test]
fn smart_counts_what_was_done() {
    let bed = Bed::new();
    let (admin, queue) = bed.pair();
    queue.exec(io(IoOpcode::Write, 0, 256), &[0; 256 * 512]);
    for _ in 0..4 {
        queue.read(0, 256, 256 * 512);
    }
    queue.exec(io(IoOpcode::Compare, 0, 1), &[0; 512]);
    bed.device.fail_next(penstock_block::BlockError::ReadMedia);
    queue.read(0, 1, 512);
    advance_ms(3 * 3_600_000);
    let log: HealthLog = page(&admin, LogPage::Health);
    assert_eq!(
        log.data_units_read.get(),
        2,
        "1024 units of 512 bytes: two thousand, rounded up"
    );
    assert_eq!(log.data_units_written.get(), 1);
    assert_eq!((log.host_reads.get(), log.host_writes.get()), (5, 1));
    assert_eq!((log.media_errors.get(), log.error_entries.get()), (1, 1));
    assert_eq!(log.power_on_hours.get(), 3);
    assert_eq!(
        (
            log.temperature.get(),
            log.available_spare,
            log.critical_warning
        ),
        (0, 100, 0)
    );
    let one = ask(&admin, GetLogPage::new(LogPage::Health, 1, 0, 512));
    assert_eq!(status(&one), Status::INVALID_FIELD.dnr());
    bed.device.read_only.store(true, Ordering::Relaxed);
    bed.target
        .namespace_resized(NQN, Nsid::new(1).unwrap())
        .unwrap();
    let log: HealthLog = page(&admin, LogPage::Health);
    assert_eq!(log.critical_warning, 1 << 3);
    bed.target
        .remove_namespace(NQN, Nsid::new(1).unwrap())
        .unwrap();
    let log: HealthLog = page(&admin, LogPage::Health);
    assert_eq!(log.host_writes.get(), 1, "what was done stays done");
}

#[test]
fn firmware_and_effects() {
    let bed = Bed::new();
    let admin = bed.admin();
    let firmware: FirmwareSlotLog = page(&admin, LogPage::FirmwareSlot);
    assert_eq!(firmware.afi, 1);
    assert!(firmware.frs[0].starts_with(env!("CARGO_PKG_VERSION").as_bytes()));
    let effects: EffectsLog = page(&admin, LogPage::CommandEffects);
    let listed = |table: &[penstock_nvme::Le32]| -> Vec<usize> {
        (0..256).filter(|i| table[*i].get() & 1 == 1).collect()
    };
    assert_eq!(
        listed(&effects.admin),
        [0x02, 0x06, 0x08, 0x09, 0x0a, 0x0c, 0x18, 0x7f]
    );
    assert_eq!(listed(&effects.io), [0, 1, 2, 5, 8, 9, 12, 0x7f]);
    assert_eq!(
        (effects.io[1].get(), effects.io[2].get()),
        (3, 1),
        "Write changes content"
    );
    let features: FeatureEffectsLog = page(&admin, LogPage::FeatureEffects);
    let expected = [1, 2, 4, 5, 6, 7, 0x0a, 0x0b, 0x0f, 0x16, 0x81];
    assert_eq!(listed(&features.features), expected);
}

#[test]
fn changed_namespaces_are_listed_until_read() {
    let bed = Bed::new();
    let admin = bed.admin();
    let add = |nsid| {
        let device = FakeDevice::new(8, BlockSize::B512);
        bed.target
            .add_namespace(NQN, Nsid::new(nsid), NamespaceConfig::default(), device)
            .unwrap();
    };
    add(30);
    add(20);
    let keep = GetLogPage {
        rae: true,
        ..GetLogPage::new(LogPage::ChangedNamespaces, 0, 0, 4096)
    };
    for expected in [[20, 30], [20, 30]] {
        let list = ChangedNamespaceList::read_from_bytes(&bytes(&ask(&admin, keep))).unwrap();
        assert_eq!([list.nsid[0].get(), list.nsid[1].get()], expected);
    }
    let list: ChangedNamespaceList = page(&admin, LogPage::ChangedNamespaces);
    assert_eq!((list.nsid[1].get(), list.nsid[2].get()), (30, 0));
    let list: ChangedNamespaceList = page(&admin, LogPage::ChangedNamespaces);
    assert_eq!(list.nsid[0].get(), 0, "the read before emptied it");
}

#[test]
fn ana_has_one_optimised_group() {
    let bed = Bed::new();
    let admin = bed.admin();
    let device = FakeDevice::new(8, BlockSize::B512);
    bed.target
        .add_namespace(NQN, None, NamespaceConfig::default(), device)
        .unwrap();
    let log = admin.log(LogPage::Ana, 16 + 32 + 8);
    let header = AnaHeader::read_from_bytes(&log[..16]).unwrap();
    let group = AnaGroup::read_from_bytes(&log[16..48]).unwrap();
    assert_eq!(
        (
            header.ngrps.get(),
            group.grpid.get(),
            group.nnsids.get(),
            group.state
        ),
        (1, 1, 2, 1)
    );
    assert_eq!(log[48..], [1, 0, 0, 0, 2, 0, 0, 0]);
    let rgo = GetLogPage {
        lsp: 1,
        ..GetLogPage::new(LogPage::Ana, 0, 0, 64)
    };
    let log = bytes(&ask(&admin, rgo));
    let groups = AnaGroup::read_from_bytes(&log[16..48]).unwrap();
    assert_eq!(
        (groups.grpid.get(), groups.nnsids.get(), &log[48..]),
        (1, 0, &[0; 16][..])
    );
    bed.target
        .remove_namespace(NQN, Nsid::new(2).unwrap())
        .unwrap();
    let after = AnaHeader::read_from_bytes(&admin.log(LogPage::Ana, 16)).unwrap();
    assert!(after.chgcnt.get() > header.chgcnt.get());
    bed.target
        .remove_namespace(NQN, Nsid::new(1).unwrap())
        .unwrap();
    let empty = AnaHeader::read_from_bytes(&admin.log(LogPage::Ana, 16)).unwrap();
    assert_eq!(empty.ngrps.get(), 0);
}
