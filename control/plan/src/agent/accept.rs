//! Taking a desired state.

use std::collections::BTreeSet;

use penstock_api::v1::{
    Desired, DesiredListener, DesiredNamespace, DesiredSubsystem, DesiredVolume, ObservedObject,
    ObservedVolume, VolumeState,
};

use super::object::{Held, Object};
use super::volume::{HeldVolume, Phase, epoch, extends, extents, problem};
use super::{Accepted, AgentState, Answer, Key, Refusal};

impl AgentState {
    /// Takes a desired state, complete or what changed. Parts of a complete one (`more`) take effect
    /// with the last.
    ///
    /// A volume whose epoch is lower than the one held is not taken (`EpochBehind`), also where it is
    /// `deleted`: whoever deletes an orphan names the epoch held, or a higher one.
    pub fn accept(&mut self, desired: Desired) -> Accepted {
        let whole = match self.parts.take() {
            None => desired,
            Some(mut parts) => {
                append(&mut parts, desired);
                parts
            }
        };
        if whole.complete && whole.more {
            self.parts = Some(whole);
            return Accepted {
                incomplete: true,
                ..Accepted::default()
            };
        }
        let mut accepted = Accepted {
            regression: self.regression(&whole),
            ..Accepted::default()
        };
        let version = self.version;
        let (store_id, revision) = (whole.store_id.clone(), whole.revision);
        let before = self.orphans.clone();
        if whole.complete {
            self.answers.clear();
            self.mark_missing(&whole);
        }
        self.take_objects(whole, &mut accepted.refusals);
        self.take_revision(store_id, revision, version);
        accepted.new_orphans = self.orphans.difference(&before).cloned().collect();
        accepted
    }

    fn take_objects(&mut self, desired: Desired, refusals: &mut Vec<Refusal>) {
        // What goes comes first, so that it is out of the way of what is new.
        let (gone, kept): (Vec<_>, Vec<_>) =
            desired.namespaces.into_iter().partition(|n| n.deleted);
        gone.into_iter()
            .for_each(|namespace| self.accept_namespace(namespace));
        let (gone, volumes): (Vec<_>, Vec<_>) =
            desired.volumes.into_iter().partition(|v| v.deleted);
        for volume in gone.into_iter().chain(volumes) {
            refusals.extend(self.accept_volume(volume));
        }
        desired
            .subsystems
            .into_iter()
            .for_each(|subsystem| self.accept_subsystem(subsystem));
        kept.into_iter()
            .for_each(|namespace| self.accept_namespace(namespace));
        desired
            .listeners
            .into_iter()
            .for_each(|listener| self.accept_listener(listener));
        if desired.remote_ports_told && self.ports.desired != desired.remote_ports {
            self.ports.desired = desired.remote_ports;
            self.ports.since = self.bump();
            self.ports.error = None;
            self.failed.remove(&Key::Ports);
            self.touch(Key::Ports);
        }
    }

    fn regression(&self, desired: &Desired) -> Option<String> {
        if self.store_id.is_empty() {
            return None;
        }
        let kept = "what it lacks is kept as orphan";
        if self.store_id != desired.store_id {
            return Some(format!(
                "control's store is {}, revision {}; before, it was {}, revision {}: {kept}",
                desired.store_id, desired.revision, self.store_id, self.revision
            ));
        }
        (desired.revision < self.revision).then(|| {
            format!(
                "control's store is at revision {}, this node has seen {} of it: {kept}",
                desired.revision, self.revision
            )
        })
    }

    /// A revision that changed nothing here since `version` is not worth saving.
    fn take_revision(&mut self, store_id: String, revision: i64, version: u64) {
        self.revision = revision;
        if self.store_id != store_id {
            self.store_id = store_id;
            self.bump();
        }
        if self.version == version && version == self.saved {
            self.saved_revision = revision;
        } else {
            self.revisions.push_back((self.version, revision));
        }
    }

