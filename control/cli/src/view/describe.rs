//! Everything about one resource: what is wanted, what is seen, and what happened.
//!
//! Spec and status are walked as the API's JSON, so that a field that is new there shows here too.

use penstock_api::v1::{Condition, ConditionStatus, Operation, VolumeLayout};
use serde_json::Value;

use super::table::{Column, Table};
use super::time::{age, age_of_text};
use crate::object::{Common, Object};
use crate::output::to_value;
use crate::quantity::size;

/// Fields that have a place of their own.
const TOLD_ELSEWHERE: [&str; 4] = ["spec", "status", "labels", "conditions"];

/// The whole text. `operations` are those that concern it, `layout` where a volume lies.
pub fn describe(
    object: &Object,
    operations: &[Operation],
    layout: Option<&VolumeLayout>,
) -> String {
    let json = object.json();
    let mut text = Text::default();
    text.fields(&json, 0);
    let section = |name: &str| json.get(name).cloned().unwrap_or(Value::Null);
    text.section("labels", &section("labels"));
    text.section("spec", &section("spec"));
    text.section("status", &section("status"));
    if let Some(layout) = layout {
        text.section("paths", &to_value(&layout.paths));
    }
    text.table("conditions", conditions(object.conditions()));
    text.table("events", events(object.conditions(), operations));
    text.lines.join("\n")
}

#[derive(Default)]
struct Text {
    lines: Vec<String>,
}

impl Text {
    fn section(&mut self, title: &str, value: &Value) {
        self.lines.push(format!("{title}:"));
        let before = self.lines.len();
        match value {
            Value::Object(_) => self.fields(value, 1),
            Value::Array(items) => items.iter().for_each(|item| self.item(item, 1)),
            _ => {}
        }
        if self.lines.len() == before {
            self.lines.pop();
            self.lines.push(format!("{title}: none"));
        }
    }

    fn fields(&mut self, value: &Value, depth: usize) {
        let Value::Object(fields) = value else { return };
        for (key, value) in fields {
            if TOLD_ELSEWHERE.contains(&key.as_str()) {
                continue;
            }
            let indent = "  ".repeat(depth);
            match value {
                Value::Object(_) => {
                    self.lines.push(format!("{indent}{}:", title(key)));
                    self.fields(value, depth + 1);
                }
                Value::Array(items) if items.iter().all(|i| !i.is_object()) => {
                    let items: Vec<String> = items.iter().map(|item| scalar("", item)).collect();
                    self.lines
                        .push(format!("{indent}{}: {}", title(key), items.join(", ")));
                }
                Value::Array(items) => {
                    self.lines.push(format!("{indent}{}:", title(key)));
                    items.iter().for_each(|item| self.item(item, depth + 1));
                }
                _ => self
                    .lines
                    .push(format!("{indent}{}: {}", title(key), scalar(key, value))),
            }
        }
    }

    fn item(&mut self, item: &Value, depth: usize) {
        let mut inner = Text::default();
        inner.fields(item, depth + 1);
        if let Some(first) = inner.lines.first_mut() {
            *first = format!("{}- {}", "  ".repeat(depth), first.trim_start());
        }
        self.lines.append(&mut inner.lines);
    }

    fn table(&mut self, title: &str, table: Option<Table>) {
        let Some(table) = table else {
            self.lines.push(format!("{title}: none"));
            return;
        };
        self.lines.push(format!("{title}:"));
        self.lines
            .extend(table.to_string().lines().map(|line| format!("  {line}")));
    }
}

/// `size_bytes` is `size`: the value has its unit.
fn title(key: &str) -> String {
    match key {
        "create_time" => return "created".into(),
        "update_time" => return "updated".into(),
        "delete_time" => return "deletion asked for".into(),
        "end_time" => return "ended".into(),
        _ => {}
    }
    let key = key
        .strip_suffix("_bytes")
        .or_else(|| key.strip_suffix("_time"))
        .unwrap_or(key);
    key.replace('_', " ")
}

fn scalar(key: &str, value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if key.ends_with("_bytes")
        && let Ok(bytes) = text.parse::<u64>()
    {
        let words = size(bytes);
        return match bytes {
            0..1024 => words,
            // An MTU is no size of storage.
            _ if bytes % 512 != 0 => format!("{bytes} bytes"),
            _ => format!("{words} ({bytes} bytes)"),
        };
    }
    if key.ends_with("_time")
        && let Some(age) = age_of_text(&text)
    {
        let seconds = text
            .split(['.', '+'])
            .next()
            .unwrap_or(&text)
            .trim_end_matches('Z');
        return format!("{} UTC ({age} ago)", seconds.replace('T', " "));
    }
    enum_word(key, text)
}

