//! What goes wrong when told so.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use penstock_nvme::register::{OFFSET_CAP, OFFSET_CSTS};
use penstock_nvme::{IoOpcode, Status};

use super::super::{Fault, FaultRates, SoftConfig};
use super::host::Host;

/// A host whose first I/O command has the fault.
fn with(fault: Fault) -> Host {
    let host = Host::with_queue(SoftConfig::default());
    let mut left = Some(fault);
    host.controller.set_rule(move |command| {
        if command.queue == 0 {
            return None;
        }
        left.take()
    });
    host.data.write(0, &[5; 512]);
    host
}

fn written(host: &Host) -> bool {
    let mut there = [0; 512];
    host.controller.read_media(1, 0, &mut there);
    there == [5; 512]
}

#[test]
fn completions_can_be_late_or_never() {
    let mut host = with(Fault::Delay { ns: 700 });
    let sqe = host.sqe(IoOpcode::Write, 0, 1);
    let cid = host.submit(1, sqe);
    host.wait(600);
    assert!(host.completion(1, cid).is_none());
    host.wait(700);
    assert!(host.completion(1, cid).unwrap().status().is_success());

    let mut host = with(Fault::Hang);
    let cid = host.submit(1, sqe.with_prps(host.data.address, 0));
    host.wait(u64::MAX / 2);
    assert!(host.completion(1, cid).is_none() && !written(&host));
    assert_eq!(host.controller.running(), 1);

    let mut host = with(Fault::LoseCompletion);
    let cid = host.submit(1, sqe.with_prps(host.data.address, 0));
    assert!(host.completion(1, cid).is_none() && written(&host));
    assert_eq!(host.controller.running(), 0);
    assert_eq!(host.io(IoOpcode::Read, 0, 1), Ok(0));
}

#[test]
fn completions_can_be_wrong() {
    let mut host = with(Fault::Status(Status::INTERNAL_ERROR));
    assert_eq!(host.io(IoOpcode::Write, 0, 1), Err(Status::INTERNAL_ERROR));
    assert!(!written(&host));
    assert_eq!(host.io(IoOpcode::Write, 0, 1), Ok(0));

    let mut host = with(Fault::Twice);
    assert_eq!(host.io(IoOpcode::Write, 0, 1), Ok(0));
    host.step();
    let again = host.poll(1).unwrap();
    assert_eq!(again.cid.get(), host.cid);

    let mut host = with(Fault::WrongCid(999));
    let sqe = host.sqe(IoOpcode::Write, 0, 1);
    let cid = host.submit(1, sqe);
    assert!(host.completion(1, cid).is_none() && written(&host));
    assert_eq!(host.others[0].1.cid.get(), 999);

    let mut host = with(Fault::WrongPhase);
    let sqe = host.sqe(IoOpcode::Write, 0, 1);
    let cid = host.submit(1, sqe.with_prps(host.data.address, 0));
    assert!(host.completion(1, cid).is_none() && written(&host));
    let next = host.submit(1, sqe.with_prps(host.data.address, 0));
    assert!(host.completion(1, next).is_none());
    assert_eq!(host.controller.stats().completions, 2 + 2);
}

#[test]
fn a_failed_controller_does_nothing_until_it_is_reset() {
    let mut host = with(Fault::Fatal);
    let sqe = host.sqe(IoOpcode::Write, 0, 1);
    let cid = host.submit(1, sqe);
    assert!(host.completion(1, cid).is_none());
    assert!(host.csts().cfs() && !written(&host));
    host.write_cc(host.configuration());
    assert!(!host.csts().cfs() && !host.csts().rdy());
    host.enable();
    host.create_pair(1).unwrap();
    assert_eq!(host.io(IoOpcode::Write, 0, 1), Ok(0));
    host.is_clean();
    host.controller.fail();
    assert!(host.csts().cfs());
}

