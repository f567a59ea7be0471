//! A store whose times and failures are counted.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use penstock_store::{
    Committed, Entry, LeaseId, Page, Range, Revision, Store, StoreError, Txn, Watch,
};
use tokio::time::Instant;

use crate::metrics::Metrics;

/// Counts what another store does.
pub struct Metered {
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
}

impl Metered {
    /// Counts what `store` does in `metrics`.
    pub fn new(store: Arc<dyn Store>, metrics: Arc<Metrics>) -> Metered {
        Metered { store, metrics }
    }

    fn count<T>(
        &self,
        operation: &str,
        began: Instant,
        result: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.metrics
            .store_duration
            .with_label_values(&[operation])
            .observe(began.elapsed().as_secs_f64());
        if let Err(error) = &result {
            self.metrics
                .store_errors
                .with_label_values(&[operation, kind(error)])
                .inc();
        }
        result
    }
}

/// The kind of a failure, as the metrics call it.
fn kind(error: &StoreError) -> &'static str {
    match error {
        StoreError::Compacted { .. } => "compacted",
        StoreError::FutureRevision { .. } => "future_revision",
        StoreError::Replaced { .. } => "replaced",
        StoreError::Unavailable(_) => "unavailable",
        StoreError::Unknown(_) => "unknown",
        StoreError::LeaseExpired => "lease_expired",
        StoreError::Full(_) => "full",
        StoreError::Denied(_) => "denied",
        StoreError::TooLarge(_) => "too_large",
        StoreError::Internal(_) => "internal",
    }
}

#[async_trait]
impl Store for Metered {
    async fn id(&self) -> Result<String, StoreError> {
        let began = Instant::now();
        self.count("id", began, self.store.id().await)
    }

    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision), StoreError> {
        let began = Instant::now();
        self.count("get", began, self.store.get(key).await)
    }

    async fn list(&self, range: Range) -> Result<Page, StoreError> {
        let began = Instant::now();
        self.count("list", began, self.store.list(range).await)
    }

    async fn txn(&self, txn: Txn) -> Result<Committed, StoreError> {
        let began = Instant::now();
        self.count("txn", began, self.store.txn(txn).await)
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Box<dyn Watch>, StoreError> {
        let began = Instant::now();
        self.count("watch", began, self.store.watch(prefix, from).await)
    }

    async fn grant(&self, time_to_live: Duration) -> Result<LeaseId, StoreError> {
        let began = Instant::now();
        self.count("grant", began, self.store.grant(time_to_live).await)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let began = Instant::now();
        self.count("keep_alive", began, self.store.keep_alive(lease).await)
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let began = Instant::now();
        self.count("revoke", began, self.store.revoke(lease).await)
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let began = Instant::now();
        self.count("compact", began, self.store.compact(revision).await)
    }
}
