//! Forgetting the store's history: what is older than configured goes, so that the store does not
//! grow for ever. Watches that are further behind list again.

use std::collections::VecDeque;
use std::time::Duration;

use penstock_store::Revision;
use tokio::time::Instant;

use crate::env::Env;
use crate::mirror::Mirror;

/// Compacts by the configured retention, for ever.
pub async fn run(env: &Env, mirror: &Mirror) {
    let history = env.settings.retention.history;
    let step = (history / 20).clamp(Duration::from_millis(50), Duration::from_secs(60));
    // Revisions with when they were current, oldest first.
    let mut marks: VecDeque<(Instant, Revision)> = VecDeque::new();
    loop {
        let now = Instant::now();
        marks.push_back((now, mirror.with(|view| view.revision)));
        let mut oldest = None;
        while let Some((at, revision)) = marks.front().copied()
            && now.saturating_duration_since(at) >= history
        {
            oldest = Some(revision);
            marks.pop_front();
        }
        if let Some(revision) = oldest.filter(|revision| *revision > 0) {
            match env.store.compact(revision).await {
                Ok(()) => tracing::debug!(revision, "history before this is forgotten"),
                // Somebody else has done so (an administrator, etcd itself).
                Err(penstock_store::StoreError::Compacted { .. }) => {}
                Err(error) => {
                    tracing::warn!(%error, "history is not forgotten; trying again later")
                }
            }
        }
        tokio::time::sleep(step).await;
    }
}
