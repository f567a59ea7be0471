//! A controller: its admin queue, from the handshake to the shutdown (NVMe Base 2.1, 3.5 and 3.6).

use std::rc::Rc;
use std::time::Duration;

use penstock_buffer::{Lease, Pool};
use penstock_nvme::fabrics::{
    CNTLID_DYNAMIC, ConnectCommand, ConnectData, ConnectResult, PropertyCommand, PropertySize,
};
use penstock_nvme::identify::IdentifyController;
use penstock_nvme::register::{
    CC_CSS_NVM, Cap, Cc, Csts, OFFSET_CAP, OFFSET_CC, OFFSET_CSTS, OFFSET_VS, SHST_COMPLETE,
};
use penstock_nvme::{Cqe, IntoBytes, Sqe};
use penstock_reactor::{sleep, spawn};
use penstock_units::ControllerId;

use crate::connection::{Connection, Owned};
use crate::error::{ClientError, CloseReason, CommandName};
use crate::execute::Answer;
use crate::options::ConnectOptions;
use crate::remedy;
use crate::slot::Request;
use crate::time::{ticks_of, within};

/// CAP.TO counts in half seconds.
const READY_TIMEOUT_UNIT: Duration = Duration::from_millis(500);
/// How often CSTS is read while the controller becomes ready or shuts down.
const STATUS_INTERVAL: Duration = Duration::from_millis(10);
/// How long an orderly shutdown may take.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);
/// log2 of the entry sizes of the NVM command set.
const IOSQES: u8 = 6;
const IOCQES: u8 = 4;

/// What queues on other reactors need to know of a controller. May be sent anywhere.
#[derive(Clone, Debug)]
pub struct ControllerInfo {
    /// How the admin queue was connected; I/O queues are connected the same way.
    pub options: ConnectOptions,
    /// Controller identifier.
    pub controller_id: ControllerId,
    /// Capabilities.
    pub cap: Cap,
    /// Version, as in the VS property.
    pub version: u32,
    /// Longest data of one command in bytes (MDTS); `None` where there is no limit.
    pub transfer_max_bytes: Option<u64>,
    /// In-capsule data of an I/O command in bytes (from IOCCSZ).
    pub in_capsule_max_bytes: u32,
    /// Commands an I/O queue may take (MAXCMD), 0 where not reported.
    pub commands_max: u16,
    /// Header digests are in force on the admin queue.
    pub header_digest: bool,
    /// Data digests are in force on the admin queue.
    pub data_digest: bool,
}

pub(crate) struct Shared {
    pub(crate) connection: Owned,
    pub(crate) pool: Pool,
    info: ControllerInfo,
    identity: Option<Box<IdentifyController>>,
}

/// A connected, ready controller. Clones refer to the same one; the connection is closed when the
/// last is dropped ([`Controller::shut_down`] does it in order). Lives on the reactor it was
/// connected on.
#[derive(Clone)]
pub struct Controller {
    pub(crate) shared: Rc<Shared>,
}

impl Controller {
    /// Connects the admin queue, enables the controller, waits until it is ready, identifies it
    /// and keeps it alive from then on.
    ///
    /// # Errors
    /// No connection, a refusal by the target, a controller that does not become ready in its own
    /// time limit (CAP.TO).
    pub async fn connect(options: &ConnectOptions, pool: &Pool) -> Result<Controller, ClientError> {
        let entries = options.admin_queue_entries.clamp(32, 4096);
        let connection = Connection::open(options, entries - 1).await?;
        let agreed = connection.agreed();
        let command = ConnectCommand::new(0, entries.into(), options.keep_alive_timeout_ms);
        let result = connect_queue(&connection, pool, options, command, CNTLID_DYNAMIC).await?;
        let info = ControllerInfo {
            options: options.clone(),
            controller_id: ControllerId(result.cntlid),
            cap: Cap::default(),
            version: 0,
            transfer_max_bytes: None,
            in_capsule_max_bytes: 0,
            commands_max: 0,
            header_digest: agreed.header_digest,
            data_digest: agreed.data_digest,
        };
        let pool = pool.clone();
        let mut shared = Shared {
            connection,
            pool,
            info,
            identity: None,
        };
        shared.enable().await?;
        shared.learn().await?;
        let controller = Controller {
            shared: Rc::new(shared),
        };
        controller.keep_alive();
        Ok(controller)
    }

    /// What queues on other reactors need.
    pub fn info(&self) -> &ControllerInfo {
        &self.shared.info
    }

    /// The controller's Identify data, as it was when connecting.
    pub fn identity(&self) -> Option<&IdentifyController> {
        self.shared.identity.as_deref()
    }

    /// Why the connection is gone; `None` while it stands.
    pub fn closed(&self) -> Option<CloseReason> {
        self.shared.connection.closed()
    }

    /// Sends Keep Alive commands at half the time-out, until the connection is gone
    /// (NVMe Base 2.1, 3.9.2).
    fn keep_alive(&self) {
        let timeout_ms = self.shared.info.options.keep_alive_timeout_ms;
        if timeout_ms == 0 {
            return;
        }
        let interval = Duration::from_millis((u64::from(timeout_ms) / 2).max(1));
        let shared = Rc::downgrade(&self.shared);
        spawn(async move {
            loop {
                sleep(interval).await;
                let Some(shared) = shared.upgrade() else {
                    return;
                };
                if shared.connection.closed().is_some() {
                    return;
                }
                let limit = Duration::from_millis(timeout_ms.into());
                let alive = within(limit, shared.ping()).await;
                if !matches!(alive, Some(Ok(_))) {
                    tracing::warn!(peer = %shared.connection.address(), "keep alive failed");
                    shared.connection.close();
                    return;
                }
            }
        });
    }

