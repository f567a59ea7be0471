//! Leases. Two seconds is the shortest that etcd gives.

use super::*;

const SHORT: Duration = Duration::from_secs(2);

/// Waits until a key is gone; returns after how long.
async fn gone(store: &Arc<dyn Store>, key: &str) -> Duration {
    let started = Instant::now();
    while value(store, key).await.is_some() {
        assert!(started.elapsed() < SHORT * 10, "{key} stays");
        sleep(Duration::from_millis(50)).await;
    }
    started.elapsed()
}

pub async fn end_with_their_keys(store: Arc<dyn Store>, at: String) {
    let lease = store.grant(SHORT).await.unwrap();
    let (a, b) = (format!("{at}a"), format!("{at}b"));
    let both = vec![put_leased(&a, lease), put_leased(&b, lease)];
    let put_at = write(&store, both).await;
    assert_eq!(store.get(&a).await.unwrap().0.unwrap().lease, Some(lease));
    let mut watch = store.watch(&at, put_at + 1).await.unwrap();
    // Nothing but the watch looks at the store meanwhile.
    let (revision, told) = changes(&mut watch).await;
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|c| matches!(c, Change::Delete { .. })));
    assert_eq!(store.get(&a).await.unwrap(), (None, revision));
    let late = store.keep_alive(lease).await.unwrap_err();
    assert_eq!(late, StoreError::LeaseExpired);
}

pub async fn last_while_renewed(store: Arc<dyn Store>, at: String) {
    let lease = store.grant(SHORT).await.unwrap();
    let key = format!("{at}k");
    write(&store, vec![put_leased(&key, lease)]).await;
    for _ in 0..8 {
        sleep(SHORT / 4).await;
        store.keep_alive(lease).await.unwrap();
    }
    assert!(value(&store, &key).await.is_some());
    assert!(gone(&store, &key).await > SHORT / 4);
}

pub async fn can_be_revoked(store: Arc<dyn Store>, at: String) {
    let lease = store.grant(Duration::from_secs(600)).await.unwrap();
    let key = format!("{at}k");
    let before = write(&store, vec![put_leased(&key, lease)]).await;
    store.revoke(lease).await.unwrap();
    assert_eq!(store.get(&key).await.unwrap(), (None, before + 1));
    let again = store.revoke(lease).await.unwrap_err();
    assert_eq!(again, StoreError::LeaseExpired);
}

pub async fn refuse_when_gone(store: Arc<dyn Store>, at: String) {
    let lease = store.grant(Duration::from_secs(600)).await.unwrap();
    store.revoke(lease).await.unwrap();
    let key = format!("{at}k");
    let before = revision(&store).await;
    let late = txn(
        vec![],
        vec![put(format!("{at}j"), "v"), put_leased(&key, lease)],
    );
    let error = store.txn(late).await.unwrap_err();
    assert_eq!(error, StoreError::LeaseExpired);
    assert_eq!(revision(&store).await, before);
    let error = store.keep_alive(lease).await.unwrap_err();
    assert_eq!(error, StoreError::LeaseExpired);
}

pub async fn let_go_of_rewritten_keys(store: Arc<dyn Store>, at: String) {
    let first = store.grant(Duration::from_secs(600)).await.unwrap();
    let second = store.grant(Duration::from_secs(600)).await.unwrap();
    let (a, b) = (format!("{at}a"), format!("{at}b"));
    write(&store, vec![put_leased(&a, first), put_leased(&b, first)]).await;
    write(&store, vec![put(&a, "free"), put_leased(&b, second)]).await;
    store.revoke(first).await.unwrap();
    assert_eq!(value(&store, &a).await.unwrap(), b"free");
    assert!(value(&store, &b).await.is_some());
    store.revoke(second).await.unwrap();
    assert_eq!(value(&store, &b).await, None);
}
