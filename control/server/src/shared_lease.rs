//! A lease that many keys share which are to go at about the same time: request ids and operations
//! that have ended. One lease a key would be a load on the store.

use std::time::Duration;

use penstock_store::{LeaseId, Store, StoreError};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long new keys are given the same lease.
const SHARED_FOR: Duration = Duration::from_secs(3_600);

/// Gives out leases that last at least a given time.
#[derive(Debug)]
pub struct SharedLease {
    keep: Duration,
    current: Mutex<Option<(LeaseId, Instant)>>,
}

impl SharedLease {
    /// Leases that last at least `keep`, and up to an hour longer.
    pub fn new(keep: Duration) -> SharedLease {
        SharedLease {
            keep,
            current: Mutex::new(None),
        }
    }

    /// A lease for a key that is written now.
    ///
    /// # Errors
    /// The store's.
    pub async fn get(&self, store: &dyn Store) -> Result<LeaseId, StoreError> {
        let mut current = self.current.lock().await;
        if let Some((lease, granted)) = *current
            && granted.elapsed() < SHARED_FOR
        {
            return Ok(lease);
        }
        let granted = Instant::now();
        let lease = store.grant(self.keep + SHARED_FOR).await?;
        *current = Some((lease, granted));
        Ok(lease)
    }

    /// Gives this lease out no more: the store has lost it.
    pub async fn forget(&self, lease: LeaseId) {
        let mut current = self.current.lock().await;
        if current.is_some_and(|(known, _)| known == lease) {
            *current = None;
        }
    }

    /// Gives out no lease that was given out before.
    pub async fn forget_all(&self) {
        *self.current.lock().await = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_store::sim::SimStore;

    #[tokio::test(start_paused = true)]
    async fn keys_share_a_lease_for_an_hour() {
        let sim = SimStore::new(1);
        let store = sim.client("a");
        let leases = SharedLease::new(Duration::from_secs(60));
        let first = leases.get(store.as_ref()).await.unwrap();
        assert_eq!(leases.get(store.as_ref()).await.unwrap(), first);
        tokio::time::advance(SHARED_FOR).await;
        let second = leases.get(store.as_ref()).await.unwrap();
        assert_ne!(second, first);
        leases.forget(first).await;
        assert_eq!(leases.get(store.as_ref()).await.unwrap(), second);
        leases.forget(second).await;
        assert_ne!(leases.get(store.as_ref()).await.unwrap(), second);
    }
}
