//! The meaning of one connection's commands: [`Session`] implements the seam's `Handler`.

use std::cell::{Cell, OnceCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use penstock_buffer::{Lease, Payload, Pool};
use penstock_nvme::opcode::FABRICS;
use penstock_nvme::{Sqe, Status};
use penstock_seam::{Command, ConnectionControl, Handler, Link, Reply};

use crate::controller::{Controller, QueueShared};
use crate::error_log::ErrorRecord;
use crate::io::{Incoming, IoQueue};
use crate::local::{Home, Remote, forget, register, unique_id};
use crate::namespace::DebtHold;
use crate::status::Fail;
use crate::target::{SessionContext, Target};
use crate::{admin, fabrics};

/// What a successful Connect made of the connection.
pub enum Role {
    /// The admin queue of a controller.
    Admin(Arc<Controller>),
    /// One of its I/O queues.
    Io(IoQueue),
}

/// One connection's state. Lives on the connection's reactor.
pub struct Session {
    id: u64,
    target: Arc<Target>,
    context: SessionContext,
    home: Home,
    shared: Arc<QueueShared>,
    control: OnceCell<Rc<dyn ConnectionControl>>,
    role: OnceCell<Role>,
    /// The connection is gone.
    ended: Cell<bool>,
}

impl Session {
    pub(crate) fn new(target: &Arc<Target>, context: SessionContext) -> Rc<Session> {
        let id = unique_id();
        let shared = Arc::new(QueueShared::default());
        shared
            .last_traffic
            .store((target.config().clock.now)(), Ordering::Relaxed);
        let session = Rc::new(Session {
            id,
            target: Arc::clone(target),
            home: Home::here(Arc::clone(&context.runner)),
            context,
            shared,
            control: OnceCell::new(),
            role: OnceCell::new(),
            ended: Cell::new(false),
        });
        register(id, &session);
        session
    }

    /// The target the connection was made to.
    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }

    /// Addresses and memory of the connection.
    pub fn context(&self) -> &SessionContext {
        &self.context
    }

    /// The thread it lives on.
    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    /// Payload memory.
    #[inline]
    pub(crate) fn pool(&self) -> &Pool {
        &self.context.pool
    }

    /// What other threads see of it.
    #[inline]
    pub(crate) fn shared(&self) -> &Arc<QueueShared> {
        &self.shared
    }

    /// Ticks now.
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        (self.target.config().clock.now)()
    }

    /// What Connect made of it; `None` before.
    pub fn role(&self) -> Option<&Role> {
        self.role.get()
    }

    /// Its controller; `None` before Connect.
    pub fn controller(&self) -> Option<&Arc<Controller>> {
        match self.role.get()? {
            Role::Admin(controller) => Some(controller),
            Role::Io(queue) => Some(queue.controller()),
        }
    }

    /// Its queue identifier, 0 before Connect.
    pub fn queue_id(&self) -> u16 {
        match self.role.get() {
            Some(Role::Io(queue)) => queue.id(),
            _ => 0,
        }
    }

    /// Becomes a queue of a controller; false where it is one already.
    pub(crate) fn become_queue(&self, role: Role) -> bool {
        self.role.set(role).is_ok()
    }

    /// The way here from other threads.
    pub(crate) fn remote(&self) -> Remote {
        Remote::new(self.id, self.home.clone())
    }

    /// Closes the connection once replies given are sent.
    pub(crate) fn close(&self, reason: &'static str) {
        if let Some(control) = self.control.get() {
            control.close(reason);
        }
    }

    /// Takes back a command of this queue; false where there is none to take back.
    pub(crate) fn abort(&self, command_id: u16) -> bool {
        let status = Status::ABORT_REQUESTED.wire();
        self.control
            .get()
            .is_some_and(|control| control.abort(command_id, status))
    }

    /// Looks at the namespace table again, so that removed namespaces are let go.
    pub(crate) fn refresh_namespaces(&self) {
        if let Some(Role::Io(queue)) = self.role.get() {
            queue.refresh();
        }
    }

    /// Notes a command that ended in error in the controller's log. Not on the way of success.
    #[cold]
    pub(crate) fn note_error(&self, sqe: &Sqe, fail: &Fail) {
        let Some(controller) = self.controller() else {
            return;
        };
        let record = ErrorRecord {
            count: 0,
            queue_id: self.queue_id(),
            command_id: sqe.cid.get(),
            status: fail.status.wire(),
            location: fail.location,
            lba: fail.lba,
            nsid: if sqe.is_fabrics() { 0 } else { sqe.nsid.get() },
            opcode: sqe.opcode,
        };
        controller.with_errors(|log| log.push(record));
    }

    /// Everything but I/O: Fabrics and admin commands. Boxed by the caller; may allocate.
    async fn slow<L: Link + 'static>(self: Rc<Self>, command: Command, link: L) -> Reply {
        let sqe = *Sqe::from_bytes(&command.sqe);
        let result = if sqe.opcode == FABRICS {
            fabrics::run(&self, &sqe, &command, &link).await
        } else {
            match self.role.get() {
                Some(Role::Admin(controller)) => {
                    admin::run(&self, controller, &sqe, &command, &link).await
                }
                // I/O commands do not come here once the queue is connected.
                _ => Err(Fail::new(Status::COMMAND_SEQUENCE_ERROR.dnr())),
            }
        };
        let counters = &self.shared.counters;
        counters.commands.add(1);
        result.unwrap_or_else(|fail| {
            counters.errors.add(1);
            self.note_error(&sqe, &fail);
            fail.reply()
        })
    }

    /// A lease filled with `bytes`, as the payload of an admin reply.
    pub(crate) async fn payload_of(&self, bytes: &[u8]) -> Payload {
        if bytes.is_empty() {
            return Payload::none();
        }
        let lease = self.pool().lease(bytes.len()).await;
        lease.write_at(0, bytes);
        Payload::from(lease)
    }

    /// The host's data of an admin command, all `len` bytes of it.
    pub(crate) async fn host_data<L: Link>(&self, link: &L, len: usize) -> Result<Vec<u8>, Fail> {
        let lease: Lease = link.receive(self.pool().lease(len).await).await?;
        let mut bytes = vec![0; len];
        lease.read_at(0, &mut bytes);
        Ok(bytes)
    }
}

