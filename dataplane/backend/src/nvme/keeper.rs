//! The thread that keeps a drive: events, late commands, resets, health.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use penstock_async_nvme::{
    ControllerError, ControllerMemory, Driver, Namespace, Notice, PairParts,
};
use penstock_nvme::Status;
use penstock_nvme::event::AsyncEvent;
use penstock_nvme::log::{ErrorEntry, HealthLog, LogPage};
use penstock_reactor::ReactorHandle;
use penstock_units::Nsid;

use super::drive::Held;
use super::errors::ErrorWatch;
use super::stats::DriveStats;

/// How often the keeper looks.
const ROUND: Duration = Duration::from_millis(10);
/// How often it reads the drive's health.
const HEALTH_EVERY: Duration = Duration::from_secs(60);
/// How long reactors may take to let go of a drive.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);

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

/// What a reactor takes to work with a drive.
pub(super) struct Share {
    /// Its queue pair.
    pub(super) parts: PairParts,
    /// Its part of the drive's own memory, for payload.
    pub(super) memory: Option<ControllerMemory>,
}

/// What a drive's threads share.
pub struct Kept {
    name: String,
    /// `None` once the drive is gone or was shut down.
    controller: Mutex<Option<Box<dyn Driver>>>,
    /// The drive as the kernel gave it to us; `None` for one that is no PCI device, or is gone.
    held: Mutex<Option<Held>>,
    reactors: Mutex<Vec<ReactorHandle>>,
    /// For reactors that have not come for theirs yet.
    shares: Mutex<Vec<Share>>,
    /// Sizes of the namespaces in use, in blocks.
    sizes: Mutex<Vec<(Nsid, Arc<AtomicU64>)>>,
    health: Mutex<Option<DriveHealth>>,
    stop: AtomicBool,
    gone: AtomicBool,
    /// The drive told of an error that is in its log.
    error_event: AtomicBool,
    stats: DriveStats,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kept {
    pub(super) fn new(
        name: String,
        controller: Box<dyn Driver>,
        held: Option<Held>,
        shares: Vec<Share>,
    ) -> Kept {
        Kept {
            name,
            controller: Mutex::new(Some(controller)),
            held: Mutex::new(held),
            reactors: Mutex::default(),
            shares: Mutex::new(shares),
            sizes: Mutex::default(),
            health: Mutex::default(),
            stop: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            error_event: AtomicBool::new(false),
            stats: DriveStats::default(),
        }
    }

    /// The drive's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Does something with the controller.
    pub(super) fn with_controller<T>(
        &self,
        f: impl FnOnce(&mut dyn Driver) -> Result<T, ControllerError>,
    ) -> Result<T, ControllerError> {
        f(lock(&self.controller)
            .as_deref_mut()
            .ok_or(ControllerError::Gone)?)
    }

    /// One namespace as it is now; `None` where there is none of that number.
    pub(super) fn namespace(&self, nsid: Nsid) -> Result<Option<Namespace>, ControllerError> {
        self.with_controller(|controller| controller.namespace(nsid))
            .or_else(absent)
    }

    /// A share for this reactor; `None` where all are taken, or the drive is gone.
    pub(super) fn take_share(&self) -> Option<Share> {
        lock(&self.shares).pop()
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
        if lock(&self.held)
            .as_ref()
            .is_some_and(|held| held.device.removal_requested())
        {
            tracing::warn!(drive = self.name, "the drive is being taken away");
            if let Err(error) = self.shut_down() {
                tracing::warn!(drive = self.name, %error, "it was not shut down in order");
            }
            return;
        }
        let notice = lock(&self.controller)
            .as_mut()
            .and_then(|controller| controller.service());
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
                tracing::error!(drive = self.name, "the drive is gone; its namespaces fail");
                self.let_go();
            }
        }
    }

    /// Nothing of ours holds the drive any more, once its queue pairs have noticed.
    fn let_go(&self) {
        self.gone.store(true, Ordering::Release);
        let controller = lock(&self.controller).take();
        drop(controller);
        // They hold registers and memory of the drive.
        lock(&self.shares).clear();
        self.wake_reactors();
        if let Some(held) = lock(&self.held).take() {
            held.close(RELEASE_LIMIT);
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
        if event.log_page == u8::from(LogPage::Error) {
            self.error_event.store(true, Ordering::Release);
        }
    }

    /// Whether the drive told of an error since the last call.
    pub(super) fn take_error_event(&self) -> bool {
        self.error_event.swap(false, Ordering::AcqRel)
    }

    /// The drive's error log, the newest entry first.
    pub(super) fn error_log(&self) -> Result<Vec<ErrorEntry>, ControllerError> {
        self.with_controller(|controller| controller.error_log())
    }

    fn look_at_namespaces(&self) {
        for (nsid, blocks) in lock(&self.sizes).iter() {
            match self.namespace(*nsid) {
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
        match self.with_controller(|controller| controller.health()) {
            Ok(log) => *lock(&self.health) = Some(DriveHealth::of(&log)),
            Err(error) => tracing::warn!(drive = self.name, %error, "no health from the drive"),
        }
    }

    /// Takes the controller down; nothing where that was done already.
    pub(super) fn shut_down(&self) -> Result<(), ControllerError> {
        if self.is_gone() {
            return Ok(());
        }
        let result = self.with_controller(|controller| controller.shut_down());
        self.let_go();
        result
    }
}

/// A drive answers Invalid Namespace or Format for one that is not there.
fn absent(error: ControllerError) -> Result<Option<Namespace>, ControllerError> {
    match error {
        ControllerError::Refused { status, .. } if status.code() == Status::INVALID_NAMESPACE => {
            Ok(None)
        }
        error => Err(error),
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
    let mut errors = ErrorWatch::default();
    while !kept.stop.load(Ordering::Acquire) {
        kept.round();
        if kept.is_gone() {
            return;
        }
        if Instant::now() >= health_at {
            kept.read_health();
            health_at = Instant::now() + HEALTH_EVERY;
        }
        errors.look(kept);
        std::thread::park_timeout(ROUND);
    }
}
