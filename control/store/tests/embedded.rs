//! The embedded store: the shared suite, and what a file adds to it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use penstock_store::embedded::{EmbeddedConfig, EmbeddedStore};
use penstock_store::{Committed, Range, Store, StoreError, Txn, Watch, WatchItem, Write};
use tokio::time::timeout;

mod suite;

/// Tells a child process of [`acknowledged_writes_survive_a_kill`] which file to write.
const CHILD_FILE: &str = "STORE_TEST_CHILD_FILE";

async fn open(path: &Path) -> EmbeddedStore {
    EmbeddedStore::open(EmbeddedConfig::new(path))
        .await
        .unwrap()
}

fn put(key: &str, value: &[u8]) -> Txn {
    let put = Write::Put {
        key: key.to_owned(),
        value: value.to_vec(),
        lease: None,
    };
    Txn {
        writes: vec![put],
        ..Txn::default()
    }
}

async fn next_revision(watch: &mut Box<dyn Watch>) -> i64 {
    loop {
        let next = timeout(Duration::from_secs(20), watch.next()).await;
        if let WatchItem::Changes { revision, .. } = next.expect("silent").unwrap() {
            return revision;
        }
    }
}

async fn all(store: &dyn Store) -> Vec<penstock_store::Entry> {
    store.list(Range::default()).await.unwrap().entries
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let folder = tempfile::tempdir().unwrap();
    suite::run(Arc::new(open(&folder.path().join("s")).await)).await;
}

#[tokio::test]
async fn is_the_same_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let store = open(&path).await;
    let id = store.id().await.unwrap();
    for n in 0..20_u8 {
        let key = format!("k{}", n % 3);
        store.txn(put(&key, &[n])).await.unwrap();
    }
    let delete = Write::Delete { key: "k1".into() };
    let delete = Txn {
        writes: vec![delete],
        ..Txn::default()
    };
    let last = store.txn(delete).await.unwrap();
    store.compact(8).await.unwrap();
    let before = all(&store).await;
    let mut pasts = Vec::new();
    let past = |revision| Range {
        revision: Some(revision),
        ..Range::default()
    };
    for revision in 8..=22 {
        pasts.push(store.list(past(revision)).await.unwrap());
    }
    store.close().await;
    let closed = store.txn(put("k", b"v")).await.unwrap_err();
    assert!(matches!(closed, StoreError::Unavailable(_)), "{closed}");
    assert!(store.get("k0").await.is_err());

    let store = open(&path).await;
    assert_eq!(store.id().await.unwrap(), id);
    assert_eq!(all(&store).await, before);
    assert_eq!(Committed::Yes(store.get("k0").await.unwrap().1), last);
    for (revision, expected) in (8..=22).zip(pasts) {
        assert_eq!(store.list(past(revision)).await.unwrap(), expected);
    }
    let error = store.list(past(7)).await.unwrap_err();
    assert_eq!(error, StoreError::Compacted { oldest: 8 });
    let mut watch = store.watch("k1", 8).await.unwrap();
    for expected in [9, 12, 15, 18, 21, 22] {
        assert_eq!(next_revision(&mut watch).await, expected);
    }
}

#[tokio::test]
async fn leases_get_their_full_time_after_a_restart_and_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let store = open(&path).await;
    let kept = store.grant(Duration::from_secs(3600)).await.unwrap();
    let short = store.grant(Duration::from_millis(300)).await.unwrap();
    for (key, lease) in [("kept", kept), ("short", short)] {
        let mut txn = put(key, b"v");
        txn.writes = vec![Write::Put {
            key: key.into(),
            value: vec![],
            lease: Some(lease),
        }];
        store.txn(txn).await.unwrap();
    }
    store.close().await;
    let store = open(&path).await;
    let mut watch = store.watch("", 4).await.unwrap();
    assert_eq!(all(&store).await.len(), 2);
    assert_eq!(next_revision(&mut watch).await, 4);
    store.keep_alive(kept).await.unwrap();
    let error = store.keep_alive(short).await.unwrap_err();
    assert_eq!(error, StoreError::LeaseExpired);
    store.close().await;
    let store = open(&path).await;
    store.revoke(kept).await.unwrap();
    assert!(all(&store).await.is_empty());
    assert!(store.revoke(short).await.is_err());
}

