//! A whole server without its sockets: what a process serves, and what tests and simulations call.

use std::sync::Arc;
use std::time::Duration;

use penstock_store::LeaseId;
use tokio::task::JoinSet;

use crate::agents::{Agents, Context};
use crate::election;
use crate::engine;
use crate::env::Env;
use crate::lease;
use crate::mirror::Mirror;
use crate::repo::Repo;
use crate::services::Services;
use crate::shared_lease::SharedLease;
use crate::signal::Signal;

/// A running server. Dropping it is a crash: everything stops where it stands, and what it held in
/// the store goes with its leases.
pub struct Control {
    /// The outside.
    pub env: Env,
    /// The state.
    pub mirror: Mirror,
    /// The service for nodes' agents.
    pub agents: Agents,
    /// All other services.
    pub services: Services,
    tasks: JoinSet<()>,
    stop: Signal<bool>,
    lease: Signal<Option<LeaseId>>,
}

impl Control {
    /// Starts a server on an environment. The store's schema is to be checked before, see
    /// [`crate::schema::check`].
    pub fn start(env: Env) -> Control {
        let mirror = Mirror::new(env.clone());
        let ended = Arc::new(SharedLease::new(env.settings.retention.operations));
        let (stop, lease) = (env.stop.clone(), Signal::new(None));
        let mut tasks = JoinSet::new();
        {
            let mirror = mirror.clone();
            tasks.spawn(async move { mirror.run().await });
        }
        {
            let (env, lease) = (env.clone(), lease.clone());
            tasks.spawn(async move {
                lease::hold(&env.store, env.settings.session_time_to_live, &lease).await;
            });
        }
        {
            let (env, mirror, ended) = (env.clone(), mirror.clone(), Arc::clone(&ended));
            let stop = stop.clone();
            tasks.spawn(async move {
                election::run(&env, &mirror, election::ENGINE, &stop, |term| {
                    engine::lead(&env, &mirror, &ended, term)
                })
                .await;
            });
        }
        let agents = Agents::new(Context {
            env: env.clone(),
            mirror: mirror.clone(),
            repo: Repo::new(&env),
            ended,
            lease: lease.clone(),
            stop: stop.clone(),
        });
        Control {
            services: Services::new(&env, Some(mirror.clone())),
            env,
            mirror,
            agents,
            tasks,
            stop,
            lease,
        }
    }

    /// Tells sessions, election and all that waits for callers (watches, waiting for operations) to
    /// end; other calls go on. See [`Control::stop`].
    pub fn begin_stop(&self) {
        self.stop.set(true);
    }

    /// Stops in good order: agents are told to go elsewhere, another server may lead at once. Takes
    /// `limit` at most.
    pub async fn stop(mut self, limit: Duration) {
        self.begin_stop();
        let lease = self.lease.get();
        let done = async {
            self.agents.ended().await;
            // The election ends by itself and gives its lease up; mirror and lease never end.
            while self.tasks.len() > 2 && self.tasks.join_next().await.is_some() {}
            if let Some(lease) = lease {
                lease::give_up(&self.env.store, lease).await;
            }
        };
        if tokio::time::timeout(limit, done).await.is_err() {
            tracing::warn!("not everything ended in time; the rest ends with its leases");
        }
        self.tasks.abort_all();
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.agents.abort();
    }
}
