//! Volumes: extents and stripes as one device, which can grow and be shut.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use penstock_api::v1::DesiredVolume;
use penstock_block::{
    BlockDevice, BlockError, BlockQueue, Direction, Extents, Geometry, LayoutError, Op, Outcome,
    Request, Stripe, Ticket,
};
use penstock_buffer::Lease;
use penstock_units::{BlockSize, Lba};

use super::layout::{Range, Shape};
use super::{Managed, ManagedError};
use crate::node::Node;

/// A volume's device: what lies below, as far as the volume's size, while it is not shut.
pub(super) struct VolumeDevice {
    name: String,
    below: Arc<dyn BlockDevice>,
    block_size: BlockSize,
    blocks: AtomicU64,
    shut: AtomicBool,
}

impl VolumeDevice {
    fn resize(&self, size_bytes: u64) {
        let blocks = size_bytes >> self.block_size.shift();
        self.blocks.store(blocks, Ordering::Release);
    }

    /// Refuses every later request.
    fn shut(&self) {
        self.shut.store(true, Ordering::Release);
    }

    fn check(&self, lba: Lba, blocks: u64) -> Result<(), BlockError> {
        if self.shut.load(Ordering::Acquire) {
            return Err(BlockError::Gone);
        }
        match lba.checked_add(blocks) {
            Some(end) if end.0 <= self.blocks.load(Ordering::Acquire) => Ok(()),
            _ => Err(BlockError::OutOfRange),
        }
    }
}

