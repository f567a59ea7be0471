//! Enabling, reset, shutdown, doorbells.

use penstock_nvme::command::async_event_request;
use penstock_nvme::event::AsyncEvent;
use penstock_nvme::pcie::{self, Aqa, sq_doorbell};
use penstock_nvme::register::{
    CC_CSS_ADMIN_ONLY, CC_CSS_ALL, CSS_NVM, Cc, NSSR_RESET, OFFSET_CAP, OFFSET_CC, OFFSET_CSTS,
    OFFSET_NSSR, OFFSET_VS, SHST_COMPLETE, SHST_OCCURRING, VERSION_1_4, VERSION_2_1,
};
use penstock_nvme::{IoOpcode, Status};
use penstock_units::QueueId;

use super::super::{ControllerFaults, SoftConfig};
use super::host::{ENTRIES, Host};

#[test]
fn capabilities_are_those_of_the_configuration() {
    let host = Host::cold(SoftConfig {
        queue_entries_max: 64,
        timeout: 9,
        dstrd: 2,
        mpsmin: 0,
        mpsmax: 3,
        version: VERSION_1_4,
        command_sets: false,
        ..SoftConfig::default()
    });
    let cap = host.cap();
    assert_eq!((cap.queue_entries_max(), cap.to()), (64, 9));
    assert_eq!((cap.dstrd(), cap.mpsmin(), cap.mpsmax()), (2, 0, 3));
    assert_eq!((cap.css(), cap.crms()), (CSS_NVM, 0));
    assert!(cap.cqr() && cap.nssrs() && !cap.cmbs() && !cap.pmrs());
    assert_eq!(host.bar.read32(OFFSET_VS), VERSION_1_4);
    assert_eq!(host.bar.read32(OFFSET_CSTS), 0);
}

#[test]
fn what_is_read_only_stays_as_it_is() {
    let mut host = Host::ready(SoftConfig::default());
    let cap = host.cap();
    host.bar.write32(OFFSET_VS, 0);
    host.bar.write64(OFFSET_CAP, 0);
    host.bar.write32(OFFSET_CSTS, 0);
    host.step();
    assert_eq!((host.cap(), host.csts().rdy()), (cap, true));
    assert_eq!(host.bar.read32(OFFSET_VS), VERSION_2_1);
    assert_eq!(host.controller.violations().len(), 4);
}

#[test]
fn a_controller_becomes_ready_and_stops_in_its_own_time() {
    let mut host = Host::cold(SoftConfig {
        ready_after_ns: 1000,
        disable_after_ns: 500,
        ..SoftConfig::default()
    });
    host.enable();
    assert!(!host.csts().rdy());
    host.wait(999);
    assert!(!host.csts().rdy());
    host.wait(1);
    assert!(host.csts().rdy());
    host.write_cc(host.configuration());
    assert!(host.csts().rdy());
    host.wait(500);
    assert!(!host.csts().rdy());
    host.enable();
    host.wait(1000);
    assert!(host.csts().rdy());
    assert_eq!(host.controller.stats().enabled, 2);
    host.is_clean();
}

#[test]
fn what_cannot_be_enabled_is_fatal() {
    let wrong: [fn(&mut Host); 4] = [
        |host| host.bar.write32(pcie::OFFSET_AQA, 0),
        |host| {
            let asq = host.bar.read64(pcie::OFFSET_ASQ);
            host.bar.write64(pcie::OFFSET_ASQ, asq + 64);
        },
        |host| host.bar.write64(pcie::OFFSET_ACQ, 0x1000),
        |host| {
            let large = Aqa::default().with_asqs(4095).with_acqs(4095);
            host.bar.write32(pcie::OFFSET_AQA, large.0);
        },
    ];
    for spoil in wrong {
        let mut host = Host::ready(SoftConfig::default());
        host.write_cc(host.configuration());
        spoil(&mut host);
        host.write_cc(host.configuration().with_en(true));
        assert!(host.csts().cfs() && !host.csts().rdy());
        assert!(!host.controller.violations().is_empty());
    }
    let plain = SoftConfig {
        command_sets: false,
        ..SoftConfig::default()
    };
    for (config, change, fails) in [
        (plain.clone(), Cc::default().with_mps(9), true),
        (plain.clone(), Cc::default().with_css(CC_CSS_ALL), true),
        (plain, Cc::default().with_ams(1), true),
        (
            SoftConfig::default(),
            Cc::default().with_css(CC_CSS_ALL),
            false,
        ),
        (
            SoftConfig::default(),
            Cc::default().with_css(CC_CSS_ADMIN_ONLY),
            true,
        ),
    ] {
        let mut host = Host::ready(config);
        host.write_cc(host.configuration());
        let enable = host.configuration().with_en(true);
        host.write_cc(Cc(enable.0 | change.0));
        assert_eq!(host.csts().cfs(), fails, "{change:?}");
    }
}

#[test]
fn a_reset_forgets_queues_and_keeps_media() {
    let mut host = Host::with_queue(SoftConfig::default());
    host.data.write(0, &[7; 512]);
    host.io(IoOpcode::Write, 3, 1).unwrap();
    host.write_cc(host.configuration());
    assert!(!host.csts().rdy());
    host.enable();
    host.create_pair(1).unwrap();
    host.data.write(0, &[0; 512]);
    host.io(IoOpcode::Read, 3, 1).unwrap();
    assert_eq!(host.data.read(0, 512), [7; 512]);
    host.is_clean();
}