#[test]
fn a_drive_that_is_gone_reads_as_ones() {
    let mut host = with(Fault::Remove { reads: u32::MAX });
    let sqe = host.sqe(IoOpcode::Write, 0, 1);
    let cid = host.submit(1, sqe);
    assert!(host.completion(1, cid).is_none() && !written(&host));
    assert_eq!(host.bar.read32(OFFSET_CSTS), u32::MAX);
    assert_eq!(host.bar.read64(OFFSET_CAP), u64::MAX);
    host.write_cc(host.configuration());
    assert_eq!(host.bar.read32(OFFSET_CSTS), u32::MAX);
    host.is_clean();
}

#[test]
fn commands_are_completed_out_of_order_as_the_seed_says() {
    let order = |seed| {
        let mut host = Host::with_queue(SoftConfig {
            seed,
            reorder: true,
            jitter_ns: 1000,
            ..SoftConfig::default()
        });
        let sqe = host.sqe(IoOpcode::Read, 0, 1);
        let first = host.put(1, sqe);
        for _ in 0..6 {
            host.put(1, sqe);
        }
        host.ring(1);
        let mut order = Vec::new();
        for _ in 0..20 {
            host.wait(100);
            while let Some(cqe) = host.poll(1) {
                order.push(cqe.cid.get() - first);
            }
        }
        host.is_clean();
        order
    };
    let orders: Vec<_> = (0..4).map(order).collect();
    assert_eq!(orders[0], order(0));
    assert!(orders.iter().any(|o| *o != orders[0]));
    for mut order in orders {
        order.sort_unstable();
        assert_eq!(order, [0, 1, 2, 3, 4, 5, 6]);
    }
}

#[test]
fn faults_at_random_come_from_the_seed() {
    let run = |seed| {
        let mut host = Host::with_queue(SoftConfig {
            seed,
            ..SoftConfig::default()
        });
        host.controller.set_fault_rates(FaultRates {
            internal_error: 3000,
            ..FaultRates::default()
        });
        let answers = (0..50).map(|_| host.io(IoOpcode::Read, 0, 1).is_ok());
        answers.collect::<Vec<_>>()
    };
    assert_eq!(run(4), run(4));
    assert_ne!(run(4), run(5));
    assert!(run(4).contains(&false) && run(4).contains(&true));
}

#[test]
fn a_full_completion_queue_waits_for_its_host() {
    let mut host = Host::with_queue(SoftConfig::default());
    let sqe = host.sqe(IoOpcode::Read, 0, 1);
    for _ in 0..5 {
        for _ in 0..4 {
            host.put(1, sqe);
        }
        host.ring(1);
        (0..4).for_each(|_| host.step());
    }
    // Seven entries hold completions, less the one kept for a second.
    let stats = host.controller.stats();
    assert!(stats.completions - 2 <= 7);
    let mut seen = 0;
    for _ in 0..20 {
        host.step();
        while host.poll(1).is_some() {
            seen += 1;
        }
    }
    assert!(seen >= 7, "{seen}");
}

#[test]
fn interrupts_come_after_completions() {
    let mut host = Host::with_queue(SoftConfig::default());
    let count = Arc::new(AtomicU32::new(0));
    let counted = count.clone();
    host.controller.set_interrupt(1, move || {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let sqe = host.sqe(IoOpcode::Read, 0, 1);
    for _ in 0..3 {
        host.put(1, sqe);
    }
    host.ring(1);
    (0..4).for_each(|_| host.step());
    assert_eq!(count.load(Ordering::Relaxed), 1);
    host.io(IoOpcode::Read, 0, 1).unwrap();
    assert_eq!(count.load(Ordering::Relaxed), 2);
}

#[test]
fn a_thread_can_do_the_looking() {
    let mut host = Host::with_queue(SoftConfig::default());
    let thread = host.controller.run_thread();
    let sqe = host.sqe(IoOpcode::Read, 0, 1);
    for _ in 0..100 {
        let cid = host.submit(1, sqe);
        let cqe = loop {
            match host.poll(1) {
                Some(cqe) => break cqe,
                None => std::thread::yield_now(),
            }
        };
        assert_eq!(cqe.cid.get(), cid);
    }
    drop(thread);
    assert_eq!(host.controller.stats().io[2], 100);
    host.is_clean();
}
