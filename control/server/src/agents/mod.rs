//! The streams to the nodes' agents.
//!
//! A stream belongs to one server, by a session key in the store; a newer stream of the same node
//! takes it over, wherever it is, and ends the older. Only the session's holder writes for the node.
//! A session has three parts that run side by side: a reader takes in reports, a writer turns them
//! into statuses, and a teller sends what is wanted, all of it first and then what changes.

mod batch;
mod connect;
mod ports;
mod seen;
mod session;
mod told;
mod writer;

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::Stream;
use penstock_api::v1::agent_service_server::AgentService;
use penstock_api::v1::{AgentMessage, ControlMessage};
use penstock_store::LeaseId;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::env::Env;
use crate::identity::{Caller, Method};
use crate::mirror::Mirror;
use crate::repo::Repo;
use crate::shared_lease::SharedLease;
use crate::signal::Signal;

/// Messages to an agent that wait to be sent.
const OUT: usize = 4;

/// What a stream to an agent gives.
pub type Told = Pin<Box<dyn Stream<Item = Result<ControlMessage, Status>> + Send>>;

/// What sessions need.
#[derive(Clone)]
pub struct Context {
    /// The outside.
    pub env: Env,
    /// The state.
    pub mirror: Mirror,
    /// For making changes.
    pub repo: Repo,
    /// Leases of operations that have ended.
    pub ended: Arc<SharedLease>,
    /// The lease of all sessions of this server; `None` while there is none.
    pub lease: Signal<Option<LeaseId>>,
    /// Whether the server stops.
    pub stop: Signal<bool>,
}

/// The service for agents. Cheap to clone. Sessions end when the last clone and the server's core are
/// dropped.
#[derive(Clone)]
pub struct Agents {
    context: Context,
    sessions: Arc<Mutex<JoinSet<()>>>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Agents {
    /// The service.
    pub fn new(context: Context) -> Agents {
        Agents {
            context,
            sessions: Arc::default(),
        }
    }

    /// Opens a stream for a caller: what a network connection does, without one.
    pub fn open<S>(&self, caller: Caller, inbound: S) -> Told
    where
        S: Stream<Item = Result<AgentMessage, Status>> + Send + Unpin + 'static,
    {
        let (out, told) = mpsc::channel(OUT);
        let context = self.context.clone();
        let mut sessions = lock(&self.sessions);
        while sessions.try_join_next().is_some() {}
        sessions.spawn(async move {
            let ended = session::run(&context, &caller, inbound, &out).await;
            if let Err(fault) = ended {
                // Where the agent is gone nobody hears this.
                let _ = out.send(Err(fault.into())).await;
            }
        });
        Box::pin(ReceiverStream::new(told))
    }

    /// Waits for all sessions to end.
    pub async fn ended(&self) {
        let mut sessions = std::mem::take(&mut *lock(&self.sessions));
        while sessions.join_next().await.is_some() {}
    }

    /// Ends all sessions where they stand, as a crash would.
    pub fn abort(&self) {
        lock(&self.sessions).abort_all();
    }
}

#[async_trait::async_trait]
impl AgentService for Agents {
    type SyncStream = Told;

    async fn sync(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Told>, Status> {
        let caller = Caller::of(&request)?;
        if let Some(method) = Method::find("Sync") {
            caller.may_call(method)?;
        }
        Ok(Response::new(self.open(caller, request.into_inner())))
    }
}
