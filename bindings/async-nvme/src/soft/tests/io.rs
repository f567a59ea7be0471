//! I/O commands and data pointers.

use penstock_nvme::command::{BlockRange, DSM_DEALLOCATE, DatasetManagement, DsmRange, flush};
use penstock_nvme::sgl::{SGL_LAST_SEGMENT, SGL_SEGMENT};
use penstock_nvme::sqe::Fuse;
use penstock_nvme::{IntoBytes, IoOpcode, SglDescriptor, Sqe, Status};
use penstock_units::{Lba, Nsid};

use super::super::{MediaFault, SoftConfig, SoftNamespace, SoftSgl};
use super::host::{Host, Shared};

fn nsid() -> Nsid {
    Nsid::new(1).unwrap()
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..=250)
        .map(|byte: u8| byte ^ seed)
        .cycle()
        .take(len)
        .collect()
}

#[test]
fn what_is_written_is_read() {
    for lbads in [9, 12] {
        let mut host = Host::with_queue(SoftConfig::with_namespace(1 << 20, lbads));
        let blocks = 8192 >> lbads;
        host.data.write(0, &pattern(8192, 5));
        host.io(IoOpcode::Write, 4, blocks).unwrap();
        host.data.write(0, &[0; 8192]);
        host.io(IoOpcode::Read, 4, blocks).unwrap();
        assert_eq!(host.data.read(0, 8192), pattern(8192, 5));
        assert_eq!(host.io(IoOpcode::Compare, 4, blocks), Ok(0));
        host.data.write(8191, &[0]);
        let different = host.io(IoOpcode::Compare, 4, blocks);
        assert_eq!(different, Err(Status::COMPARE_FAILURE));
        host.io(IoOpcode::Flush, 0, 1).unwrap();
        host.io(IoOpcode::WriteZeroes, 4, blocks - 1).unwrap();
        host.io(IoOpcode::Read, 4, blocks).unwrap();
        let kept = 8192 - (1 << lbads);
        assert!(host.data.read(0, kept).iter().all(|byte| *byte == 0));
        assert_eq!(
            host.data.read(kept, 1 << lbads),
            pattern(8192, 5)[kept..].to_vec()
        );
        host.is_clean();
        let stats = host.controller.stats();
        assert_eq!((stats.host_bytes, stats.own_bytes), (5 * 8192, 0));
    }
}

#[test]
fn ranges_and_lengths_are_checked() {
    let mut host = Host::with_queue(SoftConfig {
        mdts: 1,
        wzsl: 2,
        ..SoftConfig::with_namespace(1 << 20, 9)
    });
    let beyond = Err(Status::LBA_OUT_OF_RANGE);
    assert_eq!(host.io(IoOpcode::Read, 2047, 1), Ok(0));
    assert_eq!(host.io(IoOpcode::Read, 2047, 2), beyond);
    assert_eq!(host.io(IoOpcode::Write, u64::MAX, 2), beyond);
    assert_eq!(host.io(IoOpcode::WriteZeroes, 2048, 1), beyond);
    assert_eq!(host.io(IoOpcode::Verify, 2040, 9), beyond);
    assert_eq!(host.io(IoOpcode::Read, 0, 16), Ok(0));
    let long = Err(Status::INVALID_FIELD);
    assert_eq!(host.io(IoOpcode::Read, 0, 17), long);
    assert_eq!(host.io(IoOpcode::WriteZeroes, 0, 32), Ok(0));
    assert_eq!(host.io(IoOpcode::WriteZeroes, 0, 33), long);
    let range = BlockRange::new(Lba(0), 1);
    let elsewhere = range
        .encode(IoOpcode::Read, Nsid::new(2).unwrap())
        .unwrap()
        .with_prps(host.data.address, 0);
    assert_eq!(host.command(1, elsewhere), Err(Status::INVALID_NAMESPACE));
    let all = flush(nsid()).with_prps(0, 0);
    let mut broadcast = all;
    broadcast.nsid = penstock_nvme::Le32::new(u32::MAX);
    assert_eq!(host.command(1, broadcast), Ok(0));
    host.is_clean();
}

