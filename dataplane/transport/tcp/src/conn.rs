//! A connection: its parts, its replies, how it ends.

use std::cell::{Cell, RefCell, RefMut};
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use penstock_buffer::Lease;
use penstock_nvme::tcp::{FatalError, IcReq, Params, encode_icresp};
use penstock_nvme::{AdminOpcode, Cqe, Status};
use penstock_reactor::{
    RecvChunk, RoundEnd, Stream, StreamSink, Ticks, at_round_end, cancel, now, run_now,
    ticks_per_second,
};
use penstock_seam::{ConnectionControl, Established, Reply};

use crate::config::TcpConfig;
use crate::registry;
use crate::rx::Receiver;
use crate::slot::{SlotState, SlotTable};
use crate::state::Phase;
use crate::stats::ConnectionStats;
use crate::task::Commands;
use crate::tx::{Outgoing, Wire};

/// Capsules of the admin queue and Connect may carry this much (TCP 1.1, 3.3.1).
const ADMIN_CAPSULE_BYTES: u32 = 8192;
/// SQHD where flow control is disabled (Base 2.1, 3.3.1.3 and 6.3).
const SQHD_DISABLED: u16 = 0xffff;

/// The queue this connection is.
#[derive(Clone, Copy, Debug)]
struct Queue {
    is_admin: bool,
    entries: u16,
    head: u16,
    flow_control: bool,
    /// Replies without a response capsule since the last one that carried SQHD.
    silent: u16,
}

/// Faults of a host that do not end its connection. The first of a kind is a warning in the log,
/// later ones are not, so that a host cannot fill it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Complaint {
    /// A command identifier was in use already.
    CommandId = 1,
    /// A data digest did not match.
    DataDigest = 2,
}

/// One host connection, on one reactor.
pub(crate) struct Connection {
    me: Weak<Connection>,
    pub(crate) peer: SocketAddr,
    pub(crate) config: Rc<TcpConfig>,
    pub(crate) commands: Box<dyn Commands>,
    pub(crate) stream: RefCell<Option<Stream>>,
    pub(crate) phase: Cell<Phase>,
    phase_since: Cell<Ticks>,
    /// The time, read once for each batch of received bytes.
    pub(crate) now: Cell<Ticks>,
    pub(crate) params: Cell<Params>,
    queue: Cell<Queue>,
    pub(crate) rx: RefCell<Receiver>,
    pub(crate) slots: RefCell<SlotTable>,
    pub(crate) tx: RefCell<Outgoing>,
    hooked: Cell<bool>,
    pub(crate) paused: Cell<bool>,
    half_closed: Cell<bool>,
    /// Why the connection closes as soon as no device works on a command of it.
    finishing: Cell<Option<&'static str>>,
    complaints: Cell<u8>,
    pub(crate) stats: Arc<ConnectionStats>,
}

impl Connection {
    pub(crate) fn new(
        peer: SocketAddr,
        config: Rc<TcpConfig>,
        commands: Box<dyn Commands>,
    ) -> Rc<Connection> {
        let at = now();
        let queue = Queue {
            is_admin: false,
            entries: u16::MAX,
            head: 0,
            flow_control: true,
            silent: 0,
        };
        Rc::new_cyclic(|me| Connection {
            me: Weak::clone(me),
            peer,
            commands,
            stream: RefCell::new(None),
            phase: Cell::new(Phase::AwaitIcReq),
            phase_since: Cell::new(at),
            now: Cell::new(at),
            params: Cell::new(Params::INITIAL),
            queue: Cell::new(queue),
            rx: RefCell::new(Receiver::new()),
            slots: RefCell::new(SlotTable::new(config.commands_before_connect_max)),
            tx: RefCell::new(Outgoing::new()),
            hooked: Cell::new(false),
            paused: Cell::new(false),
            half_closed: Cell::new(false),
            finishing: Cell::new(None),
            complaints: Cell::new(0),
            stats: Arc::default(),
            config,
        })
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.phase_since.set(now());
    }

