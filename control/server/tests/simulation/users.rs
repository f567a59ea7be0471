//! What users ask for, and what they were promised.

use std::collections::BTreeMap;
use std::time::Duration;

use penstock_api::v1::listener_service_server::ListenerService;
use penstock_api::v1::namespace_service_server::NamespaceService;
use penstock_api::v1::subsystem_service_server::SubsystemService;
use penstock_api::v1::volume_service_server::VolumeService;
use penstock_api::v1::volume_spec::Redundancy;
use penstock_api::v1::{
    CreateListenerRequest, CreateNamespaceRequest, CreateSubsystemRequest, CreateVolumeRequest,
    DeleteListenerRequest, DeleteNamespaceRequest, DeleteSubsystemRequest, DeleteVolumeRequest,
    GetVolumeRequest, Listener, ListenerSpec, Namespace, NamespaceSpec, Operation, Stripe,
    Subsystem, SubsystemSpec, UpdateVolumeRequest, Volume, VolumeSpec,
};
use penstock_api::well_known::FieldMask;
use penstock_control::services::Services;
use tonic::{Code, Request, Status};

use crate::world::{NODES, World};

/// Names that users give to volumes: few, so that they meet.
const NAMES: u64 = 12;
const MIB: i64 = 1 << 20;
/// How long a user waits for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is certain about a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing: an answer was lost.
    Open,
    /// Its creation was acknowledged, and nobody asked to delete it.
    There {
        /// Its identity.
        uid: String,
    },
    /// Its deletion was acknowledged.
    Going,
}

/// What users were promised.
#[derive(Debug, Default)]
pub struct Users {
    /// By the volume's name.
    pub volumes: BTreeMap<String, Fate>,
    /// Whether the subsystem is there.
    subsystem: bool,
}

/// Whether an error says for certain that nothing happened.
fn certain(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::ResourceExhausted
    )
}

async fn patiently<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("the user gave up")),
    }
}

fn shown<T>(answer: &Result<T, Status>) -> String {
    match answer {
        Ok(_) => "ok".to_owned(),
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
    }
}

impl Users {
    /// Does one random thing at a random server.
    pub async fn act(&mut self, world: &World) {
        let living: Vec<&Services> = world
            .servers
            .iter()
            .flatten()
            .map(|control| &control.services)
            .collect();
        let Some(services) = world.dice.pick(&living) else {
            return;
        };
        let name = format!("v{}", world.dice.below(NAMES));
        match world.dice.below(13) {
            0..=3 => self.create(world, services, &name).await,
            4 | 5 => self.delete(world, services, &name).await,
            6 => self.grow(world, services, &name).await,
            7 | 8 => self.serve(world, services, &name).await,
            9 => self.unserve(world, services, &name).await,
            10 | 11 => Users::listen(world, services).await,
            _ => self.end_subsystem(world, services).await,
        }
    }

    async fn create(&mut self, world: &World, services: &Services, name: &str) {
        let mib = 1 + i64::try_from(world.dice.below(16)).unwrap();
        let stripe = Stripe {
            width: 2,
            ..Stripe::default()
        };
        let striped = world.dice.below(4) == 0;
        let request = CreateVolumeRequest {
            volume_id: name.to_owned(),
            volume: Some(Volume {
                spec: Some(VolumeSpec {
                    size_bytes: mib * MIB,
                    redundancy: striped.then_some(Redundancy::Stripe(stripe)),
                    ..VolumeSpec::default()
                }),
                ..Volume::default()
            }),
            ..CreateVolumeRequest::default()
        };
        let answer = patiently(services.volumes.create_volume(Request::new(request))).await;
        world
            .story
            .note(&format!("create {name} of {mib} MiB: {}", shown(&answer)));
        match answer {
            Ok(operation) => {
                let uid = operation.target_uid;
                self.volumes.insert(name.to_owned(), Fate::There { uid });
            }
            Err(status) if certain(&status) => {}
            Err(_) => {
                // Where it was there it still is: creating again changes nothing.
                if !matches!(self.volumes.get(name), Some(Fate::There { .. })) {
                    self.volumes.insert(name.to_owned(), Fate::Open);
                }
            }
        }
    }

    async fn delete(&mut self, world: &World, services: &Services, name: &str) {
        let request = GetVolumeRequest {
            name: format!("volumes/{name}"),
        };
        let Ok(volume) = patiently(services.volumes.get_volume(Request::new(request))).await else {
            return;
        };
        world.story.condemn(&volume.uid);
        let answer = delete_volume(services, name).await;
        world
            .story
            .note(&format!("delete {name}: {}", shown(&answer)));
        match answer {
            Ok(_) => self.volumes.insert(name.to_owned(), Fate::Going),
            Err(status) if certain(&status) => None,
            Err(_) => self.volumes.insert(name.to_owned(), Fate::Open),
        };
    }

