//! What to do next, and what its end means.

use penstock_api::v1::DesiredNamespace;

use super::accept::gone_object;
use super::object::Object;
use super::volume::{Open, Phase, extends, extents};
use super::{AgentState, Answer, Key, Step, StepError};

impl AgentState {
    /// What can be done now. Each step is handed out once, until its end is told.
    pub fn steps(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut unsaved = Vec::new();
        while let Some(key) = self.dirty.pop_first() {
            if self.since(&key) > self.saved {
                self.unsettled.insert(key.clone());
                unsaved.push(key);
                continue;
            }
            let step = match &key {
                Key::Volume(uid) => self.volume_step(uid),
                Key::Subsystem(uid) => self.subsystem_step(uid),
                Key::Namespace(uid) => self.namespace_step(uid),
                Key::Listener(uid) => self.listener_step(uid),
                Key::Ports => self.ports_step(),
            };
            steps.extend(step);
            if self.is_settled(&key) {
                self.unsettled.remove(&key);
            } else {
                self.unsettled.insert(key);
            }
        }
        self.dirty.extend(unsaved);
        steps
    }

    fn since(&self, key: &Key) -> u64 {
        match key {
            Key::Volume(uid) => self.volumes.get(uid).map(|held| held.since),
            Key::Subsystem(uid) => self.subsystems.get(uid).map(|held| held.since),
            Key::Namespace(uid) => self.namespaces.get(uid).map(|held| held.since),
            Key::Listener(uid) => self.listeners.get(uid).map(|held| held.since),
            Key::Ports => Some(self.ports.since),
        }
        .unwrap_or(0)
    }

    /// Whether what is reported of it is saved.
    pub(super) fn is_saved(&self, key: &Key) -> bool {
        self.since(key) <= self.saved
    }

    fn is_settled(&self, key: &Key) -> bool {
        match key {
            Key::Volume(uid) => self.volumes.get(uid).is_none_or(|held| held.is_settled()),
            Key::Subsystem(uid) => self
                .subsystems
                .get(uid)
                .is_none_or(|held| held.is_settled()),
            Key::Namespace(uid) => self
                .namespaces
                .get(uid)
                .is_none_or(|held| held.is_settled()),
            Key::Listener(uid) => self.listeners.get(uid).is_none_or(|held| held.is_settled()),
            Key::Ports => self.ports.desired == self.ports.served && !self.ports.running,
        }
    }

    fn volume_step(&mut self, uid: &str) -> Option<Step> {
        let in_use = self.by_volume.contains_key(uid);
        let keep = self.is_wanted_by_data(uid);
        let held = self.volumes.get_mut(uid)?;
        if keep && !held.running {
            held.nothing_to_clear();
        }
        if held.is_whole() && held.phase == Phase::Ready {
            held.carried = held.desired.generation;
        }
        if held.is_finished() && !in_use {
            self.volume_gone(uid);
            return None;
        }
        let step = held.next_step(in_use)?;
        held.running = true;
        Some(step)
    }

    /// The space of a volume that goes may hold the data of another: where an older copy of the
    /// node's memory still has the one and the store knows the other to be ready. Nothing of it is
    /// cleared then.
    fn is_wanted_by_data(&self, uid: &str) -> bool {
        let goes = self
            .volumes
            .get(uid)
            .is_some_and(|held| held.phase == Phase::Deleting);
        goes && self.blocked.iter().any(|other| {
            let wants = |held: &super::HeldVolume| {
                held.cleared > held.claimed && held.conflict.as_deref() == Some(uid)
            };
            self.volumes.get(other).is_some_and(wants)
        })
    }

    /// A volume is cleared and away: its space is free, and it is remembered for ever.
    fn volume_gone(&mut self, uid: &str) {
        let Some(held) = self.volumes.remove(uid) else {
            return;
        };
        let claimed = held.extents().get(..held.claimed).unwrap_or_default();
        self.claims.remove(uid, claimed);
        self.blocked.remove(uid);
        self.orphans.remove(uid);
        self.failed.remove(&Key::Volume(uid.to_owned()));
        self.deleted.insert(uid.to_owned());
        self.bump();
        self.answer_gone(uid, held.desired.generation);
        self.claim_blocked();
    }

