//! Reactors as the other threads see them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, mpsc};
use std::thread::JoinHandle;

use crate::config::{ReactorConfig, ReactorError};
use crate::core;
use crate::mailbox::{Mailbox, MailboxFull};
use crate::stall::{Heartbeat, start_watcher};
use crate::stats::ReactorStats;

/// What the reactor's thread and all others share.
pub(crate) struct Shared {
    pub(crate) id: u32,
    pub(crate) mailbox: Mailbox,
    pub(crate) stats: ReactorStats,
    pub(crate) stop: AtomicBool,
    pub(crate) heartbeat: Heartbeat,
}

static REACTORS: RwLock<Vec<Arc<Shared>>> = RwLock::new(Vec::new());

/// All running reactors.
pub(crate) fn registered() -> Vec<Arc<Shared>> {
    REACTORS
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

/// Wakes a task of another reactor.
pub(crate) fn wake_remote(reactor: u32, packed: u64) {
    let reactors = REACTORS.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(shared) = reactors.iter().find(|shared| shared.id == reactor) {
        shared.mailbox.wake_task(packed);
    }
}

/// A running reactor. Cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct ReactorHandle {
    shared: Arc<Shared>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl ReactorHandle {
    /// Starts a reactor thread, pins it, makes its ring, runs `init` on it and then its loop.
    ///
    /// # Errors
    /// [`ReactorError`] where the thread, the pinning or the ring is refused; nothing is left behind.
    pub fn start(
        config: ReactorConfig,
        init: impl FnOnce() + Send + 'static,
    ) -> Result<ReactorHandle, ReactorError> {
        crate::clock::now();
        let id = config.id;
        let ring_error = |source| ReactorError::Ring { id, source };
        let shared = Arc::new(Shared {
            id,
            mailbox: Mailbox::new().map_err(ring_error)?,
            stats: ReactorStats::default(),
            stop: AtomicBool::new(false),
            heartbeat: Heartbeat::new(config.stall_threshold_ms.max(1)),
        });
        let thread = Arc::new(Mutex::new(None));
        let handle = ReactorHandle {
            shared: Arc::clone(&shared),
            thread: Arc::clone(&thread),
        };
        let (report, started) = mpsc::channel();
        let own_handle = handle.clone();
        let join = std::thread::Builder::new()
            .name(format!("reactor-{id}"))
            .spawn(move || core::thread_main(&config, own_handle, init, &report))
            .map_err(|source| ReactorError::Thread { id, source })?;
        match started.recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let _ = join.join();
                return Err(error);
            }
            Err(_) => {
                let _ = join.join();
                return Err(ring_error(std::io::Error::other(
                    "the reactor's thread ended while starting",
                )));
            }
        }
        *thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(join);
        start_watcher();
        Ok(handle)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The reactor's number.
    pub fn id(&self) -> u32 {
        self.shared.id
    }

    /// Runs a closure on the reactor soon. Not for the I/O path: it boxes the closure.
    ///
    /// # Errors
    /// [`MailboxFull`] where the reactor is stalled or gone.
    pub fn run(&self, f: impl FnOnce() + Send + 'static) -> Result<(), MailboxFull> {
        self.shared.mailbox.send(Box::new(f))
    }

    /// The reactor's counters.
    pub fn stats(&self) -> &ReactorStats {
        &self.shared.stats
    }

    /// Asks the reactor to end; operations in flight are cancelled, tasks dropped.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.mailbox.ring_bell();
    }

    /// Whether the reactor's thread still runs.
    pub fn is_running(&self) -> bool {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        thread.as_ref().is_some_and(|join| !join.is_finished())
    }

    /// Waits for the reactor's thread to end. False if it ended by a panic.
    pub fn join(&self) -> bool {
        let join = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        join.is_none_or(|join| join.join().is_ok())
    }
}

/// Lists the reactor for wake-ups and the stall detector while it lives.
pub(crate) struct Registration(u32);

impl Registration {
    pub(crate) fn new(shared: &Arc<Shared>) -> Registration {
        REACTORS
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(shared));
        Registration(shared.id)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut reactors = REACTORS.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = reactors.iter().position(|shared| shared.id == self.0) {
            reactors.remove(index);
        }
    }
}
