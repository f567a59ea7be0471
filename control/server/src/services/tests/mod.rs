//! The services against the simulated store, called in process.

mod audit;
mod bad_input;
mod concurrent;
mod deletes;
mod force;
mod idempotent;
mod orphans;
mod paging;
mod updates;

use std::sync::Arc;

use penstock_api::resource::Resource;
use penstock_api::v1::host_service_server::HostService as _;
use penstock_api::v1::listener_service_server::ListenerService as _;
use penstock_api::v1::namespace_service_server::NamespaceService as _;
use penstock_api::v1::node_service_server::NodeService as _;
use penstock_api::v1::operation_service_server::OperationService as _;
use penstock_api::v1::subsystem_service_server::SubsystemService as _;
use penstock_api::v1::volume_service_server::VolumeService as _;
use penstock_api::v1::*;
use penstock_api::well_known::FieldMask;
use penstock_store::sim::SimStore;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt;

use super::Services;
use crate::config::Settings;
use crate::env::Env;
use crate::keys::ids_of;
use crate::repo::Repo;

const MIB: i64 = 1 << 20;

/// Services on a simulated store.
struct Lab {
    sim: SimStore,
    env: Env,
    services: Services,
    repo: Repo,
}

impl Lab {
    fn new() -> Lab {
        Lab::with(Settings::default())
    }

    fn with(settings: Settings) -> Lab {
        let sim = SimStore::new(1);
        Lab::on(&sim, settings, 1)
    }

    /// Another server on the same store.
    fn on(sim: &SimStore, settings: Settings, seed: u64) -> Lab {
        let env = Env::seeded(sim.client(&format!("server {seed}")), settings, seed);
        Lab {
            sim: sim.clone(),
            services: Services::new(&env, None),
            repo: Repo::new(&env),
            env,
        }
    }

    async fn node(&self, id: &str) -> Node {
        let request = CreateNodeRequest {
            node_id: id.to_owned(),
            ..Default::default()
        };
        ok(self.services.nodes.create_node(Request::new(request)).await)
    }

