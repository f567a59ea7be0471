//! One TCP connection to a controller: one queue pair. Commands go out through the [`Outbox`], one
//! gather send a round; what comes in is taken apart by [`Incoming`].
//!
//! Who holds what: a command's memory is in its slot from the start of the command until its answer
//! has come (or the connection is gone), even if nobody waits for it any more; so a late answer
//! never writes to memory that somebody else got meanwhile.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::rc::{Rc, Weak};
use std::task::Waker;
use std::time::Duration;

use penstock_buffer::Lease;
use penstock_nvme::tcp::{MAXH2CDATA_MIN, encode_icreq};
use penstock_nvme::{DataDirection, SglDescriptor};
use penstock_reactor::{
    RecvChunk, RoundEnd, SendBatch, Stream, StreamSink, Ticks, at_round_end, now, sleep, spawn,
};
use penstock_units::CommandId;

use crate::dial::dial;
use crate::error::{ClientError, CloseReason, CommandName};
use crate::incoming::{Fatal, Incoming, Step};
use crate::line::Line;
use crate::options::ConnectOptions;
use crate::outgoing::{Agreed, Outbox};
use crate::slot::{Outcome, Request, Slots};
use crate::time::{ticks_of, within};

/// Data of an admin or Fabrics command that always fits the capsule (TCP 1.1, 3.3.2, 8 KiB).
const ADMIN_IN_CAPSULE_BYTES: u32 = 8192;
/// How long a termination request may take to leave before the connection is closed anyway.
const PARTING_LIMIT: Duration = Duration::from_secs(1);
/// How often limits of commands are looked at, at most and at least.
const TICK_MIN: Duration = Duration::from_millis(5);
const TICK_MAX: Duration = Duration::from_millis(100);

const HANDSHAKE: CommandName = CommandName {
    name: "connection handshake",
    nsid: None,
};

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// ICReq sent, ICResp awaited.
    Greeting,
    /// Commands may be sent.
    Ready,
    /// A last PDU is being sent, then the connection is closed.
    Ending { reason: CloseReason, since: Ticks },
    /// Gone.
    Over(CloseReason),
}

/// All of a connection that changes.
pub(crate) struct Core {
    pub(crate) slots: Slots,
    pub(crate) line: Line,
    pub(crate) outbox: Outbox,
    pub(crate) agreed: Agreed,
    pub(crate) phase: Phase,
    /// R2Ts we allowed for one command.
    pub(crate) transfers_max: u32,
    /// Digests we asked for; the controller may agree to fewer, never to more.
    pub(crate) digests_wanted: (bool, bool),
    in_capsule_max: u32,
    greeter: Option<Waker>,
}

/// One connection. Its methods never call out while the state is borrowed.
pub(crate) struct Connection {
    address: SocketAddr,
    me: Weak<Connection>,
    stream: OnceCell<Stream>,
    core: RefCell<Core>,
    incoming: RefCell<Incoming>,
    flush_due: Cell<bool>,
}

/// Owner of a connection: closes it when dropped.
pub(crate) struct Owned(Rc<Connection>);

impl Deref for Owned {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.end(CloseReason::Local, None);
    }
}

impl Core {
    pub(crate) fn new(options: &ConnectOptions, slots: u16) -> Core {
        let agreed = Agreed {
            header_digest: false,
            data_digest: false,
            align: 4,
            h2c_data_max: MAXH2CDATA_MIN,
        };
        Core {
            slots: Slots::new(slots),
            line: Line::with_capacity(usize::from(slots)),
            outbox: Outbox::with_capacity(usize::from(slots)),
            agreed,
            phase: Phase::Greeting,
            transfers_max: options.ready_to_transfer_max.max(1),
            digests_wanted: (options.header_digest, options.data_digest),
            in_capsule_max: ADMIN_IN_CAPSULE_BYTES,
            greeter: None,
        }
    }

    pub(crate) fn why_closed(&self) -> Option<CloseReason> {
        match self.phase {
            Phase::Greeting | Phase::Ready => None,
            Phase::Ending { reason, .. } | Phase::Over(reason) => Some(reason),
        }
    }

