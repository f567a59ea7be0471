//! What there is to do, seen from the state: pure decisions, each turned into one change.

use std::collections::BTreeMap;
use std::time::Duration;

use penstock_api::names::Kind;
use penstock_api::resource::Resource;
use penstock_api::v1::{Subsystem, Volume, VolumeStatus};
use penstock_plan::desired::SUBSYSTEM_NODES_MAX;
use penstock_plan::observe::{self, Outcome};
use penstock_plan::place::NoPlace;
use tokio::time::Instant;

use super::no_session;
use super::pool::Space;
use super::queue::Work;
use crate::ending::Ending;
use crate::mirror::{Held, Item, View, parent_of};
use crate::repo::{Change, Repo};

/// How often the status of a volume without a place is written at most while only the words change.
const WORDS_INTERVAL: Duration = Duration::from_secs(5);

/// All work there is, for a leader that takes office.
pub fn everything(view: &View) -> Vec<Work> {
    let mut all = Vec::new();
    for key in view.nodes.keys() {
        all.extend(work_of(view, &Item::Of(Kind::Node, key.clone())));
    }
    for (kind, keys) in [
        (Kind::Volume, view.volumes.keys().collect::<Vec<_>>()),
        (Kind::Namespace, view.namespaces.keys().collect()),
        (Kind::Listener, view.listeners.keys().collect()),
        (Kind::Operation, view.operations.keys().collect()),
    ] {
        for key in keys {
            all.extend(work_of(view, &Item::Of(kind, key.clone())));
        }
    }
    all
}

/// The work that a change may have made.
pub fn work_of(view: &View, item: &Item) -> Vec<Work> {
    match item {
        Item::Session(node) | Item::Of(Kind::Node, node) => {
            let lost = lost_agent(view, node);
            lost.then(|| Work::Node(node.clone())).into_iter().collect()
        }
        Item::Of(Kind::Volume, key) => {
            let mut work = Vec::new();
            if let Some(held) = view.volumes.get(key)
                && volume_needs(&held.resource)
            {
                work.push(Work::Volume(key.clone()));
            }
            for namespace in view.namespaces_of_volume(key) {
                work.extend(work_of_namespace(view, namespace));
            }
            work
        }
        Item::Of(Kind::Namespace, key) => work_of_namespace(view, key),
        Item::Of(Kind::Subsystem, key) => {
            let held = view.subsystems.get(key);
            let lacks = held.is_some_and(|held| {
                let mut nodes = view.nodes_of_subsystem(key);
                nodes.any(|node| !has_node(&held.resource, node))
            });
            let work = lacks.then(|| Work::Subsystem(key.clone()));
            work.into_iter().collect()
        }
        Item::Of(Kind::Listener, key) => {
            let work = untold(view, key).then(|| Work::Listener(key.clone()));
            work.into_iter().collect()
        }
        Item::Of(Kind::Operation, id) => {
            let lost = view.operations.get(id).is_some_and(|(operation, _)| {
                !operation.done && !view.knows(&operation.target_uid)
            });
            let work = lost.then(|| Work::Operation(id.clone()));
            work.into_iter().collect()
        }
        Item::Of(..) | Item::Election(_) => Vec::new(),
    }
}

fn work_of_namespace(view: &View, key: &str) -> Vec<Work> {
    let Some(held) = view.namespaces.get(key) else {
        return Vec::new();
    };
    let subsystem = parent_of(key);
    match view.node_of_namespace(key) {
        None if held.resource.deleting() => vec![Work::Namespace(key.to_owned())],
        None => Vec::new(),
        Some(node) => {
            let known = view
                .subsystems
                .get(subsystem)
                .is_none_or(|held| has_node(&held.resource, &node));
            let work = (!known).then(|| Work::Subsystem(subsystem.to_owned()));
            work.into_iter().collect()
        }
    }
}

fn has_node(subsystem: &Subsystem, node: &str) -> bool {
    let nodes = subsystem.status.as_ref().map_or(&[][..], |s| &s.nodes);
    nodes
        .iter()
        .any(|name| name.strip_prefix("nodes/") == Some(node))
}

/// Whether a listener is deleted whose node's agent has never been there to hear of it.
fn untold(view: &View, key: &str) -> bool {
    let node = view.nodes.get(parent_of(key));
    let seen = node.and_then(|held| held.resource.status.as_ref()?.last_seen_time);
    let deleting = view
        .listeners
        .get(key)
        .is_some_and(|l| l.resource.deleting());
    deleting && seen.is_none()
}

