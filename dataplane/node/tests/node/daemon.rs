//! A `penstock-node` process of one test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

pub const NQN: &str = "nqn.2026-01.io.penstock:test";

/// A running node with its own folder; killed when dropped.
pub struct Daemon {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    pub folder: PathBuf,
}

/// Head of a configuration: free ports, a small pool, a reactor that the kernel places.
pub fn head() -> String {
    "[reactors]\npin = false\nbuffer_pool_size_bytes = 16777216\n\n[log]\nlevel = \"info\"\n\n\
     [metrics]\nlisten = \"127.0.0.1:0\"\n\n"
        .to_owned()
}

pub fn listener(address: &str) -> String {
    format!("[[listener]]\naddress = \"{address}\"\n\n")
}

pub fn subsystem(nqn: &str) -> String {
    format!("[[subsystem]]\nnqn = \"{nqn}\"\nallow_any_host = true\n\n")
}

pub fn memory(nsid: u32, size_bytes: u64) -> String {
    format!(
        "[[subsystem.namespace]]\nnsid = {nsid}\nbackend = \"memory\"\nsize_bytes = {size_bytes}\n\n"
    )
}

pub fn file(nsid: u32, path: &Path, size_bytes: u64) -> String {
    format!(
        "[[subsystem.namespace]]\nnsid = {nsid}\nbackend = \"file\"\npath = \"{}\"\n\
         size_bytes = {size_bytes}\n\n",
        path.display()
    )
}

/// A command for the node with `config` written to `folder`.
pub fn command(folder: &Path, config: &str) -> Command {
    let path = folder.join("node.toml");
    std::fs::write(&path, config).expect("the configuration is written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_penstock-node"));
    command.arg("--config").arg(path).env_remove("PENSTOCK_LOG");
    command
}

impl Daemon {
    /// Starts a node and waits until it is ready.
    pub fn start(folder: &Path, config: &str) -> Daemon {
        Daemon::start_with(command(folder, config), folder)
    }

    pub fn start_with(mut command: Command, folder: &Path) -> Daemon {
        let mut child = command
            .stderr(Stdio::piped())
            .spawn()
            .expect("the node starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        follow(child.stderr.take().expect("a pipe"), Arc::clone(&log));
        let daemon = Daemon {
            child,
            log,
            folder: folder.to_owned(),
        };
        daemon.wait_for_log(" ready ");
        daemon
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("the log").clone()
    }

    /// Waits until a line of the log contains `text`, and returns it.
    pub fn wait_for_log(&self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(line) = self.log().iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("no {text:?} in the log:\n{}", self.log().join("\n"));
    }

    /// The address that the first line with `text` names.
    fn address_in(&self, text: &str) -> SocketAddr {
        let line = self.wait_for_log(text);
        let address = line.rsplit("address=").next().expect("an address");
        address.trim().parse().expect("an address")
    }

    /// Where the first listener is.
    pub fn address(&self) -> SocketAddr {
        self.address_in(" listening ")
    }

    /// Asks the HTTP endpoint for a page; the whole reply.
    pub fn page(&self, path: &str) -> String {
        let mut client = TcpStream::connect(self.address_in("metrics are served")).expect("served");
        write!(client, "GET {path} HTTP/1.1\r\n\r\n").expect("asked");
        let mut reply = String::new();
        client.read_to_string(&mut reply).expect("a reply");
        reply
    }

    /// The value of the metric whose line begins with `name`.
    pub fn metric(&self, name: &str) -> f64 {
        let page = self.page("/metrics");
        let line = page.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in\n{page}"));
        line.rsplit(' ')
            .next()
            .and_then(|value| value.parse().ok())
            .expect("a number")
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a pid")).expect("a pid");
        kill_process(pid, signal).expect("signalled");
    }

    /// Writes a new configuration, has it read, and waits until the log says how that went.
    pub fn reload(&self, config: &str) -> String {
        let seen = self.log().len();
        std::fs::write(self.folder.join("node.toml"), config).expect("written");
        self.signal(Signal::HUP);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let log = self.log();
            if log[seen..].iter().any(|line| line.contains("reloaded")) {
                return log[seen..].join("\n");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("no reload in the log:\n{}", self.log().join("\n"));
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("its state") {
                return status;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the node does not end:\n{}", self.log().join("\n"));
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("gone");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn follow(stderr: ChildStderr, log: Arc<Mutex<Vec<String>>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            log.lock().expect("the log").push(line);
        }
    });
}
