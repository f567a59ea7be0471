//! The embedded store's file: a redb database with the present entries, the history needed to know
//! what they were before, the leases, and a few facts.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
    TableHandle,
};

use super::codec::{Damaged, read_changes, read_entry, write_changes, write_entry};
use crate::mvcc::{FIRST_REVISION, KeyChange, Saved};
use crate::{LeaseId, Revision, StoreError};

const ENTRIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("entries");
const LOG: TableDefinition<'_, i64, &[u8]> = TableDefinition::new("log");
/// A lease's id and its time to live in milliseconds.
const LEASES: TableDefinition<'_, i64, u64> = TableDefinition::new("leases");
const FACTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("facts");

const FACT_FORMAT: &str = "format";
const FACT_ID: &str = "id";
const FACT_REVISION: &str = "revision";
const FACT_OLDEST: &str = "oldest";

/// Version of the file's layout.
const FORMAT: i64 = 1;
/// Pages of the file kept in memory, bytes. All data is in memory anyway.
const CACHE_BYTES: usize = 16 << 20;

/// What one commit writes.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) changes: Vec<(Revision, Vec<KeyChange>)>,
    pub(super) granted: Vec<(LeaseId, Duration)>,
    pub(super) ended: Vec<LeaseId>,
    /// Forget the log before this revision.
    pub(super) oldest: Option<Revision>,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
            && self.granted.is_empty()
            && self.ended.is_empty()
            && self.oldest.is_none()
    }
}

/// The open file; nobody else can open it meanwhile.
pub(super) struct File {
    database: Database,
    path: PathBuf,
}

/// Why something of the file failed.
#[derive(Debug)]
enum FileError {
    Redb(redb::Error),
    Damaged(String),
}

impl<E: Into<redb::Error>> From<E> for FileError {
    fn from(error: E) -> Self {
        Self::Redb(error.into())
    }
}

impl From<Damaged> for FileError {
    fn from(_: Damaged) -> Self {
        Self::Damaged("a record in it cannot be read".into())
    }
}

impl File {
    /// Opens the file, or makes it, checks it and reads all of it. Returns the store's identity and
    /// data too.
    pub(super) fn open(path: &Path) -> Result<(Self, String, Saved), StoreError> {
        // redb may panic on pages that make no sense.
        let opened = catch_unwind(AssertUnwindSafe(|| Self::try_open(path)));
        let opened = opened
            .unwrap_or_else(|_| Err(FileError::Damaged("its pages contradict each other".into())));
        opened.map_err(|error| describe(path, &error))
    }

    fn try_open(path: &Path) -> Result<(Self, String, Saved), FileError> {
        let new = !path.exists();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(StorageError::from)?;
        let mut database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create_file(file)?;
        database.check_integrity()?;
        if new && let Some(directory) = path.parent() {
            let directory = match directory.as_os_str().is_empty() {
                true => Path::new("."),
                false => directory,
            };
            std::fs::File::open(directory)
                .and_then(|directory| directory.sync_all())
                .map_err(StorageError::from)?;
        }
        let file = Self {
            database,
            path: path.to_owned(),
        };
        file.found_if_empty()?;
        let (id, saved) = file.load()?;
        Ok((file, id, saved))
    }

    /// Writes the facts of a new store where there are none.
    fn found_if_empty(&self) -> Result<(), FileError> {
        let write = self.database.begin_write()?;
        let tables: Vec<String> = write.list_tables()?.map(|t| t.name().to_owned()).collect();
        if tables.iter().any(|name| name == FACTS.name()) {
            write.abort()?;
            return Ok(());
        }
        if !tables.is_empty() {
            return Err(FileError::Damaged(
                "it is a database of something else than Penstock".into(),
            ));
        }
        {
            let id = uuid::Uuid::new_v4().to_string();
            let mut facts = write.open_table(FACTS)?;
            facts.insert(FACT_FORMAT, &FORMAT.to_le_bytes()[..])?;
            facts.insert(FACT_ID, id.as_bytes())?;
            facts.insert(FACT_REVISION, &FIRST_REVISION.to_le_bytes()[..])?;
            facts.insert(FACT_OLDEST, &FIRST_REVISION.to_le_bytes()[..])?;
            write.open_table(ENTRIES)?;
            write.open_table(LOG)?;
            write.open_table(LEASES)?;
        }
        write.commit()?;
        Ok(())
    }

    fn load(&self) -> Result<(String, Saved), FileError> {
        let read = self.database.begin_read()?;
        let format = number(&read, FACT_FORMAT)?;
        if format != FORMAT {
            return Err(FileError::Damaged(format!(
                "its format is {format}, this program knows {FORMAT}: use the penstock-control that wrote it, or a newer one"
            )));
        }
        let id = String::from_utf8(fact(&read, FACT_ID)?).map_err(|_| Damaged)?;
        let mut saved = Saved {
            revision: number(&read, FACT_REVISION)?,
            oldest: number(&read, FACT_OLDEST)?,
            entries: Vec::new(),
            log: Vec::new(),
            leases: Vec::new(),
        };
        for item in read.open_table(ENTRIES)?.iter()? {
            let (key, value) = item?;
            saved.entries.push(read_entry(key.value(), value.value())?);
        }
        for item in read.open_table(LOG)?.iter()?.rev() {
            let (revision, changes) = item?;
            saved
                .log
                .push((revision.value(), read_changes(changes.value())?));
        }
        for item in read.open_table(LEASES)?.iter()? {
            let (lease, time_ms) = item?;
            saved.leases.push((
                LeaseId(lease.value()),
                Duration::from_millis(time_ms.value()),
            ));
        }
        if saved.oldest > saved.revision || saved.log.first().is_some_and(|l| l.0 > saved.revision)
        {
            return Err(FileError::Damaged("its revisions are not in order".into()));
        }
        Ok((id, saved))
    }

