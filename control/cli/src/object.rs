//! One resource of any kind, as lists, watches and files have it.

use std::collections::BTreeMap;

use penstock_api::v1;
pub use penstock_api::v1::watch_event::Resource as Object;
use penstock_api::well_known::Timestamp;
use serde_json::Value;

use crate::failure::{Failure, Outcome};
use crate::name::Kind;

/// Does the same with every kind that has a spec; the rest with operations.
macro_rules! with_spec {
    ($object:expr, $it:ident => $body:expr, $operation:ident => $else:expr) => {
        match $object {
            Object::Node($it) => $body,
            Object::Device($it) => $body,
            Object::Host($it) => $body,
            Object::Subsystem($it) => $body,
            Object::Namespace($it) => $body,
            Object::Listener($it) => $body,
            Object::Volume($it) => $body,
            Object::Operation($operation) => $else,
        }
    };
}

/// What all kinds have in common.
pub trait Common {
    /// Its kind.
    fn kind(&self) -> Kind;
    /// Its full name.
    fn name(&self) -> &str;
    /// Its version; empty for operations.
    fn etag(&self) -> &str;
    /// Its labels; none for operations.
    fn labels(&self) -> BTreeMap<String, String>;
    /// Its labels, to be changed; not for operations.
    fn labels_mut(&mut self) -> Option<&mut BTreeMap<String, String>>;
    /// When it was created.
    fn create_time(&self) -> Option<&Timestamp>;
    /// What is seen of it.
    fn conditions(&self) -> &[v1::Condition];
    /// The JSON of the API, with the protobuf's field names.
    fn json(&self) -> Value;
}

impl Common for Object {
    fn kind(&self) -> Kind {
        match self {
            Object::Node(_) => Kind::Node,
            Object::Device(_) => Kind::Device,
            Object::Host(_) => Kind::Host,
            Object::Subsystem(_) => Kind::Subsystem,
            Object::Namespace(_) => Kind::Namespace,
            Object::Listener(_) => Kind::Listener,
            Object::Volume(_) => Kind::Volume,
            Object::Operation(_) => Kind::Operation,
        }
    }

    fn name(&self) -> &str {
        with_spec!(self, it => &it.name, operation => &operation.name)
    }

    fn etag(&self) -> &str {
        with_spec!(self, it => &it.etag, _operation => "")
    }

    fn labels(&self) -> BTreeMap<String, String> {
        with_spec!(self, it => it.labels.clone(), _operation => BTreeMap::new())
    }

    fn labels_mut(&mut self) -> Option<&mut BTreeMap<String, String>> {
        with_spec!(self, it => Some(&mut it.labels), _operation => None)
    }

    fn create_time(&self) -> Option<&Timestamp> {
        with_spec!(self, it => it.create_time.as_ref(), op => op.create_time.as_ref())
    }

    fn conditions(&self) -> &[v1::Condition] {
        with_spec!(
            self,
            it => it.status.as_ref().map_or(&[], |status| &status.conditions),
            _operation => &[]
        )
    }

    fn json(&self) -> Value {
        let value =
            with_spec!(self, it => serde_json::to_value(it), op => serde_json::to_value(op));
        value.unwrap_or_default()
    }
}

/// The object that this JSON of the API tells.
pub fn from_json(kind: Kind, value: Value) -> Outcome<Object> {
    let object = match kind {
        Kind::Node => serde_json::from_value(value).map(Object::Node),
        Kind::Device => serde_json::from_value(value).map(Object::Device),
        Kind::Host => serde_json::from_value(value).map(Object::Host),
        Kind::Subsystem => serde_json::from_value(value).map(Object::Subsystem),
        Kind::Namespace => serde_json::from_value(value).map(Object::Namespace),
        Kind::Listener => serde_json::from_value(value).map(Object::Listener),
        Kind::Volume => serde_json::from_value(value).map(Object::Volume),
        Kind::Operation => serde_json::from_value(value).map(Object::Operation),
    };
    object.map_err(|error| Failure::usage(format!("this is no {}: {error}", kind.noun())))
}

/// The condition of this type: `True`, `False` or `Unknown`, with its reason where it is not true.
pub fn condition_word(object: &Object, kind: &str) -> String {
    let found = object.conditions().iter().find(|c| c.r#type == kind);
    let Some(condition) = found else {
        return "-".into();
    };
    match condition.status() {
        v1::ConditionStatus::True => "yes".into(),
        status => {
            let word = if status == v1::ConditionStatus::False {
                "no"
            } else {
                "unknown"
            };
            if condition.reason.is_empty() {
                word.into()
            } else {
                format!("{word} ({})", condition.reason)
            }
        }
    }
}
