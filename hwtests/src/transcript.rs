//! One log per test: the guest's console, the commands and their answers, and the node's log, in order of time.

use crate::error::{IoContext, Result};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Who wrote a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The lab itself: commands sent, answers, steps.
    Lab,
    /// The guest's serial console.
    Guest,
    /// QEMU's own messages.
    Qemu,
    /// The node under test.
    Node,
    /// The control plane.
    Control,
    /// Its store.
    Etcd,
    /// What makes the I/O.
    Client,
}

impl Source {
    fn tag(self) -> &'static str {
        match self {
            Self::Lab => "lab  ",
            Self::Guest => "guest",
            Self::Qemu => "qemu ",
            Self::Node => "node ",
            Self::Control => "cntrl",
            Self::Etcd => "etcd ",
            Self::Client => "clnt ",
        }
    }
}

struct Inner {
    file: File,
    begun: Instant,
}

/// A shared, append-only log file of one test.
#[derive(Clone)]
pub struct Transcript {
    inner: Arc<Mutex<Inner>>,
    path: PathBuf,
}

impl Transcript {
    /// Creates the log file, replacing one from an earlier run.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).doing(|| format!("create {}", path.display()))?;
        Ok(Self {
            inner: Arc::new(Mutex::new(Inner {
                file,
                begun: Instant::now(),
            })),
            path: path.to_owned(),
        })
    }

    /// Where the log lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends `text`, a log line per line of it, each with seconds since the test began.
    pub fn say(&self, source: Source, text: &str) {
        // A poisoned lock only means that another writer panicked; the file is still good.
        let mut inner = self
            .inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let seconds = inner.begun.elapsed().as_secs_f64();
        for line in text.lines() {
            let line = line.trim_end_matches('\r');
            // A full disk must not fail the test that it would have explained.
            let _ = writeln!(inner.file, "{seconds:8.3} {}| {line}", source.tag());
        }
    }

    /// Copies every line of `pipe` into the log until it closes.
    pub fn follow(&self, source: Source, pipe: impl Read + Send + 'static) {
        let log = self.clone();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(pipe);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                log.say(source, &String::from_utf8_lossy(&line));
                line.clear();
            }
        });
    }

    /// The last `count` lines, for the report of a failure.
    #[must_use]
    pub fn last_lines(&self, count: usize) -> String {
        let text = std::fs::read(&self.path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }

    /// Whether any line of `source` so far contains `needle`.
    #[must_use]
    pub fn has(&self, source: Source, needle: &str) -> bool {
        let text = std::fs::read(&self.path).unwrap_or_default();
        let tag = format!("{}|", source.tag());
        String::from_utf8_lossy(&text)
            .lines()
            .any(|line| line.contains(&tag) && line.contains(needle))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_carry_their_source_and_the_tail_is_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let log = Transcript::create(&dir.path().join("t.log")).unwrap();
        log.say(Source::Guest, "one\r\ntwo\n");
        log.say(Source::Node, "three");
        let last = log.last_lines(2);
        assert!(
            last.contains("guest| two") && last.contains("node | three"),
            "{last}"
        );
        assert!(!last.contains("one"));
        assert!(log.has(Source::Guest, "one") && !log.has(Source::Node, "one"));
    }
}
