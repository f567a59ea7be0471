//! The saved state: a header with format, length and checksum, then protobuf.

use std::collections::{BTreeMap, BTreeSet};

use penstock_api::v1::{
    DesiredListener, DesiredNamespace, DesiredSubsystem, DesiredVolume, RemotePort,
};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::object::{Held, Object};
use super::volume::{HeldVolume, Phase};
use super::{AgentState, Damaged, Key};

/// What each saved state begins with.
const MAGIC: &[u8; 8] = b"PSTKAGNT";

/// The format this version writes.
const FORMAT: u32 = 1;

/// Magic, format (u32), length of the body (u64), CRC-64/NVME of the body (u64), little-endian.
const HEADER_BYTES: usize = 28;

/// Tags of [`Saved`] that are written one by one.
mod tag {
    pub(super) const VOLUMES: u32 = 3;
    pub(super) const SUBSYSTEMS: u32 = 4;
    pub(super) const NAMESPACES: u32 = 5;
    pub(super) const LISTENERS: u32 = 6;
    pub(super) const DELETED: u32 = 9;
}

#[derive(Clone, PartialEq, Message)]
struct Saved {
    #[prost(string, tag = "1")]
    store_id: String,
    #[prost(int64, tag = "2")]
    revision: i64,
    #[prost(message, repeated, tag = "3")]
    volumes: Vec<SavedVolume>,
    #[prost(message, repeated, tag = "4")]
    subsystems: Vec<DesiredSubsystem>,
    #[prost(message, repeated, tag = "5")]
    namespaces: Vec<DesiredNamespace>,
    #[prost(message, repeated, tag = "6")]
    listeners: Vec<DesiredListener>,
    /// Identities of subsystems, namespaces and listeners that are orphans.
    #[prost(string, repeated, tag = "7")]
    orphans: Vec<String>,
    #[prost(message, repeated, tag = "8")]
    ports: Vec<RemotePort>,
    #[prost(string, repeated, tag = "9")]
    deleted: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct SavedVolume {
    #[prost(message, optional, tag = "1")]
    desired: Option<DesiredVolume>,
    #[prost(uint64, tag = "2")]
    claimed: u64,
    #[prost(uint64, tag = "3")]
    cleared: u64,
    #[prost(bool, tag = "4")]
    untrusted: bool,
    /// 0: none; otherwise one more than the place in [`ORPHAN_REASONS`].
    #[prost(uint32, tag = "5")]
    orphan: u32,
    #[prost(bool, tag = "6")]
    ready: bool,
}

/// In the order of their numbers in saved states: append only.
const ORPHAN_REASONS: [&str; 4] = [
    "MissingInStore",
    "EpochBehind",
    "LayoutConflict",
    "InvalidLayout",
];

impl AgentState {
    /// The state to be saved: versioned and with a checksum. What has not changed since the last time
    /// is copied, so that one change among many objects is little work.
    #[must_use]
    pub fn encode(&mut self) -> Vec<u8> {
        let rest = Saved {
            store_id: self.store_id.clone(),
            revision: self.revision,
            orphans: orphans(&self.subsystems)
                .chain(orphans(&self.namespaces))
                .chain(orphans(&self.listeners))
                .collect(),
            ports: self.ports.desired.clone(),
            ..Saved::default()
        };
        let mut bytes = Vec::with_capacity(self.encoded_len);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.resize(HEADER_BYTES, 0);
        rest.encode_raw(&mut bytes);
        for held in self.volumes.values_mut() {
            append(&mut bytes, tag::VOLUMES, held.encoded());
        }
        append_all(&mut bytes, tag::SUBSYSTEMS, &mut self.subsystems);
        append_all(&mut bytes, tag::NAMESPACES, &mut self.namespaces);
        append_all(&mut bytes, tag::LISTENERS, &mut self.listeners);
        for uid in &self.deleted {
            append(&mut bytes, tag::DELETED, uid.as_bytes());
        }
        let (header, body) = bytes.split_at_mut(HEADER_BYTES);
        let length = body.len() as u64;
        header[12..20].copy_from_slice(&length.to_le_bytes());
        header[20..28].copy_from_slice(&checksum(body).to_le_bytes());
        self.encoded_len = bytes.len();
        bytes
    }

