//! Deleting by force what only a node could end that never comes back.
//!
//! Nothing is cleared by it: a volume that the node still holds is an orphan when it comes back.
//! Namespaces and listeners hold no data; what the node is to be told of them is left behind for it.

use std::collections::BTreeSet;

use futures::future::{BoxFuture, try_join_all};
use penstock_api::names::Kind;
use penstock_api::resource::Resource;
use penstock_api::v1::{Desired, Listener, Namespace, Node, Subsystem, Volume};
use penstock_plan::desired;
use penstock_store::{Compare, Range};
use prost::Message as _;
use tonic::Code;

use super::core::{Call, Core};
use super::namespaces::remove_claims;
use super::write::id_in;
use crate::audit::{self, Record};
use crate::fault::{Fault, Result};
use crate::repo::{Change, Stored};

/// How often what is on a node is looked up, where others change it at the same time.
const ROUNDS: u32 = 16;
/// Transactions on the way at the same time.
const AT_ONCE: usize = 16;
/// Keys read at once.
const PAGE: usize = 1_000;

/// What is on a node.
#[derive(Debug, Default)]
pub struct OnNode {
    /// Volumes that lie on it.
    pub volumes: Vec<Stored<Volume>>,
    /// Namespaces of those.
    pub namespaces: Vec<Stored<Namespace>>,
    /// Its listeners.
    pub listeners: Vec<Stored<Listener>>,
}

impl OnNode {
    /// Names of the volumes, then of the listeners.
    pub fn names(&self) -> Vec<String> {
        let volumes = self.volumes.iter().map(|item| item.resource.name.clone());
        let listeners = self.listeners.iter().map(|item| item.resource.name.clone());
        volumes.chain(listeners).collect()
    }

    fn is_empty(&self) -> bool {
        self.volumes.is_empty() && self.namespaces.is_empty() && self.listeners.is_empty()
    }
}

impl Core {
    /// Whether the agent of a node (its id) has a stream to a server.
    ///
    /// # Errors
    /// The store's.
    pub async fn is_online(&self, node: &str) -> Result<bool> {
        let session = self.repo.keys().session(node);
        Ok(self.repo.entry(&session, None).await?.is_some())
    }

    /// Makes a change hold only while the agent of a node (its id) is not connected.
    ///
    /// # Errors
    /// FAILED_PRECONDITION where it is; the store's.
    pub async fn require_offline(&self, change: &mut Change, node: &str) -> Result<()> {
        if self.is_online(node).await? {
            return Err(Fault::precondition(
                "NODE_ONLINE",
                format!(
                    "nodes/{node} is connected, and force is for a node that never comes back: delete without force, which the node carries out; or stop its agent first, and try again when `Online` is False"
                ),
            )
            .with("node", format!("nodes/{node}")));
        }
        let session = change.keys().session(node);
        change.require(Compare::Absent(session));
        Ok(())
    }

    /// What a deletion waits for that a node (its id) has to carry out; empty while it is connected.
    ///
    /// # Errors
    /// The store's.
    pub async fn waits_for_node(&self, node: &str) -> Result<String> {
        if self.is_online(node).await? {
            return Ok(String::new());
        }
        Ok(format!(
            "waits for nodes/{node}, which is not connected; if it never comes back, delete with force (--force)"
        ))
    }

    /// Leaves behind, for a node (its id), that a namespace is deleted.
    ///
    /// # Errors
    /// The store's.
    pub async fn leave_namespace(
        &self,
        change: &mut Change,
        node: &str,
        namespace: &Namespace,
        volume_uid: &str,
    ) -> Result<()> {
        let ids = id_in(Kind::Namespace, &namespace.name);
        let subsystem = ids.split('/').next().unwrap_or_default();
        let subsystem = self.repo.get::<Subsystem>(subsystem).await?;
        let uid = subsystem.map(|subsystem| subsystem.resource.uid);
        let mut left = desired::namespace(namespace, &uid.unwrap_or_default(), volume_uid);
        left.deleted = true;
        let left = Desired {
            namespaces: vec![left],
            ..Desired::default()
        };
        leave(change, node, &namespace.uid, &left);
        Ok(())
    }

