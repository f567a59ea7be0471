//! The real programs, built beside this one.

#![allow(clippy::expect_used, reason = "a test that cannot be set up must fail")]
#![allow(clippy::print_stdout, reason = "why a test is skipped")]

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn beside(name: &str) -> PathBuf {
    let own = Path::new(env!("CARGO_BIN_EXE_penstock"));
    own.parent().expect("a folder").join(name)
}

/// Whether the server and the node are beside this program; says so where they are not.
pub fn both_are_built() -> bool {
    for name in ["penstock-control", "penstock-node"] {
        if !beside(name).exists() {
            println!("skipped: {name} is not built: cargo build -p {name}");
            return false;
        }
    }
    true
}

/// A port that is free, and the next one too, where control has its metrics.
pub fn free_port() -> u16 {
    let tried = (0..100).find_map(|_| {
        let first = TcpListener::bind("127.0.0.1:0").ok()?;
        let port = first.local_addr().ok()?.port();
        TcpListener::bind(("127.0.0.1", port.checked_add(1)?)).ok()?;
        Some(port)
    });
    tried.expect("two free ports")
}

/// Looks again and again until `done`.
pub fn within(seconds: u64, what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(seconds);
    while !done() {
        assert!(Instant::now() < until, "not within {seconds} s: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A program with a configuration file. It ends when this is dropped.
pub struct Program {
    process: Child,
    log: PathBuf,
}

impl Program {
    /// Starts it with this configuration; its log is `NAME.log` in `folder`.
    pub fn start(program: &str, folder: &Path, name: &str, config: &str) -> Program {
        let file = folder.join(format!("{name}.toml"));
        std::fs::write(&file, config).expect("write the configuration");
        let log = folder.join(format!("{name}.log"));
        let out = File::create(&log).expect("make the log");
        let process = Command::new(beside(program))
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(out)
            .spawn()
            .expect("start a program");
        Program { process, log }
    }

    /// Its exit code, which it must have within 20 s.
    pub fn wait(&mut self) -> Option<i32> {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.process.try_wait().expect("ask for its end") {
                return status.code();
            }
            assert!(Instant::now() < until, "it does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("read a log")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
