//! What can go wrong in the lab, so that a report tells a broken lab from a broken node.

use std::io;
use std::time::Duration;

/// A failure in the lab.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A system call on a file, socket or process failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path or address.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The lab cannot be prepared on this machine; the text carries the remedy.
    #[error("{0}")]
    Setup(String),
    /// A command on the host failed.
    #[error("{command} failed with {status}: {output}")]
    Tool {
        /// The command line.
        command: String,
        /// The exit status as text.
        status: String,
        /// The end of what it printed.
        output: String,
    },
    /// Something did not happen in time.
    #[error("{what}: nothing after {} ms", after.as_millis())]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
    },
    /// A command in the guest failed.
    #[error("guest: `{}` exited {status}: {output}", brief(command))]
    Guest {
        /// The shell text that ran.
        command: String,
        /// The exit status; 137 also means that the guest's own time limit ended it.
        status: i32,
        /// The end of what it printed.
        output: String,
    },
    /// The guest or the node is gone although the test still needs it.
    #[error("{0}")]
    Gone(String),
    /// The system under test did not behave as the test demands.
    #[error("{0}")]
    Check(String),
    /// This test needs something that this machine lacks.
    #[error("{0}")]
    Skip(String),
}

/// Short form for results in this crate.
pub type Result<T> = std::result::Result<T, LabError>;

/// Adds what was being done to an I/O error.
pub trait IoContext<T> {
    /// Turns an I/O error into [`LabError::Io`]; `what` names the action and the path.
    ///
    /// # Errors
    /// The same failure, named.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| LabError::Io {
            what: what(),
            source,
        })
    }
}

/// Fails with [`LabError::Check`] unless `holds`.
///
/// # Errors
/// `LabError::Check` with the text of `why`.
pub fn check(holds: bool, why: impl FnOnce() -> String) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(LabError::Check(why()))
    }
}

/// A script's first line that says something, for messages; the log has all of it.
#[must_use]
pub fn brief(script: &str) -> String {
    let mut lines = script
        .lines()
        .filter(|line| !line.is_empty() && *line != "set -e");
    let first = lines.next().unwrap_or("").to_owned();
    match lines.next() {
        Some(_) => first + " ...",
        None => first,
    }
}

/// The last `max` bytes of `text`, cut at a character border.
#[must_use]
pub fn tail(text: &str, max: usize) -> &str {
    let mut start = text.len().saturating_sub(max);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brief_is_the_first_line_that_says_something() {
        assert_eq!(brief("mount /dev/x /mnt"), "mount /dev/x /mnt");
        assert_eq!(brief("\nset -e\ncd /\nls\n"), "cd / ...");
    }

    #[test]
    fn tail_respects_character_borders() {
        assert_eq!(tail("abc", 10), "abc");
        assert_eq!(tail("abcdef", 2), "ef");
        assert_eq!(tail("aé", 1), "");
    }

    #[test]
    fn check_carries_the_reason() {
        assert!(check(true, String::new).is_ok());
        let err = check(false, || "block size is 0".into()).unwrap_err();
        assert_eq!(err.to_string(), "block size is 0");
    }
}
