//! The machine's own apt sources, read to learn which mirror and keys it uses.
//!
//! The lab copies the Debian stanzas word by word into a private configuration, so that proxies,
//! keys and snapshot options go on working, and adds the backports suite where the kernel and QEMU
//! come from. Nothing under `/etc` is changed.

use crate::error::{IoContext, LabError, Result};
use std::path::Path;

/// Private copies of the sources that carry Debian, in apt's two formats.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// The text of a `.list` file.
    pub list: String,
    /// The text of a `.sources` file.
    pub deb822: String,
    /// The suite that newer kernels and QEMU come from, where this release needs one.
    pub backports: Option<String>,
}

/// Reads `etc` (normally `/etc/apt`) for a machine of release `codename`.
///
/// # Errors
/// A file that exists cannot be read, or no source offers `codename` with component `main`.
pub fn read(etc: &Path, codename: &str) -> Result<Sources> {
    // Debian 13 carries Linux 6.12 and QEMU 10 itself; Debian 12 has them in backports only.
    let backports = (codename == "bookworm").then(|| format!("{codename}-backports"));
    read_for(etc, codename, &Wanted::Release(backports))
}

/// The same, for packages of another `release` from the same mirror and nothing else.
///
/// # Errors
/// As [`read`].
pub fn read_other(etc: &Path, codename: &str, release: &str) -> Result<Sources> {
    read_for(etc, codename, &Wanted::Other(release.to_owned()))
}

/// The suites that are taken from the machine's mirror.
enum Wanted {
    /// The machine's release with its updates, and the backports suite where one is named.
    Release(Option<String>),
    /// Another release instead.
    Other(String),
}

impl Wanted {
    /// What is taken of a source that offers `suites`.
    fn of<'a>(&'a self, suites: impl Iterator<Item = &'a str>, codename: &str) -> Vec<&'a str> {
        let mut found: Vec<&str> = suites.filter(|suite| ours(suite, codename)).collect();
        let has_release = found.contains(&codename);
        match self {
            Self::Release(backports) => {
                found.extend(backports.as_deref().filter(|_| has_release));
                found
            }
            Self::Other(release) => has_release
                .then_some(release.as_str())
                .into_iter()
                .collect(),
        }
    }
}

fn read_for(etc: &Path, codename: &str, wanted: &Wanted) -> Result<Sources> {
    let mut list = optional(&etc.join("sources.list"))?;
    let mut deb822 = String::new();
    for path in parts(&etc.join("sources.list.d"))? {
        let text = optional(&path)?;
        match path.extension().and_then(std::ffi::OsStr::to_str) {
            Some("list") => list.push_str(&format!("\n{text}\n")),
            Some("sources") => deb822.push_str(&format!("\n{text}\n")),
            _ => {}
        }
    }
    let sources = select(&list, &deb822, codename, wanted);
    if sources.list.is_empty() && sources.deb822.is_empty() {
        return Err(LabError::Setup(format!(
            "no apt source under {} offers Debian's `{codename} main`; the lab takes its mirror \
             from there: add Debian's own stanza (see sources.list(5)) and run again",
            etc.display()
        )));
    }
    Ok(sources)
}

fn optional(path: &Path) -> Result<String> {
    match std::fs::read_to_string(path) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        other => other.doing(|| format!("read {}", path.display())),
    }
}

fn parts(dir: &Path) -> Result<Vec<std::path::PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.doing(|| format!("list {}", dir.display()))?,
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

fn select(list: &str, deb822: &str, codename: &str, wanted: &Wanted) -> Sources {
    let mut out = Sources::default();
    if let Wanted::Release(backports) = wanted {
        out.backports.clone_from(backports);
    }
    for line in list.lines() {
        out.list.extend(list_line(line, codename, wanted));
    }
    for stanza in stanzas(deb822) {
        out.deb822.extend(deb822_stanza(&stanza, codename, wanted));
    }
    out
}

/// Whether `suite` belongs to the release, leaving out what may change under our feet.
fn ours(suite: &str, codename: &str) -> bool {
    suite == codename
        || [("-updates"), ("-security"), ("/updates")]
            .iter()
            .any(|end| suite.strip_suffix(end) == Some(codename))
}

fn list_line(line: &str, codename: &str, wanted: &Wanted) -> Option<String> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?;
    if !rest.starts_with([' ', '\t']) {
        return None;
    }
    let rest = rest.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (inside, after) = rest.split_once(']')?;
            (format!("[{inside}] "), after)
        }
        None => (String::new(), rest),
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    if !words.any(|component| component == "main") {
        return None;
    }
    let suites = wanted.of(std::iter::once(suite), codename);
    let kept = suites.iter();
    Some(
        kept.map(|suite| format!("deb {options}{uri} {suite} main\n"))
            .collect(),
    )
}

type Field = (String, String);

