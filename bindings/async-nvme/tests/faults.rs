//! What the driver makes of a drive that does not do as it should.

#![allow(clippy::unwrap_used, reason = "for tests only")]

mod common;

use common::{Bench, Runs, small};
use penstock_async_nvme::soft::{
    ControllerFaults, Fault, FaultRates, MediaFault, SoftCmb, SoftConfig, SoftController,
    SoftHealth, SoftNamespace,
};
use penstock_async_nvme::{
    ControllerConfig, ControllerError, Done, IoError, Notice, Pace, Queue, Verb,
};
use penstock_nvme::Status;
use penstock_nvme::event::AsyncEvent;
use penstock_nvme::log::WARNING_TEMPERATURE;

const WRITE: Verb = Verb::Write { fua: false };

fn bench() -> Bench {
    Bench::new(SoftConfig::default(), small(1, 32))
}

/// The fault hits the I/O command of that number, counted from 0, once.
fn hit(soft: &SoftController, number: u32, fault: Fault) {
    let mut seen = 0;
    soft.set_rule(move |command| {
        if command.queue == 0 {
            return None;
        }
        seen += 1;
        (seen - 1 == number).then_some(fault)
    });
}

fn page_bytes(page: usize) -> [u8; 4096] {
    [u8::try_from(page).unwrap() + 1; 4096]
}

/// Writes sixteen pages in sixteen requests at a time; how each ended, in order.
fn write_pages(bench: &mut Bench) -> Vec<Result<u64, IoError>> {
    for page in 0..16usize {
        let memory = Runs::new(&bench.memory, &[(page * 4096, 4096)]);
        memory.fill(&page_bytes(page));
        let io = bench.io(WRITE, page as u64 * 8, 8);
        bench.submit(0, io, memory, page);
    }
    let mut ended = bench.finish();
    ended.sort_by_key(|done| done.tag);
    assert_eq!(ended.len(), 16);
    ended.iter().map(|done| done.result).collect()
}

fn page_is_written(bench: &Bench, page: usize) -> bool {
    let mut there = [0; 4096];
    bench.soft.read_media(1, page as u64 * 8, &mut there);
    there == page_bytes(page)
}

/// The drive misbehaves once, and every write arrives nevertheless, after one reset.
#[track_caller]
fn is_mended_by_a_reset(fault: Fault) -> Bench {
    let mut bench = bench();
    hit(&bench.soft, 5, fault);
    let results = write_pages(&mut bench);
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert!((0..16).all(|page| page_is_written(&bench, page)));
    let resets = bench.notices.iter().filter(|n| **n == Notice::Reset);
    assert_eq!(resets.count(), 1, "{:?}", bench.notices);
    bench.is_clean();
    bench
}

#[test]
fn a_lost_completion_is_mended_by_a_reset() {
    let bench = is_mended_by_a_reset(Fault::LoseCompletion);
    let aborted = |notice: &Notice| matches!(notice, Notice::Aborted { done: false, .. });
    assert!(bench.notices.iter().any(aborted), "{:?}", bench.notices);
    let stats = bench.queues[0].borrow().stats();
    assert_eq!((stats.late_commands, stats.resent_requests), (1, 1));
}

#[test]
fn a_wrong_phase_is_mended_by_a_reset() {
    is_mended_by_a_reset(Fault::WrongPhase);
}

#[test]
fn a_completion_of_nothing_is_mended_by_a_reset() {
    let bench = is_mended_by_a_reset(Fault::WrongCid(0xfff0));
    assert_eq!(bench.queues[0].borrow().stats().stray_completions, 1);
}

