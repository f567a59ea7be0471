//! Rules of the source text: length, `unsafe`, banned calls.

use crate::text::code_lines;
use crate::tree;

/// Longest Rust file in lines. (Functions: clippy's `too_many_lines`, 70.)
const FILE_LINES_MAX: usize = 800;

/// Where `unsafe` may stand, with the reason. Each such block says why it is sound.
const UNSAFE_PERMITS: [(&str, &str); 3] = [
    ("bindings/", "foreign interfaces"),
    (
        "dataplane/buffer/src/",
        "payload memory is raw: devices and the kernel write to it",
    ),
    (
        "dataplane/reactor/src/",
        "the ring: the kernel reads and writes memory that operations own",
    ),
];

/// Crates through which every I/O goes: no call that can panic on input.
const IO_PATH: [&str; 9] = [
    "dataplane/units/src/",
    "dataplane/nvme/src/",
    "dataplane/buffer/src/",
    "dataplane/block/src/",
    "dataplane/reactor/src/",
    "dataplane/seam/src/",
    "dataplane/backend/src/",
    "dataplane/subsystem/src/",
    "dataplane/transport/",
];

/// Files of the I/O path that may panic, with the reason.
const PANIC_PERMITS: [(&str, &str); 1] = [(
    "dataplane/reactor/src/core.rs",
    "use off a reactor's thread is a mistake in our own code",
)];

/// Files under `tests/`, `benches/`, and test modules kept in files of their own.
fn is_test(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file);
    file.contains("/tests/")
        || file.contains("/benches/")
        || file.contains("/examples/")
        || name == "tests.rs"
        || name.ends_with("_tests.rs")
        || name == "testing.rs"
        || name == "fakes.rs"
}

fn permitted(file: &str) -> bool {
    UNSAFE_PERMITS
        .iter()
        .any(|(folder, _)| file.starts_with(folder))
}

/// Whether `word` stands in `line` as a word of its own.
fn has_word(line: &str, word: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(part_of_name) && !line[at + word.len()..].starts_with(part_of_name)
    })
}

/// Every line of code (tests left out) that `wrong` finds something wrong with.
fn findings(of: impl Fn(&str) -> bool, wrong: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for (file, text) in tree::rust_files() {
        if !of(&file) {
            continue;
        }
        for (index, line) in code_lines(&text).iter().enumerate() {
            if wrong(line) {
                found.push(format!("{file}:{}: {}", index + 1, line.trim()));
            }
        }
    }
    found
}

fn none(found: &[String], why: &str) {
    assert!(found.is_empty(), "{why}:\n{}", found.join("\n"));
}

#[test]
fn files_are_short() {
    let long: Vec<String> = tree::rust_files()
        .into_iter()
        .map(|(file, text)| (file, text.lines().count()))
        .filter(|(_, lines)| *lines > FILE_LINES_MAX)
        .map(|(file, lines)| format!("{file}: {lines} lines"))
        .collect();
    none(
        &long,
        "split these by meaning: a file has at most 800 lines",
    );
}

#[test]
fn unsafe_stands_only_where_permitted() {
    let found = findings(
        |file| !permitted(file) && !is_test(file),
        |line| has_word(line, "unsafe"),
    );
    none(&found, "unsafe without a permit");
}

/// `tokio` and `tonic` are for the node's agent, which runs beside the data path; `config/control.rs`
/// checks the endpoints it is given.
#[test]
fn only_the_agent_uses_a_foreign_runtime() {
    let agents = |file: &str| {
        file.starts_with("dataplane/node/src/agent")
            || file == "dataplane/node/src/config/control.rs"
    };
    let found = findings(
        |file| file.starts_with("dataplane/") && !agents(file) && !is_test(file),
        |line| has_word(line, "tokio") || has_word(line, "tonic"),
    );
    none(&found, "the data path knows no runtime but its own");
}

