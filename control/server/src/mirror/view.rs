//! The state in memory: every resource with its revisions, and the indexes that make a change cost
//! what it touches, however much there is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use penstock_api::names::Kind;
use penstock_api::resource::Resource;
use penstock_api::v1;
use penstock_store::{Entry, Revision};
use prost::Message;

use crate::keys::{Key, ids_of};

/// A resource as the store holds it.
#[derive(Clone, Debug)]
pub struct Held<T> {
    /// The resource, spec and status together.
    pub resource: T,
    /// Revision of the spec's last change.
    pub spec_revision: Revision,
    /// Revision of the status's last change; `None` where there is no status.
    pub status_revision: Option<Revision>,
}

/// Resources of one kind by key.
pub type Table<T> = BTreeMap<String, Arc<Held<T>>>;

/// What can change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    /// A resource or operation, by key.
    Of(Kind, String),
    /// The session of a node's agent, by the node's id.
    Session(String),
    /// Who holds a role.
    Election(String),
}

/// A key that goes with a lease: a session or an election.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// Who holds it, as it says.
    pub holder: String,
    /// Revision at which it was created.
    pub create_revision: Revision,
    /// Revision of its last change: what the holder compares.
    pub mod_revision: Revision,
}

/// What a revision (or a relist) changed.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Everything that changed.
    pub items: BTreeSet<Item>,
    /// What each node is concerned by.
    pub by_node: BTreeMap<String, BTreeSet<Item>>,
    /// Where subsystems can be reached changed, or who may.
    pub ports: bool,
}

impl Changes {
    fn concern(&mut self, node: &str, item: Item) {
        self.by_node
            .entry(node.to_owned())
            .or_default()
            .insert(item);
    }
}

/// Everything the store holds, as of one revision.
#[derive(Debug, Default)]
pub struct View {
    /// The store.
    pub store_id: String,
    /// The revision.
    pub revision: Revision,
    /// How often the store was found to be another or an older one than before.
    pub regressions: u64,
    /// Nodes.
    pub nodes: Table<v1::Node>,
    /// Devices.
    pub devices: Table<v1::Device>,
    /// Hosts.
    pub hosts: Table<v1::Host>,
    /// Subsystems.
    pub subsystems: Table<v1::Subsystem>,
    /// Namespaces.
    pub namespaces: Table<v1::Namespace>,
    /// Listeners.
    pub listeners: Table<v1::Listener>,
    /// Volumes.
    pub volumes: Table<v1::Volume>,
    /// Operations that have not ended by id, with the revision of their last change.
    pub operations: BTreeMap<String, (Arc<v1::Operation>, Revision)>,
    /// Sessions of agents by node.
    pub sessions: BTreeMap<String, Claimed>,
    /// What each node is still to be told of objects that were deleted without its word, by identity.
    left: BTreeMap<String, BTreeMap<String, v1::Desired>>,
    /// Holders of roles.
    pub elections: BTreeMap<String, Claimed>,
    /// Revisions of the guards of quotas.
    quota_guards: BTreeMap<Kind, Revision>,
    /// Size of all volumes together, in bytes.
    volume_bytes: u64,
    by_uid: BTreeMap<String, BTreeSet<(Kind, String)>>,
    volumes_of_node: BTreeMap<String, BTreeSet<String>>,
    namespaces_of_volume: BTreeMap<String, BTreeSet<String>>,
    /// Namespaces that each node serves of each subsystem, counted.
    served: BTreeMap<String, BTreeMap<String, usize>>,
    subsystems_of_host: BTreeMap<String, BTreeSet<String>>,
    unfinished_of_target: BTreeMap<String, BTreeSet<String>>,
}

/// The key of a resource's name: `volumes/v1` is `v1`; empty where it is none of this kind.
pub fn key_of(kind: Kind, name: &str) -> String {
    ids_of(kind, name).unwrap_or_default()
}

/// The first id of a key: the node of a device or listener, the subsystem of a namespace.
pub fn parent_of(key: &str) -> &str {
    key.split_once('/').map_or(key, |(parent, _)| parent)
}

