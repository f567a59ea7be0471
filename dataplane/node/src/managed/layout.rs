//! Layouts as control writes them, on the devices of this node.

use std::collections::BTreeMap;
use std::sync::Arc;

use penstock_api::v1::{DesiredVolume, Extent, Layout};
use penstock_block::{BlockDevice, DeviceRange};
use penstock_units::BlockSize;

use super::{Managed, ManagedDevice, ManagedError};

/// Extents begin and end at multiples of this.
const MIB: u64 = 1 << 20;

/// A range of a device by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    /// Name of the device in the configuration.
    pub device: String,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// A volume's layout, checked in itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Columns with their ranges in order; one column without striping.
    pub columns: Vec<Vec<Range>>,
    /// 0 without striping.
    pub unit_bytes: u32,
    /// Size of the volume in bytes.
    pub size_bytes: u64,
    /// Block size of the volume.
    pub block_size: BlockSize,
}

impl Range {
    pub(super) fn of(extent: &Extent) -> Result<Range, ManagedError> {
        let bad = |what: &str| {
            let message = format!(
                "extent of {} bytes at {} of {}: {what}",
                extent.length_bytes, extent.offset_bytes, extent.device
            );
            ManagedError::new("LayoutInvalid", message)
        };
        let whole = |bytes: u64| bytes.is_multiple_of(MIB);
        let aligned = whole(extent.offset_bytes) && whole(extent.length_bytes);
        if !aligned || extent.length_bytes == 0 {
            return Err(bad("extents are whole MiB and not empty"));
        }
        if extent
            .offset_bytes
            .checked_add(extent.length_bytes)
            .is_none()
        {
            return Err(bad("it ends beyond 64 bits"));
        }
        let device = extent.device.rsplit('/').next().unwrap_or_default();
        Ok(Range {
            device: device.to_owned(),
            offset: extent.offset_bytes,
            len: extent.length_bytes,
        })
    }

    pub(super) fn all(extents: &[Extent]) -> Result<Vec<Range>, ManagedError> {
        extents.iter().map(Range::of).collect()
    }

    fn end(&self) -> u64 {
        self.offset + self.len
    }

    pub(super) fn overlaps(&self, other: &Range) -> bool {
        self.device == other.device && self.offset < other.end() && other.offset < self.end()
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "bytes {} to {} of {}",
            self.offset,
            self.end(),
            self.device
        )
    }
}

impl Shape {
    /// The shape that control asks for.
    pub(super) fn of(volume: &DesiredVolume) -> Result<Shape, ManagedError> {
        let bad =
            |what: String| ManagedError::new("LayoutInvalid", format!("{}: {what}", volume.name));
        let layout = volume
            .layout
            .as_ref()
            .ok_or_else(|| bad("it has no layout".to_owned()))?;
        let block_size = BlockSize::from_bytes(volume.block_size_bytes).ok_or_else(|| {
            bad(format!(
                "blocks of {} bytes are not served",
                volume.block_size_bytes
            ))
        })?;
        if volume.size_bytes == 0 || !volume.size_bytes.is_multiple_of(block_size.bytes_u64()) {
            let what = format!("{} bytes are no whole blocks", volume.size_bytes);
            return Err(bad(what));
        }
        let shape = Shape {
            columns: columns(layout).map_err(&bad)?,
            unit_bytes: layout.stripe_unit_bytes,
            size_bytes: volume.size_bytes,
            block_size,
        };
        shape.check().map_err(bad)?;
        Ok(shape)
    }

    /// Every range of every column.
    pub(super) fn ranges(&self) -> impl Iterator<Item = &Range> {
        self.columns.iter().flatten()
    }

    fn check(&self) -> Result<(), String> {
        let all: Vec<&Range> = self.ranges().collect();
        for (index, range) in all.iter().enumerate() {
            if let Some(other) = all[..index].iter().find(|other| other.overlaps(range)) {
                return Err(format!("its extents overlap: {range}, {other}"));
            }
        }
        for (index, column) in self.columns.iter().enumerate() {
            let has: u64 = column.iter().map(|range| range.len).sum();
            let needs = self.needed(index as u64);
            if has < needs {
                return Err(format!(
                    "column {index} has {has} bytes and needs {needs} for the volume's size"
                ));
            }
        }
        Ok(())
    }

    /// Bytes of a column that the volume's size reaches.
    fn needed(&self, column: u64) -> u64 {
        let (unit, width) = (u64::from(self.unit_bytes), self.columns.len() as u64);
        if unit == 0 || width == 1 {
            return self.size_bytes;
        }
        let full = self.size_bytes / (unit * width);
        let rest = self.size_bytes % (unit * width);
        full * unit + rest.saturating_sub(column * unit).min(unit)
    }

