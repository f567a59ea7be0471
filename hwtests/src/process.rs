//! Child processes that never outlive the test: killed on drop, and by the kernel if the lab itself dies.

use crate::error::{IoContext, LabError, Result, tail};
use std::io::Read;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(10);

/// A command that starts `program` under `setpriv --pdeathsig KILL`.
///
/// The kernel then kills the child when the thread that spawned it ends, so spawn from a thread
/// that lives as long as the child is needed. `setpriv` is part of util-linux, which every Debian
/// machine has; asking for the signal ourselves would need `unsafe`.
#[must_use]
pub fn tied(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command.stdin(Stdio::null());
    command
}

/// A child process that is killed and reaped on drop.
#[derive(Debug)]
pub struct Owned {
    child: Child,
    name: String,
}

impl Owned {
    /// Spawns `command`; `name` appears in errors.
    ///
    /// # Errors
    /// The spawn error, with the name.
    pub fn spawn(command: &mut Command, name: &str) -> Result<Self> {
        let child = command.spawn().doing(|| format!("start {name}"))?;
        Ok(Self {
            child,
            name: name.to_owned(),
        })
    }

    /// The child's process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The handle, to take pipes from.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The exit status if the child has ended.
    ///
    /// # Errors
    /// A failing `wait`.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let name = &self.name;
        self.child.try_wait().doing(|| format!("wait for {name}"))
    }

    /// SIGKILL, then reap.
    ///
    /// # Errors
    /// A failing `kill` or `wait`.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        let name = &self.name;
        self.child.kill().doing(|| format!("kill {name}"))?;
        self.child.wait().doing(|| format!("wait for {name}"))
    }

    /// SIGTERM, then waits until the child ends.
    ///
    /// # Errors
    /// [`LabError::TimedOut`] when it is still there after `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        run(
            Command::new("kill").args(["-TERM", &self.id().to_string()]),
            Duration::from_secs(5),
        )?;
        self.wait(limit)
    }

    /// Waits until the child ends.
    ///
    /// # Errors
    /// [`LabError::TimedOut`] when it is still there after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let until = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() >= until {
                return Err(LabError::TimedOut {
                    what: format!("{} to end", self.name),
                    after: limit,
                });
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // Both fail only if the child is already reaped, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `command` to its end and returns what it printed on standard output.
///
/// # Errors
/// A spawn error, a status other than 0 (with the end of what it printed), or `limit` passed.
pub fn run(command: &mut Command, limit: Duration) -> Result<String> {
    let line = shown(command);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut owned = Owned::spawn(command, &line)?;
    let out = owned.child().stdout.take().map(drain);
    let err = owned.child().stderr.take().map(drain);
    let status = owned.wait(limit);
    if status.is_err() {
        // The readers end only when the pipes close.
        let _ = owned.kill();
    }
    let out = out.map(joined).unwrap_or_default();
    let err = err.map(joined).unwrap_or_default();
    let status = status?;
    if status.success() {
        return Ok(out);
    }
    Err(LabError::Tool {
        command: line,
        status: status.to_string(),
        output: tail(&format!("{out}{err}"), 2_000).trim().to_owned(),
    })
}

type Reader = std::thread::JoinHandle<Vec<u8>>;

fn drain(mut pipe: impl Read + Send + 'static) -> Reader {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A broken pipe ends the output; what was read so far is what there is.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

fn joined(reader: Reader) -> String {
    String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
}

fn shown(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}

/// A program of ours: named by `variable`, or beside the lab's own; `package` is what builds it.
///
/// # Errors
/// [`LabError::Setup`] where it is not there.
pub fn beside(program: &str, variable: &str, package: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        return path.is_file().then_some(path.clone()).ok_or_else(|| {
            LabError::Setup(format!(
                "{variable} names {}, which is no file",
                path.display()
            ))
        });
    }
    let own = std::env::current_exe().doing(|| "find the lab's own program".into())?;
    let beside = own.with_file_name(program);
    if beside.is_file() {
        return Ok(beside);
    }
    Err(LabError::Setup(format!(
        "no {program} at {}: build it with `cargo build -p {package}`, or name one with {variable}",
        beside.display()
    )))
}

/// A TCP port of 127.0.0.1 that was free a moment ago.
///
/// # Errors
/// None is free.
pub fn free_port() -> Result<u16> {
    let socket = TcpListener::bind(("127.0.0.1", 0)).doing(|| "find a free port".into())?;
    let address = socket.local_addr().doing(|| "find a free port".into())?;
    Ok(address.port())
}

/// Sends a signal, by its name without `SIG`.
///
/// # Errors
/// There is no such process.
pub fn signal(id: u32, name: &str) -> Result<()> {
    let mut command = Command::new("kill");
    command.args([&format!("-{name}"), &id.to_string()]);
    run(&mut command, Duration::from_secs(5)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    #[test]
    fn run_returns_output_or_names_the_command() {
        let out = run(Command::new("sh").args(["-c", "echo hi"]), LIMIT).unwrap();
        assert_eq!(out, "hi\n");
        let err = run(
            Command::new("sh").args(["-c", "echo why >&2; exit 3"]),
            LIMIT,
        )
        .unwrap_err();
        let text = err.to_string();
        assert!(
            text.contains("sh -c") && text.contains('3') && text.contains("why"),
            "{text}"
        );
    }

    #[test]
    fn run_gives_up_at_its_limit() {
        let begun = Instant::now();
        let err = run(Command::new("sleep").arg("30"), Duration::from_millis(100)).unwrap_err();
        assert!(matches!(err, LabError::TimedOut { .. }), "{err}");
        assert!(begun.elapsed() < LIMIT);
    }

    #[test]
    fn dropping_kills_the_child() {
        let owned = Owned::spawn(tied("sleep").arg("60"), "sleep").unwrap();
        let proc_dir = format!("/proc/{}", owned.id());
        assert!(std::path::Path::new(&proc_dir).exists());
        drop(owned);
        assert!(!std::path::Path::new(&proc_dir).exists());
    }
}
