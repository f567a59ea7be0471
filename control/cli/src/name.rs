//! Names of resources: short (`v1`, `n1/d0`) or full (`volumes/v1`, `nodes/n1/devices/d0`).

use crate::failure::{Failure, Outcome};

/// The kinds of resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A machine that serves storage.
    Node,
    /// A drive, file or piece of memory of a node.
    Device,
    /// Who may connect.
    Host,
    /// An NVM subsystem.
    Subsystem,
    /// A volume as hosts see it.
    Namespace,
    /// Where hosts connect.
    Listener,
    /// A piece of storage.
    Volume,
    /// Something that takes its time.
    Operation,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 8] = [
        Kind::Node,
        Kind::Device,
        Kind::Host,
        Kind::Subsystem,
        Kind::Namespace,
        Kind::Listener,
        Kind::Volume,
        Kind::Operation,
    ];

    /// The word for it, as commands and watches use it.
    pub fn noun(self) -> &'static str {
        match self {
            Kind::Node => "node",
            Kind::Device => "device",
            Kind::Host => "host",
            Kind::Subsystem => "subsystem",
            Kind::Namespace => "namespace",
            Kind::Listener => "listener",
            Kind::Volume => "volume",
            Kind::Operation => "operation",
        }
    }

    /// The message of the API, and the `kind` in YAML.
    pub fn message(self) -> &'static str {
        match self {
            Kind::Node => "Node",
            Kind::Device => "Device",
            Kind::Host => "Host",
            Kind::Subsystem => "Subsystem",
            Kind::Namespace => "Namespace",
            Kind::Listener => "Listener",
            Kind::Volume => "Volume",
            Kind::Operation => "Operation",
        }
    }

    /// The kind under which it is named, and the word before its own identifier.
    fn collections(self) -> &'static [&'static str] {
        match self {
            Kind::Node => &["nodes"],
            Kind::Device => &["nodes", "devices"],
            Kind::Host => &["hosts"],
            Kind::Subsystem => &["subsystems"],
            Kind::Namespace => &["subsystems", "namespaces"],
            Kind::Listener => &["nodes", "listeners"],
            Kind::Volume => &["volumes"],
            Kind::Operation => &["operations"],
        }
    }

    /// The word for many.
    pub fn plural(self) -> &'static str {
        self.collections().last().copied().unwrap_or_default()
    }

    /// How the short form looks, for help.
    pub fn example(self) -> &'static str {
        match self {
            Kind::Node => "n1",
            Kind::Device => "n1/d0",
            Kind::Host => "h1",
            Kind::Subsystem => "s1",
            Kind::Namespace => "s1/ns1",
            Kind::Listener => "n1/l1",
            Kind::Volume => "v1",
            Kind::Operation => "4d3b8e1c-...",
        }
    }

    /// The full name of what a person wrote short or full.
    pub fn full(self, written: &str) -> Outcome<String> {
        let words = self.collections();
        let parts: Vec<&str> = written.split('/').collect();
        let filled = parts.iter().all(|part| !part.is_empty());
        if filled && parts.len() == words.len() {
            let pairs = words.iter().zip(&parts);
            let pairs: Vec<String> = pairs.map(|(word, id)| format!("{word}/{id}")).collect();
            return Ok(pairs.join("/"));
        }
        let is_full = parts.len() == 2 * words.len()
            && parts
                .iter()
                .step_by(2)
                .zip(words)
                .all(|(part, word)| part == word);
        if filled && is_full {
            return Ok(written.to_owned());
        }
        let short = self.example();
        let full = self.full(short).unwrap_or_default();
        Err(Failure::usage(format!(
            "\"{written}\" does not name a {}: write it like {short} or {full}",
            self.noun()
        )))
    }

    /// The kind of a full name.
    pub fn of(name: &str) -> Option<Kind> {
        let words: Vec<&str> = name.split('/').step_by(2).collect();
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| kind.collections() == words)?;
        kind.full(name).ok().filter(|full| full == name)?;
        Some(kind)
    }

    /// The kind that a person calls so.
    pub fn called(word: &str) -> Option<Kind> {
        let word = word.to_ascii_lowercase();
        Kind::ALL
            .into_iter()
            .find(|kind| kind.noun() == word || kind.plural() == word)
    }
}

/// A full name's short form: `nodes/n1/devices/d0` is `n1/d0`.
pub fn short(name: &str) -> String {
    if Kind::of(name).is_none() {
        return name.to_owned();
    }
    let ids: Vec<&str> = name.split('/').skip(1).step_by(2).collect();
    ids.join("/")
}

/// Parent and own identifier of a full name: `nodes/n1` and `d0`. The parent is empty at the top.
pub fn split(name: &str) -> (String, String) {
    let mut parts: Vec<&str> = name.split('/').collect();
    let id = parts.pop().unwrap_or_default().to_owned();
    parts.pop();
    (parts.join("/"), id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_full_forms_are_the_same() {
        for kind in Kind::ALL {
            let full = kind.full(kind.example()).unwrap();
            assert_eq!(kind.full(&full).unwrap(), full);
            assert_eq!(short(&full), kind.example());
            assert_eq!(Kind::of(&full), Some(kind));
            assert_eq!(Kind::called(kind.noun()), Some(kind));
            assert_eq!(Kind::called(kind.message()), Some(kind));
        }
        assert_eq!(Kind::Device.full("n1/d0").unwrap(), "nodes/n1/devices/d0");
        assert_eq!(
            split("nodes/n1/devices/d0"),
            ("nodes/n1".into(), "d0".into())
        );
        assert_eq!(split("volumes/v1"), (String::new(), "v1".into()));
    }

    #[test]
    fn what_names_nothing_is_refused_with_both_forms() {
        for wrong in ["", "/", "nodes/n1/", "hosts/h1", "a/b/c"] {
            let told = Kind::Volume.full(wrong).unwrap_err().to_string();
            assert!(told.contains("v1 or volumes/v1"), "{told}");
        }
        let told = Kind::Namespace.full("s1").unwrap_err().to_string();
        assert!(
            told.contains("s1/ns1 or subsystems/s1/namespaces/ns1"),
            "{told}"
        );
        assert_eq!(Kind::of("volume/v1"), None);
    }
}
