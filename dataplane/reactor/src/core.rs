//! The reactor's loop and what its thread can reach.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::Future;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use io_uring::cqueue;

use crate::clock::{Ticks, now, ticks_of, ticks_per_second, ticks_to_ns};
use crate::config::{PollMode, ReactorConfig, ReactorError};
use crate::executor::{Executor, TaskId, task_of};
use crate::handle::{ReactorHandle, Registration, Shared};
use crate::poller::{Polled, Pollers};
use crate::recv_buffers::RecvBuffers;
use crate::ring::{Completion, Op, Ops, Ring};
use crate::stall;
use crate::stream::StreamRef;
use crate::timer::Timers;

/// Completions handled between two looks at the tasks.
const COMPLETIONS_A_BATCH: usize = 64;
/// Batches of completions handled in a round.
const BATCHES_A_ROUND: usize = 8;
/// Tasks polled in a round.
const TASKS_A_ROUND: usize = 1024;
/// Messages run in a round.
const MESSAGES_A_ROUND: usize = 64;
/// Rounds between two publications of gauges on a reactor that does not sleep.
const GAUGES_EVERY_ROUNDS: u64 = 4096;
/// The longest sleep; the loop looks around at least this often.
const SLEEP_MAX_NS: u64 = 1_000_000_000;

/// A hook that runs once at the end of a round, after every completion and task of the round.
pub trait RoundEnd {
    /// Runs the hook.
    fn round_end(self: Rc<Self>);
}

/// All that belongs to one reactor's thread.
pub(crate) struct Core {
    pub(crate) id: u32,
    pub(crate) ring: Ring,
    pub(crate) ops: Ops,
    pub(crate) executor: Executor,
    pub(crate) timers: Timers,
    pub(crate) recv_buffers: Rc<RecvBuffers>,
    pub(crate) shared: Arc<Shared>,
    handle: ReactorHandle,
    round_end: RefCell<Vec<Rc<dyn RoundEnd>>>,
    pub(crate) pollers: Pollers,
    /// A poller waits for its device, and no event tells when it is done.
    waiting: Cell<bool>,
    /// Streams to look at once nothing of theirs is on the stack.
    deferred: RefCell<Vec<StreamRef>>,
    /// Streams that found no receive buffer.
    starved: RefCell<Vec<StreamRef>>,
    worked: Cell<bool>,
    /// Completions being handed out; kept so that no round has to clear room for them.
    completions: RefCell<Box<[Completion; COMPLETIONS_A_BATCH]>>,
    narrowed_at: Cell<Ticks>,
    starved_before: Cell<u64>,
}

thread_local! {
    static CORE: OnceCell<Rc<Core>> = const { OnceCell::new() };
}

/// Runs `f` with this thread's reactor.
#[inline]
pub(crate) fn with<R>(f: impl FnOnce(&Rc<Core>) -> R) -> R {
    match try_with(f) {
        Some(result) => result,
        // A programming error, not an input: there is no reactor to work with here.
        None => panic!("called outside a reactor's thread"),
    }
}

/// As [`with`], but `None` on a thread without a reactor.
#[inline]
pub(crate) fn try_with<R>(f: impl FnOnce(&Rc<Core>) -> R) -> Option<R> {
    CORE.try_with(|core| core.get().map(f)).ok().flatten()
}

/// Number of the reactor this thread runs, if it runs one.
pub fn current_id() -> Option<u32> {
    try_with(|core| core.id)
}

/// Handle of the reactor this thread runs.
///
/// # Panics
/// Outside a reactor's thread.
pub fn current() -> ReactorHandle {
    with(|core| core.handle.clone())
}

/// The addresses of this reactor's receive buffers, for whoever asks the kernel where they lie.
///
/// # Panics
/// Outside a reactor's thread.
pub fn receive_memory() -> Range<usize> {
    with(|core| core.recv_buffers.range())
}

/// Starts a task on this reactor; it is polled first in this or the next round.
///
/// # Panics
/// Outside a reactor's thread.
pub fn spawn(future: impl Future<Output = ()> + 'static) -> TaskId {
    with(|core| core.executor.spawn(&stall::TASK, Box::pin(future)))
}

/// Polls a task at once, unless it is gone or being polled.
///
/// # Panics
/// Outside a reactor's thread.
#[inline]
pub fn run_now(task: TaskId) {
    with(|core| core.executor.poll(core.id, task));
}