    /// What a complete state lacks is an orphan from now on.
    fn mark_missing(&mut self, desired: &Desired) {
        let named: BTreeSet<&str> = desired.volumes.iter().map(|v| v.uid.as_str()).collect();
        let mut missing = Vec::new();
        for (uid, held) in &self.volumes {
            if !named.contains(uid.as_str()) && !held.newest().deleted {
                missing.push(uid.clone());
            }
        }
        for uid in missing {
            self.set_orphan(&uid, Some("MissingInStore"), None);
        }
        let version = self.version + 1;
        let subsystems = mark_orphans(&mut self.subsystems, &desired.subsystems, version);
        let namespaces = mark_orphans(&mut self.namespaces, &desired.namespaces, version);
        let listeners = mark_orphans(&mut self.listeners, &desired.listeners, version);
        if !(subsystems.is_empty() && namespaces.is_empty() && listeners.is_empty()) {
            self.bump();
        }
        // One without a namespace goes.
        subsystems
            .into_iter()
            .for_each(|uid| self.touch(Key::Subsystem(uid)));
        // A volume that goes may have waited for just these.
        for uid in namespaces {
            self.loose.insert(Key::Namespace(uid.clone()));
            self.touch(Key::Namespace(uid));
        }
        self.loose.extend(listeners.into_iter().map(Key::Listener));
    }

