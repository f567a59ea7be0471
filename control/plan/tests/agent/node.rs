//! A node of memory: it does the agent's steps and checks that none does harm.

use std::collections::{BTreeMap, BTreeSet};

use penstock_api::v1::{
    Desired, DesiredListener, DesiredNamespace, DesiredSubsystem, DesiredVolume, Extent, Layout,
    Report, TransportAddress,
};
use penstock_plan::agent::{Accepted, AgentState, Step, StepError};

pub const M: u64 = 1 << 20;

/// A MiB of a device: who wrote it last; cleared where nobody.
type Place = (String, u64);

/// A node and its agent.
pub struct Node {
    pub agent: AgentState,
    /// The newest saved state (none where it is damaged) and the one before.
    pub files: [Option<Vec<u8>>; 2],
    /// What is written where. What is not in it was never used: full of somebody's old data.
    written: BTreeMap<Place, Option<String>>,
    /// Open volumes with their space.
    pub open: BTreeMap<String, BTreeSet<Place>>,
    /// Space that volumes had data in.
    data: BTreeMap<String, BTreeSet<Place>>,
    /// Volumes that somebody said are to be deleted.
    words: BTreeSet<String>,
    /// Volumes that the agent durably knows to be gone for good.
    dead: BTreeSet<String>,
    /// Subsystems with their NQNs.
    pub subsystems: BTreeMap<String, String>,
    /// Namespaces with their volumes.
    pub namespaces: BTreeMap<String, DesiredNamespace>,
    /// Listeners with their ports.
    pub listeners: BTreeMap<String, u32>,
    /// Extents that control was told to be ready.
    pub told_ready: BTreeMap<String, u32>,
    /// Steps done so far, by name and uid.
    pub log: Vec<String>,
    /// Steps of these names fail.
    pub failing: BTreeSet<&'static str>,
}

impl Node {
    pub fn new() -> Self {
        Self {
            agent: AgentState::new(),
            files: [None, None],
            written: BTreeMap::new(),
            open: BTreeMap::new(),
            data: BTreeMap::new(),
            words: BTreeSet::new(),
            dead: BTreeSet::new(),
            subsystems: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            listeners: BTreeMap::new(),
            told_ready: BTreeMap::new(),
            log: Vec::new(),
            failing: BTreeSet::new(),
        }
    }

    pub fn accept(&mut self, desired: Desired) -> Accepted {
        for volume in desired.volumes.iter().filter(|volume| volume.deleted) {
            let held = self.agent.hello_volumes();
            let held = held.iter().find(|held| held.uid == volume.uid);
            let epoch = |v: &DesiredVolume| v.layout.as_ref().map_or(0, |layout| layout.epoch);
            if held.is_none_or(|held| epoch(held) <= epoch(volume)) {
                self.words.insert(volume.uid.clone());
            }
        }
        self.agent.accept(desired)
    }

    /// Writes the state; `told`: the agent learns that it was written.
    pub fn save(&mut self, told: bool) {
        let Some(mark) = self.agent.unsaved() else {
            return;
        };
        // A damaged file never takes the place of the good one before it.
        if let Some(good) = self.files[0].take() {
            self.files[1] = Some(good);
        }
        self.files[0] = Some(self.agent.encode());
        self.dead.extend(self.agent.deleted_uids());
        if told {
            self.agent.saved(mark);
        }
    }

    /// Saves, does steps and saves until nothing is left to do.
    pub fn settle(&mut self) {
        for _ in 0..100 {
            self.save(true);
            let steps = self.agent.steps();
            if steps.is_empty() && self.agent.unsaved().is_none() {
                return;
            }
            for step in steps {
                self.run(&step);
            }
        }
        panic!("it does not come to rest: {:?}", self.log);
    }

    /// Does a step and tells its end.
    pub fn run(&mut self, step: &Step) {
        let result = self.perform(step);
        self.agent.done(step, result);
    }

    pub fn report(&mut self, full: bool) -> Option<Report> {
        let report = self.agent.report(full)?;
        for seen in &report.volumes {
            let told = self.told_ready.entry(seen.uid.clone()).or_default();
            *told = (*told).max(seen.ready_extents);
        }
        Some(report)
    }

    /// Power off and on again.
    pub fn crash(&mut self) {
        self.open.clear();
        self.subsystems.clear();
        self.namespaces.clear();
        self.listeners.clear();
        let read = |bytes: &Vec<u8>| AgentState::decode(bytes).expect("what was saved can be read");
        self.agent = match &self.files {
            [Some(newest), _] => read(newest),
            [None, Some(before)] => {
                let mut agent = read(before);
                agent.distrust();
                agent
            }
            [None, None] => AgentState::new(),
        };
        self.dead = self.agent.deleted_uids().into_iter().collect();
    }

