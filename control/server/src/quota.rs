//! How much there may be of things.
//!
//! Counting everything in the store with each creation would make the thousandth slower than the
//! first, and creating one after the other would make all slow. So what there is is taken from the
//! state in memory, and each kind has a guard in the store. Every creation compares the guard with
//! what it was when things were counted. As long as there is plenty of room nobody sets it, and
//! creations do not get into each other's way. Close to the limit each creation sets it: they happen
//! one after the other, and none by a count from before.
//!
//! That is exact unless a fifth of a limit is on its way at once: what is created in the moment in
//! which the guard is first set was let in by counts that missed at most `LAG` revisions and each
//! other. Limits below `SMALL` are always counted exactly, and so are volumes of more than a
//! `SMALL`th of the bytes that all may have: `SMALL / 5 - LAG` = 300 creations, at least, have to be
//! on their way at once over all servers before a limit can be exceeded, and then by what goes beyond
//! these.

use std::time::Duration;

use penstock_api::names::Kind;
use penstock_api::v1::Volume;
use penstock_store::{Range, Revision};
use tonic::Code;

use crate::config::Quotas;
use crate::fault::{Fault, Result};
use crate::mirror::Mirror;
use crate::repo::{Change, Repo, decode};

/// Limits below this are always checked exactly.
const SMALL: u64 = 2_000;
/// So many revisions may have happened that a count from memory does not show.
const LAG: Revision = 100;
/// How long the state in memory is waited for before everything is counted in the store.
const MEMORY_WAIT: Duration = Duration::from_millis(200);
/// Entries read at once while counting.
const PAGE: usize = 2_000;

/// How much there is of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Amount {
    count: u64,
    bytes: u64,
}

impl Amount {
    fn of((count, bytes): (usize, u64)) -> Amount {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        Amount { count, bytes }
    }
}

/// Checks limits before something is created.
pub struct Quota {
    limits: Quotas,
    /// The state in memory, where there is one.
    mirror: Option<Mirror>,
}

impl Quota {
    /// With these limits. Without a mirror everything is counted in the store.
    pub fn new(limits: Quotas, mirror: Option<Mirror>) -> Quota {
        Quota { limits, mirror }
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
        let plenty = |amount: Amount| {
            let (count_free, bytes_free) = (count_max / 5, bytes_max / 5);
            count_max >= SMALL
                && more.bytes <= bytes_max / SMALL
                && amount.count <= count_max - count_free
                && amount.bytes <= bytes_max - bytes_free
        };
        let guard = repo.keys().guard_quota(kind);
        if let Some((amount, revision)) = self.remembered(repo, kind)
            && plenty(amount)
        {
            change.unchanged(guard, revision);
            return Ok(());
        }
        // First the guard, then what it guards.
        let (seen, now) = repo.store().get(&guard).await?;
        let amount = self.amount(repo, kind, now).await?;
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
        change.unchanged(guard.clone(), seen.map_or(0, |entry| entry.mod_revision));
        if !plenty(amount) {
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

    /// How much there is by the state in memory, where that is recent, and the revision that the
    /// guard has in it.
    fn remembered(&self, repo: &Repo, kind: Kind) -> Option<(Amount, Revision)> {
        let mirror = self.mirror.as_ref()?;
        if !mirror.progress().get().synced {
            return None;
        }
        mirror.with(|view| {
            let recent = view.revision >= repo.read_at() - LAG;
            recent.then(|| (Amount::of(view.amount(kind)), view.quota_guard(kind)))
        })
    }

    /// How much there is at a revision or later.
    async fn amount(&self, repo: &Repo, kind: Kind, at: Revision) -> Result<Amount> {
        if let Some(mirror) = &self.mirror {
            let there = tokio::time::timeout(MEMORY_WAIT, mirror.reached(at)).await;
            if there == Ok(true) {
                return Ok(mirror.with(|view| Amount::of(view.amount(kind))));
            }
        }
        count(repo, kind).await
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