/// Runs a hook once at the end of this round.
///
/// # Panics
/// Outside a reactor's thread.
pub fn at_round_end(hook: Rc<dyn RoundEnd>) {
    with(|core| core.round_end.borrow_mut().push(hook));
}

impl Core {
    fn new(config: &ReactorConfig, handle: ReactorHandle) -> std::io::Result<Rc<Core>> {
        let ring = Ring::new(config.ring_entries)?;
        // SAFETY: `Core` drops its fields in order, the ring before the buffers; chunks hold the
        // buffers alive by reference count, and `shut_down` waits for operations in flight.
        let buffers = unsafe {
            RecvBuffers::new(
                &ring,
                config.recv_buffers,
                config.recv_buffer_bytes,
                config.numa_node,
            )?
        };
        Ok(Rc::new(Core {
            id: config.id,
            ring,
            ops: Ops::default(),
            executor: Executor::default(),
            timers: Timers::default(),
            recv_buffers: Rc::new(buffers),
            shared: Arc::clone(handle.shared()),
            handle,
            round_end: RefCell::default(),
            pollers: Pollers::default(),
            waiting: Cell::new(false),
            deferred: RefCell::default(),
            starved: RefCell::default(),
            worked: Cell::new(false),
            completions: RefCell::new(Box::new([Completion::default(); COMPLETIONS_A_BATCH])),
            narrowed_at: Cell::new(0),
            starved_before: Cell::new(0),
        }))
    }

    pub(crate) fn defer(&self, stream: StreamRef) {
        self.deferred.borrow_mut().push(stream);
    }

    pub(crate) fn starve(&self, stream: StreamRef) {
        self.shared.stats.recv_starved.add(1);
        self.recv_buffers.widen();
        self.starved.borrow_mut().push(stream);
    }

    /// Lets fewer receive buffers circulate, a second after the last time they were too few.
    fn narrow_buffers(&self, at: Ticks) {
        if at.saturating_sub(self.narrowed_at.get()) < ticks_per_second() {
            return;
        }
        self.narrowed_at.set(at);
        let starved = self.shared.stats.recv_starved.get();
        if self.starved_before.replace(starved) == starved {
            self.recv_buffers.narrow();
        }
    }

    fn watch_bell(&self) {
        let id = self.ops.insert(Op::Bell);
        self.ring.watch_bell(self.shared.mailbox.event_fd(), id);
    }

    fn run_messages(&self) {
        while let Some(task) = self.shared.mailbox.pop_wake() {
            self.executor.wake(task_of(task));
        }
        for _ in 0..MESSAGES_A_ROUND {
            let Some(message) = self.shared.mailbox.pop() else {
                return;
            };
            self.shared.heartbeat.activity(&stall::MAILBOX);
            message();
            self.shared.stats.messages.add(1);
            self.worked.set(true);
        }
    }

    fn run_completions(self: &Rc<Self>) {
        let mut batch = self.completions.borrow_mut();
        for _ in 0..BATCHES_A_ROUND {
            let count = self.ring.reap(&mut batch[..]);
            for entry in &batch[..count] {
                self.complete(entry);
            }
            if count > 0 {
                self.shared.stats.completions.add(count as u64);
                self.worked.set(true);
            }
            if count < batch.len() {
                return;
            }
        }
    }

    fn complete(self: &Rc<Self>, entry: &Completion) {
        let Completion { id, result, flags } = *entry;
        if cqueue::more(flags) {
            // A multishot operation goes on: its entry stays.
            let target = self.ops.with(id, |op| match op {
                Op::Accept(listener) => More::Accept(listener.clone()),
                Op::Receive(stream) => More::Receive(stream.clone()),
                Op::Bell => More::Bell,
                _ => More::Nothing,
            });
            match target {
                Some(More::Receive(stream)) => {
                    self.shared.heartbeat.activity(&stall::RECEIVE);
                    stream.on_receive(self, result, flags);
                }
                Some(More::Accept(listener)) => {
                    self.shared.heartbeat.activity(&stall::ACCEPT);
                    listener.on_accept(self, result, true);
                }
                Some(More::Bell) => self.drain_bell(),
                Some(More::Nothing) | None => {}
            }
            return;
        }
        let heartbeat = &self.shared.heartbeat;
        match self.ops.remove(id) {
            Some(Op::Receive(stream)) => {
                heartbeat.activity(&stall::RECEIVE);
                stream.on_receive(self, result, flags);
            }
            Some(Op::ReceiveDirect(stream)) => {
                heartbeat.activity(&stall::RECEIVE);
                stream.on_receive_direct(self, result);
            }
            Some(Op::Send(stream)) => {
                heartbeat.activity(&stall::SEND);
                stream.on_sent(self, result);
            }
            Some(Op::File(state)) => {
                heartbeat.activity(&stall::FILE);
                state.finish(result);
            }
            Some(Op::Accept(listener)) => {
                heartbeat.activity(&stall::ACCEPT);
                listener.on_accept(self, result, false);
            }
            Some(Op::Bell) => {
                self.drain_bell();
                // While shutting down it was cancelled for good.
                if !self.shared.stop.load(Ordering::Relaxed) {
                    self.watch_bell();
                }
            }
            Some(Op::Event(watch)) => watch.fired(),
            Some(Op::Ignored) | None => {}
        }
    }

