//! Connect: a connection becomes a queue of a controller (Base 2.1, 6.3 and 3.3.2).

use std::mem::offset_of;
use std::rc::Rc;
use std::sync::Arc;

use penstock_nvme::fabrics::{
    CNTLID_DYNAMIC, ConnectCommand, ConnectData, ConnectResult, InvalidParameter,
};
use penstock_nvme::nqn::NqnError;
use penstock_nvme::{FromBytes, Status, nqn};
use penstock_seam::{Command, Established, Link, Reply};

use crate::controller::{AttachError, Controller, Host};
use crate::io::IoQueue;
use crate::session::{Role, Session};
use crate::status::{Fail, at};
use crate::subsystem::{Subsystem, SubsystemKind};

const DATA_BYTES: usize = size_of::<ConnectData>();

/// Why a Connect is refused.
struct Refusal {
    fail: Fail,
    why: &'static str,
}

fn refuse(status: Status, why: &'static str) -> Refusal {
    Refusal {
        fail: Fail::new(status.dnr()),
        why,
    }
}

/// Connect Invalid Parameters that names the parameter (IPO and IATTR).
fn invalid(parameter: InvalidParameter, why: &'static str) -> Refusal {
    let location = if parameter.in_data {
        at::SGL1
    } else {
        parameter.offset
    };
    let fail = Fail::field(Status::CONNECT_INVALID_PARAMETERS.dnr(), location);
    Refusal {
        fail: fail.with_result(parameter.result()),
        why,
    }
}

fn in_sqe(offset: usize, why: &'static str) -> Refusal {
    invalid(
        InvalidParameter::in_sqe(u16::try_from(offset).unwrap_or(u16::MAX)),
        why,
    )
}

fn in_data(offset: usize, why: &'static str) -> Refusal {
    invalid(
        InvalidParameter::in_data(u16::try_from(offset).unwrap_or(u16::MAX)),
        why,
    )
}

/// Executes Connect.
pub(super) async fn run<L: Link>(
    session: &Rc<Session>,
    connect: &ConnectCommand,
    command: &Command,
    link: &L,
) -> Result<Reply, Fail> {
    if session.role().is_some() {
        return Err(Fail::new(Status::COMMAND_SEQUENCE_ERROR.dnr()));
    }
    if (command.data_len as usize) < DATA_BYTES {
        return Err(Fail::field(
            Status::DATA_SGL_LENGTH_INVALID.dnr(),
            at::SGL1_LENGTH,
        ));
    }
    let bytes = session.host_data(link, DATA_BYTES).await?;
    let data =
        ConnectData::ref_from_bytes(&bytes).map_err(|_| Fail::new(Status::INTERNAL_ERROR.dnr()))?;
    let outcome = if connect.qid.get() == 0 {
        connect_admin(session, connect, data)
    } else {
        connect_io(session, connect, data)
    };
    outcome.map_err(|refusal| {
        let host = String::from_utf8_lossy(data.hostnqn_bytes());
        let (peer, status) = (session.context().peer, refusal.fail.status);
        let refusals = session.target().refusals();
        refusals.note(session.now(), peer, &host, refusal.why, status);
        refusal.fail
    })
}

/// What every Connect must fulfil: the subsystem and the host.
fn common(
    session: &Session,
    connect: &ConnectCommand,
    data: &ConnectData,
) -> Result<(Arc<Subsystem>, Host), Refusal> {
    if connect.recfmt.get() != 0 {
        return Err(refuse(
            Status::CONNECT_INCOMPATIBLE_FORMAT,
            "unknown record format",
        ));
    }
    let target = session.target();
    if target.is_closing() {
        let busy = Fail::new(Status::CONNECT_CONTROLLER_BUSY);
        return Err(Refusal {
            fail: busy,
            why: "this node is shutting down",
        });
    }
    let entries = connect.queue_entries();
    if !(2..=u32::from(target.config().queue_entries_max)).contains(&entries) {
        return Err(in_sqe(
            offset_of!(ConnectCommand, sqsize),
            "queue size out of range",
        ));
    }
    let subnqn = offset_of!(ConnectData, subnqn);
    let name =
        nqn::from_field(&data.subnqn).map_err(|_| in_data(subnqn, "subsystem NQN is not valid"))?;
    let subsystem = target
        .subsystem(name)
        .ok_or_else(|| in_data(subnqn, "no such subsystem"))?;
    let host_nqn = host_nqn(data)?;
    if data.hostid == [0; 16] {
        return Err(in_data(
            offset_of!(ConnectData, hostid),
            "host identifier is zero",
        ));
    }
    if !subsystem.allows(host_nqn) {
        return Err(refuse(Status::CONNECT_INVALID_HOST, "host is not allowed"));
    }
    Ok((
        subsystem,
        Host {
            nqn: host_nqn.to_owned(),
            id: data.hostid,
        },
    ))
}

