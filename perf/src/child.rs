//! Child processes that do not outlive this one, and the wish to stop.

use std::ffi::OsStr;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long a child may take to leave after SIGTERM before it is killed.
const PATIENCE: Duration = Duration::from_secs(6);

static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on SIGINT and SIGTERM end the measurement in an orderly way.
///
/// # Errors
/// The kernel refuses the handlers.
pub fn take_signals() -> Result<()> {
    let flag = STOP.get_or_init(Arc::default);
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(flag)).context("cannot take signals")?;
    }
    Ok(())
}

/// Sleeps for a moment.
///
/// # Errors
/// Somebody wants us to stop.
pub fn pause(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    loop {
        if STOP.get().is_some_and(|flag| flag.load(Ordering::Relaxed)) {
            bail!("interrupted; everything that was started is being stopped");
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(20)));
    }
}

/// A child that is stopped when this is dropped, and that the kernel kills where this process dies
/// without dropping anything.
pub struct Owned {
    child: Child,
    what: String,
}

/// A command that runs `program` so that it dies with this process and gets no Ctrl-C of its own.
///
/// `setpriv`, part of util-linux, asks the kernel for it. The wish is bound to the thread that
/// spawns: spawn from the main thread.
pub fn tied(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program)
        .stdin(std::process::Stdio::null())
        .process_group(0);
    command
}

impl Owned {
    /// Starts the command, its output going to `log`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(mut command: Command, what: &str, log: &Path) -> Result<Owned> {
        let file = std::fs::File::create(log)
            .with_context(|| format!("cannot create {}", log.display()))?;
        command.stderr(file.try_clone().context("cannot share the log")?);
        command.stdout(file);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {what}"))?;
        Ok(Owned {
            child,
            what: what.to_owned(),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        let pid = pid.context("the child has no process id")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.what))
    }

    /// Takes the processor away from it until [`Owned::thaw`].
    ///
    /// # Errors
    /// It is gone.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it run on.
    ///
    /// # Errors
    /// It is gone.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Its exit status where it has ended.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("cannot ask for the state of {}", self.what))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It takes longer than `limit`, or somebody wants us to stop.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} did not end within {} s", self.what, limit.as_secs());
            }
            pause(Duration::from_millis(5))?;
        }
    }

    /// Waits until it listens.
    ///
    /// # Errors
    /// It ends or takes longer than `limit`; the end of its log is told.
    pub fn wait_for_port(&mut self, at: SocketAddr, log: &Path, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while TcpStream::connect_timeout(&at, Duration::from_millis(200)).is_err() {
            if let Some(status) = self.ended()? {
                bail!("{} ended with {status}:\n{}", self.what, tail(log));
            }
            if Instant::now() > deadline {
                bail!("{} does not listen on {at}:\n{}", self.what, tail(log));
            }
            pause(Duration::from_millis(50))?;
        }
        Ok(())
    }

    /// Asks it to leave and waits for that.
    ///
    /// # Errors
    /// It takes longer than `limit`, or somebody wants us to stop.
    pub fn leave(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(limit)
    }

    /// Asks it to leave, waits, and kills it where it does not.
    ///
    /// # Errors
    /// The kernel does not let us.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        self.signal(Signal::TERM)?;
        // A frozen process takes no SIGTERM.
        self.thaw()?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.child.kill().context("cannot kill the child")?;
        self.child.wait().context("cannot wait for the child")
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // Nobody is left to tell, and the parent-death signal stands behind this.
        let _ = self.stop();
    }
}

/// The last lines of a log.
pub fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// An address on the loopback interface that nobody listens on just now.
///
/// # Errors
/// No port is free.
pub fn free_address() -> Result<SocketAddr> {
    let socket = TcpListener::bind("127.0.0.1:0").context("no port is free")?;
    socket.local_addr().context("the port is not known")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frozen_child_is_gone_when_dropped() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = tied("sleep");
        command.arg("60");
        let owned = Owned::spawn(command, "sleep", &folder.path().join("log")).expect("started");
        let pid = owned.pid();
        owned.freeze().expect("frozen");
        assert!(Path::new(&format!("/proc/{pid}")).exists());
        let begun = Instant::now();
        drop(owned);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        assert!(begun.elapsed() < PATIENCE, "it had to be killed");
    }

    #[test]
    fn a_child_that_ends_tells_its_log() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        let mut command = tied("sh");
        command.args(["-c", "echo port is taken; exit 3"]);
        let mut owned = Owned::spawn(command, "the target", &log).expect("started");
        let at = free_address().expect("a port");
        let told = owned
            .wait_for_port(at, &log, Duration::from_secs(10))
            .expect_err("never listens");
        assert!(told.to_string().contains("port is taken"), "{told}");
    }
}
