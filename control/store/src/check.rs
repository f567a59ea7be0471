//! What every store refuses before it looks at its data.

use std::collections::BTreeSet;

use crate::{Compare, StoreError, TXN_OPS_MAX, Txn, Write};

/// Most bytes of keys and values in one transaction: under etcd's default limit of 1.5 MiB for a
/// request, with room for its framing.
pub(crate) const TXN_BYTES_MAX: usize = 1_400_000;

impl Compare {
    /// The key it looks at.
    pub(crate) fn key(&self) -> &str {
        match self {
            Self::Absent(key)
            | Self::Present(key)
            | Self::ModRevision(key, _)
            | Self::CreateRevision(key, _)
            | Self::Value(key, _) => key,
        }
    }
}

impl Write {
    /// The key it writes.
    pub(crate) fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.len() + value.len(),
            Self::Delete { key } => key.len(),
        }
    }
}

/// Checks the form of a transaction.
pub(crate) fn check_txn(txn: &Txn) -> Result<(), StoreError> {
    for (count, what) in [
        (txn.compares.len(), "conditions"),
        (txn.writes.len(), "writes"),
    ] {
        if count > TXN_OPS_MAX {
            return Err(StoreError::TooLarge(format!(
                "a transaction has {count} {what}, at most {TXN_OPS_MAX} are possible"
            )));
        }
    }
    let compared: usize = txn
        .compares
        .iter()
        .map(|compare| match compare {
            Compare::Value(key, value) => key.len() + value.len(),
            other => other.key().len(),
        })
        .sum();
    let bytes = compared + txn.writes.iter().map(Write::bytes).sum::<usize>();
    if bytes > TXN_BYTES_MAX {
        return Err(StoreError::TooLarge(format!(
            "a transaction has {bytes} bytes of keys and values, at most {TXN_BYTES_MAX} are possible"
        )));
    }
    if txn.compares.iter().any(|compare| compare.key().is_empty()) {
        return Err(mistake("has a condition on an empty key"));
    }
    let mut keys = BTreeSet::new();
    for write in &txn.writes {
        if write.key().is_empty() {
            return Err(mistake("writes an empty key"));
        }
        if !keys.insert(write.key()) {
            return Err(mistake(&format!("writes {:?} twice", write.key())));
        }
    }
    match &txn.marker {
        Some(marker) if marker_value(txn).is_none() => Err(mistake(&format!(
            "has the marker {marker:?} but does not put it"
        ))),
        _ => Ok(()),
    }
}

/// The marker's key and the value that the transaction gives it.
pub(crate) fn marker_value(txn: &Txn) -> Option<(&str, &[u8])> {
    let marker = txn.marker.as_deref()?;
    txn.writes.iter().find_map(|write| match write {
        Write::Put { key, value, .. } if key == marker => Some((marker, value.as_slice())),
        _ => None,
    })
}

fn mistake(what: &str) -> StoreError {
    StoreError::Internal(format!("a transaction {what}: a mistake of the caller"))
}
