//! What a node was told: the difference to what it is to be told now is the next message.

use std::collections::{BTreeMap, BTreeSet};

use penstock_api::names::Kind;
use penstock_api::v1::{
    Desired, DesiredListener, DesiredNamespace, DesiredSubsystem, DesiredVolume, RemotePort,
};
use penstock_plan::desired;
use prost::Message;

use super::ports;
use crate::mirror::{Item, Pending, View, children, key_of, parent_of};

/// Size of a message that is not exceeded but for a single object larger than this, in bytes.
const MESSAGE_BYTES: usize = 512 << 10;

/// What a node was told, by key.
#[derive(Debug, Default)]
pub struct Told {
    node: String,
    volumes: BTreeMap<String, DesiredVolume>,
    subsystems: BTreeMap<String, DesiredSubsystem>,
    namespaces: BTreeMap<String, DesiredNamespace>,
    listeners: BTreeMap<String, DesiredListener>,
    ports: Vec<RemotePort>,
    /// Something it was told to have has vanished.
    lost: bool,
}

/// What a node is told to have until it is told that it is deleted.
trait Wanted: Clone + PartialEq {
    fn uid(&self) -> &str;
    fn deleted(&self) -> bool;
}

macro_rules! wanted {
    ($($message:ty),*) => {$(
        impl Wanted for $message {
            fn uid(&self) -> &str {
                &self.uid
            }
            fn deleted(&self) -> bool {
                self.deleted
            }
        }
    )*};
}
wanted!(DesiredVolume, DesiredNamespace, DesiredListener);

/// Notes what is wanted now, and adds it to what is told where it is news. Whether something that
/// was wanted has vanished without having been deleted.
fn note<W: Wanted>(
    told: &mut BTreeMap<String, W>,
    key: &str,
    now: Option<W>,
    out: &mut Vec<W>,
) -> bool {
    let before = told.get(key);
    let lost = before.is_some_and(|before| {
        let same = now.as_ref().is_some_and(|now| now.uid() == before.uid());
        !before.deleted() && !same
    });
    match now {
        Some(now) if before != Some(&now) => {
            out.push(now.clone());
            told.insert(key.to_owned(), now);
        }
        Some(_) => {}
        // It is gone, and the node has said so: there is nothing left to tell.
        None => {
            told.remove(key);
        }
    }
    lost
}

impl Told {
    /// Nothing yet, to this node (its id).
    pub fn new(node: &str) -> Told {
        Told {
            node: node.to_owned(),
            ..Told::default()
        }
    }

    /// Whether something that the node was told to have has vanished without its deletion. A store
    /// that goes on takes a thing away only after its node has said that it is gone: this one was put
    /// back in its place. All is to be told anew then, so that the node knows what it alone has.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Everything that is wanted of the node: the first messages of a stream.
    pub fn everything(&mut self, view: &View) -> Vec<Desired> {
        *self = Told::new(&self.node);
        let mut all = empty(view);
        // What goes comes first, so that it is out of the way of what is new.
        for (_, left) in view.left(&self.node) {
            all.namespaces.extend(left.namespaces.iter().cloned());
            all.listeners.extend(left.listeners.iter().cloned());
        }
        let volumes: Vec<String> = view.volumes_of_node(&self.node).cloned().collect();
        for key in volumes {
            self.volume(view, &key, &mut all);
        }
        let namespaces: Vec<String> = view.namespaces_of_node(&self.node).cloned().collect();
        let subsystems: BTreeSet<&str> = namespaces.iter().map(|key| parent_of(key)).collect();
        for key in subsystems {
            self.subsystem(view, key, &mut all);
        }
        for key in &namespaces {
            self.namespace(view, key, &mut all);
        }
        let listeners: Vec<String> = children(&view.listeners, &self.node)
            .map(|(key, _)| key.clone())
            .collect();
        for key in listeners {
            self.listener(view, &key, &mut all);
        }
        self.ports = ports::of_others(view, &self.node);
        all.remote_ports_told = true;
        all.remote_ports.clone_from(&self.ports);
        let mut parts = split(all);
        let last = parts.len().saturating_sub(1);
        for (index, part) in parts.iter_mut().enumerate() {
            part.complete = true;
            part.more = index < last;
        }
        parts
    }

    /// What changed: the messages that follow. `ports` says whether to look at those too.
    pub fn changes(&mut self, view: &View, pending: &Pending, ports: bool) -> Vec<Desired> {
        let mut changes = empty(view);
        for item in pending.items.keys() {
            match item {
                Item::Of(Kind::Volume, key) => self.volume(view, key, &mut changes),
                Item::Of(Kind::Subsystem, key) => self.subsystem_and_its(view, key, &mut changes),
                Item::Of(Kind::Namespace, key) => {
                    self.subsystem_and_its(view, parent_of(key), &mut changes);
                    self.namespace(view, key, &mut changes);
                }
                Item::Of(Kind::Listener, key) => self.listener(view, key, &mut changes),
                _ => {}
            }
        }
        if ports {
            let now = ports::of_others(view, &self.node);
            if now != self.ports {
                changes.remote_ports_told = true;
                changes.remote_ports.clone_from(&now);
                self.ports = now;
            }
        }
        if is_empty(&changes) {
            return Vec::new();
        }
        split(changes)
    }