    /// Power off and on again, with the newest saved state damaged.
    pub fn crash_and_lose_newest(&mut self) {
        if self.files[1].is_some() {
            self.files[0] = None;
        }
        self.crash();
    }

    pub fn perform(&mut self, step: &Step) -> Result<(), StepError> {
        self.log.push(format!("{} {}", step.name(), step.uid()));
        if self.failing.contains(step.name()) {
            return Err(StepError {
                reason: "DeviceError".into(),
                message: "as told".into(),
            });
        }
        match step {
            Step::ClearVolume { volume } => self.clear(&volume.uid, places(extents(volume)), false),
            Step::ClearExtents { volume, extents } => {
                self.clear(&volume.uid, places(extents), false);
            }
            Step::ClearDeleted { volume } => {
                assert!(!self.open.contains_key(&volume.uid), "cleared while open");
                self.clear(&volume.uid, places(extents(volume)), true);
            }
            Step::OpenVolume { volume } => self.open_volume(volume),
            Step::GrowVolume { volume } => {
                assert!(self.open.contains_key(&volume.uid), "grown while not open");
                self.open_volume(volume);
            }
            Step::CloseVolume { uid } => {
                assert!(
                    self.namespaces.values().all(|n| n.volume_uid != *uid),
                    "closed in use"
                );
                self.open.remove(uid);
            }
            Step::ServeSubsystem { subsystem } => {
                let (uid, nqn) = (subsystem.uid.clone(), subsystem.nqn.clone());
                return take(&mut self.subsystems, uid, nqn);
            }
            Step::RemoveSubsystem { uid } => {
                assert!(
                    self.namespaces.values().all(|n| n.subsystem_uid != *uid),
                    "in use"
                );
                self.subsystems.remove(uid);
            }
            Step::ServeNamespace { namespace } => return self.serve(namespace),
            Step::RemoveNamespace { uid } => drop(self.namespaces.remove(uid)),
            Step::AddListener { listener } => {
                let port = listener.address.as_ref().map_or(0, |address| address.port);
                return take(&mut self.listeners, listener.uid.clone(), port);
            }
            Step::RemoveListener { uid } => drop(self.listeners.remove(uid)),
            Step::SetRemotePorts { .. } => {}
        }
        Ok(())
    }

    fn serve(&mut self, namespace: &DesiredNamespace) -> Result<(), StepError> {
        assert!(
            self.subsystems.contains_key(&namespace.subsystem_uid),
            "no subsystem"
        );
        assert!(self.open.contains_key(&namespace.volume_uid), "no volume");
        self.namespaces
            .retain(|_, other| !is_same(other, namespace));
        let others = self
            .namespaces
            .values()
            .filter(|other| other.uid != namespace.uid);
        for other in others {
            assert_ne!(other.volume_uid, namespace.volume_uid, "served twice");
            if other.subsystem_uid == namespace.subsystem_uid && other.nsid == namespace.nsid {
                let message = format!("{} has the identifier", other.name);
                return Err(StepError {
                    reason: "NsidInUse".into(),
                    message,
                });
            }
        }
        self.namespaces
            .insert(namespace.uid.clone(), namespace.clone());
        Ok(())
    }

    fn clear(&mut self, uid: &str, places: BTreeSet<Place>, deleted: bool) {
        for (other, data) in &self.data {
            if deleted && other == uid {
                assert!(self.words.contains(uid), "{uid} was cleared without a word");
                continue;
            }
            let hit = data.intersection(&places).next();
            assert_eq!(hit, None, "clearing for {uid} hits the data of {other}");
        }
        if deleted {
            self.data.remove(uid);
        }
        for place in places {
            self.written.insert(place, None);
        }
    }

    fn open_volume(&mut self, volume: &DesiredVolume) {
        assert!(!self.dead.contains(&volume.uid), "{} came back", volume.uid);
        let places = places(extents(volume));
        for (other, space) in &self.open {
            let shared = space.intersection(&places).next();
            assert!(
                other == &volume.uid || shared.is_none(),
                "{other} is open there"
            );
        }
        let data = self.data.entry(volume.uid.clone()).or_default();
        assert!(
            places.is_superset(data),
            "{} does not have its data",
            volume.uid
        );
        for place in &places {
            let has = self.written.get(place);
            if data.contains(place) {
                assert_eq!(has, Some(&Some(volume.uid.clone())), "its data is lost");
            } else {
                assert_eq!(
                    has,
                    Some(&None),
                    "{} would see the data of others",
                    volume.uid
                );
            }
            self.written.insert(place.clone(), Some(volume.uid.clone()));
        }
        data.clone_from(&places);
        self.open.insert(volume.uid.clone(), places);
    }

