//! An agent's first words: whether its node is known, the session that makes this server the one
//! that writes for it, and what it said of itself.

use std::collections::BTreeSet;

use penstock_api::names::{Kind, ResourceName};
use penstock_api::resource::Resource;
use penstock_api::v1::{
    ConditionStatus, Device, DeviceInventory, DeviceSpec, DeviceStatus, Hello, Inventory, Node,
    NodeSpec, Orphan,
};
use penstock_plan::observe;
use penstock_store::{Committed, Compare, LeaseId, Revision, Txn};
use tonic::Code;

use super::Context;
use crate::fault::{Fault, Result};
use crate::keys::unchanged;
use crate::mirror::{View, children};
use crate::repo::Change;

/// How often to try where others change the same keys.
const ATTEMPTS: u32 = 10;

/// A session: the right to write for a node, until somebody else has it.
#[derive(Clone, Debug)]
pub struct Session {
    /// The node's id.
    pub node: String,
    /// The session's key.
    pub key: String,
    /// Revision at which it was set by this stream.
    pub revision: Revision,
    /// The lease it goes with.
    pub lease: LeaseId,
}

impl Session {
    /// What every write for the node compares: that this is still its session.
    pub fn compare(&self) -> Compare {
        Compare::ModRevision(self.key.clone(), self.revision)
    }
}

/// The id of the node that a Hello names.
///
/// # Errors
/// INVALID_ARGUMENT.
pub fn node_of(hello: &Hello) -> Result<String> {
    ResourceName::parse_as(Kind::Node, &hello.node)
        .map(|name| name.id().to_owned())
        .map_err(|error| Fault::name("hello.node", &error))
}

/// Takes over the session of a node, from whoever has it.
///
/// # Errors
/// NOT_FOUND (NODE_UNKNOWN); the store's.
pub async fn take_session(context: &Context, node: &str, lease: LeaseId) -> Result<Session> {
    let env = &context.env;
    let keys = context.repo.keys();
    let key = keys.session(node);
    for _ in 0..ATTEMPTS {
        let (held, _) = env.store.get(&key).await?;
        let (spec, _) = env.store.get(&keys.spec(Kind::Node, node)).await?;
        let mut change = context.repo.change();
        if spec.is_some() {
            change.require(Compare::Present(keys.spec(Kind::Node, node)));
        } else if env.settings.auto_register {
            register(context, &mut change, node);
        } else {
            return Err(unknown(node));
        }
        let revision = held.map_or(0, |entry| entry.mod_revision);
        change.unchanged(key.clone(), revision);
        let holder = format!("{} {}", env.settings.name, env.ids.text());
        change.put(key.clone(), holder.into_bytes(), Some(lease));
        change.marker(key.clone());
        match env.store.txn(change.into_txn()).await? {
            Committed::Yes(revision) => {
                return Ok(Session {
                    node: node.to_owned(),
                    key,
                    revision,
                    lease,
                });
            }
            Committed::No(_) => {}
        }
    }
    Err(Fault::new(
        Code::Aborted,
        "SESSION_CONTENDED",
        format!("several agents call themselves nodes/{node}; stop all but one"),
    ))
}

fn unknown(node: &str) -> Fault {
    Fault::new(
        Code::NotFound,
        "NODE_UNKNOWN",
        format!(
            "nodes/{node} is not known: create it (penstock node create {node}), or correct the \
             node's name in its configuration"
        ),
    )
    .with("node", format!("nodes/{node}"))
}

fn register(context: &Context, change: &mut Change, node: &str) {
    let now = context.env.clock.now();
    let resource = Node {
        name: format!("nodes/{node}"),
        uid: context.env.ids.text(),
        generation: 1,
        create_time: Some(now),
        update_time: Some(now),
        spec: Some(NodeSpec::default()),
        ..Node::default()
    };
    tracing::info!(node, "a node registers itself");
    change.spec_absent::<Node>(node);
    change.put_spec(node, &resource);
}

/// Writes what the Hello tells of the node and its devices.
///
/// # Errors
/// The store's; ABORTED where the session is lost.
pub async fn write_hello(context: &Context, session: &Session, hello: &Hello) -> Result<()> {
    let mut revision = session.revision;
    for _ in 0..ATTEMPTS {
        context.mirror.reached(revision).await;
        let txns = context.mirror.with(|view| {
            let mut parts = vec![node_change(context, view, session, hello)];
            if let Some(inventory) = &hello.inventory {
                parts.extend(device_changes(context, view, &session.node, inventory));
            }
            parts
        });
        match write_all(context, session, txns).await? {
            None => return Ok(()),
            Some(behind) => revision = behind,
        }
        let (held, _) = context.env.store.get(&session.key).await?;
        if held.is_none_or(|held| held.mod_revision != session.revision) {
            break;
        }
    }
    Err(lost())
}

/// Why a stream ends whose session somebody else has.
pub fn lost() -> Fault {
    Fault::new(
        Code::Aborted,
        "SESSION_LOST",
        "the node's session is another stream's, or has expired: connect again",
    )
}

/// Writes each transaction only if the session holds. The revision to catch up with where one did
/// not.
async fn write_all(
    context: &Context,
    session: &Session,
    changes: Vec<Change>,
) -> Result<Option<Revision>> {
    for change in changes {
        let mut txn: Txn = change.into_txn();
        txn.compares.push(session.compare());
        if let Committed::No(revision) = context.env.store.txn(txn).await? {
            return Ok(Some(revision));
        }
    }
    Ok(None)
}

