//! I/O queue pairs and the commands of the NVM command set (NVM 1.1, 3.3).

use std::rc::Rc;

use penstock_buffer::{Lease, Pool};
use penstock_nvme::command::{
    BlockRange, DSM_DEALLOCATE, DSM_RANGES_MAX, DatasetManagement, DsmRange, flush,
};
use penstock_nvme::fabrics::{ConnectCommand, DisconnectCommand};
use penstock_nvme::sqe::Fuse;
use penstock_nvme::{IntoBytes, IoOpcode, Sqe, Status};
use penstock_reactor::Ticks;
use penstock_units::{CommandId, Lba, Nsid, QueueId};

use crate::connection::{Connection, Owned};
use crate::controller::{ControllerInfo, connect_queue};
use crate::error::{ClientError, CloseReason, CommandName};
use crate::execute::Answer;
use crate::slot::Request;
use crate::time::ticks_of;

/// A command in flight on a queue.
#[derive(Clone, Copy, Debug)]
pub struct Outstanding {
    /// Its identifier, as [`crate::Controller::abort`] wants it.
    pub id: CommandId,
    /// Which command, on which namespace.
    pub command: CommandName,
    /// When it was put in line, in the reactor's ticks.
    pub started: Ticks,
}

struct Shared {
    connection: Owned,
    id: QueueId,
    pool: Pool,
    limit: Ticks,
}

/// An I/O queue pair on the reactor that connected it. Clones refer to the same queue; its
/// connection is closed when the last is dropped.
///
/// Data commands take a lease whose length is the transfer's and give it back on success. On
/// failure the lease is gone: the controller may still use it.
#[derive(Clone)]
pub struct IoQueue {
    shared: Rc<Shared>,
}

impl IoQueue {
    /// Connects queue `id` (1 or above) of a controller, for `depth` commands at once. `pool` is
    /// this reactor's.
    ///
    /// # Errors
    /// No connection, or a refusal by the target.
    pub async fn connect(
        info: &ControllerInfo,
        id: QueueId,
        depth: u16,
        pool: &Pool,
    ) -> Result<IoQueue, ClientError> {
        let depth = depth_within(info, depth)?;
        let connection = Connection::open(&info.options, depth).await?;
        connection.set_in_capsule_max(info.in_capsule_max_bytes);
        // A queue of n entries holds n - 1 commands (Base 2.1, 3.3.3.2).
        let command = ConnectCommand::new(id.0, u32::from(depth) + 1, 0);
        let controller = info.controller_id.0;
        connect_queue(&connection, pool, &info.options, command, controller).await?;
        let limit = ticks_of(info.options.command_timeout());
        let shared = Shared {
            connection,
            id,
            pool: pool.clone(),
            limit,
        };
        Ok(IoQueue {
            shared: Rc::new(shared),
        })
    }

    /// The queue's identifier.
    pub fn id(&self) -> QueueId {
        self.shared.id
    }

    /// How many commands may be in flight.
    pub fn depth(&self) -> usize {
        self.shared.connection.slot_count()
    }

    /// Why the connection is gone; `None` while it stands.
    pub fn closed(&self) -> Option<CloseReason> {
        self.shared.connection.closed()
    }

    /// Commands in flight now.
    pub fn outstanding(&self) -> Vec<Outstanding> {
        let all = self.shared.connection.outstanding().into_iter();
        all.map(|(id, command, started)| Outstanding {
            id,
            command,
            started,
        })
        .collect()
    }

    /// Reads `blocks` blocks into `into` (NVM 1.1, 3.3.4).
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn read(
        &self,
        nsid: Nsid,
        lba: Lba,
        blocks: u32,
        into: Lease,
    ) -> Result<Lease, ClientError> {
        let range = BlockRange::new(lba, blocks);
        self.data(IoOpcode::Read, nsid, range, into).await
    }

