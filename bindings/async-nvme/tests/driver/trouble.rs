use penstock_async_nvme::soft::{ControllerFaults, Fault, MediaFault, SoftConfig};
use penstock_async_nvme::{ControllerConfig, IoError, IoQueue, Notice};
use penstock_buffer::Payload;
use penstock_nvme::event::AsyncEvent;
use penstock_nvme::{IoOpcode, Status};
use penstock_units::Lba;

use crate::rig::Rig;

/// 50 ms for a command before it is aborted, 200 ms for the admin queue.
fn rig() -> Rig {
    let config = ControllerConfig {
        io_timeout_ms: 50,
        admin_timeout_ms: 200,
        ..ControllerConfig::default()
    };
    Rig::new(SoftConfig::with_namespace(64 << 20, 9), config)
}

fn is_first_write(queue: u16, opcode: u8, seen: &mut bool) -> bool {
    queue > 0 && opcode == u8::from(IoOpcode::Write) && !std::mem::replace(seen, true)
}

#[test]
fn a_command_that_hangs_is_aborted_and_says_so() {
    let mut rig = rig();
    let mut seen = false;
    rig.soft.set_rule(move |command| {
        is_first_write(command.queue, command.sqe.opcode, &mut seen).then_some(Fault::Hang)
    });
    let payload = rig.pattern(512, 1);
    let (queue, ns) = (rig.queue.clone(), rig.namespace.clone());
    let write = queue.write(&ns, Lba(0), 1, false, payload);
    let ((result, _), notices) = rig.wait_kept(write);
    let Err(IoError::Status(status)) = result else {
        panic!("{result:?}");
    };
    assert_eq!(status.code(), Status::ABORT_REQUESTED);
    assert!(
        matches!(notices[..], [Notice::Aborted { done: true, .. }]),
        "{notices:?}"
    );
    assert_eq!(rig.queue.stats().late_commands, 1);
}

#[test]
fn a_lost_completion_ends_in_a_reset_and_the_command_is_sent_again() {
    let mut rig = rig();
    let mut seen = false;
    rig.soft.set_rule(move |command| {
        is_first_write(command.queue, command.sqe.opcode, &mut seen)
            .then_some(Fault::LoseCompletion)
    });
    let payload = rig.pattern(4096, 1);
    let (queue, ns) = (rig.queue.clone(), rig.namespace.clone());
    let write = queue.write(&ns, Lba(0), 8, false, payload);
    let ((result, _), notices) = rig.wait_kept(write);
    result.unwrap();
    assert!(notices.contains(&Notice::Reset), "{notices:?}");
    let stats = rig.queue.stats();
    assert_eq!((stats.late_commands, stats.resent_requests), (1, 1));
    // All goes on as before.
    let into = Payload::from(rig.lease(4096));
    let (result, got) = rig.wait(queue.read(&ns, Lba(0), 8, into));
    result.unwrap();
    assert!(Rig::bytes(&got) == Rig::bytes(&rig.pattern(4096, 1)));
    assert!(rig.controller.health().is_ok());
}

#[test]
fn a_fatal_error_is_reset_away_under_load() {
    let mut rig = rig();
    let (queue, ns) = (rig.queue.clone(), rig.namespace.clone());
    let mut writes = Vec::new();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    for lba in 0..300_u64 {
        let payload = rig.pattern(4096, lba as u8);
        let mut write = Box::pin(queue.write(&ns, Lba(lba * 8), 8, false, payload));
        assert!(std::future::Future::poll(write.as_mut(), &mut context).is_pending());
        writes.push(write);
    }
    rig.pace.step();
    rig.soft.fail();
    let mut notices = Vec::new();
    for write in writes {
        let ((result, _), seen) = rig.wait_kept(write);
        result.unwrap();
        notices.extend(seen);
    }
    assert_eq!(notices, [Notice::Reset]);
    for lba in 0..300_u64 {
        let mut media = vec![0; 4096];
        rig.soft.read_media(1, lba * 8, &mut media);
        assert!(
            media == Rig::bytes(&rig.pattern(4096, lba as u8)),
            "block {lba}"
        );
    }
}

#[test]
fn completions_for_nothing_are_not_believed() {
    for fault in [Fault::Twice, Fault::WrongCid(0xbeef)] {
        let mut rig = rig();
        let mut seen = false;
        let again = fault;
        rig.soft.set_rule(move |command| {
            is_first_write(command.queue, command.sqe.opcode, &mut seen).then_some(again)
        });
        let payload = rig.pattern(512, 1);
        let (queue, ns) = (rig.queue.clone(), rig.namespace.clone());
        let write = queue.write(&ns, Lba(0), 1, false, payload);
        let ((result, _), mut notices) = rig.wait_kept(write);
        result.unwrap();
        for _ in 0..100 {
            rig.pace.step();
            notices.extend(rig.controller.service());
        }
        assert!(notices.contains(&Notice::Reset), "{fault:?}: {notices:?}");
        assert_eq!(rig.queue.stats().stray_completions, 1, "{fault:?}");
    }
}

