//! Arguments that several verbs take.

use std::collections::BTreeMap;

use clap::Args;

use crate::api::Guard;
use crate::failure::{Failure, Outcome};

/// `KEY=VALUE`.
pub fn parse_pair(written: &str) -> Result<(String, String), String> {
    match written.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("\"{written}\" is not like KEY=VALUE")),
    }
}

/// Pairs as a map; a key twice with two values is refused.
pub fn to_map(pairs: &[(String, String)]) -> Outcome<BTreeMap<String, String>> {
    let mut map = BTreeMap::new();
    for (key, value) in pairs {
        let before = map.insert(key.clone(), value.clone());
        if before.is_some_and(|before| before != *value) {
            return Err(Failure::usage(format!(
                "{key} is given twice with different values"
            )));
        }
    }
    Ok(map)
}

/// Waiting for the end of a change.
#[derive(Args, Clone, Debug)]
pub struct WaitArgs {
    /// Wait until it is done, telling what it waits for (at most --timeout)
    #[arg(long, short)]
    pub wait: bool,
}

/// How a change is guarded.
#[derive(Args, Clone, Debug)]
pub struct GuardArgs {
    /// Let the server check it, but change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Unique text for this request: the same request again within 24 hours has no second effect
    /// [default: a new UUID]
    #[arg(long, value_name = "TEXT")]
    pub request_id: Option<String>,
}

impl GuardArgs {
    /// As the API takes it.
    pub fn guard(&self) -> Guard {
        let mut guard = Guard::new(self.dry_run);
        if let Some(id) = &self.request_id {
            guard.request_id.clone_from(id);
        }
        guard
    }
}

/// Refusing a change that somebody else was faster with.
#[derive(Args, Clone, Debug)]
pub struct EtagArgs {
    /// Only if it is still this version (etag of `-o json`)
    #[arg(long, value_name = "ETAG")]
    pub etag: Option<String>,
}

/// Labels of something new.
#[derive(Args, Clone, Debug)]
pub struct LabelArgs {
    /// Label, free for you; may be repeated
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE", value_parser = parse_pair)]
    labels: Vec<(String, String)>,
}

impl LabelArgs {
    /// As the API takes them.
    pub fn map(&self) -> Outcome<BTreeMap<String, String>> {
        to_map(&self.labels)
    }
}

/// Changes of labels.
#[derive(Args, Clone, Debug)]
pub struct RelabelArgs {
    /// Set this label, keeping the others; may be repeated
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE", value_parser = parse_pair)]
    labels: Vec<(String, String)>,
    /// Take this label away; may be repeated
    #[arg(long, value_name = "KEY")]
    remove_label: Vec<String>,
}

impl RelabelArgs {
    /// Whether they change anything.
    pub fn given(&self) -> bool {
        !self.labels.is_empty() || !self.remove_label.is_empty()
    }

    /// Changes these labels.
    pub fn apply(&self, labels: &mut BTreeMap<String, String>) -> Outcome {
        labels.extend(to_map(&self.labels)?);
        for key in &self.remove_label {
            labels.remove(key);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_and_contradictions_refused() {
        assert_eq!(parse_pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(parse_pair("a="), Ok(("a".into(), String::new())));
        assert!(parse_pair("=b").is_err() && parse_pair("a").is_err());
        let twice = [
            ("a".to_owned(), "1".to_owned()),
            ("a".to_owned(), "2".to_owned()),
        ];
        assert!(to_map(&twice).unwrap_err().message.contains("twice"));
    }

    #[test]
    fn labels_are_set_and_taken_away() {
        let args = RelabelArgs {
            labels: vec![("a".into(), "2".into())],
            remove_label: vec!["b".into()],
        };
        let pairs = [("a", "1"), ("b", "1"), ("c", "1")];
        let mut labels = pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        args.apply(&mut labels).unwrap();
        let told: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(told, ["a=2", "c=1"]);
    }
}