/// Entries of a table whose key is under a parent.
pub fn children<'a, T>(
    table: &'a Table<T>,
    parent: &str,
) -> impl Iterator<Item = (&'a String, &'a Arc<Held<T>>)> {
    let prefix = format!("{parent}/");
    table
        .range(prefix.clone()..)
        .take_while(move |(key, _)| key.starts_with(&prefix))
}

impl View {
    /// An empty view of a store at a revision.
    pub fn new(store_id: String, revision: Revision) -> View {
        View {
            store_id,
            revision,
            ..View::default()
        }
    }

    /// The node that a volume lies on, by id.
    pub fn node_of_volume(&self, volume: &str) -> Option<String> {
        let held = self.volumes.get(volume)?;
        let layout = held.resource.status.as_ref()?.layout.as_ref()?;
        Some(key_of(Kind::Node, &layout.node)).filter(|node| !node.is_empty())
    }

    fn size_of_volume(&self, volume: &str) -> u64 {
        let spec = self
            .volumes
            .get(volume)
            .and_then(|held| held.resource.spec.as_ref());
        spec.map_or(0, |spec| u64::try_from(spec.size_bytes).unwrap_or(0))
    }

    /// The node that serves a namespace: the one its volume lies on.
    pub fn node_of_namespace(&self, namespace: &str) -> Option<String> {
        let spec = self.namespaces.get(namespace)?.resource.spec.as_ref()?;
        self.node_of_volume(&key_of(Kind::Volume, &spec.volume))
    }

    /// Kind and key of what has this identity: one thing, but for a volume that is in its place while
    /// a copy of it, held elsewhere without the store's knowledge, is deleted.
    pub fn of_uid(&self, uid: &str) -> impl Iterator<Item = &(Kind, String)> {
        self.by_uid.get(uid).into_iter().flatten()
    }

    /// The same, as far as it belongs to a node: its volumes, namespaces and listeners.
    pub fn of_uid_on(&self, uid: &str, node: &str) -> Option<&(Kind, String)> {
        self.of_uid(uid).find(|(kind, key)| match kind {
            Kind::Volume => self.node_of_volume(key).as_deref() == Some(node),
            Kind::Namespace => self.node_of_namespace(key).as_deref() == Some(node),
            Kind::Listener => parent_of(key) == node,
            _ => false,
        })
    }

    /// Whether something has this identity.
    pub fn knows(&self, uid: &str) -> bool {
        self.by_uid.contains_key(uid)
    }

    /// Keys of the volumes on a node.
    pub fn volumes_of_node(&self, node: &str) -> impl Iterator<Item = &String> {
        self.volumes_of_node.get(node).into_iter().flatten()
    }

    /// Keys of the namespaces of a volume: one, or none.
    pub fn namespaces_of_volume(&self, volume: &str) -> impl Iterator<Item = &String> {
        self.namespaces_of_volume.get(volume).into_iter().flatten()
    }

    /// Keys of the namespaces that a node serves.
    pub fn namespaces_of_node(&self, node: &str) -> impl Iterator<Item = &String> {
        self.volumes_of_node(node)
            .flat_map(|volume| self.namespaces_of_volume(volume))
    }

    /// The nodes that serve a subsystem.
    pub fn nodes_of_subsystem(&self, subsystem: &str) -> impl Iterator<Item = &String> {
        self.served
            .get(subsystem)
            .into_iter()
            .flat_map(BTreeMap::keys)
    }

    /// Every subsystem with the nodes that serve it.
    pub fn served(&self) -> impl Iterator<Item = (&String, impl Iterator<Item = &String>)> {
        self.served
            .iter()
            .map(|(subsystem, nodes)| (subsystem, nodes.keys()))
    }

    /// Whether a node serves a subsystem.
    pub fn serves(&self, node: &str, subsystem: &str) -> bool {
        self.served
            .get(subsystem)
            .is_some_and(|nodes| nodes.contains_key(node))
    }

    /// What a node is still to be told of objects that were deleted without its word.
    pub fn left(&self, node: &str) -> impl Iterator<Item = (&String, &v1::Desired)> {
        self.left.get(node).into_iter().flatten()
    }

    /// Whether a node is still to be told that this object is deleted.
    pub fn is_left(&self, node: &str, uid: &str) -> bool {
        self.left
            .get(node)
            .is_some_and(|left| left.contains_key(uid))
    }