#[tokio::test]
async fn keeps_as_much_history_as_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = EmbeddedConfig::new(folder.path().join("s"));
    config.history_revisions = 16;
    let store = EmbeddedStore::open(config).await.unwrap();
    for n in 0..100_u8 {
        store.txn(put("k", &[n])).await.unwrap();
    }
    let error = store.watch("", 60).await.err().unwrap();
    assert!(matches!(error, StoreError::Compacted { .. }), "{error}");
    let mut watch = store.watch("", 101 - 15).await.unwrap();
    assert_eq!(next_revision(&mut watch).await, 86);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_share_commits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let store = Arc::new(open(&path).await);
    let writers: Vec<_> = (0..64)
        .map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for k in 0..20 {
                    store.txn(put(&format!("{n}/{k}"), b"v")).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    store.close().await;
    let store = open(&path).await;
    assert_eq!(all(&store).await.len(), 64 * 20);
    assert_eq!(store.get("0/0").await.unwrap().1, 1 + 64 * 20);
}

#[tokio::test]
async fn a_watch_is_over_when_the_store_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("s")).await;
    let mut watch = store.watch("", 2).await.unwrap();
    let waiting = tokio::spawn(async move { watch.next().await });
    store.close().await;
    let error = waiting.await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
}

async fn open_error(path: &Path) -> String {
    let error = EmbeddedStore::open(EmbeddedConfig::new(path)).await;
    error.expect_err("it opens").to_string()
}

#[tokio::test]
async fn says_why_it_does_not_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let store = open(&path).await;
    let error = open_error(&path).await;
    assert!(
        error.contains("in use by another penstock-control"),
        "{error}"
    );
    store.close().await;
    open(&path).await.close().await;

    let error = open_error(&folder.path().join("none/s")).await;
    assert!(error.contains("folder does not exist"), "{error}");
    let text = folder.path().join("text");
    std::fs::write(&text, "not a store ".repeat(1000)).unwrap();
    let error = open_error(&text).await;
    assert!(
        error.contains("damaged") && error.contains("backup"),
        "{error}"
    );
    assert_eq!(std::fs::read(&text).unwrap().len(), 12_000);
}

