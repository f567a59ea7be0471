//! Plain text tables on standard output.

use std::io::Write;

/// Rows of equal length with a header line, columns as wide as their widest cell.
pub fn render(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells
            .chain([header[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let mut text = line(header.to_vec());
    text += &line(
        widths
            .iter()
            .map(|w| "-".repeat(*w))
            .collect::<Vec<_>>()
            .iter()
            .map(String::as_str)
            .collect(),
    );
    for row in rows {
        text += &line(row.iter().map(String::as_str).collect());
    }
    text
}

/// Names and values, one a line, values aligned.
pub fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    pairs
        .iter()
        .map(|(name, value)| format!("{name:<width$}  {value}\n"))
        .collect()
}

/// Writes to standard output. A reader that has gone away (`| head`) is no failure.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Fails unless `help` names every key of the object, and no key that is not there: names in help
/// are words with an underscore, or the first word of a line.
#[cfg(test)]
pub fn assert_documented(help: &str, object: &serde_json::Value) {
    fn keys(value: &serde_json::Value, into: &mut Vec<String>) {
        if let Some(object) = value.as_object() {
            into.extend(object.keys().cloned());
            object.values().for_each(|value| keys(value, into));
        }
        value
            .as_array()
            .into_iter()
            .flatten()
            .for_each(|value| keys(value, into));
    }
    let mut found = Vec::new();
    keys(object, &mut found);
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words: Vec<&str> = help
        .split(|c| !is_word(c))
        .filter(|word| !word.is_empty())
        .collect();
    for key in &found {
        assert!(
            words.contains(&key.as_str()),
            "the help does not name {key}"
        );
    }
    for word in words.iter().filter(|word| word.contains('_')) {
        assert!(
            found.iter().any(|key| key == word),
            "the help names {word}, which is not there"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![
            vec!["1".into(), "long cell".into()],
            vec!["22".into(), "x".into()],
        ];
        let text = render(&["id", "name"], &rows);
        assert_eq!(text, "id  name\n--  ---------\n1   long cell\n22  x\n");
        assert_eq!(
            pairs(&[("a", "1".into()), ("bcd", "2".into())]),
            "a    1\nbcd  2\n"
        );
    }
}
