//! The folder with what the node must remember: the state that control wants, of which there is
//! always one sound copy.
//!
//! A save writes a new file, forces it to the disk, keeps the present one as the previous and puts
//! the new one in its place. Files that cannot be read are kept under another name, never
//! overwritten: a person may still get something out of them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};

/// The present state.
const PRESENT: &str = "desired";
/// The one before it.
const PREVIOUS: &str = "desired.previous";
/// The next, while it is written.
const NEXT: &str = "desired.next";
const LOCK: &str = "lock";

/// The state directory, held by this process alone.
#[derive(Debug)]
pub struct StateFolder {
    path: PathBuf,
    /// Holds the lock for as long as the folder is open.
    _lock: File,
}

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another process has it.
    #[error(
        "{0} is in use by another penstock-node; stop that one, or give this node a \
         state_directory of its own"
    )]
    InUse(PathBuf),
    /// A newer version wrote the state.
    #[error("{0}: {1}")]
    Newer(PathBuf, String),
    /// The system refuses.
    #[error("{path}: {what}: {error}; check the path, its permissions and the room on the disk")]
    Refused {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

/// Why a file is no state to start from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It is not what was saved; the one before it may be.
    Damaged(String),
    /// It is sound, but of a newer version: nothing else may stand in for it.
    Newer(String),
}

/// What a folder held.
#[derive(Debug)]
pub struct Loaded<T> {
    /// The newest sound state; `None` where there was none.
    pub state: Option<T>,
    /// One sentence for each file that could not be read.
    pub damage: Vec<String>,
}