    fn volume(&mut self, view: &View, key: &str, out: &mut Desired) {
        let here = view.node_of_volume(key).as_deref() == Some(&self.node);
        let held = view.volumes.get(key).filter(|_| here);
        let now = held.and_then(|held| desired::volume(&held.resource));
        self.lost |= note(&mut self.volumes, key, now, &mut out.volumes);
    }

    /// A subsystem; where the node did not serve it before, its namespaces could not be told before.
    fn subsystem_and_its(&mut self, view: &View, key: &str, out: &mut Desired) {
        let before = self.subsystems.contains_key(key);
        self.subsystem(view, key, out);
        if !before && self.subsystems.contains_key(key) {
            let of_it: Vec<String> = children(&view.namespaces, key)
                .map(|(key, _)| key.clone())
                .collect();
            for namespace in of_it {
                self.namespace(view, &namespace, out);
            }
        }
    }

    fn subsystem(&mut self, view: &View, key: &str, out: &mut Desired) {
        let name = format!("nodes/{}", self.node);
        let served = view.serves(&self.node, key);
        let held = view.subsystems.get(key).filter(|_| served);
        let nqn = |host: &str| ports::host_nqn(view, host);
        match held.and_then(|held| desired::subsystem(&held.resource, &name, &nqn)) {
            Some(now) if self.subsystems.get(key) != Some(&now) => {
                out.subsystems.push(now.clone());
                self.subsystems.insert(key.to_owned(), now);
            }
            Some(_) => {}
            None => {
                // Its last namespace here is gone.
                if let Some(mut old) = self.subsystems.remove(key) {
                    old.deleted = true;
                    out.subsystems.push(old);
                }
            }
        }
    }

    fn namespace(&mut self, view: &View, key: &str, out: &mut Desired) {
        let here = view.node_of_namespace(key).as_deref() == Some(&self.node);
        let Some(held) = view.namespaces.get(key).filter(|_| here) else {
            self.lost |= note(&mut self.namespaces, key, None, &mut out.namespaces);
            return;
        };
        // Without the subsystem (it has no controller identifiers here yet) the node could do
        // nothing with it; it follows with the subsystem.
        let Some(subsystem) = self.subsystems.get(parent_of(key)) else {
            return;
        };
        let spec = held.resource.spec.as_ref();
        let volume = spec.map_or_else(String::new, |spec| key_of(Kind::Volume, &spec.volume));
        let Some(volume) = view.volumes.get(&volume) else {
            return;
        };
        let now = desired::namespace(&held.resource, &subsystem.uid, &volume.resource.uid);
        self.lost |= note(&mut self.namespaces, key, Some(now), &mut out.namespaces);
    }

    fn listener(&mut self, view: &View, key: &str, out: &mut Desired) {
        if parent_of(key) != self.node {
            return;
        }
        let held = view.listeners.get(key);
        let now = held.map(|held| desired::listener(&held.resource));
        self.lost |= note(&mut self.listeners, key, now, &mut out.listeners);
    }
}

fn empty(view: &View) -> Desired {
    Desired {
        revision: view.revision,
        store_id: view.store_id.clone(),
        ..Desired::default()
    }
}

fn is_empty(desired: &Desired) -> bool {
    desired.volumes.is_empty()
        && desired.subsystems.is_empty()
        && desired.namespaces.is_empty()
        && desired.listeners.is_empty()
        && !desired.remote_ports_told
}

/// Splits a message that is too large, in the order in which things depend on each other.
fn split(all: Desired) -> Vec<Desired> {
    if all.encoded_len() <= MESSAGE_BYTES {
        return vec![all];
    }
    let blank = Desired {
        revision: all.revision,
        store_id: all.store_id,
        ..Desired::default()
    };
    let mut parts = Parts {
        done: Vec::new(),
        current: blank.clone(),
        size: 0,
        blank,
    };
    for object in all.volumes {
        parts.room(object.encoded_len()).volumes.push(object);
    }
    for object in all.subsystems {
        parts.room(object.encoded_len()).subsystems.push(object);
    }
    for object in all.namespaces {
        parts.room(object.encoded_len()).namespaces.push(object);
    }
    for object in all.listeners {
        parts.room(object.encoded_len()).listeners.push(object);
    }
    if all.remote_ports_told {
        // The list is whole or not told at all, and so in one message, whatever its size.
        let size = all.remote_ports.iter().map(Message::encoded_len).sum();
        let part = parts.room(size);
        part.remote_ports_told = true;
        part.remote_ports = all.remote_ports;
    }
    parts.done.push(parts.current);
    parts.done
}

struct Parts {
    done: Vec<Desired>,
    current: Desired,
    size: usize,
    blank: Desired,
}

impl Parts {
    /// The message that takes something of this size.
    fn room(&mut self, size: usize) -> &mut Desired {
        if self.size > 0 && self.size + size > MESSAGE_BYTES {
            let full = std::mem::replace(&mut self.current, self.blank.clone());
            self.done.push(full);
            self.size = 0;
        }
        self.size += size + 8;
        &mut self.current
    }
}
