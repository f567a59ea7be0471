//! A control server of memory: volumes, hosts, nodes, operations and watches, and the mishaps that
//! a test asks for.

#![allow(clippy::expect_used, reason = "a test that cannot be set up must fail")]

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use penstock_api::v1::host_service_server::{HostService, HostServiceServer};
use penstock_api::v1::listener_service_server::{ListenerService, ListenerServiceServer};
use penstock_api::v1::node_service_server::{NodeService, NodeServiceServer};
use penstock_api::v1::operation_service_server::{OperationService, OperationServiceServer};
use penstock_api::v1::volume_service_server::{VolumeService, VolumeServiceServer};
use penstock_api::v1::watch_service_server::{WatchService, WatchServiceServer};
use penstock_api::v1::*;
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

type Answer<T> = Result<Response<T>, Status>;
type Events = Pin<Box<dyn Stream<Item = Result<WatchEvent, Status>> + Send>>;

/// What one call of Watch answers.
pub type Watching = Result<Vec<Result<WatchEvent, Status>>, Status>;

/// What the server holds and what it was asked.
#[derive(Default)]
pub struct State {
    pub volumes: BTreeMap<String, Volume>,
    pub hosts: BTreeMap<String, Host>,
    pub nodes: BTreeMap<String, Node>,
    pub operations: BTreeMap<String, Operation>,
    /// Waits until an operation is done.
    pub waits: u32,
    /// What the next calls of Watch answer; then they hang.
    pub watching: VecDeque<Watching>,
    /// Statuses that the next changes are refused with.
    pub mishaps: VecDeque<Status>,
    /// One line for each change: method, name, request id, validate only.
    pub changes: Vec<(String, String, String, bool)>,
    /// Resume tokens that watches came with.
    pub tokens: Vec<String>,
    revision: u64,
}

/// The server.
#[derive(Clone, Default)]
pub struct Fake {
    state: Arc<Mutex<State>>,
}

/// A status with a reason, as the real server's are.
pub fn refusal(code: Code, message: &str, reason: &str) -> Status {
    let details =
        ErrorDetails::with_error_info(reason, "penstock", [("a".to_owned(), "b".to_owned())]);
    Status::with_error_details(code, message, details)
}

impl Fake {
    /// What it holds.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves on a free port, on a thread of its own, as long as the test lasts.
    pub fn serve(&self, tls: Option<ServerTlsConfig>) -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        listener.set_nonblocking(true).expect("not blocking");
        let fake = self.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime").block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                let mut server = Server::builder();
                if let Some(tls) = tls {
                    server = server.tls_config(tls).expect("certificates");
                }
                let served = server
                    .add_service(VolumeServiceServer::new(fake.clone()))
                    .add_service(HostServiceServer::new(fake.clone()))
                    .add_service(NodeServiceServer::new(fake.clone()))
                    .add_service(ListenerServiceServer::new(fake.clone()))
                    .add_service(OperationServiceServer::new(fake.clone()))
                    .add_service(WatchServiceServer::new(fake))
                    .serve_with_incoming(TcpListenerStream::new(listener));
                served.await.expect("serve");
            });
        });
        address
    }

    fn change(&self, method: &str, name: &str, id: &str, check: bool) -> Result<u64, Status> {
        let mut state = self.state();
        state
            .changes
            .push((method.into(), name.into(), id.into(), check));
        if let Some(mishap) = state.mishaps.pop_front() {
            return Err(mishap);
        }
        state.revision += 1;
        Ok(state.revision)
    }

    fn begin(&self, verb: &str, target: &str, revision: u64) -> Operation {
        let operation = Operation {
            name: format!("operations/{revision}"),
            verb: verb.into(),
            target: target.into(),
            target_uid: format!("uid of {target}"),
            progress: "the node clears it".into(),
            ..Operation::default()
        };
        self.state()
            .operations
            .insert(operation.name.clone(), operation.clone());
        operation
    }
}

fn missing(name: &str) -> Status {
    let told = format!("{name} does not exist; `penstock list` shows what does");
    refusal(Code::NotFound, &told, "NOT_FOUND")
}

/// One page of two, and the token of the next.
fn page<T: Clone>(all: &BTreeMap<String, T>, token: &str) -> (Vec<T>, String) {
    let mut rest = all.iter().filter(|(name, _)| name.as_str() > token);
    let taken: Vec<_> = rest.by_ref().take(2).collect();
    let next = rest
        .next()
        .and(taken.last())
        .map(|(name, _)| (*name).clone())
        .unwrap_or_default();
    (
        taken.into_iter().map(|(_, value)| value.clone()).collect(),
        next,
    )
}

