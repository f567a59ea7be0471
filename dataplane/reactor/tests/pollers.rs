//! Devices that are polled every round.
#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used, clippy::panic)]

use std::cell::Cell;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use penstock_reactor::{
    PollMode, Polled, Poller, ReactorConfig, ReactorHandle, add_poller, add_poller_with_event,
    sleep, spawn,
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

/// A device in a thread of its own that works on one command at a time and signals each end.
struct Slow {
    /// Delays of the commands, to the device.
    commands: mpsc::Sender<Duration>,
    posted: Arc<AtomicU64>,
    taken: Cell<u64>,
    wanted: u64,
    asked: Cell<Instant>,
    /// The longest that a command took.
    report: mpsc::Sender<Duration>,
    longest: Cell<Duration>,
}

impl Slow {
    fn ask(&self) {
        self.asked.set(Instant::now());
        // Some end before the reactor sleeps, some while it goes to sleep, some after.
        let delay = Duration::from_micros(self.taken.get() * 7 % 60);
        self.commands.send(delay).expect("device");
    }
}

impl Poller for Slow {
    fn poll(&self) -> Polled {
        if self.taken.get() == self.wanted {
            return Polled::Idle;
        }
        if self.posted.load(Ordering::Acquire) == self.taken.get() {
            return Polled::Waiting;
        }
        let longest = self.longest.get().max(self.asked.get().elapsed());
        self.longest.set(longest);
        self.taken.set(self.taken.get() + 1);
        if self.taken.get() == self.wanted {
            self.report.send(longest).expect("report");
        } else {
            self.ask();
        }
        Polled::Worked
    }

    fn may_sleep_ns(&self) -> Option<u64> {
        (self.posted.load(Ordering::Acquire) == self.taken.get()).then_some(u64::MAX)
    }
}

#[test]
fn an_event_wakes_a_reactor_that_sleeps_while_its_device_works() {
    const COMMANDS: u64 = 20_000;
    let reactor = reactor(221);
    let (mut signal, event) = UnixStream::pair().expect("event");
    event.set_nonblocking(true).expect("event");
    let posted = Arc::new(AtomicU64::new(0));
    let (commands, todo) = mpsc::channel::<Duration>();
    let ends = Arc::clone(&posted);
    let device = std::thread::spawn(move || {
        for delay in todo {
            let asked = Instant::now();
            while asked.elapsed() < delay {
                std::hint::spin_loop();
            }
            ends.fetch_add(1, Ordering::Release);
            signal.write_all(&[1; 8]).expect("signal");
        }
    });
    let (report, reports) = mpsc::channel();
    reactor
        .run(move || {
            let slow = Rc::new(Slow {
                commands,
                posted,
                taken: Cell::new(0),
                wanted: COMMANDS,
                asked: Cell::new(Instant::now()),
                report,
                longest: Cell::default(),
            });
            slow.ask();
            let guard = add_poller_with_event(slow, event);
            spawn(async move {
                sleep(Duration::from_secs(3600)).await;
                drop(guard);
            });
        })
        .expect("mailbox");
    let longest = reports.recv_timeout(Duration::from_secs(60)).expect("end");
    // A wake-up lost would cost the longest sleep there is, a second.
    assert!(longest < Duration::from_millis(900), "{longest:?}");
    let slept = reactor.stats().snapshot().sleeps;
    assert!(slept > COMMANDS / 20, "slept {slept} times only");
    reactor.stop();
    assert!(reactor.join());
    device.join().expect("device");
}

/// A device that is done just after it was looked at for the last time before a sleep.
struct Sly {
    signal: UnixStream,
    posted: Cell<bool>,
    left: Cell<u32>,
    report: mpsc::Sender<()>,
}

impl Poller for Sly {
    fn poll(&self) -> Polled {
        if !self.posted.replace(false) {
            return Polled::Waiting;
        }
        self.left.set(self.left.get() - 1);
        if self.left.get() == 0 {
            self.report.send(()).expect("report");
        }
        Polled::Worked
    }

    fn may_sleep_ns(&self) -> Option<u64> {
        if self.left.get() > 0 {
            self.posted.set(true);
            (&self.signal).write_all(&[1; 8]).expect("signal");
        }
        Some(u64::MAX)
    }
}

#[test]
fn an_event_between_the_last_look_and_the_sleep_is_not_lost() {
    let reactor = reactor(222);
    let (signal, event) = UnixStream::pair().expect("event");
    event.set_nonblocking(true).expect("event");
    let (report, reports) = mpsc::channel();
    let began = Instant::now();
    reactor
        .run(move || {
            let sly = Rc::new(Sly {
                signal,
                posted: Cell::new(false),
                left: Cell::new(100),
                report,
            });
            let guard = add_poller_with_event(sly, event);
            spawn(async move {
                sleep(Duration::from_secs(3600)).await;
                drop(guard);
            });
        })
        .expect("mailbox");
    reports.recv_timeout(Duration::from_secs(150)).expect("end");
    // A wake-up lost would cost a second.
    let took = began.elapsed();
    assert!(took < Duration::from_millis(900), "{took:?}");
    reactor.stop();
    assert!(reactor.join());
}
