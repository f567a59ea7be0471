//! Devices that are polled every round.
#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used, clippy::panic)]

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use penstock_reactor::{
    PollMode, Polled, Poller, ReactorConfig, ReactorHandle, add_poller, sleep, spawn,
};

/// Says that it waits for a number of rounds, then that it is idle.
struct Device {
    rounds_left: Cell<u64>,
    polls: Arc<AtomicU64>,
}

impl Poller for Device {
    fn poll(&self) -> Polled {
        self.polls.fetch_add(1, Ordering::Relaxed);
        match self.rounds_left.get() {
            0 => Polled::Idle,
            left => {
                self.rounds_left.set(left - 1);
                Polled::Waiting
            }
        }
    }
}

fn reactor(id: u32) -> ReactorHandle {
    let config = ReactorConfig {
        id,
        poll: PollMode::Adaptive { idle_us: 10 },
        ..ReactorConfig::default()
    };
    ReactorHandle::start(config, || {}).expect("reactor")
}

#[test]
fn a_waiting_device_keeps_its_reactor_awake_and_an_idle_one_does_not() {
    const ROUNDS: u64 = 10_000;
    let reactor = reactor(220);
    let polls = Arc::new(AtomicU64::new(0));
    let (report, reports) = mpsc::channel();
    let counted = Arc::clone(&polls);
    reactor
        .run(move || {
            let device = Rc::new(Device {
                rounds_left: Cell::new(ROUNDS),
                polls: counted,
            });
            let guard = add_poller(device);
            spawn(async move {
                sleep(Duration::from_millis(1500)).await;
                drop(guard);
                report.send(()).expect("report");
            });
        })
        .expect("mailbox");
    let started = Instant::now();
    while polls.load(Ordering::Relaxed) < ROUNDS {
        assert!(started.elapsed() < Duration::from_secs(1), "it slept");
        std::thread::sleep(Duration::from_millis(1));
    }
    reports.recv_timeout(Duration::from_secs(5)).expect("end");
    // Asleep: polled at wake-ups only, of which a second has a handful.
    let idle = polls.load(Ordering::Relaxed) - ROUNDS;
    assert!(idle < 5000, "{idle} polls while idle");
    let after = polls.load(Ordering::Relaxed);
    reactor.run(|| {}).expect("mailbox");
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(polls.load(Ordering::Relaxed), after, "polled after its end");
    reactor.stop();
    assert!(reactor.join());
}
