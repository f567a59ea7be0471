//! QEMU's machine monitor (QMP): a line of JSON a command, answer or event.

use crate::error::{IoContext, LabError, Result};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// A connection that has been greeted.
pub struct Monitor {
    stream: BufReader<UnixStream>,
    /// Lines that nobody wanted yet.
    passed_over: Vec<Value>,
}

impl Monitor {
    /// Connects to the monitor at `socket`.
    ///
    /// # Errors
    /// Nobody listens there, or not QEMU.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket);
        let stream = stream.doing(|| format!("connect to {}", socket.display()))?;
        let mut monitor = Self::over(stream);
        monitor.next(ANSWER_LIMIT, "QEMU's greeting", |line| {
            line.get("QMP").is_some()
        })?;
        monitor.execute("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    fn over(stream: UnixStream) -> Self {
        Self {
            stream: BufReader::new(stream),
            passed_over: Vec::new(),
        }
    }

    /// Asks the guest to let device `id` go.
    ///
    /// # Errors
    /// QEMU refuses.
    pub fn begin_unplug(&mut self, id: &str) -> Result<()> {
        self.execute("device_del", json!({ "id": id })).map(drop)
    }

    /// Waits until the guest has let device `id` go and its slot is empty.
    ///
    /// # Errors
    /// `limit` passes.
    pub fn wait_unplugged(&mut self, id: &str, limit: Duration) -> Result<()> {
        self.next(limit, "the guest to let the device go", |line| {
            line["event"] == "DEVICE_DELETED" && line["data"]["device"] == id
        })
        .map(drop)
    }

    /// Lets the blocks `id` (of `-drive`) be reached `iops` times a second; 0 for no limit.
    ///
    /// # Errors
    /// QEMU refuses.
    pub fn throttle(&mut self, id: &str, iops: u64) -> Result<()> {
        let limits = json!({
            "device": id, "iops": iops, "iops_rd": 0, "iops_wr": 0, "bps": 0, "bps_rd": 0, "bps_wr": 0
        });
        self.execute("block_set_io_throttle", limits).map(drop)
    }

    fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let line = json!({ "execute": command, "arguments": arguments });
        let sent = writeln!(self.stream.get_mut(), "{line}");
        sent.doing(|| format!("send {command} to QEMU"))?;
        let is_answer = |line: &Value| line.get("return").is_some() || line.get("error").is_some();
        let answer = self.next(ANSWER_LIMIT, command, is_answer)?;
        match answer.get("error") {
            None => Ok(answer),
            Some(error) => Err(LabError::Check(format!("QEMU refuses {command}: {error}"))),
        }
    }

    /// The next line that `wanted` says yes to. Others are passed over and looked at again when
    /// something else is wanted: an event may come before the answer to the command that caused it.
    fn next(
        &mut self,
        limit: Duration,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let late = || LabError::TimedOut {
            what: what.to_owned(),
            after: limit,
        };
        let gone = || LabError::Gone("QEMU closed its monitor".into());
        if let Some(index) = self.passed_over.iter().position(&wanted) {
            return Ok(self.passed_over.remove(index));
        }
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(late());
            }
            let limited = self.stream.get_ref().set_read_timeout(Some(left));
            limited.doing(|| "limit a read from QEMU".into())?;
            let mut line = String::new();
            match self.stream.read_line(&mut line) {
                Ok(0) => return Err(gone()),
                Ok(_) => {}
                Err(err) if err.kind() == ErrorKind::WouldBlock => return Err(late()),
                Err(err) if err.kind() == ErrorKind::ConnectionReset => return Err(gone()),
                Err(err) => return Err(err).doing(|| "read from QEMU's monitor".into()),
            }
            if let Ok(line) = serde_json::from_str::<Value>(&line) {
                if wanted(&line) {
                    return Ok(line);
                }
                self.passed_over.push(line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Monitor, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Monitor::over(ours), theirs)
    }

    #[test]
    fn an_unplugged_device_is_waited_for_among_other_events() {
        let (mut monitor, mut qemu) = pair();
        let said = "{\"return\": {}}\n{\"event\": \"DEVICE_DELETED\", \"data\": {\"device\": \"b\"}}\n\
                    noise\n{\"event\": \"DEVICE_DELETED\", \"data\": {\"device\": \"a\"}}\n";
        qemu.write_all(said.as_bytes()).unwrap();
        monitor.begin_unplug("a").unwrap();
        monitor.wait_unplugged("a", Duration::from_secs(5)).unwrap();
        let mut asked = String::new();
        BufReader::new(&qemu).read_line(&mut asked).unwrap();
        assert!(
            asked.contains("device_del") && asked.contains("\"a\""),
            "{asked}"
        );
    }

    #[test]
    fn an_event_may_come_before_the_answer() {
        let (mut monitor, mut qemu) = pair();
        let said =
            "{\"event\": \"DEVICE_DELETED\", \"data\": {\"device\": \"a\"}}\n{\"return\": {}}\n";
        qemu.write_all(said.as_bytes()).unwrap();
        monitor.begin_unplug("a").unwrap();
        monitor.wait_unplugged("a", Duration::from_secs(5)).unwrap();
    }

    #[test]
    fn refusal_lateness_and_an_end_are_told_apart() {
        let (mut monitor, mut qemu) = pair();
        qemu.write_all(b"{\"error\": {\"desc\": \"no such device\"}}\n")
            .unwrap();
        let err = monitor.begin_unplug("a").unwrap_err();
        assert!(err.to_string().contains("no such device"), "{err}");
        qemu.write_all(b"{\"return\": {}}\n").unwrap();
        monitor.begin_unplug("a").unwrap();
        let short = Duration::from_millis(20);
        let err = monitor.wait_unplugged("a", short).unwrap_err();
        assert!(matches!(err, LabError::TimedOut { .. }), "{err}");
        drop(qemu);
        let err = monitor
            .next(Duration::from_secs(5), "x", |_| true)
            .unwrap_err();
        assert!(matches!(err, LabError::Gone(_)), "{err}");
    }
}
