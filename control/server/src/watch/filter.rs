//! What a watch is to tell.

use std::collections::BTreeMap;

use penstock_api::names::{Kind, ResourceName};
use penstock_api::resource::KINDS;
use penstock_api::v1::WatchRequest;

use crate::fault::{Fault, Result};
use crate::validate::{Violations, labels, short};

/// What a watch is to tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Kinds, in the order in which what exists is told.
    pub kinds: Vec<Kind>,
    name: String,
    labels: BTreeMap<String, String>,
}

impl Filter {
    /// What a request asks for.
    ///
    /// # Errors
    /// INVALID_ARGUMENT.
    pub fn of(request: &WatchRequest) -> Result<Filter> {
        let mut found = Violations::default();
        let mut wanted = Vec::new();
        for kind in &request.kinds {
            match kind.parse::<Kind>() {
                Ok(kind) => wanted.push(kind),
                Err(_) => found.add(
                    "kinds",
                    format!(
                        "{:?} is no kind; use node, device, host, subsystem, namespace, listener, volume or operation",
                        short(kind)
                    ),
                ),
            }
        }
        labels("labels", &request.labels, &mut found);
        found.finish()?;
        if !request.name_prefix.is_empty() {
            request
                .name_prefix
                .parse::<ResourceName>()
                .map_err(|error| Fault::name("name_prefix", &error))?;
        }
        let all = KINDS.into_iter().chain([Kind::Operation]);
        Ok(Filter {
            kinds: all
                .filter(|kind| wanted.is_empty() || wanted.contains(kind))
                // Operations have no labels.
                .filter(|kind| request.labels.is_empty() || *kind != Kind::Operation)
                .collect(),
            name: request.name_prefix.clone(),
            labels: request.labels.clone(),
        })
    }

    /// Whether resources of this kind are told.
    pub fn kind(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }

    /// Whether a resource of this name is told.
    pub fn name(&self, name: &str) -> bool {
        name.strip_prefix(self.name.as_str())
            .is_some_and(|rest| self.name.is_empty() || rest.is_empty() || rest.starts_with('/'))
    }

    /// Whether a resource with these labels is told.
    pub fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(kinds: &[&str], name: &str, labels: &[(&str, &str)]) -> Result<Filter> {
        Filter::of(&WatchRequest {
            kinds: kinds.iter().map(ToString::to_string).collect(),
            name_prefix: name.to_owned(),
            labels: labels
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            resume_token: String::new(),
        })
    }

    #[test]
    fn filters_choose() {
        let all = filter(&[], "", &[]).unwrap();
        assert_eq!(all.kinds.len(), 8);
        assert!(all.name("volumes/v"));
        let node = filter(&["device", "node"], "nodes/n1", &[]).unwrap();
        assert_eq!(node.kinds, [Kind::Node, Kind::Device]);
        assert!(node.name("nodes/n1") && node.name("nodes/n1/devices/d"));
        assert!(!node.name("nodes/n10") && !node.name("nodes/n"));
        let labelled = filter(&[], "", &[("a", "b")]).unwrap();
        assert!(!labelled.kind(Kind::Operation));
        let labels = |value: &str| [("a".to_owned(), value.to_owned())].into();
        assert!(labelled.labels(&labels("b")) && !labelled.labels(&labels("c")));
        assert!(!labelled.labels(&BTreeMap::new()));
    }

    #[test]
    fn bad_filters_are_refused() {
        for (bad, field) in [
            (filter(&["volumes"], "", &[]), "kinds"),
            (filter(&[], "volumes", &[]), "name_prefix"),
            (filter(&[], "volumes/V", &[]), "name_prefix"),
            (filter(&[], "", &[("", "b")]), "labels"),
        ] {
            assert_eq!(bad.unwrap_err().violations[0].field, field);
        }
    }
}