    /// Makes a volume an orphan, or ends that; notes why the store's version was not taken.
    fn set_orphan(
        &mut self,
        uid: &str,
        orphan: Option<&'static str>,
        refusal: Option<(&'static str, String)>,
    ) {
        let version = self.version + 1;
        let Some(held) = self.volumes.get_mut(uid) else {
            return;
        };
        if held.refusal != refusal {
            held.refusal = refusal;
            self.changed.insert(Key::Volume(uid.to_owned()));
        }
        if held.orphan == orphan {
            return;
        }
        held.orphan = orphan;
        held.since = version;
        self.bump();
        if orphan.is_some() {
            self.orphans.insert(uid.to_owned());
        } else {
            self.orphans.remove(uid);
        }
        self.touch(Key::Volume(uid.to_owned()));
    }

    fn accept_volume(&mut self, mut volume: DesiredVolume) -> Option<Refusal> {
        // Kept apart, so that the store's learning of it is no change of the volume.
        let ready =
            usize::try_from(std::mem::take(&mut volume.ready_extents)).unwrap_or(usize::MAX);
        if volume.deleted {
            return self.accept_deletion(volume);
        }
        let uid = volume.uid.clone();
        if self.deleted.contains(&uid) || self.is_going(&uid) {
            let message = format!(
                "{} was deleted on this node and its data cleared; a volume does not come back: \
                 delete it and make a new one",
                volume.name
            );
            return Some(self.refuse(&volume, "DataDeleted", message));
        }
        if let Some(problem) = problem(&volume) {
            let message = format!("the layout of {} cannot be: {problem}", volume.name);
            return Some(self.refuse(&volume, "InvalidLayout", message));
        }
        let Some(held) = self.volumes.get(&uid) else {
            self.answers.remove(&uid);
            let mut held = HeldVolume::new(volume, ready);
            held.since = self.bump();
            self.volumes.insert(uid.clone(), held);
            self.claim(&uid);
            self.touch(Key::Volume(uid.clone()));
            self.touch_namespaces_of_volume(&uid);
            return None;
        };
        if let Some((reason, message)) = conflict_of_versions(held, &volume) {
            return Some(self.refuse(&volume, reason, message));
        }
        self.set_orphan(&uid, None, None);
        self.take_version(&uid, volume, ready);
        None
    }

    fn is_going(&self, uid: &str) -> bool {
        self.volumes
            .get(uid)
            .is_some_and(|held| held.newest().deleted)
    }

    /// Notes and returns a refusal. A held volume that the store has other ideas of is an orphan.
    fn refuse(&mut self, volume: &DesiredVolume, reason: &'static str, message: String) -> Refusal {
        let uid = volume.uid.clone();
        if self.is_going(&uid) {
            // The deletion goes on, and is reported.
            self.changed.insert(Key::Volume(uid.clone()));
        } else if self.volumes.contains_key(&uid) {
            self.set_orphan(&uid, Some(reason), Some((reason, message.clone())));
        } else {
            let seen = ObservedVolume {
                uid: uid.clone(),
                generation: volume.generation,
                state: VolumeState::Failed.into(),
                reason: reason.to_owned(),
                message: message.clone(),
                ..ObservedVolume::default()
            };
            self.answers
                .insert(uid.clone(), (self.version, Answer::Volume(seen)));
        }
        Refusal {
            uid,
            reason,
            message,
        }
    }

    fn accept_deletion(&mut self, volume: DesiredVolume) -> Option<Refusal> {
        let uid = volume.uid.clone();
        let Some(held) = self.volumes.get(&uid) else {
            if self.deleted.insert(uid.clone()) {
                self.bump();
            }
            self.answer_gone(&uid, volume.generation);
            return None;
        };
        if held.newest().deleted {
            self.changed.insert(Key::Volume(uid));
            return None;
        }
        let (here, there) = (epoch(held.newest()), epoch(&volume));
        if there < here {
            let message = format!(
                "the deletion of {} is of epoch {there}, but this node holds epoch {here}: the store \
                 is behind; resolve the orphan to delete it",
                volume.name
            );
            return Some(self.refuse(&volume, "EpochBehind", message));
        }
        self.set_orphan(&uid, None, None);
        self.take_version(&uid, volume, 0);
        None
    }

    /// Notes that a volume is gone, to be told once that is saved.
    pub(super) fn answer_gone(&mut self, uid: &str, generation: i64) {
        let seen = ObservedVolume {
            uid: uid.to_owned(),
            generation,
            state: VolumeState::Deleting.into(),
            gone: true,
            ..ObservedVolume::default()
        };
        self.answers
            .insert(uid.to_owned(), (self.version, Answer::Volume(seen)));
    }

    /// Takes a version that was found good, at once or at the end of the running step.
    fn take_version(&mut self, uid: &str, volume: DesiredVolume, ready: usize) {
        let version = self.version + 1;
        let Some(held) = self.volumes.get_mut(uid) else {
            return;
        };
        held.known_ready = held.known_ready.max(ready);
        let forgotten = ready.min(extents(&volume).len()) > held.cleared;
        let news = *held.newest() != volume || held.untrusted || forgotten;
        if !news {
            return;
        }
        if held.running {
            held.next = Some(volume);
            held.since = version;
            self.bump();
            self.changed.insert(Key::Volume(uid.to_owned()));
        } else {
            self.apply_version(uid, volume);
        }
    }

    /// Makes a good version the present one; no step runs.
    pub(super) fn apply_version(&mut self, uid: &str, volume: DesiredVolume) {
        let version = self.bump();
        let Some(held) = self.volumes.get_mut(uid) else {
            return;
        };
        held.since = version;
        held.error = None;
        held.untrusted = false;
        self.failed.remove(&Key::Volume(uid.to_owned()));
        if volume.deleted {
            held.phase = Phase::Deleting;
            held.desired.deleted = true;
            held.desired.generation = volume.generation;
            self.blocked.remove(uid);
            held.conflict = None;
        } else {
            if held.phase == Phase::New && held.desired.layout != volume.layout {
                let claimed = held
                    .extents()
                    .get(..held.claimed)
                    .unwrap_or_default()
                    .to_vec();
                held.claimed = 0;
                held.cleared = 0;
                self.claims.remove(uid, &claimed);
            }
            held.desired = volume;
            held.heed_ready_extents();
            self.claim(uid);
            self.claim_blocked();
        }
        self.touch(Key::Volume(uid.to_owned()));
        self.touch_namespaces_of_volume(uid);
    }

    /// Claims the volume's space as far as nobody has it: first what holds data, then the rest. What
    /// goes gets nothing more.
    pub(super) fn claim(&mut self, uid: &str) {
        let version = self.version + 1;
        let Some(held) = self.volumes.get_mut(uid) else {
            return;
        };
        if held.phase == Phase::Deleting {
            return;
        }
        let all = held
            .desired
            .layout
            .as_ref()
            .map_or(0, |layout| layout.extents.len());
        held.conflict = None;
        for end in [held.cleared, all] {
            let Some(wanted) = held.extents().get(held.claimed..end) else {
                continue;
            };
            if wanted.is_empty() {
                continue;
            }
            if let Some(holder) = self.claims.holder(wanted) {
                held.conflict = Some(holder.to_owned());
                break;
            }
            let wanted = wanted.to_vec();
            self.claims.insert(uid, &wanted);
            held.claimed = end;
            held.since = version;
            self.version = version;
        }
        if held.conflict.is_some() {
            self.blocked.insert(uid.to_owned());
        } else {
            self.blocked.remove(uid);
        }
    }

    /// Space became free: who waited for it may have it now.
    pub(super) fn claim_blocked(&mut self) {
        for uid in self.blocked.clone() {
            self.claim(&uid);
            self.touch(Key::Volume(uid));
        }
    }

    fn accept_subsystem(&mut self, subsystem: DesiredSubsystem) {
        let key = Key::Subsystem(subsystem.uid.clone());
        let version = self.version + 1;
        let news = if subsystem.deleted {
            // Namespaces that the store does not know may need it: it goes with the last.
            let held = self.subsystems.get_mut(&subsystem.uid);
            held.is_some_and(|held| held.end(version))
        } else {
            accept_object(&mut self.subsystems, subsystem, version)
        };
        if news {
            self.bump();
            self.failed.remove(&key);
            self.touch(key);
        }
    }

    fn accept_listener(&mut self, listener: DesiredListener) {
        let key = Key::Listener(listener.uid.clone());
        if listener.deleted && !self.listeners.contains_key(&listener.uid) {
            let seen = gone_object(&listener.uid, listener.generation);
            self.answers
                .insert(listener.uid, (self.version, Answer::Listener(seen)));
            return;
        }
        self.answers.remove(&listener.uid);
        self.give_way_at(&listener);
        let version = self.version + 1;
        if accept_object(&mut self.listeners, listener, version) {
            self.bump();
            self.failed.remove(&key);
            self.touch(key);
        }
    }

    fn accept_namespace(&mut self, namespace: DesiredNamespace) {
        let uid = namespace.uid.clone();
        if namespace.deleted && !self.namespaces.contains_key(&uid) {
            let seen = gone_object(&uid, namespace.generation);
            self.answers
                .insert(uid, (self.version, Answer::Namespace(seen)));
            return;
        }
        self.answers.remove(&uid);
        self.give_way(&namespace);
        let old = self.namespaces.get(&uid).map(|held| held.desired.clone());
        let version = self.version + 1;
        if !accept_object(&mut self.namespaces, namespace, version) {
            return;
        }
        self.bump();
        if let Some(old) = old {
            self.unindex(&old);
        }
        if let Some(new) = self.namespaces.get(&uid).map(|held| held.desired.clone()) {
            self.index(&new);
        }
        self.failed.remove(&Key::Namespace(uid.clone()));
        self.touch(Key::Namespace(uid));
    }

    /// An orphaned namespace ends where the store wants its volume served otherwise: that is the
    /// store's word on it, and no data is lost.
    fn give_way(&mut self, new: &DesiredNamespace) {
        if new.deleted {
            return;
        }
        let version = self.version + 1;
        for uid in self
            .by_volume
            .get(&new.volume_uid)
            .cloned()
            .unwrap_or_default()
        {
            let Some(held) = self.namespaces.get_mut(&uid) else {
                continue;
            };
            if uid == new.uid || !held.orphan {
                continue;
            }
            held.desired.deleted = true;
            held.since = version;
            self.version = version;
            self.touch(Key::Namespace(uid));
        }
    }

    /// An orphaned listener ends where the store wants another at its address: nobody else ends it.
    fn give_way_at(&mut self, new: &DesiredListener) {
        let version = self.version + 1;
        for (uid, held) in &mut self.listeners {
            let same = held.desired.address == new.address && *uid != new.uid;
            if same && held.orphan && !new.deleted && !held.desired.deleted {
                held.desired.deleted = true;
                held.since = version;
                self.version = version;
                self.dirty.insert(Key::Listener(uid.clone()));
            }
        }
    }

    pub(super) fn index(&mut self, namespace: &DesiredNamespace) {
        let uid = &namespace.uid;
        self.by_volume
            .entry(namespace.volume_uid.clone())
            .or_default()
            .insert(uid.clone());
        self.by_subsystem
            .entry(namespace.subsystem_uid.clone())
            .or_default()
            .insert(uid.clone());
    }

    pub(super) fn unindex(&mut self, namespace: &DesiredNamespace) {
        for (map, key) in [
            (&mut self.by_volume, &namespace.volume_uid),
            (&mut self.by_subsystem, &namespace.subsystem_uid),
        ] {
            if let Some(uids) = map.get_mut(key) {
                uids.remove(&namespace.uid);
                if uids.is_empty() {
                    map.remove(key);
                }
            }
        }
    }
}

fn append(parts: &mut Desired, part: Desired) {
    parts.revision = part.revision;
    parts.store_id = part.store_id;
    parts.more = part.more;
    parts.volumes.extend(part.volumes);
    parts.subsystems.extend(part.subsystems);
    parts.namespaces.extend(part.namespaces);
    parts.listeners.extend(part.listeners);
    if part.remote_ports_told {
        parts.remote_ports_told = true;
        parts.remote_ports.extend(part.remote_ports);
    }
}

/// Why the store's version of a held volume cannot be taken.
fn conflict_of_versions(
    held: &HeldVolume,
    volume: &DesiredVolume,
) -> Option<(&'static str, String)> {
    let newest = held.newest();
    let (here, there) = (epoch(newest), epoch(volume));
    let name = &volume.name;
    if there < here {
        return Some((
            "EpochBehind",
            format!(
                "the store has {name} at epoch {there}, this node at epoch {here}: the store is \
                 behind; resolve the orphan to adopt or delete what the node holds"
            ),
        ));
    }
    let same = newest.layout == volume.layout;
    let may_have_data = held.phase != Phase::New || held.untrusted;
    let moved = may_have_data && !extends(newest, volume);
    (moved || (here == there && !same)).then(|| {
        (
            "LayoutConflict",
            format!(
                "the store says that {name} lies elsewhere or is smaller (epoch {there}) than on this \
                 node (epoch {here}), which would lose its data; resolve the orphan to adopt or \
                 delete what the node holds"
            ),
        )
    })
}

/// Takes a version of an object; whether anything changed.
fn accept_object<D: Object>(
    map: &mut std::collections::BTreeMap<String, Held<D>>,
    desired: D,
    version: u64,
) -> bool {
    let Some(held) = map.get_mut(desired.uid()) else {
        map.insert(desired.uid().to_owned(), Held::new(desired, version));
        return true;
    };
    if held.desired == desired && !held.orphan {
        return false;
    }
    held.desired = desired;
    held.orphan = false;
    held.error = None;
    held.since = version;
    true
}

/// Makes orphans of what is not named, and returns which. What is being taken away goes on doing so.
fn mark_orphans<D: Object>(
    map: &mut std::collections::BTreeMap<String, Held<D>>,
    desired: &[D],
    version: u64,
) -> Vec<String> {
    let named: BTreeSet<&str> = desired.iter().map(Object::uid).collect();
    let mut orphans = Vec::new();
    for (uid, held) in map {
        if !held.orphan && !held.desired.deleted() && !named.contains(uid.as_str()) {
            held.orphan = true;
            held.since = version;
            orphans.push(uid.clone());
        }
    }
    orphans
}

pub(super) fn gone_object(uid: &str, generation: i64) -> ObservedObject {
    ObservedObject {
        uid: uid.to_owned(),
        generation,
        gone: true,
        ..ObservedObject::default()
    }
}
