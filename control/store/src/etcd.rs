//! A store on an etcd cluster, version 3.4 or newer: for any number of control servers.
//!
//! Reads are linearizable and tried again on another member when one fails. A transaction is never
//! sent twice unless the first certainly did not happen. After a lost answer a transaction with a
//! marker is settled: first a fence goes up that keeps it from happening late (every such
//! transaction compares the fence of its sender), then the marker tells.

mod config;
mod failure;
mod link;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Compare as EtcdCompare, CompareOp, GetOptions, GetResponse, KeyValue, PutOptions,
    ResponseHeader, Txn as EtcdTxn, TxnOp, TxnOpResponse, TxnResponse, WatchOptions,
};
use tokio::time::{Instant, sleep, timeout};

use crate::check::{check_txn, marker_value};
use crate::{
    Committed, Compare, Entry, LeaseId, Page, Range, Revision, Store, StoreError, TXN_OPS_MAX, Txn,
    Watch, Write,
};
pub use config::{CONNECT_TIMEOUT, EtcdConfig, FENCE_PREFIX, REQUEST_TIMEOUT};
use failure::Failure;
use link::{Backoff, Link};
use watch::EtcdWatch;

/// Entries asked for at once; more are put together from several answers.
const CHUNK: usize = 1000;
/// How long a fence stays: no request waits anywhere for longer.
const FENCE_TIME: Duration = Duration::from_secs(3600);
/// How long finding out how far history is compacted may take.
const OLDEST_TIMEOUT: Duration = Duration::from_secs(1);

/// A store on an etcd cluster.
pub struct EtcdStore {
    /// Its own key is that of this client's fence.
    link: Arc<Link>,
    /// Revision of this client's fence; 0: there is none.
    fence: AtomicI64,
    /// The highest revision seen so far.
    seen: AtomicI64,
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("EtcdStore")
            .field("fence", &self.link.own_key)
            .finish_non_exhaustive()
    }
}

impl EtcdStore {
    /// Connects to a cluster.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where no member answers, [`StoreError::Denied`] where etcd
    /// refuses the user, [`StoreError::Internal`] where the settings are wrong.
    pub async fn connect(config: EtcdConfig) -> Result<Self, StoreError> {
        let fence_key = format!("{}{}", config.fence_prefix, uuid::Uuid::new_v4());
        let store = Self {
            link: Arc::new(Link::new(&config, fence_key)?),
            fence: AtomicI64::new(0),
            seen: AtomicI64::new(0),
        };
        store.id().await?;
        Ok(store)
    }

    fn see(&self, header: Option<&ResponseHeader>) -> Revision {
        let revision = header.map_or(0, ResponseHeader::revision);
        self.seen.fetch_max(revision, Ordering::Relaxed);
        revision
    }

    /// Sends a transaction until it is certain or unknown what became of it.
    async fn send(&self, txn: &Txn) -> Result<Committed, Failure> {
        let deadline = Instant::now() + self.link.request_timeout;
        let fenced = marker_value(txn).is_some() && txn.compares.len() < TXN_OPS_MAX;
        let mut backoff = Backoff::new();
        loop {
            let fence = self.fence.load(Ordering::Relaxed);
            let fence = fenced.then_some((self.link.own_key.as_str(), fence));
            let left = deadline.saturating_duration_since(Instant::now());
            let sent = self
                .link
                .attempt(left, |client| async move {
                    client.kv_client().txn(translate(txn, fence)).await
                })
                .await;
            let failure = match sent {
                Ok(answer) => {
                    let revision = self.see(answer.header());
                    if answer.succeeded() {
                        return Ok(Committed::Yes(revision));
                    }
                    match fence.and_then(|(_, sent)| moved_fence(&answer, sent)) {
                        None => return Ok(Committed::No(revision)),
                        // It was refused for the fence's sake only, perhaps.
                        Some(now) => self.fence.store(now, Ordering::Relaxed),
                    }
                    Failure::unanswered("the fence moved").not_sent()
                }
                Err(failure) => failure,
            };
            let pause = backoff.next();
            if !failure.certain || !failure.passes || Instant::now() + pause >= deadline {
                return Err(failure);
            }
            sleep(pause).await;
        }
    }