    /// Asks for a look at the end of this round.
    pub(crate) fn hook(&self) {
        if !self.hooked.replace(true)
            && let Some(me) = self.me.upgrade()
        {
            at_round_end(me);
        }
    }

    /// ICReq: agree on parameters (TCP 1.1, 3.2 and 3.6.2.1).
    pub(crate) fn on_icreq(&self, request: &IcReq) {
        let header_digest = request.header_digest() && self.config.header_digest;
        let data_digest = request.data_digest() && self.config.data_digest;
        let data_max = self.config.h2c_data_max_bytes;
        {
            let mut tx = self.tx.borrow_mut();
            tx.raw(&encode_icresp(0, header_digest, data_digest, data_max));
            tx.wire = Wire {
                header_digest,
                data_digest,
                align_bytes: request.align_bytes(),
                r2t_max: u8::try_from(request.r2t_max()).unwrap_or(u8::MAX),
            };
        }
        let in_capsule_max = self.config.in_capsule_data_bytes.max(ADMIN_CAPSULE_BYTES);
        self.params.set(Params {
            header_digest,
            data_digest,
            align: 4,
            in_capsule_max,
            data_max,
        });
        self.enter(Phase::AwaitConnect);
        self.hook();
    }

    /// One more entry of the submission queue is consumed.
    pub(crate) fn count_submission(&self) {
        let mut queue = self.queue.get();
        queue.head += 1;
        if queue.head >= queue.entries {
            queue.head = 0;
        }
        self.queue.set(queue);
    }

    /// Polls the command in a slot, unless it has to wait for its turn to get memory.
    pub(crate) fn run(&self, index: u16) {
        let queued = self.tx.borrow().pending_bytes();
        let max = self.config.payload_max_bytes.into();
        let may = self.slots.borrow_mut().may_run(index, queued, max);
        if may {
            self.run_admitted(index);
        }
    }

    /// The handler's answer to a command.
    pub(crate) fn finish(&self, index: u16, generation: u32, reply: Reply) {
        let mut slots = self.slots.borrow_mut();
        match slots.current(index, generation) {
            Some(slot) if slot.state == SlotState::Running => self.conclude(slots, index, reply),
            // Taken back by Abort meanwhile, and answered.
            _ => {}
        }
    }

    /// Answers a command, now or when the host has sent what it still owes for it.
    pub(crate) fn conclude(&self, mut slots: RefMut<'_, SlotTable>, index: u16, mut reply: Reply) {
        let Some(slot) = slots.get_mut(index) else {
            return;
        };
        if slot.owed() {
            slot.state = SlotState::Draining;
            slot.held = Some(reply);
            slots.drop_data(index);
            return;
        }
        if slot.digest_error {
            reply = Reply::status(Status::TRANSIENT_TRANSPORT_ERROR.wire());
        }
        let allowed = if slot.to_host {
            slot.data_len as usize
        } else {
            0
        };
        let mut payload_len = reply.payload.len();
        if payload_len > allowed {
            payload_len = 0;
            tracing::error!(peer = %self.peer, cid = slot.cid, "reply has more data than asked for");
            reply = Reply::status(Status::INTERNAL_ERROR.wire());
        }
        let cid = slot.cid;
        slots.release(index);
        let look = !slots.deferred.is_empty() || self.is_finishing();
        drop(slots);
        self.answer(cid, reply, payload_len);
        if look {
            self.hook();
        }
    }

    /// Answers a command that has no slot.
    pub(crate) fn reject(&self, cid: u16, status: Status) {
        self.answer(cid, Reply::status(status.wire()), 0);
    }

