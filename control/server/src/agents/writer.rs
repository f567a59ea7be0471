//! Writing what a node's agent reports: statuses, the ends of operations, removals.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use penstock_api::names::Kind;
use penstock_api::resource::Resource;
use penstock_api::v1::{Listener, Namespace, Node, Volume};
use penstock_plan::observe::{self, Observed};
use penstock_store::{Compare, StoreError};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::batch::{self, Part, Written};
use super::connect::{Session, device_changes};
use super::seen::{Observation, Seen};
use super::{Context, lock};
use crate::ending::Ending;
use crate::keys::unchanged;
use crate::mirror::{Held, Item, Subscription, View};
use crate::repo::Change;

/// How long to wait where the store does not answer, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// So many writes in a row may find the state changed before they wait.
const BEHIND: u32 = 16;

/// How often the node's own status is written at most: each change that reaches the node makes it
/// behind for a moment.
const NODE_INTERVAL: Duration = Duration::from_millis(250);

/// What the parts of a session share.
#[derive(Default)]
pub struct Shared {
    /// What was reported.
    pub seen: Mutex<Seen>,
    /// Wakes the writer.
    pub notify: Notify,
    /// Revision of the last desired state that was sent.
    pub sent_revision: std::sync::atomic::AtomicI64,
}

/// Writes for a session, for as long as it lasts.
pub struct Writer<'a> {
    context: &'a Context,
    session: &'a Session,
    shared: &'a Shared,
    changes: Subscription,
    together: usize,
    node_due: Instant,
    backoff: Duration,
    /// Writes in a row that found the state changed.
    behind: u32,
}

/// The session is somebody else's.
pub struct SessionLost;

