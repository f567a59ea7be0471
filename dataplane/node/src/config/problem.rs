//! What is wrong with a configuration: where, what, and what to do.

use std::fmt;
use std::path::{Path, PathBuf};

/// One thing wrong with a configuration file or with what it asks of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The configuration file.
    pub file: PathBuf,
    /// Line in the file, counted from 1; `None` where the whole file is meant.
    pub line: Option<usize>,
    /// The key, with its table (`tcp.mdts_bytes`), or empty.
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
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// The text of a configuration file, to turn byte offsets into lines and tables.
pub(crate) struct Source<'a> {
    file: &'a Path,
    text: &'a str,
}

impl<'a> Source<'a> {
    pub(crate) fn new(file: &'a Path, text: &'a str) -> Source<'a> {
        Source { file, text }
    }

    /// The line that holds byte `offset`, counted from 1.
    pub(crate) fn line_of(&self, offset: usize) -> usize {
        let end = offset.min(self.text.len());
        1 + self.text.as_bytes()[..end]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
    }

    /// The key on the line at byte `offset`, with the table it stands in.
    fn key_at(&self, offset: usize) -> String {
        let line = self.line_of(offset);
        let here = self.text.lines().nth(line - 1).unwrap_or("").trim();
        let table = self.table_before(line);
        match here.split_once('=') {
            Some((key, _)) if !here.starts_with(['#', '[']) => match table {
                Some(table) => format!("{table}.{}", key.trim()),
                None => key.trim().to_owned(),
            },
            _ => table.unwrap_or_default(),
        }
    }

    fn table_before(&self, line: usize) -> Option<String> {
        let headers = self
            .text
            .lines()
            .take(line)
            .map(str::trim)
            .filter(|l| l.starts_with('['));
        let header = headers.last()?;
        Some(
            header
                .trim_start_matches('[')
                .split(']')
                .next()?
                .trim()
                .to_owned(),
        )
    }

    /// A problem at a byte offset.
    pub(crate) fn problem(
        &self,
        offset: Option<usize>,
        key: &str,
        what: String,
        remedy: String,
    ) -> Problem {
        Problem {
            file: self.file.to_owned(),
            line: offset.map(|offset| self.line_of(offset)),
            key: key.to_owned(),
            what,
            remedy,
        }
    }

    /// The problem behind an error of the TOML reader.
    pub(crate) fn syntax_problem(&self, error: &toml::de::Error) -> Problem {
        let offset = error.span().map(|span| span.start);
        let message = error.message().trim();
        if let Some((unknown, known)) = unknown_field(message) {
            return self.unknown_key(offset, unknown, &known);
        }
        let key = offset.map(|offset| self.key_at(offset)).unwrap_or_default();
        let remedy = if message.starts_with("invalid type") || message.starts_with("invalid value")
        {
            "give a value of the expected type; sizes are whole bytes, times are in the key's unit"
        } else {
            "correct the TOML on this line"
        };
        self.problem(offset, &key, message.replace('\n', ": "), remedy.to_owned())
    }

    fn unknown_key(&self, offset: Option<usize>, unknown: &str, known: &[&str]) -> Problem {
        let line = offset.map_or(1, |offset| self.line_of(offset));
        let here = self.text.lines().nth(line - 1).unwrap_or("").trim();
        // An unknown table is reported on its own header: the table around it is the root.
        let place = match self.table_before(line) {
            Some(table) if !(here.starts_with('[') && table.ends_with(unknown)) => {
                format!("[{table}]")
            }
            _ => "the file".to_owned(),
        };
        let remedy = match nearest(unknown, known) {
            Some(near) => format!("did you mean `{near}`? Known keys: {}", known.join(", ")),
            None => format!("remove it; known keys: {}", known.join(", ")),
        };
        self.problem(
            offset,
            unknown,
            format!("unknown key `{unknown}` in {place}"),
            remedy,
        )
    }
}

/// Splits serde's "unknown field `a`, expected one of `b`, `c`".
pub(crate) fn unknown_field(message: &str) -> Option<(&str, Vec<&str>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let (name, rest) = rest.split_once('`')?;
    Some((name, rest.split('`').skip(1).step_by(2).collect()))
}

/// The known word nearest to `word`, where it is near enough to be a slip.
fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let scored = known
        .iter()
        .map(|candidate| (distance(word, candidate), *candidate));
    let (edits, best) = scored.min_by_key(|(edits, _)| *edits)?;
    let related = best.contains(word) || word.contains(best);
    (related || edits <= word.len().max(best.len()) / 3).then_some(best)
}

/// Number of single-character edits between two words (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let change = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_slips_only() {
        let known = ["mdts_bytes", "queue_depth_max"];
        assert_eq!(nearest("mtds_bytes", &known), Some("mdts_bytes"));
        assert_eq!(nearest("queue_depth", &known), Some("queue_depth_max"));
        assert_eq!(nearest("colour", &known), None);
    }

    #[test]
    fn unknown_field_lists_what_is_known() {
        let (name, known) = unknown_field("unknown field `x`, expected one of `a`, `b`, `c`")
            .expect("serde's wording");
        assert_eq!((name, known), ("x", vec!["a", "b", "c"]));
        let (_, one) = unknown_field("unknown field `x`, expected `a`").expect("serde's wording");
        assert_eq!(one, ["a"]);
    }
}