#[tokio::test]
async fn never_serves_a_damaged_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let store = open(&path).await;
    for n in 0..300 {
        let value = format!("value {n} ").repeat(40);
        store
            .txn(put(&format!("key/{n:04}"), value.as_bytes()))
            .await
            .unwrap();
    }
    let expected = all(&store).await;
    store.close().await;
    let good = std::fs::read(&path).unwrap();
    let mut refused = 0;
    for part in 0..24 {
        let mut bad = good.clone();
        let at = bad.len() * part / 24;
        for byte in &mut bad[at..at + 64] {
            *byte ^= 0x55;
        }
        let damaged = folder.path().join(format!("bad{part}"));
        std::fs::write(&damaged, &bad).unwrap();
        match EmbeddedStore::open(EmbeddedConfig::new(&damaged)).await {
            // The damage hit a page that is not in use, or redb repaired it.
            Ok(store) => assert_eq!(all(&store).await, expected, "part {part}"),
            Err(error) => {
                assert!(error.to_string().contains("damaged"), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
    let short = folder.path().join("short");
    std::fs::write(&short, &good[..good.len() / 2]).unwrap();
    let error = open_error(&short).await;
    assert!(error.contains("damaged"), "{error}");
}

/// Tells a child process of [`a_full_disk_loses_nothing`] which file to write.
const CHILD_OF_FULL: &str = "STORE_TEST_FULL_FILE";

/// Not a test by itself: what the child of the next one does, whose files cannot grow for long.
#[tokio::test]
async fn child_fills_its_disk() {
    let Some(path) = std::env::var_os(CHILD_OF_FULL) else {
        println!("skipped: only as a child of a_full_disk_loses_nothing");
        return;
    };
    let store = open(Path::new(&path)).await;
    let mut written = 0;
    let error = loop {
        match store.txn(put(&format!("{written}"), &[7; 100_000])).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Full(_)), "{error}");
    let entries = all(&store).await;
    assert_eq!(entries.len(), written);
    assert_eq!(store.get(&format!("{written}")).await.unwrap().0, None);
    println!("written {written}");
}

#[tokio::test]
async fn a_full_disk_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let child = Command::new("sh")
        .arg("-c")
        // Without the signal, writing past the limit is an error as of a full disk.
        .arg("trap '' XFSZ; ulimit -f 20000; exec \"$0\" \"$@\"")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child_fills_its_disk", "--nocapture"])
        .env(CHILD_OF_FULL, &path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned();
    let complained = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{said}\n{complained}");
    let (_, written) = said.split_once("written ").unwrap();
    let written: usize = written.lines().next().unwrap().parse().unwrap();
    assert!(written > 10, "{written}");
    let store = open(&path).await;
    let entries = all(&store).await;
    assert_eq!(entries.len(), written);
    // With room again it goes on.
    store.txn(put("more", &[7; 1_000_000])).await.unwrap();
}

/// Not a test by itself: what the child of the next one does.
#[tokio::test]
async fn child_writes_until_killed() {
    let Some(path) = std::env::var_os(CHILD_FILE) else {
        println!("skipped: only as a child of acknowledged_writes_survive_a_kill");
        return;
    };
    let store = Arc::new(open(Path::new(&path)).await);
    for writer in 0..8 {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for n in 0_u64.. {
                let key = format!("{writer}/{n}");
                let Committed::Yes(revision) = store.txn(put(&key, b"v")).await.unwrap() else {
                    unreachable!("it has no conditions");
                };
                let mut out = std::io::stdout().lock();
                writeln!(out, "ack {key} {revision}").unwrap();
                out.flush().unwrap();
            }
        });
    }
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn acknowledged_writes_survive_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let mut acknowledged = Vec::new();
    for round in 0..5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_writes_until_killed", "--nocapture"])
            .env(CHILD_FILE, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        let mut note = |line: &str, all: &mut Vec<(String, i64)>| {
            // The harness writes the test's name before the first of them.
            let Some((_, ack)) = line.split_once("ack ") else {
                return;
            };
            if let Some((key, revision)) = ack.split_once(' ') {
                all.push((key.to_owned(), revision.parse().unwrap()));
                seen += 1;
            }
        };
        let wanted = acknowledged.len() + 100 + round * 37;
        while acknowledged.len() < wanted {
            let line = lines.next().expect("the child ended").unwrap();
            note(&line, &mut acknowledged);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // A line that the kill cut short was not acknowledged in full.
        let rest: Vec<String> = lines.map_while(Result::ok).collect();
        for line in rest.iter().take(rest.len().saturating_sub(1)) {
            note(line, &mut acknowledged);
        }
        assert!(seen >= 100);
        let store = open(&path).await;
        let current = store.get("none").await.unwrap().1;
        for (key, revision) in &acknowledged {
            let past = Range {
                prefix: key.clone(),
                revision: Some(*revision),
                ..Range::default()
            };
            assert!(*revision <= current);
            let found = store.list(past).await.unwrap().entries;
            assert!(
                found
                    .iter()
                    .any(|e| e.key == *key && e.mod_revision == *revision),
                "{key} of revision {revision} is gone"
            );
            assert!(store.get(key).await.unwrap().0.is_some());
        }
        store.close().await;
    }
}