    /// Puts a command into a slot and its capsule in line; `None` where no slot is free.
    pub(crate) fn start(&mut self, mut request: Request, now: Ticks) -> Option<CommandId> {
        let len = request.lease.as_ref().map_or(0, Lease::len);
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let limit = if request.sqe.is_fabrics() {
            ADMIN_IN_CAPSULE_BYTES
        } else {
            self.in_capsule_max
        };
        let to_controller = request.sqe.direction() == DataDirection::HostToController;
        request.sqe.sgl1 = if to_controller && len > 0 && len <= limit {
            SglDescriptor::in_capsule(0, len)
        } else {
            SglDescriptor::transport(len)
        };
        let id = self.slots.start(request, now)?;
        self.outbox.push_capsule(id);
        Some(id)
    }

    /// A command is over.
    pub(crate) fn finish(&mut self, id: CommandId, outcome: Outcome) {
        let slot = self.slots.get(id);
        if slot.transfers > 0 {
            slot.transfers = 0;
            self.outbox.drop_data_of(id);
        }
        self.slots.finish(id, outcome);
        // A slot nobody waited for is free now.
        self.line.call(self.slots.free_count());
    }

    /// The handshake is over, well or not.
    pub(crate) fn greeted(&mut self) {
        if let Some(waker) = self.greeter.take() {
            waker.wake();
        }
    }

    fn fail_all(&mut self, reason: CloseReason) {
        self.slots.finish_all(Outcome::Closed(reason));
        self.line.dismiss();
        self.greeted();
    }
}

impl Connection {
    /// Connects and shakes hands (TCP 1.1, 3.4.1), for `slots` commands at once.
    pub(crate) async fn open(options: &ConnectOptions, slots: u16) -> Result<Owned, ClientError> {
        let address = options.address;
        let socket = dial(address, options.connect_timeout())
            .await
            .map_err(|cause| ClientError::Connect { address, cause })?;
        let connection = Owned(Rc::new_cyclic(|me| Connection {
            address,
            me: Weak::clone(me),
            stream: OnceCell::new(),
            core: RefCell::new(Core::new(options, slots)),
            incoming: RefCell::new(Incoming::new()),
            flush_due: Cell::new(false),
        }));
        let stream = socket.start(Rc::clone(&connection.0) as Rc<dyn StreamSink>);
        // Set once, here; a stream that is set already would be dropped, not replaced.
        let _ = connection.stream.set(stream);
        let hello = encode_icreq(
            0,
            options.header_digest,
            options.data_digest,
            options.ready_to_transfer_max,
        );
        connection.core.borrow_mut().outbox.push_whole(&hello);
        connection.flush_at_round_end();
        connection.keep_house(options.command_timeout());
        if within(options.connect_timeout(), connection.greeting())
            .await
            .is_none()
        {
            connection.end(CloseReason::HandshakeTimeout, None);
        }
        match connection.closed() {
            Some(reason) => Err(connection.closed_error(reason, HANDSHAKE)),
            None => Ok(connection),
        }
    }

    /// Looks at the limits of commands now and then, as long as the connection lives.
    fn keep_house(&self, limit: Duration) {
        let me = Weak::clone(&self.me);
        let interval = (limit / 8).clamp(TICK_MIN, TICK_MAX);
        spawn(async move {
            loop {
                sleep(interval).await;
                match me.upgrade() {
                    Some(connection) if connection.tick(now()) => {}
                    _ => return,
                }
            }
        });
    }

    /// False once the connection is gone.
    fn tick(&self, now: Ticks) -> bool {
        let phase = {
            let mut core = self.core.borrow_mut();
            core.slots.expire(now);
            core.phase
        };
        match phase {
            Phase::Ending { since, .. } if now.saturating_sub(since) > ticks_of(PARTING_LIMIT) => {
                self.close_stream();
                true
            }
            Phase::Over(_) => false,
            _ => true,
        }
    }

