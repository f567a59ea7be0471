//! The columns of each kind's table.

use penstock_api::v1;

use super::table::Column;
use super::time::age;
use crate::name::{Kind, short};
use crate::object::{Common, Object, condition_word};
use crate::quantity::size;

/// The titles of a kind's table. The first column is the name, the last the age.
pub fn columns(kind: Kind) -> Vec<Column> {
    let titles = match kind {
        Kind::Node => "NAME ONLINE SYNCED PLACEMENT >CORES >MEMORY >DEVICES >ORPHANS DOMAINS AGE",
        Kind::Device => "NAME USABLE PLACEMENT KIND >SIZE >ALLOCATED >FREE >BLOCK >NUMA PATH AGE",
        Kind::Host => "NAME NQN AGE",
        Kind::Subsystem => "NAME SERVED HOSTS NODES NQN AGE",
        Kind::Namespace => "NAME READY VOLUME >NSID >SIZE NODE AGE",
        Kind::Listener => "NAME READY TRANSPORT ADDRESS >PORT AGE",
        Kind::Volume => "NAME STATE >SIZE NODE DEVICES NAMESPACE AGE",
        Kind::Operation => "NAME VERB TARGET STATE PROGRESS AGE",
    };
    let column = |title: &'static str| match title.strip_prefix('>') {
        Some(title) => Column::right(title),
        None => Column::left(title),
    };
    titles.split_whitespace().map(column).collect()
}

/// The cells of one resource.
pub fn row(object: &Object) -> Vec<String> {
    let mut cells = vec![short(object.name())];
    cells.extend(match object {
        Object::Node(node) => node_cells(object, node),
        Object::Device(device) => device_cells(object, device),
        Object::Host(host) => vec![host.spec.clone().unwrap_or_default().nqn],
        Object::Subsystem(subsystem) => subsystem_cells(object, subsystem),
        Object::Namespace(namespace) => namespace_cells(object, namespace),
        Object::Listener(listener) => listener_cells(object, listener),
        Object::Volume(volume) => volume_cells(volume),
        Object::Operation(operation) => operation_cells(operation),
    });
    cells.push(age(object.create_time()));
    cells
}

/// One line of what a table would tell, without name and age.
pub fn summary(object: &Object) -> String {
    let cells = row(object);
    let told = columns(object.kind()).into_iter().zip(&cells).skip(1);
    let told =
        told.filter(|(column, cell)| column.title != "AGE" && !cell.is_empty() && *cell != "-");
    let told = told.map(|(column, cell)| format!("{}={cell}", column.title.to_lowercase()));
    told.collect::<Vec<_>>().join("  ")
}

fn placement_word(cordoned: bool, leaving: bool) -> String {
    match (leaving, cordoned) {
        (true, _) => "deleting".into(),
        (false, true) => "cordoned".into(),
        (false, false) => "allowed".into(),
    }
}

fn node_cells(object: &Object, node: &v1::Node) -> Vec<String> {
    let spec = node.spec.clone().unwrap_or_default();
    let status = node.status.clone().unwrap_or_default();
    let inventory = status.inventory.unwrap_or_default();
    let domains = spec
        .failure_domains
        .iter()
        .map(|(key, value)| format!("{key}={value}"));
    vec![
        condition_word(object, "Online"),
        condition_word(object, "Synced"),
        placement_word(spec.cordoned, node.delete_time.is_some()),
        known(u64::from(inventory.cores)),
        known_size(inventory.memory_bytes),
        inventory.devices.len().to_string(),
        status.orphans.len().to_string(),
        domains.collect::<Vec<_>>().join(","),
    ]
}

fn device_cells(object: &Object, device: &v1::Device) -> Vec<String> {
    let cordoned = device.spec.as_ref().is_some_and(|spec| spec.cordoned);
    let status = device.status.clone().unwrap_or_default();
    let inventory = status.inventory.unwrap_or_default();
    // Watch events lack the computed figures.
    let computed = status.allocated_bytes > 0 || status.free_bytes > 0;
    let figure = |bytes| match computed {
        true => size(bytes),
        false => String::new(),
    };
    let numa = (inventory.numa_node >= 0).then(|| inventory.numa_node.to_string());
    vec![
        condition_word(object, "Usable"),
        placement_word(cordoned, device.delete_time.is_some()),
        inventory.kind,
        known_size(inventory.size_bytes),
        figure(status.allocated_bytes),
        figure(status.free_bytes),
        known(u64::from(inventory.block_size_bytes)),
        numa.unwrap_or_default(),
        inventory.path,
    ]
}

fn subsystem_cells(object: &Object, subsystem: &v1::Subsystem) -> Vec<String> {
    let spec = subsystem.spec.clone().unwrap_or_default();
    let hosts = if spec.allow_any_host {
        "any".to_owned()
    } else {
        listed(&spec.hosts)
    };
    let nodes = subsystem
        .status
        .as_ref()
        .map(|status| listed(&status.nodes));
    vec![
        condition_word(object, "Served"),
        hosts,
        nodes.unwrap_or_default(),
        spec.nqn,
    ]
}

fn namespace_cells(object: &Object, namespace: &v1::Namespace) -> Vec<String> {
    let spec = namespace.spec.clone().unwrap_or_default();
    let status = namespace.status.clone().unwrap_or_default();
    vec![
        leaving(
            namespace.delete_time.is_some(),
            condition_word(object, "Ready"),
        ),
        short(&spec.volume),
        known(u64::from(spec.nsid)),
        known_size(status.size_bytes),
        short(&status.node),
    ]
}

