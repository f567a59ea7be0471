//! The thread that keeps a drive: events, late commands, resets, health.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use penstock_async_nvme::{Controller, ControllerError, Notice};
use penstock_nvme::event::AsyncEvent;
use penstock_nvme::log::HealthLog;
use penstock_reactor::ReactorHandle;
use penstock_units::Nsid;

use super::stats::DriveStats;

/// How often the keeper looks.
const ROUND: Duration = Duration::from_millis(10);
/// How often it reads the drive's health.
const HEALTH_EVERY: Duration = Duration::from_secs(60);

/// A drive's health, as it last said (Base 2.1, 5.1.12.1.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriveHealth {
    /// Composite temperature in kelvin.
    pub temperature_kelvin: u16,
    /// Wear in percent of what the maker expects; may exceed 100.
    pub used_percent: u8,
    /// Spare blocks left in percent.
    pub spare_percent: u8,
    /// Critical warnings, as bits.
    pub critical_warning: u8,
    /// Media and data integrity errors.
    pub media_errors: u64,
}

impl DriveHealth {
    fn of(log: &HealthLog) -> DriveHealth {
        DriveHealth {
            temperature_kelvin: log.temperature.get(),
            used_percent: log.percentage_used,
            spare_percent: log.available_spare,
            critical_warning: log.critical_warning,
            media_errors: u64::try_from(log.media_errors.get()).unwrap_or(u64::MAX),
        }
    }
}

/// What a drive's threads share.
pub struct Kept {
    name: String,
    controller: Mutex<Controller>,
    reactors: Mutex<Vec<ReactorHandle>>,
    /// Sizes of the namespaces in use, in blocks.
    sizes: Mutex<Vec<(Nsid, Arc<AtomicU64>)>>,
    health: Mutex<Option<DriveHealth>>,
    stop: AtomicBool,
    gone: AtomicBool,
    stats: DriveStats,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kept {
    pub(super) fn new(name: String, controller: Controller) -> Kept {
        Kept {
            name,
            controller: Mutex::new(controller),
            reactors: Mutex::default(),
            sizes: Mutex::default(),
            health: Mutex::default(),
            stop: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            stats: DriveStats::default(),
        }
    }

    /// The drive's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn controller(&self) -> MutexGuard<'_, Controller> {
        lock(&self.controller)
    }

    pub(super) fn add_reactor(&self, reactor: ReactorHandle) {
        lock(&self.reactors).push(reactor);
    }

    /// From now on `blocks` follows the size of the namespace.
    pub(super) fn watch(&self, nsid: Nsid, blocks: Arc<AtomicU64>) {
        lock(&self.sizes).push((nsid, blocks));
    }

    /// The drive's health as last read; `None` before that.
    pub fn health(&self) -> Option<DriveHealth> {
        *lock(&self.health)
    }

    /// Its counters.
    pub fn stats(&self) -> &DriveStats {
        &self.stats
    }

    /// Whether the drive is gone for good.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Has every reactor look at its queue pair soon: one that sleeps would not.
    fn wake_reactors(&self) {
        for reactor in lock(&self.reactors).iter() {
            // One that is gone or stalled is beyond waking.
            let _ = reactor.run(|| {});
        }
    }

    fn round(&self) {
        let notice = self.controller().service();
        match notice {
            None => {}
            Some(Notice::Event(event)) => self.on_event(event),
            Some(Notice::Aborted { queue, cid, done }) => {
                self.stats.aborts.add(1);
                tracing::warn!(drive = self.name, %queue, cid, done, "a command took too long");
            }
            Some(Notice::Reset) => {
                self.stats.resets.add(1);
                tracing::warn!(drive = self.name, "the drive was reset");
            }
            Some(Notice::Gone) => {
                self.gone.store(true, Ordering::Release);
                tracing::error!(drive = self.name, "the drive is gone; its namespaces fail");
                self.wake_reactors();
            }
        }
    }

    fn on_event(&self, event: AsyncEvent) {
        self.stats.events.add(1);
        let what = event.name().unwrap_or("an event without a name");
        tracing::info!(drive = self.name, ?event, what, "the drive tells");
        if event == AsyncEvent::NAMESPACE_CHANGED {
            self.look_at_namespaces();
        } else {
            self.read_health();
        }
    }

    fn look_at_namespaces(&self) {
        for (nsid, blocks) in lock(&self.sizes).iter() {
            match self.controller().namespace(*nsid) {
                Ok(Some(namespace)) => blocks.store(namespace.blocks, Ordering::Release),
                // Its commands say so themselves.
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(drive = self.name, %nsid, %error, "a namespace does not answer");
                }
            }
        }
    }

    fn read_health(&self) {
        match self.controller().health() {
            Ok(log) => *lock(&self.health) = Some(DriveHealth::of(&log)),
            Err(error) => tracing::warn!(drive = self.name, %error, "no health from the drive"),
        }
    }

    /// Takes the controller down; nothing where that was done already.
    pub(super) fn shut_down(&self) -> Result<(), ControllerError> {
        if self.gone.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let result = self.controller().shut_down();
        self.wake_reactors();
        result
    }
}

/// The keeper's thread. Clones share it.
#[derive(Clone)]
pub(super) struct Keeper {
    kept: Arc<Kept>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Keeper {
    pub(super) fn start(kept: Arc<Kept>) -> std::io::Result<Keeper> {
        let ours = Arc::clone(&kept);
        let thread = std::thread::Builder::new()
            .name("nvme-keeper".to_owned())
            .spawn(move || run(&ours))?;
        Ok(Keeper {
            kept,
            thread: Arc::new(Mutex::new(Some(thread))),
        })
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        self.kept.stop.store(true, Ordering::Release);
        if let Some(thread) = lock(&self.thread).take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

fn run(kept: &Kept) {
    let mut health_at = Instant::now();
    while !kept.stop.load(Ordering::Acquire) && !kept.is_gone() {
        kept.round();
        if Instant::now() >= health_at {
            kept.read_health();
            health_at = Instant::now() + HEALTH_EVERY;
        }
        std::thread::park_timeout(ROUND);
    }
}