impl BlockDevice for VolumeDevice {
    fn geometry(&self) -> Geometry {
        Geometry {
            blocks: self.blocks.load(Ordering::Acquire),
            ..self.below.geometry()
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn open(self: Arc<Self>) -> Result<Rc<dyn BlockQueue>, BlockError> {
        let below = Arc::clone(&self.below).open()?;
        Ok(Rc::new(VolumeQueue {
            volume: self,
            below,
        }))
    }
}

struct VolumeQueue {
    volume: Arc<VolumeDevice>,
    below: Rc<dyn BlockQueue>,
}

impl BlockQueue for VolumeQueue {
    fn submit(&self, request: Request) -> Ticket {
        let range = match request.op {
            Op::Flush => (Lba(0), 0),
            _ => (request.lba, request.blocks),
        };
        match self.volume.check(range.0, range.1) {
            Ok(()) => self.below.submit(request),
            Err(error) => Ticket::ready(Outcome {
                result: Err(error),
                payload: request.payload,
            }),
        }
    }

    fn lend(&self, direction: Direction, lba: Lba, blocks: u64) -> Option<Lease> {
        self.volume.check(lba, blocks).ok()?;
        self.below.lend(direction, lba, blocks)
    }
}

/// A volume in use.
pub(super) struct OpenVolume {
    name: String,
    shape: Shape,
    device: Arc<VolumeDevice>,
    stripe: Option<Arc<Stripe>>,
    columns: Vec<Arc<Extents>>,
}

impl OpenVolume {
    /// The device to serve.
    pub(super) fn device(&self) -> &Arc<VolumeDevice> {
        &self.device
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

fn refused(error: &LayoutError) -> ManagedError {
    ManagedError::new("LayoutInvalid", error.to_string())
}

impl Managed {
    fn build(&self, name: &str, shape: Shape) -> Result<OpenVolume, ManagedError> {
        let mut columns = Vec::new();
        for ranges in &shape.columns {
            let ranges = self.device_ranges(ranges)?;
            let column = Extents::new(name, shape.block_size, &ranges);
            columns.push(column.map_err(|error| refused(&error))?);
        }
        let below = |column: &Arc<Extents>| Arc::clone(column) as Arc<dyn BlockDevice>;
        let stripe = match columns.as_slice() {
            [_] => None,
            many => {
                let many = many.iter().map(below).collect();
                let stripe = Stripe::new(name, shape.unit_bytes, many);
                Some(stripe.map_err(|error| refused(&error))?)
            }
        };
        let whole = match &stripe {
            Some(stripe) => Arc::clone(stripe) as Arc<dyn BlockDevice>,
            None => below(&columns[0]),
        };
        let device = VolumeDevice {
            name: name.to_owned(),
            below: whole,
            block_size: shape.block_size,
            blocks: AtomicU64::new(shape.size_bytes >> shape.block_size.shift()),
            shut: AtomicBool::new(false),
        };
        Ok(OpenVolume {
            name: name.to_owned(),
            shape,
            device: Arc::new(device),
            stripe,
            columns,
        })
    }

    /// Refuses ranges that another open volume has, or that are being cleared.
    fn check_free<'r>(
        &self,
        uid: &str,
        mut ranges: impl Iterator<Item = &'r Range>,
    ) -> Result<(), ManagedError> {
        ranges.try_for_each(|range| {
            self.check_not_in_use(range, Some(uid))?;
            match self.clearing.overlap(range) {
                Some(other) => Err(ManagedError::new(
                    "Clearing",
                    format!("{other} are still being cleared; try again"),
                )),
                None => Ok(()),
            }
        })
    }

    /// Refuses a range that an open volume has, unless it is the volume `except`.
    pub(super) fn check_not_in_use(
        &self,
        range: &Range,
        except: Option<&str>,
    ) -> Result<(), ManagedError> {
        for (uid, volume) in &self.volumes {
            if except == Some(uid.as_str()) {
                continue;
            }
            if let Some(taken) = volume.shape.ranges().find(|taken| taken.overlaps(range)) {
                let message = format!("{range} overlap {taken}, which belong to {}", volume.name);
                return Err(ManagedError::new("ExtentConflict", message));
            }
        }
        Ok(())
    }

    /// The open volume of that identity.
    pub(super) fn volume(&self, uid: &str) -> Result<&OpenVolume, ManagedError> {
        self.volumes.get(uid).ok_or_else(|| {
            ManagedError::new("VolumeMissing", format!("volume {uid} is not open here"))
        })
    }
}

impl Node {
    /// Opens a volume on its extents. Data is as it lies there. A volume that is open as asked stays
    /// so; one that differs is refused (`LayoutDiffers`): growing is [`Node::grow_volume`].
    ///
    /// # Errors
    /// `DeviceMissing`, `LayoutInvalid`, `LayoutDiffers`; `ExtentConflict` where another open volume
    /// has some of the space; `Clearing` while some of it is being cleared.
    pub fn open_volume(&mut self, volume: &DesiredVolume) -> Result<(), ManagedError> {
        let shape = Shape::of(volume)?;
        if let Some(open) = self.managed.volumes.get(&volume.uid) {
            if open.shape == shape {
                return Ok(());
            }
            let message = format!("{} is open with another layout or size", open.name);
            return Err(ManagedError::new("LayoutDiffers", message));
        }
        self.managed.check_free(&volume.uid, shape.ranges())?;
        let open = self.managed.build(&volume.name, shape)?;
        tracing::info!(volume = open.name, bytes = open.shape.size_bytes, "open");
        self.managed.volumes.insert(volume.uid.clone(), open);
        Ok(())
    }

    /// Lets an open volume grow to the layout and size given; hosts of its namespaces are told. The
    /// new extents should have been cleared before ([`Node::clear_extents`]).
    ///
    /// # Errors
    /// `VolumeMissing`; `LayoutDiffers` where the layout does not begin with the present one or the
    /// size is smaller; as [`Node::open_volume`].
    pub fn grow_volume(&mut self, volume: &DesiredVolume) -> Result<(), ManagedError> {
        let shape = Shape::of(volume)?;
        let managed = &self.managed;
        let open = managed.volume(&volume.uid)?;
        if open.shape == shape {
            return Ok(());
        }
        let more = open.shape.growth(&shape).ok_or_else(|| {
            let message = format!(
                "{}: the new layout does not go on from the one in use, or is smaller",
                open.name
            );
            ManagedError::new("LayoutDiffers", message)
        })?;
        managed.check_free(&volume.uid, more.iter().flatten())?;
        let added: Result<Vec<_>, _> = more
            .iter()
            .map(|ranges| managed.device_ranges(ranges))
            .collect();
        // Checked as a whole before any column changes.
        managed.build(&open.name, shape.clone())?;
        for (column, ranges) in open.columns.iter().zip(added?) {
            column.extend(&ranges).map_err(|error| refused(&error))?;
        }
        if let Some(stripe) = &open.stripe {
            stripe.refresh();
        }
        open.device.resize(shape.size_bytes);
        tracing::info!(volume = open.name, bytes = shape.size_bytes, "grown");
        if let Some(open) = self.managed.volumes.get_mut(&volume.uid) {
            open.shape = shape;
        }
        self.tell_of_size(&volume.uid);
        Ok(())
    }

    /// Shuts a volume: what is still on its way to it is refused. Its extents can be cleared then,
    /// with [`Node::clear_extents`]. A volume that is not open is no error.
    ///
    /// # Errors
    /// `InUse` while a namespace serves it.
    pub fn close_volume(&mut self, uid: &str) -> Result<(), ManagedError> {
        let Some(open) = self.managed.volumes.get(uid) else {
            return Ok(());
        };
        let mut namespaces = self.managed.namespaces.iter();
        if let Some((namespace, _)) = namespaces.find(|(_, served)| served.volume_uid == uid) {
            let message = format!("{} is served by namespace {namespace}", open.name);
            return Err(ManagedError::new("InUse", message));
        }
        open.device.shut();
        tracing::info!(volume = open.name, "closed");
        self.managed.volumes.remove(uid);
        Ok(())
    }

    /// Identities of the volumes that are open.
    pub fn open_volumes(&self) -> BTreeSet<String> {
        self.managed.volumes.keys().cloned().collect()
    }

    /// Size in bytes of an open volume; `None` where it is not open.
    pub fn volume_size(&self, uid: &str) -> Option<u64> {
        let open = self.managed.volumes.get(uid)?;
        Some(open.shape.size_bytes)
    }
}
