//! One test's set-up: a guest, the node it talks to, and the steps that tests share.

use crate::error::{LabError, Result, check};
use crate::guest::{Guest, HOST_ADDRESS};
use crate::lab::Lab;
use crate::machine::Machine;
use crate::node::{Namespace, Node, Subsystem};
use crate::transcript::{Source, Transcript};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// Names a target that already runs on this machine, as `PORT,NQN`, to be tested in place of a node
/// of our own: to tell a fault of the lab from one of the node, or to look at a peer.
pub const TARGET_VARIABLE: &str = "PENSTOCK_LAB_TARGET";

/// How soon after an administrator's change a host must have seen it.
pub const EVENT_LIMIT: Duration = Duration::from_secs(20);

/// The controller that the first connect makes.
pub const CONTROLLER: &str = "/dev/nvme0";

/// Paths of single controllers (nvme0c0n1) have no device file and so do not match.
const FIND_DISK: &str = r#"
while true; do
    for entry in /sys/block/nvme*n*; do
        device=/dev/${entry##*/}
        [ -b $device ] || continue
        [ "$(cat $entry/nsid 2>/dev/null)" = NSID ] || continue
        [ "$(cat $entry/size)" -gt 0 ] && echo $device && exit 0
    done
    sleep 0.05
done
"#;

/// A guest and the target it is tested against.
pub struct Bench {
    /// The Linux host.
    pub guest: Guest,
    target: Target,
    log: Transcript,
    dir: TempDir,
}

enum Target {
    Own(Box<(Node, Subsystem)>),
    Peer {
        port: u16,
        nqn: String,
    },
    /// The test brings its own.
    None,
}

impl Bench {
    /// Boots a guest and starts a node with one open subsystem that has `namespaces`, or no node
    /// if there are none.
    ///
    /// # Errors
    /// Either does not come up.
    pub fn set_up(
        lab: &Lab,
        machine: &Machine,
        namespaces: &[Namespace],
        log: &Transcript,
    ) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("penstock-node-").tempdir();
        let dir = crate::error::IoContext::doing(dir, || "create a temporary directory".into())?;
        let target = match peer()? {
            _ if namespaces.is_empty() => Target::None,
            Some((port, nqn)) => Target::Peer { port, nqn },
            None => {
                let subsystem = Subsystem::open("lab", namespaces);
                let node = Node::start(dir.path(), std::slice::from_ref(&subsystem), log)?;
                Target::Own(Box::new((node, subsystem)))
            }
        };
        Ok(Self {
            guest: Guest::boot(lab, machine, log)?,
            target,
            log: log.clone(),
            dir,
        })
    }

    /// The target's NQN.
    #[must_use]
    pub fn nqn(&self) -> &str {
        match &self.target {
            Target::Own(own) => &own.1.nqn,
            Target::Peer { nqn, .. } => nqn,
            Target::None => "",
        }
    }

    /// The target's port.
    #[must_use]
    pub fn port(&self) -> u16 {
        match &self.target {
            Target::Own(own) => own.0.port(),
            Target::Peer { port, .. } => *port,
            Target::None => 0,
        }
    }

    /// The node, and the subsystem that it serves.
    ///
    /// # Errors
    /// [`LabError::Skip`] when the target is not ours to govern.
    pub fn own(&mut self) -> Result<(&mut Node, &mut Subsystem)> {
        match &mut self.target {
            Target::Own(own) => {
                let (node, subsystem) = own.as_mut();
                Ok((node, subsystem))
            }
            Target::Peer { .. } | Target::None => Err(LabError::Skip(format!(
                "{TARGET_VARIABLE} names a target that this test cannot govern"
            ))),
        }
    }

    /// Applies `change` to the subsystem while the node runs.
    ///
    /// # Errors
    /// As [`Bench::own`] and [`Node::reconfigure`].
    pub fn change(&mut self, change: impl FnOnce(&mut Subsystem)) -> Result<()> {
        let (node, subsystem) = self.own()?;
        change(subsystem);
        node.reconfigure(std::slice::from_ref(subsystem))
    }

    /// The test's log.
    #[must_use]
    pub fn log(&self) -> &Transcript {
        &self.log
    }

    /// A folder for the test's files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a step into the log.
    pub fn note(&self, text: &str) {
        self.log.say(Source::Lab, &format!("# {text}"));
    }

    /// The part of an `nvme` command line that names the target's address.
    #[must_use]
    pub fn address(&self) -> String {
        format!("-t tcp -a {HOST_ADDRESS} -s {}", self.port())
    }

    /// Connects with two I/O queues and `options`, and waits for the first namespace.
    ///
    /// # Errors
    /// The connect fails, or no namespace shows up.
    pub fn connect(&mut self, options: &str) -> Result<String> {
        let (address, nqn) = (self.address(), self.nqn().to_owned());
        let command = format!("nvme connect {address} -n {nqn} --nr-io-queues=2 {options}");
        let said = self.guest.run(&command)?;
        self.disk(1)?;
        Ok(said)
    }

    /// The block device of namespace `nsid`, once the host has it.
    ///
    /// The host scans namespaces side by side, so the number in a device's name is not the `nsid`.
    ///
    /// # Errors
    /// It does not appear in time.
    pub fn disk(&mut self, nsid: u32) -> Result<String> {
        let script = FIND_DISK.replace("NSID", &nsid.to_string());
        let answer = self.guest.ask(&script, EVENT_LIMIT)?;
        let device = answer.output.trim();
        if answer.status == 0 && device.starts_with("/dev/") {
            return Ok(device.to_owned());
        }
        Err(LabError::TimedOut {
            what: format!("a block device for namespace {nsid}"),
            after: EVENT_LIMIT,
        })
    }

    /// Ends the connection as an administrator would.
    ///
    /// # Errors
    /// The disconnect fails.
    pub fn disconnect(&mut self) -> Result<()> {
        let nqn = self.nqn().to_owned();
        self.guest
            .run(&format!("nvme disconnect -n {nqn}"))
            .map(drop)
    }

    /// Runs an `nvme` command with JSON output and reads it.
    ///
    /// # Errors
    /// The command fails or prints no JSON.
    pub fn json(&mut self, command: &str) -> Result<Value> {
        let text = self.guest.run(&format!("nvme {command} -o json"))?;
        // A notice may precede the document.
        let begin = text.find(['{', '[']).unwrap_or(0);
        serde_json::from_str(&text[begin..]).map_err(|err| {
            LabError::Check(format!("`nvme {command}` printed no JSON: {err}: {text}"))
        })
    }

    /// What every test ends with: both sides are well, and the node stops when asked.
    ///
    /// # Errors
    /// One of them is not.
    pub fn tear_down(mut self) -> Result<()> {
        self.guest.check_health()?;
        if let Target::Own(own) = &mut self.target {
            own.0.check_running()?;
            own.0.stop()?;
        }
        Ok(())
    }
}

