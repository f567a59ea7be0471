//! Who leads: one server at a time has a role, held by a key that goes with a lease.
//!
//! The lease only makes another server likely to take over soon. What makes sure that there are
//! never two is that a leader compares its key's creation with every write ([`Term::compare`]): a
//! server that was stopped for longer than its lease, and does not know yet, is refused by the store.

use std::future::Future;
use std::time::Duration;

use penstock_store::{Committed, Compare, LeaseId, Revision, StoreError, Txn, Write};

use crate::env::Env;
use crate::keys::Keys;
use crate::lease;
use crate::mirror::{Interest, Mirror};
use crate::signal::Signal;

/// The role of the server that decides where things go.
pub const ENGINE: &str = "engine";

/// How long to wait after a failure before trying to be elected again.
const RETRY: Duration = Duration::from_millis(200);

/// A time of office.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    key: String,
    create_revision: Revision,
}

impl Term {
    /// What every write of the leader has to compare.
    pub fn compare(&self) -> Compare {
        Compare::CreateRevision(self.key.clone(), self.create_revision)
    }

    /// The revision at which it began: all that was written before is to be seen before acting.
    pub fn revision(&self) -> Revision {
        self.create_revision
    }

    /// Whether the store still has it.
    ///
    /// # Errors
    /// The store's.
    pub async fn holds(&self, env: &Env) -> Result<bool, StoreError> {
        let (entry, _) = env.store.get(&self.key).await?;
        Ok(entry.is_some_and(|entry| entry.create_revision == self.create_revision))
    }
}

/// Stands for a role until told to stop, and leads whenever elected. `lead` is dropped where it stands when
/// the office is lost; where it returns by itself, the office is given up and stood for again.
pub async fn run<F, L>(env: &Env, mirror: &Mirror, role: &str, stop: &Signal<bool>, lead: F)
where
    F: Fn(Term) -> L,
    L: Future<Output = ()>,
{
    while !stop.get() {
        let elected = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            elected = campaign(env, mirror, role) => elected,
        };
        let (term, lease) = match elected {
            Ok(won) => won,
            Err(error) => {
                tracing::debug!(%error, role, "not elected; trying again");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        tracing::info!(role, revision = term.create_revision, "this server leads");
        env.metrics.leader.set(1);
        let office = InOffice(env);
        let time_to_live = env.settings.leader_time_to_live;
        let why = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => "the server stops".to_owned(),
            why = lease::keep(&env.store, lease, time_to_live) => why,
            why = displaced(mirror, role, &term) => why,
            () = lead(term.clone()) => "a write of it was refused".to_owned(),
        };
        drop(office);
        tracing::info!(role, why, "this server no longer leads");
        lease::give_up(&env.store, lease).await;
    }
}

/// Tells the metrics that the office is over, also where the whole server is dropped.
struct InOffice<'a>(&'a Env);

impl Drop for InOffice<'_> {
    fn drop(&mut self) {
        self.0.metrics.leader.set(0);
        self.0.metrics.reconcile_queue.set(0);
    }
}

/// Waits until nobody has the role, and takes it.
async fn campaign(env: &Env, mirror: &Mirror, role: &str) -> Result<(Term, LeaseId), StoreError> {
    vacant(mirror, role).await;
    let key = Keys::new(env.settings.prefix()).elect(role);
    let lease = env.store.grant(env.settings.leader_time_to_live).await?;
    let holder = format!("{} {}", env.settings.name, env.ids.text());
    let txn = Txn {
        compares: vec![Compare::Absent(key.clone())],
        writes: vec![Write::Put {
            key: key.clone(),
            value: holder.into_bytes(),
            lease: Some(lease),
        }],
        marker: Some(key.clone()),
    };
    match env.store.txn(txn).await {
        Ok(Committed::Yes(create_revision)) => {
            let term = Term {
                key,
                create_revision,
            };
            Ok((term, lease))
        }
        Ok(Committed::No(revision)) => {
            lease::give_up(&env.store, lease).await;
            mirror.reached(revision).await;
            Err(StoreError::Unavailable(
                "another server was faster".to_owned(),
            ))
        }
        Err(error) => {
            lease::give_up(&env.store, lease).await;
            Err(error)
        }
    }
}

async fn vacant(mirror: &Mirror, role: &str) {
    let changes = mirror.subscribe(Interest::Role(role.to_owned()));
    // Before the first list nothing is known, and so nobody is seen in office.
    mirror.reached(0).await;
    while mirror.with(|view| view.elections.contains_key(role)) {
        changes.changed().await;
    }
}

/// Returns once the mirror shows that the office is over.
async fn displaced(mirror: &Mirror, role: &str, term: &Term) -> String {
    let changes = mirror.subscribe(Interest::Role(role.to_owned()));
    mirror.reached(term.create_revision).await;
    let regressions = mirror.with(|view| view.regressions);
    let progress = mirror.progress();
    let put_back = progress.wait_for(|_| mirror.with(|view| view.regressions) != regressions);
    tokio::pin!(put_back);
    loop {
        let holds = mirror.with(|view| {
            let held = view.elections.get(role);
            held.is_some_and(|held| held.create_revision == term.create_revision)
        });
        if !holds {
            return "the store no longer has it".to_owned();
        }
        tokio::select! {
            biased;
            () = changes.changed() => {}
            // What was written in this term may be lost, and its key may have come to be another's
            // at the same revision.
            _ = &mut put_back => return "the store was put back to an earlier state".to_owned(),
        }
    }
}
