//! Random requests to the simulated and the embedded store do what a simple model says.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;

use penstock_store::embedded::{EmbeddedConfig, EmbeddedStore};
use penstock_store::sim::SimStore;
use penstock_store::{
    Change, Committed, Compare, Entry, Range, Revision, Store, StoreError, Txn, WatchItem, Write,
};
use proptest::prelude::*;

/// A key, and what it is after a change.
type KeyChange = (String, Option<Entry>);

/// Every state the store was in, by revision.
struct Model {
    states: BTreeMap<Revision, BTreeMap<String, Entry>>,
    oldest: Revision,
}

#[derive(Clone, Debug)]
enum Op {
    Txn(Txn),
    List(Range),
    Compact(u8),
    Restart,
    Watch(String, u8),
}

impl Model {
    fn new() -> Self {
        Self {
            states: BTreeMap::from([(1, BTreeMap::new())]),
            oldest: 1,
        }
    }

    fn revision(&self) -> Revision {
        *self.states.last_key_value().unwrap().0
    }

    fn holds(&self, compare: &Compare) -> bool {
        let now = &self.states[&self.revision()];
        match compare {
            Compare::Absent(key) => !now.contains_key(key),
            Compare::Present(key) => now.contains_key(key),
            Compare::ModRevision(key, r) => now.get(key).map_or(0, |e| e.mod_revision) == *r,
            Compare::CreateRevision(key, r) => now.get(key).map_or(0, |e| e.create_revision) == *r,
            Compare::Value(key, value) => now.get(key).is_some_and(|e| e.value == *value),
        }
    }

    fn txn(&mut self, txn: &Txn) -> Committed {
        let before = self.revision();
        if !txn.compares.iter().all(|compare| self.holds(compare)) {
            return Committed::No(before);
        }
        let mut state = self.states[&before].clone();
        let revision = before + 1;
        let mut changed = false;
        for write in &txn.writes {
            match write {
                Write::Put { key, value, .. } => {
                    let created = state.get(key).map_or(revision, |e| e.create_revision);
                    let entry = Entry {
                        key: key.clone(),
                        value: value.clone(),
                        create_revision: created,
                        mod_revision: revision,
                        lease: None,
                    };
                    state.insert(key.clone(), entry);
                    changed = true;
                }
                Write::Delete { key } => changed |= state.remove(key).is_some(),
            }
        }
        if changed {
            self.states.insert(revision, state);
        }
        Committed::Yes(self.revision())
    }

    fn list(&self, range: &Range) -> Result<(Vec<Entry>, bool), StoreError> {
        let asked = range.revision.unwrap_or(self.revision());
        if asked > self.revision() {
            let current = self.revision();
            return Err(StoreError::FutureRevision { asked, current });
        }
        if asked < self.oldest {
            return Err(StoreError::Compacted {
                oldest: self.oldest,
            });
        }
        let mut found: Vec<Entry> = self.states[&asked]
            .values()
            .filter(|e| e.key.starts_with(&range.prefix))
            .filter(|e| range.after.as_ref().is_none_or(|after| e.key > *after))
            .cloned()
            .collect();
        let more = range.limit > 0 && found.len() > range.limit;
        if more {
            found.truncate(range.limit);
        }
        Ok((found, more))
    }

    /// Keys changed at each revision from `from` on, with what they are after.
    fn changes(&self, prefix: &str, from: Revision) -> Vec<(Revision, Vec<KeyChange>)> {
        let mut all = Vec::new();
        for revision in from.max(2)..=self.revision() {
            let (before, after) = (&self.states[&(revision - 1)], &self.states[&revision]);
            let mut changes: Vec<(String, Option<Entry>)> = before
                .keys()
                .filter(|key| !after.contains_key(*key))
                .map(|key| (key.clone(), None))
                .collect();
            let put = after.values().filter(|e| e.mod_revision == revision);
            changes.extend(put.map(|e| (e.key.clone(), Some(e.clone()))));
            changes.retain(|(key, _)| key.starts_with(prefix));
            changes.sort_by(|a, b| a.0.cmp(&b.0));
            if !changes.is_empty() {
                all.push((revision, changes));
            }
        }
        all
    }
}

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "a/1", "a/2", "ab", "b", "b/1", "c"]).prop_map(str::to_owned)
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0..3_u8, 0..2)
}

