//! Connections to the members: one at a time is used, and left when it fails.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout};

use super::config::EtcdConfig;
use super::failure::Failure;
use crate::StoreError;

const BACKOFF_FIRST: Duration = Duration::from_millis(20);
const BACKOFF_MOST: Duration = Duration::from_secs(1);

/// Pauses between tries: longer each time, and never the same for two clients.
pub(super) struct Backoff(Duration);

impl Backoff {
    pub(super) fn new() -> Self {
        Self(BACKOFF_FIRST)
    }

    pub(super) fn next(&mut self) -> Duration {
        let most = u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX);
        self.0 = (self.0 * 2).min(BACKOFF_MOST);
        let random = uuid::Uuid::new_v4().as_u64_pair().0;
        Duration::from_micros(most / 2 + random % (most / 2 + 1))
    }
}

/// The members and which one is in use.
pub(super) struct Link {
    endpoints: Vec<(String, OnceCell<Client>)>,
    options: ConnectOptions,
    current: AtomicUsize,
    pub(super) request_timeout: Duration,
    /// A key that this client may surely read.
    pub(super) own_key: String,
}

impl Link {
    pub(super) fn new(config: &EtcdConfig, own_key: String) -> Result<Self, StoreError> {
        let endpoints = config.endpoints.iter();
        Ok(Self {
            own_key,
            endpoints: endpoints
                .map(|endpoint| (endpoint.clone(), OnceCell::new()))
                .collect(),
            options: config.options()?,
            current: AtomicUsize::new(0),
            request_timeout: config.request_timeout,
        })
    }

    fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed) % self.endpoints.len()
    }

    /// The member in use, and its number.
    pub(super) async fn client(&self) -> Result<(usize, Client), Failure> {
        let number = self.current();
        let (endpoint, client) = &self.endpoints[number];
        let connected = client.get_or_try_init(|| async {
            Client::connect([endpoint], Some(self.options.clone())).await
        });
        match connected.await {
            Ok(client) => Ok((number, client.clone())),
            Err(error) => {
                self.leave(number);
                Err(self.named(number, Failure::from(error)).not_sent())
            }
        }
    }

    /// Uses another member than now.
    pub(super) fn leave_current(&self) {
        self.leave(self.current());
    }

    /// Uses another member from now on, if this one is still in use.
    pub(super) fn leave(&self, number: usize) {
        let next = (number + 1) % self.endpoints.len();
        let exchanged =
            self.current
                .compare_exchange(number, next, Ordering::Relaxed, Ordering::Relaxed);
        if exchanged.is_ok() && next != number {
            tracing::debug!(from = self.endpoints[number].0, "leaving an etcd member");
        }
    }

    /// Says which member it was, where that matters.
    fn named(&self, number: usize, mut failure: Failure) -> Failure {
        if let StoreError::Unavailable(words) = &mut failure.error {
            *words = format!("etcd {}: {words}", self.endpoints[number].0);
        }
        failure
    }

    /// One try of a request. Logs in again and repeats it where etcd refused the login.
    pub(super) async fn attempt<T, F, W>(&self, time: Duration, call: F) -> Result<T, Failure>
    where
        F: Fn(Client) -> W,
        W: Future<Output = Result<T, etcd_client::Error>>,
    {
        let deadline = Instant::now() + time;
        let connected = timeout(time, self.client()).await;
        let (number, client) = connected
            .map_err(|_| Failure::unanswered("connecting takes too long").not_sent())??;
        let mut failure = match self.timed(deadline, call(client.clone())).await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        if failure.login {
            let login = self.timed(deadline, client.refresh_token()).await;
            failure = match login {
                Err(login) => login.not_sent(),
                Ok(()) => match self.timed(deadline, call(client)).await {
                    Ok(answer) => return Ok(answer),
                    Err(failure) => failure,
                },
            };
        }
        if failure.passes {
            self.leave(number);
        }
        Err(self.named(number, failure))
    }

    async fn timed<T>(
        &self,
        deadline: Instant,
        request: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout_at(deadline, request).await {
            Ok(answer) => answer.map_err(Failure::from),
            Err(_) => Err(Failure::unanswered("no answer in time")),
        }
    }

    /// A request that may be repeated without harm: tried until it goes well, is refused, or time
    /// is up.
    pub(super) async fn repeat<T, F, W>(&self, call: F) -> Result<T, StoreError>
    where
        F: Fn(Client) -> W,
        W: Future<Output = Result<T, etcd_client::Error>>,
    {
        let deadline = Instant::now() + self.request_timeout;
        let mut backoff = Backoff::new();
        loop {
            // Leave time for another member.
            let left = deadline.saturating_duration_since(Instant::now());
            let time = left.min(self.request_timeout / 2);
            let failure = match self.attempt(time, &call).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let pause = backoff.next();
            if !failure.passes || Instant::now() + pause >= deadline {
                return Err(failure.error);
            }
            sleep(pause).await;
        }
    }
}
