//! What has to be done for the server to have what the files want.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::document::Document;
use crate::failure::{Failure, Outcome};
use crate::name::{Kind, split};
use crate::object::{Common, Object, from_json};

/// What becomes of one document.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// The server has nothing of that name.
    Create,
    /// These fields differ.
    Change {
        /// As an update's mask names them.
        mask: Vec<String>,
    },
    /// The server has it just so.
    Nothing,
}

/// One document against the server.
#[derive(Clone, Debug)]
pub struct Step {
    /// What the file says.
    pub document: Document,
    /// What the server has.
    pub before: Option<Object>,
    /// What it shall have.
    pub after: Object,
    /// What that takes.
    pub action: Action,
}

/// What an update may change.
fn changeable(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Node => &["labels", "spec.failure_domains", "spec.cordoned"],
        Kind::Device => &["labels", "spec.cordoned"],
        Kind::Host | Kind::Namespace => &["labels"],
        Kind::Subsystem => &["labels", "spec.allow_any_host", "spec.hosts"],
        Kind::Volume => &["labels", "spec.size_bytes"],
        Kind::Listener | Kind::Operation => &[],
    }
}

/// In which order kinds are made: what others refer to comes first.
fn rank(kind: Kind) -> usize {
    let order = [
        Kind::Node,
        Kind::Device,
        Kind::Host,
        Kind::Listener,
        Kind::Subsystem,
        Kind::Volume,
        Kind::Namespace,
    ];
    order
        .iter()
        .position(|known| *known == kind)
        .unwrap_or(order.len())
}

/// Puts documents into the order in which they can be made, and refuses a name that is there twice.
pub fn in_order(mut documents: Vec<Document>) -> Outcome<Vec<Document>> {
    for (index, document) in documents.iter().enumerate() {
        let earlier = documents[..index]
            .iter()
            .find(|earlier| earlier.name == document.name);
        if let Some(earlier) = earlier {
            let told = format!(
                "{}: {} is in {} too",
                document.place, document.name, earlier.place
            );
            return Err(Failure::usage(told));
        }
    }
    documents.sort_by_key(|document| rank(document.kind));
    Ok(documents)
}

/// Compares a document with what the server has. What the document leaves out stays as it is.
pub fn compare(document: Document, before: Option<Object>) -> Outcome<Step> {
    let place = document.place.clone();
    step(document, before).map_err(|failure| failure.within(&place))
}

fn step(document: Document, before: Option<Object>) -> Outcome<Step> {
    let mut json = before
        .as_ref()
        .map_or_else(|| Value::Object(Map::new()), Common::json);
    if let Some(Value::String(_)) = json.get("delete_time") {
        let told = format!(
            "{} is being deleted: wait until it is gone, and apply again",
            document.name
        );
        return Err(Failure::other(told));
    }
    overlay(&mut json, &document.wanted, "");
    if let Some(fields) = json.as_object_mut() {
        fields.insert("name".into(), Value::String(document.name.clone()));
    }
    let mut after = from_json(document.kind, json)?;
    let Some(mut present) = before.clone() else {
        if document.kind == Kind::Device {
            let told = format!(
                "{} does not exist, and devices are not made by hand: its node reports it",
                document.name
            );
            return Err(Failure::other(told));
        }
        return Ok(Step {
            document,
            before,
            after,
            action: Action::Create,
        });
    };
    sort_hosts(&mut present);
    sort_hosts(&mut after);
    let mask = differing(&present.json(), &after.json());
    let fixed = mask
        .iter()
        .find(|field| !changeable(document.kind).contains(&field.as_str()));
    if let Some(field) = fixed {
        return Err(fixed_field(
            &document.name,
            field,
            &present.json(),
            &after.json(),
        ));
    }
    let action = if mask.is_empty() {
        Action::Nothing
    } else {
        Action::Change { mask }
    };
    Ok(Step {
        document,
        before: Some(present),
        after,
        action,
    })
}

/// The order of the hosts of a subsystem means nothing.
fn sort_hosts(object: &mut Object) {
    if let Object::Subsystem(subsystem) = object
        && let Some(spec) = &mut subsystem.spec
    {
        spec.hosts.sort();
        spec.hosts.dedup();
    }
}

/// Lays what is wanted over what is there. Messages are merged; texts, numbers, lists and maps of
/// text are replaced as a whole.
fn overlay(there: &mut Value, wanted: &Value, path: &str) {
    let merged = ["", ".spec", ".spec.placement", ".spec.stripe"].contains(&path);
    let (Value::Object(there), Value::Object(wanted), true) = (&mut *there, wanted, merged) else {
        *there = wanted.clone();
        return;
    };
    for (key, value) in wanted {
        let place = there.entry(key.clone()).or_insert(Value::Null);
        overlay(place, value, &format!("{path}.{key}"));
    }
}

/// `labels` and the fields of the spec that are not the same.
fn differing(before: &Value, after: &Value) -> Vec<String> {
    let mut mask = Vec::new();
    if before.get("labels") != after.get("labels") {
        mask.push("labels".to_owned());
    }
    let fields = |value: &Value| value.get("spec").and_then(Value::as_object).cloned();
    let (before, after) = (
        fields(before).unwrap_or_default(),
        fields(after).unwrap_or_default(),
    );
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let changed = names
        .into_iter()
        .filter(|name| before.get(*name) != after.get(*name));
    mask.extend(changed.map(|name| format!("spec.{name}")));
    mask
}

