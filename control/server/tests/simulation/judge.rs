//! Whether what is wanted is what is, and whether promises were kept.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use penstock_api::v1::listener_service_server::ListenerService;
use penstock_api::v1::namespace_service_server::NamespaceService;
use penstock_api::v1::node_service_server::NodeService;
use penstock_api::v1::operation_service_server::OperationService;
use penstock_api::v1::subsystem_service_server::SubsystemService;
use penstock_api::v1::volume_service_server::VolumeService;
use penstock_api::v1::{
    Condition, ConditionStatus, ListListenersRequest, ListNamespacesRequest, ListNodesRequest,
    ListOperationsRequest, ListSubsystemsRequest, ListVolumesRequest, Listener, Namespace, Node,
    Operation, OrphanAction, ResolveOrphanRequest, Subsystem, Volume, VolumeState,
};
use penstock_control::services::Services;
use tonic::Request;

use crate::node::View;
use crate::users::{
    Fate, Users, create_listener, create_namespace, create_subsystem, delete_namespace,
    delete_volume,
};
use crate::world::World;

/// The least that a stripe of two devices grows by.
const STRIPE_ROW: u64 = 2 << 20;

/// Everything that control tells.
struct Seen {
    volumes: Vec<Volume>,
    namespaces: Vec<Namespace>,
    subsystems: Vec<Subsystem>,
    listeners: Vec<Listener>,
    nodes: Vec<Node>,
    operations: Vec<Operation>,
}

async fn look(services: &Services) -> Result<Seen, String> {
    let told = |status: tonic::Status| status.to_string();
    let volumes = ListVolumesRequest {
        page_size: 1000,
        ..ListVolumesRequest::default()
    };
    let namespaces = ListNamespacesRequest {
        parent: "subsystems/-".to_owned(),
        page_size: 1000,
        ..ListNamespacesRequest::default()
    };
    let operations = ListOperationsRequest {
        page_size: 1000,
        ..ListOperationsRequest::default()
    };
    let listeners = ListListenersRequest {
        parent: "nodes/-".to_owned(),
        ..ListListenersRequest::default()
    };
    Ok(Seen {
        listeners: services
            .listeners
            .list_listeners(Request::new(listeners))
            .await
            .map_err(told)?
            .into_inner()
            .listeners,
        subsystems: services
            .subsystems
            .list_subsystems(Request::new(ListSubsystemsRequest::default()))
            .await
            .map_err(told)?
            .into_inner()
            .subsystems,
        volumes: services
            .volumes
            .list_volumes(Request::new(volumes))
            .await
            .map_err(told)?
            .into_inner()
            .volumes,
        namespaces: services
            .namespaces
            .list_namespaces(Request::new(namespaces))
            .await
            .map_err(told)?
            .into_inner()
            .namespaces,
        nodes: services
            .nodes
            .list_nodes(Request::new(ListNodesRequest::default()))
            .await
            .map_err(told)?
            .into_inner()
            .nodes,
        operations: services
            .operations
            .list_operations(Request::new(operations))
            .await
            .map_err(told)?
            .into_inner()
            .operations,
    })
}

fn is(conditions: &[Condition], name: &str, status: ConditionStatus) -> bool {
    conditions
        .iter()
        .any(|condition| condition.r#type == name && condition.status() == status)
}

/// Waits until what is wanted is what is. After a restored backup a person looks after what only a
/// person may decide.
///
/// # Errors
/// What still differs at the end.
pub async fn settle(
    world: &World,
    limit: Duration,
    mut person: Option<&mut Person>,
) -> Result<(), String> {
    let services = &world.servers[0].as_ref().expect("healed").services;
    let end = tokio::time::Instant::now() + limit;
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let differs = match look(services).await {
            Ok(seen) => {
                if let Some(person) = person.as_deref_mut() {
                    person.decide(world, services, &seen).await;
                }
                differs(world, &seen)
            }
            Err(error) => Some(error),
        };
        world.wrong()?;
        match differs {
            None => return Ok(()),
            Some(what) if tokio::time::Instant::now() > end => {
                return Err(format!("does not heal: {what}"));
            }
            Some(_) => {}
        }
    }
}