impl Handler for Session {
    #[allow(
        clippy::manual_async_fn,
        reason = "an async fn keeps its arguments twice: a larger future"
    )]
    fn execute<L: Link + 'static>(
        self: Rc<Self>,
        command: Command,
        link: L,
    ) -> impl Future<Output = Reply> + 'static {
        async move {
            match self.role.get() {
                Some(Role::Io(queue)) if command.sqe[0] != FABRICS => {
                    if let Some((quick, op)) = queue.quick_read(&self, &command, &link) {
                        let outcome = op.await;
                        return queue.quick_read_done(&self, &command, quick, outcome);
                    }
                    if let Some((quick, incoming)) = queue.quick_write(&self, &command, &link) {
                        let (lease, mut writing, fua) = incoming.into_parts();
                        let lease = match link.receive(lease).await {
                            Ok(lease) => lease,
                            Err(error) => {
                                let fail = Fail::from(error);
                                return queue.quick_failed(&self, &command, quick, fail);
                            }
                        };
                        let writing = loop {
                            match Incoming::begin(writing.take(), &quick) {
                                Some(writing) => break writing,
                                None => quick.lowered().await,
                            }
                        };
                        let op = queue.quick_submit(&quick, lease, (writing, fua), &link);
                        let outcome = op.await;
                        return queue.quick_write_done(&self, &command, quick, outcome);
                    }
                    queue.run(&self, &command, &link).await
                }
                _ => {
                    let slow: std::pin::Pin<Box<dyn Future<Output = Reply>>> =
                        Box::pin(Rc::clone(&self).slow(command, link));
                    slow.await
                }
            }
        }
    }

    fn host_nqn(&self) -> Option<String> {
        self.controller()
            .map(|controller| controller.host().nqn.clone())
    }

    fn attach(&self, control: Rc<dyn ConnectionControl>) {
        // A second control would be a mistake of the transport; the first one stays.
        let _ = self.control.set(control);
    }

    #[inline]
    fn traffic(&self, now_ticks: u64) {
        self.shared.last_traffic.store(now_ticks, Ordering::Relaxed);
    }

    fn closed(&self) {
        if self.ended.replace(true) {
            return;
        }
        forget(self.id);
        if let Some(controller) = self.controller() {
            // The commands in flight are dropped right after this call: a debt keeps the host's
            // next controller from being ready before writes among them are known.
            if self.queue_id() != 0 {
                let debt = DebtHold::new(controller.debt());
                self.home.run_later(move || drop(debt));
            }
            controller.detach(self.queue_id(), self.id);
        }
        if let Some(Role::Io(queue)) = self.role.get() {
            queue.let_go();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A transport that forgot to say so must not leave a queue behind.
        if !self.ended.get() {
            self.closed();
        }
    }
}
