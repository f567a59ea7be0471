//! etcd as Debian packages it: the server and its command line, unpacked into the cache, not
//! installed.

use crate::apt::{self, Apt};
use crate::cache::Cache;
use crate::error::{LabError, Result};
use crate::process;
use crate::root::Root;
use std::path::PathBuf;
use std::time::Duration;

/// Names the server's program for the store's tests.
pub const ETCD_VARIABLE: &str = "PENSTOCK_ETCD";

/// Names the command line's program.
pub const ETCDCTL_VARIABLE: &str = "PENSTOCK_ETCDCTL";

/// Raise it when the way of unpacking changes.
const RECIPE: u32 = 1;
const PACKAGES: [&str; 2] = ["etcd-server", "etcd-client"];
const START_LIMIT: Duration = Duration::from_secs(20);

/// Where etcd's programs lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// The server.
    pub etcd: PathBuf,
    /// The command line.
    pub etcdctl: PathBuf,
}

impl Programs {
    /// Finds the programs: named by the environment, else in the cache, where they are fetched if
    /// missing; `say` is told of a download.
    ///
    /// # Errors
    /// The packages cannot be had, or their programs do not run on this machine.
    pub fn find(say: &dyn Fn(&str)) -> Result<Self> {
        let named = |variable| {
            let path = std::env::var_os(variable).filter(|path| !path.is_empty());
            path.map(PathBuf::from)
        };
        if let (Some(etcd), Some(etcdctl)) = (named(ETCD_VARIABLE), named(ETCDCTL_VARIABLE)) {
            return Ok(Self { etcd, etcdctl });
        }
        Self::fetch(None, say)
    }

    /// The programs of another series of etcd than this machine's release has: Debian 12 packages
    /// 3.4, Debian 13 packages 3.5.
    ///
    /// # Errors
    /// The packages cannot be had, or their programs do not run on this machine.
    pub fn other(say: &dyn Fn(&str)) -> Result<Self> {
        let own = apt::codename()?;
        let release = match own.as_str() {
            "bookworm" => "trixie",
            "trixie" => "bookworm",
            _ => {
                let why = format!("no other release than {own} is known to carry another etcd");
                return Err(LabError::Skip(why));
            }
        };
        Self::fetch(Some(release), say)
    }

    fn fetch(release: Option<&str>, say: &dyn Fn(&str)) -> Result<Self> {
        let cache = Cache::open()?;
        let names = PACKAGES.join(" ");
        let (place, recipe) = match release {
            None => ("etcd".to_owned(), format!("{RECIPE}: {names}\n")),
            Some(release) => {
                let recipe = format!("{RECIPE}: {names} of {release}\n");
                (format!("etcd-{release}"), recipe)
            }
        };
        let dir = cache.ensure(&place, &recipe, |root| {
            say("fetching etcd (12 MB; unpacked into the cache, not installed)");
            let mut apt = match release {
                None => Apt::open(&cache.root().join("apt"))?,
                Some(release) => {
                    Apt::open_release(&cache.root().join(format!("apt-{release}")), release)?
                }
            };
            for package in PACKAGES {
                apt.unpack_alone(package, root)?;
            }
            // They link the release's C library only; better told here than by a test's time-out.
            let unpacked = Root::new(root.to_owned());
            let mut version = process::tied(unpacked.program("etcd")?);
            process::run(version.arg("--version"), START_LIMIT).map(drop)
        })?;
        let unpacked = Root::new(dir);
        Ok(Self {
            etcd: unpacked.program("etcd")?,
            etcdctl: unpacked.program("etcdctl")?,
        })
    }
}
