//! One stream of an agent, from its Hello to its end.

use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{Stream, StreamExt};
use penstock_api::names::Kind;
use penstock_api::v1::agent_message::Message as FromAgent;
use penstock_api::v1::control_message::Message as ToAgent;
use penstock_api::v1::{AgentMessage, ControlMessage, Desired, Hello, Node, Welcome};
use penstock_plan::observe;
use penstock_store::{Compare, Txn, Write};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::connect::{self, Session, lost};
use super::told::Told;
use super::writer::{SessionLost, Shared, Writer};
use super::{Context, lock};
use crate::fault::{Fault, Result};
use crate::identity::Caller;
use crate::keys::unchanged;
use crate::mirror::{Interest, Subscription};

/// How long an agent may take to say who it is.
const HELLO: Duration = Duration::from_secs(10);

/// How long a new session waits for the store.
const STORE: Duration = Duration::from_secs(10);

/// How often the ports of other nodes are told at most: one change may touch many of them.
const PORTS_INTERVAL: Duration = Duration::from_millis(50);

type Out = mpsc::Sender<Result<ControlMessage, Status>>;

/// Serves a stream until it ends. `Ok` where the agent ended it.
pub async fn run<S>(context: &Context, caller: &Caller, mut inbound: S, out: &Out) -> Result<()>
where
    S: Stream<Item = Result<AgentMessage, Status>> + Send + Unpin,
{
    let Some(hello) = first(&mut inbound).await? else {
        return Ok(());
    };
    let node = connect::node_of(&hello)?;
    caller.may_be_node(&node)?;
    let session = within(STORE, open(context, &node, &hello)).await?;
    tracing::info!(node, revision = session.revision, "an agent is connected");
    context.env.metrics.agents_connected.inc();
    let connected = Connected(context);
    let ended = serve(context, &session, &mut inbound, out).await;
    drop(connected);
    let why = match &ended {
        Ok(()) => "it has ended the stream".to_owned(),
        Err(fault) => fault.message.clone(),
    };
    tracing::info!(node, why, "an agent is no longer connected");
    let brief = Duration::from_secs(2);
    if tokio::time::timeout(brief, close(context, &session))
        .await
        .is_err()
    {
        tracing::debug!(
            node,
            "the store does not answer; the session expires by itself"
        );
    }
    ended
}

/// Counts a connected agent, also where the task is dropped.
struct Connected<'a>(&'a Context);

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.env.metrics.agents_connected.dec();
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        Err(Fault::new(
            Code::Unavailable,
            "STORE_UNAVAILABLE",
            "the store does not answer; what the node serves it serves on. Connect again",
        ))
    })
}

/// The Hello; `None` where the agent left without one.
async fn first<S>(inbound: &mut S) -> Result<Option<Hello>>
where
    S: Stream<Item = Result<AgentMessage, Status>> + Send + Unpin,
{
    let message = tokio::time::timeout(HELLO, inbound.next())
        .await
        .map_err(|_| {
            Fault::new(
                Code::DeadlineExceeded,
                "NO_HELLO",
                format!("the agent did not say Hello within {} s", HELLO.as_secs()),
            )
        })?;
    match message {
        None | Some(Err(_)) => Ok(None),
        Some(Ok(AgentMessage {
            message: Some(FromAgent::Hello(hello)),
        })) => Ok(Some(hello)),
        Some(Ok(_)) => Err(Fault::field("message", "the first message must be hello")),
    }
}

/// Takes the node's session and writes what its agent says of it.
async fn open(context: &Context, node: &str, hello: &Hello) -> Result<Session> {
    let lease = context.lease.wait_for(Option::is_some).await;
    let lease = lease.ok_or_else(lost)?;
    let session = connect::take_session(context, node, lease).await?;
    connect::write_hello(context, &session, hello).await?;
    Ok(session)
}

fn put_back() -> Fault {
    Fault::new(
        Code::Aborted,
        "STORE_PUT_BACK",
        "the store was put back to an older state: connect again to be told all that it has",
    )
}

/// Runs the parts of a session side by side, until the first ends.
async fn serve<S>(context: &Context, session: &Session, inbound: &mut S, out: &Out) -> Result<()>
where
    S: Stream<Item = Result<AgentMessage, Status>> + Send + Unpin,
{
    let shared = Shared::default();
    let follow = || {
        let interest = Interest::Node(session.node.clone());
        context.mirror.subscribe(interest)
    };
    let mut writer = Writer::new(context, session, &shared, follow());
    tokio::select! {
        biased;
        fault = watch(context, session, follow()) => Err(fault),
        () = read(inbound, &shared) => Ok(()),
        () = out.closed() => Ok(()),
        SessionLost = writer.run() => Err(lost()),
        ended = tell(context, session, out, follow(), &shared) => ended,
    }
}

