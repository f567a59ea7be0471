//! What a driver is to those that use drives: a controller that somebody keeps ([`Driver`]) and queue
//! pairs of the reactors ([`QueuePair`]).
//!
//! Keeping a controller is slow work, behind a pointer; a queue pair is reached for every command, so
//! [`AnyQueue`] names the drivers there are, and with one alone it costs nothing.

use std::sync::Arc;

use penstock_nvme::log::{ErrorEntry, HealthLog};
use penstock_units::Nsid;

use crate::cmb::{CmbAbilities, ControllerMemoryPool};
use crate::controller::{Controller, ControllerError, Identity, Namespace, Notice, QueueInterrupt};
use crate::dma::{DmaError, Regions};
use crate::event::Event;
use crate::io::{Buffers, Done, Io};
use crate::queue::{Queue, QueueParts, QueueStats, Wire};
#[cfg(feature = "spdk")]
use crate::spdk::{Carrier, SpdkQueueParts};

/// Whose driver drives a drive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriverChoice {
    /// This crate's own.
    #[default]
    Own,
    /// SPDK's; only with the feature `spdk`.
    Spdk(SpdkOptions),
}

impl DriverChoice {
    /// Whether it is part of this build.
    #[must_use]
    pub fn is_built_in(self) -> bool {
        self == DriverChoice::Own || cfg!(feature = "spdk")
    }
}

/// What SPDK gets of the machine; the first drive of a process decides for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpdkOptions {
    /// Memory for its queues and requests, in MiB.
    pub memory_mib: u32,
    /// Whether that is of hugepages; else of small ones, for small set-ups.
    pub hugepages: bool,
}

impl Default for SpdkOptions {
    /// 128 MiB of hugepages.
    fn default() -> SpdkOptions {
        SpdkOptions {
            memory_mib: 128,
            hugepages: true,
        }
    }
}

/// A controller that is up, kept by one thread that may wait.
pub trait Driver: Send {
    /// What the controller is.
    fn identity(&self) -> &Identity;

    /// What the device reaches; payload memory is added here.
    fn regions(&self) -> &Arc<Regions>;

    /// Namespaces attached to the controller now.
    ///
    /// # Errors
    /// [`ControllerError`].
    fn namespaces(&mut self) -> Result<Vec<Namespace>, ControllerError>;

    /// One namespace as it is now; `None` where it is not attached.
    ///
    /// # Errors
    /// [`ControllerError`].
    fn namespace(&mut self, nsid: Nsid) -> Result<Option<Namespace>, ControllerError>;

    /// Health of the drive (Base 2.1, 5.1.12.1.3).
    ///
    /// # Errors
    /// [`ControllerError`].
    fn health(&mut self) -> Result<HealthLog, ControllerError>;

    /// The drive's error log, the newest entry first (Base 2.1, 5.1.12.1.2).
    ///
    /// # Errors
    /// [`ControllerError`].
    fn error_log(&mut self) -> Result<Vec<ErrorEntry>, ControllerError>;

    /// A round of keeping the controller: events, late commands, resets. The next thing to tell.
    fn service(&mut self) -> Option<Notice>;

    /// Makes an I/O queue pair; to be opened on the thread that will use it.
    ///
    /// # Errors
    /// [`ControllerError`]: [`ControllerError::Queues`] where all are in use.
    fn create_queue(&mut self) -> Result<PairParts, ControllerError>;

    /// Makes an I/O queue pair that tells by an interrupt what has ended, so that its thread may
    /// sleep; without one ([`PairParts::event`]) where the driver has none.
    ///
    /// # Errors
    /// As [`Driver::create_queue`].
    fn create_queue_with_interrupt(
        &mut self,
        _interrupt: QueueInterrupt,
    ) -> Result<PairParts, ControllerError> {
        self.create_queue()
    }

    /// The controller memory in use; `None` where there is none or the driver cannot reach it.
    fn controller_memory(&self) -> Option<&Arc<ControllerMemoryPool>>;