    async fn host(&self, id: &str) -> Host {
        let request = CreateHostRequest {
            host_id: id.to_owned(),
            host: Some(Host {
                spec: Some(HostSpec {
                    nqn: format!("nqn.2014-08.org.example:{id}"),
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        ok(self.services.hosts.create_host(Request::new(request)).await)
    }

    async fn subsystem(&self, id: &str) -> Subsystem {
        let request = CreateSubsystemRequest {
            subsystem_id: id.to_owned(),
            ..Default::default()
        };
        let call = Request::new(request);
        ok(self.services.subsystems.create_subsystem(call).await)
    }

    async fn volume(&self, id: &str) -> Operation {
        ok(self.create_volume(volume_request(id, MIB)).await)
    }

    async fn create_volume(
        &self,
        request: CreateVolumeRequest,
    ) -> Result<Response<Operation>, Status> {
        let call = Request::new(request);
        self.services.volumes.create_volume(call).await
    }

    async fn create_namespace(
        &self,
        request: CreateNamespaceRequest,
    ) -> Result<Response<Operation>, Status> {
        let call = Request::new(request);
        self.services.namespaces.create_namespace(call).await
    }

    async fn namespace(&self, subsystem: &str, id: &str, volume: &str) -> Operation {
        ok(self
            .create_namespace(namespace_request(subsystem, id, volume))
            .await)
    }

    async fn create_listener(
        &self,
        node: &str,
        id: &str,
        port: u32,
    ) -> Result<Response<Operation>, Status> {
        let request = CreateListenerRequest {
            parent: format!("nodes/{node}"),
            listener_id: id.to_owned(),
            listener: Some(Listener {
                spec: Some(ListenerSpec {
                    address: "10.0.0.1".to_owned(),
                    port,
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let call = Request::new(request);
        self.services.listeners.create_listener(call).await
    }

    async fn delete_volume(&self, id: &str) -> Result<Response<Operation>, Status> {
        let request = DeleteVolumeRequest {
            name: format!("volumes/{id}"),
            ..Default::default()
        };
        let call = Request::new(request);
        self.services.volumes.delete_volume(call).await
    }

    /// A resource as the store has it.
    async fn stored<R: Resource>(&self, name: &str) -> Option<R> {
        let ids = ids_of(R::KIND, name).unwrap();
        let stored = self.repo.get::<R>(&ids).await.unwrap();
        stored.map(|stored| stored.resource)
    }

    /// Does what a node's server does: writes a status.
    async fn set_status<R: Resource>(&self, name: &str, status: &R::Status) {
        let ids = ids_of(R::KIND, name).unwrap();
        let mut change = self.repo.change();
        change.put_status::<R>(&ids, status);
        self.repo.commit(change).await.unwrap().unwrap();
    }

    /// Does what the leader does: gives a volume a place.
    async fn place(&self, id: &str, node: &str) {
        let layout = Layout {
            node: format!("nodes/{node}"),
            epoch: 1,
            extents: vec![extent(node, 0)],
            stripe_width: 1,
            ..Default::default()
        };
        let status = VolumeStatus {
            state: VolumeState::Creating.into(),
            layout: Some(layout),
            ..Default::default()
        };
        self.set_status::<Volume>(&format!("volumes/{id}"), &status)
            .await;
    }

    /// A device of a node, as its agent tells it.
    async fn device(&self, node: &str, id: &str, size_bytes: u64) {
        let device = Device {
            name: format!("nodes/{node}/devices/{id}"),
            uid: self.env.ids.text(),
            generation: 1,
            ..Default::default()
        };
        let status = DeviceStatus {
            inventory: Some(DeviceInventory {
                id: id.to_owned(),
                size_bytes,
                block_size_bytes: 4_096,
                numa_node: -1,
                persistent: true,
                ..Default::default()
            }),
            ..Default::default()
        };
        let ids = format!("{node}/{id}");
        let mut change = self.repo.change();
        change
            .put_spec(&ids, &device)
            .put_status::<Device>(&ids, &status);
        self.repo.commit(change).await.unwrap().unwrap();
    }

    /// The store's content, to tell that nothing was changed.
    fn content(&self) -> Vec<penstock_store::Entry> {
        self.sim.dump()
    }
}

fn extent(node: &str, offset_bytes: u64) -> Extent {
    Extent {
        device: format!("nodes/{node}/devices/d0"),
        offset_bytes,
        length_bytes: 1 << 20,
    }
}

fn volume_request(id: &str, size_bytes: i64) -> CreateVolumeRequest {
    CreateVolumeRequest {
        volume_id: id.to_owned(),
        volume: Some(Volume {
            spec: Some(VolumeSpec {
                size_bytes,
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn namespace_request(subsystem: &str, id: &str, volume: &str) -> CreateNamespaceRequest {
    CreateNamespaceRequest {
        parent: format!("subsystems/{subsystem}"),
        namespace_id: id.to_owned(),
        namespace: Some(Namespace {
            spec: Some(NamespaceSpec {
                volume: format!("volumes/{volume}"),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn mask(paths: &[&str]) -> Option<FieldMask> {
    Some(FieldMask {
        paths: paths.iter().map(ToString::to_string).collect(),
    })
}

fn ok<T>(result: Result<Response<T>, Status>) -> T {
    result.unwrap().into_inner()
}

/// Code, reason and message of a refusal.
fn refusal<T: std::fmt::Debug>(result: Result<Response<T>, Status>) -> (Code, String, String) {
    let status = result.unwrap_err();
    let info = status.get_details_error_info().expect("an ErrorInfo");
    assert_eq!(info.domain, "penstock");
    (status.code(), info.reason, status.message().to_owned())
}

/// The fields that a refusal names.
fn fields<T: std::fmt::Debug>(result: Result<Response<T>, Status>) -> Vec<String> {
    let status = result.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let bad = status.get_details_bad_request().expect("a BadRequest");
    bad.field_violations
        .into_iter()
        .map(|violation| violation.field)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_created_is_there() {
    let lab = Lab::new();
    let node = lab.node("n1").await;
    assert_eq!((node.name.as_str(), node.generation), ("nodes/n1", 1));
    assert!(uuid::Uuid::parse_str(&node.uid).is_ok());
    assert!(!node.etag.is_empty() && node.create_time.is_some());
    assert_eq!(lab.stored::<Node>("nodes/n1").await.unwrap(), node);
    let subsystem = lab.subsystem("s1").await;
    let spec = subsystem.spec.clone().unwrap();
    assert_eq!(spec.nqn, "nqn.2026-01.io.penstock:default:s1");
    assert_eq!((spec.serial.len(), spec.namespaces_max), (20, 1_024));

    let operation = lab.volume("v1").await;
    assert_eq!(
        (
            operation.verb.as_str(),
            operation.target.as_str(),
            operation.done
        ),
        ("create", "volumes/v1", false)
    );
    assert_eq!(operation.requester, "local");
    let volume = lab.stored::<Volume>("volumes/v1").await.unwrap();
    assert_eq!(volume.uid, operation.target_uid);
    assert_eq!(volume.status.unwrap().state(), VolumeState::Pending);
    assert_eq!(volume.spec.unwrap().block_size(), BlockSize::BlockSize4096);

    let operation = lab.namespace("s1", "a", "v1").await;
    assert_eq!(operation.target, "subsystems/s1/namespaces/a");
    let namespace = lab.stored::<Namespace>(&operation.target).await.unwrap();
    let spec = namespace.spec.unwrap();
    assert_eq!((spec.nsid, spec.uuid), (1, volume.uid));
    let get = GetVolumeRequest {
        name: "volumes/v1".to_owned(),
    };
    let volume = ok(lab.services.volumes.get_volume(Request::new(get)).await);
    assert_eq!(volume.status.unwrap().namespace, operation.target);

    let operation = ok(lab.create_listener("n1", "l", 0).await);
    let listener = lab.stored::<Listener>(&operation.target).await.unwrap();
    let spec = listener.spec.unwrap();
    assert_eq!((spec.transport.as_str(), spec.port), ("tcp", 4_420));
    lab.host("h").await;
}

#[tokio::test(start_paused = true)]
async fn operations_are_waited_for() {
    let lab = Arc::new(Lab::new());
    let operation = lab.volume("v1").await;
    let wait = |seconds| WaitOperationRequest {
        name: operation.name.clone(),
        timeout: Some(penstock_api::well_known::Duration { seconds, nanos: 0 }),
    };
    let began = tokio::time::Instant::now();
    let service = &lab.services.operations;
    let waited = ok(service.wait_operation(Request::new(wait(7))).await);
    assert!(!waited.done);
    assert_eq!(began.elapsed().as_secs(), 7);

    let ender = Arc::clone(&lab);
    let ended = crate::ops::ended(operation.clone(), None, lab.env.clock.now());
    tokio::spawn(async move {
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        let mut change = ender.repo.change();
        change.put_operation(&ended, None);
        ender.repo.commit(change).await.unwrap();
    });
    let waited = ok(service.wait_operation(Request::new(wait(600))).await);
    assert!(waited.done);
    // The call's own deadline ends the waiting before it ends the call.
    let other = lab.volume("v2").await;
    let mut call = Request::new(WaitOperationRequest {
        name: other.name,
        timeout: None,
    });
    call.set_timeout(std::time::Duration::from_secs(2));
    assert!(!ok(service.wait_operation(call).await).done);
    assert_eq!(
        fields(service.wait_operation(Request::new(wait(601))).await),
        ["timeout"]
    );
    assert_eq!(
        fields(service.wait_operation(Request::new(wait(-1))).await),
        ["timeout"]
    );
}

#[tokio::test(start_paused = true)]
async fn deadlines_stop_the_work() {
    let lab = Lab::new();
    let long = std::time::Duration::from_secs(1);
    lab.sim.set_latency(long, long);
    let mut call = Request::new(volume_request("v1", MIB));
    call.set_timeout(std::time::Duration::from_millis(300));
    let began = tokio::time::Instant::now();
    let (code, reason, _) = refusal(lab.services.volumes.create_volume(call).await);
    assert_eq!(
        (code, reason.as_str()),
        (Code::DeadlineExceeded, "DEADLINE_EXCEEDED")
    );
    assert!(began.elapsed() < std::time::Duration::from_millis(310));
    lab.sim
        .set_latency(std::time::Duration::ZERO, std::time::Duration::ZERO);
    assert_eq!(lab.stored::<Volume>("volumes/v1").await, None);
}

#[tokio::test(start_paused = true)]
async fn an_absent_store_is_told() {
    let lab = Lab::new();
    lab.sim.set_available(false);
    let (code, reason, _) = refusal(lab.create_volume(volume_request("v1", MIB)).await);
    assert_eq!(
        (code, reason.as_str()),
        (Code::Unavailable, "STORE_UNAVAILABLE")
    );
    lab.sim.set_available(true);
    lab.sim.set_full(true);
    let (code, reason, _) = refusal(lab.create_volume(volume_request("v1", MIB)).await);
    assert_eq!(
        (code, reason.as_str()),
        (Code::ResourceExhausted, "STORE_FULL")
    );
}