    /// What is on a node.
    ///
    /// # Errors
    /// The store's.
    pub async fn on_node(&self, node: &Stored<Node>) -> Result<OnNode> {
        let repo = &self.repo;
        let name = &node.resource.name;
        let mut on = OnNode {
            volumes: repo.all::<Volume>("", None).await?.items,
            listeners: repo
                .all::<Listener>(&format!("{}/", node.ids), None)
                .await?
                .items,
            ..OnNode::default()
        };
        on.volumes.retain(|volume| {
            let status = volume.resource.status.as_ref();
            let layout = status.and_then(|status| status.layout.as_ref());
            layout.is_some_and(|layout| layout.node == *name)
        });
        if !on.volumes.is_empty() {
            let here: BTreeSet<&str> = on.volumes.iter().map(|item| item.resource.name()).collect();
            on.namespaces = repo.all::<Namespace>("", None).await?.items;
            on.namespaces
                .retain(|item| here.contains(item.resource.spec_or_default().volume.as_str()));
        }
        Ok(on)
    }

    /// Ends everything that is on a node whose agent is not connected, each thing in a transaction of
    /// its own: what has ended stays so where this does not come to its end.
    ///
    /// # Errors
    /// FAILED_PRECONDITION where the node comes back meanwhile; ABORTED where others change the same
    /// again and again; the store's.
    pub async fn end_all_on(&self, call: &Call, node: &Stored<Node>) -> Result<()> {
        for _ in 0..ROUNDS {
            let on = self.on_node(node).await?;
            if on.is_empty() {
                return Ok(());
            }
            // Namespaces before their volumes: so it is everywhere.
            self.end_each(call, node, &on.namespaces).await?;
            self.end_each(call, node, &on.volumes).await?;
            self.end_each(call, node, &on.listeners).await?;
        }
        Err(Fault::new(
            Code::Aborted,
            "CONTENTION",
            format!(
                "others change what is on {} at the same time; a part of it is deleted: try again",
                node.resource.name
            ),
        ))
    }

    async fn end_each<R: Ends>(
        &self,
        call: &Call,
        node: &Stored<Node>,
        items: &[Stored<R>],
    ) -> Result<()> {
        for some in items.chunks(AT_ONCE) {
            let mut ends: Vec<BoxFuture<'_, Result<()>>> = Vec::new();
            for item in some {
                ends.push(Box::pin(self.end_one(call, node, item)));
            }
            try_join_all(ends).await?;
        }
        Ok(())
    }

    /// Ends one thing; leaves it where somebody changes it at the same time.
    async fn end_one<R: Ends>(
        &self,
        call: &Call,
        node: &Stored<Node>,
        item: &Stored<R>,
    ) -> Result<()> {
        let mut change = self.repo.change();
        self.require_offline(&mut change, &node.ids).await?;
        change.still_exists(node);
        item.resource.give_back(&mut change, &item.ids);
        let requester = &call.caller.name;
        self.put_removed(&mut change, item, requester).await?;
        if self.repo.commit(change).await?.is_some() {
            let mut before = item.resource.clone();
            before.take_status();
            let record = Record {
                resource: item.resource.name().to_owned(),
                before: audit::json(&before),
                outcome: "changed",
                ..Record::default()
            };
            audit::write(&call.caller, call.method, &record, None);
        }
        Ok(())
    }

    /// Keys of what a node (its id) is still to be told.
    ///
    /// # Errors
    /// The store's.
    pub async fn left(&self, node: &str) -> Result<Vec<String>> {
        let mut range = Range {
            prefix: self.repo.keys().all_left(node),
            limit: PAGE,
            keys_only: true,
            ..Range::default()
        };
        let mut left = Vec::new();
        loop {
            let page = self.repo.store().list(range.clone()).await?;
            left.extend(page.entries.into_iter().map(|entry| entry.key));
            if !page.more {
                return Ok(left);
            }
            range.after = left.last().cloned();
        }
    }
}

/// What ends with its node.
trait Ends: Resource {
    /// Adds that what it has is given back; only if nothing needs it any more.
    fn give_back(&self, change: &mut Change, ids: &str);
}

impl Ends for Volume {
    fn give_back(&self, change: &mut Change, ids: &str) {
        let claim = change.keys().claim_volume(ids);
        change.require(Compare::Absent(claim));
    }
}

impl Ends for Namespace {
    fn give_back(&self, change: &mut Change, _ids: &str) {
        remove_claims(change, self);
    }
}

impl Ends for Listener {
    fn give_back(&self, _change: &mut Change, _ids: &str) {}
}

/// Leaves behind, for a node (its id), that a listener is deleted.
pub fn leave_listener(change: &mut Change, node: &str, listener: &Listener) {
    let mut left = desired::listener(listener);
    left.deleted = true;
    let left = Desired {
        listeners: vec![left],
        ..Desired::default()
    };
    leave(change, node, &listener.uid, &left);
}

fn leave(change: &mut Change, node: &str, uid: &str, left: &Desired) {
    let key = change.keys().left(node, uid);
    change.put(key, left.encode_to_vec(), None);
}
