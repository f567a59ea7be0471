//! Where volumes go: the space of all nodes, and the choice of a place.
//!
//! Among the places that the spec allows and that have room, one is chosen by, in this order: few
//! volumes of the same anti-affinity group in its failure domains, the larger domain first; much
//! free space; the name. Within a device the shortest free range that fits is taken.
//!
//! Devices that forget their data (memory) are chosen only where the spec names them, or where it
//! allows no other device, full or not.

mod choose;
mod grow;
mod space;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use penstock_api::v1::{Device, DeviceInventory, Extent, Layout, Node};

use crate::observe::is_true;
use space::Space;

/// A place.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed {
    /// The layout; its epoch is 1 for a new volume, one more than before for a grown one.
    pub layout: Layout,
    /// Why there, for people.
    pub reason: String,
}

/// Why there is no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct NoPlace {
    /// One CamelCase word, for the condition `Placed`: `NoSpace`, `NoNode`, `NoDevice`,
    /// `SizeBeyondPool`, `InvalidSpec`.
    pub reason: &'static str,
    /// For people: what is wrong with each candidate, in short, and the remedy.
    pub message: String,
}

/// How full a device is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that volumes could have in all.
    pub size_bytes: u64,
    /// Bytes given to volumes, orphans included.
    pub allocated_bytes: u64,
    /// Bytes that volumes can still get.
    pub free_bytes: u64,
    /// Bytes that more than one volume claims: after a restore of an older store.
    pub overlapping_bytes: u64,
}

/// What is known of a node.
#[derive(Debug, Default)]
struct NodeFacts {
    labels: BTreeMap<String, String>,
    domains: BTreeMap<String, String>,
    cordoned: bool,
    online: bool,
}

/// What is known of a device, and its space.
#[derive(Debug, Default)]
struct DeviceFacts {
    inventory: Option<DeviceInventory>,
    cordoned: bool,
    space: Space,
}

/// Where a volume or orphan lies.
#[derive(Debug)]
struct Occupant {
    node: String,
    extents: Vec<Extent>,
    group: String,
}

/// All nodes and devices, and what of them is given away. Kept up to date piece by piece: each
/// change costs the logarithm of what there is.
#[derive(Debug, Default)]
pub struct Pool {
    nodes: BTreeMap<String, NodeFacts>,
    /// By node, then by name.
    devices: BTreeMap<String, BTreeMap<String, DeviceFacts>>,
    occupants: BTreeMap<String, Occupant>,
    /// Anti-affinity group, then node: number of volumes.
    groups: BTreeMap<String, BTreeMap<String, usize>>,
}

impl Pool {
    /// Without nodes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or changes a node. It is online where its condition `Online` is true.
    pub fn set_node(&mut self, node: &Node) {
        let spec = node.spec.clone().unwrap_or_default();
        let mut domains = spec.failure_domains;
        domains
            .entry("host".to_owned())
            .or_insert_with(|| text::short(&node.name));
        let conditions = node
            .status
            .as_ref()
            .map_or(&[][..], |status| &status.conditions);
        let facts = NodeFacts {
            labels: node.labels.clone(),
            domains,
            cordoned: spec.cordoned || node.delete_time.is_some(),
            online: is_true(conditions, "Online"),
        };
        self.nodes.insert(node.name.clone(), facts);
    }

    /// Forgets a node and its devices; what lies on them is forgotten with them.
    pub fn remove_node(&mut self, name: &str) {
        let on_it = |occupant: &&Occupant| occupant.node == name;
        let found = self.occupants.iter().filter(|(_, o)| on_it(o));
        let uids: Vec<String> = found.map(|(uid, _)| uid.clone()).collect();
        for uid in uids {
            self.release(&uid);
        }
        self.devices.remove(name);
        self.nodes.remove(name);
    }

    /// Adds or changes a device, as its status tells.
    pub fn set_device(&mut self, device: &Device) {
        let inventory = device
            .status
            .as_ref()
            .and_then(|status| status.inventory.clone());
        let cordoned = device.spec.as_ref().is_some_and(|spec| spec.cordoned);
        let facts = self.device_mut(&device.name);
        facts.cordoned = cordoned;
        facts.space.resize(
            inventory
                .as_ref()
                .map_or(0, |inventory| inventory.size_bytes),
        );
        facts.inventory = inventory;
    }

    /// Forgets what a device is; what lies on it stays noted.
    pub fn remove_device(&mut self, name: &str) {
        let facts = self.device_mut(name);
        facts.inventory = None;
        facts.space.resize(0);
    }

    fn device_mut(&mut self, name: &str) -> &mut DeviceFacts {
        let devices = self.devices.entry(node_of(name)).or_default();
        devices.entry(name.to_owned()).or_default()
    }

    fn device(&self, name: &str) -> Option<&DeviceFacts> {
        self.devices.get(&node_of(name))?.get(name)
    }

    /// Notes where a volume or orphan lies; replaces what was noted of it before. Overlaps with
    /// others are tolerated and counted. The group is the volume's anti-affinity group; empty: none.
    pub fn occupy(&mut self, uid: &str, layout: &Layout, anti_affinity_group: &str) {
        self.release(uid);
        for extent in &layout.extents {
            let end = extent.offset_bytes.saturating_add(extent.length_bytes);
            self.device_mut(&extent.device)
                .space
                .occupy(extent.offset_bytes, end);
        }
        if !anti_affinity_group.is_empty() {
            let nodes = self
                .groups
                .entry(anti_affinity_group.to_owned())
                .or_default();
            *nodes.entry(layout.node.clone()).or_default() += 1;
        }
        let occupant = Occupant {
            node: layout.node.clone(),
            extents: layout.extents.clone(),
            group: anti_affinity_group.to_owned(),
        };
        self.occupants.insert(uid.to_owned(), occupant);
    }

    /// The volume is gone and its space free.
    pub fn release(&mut self, uid: &str) {
        let Some(occupant) = self.occupants.remove(uid) else {
            return;
        };
        for extent in &occupant.extents {
            let end = extent.offset_bytes.saturating_add(extent.length_bytes);
            self.device_mut(&extent.device)
                .space
                .release(extent.offset_bytes, end);
        }
        let Some(nodes) = self.groups.get_mut(&occupant.group) else {
            return;
        };
        if let Some(count) = nodes.get_mut(&occupant.node) {
            *count -= 1;
            if *count == 0 {
                nodes.remove(&occupant.node);
            }
        }
        if nodes.is_empty() {
            self.groups.remove(&occupant.group);
        }
    }

    /// Identities of everything noted by [`Pool::occupy`].
    #[must_use]
    pub fn occupants(&self) -> BTreeSet<&str> {
        self.occupants.keys().map(String::as_str).collect()
    }

    /// How full a device is (`nodes/{node}/devices/{device}`); `None` where it is not known.
    #[must_use]
    pub fn usage(&self, device: &str) -> Option<Usage> {
        let space = &self
            .device(device)
            .filter(|facts| facts.inventory.is_some())?
            .space;
        Some(Usage {
            size_bytes: space.size_bytes(),
            allocated_bytes: space.size_bytes() - space.free_bytes(),
            free_bytes: space.free_bytes(),
            overlapping_bytes: space.overlapping_bytes(),
        })
    }
}

/// `nodes/n1` of `nodes/n1/devices/d0`.
fn node_of(device: &str) -> String {
    device.split('/').take(2).collect::<Vec<_>>().join("/")
}