    /// Operations on a resource (by name) that have not ended, with their revisions.
    pub fn unfinished_of(
        &self,
        target: &str,
    ) -> impl Iterator<Item = &(Arc<v1::Operation>, Revision)> {
        self.unfinished_of_target
            .get(target)
            .into_iter()
            .flatten()
            .filter_map(|id| self.operations.get(id))
    }

    /// Number of operations that have not ended.
    pub fn unfinished(&self) -> usize {
        self.operations.len()
    }

    /// Number of resources of a kind.
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Node => self.nodes.len(),
            Kind::Device => self.devices.len(),
            Kind::Host => self.hosts.len(),
            Kind::Subsystem => self.subsystems.len(),
            Kind::Namespace => self.namespaces.len(),
            Kind::Listener => self.listeners.len(),
            Kind::Volume => self.volumes.len(),
            Kind::Operation => self.operations.len(),
        }
    }

    /// How much there is of a kind, and size in bytes of all its resources together (volumes only).
    pub fn amount(&self, kind: Kind) -> (usize, u64) {
        let bytes = match kind {
            Kind::Volume => self.volume_bytes,
            _ => 0,
        };
        (self.count(kind), bytes)
    }

    /// Revision of the guard of a kind's quota; 0 where there is none.
    pub fn quota_guard(&self, kind: Kind) -> Revision {
        self.quota_guards.get(&kind).copied().unwrap_or(0)
    }

    /// Takes in a key that was set.
    pub fn put(&mut self, key: Key<'_>, entry: &Entry, changes: &mut Changes) {
        match key {
            Key::Spec(kind, ids) => self.change(kind, ids, changes, |view| {
                view.put_resource(kind, ids, false, entry);
            }),
            Key::Status(kind, ids) => self.change(kind, ids, changes, |view| {
                view.put_resource(kind, ids, true, entry);
            }),
            Key::Operation(id) => self.change(Kind::Operation, id, changes, |view| {
                // Ended ones are many, and concern nobody here.
                match decoded::<v1::Operation>(entry).filter(|operation| !operation.done) {
                    Some(operation) => {
                        let held = (Arc::new(operation), entry.mod_revision);
                        view.operations.insert(id.to_owned(), held);
                    }
                    None => {
                        view.operations.remove(id);
                    }
                }
            }),
            Key::Session(node) => {
                self.sessions.insert(node.to_owned(), claimed(entry));
                self.concerned(&Item::Session(node.to_owned()), changes);
            }
            // The node is away; it is told with all else when it comes.
            Key::Left(node, uid) => {
                if let Some(desired) = decoded::<v1::Desired>(entry) {
                    let left = self.left.entry(node.to_owned()).or_default();
                    left.insert(uid.to_owned(), desired);
                }
            }
            Key::Elect(role) => {
                self.elections.insert(role.to_owned(), claimed(entry));
                self.concerned(&Item::Election(role.to_owned()), changes);
            }
            Key::QuotaGuard(kind) => {
                self.quota_guards.insert(kind, entry.mod_revision);
            }
            Key::Claim(_) | Key::Other => {}
        }
    }

    /// Takes in a key that was removed.
    pub fn delete(&mut self, key: Key<'_>, changes: &mut Changes) {
        match key {
            Key::Spec(kind, ids) => self.change(kind, ids, changes, |view| {
                view.delete_resource(kind, ids, false);
            }),
            Key::Status(kind, ids) => self.change(kind, ids, changes, |view| {
                view.delete_resource(kind, ids, true);
            }),
            Key::Operation(id) => self.change(Kind::Operation, id, changes, |view| {
                view.operations.remove(id);
            }),
            Key::Session(node) => {
                self.sessions.remove(node);
                self.concerned(&Item::Session(node.to_owned()), changes);
            }
            Key::Left(node, uid) => {
                if let Some(left) = self.left.get_mut(node) {
                    left.remove(uid);
                }
            }
            Key::Elect(role) => {
                self.elections.remove(role);
                self.concerned(&Item::Election(role.to_owned()), changes);
            }
            Key::QuotaGuard(kind) => {
                self.quota_guards.remove(&kind);
            }
            Key::Claim(_) | Key::Other => {}
        }
    }

    /// Everything that differs between two views, as if it had changed one by one.
    pub fn difference(&self, newer: &View) -> Changes {
        let mut changes = Changes {
            ports: true,
            ..Changes::default()
        };
        let (before, after) = (self.revisions(), newer.revisions());
        for (item, revisions) in &before {
            if after.get(item) != Some(revisions) {
                self.concerned(item, &mut changes);
                newer.concerned(item, &mut changes);
            }
        }
        for item in after.keys().filter(|item| !before.contains_key(item)) {
            newer.concerned(item, &mut changes);
        }
        changes
    }

    fn revisions(&self) -> BTreeMap<Item, (Revision, Revision)> {
        let mut all = BTreeMap::new();
        revisions_of(&self.nodes, &mut all);
        revisions_of(&self.devices, &mut all);
        revisions_of(&self.hosts, &mut all);
        revisions_of(&self.subsystems, &mut all);
        revisions_of(&self.namespaces, &mut all);
        revisions_of(&self.listeners, &mut all);
        revisions_of(&self.volumes, &mut all);
        for (id, (_, revision)) in &self.operations {
            all.insert(Item::Of(Kind::Operation, id.clone()), (*revision, 0));
        }
        for (node, claimed) in &self.sessions {
            all.insert(Item::Session(node.clone()), (claimed.mod_revision, 0));
        }
        for (role, claimed) in &self.elections {
            all.insert(Item::Election(role.clone()), (claimed.mod_revision, 0));
        }
        all
    }

    fn change(
        &mut self,
        kind: Kind,
        key: &str,
        changes: &mut Changes,
        act: impl FnOnce(&mut View),
    ) {
        let item = Item::Of(kind, key.to_owned());
        self.concerned(&item, changes);
        let before = self.port_facts(kind, key);
        self.unlink(kind, key);
        act(self);
        self.link(kind, key);
        self.concerned(&item, changes);
        changes.ports |= before != self.port_facts(kind, key);
    }

    /// Adds `item` to the changes, and to those of the nodes that it concerns as things are now.
    fn concerned(&self, item: &Item, changes: &mut Changes) {
        changes.items.insert(item.clone());
        match item {
            Item::Session(node) => changes.concern(node, item.clone()),
            Item::Election(_) => {}
            Item::Of(kind, key) => self.concerned_resource(*kind, key, item, changes),
        }
    }

    fn concerned_resource(&self, kind: Kind, key: &str, item: &Item, changes: &mut Changes) {
        let subsystem = |key: &str| Item::Of(Kind::Subsystem, parent_of(key).to_owned());
        match kind {
            Kind::Node => changes.concern(key, item.clone()),
            Kind::Device | Kind::Listener => changes.concern(parent_of(key), item.clone()),
            Kind::Volume => {
                let Some(node) = self.node_of_volume(key) else {
                    return;
                };
                changes.concern(&node, item.clone());
                for namespace in self.namespaces_of_volume(key) {
                    changes.concern(&node, Item::Of(Kind::Namespace, namespace.clone()));
                    changes.concern(&node, subsystem(namespace));
                }
            }
            Kind::Namespace => {
                if let Some(node) = self.node_of_namespace(key) {
                    changes.concern(&node, item.clone());
                    changes.concern(&node, subsystem(key));
                }
            }
            Kind::Subsystem => {
                for node in self.nodes_of_subsystem(key) {
                    changes.concern(node, item.clone());
                }
            }
            Kind::Host => {
                for subsystem in self.subsystems_of_host.get(key).into_iter().flatten() {
                    for node in self.nodes_of_subsystem(subsystem) {
                        let item = Item::Of(Kind::Subsystem, subsystem.clone());
                        changes.concern(node, item);
                    }
                }
            }
            Kind::Operation => {
                if let Some((operation, _)) = self.operations.get(key) {
                    for (kind, key) in self.of_uid(&operation.target_uid) {
                        let target = Item::Of(*kind, key.clone());
                        self.concerned_resource(*kind, key, &target, changes);
                    }
                }
            }
        }
    }

    /// What about a resource decides where hosts find subsystems.
    fn port_facts(&self, kind: Kind, key: &str) -> PortFacts {
        match kind {
            Kind::Node => self.nodes.get(key).map_or(PortFacts::None, |held| {
                let status = held.resource.status.as_ref();
                let inventory = status.and_then(|status| status.inventory.as_ref());
                inventory.map_or(PortFacts::None, |inventory| {
                    PortFacts::Node(
                        inventory.listeners.clone(),
                        inventory.network_interfaces.clone(),
                    )
                })
            }),
            Kind::Listener => PortFacts::revision(&self.listeners, key),
            Kind::Host => PortFacts::revision(&self.hosts, key),
            Kind::Subsystem => PortFacts::revision(&self.subsystems, key),
            Kind::Volume => PortFacts::Serves(
                self.namespaces_of_volume(key)
                    .flat_map(|namespace| self.nodes_of_subsystem(parent_of(namespace)))
                    .cloned()
                    .collect(),
            ),
            Kind::Namespace => {
                PortFacts::Serves(self.nodes_of_subsystem(parent_of(key)).cloned().collect())
            }
            Kind::Device | Kind::Operation => PortFacts::None,
        }
    }

    fn unlink(&mut self, kind: Kind, key: &str) {
        self.index(kind, key, false);
    }

    fn link(&mut self, kind: Kind, key: &str) {
        self.index(kind, key, true);
    }

    fn index(&mut self, kind: Kind, key: &str, add: bool) {
        if let Some(uid) = self.uid_of(kind, key) {
            let what = (kind, key.to_owned());
            if add {
                self.by_uid.entry(uid).or_default().insert(what);
            } else if let Some(all) = self.by_uid.get_mut(&uid) {
                all.remove(&what);
                if all.is_empty() {
                    self.by_uid.remove(&uid);
                }
            }
        }
        match kind {
            Kind::Volume => {
                let size = self.size_of_volume(key);
                self.volume_bytes = if add {
                    self.volume_bytes.saturating_add(size)
                } else {
                    self.volume_bytes.saturating_sub(size)
                };
                let Some(node) = self.node_of_volume(key) else {
                    return;
                };
                toggle(&mut self.volumes_of_node, &node, key, add);
                let namespaces: Vec<String> = self.namespaces_of_volume(key).cloned().collect();
                for namespace in namespaces {
                    self.serve(parent_of(&namespace), &node, add);
                }
            }
            Kind::Namespace => {
                let Some(held) = self.namespaces.get(key) else {
                    return;
                };
                let spec = held.resource.spec.as_ref();
                let volume = spec.map_or_else(String::new, |s| key_of(Kind::Volume, &s.volume));
                toggle(&mut self.namespaces_of_volume, &volume, key, add);
                if let Some(node) = self.node_of_volume(&volume) {
                    self.serve(parent_of(key), &node, add);
                }
            }
            Kind::Subsystem => {
                let Some(held) = self.subsystems.get(key) else {
                    return;
                };
                let hosts = held.resource.spec.as_ref().map(|spec| spec.hosts.clone());
                for host in hosts.unwrap_or_default() {
                    let host = key_of(Kind::Host, &host);
                    toggle(&mut self.subsystems_of_host, &host, key, add);
                }
            }
            Kind::Operation => {
                if let Some((operation, _)) = self.operations.get(key) {
                    let target = operation.target.clone();
                    toggle(&mut self.unfinished_of_target, &target, key, add);
                }
            }
            Kind::Node | Kind::Device | Kind::Host | Kind::Listener => {}
        }
    }

    fn serve(&mut self, subsystem: &str, node: &str, add: bool) {
        let nodes = self.served.entry(subsystem.to_owned()).or_default();
        let count = nodes.entry(node.to_owned()).or_default();
        *count = if add {
            *count + 1
        } else {
            count.saturating_sub(1)
        };
        if *count == 0 {
            nodes.remove(node);
        }
        if nodes.is_empty() {
            self.served.remove(subsystem);
        }
    }

    fn uid_of(&self, kind: Kind, key: &str) -> Option<String> {
        fn uid<T: Resource>(table: &Table<T>, key: &str) -> Option<String> {
            let uid = table.get(key)?.resource.uid();
            (!uid.is_empty()).then(|| uid.to_owned())
        }
        match kind {
            Kind::Node => uid(&self.nodes, key),
            Kind::Device => uid(&self.devices, key),
            Kind::Host => uid(&self.hosts, key),
            Kind::Subsystem => uid(&self.subsystems, key),
            Kind::Namespace => uid(&self.namespaces, key),
            Kind::Listener => uid(&self.listeners, key),
            Kind::Volume => uid(&self.volumes, key),
            Kind::Operation => None,
        }
    }

    fn put_resource(&mut self, kind: Kind, key: &str, status: bool, entry: &Entry) {
        match kind {
            Kind::Node => put_in(&mut self.nodes, key, status, entry),
            Kind::Device => put_in(&mut self.devices, key, status, entry),
            Kind::Host => put_in(&mut self.hosts, key, status, entry),
            Kind::Subsystem => put_in(&mut self.subsystems, key, status, entry),
            Kind::Namespace => put_in(&mut self.namespaces, key, status, entry),
            Kind::Listener => put_in(&mut self.listeners, key, status, entry),
            Kind::Volume => put_in(&mut self.volumes, key, status, entry),
            Kind::Operation => {}
        }
    }

    fn delete_resource(&mut self, kind: Kind, key: &str, status: bool) {
        match kind {
            Kind::Node => delete_in(&mut self.nodes, key, status),
            Kind::Device => delete_in(&mut self.devices, key, status),
            Kind::Host => delete_in(&mut self.hosts, key, status),
            Kind::Subsystem => delete_in(&mut self.subsystems, key, status),
            Kind::Namespace => delete_in(&mut self.namespaces, key, status),
            Kind::Listener => delete_in(&mut self.listeners, key, status),
            Kind::Volume => delete_in(&mut self.volumes, key, status),
            Kind::Operation => {}
        }
    }
}

