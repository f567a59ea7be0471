//! Space for volumes to grow by.

use penstock_api::v1::{Extent, Layout};

use super::choose::round_up;
use super::space::GRANULE_BYTES;
use super::text::{bytes, short};
use super::{NoPlace, Placed, Pool};

/// Most rows of extents that one growth adds; beyond that the devices are too fragmented.
const ROWS_MAX: usize = 16;

/// Free ranges looked at on one device.
const RANGES_MAX: usize = 64;

impl Pool {
    /// Chooses the space that a volume grows by, on the devices it has, cordoned or not. The layout
    /// is unchanged (same epoch) where it has room for the size already.
    ///
    /// # Errors
    /// [`NoPlace`] where its devices have no room now.
    pub fn grow(&self, layout: &Layout, size_bytes: u64) -> Result<Placed, NoPlace> {
        let has = layout
            .extents
            .iter()
            .map(|extent| extent.length_bytes)
            .sum::<u64>();
        let Some(wanted) = size_bytes.checked_sub(has).filter(|wanted| *wanted > 0) else {
            let reason = format!("its {} have room for {}", bytes(has), bytes(size_bytes));
            return Ok(Placed {
                layout: layout.clone(),
                reason,
            });
        };
        let width = usize::try_from(layout.stripe_width.max(1)).unwrap_or(usize::MAX);
        let devices: Vec<&str> = layout
            .extents
            .iter()
            .take(width)
            .map(|extent| extent.device.as_str())
            .collect();
        let align = GRANULE_BYTES.max(u64::from(layout.stripe_unit_bytes));
        let column = round_up(wanted.div_ceil(devices.len().max(1) as u64), align);
        let column = column.ok_or_else(|| no_space(wanted, "the size is beyond all numbers"))?;
        let rows = self.rows(&devices, column, align)?;
        let mut grown = layout.clone();
        grown.epoch += 1;
        grown.extents.extend(rows);
        let names: Vec<String> = devices.iter().map(|device| short(device)).collect();
        let reason = format!("grown by {} on {}", bytes(wanted), names.join(", "));
        Ok(Placed {
            layout: grown,
            reason,
        })
    }

    /// One extent of this length on each device, or several rows of shorter ones.
    fn rows(&self, devices: &[&str], column: u64, align: u64) -> Result<Vec<Extent>, NoPlace> {
        if let Some(row) = self.row(devices, column) {
            return Ok(row);
        }
        let mut free: Vec<Vec<(u64, u64)>> = Vec::with_capacity(devices.len());
        for device in devices {
            let facts = self
                .device(device)
                .filter(|facts| facts.inventory.is_some());
            let facts = facts.ok_or_else(|| NoPlace {
                reason: "NoDevice",
                message: format!(
                    "{device} is not known now: a volume grows on the devices it has; bring the \
                     device back"
                ),
            })?;
            free.push(facts.space.free_ranges().take(RANGES_MAX).collect());
        }
        let mut rows = Vec::new();
        let mut left = column;
        for _ in 0..ROWS_MAX {
            let longest =
                |ranges: &Vec<(u64, u64)>| ranges.first().map_or(0, |(length, _)| *length);
            let length = free.iter().map(longest).min().unwrap_or(0).min(left);
            let length = length - length % align;
            if length == 0 {
                break;
            }
            for (ranges, device) in free.iter_mut().zip(devices) {
                if let Some((has, start)) = ranges.first_mut() {
                    rows.push(extent(device, *start, length));
                    *has -= length;
                    *start += length;
                }
                ranges.sort_by(|a, b| b.cmp(a));
            }
            left -= length;
            if left == 0 {
                return Ok(rows);
            }
        }
        let has: Vec<String> = devices
            .iter()
            .filter_map(|device| Some((device, self.device(device)?)))
            .map(|(device, facts)| format!("{} has {}", short(device), free_text(facts)))
            .collect();
        let each = format!(
            "it grows by {} on each device; {}",
            bytes(column),
            has.join(", ")
        );
        Err(no_space(column * devices.len() as u64, &each))
    }

    fn row(&self, devices: &[&str], column: u64) -> Option<Vec<Extent>> {
        devices
            .iter()
            .map(|device| {
                let facts = self
                    .device(device)
                    .filter(|facts| facts.inventory.is_some())?;
                Some(extent(device, facts.space.best_fit(column)?, column))
            })
            .collect()
    }
}

pub(super) fn extent(device: &str, offset_bytes: u64, length_bytes: u64) -> Extent {
    Extent {
        device: device.to_owned(),
        offset_bytes,
        length_bytes,
    }
}

/// `3 GiB free, at most 1 GiB in one piece`.
pub(super) fn free_text(facts: &super::DeviceFacts) -> String {
    let (free, longest) = (facts.space.free_bytes(), facts.space.longest_free());
    if free == longest {
        format!("{} free", bytes(free))
    } else {
        format!(
            "{} free, at most {} in one piece",
            bytes(free),
            bytes(longest)
        )
    }
}

fn no_space(wanted: u64, why: &str) -> NoPlace {
    let wanted = bytes(wanted);
    NoPlace {
        reason: "NoSpace",
        message: format!(
            "no space to grow by {wanted}: {why}. Delete volumes there, or copy to a larger volume"
        ),
    }
}