    fn answer(&self, cid: u16, reply: Reply, payload_len: usize) {
        if self.is_closing() {
            return;
        }
        if let Some(established) = reply.established {
            self.establish(established);
        }
        let mut queue = self.queue.get();
        let sqhd = if queue.flow_control {
            queue.head
        } else {
            SQHD_DISABLED
        };
        let with_data = reply.status == 0 && payload_len > 0;
        // The host learns of SQHD from responses only, so some must go out while it looks at it.
        let silent = with_data
            && self.config.c2h_success
            && reply.result == 0
            && (!queue.flow_control || queue.silent < queue.entries / 4);
        queue.silent = if silent {
            queue.silent.wrapping_add(1)
        } else {
            0
        };
        self.queue.set(queue);
        let mut tx = self.tx.borrow_mut();
        if with_data {
            let max = self.config.c2h_data_max_bytes;
            tx.data(cid, reply.payload, payload_len, silent, max);
        }
        if !silent {
            tx.response(&Cqe::new(reply.result, sqhd, cid, reply.status));
        }
        drop(tx);
        self.hook();
        if reply.close {
            self.begin_close("end of the queue");
        }
    }

    /// Connect succeeded: the queue exists.
    fn establish(&self, established: Established) {
        let entries = established.queue_entries.max(1);
        let mut queue = self.queue.get();
        queue.is_admin = established.queue_id == 0;
        queue.entries = entries;
        queue.head %= entries;
        queue.flow_control = !established.flow_control_disabled;
        self.queue.set(queue);
        self.slots.borrow_mut().set_limit(entries);
        if established.queue_id != 0 {
            let mut params = self.params.get();
            params.in_capsule_max = self.config.in_capsule_data_bytes;
            self.params.set(params);
        }
        self.enter(Phase::Live);
    }

    /// Ends the connection with a termination request (TCP 1.1, 3.5 and 3.6.2.4).
    pub(crate) fn violation(&self, fes: FatalError, fei: u32, head: &[u8], what: &dyn Display) {
        if self.is_closing() {
            return;
        }
        self.stats.violations.add(1);
        tracing::warn!(
            peer = %self.peer,
            host = self.commands.host_nqn(),
            fes = u16::from(fes),
            fei,
            "protocol violation: {what}; the connection ends"
        );
        self.tx.borrow_mut().term_req(fes, fei, head);
        self.begin_close("protocol violation");
    }

    /// Notes a fault that the connection survives.
    pub(crate) fn complain(&self, complaint: Complaint, cid: u16) {
        let known = self.complaints.get();
        if known & complaint as u8 != 0 {
            tracing::debug!(peer = %self.peer, cid, ?complaint, "host is at fault again");
            return;
        }
        self.complaints.set(known | complaint as u8);
        let host = self.commands.host_nqn();
        let what = match complaint {
            Complaint::CommandId => "command identifier is in use already; the command is refused",
            Complaint::DataDigest => "data digest does not match; the command fails",
        };
        tracing::warn!(peer = %self.peer, host, cid, "host is at fault: {what}");
    }

    /// Takes no further command and closes as soon as no device works on one.
    pub(crate) fn finish_soon(&self, reason: &'static str) {
        self.finishing.set(Some(reason));
        self.hook();
    }

    pub(crate) fn is_finishing(&self) -> bool {
        self.finishing.get().is_some()
    }

    /// Nothing more is taken; what is queued goes out, then the stream ends.
    pub(crate) fn begin_close(&self, reason: &'static str) {
        if self.is_closing() {
            return;
        }
        tracing::debug!(peer = %self.peer, reason, "closing connection");
        self.enter(Phase::Closing);
        self.hook();
    }

    pub(crate) fn pause(&self) {
        if !self.paused.replace(true)
            && let Some(stream) = self.stream.borrow().as_ref()
        {
            stream.pause();
        }
    }

    pub(crate) fn unpause(&self) {
        if self.paused.replace(false)
            && let Some(stream) = self.stream.borrow().as_ref()
        {
            stream.resume();
        }
    }