impl<'a> Writer<'a> {
    /// A writer; `changes` follows the node.
    pub fn new(
        context: &'a Context,
        session: &'a Session,
        shared: &'a Shared,
        changes: Subscription,
    ) -> Writer<'a> {
        Writer {
            context,
            session,
            shared,
            changes,
            together: 16,
            node_due: Instant::now(),
            backoff: BACKOFF.0,
            behind: 0,
        }
    }

    /// Writes until the session is lost.
    pub async fn run(&mut self) -> SessionLost {
        loop {
            self.wait().await;
            self.gather();
            if self.flush().await.is_err() {
                return SessionLost;
            }
        }
    }

    async fn wait(&self) {
        let (dirty, node_dirty) = {
            let seen = lock(&self.shared.seen);
            (
                !seen.dirty.is_empty() || seen.inventory_dirty,
                seen.node_dirty,
            )
        };
        if dirty {
            return;
        }
        let far = Instant::now() + Duration::from_secs(3_600);
        let due = if node_dirty { self.node_due } else { far };
        tokio::select! {
            biased;
            () = self.shared.notify.notified() => {}
            () = self.changes.changed() => {}
            () = tokio::time::sleep_until(due) => {}
        }
    }

    /// Marks what changed in the store, so that it is compared with what was reported.
    fn gather(&self) {
        let pending = self.changes.take();
        if pending.items.is_empty() {
            return;
        }
        let uids: BTreeSet<String> = self.context.mirror.with(|view| {
            let items = pending.items.keys();
            items.filter_map(|item| uid_of(view, item)).collect()
        });
        let seen = &mut *lock(&self.shared.seen);
        seen.look_again(&uids, Instant::now());
        // What the Hello wrote may come to the mirror only after a report was compared with what was
        // there before.
        let node = Item::Of(Kind::Node, self.session.node.clone());
        seen.node_dirty |= seen.reported && pending.items.contains_key(&node);
    }

    async fn flush(&mut self) -> Result<(), SessionLost> {
        let lease = match self
            .context
            .ended
            .get(self.context.env.store.as_ref())
            .await
        {
            Ok(lease) => lease,
            Err(error) => {
                self.pause(&error).await;
                return Ok(());
            }
        };
        let ending = Ending {
            now: self.context.env.clock.now(),
            lease,
        };
        let parts = self.take(&ending);
        if parts.is_empty() {
            return Ok(());
        }
        let always = [self.session.compare()];
        let env = &self.context.env;
        let written: BTreeSet<String> = parts.iter().map(|part| part.uid.clone()).collect();
        match batch::write(env, &always, parts, &mut self.together).await {
            Written::All(revision) => {
                self.backoff = BACKOFF.0;
                self.behind = 0;
                // What was written is to be seen before the next look. Where it is not, a store that
                // was put back, unseen, has lost it, and it is written again.
                let seen = self.context.mirror.reached(revision).await;
                self.look_again(&written);
                if seen { Ok(()) } else { Err(SessionLost) }
            }
            Written::Behind(parts, revision) => {
                self.again(parts);
                self.context.mirror.reached(revision).await;
                self.behind += 1;
                if self.behind > BEHIND {
                    // The mirror does not show what is in the way; it will be listed again.
                    tokio::time::sleep(BACKOFF.1).await;
                }
                let holds = self.context.mirror.with(|view| self.holds(view));
                if holds { Ok(()) } else { Err(SessionLost) }
            }
            Written::Failed(parts, error) => {
                self.again(parts);
                if error == StoreError::LeaseExpired {
                    self.context.ended.forget_all().await;
                }
                self.pause(&error).await;
                Ok(())
            }
        }
    }

    fn holds(&self, view: &View) -> bool {
        view.sessions
            .get(&self.session.node)
            .is_some_and(|held| held.mod_revision == self.session.revision)
    }

    fn look_again(&self, written: &BTreeSet<String>) {
        let mut seen = lock(&self.shared.seen);
        seen.look_again(written, Instant::now());
        seen.node_dirty |= written.contains("");
    }

    fn again(&self, parts: Vec<Part>) {
        let mut seen = lock(&self.shared.seen);
        for part in parts {
            if part.uid.is_empty() {
                seen.node_dirty = true;
                seen.inventory_dirty = true;
            } else {
                seen.dirty.insert(part.uid, part.since);
            }
        }
    }

    async fn pause(&mut self, error: &StoreError) {
        tracing::debug!(%error, node = self.session.node, "a report waits for the store");
        tokio::time::sleep(self.backoff).await;
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
    }

    /// Takes everything that is to be looked at, as the changes that it makes.
    fn take(&mut self, ending: &Ending) -> Vec<Part> {
        let mut seen = lock(&self.shared.seen);
        let seen = &mut *seen;
        let dirty = std::mem::take(&mut seen.dirty);
        self.context.mirror.with(|view| {
            let mut parts = Vec::new();
            for (uid, since) in dirty {
                match self.object(view, &uid, seen, ending) {
                    Some(Some(change)) => parts.push(Part {
                        uid,
                        since,
                        txn: change.into_txn(),
                    }),
                    Some(None) => {}
                    None => seen.forget(&uid),
                }
            }
            self.node(view, seen, ending, &mut parts);
            parts
        })
    }

    /// What becomes of an object: a change, or nothing; `None` where there is no such object of this
    /// node (any more).
    fn object(
        &self,
        view: &View,
        uid: &str,
        seen: &Seen,
        ending: &Ending,
    ) -> Option<Option<Change>> {
        let observation = seen.objects.get(uid)?;
        let node = &self.session.node;
        let mut change = self.context.repo.change();
        let Some((kind, key)) = view.of_uid_on(uid, node) else {
            // It was deleted while the node was away, and the node has heard of it.
            let gone = matches!(observation, Observation::Object(observed) if observed.gone);
            return (gone && view.is_left(node, uid)).then(|| {
                let left = change.keys().left(node, uid);
                change.require(Compare::Present(left.clone())).delete(left);
                Some(change)
            });
        };
        match (kind, observation) {
            (Kind::Volume, Observation::Volume(observed)) => {
                let held = view.volumes.get(key)?;
                let now = observe::volume(&held.resource, observed, &ending.now);
                Some(Outcomes { view, ending }.write::<Volume>(
                    change,
                    key,
                    held,
                    &now,
                    |ending, change| ending.remove_volume(change, view, key),
                ))
            }
            (Kind::Namespace, Observation::Object(observed)) => {
                let held = view.namespaces.get(key)?;
                let name = format!("nodes/{node}");
                let now = observe::namespace(&held.resource, &name, observed, &ending.now);
                Some(Outcomes { view, ending }.write::<Namespace>(
                    change,
                    key,
                    held,
                    &now,
                    |ending, change| ending.remove_namespace(change, view, key),
                ))
            }
            (Kind::Listener, Observation::Object(observed)) => {
                let held = view.listeners.get(key)?;
                let now = observe::listener(&held.resource, observed, &ending.now);
                Some(Outcomes { view, ending }.write::<Listener>(
                    change,
                    key,
                    held,
                    &now,
                    |ending, change| ending.remove_listener(change, view, key),
                ))
            }
            _ => None,
        }
    }

    /// The node's own status and its devices, where it is time to look at them.
    fn node(&mut self, view: &View, seen: &mut Seen, ending: &Ending, parts: &mut Vec<Part>) {
        let now = Instant::now();
        let Some(held) = view.nodes.get(&self.session.node) else {
            return;
        };
        let due = seen.inventory_dirty || now >= self.node_due;
        if !seen.node_dirty || !due {
            return;
        }
        seen.node_dirty = false;
        self.node_due = now + NODE_INTERVAL;
        let part = |change: Change| Part {
            uid: String::new(),
            since: now,
            txn: change.into_txn(),
        };
        if seen.inventory_dirty {
            seen.inventory_dirty = false;
            if let Some(inventory) = &seen.node.inventory {
                let devices = device_changes(self.context, view, &self.session.node, inventory);
                parts.extend(devices.into_iter().map(part));
            }
        }
        let sent = self
            .shared
            .sent_revision
            .load(std::sync::atomic::Ordering::Relaxed);
        let status = observe::node_report(&held.resource, &seen.node, sent, &ending.now);
        if held.resource.status.as_ref() == Some(&status) {
            return;
        }
        let mut change = self.context.repo.change();
        let keys = change.keys().clone();
        let key = keys.status(Kind::Node, &self.session.node);
        change.require(unchanged(key, held.status_revision.unwrap_or(0)));
        change.require(Compare::Present(keys.spec(Kind::Node, &self.session.node)));
        change.put_status::<Node>(&self.session.node, &status);
        parts.push(part(change));
    }
}

