//! Keeping leases alive, and leases that many short-lived keys share.

use std::sync::Arc;
use std::time::Duration;

use penstock_store::{LeaseId, Store, StoreError};
use tokio::time::Instant;

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

/// A lease that many keys of a kind share: each goes some time after it was written, not long after
/// that time. Nobody renews it; a new one is made now and then.
#[derive(Debug)]
pub struct Shared {
    time_to_live: Duration,
    current: tokio::sync::Mutex<Option<(LeaseId, Instant)>>,
}

impl Shared {
    /// Leases for keys that are to stay for `time_to_live`.
    pub fn new(time_to_live: Duration) -> Shared {
        Shared {
            time_to_live,
            current: tokio::sync::Mutex::new(None),
        }
    }

    /// A lease that has at least the time to live left.
    ///
    /// # Errors
    /// The store's.
    pub async fn get(&self, store: &Arc<dyn Store>) -> Result<LeaseId, StoreError> {
        let span = self.time_to_live / 24;
        let mut current = self.current.lock().await;
        if let Some((lease, until)) = *current
            && Instant::now() < until
        {
            return Ok(lease);
        }
        let until = Instant::now() + span;
        let lease = store.grant(self.time_to_live + span).await?;
        *current = Some((lease, until));
        Ok(lease)
    }

    /// The store did not know the lease (it may be another store than before): make a new one.
    pub async fn forget(&self) {
        *self.current.lock().await = None;
    }
}
