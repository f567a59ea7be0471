//! A program that can be killed, stopped, resumed and started again.

use crate::error::{LabError, Result, check};
use crate::process::{self, Owned};
use crate::transcript::{Source, Transcript};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What every program of ours promises after SIGTERM, and a little for a busy machine.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A process and how to start it again.
pub struct Service {
    name: String,
    source: Source,
    log: Transcript,
    command: Box<dyn Fn() -> Command>,
    process: Option<Owned>,
}

impl Service {
    /// Nothing runs yet; `command` makes the command line of each start, best with
    /// [`process::tied`].
    pub fn new(
        name: &str,
        source: Source,
        log: &Transcript,
        command: impl Fn() -> Command + 'static,
    ) -> Self {
        Self {
            name: name.to_owned(),
            source,
            log: log.clone(),
            command: Box::new(command),
            process: None,
        }
    }

    /// Starts the process.
    ///
    /// # Errors
    /// It cannot be started, or it runs already.
    pub fn start(&mut self) -> Result<()> {
        check(self.process.is_none(), || format!("{} runs", self.name))?;
        let mut command = (self.command)();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut owned = Owned::spawn(&mut command, &self.name)?;
        self.say(&format!("started, pid {}", owned.id()));
        if let Some(out) = owned.child().stdout.take() {
            self.log.follow(self.source, out);
        }
        if let Some(err) = owned.child().stderr.take() {
            self.log.follow(self.source, err);
        }
        self.process = Some(owned);
        Ok(())
    }

    /// Waits until `ready` says yes.
    ///
    /// # Errors
    /// It ends before, or `limit` passes.
    pub fn wait_ready(&mut self, limit: Duration, ready: impl Fn() -> bool) -> Result<()> {
        let name = self.name.clone();
        super::until(&format!("{name} to be ready"), limit, || {
            match self.process.as_mut().map(Owned::ended).transpose()? {
                Some(None) => Ok(ready()),
                _ => Err(LabError::Gone(format!("{name} has ended"))),
            }
        })
        .map(drop)
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// It was not running.
    pub fn kill(&mut self) -> Result<()> {
        self.say("kill -9");
        self.take()?.kill().map(drop)
    }

    /// SIGTERM, and checks that it ends in time and with status 0.
    ///
    /// # Errors
    /// It was not running, is slow, or reports a failure.
    pub fn stop(&mut self) -> Result<()> {
        self.say("stop");
        let status = self.take()?.terminate(STOP_LIMIT)?;
        check(status.success(), || {
            format!("{} ended with {status} after SIGTERM", self.name)
        })
    }

    /// Sends a signal, by its name without `SIG`.
    ///
    /// # Errors
    /// It is not running.
    pub fn signal(&mut self, name: &str) -> Result<()> {
        self.say(&format!("SIG{name}"));
        match &self.process {
            Some(owned) => process::signal(owned.id(), name),
            None => Err(self.not_running()),
        }
    }

    /// Fails if it has ended by itself.
    ///
    /// # Errors
    /// It has, or was never started.
    pub fn check_running(&mut self) -> Result<()> {
        match self.process.as_mut().map(Owned::ended).transpose()? {
            Some(None) => Ok(()),
            Some(Some(status)) => Err(LabError::Gone(format!("{} ended with {status}", self.name))),
            None => Err(self.not_running()),
        }
    }

    /// Whether it was started and not ended by us.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.process.is_some()
    }

    fn take(&mut self) -> Result<Owned> {
        let taken = self.process.take();
        taken.ok_or_else(|| self.not_running())
    }

    fn not_running(&self) -> LabError {
        LabError::Gone(format!("{} is not running", self.name))
    }

    fn say(&self, text: &str) {
        self.log.say(Source::Lab, &format!("{}: {text}", self.name));
    }
}
