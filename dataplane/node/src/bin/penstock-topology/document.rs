//! The picture as JSON for programs. `null` is what is not known.

use penstock_node::survey::{Service, ServiceKind};
use penstock_topology::{NumaNode, PciDevice, PciKind, Reach};
use serde_json::{Value, json};

use crate::picture::{Picture, Source};

/// The whole document.
pub fn document(picture: &Picture) -> Value {
    let topology = &picture.survey.topology;
    let nodes: Vec<Value> = topology.nodes.iter().map(|n| node(picture, n)).collect();
    let devices = |kind: PciKind| -> Vec<Value> {
        let of_kind = topology.devices.iter().filter(|device| device.kind == kind);
        of_kind.map(|found| device(picture, found)).collect()
    };
    let services = |kind: ServiceKind| -> Vec<Value> {
        let of_kind = picture.survey.services.iter();
        let of_kind = of_kind.filter(|service| service.kind == kind);
        of_kind.map(|found| service(picture, found)).collect()
    };
    let crossings: Vec<Value> = picture
        .crossings()
        .iter()
        .map(|crossing| {
            json!({
                "reactor": crossing.reactor,
                "reactor_numa_node": crossing.reactor_node,
                "service": crossing.service.name,
                "service_numa_node": crossing.service_node,
                "distance": crossing.distance,
            })
        })
        .collect();
    json!({
        "numa": topology.is_numa(),
        "numa_nodes": nodes,
        "drives": devices(PciKind::Drive),
        "network_interfaces": devices(PciKind::Network),
        "other_storage": devices(PciKind::Storage),
        "reactors": reactors(picture),
        "running": matches!(picture.source, Source::Running(_)),
        "storage": services(ServiceKind::Storage),
        "listeners": services(ServiceKind::Listener),
        "cross_node_paths": crossings,
        "misplaced_bytes": match &picture.source {
            Source::Running(live) => json!(live.misplaced_bytes),
            Source::Nothing | Source::Planned(_) => Value::Null,
        },
        "planned_cores": picture.planned_cores,
    })
}

fn node(picture: &Picture, node: &NumaNode) -> Value {
    let topology = &picture.survey.topology;
    let own = topology.cores.iter().filter(|core| core.node == node.id);
    let cores: Vec<Value> = own
        .map(|core| {
            json!({
                "id": core.id,
                "physical_core": core.physical,
                "allowed": picture.allowed.contains(&core.id),
            })
        })
        .collect();
    let distances: Vec<Value> = topology
        .nodes
        .iter()
        .map(|other| json!({"to": other.id, "distance": topology.distance(node.id, other.id)}))
        .collect();
    json!({
        "id": node.id,
        "memory_bytes": node.memory_bytes,
        "cores": cores,
        "distances": distances,
    })
}

fn device(picture: &Picture, device: &PciDevice) -> Value {
    let drive = picture.drives.get(&device.address);
    let services: Vec<&str> = picture
        .services_of(device)
        .into_iter()
        .map(|service| service.name.as_str())
        .collect();
    json!({
        "address": device.address,
        "numa_node": device.node,
        "names": device.names,
        "driver": drive.and_then(|drive| drive.driver.as_deref()),
        "model": drive.and_then(|drive| drive.model.as_deref()),
        "serial": drive.and_then(|drive| drive.serial.as_deref()),
        "serves": services,
    })
}

fn reactors(picture: &Picture) -> Vec<Value> {
    let memory = |id: usize| match &picture.source {
        Source::Running(live) => live.memory.get(&id).map(|bytes| {
            let by_node = bytes.iter();
            by_node
                .map(|(node, bytes)| json!({"numa_node": node, "bytes": bytes}))
                .collect::<Vec<_>>()
        }),
        Source::Nothing | Source::Planned(_) => None,
    };
    let seats = picture.survey.placement.seats.iter().enumerate();
    seats
        .map(|(id, seat)| {
            json!({
                "id": id,
                "core": seat.core,
                "numa_node": seat.node,
                "memory": memory(id),
            })
        })
        .collect()
}

fn service(picture: &Picture, service: &Service) -> Value {
    let reach = picture.survey.reach(service);
    let (local, crossing) = match &reach {
        Some(Reach { local, crossing }) => (json!(local), json!(crossing)),
        None => (Value::Null, Value::Null),
    };
    json!({
        "name": service.name,
        "from": service.from,
        "devices": service.devices,
        "numa_node": service.node,
        "local_reactors": local,
        "cross_node_reactors": crossing,
        "cross_node": reach.is_some_and(|reach| reach.is_cross_node()),
    })
}
