//! Keeping leases alive.

use std::sync::Arc;
use std::time::Duration;

use penstock_store::{LeaseId, Store, StoreError};
use tokio::time::Instant;

use crate::signal::Signal;

/// Renews a lease until it is lost, and says why it is.
///
/// A lease counts as lost when its time has passed since the last renewal began, whatever the store
/// says later: nobody may act on a lease that the store may have ended. A process that was stopped
/// for longer learns it here first.
pub async fn keep(store: &Arc<dyn Store>, lease: LeaseId, time_to_live: Duration) -> String {
    let mut renewed = Instant::now();
    loop {
        let next = renewed + time_to_live / 3;
        let end = renewed + time_to_live;
        tokio::time::sleep_until(next).await;
        loop {
            let began = Instant::now();
            if began >= end {
                return format!("it was not renewed for {} ms", time_to_live.as_millis());
            }
            match tokio::time::timeout_at(end, store.keep_alive(lease)).await {
                Ok(Ok(())) => {
                    renewed = began;
                    break;
                }
                Ok(Err(StoreError::LeaseExpired)) => return "the store has ended it".to_owned(),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a lease could not be renewed; trying again");
                    let pause = (time_to_live / 20).min(Duration::from_millis(500));
                    tokio::time::sleep(pause).await;
                }
                Err(_) => {}
            }
        }
    }
}

/// Ends a lease as far as that can be done soon; otherwise it ends by itself.
pub async fn give_up(store: &Arc<dyn Store>, lease: LeaseId) {
    let brief = Duration::from_secs(1);
    if let Ok(Err(error)) = tokio::time::timeout(brief, store.revoke(lease)).await {
        tracing::debug!(%error, "a lease could not be ended; it ends by itself");
    }
}

/// Holds a lease for ever, a new one after each that is lost, and tells which it is now.
pub async fn hold(store: &Arc<dyn Store>, time_to_live: Duration, told: &Signal<Option<LeaseId>>) {
    loop {
        match store.grant(time_to_live).await {
            Ok(lease) => {
                told.set(Some(lease));
                let why = keep(store, lease, time_to_live).await;
                told.set(None);
                tracing::warn!(
                    why,
                    "the lease of the agents' sessions is lost; they connect again"
                );
                give_up(store, lease).await;
            }
            Err(error) => tracing::debug!(%error, "no lease for the agents' sessions yet"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
