//! What of the devices is given away, read from the store.

use std::time::Duration;

use penstock_api::v1::{Device, Node, Volume, VolumeSpec};
use penstock_plan::place::Pool;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tonic::Code;

use super::core::Core;
use crate::fault::{Fault, Result};
use crate::repo::Repo;

/// How long the devices that were read last are good enough to let a volume in.
const FRESH_FOR: Duration = Duration::from_secs(1);

impl Core {
    /// Fills in what of these devices is given away and free.
    ///
    /// # Errors
    /// The store's.
    pub async fn fill_usage(&self, devices: &mut [Device]) -> Result<()> {
        if devices.is_empty() {
            return Ok(());
        }
        let (mut pool, _) = known_devices(&self.repo).await?;
        for stored in self.repo.all::<Node>("", None).await?.items {
            let node = stored.resource;
            for orphan in node.status.iter().flat_map(|status| &status.orphans) {
                if let Some(layout) = &orphan.layout {
                    let id = format!("orphan {} {}", node.name, orphan.volume_uid);
                    pool.occupy(&id, layout, "");
                }
            }
        }
        for stored in self.repo.all::<Volume>("", None).await?.items {
            let volume = stored.resource;
            if let Some(layout) = volume.status.and_then(|status| status.layout) {
                pool.occupy(&volume.name, &layout, "");
            }
        }
        for device in devices {
            let usage = pool.usage(&device.name);
            if let (Some(usage), Some(status)) = (usage, &mut device.status) {
                status.allocated_bytes = usage.allocated_bytes;
                status.free_bytes = usage.free_bytes;
            }
        }
        Ok(())
    }
}

/// An empty pool of all nodes and devices, and whether there are any devices.
async fn known_devices(repo: &Repo) -> Result<(Pool, bool)> {
    let mut pool = Pool::new();
    for stored in repo.all::<Node>("", None).await?.items {
        pool.set_node(&stored.resource);
    }
    let devices = repo.all::<Device>("", None).await?.items;
    for stored in &devices {
        pool.set_device(&stored.resource);
    }
    Ok((pool, !devices.is_empty()))
}

/// The devices, remembered for a moment, to refuse volumes that none of them could ever hold.
#[derive(Default)]
pub struct Devices(Mutex<Option<(Instant, Pool, bool)>>);

impl Devices {
    /// Refuses a volume that would have no place on empty devices.
    ///
    /// # Errors
    /// OUT_OF_RANGE; the store's.
    pub async fn could_hold(&self, repo: &Repo, spec: &VolumeSpec) -> Result<()> {
        let mut known = self.0.lock().await;
        if let Some((read, pool, any)) = known.as_ref()
            && read.elapsed() < FRESH_FOR
            && (!any || pool.could_hold(spec).is_ok())
        {
            return Ok(());
        }
        let (pool, any) = known_devices(repo).await?;
        // As long as no agent has told of any device there is no saying what there will be.
        let verdict = if any { pool.could_hold(spec) } else { Ok(()) };
        *known = Some((Instant::now(), pool, any));
        verdict.map_err(|no| {
            Fault::new(Code::OutOfRange, "SIZE_BEYOND_POOL", no.message)
                .with("size_bytes", spec.size_bytes)
        })
    }
}
