//! Child processes that do not outlive this one.

use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// Clock ticks a second in `/proc/PID/stat`: the kernel's USER_HZ, 100 on every Linux we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// How long a child may take to leave after SIGTERM before it is killed.
const PATIENCE: Duration = Duration::from_secs(8);

/// A child that is stopped when this is dropped, and that the kernel kills where this process dies
/// without dropping anything.
pub struct Owned {
    child: Child,
}

/// A command that runs `program` so that it dies with this process.
///
/// `setpriv` asks the kernel for it; it is part of util-linux, which every Debian has. The wish is
/// bound to the thread that spawns: spawn from the main thread.
pub fn tied(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

impl Owned {
    /// Starts the command.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(mut command: Command) -> Result<Owned> {
        let what = format!("{:?}", command.get_program());
        Ok(Owned {
            child: command
                .spawn()
                .with_context(|| format!("cannot start {what}"))?,
        })
    }

    /// Its exit status where it has ended.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .context("cannot ask for the child's state")
    }

    /// Asks it to leave, waits, and kills it where it does not.
    ///
    /// # Errors
    /// The kernel does not let us.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM).context("cannot signal the child")?;
        }
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

/// Seconds of CPU time that a process has used so far.
///
/// # Errors
/// It is gone.
pub fn cpu_seconds_of(id: u32) -> Result<f64> {
    cpu_seconds(&format!("/proc/{id}/stat"))
}

/// User and system time in a `stat` file of proc(5), in seconds.
fn cpu_seconds(stat: &str) -> Result<f64> {
    let text = std::fs::read_to_string(stat).with_context(|| format!("cannot read {stat}"))?;
    // The command's name, in parentheses, may hold anything; fields count from its end.
    let fields: Vec<&str> = text
        .rsplit(')')
        .next()
        .unwrap_or("")
        .split_whitespace()
        .collect();
    let ticks = |index: usize| {
        fields
            .get(index)
            .and_then(|field| field.parse::<f64>().ok())
    };
    let (user, system) = (ticks(11), ticks(12));
    let both = user
        .zip(system)
        .with_context(|| format!("{stat} is not as proc(5) has it"))?;
    Ok((both.0 + both.1) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_child_is_gone() {
        let mut command = tied(Path::new("sleep"));
        command.arg("60");
        let owned = Owned::spawn(command).expect("started");
        let pid = owned.child.id();
        assert!(Path::new(&format!("/proc/{pid}")).exists());
        drop(owned);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn cpu_time_is_read_past_the_name() {
        let used = cpu_seconds("/proc/self/stat").expect("our own");
        assert!((0.0..3600.0).contains(&used), "{used}");
    }
}
