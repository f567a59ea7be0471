//! Controller memory, and the IOMMU.

use penstock_nvme::pcie::{self, Cmbloc, Cmbmsc, Cmbsz, CreateQueue, Pmrcap};
use penstock_nvme::{IoOpcode, Status};
use penstock_units::QueueId;

use super::super::{SoftCmb, SoftConfig};
use super::host::Host;

const CMB: u64 = 0x80_0000_0000;

fn cmb(change: impl FnOnce(&mut SoftCmb)) -> SoftConfig {
    let mut cmb = SoftCmb::new(1 << 20);
    change(&mut cmb);
    SoftConfig {
        cmb: Some(cmb),
        ..SoftConfig::default()
    }
}

/// A host that has the buffer at `CMB`.
fn with_cmb(change: impl FnOnce(&mut SoftCmb)) -> Host {
    let mut host = Host::with_queue(cmb(change));
    let control = Cmbmsc::default().with_cre(true).with_cmse(true);
    let control = control.with_cba(CMB >> 12);
    host.bar.write64(pcie::OFFSET_CMBMSC, control.0);
    host.step();
    host
}

fn put(host: &Host, offset: usize, bytes: &[u8]) {
    let (base, len) = host.controller.cmb_mapping().unwrap();
    assert!(offset + bytes.len() <= len);
    // SAFETY: inside the mapping, as just checked; the controller lives as long as the host.
    unsafe {
        let to = base.as_ptr().add(offset);
        std::ptr::copy(bytes.as_ptr(), to, bytes.len());
    }
}

#[test]
fn the_buffer_is_told() {
    let mut host = Host::cold(cmb(|cmb| cmb.offset = 8192));
    assert!(host.cap().cmbs());
    let control = Cmbmsc::default().with_cre(true);
    host.bar.write64(pcie::OFFSET_CMBMSC, control.0);
    host.step();
    let size = Cmbsz(host.bar.read32(pcie::OFFSET_CMBSZ));
    assert_eq!(size.size_bytes(), Some(1 << 20));
    assert!(size.sqs() && !size.cqs() && size.lists() && size.rds() && size.wds());
    let location = Cmbloc(host.bar.read32(pcie::OFFSET_CMBLOC));
    assert_eq!((location.bir(), location.ofst()), (2, 2));
    assert_eq!(host.controller.cmb_mapping().unwrap().1, 8192 + (1 << 20));

    let nowhere = control.with_cmse(true).with_cba((1 << 52) - 1);
    host.bar.write64(pcie::OFFSET_CMBMSC, nowhere.0);
    host.step();
    assert_eq!(host.bar.read32(pcie::OFFSET_CMBSTS), pcie::CMBSTS_CBAI);
    host.bar.write64(pcie::OFFSET_CMBMSC, 0);
    host.step();
    assert_eq!(host.bar.read32(pcie::OFFSET_CMBSTS), 0);
}

#[test]
fn data_goes_to_the_buffer_where_it_may() {
    let mut host = with_cmb(|_| ());
    put(&host, 4096, &[9; 512]);
    let write = host.sqe(IoOpcode::Write, 7, 1).with_prps(CMB + 4096, 0);
    assert_eq!(host.command(1, write), Ok(0));
    let read = host.sqe(IoOpcode::Read, 7, 1);
    assert_eq!(host.command(1, read), Ok(0));
    assert_eq!(host.data.read(0, 512), [9; 512]);
    let stats = host.controller.stats();
    assert_eq!((stats.host_bytes, stats.own_bytes), (512, 512));
    host.is_clean();
    // One that runs over the buffer's end.
    let end = CMB + (1 << 20) - 256;
    let over = host.sqe(IoOpcode::Read, 7, 1).with_prps(end, 0);
    assert_eq!(host.command(1, over), Err(Status::DATA_TRANSFER_ERROR));
    assert_eq!(host.controller.violations().len(), 1);

    let control = Cmbmsc::default().with_cre(true);
    host.bar.write64(pcie::OFFSET_CMBMSC, control.0);
    host.step();
    assert_eq!(host.command(1, write), Err(Status::DATA_TRANSFER_ERROR));
}

#[test]
fn uses_that_are_not_offered_are_refused() {
    let invalid = Err(Status::INVALID_CMB_USE);
    let mut host = with_cmb(|cmb| {
        (cmb.rds, cmb.sqs, cmb.lists, cmb.mixed_data) = (false, false, false, false);
    });
    let read = host.sqe(IoOpcode::Read, 0, 1).with_prps(CMB, 0);
    assert_eq!(host.command(1, read), invalid);
    let write = host.sqe(IoOpcode::Write, 0, 1).with_prps(CMB, 0);
    assert_eq!(host.command(1, write), Ok(0));
    let mixed = host
        .sqe(IoOpcode::Write, 0, 16)
        .with_prps(CMB, host.data.address);
    assert_eq!(host.command(1, mixed), invalid);
    let list = host
        .sqe(IoOpcode::Write, 0, 24)
        .with_prps(host.data.address, CMB);
    assert_eq!(host.command(1, list), invalid);
    let queue = CreateQueue {
        queue: QueueId(2),
        entries: 8,
        address: CMB,
    };
    let cq = host.admin(queue.completion(None).unwrap());
    let sq = host.admin(queue.submission(QueueId(1)).unwrap());
    assert_eq!((cq, sq), (invalid, invalid));

    let mut host = with_cmb(|cmb| cmb.wds = false);
    let write = host.sqe(IoOpcode::Write, 0, 1).with_prps(CMB, 0);
    assert_eq!(host.command(1, write), invalid);
    host.is_clean();
}