    fn subsystem_step(&mut self, uid: &str) -> Option<Step> {
        let in_use = self.by_subsystem.contains_key(uid);
        let held = self.subsystems.get_mut(uid)?;
        let goes = held.orphan && !in_use;
        if !held.is_idle() || (held.is_settled() && !goes) {
            return None;
        }
        if !goes {
            held.running = true;
            return Some(Step::ServeSubsystem {
                subsystem: held.desired.clone(),
            });
        }
        if held.served.is_some() {
            held.running = true;
            return Some(Step::RemoveSubsystem {
                uid: uid.to_owned(),
            });
        }
        self.subsystems.remove(uid);
        self.bump();
        None
    }

    fn namespace_step(&mut self, uid: &str) -> Option<Step> {
        let held = self.namespaces.get(uid)?;
        let volume = self.volumes.get(&held.desired.volume_uid);
        // Without its volume an orphan has nothing to serve, and nobody else ends it.
        let volume_goes = volume.is_none_or(|volume| volume.phase == Phase::Deleting);
        let goes = held.desired.deleted || (held.orphan && volume_goes);
        if !held.is_idle() || (held.is_settled() && !goes) {
            return None;
        }
        let step = match &held.served {
            Some(_) if goes && self.has_heir(uid) => return None,
            Some(served) if goes || !served.serves(&held.desired) => Step::RemoveNamespace {
                uid: uid.to_owned(),
            },
            Some(_) => return None,
            None if goes => {
                self.namespace_gone(uid);
                return None;
            }
            None if self.waits_for(uid).is_some() => return None,
            None => Step::ServeNamespace {
                namespace: held.desired.clone(),
            },
        };
        if let Some(held) = self.namespaces.get_mut(uid) {
            held.running = true;
        }
        Some(step)
    }

    /// What a namespace cannot be served without, if that is lacking: reason and message.
    pub(super) fn waits_for(&self, uid: &str) -> Option<(&'static str, String)> {
        let namespace = &self.namespaces.get(uid)?.desired;
        let subsystem = self.subsystems.get(&namespace.subsystem_uid);
        if subsystem.is_none_or(|held| held.served.is_none()) {
            return Some((
                "SubsystemMissing",
                "its subsystem is not served here (yet)".to_owned(),
            ));
        }
        let Some(volume) = self.volumes.get(&namespace.volume_uid) else {
            return Some((
                "VolumeMissing",
                "its volume is not on this node (yet)".to_owned(),
            ));
        };
        if volume.open.is_none() || volume.phase != Phase::Ready {
            return Some((
                "VolumeNotReady",
                format!("{} is not ready", volume.desired.name),
            ));
        }
        let others = self.by_volume.get(&namespace.volume_uid)?;
        others
            .iter()
            .filter(|other| *other != uid)
            .filter_map(|other| self.namespaces.get(other))
            .filter(|other| !other.leaves_to(namespace))
            .find(|other| other.served.is_some() || other.running)
            .map(|other| {
                (
                    "VolumeInUse",
                    format!("{} still serves its volume", other.desired.name),
                )
            })
    }

    /// Whether a namespace that goes is about to be taken over by one that differs from it in name
    /// only: its hosts shall notice nothing.
    fn has_heir(&self, uid: &str) -> bool {
        let Some(held) = self.namespaces.get(uid) else {
            return false;
        };
        let others = self.by_volume.get(&held.desired.volume_uid);
        others
            .into_iter()
            .flatten()
            .filter(|other| *other != uid)
            .filter_map(|other| self.namespaces.get(other))
            .any(|other| {
                let comes = !other.desired.deleted && other.served.is_none();
                comes && other.error.is_none() && held.leaves_to(&other.desired)
            })
    }

