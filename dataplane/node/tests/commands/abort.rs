//! Abort (Base 2.1, 5.1.1): what waits is taken back, what a device works on goes on.

use std::time::Duration;

use penstock_client::ClientError;
use penstock_nvme::IoOpcode;
use penstock_nvme::Status;
use penstock_nvme::command::BlockRange;
use penstock_reactor::sleep;
use penstock_units::{CommandId, Lba, QueueId};

use crate::daemon::{NQN, head, listener, memory, subsystem};
use crate::host;
use crate::rig::{Rig, all, both, lease, pattern, refusal, slow_null};

const PAUSE: Duration = Duration::from_millis(50);

#[test]
fn a_command_in_the_device_goes_on() {
    Rig::new(&slow_null(1, 300_000)).run(|session| async move {
        let disk = session.disk(1, 4096);
        let abort = async {
            sleep(PAUSE).await;
            let id = session.queue.outstanding()[0].id;
            session.controller.abort(QueueId(1), id).await
        };
        let (read, aborted) = both(disk.read(0, 1), abort).await;
        assert!(!aborted?, "not aborted, says bit 0");
        assert!(read? == [0; 4096]);
        Ok(())
    });
}

/// A plain write waits while a fused pair has the namespace for itself.
#[test]
fn a_command_that_waits_is_taken_back() {
    let both_kinds = slow_null(1, 400_000) + &memory(2, 1 << 20);
    Rig::new(&both_kinds).run(|session| async move {
        let disk = session.disk(1, 4096);
        let (zeroes, new) = ([0; 4096], pattern(1, 4096));
        let fused = disk.swap(0, &zeroes, &new);
        let victim = async {
            sleep(PAUSE).await;
            let before: Vec<_> = session.queue.outstanding();
            assert_eq!(before.len(), 2, "the pair");
            let abort = async {
                sleep(PAUSE).await;
                let mut now = session.queue.outstanding();
                now.retain(|one| !before.iter().any(|other| other.id == one.id));
                assert_eq!(now.len(), 1, "the write");
                session.controller.abort(QueueId(1), now[0].id).await
            };
            both(disk.write(3, &new, false), abort).await
        };
        let (fused, (write, aborted)) = both(fused, victim).await;
        assert!(aborted?);
        assert_eq!(refusal(write).code(), Status::ABORT_REQUESTED);
        fused?;
        // The identifier is free again, and so is the namespace.
        disk.write(3, &new, false).await?;
        let other = session.disk(2, 4096);
        other.write(0, &new, false).await?;
        assert!(other.read(0, 1).await? == new);
        Ok(())
    });
}

#[test]
fn an_event_request_is_taken_back() {
    Rig::new(&memory(1, 1 << 20)).run(|session| async move {
        let abort = async {
            sleep(PAUSE).await;
            // The first of the admin queue's identifiers: nothing else is in flight there.
            session.controller.abort(QueueId::ADMIN, CommandId(0)).await
        };
        let (event, aborted) = both(session.controller.next_event(), abort).await;
        assert!(aborted?);
        assert_eq!(refusal(event).code(), Status::ABORT_REQUESTED);
        Ok(())
    });
}

#[test]
fn no_more_event_requests_at_once_than_identify_says() {
    Rig::new(&memory(1, 1 << 20)).run(|session| async move {
        let identity = session.controller.identify_controller().await?;
        let most = u16::from(identity.aerl) + 1;
        let beyond = async {
            sleep(PAUSE).await;
            let status = refusal(session.controller.next_event().await);
            assert_eq!(status.code(), Status::ASYNC_EVENT_LIMIT_EXCEEDED);
            for id in 0..most {
                let aborted = session.controller.abort(QueueId::ADMIN, CommandId(id));
                assert!(aborted.await?, "request {id}");
            }
            Ok::<_, ClientError>(())
        };
        let requests = all((0..most).map(|_| session.controller.next_event()));
        let (events, beyond) = both(requests, beyond).await;
        for event in events {
            assert_eq!(refusal(event).code(), Status::ABORT_REQUESTED);
        }
        beyond
    });
}

#[test]
fn nobody_aborts_what_is_not_there() {
    Rig::new(&memory(1, 1 << 20)).run(|session| async move {
        let cases = [
            (1, 0),
            (1, 7),
            (1, 0xffff),
            (9, 0),
            (0xffff, 0xffff),
            (0, 9),
        ];
        for (queue, id) in cases {
            let aborted = session.controller.abort(QueueId(queue), CommandId(id));
            assert!(!aborted.await?, "queue {queue}, command {id}");
        }
        // Itself: the first identifier of an idle admin queue.
        let itself = session.controller.abort(QueueId::ADMIN, CommandId(0));
        assert!(!itself.await?);
        Ok(())
    });
}

/// With two reactors, so that an Abort is in progress until the other reactor has answered.
#[test]
fn no_more_aborts_at_once_than_identify_says() {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        println!("skipped: one processor has one reactor");
        return;
    }
    let two = head().replace("pin = false", "pin = false\ncores = [0, 1]");
    let config =
        move |_: &_| two + &listener("127.0.0.1:0") + &subsystem(NQN) + &memory(1, 1 << 20);
    Rig::with(config).run(|session| async move {
        let identity = session.controller.identify_controller().await?;
        let most = usize::from(identity.acl) + 1;
        assert_eq!(most, 4);
        let (mut done, mut beyond) = (0, 0);
        for _ in 0..200 {
            let aborts = (0..24).map(|id| session.controller.abort(QueueId(1), CommandId(id)));
            for result in all(aborts).await {
                match result {
                    Ok(aborted) => {
                        assert!(!aborted);
                        done += 1;
                    }
                    Err(error) => {
                        let code = error.status().map(Status::code);
                        assert_eq!(code, Some(Status::ABORT_LIMIT_EXCEEDED), "{error}");
                        beyond += 1;
                    }
                }
            }
            if beyond > 0 && done > 0 {
                break;
            }
        }
        assert!(beyond > 0 && done > 0, "{done} done, {beyond} beyond");
        // All are over: the next has room.
        session
            .controller
            .abort(QueueId(1), CommandId(3))
            .await
            .map(drop)
    });
}

/// A first half of a pair that never gets its second would wait for ever.
#[test]
fn a_lonely_first_half_is_taken_back() {
    Rig::new(&memory(1, 1 << 20)).run(|session| async move {
        let range = BlockRange::new(Lba(0), 1).encode(IoOpcode::Compare, host::nsid(1));
        let half = range
            .expect("a command")
            .with_fuse(penstock_nvme::sqe::Fuse::First);
        let data = lease(&session.pool, &[0; 4096]).await;
        let abort = async {
            sleep(PAUSE).await;
            let id = session.queue.outstanding()[0].id;
            session.controller.abort(QueueId(1), id).await
        };
        let (half, aborted) = both(session.queue.raw(half, Some(data)), abort).await;
        assert!(aborted?);
        assert_eq!(refusal(half).code(), Status::ABORT_REQUESTED);
        let disk = session.disk(1, 4096);
        let new = pattern(1, 4096);
        disk.write(0, &new, false).await?;
        disk.swap(0, &new, &pattern(2, 4096)).await
    });
}