/// The first thing that is not as it is wanted.
fn differs(world: &World, seen: &Seen) -> Option<String> {
    seen.volumes
        .iter()
        .find_map(volume_differs)
        .or_else(|| overlap(&seen.volumes))
        .or_else(|| {
            let mut placed = seen.namespaces.iter().filter(|namespace| {
                let waits = |volume: &&Volume| on(seen, &namespace.name, &volume.name);
                !seen.volumes.iter().filter(waits).any(is_waiting)
            });
            placed.find_map(namespace_differs)
        })
        .or_else(|| seen.listeners.iter().find_map(listener_differs))
        .or_else(|| {
            seen.nodes
                .iter()
                .find_map(|node| node_differs(world, seen, node))
        })
        .or_else(|| {
            let pending: BTreeSet<&str> = seen
                .volumes
                .iter()
                .filter(|volume| is_waiting(volume))
                .map(|volume| volume.name.as_str())
                .collect();
            let waits = |operation: &Operation| {
                let of_pending = pending
                    .iter()
                    .any(|name| operation.target == **name || on(seen, &operation.target, name));
                !operation.done && !of_pending
            };
            let operation = seen.operations.iter().find(|operation| waits(operation))?;
            Some(format!(
                "{} {} is not done: {}",
                operation.verb, operation.target, operation.progress
            ))
        })
}

/// Whether `target` is a namespace on that volume.
fn on(seen: &Seen, target: &str, volume: &str) -> bool {
    seen.namespaces.iter().any(|namespace| {
        namespace.name == target
            && namespace
                .spec
                .as_ref()
                .is_some_and(|spec| spec.volume == volume)
    })
}

/// Waits for space, to be placed or to grow, which is as it should be.
fn is_waiting(volume: &Volume) -> bool {
    volume.status.as_ref().is_some_and(|status| {
        status.conditions.iter().any(|condition| {
            condition.status() == ConditionStatus::False && condition.reason == "NoSpace"
        })
    })
}

fn volume_differs(volume: &Volume) -> Option<String> {
    let status = volume.status.clone().unwrap_or_default();
    let told = || {
        format!(
            "{} is {:?} {:?}",
            volume.name,
            status.state(),
            status.conditions
        )
    };
    if volume.delete_time.is_some() {
        return Some(format!("{} is not gone: {}", volume.name, told()));
    }
    if is_waiting(volume) {
        return None;
    }
    let size = volume.spec.as_ref().map_or(0, |spec| spec.size_bytes);
    let laid_out: u64 = status
        .layout
        .iter()
        .flat_map(|layout| &layout.extents)
        .map(|extent| extent.length_bytes)
        .sum();
    let right = status.state() == VolumeState::Ready
        && status.observed_generation == volume.generation
        && u64::try_from(size) == Ok(status.size_bytes)
        && (status.size_bytes..status.size_bytes + STRIPE_ROW).contains(&laid_out);
    (!right).then(told)
}

fn overlap(volumes: &[Volume]) -> Option<String> {
    let mut taken: BTreeMap<(String, u64), &str> = BTreeMap::new();
    for volume in volumes {
        let layout = volume
            .status
            .as_ref()
            .and_then(|status| status.layout.as_ref());
        for extent in layout.iter().flat_map(|layout| &layout.extents) {
            for at in
                (extent.offset_bytes..extent.offset_bytes + extent.length_bytes).step_by(1 << 20)
            {
                if let Some(other) = taken.insert((extent.device.clone(), at), &volume.name) {
                    return Some(format!("{other} and {} share {at}", volume.name));
                }
            }
        }
    }
    None
}

fn namespace_differs(namespace: &Namespace) -> Option<String> {
    let status = namespace.status.clone().unwrap_or_default();
    if namespace.delete_time.is_some() {
        return Some(format!("{} is not gone", namespace.name));
    }
    let ready = is(&status.conditions, "Ready", ConditionStatus::True);
    (!ready).then(|| format!("{} is not ready: {:?}", namespace.name, status.conditions))
}

fn listener_differs(listener: &Listener) -> Option<String> {
    let status = listener.status.clone().unwrap_or_default();
    if listener.delete_time.is_some() {
        return Some(format!("{} is not gone", listener.name));
    }
    let ready = is(&status.conditions, "Ready", ConditionStatus::True);
    (!ready).then(|| format!("{} is not ready: {:?}", listener.name, status.conditions))
}

