//! One log line for every attempt to change something: who, what, before, after, how it ended.

use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::fault::Fault;
use crate::identity::{Caller, Method};

/// What is told of a change; filled in as it becomes known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The resource's name, as far as it is known.
    pub resource: String,
    /// The request id; empty without one.
    pub request_id: String,
    /// The resource before, as JSON; empty where there was none.
    pub before: String,
    /// The resource after, as JSON; empty where there is none.
    pub after: String,
    /// `changed`, `unchanged`, `repeated` (the same request id again) or `validated`.
    pub outcome: &'static str,
}

/// A record that the parts of a call fill in.
#[derive(Debug, Default)]
pub struct Trail(Mutex<Record>);

impl Trail {
    /// Fills something in.
    pub fn note(&self, fill: impl FnOnce(&mut Record)) {
        fill(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What was filled in.
    pub fn record(&self) -> Record {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Compact JSON of a resource; a note instead where it has none.
pub fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| format!("{{\"unreadable\":\"{error}\"}}"))
}

/// Writes the line.
pub fn write(caller: &Caller, method: &Method, record: &Record, failure: Option<&Fault>) {
    let outcome = match failure {
        None => record.outcome,
        Some(_) => "refused",
    };
    tracing::info!(
        target: "audit",
        who = caller.name,
        role = caller.role.as_str(),
        method = method.name,
        resource = record.resource,
        request_id = record.request_id,
        outcome,
        reason = failure.map_or("", |fault| fault.reason),
        message = failure.map_or("", |fault| fault.message.as_str()),
        before = record.before,
        after = record.after,
    );
}