/// Turns what was observed of an object into a change.
struct Outcomes<'a> {
    view: &'a View,
    ending: &'a Ending,
}

impl Outcomes<'_> {
    fn write<R: Resource>(
        &self,
        mut change: Change,
        key: &str,
        held: &Held<R>,
        observed: &Observed<R::Status>,
        remove: impl FnOnce(&Ending, &mut Change),
    ) -> Option<Change> {
        let keys = change.keys().clone();
        let spec = keys.spec(R::KIND, key);
        let status = keys.status(R::KIND, key);
        change.require(unchanged(status, held.status_revision.unwrap_or(0)));
        if observed.gone {
            change.require(Compare::ModRevision(spec, held.spec_revision));
            remove(self.ending, &mut change);
            return Some(change);
        }
        change.require(Compare::Present(spec));
        if observed.changed {
            change.put_status::<R>(key, &observed.status);
        }
        for (operation, revision) in self.view.unfinished_of(held.resource.name()) {
            if operation.target_uid == held.resource.uid() {
                let outcome = observe::operation(operation, observed);
                self.ending
                    .operation(&mut change, operation, *revision, outcome);
            }
        }
        (!change.is_empty()).then_some(change)
    }
}

fn uid_of(view: &View, item: &Item) -> Option<String> {
    fn uid<R: Resource>(table: &crate::mirror::Table<R>, key: &str) -> Option<String> {
        table.get(key).map(|held| held.resource.uid().to_owned())
    }
    match item {
        Item::Of(Kind::Volume, key) => uid(&view.volumes, key),
        Item::Of(Kind::Namespace, key) => uid(&view.namespaces, key),
        Item::Of(Kind::Listener, key) => uid(&view.listeners, key),
        _ => None,
    }
}
