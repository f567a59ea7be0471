//! The stall detector: one thread that watches every reactor and names what holds it up.

use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Once};
use std::time::Duration;

use crate::clock::{now, ticks_to_ns};
use crate::handle::{Shared, registered};

/// What a reactor is doing, by name: a thin pointer, so that noting it is one store.
pub(crate) type Activity = &'static &'static str;

pub(crate) static MAILBOX: &str = "mailbox message";
pub(crate) static ACCEPT: &str = "accept completion";
pub(crate) static RECEIVE: &str = "receive completion";
pub(crate) static SEND: &str = "send completion";
pub(crate) static FILE: &str = "file completion";
pub(crate) static ROUND_END: &str = "round-end hook";
pub(crate) static RESUME: &str = "stream resume";
pub(crate) static TIMERS: &str = "timers";
pub(crate) static KERNEL: &str = "io_uring_enter";
pub(crate) static POLLER: &str = "device poller";
pub(crate) static TASK: &str = "task";

/// What the watcher reads.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    /// When the running round began; 0 while asleep.
    round_started: AtomicU64,
    activity: AtomicPtr<&'static str>,
    threshold_ms: u64,
}

impl Heartbeat {
    pub(crate) fn new(threshold_ms: u32) -> Heartbeat {
        Heartbeat {
            round_started: AtomicU64::new(0),
            activity: AtomicPtr::new(std::ptr::from_ref(&TASK).cast_mut()),
            threshold_ms: u64::from(threshold_ms),
        }
    }

    #[inline]
    pub(crate) fn begin_round(&self, at: u64) {
        self.round_started.store(at, Relaxed);
    }

    #[inline]
    pub(crate) fn activity(&self, activity: Activity) {
        self.activity
            .store(std::ptr::from_ref(activity).cast_mut(), Relaxed);
    }

    fn running_activity(&self) -> &'static str {
        let pointer = self.activity.load(Relaxed);
        // SAFETY: only `activity` and `new` store here, and both store `&'static &'static str`.
        unsafe { *pointer }
    }
}

/// Starts the watcher, once for the process.
pub(crate) fn start_watcher() {
    static WATCHER: Once = Once::new();
    WATCHER.call_once(|| {
        let watcher = std::thread::Builder::new()
            .name("stall-detector".into())
            .spawn(watch);
        if let Err(error) = watcher {
            tracing::warn!(%error, "the stall detector cannot start; stalls will not be reported");
        }
    });
}

fn watch() {
    let mut reported: Vec<(u32, u64)> = Vec::new();
    loop {
        let reactors = registered();
        let shortest_ms = reactors
            .iter()
            .map(|r| r.heartbeat.threshold_ms)
            .min()
            .unwrap_or(100);
        std::thread::sleep(Duration::from_millis((shortest_ms / 2).clamp(5, 250)));
        for reactor in &reactors {
            check(reactor, &mut reported);
        }
    }
}

fn check(reactor: &Arc<Shared>, reported: &mut Vec<(u32, u64)>) {
    let started = reactor.heartbeat.round_started.load(Relaxed);
    let known = reported.iter().position(|(id, _)| *id == reactor.id);
    if let Some(index) = known
        && reported[index].1 != started
    {
        reported.remove(index);
    } else if known.is_some() {
        return;
    }
    if started == 0 {
        return;
    }
    let stalled_ms = ticks_to_ns(now().saturating_sub(started)) / 1_000_000;
    if stalled_ms >= reactor.heartbeat.threshold_ms {
        reactor.stats.stalls.fetch_add(1, Relaxed);
        let poller = reactor.heartbeat.running_activity();
        tracing::warn!(reactor = reactor.id, poller, stalled_ms, "reactor stalled");
        reported.push((reactor.id, started));
    }
}
