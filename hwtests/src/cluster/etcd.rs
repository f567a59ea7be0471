//! An etcd cluster on loopback.

use super::{Service, until};
use crate::error::{IoContext, LabError, Result};
use crate::etcd::Programs;
use crate::process;
use crate::transcript::{Source, Transcript};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const START_LIMIT: Duration = Duration::from_secs(30);
const TOOL_LIMIT: Duration = Duration::from_secs(60);

/// How a cluster is made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Its members.
    pub members: usize,
    /// Most bytes of a member's database; `None` for etcd's default.
    pub quota_bytes: Option<u64>,
}

impl Options {
    /// `members` with everything else as etcd has it.
    #[must_use]
    pub const fn members(members: usize) -> Self {
        Self {
            members,
            quota_bytes: None,
        }
    }
}

/// How a restored cluster calls itself; it depends on the token that the administrator gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// As before: only its revision tells that it is older.
    Same,
    /// Another cluster.
    Other,
}

/// When a key was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Key {
    /// Revision of the write that made it.
    pub create_revision: i64,
    /// Revision of its last write.
    pub mod_revision: i64,
}

struct Member {
    name: String,
    client: u16,
    peer: u16,
    service: Service,
}

/// A running cluster; dropping it kills all members.
pub struct Etcd {
    programs: Programs,
    dir: PathBuf,
    members: Vec<Member>,
    log: Transcript,
    quota_bytes: Option<u64>,
}