#[tonic::async_trait]
impl VolumeService for Fake {
    async fn create_volume(&self, request: Request<CreateVolumeRequest>) -> Answer<Operation> {
        let request = request.into_inner();
        let name = format!("volumes/{}", request.volume_id);
        let check = request.validate_only;
        let revision = self.change("create", &name, &request.request_id, check)?;
        let mut volume = request.volume.unwrap_or_default();
        volume.name.clone_from(&name);
        volume.etag = revision.to_string();
        if !check {
            self.state().volumes.insert(name.clone(), volume);
        }
        Ok(Response::new(self.begin("create", &name, revision)))
    }

    async fn get_volume(&self, request: Request<GetVolumeRequest>) -> Answer<Volume> {
        let name = request.into_inner().name;
        let found = self.state().volumes.get(&name).cloned();
        found.map(Response::new).ok_or_else(|| missing(&name))
    }

    async fn list_volumes(
        &self,
        request: Request<ListVolumesRequest>,
    ) -> Answer<ListVolumesResponse> {
        let (volumes, next_page_token) =
            page(&self.state().volumes, &request.into_inner().page_token);
        let resume_token = String::new();
        Ok(Response::new(ListVolumesResponse {
            volumes,
            next_page_token,
            resume_token,
        }))
    }

    async fn update_volume(&self, request: Request<UpdateVolumeRequest>) -> Answer<Operation> {
        let request = request.into_inner();
        let mut volume = request.volume.unwrap_or_default();
        let mask = request.update_mask.unwrap_or_default().paths.join(",");
        let told = format!("{} {mask} if {}", volume.name, volume.etag);
        let check = request.validate_only;
        let revision = self.change("update", &told, &request.request_id, check)?;
        let name = volume.name.clone();
        volume.etag = revision.to_string();
        if !check {
            self.state().volumes.insert(name.clone(), volume);
        }
        Ok(Response::new(self.begin("update", &name, revision)))
    }

    async fn delete_volume(&self, request: Request<DeleteVolumeRequest>) -> Answer<Operation> {
        let request = request.into_inner();
        let revision = self.change("delete", &request.name, &request.request_id, false)?;
        self.state().volumes.remove(&request.name);
        Ok(Response::new(self.begin("delete", &request.name, revision)))
    }
}

#[tonic::async_trait]
impl HostService for Fake {
    async fn create_host(&self, request: Request<CreateHostRequest>) -> Answer<Host> {
        let request = request.into_inner();
        let name = format!("hosts/{}", request.host_id);
        self.change("create", &name, &request.request_id, request.validate_only)?;
        let mut host = request.host.unwrap_or_default();
        host.name.clone_from(&name);
        if !request.validate_only {
            self.state().hosts.insert(name, host.clone());
        }
        Ok(Response::new(host))
    }

    async fn get_host(&self, request: Request<GetHostRequest>) -> Answer<Host> {
        let name = request.into_inner().name;
        let found = self.state().hosts.get(&name).cloned();
        found.map(Response::new).ok_or_else(|| missing(&name))
    }

    async fn list_hosts(&self, request: Request<ListHostsRequest>) -> Answer<ListHostsResponse> {
        let (hosts, next_page_token) = page(&self.state().hosts, &request.into_inner().page_token);
        let resume_token = String::new();
        Ok(Response::new(ListHostsResponse {
            hosts,
            next_page_token,
            resume_token,
        }))
    }

    async fn update_host(&self, request: Request<UpdateHostRequest>) -> Answer<Host> {
        let request = request.into_inner();
        let host = request.host.unwrap_or_default();
        let told = format!("{} if {}", host.name, host.etag);
        self.change("update", &told, &request.request_id, request.validate_only)?;
        self.state().hosts.insert(host.name.clone(), host.clone());
        Ok(Response::new(host))
    }

    async fn delete_host(
        &self,
        request: Request<DeleteHostRequest>,
    ) -> Answer<penstock_api::well_known::Empty> {
        let request = request.into_inner();
        self.change("delete", &request.name, &request.request_id, false)?;
        let gone = self.state().hosts.remove(&request.name);
        match gone.is_some() || request.allow_missing {
            true => Ok(Response::new(penstock_api::well_known::Empty {})),
            false => Err(missing(&request.name)),
        }
    }
}

#[tonic::async_trait]
impl NodeService for Fake {
    async fn create_node(&self, _: Request<CreateNodeRequest>) -> Answer<Node> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn get_node(&self, request: Request<GetNodeRequest>) -> Answer<Node> {
        let name = request.into_inner().name;
        let found = self.state().nodes.get(&name).cloned();
        found.map(Response::new).ok_or_else(|| missing(&name))
    }