    /// The state as it was saved; nothing is open or served yet.
    ///
    /// # Errors
    /// [`Damaged`] where the bytes are not what [`AgentState::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let body = checked_body(bytes)?;
        let saved = Saved::decode(body).map_err(|e| Damaged::Content(e.to_string()))?;
        let mut state = Self {
            store_id: saved.store_id,
            revision: saved.revision,
            saved_revision: saved.revision,
            deleted: saved.deleted.into_iter().collect(),
            ..Self::default()
        };
        for volume in saved.volumes {
            state.restore_volume(volume)?;
        }
        // First what was held by whom, then who may still get something.
        let uids: Vec<String> = state.volumes.keys().cloned().collect();
        for uid in uids {
            state.claim(&uid);
            state.touch(Key::Volume(uid));
        }
        let orphans: BTreeSet<String> = saved.orphans.into_iter().collect();
        let is_orphan = |uid: &str| orphans.contains(uid);
        for mut desired in saved.subsystems {
            state.touch(Key::Subsystem(desired.uid.clone()));
            // Older versions noted the end here, where now an orphan is meant.
            let ended = std::mem::take(&mut desired.deleted);
            let orphan = is_orphan(&desired.uid) || ended;
            state
                .subsystems
                .insert(desired.uid.clone(), restored(desired, orphan));
        }
        for desired in saved.namespaces {
            state.touch(Key::Namespace(desired.uid.clone()));
            state.index(&desired);
            let orphan = is_orphan(&desired.uid);
            state.note_loose(Key::Namespace(desired.uid.clone()), orphan);
            state
                .namespaces
                .insert(desired.uid.clone(), restored(desired, orphan));
        }
        for desired in saved.listeners {
            state.touch(Key::Listener(desired.uid.clone()));
            let orphan = is_orphan(&desired.uid);
            state.note_loose(Key::Listener(desired.uid.clone()), orphan);
            state
                .listeners
                .insert(desired.uid.clone(), restored(desired, orphan));
        }
        state.ports.desired = saved.ports;
        state.touch(Key::Ports);
        Ok(state)
    }

    fn note_loose(&mut self, key: Key, orphan: bool) {
        if orphan {
            self.loose.insert(key);
        }
    }

    fn restore_volume(&mut self, saved: SavedVolume) -> Result<(), Damaged> {
        let Some(desired) = saved.desired else {
            return Err(Damaged::Content("a volume is empty".to_owned()));
        };
        let uid = desired.uid.clone();
        let mut held = HeldVolume::new(desired, 0);
        let count = |n: u64| {
            usize::try_from(n)
                .unwrap_or(usize::MAX)
                .min(held.extents().len())
        };
        let (claimed, cleared) = (count(saved.claimed), count(saved.cleared));
        held.cleared = cleared;
        held.untrusted = saved.untrusted;
        held.phase = match (held.desired.deleted, saved.ready) {
            (true, _) => Phase::Deleting,
            (false, true) => Phase::Ready,
            (false, false) => Phase::New,
        };
        held.orphan = usize::try_from(saved.orphan)
            .ok()
            .and_then(|number| number.checked_sub(1))
            .map(|at| ORPHAN_REASONS.get(at).copied().unwrap_or("MissingInStore"));
        if held.orphan.is_some() {
            self.orphans.insert(uid.clone());
        }
        let extents = held.extents().get(..claimed).unwrap_or_default();
        if let Some(holder) = self.claims.holder(extents) {
            let what = format!("{uid} and {holder} have the same space");
            return Err(Damaged::Content(what));
        }
        self.claims.insert(&uid, extents);
        held.claimed = claimed;
        self.volumes.insert(uid, held);
        Ok(())
    }
}

