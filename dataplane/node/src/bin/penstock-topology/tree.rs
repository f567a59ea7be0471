//! The picture as a tree for people.

use std::collections::BTreeMap;

use penstock_node::survey::{Service, ServiceKind};
use penstock_topology::{NumaNode, PciDevice, PciKind};

use crate::picture::{Crossing, Picture, Source};

/// What stands out in the text, and what to search for.
const MARK: &str = "CROSS-NODE";

/// A line, and what belongs under it.
struct Branch {
    text: String,
    under: Vec<Branch>,
}

impl Branch {
    fn leaf(text: String) -> Branch {
        Branch {
            text,
            under: Vec::new(),
        }
    }
}

/// The whole text, without the last line's end.
pub fn text(picture: &Picture) -> String {
    let mut lines = vec![headline(picture)];
    let nodes = picture.survey.topology.nodes.iter();
    let mut branches: Vec<Branch> = nodes.map(|node| of_node(picture, node)).collect();
    branches.extend(elsewhere(picture));
    draw(&branches, "", &mut lines);
    lines.push(String::new());
    lines.extend(summary(picture));
    lines.join("\n")
}

fn draw(branches: &[Branch], indent: &str, lines: &mut Vec<String>) {
    for (index, branch) in branches.iter().enumerate() {
        let last = index + 1 == branches.len();
        let (joint, below) = if last {
            ("└─ ", "   ")
        } else {
            ("├─ ", "│  ")
        };
        lines.push(format!("{indent}{joint}{}", branch.text));
        draw(&branch.under, &format!("{indent}{below}"), lines);
    }
}

fn headline(picture: &Picture) -> String {
    let topology = &picture.survey.topology;
    let memory = topology.nodes.iter().map(|node| node.memory_bytes).sum();
    let nodes = match topology.nodes.len() {
        1 => "no NUMA (one node)".to_owned(),
        count => format!("{count} NUMA nodes"),
    };
    let denied = topology.cores.len() - usable(picture, None).len();
    let denied = match denied {
        0 => String::new(),
        count => format!(" ({count} not allowed to this process)"),
    };
    let cores = topology.cores.len();
    format!("machine: {nodes}, {cores} cores{denied}, {}", size(memory))
}

/// Cores of a node, or of all, that this process may run on.
fn usable(picture: &Picture, node: Option<u32>) -> Vec<usize> {
    let cores = picture.survey.topology.cores.iter();
    cores
        .filter(|core| node.is_none_or(|node| core.node == node))
        .map(|core| core.id)
        .filter(|id| picture.allowed.contains(id))
        .collect()
}

fn of_node(picture: &Picture, node: &NumaNode) -> Branch {
    let topology = &picture.survey.topology;
    let others = topology.nodes.iter().filter(|other| other.id != node.id);
    let distances: Vec<String> = others
        .map(|other| {
            format!(
                "{} to node {}",
                topology.distance(node.id, other.id),
                other.id
            )
        })
        .collect();
    let mut text = format!("NUMA node {}: {}", node.id, size(node.memory_bytes));
    if !distances.is_empty() {
        text.push_str(&format!(", distance {}", distances.join(", ")));
    }
    let own = topology.cores.iter().filter(|core| core.node == node.id);
    let own: Vec<usize> = own.map(|core| core.id).collect();
    let mut under = vec![Branch::leaf(match own.is_empty() {
        true => "no cores".to_owned(),
        false => format!("cores {}", ranges(&own)),
    })];
    let seats = picture.survey.placement.seats.iter().enumerate();
    let here = seats.filter(|(_, seat)| seat.node == Some(node.id));
    under.extend(here.map(|(id, seat)| of_reactor(picture, id, seat.core, node.id)));
    let devices = picture.devices_on(Some(node.id)).into_iter();
    under.extend(devices.map(|device| of_device(picture, device)));
    Branch { text, under }
}

fn of_reactor(picture: &Picture, id: usize, core: usize, node: u32) -> Branch {
    let mut text = format!("reactor {id} on core {core}");
    match &picture.source {
        Source::Running(live) => match live.memory.get(&id) {
            Some(memory) => text.push_str(&format!(": {}", memory_text(memory, node))),
            None if live.misplaced_bytes.is_some() => text.push_str(": no memory used yet"),
            None => {}
        },
        Source::Nothing | Source::Planned(_) => {}
    }
    Branch::leaf(text)
}

fn memory_text(memory: &BTreeMap<u32, u64>, node: u32) -> String {
    let here = memory.get(&node).copied().unwrap_or(0);
    let mut text = format!("{} of its memory here", size(here));
    for (other, bytes) in memory.iter().filter(|(other, _)| **other != node) {
        text.push_str(&format!("; {MARK}: {} on node {other}", size(*bytes)));
    }
    text
}

