//! What waits for the engine: each thing once, due now or after a delay that grows with failures.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

/// How long a thing that failed waits, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(10));

/// Something to look at. What there is to do is found by looking at the state as it is then.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// A node: whether its agent is still connected.
    Node(String),
    /// A subsystem: whether every node that serves it has controller identifiers.
    Subsystem(String),
    /// A namespace that is deleted and no node has.
    Namespace(String),
    /// A listener that is deleted and no node has.
    Listener(String),
    /// A volume: a place, space to grow, or its removal.
    Volume(String),
    /// An operation whose target is gone.
    Operation(String),
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// When the change that made the work was seen.
    since: Instant,
    due: Instant,
    failures: u32,
}

/// What waits.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: BTreeMap<Work, Waiting>,
    by_due: BTreeSet<(Instant, Work)>,
}

impl Queue {
    /// Adds work that a change seen at `since` made. It is due at once, also where it waited after a
    /// failure: things are different now.
    pub fn push(&mut self, work: Work, since: Instant) {
        let waiting = match self.waiting.get(&work) {
            Some(old) => Waiting { due: since, ..*old },
            None => Waiting {
                since,
                due: since,
                failures: 0,
            },
        };
        self.set(work, waiting);
    }

    /// Puts work back after its `failures`th failure.
    pub fn failed(&mut self, work: Work, since: Instant, failures: u32, now: Instant) {
        let delay = BACKOFF.0 * 2_u32.saturating_pow(failures.min(12));
        let waiting = Waiting {
            since,
            due: now + delay.min(BACKOFF.1),
            failures: failures + 1,
        };
        self.set(work, waiting);
    }

    fn set(&mut self, work: Work, waiting: Waiting) {
        if let Some(old) = self.waiting.insert(work.clone(), waiting) {
            self.by_due.remove(&(old.due, work.clone()));
        }
        self.by_due.insert((waiting.due, work));
    }

    /// Takes work that is due, at most `most`: each with when it was seen and how often it failed.
    pub fn take(&mut self, now: Instant, most: usize) -> Vec<(Work, Instant, u32)> {
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some((due, work)) = self.by_due.first().cloned()
            && due <= now
        {
            self.by_due.pop_first();
            if let Some(waiting) = self.waiting.remove(&work) {
                taken.push((work, waiting.since, waiting.failures));
            }
        }
        taken
    }

    /// When the next work is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.by_due.first().map(|(due, _)| *due)
    }

    /// How much waits.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_each_time_and_changes_end_the_wait() {
        let mut queue = Queue::default();
        let start = Instant::now();
        let work = Work::Volume("v".to_owned());
        queue.push(work.clone(), start);
        queue.push(work.clone(), start + Duration::from_millis(1));
        let now = start + Duration::from_millis(1);
        assert_eq!(queue.take(now, 10), [(work.clone(), start, 0)]);
        assert_eq!((queue.len(), queue.next_due()), (0, None));

        queue.failed(work.clone(), start, 0, now);
        let first = queue.next_due();
        assert!(queue.take(now, 10).is_empty());
        queue.failed(work.clone(), start, 3, now);
        assert!(queue.next_due() > first);
        queue.push(work.clone(), now);
        assert_eq!(queue.take(now, 10), [(work, start, 4)]);
    }

    #[tokio::test(start_paused = true)]
    async fn takes_no_more_than_asked() {
        let mut queue = Queue::default();
        let now = Instant::now();
        for name in ["a", "b", "c"] {
            queue.push(Work::Node(name.to_owned()), now);
        }
        assert_eq!(queue.take(now, 2).len(), 2);
        assert_eq!(queue.len(), 1);
    }
}
