//! The simulated store: the shared suite, and its faults.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use penstock_store::sim::{LostAnswer, SimStore};
use penstock_store::{Committed, Compare, Range, Store, StoreError, Txn, Watch, WatchItem, Write};
use tokio::time::{Instant, timeout};

mod suite;

const LONG: Duration = Duration::from_secs(60);

fn put(key: &str, value: &str) -> Write {
    Write::Put {
        key: key.to_owned(),
        value: value.as_bytes().to_vec(),
        lease: None,
    }
}

fn marked(key: &str) -> Txn {
    Txn {
        compares: vec![Compare::Absent(key.to_owned())],
        writes: vec![put(key, "mine")],
        marker: Some(key.to_owned()),
    }
}

fn unmarked(key: &str) -> Txn {
    Txn {
        writes: vec![put(key, "mine")],
        ..Txn::default()
    }
}

async fn next_revision(watch: &mut Box<dyn Watch>) -> i64 {
    loop {
        let next = timeout(LONG, watch.next()).await.expect("silent").unwrap();
        if let WatchItem::Changes { revision, .. } = next {
            return revision;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn conforms() {
    suite::run(Arc::new(SimStore::new(1))).await;
}

#[tokio::test(start_paused = true)]
async fn conforms_when_slow() {
    let store = SimStore::new(2);
    let ms = Duration::from_millis;
    store.set_latency(ms(1), ms(30));
    store.set_watch_latency(ms(1), ms(80));
    suite::run(store.client("c")).await;
}

#[tokio::test(start_paused = true)]
async fn tells_by_its_marker_what_a_lost_answer_was() {
    let store = SimStore::new(3);
    store.lose_next_answer(LostAnswer::Applied);
    store.lose_next_answer(LostAnswer::NotApplied);
    let applied = store.txn(marked("a")).await.unwrap();
    assert_eq!(applied, Committed::Yes(store.revision()));
    let lost = store.txn(marked("b")).await.unwrap_err();
    assert!(matches!(lost, StoreError::Unavailable(_)), "{lost}");
    assert_eq!(store.get("b").await.unwrap().0, None);

    store.lose_next_answer(LostAnswer::Applied);
    let unknown = store.txn(unmarked("c")).await.unwrap_err();
    assert!(matches!(unknown, StoreError::Unknown(_)), "{unknown}");
    assert!(store.get("c").await.unwrap().0.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_cut_on_the_way_back_leaves_it_unknown() {
    let store = SimStore::new(4);
    let second = Duration::from_secs(1);
    store.set_latency(second, second);
    let client = store.client("c");
    let request = tokio::spawn(async move { client.txn(marked("a")).await });
    tokio::time::sleep(Duration::from_millis(700)).await;
    store.partition("c", true);
    let error = request.await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Unknown(_)), "{error}");
    assert_eq!(store.dump().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_cut_off_fails_and_comes_back() {
    let store = SimStore::new(5);
    let (cut, other) = (store.client("cut"), store.client("other"));
    let mut watch = cut.watch("", 2).await.unwrap();
    store.partition("cut", true);
    let started = Instant::now();
    let error = cut.get("k").await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)));
    assert_eq!(started.elapsed(), Duration::from_secs(5));
    other.txn(marked("k")).await.unwrap();
    assert!(timeout(LONG, watch.next()).await.is_err());
    store.partition("cut", false);
    assert_eq!(next_revision(&mut watch).await, 2);
    assert!(cut.get("k").await.unwrap().0.is_some());
}

#[tokio::test(start_paused = true)]
async fn leases_do_not_end_while_it_is_down() {
    let store = SimStore::new(6);
    let lease = store.grant(Duration::from_secs(10)).await.unwrap();
    let put = Write::Put {
        key: "k".into(),
        value: vec![],
        lease: Some(lease),
    };
    let txn = Txn {
        writes: vec![put],
        ..Txn::default()
    };
    store.txn(txn).await.unwrap();
    store.set_available(false);
    tokio::time::sleep(LONG).await;
    store.set_available(true);
    store.keep_alive(lease).await.unwrap();
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(store.dump().is_empty());
}

#[tokio::test(start_paused = true)]
async fn watches_resume_after_a_disconnect_or_tell_what_they_missed() {
    let store = SimStore::new(7);
    let mut resumed = store.watch("", 2).await.unwrap();
    let mut late = store.watch("", 2).await.unwrap();
    store.put("a", b"1");
    assert_eq!(next_revision(&mut resumed).await, 2);
    store.disconnect_watches(Duration::from_secs(3));
    store.put("b", b"1");
    let started = Instant::now();
    assert_eq!(next_revision(&mut resumed).await, 3);
    assert_eq!(started.elapsed(), Duration::from_secs(3));
    store.compact_all();
    let error = late.next().await.unwrap_err();
    assert_eq!(error, StoreError::Compacted { oldest: 3 });
}

#[tokio::test(start_paused = true)]
async fn a_restored_store_is_another_one() {
    let store = SimStore::new(8);
    let id = store.id().await.unwrap();
    store.put("a", b"1");
    let snapshot = store.snapshot();
    store.put("a", b"2");
    let mut watch = store.watch("", 4).await.unwrap();
    store.restore(&snapshot);
    assert_eq!(store.revision(), snapshot.revision());
    assert_eq!(store.get("a").await.unwrap().0.unwrap().value, b"1");
    let found = store.id().await.unwrap();
    assert_ne!(found, id);
    let replaced = StoreError::Replaced {
        expected: id,
        found,
    };
    assert_eq!(watch.next().await.unwrap_err(), replaced);

    store.put("b", b"1");
    store.put("b", b"2");
    let mut watch = store.watch("", 5).await.unwrap();
    store.rewind(&snapshot);
    let behind = watch.next().await.unwrap_err();
    let expected = StoreError::FutureRevision {
        asked: 5,
        current: 2,
    };
    assert_eq!(behind, expected);
}

#[tokio::test(start_paused = true)]
async fn a_full_store_takes_deletes_only() {
    let store = SimStore::new(9);
    store.put("a", b"1");
    store.set_full(true);
    let error = store.txn(unmarked("b")).await.unwrap_err();
    assert!(matches!(error, StoreError::Full(_)));
    let delete = Txn {
        writes: vec![Write::Delete { key: "a".into() }],
        ..Txn::default()
    };
    assert_eq!(store.txn(delete).await.unwrap(), Committed::Yes(3));
    store.set_full(false);
    store.txn(unmarked("b")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_quiet_watch_tells_how_far_the_store_is() {
    let store = SimStore::new(10);
    let mut watch = store.watch("mine/", 2).await.unwrap();
    store.put("other", b"1");
    let item = timeout(LONG, watch.next()).await.unwrap().unwrap();
    assert_eq!(item, WatchItem::Progress { revision: 2 });
    assert!(timeout(LONG, watch.next()).await.is_err());
}

/// A run with every fault: what it ended with, and when.
async fn faulty_run(seed: u64) -> (Vec<penstock_store::Entry>, Vec<String>, Duration) {
    let started = Instant::now();
    let store = SimStore::new(seed);
    store.set_latency(Duration::from_millis(1), Duration::from_millis(90));
    store.set_lost_answers(0.3);
    let tasks: Vec<_> = (0..4)
        .map(|n| {
            let client = store.client(&format!("c{n}"));
            tokio::spawn(async move {
                let mut told = Vec::new();
                for k in 0..30 {
                    let outcome = client.txn(marked(&format!("{}", (k * 7 + n) % 60))).await;
                    told.push(format!("{outcome:?}"));
                }
                told
            })
        })
        .collect();
    let mut told = Vec::new();
    for task in tasks {
        told.extend(task.await.unwrap());
    }
    (store.dump(), told, started.elapsed())
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(faulty_run(seed))
    };
    let first = run(11);
    assert_eq!(first, run(11));
    assert_ne!(first, run(12));
    let all: Vec<_> = first
        .1
        .iter()
        .filter(|t| t.contains("Unavailable"))
        .collect();
    assert!(!all.is_empty());
}

#[tokio::test(start_paused = true)]
async fn lists_nothing_when_down() {
    let store = SimStore::new(13);
    store.set_available(false);
    let error = store.list(Range::default()).await.unwrap_err();
    assert_eq!(error.kind(), "unavailable");
}
