//! What everything in the server reaches the world through: the store, time, identities.
//!
//! The core of the server (services, engine, agents) uses nothing else of the outside, and no
//! `HashMap` iteration and no threads. So the whole of it runs in a seeded simulation, under tokio's
//! paused clock, and a seed repeats a run exactly. Delays are `tokio::time`'s; times that people
//! read are the [`Clock`]'s.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use penstock_api::well_known::Timestamp;
use penstock_store::Store;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use uuid::Uuid;

use crate::config::Settings;
use crate::metered::Metered;
use crate::metrics::Metrics;
use crate::signal::Signal;

/// Wall time.
pub trait Clock: Send + Sync + 'static {
    /// Time since 1970-01-01 00:00 UTC.
    fn since_epoch(&self) -> Duration;

    /// Now, as resources carry it.
    fn now(&self) -> Timestamp {
        let since = self.since_epoch();
        Timestamp {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
        }
    }
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn since_epoch(&self) -> Duration {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
    }
}

/// A clock that follows tokio's, which tests and simulations pause and advance.
#[derive(Clone, Copy, Debug)]
pub struct TokioClock {
    base: Duration,
    start: tokio::time::Instant,
}

impl TokioClock {
    /// A clock that shows `base` since the epoch now. To be called in a tokio runtime.
    pub fn starting_at(base: Duration) -> TokioClock {
        TokioClock {
            base,
            start: tokio::time::Instant::now(),
        }
    }
}

impl Clock for TokioClock {
    fn since_epoch(&self) -> Duration {
        self.base + self.start.elapsed()
    }
}

/// Where identities come from.
pub trait Ids: Send + Sync + 'static {
    /// A new UUID.
    fn uuid(&self) -> Uuid;

    /// A new UUID as text.
    fn text(&self) -> String {
        self.uuid().to_string()
    }
}

/// Random identities.
#[derive(Clone, Copy, Debug, Default)]
pub struct RandomIds;

impl Ids for RandomIds {
    fn uuid(&self) -> Uuid {
        Uuid::new_v4()
    }
}

/// Identities from a seed, for simulations.
#[derive(Debug)]
pub struct SeededIds(Mutex<StdRng>);

impl SeededIds {
    /// A source whose every answer follows from the seed.
    pub fn new(seed: u64) -> SeededIds {
        SeededIds(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl Ids for SeededIds {
    fn uuid(&self) -> Uuid {
        let mut bytes = [0; 16];
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .fill_bytes(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }
}

/// What everything in the server reaches the world through. Cheap to clone.
#[derive(Clone)]
pub struct Env {
    /// The store, whose times and failures are counted.
    pub store: Arc<dyn Store>,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Identities.
    pub ids: Arc<dyn Ids>,
    /// Figures for the metrics endpoint.
    pub metrics: Arc<Metrics>,
    /// What the configuration says, as far as the core needs it.
    pub settings: Arc<Settings>,
    /// Whether the server stops: what would go on for ever ends, and tells its callers why.
    pub stop: Signal<bool>,
}

impl Env {
    /// An environment of the real world around a store.
    pub fn new(store: Arc<dyn Store>, settings: Settings) -> Env {
        let metrics = Arc::new(Metrics::new());
        Env {
            store: Arc::new(Metered::new(store, Arc::clone(&metrics))),
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds),
            metrics,
            settings: Arc::new(settings),
            stop: Signal::new(false),
        }
    }

    /// An environment where everything follows from a seed and tokio's (paused) clock. To be called
    /// in a tokio runtime.
    pub fn seeded(store: Arc<dyn Store>, settings: Settings, seed: u64) -> Env {
        // 2026-01-01; any fixed time would do.
        let base = Duration::from_secs(1_767_225_600);
        let metrics = Arc::new(Metrics::new());
        Env {
            store: Arc::new(Metered::new(store, Arc::clone(&metrics))),
            clock: Arc::new(TokioClock::starting_at(base)),
            ids: Arc::new(SeededIds::new(seed)),
            metrics,
            settings: Arc::new(settings),
            stop: Signal::new(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_identities() {
        let (one, two) = (SeededIds::new(7), SeededIds::new(7));
        let first = one.text();
        assert_eq!(first, two.text());
        assert_ne!(first, one.text());
        assert_eq!(one.uuid().get_version_num(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn the_tokio_clock_follows_tokio() {
        let clock = TokioClock::starting_at(Duration::from_secs(100));
        assert_eq!(clock.now().seconds, 100);
        tokio::time::advance(Duration::from_millis(2_500)).await;
        assert_eq!(clock.now().seconds, 102);
        assert_eq!(clock.now().nanos, 500_000_000);
    }
}