    fn flush(&self) {
        let stream = self.stream.borrow();
        let Some(stream) = stream.as_ref() else {
            return;
        };
        let batch = {
            let mut tx = self.tx.borrow_mut();
            self.stats.sent_pdus.add(tx.take_pdu_count());
            tx.take_batch(now())
        };
        if let Some(batch) = batch {
            stream.send(batch);
        }
    }

    /// Drops the stream at once.
    fn cut(&self) {
        if let Some(stream) = self.stream.borrow().as_ref() {
            stream.close();
        }
    }

    /// The periodic look for hosts that owe something for too long.
    pub(crate) fn sweep(&self, at: Ticks) {
        let ago = |ms: u32| at.saturating_sub(u64::from(ms) * ticks_per_second() / 1000);
        let config = &self.config;
        let stuck = self.tx.borrow().in_flight_since();
        if stuck.is_some_and(|since| since < ago(config.send_timeout_ms)) {
            self.log_timeout("it does not read what is sent to it");
            return self.cut();
        }
        match self.phase.get() {
            Phase::AwaitIcReq if self.phase_since.get() < ago(config.icreq_timeout_ms) => {
                self.log_timeout("it sent no ICReq");
                self.cut();
            }
            Phase::AwaitConnect if self.phase_since.get() < ago(config.connect_timeout_ms) => {
                self.log_timeout("it did not connect to a queue");
                self.begin_close("no Connect in time");
            }
            Phase::Closing if self.phase_since.get() < ago(config.linger_ms) => self.cut(),
            Phase::AwaitIcReq | Phase::AwaitConnect | Phase::Live => {
                if !self.is_held_up() && self.is_overdue(ago(config.transfer_timeout_ms)) {
                    let what = "the host did not finish a transfer in time";
                    self.violation(FatalError::SequenceError, 0, &[], &what);
                }
            }
            Phase::Closing | Phase::Closed => {}
        }
    }

    fn is_overdue(&self, limit: Ticks) -> bool {
        if self
            .rx
            .borrow()
            .pdu_since()
            .is_some_and(|since| since < limit)
        {
            return true;
        }
        let slots = self.slots.borrow();
        slots.r2ts_open > 0 && slots.any_overdue(limit)
    }

    fn log_timeout(&self, what: &str) {
        let host = self.commands.host_nqn();
        tracing::warn!(peer = %self.peer, host, "host timed out: {what}; the connection ends");
    }

    /// Frees everything. Called once, with nothing borrowed.
    fn tear_down(&self) {
        self.enter(Phase::Closed);
        self.commands.closed();
        let slots = self.slots.borrow_mut().take_all();
        for slot in &slots {
            if let Some(task) = slot.task {
                cancel(task);
            }
        }
        drop(slots);
        self.rx.borrow_mut().clear();
        let batches = self.tx.borrow_mut().take_all();
        drop(batches);
        let stream = self.stream.borrow_mut().take();
        drop(stream);
        registry::remove(self);
    }
}

impl RoundEnd for Connection {
    fn round_end(self: Rc<Self>) {
        if !self.is_closing() {
            loop {
                let queued = self.tx.borrow().pending_bytes();
                let max = self.config.payload_max_bytes.into();
                let next = self.slots.borrow_mut().next_deferred(queued, max);
                let Some(slot) = next else { break };
                self.run_admitted(slot);
            }
        }
        self.resume_receiving();
        if let Some(reason) = self.finishing.get()
            && self.slots.borrow().committed == 0
        {
            self.begin_close(reason);
        }
        self.hooked.set(false);
        self.flush();
        if self.phase.get() == Phase::Closing
            && self.tx.borrow().is_idle()
            && !self.half_closed.replace(true)
            && let Some(stream) = self.stream.borrow().as_ref()
        {
            // The host has to get the last PDU before a reset could overtake it, so the stream
            // stays, deaf, until the host closes it or the linger time is over.
            stream.shutdown_write();
        }
    }
}

impl StreamSink for Connection {
    fn on_data(&self, chunk: RecvChunk) {
        self.receive_chunk(chunk);
    }