#[test]
fn submission_queues_and_lists_may_lie_in_the_buffer() {
    let mut host = with_cmb(|_| ());
    let queue = CreateQueue {
        queue: QueueId(2),
        entries: 8,
        address: CMB + 8192,
    };
    host.admin(queue.submission(QueueId(1)).unwrap()).unwrap();
    host.data.write(0, &[6; 12288]);
    let pages = [1u64, 2].map(|page| (host.data.address + page * 4096).to_le_bytes());
    put(&host, 0, &pages.concat());
    let sqe = host
        .sqe(IoOpcode::Write, 0, 24)
        .with_prps(host.data.address, CMB)
        .with_cid(300);
    put(&host, 8192, &sqe.to_bytes());
    host.bar.write32(pcie::sq_doorbell(QueueId(2), 0), 1);
    host.step();
    let cqe = host.poll(1).unwrap();
    assert!(cqe.status().is_success());
    assert_eq!((cqe.sqid.get(), cqe.cid.get()), (2, 300));
    let mut there = [0; 12288];
    host.controller.read_media(1, 0, &mut there);
    assert_eq!(there, [6; 12288]);
    assert_eq!(host.controller.stats().own_fetches, 1);
    host.is_clean();
}

#[test]
fn before_revision_1_4_the_buffer_is_where_the_bus_has_it() {
    let mut host = Host::with_queue(cmb(|cmb| {
        (cmb.legacy, cmb.offset, cmb.bus_address) = (true, 4096, 0xf000_0000);
    }));
    assert!(!host.cap().cmbs());
    let size = Cmbsz(host.bar.read32(pcie::OFFSET_CMBSZ));
    assert_eq!(size.size_bytes(), Some(1 << 20));
    let base = host.controller.cmb_bus_address().unwrap();
    put(&host, 4096, &[2; 512]);
    let write = host.sqe(IoOpcode::Write, 0, 1).with_prps(base + 4096, 0);
    assert_eq!(host.command(1, write), Ok(0));
    let mut there = [0; 512];
    host.controller.read_media(1, 0, &mut there);
    assert_eq!(there, [2; 512]);
    host.is_clean();
}

#[test]
fn a_persistent_memory_region_holds_data() {
    let mut host = Host::with_queue(SoftConfig {
        pmr_bytes: Some(65536),
        ..SoftConfig::default()
    });
    assert!(host.cap().pmrs());
    let capabilities = Pmrcap(host.bar.read32(pcie::OFFSET_PMRCAP));
    assert!(capabilities.rds() && capabilities.wds() && capabilities.cmss());
    let status = |host: &Host| host.bar.read32(pcie::OFFSET_PMRSTS);
    assert_eq!(status(&host), pcie::PMRSTS_NRDY);
    host.bar.write32(pcie::OFFSET_PMRCTL, pcie::PMRCTL_EN);
    let base = 0x8000_0000u32;
    host.bar
        .write32(pcie::OFFSET_PMRMSCL, base | pcie::PMRMSCL_CMSE);
    host.bar.write32(pcie::OFFSET_PMRMSCU, 0x90);
    host.step();
    assert_eq!(status(&host), 0);
    let at = 0x90 << 32 | u64::from(base);
    let read = host.sqe(IoOpcode::Read, 0, 1).with_prps(at + 512, 0);
    assert_eq!(host.command(1, read), Ok(0));
    assert_eq!(host.controller.stats().own_bytes, 512);
    assert_eq!(host.controller.pmr_mapping().unwrap().1, 65536);
    host.is_clean();
}

#[test]
fn memory_taken_back_is_reached_no_more() {
    let mut host = Host::with_queue(SoftConfig::default());
    let before = host.controller.mapped_regions();
    let page = super::host::Shared::new(&host.controller, 4096);
    let read = host.sqe(IoOpcode::Read, 0, 1).with_prps(page.address, 0);
    assert_eq!(host.controller.mapped_regions(), before + 1);
    assert_eq!(host.command(1, read), Ok(0));
    drop(page);
    host.is_clean();
    assert_eq!(host.command(1, read), Err(Status::DATA_TRANSFER_ERROR));
    assert_eq!(host.controller.mapped_regions(), before);
    assert_eq!(host.controller.violations().len(), 1);
}
