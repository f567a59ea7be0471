//! Admin commands (Base 2.1, 5). None is on the I/O path: all may allocate and lock.

mod abort;
pub(crate) mod feature;
mod identify;
mod log;
#[cfg(test)]
mod log_tests;
#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::sync::Arc;

use penstock_nvme::{AdminOpcode, Sqe, Status};
use penstock_seam::{Command, Link, Reply};

use crate::controller::Controller;
use crate::event::{EventOutcome, EventRequest};
use crate::session::Session;
use crate::state::State;
use crate::status::{Fail, at};
use crate::subsystem::SubsystemKind;

/// Asynchronous Event Requests a host may have outstanding (Identify's AERL plus one).
pub(crate) const EVENT_REQUESTS_MAX: u16 = 4;
/// Abort commands that may be in progress (Identify's ACL plus one).
pub(crate) const ABORTS_MAX: u16 = 4;

/// Keep alive granularity, in units of 100 ms (Identify's KAS).
pub(crate) const KEEP_ALIVE_GRANULARITY: u16 = 1;

/// The admin commands a controller of this kind has. The commands supported and effects log shows
/// the same table.
pub(crate) fn supported(kind: SubsystemKind, opcode: AdminOpcode) -> bool {
    match opcode {
        AdminOpcode::Identify
        | AdminOpcode::GetLogPage
        | AdminOpcode::GetFeatures
        | AdminOpcode::SetFeatures
        | AdminOpcode::AsyncEventRequest
        | AdminOpcode::KeepAlive
        | AdminOpcode::Fabrics => true,
        AdminOpcode::Abort => kind == SubsystemKind::Nvm,
        _ => false,
    }
}

/// Executes an admin command.
pub(crate) async fn run<L: Link>(
    session: &Rc<Session>,
    controller: &Arc<Controller>,
    sqe: &Sqe,
    command: &Command,
    link: &L,
) -> Result<Reply, Fail> {
    let kind = controller.subsystem().kind();
    let opcode = AdminOpcode::try_from(sqe.opcode)
        .ok()
        .filter(|opcode| supported(kind, *opcode))
        .ok_or(Fail::field(Status::INVALID_OPCODE.dnr(), at::OPCODE))?;
    if sqe.flags & 0b11 != 0 {
        return Err(Fail::invalid_field(at::FLAGS));
    }
    if controller.state() != State::Ready {
        return Err(Fail::new(Status::COMMAND_SEQUENCE_ERROR.dnr()));
    }
    let task = Admin {
        session,
        controller,
        sqe,
        data_len: command.data_len,
    };
    match opcode {
        AdminOpcode::Identify => task.identify().await,
        AdminOpcode::GetLogPage => task.get_log_page().await,
        AdminOpcode::GetFeatures => task.get_features().await,
        AdminOpcode::SetFeatures => task.set_features(link).await,
        AdminOpcode::Abort => task.abort().await,
        AdminOpcode::AsyncEventRequest => task.async_event().await,
        AdminOpcode::KeepAlive => task.keep_alive(),
        _ => Err(Fail::field(Status::INVALID_OPCODE.dnr(), at::OPCODE)),
    }
}

/// One admin command.
struct Admin<'a> {
    session: &'a Rc<Session>,
    controller: &'a Arc<Controller>,
    sqe: &'a Sqe,
    data_len: u32,
}

fn success(result: u64) -> Reply {
    let mut reply = Reply::status(Status::SUCCESS.wire());
    reply.result = result;
    reply
}

impl Admin<'_> {
    /// A successful reply with data, all of which the host's SGL must have room for.
    async fn data(&self, bytes: &[u8], result: u64) -> Result<Reply, Fail> {
        if bytes.len() > self.data_len as usize {
            return Err(Fail::field(
                Status::DATA_SGL_LENGTH_INVALID.dnr(),
                at::SGL1_LENGTH,
            ));
        }
        let mut reply = success(result);
        reply.payload = self.session.payload_of(bytes).await;
        Ok(reply)
    }

    /// Asynchronous Event Request (Base 2.1, 5.1.2).
    async fn async_event(&self) -> Result<Reply, Fail> {
        let request = EventRequest::begin(self.controller, EVENT_REQUESTS_MAX)
            .ok_or(Fail::new(Status::ASYNC_EVENT_LIMIT_EXCEEDED.dnr()))?;
        match request.await {
            EventOutcome::Event(event) => Ok(success(u64::from(event.dword()))),
            EventOutcome::Aborted => Err(Fail::new(Status::ABORT_REQUESTED)),
        }
    }

    /// Keep Alive (Base 2.1, 5.1.14). Any command counts; this one does nothing else.
    fn keep_alive(&self) -> Result<Reply, Fail> {
        let shared = self.session.shared();
        shared
            .last_traffic
            .store(self.session.now(), std::sync::atomic::Ordering::Relaxed);
        Ok(success(0))
    }
}
