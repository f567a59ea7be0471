//! The pool of space, kept in step with the mirror.

use std::collections::{BTreeMap, BTreeSet};

use penstock_api::names::Kind;
use penstock_api::v1::{Node, Volume};
use penstock_plan::place::Pool;

use crate::mirror::{Item, View};

/// The pool, and what was noted in it under which identity, so that it can be taken back.
#[derive(Debug, Default)]
pub struct Space {
    /// All nodes and devices, and what of them is given away.
    pub pool: Pool,
    /// Identities of volumes that are noted, by key.
    volumes: BTreeMap<String, String>,
    /// Orphans that are noted, by node.
    orphans: BTreeMap<String, BTreeSet<String>>,
}

/// Orphans are noted under names of their own: the store may know a volume of the same identity
/// elsewhere, and both take space.
fn orphan_id(node: &str, uid: &str) -> String {
    format!("orphan {node} {uid}")
}

impl Space {
    /// The pool of the state as it is.
    pub fn of(view: &View) -> Space {
        let mut space = Space::default();
        for held in view.nodes.values() {
            space.pool.set_node(&held.resource);
        }
        for held in view.devices.values() {
            space.pool.set_device(&held.resource);
        }
        for (key, held) in &view.nodes {
            space.set_orphans(key, Some(&held.resource));
        }
        for (key, held) in &view.volumes {
            space.set_volume(key, Some(&held.resource));
        }
        space
    }

    /// Takes in a change. Whether volumes that found no place may find one now.
    pub fn follow(&mut self, view: &View, item: &Item) -> bool {
        let Item::Of(kind, key) = item else {
            return false;
        };
        match kind {
            Kind::Node => {
                match view.nodes.get(key) {
                    Some(held) => self.pool.set_node(&held.resource),
                    None => self.pool.remove_node(&format!("nodes/{key}")),
                }
                let node = view.nodes.get(key).map(|held| &held.resource);
                self.set_orphans(key, node);
                true
            }
            Kind::Device => {
                match view.devices.get(key) {
                    Some(held) => self.pool.set_device(&held.resource),
                    None => {
                        if let Some((node, device)) = key.split_once('/') {
                            let name = format!("nodes/{node}/devices/{device}");
                            self.pool.remove_device(&name);
                        }
                    }
                }
                true
            }
            Kind::Volume => {
                let volume = view.volumes.get(key).map(|held| &held.resource);
                self.set_volume(key, volume)
            }
            _ => false,
        }
    }

    /// A node that holds an orphan of this identity, by id.
    pub fn orphan_on(&self, uid: &str) -> Option<&str> {
        let holds = |(node, orphans): &(&String, &BTreeSet<String>)| {
            orphans.contains(&orphan_id(node, uid))
        };
        self.orphans
            .iter()
            .find(holds)
            .map(|(node, _)| node.as_str())
    }

    /// Notes that a volume was just given this place; the mirror will show it.
    pub fn gave(&mut self, key: &str, volume: &Volume, layout: &penstock_api::v1::Layout) {
        // By key: a volume and the copy of it that is deleted elsewhere have one identity.
        self.pool.occupy(key, layout, group_of(volume));
        self.volumes.insert(key.to_owned(), volume.uid.clone());
    }

    fn set_volume(&mut self, key: &str, volume: Option<&Volume>) -> bool {
        let layout = volume.and_then(|volume| volume.status.as_ref()?.layout.as_ref());
        let mut freed = false;
        let uid = volume.map(|volume| volume.uid.as_str());
        if let Some(old) = self.volumes.get(key)
            && (uid != Some(old.as_str()) || layout.is_none())
        {
            self.pool.release(key);
            self.volumes.remove(key);
            freed = true;
        }
        if let (Some(volume), Some(layout)) = (volume, layout) {
            self.gave(key, volume, layout);
        }
        freed
    }

    fn set_orphans(&mut self, key: &str, node: Option<&Node>) {
        let orphans = node.and_then(|node| node.status.as_ref());
        let mut now = BTreeSet::new();
        for orphan in orphans.map_or(&[][..], |status| &status.orphans) {
            if let Some(layout) = &orphan.layout {
                let id = orphan_id(key, &orphan.volume_uid);
                self.pool.occupy(&id, layout, "");
                now.insert(id);
            }
        }
        let before = self.orphans.remove(key).unwrap_or_default();
        for gone in before.difference(&now) {
            self.pool.release(gone);
        }
        if !now.is_empty() {
            self.orphans.insert(key.to_owned(), now);
        }
    }
}

fn group_of(volume: &Volume) -> &str {
    let placement = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.placement.as_ref());
    placement.map_or("", |placement| &placement.anti_affinity_group)
}
