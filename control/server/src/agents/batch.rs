//! Writing what many objects of a node became in few transactions.

use penstock_store::{Committed, Compare, Revision, StoreError, TXN_OPS_MAX, Txn};
use tokio::time::Instant;

use crate::env::Env;

/// Conditions and writes that a transaction is filled with at most; the store may add its own.
const ROOM: usize = TXN_OPS_MAX - 4;

/// What one object became.
pub struct Part {
    /// What it is, to be looked at again where this is not written.
    pub uid: String,
    /// Since when it was to be written.
    pub since: Instant,
    /// Conditions and writes.
    pub txn: Txn,
}

/// How writing ended.
pub enum Written {
    /// All of it, at last at this revision.
    All(Revision),
    /// What is told here was not: something had changed since the state was looked at. The mirror is
    /// to reach the revision first.
    Behind(Vec<Part>, Revision),
    /// What is told here was not, or perhaps was: the store failed.
    Failed(Vec<Part>, StoreError),
}

/// Writes parts, together as far as they go, each transaction only if `always` holds. `together` is
/// how many parts a transaction has at most; it shrinks with conflicts and grows without.
pub async fn write(
    env: &Env,
    always: &[Compare],
    mut parts: Vec<Part>,
    together: &mut usize,
) -> Written {
    let mut reached = 0;
    while !parts.is_empty() {
        let count = fitting(&parts, always.len(), *together);
        let txn = joined(always, &parts[..count]);
        match env.store.txn(txn).await {
            Ok(Committed::Yes(revision)) => {
                reached = revision;
                *together = (*together * 2).min(TXN_OPS_MAX);
                let now = Instant::now();
                for part in parts.drain(..count) {
                    let lag = now.saturating_duration_since(part.since);
                    env.metrics.reconcile_lag.observe(lag.as_secs_f64());
                }
            }
            Ok(Committed::No(revision)) => {
                *together = (count / 4).max(1);
                return Written::Behind(parts, revision);
            }
            Err(error) => return Written::Failed(parts, error),
        }
    }
    Written::All(reached)
}

/// How many of the parts go into one transaction; at least one.
fn fitting(parts: &[Part], always: usize, together: usize) -> usize {
    let (mut compares, mut writes) = (always, 0);
    let mut count = 0;
    for part in parts.iter().take(together) {
        compares += part.txn.compares.len();
        writes += part.txn.writes.len();
        if compares > ROOM || writes > ROOM {
            break;
        }
        count += 1;
    }
    count.max(1)
}

fn joined(always: &[Compare], parts: &[Part]) -> Txn {
    let mut txn = Txn {
        compares: always.to_vec(),
        ..Txn::default()
    };
    for part in parts {
        for compare in &part.txn.compares {
            if !txn.compares.contains(compare) {
                txn.compares.push(compare.clone());
            }
        }
        txn.writes.extend(part.txn.writes.iter().cloned());
    }
    txn
}