    /// Finds out what became of a transaction that was sent when the store was at `before`.
    async fn settle(
        &self,
        txn: &Txn,
        before: Revision,
        lost: StoreError,
    ) -> Result<Committed, StoreError> {
        let unknown = |error: StoreError| StoreError::Unknown(error.to_string());
        let Some((key, value)) = marker_value(txn) else {
            return Err(unknown(lost));
        };
        let fenced = txn.compares.len() < TXN_OPS_MAX;
        if fenced {
            self.raise_fence().await.map_err(unknown)?;
        }
        let (found, _) = self.get(key).await.map_err(unknown)?;
        match found {
            Some(entry) if entry.value == value => Ok(Committed::Yes(entry.mod_revision)),
            Some(entry) if entry.mod_revision > before => Err(StoreError::Unknown(format!(
                "{lost}; {key} was changed by somebody else since"
            ))),
            _ if fenced => Err(lost),
            _ => Err(unknown(lost)),
        }
    }

    /// Keeps this client's transactions that are still on their way from happening.
    async fn raise_fence(&self) -> Result<(), StoreError> {
        let lease = self.grant(FENCE_TIME).await?;
        let answer = self
            .link
            .repeat(|client| async move {
                let options = PutOptions::new().with_lease(lease.0);
                let key = self.link.own_key.as_str();
                client.kv_client().put(key, "", Some(options)).await
            })
            .await?;
        let revision = self.see(answer.header());
        self.fence.store(revision, Ordering::Relaxed);
        Ok(())
    }

    /// One answer's worth of a page.
    async fn chunk(&self, range: &Range, limit: usize) -> Result<GetResponse, StoreError> {
        let first = match &range.after {
            Some(after) if *after >= range.prefix => format!("{after}\0").into_bytes(),
            _ => first_key(&range.prefix),
        };
        let mut options = GetOptions::new()
            .with_range(end_key(&range.prefix))
            .with_limit(i64::try_from(limit).unwrap_or(i64::MAX))
            .with_revision(range.revision.unwrap_or(0));
        if range.keys_only {
            options = options.with_keys_only();
        }
        let (first, options) = (&first, &options);
        let answer = self
            .link
            .repeat(|client| async move {
                let kv = client.kv_client();
                let mut kv = kv.max_decoding_message_size(usize::MAX);
                kv.get(first.as_slice(), Some(options.clone())).await
            })
            .await?;
        self.see(answer.header());
        Ok(answer)
    }

    /// Fills in what etcd's own error does not say.
    async fn explain(&self, error: StoreError, asked: Revision) -> StoreError {
        match error {
            StoreError::FutureRevision { .. } => {
                match probe(&self.link, &self.link.own_key, 0).await {
                    Ok((_, current)) => StoreError::FutureRevision { asked, current },
                    Err(error) => error,
                }
            }
            StoreError::Compacted { .. } => StoreError::Compacted {
                oldest: oldest(&self.link, asked).await,
            },
            other => other,
        }
    }
}

/// The first key with a prefix.
fn first_key(prefix: &str) -> Vec<u8> {
    if prefix.is_empty() {
        vec![0]
    } else {
        prefix.as_bytes().to_vec()
    }
}

