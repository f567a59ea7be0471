//! Watches: what exists, then every change, from the store itself.
//!
//! A watch is pulled by its consumer and holds one page, or the events of one revision, at a time;
//! who is slow makes history wait in the store, not memory grow here, and is told so when history is
//! compacted away from under him.

mod event;
mod filter;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use penstock_api::names::Kind;
use penstock_api::resource::Resource;
use penstock_api::v1;
use penstock_api::v1::watch_event::Resource as AnyResource;
use penstock_api::v1::watch_service_server::WatchService;
use penstock_api::v1::{Operation, WatchEvent, WatchEventType, WatchRequest};
use penstock_store::{Range, Revision, Watch, WatchItem};
use prometheus::IntGauge;
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};

use crate::fault::{Fault, Result};
use crate::repo::decode;
use crate::services::Core;
use crate::token::ResumeToken;
use event::Parts;
use filter::Filter;

/// Resources that are told at once of what exists.
const PAGE: usize = 256;
/// How long a watch is silent at most while its token grows old.
const BOOKMARK_AFTER: Duration = Duration::from_secs(5);

/// Events for a client.
pub type Events = Pin<Box<dyn Stream<Item = Result<WatchEvent, Status>> + Send>>;

/// The service of watches.
#[derive(Clone)]
pub struct Watches(Arc<Core>);

impl Watches {
    /// The service over what all share.
    pub fn new(core: Arc<Core>) -> Watches {
        Watches(core)
    }

    async fn begin(&self, request: WatchRequest, deadline: Option<Instant>) -> Result<Watching> {
        let filter = Filter::of(&request)?;
        let store = self.0.repo.store();
        let store_id = store.id().await?;
        let (_, revision) = store.get(&self.0.repo.keys().schema()).await?;
        let from = if request.resume_token.is_empty() {
            None
        } else {
            let token = ResumeToken::parse(&request.resume_token)?;
            if token.store_id != store_id {
                return Err(too_old(
                    "the token is of another store: the store was made anew or restored",
                ));
            }
            if token.revision > revision {
                return Err(too_old(
                    "the token is of a newer state than the store has: the store was restored from a snapshot",
                ));
            }
            Some(token.revision)
        };
        let mut watching = Watching {
            core: Arc::clone(&self.0),
            filter,
            store_id,
            revision: from.unwrap_or(revision),
            listing: None,
            watch: None,
            pending: VecDeque::new(),
            parts: Parts::default(),
            told: from.unwrap_or(revision),
            told_at: Instant::now(),
            deadline,
            over: false,
            _counted: Counted::new(self.0.env.metrics.watchers.clone()),
        };
        if from.is_some() {
            watching.follow().await?;
        } else {
            watching.listing = Some(Listing::default());
        }
        Ok(watching)
    }
}

#[tonic::async_trait]
impl WatchService for Watches {
    type WatchStream = Events;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Events>, Status> {
        let call = self.0.enter("Watch", &request)?;
        let deadline = call.deadline;
        let begin = self.begin(request.into_inner(), deadline);
        let watching = call
            .run(async { begin.await.map_err(explain) })
            .await?
            .into_inner();
        Ok(Response::new(Box::pin(futures::stream::unfold(
            watching,
            |mut watching| async {
                let event = watching.next().await?;
                Some((event, watching))
            },
        ))))
    }
}

/// Counts a watch as long as it runs.
struct Counted(IntGauge);

impl Counted {
    fn new(gauge: IntGauge) -> Counted {
        gauge.inc();
        Counted(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// How far the telling of what exists has come.
#[derive(Default)]
struct Listing {
    /// Which of the filter's kinds.
    kind: usize,
    /// The ids that were told last.
    after: Option<String>,
}

/// A running watch.
struct Watching {
    core: Arc<Core>,
    filter: Filter,
    store_id: String,
    /// Everything up to here is told or pending.
    revision: Revision,
    listing: Option<Listing>,
    watch: Option<Box<dyn Watch>>,
    pending: VecDeque<WatchEvent>,
    parts: Parts,
    /// The revision of the last token that the client was told, and when.
    told: Revision,
    told_at: Instant,
    deadline: Option<Instant>,
    over: bool,
    _counted: Counted,
}

impl Watching {
    /// The next event; `None` after a failure was told.
    async fn next(&mut self) -> Option<Result<WatchEvent, Status>> {
        if self.over {
            return None;
        }
        let stop = self.core.env.stop.clone();
        let far = Instant::now() + Duration::from_secs(86_400);
        let deadline = self.deadline.unwrap_or(far);
        let result = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => Err(Fault::stopping()),
            event = self.event() => event,
            () = tokio::time::sleep_until(deadline), if self.deadline.is_some() => {
                Err(Fault::new(
                    Code::DeadlineExceeded,
                    "DEADLINE_EXCEEDED",
                    "the watch's deadline has passed; watch again with the last resume token",
                ))
            }
        };
        self.over = result.is_err();
        Some(result.map_err(|fault| explain(fault).into()))
    }

    async fn event(&mut self) -> Result<WatchEvent> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            if let Some(listing) = self.listing.take() {
                self.list(listing).await?;
            } else if let Some(watch) = &mut self.watch {
                let item = watch.next().await?;
                self.take(item).await?;
            } else {
                self.follow().await?;
            }
        }
    }

