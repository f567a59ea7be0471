//! Servers over one simulated store, and the calls that tests make.

use std::sync::Arc;
use std::time::Duration;

use penstock_api::v1::namespace_service_server::NamespaceService;
use penstock_api::v1::node_service_server::NodeService;
use penstock_api::v1::operation_service_server::OperationService;
use penstock_api::v1::subsystem_service_server::SubsystemService;
use penstock_api::v1::volume_service_server::VolumeService;
use penstock_api::v1::{
    Condition, CreateNamespaceRequest, CreateSubsystemRequest, CreateVolumeRequest,
    DeleteVolumeRequest, GetNodeRequest, GetVolumeRequest, Namespace, NamespaceSpec, Node,
    Operation, Subsystem, SubsystemSpec, Volume, VolumeSpec, WaitOperationRequest,
};
use penstock_control::config::Settings;
use penstock_control::control::Control;
use penstock_control::env::Env;
use penstock_control::schema;
use penstock_store::sim::SimStore;
use tonic::{Request, Status};

pub const MIB: i64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// A store, and servers on it.
pub struct World {
    pub sim: Arc<SimStore>,
}

impl World {
    pub fn new() -> World {
        World {
            sim: Arc::new(SimStore::new(7)),
        }
    }

    /// A server that is ready, whose store client has this name.
    pub async fn server(&self, name: &str) -> Control {
        let settings = Settings {
            name: name.to_owned(),
            auto_register: true,
            ..Settings::default()
        };
        self.server_with(name, settings).await
    }

    pub async fn server_with(&self, name: &str, settings: Settings) -> Control {
        let seed = name
            .bytes()
            .fold(1, |seed, byte| seed * 31 + u64::from(byte));
        let env = Env::seeded(self.sim.client(name), settings, seed);
        schema::check(&env).await.expect("schema");
        let control = Control::start(env);
        control.mirror.reached(0).await;
        control
    }
}

/// Waits until `holds`; panics where it does not within two minutes.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..120_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("{what}: still not so");
}

pub fn volume_spec(mib: i64) -> VolumeSpec {
    VolumeSpec {
        size_bytes: mib * MIB,
        ..VolumeSpec::default()
    }
}

pub async fn create_volume(control: &Control, id: &str, mib: i64) -> Operation {
    let request = CreateVolumeRequest {
        volume_id: id.to_owned(),
        volume: Some(Volume {
            spec: Some(volume_spec(mib)),
            ..Volume::default()
        }),
        ..CreateVolumeRequest::default()
    };
    let created = control
        .services
        .volumes
        .create_volume(Request::new(request));
    created.await.expect(id).into_inner()
}

pub async fn get_volume(control: &Control, id: &str) -> Result<Volume, Status> {
    let name = format!("volumes/{id}");
    let request = Request::new(GetVolumeRequest { name });
    let got = control.services.volumes.get_volume(request).await;
    got.map(tonic::Response::into_inner)
}

pub async fn delete_volume(control: &Control, id: &str) -> Operation {
    let request = DeleteVolumeRequest {
        name: format!("volumes/{id}"),
        ..DeleteVolumeRequest::default()
    };
    let deleted = control
        .services
        .volumes
        .delete_volume(Request::new(request));
    deleted.await.expect(id).into_inner()
}

pub async fn create_subsystem(control: &Control, id: &str) -> Subsystem {
    let request = CreateSubsystemRequest {
        subsystem_id: id.to_owned(),
        subsystem: Some(Subsystem {
            spec: Some(SubsystemSpec {
                allow_any_host: true,
                ..SubsystemSpec::default()
            }),
            ..Subsystem::default()
        }),
        ..CreateSubsystemRequest::default()
    };
    let created = control
        .services
        .subsystems
        .create_subsystem(Request::new(request));
    created.await.expect(id).into_inner()
}

pub async fn create_namespace(
    control: &Control,
    subsystem: &str,
    id: &str,
    volume: &str,
) -> Operation {
    let request = CreateNamespaceRequest {
        parent: format!("subsystems/{subsystem}"),
        namespace_id: id.to_owned(),
        namespace: Some(Namespace {
            spec: Some(NamespaceSpec {
                volume: format!("volumes/{volume}"),
                ..NamespaceSpec::default()
            }),
            ..Namespace::default()
        }),
        ..CreateNamespaceRequest::default()
    };
    let created = control
        .services
        .namespaces
        .create_namespace(Request::new(request));
    created.await.expect(id).into_inner()
}

/// Waits for the operation's end; panics where it does not end.
pub async fn wait(control: &Control, operation: &Operation) -> Operation {
    let request = WaitOperationRequest {
        name: operation.name.clone(),
        timeout: Some(penstock_api::well_known::Duration {
            seconds: 60,
            nanos: 0,
        }),
    };
    let waited = control
        .services
        .operations
        .wait_operation(Request::new(request))
        .await;
    let operation = waited.expect("wait").into_inner();
    assert!(operation.done, "{operation:?}");
    operation
}

pub async fn get_node(control: &Control, id: &str) -> Result<Node, Status> {
    let name = format!("nodes/{id}");
    let request = Request::new(GetNodeRequest { name });
    let got = control.services.nodes.get_node(request).await;
    got.map(tonic::Response::into_inner)
}

pub fn condition(conditions: &[Condition], kind: &str) -> Option<Condition> {
    conditions.iter().find(|c| c.r#type == kind).cloned()
}

/// Whether the node's agent counts as connected, as this server's mirror has it.
pub fn online(control: &Control, node: &str) -> bool {
    control.mirror.with(|view| {
        let node = view.nodes.get(node);
        node.is_some_and(|held| {
            let status = held.resource.status.as_ref();
            let conditions = status.map_or(&[][..], |status| &status.conditions);
            penstock_plan::observe::is_true(conditions, "Online")
        })
    })
}

/// Whether this server leads.
pub fn leads(control: &Control) -> bool {
    control.env.metrics.leader.get() == 1
}
