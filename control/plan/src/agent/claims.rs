//! Which volume has which part of which device.

use std::collections::BTreeMap;

use penstock_api::v1::Extent;

/// Ranges of devices with their holders. No two overlap.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Device, then first byte: end and holder.
    devices: BTreeMap<String, BTreeMap<u64, (u64, String)>>,
}

impl Claims {
    /// Who holds a part of one of these.
    pub(super) fn holder(&self, extents: &[Extent]) -> Option<&str> {
        extents.iter().find_map(|extent| {
            let ranges = self.devices.get(&extent.device)?;
            let end = extent.offset_bytes.saturating_add(extent.length_bytes);
            let (_, (last, holder)) = ranges.range(..end).next_back()?;
            (*last > extent.offset_bytes).then_some(holder.as_str())
        })
    }

    /// Gives them to `uid`. Nobody may hold a part of them.
    pub(super) fn insert(&mut self, uid: &str, extents: &[Extent]) {
        for extent in extents {
            let end = extent.offset_bytes.saturating_add(extent.length_bytes);
            let ranges = self.devices.entry(extent.device.clone()).or_default();
            ranges.insert(extent.offset_bytes, (end, uid.to_owned()));
        }
    }

    /// Takes back those of them that `uid` holds.
    pub(super) fn remove(&mut self, uid: &str, extents: &[Extent]) {
        for extent in extents {
            let Some(ranges) = self.devices.get_mut(&extent.device) else {
                continue;
            };
            if ranges
                .get(&extent.offset_bytes)
                .is_some_and(|(_, holder)| holder == uid)
            {
                ranges.remove(&extent.offset_bytes);
            }
        }
    }
}