#[test]
fn commands_not_offered_are_refused() {
    let mut host = Host::with_queue(SoftConfig {
        oncs: 0,
        sgl: SoftSgl::None,
        fused: false,
        ..SoftConfig::default()
    });
    for opcode in [
        IoOpcode::Compare,
        IoOpcode::WriteZeroes,
        IoOpcode::DatasetManagement,
        IoOpcode::Verify,
        IoOpcode::WriteUncorrectable,
        IoOpcode::ReservationReport,
    ] {
        assert_eq!(host.io(opcode, 0, 1), Err(Status::INVALID_OPCODE));
    }
    let block = SglDescriptor::data_block(host.data.address, 512);
    let mut sqe = host.sqe(IoOpcode::Read, 0, 1).with_sgl(block);
    sqe.flags = 0x40;
    assert_eq!(host.command(1, sqe), Err(Status::INVALID_FIELD));
    let fused = host.sqe(IoOpcode::Read, 0, 1).with_fuse(Fuse::First);
    assert_eq!(host.command(1, fused), Err(Status::INVALID_FIELD));
}

#[test]
fn ranges_are_deallocated() {
    let mut host = Host::with_queue(SoftConfig::with_namespace(1 << 20, 9));
    host.data.write(0, &[3; 8192]);
    host.io(IoOpcode::Write, 0, 16).unwrap();
    let command = |attributes| {
        DatasetManagement {
            ranges: 2,
            attributes,
        }
        .encode(nsid())
        .unwrap()
    };
    let deallocate = command(DSM_DEALLOCATE).with_prps(host.data.address, 0);
    let ranges = [DsmRange::new(Lba(1), 2), DsmRange::new(Lba(15), 1)];
    host.data.write(0, ranges.as_bytes());
    assert_eq!(host.command(1, deallocate), Ok(0));
    let mut there = [1; 16 * 512];
    host.controller.read_media(1, 0, &mut there);
    let zeroes: Vec<usize> = (0..16).filter(|i| there[i * 512] == 0).collect();
    assert_eq!(zeroes, [1, 2, 15]);

    let hint = command(1).with_prps(host.data.address, 0);
    let ranges = [DsmRange::new(Lba(5), 2), DsmRange::new(Lba(0), 0)];
    host.data.write(0, ranges.as_bytes());
    assert_eq!(host.command(1, hint), Ok(0));
    host.controller.read_media(1, 0, &mut there);
    assert_eq!(there[5 * 512], 3);

    let ranges = [DsmRange::new(Lba(5), 2), DsmRange::new(Lba(2048), 1)];
    host.data.write(0, ranges.as_bytes());
    let refused = host.command(1, deallocate);
    assert_eq!(refused, Err(Status::LBA_OUT_OF_RANGE));
    host.controller.read_media(1, 0, &mut there);
    assert_eq!(there[5 * 512], 3);
}

#[test]
fn bad_blocks_fail_until_they_are_written() {
    let mut host = Host::with_queue(SoftConfig::default());
    host.controller
        .set_media_fault(1, 9, Some(MediaFault::Read));
    let bad = Err(Status::UNRECOVERED_READ_ERROR);
    assert_eq!(host.io(IoOpcode::Read, 8, 2), bad);
    assert_eq!(host.io(IoOpcode::Verify, 0, 16), bad);
    assert_eq!(host.io(IoOpcode::Read, 0, 9), Ok(0));
    assert_eq!(host.io(IoOpcode::Write, 9, 1), Ok(0));
    assert_eq!(host.io(IoOpcode::Read, 8, 2), Ok(0));
    assert_eq!(host.io(IoOpcode::WriteUncorrectable, 20, 2), Ok(0));
    assert_eq!(host.io(IoOpcode::Read, 21, 1), bad);
    host.controller
        .set_media_fault(1, 30, Some(MediaFault::Write));
    let fault = Err(Status::WRITE_FAULT);
    assert_eq!(host.io(IoOpcode::Write, 24, 8), fault);
    assert_eq!(host.io(IoOpcode::Read, 24, 8), Ok(0));
}

#[test]
fn unflushed_writes_may_be_lost_and_others_not() {
    let mut host = Host::with_queue(SoftConfig::with_namespace(1 << 20, 9));
    host.data.write(0, &[1; 8192]);
    host.io(IoOpcode::Write, 0, 16).unwrap();
    host.io(IoOpcode::Flush, 0, 1).unwrap();
    let mut durable = BlockRange::new(Lba(32), 16);
    durable.fua = true;
    let sqe = durable.encode(IoOpcode::Write, nsid()).unwrap();
    let sqe = sqe.with_prps(host.data.address, host.data.address + 4096);
    host.command(1, sqe).unwrap();
    host.io(IoOpcode::Write, 64, 16).unwrap();
    host.controller.lose_power();
    let mut there = vec![0; 80 * 512];
    host.controller.read_media(1, 0, &mut there);
    let held = |lba: usize| there[lba * 512] == 1;
    assert!((0..16).all(held) && (32..48).all(held));
    let kept = (64..80).filter(|lba| held(*lba)).count();
    assert!(kept > 0 && kept < 16, "{kept}");
}