    /// Asks for a normal shutdown, waits until the controller has flushed what it must (at most
    /// 5 s), and closes the connection (NVMe Base 2.1, 3.6.2). Disconnect I/O queues before.
    ///
    /// # Errors
    /// The controller did not finish its shutdown in time; the connection is closed nevertheless.
    pub async fn shut_down(self) -> Result<(), ClientError> {
        let result = self.shared.shut_down().await;
        self.shared.connection.close();
        result
    }
}

/// Sends Connect for a queue and gives the controller's answer (NVMe Base 2.1, 6.3).
pub(crate) async fn connect_queue(
    connection: &Connection,
    pool: &Pool,
    options: &ConnectOptions,
    command: ConnectCommand,
    controller: u16,
) -> Result<ConnectResult, ClientError> {
    let name = CommandName {
        name: "Connect",
        nsid: None,
    };
    let (subsystem, host) = (options.subsystem_nqn.as_str(), options.host_nqn.as_str());
    let data = ConnectData::new(options.host_id, controller, subsystem, host).ok_or_else(|| {
        ClientError::Invalid {
            command: name,
            what: "an NQN is invalid".into(),
        }
    })?;
    let lease = pool.lease(data.as_bytes().len()).await;
    lease.write_at(0, data.as_bytes());
    let limit = Some(ticks_of(options.connect_timeout()));
    let request = Request {
        sqe: command.into(),
        command: name,
        lease: Some(lease),
        limit,
    };
    match connection.execute(request).await {
        Ok(answer) => Ok(ConnectResult::from_cqe(&Cqe::new(answer.result, 0, 0, 0))),
        Err(ClientError::Status { status, .. }) => Err(ClientError::Refused {
            address: options.address,
            nqn: subsystem.to_owned(),
            status,
            remedy: remedy::of_connect(status),
        }),
        Err(other) => Err(other),
    }
}

impl Shared {
    /// Executes an admin command with the usual limit.
    pub(crate) async fn admin(
        &self,
        (sqe, command): (Sqe, CommandName),
        lease: Option<Lease>,
    ) -> Result<Answer, ClientError> {
        let limit = Some(ticks_of(self.info.options.command_timeout()));
        self.connection
            .execute(Request {
                sqe,
                command,
                lease,
                limit,
            })
            .await
    }

    async fn property_get(&self, offset: u32, size: PropertySize) -> Result<u64, ClientError> {
        let name = CommandName {
            name: "Property Get",
            nsid: None,
        };
        let command = PropertyCommand::get(offset, size);
        Ok(self.admin((command.into(), name), None).await?.result)
    }

    /// The four-byte property at `offset`.
    async fn property(&self, offset: u32) -> Result<u32, ClientError> {
        let value = self.property_get(offset, PropertySize::Four).await?;
        Ok(u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0))
    }

    async fn set_property(&self, offset: u32, value: u32) -> Result<(), ClientError> {
        let name = CommandName {
            name: "Property Set",
            nsid: None,
        };
        let command = PropertyCommand::set(offset, PropertySize::Four, value.into());
        self.admin((command.into(), name), None).await.map(drop)
    }

    /// Enables the controller and waits for CSTS.RDY (NVMe Base 2.1, 3.5.3).
    async fn enable(&mut self) -> Result<(), ClientError> {
        self.info.cap = Cap(self.property_get(OFFSET_CAP, PropertySize::Eight).await?);
        self.info.version = self.property(OFFSET_VS).await?;
        let cc = Cc::default()
            .with_css(CC_CSS_NVM)
            .with_iosqes(IOSQES)
            .with_iocqes(IOCQES)
            .with_en(true);
        self.set_property(OFFSET_CC, cc.0).await?;
        let limit = READY_TIMEOUT_UNIT * u32::from(self.info.cap.to()).max(1);
        self.status(limit, "become ready", |csts| csts.rdy()).await
    }

    async fn shut_down(&self) -> Result<(), ClientError> {
        let cc = Cc(self.property(OFFSET_CC).await?).with_shn(1);
        self.set_property(OFFSET_CC, cc.0).await?;
        self.status(SHUTDOWN_LIMIT, "shut down", |csts| {
            csts.shst() == SHST_COMPLETE
        })
        .await
    }

    /// Reads CSTS until `reached`, at most `limit` long.
    async fn status(
        &self,
        limit: Duration,
        what: &str,
        reached: impl Fn(Csts) -> bool,
    ) -> Result<(), ClientError> {
        let told = |what: String| ClientError::Controller {
            address: self.connection.address(),
            what,
        };
        let wait = async {
            loop {
                let csts = Csts(self.property(OFFSET_CSTS).await?);
                if reached(csts) {
                    return Ok(());
                }
                if csts.cfs() {
                    let what = "it reports a fatal error (CSTS.CFS): see the target's log";
                    return Err(told(what.to_owned()));
                }
                sleep(STATUS_INTERVAL).await;
            }
        };
        within(limit, wait).await.unwrap_or_else(|| {
            let limit = limit.as_millis();
            Err(told(format!(
                "it did not {what} in {limit} ms: see the target's log"
            )))
        })
    }

    /// Identifies the controller.
    async fn learn(&mut self) -> Result<(), ClientError> {
        let identity = crate::admin::identify_controller(self).await?;
        self.info.transfer_max_bytes = identity.transfer_bytes_max(self.info.cap.mpsmin());
        self.info.in_capsule_max_bytes =
            u32::try_from(identity.in_capsule_data_bytes()).unwrap_or(u32::MAX);
        self.info.commands_max = identity.maxcmd.get();
        self.identity = Some(identity);
        Ok(())
    }
}