#[test]
fn every_unsafe_says_why_it_is_sound() {
    let mut bare = Vec::new();
    for (file, text) in tree::rust_files() {
        let lines: Vec<&str> = text.lines().collect();
        for (index, code) in code_lines(&text).iter().enumerate() {
            let needs_reason = code.contains("unsafe {") || code.contains("unsafe impl");
            if needs_reason && !reason_above(&lines[..=index]) {
                bare.push(format!("{file}:{}: {}", index + 1, code.trim()));
            }
        }
    }
    none(
        &bare,
        "each unsafe block has a `// SAFETY:` comment directly above",
    );
}

/// Whether the statement that the last line belongs to has a SAFETY comment above it, or beside it.
fn reason_above(lines: &[&str]) -> bool {
    let Some((last, above)) = lines.split_last() else {
        return false;
    };
    if last.contains("// SAFETY:") {
        return true;
    }
    for line in above.iter().rev().map(|line| line.trim()) {
        if line.starts_with("// SAFETY:") {
            return true;
        }
        let statement_goes_on = !line.is_empty()
            && !line.ends_with(';')
            && !line.ends_with('}')
            && !line.ends_with('{');
        if !(line.starts_with("//") || line.starts_with("#[") || statement_goes_on) {
            return false;
        }
    }
    false
}

#[test]
fn crates_without_a_permit_forbid_unsafe() {
    let mut lacking = Vec::new();
    for (file, text) in tree::rust_files() {
        let is_root = file.ends_with("/src/lib.rs")
            || file.ends_with("/src/main.rs")
            || file.contains("/src/bin/") && file.ends_with("/main.rs")
            || file
                .rsplit_once('/')
                .is_some_and(|(folder, _)| folder.ends_with("/src/bin"));
        if is_root && !permitted(&file) && !text.contains("#![forbid(unsafe_code)]") {
            lacking.push(file);
        }
    }
    none(
        &lacking,
        "write #![forbid(unsafe_code)] at the top of these",
    );
}

#[test]
fn the_io_path_does_not_panic_on_input() {
    let banned = [
        ".unwrap()",
        ".expect(",
        "panic!(",
        "todo!(",
        "unimplemented!(",
    ];
    let on_path = |file: &str| {
        IO_PATH.iter().any(|folder| file.starts_with(folder))
            && !is_test(file)
            && !PANIC_PERMITS
                .iter()
                .any(|(permitted, _)| file == *permitted)
    };
    let found = findings(on_path, |line| {
        banned.iter().any(|call| line.contains(call))
    });
    none(&found, "a call that can panic, on the I/O path");
}

#[test]
fn libraries_log_and_do_not_print() {
    let printing = ["println!(", "print!(", "eprintln!(", "eprint!(", "dbg!("];
    let library = |file: &str| {
        file.starts_with("dataplane/")
            && !is_test(file)
            && !file.ends_with("/main.rs")
            && !file.contains("/src/bin/")
            && !file.ends_with("/build.rs")
    };
    let found = findings(library, |line| {
        printing.iter().any(|call| line.contains(call))
    });
    none(&found, "use tracing");
}

#[test]
fn nothing_is_left_to_do_silently() {
    let marks = [
        ["FIX", "ME"].concat(),
        ["TO", "DO"].concat(),
        ["XX", "X"].concat(),
    ];
    let mut found = Vec::new();
    for (file, text) in tree::rust_files() {
        for (index, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| has_word(line, mark)) || line.contains("todo!(") {
                found.push(format!("{file}:{}: {}", index + 1, line.trim()));
            }
        }
    }
    // The rules themselves name the banned macro.
    found.retain(|line| !line.starts_with("xtask/tests/house_rules/"));
    none(&found, "finish these or take them out");
}

#[test]
fn the_rules_find_what_they_look_for() {
    assert!(has_word("let x = unsafe { y };", "unsafe"));
    assert!(!has_word("#![forbid(unsafe_code)]", "unsafe"));
    assert!(reason_above(&["// SAFETY: fine", "let x = unsafe { y };"]));
    assert!(reason_above(&[
        "// SAFETY: fine",
        "let x =",
        "unsafe { y };"
    ]));
    assert!(!reason_above(&[
        "// SAFETY: of another",
        "call();",
        "unsafe { y };"
    ]));
    assert!(
        is_test("dataplane/block/src/ticket_tests.rs") && !is_test("dataplane/block/src/lib.rs")
    );
}