#[test]
fn a_completion_that_comes_twice_ends_no_other_command() {
    let mut bench = Bench::new(SoftConfig::default(), small(1, 4));
    write_pages(&mut bench);
    hit(&bench.soft, 7, Fault::Twice);
    let read = |bench: &Bench, queue: &mut Queue<Runs, usize>, page: usize| {
        let memory = Runs::new(&bench.memory, &[(page * 4096, 4096)]);
        memory.fill(&[0; 4096]);
        queue.submit(bench.io(Verb::Read, page as u64 * 8, 8), memory, page);
    };
    let queue = bench.queues[0].clone();
    read(&bench, &mut queue.borrow_mut(), 0);
    let mut ended = 0;
    for _ in 0..100 {
        queue.borrow_mut().round_end();
        let now = bench.steps.pass(100_000);
        queue.borrow_mut().tick(now);
        // Each end makes the next request at once, before the completion behind it is looked at.
        loop {
            let done = queue.borrow_mut().next_done();
            let Some(done) = done else { break };
            assert!(done.result.is_ok());
            assert_eq!(done.memory.bytes(), page_bytes(done.tag), "{}", done.tag);
            ended += 1;
            if ended < 16 {
                read(&bench, &mut queue.borrow_mut(), ended);
            }
        }
        let notice = bench.controller().service();
        bench.notices.extend(notice);
    }
    assert_eq!(ended, 16);
    assert!(bench.queues[0].borrow().stats().stray_completions > 0);
    assert_eq!(bench.notices, [Notice::Reset]);
    bench.is_clean();
}

#[test]
fn a_failed_controller_is_mended_by_a_reset() {
    is_mended_by_a_reset(Fault::Fatal);
}

#[test]
fn a_command_that_hangs_is_aborted_and_no_other() {
    let mut bench = bench();
    hit(&bench.soft, 5, Fault::Hang);
    let results = write_pages(&mut bench);
    let aborted = Err(IoError::Status(Status::ABORT_REQUESTED));
    let code = |result: &Result<u64, IoError>| match result {
        Err(IoError::Status(status)) => Err(IoError::Status(status.code())),
        other => *other,
    };
    let failed: Vec<usize> = (0..16).filter(|i| results[*i].is_err()).collect();
    assert_eq!(failed, [5]);
    assert_eq!(code(&results[5]), aborted);
    assert!(!page_is_written(&bench, 5) && page_is_written(&bench, 6));
    let told = |notice: &Notice| matches!(notice, Notice::Aborted { done: true, .. });
    assert!(bench.notices.iter().any(told), "{:?}", bench.notices);
    bench.is_clean();
}

#[test]
fn a_command_that_cannot_be_aborted_is_sent_again_after_a_reset() {
    let mut bench = bench();
    bench.soft.set_controller_faults(ControllerFaults {
        aborts_nothing: true,
        ..ControllerFaults::default()
    });
    hit(&bench.soft, 5, Fault::Hang);
    let results = write_pages(&mut bench);
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert!((0..16).all(|page| page_is_written(&bench, page)));
    assert!(bench.notices.contains(&Notice::Reset));
    bench.is_clean();
}

#[test]
fn a_reset_in_the_middle_loses_nothing() {
    let mut bench = Bench::new(
        SoftConfig {
            jitter_ns: 5_000_000,
            reorder: true,
            ..SoftConfig::default()
        },
        small(2, 32),
    );
    for page in 0..16usize {
        let memory = Runs::new(&bench.memory, &[(page * 4096, 4096)]);
        memory.fill(&page_bytes(page));
        let io = bench.io(WRITE, page as u64 * 8, 8);
        bench.submit(page % 2, io, memory, page);
    }
    let mut ended = Vec::new();
    for _ in 0..10 {
        ended.extend(bench.round(200_000));
    }
    assert!(!ended.is_empty() && ended.len() < 16, "{}", ended.len());
    bench.controller().reset().unwrap();
    ended.extend(bench.finish());
    assert_eq!(ended.len(), 16);
    assert!(ended.iter().all(|done| done.result.is_ok()));
    assert!((0..16).all(|page| page_is_written(&bench, page)));
    bench.is_clean();
}

