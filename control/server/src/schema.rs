//! The version of what is in the store: a server does not touch what a newer one wrote.

use std::time::Duration;

use penstock_store::{Committed, Compare, StoreError, Txn, Write};

use crate::env::Env;
use crate::keys::Keys;

/// The version that this server reads and writes.
pub const VERSION: u32 = 1;

/// Why a server does not start on a store.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// The store was written by a newer server.
    #[error(
        "the store has schema {found}, this penstock-control {version} knows schemas up to {VERSION}: run the newer version that wrote it"
    )]
    Newer {
        /// The store's schema.
        found: u32,
        /// Version of this program.
        version: &'static str,
    },
    /// The key holds something else than a number.
    #[error(
        "the store's {key} holds {found:?}, which is no schema number: is this prefix used by something else?"
    )]
    Damaged {
        /// The key.
        key: String,
        /// What it holds.
        found: String,
    },
}

/// Checks the store's schema and marks a new store, waiting until the store answers.
///
/// # Errors
/// Where this server must not use the store.
pub async fn check(env: &Env) -> Result<(), SchemaError> {
    let mut told = false;
    loop {
        match attempt(env).await {
            Ok(result) => return result,
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, "waiting for the store");
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn attempt(env: &Env) -> Result<Result<(), SchemaError>, StoreError> {
    let key = Keys::new(env.settings.prefix()).schema();
    loop {
        if let (Some(entry), _) = env.store.get(&key).await? {
            return Ok(judge(key, &entry.value));
        }
        let txn = Txn {
            compares: vec![Compare::Absent(key.clone())],
            writes: vec![Write::Put {
                key: key.clone(),
                value: VERSION.to_string().into_bytes(),
                lease: None,
            }],
            marker: None,
        };
        if let Committed::Yes(_) = env.store.txn(txn).await? {
            return Ok(Ok(()));
        }
    }
}

fn judge(key: String, value: &[u8]) -> Result<(), SchemaError> {
    let text = String::from_utf8_lossy(value);
    match text.parse::<u32>() {
        Ok(found) if found <= VERSION => Ok(()),
        Ok(found) => Err(SchemaError::Newer {
            found,
            version: env!("CARGO_PKG_VERSION"),
        }),
        Err(_) => Err(SchemaError::Damaged {
            key,
            found: text.into_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use penstock_store::sim::SimStore;

    use super::*;
    use crate::config::Settings;

    #[tokio::test(start_paused = true)]
    async fn marks_a_new_store_and_refuses_a_newer_one() {
        let sim = SimStore::new(1);
        let env = Env::seeded(sim.client("a"), Settings::default(), 1);
        let key = "/penstock/v1/default/meta/schema";
        assert_eq!(check(&env).await, Ok(()));
        assert_eq!(check(&env).await, Ok(()));
        let (entry, _) = env.store.get(key).await.expect("get");
        assert_eq!(entry.map(|entry| entry.value), Some(b"1".to_vec()));
        sim.put(key, b"2");
        let error = check(&env).await.expect_err("newer");
        assert!(
            error.to_string().contains("run the newer version"),
            "{error}"
        );
        sim.put(key, b"what");
        let error = check(&env).await.expect_err("damaged");
        assert!(
            error.to_string().contains("meta/schema holds \"what\""),
            "{error}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_a_store_that_does_not_answer() {
        let sim = SimStore::new(1);
        let env = Env::seeded(sim.client("a"), Settings::default(), 1);
        sim.set_available(false);
        let waiting = tokio::time::timeout(Duration::from_secs(30), check(&env)).await;
        assert!(waiting.is_err(), "{waiting:?}");
        sim.set_available(true);
        assert_eq!(check(&env).await, Ok(()));
    }
}
