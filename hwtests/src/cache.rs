//! Where the lab keeps what it downloaded and built, so that a second run is quick.

use crate::error::{IoContext, LabError, Result};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Names the cache directory outright.
pub const CACHE_VARIABLE: &str = "PENSTOCK_LAB_CACHE";

/// The cache directory, held by this process against other labs that would prepare it.
#[derive(Debug)]
pub struct Cache {
    root: PathBuf,
    _lock: File,
}

impl Cache {
    /// Opens the cache of this user, creating it if missing, and waits for its lock.
    ///
    /// # Errors
    /// No place is known for it, or it cannot be created or locked.
    pub fn open() -> Result<Self> {
        let root = place(|name| std::env::var_os(name).map(PathBuf::from)).ok_or_else(|| {
            LabError::Setup(format!(
                "no cache directory: neither {CACHE_VARIABLE}, XDG_CACHE_HOME nor HOME is set; \
                 set {CACHE_VARIABLE} to a directory with 2 GB of room"
            ))
        })?;
        std::fs::create_dir_all(&root).doing(|| format!("create {}", root.display()))?;
        let path = root.join("lock");
        let lock = File::create(&path).doing(|| format!("create {}", path.display()))?;
        lock.lock().doing(|| format!("lock {}", path.display()))?;
        Ok(Self { root, _lock: lock })
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes sure that `name` was built from `recipe`: if not, empties it and calls `build`.
    ///
    /// A directory counts as built only once its stamp is written, so an interrupted build is
    /// begun again.
    ///
    /// # Errors
    /// What `build` returns, or an I/O error.
    pub fn ensure(
        &self,
        name: &str,
        recipe: &str,
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let dir = self.root.join(name);
        let stamp = self.root.join(format!("{name}.recipe"));
        if std::fs::read_to_string(&stamp).is_ok_and(|old| old == recipe) && dir.is_dir() {
            return Ok(dir);
        }
        remove(&stamp)?;
        if dir.exists() {
            std::fs::remove_dir_all(&dir).doing(|| format!("remove {}", dir.display()))?;
        }
        std::fs::create_dir_all(&dir).doing(|| format!("create {}", dir.display()))?;
        build(&dir)?;
        std::fs::write(&stamp, recipe).doing(|| format!("write {}", stamp.display()))?;
        Ok(dir)
    }
}

/// Where tests leave their logs unless told otherwise; `None` if no cache directory is known.
#[must_use]
pub fn place_of_logs() -> Option<PathBuf> {
    place(|name| std::env::var_os(name).map(PathBuf::from)).map(|root| root.join("logs"))
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => Err(LabError::Io {
            what: format!("remove {}", path.display()),
            source: err,
        }),
        _ => Ok(()),
    }
}

fn place(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|path| !path.as_os_str().is_empty());
    set(CACHE_VARIABLE)
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("penstock/lab")))
        .or_else(|| set("HOME").map(|dir| dir.join(".cache/penstock/lab")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_at(root: &Path) -> Cache {
        Cache {
            root: root.to_owned(),
            _lock: File::create(root.join("lock")).unwrap(),
        }
    }

    #[test]
    fn the_most_specific_variable_wins() {
        let with = |names: &'static [(&str, &str)]| {
            place(move |name| {
                let found = names.iter().find(|(n, _)| *n == name);
                found.map(|(_, value)| PathBuf::from(value))
            })
        };
        assert_eq!(
            with(&[("HOME", "/h")]),
            Some("/h/.cache/penstock/lab".into())
        );
        assert_eq!(
            with(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]),
            Some("/x/penstock/lab".into())
        );
        assert_eq!(
            with(&[("HOME", "/h"), (CACHE_VARIABLE, "/c")]),
            Some("/c".into())
        );
        assert_eq!(with(&[("HOME", "")]), None);
    }

    #[test]
    fn builds_once_per_recipe_and_again_after_a_failure() {
        let tmp = tempfile::tempdir().unwrap();
        let cache = open_at(tmp.path());
        let mut built = 0;
        for recipe in ["a", "a", "b"] {
            cache
                .ensure("x", recipe, |dir| {
                    built += 1;
                    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0);
                    std::fs::write(dir.join("f"), recipe).unwrap();
                    Ok(())
                })
                .unwrap();
        }
        assert_eq!(built, 2);
        let failed = cache.ensure("x", "c", |_| Err(LabError::Setup("no".into())));
        assert!(failed.is_err());
        cache
            .ensure("x", "b", |_| {
                built += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!(built, 3, "a failed build must not leave the old stamp");
    }
}