#[test]
fn what_lay_in_controller_memory_is_not_written_after_a_reset() {
    let soft = SoftConfig {
        cmb: Some(SoftCmb::new(common::MEMORY_BYTES + (64 << 10))),
        ..SoftConfig::default()
    };
    let driver = ControllerConfig {
        submission_in_controller: true,
        ..small(1, 4)
    };
    let mut bench = Bench::new(soft, driver);
    let before = Runs::new(&bench.memory, &[(0, 4096)]);
    before.fill(&page_bytes(40));
    let io = bench.io(WRITE, 0, 8);
    bench.run(io, before).result.unwrap();
    let own = bench.own_memory.clone().unwrap();
    let requests = [
        (Verb::Read, 0, true),
        (WRITE, 8, true),
        (WRITE, 16, false),
        (Verb::Compare, 0, true),
        // No room for these in the queue: they stand in line.
        (WRITE, 24, true),
        (WRITE, 32, false),
    ];
    for (tag, (verb, slba, in_controller)) in requests.into_iter().enumerate() {
        let runs = [(tag * 4096, 4096)];
        let memory = match in_controller {
            true => Runs::in_controller(&own, &runs),
            false => Runs::new(&bench.memory, &runs),
        };
        memory.fill(&page_bytes(if verb == WRITE { tag } else { 40 }));
        bench.submit(0, bench.io(verb, slba, 8), memory, tag);
    }
    bench.controller().reset().unwrap();
    let mut ended = bench.finish();
    ended.sort_by_key(|done| done.tag);
    let forgotten: Vec<_> = ended
        .iter()
        .filter(|done| done.result == Err(IoError::Forgotten))
        .map(|done| done.tag)
        .collect();
    assert_eq!(forgotten, [1, 3, 4]);
    let fine = |done: &&Done<Runs, usize>| done.result.is_ok();
    assert_eq!(ended.iter().filter(fine).count(), 3);
    // The read was made anew, and what lay in host memory was written.
    assert!(ended[0].memory.bytes() == page_bytes(40));
    for (slba, tag) in [(16, 2), (32, 5)] {
        let mut there = [0; 4096];
        bench.soft.read_media(1, slba, &mut there);
        assert!(there == page_bytes(tag));
    }
    assert_eq!(bench.queues[0].borrow().resets(), 1);
    bench.is_clean();
}

#[test]
fn a_drive_that_is_pulled_out_fails_requests_and_nothing_else() {
    // What nobody answers reads as all ones, or as zeroes on some machines.
    for reads in [u32::MAX, 0] {
        is_pulled_out(reads);
    }
}

fn is_pulled_out(reads: u32) {
    let mut bench = bench();
    hit(&bench.soft, 5, Fault::Remove { reads });
    let begun_ns = bench.steps.now_ns();
    let results = write_pages(&mut bench);
    // No time-out tells of it; the shortest is 50 ms.
    let took_ns = bench.steps.now_ns() - begun_ns;
    assert!(took_ns < 50_000_000, "{took_ns} ns, {reads:#x}");
    assert!(results.contains(&Err(IoError::Gone)), "{results:?}");
    let gone = |result: &Result<u64, IoError>| matches!(result, Ok(_) | Err(IoError::Gone));
    assert!(results.iter().all(gone), "{results:?}");
    assert_eq!(bench.notices.last(), Some(&Notice::Gone));
    let (io, memory) = (bench.io(Verb::Flush, 0, 0), Runs::none(&bench.memory));
    assert_eq!(bench.run(io, memory).result, Err(IoError::Gone));
    let shut = bench.controller.take().unwrap().shut_down();
    assert!(matches!(shut, Err(ControllerError::Gone)));
    bench.is_clean();
}

#[test]
fn a_drive_that_something_else_reset_is_set_up_again_without_a_time_out() {
    let mut bench = bench();
    bench.soft.lose_power();
    assert!(write_pages(&mut bench).iter().all(Result::is_ok));
    assert_eq!(bench.notices, [Notice::Reset]);
    assert!((0..16).all(|page| page_is_written(&bench, page)));
    bench.is_clean();
}

