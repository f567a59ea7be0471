//! The repository as a tree of files.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Names that may lie at the top level; anything else has its place inside one of them.
const TOP_LEVEL: [&str; 19] = [
    ".cargo",
    ".ci",
    ".gitignore",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "bindings",
    "clippy.toml",
    "configs",
    "control",
    "dataplane",
    "fuzz",
    "hwtests",
    "perf",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "xtask",
    ".gitattributes",
];

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every file of the repository that is not ignored, relative to its root, sorted.
pub fn files() -> Vec<String> {
    let listing = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root())
        .output();
    let mut files: Vec<String> = match listing {
        Ok(listing) if listing.status.success() => String::from_utf8_lossy(&listing.stdout)
            .split_terminator('\0')
            .filter(|file| root().join(file).is_file())
            .map(str::to_owned)
            .collect(),
        // An unpacked source archive has no git: walk it, but for what builds leave behind.
        _ => walk(&root(), ""),
    };
    files.sort();
    assert!(
        files.len() > 50,
        "the repository's files were not found: {files:?}"
    );
    files
}

fn walk(root: &Path, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(root.join(folder)).expect("a readable folder");
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.expect("a readable entry");
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if folder.is_empty() {
            name.clone()
        } else {
            format!("{folder}/{name}")
        };
        let skip = matches!(name.as_str(), ".git" | "target" | "penstock-data");
        if entry.path().is_dir() {
            if !skip {
                files.extend(walk(root, &path));
            }
        } else {
            files.push(path);
        }
    }
    files
}

pub fn read(file: &str) -> String {
    let bytes = std::fs::read(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The Rust files of the repository, with their text.
pub fn rust_files() -> Vec<(String, String)> {
    let rust = files().into_iter().filter(|file| file.ends_with(".rs"));
    rust.map(|file| (file.clone(), read(&file))).collect()
}

#[test]
fn the_top_level_is_fixed() {
    let strange: Vec<String> = files()
        .into_iter()
        .filter(|file| {
            let top = file.split('/').next().unwrap_or("");
            !TOP_LEVEL.contains(&top)
        })
        .collect();
    assert!(
        strange.is_empty(),
        "these belong inside one of {TOP_LEVEL:?}: {strange:?}"
    );
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    // Spelled in parts, so that this file does not trip over itself.
    let homes = [
        ["/ro", "ot/"].concat(),
        ["/wo", "rk/"].concat(),
        ["/ho", "me/"].concat(),
    ];
    let mut found = Vec::new();
    for file in files() {
        for (number, line) in read(&file).lines().enumerate() {
            // Where more of a path stands before it, it is another place.
            let at_home = homes.iter().any(|home| {
                line.match_indices(home.as_str()).any(|(at, _)| {
                    let before = line[..at].chars().next_back();
                    before.is_none_or(|c| !c.is_alphanumeric() && !"._-/}*)".contains(c))
                })
            });
            if at_home {
                found.push(format!("{file}:{}: {line}", number + 1));
            }
        }
    }
    assert!(
        found.is_empty(),
        "absolute paths of one machine:\n{}",
        found.join("\n")
    );
}