#[test]
fn a_shutdown_makes_the_cache_durable() {
    let mut host = Host::with_queue(SoftConfig {
        shutdown_after_ns: 100,
        ..SoftConfig::default()
    });
    host.data.write(0, &[9; 4096]);
    host.io(IoOpcode::Write, 0, 8).unwrap();
    host.write_cc(host.configuration().with_en(true).with_shn(1));
    assert_eq!(host.csts().shst(), SHST_OCCURRING);
    host.wait(100);
    assert_eq!(host.csts().shst(), SHST_COMPLETE);
    host.controller.lose_power();
    let mut there = [0; 4096];
    host.controller.read_media(1, 0, &mut there);
    assert_eq!(there, [9; 4096]);
    assert_eq!(host.bar.read32(OFFSET_CC), 0);
    host.is_clean();
}

#[test]
fn a_controller_shut_down_while_disabled_can_be_enabled() {
    let mut host = Host::ready(SoftConfig::default());
    host.write_cc(host.configuration());
    host.write_cc(host.configuration().with_shn(1));
    assert_eq!(host.csts().shst(), SHST_COMPLETE);
    host.write_cc(host.configuration());
    assert_eq!(host.csts().shst(), SHST_COMPLETE);
    host.enable();
    assert_eq!((host.csts().shst(), host.csts().rdy()), (0, true));
    host.create_pair(1).unwrap();
    host.is_clean();
}

#[test]
fn a_subsystem_reset_is_told_until_it_is_acknowledged() {
    let mut host = Host::with_queue(SoftConfig::default());
    host.bar.write32(OFFSET_NSSR, 1);
    host.step();
    assert!(host.csts().rdy());
    host.bar.write32(OFFSET_NSSR, NSSR_RESET);
    host.step();
    assert!(host.csts().nssro() && !host.csts().rdy());
    assert_eq!(host.bar.read32(OFFSET_CC), 0);
    host.enable();
    assert!(host.csts().nssro() && host.csts().rdy());
    host.bar.write32(OFFSET_CSTS, 1 << 4);
    host.step();
    assert!(!host.csts().nssro() && host.csts().rdy());
    host.is_clean();
}

#[test]
fn the_controller_itself_can_be_stuck() {
    let mut host = Host::cold(SoftConfig::default());
    let faults = |faults| host.controller.set_controller_faults(faults);
    faults(ControllerFaults {
        never_ready: true,
        ..ControllerFaults::default()
    });
    host.enable();
    host.wait(u64::MAX / 2);
    assert!(!host.csts().rdy());
    host.controller.set_controller_faults(ControllerFaults {
        never_disabled: true,
        stuck_in_shutdown: true,
        ..ControllerFaults::default()
    });
    host.step();
    assert!(host.csts().rdy());
    host.write_cc(host.configuration().with_en(true).with_shn(1));
    host.wait(1 << 40);
    assert_eq!(host.csts().shst(), SHST_OCCURRING);
    host.write_cc(host.configuration());
    host.wait(1 << 40);
    assert!(host.csts().rdy());
}

#[test]
fn wrong_doorbells_are_events_and_violations() {
    let mut host = Host::with_queue(SoftConfig::default());
    let first = host.submit(0, async_event_request().with_prps(0, 0));
    host.bar.write32(sq_doorbell(QueueId(3), 0), 1);
    let cqe = host.completion(0, first).unwrap();
    let event = AsyncEvent::from_dword(cqe.dw0());
    assert_eq!(event, AsyncEvent::INVALID_DOORBELL_REGISTER);
    assert_eq!(host.controller.violations().len(), 1);

    host.bar.write32(sq_doorbell(QueueId(1), 0), ENTRIES);
    host.step();
    host.bar.write32(sq_doorbell(QueueId(1), 0), 0);
    host.step();
    host.bar.write32(pcie::cq_doorbell(QueueId(1), 0), 1);
    host.step();
    assert_eq!(host.controller.violations().len(), 4);
    assert_eq!(host.io(IoOpcode::Flush, 0, 1), Ok(0));
}

#[test]
fn a_full_queue_takes_no_more() {
    let mut host = Host::with_queue(SoftConfig::default());
    host.controller
        .set_rule(|_| Some(super::super::Fault::Hang));
    for _ in 0..ENTRIES - 1 {
        let sqe = host.sqe(IoOpcode::Read, 0, 1);
        host.put(1, sqe);
    }
    host.ring(1);
    host.step();
    assert_eq!(host.controller.running(), 7);
    host.is_clean();
    let sqe = host.sqe(IoOpcode::Read, 0, 1);
    host.submit(1, sqe);
    host.step();
    assert_eq!(host.controller.violations().len(), 1);
    assert_eq!(host.controller.running(), 7);
}

#[test]
fn doorbells_have_the_stride_told() {
    let mut host = Host::with_queue(SoftConfig {
        dstrd: 3,
        ..SoftConfig::default()
    });
    for _ in 0..20 {
        assert_eq!(host.io(IoOpcode::Read, 0, 1), Ok(0));
    }
    assert_eq!(host.io(IoOpcode::Copy, 0, 1), Err(Status::INVALID_OPCODE));
    let stats = host.controller.stats();
    assert_eq!(stats.io[2], 20);
    assert_eq!(stats.sq_doorbells, 21 + 2);
    host.is_clean();
}