/// A number in a JSON document, whether written as a number or as text.
///
/// # Errors
/// It is missing or is no number.
pub fn number(value: &Value, field: &str) -> Result<u64> {
    let found = &value[field];
    let number = found.as_u64().or_else(|| {
        let text = found.as_str()?;
        match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        }
    });
    number.ok_or_else(|| LabError::Check(format!("`{field}` is {found}, not a number")))
}

/// Fails unless number `field` of `value` is `expected`.
///
/// # Errors
/// It is missing or another.
pub fn expect_number(value: &Value, field: &str, expected: u64) -> Result<()> {
    let found = number(value, field)?;
    check(found == expected, || {
        format!("`{field}` is {found}, expected {expected}")
    })
}

/// Fails unless text `field` of `value` is `expected`, padding aside.
///
/// # Errors
/// It is missing or another.
pub fn expect_text(value: &Value, field: &str, expected: &str) -> Result<()> {
    let found = value[field].as_str().map(str::trim);
    check(found == Some(expected), || {
        format!("`{field}` is {}, expected \"{expected}\"", value[field])
    })
}

fn peer() -> Result<Option<(u16, String)>> {
    let Ok(text) = std::env::var(TARGET_VARIABLE) else {
        return Ok(None);
    };
    let parsed = text.split_once(',').and_then(|(port, nqn)| {
        let port = port.trim().parse().ok()?;
        Some((port, nqn.trim().to_owned()))
    });
    parsed.map(Some).ok_or_else(|| {
        LabError::Setup(format!(
            "{TARGET_VARIABLE} is \"{text}\"; it must be PORT,NQN"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_are_read_in_all_their_spellings() {
        let value = json!({"a": 7, "b": "7", "c": "0x10", "d": "x"});
        assert_eq!(number(&value, "a").unwrap(), 7);
        assert_eq!(number(&value, "b").unwrap(), 7);
        assert_eq!(number(&value, "c").unwrap(), 16);
        assert!(number(&value, "d").is_err() && number(&value, "e").is_err());
        assert!(expect_number(&value, "a", 8).is_err());
    }

    #[test]
    fn text_is_compared_without_padding() {
        let value = json!({"sn": "LAB-ONE   "});
        assert!(expect_text(&value, "sn", "LAB-ONE").is_ok());
        let err = expect_text(&value, "sn", "X").unwrap_err().to_string();
        assert!(err.contains("LAB-ONE") && err.contains('X'), "{err}");
    }
}