/// The host's name. Some initiators (SPDK's tools) send none; only a subsystem that lets every
/// host in takes that, since no access list can name it.
fn host_nqn(data: &ConnectData) -> Result<&str, Refusal> {
    match nqn::from_field(&data.hostnqn) {
        Ok(name) => Ok(name),
        Err(NqnError::Empty) => Ok(""),
        Err(_) => Err(in_data(
            offset_of!(ConnectData, hostnqn),
            "host NQN is not valid",
        )),
    }
}

fn connect_admin(
    session: &Rc<Session>,
    connect: &ConnectCommand,
    data: &ConnectData,
) -> Result<Reply, Refusal> {
    let (subsystem, host) = common(session, connect, data)?;
    // Every controller is made at Connect: no static ones to ask for (Base 2.1, 3.1.1).
    if data.cntlid.get() != CNTLID_DYNAMIC {
        let offset = offset_of!(ConnectData, cntlid);
        return Err(in_data(
            offset,
            "controllers are dynamic: ask for controller FFFFh",
        ));
    }
    let peer = session.context().peer;
    let busy = || Refusal {
        fail: Fail::new(Status::CONNECT_CONTROLLER_BUSY),
        why: "every controller identifier is in use",
    };
    let controller = subsystem
        .make_controller(host, peer, connect.kato.get())
        .ok_or_else(busy)?;
    if controller
        .attach(0, session.remote(), Arc::clone(session.shared()))
        .is_err()
        || !session.become_queue(Role::Admin(Arc::clone(&controller)))
    {
        subsystem.remove_controller(&controller);
        return Err(refuse(Status::COMMAND_SEQUENCE_ERROR, "connected twice"));
    }
    // The access list may have changed while the controller was on no list.
    if !subsystem.allows(&controller.host().nqn) {
        controller.fail("host is no longer allowed");
    }
    tracing::info!(
        host = %controller.host().nqn, %peer, subsystem = %subsystem.nqn(),
        controller = %controller.id(), kato_ms = connect.kato.get(), "host connected"
    );
    Ok(reply(connect, &controller))
}

fn connect_io(
    session: &Rc<Session>,
    connect: &ConnectCommand,
    data: &ConnectData,
) -> Result<Reply, Refusal> {
    let (subsystem, host) = common(session, connect, data)?;
    let qid = connect.qid.get();
    let at_qid = offset_of!(ConnectCommand, qid);
    if subsystem.kind() == SubsystemKind::Discovery {
        return Err(in_sqe(at_qid, "discovery controllers have no I/O queues"));
    }
    let at_cntlid = offset_of!(ConnectData, cntlid);
    let controller = subsystem
        .controller(data.cntlid.get())
        .ok_or_else(|| in_data(at_cntlid, "no such controller"))?;
    if controller.host().nqn != host.nqn {
        let offset = offset_of!(ConnectData, hostnqn);
        return Err(in_data(
            offset,
            "the controller belongs to another host NQN",
        ));
    }
    if controller.host().id != host.id {
        let offset = offset_of!(ConnectData, hostid);
        return Err(in_data(
            offset,
            "the controller belongs to another host identifier",
        ));
    }
    if qid > controller.with_features(|features| features.io_queues(subsystem.target())) {
        return Err(in_sqe(
            at_qid,
            "queue identifier above the number of queues",
        ));
    }
    let shared = Arc::clone(session.shared());
    controller
        .attach(qid, session.remote(), shared)
        .map_err(|error| match error {
            AttachError::Duplicate => {
                refuse(Status::COMMAND_SEQUENCE_ERROR, "the queue exists already")
            }
            AttachError::NotReady => refuse(
                Status::COMMAND_SEQUENCE_ERROR,
                "the controller is not enabled",
            ),
        })?;
    let queue = IoQueue::new(qid, &controller, session);
    if !session.become_queue(Role::Io(queue)) {
        return Err(refuse(Status::COMMAND_SEQUENCE_ERROR, "connected twice"));
    }
    Ok(reply(connect, &controller))
}

fn reply(connect: &ConnectCommand, controller: &Controller) -> Reply {
    let mut reply = Reply::status(Status::SUCCESS.wire());
    reply.result = ConnectResult {
        cntlid: controller.id().0,
        authreq: 0,
    }
    .result();
    reply.established = Some(Established {
        queue_id: connect.qid.get(),
        queue_entries: u16::try_from(connect.queue_entries()).unwrap_or(u16::MAX),
        flow_control_disabled: connect.flow_control_disabled(),
    });
    reply
}