fn lost_agent(view: &View, node: &str) -> bool {
    let online = view
        .nodes
        .get(node)
        .is_some_and(|held| observe::is_true(held.resource.conditions(), "Online"));
    online && !view.sessions.contains_key(node)
}

fn volume_needs(volume: &Volume) -> bool {
    let layout = volume.status.as_ref().and_then(|s| s.layout.as_ref());
    match layout {
        None => true,
        Some(_) if volume.deleting() => false,
        Some(layout) => {
            let wanted = volume.spec.as_ref().map_or(0, |spec| spec.size_bytes);
            let has = layout
                .extents
                .iter()
                .fold(0_u64, |sum, extent| sum.saturating_add(extent.length_bytes));
            u64::try_from(wanted).is_ok_and(|wanted| wanted > has)
        }
    }
}

/// Decides on the state as it is.
pub struct Decider<'a> {
    /// The state.
    pub view: &'a View,
    /// For making changes.
    pub repo: &'a Repo,
    /// The time, and the lease of what ends.
    pub ending: &'a Ending,
    /// What space there is; places that are given are noted at once.
    pub space: &'a mut Space,
    /// Volumes without a place.
    pub blocked: &'a mut BTreeMap<String, Instant>,
}

impl Decider<'_> {
    /// The change that does the work, and the key of the volume whose space it gives away; `None`
    /// where there is nothing to do.
    pub fn decide(&mut self, work: &Work) -> Option<(Change, Option<String>)> {
        match work {
            Work::Node(key) => self.node(key).map(|change| (change, None)),
            Work::Subsystem(key) => self.subsystem(key).map(|change| (change, None)),
            Work::Namespace(key) => self.namespace(key).map(|change| (change, None)),
            Work::Listener(key) => self.listener(key).map(|change| (change, None)),
            Work::Operation(id) => self.operation(id).map(|change| (change, None)),
            Work::Volume(key) => self.volume(key),
        }
    }

    fn node(&self, key: &str) -> Option<Change> {
        if !lost_agent(self.view, key) {
            return None;
        }
        let held = self.view.nodes.get(key)?;
        let why = "its session has ended";
        let status = observe::node_disconnected(&held.resource, why, &self.ending.now);
        let mut change = self.repo.change();
        let absent = no_session(change.keys(), key);
        change.require(absent);
        require(&mut change, key, held);
        change.put_status::<penstock_api::v1::Node>(key, &status);
        Some(change)
    }

    /// Gives each node that serves the subsystem its block of controller identifiers.
    fn subsystem(&self, key: &str) -> Option<Change> {
        let held = self.view.subsystems.get(key)?;
        let mut status = held.resource.status_or_default();
        let before = status.nodes.len();
        for node in self.view.nodes_of_subsystem(key) {
            let name = format!("nodes/{node}");
            if status.nodes.contains(&name) {
                continue;
            }
            if status.nodes.len() >= SUBSYSTEM_NODES_MAX {
                tracing::error!(
                    subsystem = key,
                    node,
                    "no controller identifiers are left for this node: a subsystem is served by at \
                     most {SUBSYSTEM_NODES_MAX} nodes in its life; use another subsystem"
                );
                break;
            }
            status.nodes.push(name);
        }
        if status.nodes.len() == before {
            return None;
        }
        let mut change = self.repo.change();
        require(&mut change, key, held);
        change.put_status::<Subsystem>(key, &status);
        Some(change)
    }

    /// A namespace that is deleted before any node heard of it.
    fn namespace(&self, key: &str) -> Option<Change> {
        let held = self.view.namespaces.get(key)?;
        if !held.resource.deleting() || self.view.node_of_namespace(key).is_some() {
            return None;
        }
        let mut change = self.repo.change();
        require(&mut change, key, held);
        self.ending.remove_namespace(&mut change, self.view, key);
        Some(change)
    }

    /// A listener that is deleted before its node was ever there.
    fn listener(&self, key: &str) -> Option<Change> {
        if !untold(self.view, key) {
            return None;
        }
        let held = self.view.listeners.get(key)?;
        let node = parent_of(key);
        let mut change = self.repo.change();
        let status = change.keys().status(Kind::Node, node);
        let known = self.view.nodes.get(node);
        let revision = known.and_then(|held| held.status_revision);
        change.unchanged(status, revision.unwrap_or_default());
        require(&mut change, key, held);
        self.ending.remove_listener(&mut change, self.view, key);
        Some(change)
    }

    /// An operation whose target went without it.
    fn operation(&self, id: &str) -> Option<Change> {
        let (operation, revision) = self.view.operations.get(id)?;
        if operation.done || self.view.knows(&operation.target_uid) {
            return None;
        }
        let outcome = if operation.verb == "delete" {
            Outcome::Done
        } else {
            Outcome::Failed(observe::deleted_meanwhile(&operation.target))
        };
        let mut change = self.repo.change();
        self.ending
            .operation(&mut change, operation, *revision, outcome);
        Some(change)
    }

    fn volume(&mut self, key: &str) -> Option<(Change, Option<String>)> {
        let held = self.view.volumes.get(key)?;
        let volume = &held.resource;
        if !volume_needs(volume) {
            self.blocked.remove(key);
            return None;
        }
        let mut change = self.repo.change();
        require(&mut change, key, held);
        let layout = volume.status.as_ref().and_then(|s| s.layout.as_ref());
        if volume.deleting() {
            // No node ever had anything of it.
            self.ending.remove_volume(&mut change, self.view, key);
            return Some((change, None));
        }
        let spec = volume.spec_or_default();
        let size = u64::try_from(spec.size_bytes).unwrap_or(0);
        let placed = match layout {
            None => match self.space.orphan_on(&volume.uid) {
                Some(node) => Err(orphan_exists(volume, node)),
                None => self.space.pool.place(&spec),
            },
            Some(layout) => self.space.pool.grow(layout, size),
        };
        match placed {
            Ok(placed) => {
                self.blocked.remove(key);
                let status = observe::placed(volume, &placed, &self.ending.now);
                self.space.gave(key, volume, &placed.layout);
                change.put_status::<Volume>(key, &status);
                Some((change, Some(key.to_owned())))
            }
            Err(no) => {
                let status = observe::not_placed(volume, &no, &self.ending.now);
                let waits = Outcome::Waiting(format!("waits for a place: {}", no.message));
                if !self.worth_telling(key, volume, &status) {
                    return None;
                }
                self.blocked.insert(key.to_owned(), Instant::now());
                change.put_status::<Volume>(key, &status);
                for (operation, revision) in self.view.unfinished_of(volume.name()) {
                    let of_this = operation.target_uid == volume.uid;
                    if of_this && operation.verb != "delete" {
                        self.ending
                            .operation(&mut change, operation, *revision, waits.clone());
                    }
                }
                Some((change, None))
            }
        }
    }

    /// Whether a status that says that there is no place is news. Notes the volume as blocked.
    fn worth_telling(&mut self, key: &str, volume: &Volume, status: &VolumeStatus) -> bool {
        let reason = |status: &VolumeStatus| {
            let placed = status.conditions.iter().find(|c| c.r#type == "Placed");
            placed.map(|condition| (condition.status, condition.reason.clone()))
        };
        let now = Instant::now();
        let before = volume.status.as_ref();
        let told = self.blocked.get(key).copied();
        if before == Some(status) {
            self.blocked.entry(key.to_owned()).or_insert(now);
            return false;
        }
        let recently =
            told.is_some_and(|told| now.saturating_duration_since(told) < WORDS_INTERVAL);
        !(recently && before.and_then(reason) == reason(status))
    }
}

/// Why a volume that a node holds without the store's knowledge gets no place: it would be there
/// twice, and its data perhaps in the other.
fn orphan_exists(volume: &Volume, node: &str) -> NoPlace {
    NoPlace {
        reason: "OrphanExists",
        message: format!(
            "nodes/{node} holds {} as an orphan, with its data: take it over (penstock node \
             resolve-orphan {node} {} --adopt), or delete it with its data (--delete)",
            volume.name, volume.uid
        ),
    }
}

/// Only if spec and status are as they were seen.
fn require<R: Resource>(change: &mut Change, key: &str, held: &Held<R>) {
    let keys = change.keys().clone();
    change.unchanged(keys.spec(R::KIND, key), held.spec_revision);
    change.unchanged(
        keys.status(R::KIND, key),
        held.status_revision.unwrap_or_default(),
    );
}