fn fixed_field(name: &str, field: &str, before: &Value, after: &Value) -> Failure {
    let pointer = format!("/{}", field.replace('.', "/"));
    let told = |value: &Value| match value.pointer(&pointer) {
        None => "nothing".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    Failure::usage(format!(
        "{name}: {field} cannot be changed; the server has {}, the file wants {}: put the file \
         right, or delete the resource and apply again",
        told(before),
        told(after)
    ))
}

/// Whether the server cannot check the step before others are done: it names one of these.
pub fn waits_for<'a>(step: &Step, new: &'a [String]) -> Option<&'a String> {
    let (parent, _) = split(&step.document.name);
    let mut names = BTreeSet::from([parent]);
    references(&step.document.wanted, &mut names);
    new.iter().find(|name| names.contains(*name))
}

fn references(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => {
            names.insert(text.clone());
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, names)),
        Value::Object(fields) => fields.values().for_each(|field| references(field, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn document(name: &str, wanted: Value) -> Document {
        Document {
            kind: Kind::of(name).unwrap(),
            name: name.into(),
            wanted,
            etag: String::new(),
            place: format!("f, {name}"),
        }
    }

    fn volume() -> Object {
        from_json(
            Kind::Volume,
            json!({
                "name": "volumes/v1",
                "etag": "7",
                "labels": {"tier": "fast", "owner": "a"},
                "spec": {"size_bytes": "1048576", "block_size": "BLOCK_SIZE_4096",
                         "placement": {"node": "nodes/n1"}},
            }),
        )
        .unwrap()
    }

    fn action(wanted: Value) -> Outcome<Action> {
        compare(document("volumes/v1", wanted), Some(volume())).map(|step| step.action)
    }

    #[test]
    fn what_a_document_leaves_out_stays() {
        assert_eq!(action(json!({})).unwrap(), Action::Nothing);
        assert_eq!(
            action(json!({"spec": {"size_bytes": "1048576"}})).unwrap(),
            Action::Nothing
        );
        let grown = action(json!({"spec": {"size_bytes": "2097152"}})).unwrap();
        assert_eq!(
            grown,
            Action::Change {
                mask: vec!["spec.size_bytes".into()]
            }
        );
        let labels = action(json!({"labels": {"tier": "fast"}})).unwrap();
        assert_eq!(
            labels,
            Action::Change {
                mask: vec!["labels".into()]
            }
        );
    }

    #[test]
    fn an_explicit_default_is_a_wish() {
        let node = from_json(
            Kind::Node,
            json!({"name": "nodes/n1", "spec": {"cordoned": true}}),
        );
        let wanted = document("nodes/n1", json!({"spec": {"cordoned": false}}));
        let step = compare(wanted, Some(node.unwrap())).unwrap();
        assert_eq!(
            step.action,
            Action::Change {
                mask: vec!["spec.cordoned".into()]
            }
        );
    }

    #[test]
    fn what_cannot_be_changed_is_refused_with_both_values() {
        let told = action(json!({"spec": {"block_size": "BLOCK_SIZE_512"}})).unwrap_err();
        for part in [
            "spec.block_size cannot be changed",
            "BLOCK_SIZE_4096",
            "BLOCK_SIZE_512",
        ] {
            assert!(told.message.contains(part), "{told}");
        }
    }

    #[test]
    fn the_order_of_hosts_means_nothing() {
        let subsystem = json!({"name": "subsystems/s", "spec": {"hosts": ["hosts/b", "hosts/a"]}});
        let before = from_json(Kind::Subsystem, subsystem).unwrap();
        let wanted = document(
            "subsystems/s",
            json!({"spec": {"hosts": ["hosts/a", "hosts/b"]}}),
        );
        assert_eq!(
            compare(wanted, Some(before)).unwrap().action,
            Action::Nothing
        );
    }

    #[test]
    fn what_others_need_comes_first() {
        let names = [
            "subsystems/s/namespaces/n",
            "volumes/v",
            "subsystems/s",
            "nodes/n",
        ];
        let documents = names.map(|name| document(name, json!({}))).to_vec();
        let ordered = in_order(documents.clone()).unwrap();
        let ordered: Vec<&str> = ordered.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(
            ordered,
            [
                "nodes/n",
                "subsystems/s",
                "volumes/v",
                "subsystems/s/namespaces/n"
            ]
        );
        let twice = in_order([documents.clone(), documents].concat()).unwrap_err();
        assert!(
            twice
                .message
                .contains("is in f, subsystems/s/namespaces/n too"),
            "{twice}"
        );
    }

    #[test]
    fn a_step_that_needs_a_new_one_is_known() {
        let namespace = document(
            "subsystems/s/namespaces/n",
            json!({"spec": {"volume": "volumes/v"}}),
        );
        let step = compare(namespace, None).unwrap();
        assert_eq!(step.action, Action::Create);
        assert!(waits_for(&step, &["volumes/v".into()]).is_some());
        assert!(waits_for(&step, &["subsystems/s".into()]).is_some());
        assert!(waits_for(&step, &["volumes/w".into()]).is_none());
    }
}
