//! The two programs: started so that they end with this one, told to stop, asked why they ended.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{
    Pid, Signal, getpid, getppid, kill_process, set_parent_process_death_signal,
};

use crate::failure::{Failure, Outcome};
use crate::output::note;

/// First argument of this program as the one that becomes a child.
const CHILD: &str = "__child";
/// How long a child has to end by itself.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Lines of its log that are told of a child that died.
const LAST_LINES: usize = 12;
/// As much of the log as is looked at for them.
const LAST_BYTES: u64 = 16 * 1024;

/// A running program with its log.
pub struct Child {
    name: &'static str,
    process: tokio::process::Child,
    log: PathBuf,
    /// Where the log of this run begins.
    from: u64,
    ended: Option<ExitStatus>,
}

impl Child {
    /// Starts a program with a configuration. Its log is beside that.
    pub fn start(name: &'static str, program: &Path, config: &Path) -> Outcome<Self> {
        let log = config.with_extension("log");
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Failure::other(format!("cannot {what}: {error}"))
        };
        let opened = OpenOptions::new().create(true).append(true).open(&log);
        let file = opened.map_err(|error| failed(&format!("open {}", log.display()), &error))?;
        let from = file.metadata().map(|data| data.len()).unwrap_or(0);
        let errors = file
            .try_clone()
            .map_err(|error| failed("open the log twice", &error))?;
        let own = std::env::current_exe().map_err(|error| failed("find this program", &error))?;
        // A process group of its own: Ctrl-C is for this program, which stops the children in order.
        let mut command = tokio::process::Command::new(own);
        command
            .arg(CHILD)
            .arg(getpid().as_raw_nonzero().to_string())
            .arg(program)
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .process_group(0)
            .kill_on_drop(true);
        let process = command
            .spawn()
            .map_err(|error| failed(&format!("start {name}"), &error))?;
        Ok(Self {
            name,
            process,
            log,
            from,
            ended: None,
        })
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its process; none after its end.
    pub fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// Why it ended, where it has.
    pub fn has_ended(&mut self) -> Option<Failure> {
        match self.process.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => {
                self.ended = Some(status);
                Some(self.obituary(&how(status)))
            }
            Err(error) => Some(self.obituary(&format!("cannot be watched: {error}"))),
        }
    }

    fn obituary(&self, how: &str) -> Failure {
        let lines = last_lines(&self.log, self.from);
        let lines = match lines.is_empty() {
            true => "  (it wrote nothing)".to_owned(),
            false => lines
                .iter()
                .map(|line| format!("  | {line}"))
                .collect::<Vec<_>>()
                .join("\n"),
        };
        Failure::other(format!(
            "{} {how}. The end of {}:\n{lines}",
            self.name,
            self.log.display()
        ))
    }

    /// Asks it to end, and makes it where it does not.
    pub async fn stop(&mut self) -> Outcome {
        if self.ended.is_some() {
            return Ok(());
        }
        self.signal(Signal::TERM);
        match tokio::time::timeout(STOP_TIMEOUT, self.process.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(self.obituary(&how(status))),
            Ok(Err(error)) => Err(self.obituary(&format!("cannot be waited for: {error}"))),
            Err(_) => {
                note(&format!(
                    "{} does not end by itself: it is killed",
                    self.name
                ));
                self.kill().await;
                Err(self.obituary("did not stop when it was asked to"))
            }
        }
    }

    /// Ends it at once.
    pub async fn kill(&mut self) {
        let _ = self.process.kill().await;
    }

    fn signal(&self, signal: Signal) {
        let id = self
            .process
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        if let Some(id) = id {
            let _ = kill_process(id, signal);
        }
    }
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "has ended".into(),
        (Some(code), _) => format!("has ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "has ended".into(),
    }
}

/// The last lines of a log that were written after `from`.
fn last_lines(log: &Path, from: u64) -> Vec<String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(end.saturating_sub(LAST_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(LAST_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let lines: Vec<String> = text.lines().map(ToOwned::to_owned).collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].to_vec()
}

/// Where these are the arguments of a child to be: becomes it. Comes back only otherwise, or with
/// why that failed.
///
/// The wish to end with the parent is the process's own to express, before it becomes the program.
pub fn become_child(arguments: &[OsString]) -> Option<String> {
    let [_, child, parent, program, rest @ ..] = arguments else {
        return None;
    };
    if child != CHILD {
        return None;
    }
    if let Err(error) = set_parent_process_death_signal(Some(Signal::TERM)) {
        return Some(format!("cannot ask to end with the parent: {error}"));
    }
    // The parent may have ended before that was said.
    let present = getppid().map(|id| id.as_raw_nonzero().to_string());
    if present.as_deref() != parent.to_str() {
        return Some("the parent has ended".into());
    }
    let error = std::process::Command::new(program).args(rest).exec();
    Some(format!("cannot run {}: {error}", program.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_runs_last_lines_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("x.log");
        let before = "an old line\n";
        let now: String = (0..50).map(|n| format!("line {n}\n")).collect();
        std::fs::write(&log, format!("{before}{now}")).unwrap();
        let told = last_lines(&log, before.len() as u64);
        assert_eq!(told.len(), LAST_LINES);
        assert_eq!(told.last().map(String::as_str), Some("line 49"));
        std::fs::write(&log, before).unwrap();
        assert!(last_lines(&log, before.len() as u64).is_empty());
    }

    #[test]
    fn who_is_no_child_goes_on() {
        let words = ["penstock", "volume", "list", "-o", "json"];
        assert_eq!(become_child(&words.map(OsString::from)), None);
        let told = become_child(&["penstock", CHILD, "1", "/bin/true"].map(OsString::from));
        assert_eq!(told.as_deref(), Some("the parent has ended"));
    }
}