fn compare() -> impl Strategy<Value = Compare> {
    prop_oneof![
        key().prop_map(Compare::Absent),
        key().prop_map(Compare::Present),
        (key(), 0..20_i64).prop_map(|(key, r)| Compare::ModRevision(key, r)),
        (key(), 0..20_i64).prop_map(|(key, r)| Compare::CreateRevision(key, r)),
        (key(), value()).prop_map(|(key, value)| Compare::Value(key, value)),
    ]
}

fn txn() -> impl Strategy<Value = Txn> {
    let writes = prop::collection::btree_map(key(), prop::option::weighted(0.7, value()), 0..4);
    (prop::collection::vec(compare(), 0..2), writes).prop_map(|(compares, writes)| Txn {
        compares,
        writes: writes
            .into_iter()
            .map(|(key, value)| match value {
                Some(value) => Write::Put {
                    key,
                    value,
                    lease: None,
                },
                None => Write::Delete { key },
            })
            .collect(),
        marker: None,
    })
}

fn op() -> impl Strategy<Value = Op> {
    let prefix = prop::sample::select(vec!["", "a", "a/", "b", "none"]).prop_map(str::to_owned);
    let revision = prop::option::of(1..25_i64);
    let list = (
        prefix.clone(),
        prop::option::of(key()),
        0..4_usize,
        revision,
    )
        .prop_map(|(prefix, after, limit, revision)| Range {
            prefix,
            after,
            limit,
            revision,
            keys_only: false,
        });
    prop_oneof![
        12 => txn().prop_map(Op::Txn),
        4 => list.prop_map(Op::List),
        1 => (0..8_u8).prop_map(Op::Compact),
        1 => Just(Op::Restart),
        2 => (prefix, 0..12_u8).prop_map(|(prefix, back)| Op::Watch(prefix, back)),
    ]
}

async fn check_watch(store: &dyn Store, model: &Model, prefix: &str, from: Revision) {
    let watch = store.watch(prefix, from).await;
    if from.max(1) < model.oldest {
        let oldest = model.oldest;
        assert_eq!(watch.err(), Some(StoreError::Compacted { oldest }));
        return;
    }
    let mut watch = watch.unwrap();
    for (revision, expected) in model.changes(prefix, from) {
        let WatchItem::Changes {
            revision: found,
            changes,
        } = watch.next().await.unwrap()
        else {
            panic!("progress before a change");
        };
        let changes: Vec<_> = changes
            .into_iter()
            .map(|change| match change {
                Change::Put { entry, .. } => (entry.key.clone(), Some(entry)),
                Change::Delete { key, .. } => (key, None),
            })
            .collect();
        assert_eq!((found, changes), (revision, expected));
    }
}

async fn check(store: &dyn Store, model: &mut Model, op: &Op) {
    match op {
        Op::Txn(txn) => assert_eq!(store.txn(txn.clone()).await.unwrap(), model.txn(txn)),
        Op::List(range) => {
            let found = store.list(range.clone()).await;
            let found = found.map(|page| (page.entries, page.more));
            assert_eq!(found, model.list(range));
        }
        Op::Compact(back) => {
            let revision = (model.revision() - Revision::from(*back)).max(1);
            store.compact(revision).await.unwrap();
            model.oldest = model.oldest.max(revision);
        }
        Op::Watch(prefix, back) => {
            let from = (model.revision() + 1 - Revision::from(*back)).max(1);
            check_watch(store, model, prefix, from).await;
        }
        Op::Restart => {}
    }
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn the_simulated_store_does_as_the_model(ops in prop::collection::vec(op(), 1..50)) {
        runtime().block_on(async {
            let store = SimStore::new(1);
            let mut model = Model::new();
            for op in &ops {
                if matches!(op, Op::Restart) {
                    store.rewind(&store.snapshot());
                }
                check(&store, &mut model, op).await;
            }
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn the_embedded_store_does_as_the_model(ops in prop::collection::vec(op(), 1..50)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        runtime().block_on(async {
            let mut store = EmbeddedStore::open(EmbeddedConfig::new(&path)).await.unwrap();
            let mut model = Model::new();
            for op in &ops {
                if matches!(op, Op::Restart) {
                    store.close().await;
                    store = EmbeddedStore::open(EmbeddedConfig::new(&path)).await.unwrap();
                }
                check(&store, &mut model, op).await;
            }
        });
    }
}