#[derive(PartialEq)]
enum PortFacts {
    None,
    Revision(Revision),
    Node(Vec<v1::TransportAddress>, Vec<v1::NetworkInterface>),
    Serves(Vec<String>),
}

impl PortFacts {
    fn revision<T>(table: &Table<T>, key: &str) -> PortFacts {
        table.get(key).map_or(PortFacts::None, |held| {
            PortFacts::Revision(held.spec_revision)
        })
    }
}

fn toggle(index: &mut BTreeMap<String, BTreeSet<String>>, at: &str, key: &str, add: bool) {
    if add {
        index
            .entry(at.to_owned())
            .or_default()
            .insert(key.to_owned());
    } else if let Some(keys) = index.get_mut(at) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(at);
        }
    }
}

fn decoded<T: Message + Default>(entry: &Entry) -> Option<T> {
    match T::decode(entry.value.as_slice()) {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::error!(key = entry.key, %error, "the store holds a damaged value; it is left out");
            None
        }
    }
}

fn claimed(entry: &Entry) -> Claimed {
    Claimed {
        holder: String::from_utf8_lossy(&entry.value).into_owned(),
        create_revision: entry.create_revision,
        mod_revision: entry.mod_revision,
    }
}

fn put_in<T: Resource>(table: &mut Table<T>, key: &str, status: bool, entry: &Entry) {
    if status {
        let Some(status) = decoded::<T::Status>(entry) else {
            return;
        };
        // A status without a spec tells of nothing: there is no such resource.
        if let Some(held) = table.get_mut(key) {
            let held = Arc::make_mut(held);
            *held.resource.status_mut() = Some(status);
            held.status_revision = Some(entry.mod_revision);
        }
    } else {
        let Some(mut resource) = decoded::<T>(entry) else {
            return;
        };
        let old = table.get(key);
        *resource.status_mut() = old.and_then(|held| held.resource.status().cloned());
        let status_revision = old.and_then(|held| held.status_revision);
        let held = Held {
            resource,
            spec_revision: entry.mod_revision,
            status_revision,
        };
        table.insert(key.to_owned(), Arc::new(held));
    }
}

fn delete_in<T: Resource>(table: &mut Table<T>, key: &str, status: bool) {
    if status {
        if let Some(held) = table.get_mut(key) {
            let held = Arc::make_mut(held);
            *held.resource.status_mut() = None;
            held.status_revision = None;
        }
    } else {
        table.remove(key);
    }
}

fn revisions_of<T: Resource>(table: &Table<T>, all: &mut BTreeMap<Item, (Revision, Revision)>) {
    for (key, held) in table {
        let revisions = (held.spec_revision, held.status_revision.unwrap_or(0));
        all.insert(Item::Of(T::KIND, key.clone()), revisions);
    }
}
