//! The system under test: a `penstock-node` of this test's own, on free ports, with its own files.

use crate::error::{IoContext, LabError, Result, check};
use crate::http;
use crate::process::{self, Owned};
use crate::transcript::{Source, Transcript};
use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Names the node's program outright.
pub const NODE_VARIABLE: &str = "PENSTOCK_NODE";

const PROGRAM: &str = "penstock-node";
const START_LIMIT: Duration = Duration::from_secs(20);
/// What the node promises after SIGTERM, and a little for a busy machine.
const STOP_LIMIT: Duration = Duration::from_secs(6);

/// Where a namespace's blocks live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// In the node's memory.
    Memory,
    /// In a file that survives the node.
    File,
}

/// A namespace to be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// The namespace's number in its subsystem.
    pub nsid: u32,
    /// Where it lives.
    pub backend: Backend,
    /// Its size in MiB.
    pub size_mib: u64,
    /// Its logical block size in bytes.
    pub block_size_bytes: u32,
}

impl Namespace {
    /// A namespace in a file.
    #[must_use]
    pub const fn file(nsid: u32, size_mib: u64, block_size_bytes: u32) -> Self {
        Self {
            nsid,
            backend: Backend::File,
            size_mib,
            block_size_bytes,
        }
    }

    /// A namespace in memory.
    #[must_use]
    pub const fn memory(nsid: u32, size_mib: u64, block_size_bytes: u32) -> Self {
        Self {
            nsid,
            backend: Backend::Memory,
            size_mib,
            block_size_bytes,
        }
    }

    /// Its size in bytes.
    #[must_use]
    pub const fn size_bytes(&self) -> u64 {
        self.size_mib << 20
    }
}

/// A subsystem to be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subsystem {
    /// Its NQN.
    pub nqn: String,
    /// Its serial number.
    pub serial: String,
    /// Hosts that may connect; empty lets every host in.
    pub hosts: Vec<String>,
    /// Its namespaces.
    pub namespaces: Vec<Namespace>,
}

impl Subsystem {
    /// A subsystem open to every host, named after `name`.
    #[must_use]
    pub fn open(name: &str, namespaces: &[Namespace]) -> Self {
        Self {
            nqn: format!("nqn.2026-01.org.penstock:{name}"),
            serial: format!("LAB-{}", name.to_ascii_uppercase()),
            hosts: Vec::new(),
            namespaces: namespaces.to_vec(),
        }
    }
}

/// A running node; dropping it kills it.
pub struct Node {
    program: PathBuf,
    dir: PathBuf,
    port: u16,
    ipv6: bool,
    metrics_port: u16,
    log: Transcript,
    process: Option<Owned>,
}

impl Node {
    /// Starts a node that serves `subsystems`, with its files in `dir`.
    ///
    /// # Errors
    /// The program is not built, or it is not ready in time.
    pub fn start(dir: &Path, subsystems: &[Subsystem], log: &Transcript) -> Result<Self> {
        let mut node = Self {
            program: process::beside(PROGRAM, NODE_VARIABLE, "penstock-node")?,
            dir: dir.to_owned(),
            port: process::free_port()?,
            ipv6: TcpListener::bind(("::1", 0)).is_ok(),
            metrics_port: process::free_port()?,
            log: log.clone(),
            process: None,
        };
        node.configure(subsystems)?;
        node.launch()?;
        Ok(node)
    }

    /// The TCP port on 127.0.0.1 where hosts connect.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the node listens on ::1 as well, at the same port.
    #[must_use]
    pub fn ipv6(&self) -> bool {
        self.ipv6
    }