    async fn follow(&mut self) -> Result<()> {
        let (store, keys) = (self.core.repo.store(), self.core.repo.keys());
        self.watch = Some(store.watch(keys.root(), self.revision + 1).await?);
        Ok(())
    }

    /// Tells the next page of what exists.
    async fn list(&mut self, mut listing: Listing) -> Result<()> {
        let Some(kind) = self.filter.kinds.get(listing.kind).copied() else {
            // Watching begins before SYNCED is told: who has seen it misses nothing.
            self.follow().await?;
            let token = self.token(self.revision);
            self.push(WatchEventType::Synced, None, token);
            return Ok(());
        };
        listing.after = match kind {
            Kind::Node => self.page::<v1::Node>(listing.after).await?,
            Kind::Device => self.page::<v1::Device>(listing.after).await?,
            Kind::Host => self.page::<v1::Host>(listing.after).await?,
            Kind::Subsystem => self.page::<v1::Subsystem>(listing.after).await?,
            Kind::Namespace => self.page::<v1::Namespace>(listing.after).await?,
            Kind::Listener => self.page::<v1::Listener>(listing.after).await?,
            Kind::Volume => self.volumes(listing.after).await?,
            Kind::Operation => self.operations(listing.after).await?,
        };
        if listing.after.is_none() {
            listing.kind += 1;
        }
        self.listing = Some(listing);
        Ok(())
    }

    async fn page<R: Resource>(&mut self, after: Option<String>) -> Result<Option<String>> {
        let page = self
            .core
            .repo
            .list::<R>("", after.as_deref(), PAGE, Some(self.revision))
            .await?;
        let last = page.items.last().map(|item| item.ids.clone());
        for stored in page.items {
            self.exists(stored.resource);
        }
        Ok(last.filter(|_| page.more))
    }

    async fn volumes(&mut self, after: Option<String>) -> Result<Option<String>> {
        let core = Arc::clone(&self.core);
        let mut page = core
            .repo
            .list::<v1::Volume>("", after.as_deref(), PAGE, Some(self.revision))
            .await?;
        core.fill_namespaces(&mut page.items, self.revision).await?;
        let last = page.items.last().map(|item| item.ids.clone());
        for stored in page.items {
            self.exists(stored.resource);
        }
        Ok(last.filter(|_| page.more))
    }

    async fn operations(&mut self, after: Option<String>) -> Result<Option<String>> {
        let prefix = self.core.repo.keys().operations();
        let page = self
            .core
            .repo
            .store()
            .list(Range {
                after: after.map(|id| format!("{prefix}{id}")),
                prefix: prefix.clone(),
                limit: PAGE,
                revision: Some(self.revision),
                keys_only: false,
            })
            .await?;
        for entry in &page.entries {
            let operation: Operation = decode(entry)?;
            if self.filter.name(&operation.name) {
                let resource = AnyResource::Operation(operation);
                self.push(WatchEventType::Added, Some(resource), String::new());
            }
        }
        let last = page.entries.last();
        let last = last.and_then(|entry| Some(entry.key.strip_prefix(&prefix)?.to_owned()));
        Ok(last.filter(|_| page.more))
    }

    /// Tells a resource that exists. Without a token: who continued from here would miss the rest.
    fn exists<R: Resource>(&mut self, resource: R) {
        if self.filter.name(resource.name()) && self.filter.labels(resource.labels()) {
            self.push(
                WatchEventType::Added,
                Some(resource.into_any()),
                String::new(),
            );
        }
    }

    /// Takes in what the store tells.
    async fn take(&mut self, item: WatchItem) -> Result<()> {
        match item {
            WatchItem::Progress { revision } => self.revision = self.revision.max(revision),
            WatchItem::Changes { revision, changes } => {
                let repo = &self.core.repo;
                let events = self
                    .parts
                    .events(repo, &self.filter, revision, changes)
                    .await?;
                let count = events.len();
                for (index, (kind, resource)) in events.into_iter().enumerate() {
                    // Who continues from any but the last is told this revision again.
                    let done = if index + 1 == count {
                        revision
                    } else {
                        revision - 1
                    };
                    let token = self.token(done);
                    self.push(kind, Some(resource), token);
                }
                self.revision = revision;
            }
        }
        if self.pending.is_empty()
            && self.told < self.revision
            && self.told_at.elapsed() >= BOOKMARK_AFTER
        {
            let token = self.token(self.revision);
            self.push(WatchEventType::Bookmark, None, token);
        }
        Ok(())
    }

    fn token(&mut self, revision: Revision) -> String {
        self.told = revision;
        self.told_at = Instant::now();
        ResumeToken {
            store_id: self.store_id.clone(),
            revision,
        }
        .to_text()
    }

    fn push(&mut self, kind: WatchEventType, resource: Option<AnyResource>, token: String) {
        self.pending.push_back(WatchEvent {
            r#type: kind.into(),
            resume_token: token,
            resource,
        });
    }
}

fn too_old(why: &str) -> Fault {
    Fault::new(
        Code::OutOfRange,
        "RESUME_TOKEN_TOO_OLD",
        format!("the watch cannot be continued: {why}; list again, and watch from there"),
    )
}

/// What a failure means to who watches.
fn explain(fault: Fault) -> Fault {
    match fault.reason {
        "HISTORY_COMPACTED" => too_old("the store no longer has the history that follows"),
        "STORE_REPLACED" => too_old("the store was made anew or restored from a snapshot"),
        _ => fault,
    }
}

#[cfg(test)]
mod tests;