fn listener_cells(object: &Object, listener: &v1::Listener) -> Vec<String> {
    let spec = listener.spec.clone().unwrap_or_default();
    let transport = if spec.transport.is_empty() {
        "tcp".into()
    } else {
        spec.transport
    };
    let port = if spec.port == 0 { 4420 } else { spec.port };
    vec![
        leaving(
            listener.delete_time.is_some(),
            condition_word(object, "Ready"),
        ),
        transport,
        spec.address,
        port.to_string(),
    ]
}

fn volume_cells(volume: &v1::Volume) -> Vec<String> {
    let spec = volume.spec.clone().unwrap_or_default();
    let status = volume.status.clone().unwrap_or_default();
    let layout = status.layout.clone().unwrap_or_default();
    let mut devices: Vec<String> = Vec::new();
    for extent in &layout.extents {
        let id = extent
            .device
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_owned();
        if !devices.contains(&id) {
            devices.push(id);
        }
    }
    vec![
        state_word(volume, &status),
        size(u64::try_from(spec.size_bytes).unwrap_or(0)),
        short(&layout.node),
        devices.join(","),
        short(&status.namespace),
    ]
}

fn state_word(volume: &v1::Volume, status: &v1::VolumeStatus) -> String {
    let word = enum_word(status.state().as_str_name(), "VOLUME_STATE_");
    let word = match status.state() {
        v1::VolumeState::Unspecified => "new".into(),
        _ if volume.delete_time.is_some() => "deleting".into(),
        _ => word,
    };
    let reason = match status.state() {
        v1::VolumeState::Pending => "Placed",
        v1::VolumeState::Failed => "Ready",
        _ => return word,
    };
    let found = status.conditions.iter().find(|c| c.r#type == reason);
    match found.filter(|condition| condition.status() != v1::ConditionStatus::True) {
        Some(condition) if !condition.reason.is_empty() => format!("{word} ({})", condition.reason),
        _ => word,
    }
}

/// Characters of what an operation tells in a cell: the whole of it is in `describe`.
const TOLD_MAX: usize = 80;

fn operation_cells(operation: &v1::Operation) -> Vec<String> {
    let state = match (&operation.error, operation.done) {
        (Some(_), _) => "failed",
        (None, true) => "done",
        (None, false) => "running",
    };
    let told = operation
        .error
        .as_ref()
        .map_or(&operation.progress, |error| &error.message);
    let told = if operation.done && operation.error.is_none() {
        ""
    } else {
        told.as_str()
    };
    vec![
        operation.verb.clone(),
        operation.target.clone(),
        state.into(),
        cut(told, TOLD_MAX),
    ]
}

/// A text for a cell, without what is beyond so many characters.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// `VOLUME_STATE_READY` is `ready`.
pub fn enum_word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase()
}

fn leaving(deleting: bool, word: String) -> String {
    if deleting { "deleting".into() } else { word }
}

fn listed(names: &[String]) -> String {
    match names {
        [] => "none".into(),
        [a, b, c, rest @ ..] if !rest.is_empty() => {
            format!(
                "{},{},{} and {} more",
                short(a),
                short(b),
                short(c),
                rest.len()
            )
        }
        few => few
            .iter()
            .map(|name| short(name))
            .collect::<Vec<_>>()
            .join(","),
    }
}

fn known(number: u64) -> String {
    if number == 0 {
        String::new()
    } else {
        number.to_string()
    }
}

fn known_size(bytes: u64) -> String {
    if bytes == 0 {
        String::new()
    } else {
        size(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::from_json;
    use serde_json::json;

    #[test]
    fn every_kind_fills_its_columns() {
        for kind in Kind::ALL {
            let name = kind.full(kind.example()).unwrap();
            let object = from_json(kind, json!({ "name": name })).unwrap();
            let cells = row(&object);
            assert_eq!(cells.len(), columns(kind).len(), "{kind:?}");
            assert_eq!(cells[0], kind.example());
        }
    }

    #[test]
    fn long_words_are_cut() {
        assert_eq!(cut("short", 5), "short");
        assert_eq!(cut("a little longer", 10), "a little…");
        assert_eq!(cut("ümläute ümläute", 9), "ümläute…");
    }

    #[test]
    fn a_volume_tells_where_it_is_and_why_not() {
        let ready = from_json(
            Kind::Volume,
            json!({
                "name": "volumes/v1",
                "spec": {"size_bytes": "107374182400"},
                "status": {
                    "state": "VOLUME_STATE_READY",
                    "namespace": "subsystems/s1/namespaces/ns1",
                    "layout": {"node": "nodes/n1", "extents": [
                        {"device": "nodes/n1/devices/d0"},
                        {"device": "nodes/n1/devices/d1"},
                        {"device": "nodes/n1/devices/d0"},
                    ]},
                },
            }),
        )
        .unwrap();
        assert_eq!(
            row(&ready)[..6],
            ["v1", "ready", "100 GiB", "n1", "d0,d1", "s1/ns1"]
        );
        assert_eq!(
            summary(&ready),
            "state=ready  size=100 GiB  node=n1  devices=d0,d1  namespace=s1/ns1"
        );
        let pending = from_json(
            Kind::Volume,
            json!({
                "name": "volumes/v2",
                "status": {"state": "VOLUME_STATE_PENDING", "conditions": [
                    {"type": "Placed", "status": "CONDITION_STATUS_FALSE", "reason": "NoSpace"},
                ]},
            }),
        )
        .unwrap();
        assert_eq!(row(&pending)[1], "pending (NoSpace)");
    }

    #[test]
    fn long_lists_are_cut_short() {
        let names: Vec<String> = (1..=5).map(|n| format!("hosts/h{n}")).collect();
        assert_eq!(listed(&names), "h1,h2,h3 and 2 more");
        assert_eq!(listed(&names[..2]), "h1,h2");
        assert_eq!(listed(&[]), "none");
    }
}