    /// What the controller memory in use can hold; nothing where there is none.
    fn controller_memory_abilities(&self) -> CmbAbilities {
        self.controller_memory()
            .map_or(CmbAbilities::default(), |pool| pool.abilities())
    }

    /// Resets the controller. Requests wait and are sent again afterwards.
    ///
    /// # Errors
    /// [`ControllerError`]: the controller is gone for good then.
    fn reset(&mut self) -> Result<(), ControllerError>;

    /// Tells the drive that power may go and lets go of it.
    ///
    /// # Errors
    /// [`ControllerError`]; also where it is gone or was shut down already.
    fn shut_down(&mut self) -> Result<(), ControllerError>;
}

/// A queue pair in use by one thread, which never waits. `M` is the memory of a request, `T` whatever
/// else goes back with its end.
pub trait QueuePair<M: Buffers, T> {
    /// Takes a request. Its end comes out of [`QueuePair::next_done`].
    fn submit(&mut self, io: Io, memory: M, tag: T);

    /// Looks at the clock and at what the controller's keeper wants; to be called every round.
    fn tick(&mut self, now_ns: u64);

    /// The next request that ended.
    fn next_done(&mut self) -> Option<Done<M, T>>;

    /// The end of a round: the controller hears of everything submitted since the last.
    fn round_end(&mut self);

    /// Requests that have not ended, and those that have and were not fetched.
    fn in_flight(&self) -> usize;

    /// Whether commands go to the controller now; during a reset they wait.
    fn is_running(&self) -> bool;

    /// Resets of the controller that this queue pair has seen begin. Each may take what lies in the
    /// controller's own memory: data put there before belongs to no request after.
    fn resets(&self) -> u64;

    /// Whether the controller is gone, for this queue pair at least.
    fn is_gone(&self) -> bool;

    /// Counters.
    fn stats(&self) -> QueueStats;

    /// As [`Queue::may_sleep_ns`]; `None` for a queue pair that must be looked at all the time.
    fn may_sleep_ns(&mut self) -> Option<u64> {
        None
    }
}

/// All that is needed to open a queue pair on the thread that will use it.
pub enum PairParts {
    /// Of this crate's own driver.
    Own(QueueParts),
    /// Of SPDK's.
    #[cfg(feature = "spdk")]
    Spdk(SpdkQueueParts),
}

impl PairParts {
    /// What is signalled when the queue pair has something to tell; `None` where it must be polled.
    #[must_use]
    pub fn event(&self) -> Option<&Event> {
        match self {
            PairParts::Own(parts) => parts.link.event(),
            #[cfg(feature = "spdk")]
            PairParts::Spdk(_) => None,
        }
    }

    /// Opens the queue pair on this thread.
    ///
    /// # Errors
    /// [`DmaError`].
    pub fn open<M: Buffers, T>(self) -> Result<AnyQueue<M, T>, DmaError> {
        match self {
            PairParts::Own(parts) => Queue::open(parts).map(AnyQueue::Own),
            #[cfg(feature = "spdk")]
            PairParts::Spdk(parts) => Ok(AnyQueue::Spdk(parts.open())),
        }
    }
}

/// A queue pair of whichever driver has the drive.
pub enum AnyQueue<M, T> {
    /// This crate's own.
    Own(Queue<M, T>),
    /// SPDK's.
    #[cfg(feature = "spdk")]
    Spdk(Queue<M, T, Carrier>),
}

/// What the driver's queue pair does.
macro_rules! with {
    ($any:expr, $queue:ident => $body:expr) => {
        match $any {
            AnyQueue::Own($queue) => $body,
            #[cfg(feature = "spdk")]
            AnyQueue::Spdk($queue) => $body,
        }
    };
}

