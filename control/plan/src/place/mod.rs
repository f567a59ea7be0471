//! Where volumes go: the space of all nodes, and the choice of a place.

use penstock_api::v1::{Device, Layout, Node, VolumeSpec};

/// All nodes and devices, and what of them is given away. Kept up to date piece by piece.
#[derive(Debug, Default)]
pub struct Pool {}

/// A place.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed {
    /// The layout; its epoch is 1 for a new volume, one more than before for a grown one.
    pub layout: Layout,
    /// Why there, for people.
    pub reason: String,
}

/// Why there is no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct NoPlace {
    /// One CamelCase word, for the condition `Placed`: `NoSpace`, `NoNode`, `NoDevice`,
    /// `SizeBeyondPool`.
    pub reason: &'static str,
    /// For people: what is wrong with each candidate, in short, and the remedy.
    pub message: String,
}

/// How full a device is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that volumes could have in all.
    pub size_bytes: u64,
    /// Bytes given to volumes, orphans included.
    pub allocated_bytes: u64,
    /// Bytes that volumes can still get.
    pub free_bytes: u64,
    /// Bytes that more than one volume claims: after a restore of an older store.
    pub overlapping_bytes: u64,
}

impl Pool {
    /// Without nodes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or changes a node. It is online where its condition `Online` is true.
    pub fn set_node(&mut self, _node: &Node) {}

    /// Forgets a node and its devices; what lies on them is forgotten with them.
    pub fn remove_node(&mut self, _name: &str) {}

    /// Adds or changes a device, as its status tells.
    pub fn set_device(&mut self, _device: &Device) {}

    /// Forgets a device.
    pub fn remove_device(&mut self, _name: &str) {}

    /// Notes where a volume or orphan lies; replaces what was noted of it before. Overlaps with
    /// others are tolerated and counted.
    pub fn occupy(&mut self, _uid: &str, _layout: &Layout, _anti_affinity_group: &str) {}

    /// The volume is gone and its space free.
    pub fn release(&mut self, _uid: &str) {}

    /// How full a device is (`nodes/{node}/devices/{device}`); `None` where it is not known.
    #[must_use]
    pub fn usage(&self, _device: &str) -> Option<Usage> {
        None
    }

    /// Chooses a place for a new volume. Nothing is noted: [`Pool::occupy`] it.
    ///
    /// # Errors
    /// [`NoPlace`] where there is none now.
    pub fn place(&self, _spec: &VolumeSpec) -> Result<Placed, NoPlace> {
        Err(NoPlace {
            reason: "NoSpace",
            message: String::new(),
        })
    }

    /// Chooses the space that a volume grows by, on the devices it has. The layout is unchanged
    /// (same epoch) where it has room for the size already.
    ///
    /// # Errors
    /// [`NoPlace`] where its devices have no room now.
    pub fn grow(&self, layout: &Layout, _size_bytes: u64) -> Result<Placed, NoPlace> {
        Ok(Placed {
            layout: layout.clone(),
            reason: String::new(),
        })
    }

    /// Whether the volume would have a place if all known nodes were online and all devices empty.
    /// Without any node that is unknown, and no refusal.
    ///
    /// # Errors
    /// [`NoPlace`] with reason `SizeBeyondPool`.
    pub fn could_hold(&self, _spec: &VolumeSpec) -> Result<(), NoPlace> {
        Ok(())
    }
}