    async fn grow(&mut self, world: &World, services: &Services, name: &str) {
        let full = format!("volumes/{name}");
        let get = GetVolumeRequest { name: full.clone() };
        let Ok(volume) = patiently(services.volumes.get_volume(Request::new(get))).await else {
            return;
        };
        let now = volume.spec.map_or(0, |spec| spec.size_bytes);
        let more = 1 + i64::try_from(world.dice.below(4)).unwrap();
        let request = UpdateVolumeRequest {
            volume: Some(Volume {
                name: full,
                spec: Some(VolumeSpec {
                    size_bytes: now + more * MIB,
                    ..VolumeSpec::default()
                }),
                ..Volume::default()
            }),
            update_mask: Some(FieldMask {
                paths: vec!["spec.size_bytes".to_owned()],
            }),
            ..UpdateVolumeRequest::default()
        };
        let answer = patiently(services.volumes.update_volume(Request::new(request))).await;
        world
            .story
            .note(&format!("grow {name} by {more} MiB: {}", shown(&answer)));
    }

    async fn serve(&mut self, world: &World, services: &Services, name: &str) {
        if !self.subsystem {
            self.subsystem = create_subsystem(services).await.is_ok();
        }
        let answer = create_namespace(services, name).await;
        world
            .story
            .note(&format!("serve {name}: {}", shown(&answer)));
    }

    async fn unserve(&mut self, world: &World, services: &Services, name: &str) {
        let force = world.dice.below(2) == 0;
        let full = format!("subsystems/s/namespaces/{name}");
        let answer = delete_namespace(services, &full, force).await;
        let how = if force { " by force" } else { "" };
        world
            .story
            .note(&format!("stop serving {name}{how}: {}", shown(&answer)));
    }

    /// A listener of a node is made, or ended.
    async fn listen(world: &World, services: &Services) {
        let (node, id) = (world.dice.below(NODES as u64), world.dice.below(2));
        let name = format!("nodes/n{node}/listeners/l{id}");
        let answer = if world.dice.below(3) > 0 {
            create_listener(services, &name).await
        } else {
            delete_listener(services, &name).await
        };
        world.story.note(&format!("{name}: {}", shown(&answer)));
    }

    /// The subsystem goes, unless it is in use; the next has another identity.
    async fn end_subsystem(&mut self, world: &World, services: &Services) {
        let request = DeleteSubsystemRequest {
            name: "subsystems/s".to_owned(),
            ..DeleteSubsystemRequest::default()
        };
        let call = services.subsystems.delete_subsystem(Request::new(request));
        let answer = patiently(call).await;
        world
            .story
            .note(&format!("end the subsystem: {}", shown(&answer)));
        self.subsystem = false;
    }
}

/// Creates a listener; its number is in its address.
pub async fn create_listener(services: &Services, name: &str) -> Result<Operation, Status> {
    let (node, id) = name.split_once("/listeners/l").expect("a listener's name");
    let request = CreateListenerRequest {
        parent: node.to_owned(),
        listener_id: format!("l{id}"),
        listener: Some(Listener {
            spec: Some(ListenerSpec {
                address: format!("198.51.100.{id}"),
                ..ListenerSpec::default()
            }),
            ..Listener::default()
        }),
        ..CreateListenerRequest::default()
    };
    patiently(services.listeners.create_listener(Request::new(request))).await
}

async fn delete_listener(services: &Services, name: &str) -> Result<Operation, Status> {
    let request = DeleteListenerRequest {
        name: name.to_owned(),
        ..DeleteListenerRequest::default()
    };
    patiently(services.listeners.delete_listener(Request::new(request))).await
}

/// Creates the subsystem of a run.
pub async fn create_subsystem(services: &Services) -> Result<Subsystem, Status> {
    let request = CreateSubsystemRequest {
        subsystem_id: "s".to_owned(),
        subsystem: Some(Subsystem {
            spec: Some(SubsystemSpec {
                allow_any_host: true,
                ..SubsystemSpec::default()
            }),
            ..Subsystem::default()
        }),
        ..CreateSubsystemRequest::default()
    };
    patiently(services.subsystems.create_subsystem(Request::new(request))).await
}

/// Creates the namespace of a volume, of the same name.
pub async fn create_namespace(services: &Services, name: &str) -> Result<Operation, Status> {
    let request = CreateNamespaceRequest {
        parent: "subsystems/s".to_owned(),
        namespace_id: name.to_owned(),
        namespace: Some(Namespace {
            spec: Some(NamespaceSpec {
                volume: format!("volumes/{name}"),
                ..NamespaceSpec::default()
            }),
            ..Namespace::default()
        }),
        ..CreateNamespaceRequest::default()
    };
    patiently(services.namespaces.create_namespace(Request::new(request))).await
}

/// Deletes a volume.
pub async fn delete_volume(services: &Services, name: &str) -> Result<Operation, Status> {
    let request = DeleteVolumeRequest {
        name: format!("volumes/{name}"),
        ..DeleteVolumeRequest::default()
    };
    patiently(services.volumes.delete_volume(Request::new(request))).await
}

/// Deletes a namespace, by its full name; by force only while its node is away.
pub async fn delete_namespace(
    services: &Services,
    name: &str,
    force: bool,
) -> Result<Operation, Status> {
    let request = DeleteNamespaceRequest {
        name: name.to_owned(),
        force,
        ..DeleteNamespaceRequest::default()
    };
    patiently(services.namespaces.delete_namespace(Request::new(request))).await
}