    async fn list_nodes(&self, request: Request<ListNodesRequest>) -> Answer<ListNodesResponse> {
        let (nodes, next_page_token) = page(&self.state().nodes, &request.into_inner().page_token);
        let resume_token = String::new();
        Ok(Response::new(ListNodesResponse {
            nodes,
            next_page_token,
            resume_token,
        }))
    }

    async fn update_node(&self, request: Request<UpdateNodeRequest>) -> Answer<Node> {
        let node = request.into_inner().node.unwrap_or_default();
        self.state().nodes.insert(node.name.clone(), node.clone());
        Ok(Response::new(node))
    }

    async fn delete_node(
        &self,
        request: Request<DeleteNodeRequest>,
    ) -> Answer<penstock_api::well_known::Empty> {
        let request = request.into_inner();
        let told = format!("{} force {}", request.name, request.force);
        self.change("delete", &told, &request.request_id, request.validate_only)?;
        Ok(Response::new(penstock_api::well_known::Empty {}))
    }

    async fn resolve_orphan(&self, request: Request<ResolveOrphanRequest>) -> Answer<Node> {
        let request = request.into_inner();
        let told = format!("{} {} {}", request.name, request.volume_uid, request.action);
        self.change("resolve", &told, &request.request_id, false)?;
        Ok(Response::new(Node {
            name: request.name,
            ..Node::default()
        }))
    }
}

#[tonic::async_trait]
impl ListenerService for Fake {
    async fn create_listener(&self, _: Request<CreateListenerRequest>) -> Answer<Operation> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn get_listener(&self, request: Request<GetListenerRequest>) -> Answer<Listener> {
        Err(missing(&request.into_inner().name))
    }

    async fn list_listeners(
        &self,
        request: Request<ListListenersRequest>,
    ) -> Answer<ListListenersResponse> {
        let name = format!("{}/listeners/l1", request.into_inner().parent);
        let mut answer = ListListenersResponse::default();
        answer.listeners.push(Listener {
            name,
            ..Listener::default()
        });
        Ok(Response::new(answer))
    }

    async fn delete_listener(&self, _: Request<DeleteListenerRequest>) -> Answer<Operation> {
        Err(Status::unimplemented("not in this test"))
    }
}

#[tonic::async_trait]
impl OperationService for Fake {
    async fn get_operation(&self, request: Request<GetOperationRequest>) -> Answer<Operation> {
        let name = request.into_inner().name;
        let found = self.state().operations.get(&name).cloned();
        found.map(Response::new).ok_or_else(|| missing(&name))
    }

    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Answer<ListOperationsResponse> {
        let token = request.into_inner().page_token;
        let (operations, next_page_token) = page(&self.state().operations, &token);
        Ok(Response::new(ListOperationsResponse {
            operations,
            next_page_token,
        }))
    }

    async fn wait_operation(&self, request: Request<WaitOperationRequest>) -> Answer<Operation> {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        let name = request.into_inner().name;
        let mut state = self.state();
        let waits = state.waits;
        state.waits = waits.saturating_sub(1);
        let operation = state
            .operations
            .get_mut(&name)
            .ok_or_else(|| missing(&name))?;
        operation.done = waits == 0;
        operation.progress = format!("{waits} more to clear");
        Ok(Response::new(operation.clone()))
    }
}

#[tonic::async_trait]
impl WatchService for Fake {
    type WatchStream = Events;

    async fn watch(&self, request: Request<WatchRequest>) -> Answer<Events> {
        let mut state = self.state();
        state.tokens.push(request.into_inner().resume_token);
        let stream: Events = match state.watching.pop_front() {
            Some(Ok(events)) => Box::pin(tokio_stream::iter(events)),
            Some(Err(status)) => return Err(status),
            None => Box::pin(tokio_stream::pending()),
        };
        Ok(Response::new(stream))
    }
}

/// The program, with this server and nothing of this machine's own settings.
pub fn penstock(endpoint: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
    for name in ["ENDPOINT", "CA", "CERT", "KEY", "TIMEOUT", "CONFIG"] {
        command.env_remove(format!("PENSTOCK_{name}"));
    }
    command
        .env("HOME", "/nonexistent")
        .env_remove("XDG_CONFIG_HOME");
    if !endpoint.is_empty() {
        command.env("PENSTOCK_ENDPOINT", endpoint);
    }
    command
}

/// What the program told: exit code, standard output, standard error.
pub fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code().unwrap_or(-1),
        text(&output.stdout),
        text(&output.stderr),
    )
}