fn node_differs(world: &World, seen: &Seen, node: &Node) -> Option<String> {
    let status = node.status.clone().unwrap_or_default();
    for condition in ["Online", "Synced"] {
        if !is(&status.conditions, condition, ConditionStatus::True) {
            return Some(format!(
                "{} is not {condition}: {:?}",
                node.name, status.conditions
            ));
        }
    }
    let machine = world
        .machines
        .iter()
        .find(|machine| format!("nodes/{}", machine.name) == node.name)?;
    let view = machine.view.lock().unwrap();
    let told = (status.orphans.len(), status.orphan_objects.len());
    if view.orphans > 0 || told != (0, 0) || !view.synced {
        return Some(format!(
            "{} holds {} orphans ({told:?} told), synced {}",
            node.name, view.orphans, view.synced
        ));
    }
    let wanted: BTreeMap<String, u64> = seen
        .volumes
        .iter()
        .filter_map(|volume| {
            let layout = volume.status.as_ref()?.layout.as_ref()?;
            (layout.node == node.name).then(|| (volume.uid.clone(), layout.epoch))
        })
        .collect();
    if wanted != view.volumes {
        return Some(format!(
            "{} holds {:?}, wanted are {wanted:?}",
            node.name, view.volumes
        ));
    }
    let served: BTreeSet<&String> = view.namespaces.keys().collect();
    let by_name: BTreeMap<&str, &str> = seen
        .volumes
        .iter()
        .filter(|volume| wanted.contains_key(&volume.uid))
        .map(|volume| (volume.name.as_str(), volume.uid.as_str()))
        .collect();
    let to_serve: BTreeSet<&String> = seen
        .namespaces
        .iter()
        .filter(|namespace| {
            let spec = namespace.spec.as_ref();
            spec.is_some_and(|spec| by_name.contains_key(spec.volume.as_str()))
        })
        .map(|namespace| &namespace.uid)
        .collect();
    let disk = machine.disk.lock().unwrap();
    for volume in view.namespaces.values() {
        if disk.lacks(volume) > 0 {
            return Some(format!("{} has lost data of {volume}", node.name));
        }
    }
    (served != to_serve)
        .then(|| format!("{} serves {served:?}, wanted are {to_serve:?}", node.name))
        .or_else(|| ways_differ(seen, node, &view, &to_serve))
}

/// By what hosts reach the namespaces of a node: exactly the subsystems of these, and its listeners.
fn ways_differ(
    seen: &Seen,
    node: &Node,
    view: &View,
    namespaces: &BTreeSet<&String>,
) -> Option<String> {
    let parent_is = |namespace: &Namespace, subsystem: &Subsystem| {
        let parent = namespace.name.rsplit_once("/namespaces/");
        parent.is_some_and(|(parent, _)| parent == subsystem.name)
    };
    let subsystems: BTreeSet<&String> = seen
        .subsystems
        .iter()
        .filter(|subsystem| {
            let mut of_it = seen.namespaces.iter();
            of_it.any(|namespace| {
                namespaces.contains(&namespace.uid) && parent_is(namespace, subsystem)
            })
        })
        .map(|subsystem| &subsystem.uid)
        .collect();
    let prefix = format!("{}/", node.name);
    let listeners: BTreeSet<&String> = seen
        .listeners
        .iter()
        .filter(|listener| listener.name.starts_with(&prefix))
        .map(|listener| &listener.uid)
        .collect();
    let there = (
        view.subsystems.keys().collect::<BTreeSet<_>>(),
        view.listeners.keys().collect::<BTreeSet<_>>(),
    );
    let wanted = (subsystems, listeners);
    (there != wanted).then(|| {
        format!(
            "{} has the subsystems and listeners {there:?}, wanted are {wanted:?}",
            node.name
        )
    })
}