    /// What `longer` has in each column after all that this shape has. `None` where it does not go
    /// on from this one.
    pub(super) fn growth(&self, longer: &Shape) -> Option<Vec<Vec<Range>>> {
        let same = self.columns.len() == longer.columns.len()
            && self.unit_bytes == longer.unit_bytes
            && self.block_size == longer.block_size
            && self.size_bytes <= longer.size_bytes;
        if !same {
            return None;
        }
        let columns = self.columns.iter().zip(&longer.columns);
        columns.map(|(old, new)| rest_after(old, new)).collect()
    }
}

fn columns(layout: &Layout) -> Result<Vec<Vec<Range>>, String> {
    let width = usize::try_from(layout.stripe_width.max(1)).unwrap_or(usize::MAX);
    let striped = layout.stripe_unit_bytes > 0;
    if layout.extents.len() < width || (width > 1 && !striped) {
        return Err(format!(
            "{} extents, {width} columns, a stripe unit of {} bytes do not go together",
            layout.extents.len(),
            layout.stripe_unit_bytes
        ));
    }
    let mut columns = vec![Vec::new(); width];
    for (index, extent) in layout.extents.iter().enumerate() {
        let range = Range::of(extent).map_err(|error| error.message)?;
        columns[index % width].push(range);
    }
    Ok(columns)
}

/// The ranges of `new` after the bytes of `old`, which it must begin with. How the bytes are cut
/// into ranges does not matter.
fn rest_after(old: &[Range], new: &[Range]) -> Option<Vec<Range>> {
    let mut rest: Vec<Range> = new.to_vec();
    for range in old {
        let mut left = range.clone();
        while left.len > 0 {
            let first = rest.first_mut()?;
            if first.device != left.device || first.offset != left.offset {
                return None;
            }
            let both = first.len.min(left.len);
            (left.offset, left.len) = (left.offset + both, left.len - both);
            (first.offset, first.len) = (first.offset + both, first.len - both);
            if first.len == 0 {
                rest.remove(0);
            }
        }
    }
    Some(rest)
}

impl Managed {
    /// The open device of that name.
    pub(super) fn device(&self, name: &str) -> Result<Arc<dyn BlockDevice>, ManagedError> {
        usable(&self.devices, name)
    }

    /// Ranges of the configuration's names, on the devices.
    pub(super) fn device_ranges(&self, ranges: &[Range]) -> Result<Vec<DeviceRange>, ManagedError> {
        let on_device = |range: &Range| {
            Ok(DeviceRange {
                device: self.device(&range.device)?,
                offset_bytes: range.offset,
                length_bytes: range.len,
            })
        };
        ranges.iter().map(on_device).collect()
    }
}

fn usable(
    devices: &BTreeMap<String, ManagedDevice>,
    name: &str,
) -> Result<Arc<dyn BlockDevice>, ManagedError> {
    let missing = |why: String| ManagedError::new("DeviceMissing", why);
    match devices.get(name).map(|device| &device.opened) {
        Some(Ok(device)) => Ok(device.block()),
        Some(Err(problem)) => Err(missing(format!("device {name} cannot be used: {problem}"))),
        None => Err(missing(format!(
            "there is no device {name} here; add a [[device]] of that name and restart the node"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(offset: u64, len: u64) -> Range {
        Range {
            device: "d0".to_owned(),
            offset,
            len,
        }
    }

    #[test]
    fn growth_is_what_follows_however_it_is_cut() {
        let old = [range(0, 4), range(8, 4)];
        let cases = [
            (vec![range(0, 4), range(8, 4)], Some(vec![])),
            (vec![range(0, 4), range(8, 6)], Some(vec![range(12, 2)])),
            (
                vec![range(0, 2), range(2, 2), range(8, 4), range(20, 1)],
                Some(vec![range(20, 1)]),
            ),
            (vec![range(0, 4)], None),
            (vec![range(0, 5), range(8, 4)], None),
            (vec![range(8, 4), range(0, 4)], None),
        ];
        for (new, expected) in cases {
            assert_eq!(rest_after(&old, &new), expected, "{new:?}");
        }
    }

    #[test]
    fn every_column_must_reach_as_far_as_the_size_does() {
        let mut shape = Shape {
            columns: vec![vec![range(0, 8 << 12)], vec![range(1 << 20, 8 << 12)]],
            unit_bytes: 4 << 12,
            size_bytes: 16 << 12,
            block_size: BlockSize::B4096,
        };
        assert_eq!(shape.check(), Ok(()));
        assert_eq!((shape.needed(0), shape.needed(1)), (8 << 12, 8 << 12));
        shape.size_bytes = 17 << 12;
        assert_eq!((shape.needed(0), shape.needed(1)), (9 << 12, 8 << 12));
        assert!(shape.check().unwrap_err().contains("column 0"));
        shape.size_bytes = 10 << 12;
        assert_eq!((shape.needed(0), shape.needed(1)), (6 << 12, 4 << 12));
        shape.columns[1] = vec![range(4 << 12, 8 << 12)];
        assert!(shape.check().unwrap_err().contains("overlap"));
    }
}
