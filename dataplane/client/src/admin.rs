//! Admin commands (NVMe Base 2.1, 5.1): not on the I/O path, so their answers are owned values.

use penstock_buffer::Lease;
use penstock_nvme::command::{
    Abort, GetFeatures, GetLogPage, Identify, SetFeatures, async_event_request, keep_alive,
};
use penstock_nvme::event::AsyncEvent;
use penstock_nvme::feature::{FeatureId, NumberOfQueues};
use penstock_nvme::identify::{
    Cns, IDENTIFY_BYTES, IdentifyController, IdentifyNamespace, NamespaceDescriptor, NamespaceList,
    decode_namespace_descriptors,
};
use penstock_nvme::log::LogPage;
use penstock_nvme::sqe::NSID_BROADCAST;
use penstock_nvme::{FromBytes, Sqe};
use penstock_units::{BlockSize, CommandId, Nsid, QueueId};

use crate::controller::{Controller, Shared};
use crate::error::{ClientError, CommandName};
use crate::slot::Request;

/// Longest piece of a log page read with one command, in bytes, where MDTS allows more.
const LOG_PIECE_BYTES: u64 = 64 * 1024;

/// Size and identity of a namespace.
#[derive(Clone, Debug)]
pub struct NamespaceInfo {
    /// The namespace.
    pub nsid: Nsid,
    /// Block size of the format in use.
    pub block_size: BlockSize,
    /// Size in blocks.
    pub blocks: u64,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Identify Namespace data, whole.
    pub identity: Box<IdentifyNamespace>,
    /// Identifiers: UUID, NGUID, EUI64, command set.
    pub descriptors: Vec<NamespaceDescriptor>,
}

/// Part of a log page to read (NVMe Base 2.1, 5.1.12).
#[derive(Clone, Copy, Debug)]
pub struct LogPart {
    /// Which log page.
    pub page: LogPage,
    /// Log specific parameter.
    pub specific: u8,
    /// Namespace, where the page is one of a namespace.
    pub nsid: Option<Nsid>,
    /// Where to start, in bytes, a multiple of 4 (LPO).
    pub offset: u64,
    /// How much, in bytes, a multiple of 4.
    pub len: u64,
    /// Leave the event that announced the page set (RAE).
    pub retain_event: bool,
}

impl LogPart {
    /// The first `len` bytes of a page; the event that announced it is kept.
    pub fn start(page: LogPage, len: u64) -> LogPart {
        LogPart {
            page,
            specific: 0,
            nsid: None,
            offset: 0,
            len,
            retain_event: true,
        }
    }

    fn command(&self) -> CommandName {
        CommandName {
            name: "Get Log Page",
            nsid: self.nsid,
        }
    }

    /// The command for `len` bytes from `done` bytes behind the start of this part.
    fn piece(&self, done: u64, len: u64) -> Result<Sqe, ClientError> {
        // The broadcast namespace stands for the whole controller (Base 2.1, 5.1.12).
        let nsid = self.nsid.map_or(NSID_BROADCAST, Nsid::get);
        let mut command = GetLogPage::new(self.page, nsid, self.offset + done, len);
        command.lsp = self.specific;
        command.rae = self.retain_event;
        let what = "its length is not within 4 bytes and 16 GiB".to_owned();
        command.encode().ok_or(ClientError::Invalid {
            command: self.command(),
            what,
        })
    }
}

impl Shared {
    /// Identify with the given CNS value.
    async fn identify(&self, cns: Cns, nsid: u32) -> Result<Lease, ClientError> {
        let lease = self.pool.lease(IDENTIFY_BYTES).await;
        let command = CommandName {
            name: cns.name(),
            nsid: Nsid::new(nsid),
        };
        let sqe = Identify::new(cns, nsid).encode();
        let answer = self.admin((sqe, command), Some(lease)).await?;
        self.memory(answer.lease, command)
    }

    fn memory(&self, lease: Option<Lease>, command: CommandName) -> Result<Lease, ClientError> {
        let what = "its memory did not come back";
        lease.ok_or_else(|| ClientError::Invalid {
            command,
            what: what.into(),
        })
    }

    pub(crate) async fn ping(&self) -> Result<(), ClientError> {
        let command = CommandName {
            name: "Keep Alive",
            nsid: None,
        };
        self.admin((keep_alive(), command), None).await.map(drop)
    }

    fn nonsense(&self, what: String) -> ClientError {
        ClientError::Controller {
            address: self.connection.address(),
            what,
        }
    }
}

