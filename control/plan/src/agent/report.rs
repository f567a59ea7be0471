//! What is told to control.

use penstock_api::v1::{
    DesiredListener, DesiredNamespace, ObservedObject, ObservedVolume, Orphan, OrphanObject,
    Report, VolumeState,
};

use super::object::{Held, Object};
use super::volume::{HeldVolume, Phase, epoch};
use super::{AgentState, Answer, Key, known};

impl AgentState {
    /// What changed since the last report, or everything where `full`; `None` where there is nothing
    /// to say. Nothing is told before it is saved.
    ///
    /// Ask for a full one after the first complete state of a stream was accepted.
    pub fn report(&mut self, full: bool) -> Option<Report> {
        let mut report = Report {
            accepted_revision: self.saved_revision,
            synced: self.synced(),
            ..Report::default()
        };
        let keys = if full {
            self.all_keys()
        } else {
            std::mem::take(&mut self.changed)
        };
        self.changed.clear();
        let objects = self.loose_objects();
        let mut orphans =
            full || self.told.orphans != self.orphans || self.told.orphan_objects != objects;
        for key in keys {
            if !self.is_saved(&key) {
                self.changed.insert(key);
                continue;
            }
            orphans |= self.is_of_orphan(&key);
            self.tell(&key, &mut report);
        }
        self.tell_answers(&mut report);
        // Who is an orphan is told only as saved, too.
        let volumes = self.orphans.iter().cloned().map(Key::Volume);
        let all: Vec<Key> = volumes.chain(self.loose.iter().cloned()).collect();
        if orphans && all.iter().all(|key| self.is_saved(key)) {
            report.orphans_told = true;
            report.orphans = self.orphan_list();
            report.orphan_objects.clone_from(&objects);
            self.told.orphans.clone_from(&self.orphans);
            self.told.orphan_objects = objects;
        }
        if full || self.inventory_changed {
            report.inventory.clone_from(&self.inventory);
            self.inventory_changed = false;
        }
        let news = full
            || report.orphans_told
            || report.inventory.is_some()
            || !report.volumes.is_empty()
            || !report.namespaces.is_empty()
            || !report.listeners.is_empty()
            || report.accepted_revision != self.told.revision
            || report.synced != self.told.synced;
        self.told.revision = report.accepted_revision;
        self.told.synced = report.synced;
        news.then_some(report)
    }

    /// Namespaces and listeners served without the store's knowledge, without those that go or are
    /// told with their volume.
    fn loose_objects(&mut self) -> Vec<OrphanObject> {
        let (namespaces, listeners) = (&self.namespaces, &self.listeners);
        self.loose.retain(|key| match key {
            Key::Namespace(uid) => namespaces.get(uid).is_some_and(Held::is_loose),
            Key::Listener(uid) => listeners.get(uid).is_some_and(Held::is_loose),
            Key::Volume(_) | Key::Subsystem(_) | Key::Ports => false,
        });
        let object = |key: &Key| match key {
            Key::Namespace(uid) => {
                let namespace = &namespaces.get(uid)?.desired;
                if self.orphans.contains(&namespace.volume_uid) {
                    return None;
                }
                let volume = self.volumes.get(&namespace.volume_uid)?;
                Some(OrphanObject {
                    name: namespace.name.clone(),
                    volume: volume.desired.name.clone(),
                })
            }
            Key::Listener(uid) => Some(OrphanObject {
                name: listeners.get(uid)?.desired.name.clone(),
                volume: String::new(),
            }),
            Key::Volume(_) | Key::Subsystem(_) | Key::Ports => None,
        };
        self.loose.iter().filter_map(object).collect()
    }

    fn all_keys(&self) -> std::collections::BTreeSet<Key> {
        let volumes = self.volumes.keys().cloned().map(Key::Volume);
        let namespaces = self.namespaces.keys().cloned().map(Key::Namespace);
        let listeners = self.listeners.keys().cloned().map(Key::Listener);
        volumes.chain(namespaces).chain(listeners).collect()
    }

    fn is_of_orphan(&self, key: &Key) -> bool {
        match key {
            Key::Volume(uid) => self.orphans.contains(uid),
            Key::Namespace(uid) => self
                .namespaces
                .get(uid)
                .is_some_and(|held| self.orphans.contains(&held.desired.volume_uid)),
            Key::Subsystem(_) | Key::Listener(_) | Key::Ports => false,
        }
    }

    fn tell(&self, key: &Key, report: &mut Report) {
        match key {
            Key::Volume(uid) => {
                report
                    .volumes
                    .extend(self.volumes.get(uid).map(|held| self.see_volume(held)));
            }
            Key::Namespace(uid) => {
                let seen = self
                    .namespaces
                    .get(uid)
                    .map(|held| self.see_namespace(uid, held));
                report.namespaces.extend(seen);
            }
            Key::Listener(uid) => {
                report
                    .listeners
                    .extend(self.listeners.get(uid).map(see_listener));
            }
            Key::Subsystem(_) | Key::Ports => {}
        }
    }