    fn namespace_gone(&mut self, uid: &str) {
        let Some(held) = self.namespaces.remove(uid) else {
            return;
        };
        self.unindex(&held.desired);
        self.bump();
        let seen = gone_object(uid, held.desired.generation);
        self.answers
            .insert(uid.to_owned(), (self.version, Answer::Namespace(seen)));
        self.touch(Key::Volume(held.desired.volume_uid.clone()));
        self.touch(Key::Subsystem(held.desired.subsystem_uid.clone()));
        self.touch_namespaces_of_volume(&held.desired.volume_uid);
        self.forgive_namespaces_of(&held.desired.subsystem_uid);
    }

    /// Namespaces of a subsystem that failed are tried again: the identifier may be free now.
    fn forgive_namespaces_of(&mut self, subsystem_uid: &str) {
        for key in self.failed.clone() {
            let Key::Namespace(uid) = &key else { continue };
            let here = |held: &super::Held<_>| {
                let namespace: &penstock_api::v1::DesiredNamespace = &held.desired;
                namespace.subsystem_uid == subsystem_uid
            };
            if self.namespaces.get(uid).is_some_and(here) {
                self.forgive(&key);
            }
        }
    }

    fn forgive_failed(&mut self, which: impl Fn(&Key) -> bool) {
        for key in self.failed.clone() {
            if which(&key) {
                self.forgive(&key);
            }
        }
    }

    fn listener_step(&mut self, uid: &str) -> Option<Step> {
        let held = self.listeners.get_mut(uid)?;
        if !held.is_idle() || held.is_settled() {
            return None;
        }
        let step = match &held.served {
            Some(served) if held.desired.deleted || !served.serves(&held.desired) => {
                Step::RemoveListener {
                    uid: uid.to_owned(),
                }
            }
            Some(_) => return None,
            None if held.desired.deleted => {
                let seen = gone_object(uid, held.desired.generation);
                self.listeners.remove(uid);
                self.bump();
                self.answers
                    .insert(uid.to_owned(), (self.version, Answer::Listener(seen)));
                return None;
            }
            None => Step::AddListener {
                listener: held.desired.clone(),
            },
        };
        held.running = true;
        Some(step)
    }

    fn ports_step(&mut self) -> Option<Step> {
        let ports = &mut self.ports;
        if ports.running || ports.error.is_some() || ports.desired == ports.served {
            return None;
        }
        ports.running = true;
        Some(Step::SetRemotePorts {
            ports: ports.desired.clone(),
        })
    }

    /// The end of a step: what it changed is remembered, or why it failed.
    pub fn done(&mut self, step: &Step, result: Result<(), StepError>) {
        let key = key_of(step);
        match &result {
            Err(_) => drop(self.failed.insert(key.clone())),
            Ok(()) => drop(self.failed.remove(&key)),
        }
        match &key {
            Key::Volume(uid) => self.volume_done(uid, step, result),
            Key::Subsystem(uid) => self.subsystem_done(uid, step, result),
            Key::Namespace(uid) => self.namespace_done(uid, step, result),
            Key::Listener(uid) => self.listener_done(uid, step, result),
            Key::Ports => {
                self.ports.running = false;
                match (result, step) {
                    (Ok(()), Step::SetRemotePorts { ports }) => self.ports.served.clone_from(ports),
                    (Ok(()), _) => {}
                    (Err(error), _) => self.ports.error = Some(error),
                }
            }
        }
        self.touch(key);
    }