    /// Writes `blocks` blocks from `from`; durable once completed with `fua` (NVM 1.1, 3.3.6).
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn write(
        &self,
        nsid: Nsid,
        lba: Lba,
        blocks: u32,
        from: Lease,
        fua: bool,
    ) -> Result<Lease, ClientError> {
        let range = BlockRange {
            fua,
            ..BlockRange::new(lba, blocks)
        };
        self.data(IoOpcode::Write, nsid, range, from).await
    }

    /// Compares `blocks` blocks with `with`; a difference is the status Compare Failure
    /// (NVM 1.1, 3.3.1).
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn compare(
        &self,
        nsid: Nsid,
        lba: Lba,
        blocks: u32,
        with: Lease,
    ) -> Result<Lease, ClientError> {
        let range = BlockRange::new(lba, blocks);
        self.data(IoOpcode::Compare, nsid, range, with).await
    }

    /// Has the controller read and check `blocks` blocks without sending them (NVM 1.1, 3.3.5).
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn verify(&self, nsid: Nsid, lba: Lba, blocks: u32) -> Result<(), ClientError> {
        let range = BlockRange::new(lba, blocks);
        self.execute(self.request(IoOpcode::Verify, nsid, range, None)?)
            .await
            .map(drop)
    }

    /// Writes zeroes to `blocks` blocks; with `deallocate` the controller may free them instead
    /// (NVM 1.1, 3.3.8).
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn write_zeroes(
        &self,
        nsid: Nsid,
        lba: Lba,
        blocks: u32,
        deallocate: bool,
    ) -> Result<(), ClientError> {
        let range = BlockRange {
            deallocate,
            ..BlockRange::new(lba, blocks)
        };
        self.execute(self.request(IoOpcode::WriteZeroes, nsid, range, None)?)
            .await
            .map(drop)
    }

    /// Makes every completed write of the namespace durable (Base 2.1, 7.2).
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn flush(&self, nsid: Nsid) -> Result<(), ClientError> {
        let command = CommandName {
            name: IoOpcode::Flush.name(),
            nsid: Some(nsid),
        };
        self.execute(self.plain(flush(nsid), command))
            .await
            .map(drop)
    }

    /// Tells the controller that the ranges (first block, number of blocks) are not needed any
    /// more, 1 to 256 of them (NVM 1.1, 3.3.3).
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn deallocate(&self, nsid: Nsid, ranges: &[(Lba, u32)]) -> Result<(), ClientError> {
        let command = CommandName {
            name: IoOpcode::DatasetManagement.name(),
            nsid: Some(nsid),
        };
        let count = u32::try_from(ranges.len()).unwrap_or(u32::MAX);
        let dsm = DatasetManagement {
            ranges: count,
            attributes: DSM_DEALLOCATE,
        };
        let Some(sqe) = dsm.encode(nsid) else {
            let what = format!("takes 1 to {DSM_RANGES_MAX} ranges, not {count}: split them");
            return Err(ClientError::Invalid { command, what });
        };
        let lease = self
            .shared
            .pool
            .lease(ranges.len() * size_of::<DsmRange>())
            .await;
        for (i, (lba, blocks)) in ranges.iter().enumerate() {
            let range = DsmRange::new(*lba, *blocks);
            lease.write_at(i * size_of::<DsmRange>(), range.as_bytes());
        }
        self.execute(Request {
            lease: Some(lease),
            ..self.plain(sqe, command)
        })
        .await
        .map(drop)
    }

    /// Writes `write` where the blocks hold `compare`, as one atomic step (fused operation,
    /// Base 2.1, 3.4.2). Gives `write` back.
    ///
    /// # Errors
    /// Compare Failure where they hold something else; see [`ClientError`].
    pub async fn compare_and_write(
        &self,
        nsid: Nsid,
        lba: Lba,
        blocks: u32,
        compare: Lease,
        write: Lease,
    ) -> Result<Lease, ClientError> {
        let range = BlockRange::new(lba, blocks);
        let mut first = self.request(IoOpcode::Compare, nsid, range, Some(compare))?;
        let mut second = self.request(IoOpcode::Write, nsid, range, Some(write))?;
        first.sqe = first.sqe.with_fuse(Fuse::First);
        second.sqe = second.sqe.with_fuse(Fuse::Second);
        let (compared, written) = self.shared.connection.execute_pair(first, second).await;
        match (compared, written) {
            (Ok(_), written) => lease_of(written?),
            // Where both failed, the first says why and the second only that the first failed.
            (Err(compared), Err(written))
                if compared.status().map(Status::code) == Some(Status::ABORT_FAILED_FUSED) =>
            {
                Err(written)
            }
            (Err(compared), _) => Err(compared),
        }
    }

