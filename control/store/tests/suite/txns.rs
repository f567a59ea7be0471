//! Transactions.

use super::*;

pub async fn compares_absent_and_present(store: Arc<dyn Store>, at: String) {
    let key = format!("{at}k");
    assert!(holds(&store, Compare::Absent(key.clone())).await);
    assert!(!holds(&store, Compare::Present(key.clone())).await);
    write(&store, vec![put(&key, "")]).await;
    assert!(!holds(&store, Compare::Absent(key.clone())).await);
    assert!(holds(&store, Compare::Present(key.clone())).await);
    write(&store, vec![delete(&key)]).await;
    assert!(holds(&store, Compare::Absent(key.clone())).await);
    assert!(!holds(&store, Compare::Present(key)).await);
}

pub async fn compares_revisions(store: Arc<dyn Store>, at: String) {
    let key = format!("{at}k");
    let created = write(&store, vec![put(&key, "1")]).await;
    let changed = write(&store, vec![put(&key, "2")]).await;
    let mod_is = |revision| Compare::ModRevision(key.clone(), revision);
    let create_is = |revision| Compare::CreateRevision(key.clone(), revision);
    assert!(holds(&store, mod_is(changed)).await);
    assert!(!holds(&store, mod_is(created)).await);
    assert!(!holds(&store, mod_is(changed + 1)).await);
    assert!(!holds(&store, mod_is(0)).await);
    assert!(holds(&store, create_is(created)).await);
    assert!(!holds(&store, create_is(changed)).await);
    write(&store, vec![delete(&key)]).await;
    assert!(!holds(&store, mod_is(changed)).await);
    assert!(!holds(&store, create_is(created)).await);
    assert!(holds(&store, mod_is(0)).await);
    write(&store, vec![put(&key, "3")]).await;
    assert!(!holds(&store, create_is(created)).await);
}

pub async fn compares_values(store: Arc<dyn Store>, at: String) {
    let key = format!("{at}k");
    let is = |value: &[u8]| Compare::Value(key.clone(), value.to_vec());
    assert!(!holds(&store, is(b"")).await);
    write(&store, vec![put(&key, "v")]).await;
    assert!(holds(&store, is(b"v")).await);
    assert!(!holds(&store, is(b"w")).await);
    assert!(!holds(&store, is(b"")).await);
}

pub async fn writes_all_or_nothing(store: Arc<dyn Store>, at: String) {
    let (a, b) = (format!("{at}a"), format!("{at}b"));
    let before = write(&store, vec![put(&a, "1")]).await;
    let compares = vec![Compare::Present(a.clone()), Compare::Present(b.clone())];
    let refused = txn(compares, vec![put(&a, "2"), put(&b, "2")]);
    assert_eq!(store.txn(refused).await.unwrap(), Committed::No(before));
    assert_eq!(value(&store, &a).await.unwrap(), b"1");
    assert_eq!(value(&store, &b).await, None);
    let compares = vec![Compare::Present(a.clone()), Compare::Absent(b.clone())];
    let taken = txn(compares, vec![delete(&a), put(&b, "2")]);
    let outcome = store.txn(taken).await.unwrap();
    assert_eq!(outcome, Committed::Yes(before + 1));
    assert_eq!(value(&store, &a).await, None);
    assert_eq!(value(&store, &b).await.unwrap(), b"2");
}

pub async fn one_revision_per_transaction(store: Arc<dyn Store>, at: String) {
    let before = revision(&store).await;
    let writes = (0..10).map(|n| put(format!("{at}{n}"), "v")).collect();
    let after = write(&store, writes).await;
    assert_eq!(after, before + 1);
    let page = store.list(range(&at)).await.unwrap();
    assert!(page.entries.iter().all(|e| e.mod_revision == after));
}

pub async fn changes_nothing_without_writes(store: Arc<dyn Store>, at: String) {
    let before = revision(&store).await;
    let empty = store.txn(Txn::default()).await.unwrap();
    assert_eq!(empty, Committed::Yes(before));
    let absent = write(&store, vec![delete(format!("{at}none"))]).await;
    assert_eq!(absent, before);
    assert_eq!(revision(&store).await, before);
}

