//! What is wrong with a configuration: where, what, and what to do.

use std::fmt;
use std::path::{Path, PathBuf};

/// One thing wrong with a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The configuration file.
    pub file: PathBuf,
    /// Line in the file, counted from 1; `None` where the whole file is meant.
    pub line: Option<usize>,
    /// The key, with its table (`store.path`), or empty.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}; {}", self.what, self.remedy)
    }
}

/// Everything found wrong, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(Problem::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Problems {}

/// The text of a configuration file, to turn byte offsets into lines and tables.
pub(super) struct Source<'a> {
    pub(super) file: &'a Path,
    text: &'a str,
}

impl<'a> Source<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Source<'a> {
        Source { file, text }
    }

    /// The line that holds byte `offset`, counted from 1.
    pub(super) fn line_of(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().iter().take(offset);
        1 + before.filter(|byte| **byte == b'\n').count()
    }

    /// The header of the table that a line stands in.
    fn table_at(&self, line: usize) -> Option<&'a str> {
        let above = self.text.lines().take(line).map(str::trim);
        let header = above.filter(|line| line.starts_with('[')).last()?;
        Some(header.trim_matches(['[', ']', ' ']))
    }

    /// A problem at a byte offset.
    pub(super) fn problem(
        &self,
        offset: Option<usize>,
        key: &str,
        what: String,
        remedy: &str,
    ) -> Problem {
        Problem {
            file: self.file.to_owned(),
            line: offset.map(|offset| self.line_of(offset)),
            key: key.to_owned(),
            what,
            remedy: remedy.to_owned(),
        }
    }

    /// The problem behind an error of the TOML reader.
    pub(super) fn unreadable(&self, error: &toml::de::Error) -> Problem {
        let offset = error.span().map(|span| span.start);
        let line = offset.map_or(1, |offset| self.line_of(offset));
        let message = error.message().trim().replace('\n', ": ");
        let here = self.text.lines().nth(line - 1).unwrap_or("").trim();
        if let Some((unknown, known)) = unknown_field(&message) {
            let place = match self.table_at(line) {
                Some(table) if !here.starts_with('[') => format!("[{table}]"),
                _ => "the file".to_owned(),
            };
            let what = format!("unknown key `{unknown}` in {place}");
            let remedy = format!("remove or correct it; known keys: {}", known.join(", "));
            return self.problem(offset, unknown, what, &remedy);
        }
        let key = match (here.split_once('='), self.table_at(line)) {
            (Some((key, _)), Some(table)) => format!("{table}.{}", key.trim()),
            _ => String::new(),
        };
        let remedy = if message.starts_with("invalid") {
            "give a value of the expected type; sizes are whole bytes, times are in the key's unit"
        } else {
            "correct the TOML on this line"
        };
        self.problem(offset, &key, message, remedy)
    }
}

/// Splits serde's "unknown field `a`, expected one of `b`, `c`".
pub(super) fn unknown_field(message: &str) -> Option<(&str, Vec<&str>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let (name, rest) = rest.split_once('`')?;
    Some((name, rest.split('`').skip(1).step_by(2).collect()))
}