    fn drain_bell(&self) {
        let mut count = 0_u64;
        // SAFETY: reads 8 bytes into a live u64 from the mailbox's own descriptor (non-blocking).
        unsafe { libc::read(self.shared.mailbox.event_fd(), (&raw mut count).cast(), 8) };
    }

    fn run_pollers(&self) {
        self.waiting.set(false);
        let mut index = 0;
        // By index, as one may add or remove others.
        while let Some(polling) = self.pollers.at(index) {
            index += 1;
            self.shared.heartbeat.activity(&stall::POLLER);
            match polling.poll() {
                Polled::Waiting if !polling.has_event() => self.waiting.set(true),
                Polled::Idle | Polled::Waiting => {}
                Polled::Worked => self.worked.set(true),
            }
        }
    }

    fn run_tasks(&self) {
        let polled = self.executor.run_ready(self.id, TASKS_A_ROUND, |name| {
            self.shared.heartbeat.activity(name)
        });
        if polled > 0 {
            self.shared.stats.tasks_polled.add(polled as u64);
            self.worked.set(true);
        }
    }

    fn run_deferred(self: &Rc<Self>) {
        if !self.deferred.borrow().is_empty() {
            self.shared.heartbeat.activity(&stall::RESUME);
            let streams = std::mem::take(&mut *self.deferred.borrow_mut());
            for stream in &streams {
                stream.on_deferred(self);
            }
            recycle(&self.deferred, streams);
            self.worked.set(true);
        }
        if !self.starved.borrow().is_empty() && self.recv_buffers.any_free() {
            let streams = std::mem::take(&mut *self.starved.borrow_mut());
            for stream in &streams {
                stream.on_fed(self);
            }
            recycle(&self.starved, streams);
        }
    }

    fn run_round_end(&self) {
        if self.round_end.borrow().is_empty() {
            return;
        }
        self.shared.heartbeat.activity(&stall::ROUND_END);
        let mut hooks = std::mem::take(&mut *self.round_end.borrow_mut());
        for hook in hooks.drain(..) {
            hook.round_end();
        }
        recycle(&self.round_end, hooks);
        self.worked.set(true);
    }

    /// One round, without entering the kernel. Returns whether anything was done.
    fn round(self: &Rc<Self>, at: Ticks) -> bool {
        self.worked.set(false);
        if !self.shared.mailbox.is_empty() {
            self.run_messages();
        }
        self.run_completions();
        self.run_pollers();
        self.run_tasks();
        if self
            .timers
            .next_deadline()
            .is_some_and(|deadline| deadline <= at)
        {
            self.shared.heartbeat.activity(&stall::TIMERS);
            self.timers.fire(at);
            self.worked.set(true);
        }
        self.run_deferred();
        self.run_round_end();
        self.worked.get()
    }

    fn has_pending(&self) -> bool {
        self.executor.has_ready()
            || !self.round_end.borrow().is_empty()
            || !self.deferred.borrow().is_empty()
            || self.waiting.get()
    }