#[test]
fn a_drive_that_does_not_come_back_is_given_up() {
    let mut bench = bench();
    hit(&bench.soft, 5, Fault::Fatal);
    bench.soft.set_controller_faults(ControllerFaults {
        never_ready: true,
        ..ControllerFaults::default()
    });
    let results = write_pages(&mut bench);
    assert!(results.contains(&Err(IoError::Gone)), "{results:?}");
    assert_eq!(bench.notices, [Notice::Gone]);
    bench.is_clean();
}

#[test]
fn a_controller_that_is_never_ready_is_told() {
    let soft = SoftController::new(SoftConfig {
        timeout: 2,
        ..SoftConfig::default()
    });
    soft.set_controller_faults(ControllerFaults {
        never_ready: true,
        ..ControllerFaults::default()
    });
    let Err(error) = Bench::start(&soft, small(1, 8)) else {
        panic!("it started");
    };
    let text = error.to_string();
    assert!(
        text.contains("did not become ready within 1000 ms"),
        "{text}"
    );
    assert_eq!(soft.mapped_regions(), 0);
    assert_eq!(soft.violations(), Vec::<String>::new());
}

#[test]
fn a_controller_that_is_not_there_is_told() {
    let soft = SoftController::new(SoftConfig::default());
    soft.remove();
    let started = Bench::start(&soft, small(1, 8));
    assert!(matches!(started, Err(ControllerError::Gone)));
}

#[test]
fn a_shutdown_that_does_not_end_is_told() {
    let mut bench = bench();
    bench.soft.set_controller_faults(ControllerFaults {
        stuck_in_shutdown: true,
        ..ControllerFaults::default()
    });
    let shut = bench.controller.take().unwrap().shut_down();
    let text = shut.unwrap_err().to_string();
    assert!(text.contains("shut down"), "{text}");
}

#[test]
fn a_shutdown_makes_everything_durable_and_leaves_nothing_mapped() {
    let mut bench = bench();
    assert!(write_pages(&mut bench).iter().all(Result::is_ok));
    bench.controller.take().unwrap().shut_down().unwrap();
    bench.soft.lose_power();
    assert!((0..16).all(|page| page_is_written(&bench, page)));
    bench.is_clean();
    let soft = bench.soft.clone();
    drop(bench);
    assert_eq!(soft.mapped_regions(), 0);
    assert_eq!(soft.violations(), Vec::<String>::new());
}

#[test]
fn statuses_of_the_drive_are_told() {
    let mut bench = bench();
    bench.soft.set_media_fault(1, 9, Some(MediaFault::Read));
    let memory = Runs::new(&bench.memory, &[(0, 8192)]);
    let done = bench.run(bench.io(Verb::Read, 0, 16), memory);
    let Err(IoError::Status(status)) = done.result else {
        panic!("{:?}", done.result);
    };
    assert_eq!(status.code(), Status::UNRECOVERED_READ_ERROR);
    let beyond = bench.namespaces[0].blocks;
    let done = bench.run(bench.io(Verb::Read, beyond - 1, 16), done.memory);
    let Err(IoError::Status(status)) = done.result else {
        panic!("{:?}", done.result);
    };
    assert_eq!(status.code(), Status::LBA_OUT_OF_RANGE);
    assert!(status.is_dnr());
    bench.is_clean();
}

