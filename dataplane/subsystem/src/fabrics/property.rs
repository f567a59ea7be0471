//! Property Get and Property Set: the controller's registers (Base 2.1, 6.5, 6.6 and 3.1.4).

use std::sync::Arc;

use penstock_nvme::Status;
use penstock_nvme::fabrics::{PropertyCommand, PropertySize};
use penstock_nvme::register::{
    CSS_IO_COMMAND_SETS, CSS_NVM, Cap, Cc, Crto, OFFSET_CAP, OFFSET_CC, OFFSET_CRTO, OFFSET_CSTS,
    OFFSET_VS, VERSION_2_1,
};
use penstock_seam::Reply;

use crate::controller::Controller;
use crate::session::{Role, Session};
use crate::status::{Fail, at};
use crate::target::TargetConfig;

/// How long becoming ready may take, in units of 500 ms (CAP.TO): writes of the host's earlier
/// connections are waited for.
const READY_TIMEOUT: u8 = 60;

/// Controller Capabilities.
pub(crate) fn capabilities(config: &TargetConfig) -> Cap {
    Cap(0)
        .with_mqes(config.queue_entries_max - 1)
        .with_cqr(true)
        .with_to(READY_TIMEOUT)
        .with_css(CSS_NVM | CSS_IO_COMMAND_SETS)
        .with_crms(1)
}

fn admin(session: &Session) -> Result<&Arc<Controller>, Fail> {
    match session.role() {
        Some(Role::Admin(controller)) => Ok(controller),
        Some(Role::Io(_)) => Err(Fail::new(Status::INVALID_QUEUE_TYPE.dnr())),
        None => Err(Fail::new(Status::COMMAND_SEQUENCE_ERROR.dnr())),
    }
}

const OFFSET: u16 = 44;
const VALUE: u16 = 48;

/// Property Get.
pub(super) fn get(session: &Session, command: &PropertyCommand) -> Result<Reply, Fail> {
    let controller = admin(session)?;
    let size = command.size().ok_or(Fail::invalid_field(at::CDW10))?;
    let value = match (command.ofst.get(), size) {
        (OFFSET_CAP, PropertySize::Eight) => capabilities(controller.subsystem().target()).0,
        (OFFSET_VS, PropertySize::Four) => u64::from(VERSION_2_1),
        (OFFSET_CC, PropertySize::Four) => u64::from(controller.cc().0),
        (OFFSET_CSTS, PropertySize::Four) => u64::from(controller.state().csts()),
        (OFFSET_CRTO, PropertySize::Four) => {
            u64::from(Crto(0).with_crwmt(u16::from(READY_TIMEOUT)).0)
        }
        (OFFSET_CAP | OFFSET_VS | OFFSET_CC | OFFSET_CSTS | OFFSET_CRTO, _) => {
            return Err(Fail::invalid_field(at::CDW10));
        }
        _ => return Err(Fail::invalid_field(OFFSET)),
    };
    let mut reply = Reply::status(Status::SUCCESS.wire());
    reply.result = value;
    Ok(reply)
}

/// Property Set. Only CC can be written; NSSR is not supported (CAP.NSSRS is 0).
pub(super) fn set(session: &Session, command: &PropertyCommand) -> Result<Reply, Fail> {
    let controller = admin(session)?;
    let size = command.size().ok_or(Fail::invalid_field(at::CDW10))?;
    if command.ofst.get() != OFFSET_CC {
        return Err(Fail::invalid_field(OFFSET));
    }
    if size != PropertySize::Four {
        return Err(Fail::invalid_field(at::CDW10));
    }
    let value = u32::try_from(command.value.get() & u64::from(u32::MAX)).unwrap_or(0);
    controller.write_cc(Cc(value)).map_err(|illegal| {
        tracing::debug!(host = %controller.host().nqn, peer = %controller.peer(), %illegal);
        Fail::field(Status::COMMAND_SEQUENCE_ERROR.dnr(), VALUE)
    })?;
    Ok(Reply::status(Status::SUCCESS.wire()))
}