impl<M: Buffers, T> QueuePair<M, T> for AnyQueue<M, T> {
    #[inline]
    fn submit(&mut self, io: Io, memory: M, tag: T) {
        with!(self, queue => queue.submit(io, memory, tag));
    }

    #[inline]
    fn tick(&mut self, now_ns: u64) {
        with!(self, queue => queue.tick(now_ns));
    }

    #[inline]
    fn next_done(&mut self) -> Option<Done<M, T>> {
        with!(self, queue => queue.next_done())
    }

    #[inline]
    fn round_end(&mut self) {
        with!(self, queue => queue.round_end());
    }

    #[inline]
    fn in_flight(&self) -> usize {
        with!(self, queue => queue.in_flight())
    }

    #[inline]
    fn is_running(&self) -> bool {
        with!(self, queue => queue.is_running())
    }

    #[inline]
    fn resets(&self) -> u64 {
        with!(self, queue => queue.resets())
    }

    #[inline]
    fn is_gone(&self) -> bool {
        with!(self, queue => queue.is_gone())
    }

    fn stats(&self) -> QueueStats {
        with!(self, queue => queue.stats())
    }

    fn may_sleep_ns(&mut self) -> Option<u64> {
        with!(self, queue => queue.may_sleep_ns())
    }
}

impl<M: Buffers, T, W: Wire> QueuePair<M, T> for Queue<M, T, W> {
    #[inline]
    fn submit(&mut self, io: Io, memory: M, tag: T) {
        Queue::submit(self, io, memory, tag);
    }

    #[inline]
    fn tick(&mut self, now_ns: u64) {
        Queue::tick(self, now_ns);
    }

    #[inline]
    fn next_done(&mut self) -> Option<Done<M, T>> {
        Queue::next_done(self)
    }

    #[inline]
    fn round_end(&mut self) {
        Queue::round_end(self);
    }

    #[inline]
    fn in_flight(&self) -> usize {
        Queue::in_flight(self)
    }

    #[inline]
    fn is_running(&self) -> bool {
        Queue::is_running(self)
    }

    #[inline]
    fn resets(&self) -> u64 {
        Queue::resets(self)
    }

    #[inline]
    fn is_gone(&self) -> bool {
        Queue::is_gone(self)
    }

    fn stats(&self) -> QueueStats {
        Queue::stats(self)
    }

    fn may_sleep_ns(&mut self) -> Option<u64> {
        Queue::may_sleep_ns(self)
    }
}

impl Driver for Controller {
    fn identity(&self) -> &Identity {
        Controller::identity(self)
    }

    fn regions(&self) -> &Arc<Regions> {
        Controller::regions(self)
    }

    fn namespaces(&mut self) -> Result<Vec<Namespace>, ControllerError> {
        Controller::namespaces(self)
    }

    fn namespace(&mut self, nsid: Nsid) -> Result<Option<Namespace>, ControllerError> {
        Controller::namespace(self, nsid)
    }

    fn health(&mut self) -> Result<HealthLog, ControllerError> {
        Controller::health(self)
    }

    fn error_log(&mut self) -> Result<Vec<ErrorEntry>, ControllerError> {
        Controller::error_log(self)
    }

    fn service(&mut self) -> Option<Notice> {
        Controller::service(self)
    }

    fn create_queue(&mut self) -> Result<PairParts, ControllerError> {
        Controller::create_queue(self).map(PairParts::Own)
    }

    fn create_queue_with_interrupt(
        &mut self,
        interrupt: QueueInterrupt,
    ) -> Result<PairParts, ControllerError> {
        Controller::create_queue_with_interrupt(self, interrupt).map(PairParts::Own)
    }

    fn controller_memory(&self) -> Option<&Arc<ControllerMemoryPool>> {
        Controller::controller_memory(self)
    }

    fn reset(&mut self) -> Result<(), ControllerError> {
        Controller::reset(self)
    }

    fn shut_down(&mut self) -> Result<(), ControllerError> {
        Controller::shut_down(self)
    }
}