#[test]
fn fused_commands_are_one() {
    let mut host = Host::with_queue(SoftConfig::default());
    host.data.write(4096, &[8; 512]);
    let second_page = host.data.address + 4096;
    let compare = host.sqe(IoOpcode::Compare, 0, 1).with_fuse(Fuse::First);
    let write = host.sqe(IoOpcode::Write, 0, 1).with_fuse(Fuse::Second);
    let write = write.with_prps(second_page, 0);
    let first = host.submit(1, compare);
    assert!(host.completion(1, first).is_none());
    let second = host.submit(1, write);
    let status = |cqe: Option<penstock_nvme::Cqe>| cqe.unwrap().status().code();
    assert_eq!(status(host.completion(1, first)), Status::SUCCESS);
    assert_eq!(status(host.completion(1, second)), Status::SUCCESS);

    let first = host.put(1, compare);
    let second = host.submit(1, write);
    assert_eq!(status(host.completion(1, first)), Status::COMPARE_FAILURE);
    let failed = status(host.completion(1, second));
    assert_eq!(failed, Status::ABORT_FAILED_FUSED);

    let missing = Err(Status::ABORT_MISSING_FUSED);
    assert_eq!(host.command(1, write), missing);
    let first = host.put(1, compare);
    let plain = host.sqe(IoOpcode::Read, 0, 1);
    let second = host.submit(1, plain);
    let alone = status(host.completion(1, first));
    assert_eq!(alone, Status::ABORT_MISSING_FUSED);
    assert_eq!(status(host.completion(1, second)), Status::SUCCESS);
    host.is_clean();
}

/// A host with a page of lists behind the data pages, for transfers of 16 KiB.
fn with_lists() -> (Host, Shared) {
    let host = Host::with_queue(SoftConfig::default());
    let lists = Shared::new(&host.controller, 2 * 4096);
    (host, lists)
}

fn write_list(lists: &Shared, offset: usize, entries: &[u64]) {
    for (index, entry) in entries.iter().enumerate() {
        lists.write(offset + index * 8, &entry.to_le_bytes());
    }
}

#[test]
fn prp_lists_lead_to_pages() {
    let (mut host, lists) = with_lists();
    let base = host.data.address;
    let bytes = pattern(16384, 9);
    // From inside the third page on, the others in falling order.
    host.data.write(2 * 4096 + 512, &bytes[..3584]);
    for (index, page) in [7, 6, 5, 4].into_iter().enumerate() {
        let from = 3584 + index * 4096;
        host.data
            .write(page * 4096, &bytes[from..(from + 4096).min(16384)]);
    }
    let pages = [7, 6, 5, 4].map(|page| base + page * 4096);
    write_list(&lists, 24, &pages);
    let plain = host.sqe(IoOpcode::Write, 0, 32);
    let sqe = plain.with_prps(base + 2 * 4096 + 512, lists.address + 24);
    assert_eq!(host.command(1, sqe), Ok(0));
    let mut there = vec![0; 16384];
    host.controller.read_media(1, 0, &mut there);
    assert_eq!(there, bytes);

    // The same by two lists: the first holds two entries and the address of the second.
    let chained = 4096 - 24;
    write_list(&lists, chained, &[pages[0], pages[1], lists.address + 4096]);
    write_list(&lists, 4096, &pages[2..]);
    let plain = host.sqe(IoOpcode::Write, 100, 32);
    let sqe = plain.with_prps(base + 2 * 4096 + 512, lists.address + chained as u64);
    assert_eq!(host.command(1, sqe), Ok(0));
    host.controller.read_media(1, 100, &mut there);
    assert_eq!(there, bytes);
    host.is_clean();
}

