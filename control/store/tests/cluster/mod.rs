//! Real etcd members on this machine, for the tests that need one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub mod relay;

/// The etcd program, or `None` after saying that the test is skipped.
pub fn program() -> Option<PathBuf> {
    let named = std::env::var_os("PENSTOCK_ETCD").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = named.or_else(|| {
        let mut folders = std::env::split_paths(&path).map(|folder| folder.join("etcd"));
        folders.find(|program| program.is_file())
    });
    if found.is_none() {
        println!("skipped: no etcd (PENSTOCK_ETCD, or etcd in PATH)");
    }
    found
}

/// Members of one cluster. They end when it is dropped.
pub struct Cluster {
    program: PathBuf,
    folder: tempfile::TempDir,
    /// Distinguishes the cluster from one with the same members.
    pub token: String,
    pub scheme: &'static str,
    pub arguments: Vec<String>,
    members: Vec<Member>,
}

struct Member {
    client: SocketAddr,
    peer: SocketAddr,
    child: Option<Child>,
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

impl Cluster {
    /// Prepares this many members; none runs yet.
    pub fn new(program: PathBuf, members: usize) -> Self {
        let member = |_| Member {
            client: free_address(),
            peer: free_address(),
            child: None,
        };
        Self {
            program,
            folder: tempfile::tempdir().unwrap(),
            token: "first".into(),
            scheme: "http",
            arguments: Vec::new(),
            members: (0..members).map(member).collect(),
        }
    }

    /// Starts members and waits until they listen.
    pub fn start(program: PathBuf, members: usize) -> Self {
        let mut cluster = Self::new(program, members);
        cluster.start_all();
        cluster
    }

    pub fn start_all(&mut self) {
        for number in 0..self.members.len() {
            self.spawn(number);
        }
        for number in 0..self.members.len() {
            self.wait(number);
        }
    }

    pub fn address(&self, number: usize) -> SocketAddr {
        self.members[number].client
    }

    pub fn endpoints(&self) -> Vec<String> {
        let members = self.members.iter();
        members
            .map(|member| format!("{}://{}", self.scheme, member.client))
            .collect()
    }

    fn spawn(&mut self, number: usize) {
        let members = self.members.iter().enumerate();
        let peers: Vec<String> = members
            .map(|(number, member)| format!("m{number}=http://{}", member.peer))
            .collect();
        let data = self.folder.path().join(format!("m{number}"));
        let log = std::fs::File::create(self.folder.path().join(format!("log{number}"))).unwrap();
        let member = &mut self.members[number];
        let client = format!("{}://{}", self.scheme, member.client);
        let peer = format!("http://{}", member.peer);
        let child = Command::new(&self.program)
            .arg(format!("--name=m{number}"))
            .arg(format!("--data-dir={}", data.display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster={}", peers.join(",")))
            .arg(format!("--initial-cluster-token={}", self.token))
            // The tests are about what it says, not about the disk.
            .arg("--unsafe-no-fsync")
            .args(&self.arguments)
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        member.child = Some(child);
    }

    fn wait(&mut self, number: usize) {
        let started = Instant::now();
        let member = &mut self.members[number];
        while TcpStream::connect(member.client).is_err() {
            let ended = member.child.as_mut().unwrap().try_wait().unwrap();
            if ended.is_some() || started.elapsed() > Duration::from_secs(30) {
                let log = self.folder.path().join(format!("log{number}"));
                panic!("etcd: {}", std::fs::read_to_string(log).unwrap());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn run(&mut self, number: usize) {
        self.spawn(number);
        self.wait(number);
    }

    /// Ends a member without a warning.
    pub fn kill(&mut self, number: usize) {
        if let Some(mut child) = self.members[number].child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Removes the data of a member that does not run.
    pub fn wipe(&self, number: usize) {
        std::fs::remove_dir_all(self.folder.path().join(format!("m{number}"))).unwrap();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for number in 0..self.members.len() {
            self.kill(number);
        }
    }
}
