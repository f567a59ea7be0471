//! Fabrics commands (Base 2.1, 6).

mod connect;
mod property;
#[cfg(test)]
mod tests;

use std::rc::Rc;

use penstock_nvme::fabrics::FabricsCommand;
use penstock_nvme::{Sqe, Status};
use penstock_seam::{Command, Link, Reply};

use crate::session::{Role, Session};
use crate::status::{Fail, at};

/// Executes a Fabrics command on any queue.
pub(crate) async fn run<L: Link>(
    session: &Rc<Session>,
    sqe: &Sqe,
    command: &Command,
    link: &L,
) -> Result<Reply, Fail> {
    match FabricsCommand::decode(sqe) {
        FabricsCommand::Connect(connect) => connect::run(session, connect, command, link).await,
        FabricsCommand::PropertyGet(get) => property::get(session, get),
        FabricsCommand::PropertySet(set) => property::set(session, set),
        FabricsCommand::Disconnect(disconnect) => {
            disconnect_queue(session, disconnect.recfmt.get())
        }
        FabricsCommand::AuthenticationSend(_)
        | FabricsCommand::AuthenticationReceive(_)
        | FabricsCommand::Unknown(_) => Err(Fail::field(Status::INVALID_OPCODE.dnr(), at::NSID)),
    }
}

/// Disconnect (Base 2.1, 6.4): ends an I/O queue. The connection closes after the reply.
fn disconnect_queue(session: &Session, record_format: u16) -> Result<Reply, Fail> {
    match session.role() {
        None => Err(Fail::new(Status::COMMAND_SEQUENCE_ERROR.dnr())),
        Some(Role::Admin(_)) => Err(Fail::new(Status::INVALID_QUEUE_TYPE.dnr())),
        Some(Role::Io(_)) if record_format != 0 => Err(Fail::field(
            Status::CONNECT_INCOMPATIBLE_FORMAT.dnr(),
            at::CDW10,
        )),
        Some(Role::Io(_)) => {
            let mut reply = Reply::status(Status::SUCCESS.wire());
            reply.close = true;
            Ok(reply)
        }
    }
}
