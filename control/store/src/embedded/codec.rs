//! How the embedded store writes its records: numbers little-endian, texts and values with their
//! length before them.

use crate::mvcc::{KeyChange, SavedChange};
use crate::{Entry, LeaseId};

/// A record that cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Damaged;

/// Writes what an entry is besides its key.
pub(super) fn write_entry(out: &mut Vec<u8>, entry: &Entry) {
    out.extend_from_slice(&entry.create_revision.to_le_bytes());
    out.extend_from_slice(&entry.mod_revision.to_le_bytes());
    out.push(u8::from(entry.lease.is_some()));
    out.extend_from_slice(&entry.lease.map_or(0, |lease| lease.0).to_le_bytes());
    write_bytes(out, &entry.value);
}

/// Reads an entry whose key is known.
pub(super) fn read_entry(key: &str, bytes: &[u8]) -> Result<Entry, Damaged> {
    let mut reader = Reader(bytes);
    let entry = reader.entry(key)?;
    reader.end()?;
    Ok(entry)
}

/// A revision's changes: each key with what it was before.
pub(super) fn write_changes(changes: &[KeyChange]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, before, _) in changes {
        write_bytes(&mut out, key.as_bytes());
        out.push(u8::from(before.is_some()));
        if let Some(before) = before {
            write_entry(&mut out, before);
        }
    }
    out
}

/// Reads a revision's changes.
pub(super) fn read_changes(bytes: &[u8]) -> Result<Vec<SavedChange>, Damaged> {
    let mut reader = Reader(bytes);
    let mut changes = Vec::new();
    while !reader.0.is_empty() {
        let key = String::from_utf8(reader.bytes()?.to_vec()).map_err(|_| Damaged)?;
        let before = match reader.byte()? {
            0 => None,
            1 => Some(reader.entry(&key)?),
            _ => return Err(Damaged),
        };
        changes.push((key, before));
    }
    Ok(changes)
}

fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Damaged> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Damaged> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Result<i64, Damaged> {
        let bytes = self.take(8)?.try_into().map_err(|_| Damaged)?;
        Ok(i64::from_le_bytes(bytes))
    }

    fn bytes(&mut self) -> Result<&'a [u8], Damaged> {
        let count = usize::try_from(self.number()?).map_err(|_| Damaged)?;
        self.take(count)
    }

    fn entry(&mut self, key: &str) -> Result<Entry, Damaged> {
        let create_revision = self.number()?;
        let mod_revision = self.number()?;
        let has_lease = self.byte()? != 0;
        let lease = self.number()?;
        Ok(Entry {
            key: key.to_owned(),
            create_revision,
            mod_revision,
            lease: has_lease.then_some(LeaseId(lease)),
            value: self.bytes()?.to_vec(),
        })
    }

    fn end(&self) -> Result<(), Damaged> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Damaged)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn entry() -> impl Strategy<Value = Entry> {
        let lease = proptest::option::of(any::<i64>().prop_map(LeaseId));
        let value = proptest::collection::vec(any::<u8>(), 0..40);
        (".{0,12}", any::<i64>(), any::<i64>(), lease, value).prop_map(
            |(key, create_revision, mod_revision, lease, value)| Entry {
                key,
                value,
                create_revision,
                mod_revision,
                lease,
            },
        )
    }

    proptest! {
        #[test]
        fn entries_come_back(entry in entry()) {
            let mut bytes = Vec::new();
            write_entry(&mut bytes, &entry);
            prop_assert_eq!(read_entry(&entry.key, &bytes), Ok(entry.clone()));
            bytes.pop();
            prop_assert_eq!(read_entry(&entry.key, &bytes), Err(Damaged));
        }

        #[test]
        fn changes_come_back(entries in proptest::collection::vec((entry(), any::<bool>()), 0..5)) {
            let changes: Vec<KeyChange> = entries
                .iter()
                .map(|(e, had)| (e.key.clone(), had.then(|| Arc::new(e.clone())), None))
                .collect();
            let back = read_changes(&write_changes(&changes));
            let expected: Vec<_> = entries
                .into_iter()
                .map(|(e, had)| (e.key.clone(), had.then_some(e)))
                .collect();
            prop_assert_eq!(back, Ok(expected));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_entry("k", &bytes);
            let _ = read_changes(&bytes);
        }
    }
}