/// What was encoded last, and the version of the object that it is of.
pub(super) type Encoded = Option<(u64, Vec<u8>)>;

impl HeldVolume {
    fn encoded(&mut self) -> &[u8] {
        if self
            .encoded
            .as_ref()
            .is_none_or(|(since, _)| *since != self.since)
        {
            self.encoded = Some((self.since, save_volume(self).encode_to_vec()));
        }
        self.encoded.as_ref().map_or(&[], |(_, bytes)| bytes)
    }
}

fn append_all<D: Object + Message>(
    bytes: &mut Vec<u8>,
    tag: u32,
    map: &mut BTreeMap<String, Held<D>>,
) {
    for held in map.values_mut() {
        if held
            .encoded
            .as_ref()
            .is_none_or(|(since, _)| *since != held.since)
        {
            held.encoded = Some((held.since, held.desired.encode_to_vec()));
        }
        append(
            bytes,
            tag,
            held.encoded.as_ref().map_or(&[], |(_, bytes)| bytes),
        );
    }
}

/// A field of bytes, text or a message.
fn append(bytes: &mut Vec<u8>, tag: u32, value: &[u8]) {
    encode_key(tag, WireType::LengthDelimited, bytes);
    encode_varint(value.len() as u64, bytes);
    bytes.extend_from_slice(value);
}

fn save_volume(held: &HeldVolume) -> SavedVolume {
    let mut desired = held.desired.clone();
    let (mut claimed, mut cleared) = (held.claimed, held.cleared);
    if let Some(next) = &held.next {
        if next.deleted {
            desired.deleted = true;
            desired.generation = next.generation;
        } else {
            // Where it lies elsewhere, nothing of the old place is its own any more.
            if held.phase == Phase::New && next.layout != desired.layout {
                (claimed, cleared) = (0, 0);
            }
            desired = next.clone();
        }
    }
    let orphan = held
        .orphan
        .and_then(|word| ORPHAN_REASONS.iter().position(|r| *r == word));
    SavedVolume {
        desired: Some(desired),
        claimed: claimed as u64,
        cleared: cleared as u64,
        untrusted: held.untrusted,
        orphan: orphan.map_or(0, |at| u32::try_from(at + 1).unwrap_or(1)),
        ready: held.phase != Phase::New,
    }
}

fn orphans<D: Object>(map: &BTreeMap<String, Held<D>>) -> impl Iterator<Item = String> {
    map.iter()
        .filter(|(_, held)| held.orphan)
        .map(|(uid, _)| uid.clone())
}

fn restored<D: Object>(desired: D, orphan: bool) -> Held<D> {
    Held {
        orphan,
        ..Held::new(desired, 0)
    }
}

fn checksum(body: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, body)
}

/// The body of a saved state whose header and checksum are right.
fn checked_body(bytes: &[u8]) -> Result<&[u8], Damaged> {
    if !bytes.starts_with(MAGIC) {
        return Err(Damaged::Foreign);
    }
    let cut = || Damaged::Content("it is cut off".to_owned());
    let (header, body) = bytes.split_at_checked(HEADER_BYTES).ok_or_else(cut)?;
    let format = u32::from_le_bytes(field(header, 8).ok_or_else(cut)?);
    if format != FORMAT {
        return Err(Damaged::Newer(format, FORMAT));
    }
    let length = u64::from_le_bytes(field(header, 12).ok_or_else(cut)?);
    if length != body.len() as u64 {
        let has = body.len();
        return Err(Damaged::Content(format!(
            "{has} of {length} bytes are there"
        )));
    }
    let sum = u64::from_le_bytes(field(header, 20).ok_or_else(cut)?);
    if sum != checksum(body) {
        return Err(Damaged::Content("its checksum is wrong".to_owned()));
    }
    Ok(body)
}

fn field<const N: usize>(header: &[u8], at: usize) -> Option<[u8; N]> {
    header.get(at..at + N)?.try_into().ok()
}