#[test]
fn prps_that_point_wrongly_are_refused() {
    let (mut host, lists) = with_lists();
    let base = host.data.address;
    let list = lists.address;
    let wrong = Err(Status::PRP_OFFSET_INVALID);
    let mut read = |blocks, prp1, prp2| {
        let sqe = host.sqe(IoOpcode::Read, 0, blocks);
        let answer = host.command(1, sqe.with_prps(prp1, prp2));
        (answer, host.controller.violations().len())
    };
    write_list(&lists, 0, &[base + 4096, base + 8192 + 4, base + 12288]);
    write_list(&lists, 4096 - 16, &[base, list + 8]);
    assert_eq!(read(1, base + 2, 0), (wrong, 0));
    assert_eq!(read(16, base, base + 4096 + 8), (wrong, 0));
    assert_eq!(read(32, base, list + 4), (wrong, 0));
    assert_eq!(read(32, base, list), (wrong, 0));
    assert_eq!(read(32, base, list + 4096 - 16), (wrong, 0));
    // What is not used is not looked at.
    assert_eq!(read(8, base, 1), (Ok(0), 0));
    let unmapped = Err(Status::DATA_TRANSFER_ERROR);
    assert_eq!(read(8, base + 8, 0), (unmapped, 1));
    assert_eq!(read(8, 0x5000, 0), (unmapped, 2));
}

#[test]
fn sgls_lead_to_bytes() {
    let (mut host, lists) = with_lists();
    let base = host.data.address;
    let bytes = pattern(1536, 3);
    host.data.write(100, &bytes[..1000]);
    host.data.write(8001, &bytes[1000..]);
    let block = SglDescriptor::data_block;
    let typed = |address, length, identifier| {
        let mut descriptor = block(address, length);
        descriptor.identifier = identifier;
        descriptor
    };
    let mut command = |sgl: SglDescriptor, list: &[SglDescriptor]| {
        lists.write(0, list.as_bytes());
        let mut sqe: Sqe = host.sqe(IoOpcode::Write, 0, 3).with_sgl(sgl);
        sqe.flags = 0x40;
        host.command(1, sqe)
    };
    let parts = [block(base + 100, 1000), block(base + 8001, 536)];
    let last = typed(lists.address, 32, SGL_LAST_SEGMENT);
    assert_eq!(command(last, &parts), Ok(0));
    let chain = [
        parts[0],
        typed(lists.address + 32, 16, SGL_LAST_SEGMENT),
        parts[1],
    ];
    let segment = typed(lists.address, 32, SGL_SEGMENT);
    assert_eq!(command(segment, &chain), Ok(0));
    assert_eq!(command(block(base, 1536), &[]), Ok(0));

    let length = Err(Status::DATA_SGL_LENGTH_INVALID);
    assert_eq!(command(block(base, 1535), &[]), length);
    assert_eq!(command(block(base, 1537), &[]), length);
    let bad_segment = Err(Status::INVALID_SGL_SEGMENT);
    assert_eq!(command(segment, &parts), bad_segment);
    assert_eq!(command(last, &[last, parts[0]]), bad_segment);
    let odd = typed(lists.address, 31, SGL_LAST_SEGMENT);
    assert_eq!(command(odd, &parts), bad_segment);
    let kind = Err(Status::SGL_TYPE_INVALID);
    assert_eq!(command(SglDescriptor::transport(1536), &[]), kind);
    host.is_clean();
}

#[test]
fn sgls_of_dwords_only_are_checked() {
    let mut host = Host::with_queue(SoftConfig {
        sgl: SoftSgl::Dword,
        ..SoftConfig::default()
    });
    let block = SglDescriptor::data_block(host.data.address + 2, 512);
    let mut sqe = host.sqe(IoOpcode::Read, 0, 1).with_sgl(block);
    sqe.flags = 0x40;
    let refused = host.command(1, sqe);
    assert_eq!(refused, Err(Status::SGL_GRANULARITY_INVALID));
}

#[test]
fn namespaces_have_their_own_blocks() {
    let mut host = Host::with_queue(SoftConfig {
        namespaces: vec![
            SoftNamespace::new(1 << 20, 9),
            SoftNamespace::new(1 << 20, 12),
        ],
        ..SoftConfig::default()
    });
    host.data.write(0, &[4; 4096]);
    let range = BlockRange::new(Lba(255), 1);
    let sqe = range
        .encode(IoOpcode::Write, Nsid::new(2).unwrap())
        .unwrap();
    let sqe = sqe.with_prps(host.data.address, 0);
    assert_eq!(host.command(1, sqe), Ok(0));
    let mut there = [0; 4096];
    host.controller.read_media(2, 255, &mut there);
    assert_eq!(there, [4; 4096]);
    host.controller.read_media(1, 255, &mut there[..512]);
    assert_eq!(there[..512], [0; 512]);
    host.controller.remove_namespace(2);
    assert_eq!(host.command(1, sqe), Err(Status::INVALID_NAMESPACE));
}