pub async fn counts_without_losing(store: Arc<dyn Store>, at: String) {
    const TASKS: u64 = 8;
    const EACH: u64 = 10;
    let key = format!("{at}counter");
    write(&store, vec![put(&key, 0_u64.to_le_bytes())]).await;
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (store, key) = (Arc::clone(&store), key.clone());
            tokio::spawn(async move {
                let mut done = 0;
                while done < EACH {
                    let entry = store.get(&key).await.unwrap().0.unwrap();
                    let count = u64::from_le_bytes(entry.value.try_into().unwrap());
                    let unchanged = Compare::ModRevision(key.clone(), entry.mod_revision);
                    let write = put(&key, (count + 1).to_le_bytes());
                    let outcome = store.txn(txn(vec![unchanged], vec![write])).await;
                    done += u64::from(matches!(outcome.unwrap(), Committed::Yes(_)));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let count = value(&store, &key).await.unwrap();
    assert_eq!(u64::from_le_bytes(count.try_into().unwrap()), TASKS * EACH);
}

pub async fn refuses_malformed(store: Arc<dyn Store>, at: String) {
    let key = format!("{at}k");
    let before = revision(&store).await;
    let marked = Txn {
        marker: Some(format!("{at}other")),
        ..txn(vec![], vec![put(&key, "v")])
    };
    let bad = [
        txn(vec![], vec![put(&key, "1"), put(&key, "2")]),
        txn(vec![], vec![put(&key, "1"), delete(&key)]),
        txn(vec![], vec![put("", "1")]),
        txn(vec![Compare::Absent(String::new())], vec![]),
        marked,
    ];
    for txn in bad {
        let error = store.txn(txn).await.unwrap_err();
        assert!(matches!(error, StoreError::Internal(_)), "{error}");
    }
    assert_eq!(revision(&store).await, before);
}

pub async fn takes_the_most_operations(store: Arc<dyn Store>, at: String) {
    let key = |n: usize| format!("{at}{n:03}");
    let most = Txn {
        compares: (0..TXN_OPS_MAX).map(|n| Compare::Absent(key(n))).collect(),
        writes: (0..TXN_OPS_MAX).map(|n| put(key(n), "v")).collect(),
        marker: Some(key(0)),
    };
    let outcome = store.txn(most.clone()).await.unwrap();
    assert!(matches!(outcome, Committed::Yes(_)));
    assert_eq!(keys(&store, range(&at)).await.len(), TXN_OPS_MAX);
    let mut writes = most;
    writes.writes.push(put(key(TXN_OPS_MAX), "v"));
    let mut compares = txn(vec![Compare::Present(key(0)); TXN_OPS_MAX + 1], vec![]);
    compares.writes = vec![put(key(0), "w")];
    for txn in [writes, compares] {
        let error = store.txn(txn).await.unwrap_err();
        assert!(matches!(error, StoreError::TooLarge(_)), "{error}");
    }
}

pub async fn refuses_what_is_too_large(store: Arc<dyn Store>, at: String) {
    let fits = vec![7; 1_000_000];
    let key = format!("{at}k");
    write(&store, vec![put(&key, &fits)]).await;
    assert_eq!(value(&store, &key).await.unwrap(), fits);
    let large = txn(vec![], vec![put(&key, vec![7; 2_000_000])]);
    let error = store.txn(large).await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge(_)), "{error}");
    write(&store, vec![delete(&key)]).await;
}

pub async fn answers_with_a_marker(store: Arc<dyn Store>, at: String) {
    let marker = format!("{at}marker");
    let marked = Txn {
        compares: vec![Compare::Absent(marker.clone())],
        writes: vec![put(&marker, "unique"), put(format!("{at}k"), "v")],
        marker: Some(marker),
    };
    let first = store.txn(marked.clone()).await.unwrap();
    let Committed::Yes(revision) = first else {
        panic!("refused: {first:?}");
    };
    assert_eq!(store.txn(marked).await.unwrap(), Committed::No(revision));
}
