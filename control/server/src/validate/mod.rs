//! What users may write: limits of every field, what can be changed, what unset fields mean.
//!
//! Pure: whether what a resource refers to exists is the services' to check.

mod kinds;
mod mask;
mod volume;

use std::collections::BTreeMap;
use std::fmt;

use penstock_api::names::{Kind, NameError, ResourceName, check_id};
use penstock_api::resource::Resource;
use serde_json::Value;

use crate::fault::{Fault, Result, Violation};

pub use mask::paths;
pub use volume::SIZE_STEP_BYTES;

/// Most labels of a resource.
pub const LABELS_MAX: usize = 64;
/// Longest key or value of a label in bytes.
pub const LABEL_BYTES_MAX: usize = 63;
/// Longest request id in characters.
pub const REQUEST_ID_MAX: usize = 64;
/// Most resources of a page.
pub const PAGE_SIZE_MAX: usize = 1_000;
/// Resources of a page where none is asked for.
pub const PAGE_SIZE_DEFAULT: usize = 100;

/// Fields that are refused, collected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// Refuses a field.
    pub fn add(&mut self, field: impl Into<String>, description: impl fmt::Display) {
        self.0.push(Violation {
            field: field.into(),
            description: description.to_string(),
        });
    }

    /// Refuses a field where its value is no good.
    pub fn check<T>(&mut self, field: impl Into<String>, result: Result<T, NameError>) {
        if let Err(error) = result {
            self.add(field, error);
        }
    }

    /// All fields are good.
    ///
    /// # Errors
    /// INVALID_ARGUMENT with all that are not.
    pub fn finish(self) -> Result<()> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Fault::invalid(self.0))
        }
    }
}

/// What users may write into resources of a kind.
pub trait Policy: Resource {
    /// The field of requests that holds the resource: `volume`.
    const FIELD: &'static str;
    /// Paths that an update may change.
    const MUTABLE: &'static [&'static str];
    /// Paths of the spec that never change.
    const FIXED: &'static [&'static str];

    /// Checks the spec. Fields are told with [`field`].
    fn check(&self, found: &mut Violations);
    /// Writes defaults into unset fields. Name and uid are set already.
    fn fill(&mut self, cluster: &str);
    /// Sets unset fields of the spec, which mean "the server decides", to what was decided before.
    fn inherit(&mut self, existing: &Self);
    /// Takes one of the mutable paths of the spec from another version.
    fn take(&mut self, path: &str, from: &Self);
}

/// A path in the resource as requests have it: `volume.spec.size_bytes`.
pub fn field<R: Policy>(path: &str) -> String {
    format!("{}.{path}", R::FIELD)
}

/// Checks what a user wrote: labels and spec.
///
/// # Errors
/// INVALID_ARGUMENT with every field that is no good.
pub fn resource<R: Policy>(resource: &R) -> Result<()> {
    let mut found = Violations::default();
    labels(&field::<R>("labels"), resource.labels(), &mut found);
    resource.check(&mut found);
    found.finish()
}

/// Checks labels.
pub fn labels(path: &str, labels: &BTreeMap<String, String>, found: &mut Violations) {
    if labels.len() > LABELS_MAX {
        found.add(
            path,
            format!(
                "there are {} labels; keep to {LABELS_MAX} at most",
                labels.len()
            ),
        );
    }
    for (key, value) in labels {
        if key.is_empty() {
            found.add(path, "a key is empty; give it a name");
        }
        for (what, text) in [("key", key), ("value", value)] {
            if text.len() > LABEL_BYTES_MAX {
                found.add(
                    path,
                    format!(
                        "the {what} {:?} has {} bytes; use {LABEL_BYTES_MAX} at most",
                        short(text),
                        text.len()
                    ),
                );
            }
            if text.chars().any(char::is_control) {
                found.add(
                    path,
                    format!(
                        "the {what} {:?} has control characters; leave them out",
                        short(text)
                    ),
                );
            }
        }
    }
}

