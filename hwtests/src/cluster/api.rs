//! Control's API as the outages use it: blocking, with limits.

use crate::error::{IoContext, LabError, Result, check};
use penstock_api::v1;
use penstock_api::v1::{
    layout_service_client::LayoutServiceClient, namespace_service_client::NamespaceServiceClient,
    node_service_client::NodeServiceClient, operation_service_client::OperationServiceClient,
    subsystem_service_client::SubsystemServiceClient, volume_service_client::VolumeServiceClient,
    watch_service_client::WatchServiceClient,
};
use std::future::Future;
use std::time::Duration;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status, Streaming};
use tonic_types::StatusExt;

/// Longest answer to anything but a wait.
const CALL_LIMIT: Duration = Duration::from_secs(15);

/// A refusal, or no answer.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// gRPC status code.
    pub code: Code,
    /// Reason of its `ErrorInfo`; empty where there is none.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let info = status.get_details_error_info();
        Self {
            code: status.code(),
            reason: info.map(|info| info.reason).unwrap_or_default(),
            message: status.message().to_owned(),
        }
    }
}

impl From<Refusal> for LabError {
    fn from(refusal: Refusal) -> Self {
        Self::Check(format!(
            "control refused: {:?} {}: {}",
            refusal.code, refusal.reason, refusal.message
        ))
    }
}

/// What a call comes back with.
pub type Answer<T> = std::result::Result<T, Refusal>;

/// A blocking client of one control server. It connects at the first call, and again as needed.
pub struct Api {
    runtime: Runtime,
    channel: Channel,
}

impl Api {
    /// A client of the server at `port` of 127.0.0.1.
    ///
    /// # Errors
    /// No runtime can be started.
    pub fn new(port: u16) -> Result<Self> {
        // A thread of its own, which answers the server's pings also between calls.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .doing(|| "start a runtime".into())?;
        let endpoint = Endpoint::try_from(format!("http://127.0.0.1:{port}"))
            .map_err(|err| LabError::Setup(format!("control's address: {err}")))?;
        let _entered = runtime.enter();
        let channel = endpoint
            .connect_timeout(Duration::from_secs(2))
            .connect_lazy();
        drop(_entered);
        Ok(Self { runtime, channel })
    }

    fn call<T>(
        &self,
        limit: Duration,
        future: impl Future<Output = std::result::Result<Response<T>, Status>>,
    ) -> Answer<T> {
        let limited = async { tokio::time::timeout(limit, future).await };
        match self.runtime.block_on(limited) {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(Refusal {
                code: Code::DeadlineExceeded,
                reason: String::new(),
                message: format!("no answer within {} ms", limit.as_millis()),
            }),
        }
    }

    /// Makes a node known.
    ///
    /// # Errors
    /// What control says.
    pub fn create_node(&self, node: &str) -> Answer<v1::Node> {
        let mut client = NodeServiceClient::new(self.channel.clone());
        let request = v1::CreateNodeRequest {
            node_id: node.to_owned(),
            node: Some(v1::Node::default()),
            ..Default::default()
        };
        self.call(CALL_LIMIT, client.create_node(request))
    }

    /// A node, by its id.
    ///
    /// # Errors
    /// What control says.
    pub fn node(&self, node: &str) -> Answer<v1::Node> {
        let mut client = NodeServiceClient::new(self.channel.clone());
        let request = v1::GetNodeRequest {
            name: format!("nodes/{node}"),
        };
        self.call(CALL_LIMIT, client.get_node(request))
    }

    /// Begins to make a volume of `size_mib` on device `device` of `node`.
    ///
    /// # Errors
    /// What control says.
    pub fn create_volume(
        &self,
        volume: &str,
        size_mib: u32,
        node: &str,
        device: &str,
    ) -> Answer<v1::Operation> {
        let mut client = VolumeServiceClient::new(self.channel.clone());
        let spec = v1::VolumeSpec {
            size_bytes: i64::from(size_mib) << 20,
            placement: Some(v1::Placement {
                node: format!("nodes/{node}"),
                devices: vec![format!("nodes/{node}/devices/{device}")],
                ..Default::default()
            }),
            ..Default::default()
        };
        let request = v1::CreateVolumeRequest {
            volume_id: volume.to_owned(),
            volume: Some(v1::Volume {
                spec: Some(spec),
                ..Default::default()
            }),
            request_id: format!("create-{volume}"),
            ..Default::default()
        };
        self.call(CALL_LIMIT, client.create_volume(request))
    }

    /// A volume, by its id.
    ///
    /// # Errors
    /// What control says.
    pub fn volume(&self, volume: &str) -> Answer<v1::Volume> {
        let mut client = VolumeServiceClient::new(self.channel.clone());
        let request = v1::GetVolumeRequest {
            name: format!("volumes/{volume}"),
        };
        self.call(CALL_LIMIT, client.get_volume(request))
    }

