//! A node's devices and saved state, as they survive its crashes; what must never happen to them is
//! noticed here.

use std::collections::{BTreeMap, BTreeSet};

use penstock_api::v1::{DesiredVolume, Extent};

const MIB: u64 = 1 << 20;

/// What a MiB of a device holds: the volume whose host wrote it last.
type Slot = (String, u64);

/// Devices and saved state of one node.
#[derive(Debug, Default)]
pub struct Disk {
    /// The agent's state as last saved.
    pub saved: Option<Vec<u8>>,
    /// Written MiBs by device and place; others read zeroes.
    written: BTreeMap<Slot, String>,
    /// Volumes open now, with their extents; a crash closes all.
    open: BTreeMap<String, Vec<Extent>>,
    /// What went wrong.
    pub wrong: Vec<String>,
}

fn slots(extent: &Extent) -> impl Iterator<Item = Slot> + '_ {
    let first = extent.offset_bytes / MIB;
    (first..first + extent.length_bytes / MIB).map(|at| (extent.device.clone(), at))
}

fn extents(volume: &DesiredVolume) -> &[Extent] {
    volume.layout.as_ref().map_or(&[], |layout| &layout.extents)
}

impl Disk {
    /// The process is gone.
    pub fn crash(&mut self) {
        self.open.clear();
    }

    /// Volumes open now.
    pub fn open_volumes(&self) -> impl Iterator<Item = &String> {
        self.open.keys()
    }

    /// Zeroes extents for `uid`, because `why`. Whose data is lost by that.
    pub fn clear(&mut self, uid: &str, extents: &[Extent], why: &str) -> BTreeSet<String> {
        let mut lost = BTreeSet::new();
        for slot in extents.iter().flat_map(slots) {
            let other = self.open.iter().find(|(other, held)| {
                *other != uid && held.iter().flat_map(slots).any(|held| held == slot)
            });
            if let Some((other, _)) = other {
                self.wrong.push(format!(
                    "{why} for {uid} would clear {slot:?} of {other}, which is open"
                ));
            }
            lost.extend(self.written.remove(&slot));
        }
        lost
    }

    /// Opens a volume, or gives an open one its new extents. What it reads must be its own or zeroes.
    pub fn open(&mut self, volume: &DesiredVolume) {
        for slot in extents(volume).iter().flat_map(slots) {
            if let Some(owner) = self.written.get(&slot)
                && *owner != volume.uid
            {
                self.wrong.push(format!(
                    "{} ({}) would read data of {owner} at {slot:?}",
                    volume.name, volume.uid
                ));
            }
            let other = self.open.iter().find(|(other, held)| {
                **other != volume.uid && held.iter().flat_map(slots).any(|held| held == slot)
            });
            if let Some((other, _)) = other {
                self.wrong.push(format!(
                    "{} and {other} are both open at {slot:?}",
                    volume.uid
                ));
            }
        }
        self.open
            .insert(volume.uid.clone(), extents(volume).to_vec());
    }

    /// Closes a volume.
    pub fn close(&mut self, uid: &str) {
        self.open.remove(uid);
    }

    /// A host writes the whole of a volume.
    pub fn write(&mut self, uid: &str) {
        for extent in self.open.get(uid).cloned().unwrap_or_default() {
            for slot in slots(&extent) {
                self.written.insert(slot, uid.to_owned());
            }
        }
    }

    /// MiBs of an open volume that do not hold what its host wrote.
    pub fn lacks(&self, uid: &str) -> usize {
        let slots = self.open.get(uid).into_iter().flatten().flat_map(slots);
        slots
            .filter(|slot| self.written.get(slot).is_none_or(|owner| owner != uid))
            .count()
    }
}