/// `VOLUME_STATE_READY` of the field `state` is `ready`: the rest says what the title says.
fn enum_word(key: &str, text: String) -> String {
    let own = format!("{}_", key.to_uppercase());
    let is_word = text
        .chars()
        .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    match text.split_once(&own) {
        Some((_, word)) if is_word && !key.is_empty() => word.to_lowercase(),
        _ => text,
    }
}

fn status_word(condition: &Condition) -> &'static str {
    match condition.status() {
        ConditionStatus::True => "yes",
        ConditionStatus::False => "no",
        ConditionStatus::Unknown | ConditionStatus::Unspecified => "unknown",
    }
}

fn conditions(conditions: &[Condition]) -> Option<Table> {
    let titles = ["TYPE", "HOLDS", "SINCE", "REASON", "MESSAGE"].map(Column::left);
    let mut table = Table::new(&titles);
    for condition in conditions {
        table.push(vec![
            condition.r#type.clone(),
            status_word(condition).into(),
            age(condition.last_transition_time.as_ref()),
            condition.reason.clone(),
            condition.message.clone(),
        ]);
    }
    (!conditions.is_empty()).then_some(table)
}

/// What happened, latest last: the operations' begins and ends, and the conditions' last changes.
fn events(conditions: &[Condition], operations: &[Operation]) -> Option<Table> {
    let mut events = Vec::new();
    for condition in conditions {
        let Some(at) = condition.last_transition_time else {
            continue;
        };
        let what = match condition.reason.as_str() {
            "" => format!("{} became {}", condition.r#type, status_word(condition)),
            reason => format!(
                "{} became {}: {reason}",
                condition.r#type,
                status_word(condition)
            ),
        };
        events.push((at, what, condition.message.clone()));
    }
    for operation in operations {
        let id = operation.name.clone();
        let verb = &operation.verb;
        let by = match operation.requester.as_str() {
            "" => id,
            requester => format!("{id}, asked for by {requester}"),
        };
        events.extend(
            operation
                .create_time
                .map(|at| (at, format!("{verb} began"), by)),
        );
        let Some(at) = operation.end_time else {
            continue;
        };
        events.push(match &operation.error {
            Some(error) => (
                at,
                format!("{verb} failed: {}", error.reason),
                error.message.clone(),
            ),
            None => (at, format!("{verb} done"), String::new()),
        });
    }
    events.sort_by_key(|(at, ..)| (at.seconds, at.nanos));
    let mut table = Table::new(&["AGE", "EVENT", "MESSAGE"].map(Column::left));
    for (at, what, message) in &events {
        table.push(vec![age(Some(at)), what.clone(), message.clone()]);
    }
    (!events.is_empty()).then_some(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Kind;
    use crate::object::from_json;
    use serde_json::json;

    #[test]
    fn everything_is_told_with_sizes_and_ages() {
        let object = from_json(Kind::Volume, json!({
            "name": "volumes/v1",
            "labels": {"tier": "fast"},
            "create_time": "2020-01-01T00:00:00Z",
            "spec": {"size_bytes": "1073741824", "block_size": "BLOCK_SIZE_512", "placement": {"devices": ["nodes/n1/devices/d0"]}},
            "status": {
                "state": "VOLUME_STATE_READY",
                "layout": {"node": "nodes/n1", "extents": [
                    {"device": "nodes/n1/devices/d0", "length_bytes": "1073741824"},
                ]},
                "conditions": [{
                    "type": "Ready", "status": "CONDITION_STATUS_FALSE", "reason": "DeviceMissing",
                    "message": "plug it in", "last_transition_time": "2020-01-01T00:00:02Z",
                }],
            },
        })).unwrap();
        let operation = Operation {
            name: "operations/1".into(),
            verb: "create".into(),
            create_time: Some(penstock_api::well_known::Timestamp {
                seconds: 1_577_836_801,
                nanos: 0,
            }),
            requester: "admin".into(),
            ..Operation::default()
        };
        let text = describe(&object, &[operation], None);
        for told in [
            "name: volumes/v1",
            "labels:\n  tier: fast",
            "size: 1 GiB (1073741824 bytes)",
            "devices: nodes/n1/devices/d0",
            "      - device: nodes/n1/devices/d0\n        length: 1 GiB",
            "created: 2020-01-01 00:00:00 UTC (",
            "block size: 512",
            "state: ready",
            "block size: 512",
            "state: ready",
            "DeviceMissing  plug it in",
            "create began",
            "asked for by admin",
        ] {
            assert!(text.contains(told), "{told} is not in\n{text}");
        }
        let began = text.find("create began").unwrap();
        assert!(began < text.find("Ready became no").unwrap(), "{text}");
    }
}
