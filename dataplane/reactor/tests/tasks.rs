//! Tasks, timers, wake-ups from other threads, the stall detector.
#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used, clippy::panic)]

use std::future::poll_fn;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use penstock_reactor::{PollMode, ReactorConfig, ReactorHandle, cancel, run_now, sleep, spawn};

fn reactor(id: u32, poll: PollMode) -> ReactorHandle {
    let config = ReactorConfig {
        id,
        poll,
        stall_threshold_ms: 50,
        ..ReactorConfig::default()
    };
    ReactorHandle::start(config, || {}).expect("reactor")
}

#[test]
fn sleeping_tasks_wake_in_time_order() {
    let reactor = reactor(200, PollMode::Adaptive { idle_us: 10 });
    let (report, reports) = mpsc::channel();
    reactor
        .run(move || {
            for ms in [60_u64, 20, 40] {
                let report = report.clone();
                spawn(async move {
                    sleep(Duration::from_millis(ms)).await;
                    report.send(ms).expect("report");
                });
            }
        })
        .expect("mailbox");
    let started = Instant::now();
    let order: Vec<u64> = (0..3)
        .map(|_| reports.recv_timeout(Duration::from_secs(2)).expect("wake"))
        .collect();
    assert_eq!(order, [20, 40, 60]);
    assert!(started.elapsed() >= Duration::from_millis(55));
    reactor.stop();
    assert!(reactor.join());
}

#[test]
fn a_waker_works_from_another_thread_and_after_its_task() {
    let reactor = reactor(201, PollMode::Adaptive { idle_us: 10 });
    let shared: Arc<Mutex<(bool, Option<Waker>)>> = Arc::default();
    let (report, reports) = mpsc::channel();
    let on_reactor = Arc::clone(&shared);
    reactor
        .run(move || {
            spawn(async move {
                poll_fn(|cx| {
                    let mut state = on_reactor.lock().expect("lock");
                    state.1 = Some(cx.waker().clone());
                    if state.0 {
                        Poll::Ready(())
                    } else {
                        Poll::Pending
                    }
                })
                .await;
                report.send(()).expect("report");
            });
        })
        .expect("mailbox");
    std::thread::sleep(Duration::from_millis(50));
    let waker = {
        let mut state = shared.lock().expect("lock");
        state.0 = true;
        state.1.clone().expect("waker")
    };
    waker.wake_by_ref();
    reports.recv_timeout(Duration::from_secs(2)).expect("woken");
    waker.wake();
    reactor.stop();
    assert!(reactor.join());
}

#[test]
fn cancelled_tasks_drop_their_futures_and_run_now_is_immediate() {
    struct Note(mpsc::Sender<&'static str>);
    impl Drop for Note {
        fn drop(&mut self) {
            let _ = self.0.send("dropped");
        }
    }
    let reactor = reactor(202, PollMode::Busy);
    let (report, reports) = mpsc::channel();
    reactor
        .run(move || {
            let note = Note(report.clone());
            let polled = report.clone();
            let task = spawn(async move {
                let _note = note;
                polled.send("polled").expect("report");
                std::future::pending::<()>().await;
            });
            run_now(task);
            report.send("after run_now").expect("report");
            cancel(task);
            cancel(task);
            run_now(task);
            report.send("after cancel").expect("report");
        })
        .expect("mailbox");
    let seen: Vec<&str> = (0..4)
        .map(|_| reports.recv_timeout(Duration::from_secs(2)).expect("event"))
        .collect();
    assert_eq!(seen, ["polled", "after run_now", "dropped", "after cancel"]);
    reactor.stop();
    assert!(reactor.join());
}

#[test]
fn a_stall_is_noticed() {
    let reactor = reactor(203, PollMode::Adaptive { idle_us: 10 });
    reactor
        .run(|| std::thread::sleep(Duration::from_millis(300)))
        .expect("mailbox");
    let deadline = Instant::now() + Duration::from_secs(3);
    while reactor.stats().snapshot().stalls == 0 {
        assert!(Instant::now() < deadline, "stall not noticed");
        std::thread::sleep(Duration::from_millis(10));
    }
    reactor.stop();
    assert!(reactor.join());
}

#[test]
fn an_impossible_core_is_refused_by_name() {
    let config = ReactorConfig {
        id: 204,
        core: Some(900),
        ..ReactorConfig::default()
    };
    let Err(error) = ReactorHandle::start(config, || {}) else {
        panic!("core 900 was accepted")
    };
    assert!(error.to_string().contains("core 900"), "{error}");
}