    fn volume_done(&mut self, uid: &str, step: &Step, result: Result<(), StepError>) {
        let version = self.version + 1;
        let Some(held) = self.volumes.get_mut(uid).filter(|held| held.running) else {
            return;
        };
        held.running = false;
        let next = held.next.take();
        match (result, step) {
            (Err(error), _) => held.error = Some(error),
            (Ok(()), Step::ClearVolume { volume }) => {
                // A version that came meanwhile and lies elsewhere, or deletes, has no use for it.
                let of_use = |next: &_| extends(volume, next);
                if next.as_ref().is_none_or(of_use) {
                    held.phase = Phase::Ready;
                    held.cleared = extents(volume).len();
                    held.since = version;
                    self.version = version;
                }
            }
            (Ok(()), Step::ClearExtents { volume, .. }) => {
                held.cleared = extents(volume).len();
                held.since = version;
                self.version = version;
            }
            (Ok(()), Step::OpenVolume { volume } | Step::GrowVolume { volume }) => {
                let extents = extents(volume).len();
                held.open = Some(Open {
                    extents,
                    size_bytes: volume.size_bytes,
                });
                self.touch_namespaces_of_volume(uid);
            }
            (Ok(()), Step::CloseVolume { .. }) => held.open = None,
            (Ok(()), Step::ClearDeleted { .. }) => held.nothing_to_clear(),
            (Ok(()), _) => {}
        }
        if let Some(next) = next {
            self.apply_version(uid, next);
        }
    }

    fn subsystem_done(&mut self, uid: &str, step: &Step, result: Result<(), StepError>) {
        let Some(held) = self.subsystems.get_mut(uid).filter(|held| held.running) else {
            return;
        };
        held.running = false;
        match (result, step) {
            (Err(error), _) => held.error = Some(error),
            (Ok(()), Step::ServeSubsystem { subsystem }) => held.served = Some(subsystem.clone()),
            (Ok(()), _) => {
                held.served = None;
                // Its NQN may be what others failed for.
                self.forgive_failed(|key| matches!(key, Key::Subsystem(_)));
            }
        }
        self.touch_namespaces_of_subsystem(uid);
    }

    fn namespace_done(&mut self, uid: &str, step: &Step, result: Result<(), StepError>) {
        let Some(held) = self.namespaces.get_mut(uid).filter(|held| held.running) else {
            return;
        };
        held.running = false;
        let volume_uid = held.desired.volume_uid.clone();
        match (result, step) {
            (Err(error), _) => held.error = Some(error),
            (Ok(()), Step::ServeNamespace { namespace }) => {
                held.served = Some(namespace.clone());
                self.take_over(namespace);
            }
            (Ok(()), _) => held.served = None,
        }
        // Who left the way to it may have to go without it, or has nothing more to do.
        self.touch_namespaces_of_volume(&volume_uid);
    }

    /// What others served that leave to this one is served by it now.
    fn take_over(&mut self, namespace: &DesiredNamespace) {
        let of_volume = self.by_volume.get(&namespace.volume_uid);
        for uid in of_volume.into_iter().flatten() {
            if *uid != namespace.uid
                && let Some(other) = self.namespaces.get_mut(uid)
                && other.leaves_to(namespace)
            {
                other.served = None;
            }
        }
    }

    fn listener_done(&mut self, uid: &str, step: &Step, result: Result<(), StepError>) {
        let Some(held) = self.listeners.get_mut(uid).filter(|held| held.running) else {
            return;
        };
        held.running = false;
        match (result, step) {
            (Err(error), _) => held.error = Some(error),
            (Ok(()), Step::AddListener { listener }) => held.served = Some(listener.clone()),
            (Ok(()), _) => {
                held.served = None;
                // Its address may be what others failed for.
                self.forgive_failed(|key| matches!(key, Key::Listener(_)));
            }
        }
    }
}

fn key_of(step: &Step) -> Key {
    let uid = step.uid().to_owned();
    match step {
        Step::ClearVolume { .. }
        | Step::OpenVolume { .. }
        | Step::ClearExtents { .. }
        | Step::GrowVolume { .. }
        | Step::CloseVolume { .. }
        | Step::ClearDeleted { .. } => Key::Volume(uid),
        Step::ServeSubsystem { .. } | Step::RemoveSubsystem { .. } => Key::Subsystem(uid),
        Step::ServeNamespace { .. } | Step::RemoveNamespace { .. } => Key::Namespace(uid),
        Step::AddListener { .. } | Step::RemoveListener { .. } => Key::Listener(uid),
        Step::SetRemotePorts { .. } => Key::Ports,
    }
}
