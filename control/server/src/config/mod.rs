//! The configuration: read, checked, with defaults filled in.
//!
//! A [`Config`] that exists is sound in itself. Whether files are there and ports are free is found
//! by [`Config::check_files`] and when the server starts.

mod check;
mod problem;
mod schema;
mod settings;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use problem::{Problem, Problems};
pub use settings::{Quotas, Retention, Settings};

/// A checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file it was read from.
    pub file: PathBuf,
    /// Where the API is served.
    pub listen: SocketAddr,
    /// How long calls may take to finish when the server is told to stop.
    pub shutdown_timeout: Duration,
    /// Where the state is kept.
    pub store: StoreSettings,
    /// Files for TLS; without them the server is on loopback only.
    pub tls: Option<Identity>,
    /// Where metrics and health are served; `None` for nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// How to log.
    pub log: LogSettings,
    /// What the core of the server needs.
    pub settings: Settings,
}

/// Where the state is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreSettings {
    /// In one file, for one server.
    Embedded {
        /// The file.
        path: PathBuf,
        /// Revisions of history to keep at most.
        history_revisions: u64,
    },
    /// In an etcd cluster.
    Etcd(EtcdSettings),
}

/// How to reach an etcd cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdSettings {
    /// The members' client addresses.
    pub endpoints: Vec<String>,
    /// User, where etcd's authentication is on.
    pub user: Option<String>,
    /// File that holds the user's password, a line end after it is ignored.
    pub password_file: Option<PathBuf>,
    /// PEM file of the authority that the members' certificates are signed by.
    pub ca_file: Option<PathBuf>,
    /// PEM file of this server's certificate.
    pub cert_file: Option<PathBuf>,
    /// PEM file of that certificate's key.
    pub key_file: Option<PathBuf>,
    /// How long a request may take.
    pub request_timeout: Duration,
    /// How long connecting may take.
    pub connect_timeout: Duration,
}

/// Files for TLS on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// PEM file of the authority that clients' certificates must be signed by.
    pub ca_file: PathBuf,
    /// PEM file of the server's certificate, with those between it and the authority.
    pub cert_file: PathBuf,
    /// PEM file of that certificate's key.
    pub key_file: PathBuf,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// JSON lines instead of text.
    pub json: bool,
    /// Filter directives of `tracing`.
    pub level: String,
}

impl Config {
    /// Reads and checks `file`.
    ///
    /// # Errors
    /// Everything that is wrong, each with its line and remedy.
    pub fn load(file: &Path) -> Result<Config, Problems> {
        let text = std::fs::read_to_string(file).map_err(|error| {
            let what = format!("cannot be read: {error}");
            let remedy = "name a readable configuration file with --config";
            Problems(vec![problem_of(file, "", what, remedy)])
        })?;
        Config::parse(file, &text)
    }

    /// Checks `text`, which came from `file`.
    ///
    /// # Errors
    /// Everything that is wrong, each with its line and remedy.
    pub fn parse(file: &Path, text: &str) -> Result<Config, Problems> {
        check::check(file, text)
    }

    /// Checks that the files that are named can be read, and that the embedded store's file can be
    /// made where it is not there.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn check_files(&self) -> Result<(), Problems> {
        let mut files: Vec<(&str, &Path)> = Vec::new();
        if let Some(tls) = &self.tls {
            files.push(("tls.ca_file", &tls.ca_file));
            files.push(("tls.cert_file", &tls.cert_file));
            files.push(("tls.key_file", &tls.key_file));
        }
        let mut problems = Vec::new();
        match &self.store {
            StoreSettings::Etcd(etcd) => {
                for (key, file) in [
                    ("store.password_file", &etcd.password_file),
                    ("store.ca_file", &etcd.ca_file),
                    ("store.cert_file", &etcd.cert_file),
                    ("store.key_file", &etcd.key_file),
                ] {
                    files.extend(file.as_deref().map(|file| (key, file)));
                }
            }
            StoreSettings::Embedded { path, .. } => {
                let folder = path
                    .parent()
                    .filter(|folder| !folder.as_os_str().is_empty());
                let folder = folder.unwrap_or(Path::new("."));
                if !folder.is_dir() {
                    let what = format!("there is no folder {}", folder.display());
                    let remedy = "make the folder, or correct the path";
                    problems.push(problem_of(&self.file, "store.path", what, remedy));
                }
            }
        }
        for (key, file) in files {
            if let Err(error) = std::fs::File::open(file) {
                let what = format!("{} cannot be read: {error}", file.display());
                let remedy = "check the path and its permissions";
                problems.push(problem_of(&self.file, key, what, remedy));
            }
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Problems(problems))
        }
    }
}

fn problem_of(file: &Path, key: &str, what: String, remedy: &str) -> Problem {
    Problem {
        file: file.to_owned(),
        line: None,
        key: key.to_owned(),
        what,
        remedy: remedy.to_owned(),
    }
}

impl fmt::Display for Config {
    /// What will run, for `--check-config`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} is sound", self.file.display())?;
        let tls = if self.tls.is_some() {
            "TLS, client certificates required"
        } else {
            "no TLS, this machine only"
        };
        writeln!(f, "serves the API on {} ({tls})", self.listen)?;
        match self.metrics_listen {
            Some(listen) => writeln!(f, "serves metrics and health on http://{listen}")?,
            None => writeln!(f, "serves no metrics")?,
        }
        match &self.store {
            StoreSettings::Embedded { path, .. } => {
                writeln!(f, "keeps its state in {}", path.display())?;
            }
            StoreSettings::Etcd(etcd) => {
                writeln!(
                    f,
                    "keeps its state in etcd at {}",
                    etcd.endpoints.join(", ")
                )?;
            }
        }
        let unknown = if self.settings.auto_register {
            "makes itself known"
        } else {
            "is refused"
        };
        writeln!(
            f,
            "cluster {}; an agent of an unknown node {unknown}",
            self.settings.cluster
        )
    }
}

#[cfg(test)]
mod tests;