/// Identify Controller (CNS 01h).
pub(crate) async fn identify_controller(
    shared: &Shared,
) -> Result<Box<IdentifyController>, ClientError> {
    let lease = shared.identify(Cns::Controller, 0).await?;
    IdentifyController::read_from_bytes(lease.bytes())
        .map(Box::new)
        .map_err(|_| shared.nonsense("its Identify data is cut off".into()))
}

impl Controller {
    /// Identifies the controller anew.
    ///
    /// # Errors
    /// As for every command: see [`ClientError`].
    pub async fn identify_controller(&self) -> Result<Box<IdentifyController>, ClientError> {
        identify_controller(&self.shared).await
    }

    /// Active namespaces, rising (CNS 02h).
    ///
    /// # Errors
    /// As for every command: see [`ClientError`].
    pub async fn active_namespaces(&self) -> Result<Vec<Nsid>, ClientError> {
        let mut found: Vec<Nsid> = Vec::new();
        loop {
            let after = found.last().map_or(0, |nsid| nsid.get());
            let lease = self.shared.identify(Cns::ActiveNamespaces, after).await?;
            let list = NamespaceList::ref_from_bytes(lease.bytes())
                .map_err(|_| self.shared.nonsense("its namespace list is cut off".into()))?;
            let before = found.len();
            found.extend(list.iter().filter(|n| *n > after).filter_map(Nsid::new));
            if found.len() - before < list.nsid.len() {
                return Ok(found);
            }
        }
    }

    /// Size, format and identifiers of a namespace (CNS 00h and 03h).
    ///
    /// # Errors
    /// An inactive namespace, a format this initiator does not know, and as for every command.
    pub async fn identify_namespace(&self, nsid: Nsid) -> Result<NamespaceInfo, ClientError> {
        let lease = self.shared.identify(Cns::Namespace, nsid.get()).await?;
        let identity = IdentifyNamespace::read_from_bytes(lease.bytes())
            .map(Box::new)
            .map_err(|_| {
                self.shared
                    .nonsense(format!("namespace {nsid}: data cut off"))
            })?;
        if identity.nsze.get() == 0 {
            let what = format!("namespace {nsid} is not active; list those that are with identify");
            return Err(self.shared.nonsense(what));
        }
        let format = identity.format().filter(|f| f.ms.get() == 0);
        let bytes = format.and_then(|f| 1_u32.checked_shl(f.lbads.into()));
        let block_size = bytes.and_then(BlockSize::from_bytes).ok_or_else(|| {
            let what = format!("namespace {nsid} has a block format that is not supported");
            self.shared.nonsense(what)
        })?;
        let lease = self
            .shared
            .identify(Cns::NamespaceDescriptors, nsid.get())
            .await?;
        Ok(NamespaceInfo {
            nsid,
            block_size,
            blocks: identity.nsze.get(),
            read_only: identity.nsattr & 1 != 0,
            descriptors: decode_namespace_descriptors(lease.bytes()).collect(),
            identity,
        })
    }

    /// Any Identify structure of 4096 bytes, as it is on the wire (NVMe Base 2.1, 5.1.13).
    ///
    /// # Errors
    /// As for every command: see [`ClientError`].
    pub async fn identify(&self, cns: Cns, nsid: u32) -> Result<Vec<u8>, ClientError> {
        Ok(self.shared.identify(cns, nsid).await?.bytes().to_vec())
    }

    /// Reads part of a log page, in as many commands as MDTS asks for.
    ///
    /// # Errors
    /// As for every command: see [`ClientError`].
    pub async fn log_page(&self, part: LogPart) -> Result<Vec<u8>, ClientError> {
        let limit = self
            .info()
            .transfer_max_bytes
            .unwrap_or(LOG_PIECE_BYTES)
            .min(LOG_PIECE_BYTES);
        let command = part.command();
        let mut page = Vec::new();
        let mut done = 0;
        while done < part.len {
            let len = (part.len - done).min(limit);
            let lease = self
                .shared
                .pool
                .lease(usize::try_from(len).unwrap_or(0))
                .await;
            let answer = self
                .shared
                .admin((part.piece(done, len)?, command), Some(lease))
                .await?;
            page.extend_from_slice(self.shared.memory(answer.lease, command)?.bytes());
            done += len;
        }
        Ok(page)
    }

    /// A feature's value: completion dword 0 (NVMe Base 2.1, 5.1.11).
    ///
    /// # Errors
    /// As for every command: see [`ClientError`].
    pub async fn get_feature(&self, feature: GetFeatures) -> Result<u32, ClientError> {
        let command = CommandName {
            name: "Get Features",
            nsid: Nsid::new(feature.nsid),
        };
        Ok(dword(
            self.shared
                .admin((feature.encode(), command), None)
                .await?
                .result,
        ))
    }

