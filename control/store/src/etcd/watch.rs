//! Watching an etcd cluster across lost connections.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use etcd_client::{Event, EventType, WatchOptions, WatchResponse, WatchStream};
use tokio::time::{sleep, timeout};

use super::failure::Failure;
use super::link::{Backoff, Link};
use super::{entry, text};
use crate::{Change, Revision, StoreError, Watch, WatchItem};

/// A watch. Every time it connects it also makes sure that history still has what follows and that
/// the cluster is the same.
pub(super) struct EtcdWatch {
    link: Arc<Link>,
    cluster: u64,
    prefix: String,
    /// The first revision not received yet.
    next: Revision,
    stream: Option<Connected>,
    received: VecDeque<WatchItem>,
    backoff: Backoff,
    /// Why it is over.
    over: Option<StoreError>,
}

struct Connected {
    member: usize,
    stream: WatchStream,
}

impl EtcdWatch {
    /// Starts a watch of a cluster with this id.
    pub(super) async fn open(
        link: Arc<Link>,
        cluster: u64,
        prefix: &str,
        from: Revision,
    ) -> Result<Self, StoreError> {
        let mut watch = Self {
            link,
            cluster,
            prefix: prefix.to_owned(),
            next: from,
            stream: None,
            received: VecDeque::new(),
            backoff: Backoff::new(),
            over: None,
        };
        // What passes is tried again by `next`.
        match watch.connect().await {
            Err(failure) if !failure.passes => Err(failure.error),
            _ => Ok(watch),
        }
    }

    async fn connect(&mut self) -> Result<(), Failure> {
        let link = Arc::clone(&self.link);
        timeout(link.request_timeout, self.try_connect())
            .await
            .unwrap_or_else(|_| {
                link.leave_current();
                Err(Failure::unanswered("watching takes too long to start"))
            })
    }

    async fn try_connect(&mut self) -> Result<(), Failure> {
        let (member, client) = self.link.client().await?;
        // No fragments asked for: so every revision comes whole.
        let options = super::keys_watched(&self.prefix, WatchOptions::new())
            .with_start_revision(self.next)
            .with_prev_key()
            .with_progress_notify();
        let mut watcher = client.watch_client().max_decoding_message_size(usize::MAX);
        let opened = watcher.watch(super::first_key(&self.prefix), Some(options));
        let failed = |failure: Failure| {
            self.link.leave(member);
            failure
        };
        let mut stream = opened.await.map_err(|error| failed(error.into()))?;
        let answer = stream
            .message()
            .await
            .map_err(|error| failed(error.into()))?
            .ok_or_else(|| failed(Failure::unanswered("a watch ended at its start")))?;
        if answer.canceled() {
            let failure = self.canceled(&answer);
            if failure.login {
                client.refresh_token().await.map_err(Failure::from)?;
            }
            return Err(failure);
        }
        // Only now: compaction between this check and the watch would pass unseen otherwise.
        self.check_history().await?;
        self.stream = Some(Connected { member, stream });
        Ok(())
    }

    /// Makes sure that nothing that follows is compacted, that the store has come as far as this
    /// watch, and that it is the same.
    async fn check_history(&self) -> Result<(), Failure> {
        // etcd silently leaves removals out of the very revision that it compacted up to.
        let at = (self.next - 1).max(1);
        let found = super::probe(&self.link, &self.prefix, at).await;
        let (cluster, current) = match found {
            Ok(found) => found,
            Err(StoreError::Compacted { .. }) => {
                let oldest = super::oldest(&self.link, at).await;
                return Err(Failure::refused(StoreError::Compacted { oldest }));
            }
            Err(StoreError::FutureRevision { current, .. }) => {
                // The cluster's id says more, where it is another one.
                let (cluster, _) = super::probe(&self.link, &self.prefix, 0)
                    .await
                    .map_err(|error| Failure::unanswered(error.to_string()))?;
                self.check_cluster(cluster)?;
                return Err(Failure::refused(StoreError::FutureRevision {
                    asked: self.next,
                    current,
                }));
            }
            Err(error @ StoreError::Unavailable(_)) => {
                return Err(Failure::unanswered(error.to_string()));
            }
            Err(error) => return Err(Failure::refused(error)),
        };
        self.check_cluster(cluster)?;
        if self.next > current + 1 {
            return Err(Failure::refused(StoreError::FutureRevision {
                asked: self.next,
                current,
            }));
        }
        Ok(())
    }