#[test]
fn changes_of_namespaces_and_health_are_told() {
    let mut bench = bench();
    bench.soft.resize_namespace(1, 32 << 20);
    bench.soft.add_namespace(&SoftNamespace::new(1 << 20, 12));
    (0..4).for_each(|_| drop(bench.round(100_000)));
    let event = Notice::Event(AsyncEvent::NAMESPACE_CHANGED);
    assert_eq!(bench.notices, std::slice::from_ref(&event));
    let namespaces = bench.controller().namespaces().unwrap();
    let blocks: Vec<u64> = namespaces.iter().map(|n| n.blocks).collect();
    assert_eq!(blocks, [65536, 256]);
    // Told again: its log page was read.
    bench.soft.remove_namespace(2);
    (0..4).for_each(|_| drop(bench.round(100_000)));
    assert_eq!(bench.notices, [event.clone(), event]);

    bench.soft.set_health(SoftHealth {
        temperature_kelvin: 390,
        ..SoftHealth::default()
    });
    (0..4).for_each(|_| drop(bench.round(100_000)));
    let hot = Notice::Event(AsyncEvent::TEMPERATURE_THRESHOLD);
    assert_eq!(bench.notices.last(), Some(&hot));
    let health = bench.controller().health().unwrap();
    assert_eq!(health.critical_warning, WARNING_TEMPERATURE);
    assert_eq!(health.temperature.get(), 390);
    bench.is_clean();
}

#[test]
fn requests_end_whatever_goes_wrong() {
    for seed in 0..20 {
        let mut bench = Bench::new(
            SoftConfig {
                seed,
                jitter_ns: 300_000,
                reorder: true,
                ..SoftConfig::default()
            },
            small(1, 32),
        );
        bench.soft.set_fault_rates(FaultRates {
            delay: 500,
            delay_max_ns: 200_000_000,
            hang: 200,
            lose_completion: 200,
            internal_error: 500,
            wrong_phase: 100,
            fatal: 100,
            ..FaultRates::default()
        });
        for round in 0..4 {
            let results = write_pages(&mut bench);
            for (page, result) in results.iter().enumerate() {
                let kept = result.is_err() || page_is_written(&bench, page);
                assert!(kept, "seed {seed}, round {round}, page {page}: {result:?}");
            }
        }
        assert!(!bench.notices.contains(&Notice::Gone), "seed {seed}");
        bench.is_clean();
    }
}

#[test]
fn everything_may_be_dropped_in_the_middle() {
    for seed in 0..8 {
        let mut bench = Bench::new(
            SoftConfig {
                seed,
                jitter_ns: 2_000_000,
                ..SoftConfig::default()
            },
            small(2, 16),
        );
        for page in 0..16usize {
            let memory = Runs::new(&bench.memory, &[(page * 4096, 4096)]);
            let io = bench.io(Verb::Read, page as u64 * 8, 8);
            bench.submit(page % 2, io, memory, page);
        }
        // The first round has the queue pairs begin.
        bench.round(100_000);
        bench.round(100_000);
        let soft = bench.soft.clone();
        assert!(soft.running() > 0, "seed {seed}");
        drop(bench);
        // The drive was told to stop before its memory went.
        assert_eq!(soft.mapped_regions(), 0);
        for round in 0..10 {
            soft.step(round * 1_000_000_000);
        }
        assert_eq!((soft.running(), soft.violations()), (0, Vec::new()));
    }
}

#[test]
fn a_drive_pulled_out_at_any_moment_ends_every_request() {
    for seed in 0..40 {
        let mut bench = Bench::new(
            SoftConfig {
                seed,
                jitter_ns: 400_000,
                reorder: true,
                ..SoftConfig::default()
            },
            small(2, 8),
        );
        for page in 0..16usize {
            let memory = Runs::new(&bench.memory, &[(page * 4096, 4096)]);
            memory.fill(&page_bytes(page));
            let io = bench.io(WRITE, page as u64 * 8, 8);
            bench.submit(page % 2, io, memory, page);
        }
        let mut ended = Vec::new();
        for _ in 0..seed % 8 {
            ended.extend(bench.round(100_000));
        }
        if seed % 3 == 0 {
            // In the middle of a reset.
            bench.soft.fail();
        }
        bench.soft.remove();
        ended.extend(bench.finish());
        ended.sort_by_key(|done| done.tag);
        assert_eq!(ended.len(), 16, "seed {seed}");
        for done in &ended {
            assert!(
                matches!(done.result, Ok(_) | Err(IoError::Gone)),
                "seed {seed}"
            );
        }
        assert_eq!(bench.notices, [Notice::Gone], "seed {seed}");
        bench.is_clean();
    }
}