    fn on_direct(&self, lease: Lease) {
        self.receive_direct(&lease);
    }

    fn on_sent(&self, result: io::Result<()>) {
        let (bytes, more) = {
            let mut tx = self.tx.borrow_mut();
            (tx.sent(), tx.pending_bytes() > 0)
        };
        match result {
            Ok(()) => {
                self.stats.sent_bytes.add_len(bytes);
                let waits = !self.slots.borrow().deferred.is_empty();
                if more || waits || self.is_held_up() || self.is_closing() {
                    self.hook();
                }
            }
            Err(error) => {
                tracing::debug!(peer = %self.peer, %error, "send failed");
                self.cut();
            }
        }
    }

    fn on_closed(&self, error: Option<io::Error>) {
        if self.phase.get() == Phase::Closed {
            return;
        }
        match error {
            Some(error) => tracing::info!(peer = %self.peer, %error, "connection lost"),
            None => tracing::debug!(peer = %self.peer, "connection closed"),
        }
        self.tear_down();
    }
}

/// What the handler holds to act on its connection; it does not keep it alive.
pub(crate) struct Control(pub(crate) Weak<Connection>);

impl ConnectionControl for Control {
    fn abort(&self, command_id: u16, status: u16) -> bool {
        self.0
            .upgrade()
            .is_some_and(|connection| connection.abort(command_id, status))
    }

    fn close(&self, reason: &'static str) {
        if let Some(connection) = self.0.upgrade() {
            connection.begin_close(reason);
        }
    }
}

impl Connection {
    fn abort(&self, cid: u16, status: u16) -> bool {
        let (index, generation, task) = {
            let mut slots = self.slots.borrow_mut();
            let Some(index) = slots.find(cid) else {
                return false;
            };
            let Some(slot) = slots.get_mut(index) else {
                return false;
            };
            match slot.state {
                SlotState::Running if !slot.committed => (index, slot.generation, slot.task.take()),
                SlotState::Deferred => (index, slot.generation, None),
                _ => return false,
            }
        };
        if let Some(task) = task {
            cancel(task);
        }
        let mut slots = self.slots.borrow_mut();
        match slots.current(index, generation) {
            Some(slot) if slot.state != SlotState::Draining => {
                self.conclude(slots, index, Reply::status(status));
                true
            }
            _ => false,
        }
    }

    /// Drops the Asynchronous Event Request of that identifier, if one is outstanding, unanswered.
    ///
    /// To use an identifier twice is an error (Base 2.1, 3.3.1.1). But SPDK's initiator forgets its
    /// event requests when it detaches and gives their identifiers to the Property commands of the
    /// shutdown, which a Command ID Conflict would break. An event request has touched nothing and
    /// may stay without an answer for ever, so to take it as given up harms no host.
    pub(crate) fn forget_event_request(&self, cid: u16) -> bool {
        if !self.queue.get().is_admin {
            return false;
        }
        let found = {
            let mut slots = self.slots.borrow_mut();
            let index = slots.find_waiting(cid, AdminOpcode::AsyncEventRequest as u8);
            index.map(|index| {
                (
                    index,
                    slots.get_mut(index).and_then(|slot| slot.task.take()),
                )
            })
        };
        let Some((index, task)) = found else {
            return false;
        };
        if let Some(task) = task {
            cancel(task);
        }
        self.slots.borrow_mut().release(index);
        tracing::debug!(peer = %self.peer, cid, "the host gave up an asynchronous event request");
        true
    }

    /// Polls a command whose bytes are counted already.
    fn run_admitted(&self, index: u16) {
        let task = self.slots.borrow().get(index).and_then(|slot| slot.task);
        let task = task.or_else(|| {
            let task = self.commands.start(self.me.upgrade()?, index);
            if let Some(slot) = self.slots.borrow_mut().get_mut(index) {
                slot.task = Some(task);
            }
            Some(task)
        });
        if let Some(task) = task {
            run_now(task);
        }
    }
}
