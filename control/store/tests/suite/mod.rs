//! What every store must do, whichever it is. Each case has its own keys, so that they can share
//! one store, one after the other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use penstock_store::{
    Change, Committed, Compare, Entry, LeaseId, Range, Revision, Store, StoreError, TXN_OPS_MAX,
    Txn, Watch, WatchItem, Write,
};
use tokio::time::{Instant, sleep, timeout};

mod leases;
mod reads;
mod txns;
mod watches;

type Case = fn(Arc<dyn Store>, String) -> Pin<Box<dyn Future<Output = ()> + Send>>;

macro_rules! cases {
    ($($module:ident::$name:ident),* $(,)?) => {
        &[$((stringify!($name), |store, at| Box::pin($module::$name(store, at)))),*]
    };
}

const CASES: &[(&str, Case)] = cases![
    reads::gets_what_was_put,
    reads::lists_by_prefix_in_order,
    reads::pages_at_one_revision,
    reads::reads_the_past,
    reads::leaves_values_out,
    reads::refuses_the_future,
    reads::keeps_its_identity,
    reads::refuses_compacted_reads,
    txns::compares_absent_and_present,
    txns::compares_revisions,
    txns::compares_values,
    txns::writes_all_or_nothing,
    txns::one_revision_per_transaction,
    txns::changes_nothing_without_writes,
    txns::counts_without_losing,
    txns::refuses_malformed,
    txns::takes_the_most_operations,
    txns::refuses_what_is_too_large,
    txns::answers_with_a_marker,
    watches::tells_from_now_on,
    watches::tells_the_past,
    watches::groups_by_revision,
    watches::keeps_to_its_prefix,
    watches::tells_what_was_before,
    watches::follows_a_writer,
    watches::refuses_the_compacted_past,
    watches::starts_at_the_compacted_revision,
    watches::refuses_the_future,
    watches::sends_large_revisions_whole,
    leases::end_with_their_keys,
    leases::last_while_renewed,
    leases::can_be_revoked,
    leases::refuse_when_gone,
    leases::let_go_of_rewritten_keys,
];

/// Runs every case.
pub async fn run(store: Arc<dyn Store>) {
    for (number, (name, case)) in CASES.iter().enumerate() {
        let started = Instant::now();
        case(Arc::clone(&store), format!("/suite/{number:02}/")).await;
        println!("{name}: {:?}", started.elapsed());
    }
}

fn put(key: impl Into<String>, value: impl AsRef<[u8]>) -> Write {
    Write::Put {
        key: key.into(),
        value: value.as_ref().to_vec(),
        lease: None,
    }
}

fn put_leased(key: impl Into<String>, lease: LeaseId) -> Write {
    Write::Put {
        key: key.into(),
        value: b"leased".to_vec(),
        lease: Some(lease),
    }
}

fn delete(key: impl Into<String>) -> Write {
    Write::Delete { key: key.into() }
}

fn txn(compares: Vec<Compare>, writes: Vec<Write>) -> Txn {
    Txn {
        compares,
        writes,
        marker: None,
    }
}

async fn write(store: &Arc<dyn Store>, writes: Vec<Write>) -> Revision {
    match store.txn(txn(vec![], writes)).await.unwrap() {
        Committed::Yes(revision) => revision,
        Committed::No(_) => panic!("a transaction without conditions was refused"),
    }
}

async fn holds(store: &Arc<dyn Store>, compare: Compare) -> bool {
    let outcome = store.txn(txn(vec![compare], vec![])).await.unwrap();
    matches!(outcome, Committed::Yes(_))
}

async fn value(store: &Arc<dyn Store>, key: &str) -> Option<Vec<u8>> {
    store.get(key).await.unwrap().0.map(|entry| entry.value)
}

async fn revision(store: &Arc<dyn Store>) -> Revision {
    store.get("/suite/none").await.unwrap().1
}

fn range(prefix: &str) -> Range {
    Range {
        prefix: prefix.to_owned(),
        ..Range::default()
    }
}

async fn keys(store: &Arc<dyn Store>, range: Range) -> Vec<String> {
    let page = store.list(range).await.unwrap();
    page.entries.into_iter().map(|entry| entry.key).collect()
}

/// The next changes, past what tells of progress only.
async fn changes(watch: &mut Box<dyn Watch>) -> (Revision, Vec<Change>) {
    loop {
        let next = timeout(Duration::from_secs(20), watch.next());
        match next.await.expect("a watch is silent").unwrap() {
            WatchItem::Changes { revision, changes } => return (revision, changes),
            WatchItem::Progress { .. } => {}
        }
    }
}

/// The error of a watch, from its start or its first item.
async fn watch_error(store: &Arc<dyn Store>, prefix: &str, from: Revision) -> StoreError {
    match store.watch(prefix, from).await {
        Err(error) => error,
        Ok(mut watch) => timeout(Duration::from_secs(20), watch.next())
            .await
            .expect("a watch that must fail is silent")
            .unwrap_err(),
    }
}

fn changed_key(change: &Change) -> &str {
    match change {
        Change::Put { entry, .. } => &entry.key,
        Change::Delete { key, .. } => key,
    }
}