    /// Answers are told once.
    fn tell_answers(&mut self, report: &mut Report) {
        let saved = self.saved;
        self.answers.retain(|_, (since, answer)| {
            if *since > saved {
                return true;
            }
            match answer {
                Answer::Volume(seen) => report.volumes.push(seen.clone()),
                Answer::Namespace(seen) => report.namespaces.push(seen.clone()),
                Answer::Listener(seen) => report.listeners.push(seen.clone()),
            }
            false
        });
    }

    fn see_volume(&self, held: &HeldVolume) -> ObservedVolume {
        let (state, reason, message) = self.volume_words(held);
        ObservedVolume {
            uid: held.desired.uid.clone(),
            generation: held.carried,
            epoch: epoch(&held.desired),
            state: state.into(),
            gone: false,
            size_bytes: held.open.map_or(0, |open| open.size_bytes),
            reason,
            message,
            ready_extents: u32::try_from(held.cleared).unwrap_or(u32::MAX),
        }
    }

    fn volume_words(&self, held: &HeldVolume) -> (VolumeState, String, String) {
        let trouble = self.trouble(held);
        let state = match (held.phase, held.open) {
            (Phase::Deleting, _) => VolumeState::Deleting,
            (Phase::Ready, Some(_)) => VolumeState::Ready,
            (Phase::Ready | Phase::New, _) if trouble.is_some() => VolumeState::Failed,
            (Phase::Ready | Phase::New, _) => VolumeState::Creating,
        };
        if held.phase != Phase::Deleting
            && let Some((reason, message)) = &held.refusal
        {
            return (state, (*reason).to_owned(), message.clone());
        }
        let (reason, message) = trouble.unwrap_or_default();
        (state, reason, message)
    }

    /// What keeps the volume from getting on, if something does: reason and message.
    fn trouble(&self, held: &HeldVolume) -> Option<(String, String)> {
        if let Some(error) = &held.error {
            return Some((error.reason.clone(), error.message.clone()));
        }
        let name = &held.desired.name;
        if held.phase == Phase::Deleting {
            let uids = self.by_volume.get(&held.desired.uid)?;
            let user = self.namespaces.get(uids.first()?)?;
            let message = format!(
                "{name} is deleted once {} is taken from the hosts: delete that",
                user.desired.name
            );
            return Some(("InUse".to_owned(), message));
        }
        if let Some(holder) = &held.conflict {
            let other = self
                .volumes
                .get(holder)
                .map_or(holder, |other| &other.desired.name);
            let message = format!(
                "space that the store gives to {name} is held by {other} (uid {holder}): it goes on \
                 when that is deleted; where that is an orphan, resolve it"
            );
            return Some(("ExtentConflict".to_owned(), message));
        }
        held.untrusted.then(|| {
            let message = format!(
                "the node lost its newest memory and does not know whether {name} holds data: it \
                 waits for control's word"
            );
            ("StateBehind".to_owned(), message)
        })
    }

    fn see_namespace(&self, uid: &str, held: &Held<DesiredNamespace>) -> ObservedObject {
        let mut seen = see_object(held);
        if held.served.is_some() {
            let open = self
                .volumes
                .get(&held.desired.volume_uid)
                .and_then(|volume| volume.open);
            seen.size_bytes = open.map_or(0, |open| open.size_bytes);
        } else if seen.reason.is_empty()
            && !held.desired.deleted
            && let Some((reason, message)) = self.waits_for(uid)
        {
            reason.clone_into(&mut seen.reason);
            seen.message = message;
        }
        seen
    }

    fn orphan_list(&self) -> Vec<Orphan> {
        self.orphans
            .iter()
            .filter_map(|uid| self.volumes.get(uid))
            .map(|held| self.orphan(held))
            .collect()
    }

    fn orphan(&self, held: &HeldVolume) -> Orphan {
        let uid = &held.desired.uid;
        let in_the_way = self.blocked.iter().any(|other| {
            self.volumes
                .get(other)
                .is_some_and(|other| other.conflict.as_ref() == Some(uid))
        });
        let reason = if in_the_way {
            "ExtentConflict"
        } else {
            held.orphan.unwrap_or_default()
        };
        let namespaces = self.by_volume.get(uid).into_iter().flatten();
        Orphan {
            volume_uid: uid.clone(),
            volume: held.desired.name.clone(),
            reason: reason.to_owned(),
            layout: held.desired.layout.clone(),
            size_bytes: held.desired.size_bytes,
            namespaces: namespaces
                .filter_map(|uid| self.namespaces.get(uid))
                .filter(|namespace| namespace.served.is_some())
                .map(|namespace| namespace.desired.name.clone())
                .collect(),
            known: Some(known(held)),
        }
    }
}

fn see_listener(held: &Held<DesiredListener>) -> ObservedObject {
    see_object(held)
}

fn see_object<D: Object>(held: &Held<D>) -> ObservedObject {
    let ready = held
        .served
        .as_ref()
        .is_some_and(|served| served.serves(&held.desired));
    let (reason, message) = held.error.as_ref().map_or_else(Default::default, |error| {
        (error.reason.clone(), error.message.clone())
    });
    ObservedObject {
        uid: held.desired.uid().to_owned(),
        generation: if ready { held.desired.generation() } else { 0 },
        ready,
        gone: false,
        reason,
        message,
        size_bytes: 0,
    }
}
