//! What changes, line by line.

use serde_json::{Map, Value};
use similar::{ChangeTag, TextDiff};

use super::plan::Step;
use crate::failure::Outcome;
use crate::object::{Common, Object};
use crate::output::yaml;
use crate::quantity::{parse_size, size};

/// Lines around a change.
const CONTEXT: usize = 2;

/// The difference of what users decide, indented; with colours where they are wanted.
pub fn lines(step: &Step, coloured: bool) -> Outcome<Vec<String>> {
    let before = step
        .before
        .as_ref()
        .map(text)
        .transpose()?
        .unwrap_or_default();
    let after = text(&step.after)?;
    let diff = TextDiff::from_lines(&before, &after);
    let mut lines = Vec::new();
    for (index, group) in diff.grouped_ops(CONTEXT).iter().enumerate() {
        if index > 0 {
            lines.push("    ...".to_owned());
        }
        for change in group
            .iter()
            .flat_map(|operation| diff.iter_changes(operation))
        {
            let (sign, colour) = match change.tag() {
                ChangeTag::Delete => ('-', "31"),
                ChangeTag::Insert => ('+', "32"),
                ChangeTag::Equal => (' ', ""),
            };
            let line = format!("  {sign} {}", change.value().trim_end());
            let plain = !coloured || colour.is_empty();
            lines.push(if plain {
                line
            } else {
                format!("\u{1b}[{colour}m{line}\u{1b}[0m")
            });
        }
    }
    Ok(lines)
}

fn text(object: &Object) -> Outcome<String> {
    let json = object.json();
    let mut told = Map::new();
    for field in ["labels", "spec"] {
        let filled = json
            .get(field)
            .filter(|value| value.as_object().is_none_or(|v| !v.is_empty()));
        if let Some(value) = filled {
            told.insert(field.to_owned(), readable("", value));
        }
    }
    if told.is_empty() {
        return Ok(String::new());
    }
    yaml(&Value::Object(told))
}

/// Sizes with their units, wherever they say the same.
fn readable(key: &str, value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(key, value)| (key.clone(), readable(key, value)));
            Value::Object(fields.collect())
        }
        Value::Array(items) => items.iter().map(|item| readable(key, item)).collect(),
        Value::String(text) if key.ends_with("_bytes") => with_unit(text.parse().ok(), value),
        Value::Number(number) if key.ends_with("_bytes") => with_unit(number.as_u64(), value),
        other => other.clone(),
    }
}

fn with_unit(bytes: Option<u64>, value: &Value) -> Value {
    let exact = bytes.filter(|bytes| parse_size(&size(*bytes)) == Ok(*bytes));
    exact.map_or_else(
        || value.clone(),
        |bytes| Value::String(size(bytes).replace(' ', "")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::document::Document;
    use crate::apply::plan::compare;
    use crate::name::Kind;
    use crate::object::from_json;
    use serde_json::json;

    fn step(before: Option<Object>) -> Step {
        let document = Document {
            kind: Kind::Volume,
            name: "volumes/v1".into(),
            wanted: json!({"labels": {"a": "1"}, "spec": {"size_bytes": "2147483648"}}),
            etag: String::new(),
            place: "f".into(),
        };
        compare(document, before).unwrap()
    }

    #[test]
    fn changes_are_told_with_sizes_as_people_write_them() {
        let before = json!({"name": "volumes/v1", "spec": {"size_bytes": "1073741824"}});
        let before = from_json(Kind::Volume, before).unwrap();
        let told = lines(&step(Some(before.clone())), false).unwrap();
        let wanted = [
            "  + labels:",
            "  +   a: '1'",
            "    spec:",
            "  -   size_bytes: 1GiB",
            "  +   size_bytes: 2GiB",
        ];
        assert_eq!(told, wanted);
        let told = lines(&step(Some(before)), true).unwrap();
        assert!(
            told[0].starts_with("\u{1b}[32m") && !told[2].contains('\u{1b}'),
            "{told:?}"
        );
    }

    #[test]
    fn what_is_new_is_all_added() {
        let told = lines(&step(None), false).unwrap();
        assert!(
            !told.is_empty() && told.iter().all(|line| line.starts_with("  + ")),
            "{told:?}"
        );
    }
}