    /// The first 1000 volumes, and a token to watch from.
    ///
    /// # Errors
    /// What control says.
    pub fn volumes(&self) -> Answer<v1::ListVolumesResponse> {
        let mut client = VolumeServiceClient::new(self.channel.clone());
        let request = v1::ListVolumesRequest {
            page_size: 1000,
            ..Default::default()
        };
        self.call(CALL_LIMIT, client.list_volumes(request))
    }

    /// Makes a subsystem that every host may connect to.
    ///
    /// # Errors
    /// What control says.
    pub fn create_subsystem(&self, subsystem: &str, nqn: &str) -> Answer<v1::Subsystem> {
        let mut client = SubsystemServiceClient::new(self.channel.clone());
        let spec = v1::SubsystemSpec {
            nqn: nqn.to_owned(),
            allow_any_host: true,
            ..Default::default()
        };
        let request = v1::CreateSubsystemRequest {
            subsystem_id: subsystem.to_owned(),
            subsystem: Some(v1::Subsystem {
                spec: Some(spec),
                ..Default::default()
            }),
            ..Default::default()
        };
        self.call(CALL_LIMIT, client.create_subsystem(request))
    }

    /// Begins to serve a volume as namespace `nsid` of a subsystem.
    ///
    /// # Errors
    /// What control says.
    pub fn create_namespace(
        &self,
        subsystem: &str,
        nsid: u32,
        volume: &str,
    ) -> Answer<v1::Operation> {
        let mut client = NamespaceServiceClient::new(self.channel.clone());
        let spec = v1::NamespaceSpec {
            volume: format!("volumes/{volume}"),
            nsid,
            ..Default::default()
        };
        let request = v1::CreateNamespaceRequest {
            parent: format!("subsystems/{subsystem}"),
            namespace_id: format!("ns{nsid}"),
            namespace: Some(v1::Namespace {
                spec: Some(spec),
                ..Default::default()
            }),
            ..Default::default()
        };
        self.call(CALL_LIMIT, client.create_namespace(request))
    }

    /// Where a volume lies and how it is reached.
    ///
    /// # Errors
    /// What control says.
    pub fn layout(&self, volume: &str) -> Answer<v1::VolumeLayout> {
        let mut client = LayoutServiceClient::new(self.channel.clone());
        let request = v1::GetLayoutRequest {
            volume: format!("volumes/{volume}"),
        };
        self.call(CALL_LIMIT, client.get_layout(request))
    }

    /// Waits until an operation has ended well.
    ///
    /// # Errors
    /// It fails, or does not end within `limit`.
    pub fn finish(&self, operation: &v1::Operation, limit: Duration) -> Result<()> {
        let mut client = OperationServiceClient::new(self.channel.clone());
        let request = v1::WaitOperationRequest {
            name: operation.name.clone(),
            timeout: Some(penstock_api::well_known::Duration {
                seconds: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
                nanos: 0,
            }),
        };
        let answer = self.call(limit + CALL_LIMIT, client.wait_operation(request));
        let ended = answer.map_err(LabError::from)?;
        check(ended.done && ended.error.is_none(), || {
            format!(
                "{} {} has not ended well within {} s: {:?}; it waits for: {}",
                ended.verb,
                ended.target,
                limit.as_secs(),
                ended.error,
                ended.progress
            )
        })
    }

    /// Watches volumes from `resume_token` on; empty for what exists and everything after.
    ///
    /// # Errors
    /// What control says.
    pub fn watch_volumes(&self, resume_token: &str) -> Answer<Watcher<'_>> {
        let mut client = WatchServiceClient::new(self.channel.clone());
        let request = v1::WatchRequest {
            kinds: vec!["volume".to_owned()],
            resume_token: resume_token.to_owned(),
            ..Default::default()
        };
        let stream = self.call(CALL_LIMIT, client.watch(request))?;
        Ok(Watcher { api: self, stream })
    }
}

/// A running watch.
pub struct Watcher<'a> {
    api: &'a Api,
    stream: Streaming<v1::WatchEvent>,
}

impl Watcher<'_> {
    /// The next event; `None` where nothing comes within `limit`.
    ///
    /// # Errors
    /// The watch has ended: what control says.
    pub fn next(&mut self, limit: Duration) -> Answer<Option<v1::WatchEvent>> {
        let stream = &mut self.stream;
        let next = async { tokio::time::timeout(limit, stream.message()).await };
        match self.api.runtime.block_on(next) {
            Err(_) => Ok(None),
            Ok(Ok(Some(event))) => Ok(Some(event)),
            Ok(Ok(None)) => Err(Status::unavailable("the watch has ended").into()),
            Ok(Err(status)) => Err(status.into()),
        }
    }
}
