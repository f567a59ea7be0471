//! How much there may be of things.
//!
//! Counting everything with each creation would make the thousandth slower than the first. So a
//! count is remembered for a while, and trusted as long as there is plenty of room. Close to the
//! limit everything is counted each time, and a guard in the store lets creations of the same kind
//! happen one after the other, so that the limit is exact.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use penstock_api::names::Kind;
use penstock_api::v1::Volume;
use penstock_store::Range;
use tokio::time::Instant;
use tonic::Code;

use crate::config::Quotas;
use crate::fault::{Fault, Result};
use crate::repo::{Change, Repo, decode};

/// How long a count is remembered.
const REMEMBERED_FOR: Duration = Duration::from_secs(10);
/// Limits below this are always checked exactly.
const SMALL: u64 = 1_000;
/// Entries read at once while counting.
const PAGE: usize = 2_000;

/// How much there is of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Amount {
    count: u64,
    bytes: u64,
}

/// Checks limits before something is created.
#[derive(Debug)]
pub struct Quota {
    limits: Quotas,
    known: Mutex<BTreeMap<Kind, (Instant, Amount)>>,
}

impl Quota {
    /// With these limits.
    pub fn new(limits: Quotas) -> Quota {
        Quota {
            limits,
            known: Mutex::new(BTreeMap::new()),
        }
    }

    /// Checks the size of one volume.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED.
    pub fn volume_size(&self, size_bytes: u64) -> Result<()> {
        let limit = self.limits.volume_size_bytes_max;
        if size_bytes <= limit {
            return Ok(());
        }
        Err(exceeded(
            "volume_size_bytes_max",
            limit,
            format!("a volume of {size_bytes} bytes is larger than the {limit} that one may have"),
        ))
    }

    /// Checks that there may be one more of a kind (`more` = 1), and for volumes so many more bytes.
    /// What must hold for that to stay so goes into the change.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED; the store's.
    pub async fn room(
        &self,
        repo: &Repo,
        change: &mut Change,
        kind: Kind,
        more: Amounts,
    ) -> Result<()> {
        let Some((name, count_max)) = self.limit(kind) else {
            return Ok(());
        };
        let bytes_max = if kind == Kind::Volume {
            self.limits.volumes_total_bytes_max
        } else {
            u64::MAX
        };
        if let Some(amount) = self.remembered(kind)
            && count_max >= SMALL
            && plenty(amount.count, count_max)
            && plenty(amount.bytes.saturating_add(more.bytes), bytes_max)
        {
            self.remember(kind, more);
            return Ok(());
        }
        let guard = repo.keys().guard_quota(kind);
        let seen = repo.entry(&guard, None).await?;
        let amount = count(repo, kind).await?;
        self.set(kind, amount);
        let after = Amount {
            count: amount.count.saturating_add(more.count),
            bytes: amount.bytes.saturating_add(more.bytes),
        };
        if more.count > 0 && after.count > count_max {
            return Err(exceeded(
                name,
                count_max,
                format!(
                    "there are {} {} already, and there may be {count_max}",
                    amount.count,
                    kind.collection()
                ),
            ));
        }
        if more.bytes > 0 && after.bytes > bytes_max {
            return Err(exceeded(
                "volumes_total_bytes_max",
                bytes_max,
                format!(
                    "volumes have {} bytes together already, {} more make more than {bytes_max}",
                    amount.bytes, more.bytes
                ),
            ));
        }
        self.remember(kind, more);
        if count_max < SMALL || !plenty(after.count, count_max) || !plenty(after.bytes, bytes_max) {
            change.unchanged(guard.clone(), seen.map_or(0, |entry| entry.mod_revision));
            change.put(guard, Vec::new(), None);
        }
        Ok(())
    }

    fn limit(&self, kind: Kind) -> Option<(&'static str, u64)> {
        Some(match kind {
            Kind::Node => ("nodes_max", self.limits.nodes_max),
            Kind::Volume => ("volumes_max", self.limits.volumes_max),
            Kind::Subsystem => ("subsystems_max", self.limits.subsystems_max),
            Kind::Namespace => ("namespaces_max", self.limits.namespaces_max),
            Kind::Host => ("hosts_max", self.limits.hosts_max),
            Kind::Listener => ("listeners_max", self.limits.listeners_max),
            Kind::Device | Kind::Operation => return None,
        })
    }

    fn remembered(&self, kind: Kind) -> Option<Amount> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, amount) = known.get(&kind)?;
        (at.elapsed() < REMEMBERED_FOR).then_some(*amount)
    }

    fn set(&self, kind: Kind, amount: Amount) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(kind, (Instant::now(), amount));
    }

    fn remember(&self, kind: Kind, more: Amounts) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, amount)) = known.get_mut(&kind) {
            amount.count = amount.count.saturating_add(more.count);
            amount.bytes = amount.bytes.saturating_add(more.bytes);
        }
    }
}

/// How much more there is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Resources.
    pub count: u64,
    /// Bytes of volumes.
    pub bytes: u64,
}

impl Amounts {
    /// One more resource.
    pub const ONE: Amounts = Amounts { count: 1, bytes: 0 };
}

/// A fifth of the limit is free: more than all servers create while a count is remembered.
fn plenty(amount: u64, limit: u64) -> bool {
    amount <= limit - limit / 5
}

async fn count(repo: &Repo, kind: Kind) -> Result<Amount> {
    let mut amount = Amount::default();
    let mut range = Range {
        prefix: repo.keys().specs(kind),
        limit: PAGE,
        keys_only: kind != Kind::Volume,
        ..Range::default()
    };
    loop {
        let page = repo.store().list(range.clone()).await?;
        for entry in &page.entries {
            amount.count += 1;
            if kind == Kind::Volume {
                let volume: Volume = decode(entry)?;
                let size = volume.spec.map_or(0, |spec| spec.size_bytes);
                amount.bytes = amount
                    .bytes
                    .saturating_add(u64::try_from(size).unwrap_or(0));
            }
        }
        if !page.more {
            return Ok(amount);
        }
        range.after = page.entries.last().map(|entry| entry.key.clone());
    }
}

fn exceeded(quota: &str, limit: u64, what: String) -> Fault {
    Fault::new(
        Code::ResourceExhausted,
        "QUOTA_EXCEEDED",
        format!("{what}; delete what is not needed, or have an administrator raise {quota} in the control server's configuration"),
    )
    .with("quota", quota)
    .with("limit", limit)
}