impl StateFolder {
    /// Opens the folder at `path`, making it where it is missing, and locks it.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn open(path: &Path) -> Result<StateFolder, FolderError> {
        fs::create_dir_all(path).map_err(|error| refused(path, "cannot be made", error))?;
        let at = path.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&at)
            .map_err(|error| refused(&at, "cannot be opened", error))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(FolderError::InUse(path.to_owned()));
            }
            Err(error) => return Err(refused(&at, "cannot be locked", error.into())),
        }
        Ok(StateFolder {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Reads the newest state that `decode` accepts. Files it refuses are put aside.
    ///
    /// # Errors
    /// Where a file is there and cannot be read or put aside, or is of a newer version: starting
    /// without it could lose it.
    pub fn load<T>(
        &self,
        decode: impl Fn(&[u8]) -> Result<T, Unusable>,
    ) -> Result<Loaded<T>, FolderError> {
        let mut damage = Vec::new();
        for name in [PRESENT, PREVIOUS] {
            let path = self.path.join(name);
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(refused(&path, "cannot be read", error)),
            };
            match decode(&bytes) {
                Ok(state) => {
                    let state = Some(state);
                    return Ok(Loaded { state, damage });
                }
                Err(Unusable::Newer(what)) => return Err(FolderError::Newer(path, what)),
                Err(Unusable::Damaged(error)) => {
                    let aside = self.put_aside(&path)?;
                    damage.push(format!(
                        "{} is damaged ({error}) and is kept as {}",
                        path.display(),
                        aside.display()
                    ));
                }
            }
        }
        Ok(Loaded {
            state: None,
            damage,
        })
    }

    /// Renames a damaged file to a name that nothing overwrites.
    fn put_aside(&self, path: &Path) -> Result<PathBuf, FolderError> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let names = (0..).map(|number| match number {
            0 => format!("{PRESENT}.damaged-{now}"),
            _ => format!("{PRESENT}.damaged-{now}-{number}"),
        });
        let mut free = names
            .map(|name| self.path.join(name))
            .filter(|aside| !aside.exists());
        let aside = free.next().unwrap_or_else(|| path.to_owned());
        fs::rename(path, &aside).map_err(|error| refused(path, "cannot be put aside", error))?;
        Ok(aside)
    }

    /// Makes `bytes` the present state; when it returns they survive a loss of power. Blocks.
    ///
    /// # Errors
    /// [`FolderError::Refused`]; the present state is then as before.
    pub fn save(&self, bytes: &[u8]) -> Result<(), FolderError> {
        let next = self.path.join(NEXT);
        let told = |what| {
            let next = next.clone();
            move |error| refused(&next, what, error)
        };
        let mut file = File::create(&next).map_err(told("cannot be made"))?;
        file.write_all(bytes).map_err(told("cannot be written"))?;
        file.sync_all()
            .map_err(told("cannot be forced to the disk"))?;
        drop(file);
        let (present, previous) = (self.path.join(PRESENT), self.path.join(PREVIOUS));
        // A second name for the present file first: at no moment is there none.
        match fs::remove_file(&previous) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(refused(&previous, "cannot be replaced", error));
            }
            _ => {}
        }
        match fs::hard_link(&present, &previous) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(refused(&previous, "cannot be kept", error));
            }
            _ => {}
        }
        fs::rename(&next, &present).map_err(told("cannot take its place"))?;
        File::open(&self.path)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| refused(&self.path, "cannot be forced to the disk", error))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn refused(path: &Path, what: &'static str, error: io::Error) -> FolderError {
    FolderError::Refused {
        path: path.to_owned(),
        what,
        error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Result<String, Unusable> {
        match bytes {
            [b'!', ..] => Err(Unusable::Damaged("bad checksum".to_owned())),
            [b'?', ..] => Err(Unusable::Newer("run a newer penstock-node".to_owned())),
            _ => Ok(String::from_utf8_lossy(bytes).into_owned()),
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_present_and_the_previous_are_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("made/anew");
        let state = StateFolder::open(&path).expect("opened");
        assert!(state.load(decode).expect("loaded").state.is_none());
        for text in ["one", "two", "three"] {
            state.save(text.as_bytes()).expect("saved");
            let loaded = state.load(decode).expect("loaded");
            assert_eq!(loaded.state.as_deref(), Some(text));
            assert_eq!(loaded.damage, Vec::<String>::new());
        }
        assert_eq!(fs::read(path.join(PREVIOUS)).expect("read"), b"two");
        assert_eq!(names(&path), ["desired", "desired.previous", "lock"]);
    }

    #[test]
    fn damaged_files_are_put_aside_and_never_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = StateFolder::open(folder.path()).expect("opened");
        state.save(b"one").expect("saved");
        state.save(b"!two").expect("saved");
        let loaded = state.load(decode).expect("loaded");
        assert_eq!(loaded.state.as_deref(), Some("one"), "the previous");
        assert_eq!(loaded.damage.len(), 1);
        assert!(
            loaded.damage[0].contains("bad checksum"),
            "{:?}",
            loaded.damage
        );

        fs::write(folder.path().join(PREVIOUS), "!one").expect("written");
        state.save(b"!three").expect("saved");
        fs::write(folder.path().join(PREVIOUS), "!one").expect("written");
        let loaded = state.load(decode).expect("loaded");
        assert_eq!((loaded.state, loaded.damage.len()), (None, 2));
        let aside: Vec<Vec<u8>> = names(folder.path())
            .iter()
            .filter(|name| name.starts_with("desired.damaged-"))
            .map(|name| fs::read(folder.path().join(name)).expect("kept"))
            .collect();
        assert_eq!(aside.len(), 3, "{aside:?}");
        for kept in [b"!two".as_slice(), b"!three", b"!one"] {
            assert!(aside.iter().any(|bytes| bytes == kept), "{aside:?}");
        }
    }

    #[test]
    fn a_newer_state_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = StateFolder::open(folder.path()).expect("opened");
        state.save(b"one").expect("saved");
        state.save(b"?two").expect("saved");
        let message = state.load(decode).expect_err("newer").to_string();
        assert!(
            message.ends_with("desired: run a newer penstock-node"),
            "{message}"
        );
        assert_eq!(
            names(folder.path()),
            ["desired", "desired.previous", "lock"]
        );
    }

    #[test]
    fn a_save_that_did_not_end_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = StateFolder::open(folder.path()).expect("opened");
        state.save(b"one").expect("saved");
        fs::write(folder.path().join(NEXT), "!hal").expect("written");
        assert_eq!(
            state.load(decode).expect("loaded").state.as_deref(),
            Some("one")
        );
        state.save(b"two").expect("saved");
        assert_eq!(
            state.load(decode).expect("loaded").state.as_deref(),
            Some("two")
        );
    }

    #[test]
    fn two_processes_cannot_have_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = StateFolder::open(folder.path()).expect("opened");
        let message = StateFolder::open(folder.path())
            .expect_err("locked")
            .to_string();
        assert!(
            message.contains("in use by another penstock-node"),
            "{message}"
        );
        assert!(message.contains("; stop that one"), "{message}");
        drop(first);
        StateFolder::open(folder.path()).expect("let go");
    }
}