/// Splits deb822 text into stanzas of fields; a continued value keeps its line breaks.
fn stanzas(text: &str) -> Vec<Vec<Field>> {
    let mut all: Vec<Vec<Field>> = vec![Vec::new()];
    for line in text.lines() {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            all.push(Vec::new());
        } else if let Some(stanza) = all.last_mut() {
            match (line.starts_with([' ', '\t']), stanza.last_mut()) {
                (true, Some((_, value))) => {
                    value.push('\n');
                    value.push_str(line);
                }
                (true, None) => {}
                (false, _) => {
                    if let Some((name, value)) = line.split_once(':') {
                        stanza.push((name.trim().to_owned(), value.trim().to_owned()));
                    }
                }
            }
        }
    }
    all.retain(|stanza| !stanza.is_empty());
    all
}

fn deb822_stanza(stanza: &[Field], codename: &str, wanted: &Wanted) -> Option<String> {
    let field = |wanted: &str| {
        let found = stanza
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map_or("", |(_, value)| value.as_str())
    };
    let has = |name: &str, word: &str| field(name).split_whitespace().any(|w| w == word);
    if !has("Types", "deb") || !has("Components", "main") || field("Enabled") == "no" {
        return None;
    }
    let suites = wanted.of(field("Suites").split_whitespace(), codename);
    if suites.is_empty() {
        return None;
    }
    let mut kept = String::new();
    for (name, value) in stanza {
        let value = match name.to_ascii_lowercase().as_str() {
            "types" => "deb",
            "suites" => &suites.join(" "),
            "components" => "main",
            _ => value,
        };
        kept.push_str(&format!("{name}: {value}\n"));
    }
    kept.push('\n');
    Some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backports() -> Wanted {
        Wanted::Release(Some("bookworm-backports".into()))
    }

    #[test]
    fn another_release_comes_from_the_same_mirror_without_the_machines_own() {
        let deb822 = "Types: deb\nURIs: http://m.invalid/d\nSuites: bookworm bookworm-updates\n\
                      Components: main\nSigned-By: /k\n\n\
                      Types: deb\nURIs: http://m.invalid/s\nSuites: bookworm-security\nComponents: main\n";
        let list = "deb [signed-by=/k] http://m.invalid/d bookworm main\n\
                    deb http://m.invalid/s bookworm-security main\n";
        let out = select(list, deb822, "bookworm", &Wanted::Other("trixie".into()));
        assert_eq!(
            out.list,
            "deb [signed-by=/k] http://m.invalid/d trixie main\n"
        );
        assert_eq!(
            out.deb822,
            "Types: deb\nURIs: http://m.invalid/d\nSuites: trixie\nComponents: main\nSigned-By: /k\n\n"
        );
    }

    #[test]
    fn deb822_keeps_options_and_adds_backports_to_the_main_archive_only() {
        let text = "Types: deb deb-src\n# a comment\nURIs: http://mirror.invalid/debian\n\
                    Suites: bookworm bookworm-updates\nComponents: main contrib\n\
                    Signed-By:\n -----BEGIN\n key\nCheck-Valid-Until: no\n\n\
                    Types: deb\nURIs: http://mirror.invalid/security\nSuites: bookworm-security\n\
                    Components: main\n\n\
                    Types: deb\nURIs: http://other.invalid\nSuites: nodistro\nComponents: main\n";
        let out = select("", text, "bookworm", &backports());
        assert!(out.deb822.contains("Types: deb\n"), "{}", out.deb822);
        assert!(
            out.deb822
                .contains("Suites: bookworm bookworm-updates bookworm-backports\n")
        );
        assert!(out.deb822.contains("Suites: bookworm-security\n"));
        assert!(out.deb822.contains("Signed-By: \n -----BEGIN\n key\n"));
        assert!(out.deb822.contains("Check-Valid-Until: no"));
        assert!(!out.deb822.contains("other.invalid"));
        assert_eq!(out.backports.as_deref(), Some("bookworm-backports"));
    }

    #[test]
    fn one_line_sources_work_with_and_without_options() {
        let text = "deb [signed-by=/k] http://m.invalid/d bookworm main non-free # x\n\
                    # deb http://off.invalid/d bookworm main\n\
                    deb-src http://m.invalid/d bookworm main\n\
                    deb http://m.invalid/s bookworm-security main\n\
                    deb http://m.invalid/d bookworm contrib\n";
        let out = select(text, "", "bookworm", &backports());
        assert_eq!(
            out.list,
            "deb [signed-by=/k] http://m.invalid/d bookworm main\n\
             deb [signed-by=/k] http://m.invalid/d bookworm-backports main\n\
             deb http://m.invalid/s bookworm-security main\n"
        );
    }

    #[test]
    fn a_release_that_has_them_needs_no_backports() {
        let out = select(
            "deb http://m.invalid/d trixie main\n",
            "",
            "trixie",
            &Wanted::Release(None),
        );
        assert_eq!(out.list, "deb http://m.invalid/d trixie main\n");
        assert_eq!(out.backports, None);
    }

    #[test]
    fn a_machine_without_debian_sources_is_told_what_to_add() {
        let tmp = tempfile::tempdir().unwrap();
        let err = read(tmp.path(), "bookworm").unwrap_err().to_string();
        assert!(
            err.contains("bookworm main") && err.contains("add"),
            "{err}"
        );
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[a-zA-Z:#\\[\\] \\n\\t/-]{0,200}") {
            let _ = select(&text, &text, "bookworm", &backports());
        }
    }
}
