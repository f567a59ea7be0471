//! Just enough of Rust's lexing to tell code from comments, strings and test modules.

/// The lines of a Rust file with comments and the insides of literals blanked, and with everything
/// under `#[cfg(test)]` blanked too. Line numbers stay as they are.
pub fn code_lines(text: &str) -> Vec<String> {
    without_tests(&without_comments(text))
        .lines()
        .map(str::to_owned)
        .collect()
}

/// Replaces comments and the insides of string and character literals by blanks.
fn without_comments(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = skip_end(&chars, at);
        if end > at {
            out.extend(
                chars[at..end]
                    .iter()
                    .map(|c| if *c == '\n' { '\n' } else { ' ' }),
            );
            at = end;
        } else {
            out.push(chars[at]);
            at += 1;
        }
    }
    out
}

/// Where the comment or literal that begins at `at` ends; `at` itself where none begins.
fn skip_end(chars: &[char], at: usize) -> usize {
    let starts = |word: &str| {
        word.chars()
            .enumerate()
            .all(|(i, c)| chars.get(at + i) == Some(&c))
    };
    let word_before = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    if starts("//") {
        return find(chars, at, |rest| rest[0] == '\n');
    }
    if starts("/*") {
        return block_comment_end(chars, at);
    }
    let prefix = if !word_before && (starts("br") || starts("cr")) {
        2
    } else {
        1
    };
    if !word_before && (chars[at] == 'r' || prefix == 2) {
        let hashes = chars[at + prefix..]
            .iter()
            .take_while(|c| **c == '#')
            .count();
        if chars.get(at + prefix + hashes) == Some(&'"') {
            let mut close = vec!['"'];
            close.extend(std::iter::repeat_n('#', hashes));
            let body = at + prefix + hashes + 1;
            return find(chars, body, |rest| rest.starts_with(&close)) + close.len();
        }
    }
    match chars[at] {
        '"' => quoted_end(chars, at, '"'),
        '\'' if is_char_literal(chars, at) => quoted_end(chars, at, '\''),
        _ => at,
    }
}

fn find(chars: &[char], from: usize, matches: impl Fn(&[char]) -> bool) -> usize {
    (from..chars.len())
        .find(|at| matches(&chars[*at..]))
        .unwrap_or(chars.len())
}

fn block_comment_end(chars: &[char], at: usize) -> usize {
    let (mut depth, mut i) = (0, at);
    while i < chars.len() {
        match (chars[i], chars.get(i + 1)) {
            ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
            ('*', Some('/')) => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

fn quoted_end(chars: &[char], at: usize, quote: char) -> usize {
    let mut i = at + 1;
    while i < chars.len() && chars[i] != quote {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(chars.len())
}

/// `'a'` is a literal, `'a` a lifetime.
fn is_char_literal(chars: &[char], at: usize) -> bool {
    chars.get(at + 1) == Some(&'\\') || chars.get(at + 2) == Some(&'\'')
}

/// Blanks the items that follow `#[cfg(test)]`, up to their closing brace or semicolon.
fn without_tests(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        out.push_str(&rest[..at]);
        let end = item_end(&rest[at..]) + at;
        out.extend(rest[at..end].chars().filter(|c| *c == '\n'));
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

fn item_end(item: &str) -> usize {
    let mut depth = 0;
    for (at, c) in item.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    item.len()
}

#[test]
fn comments_literals_and_tests_are_no_code() {
    let text = concat!(
        "let a = \"unsafe { }\"; // unsafe\n",
        "let b = r#\"un\"safe\"#; /* unsafe /* nested */ unsafe */ let c = '\"'; real();\n",
        "fn f<'a>(x: &'a str) -> char { '\\'' }\n",
        "#[cfg(test)]\nmod tests { fn g() { x.unwrap(); } }\nafter();\n",
    );
    let lines = code_lines(text);
    assert_eq!(lines.len(), 6);
    let code = lines.join("\n");
    assert!(
        !code.contains("unsafe") && !code.contains("unwrap"),
        "{code}"
    );
    assert!(code.contains("real();") && code.contains("fn f<'a>") && code.contains("after();"));
}