/// Whether what was acknowledged is so.
///
/// # Errors
/// The promise that was broken.
pub async fn promises(world: &World, users: &Users) -> Result<(), String> {
    let services = &world.servers[0].as_ref().expect("healed").services;
    let seen = look(services).await?;
    for (name, fate) in &users.volumes {
        let full = format!("volumes/{name}");
        let found = seen.volumes.iter().find(|volume| volume.name == full);
        match (fate, found) {
            (Fate::There { uid }, Some(volume)) if volume.uid == *uid => {}
            (Fate::There { uid }, found) => {
                let found = found.map(|volume| &volume.uid);
                return Err(format!("{name} was made as {uid}, now it is {found:?}"));
            }
            (Fate::Going, Some(volume)) => {
                return Err(format!("{name} was deleted, but {} is there", volume.uid));
            }
            (Fate::Going, None) | (Fate::Open, _) => {}
        }
    }
    Ok(())
}

/// Deletes the namespace of a volume, which holds up what is to become of that.
async fn stop_serving(world: &World, services: &Services, seen: &Seen, volume_uid: &str) {
    let volume = seen.volumes.iter().find(|volume| volume.uid == volume_uid);
    let Some(volume) = volume else { return };
    for namespace in &seen.namespaces {
        if on(seen, &namespace.name, &volume.name) && namespace.delete_time.is_none() {
            let gone = delete_namespace(services, &namespace.name, false).await;
            world
                .story
                .note(&format!("{} goes: {:?}", namespace.name, gone.err()));
        }
    }
}

/// Gives the store back what nodes say that only they know: namespaces and listeners.
async fn give_back(world: &World, services: &Services, seen: &Seen) {
    let objects = seen.nodes.iter().flat_map(|node| node.status.iter());
    for object in objects.flat_map(|status| &status.orphan_objects) {
        let error = if object.volume.is_empty() {
            create_listener(services, &object.name).await.err()
        } else {
            // Where it is not there any more, or is there already.
            let _ = create_subsystem(services).await;
            let id = object.volume.trim_start_matches("volumes/");
            create_namespace(services, id).await.err()
        };
        world.story.note(&format!(
            "{} is served without the store's knowledge; told to the store: {error:?}",
            object.name
        ));
    }
}

/// Who decides what no program may, after a backup was put back: adopts orphans, or where that is
/// refused deletes them, gives the store back namespaces and listeners that only nodes know, and
/// deletes volumes whose data is gone for good.
#[derive(Default)]
pub struct Person {
    tries: BTreeMap<String, u32>,
}

impl Person {
    async fn decide(&mut self, world: &World, services: &Services, seen: &Seen) {
        for node in &seen.nodes {
            let orphans = node.status.iter().flat_map(|status| &status.orphans);
            for orphan in orphans {
                let tries = self.tries.entry(orphan.volume_uid.clone()).or_default();
                *tries += 1;
                let action = if *tries <= 5 {
                    OrphanAction::Adopt
                } else {
                    let node = node.name.trim_start_matches("nodes/");
                    world.story.condemn_on(node, &orphan.volume_uid);
                    stop_serving(world, services, seen, &orphan.volume_uid).await;
                    OrphanAction::Delete
                };
                let request = ResolveOrphanRequest {
                    name: node.name.clone(),
                    volume_uid: orphan.volume_uid.clone(),
                    action: action as i32,
                    request_id: String::new(),
                };
                let answer = services.nodes.resolve_orphan(Request::new(request)).await;
                world.story.note(&format!(
                    "{action:?} of {} ({}) on {}: {:?}",
                    orphan.volume,
                    orphan.reason,
                    node.name,
                    answer.err().map(|status| status.message().to_owned())
                ));
            }
        }
        give_back(world, services, seen).await;
        for volume in &seen.volumes {
            let status = volume.status.clone().unwrap_or_default();
            // InUse: its deletion was told before the backup was put back, and waits for a namespace.
            let lost = status.conditions.iter().any(|condition| {
                ["DataDeleted", "ExtentConflict", "InUse"].contains(&condition.reason.as_str())
            });
            if !lost || volume.delete_time.is_some() {
                continue;
            }
            let tries = self.tries.entry(volume.uid.clone()).or_default();
            *tries += 1;
            // Orphans first: adopted, they may be what this one is in conflict with.
            if *tries < 10 {
                continue;
            }
            world.story.condemn(&volume.uid);
            stop_serving(world, services, seen, &volume.uid).await;
            let id = volume.name.trim_start_matches("volumes/");
            let gone = delete_volume(services, id).await;
            world.story.note(&format!(
                "{} goes, its data is lost: {:?}",
                volume.name,
                gone.err()
            ));
        }
    }
}