    fn greeting(&self) -> impl Future<Output = ()> + '_ {
        std::future::poll_fn(|cx| {
            let mut core = self.core.borrow_mut();
            if core.phase == Phase::Greeting {
                core.greeter = Some(cx.waker().clone());
                return std::task::Poll::Pending;
            }
            std::task::Poll::Ready(())
        })
    }

    /// The peer.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What was agreed on in the handshake.
    pub(crate) fn agreed(&self) -> Agreed {
        self.core.borrow().agreed
    }

    /// How many commands may be in flight.
    pub(crate) fn slot_count(&self) -> usize {
        self.core.borrow().slots.count()
    }

    /// Sets how many bytes of data an I/O command's capsule may hold.
    pub(crate) fn set_in_capsule_max(&self, bytes: u32) {
        self.core.borrow_mut().in_capsule_max = bytes;
    }

    /// Why the connection is gone; `None` while it is not.
    pub(crate) fn closed(&self) -> Option<CloseReason> {
        self.core.borrow().why_closed()
    }

    pub(crate) fn closed_error(&self, reason: CloseReason, command: CommandName) -> ClientError {
        ClientError::Closed {
            address: self.address,
            reason,
            command,
        }
    }

    /// Commands in flight: identifier, name and when each was sent.
    pub(crate) fn outstanding(&self) -> Vec<(CommandId, CommandName, Ticks)> {
        self.core.borrow().slots.outstanding().collect()
    }

    /// Closes the connection in order; commands in flight fail.
    pub(crate) fn close(&self) {
        self.end(CloseReason::Local, None);
    }

    pub(crate) fn with_core<R>(&self, work: impl FnOnce(&mut Core) -> R) -> R {
        work(&mut self.core.borrow_mut())
    }

    /// Has everything that is ready sent at the end of this round.
    pub(crate) fn flush_at_round_end(&self) {
        if !self.flush_due.replace(true)
            && let Some(me) = self.me.upgrade()
        {
            at_round_end(me);
        }
    }

    fn flush(&self) {
        let Some(stream) = self.stream.get() else {
            return;
        };
        if stream.sending() {
            return;
        }
        let batch = {
            let core = &mut *self.core.borrow_mut();
            if core.outbox.is_empty() || matches!(core.phase, Phase::Over(_)) {
                return;
            }
            let mut batch = SendBatch::new();
            core.outbox.fill(&mut core.slots, &core.agreed, &mut batch);
            batch
        };
        if !batch.is_empty() {
            stream.send(batch);
        }
    }

    /// Fails everything and closes, after `parting` (a termination request) is sent.
    fn end(&self, reason: CloseReason, parting: Option<&[u8]>) {
        {
            let mut core = self.core.borrow_mut();
            if core.why_closed().is_some() {
                return;
            }
            core.phase = Phase::Ending {
                reason,
                since: now(),
            };
            core.outbox.clear();
            if let Some(pdu) = parting {
                core.outbox.push_whole(pdu);
            }
            core.fail_all(reason);
        }
        if parting.is_some() {
            self.flush_at_round_end();
        } else {
            self.close_stream();
        }
    }

    fn close_stream(&self) {
        if let Some(stream) = self.stream.get() {
            stream.close();
        }
    }

    fn fail(&self, fatal: &Fatal) {
        tracing::warn!(peer = %self.address, reason = %fatal.reason, "connection is given up");
        self.end(fatal.reason, fatal.parting());
    }

    /// Carries on with what `Incoming` says.
    fn after(&self, step: Step) {
        match step {
            Step::More => {}
            Step::Direct(lease) => {
                if let Some(stream) = self.stream.get() {
                    stream.recv_direct(lease);
                }
            }
            Step::Fatal(fatal) => self.fail(&fatal),
        }
        if !self.core.borrow().outbox.is_empty() {
            self.flush_at_round_end();
        }
    }
}

impl RoundEnd for Connection {
    fn round_end(self: Rc<Self>) {
        self.flush_due.set(false);
        self.flush();
    }
}

impl StreamSink for Connection {
    fn on_data(&self, chunk: RecvChunk) {
        let step = {
            let mut core = self.core.borrow_mut();
            if core.why_closed().is_some() {
                return;
            }
            self.incoming.borrow_mut().take(&mut core, &chunk)
        };
        self.after(step);
    }

    fn on_direct(&self, _lease: Lease) {
        let step = {
            let mut core = self.core.borrow_mut();
            if core.why_closed().is_some() {
                return;
            }
            self.incoming.borrow_mut().direct_done(&mut core)
        };
        self.after(step);
    }

    fn on_sent(&self, result: io::Result<()>) {
        if result.is_err() {
            return; // `on_closed` follows and says why.
        }
        let (empty, phase) = {
            let core = self.core.borrow();
            (core.outbox.is_empty(), core.phase)
        };
        match phase {
            Phase::Ending { .. } if empty => self.close_stream(),
            _ if !empty => self.flush_at_round_end(),
            _ => {}
        }
    }

    fn on_closed(&self, error: Option<io::Error>) {
        let mut core = self.core.borrow_mut();
        let reason = core.why_closed().unwrap_or(match error {
            Some(error) => CloseReason::Socket(error.kind()),
            None => CloseReason::Remote,
        });
        core.phase = Phase::Over(reason);
        core.outbox.clear();
        core.fail_all(reason);
    }
}