    fn run(self: &Rc<Self>, poll: PollMode) {
        let idle_limit = match poll {
            PollMode::Busy => Ticks::MAX,
            PollMode::Adaptive { idle_us } => ticks_of(Duration::from_micros(idle_us.into())),
        };
        let stats = &self.shared.stats;
        let mut at = now();
        let mut last_work = at;
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.shared.heartbeat.begin_round(at);
            let worked = self.round(at);
            let idle = !worked && at.saturating_sub(last_work) >= idle_limit;
            if idle && !self.ring.has_submissions() && !self.has_pending() {
                self.sleep(at);
            } else if self.ring.wants_enter() {
                self.shared.heartbeat.activity(&stall::KERNEL);
                self.ring.enter();
            } else if !worked {
                std::hint::spin_loop();
            }
            let after = now();
            if worked {
                stats.busy_ticks.add(after.saturating_sub(at));
                last_work = after;
            } else {
                stats.idle_ticks.add(after.saturating_sub(at));
            }
            stats.rounds.add(1);
            if stats.rounds.get().is_multiple_of(GAUGES_EVERY_ROUNDS) {
                self.publish_gauges();
                self.narrow_buffers(after);
            }
            at = after;
        }
    }

    fn sleep(&self, at: Ticks) {
        let until_timer = self
            .timers
            .next_deadline()
            .map_or(SLEEP_MAX_NS, |deadline| {
                ticks_to_ns(deadline.saturating_sub(at)).min(SLEEP_MAX_NS)
            });
        if until_timer == 0 || !self.shared.mailbox.may_sleep() {
            return;
        }
        // First the events are armed, then the devices are looked at a last time.
        self.pollers.arm(self);
        if let Some(limit_ns) = self.pollers.may_sleep_ns() {
            self.shared.stats.sleeps.add(1);
            self.publish_gauges();
            self.shared.heartbeat.begin_round(0);
            self.ring.enter_and_wait(until_timer.min(limit_ns));
        }
        self.shared.mailbox.awake();
    }

    pub(crate) fn publish_gauges(&self) {
        let stats = &self.shared.stats;
        stats
            .recv_buffers_held
            .store(self.recv_buffers.held().into(), Ordering::Relaxed);
        stats
            .enters
            .add(self.ring.enters().saturating_sub(stats.enters.get()));
    }

    /// Drops tasks, cancels operations and waits until the kernel holds none of our memory.
    fn shut_down(self: &Rc<Self>) -> bool {
        self.executor.clear();
        self.round_end.borrow_mut().clear();
        self.pollers.clear();
        let give_up = Instant::now() + Duration::from_secs(2);
        while self.ops.live() > 0 && Instant::now() < give_up {
            self.ring.cancel_all();
            self.ring.enter_and_wait(10_000_000);
            self.run_completions();
            self.run_deferred();
            self.run_round_end();
            self.executor.clear();
        }
        self.ops.live() == 0
    }
}

enum More {
    Accept(crate::listener::ListenerRef),
    Receive(StreamRef),
    Bell,
    Nothing,
}

/// Gives a drained list's capacity back, unless something was pushed meanwhile.
fn recycle<T>(place: &RefCell<Vec<T>>, mut old: Vec<T>) {
    old.clear();
    let mut current = place.borrow_mut();
    old.append(&mut current);
    *current = old;
}

/// Body of a reactor's thread.
pub(crate) fn thread_main(
    config: &ReactorConfig,
    handle: ReactorHandle,
    init: impl FnOnce(),
    report: &Sender<Result<(), ReactorError>>,
) {
    let id = config.id;
    if let Some(core) = config.core
        && let Err(source) = pin(core)
    {
        let _ = report.send(Err(ReactorError::Pin { id, core, source }));
        return;
    }
    let core = match Core::new(config, handle) {
        Ok(core) => core,
        Err(source) => {
            let _ = report.send(Err(ReactorError::Ring { id, source }));
            return;
        }
    };
    CORE.with(|cell| cell.set(Rc::clone(&core)).is_ok());
    let registration = Registration::new(&core.shared);
    core.watch_bell();
    init();
    let _ = report.send(Ok(()));
    core.run(config.poll);
    core.shared.heartbeat.begin_round(0);
    drop(registration);
    if !core.shut_down() {
        // The kernel still works on memory of ours: leaking it is the only safe way out.
        tracing::warn!(
            reactor = id,
            operations = core.ops.live(),
            "operations outlive their reactor; their memory is leaked"
        );
        std::mem::forget(Rc::clone(&core));
    }
}

fn pin(core: usize) -> std::io::Result<()> {
    // SAFETY: cpu_set_t is plain data for which all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    if core >= 8 * size_of::<libc::cpu_set_t>() {
        return Err(std::io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: core is inside the set, as checked above.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: pid 0 is this thread; the set is live and of the size given.
    let result =
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}