fn of_device(picture: &Picture, device: &PciDevice) -> Branch {
    let address = &device.address;
    let names = device.names.join(", ");
    let text = match device.kind {
        PciKind::Drive => {
            let drive = picture.drives.get(address);
            let driver = drive.and_then(|drive| drive.driver.as_deref());
            let driver = driver.map_or_else(|| "no driver".to_owned(), str::to_owned);
            let model = drive.and_then(|drive| drive.model.clone());
            let words = [model.unwrap_or_default(), names, driver];
            let words: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
            format!("drive {address}: {}", words.join(", "))
        }
        PciKind::Network => {
            let addresses = device
                .names
                .iter()
                .filter_map(|name| picture.interfaces.get(name));
            let addresses: Vec<String> = addresses.flatten().map(ToString::to_string).collect();
            let name = if names.is_empty() {
                "no interface"
            } else {
                &names
            };
            match addresses.is_empty() {
                true => format!("network {address}: {name}"),
                false => format!("network {address}: {name} ({})", addresses.join(", ")),
            }
        }
        PciKind::Storage => format!("storage {address}: {names}"),
    };
    let services = picture.services_of(device).into_iter();
    Branch {
        text,
        under: services
            .map(|service| Branch::leaf(service_text(picture, service)))
            .collect(),
    }
}

fn service_text(picture: &Picture, service: &Service) -> String {
    let what = match service.kind {
        ServiceKind::Storage => format!("{} ({})", service.name, service.from),
        ServiceKind::Listener => format!("listener {} ({})", service.name, service.from),
    };
    let Some(reach) = picture.survey.reach(service) else {
        return what;
    };
    let crossings = picture.crossings_of(service);
    let far: Vec<String> = crossings
        .iter()
        .map(|c| {
            let (reactor, node, distance) = (c.reactor, c.reactor_node, c.distance);
            format!("reactor {reactor} (node {node}, distance {distance})")
        })
        .collect();
    let near: Vec<String> = reach.local.iter().map(ToString::to_string).collect();
    let near = match near.len() {
        0 => String::new(),
        1 => format!("reactor {} is near", near[0]),
        _ => format!("reactors {} are near", near.join(", ")),
    };
    match (near.is_empty(), far.is_empty()) {
        (true, true) => what,
        (false, true) => format!("{what}: {near}"),
        (false, false) => format!("{what}: {near}; {MARK} from {}", far.join(", ")),
        (true, false) => format!(
            "{what}: {MARK}, no reactor is near; from {}",
            far.join(", ")
        ),
    }
}

/// What sits on no node.
fn elsewhere(picture: &Picture) -> Option<Branch> {
    let devices = picture.devices_on(None).into_iter();
    let mut under: Vec<Branch> = devices.map(|device| of_device(picture, device)).collect();
    let seats = picture.survey.placement.seats.iter().enumerate();
    let lost = seats.filter(|(_, seat)| seat.node.is_none());
    under.extend(lost.map(|(id, seat)| {
        Branch::leaf(format!(
            "reactor {id} on core {}, which hwloc does not know",
            seat.core
        ))
    }));
    let placeless = picture.placeless().into_iter();
    under.extend(placeless.map(|service| Branch::leaf(service_text(picture, service))));
    (!under.is_empty()).then(|| Branch {
        text: "on no node".to_owned(),
        under,
    })
}

fn summary(picture: &Picture) -> Vec<String> {
    let mut lines = Vec::new();
    match &picture.source {
        Source::Nothing => {
            lines.push("who serves what: add --config FILE, the node's configuration".to_owned());
            return lines;
        }
        Source::Running(live) => {
            lines.push("reactors: as they run now".to_owned());
            if let Some(planned) = &picture.planned_cores {
                lines.push(format!("  a restart would put them on cores {planned:?}"));
            }
            lines.push(match live.misplaced_bytes {
                None => "memory: this kernel does not tell where it lies".to_owned(),
                Some(0) => "memory: all that is bound to a node lies there".to_owned(),
                Some(bytes) => format!(
                    "memory: {MARK}: {} bound to a node lie on another; see `numastat -m`",
                    size(bytes)
                ),
            });
        }
        Source::Planned(why) => {
            lines.push(format!("reactors: as a start would place them ({why})"))
        }
    }
    let crossings = picture.crossings();
    if crossings.is_empty() {
        lines.push("cross-node paths: none".to_owned());
    } else {
        lines.push("cross-node paths:".to_owned());
        lines.extend(crossings.iter().map(crossing_text));
    }
    lines
}

fn crossing_text(crossing: &Crossing<'_>) -> String {
    let Crossing {
        reactor,
        reactor_node,
        service,
        service_node,
        distance,
    } = crossing;
    format!(
        "  {MARK} reactor {reactor} (node {reactor_node}) to {} (node {service_node}), distance {distance}",
        service.name
    )
}

/// Numbers as the kernel writes lists: `0-3,8`.
fn ranges(numbers: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => runs.push((*number, *number)),
        }
    }
    let text = |(first, last): &(usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    runs.iter().map(text).collect::<Vec<_>>().join(",")
}

/// Bytes in the unit that suits them.
fn size(bytes: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let unit = (1..units.len())
        .take_while(|n| bytes >> (10 * n) > 0)
        .count();
    match unit {
        0 => format!("{bytes} bytes"),
        _ => format!(
            "{:.1} {}",
            bytes as f64 / (1_u64 << (10 * unit)) as f64,
            units[unit]
        ),
    }
}

#[cfg(test)]
mod tests;