    /// A feature whose value is `len` bytes of data, such as the host identifier.
    ///
    /// # Errors
    /// As for every command: see [`ClientError`].
    pub async fn get_feature_data(
        &self,
        feature: GetFeatures,
        len: usize,
    ) -> Result<Vec<u8>, ClientError> {
        let command = CommandName {
            name: "Get Features",
            nsid: Nsid::new(feature.nsid),
        };
        let lease = self.shared.pool.lease(len).await;
        let answer = self
            .shared
            .admin((feature.encode(), command), Some(lease))
            .await?;
        Ok(self.shared.memory(answer.lease, command)?.bytes().to_vec())
    }

    /// Sets a feature, with data where it has any; gives completion dword 0
    /// (NVMe Base 2.1, 5.1.25).
    ///
    /// # Errors
    /// As for every command: see [`ClientError`].
    pub async fn set_feature(&self, feature: SetFeatures, data: &[u8]) -> Result<u32, ClientError> {
        let command = CommandName {
            name: "Set Features",
            nsid: Nsid::new(feature.nsid),
        };
        let lease = if data.is_empty() {
            None
        } else {
            let lease = self.shared.pool.lease(data.len()).await;
            lease.write_at(0, data);
            Some(lease)
        };
        Ok(dword(
            self.shared
                .admin((feature.encode(), command), lease)
                .await?
                .result,
        ))
    }

    /// Asks for `count` I/O queue pairs; gives how many the controller grants
    /// (NVMe Base 2.1, 5.1.25.1.5).
    ///
    /// # Errors
    /// As for every command: see [`ClientError`].
    pub async fn request_io_queues(&self, count: u16) -> Result<u16, ClientError> {
        let asked = NumberOfQueues {
            submission: count.into(),
            completion: count.into(),
        };
        let feature = SetFeatures::new(FeatureId::NumberOfQueues, asked.dword());
        let granted = NumberOfQueues::from_dword(self.set_feature(feature, &[]).await?);
        let fewest = granted.submission.min(granted.completion);
        Ok(u16::try_from(fewest).unwrap_or(u16::MAX).min(count))
    }

    /// Waits for the next asynchronous event; each call has one request outstanding
    /// (NVMe Base 2.1, 5.1.2).
    ///
    /// # Errors
    /// The end of the connection, or more requests than the controller takes.
    pub async fn next_event(&self) -> Result<AsyncEvent, ClientError> {
        let command = CommandName {
            name: "Asynchronous Event Request",
            nsid: None,
        };
        let request = Request {
            sqe: async_event_request(),
            command,
            lease: None,
            limit: None,
        };
        let answer = self.shared.connection.execute(request).await?;
        Ok(AsyncEvent::from_dword(dword(answer.result)))
    }

    /// Asks the controller to abort a command of a queue; true where it says it did
    /// (NVMe Base 2.1, 5.1.1). The command itself then ends with Command Abort Requested.
    ///
    /// # Errors
    /// As for every command: see [`ClientError`].
    pub async fn abort(&self, queue: QueueId, victim: CommandId) -> Result<bool, ClientError> {
        let command = CommandName {
            name: "Abort",
            nsid: None,
        };
        let abort = Abort {
            sqid: queue.0,
            cid: victim.0,
        };
        let answer = self.shared.admin((abort.encode(), command), None).await?;
        Ok(dword(answer.result) & Abort::NOT_ABORTED == 0)
    }

    /// Sends one Keep Alive now (NVMe Base 2.1, 5.1.14). The controller is kept alive anyway.
    ///
    /// # Errors
    /// As for every command: see [`ClientError`].
    pub async fn ping(&self) -> Result<(), ClientError> {
        self.shared.ping().await
    }

    /// Executes any admin command, for tests and tools; gives completion dwords 0
    /// and 1.
    ///
    /// # Errors
    /// As for every command: see [`ClientError`].
    pub async fn raw(
        &self,
        sqe: Sqe,
        lease: Option<Lease>,
    ) -> Result<(u64, Option<Lease>), ClientError> {
        let command = CommandName {
            name: "admin command",
            nsid: sqe.namespace(),
        };
        let answer = self.shared.admin((sqe, command), lease).await?;
        Ok((answer.result, answer.lease))
    }
}

fn dword(result: u64) -> u32 {
    let [a, b, c, d, ..] = result.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}