    /// The volume's data is still there.
    pub fn has_data(&self, uid: &str) -> bool {
        let is_there = |place| self.written.get(place) == Some(&Some(uid.to_owned()));
        self.data
            .get(uid)
            .is_some_and(|data| !data.is_empty() && data.iter().all(is_there))
    }
}

/// Gives `value` to `uid`, unless another has it.
fn take<V: Ord>(of: &mut BTreeMap<String, V>, uid: String, value: V) -> Result<(), StepError> {
    let taken = of.iter().any(|(other, has)| *other != uid && *has == value);
    if taken {
        return Err(StepError {
            reason: "InUse".into(),
            message: format!("another than {uid} has it"),
        });
    }
    of.insert(uid, value);
    Ok(())
}

pub fn extents(volume: &DesiredVolume) -> &[Extent] {
    volume.layout.as_ref().map_or(&[], |layout| &layout.extents)
}

fn places(extents: &[Extent]) -> BTreeSet<Place> {
    let of_one = |extent: &Extent| {
        let first = extent.offset_bytes / M;
        let last = first + extent.length_bytes / M;
        let device = extent.device.clone();
        (first..last).map(move |at| (device.clone(), at))
    };
    extents.iter().flat_map(of_one).collect()
}

/// A volume at these (first MiB, MiBs) of device d0.
pub fn volume(uid: &str, epoch: u64, extents: &[(u64, u64)]) -> DesiredVolume {
    let extent = |(first, count): &(u64, u64)| Extent {
        device: "nodes/n1/devices/d0".to_owned(),
        offset_bytes: first * M,
        length_bytes: count * M,
    };
    DesiredVolume {
        uid: uid.to_owned(),
        name: format!("volumes/{uid}"),
        size_bytes: extents.iter().map(|(_, count)| count * M).sum(),
        block_size_bytes: 4096,
        layout: Some(Layout {
            node: "nodes/n1".to_owned(),
            epoch,
            stripe_unit_bytes: 0,
            extents: extents.iter().map(extent).collect(),
            stripe_width: 1,
        }),
        generation: 1,
        ..DesiredVolume::default()
    }
}

pub fn deleted(volume: DesiredVolume) -> DesiredVolume {
    DesiredVolume {
        deleted: true,
        generation: volume.generation + 1,
        ..volume
    }
}

pub fn subsystem(uid: &str) -> DesiredSubsystem {
    DesiredSubsystem {
        uid: uid.to_owned(),
        name: format!("subsystems/{uid}"),
        nqn: format!("nqn.2026-01.io.penstock:{uid}"),
        ..DesiredSubsystem::default()
    }
}

pub fn namespace(uid: &str, subsystem: &str, volume: &str, nsid: u32) -> DesiredNamespace {
    DesiredNamespace {
        uid: uid.to_owned(),
        name: format!("subsystems/{subsystem}/namespaces/{uid}"),
        subsystem_uid: subsystem.to_owned(),
        volume_uid: volume.to_owned(),
        nsid,
        uuid: volume.to_owned(),
        generation: 1,
        deleted: false,
    }
}

pub fn listener(uid: &str, port: u32) -> DesiredListener {
    DesiredListener {
        uid: uid.to_owned(),
        name: format!("nodes/n1/listeners/{uid}"),
        address: Some(TransportAddress {
            transport: "tcp".to_owned(),
            address: "127.0.0.1".to_owned(),
            port,
        }),
        generation: 1,
        deleted: false,
    }
}

/// A desired state of store `a`.
pub fn desired(revision: i64, complete: bool) -> Desired {
    Desired {
        revision,
        store_id: "a".to_owned(),
        complete,
        ..Desired::default()
    }
}

pub fn volumes(revision: i64, complete: bool, volumes: Vec<DesiredVolume>) -> Desired {
    Desired {
        volumes,
        ..desired(revision, complete)
    }
}

/// Whether two namespaces differ in name only: the new one takes over what the other serves.
fn is_same(one: &DesiredNamespace, other: &DesiredNamespace) -> bool {
    let key = |n: &DesiredNamespace| {
        let uids = (n.subsystem_uid.clone(), n.volume_uid.clone());
        (uids, n.nsid, n.uuid.clone())
    };
    key(one) == key(other)
}