/// Takes in reports until the stream ends.
async fn read<S>(inbound: &mut S, shared: &Shared)
where
    S: Stream<Item = Result<AgentMessage, Status>> + Send + Unpin,
{
    while let Some(Ok(message)) = inbound.next().await {
        if let Some(FromAgent::Report(report)) = message.message {
            lock(&shared.seen).take_in(report, Instant::now());
            shared.notify.notify_one();
        }
    }
}

/// Returns when the session has to end, and why.
async fn watch(context: &Context, session: &Session, changes: Subscription) -> Fault {
    let regressions = context.mirror.with(|view| view.regressions);
    loop {
        let (held, known, same) = context.mirror.with(|view| {
            let held = view.sessions.get(&session.node);
            let held = held.is_some_and(|held| held.mod_revision == session.revision);
            let known = view.nodes.contains_key(&session.node);
            (held, known, view.regressions == regressions)
        });
        if !known {
            return Fault::new(
                Code::NotFound,
                "NODE_UNKNOWN",
                format!(
                    "nodes/{} was deleted; create it again (penstock node create {0}), or stop its \
                     agent",
                    session.node
                ),
            );
        }
        if !held || !same || context.lease.get() != Some(session.lease) {
            return lost();
        }
        if context.stop.get() {
            return Fault::stopping();
        }
        tokio::select! {
            biased;
            _ = context.stop.wait_for(|stop| *stop) => {}
            _ = context.lease.wait_for(|lease| *lease != Some(session.lease)) => {}
            () = changes.changed() => {}
        }
        changes.take();
    }
}

/// Sends everything that is wanted, then what changes.
async fn tell(
    context: &Context,
    session: &Session,
    out: &Out,
    changes: Subscription,
    shared: &Shared,
) -> Result<()> {
    let mut told = Told::new(&session.node);
    changes.take();
    let (welcome, all) = context.mirror.with(|view| {
        let node = view.nodes.get(&session.node);
        let welcome = Welcome {
            node_uid: node
                .map(|held| held.resource.uid.clone())
                .unwrap_or_default(),
            store_id: view.store_id.clone(),
            revision: view.revision,
        };
        (welcome, told.everything(view))
    });
    if !send(out, ToAgent::Welcome(welcome)).await || !send_all(out, all, shared).await {
        return Ok(());
    }
    let mut ports_due = Instant::now() + PORTS_INTERVAL;
    let mut ports = false;
    loop {
        let far = Instant::now() + Duration::from_secs(3_600);
        let due = if ports { ports_due } else { far };
        tokio::select! {
            biased;
            () = changes.changed() => {}
            () = tokio::time::sleep_until(due) => {}
        }
        let pending = changes.take();
        ports |= pending.ports;
        let now = Instant::now();
        let with_ports = ports && now >= ports_due;
        if with_ports {
            ports = false;
            ports_due = now + PORTS_INTERVAL;
        }
        let parts = context
            .mirror
            .with(|view| told.changes(view, &pending, with_ports));
        if told.is_lost() {
            return Err(put_back());
        }
        if !send_all(out, parts, shared).await {
            return Ok(());
        }
    }
}

async fn send_all(out: &Out, parts: Vec<Desired>, shared: &Shared) -> bool {
    for part in parts {
        shared.sent_revision.store(part.revision, Ordering::Relaxed);
        if !send(out, ToAgent::Desired(part)).await {
            return false;
        }
    }
    true
}

async fn send(out: &Out, message: ToAgent) -> bool {
    let message = ControlMessage {
        message: Some(message),
    };
    out.send(Ok(message)).await.is_ok()
}

/// Gives the session back and says that the agent is gone, where the session is still ours.
async fn close(context: &Context, session: &Session) {
    for _ in 0..3 {
        let (txn, revision) = context.mirror.with(|view| {
            let mut txn = Txn {
                compares: vec![session.compare()],
                writes: vec![Write::Delete {
                    key: session.key.clone(),
                }],
                marker: None,
            };
            if let Some(held) = view.nodes.get(&session.node) {
                let why = "its stream has ended";
                let now = context.env.clock.now();
                let status = observe::node_disconnected(&held.resource, why, &now);
                let mut change = context.repo.change();
                let keys = change.keys().clone();
                let key = keys.status(Kind::Node, &session.node);
                change.require(unchanged(key, held.status_revision.unwrap_or(0)));
                change.require(Compare::Present(keys.spec(Kind::Node, &session.node)));
                change.put_status::<Node>(&session.node, &status);
                let change = change.into_txn();
                txn.compares.extend(change.compares);
                txn.writes.extend(change.writes);
            }
            (txn, view.revision)
        });
        match context.env.store.txn(txn).await {
            Ok(penstock_store::Committed::No(current)) if current > revision => {
                let held = context.mirror.with(|view| {
                    let held = view.sessions.get(&session.node);
                    held.is_some_and(|held| held.mod_revision == session.revision)
                });
                if !held {
                    return;
                }
                context.mirror.reached(current).await;
            }
            _ => return,
        }
    }
}