/// The first key after those with a prefix; etcd takes 0 for the end of all.
fn end_key(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

fn keys_watched(prefix: &str, options: WatchOptions) -> WatchOptions {
    options.with_range(end_key(prefix))
}

fn cluster_name(id: u64) -> String {
    format!("{id:016x}")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn entry(kv: &KeyValue) -> Entry {
    Entry {
        key: text(kv.key()),
        value: kv.value().to_vec(),
        create_revision: kv.create_revision(),
        mod_revision: kv.mod_revision(),
        lease: Some(kv.lease()).filter(|id| *id != 0).map(LeaseId),
    }
}

/// Reads at a revision (0: now) only to see whether that is possible. Returns the cluster's id and
/// revision. Of a future revision the error says where the store is.
async fn probe(link: &Link, prefix: &str, at: Revision) -> Result<(u64, Revision), StoreError> {
    let read = async |at: Revision| {
        let key = &first_key(prefix);
        let answer = link.repeat(|client| async move {
            let options = GetOptions::new().with_keys_only().with_revision(at);
            client.kv_client().get(key.as_slice(), Some(options)).await
        });
        let answer = answer.await?;
        let header = answer.header();
        Ok(header.map_or((0, 0), |h| (h.cluster_id(), h.revision())))
    };
    match read(at).await {
        Err(StoreError::FutureRevision { .. }) => {
            let (_, current) = read(0).await?;
            Err(StoreError::FutureRevision { asked: at, current })
        }
        other => other,
    }
}

/// The oldest revision that can be read and watched, given that `asked` cannot: etcd says that only
/// to a watch.
async fn oldest(link: &Link, asked: Revision) -> Revision {
    let find = async {
        let (_, client) = link.client().await.ok()?;
        let options = WatchOptions::new().with_start_revision(1);
        let mut watch = client.watch_client();
        let mut stream = watch
            .watch(link.own_key.as_str(), Some(options))
            .await
            .ok()?;
        while let Ok(Some(answer)) = stream.message().await {
            if answer.compact_revision() > 0 {
                return Some(answer.compact_revision() + 1);
            }
        }
        None
    };
    let found = timeout(OLDEST_TIMEOUT, find).await.ok().flatten();
    found.map_or(asked + 1, |found| found.max(asked + 1))
}

/// A transaction as etcd wants it, with the fence's key and the revision it must have.
fn translate(txn: &Txn, fence: Option<(&str, Revision)>) -> EtcdTxn {
    let equal = CompareOp::Equal;
    let mut compares: Vec<EtcdCompare> = txn
        .compares
        .iter()
        .map(|compare| match compare {
            Compare::Absent(key) => EtcdCompare::create_revision(key.as_str(), equal, 0),
            Compare::Present(key) => {
                EtcdCompare::create_revision(key.as_str(), CompareOp::Greater, 0)
            }
            Compare::ModRevision(key, revision) => {
                EtcdCompare::mod_revision(key.as_str(), equal, *revision)
            }
            Compare::CreateRevision(key, revision) => {
                EtcdCompare::create_revision(key.as_str(), equal, *revision)
            }
            Compare::Value(key, value) => EtcdCompare::value(key.as_str(), equal, value.as_slice()),
        })
        .collect();
    let writes: Vec<TxnOp> = txn
        .writes
        .iter()
        .map(|write| match write {
            Write::Put { key, value, lease } => {
                let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
                TxnOp::put(key.as_str(), value.as_slice(), options)
            }
            Write::Delete { key } => TxnOp::delete(key.as_str(), None),
        })
        .collect();
    let mut otherwise = Vec::new();
    if let Some((key, revision)) = fence {
        compares.push(EtcdCompare::mod_revision(key, equal, revision));
        otherwise.push(TxnOp::get(key, None));
    }
    EtcdTxn::new()
        .when(compares)
        .and_then(writes)
        .or_else(otherwise)
}

/// Where the fence is now, if it is not where a refused transaction expected it.
fn moved_fence(answer: &TxnResponse, sent: Revision) -> Option<Revision> {
    let responses = answer.op_responses();
    let Some(TxnOpResponse::Get(found)) = responses.first() else {
        return None;
    };
    let now = found.kvs().first().map_or(0, KeyValue::mod_revision);
    (now != sent).then_some(now)
}

#[async_trait]
impl Store for EtcdStore {
    async fn id(&self) -> Result<String, StoreError> {
        let (cluster, _) = probe(&self.link, &self.link.own_key, 0).await?;
        Ok(cluster_name(cluster))
    }

    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision), StoreError> {
        let answer = self
            .link
            .repeat(|client| async move { client.kv_client().get(key, None).await })
            .await?;
        let revision = self.see(answer.header());
        Ok((answer.kvs().first().map(entry), revision))
    }

    async fn list(&self, range: Range) -> Result<Page, StoreError> {
        let mut range = range;
        if let Some(asked) = range.revision.filter(|asked| *asked < 1) {
            let error = StoreError::Compacted { oldest: asked };
            return Err(self.explain(error, asked).await);
        }
        let mut page = Page {
            entries: Vec::new(),
            revision: range.revision.unwrap_or(0),
            more: true,
        };
        while page.more {
            let left = match range.limit {
                0 => CHUNK,
                limit => CHUNK.min(limit - page.entries.len()),
            };
            if left == 0 {
                break;
            }
            let answer = match self.chunk(&range, left).await {
                Ok(answer) => answer,
                Err(error) => {
                    let asked = range.revision.unwrap_or(0);
                    return Err(self.explain(error, asked).await);
                }
            };
            if page.revision == 0 {
                page.revision = answer.header().map_or(0, ResponseHeader::revision);
            }
            page.more = answer.more();
            page.entries.extend(answer.kvs().iter().map(entry));
            range.revision = Some(page.revision);
            range.after = page.entries.last().map(|entry| entry.key.clone());
        }
        Ok(page)
    }

    async fn txn(&self, txn: Txn) -> Result<Committed, StoreError> {
        check_txn(&txn)?;
        let before = self.seen.load(Ordering::Relaxed);
        match self.send(&txn).await {
            Ok(committed) => Ok(committed),
            Err(failure) if failure.certain => Err(failure.error),
            Err(failure) => self.settle(&txn, before, failure.error).await,
        }
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Box<dyn Watch>, StoreError> {
        let (cluster, _) = probe(&self.link, prefix, 0).await?;
        let link = Arc::clone(&self.link);
        let watch = EtcdWatch::open(link, cluster, prefix, from.max(1)).await?;
        Ok(Box::new(watch))
    }

    async fn grant(&self, time_to_live: Duration) -> Result<LeaseId, StoreError> {
        let whole = time_to_live + Duration::from_nanos(999_999_999);
        let seconds = i64::try_from(whole.as_secs().max(1)).unwrap_or(i64::MAX);
        // A lease granted in vain, where the answer was lost, ends by itself.
        let answer = self
            .link
            .repeat(|client| async move { client.lease_client().grant(seconds, None).await })
            .await?;
        Ok(LeaseId(answer.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.link
            .repeat(|client| async move { client.lease_client().keep_alive(lease.0).await })
            .await?;
        Ok(())
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let tried = AtomicI64::new(0);
        let tries = &tried;
        let revoked = self
            .link
            .repeat(|client| async move {
                tries.fetch_add(1, Ordering::Relaxed);
                client.lease_client().revoke(lease.0).await
            })
            .await;
        match revoked {
            // An earlier try went well, only its answer was lost.
            Err(StoreError::LeaseExpired) if tried.load(Ordering::Relaxed) > 1 => Ok(()),
            other => other.map(|_| ()),
        }
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let (_, current) = probe(&self.link, &self.link.own_key, 0).await?;
        if revision > current {
            return Err(StoreError::FutureRevision {
                asked: revision,
                current,
            });
        }
        // One less: etcd drops removals of the very revision that it compacts up to.
        let up_to = revision - 1;
        if up_to < 1 {
            return Ok(());
        }
        let compacted = self
            .link
            .repeat(|client| async move { client.kv_client().compact(up_to, None).await })
            .await;
        match compacted {
            Ok(_) | Err(StoreError::Compacted { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