    /// Executes any command on this queue, for tests and tools; gives completion dwords 0 and 1.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn raw(
        &self,
        sqe: Sqe,
        lease: Option<Lease>,
    ) -> Result<(u64, Option<Lease>), ClientError> {
        let command = CommandName {
            name: "I/O command",
            nsid: sqe.namespace(),
        };
        let answer = self
            .execute(Request {
                lease,
                ..self.plain(sqe, command)
            })
            .await?;
        Ok((answer.result, answer.lease))
    }

    /// Has the controller delete the queue and closes the connection (Base 2.1, 6.4). A controller
    /// that does not know the command is no failure: closing does the same.
    ///
    /// # Errors
    /// The connection was gone already.
    pub async fn disconnect(self) -> Result<(), ClientError> {
        let command = CommandName {
            name: "Disconnect",
            nsid: None,
        };
        let result = self
            .execute(self.plain(DisconnectCommand::new().into(), command))
            .await;
        self.shared.connection.close();
        match result {
            Ok(_) | Err(ClientError::Status { .. }) => Ok(()),
            // A controller may close before its answer has left.
            Err(ClientError::Closed {
                reason: CloseReason::Remote,
                ..
            }) => Ok(()),
            Err(other) => Err(other),
        }
    }

    async fn execute(&self, request: Request) -> Result<Answer, ClientError> {
        self.shared.connection.execute(request).await
    }

    async fn data(
        &self,
        opcode: IoOpcode,
        nsid: Nsid,
        range: BlockRange,
        lease: Lease,
    ) -> Result<Lease, ClientError> {
        lease_of(
            self.execute(self.request(opcode, nsid, range, Some(lease))?)
                .await?,
        )
    }

    fn request(
        &self,
        opcode: IoOpcode,
        nsid: Nsid,
        range: BlockRange,
        lease: Option<Lease>,
    ) -> Result<Request, ClientError> {
        let command = CommandName {
            name: opcode.name(),
            nsid: Some(nsid),
        };
        match range.encode(opcode, nsid) {
            Some(sqe) => Ok(Request {
                lease,
                ..self.plain(sqe, command)
            }),
            None => {
                let what = format!("takes 1 to 65536 blocks, not {}: split it", range.blocks);
                Err(ClientError::Invalid { command, what })
            }
        }
    }

    fn plain(&self, sqe: Sqe, command: CommandName) -> Request {
        Request {
            sqe,
            command,
            lease: None,
            limit: Some(self.shared.limit),
        }
    }
}

fn lease_of(answer: Answer) -> Result<Lease, ClientError> {
    answer.lease.ok_or_else(|| {
        let command = CommandName {
            name: "data command",
            nsid: None,
        };
        ClientError::Invalid {
            command,
            what: "its memory did not come back".to_owned(),
        }
    })
}

/// The depth asked for, or why this controller cannot have it.
fn depth_within(info: &ControllerInfo, depth: u16) -> Result<u16, ClientError> {
    let mut most = info.cap.queue_entries_max().saturating_sub(1);
    if info.commands_max > 0 {
        most = most.min(info.commands_max.into());
    }
    if depth == 0 || u32::from(depth) > most {
        let what =
            format!("takes 1 to {most} commands a queue, not {depth}: lower the queue depth");
        return Err(ClientError::Controller {
            address: info.options.address,
            what,
        });
    }
    Ok(depth)
}
