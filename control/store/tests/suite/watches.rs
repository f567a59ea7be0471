//! Watches.

use super::*;

pub async fn tells_from_now_on(store: Arc<dyn Store>, at: String) {
    let key = format!("{at}k");
    let now = write(&store, vec![put(&key, "before")]).await;
    let mut watch = store.watch(&at, now + 1).await.unwrap();
    let next = write(&store, vec![put(&key, "after")]).await;
    let (revision, told) = changes(&mut watch).await;
    assert_eq!(revision, next);
    let Change::Put { entry, .. } = &told[0] else {
        panic!("{told:?}");
    };
    assert_eq!(
        (entry.mod_revision, &entry.value[..]),
        (next, &b"after"[..])
    );
}

pub async fn tells_the_past(store: Arc<dyn Store>, at: String) {
    let key = format!("{at}k");
    let mut revisions = Vec::new();
    for n in 0..20_u8 {
        revisions.push(write(&store, vec![put(&key, [n])]).await);
    }
    revisions.push(write(&store, vec![delete(&key)]).await);
    let mut watch = store.watch(&at, revisions[5]).await.unwrap();
    for expected in &revisions[5..] {
        assert_eq!(changes(&mut watch).await.0, *expected);
    }
    revisions.push(write(&store, vec![put(&key, "new")]).await);
    assert_eq!(changes(&mut watch).await.0, revisions[21]);
}

pub async fn groups_by_revision(store: Arc<dyn Store>, at: String) {
    let (a, b, c) = (format!("{at}a"), format!("{at}b"), format!("{at}c"));
    let first = write(&store, vec![put(&c, "1"), put(&a, "1"), put(&b, "1")]).await;
    let second = write(&store, vec![delete(&b), put(&a, "2")]).await;
    let mut watch = store.watch(&at, first).await.unwrap();
    for (expected, keys) in [(first, vec![&a, &b, &c]), (second, vec![&a, &b])] {
        let (revision, told) = changes(&mut watch).await;
        let told: Vec<&str> = told.iter().map(changed_key).collect();
        assert_eq!(
            (revision, told),
            (expected, keys.iter().map(|k| k.as_str()).collect())
        );
    }
}

pub async fn keeps_to_its_prefix(store: Arc<dyn Store>, at: String) {
    let from = revision(&store).await + 1;
    let mut watch = store.watch(&format!("{at}in/"), from).await.unwrap();
    write(&store, vec![put(format!("{at}in"), "out")]).await;
    write(&store, vec![put(format!("{at}io/x"), "out")]).await;
    let both = vec![put(format!("{at}in/x"), "in"), put(format!("{at}x"), "out")];
    let expected = write(&store, both).await;
    let (revision, told) = changes(&mut watch).await;
    assert_eq!((revision, told.len()), (expected, 1));
    assert_eq!(changed_key(&told[0]), format!("{at}in/x"));
}

pub async fn tells_what_was_before(store: Arc<dyn Store>, at: String) {
    let key = format!("{at}k");
    let first = write(&store, vec![put(&key, "1")]).await;
    let second = write(&store, vec![put(&key, "2")]).await;
    let third = write(&store, vec![delete(&key)]).await;
    let entry = |value: &[u8], mod_revision| Entry {
        key: key.clone(),
        value: value.to_vec(),
        create_revision: first,
        mod_revision,
        lease: None,
    };
    let mut watch = store.watch(&at, first).await.unwrap();
    for (revision, change) in [
        (
            first,
            Change::Put {
                entry: entry(b"1", first),
                previous: None,
            },
        ),
        (
            second,
            Change::Put {
                entry: entry(b"2", second),
                previous: Some(entry(b"1", first)),
            },
        ),
        (
            third,
            Change::Delete {
                key: key.clone(),
                revision: third,
                previous: Some(entry(b"2", second)),
            },
        ),
    ] {
        assert_eq!(changes(&mut watch).await, (revision, vec![change]));
    }
}

pub async fn follows_a_writer(store: Arc<dyn Store>, at: String) {
    let from = revision(&store).await + 1;
    let mut watch = store.watch(&at, from).await.unwrap();
    let writer = {
        let (store, at) = (Arc::clone(&store), at.clone());
        tokio::spawn(async move {
            let mut revisions = Vec::new();
            for n in 0..100_u8 {
                revisions.push(write(&store, vec![put(format!("{at}{}", n % 7), [n])]).await);
            }
            revisions
        })
    };
    let mut told = Vec::new();
    while told.len() < 100 {
        told.push(changes(&mut watch).await.0);
    }
    assert_eq!(told, writer.await.unwrap());
}

pub async fn refuses_the_compacted_past(store: Arc<dyn Store>, at: String) {
    let key = format!("{at}k");
    let first = write(&store, vec![put(&key, "1")]).await;
    for n in 0..5_u8 {
        write(&store, vec![put(&key, [n])]).await;
    }
    let now = revision(&store).await;
    store.compact(now).await.unwrap();
    let error = watch_error(&store, &at, first).await;
    let StoreError::Compacted { oldest } = error else {
        panic!("{error}");
    };
    assert!(oldest > first && oldest <= now, "{oldest} {first} {now}");
    // What the message says to do works.
    let page = store.list(range(&at)).await.unwrap();
    let mut watch = store.watch(&at, page.revision + 1).await.unwrap();
    let next = write(&store, vec![put(&key, "next")]).await;
    assert_eq!(changes(&mut watch).await.0, next);
}

pub async fn starts_at_the_compacted_revision(store: Arc<dyn Store>, at: String) {
    let (a, b) = (format!("{at}a"), format!("{at}b"));
    write(&store, vec![put(&a, "1"), put(&b, "1")]).await;
    let now = write(&store, vec![delete(&a), put(&b, "2")]).await;
    store.compact(now).await.unwrap();
    let mut watch = store.watch(&at, now).await.unwrap();
    let (revision, told) = changes(&mut watch).await;
    let told: Vec<&str> = told.iter().map(changed_key).collect();
    assert_eq!((revision, told), (now, vec![a.as_str(), b.as_str()]));
}

pub async fn refuses_the_future(store: Arc<dyn Store>, at: String) {
    let current = write(&store, vec![put(format!("{at}k"), "v")]).await;
    let error = watch_error(&store, &at, current + 100).await;
    assert!(
        matches!(error, StoreError::FutureRevision { asked, .. } if asked >= current + 99),
        "{error}"
    );
}

pub async fn sends_large_revisions_whole(store: Arc<dyn Store>, at: String) {
    const EACH: usize = 9_000;
    let from = revision(&store).await + 1;
    let all = |fill: u8| {
        let keys = (0..TXN_OPS_MAX).map(|n| format!("{at}{n:03}"));
        keys.map(|key| put(key, vec![fill; EACH]))
            .collect::<Vec<_>>()
    };
    let first = write(&store, all(1)).await;
    let second = write(&store, all(2)).await;
    let mut watch = store.watch(&at, from).await.unwrap();
    for expected in [first, second] {
        let (revision, told) = changes(&mut watch).await;
        assert_eq!((revision, told.len()), (expected, TXN_OPS_MAX));
    }
}
