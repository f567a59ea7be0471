//! etcd as Debian packages it: the server and its command line, unpacked into the cache, not
//! installed.

use crate::apt::Apt;
use crate::cache::Cache;
use crate::error::Result;
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
        Self::fetch(say)
    }

    fn fetch(say: &dyn Fn(&str)) -> Result<Self> {
        let cache = Cache::open()?;
        let recipe = format!("{RECIPE}: {}\n", PACKAGES.join(" "));
        let dir = cache.ensure("etcd", &recipe, |root| {
            say("fetching etcd (12 MB; unpacked into the cache, not installed)");
            let mut apt = Apt::open(&cache.root().join("apt"))?;
            for package in PACKAGES {
                apt.unpack_alone(package, root)?;
            }
            // They link this release's C library only; better told here than by a test's time-out.
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