#[test]
fn a_drive_pulled_out_fails_everything_cleanly() {
    let mut rig = rig();
    let (queue, ns) = (rig.queue.clone(), rig.namespace.clone());
    let before = rig.pool.stats().leased_bytes;
    let memory = Payload::from(rig.lease(1 << 20));
    let mut read = Box::pin(queue.read(&ns, Lba(0), 2048, memory));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(std::future::Future::poll(read.as_mut(), &mut context).is_pending());
    rig.soft.remove();
    let ((result, memory), notices) = rig.wait_kept(read);
    assert_eq!((result, memory.len()), (Err(IoError::Gone), 1 << 20));
    assert_eq!(notices, [Notice::Gone]);
    let late = Payload::from(rig.lease(512));
    let (result, _) = rig.wait(queue.read(&ns, Lba(0), 1, late));
    assert_eq!(result, Err(IoError::Gone));
    assert_eq!(rig.controller.service(), None);
    drop(memory);
    assert_eq!(rig.pool.stats().leased_bytes, before);
}

#[test]
fn a_controller_that_cannot_be_reset_is_given_up() {
    let mut rig = rig();
    let (queue, ns) = (rig.queue.clone(), rig.namespace.clone());
    rig.soft.set_controller_faults(ControllerFaults {
        never_disabled: true,
        ..ControllerFaults::default()
    });
    rig.soft.fail();
    let memory = Payload::from(rig.lease(512));
    let read = queue.read(&ns, Lba(0), 1, memory);
    let ((result, _), notices) = rig.wait_kept(read);
    assert_eq!(result, Err(IoError::Gone));
    assert_eq!(notices, [Notice::Gone]);
}

#[test]
fn a_namespace_that_grows_is_told_of() {
    let mut rig = rig();
    rig.soft.resize_namespace(1, 128 << 20);
    let mut notices = Vec::new();
    for _ in 0..100 {
        rig.pace.step();
        notices.extend(rig.controller.service());
    }
    assert_eq!(notices, [Notice::Event(AsyncEvent::NAMESPACE_CHANGED)]);
    let now = rig
        .controller
        .namespace(rig.namespace.nsid)
        .unwrap()
        .unwrap();
    assert_eq!(now.blocks, 2 * rig.namespace.blocks);
    // Its log page was read, so that the next change is told of too.
    rig.soft.resize_namespace(1, 64 << 20);
    for _ in 0..100 {
        rig.pace.step();
        notices.extend(rig.controller.service());
    }
    assert_eq!(notices.len(), 2);
}

#[test]
fn formats_change_the_block_size() {
    let soft = SoftConfig::with_namespace(64 << 20, 9);
    let formats = soft.namespaces[0].formats.clone();
    let mut rig = Rig::new(soft, ControllerConfig::default());
    let other = rig
        .namespace
        .formats
        .iter()
        .find(|format| format.block_bytes == 4096 && format.metadata_bytes == 0)
        .copied();
    let Some(other) = other else {
        panic!("no such format among {formats:?}");
    };
    rig.controller
        .format(rig.namespace.nsid, other.index)
        .unwrap();
    let now = rig
        .controller
        .namespace(rig.namespace.nsid)
        .unwrap()
        .unwrap();
    assert_eq!(now.block_size.unwrap().bytes(), 4096);
}

#[test]
fn a_queue_pair_closed_before_a_reset_does_not_spoil_the_shutdown() {
    let config = ControllerConfig {
        io_queues: 2,
        ..ControllerConfig::default()
    };
    let mut rig = Rig::new(SoftConfig::with_namespace(64 << 20, 9), config);
    let parts = rig.controller.create_queue().unwrap();
    drop(IoQueue::<Payload>::open(parts).unwrap());
    rig.controller.reset().unwrap();
    rig.controller.shut_down().unwrap();
}

#[test]
fn the_error_log_tells_which_command_failed_and_how() {
    let mut rig = rig();
    let before = rig.controller.error_log().unwrap().len();
    rig.soft.set_media_fault(1, 77, Some(MediaFault::Read));
    let (queue, ns) = (rig.queue.clone(), rig.namespace.clone());
    for _ in 0..2 {
        let memory = Payload::from(rig.lease(4096));
        let (result, _) = rig.wait(queue.read(&ns, Lba(72), 8, memory));
        assert!(result.is_err());
    }
    let log = rig.controller.error_log().unwrap();
    assert_eq!(log.len(), before + 2);
    assert_eq!(
        log[0].error_count.get(),
        log[1].error_count.get() + 1,
        "the newest first"
    );
    let told = log[0].told().to_string();
    for part in [
        "Unrecovered Read Error",
        "command of queue 1 with opcode 0x02",
        "namespace 1, block 72",
    ] {
        assert!(told.contains(part), "no {part} in: {told}");
    }
}
