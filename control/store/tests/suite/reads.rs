//! Reading keys, now and as of a revision.

use super::*;

pub async fn gets_what_was_put(store: Arc<dyn Store>, at: String) {
    let key = format!("{at}k");
    let (none, before) = store.get(&key).await.unwrap();
    assert_eq!(none, None);
    let first = write(&store, vec![put(&key, "one")]).await;
    assert_eq!(first, before + 1);
    let second = write(&store, vec![put(&key, [0, 255, 1])]).await;
    let (entry, now) = store.get(&key).await.unwrap();
    let expected = Entry {
        key: key.clone(),
        value: vec![0, 255, 1],
        create_revision: first,
        mod_revision: second,
        lease: None,
    };
    assert_eq!((entry, now), (Some(expected), second));
    let third = write(&store, vec![delete(&key)]).await;
    assert_eq!(store.get(&key).await.unwrap(), (None, third));
    let fourth = write(&store, vec![put(&key, "")]).await;
    let entry = store.get(&key).await.unwrap().0.unwrap();
    assert_eq!((entry.create_revision, entry.value), (fourth, vec![]));
}

pub async fn lists_by_prefix_in_order(store: Arc<dyn Store>, at: String) {
    let names = ["b", "a/2", "a/10", "a", "ab", "ä", "z"];
    write(
        &store,
        names.iter().map(|n| put(format!("{at}{n}"), n)).collect(),
    )
    .await;
    let all = keys(&store, range(&at)).await;
    let mut expected: Vec<String> = names.iter().map(|n| format!("{at}{n}")).collect();
    expected.sort();
    assert_eq!(all, expected);
    let some = keys(&store, range(&format!("{at}a/"))).await;
    assert_eq!(some, [format!("{at}a/10"), format!("{at}a/2")]);
    assert!(keys(&store, range(&format!("{at}none"))).await.is_empty());
    let everything = keys(&store, range("")).await;
    assert!(expected.iter().all(|key| everything.contains(key)));
    let before = Range {
        after: Some("/".into()),
        ..range(&at)
    };
    assert_eq!(keys(&store, before).await, expected);
    let past = Range {
        after: Some(format!("{at}~~~~")),
        ..range(&format!("{at}a"))
    };
    assert!(keys(&store, past).await.is_empty());
}

pub async fn pages_at_one_revision(store: Arc<dyn Store>, at: String) {
    let mut expected = Vec::new();
    for chunk in 0..10 {
        let names: Vec<String> = (0..100)
            .map(|n| format!("{at}p/{:04}", chunk * 100 + n))
            .collect();
        write(&store, names.iter().map(|n| put(n, n)).collect()).await;
        expected.extend(names);
    }
    let mut found = Vec::new();
    let mut page = Range {
        limit: 333,
        ..range(&format!("{at}p/"))
    };
    loop {
        let got = store.list(page.clone()).await.unwrap();
        assert_eq!(*page.revision.get_or_insert(got.revision), got.revision);
        found.extend(got.entries.iter().map(|entry| entry.key.clone()));
        page.after = found.last().cloned();
        // What happens between the pages is not seen.
        let noise = format!("{at}p/{:04}x", found.len());
        write(&store, vec![put(noise, "x"), delete(&expected[999])]).await;
        if !got.more {
            break;
        }
    }
    assert_eq!(found, expected);
    let exact = Range {
        limit: 1000,
        revision: page.revision,
        ..range(&format!("{at}p/"))
    };
    let exact = store.list(exact).await.unwrap();
    assert_eq!((exact.entries.len(), exact.more), (1000, false));
}

pub async fn reads_the_past(store: Arc<dyn Store>, at: String) {
    let (a, b) = (format!("{at}a"), format!("{at}b"));
    let first = write(&store, vec![put(&a, "1")]).await;
    let second = write(&store, vec![put(&a, "2"), put(&b, "2")]).await;
    let third = write(&store, vec![delete(&a)]).await;
    for (revision, expected) in [
        (first - 1, vec![]),
        (first, vec![(a.clone(), b"1".to_vec())]),
        (second, vec![(a, b"2".to_vec()), (b.clone(), b"2".to_vec())]),
        (third, vec![(b, b"2".to_vec())]),
    ] {
        let past = Range {
            revision: Some(revision),
            ..range(&at)
        };
        let page = store.list(past).await.unwrap();
        let found: Vec<_> = page.entries.into_iter().map(|e| (e.key, e.value)).collect();
        assert_eq!((page.revision, found), (revision, expected));
    }
}

pub async fn leaves_values_out(store: Arc<dyn Store>, at: String) {
    let revision = write(&store, vec![put(format!("{at}k"), "long")]).await;
    let only = Range {
        keys_only: true,
        ..range(&at)
    };
    let entry = store.list(only).await.unwrap().entries.remove(0);
    assert_eq!(entry.value, b"");
    assert_eq!(entry.mod_revision, revision);
}

pub async fn refuses_the_future(store: Arc<dyn Store>, at: String) {
    let current = write(&store, vec![put(format!("{at}k"), "v")]).await;
    let future = Range {
        revision: Some(current + 100),
        ..range(&at)
    };
    let error = store.list(future).await.unwrap_err();
    let asked = current + 100;
    assert_eq!(error, StoreError::FutureRevision { asked, current });
}

pub async fn keeps_its_identity(store: Arc<dyn Store>, at: String) {
    let id = store.id().await.unwrap();
    assert!(!id.is_empty());
    write(&store, vec![put(format!("{at}k"), "v")]).await;
    assert_eq!(store.id().await.unwrap(), id);
}

pub async fn refuses_compacted_reads(store: Arc<dyn Store>, at: String) {
    let key = format!("{at}k");
    let mut revisions = Vec::new();
    for n in 0..5 {
        revisions.push(write(&store, vec![put(&key, [n])]).await);
    }
    store.compact(revisions[3]).await.unwrap();
    // Again, and less: nothing to do.
    store.compact(revisions[3]).await.unwrap();
    store.compact(revisions[1]).await.unwrap();
    for (n, revision) in revisions.iter().enumerate() {
        let past = Range {
            revision: Some(*revision),
            ..range(&at)
        };
        let result = store.list(past).await;
        if n >= 3 {
            assert_eq!(result.unwrap().entries[0].value, [u8::try_from(n).unwrap()]);
        } else if n < 2 {
            // The one just before may still be there.
            assert!(matches!(result, Err(StoreError::Compacted { .. })));
        }
    }
    let future = store.compact(revisions[4] + 100).await.unwrap_err();
    assert!(matches!(future, StoreError::FutureRevision { .. }));
    assert_eq!(value(&store, &key).await.unwrap(), [4]);
}