    /// Writes a batch, durably.
    pub(super) fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        self.try_commit(batch)
            .map_err(|error| describe(&self.path, &error))
    }

    fn try_commit(&self, batch: &Batch) -> Result<(), FileError> {
        let write = self.database.begin_write()?;
        {
            let mut entries = write.open_table(ENTRIES)?;
            let mut log = write.open_table(LOG)?;
            let mut leases = write.open_table(LEASES)?;
            let mut facts = write.open_table(FACTS)?;
            for (revision, changes) in &batch.changes {
                log.insert(revision, write_changes(changes).as_slice())?;
                for (key, _, after) in changes {
                    match after {
                        Some(entry) => {
                            let mut bytes = Vec::with_capacity(entry.value.len() + 32);
                            write_entry(&mut bytes, entry);
                            entries.insert(key.as_str(), bytes.as_slice())?;
                        }
                        None => {
                            entries.remove(key.as_str())?;
                        }
                    }
                }
                facts.insert(FACT_REVISION, &revision.to_le_bytes()[..])?;
            }
            for (lease, time) in &batch.granted {
                let time_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                leases.insert(lease.0, time_ms)?;
            }
            for lease in &batch.ended {
                leases.remove(lease.0)?;
            }
            if let Some(oldest) = batch.oldest {
                log.retain_in(..oldest, |_, _| false)?;
                facts.insert(FACT_OLDEST, &oldest.to_le_bytes()[..])?;
            }
        }
        write.commit()?;
        Ok(())
    }
}

fn fact(read: &ReadTransaction, name: &str) -> Result<Vec<u8>, FileError> {
    let facts = read.open_table(FACTS)?;
    let value = facts.get(name)?.ok_or(Damaged)?;
    Ok(value.value().to_vec())
}

fn number(read: &ReadTransaction, name: &str) -> Result<i64, FileError> {
    let bytes = fact(read, name)?.try_into().map_err(|_| Damaged)?;
    Ok(i64::from_le_bytes(bytes))
}

fn no_room(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}

/// Names the file and what to do.
fn describe(path: &Path, error: &FileError) -> StoreError {
    let path = path.display();
    let damaged = |what: &str| {
        StoreError::Internal(format!(
            "the store's file {path} is damaged: {what}; keep a copy of it, and put a backup of the file in its place"
        ))
    };
    let error = match error {
        FileError::Damaged(what) => return damaged(what),
        FileError::Redb(error) => error,
    };
    match error {
        redb::Error::DatabaseAlreadyOpen => StoreError::Internal(format!(
            "the store's file {path} is in use by another penstock-control; stop that one, or use etcd for several servers"
        )),
        redb::Error::Io(io) if no_room(io) => {
            StoreError::Full(format!("no space left for the store's file {path}: {io}"))
        }
        redb::Error::Io(io) if io.kind() == std::io::ErrorKind::InvalidData => {
            damaged("it is no store, or its header is broken")
        }
        redb::Error::Io(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => {
            damaged("a part of it is missing")
        }
        redb::Error::Io(io) if io.kind() == std::io::ErrorKind::NotFound => StoreError::Internal(
            format!("cannot make the store's file {path}: its folder does not exist; create it"),
        ),
        redb::Error::Io(io) if io.kind() == std::io::ErrorKind::PermissionDenied => {
            StoreError::Internal(format!(
                "may not open the store's file {path}: give penstock-control's user read and write access to it and its folder"
            ))
        }
        redb::Error::Corrupted(what) => damaged(what),
        redb::Error::RepairAborted => damaged("it could not be repaired"),
        redb::Error::TableTypeMismatch { .. } | redb::Error::TableDoesNotExist(_) => {
            damaged("its tables are not those of a store")
        }
        other => StoreError::Internal(format!("the store's file {path}: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use redb::{DatabaseError, TableError};

    use super::*;

    #[test]
    fn each_error_says_what_to_do() {
        let say = |error: FileError| describe(Path::new("x.redb"), &error).to_string();
        let in_use = say(DatabaseError::DatabaseAlreadyOpen.into());
        assert!(
            in_use.contains("in use by another penstock-control"),
            "{in_use}"
        );
        let missing = say(TableError::TableDoesNotExist("log".into()).into());
        assert!(missing.contains("put a backup"), "{missing}");
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert!(matches!(
            describe(Path::new("x"), &StorageError::Io(full).into()),
            StoreError::Full(_)
        ));
    }
}