fn node_change(context: &Context, view: &View, session: &Session, hello: &Hello) -> Change {
    let keys = context.repo.keys();
    let held = view.nodes.get(&session.node);
    let node = held.map(|held| held.resource.clone()).unwrap_or_default();
    let now = context.env.clock.now();
    let mut status = observe::node_connected(
        &node,
        hello.inventory.as_ref(),
        (&hello.store_id, hello.accepted_revision),
        (&view.store_id, view.revision),
        &now,
    );
    // Their space is taken from now on, before the node tells more of them.
    status.orphans = orphans(view, &session.node, hello);
    if !status.orphans.is_empty() && !observe::is_true(&status.conditions, "StoreRegressed") {
        // Revisions alone do not tell: the store may have been written to since it was restored.
        observe::set_condition(
            &mut status.conditions,
            "StoreRegressed",
            ConditionStatus::True,
            "VolumesMissing",
            "the node holds volumes that the store does not know: they are served on as orphans; see \
             the node's orphans and resolve them",
            &now,
        );
    }
    let mut change = context.repo.change();
    let revision = held.and_then(|held| held.status_revision).unwrap_or(0);
    change.require(unchanged(keys.status(Kind::Node, &session.node), revision));
    change.require(Compare::Present(keys.spec(Kind::Node, &session.node)));
    change.put_status::<Node>(&session.node, &status);
    change
}

/// Volumes that a node holds and the store does not know, or knows at a lower epoch or elsewhere.
fn orphans(view: &View, node: &str, hello: &Hello) -> Vec<Orphan> {
    let mut orphans = Vec::new();
    for known in &hello.volumes {
        let held = match view.of_uid_on(&known.uid, node) {
            Some((Kind::Volume, key)) => view.volumes.get(key),
            _ => None,
        };
        let layout = held.and_then(|held| held.resource.status.as_ref()?.layout.as_ref());
        let epoch = known.layout.as_ref().map_or(0, |layout| layout.epoch);
        let reason = match layout {
            Some(layout) if layout.epoch >= epoch => continue,
            Some(_) => "EpochBehind",
            None => "MissingInStore",
        };
        let told = view.nodes.get(node).and_then(|node| {
            let orphans = &node.resource.status.as_ref()?.orphans;
            orphans.iter().find(|orphan| orphan.volume_uid == known.uid)
        });
        orphans.push(Orphan {
            volume_uid: known.uid.clone(),
            volume: known.name.clone(),
            reason: reason.to_owned(),
            layout: known.layout.clone(),
            size_bytes: known.size_bytes,
            namespaces: told.map(|told| told.namespaces.clone()).unwrap_or_default(),
            known: Some(known.clone()),
        });
    }
    orphans
}

/// Changes that make the devices of a node what its inventory tells; none where they are.
pub fn device_changes(
    context: &Context,
    view: &View,
    node: &str,
    inventory: &Inventory,
) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut told = BTreeSet::new();
    for device in &inventory.devices {
        let ids = format!("{node}/{}", device.id);
        if penstock_api::names::check_id(&device.id).is_err() || !told.insert(ids.clone()) {
            tracing::warn!(
                node,
                device = device.id,
                "a device without a good name is left out"
            );
            continue;
        }
        changes.extend(device_change(context, view, node, &ids, device));
    }
    for (ids, held) in children(&view.devices, node) {
        if told.contains(ids) {
            continue;
        }
        let status = held.resource.status_or_default();
        let mut missing = status.inventory.unwrap_or_default();
        "the node no longer names it in its configuration".clone_into(&mut missing.problem);
        changes.extend(device_change(context, view, node, ids, &missing));
    }
    changes
}

fn device_change(
    context: &Context,
    view: &View,
    node: &str,
    ids: &str,
    inventory: &DeviceInventory,
) -> Option<Change> {
    let mut change = context.repo.change();
    let keys = change.keys().clone();
    let now = context.env.clock.now();
    let held = view.devices.get(ids);
    let before = held.map(|held| held.resource.status_or_default());
    let mut status = before.clone().unwrap_or_default();
    status.inventory = Some(inventory.clone());
    status.observed_generation = held.map_or(1, |held| held.resource.generation());
    let usable = inventory.problem.is_empty();
    let (holds, reason, message) = if usable {
        (
            ConditionStatus::True,
            "Usable",
            "volumes can be placed on it",
        )
    } else {
        (
            ConditionStatus::False,
            "Problem",
            inventory.problem.as_str(),
        )
    };
    observe::set_condition(
        &mut status.conditions,
        "Usable",
        holds,
        reason,
        message,
        &now,
    );
    if before.as_ref() == Some(&status) {
        return None;
    }
    match held {
        Some(held) => {
            let revision = held.status_revision.unwrap_or(0);
            change.require(unchanged(keys.status(Kind::Device, ids), revision));
            change.require(Compare::Present(keys.spec(Kind::Device, ids)));
        }
        None => {
            let device = Device {
                name: format!("nodes/{node}/devices/{}", inventory.id),
                uid: context.env.ids.text(),
                generation: 1,
                create_time: Some(now),
                update_time: Some(now),
                spec: Some(DeviceSpec::default()),
                ..Device::default()
            };
            change.spec_absent::<Device>(ids);
            change.require(Compare::Present(keys.spec(Kind::Node, node)));
            change.put_spec(ids, &device);
        }
    }
    let status: DeviceStatus = status;
    change.put_status::<Device>(ids, &status);
    Some(change)
}
