//! The error information log of one controller: a ring of its last 128 errors (Base 2.1,
//! 5.1.12.1.2).

use std::collections::VecDeque;

/// Entries kept; Identify's ELPE is one less.
pub const ENTRIES: usize = 128;

/// One error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorRecord {
    /// Number of the error since the controller was made, from 1.
    pub count: u64,
    /// Queue of the command.
    pub queue_id: u16,
    /// Command identifier.
    pub command_id: u16,
    /// Status field, phase bit clear.
    pub status: u16,
    /// Byte and bit of the command at fault, or FFFFh.
    pub location: u16,
    /// First logical block the error is about.
    pub lba: u64,
    /// Namespace of the command.
    pub nsid: u32,
    /// Opcode of the command.
    pub opcode: u8,
}

/// The ring.
#[derive(Debug, Default)]
pub struct ErrorLog {
    ring: VecDeque<ErrorRecord>,
    count: u64,
}

impl ErrorLog {
    /// Notes an error; its `count` is filled in here.
    pub fn push(&mut self, mut record: ErrorRecord) {
        self.count += 1;
        record.count = self.count;
        if self.ring.len() == ENTRIES {
            self.ring.pop_back();
        }
        self.ring.push_front(record);
    }

    /// Errors since the controller was made.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The errors kept, the latest first.
    pub fn iter(&self) -> impl Iterator<Item = &ErrorRecord> {
        self.ring.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(command_id: u16) -> ErrorRecord {
        ErrorRecord {
            count: 0,
            queue_id: 1,
            command_id,
            status: 4,
            location: 0xffff,
            lba: 0,
            nsid: 1,
            opcode: 2,
        }
    }

    #[test]
    fn the_latest_128_are_kept_and_all_are_counted() {
        let mut log = ErrorLog::default();
        for cid in 0..200 {
            log.push(record(cid));
        }
        assert_eq!(log.count(), 200);
        let kept: Vec<_> = log.iter().map(|r| (r.count, r.command_id)).collect();
        assert_eq!(kept.len(), ENTRIES);
        assert_eq!(kept[0], (200, 199));
        assert_eq!(kept[127], (73, 72));
    }
}