    fn check_cluster(&self, found: u64) -> Result<(), Failure> {
        if found == self.cluster {
            return Ok(());
        }
        Err(Failure::refused(StoreError::Replaced {
            expected: super::cluster_name(self.cluster),
            found: super::cluster_name(found),
        }))
    }

    /// Why etcd ended the watch.
    fn canceled(&self, answer: &WatchResponse) -> Failure {
        if answer.compact_revision() > 0 {
            return Failure::refused(StoreError::Compacted {
                oldest: answer.compact_revision() + 1,
            });
        }
        let reason = answer.cancel_reason();
        if reason.contains("auth token") || reason.contains("auth store") {
            return Failure {
                login: true,
                ..Failure::unanswered(reason)
            };
        }
        if reason.contains("permission denied") {
            return Failure::refused(StoreError::Denied(format!(
                "watching {:?}: {reason}",
                self.prefix
            )));
        }
        Failure::unanswered(reason)
    }

    /// Takes what etcd sent.
    fn take(&mut self, answer: &WatchResponse) -> Result<(), Failure> {
        let header = answer.header();
        if let Some(header) = header {
            self.check_cluster(header.cluster_id())?;
        }
        if answer.canceled() {
            return Err(self.canceled(answer));
        }
        if answer.events().is_empty() {
            let revision = header.map_or(0, |header| header.revision());
            if !answer.created() && revision >= self.next {
                self.next = revision + 1;
                self.received.push_back(WatchItem::Progress { revision });
            }
            return Ok(());
        }
        for (revision, changes) in group(answer.events()) {
            // Sent again after a reconnect.
            if revision < self.next {
                continue;
            }
            self.next = revision + 1;
            self.received
                .push_back(WatchItem::Changes { revision, changes });
        }
        Ok(())
    }

    /// Waits for the next answer, connecting where necessary.
    async fn advance(&mut self) -> Result<(), Failure> {
        if self.stream.is_none() {
            self.connect().await?;
        }
        let Some(connected) = &mut self.stream else {
            return Ok(());
        };
        let answer = match connected.stream.message().await {
            Ok(Some(answer)) => answer,
            Ok(None) => {
                self.link.leave(connected.member);
                return Err(Failure::unanswered("etcd ended the watch"));
            }
            Err(error) => {
                self.link.leave(connected.member);
                // Whatever ended the stream: connecting again tells what is to stay.
                return Err(Failure::unanswered(Failure::from(error).error.to_string()));
            }
        };
        self.take(&answer)?;
        self.backoff = Backoff::new();
        Ok(())
    }
}

/// Changes by revision, in the order of their keys.
fn group(events: &[Event]) -> Vec<(Revision, Vec<Change>)> {
    let mut groups: Vec<(Revision, Vec<Change>)> = Vec::new();
    for event in events {
        let Some(kv) = event.kv() else { continue };
        let revision = kv.mod_revision();
        let previous = event.prev_kv().map(entry);
        let change = match event.event_type() {
            EventType::Put => Change::Put {
                entry: entry(kv),
                previous,
            },
            EventType::Delete => Change::Delete {
                key: text(kv.key()),
                revision,
                previous,
            },
        };
        match groups.last_mut() {
            Some((last, changes)) if *last == revision => changes.push(change),
            _ => groups.push((revision, vec![change])),
        }
    }
    for (_, changes) in &mut groups {
        changes.sort_by(|a, b| changed_key(a).cmp(changed_key(b)));
    }
    groups
}

fn changed_key(change: &Change) -> &str {
    match change {
        Change::Put { entry, .. } => &entry.key,
        Change::Delete { key, .. } => key,
    }
}

#[async_trait]
impl Watch for EtcdWatch {
    async fn next(&mut self) -> Result<WatchItem, StoreError> {
        loop {
            if let Some(item) = self.received.pop_front() {
                return Ok(item);
            }
            if let Some(error) = &self.over {
                return Err(error.clone());
            }
            let Err(failure) = self.advance().await else {
                continue;
            };
            self.stream = None;
            if failure.passes {
                tracing::debug!(error = %failure.error, "an etcd watch connects again");
                let pause = self.backoff.next();
                sleep(pause).await;
            } else {
                self.over = Some(failure.error);
            }
        }
    }
}