impl Etcd {
    /// Starts a new cluster with its data in `dir` and waits until it answers.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start(
        programs: &Programs,
        dir: &Path,
        options: Options,
        log: &Transcript,
    ) -> Result<Self> {
        let mut cluster = Self {
            programs: programs.clone(),
            dir: dir.to_owned(),
            members: Vec::new(),
            log: log.clone(),
            quota_bytes: options.quota_bytes,
        };
        let names: Vec<String> = (0..options.members).map(|i| format!("m{i}")).collect();
        let mut ports = Vec::new();
        for name in names {
            ports.push((name, process::free_port()?, process::free_port()?));
        }
        let peers: Vec<String> = ports
            .iter()
            .map(|(name, _, peer)| format!("{name}=http://127.0.0.1:{peer}"))
            .collect();
        for (name, client, peer) in ports {
            let service = cluster.service(&name, client, peer, &peers.join(","));
            cluster.members.push(Member {
                name,
                client,
                peer,
                service,
            });
        }
        for member in 0..options.members {
            cluster.members[member].service.start()?;
        }
        cluster.wait_healthy()?;
        Ok(cluster)
    }

    fn service(&self, name: &str, client: u16, peer: u16, peers: &str) -> Service {
        let mut words = vec![
            format!("--name={name}"),
            format!("--data-dir={}", self.data_of(name).display()),
            format!("--initial-cluster={peers}"),
            "--initial-cluster-state=new".to_owned(),
            // Short terms: an election among processes of one machine need not take a second.
            "--heartbeat-interval=50".to_owned(),
            "--election-timeout=500".to_owned(),
            "--log-level=warn".to_owned(),
            "--logger=zap".to_owned(),
        ];
        for (kind, port) in [("client", client), ("peer", peer)] {
            words.push(format!("--listen-{kind}-urls=http://127.0.0.1:{port}"));
        }
        words.push(format!("--advertise-client-urls=http://127.0.0.1:{client}"));
        words.push(format!(
            "--initial-advertise-peer-urls=http://127.0.0.1:{peer}"
        ));
        if let Some(bytes) = self.quota_bytes {
            words.push(format!("--quota-backend-bytes={bytes}"));
        }
        let program = self.programs.etcd.clone();
        Service::new(
            &format!("etcd {name}"),
            Source::Etcd,
            &self.log,
            move || {
                let mut command = process::tied(&program);
                command.args(&words);
                command
            },
        )
    }

    fn data_of(&self, name: &str) -> PathBuf {
        self.dir.join(format!("etcd-{name}"))
    }

    /// Where clients connect, a URL for each member.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        let ports = self.members.iter().map(|member| member.client);
        ports
            .map(|port| format!("http://127.0.0.1:{port}"))
            .collect()
    }

    /// Where clients connect to the first member, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.members.first().map_or(0, |member| member.client)
    }

    /// A key as it is now; `None` where it does not exist.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn key(&self, key: &str) -> Result<Option<Key>> {
        self.key_at(key, 0)
    }

    /// A key as it was at a revision, 0 for now; `None` where it did not exist.
    ///
    /// # Errors
    /// The cluster does not answer, or has forgotten that revision.
    pub fn key_at(&self, key: &str, revision: i64) -> Result<Option<Key>> {
        let at = format!("--rev={revision}");
        let text = self.ctl(&["get", key, &at, "--write-out=json"])?;
        let json: serde_json::Value = serde_json::from_str(&text)
            .map_err(|err| LabError::Check(format!("etcdctl printed {text:?}: {err}")))?;
        let Some(found) = json["kvs"].get(0) else {
            return Ok(None);
        };
        let number = |field: &str| found[field].as_i64().unwrap_or_default();
        Ok(Some(Key {
            create_revision: number("create_revision"),
            mod_revision: number("mod_revision"),
        }))
    }

    /// How many members there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// SIGKILL for the first `count` members.
    ///
    /// # Errors
    /// One of them was not running.
    pub fn kill(&mut self, count: usize) -> Result<()> {
        for member in self.members.iter_mut().take(count) {
            member.service.kill()?;
        }
        Ok(())
    }

    /// Starts the members that do not run and waits until the cluster answers.
    ///
    /// # Errors
    /// It does not come up.
    pub fn revive(&mut self) -> Result<()> {
        for member in &mut self.members {
            if !member.service.is_started() {
                member.service.start()?;
            }
        }
        self.wait_healthy()
    }

    fn wait_healthy(&self) -> Result<()> {
        until("etcd to answer", START_LIMIT, || {
            let mut command = self.tool();
            command.args(["endpoint", "health"]);
            process::run(&mut command, TOOL_LIMIT).map(|_| true)
        })
        .map(drop)
    }

    fn tool(&self) -> Command {
        let mut command = process::tied(&self.programs.etcdctl);
        command.env("ETCDCTL_API", "3");
        command.args(["--command-timeout=5s", "--dial-timeout=2s"]);
        command.arg(format!("--endpoints={}", self.endpoints().join(",")));
        command
    }

    /// Runs etcdctl on the cluster and returns what it prints.
    ///
    /// # Errors
    /// It fails.
    pub fn ctl(&self, words: &[&str]) -> Result<String> {
        let mut command = self.tool();
        self.log
            .say(Source::Lab, &format!("etcdctl {}", words.join(" ")));
        process::run(command.args(words), TOOL_LIMIT)
    }

    /// Puts a file's content under a key.
    ///
    /// # Errors
    /// etcd does not take it, for example because it is full.
    pub fn fill(&self, key: &str, file: &Path) -> Result<()> {
        let content = std::fs::File::open(file).doing(|| format!("open {}", file.display()))?;
        let mut command = self.tool();
        command.args(["put", key]).stdin(content);
        let status = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .doing(|| "run etcdctl".into())?;
        status
            .success()
            .then_some(())
            .ok_or_else(|| LabError::Check(format!("etcdctl put {key} ended with {status}")))
    }

    /// The store's revision now.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn revision(&self) -> Result<i64> {
        let text = self.ctl(&["get", "x", "--write-out=json"])?;
        let json: serde_json::Value = serde_json::from_str(&text)
            .map_err(|err| LabError::Check(format!("etcdctl printed {text:?}: {err}")))?;
        json["header"]["revision"]
            .as_i64()
            .ok_or_else(|| LabError::Check(format!("etcdctl tells no revision: {text}")))
    }

    /// Saves a snapshot of the first member to `file`.
    ///
    /// # Errors
    /// It cannot be saved.
    pub fn save(&self, file: &Path) -> Result<()> {
        let mut command = process::tied(&self.programs.etcdctl);
        command.env("ETCDCTL_API", "3");
        command.arg(format!("--endpoints={}", self.endpoints()[0]));
        command.args(["snapshot", "save"]).arg(file);
        process::run(&mut command, TOOL_LIMIT).map(drop)
    }

    /// Kills all members and starts them anew from a snapshot, at the same addresses, as an
    /// administrator would with a backup.
    ///
    /// # Errors
    /// The snapshot cannot be restored or the cluster does not come up.
    pub fn restore(&mut self, file: &Path, identity: Identity) -> Result<()> {
        let all = self.members.len();
        self.kill(all)?;
        let peers: Vec<String> = self
            .members
            .iter()
            .map(|member| format!("{}=http://127.0.0.1:{}", member.name, member.peer))
            .collect();
        for member in &self.members {
            let data = self.data_of(&member.name);
            std::fs::remove_dir_all(&data).doing(|| format!("remove {}", data.display()))?;
            let mut command = process::tied(&self.programs.etcdctl);
            command.env("ETCDCTL_API", "3");
            command.args(["snapshot", "restore"]).arg(file);
            command.arg(format!("--name={}", member.name));
            command.arg(format!("--data-dir={}", data.display()));
            command.arg(format!("--initial-cluster={}", peers.join(",")));
            if identity == Identity::Other {
                command.arg("--initial-cluster-token=restored");
            }
            command.arg(format!(
                "--initial-advertise-peer-urls=http://127.0.0.1:{}",
                member.peer
            ));
            process::run(&mut command, TOOL_LIMIT)?;
        }
        self.revive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::{ETCD_VARIABLE, ETCDCTL_VARIABLE};

    /// The programs, or a word on why the test is not run. No test downloads anything.
    fn programs() -> Option<Programs> {
        let named = |variable| std::env::var_os(variable).map(PathBuf::from);
        let found = named(ETCD_VARIABLE).zip(named(ETCDCTL_VARIABLE));
        if found.is_none() {
            println!("skipped: {ETCD_VARIABLE} and {ETCDCTL_VARIABLE} do not name etcd");
        }
        found.map(|(etcd, etcdctl)| Programs { etcd, etcdctl })
    }

    #[test]
    fn a_cluster_loses_its_majority_and_gets_it_back() {
        let Some(programs) = programs() else { return };
        let dir = tempfile::tempdir().unwrap();
        let log = Transcript::create(&dir.path().join("log")).unwrap();
        let options = Options::members(3);
        let mut etcd = Etcd::start(&programs, dir.path(), options, &log).unwrap();
        etcd.ctl(&["put", "a", "1"]).unwrap();
        let before = etcd.revision().unwrap();
        etcd.kill(2).unwrap();
        assert!(etcd.ctl(&["put", "a", "2"]).is_err());
        etcd.revive().unwrap();
        etcd.ctl(&["put", "a", "3"]).unwrap();
        assert!(etcd.revision().unwrap() > before);
    }

    #[test]
    fn a_snapshot_is_restored_and_a_quota_filled() {
        let Some(programs) = programs() else { return };
        let dir = tempfile::tempdir().unwrap();
        let log = Transcript::create(&dir.path().join("log")).unwrap();
        let options = Options {
            members: 1,
            quota_bytes: Some(4 << 20),
        };
        let mut etcd = Etcd::start(&programs, dir.path(), options, &log).unwrap();
        etcd.ctl(&["put", "old", "1"]).unwrap();
        let snapshot = dir.path().join("snapshot");
        etcd.save(&snapshot).unwrap();
        etcd.ctl(&["put", "young", "1"]).unwrap();
        etcd.restore(&snapshot, Identity::Other).unwrap();
        assert!(etcd.ctl(&["get", "old"]).unwrap().contains("old"));
        assert_eq!(etcd.ctl(&["get", "young"]).unwrap(), "");
        let filler = dir.path().join("filler");
        std::fs::write(&filler, "x".repeat(1 << 20)).unwrap();
        let taken = (0..20).filter(|i| etcd.fill(&format!("f{i}"), &filler).is_ok());
        assert!((1..8).contains(&taken.count()), "the quota is 4 MiB");
    }
}