/// Checks an id of a new resource and makes its name.
///
/// # Errors
/// INVALID_ARGUMENT.
pub fn new_name(kind: Kind, parent: Option<&ResourceName>, id: &str) -> Result<ResourceName> {
    let path = format!("{kind}_id");
    check_id(id).map_err(|error| Fault::name(&path, &error))?;
    match parent {
        Some(parent) => parent.child(kind, id),
        None => ResourceName::new(kind, &[id]),
    }
    .map_err(|error| Fault::name(&path, &error))
}

/// Reads a name that must be of this kind.
///
/// # Errors
/// INVALID_ARGUMENT.
pub fn name(kind: Kind, path: &str, text: &str) -> Result<ResourceName> {
    ResourceName::parse_as(kind, text).map_err(|error| Fault::name(path, &error))
}

/// Checks a request id; empty is good.
///
/// # Errors
/// INVALID_ARGUMENT.
pub fn request_id(id: &str) -> Result<()> {
    let length = id.chars().count();
    if length > REQUEST_ID_MAX {
        return Err(Fault::field(
            "request_id",
            format!("it has {length} characters; use {REQUEST_ID_MAX} at most, best a UUID"),
        ));
    }
    if id.chars().any(|c| !c.is_ascii_graphic() || c == '/') {
        return Err(Fault::field(
            "request_id",
            format!("{id:?} has a space, a slash or a character that is not ASCII; use a UUID"),
        ));
    }
    Ok(())
}

/// How many resources a page is to have.
///
/// # Errors
/// INVALID_ARGUMENT where it is negative. More than [`PAGE_SIZE_MAX`] is that.
pub fn page_size(asked: i32) -> Result<usize> {
    match usize::try_from(asked) {
        Ok(0) => Ok(PAGE_SIZE_DEFAULT),
        Ok(asked) => Ok(asked.min(PAGE_SIZE_MAX)),
        Err(_) => Err(Fault::field(
            "page_size",
            format!("it is {asked}; use 1 to {PAGE_SIZE_MAX}, or 0 for {PAGE_SIZE_DEFAULT}"),
        )),
    }
}

/// A path at which two specs differ, with both values as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// `spec.size_bytes`.
    pub path: String,
    /// The first's value.
    pub one: String,
    /// The second's.
    pub other: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, not {}", self.path, self.one, self.other)
    }
}

/// Where the specs of two resources differ.
pub fn differences<R: Resource>(one: &R, other: &R) -> Vec<Difference> {
    let mut found = Vec::new();
    let value =
        |resource: &R| serde_json::to_value(resource.spec_or_default()).unwrap_or(Value::Null);
    compare("spec", &value(one), &value(other), &mut found);
    found
}

fn compare(path: &str, one: &Value, other: &Value, found: &mut Vec<Difference>) {
    if one == other {
        return;
    }
    let empty = serde_json::Map::new();
    let (a, b) = match (one, other) {
        (Value::Object(a), Value::Object(b)) => (a, b),
        // JSON leaves defaults out.
        (Value::Object(a), Value::Null) => (a, &empty),
        (Value::Null, Value::Object(b)) => (&empty, b),
        _ => {
            found.push(Difference {
                path: path.to_owned(),
                one: told(one),
                other: told(other),
            });
            return;
        }
    };
    let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let at = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
        compare(&format!("{path}.{key}"), &at(a), &at(b), found);
    }
}

fn told(value: &Value) -> String {
    match value {
        Value::Null => "unset".to_owned(),
        Value::String(text) => format!("{:?}", short(text)),
        other => short(&other.to_string()),
    }
}

/// So that a refusal of a long text is not as long.
pub fn short(text: &str) -> String {
    const MOST: usize = 80;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(MOST).collect();
    cut.push_str("...");
    cut
}

/// A list of names for a message: the first few, and how many more.
pub fn some_of(names: &[String], total: usize) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    let text = shown.join(", ");
    match total.saturating_sub(shown.len()) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

#[cfg(test)]
mod tests;