    /// Starts the node's process on the present configuration and waits until it is ready.
    ///
    /// # Errors
    /// It ends or is not ready in time.
    pub fn launch(&mut self) -> Result<()> {
        let mut command = process::tied(&self.program);
        command.arg("--config").arg(self.config_path());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut owned = Owned::spawn(&mut command, PROGRAM)?;
        self.log
            .say(Source::Lab, &format!("node started, pid {}", owned.id()));
        if let Some(out) = owned.child().stdout.take() {
            self.log.follow(Source::Node, out);
        }
        if let Some(err) = owned.child().stderr.take() {
            self.log.follow(Source::Node, err);
        }
        let until = Instant::now() + START_LIMIT;
        while !self.is_ready() {
            if let Some(status) = owned.ended()? {
                return Err(LabError::Gone(format!(
                    "the node ended at its start with {status}; what it said is in the log"
                )));
            }
            if Instant::now() >= until {
                return Err(LabError::TimedOut {
                    what: "the node to be ready".into(),
                    after: START_LIMIT,
                });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.process = Some(owned);
        Ok(())
    }

    /// What the node's own endpoint says. That its port accepts a connection proves nothing: the
    /// kernel keeps a killed node's listeners for a moment.
    fn is_ready(&self) -> bool {
        http::is_ready(self.metrics_port)
    }

    /// SIGKILL: the node gets no chance to finish anything.
    ///
    /// # Errors
    /// It was not running.
    pub fn kill(&mut self) -> Result<()> {
        self.log.say(Source::Lab, "kill -9 the node");
        let mut owned = self.process.take().ok_or_else(not_running)?;
        owned.kill().map(drop)
    }

    /// SIGTERM, and checks that the node ends as promised: in time and with status 0.
    ///
    /// # Errors
    /// It was not running, is slow, or reports a failure.
    pub fn stop(&mut self) -> Result<()> {
        self.log.say(Source::Lab, "stop the node");
        let mut owned = self.process.take().ok_or_else(not_running)?;
        let status = owned.terminate(STOP_LIMIT)?;
        check(status.success(), || {
            format!("after SIGTERM the node ended with {status}")
        })
    }

    /// Changes what the node serves while it runs.
    ///
    /// # Errors
    /// The configuration cannot be written, or the node is not running.
    pub fn reconfigure(&mut self, subsystems: &[Subsystem]) -> Result<()> {
        self.log.say(Source::Lab, "reconfigure the node");
        self.configure(subsystems)?;
        let owned = self.process.as_mut().ok_or_else(not_running)?;
        let mut command = Command::new("kill");
        command.args(["-HUP", &owned.id().to_string()]);
        process::run(&mut command, Duration::from_secs(5)).map(drop)
    }

    /// Fails if the node has ended by itself.
    ///
    /// # Errors
    /// It has.
    pub fn check_running(&mut self) -> Result<()> {
        match self.process.as_mut().map(Owned::ended).transpose()? {
            Some(None) => Ok(()),
            Some(Some(status)) => Err(LabError::Gone(format!("the node ended with {status}"))),
            None => Err(not_running()),
        }
    }

    fn config_path(&self) -> PathBuf {
        self.dir.join("node.toml")
    }

    fn configure(&self, subsystems: &[Subsystem]) -> Result<()> {
        for subsystem in subsystems {
            for namespace in &subsystem.namespaces {
                self.size_file(subsystem, *namespace)?;
            }
        }
        let text = self.config_text(subsystems);
        self.log.say(Source::Lab, &text);
        let path = self.config_path();
        std::fs::write(&path, text).doing(|| format!("write {}", path.display()))
    }

    fn file_of(&self, subsystem: &Subsystem, namespace: Namespace) -> PathBuf {
        self.dir
            .join(format!("{}-{}.img", subsystem.serial, namespace.nsid))
    }

    /// Gives a file-backed namespace's file the size that the configuration names.
    fn size_file(&self, subsystem: &Subsystem, namespace: Namespace) -> Result<()> {
        if namespace.backend != Backend::File {
            return Ok(());
        }
        let path = self.file_of(subsystem, namespace);
        let mut options = std::fs::OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).open(&path);
        let sized = file.and_then(|file| file.set_len(namespace.size_bytes()));
        sized.doing(|| format!("make {}", path.display()))
    }

    fn config_text(&self, subsystems: &[Subsystem]) -> String {
        let mut text = format!(
            "[node]\nname = \"lab\"\n\n\
             [reactors]\npoll = \"adaptive\"\n\n\
             [metrics]\nlisten = \"127.0.0.1:{}\"\n\n\
             [[listener]]\naddress = \"127.0.0.1:{}\"\n",
            self.metrics_port, self.port
        );
        if self.ipv6 {
            // Writing to a String cannot fail.
            let _ = write!(text, "\n[[listener]]\naddress = \"[::1]:{}\"\n", self.port);
        }
        for subsystem in subsystems {
            let _ = write!(
                text,
                "\n[[subsystem]]\nnqn = \"{}\"\nserial = \"{}\"\nallow_any_host = {}\nhosts = {:?}\n",
                subsystem.nqn,
                subsystem.serial,
                subsystem.hosts.is_empty(),
                subsystem.hosts
            );
            for namespace in &subsystem.namespaces {
                let _ = write!(
                    text,
                    "\n[[subsystem.namespace]]\nnsid = {}\nblock_size_bytes = {}\n{}",
                    namespace.nsid,
                    namespace.block_size_bytes,
                    self.backend_text(subsystem, *namespace)
                );
            }
        }
        text
    }

    fn backend_text(&self, subsystem: &Subsystem, namespace: Namespace) -> String {
        let size = namespace.size_bytes();
        match namespace.backend {
            Backend::Memory => format!("backend = \"memory\"\nsize_bytes = {size}\n"),
            Backend::File => format!(
                "backend = \"file\"\npath = \"{}\"\nsize_bytes = {size}\n",
                self.file_of(subsystem, namespace).display()
            ),
        }
    }
}

fn not_running() -> LabError {
    LabError::Gone("the node is not running".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(dir: &Path) -> Node {
        Node {
            program: "/nonexistent".into(),
            dir: dir.to_owned(),
            port: 4420,
            ipv6: true,
            metrics_port: 9464,
            log: Transcript::create(&dir.join("log")).unwrap(),
            process: None,
        }
    }

    #[test]
    fn the_configuration_names_every_namespace_and_makes_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let node = node(dir.path());
        let namespaces = [Namespace::file(1, 4, 512), Namespace::memory(2, 8, 4096)];
        let mut closed = Subsystem::open("two", &[]);
        closed.hosts = vec!["nqn.h".into()];
        node.configure(&[Subsystem::open("one", &namespaces), closed])
            .unwrap();
        let text = std::fs::read_to_string(dir.path().join("node.toml")).unwrap();
        for part in [
            "address = \"127.0.0.1:4420\"",
            "address = \"[::1]:4420\"",
            "nsid = 2\nblock_size_bytes = 4096\nbackend = \"memory\"\nsize_bytes = 8388608",
            "allow_any_host = false\nhosts = [\"nqn.h\"]",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let file = dir.path().join("LAB-ONE-1.img");
        assert_eq!(std::fs::metadata(file).unwrap().len(), 4 << 20);
    }

    #[test]
    fn a_node_that_is_not_running_is_said_so() {
        let dir = tempfile::tempdir().unwrap();
        let mut node = node(dir.path());
        assert!(matches!(node.kill(), Err(LabError::Gone(_))));
        assert!(matches!(node.check_running(), Err(LabError::Gone(_))));
    }
}
