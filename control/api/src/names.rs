//! Names of resources: their grammar, and reading and writing them.
//!
//! A name is pairs of a collection and an id, `nodes/n1/devices/d0`. Its key, `n1/d0`, is what tells
//! it from others of its kind. NVMe qualified names are checked here too.

use std::fmt;
use std::str::FromStr;

/// Longest id in characters.
pub const ID_MAX_LEN: usize = 63;

/// Longest NVMe qualified name in bytes, NVMe Base 2.1, 4.7.
pub const NQN_MAX_BYTES: usize = 223;

/// What hosts find subsystems with: nobody else's name, NVMe Base 2.1, 4.7.
const NQN_DISCOVERY: &str = "nqn.2014-08.org.nvmexpress.discovery";

/// Start of a name made of a UUID, NVMe Base 2.1, 4.7.
const NQN_UUID_PREFIX: &str = "nqn.2014-08.org.nvmexpress:uuid:";

/// Why a name is refused; the message names the rule and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// An id breaks the grammar.
    #[error(
        "{0:?} is no valid id: {1}; use 1 to 63 of a-z, 0-9 and -, with a letter first and no - at the end"
    )]
    Id(String, &'static str),
    /// The id of an operation is no UUID.
    #[error(
        "{0:?} is no valid id of an operation: it must be a UUID in lower case, as the call that began the operation returned it"
    )]
    OperationId(String),
    /// A name has not the form of its kind.
    #[error("{text:?} is no name of a {kind}: write it as {form}")]
    Form {
        /// What was given.
        text: String,
        /// What it should name.
        kind: Kind,
        /// How such a name looks.
        form: &'static str,
    },
    /// A name is of no kind at all.
    #[error("{0:?} is no resource name: write it as one of {FORMS}")]
    Unknown(String),
    /// A word is no kind.
    #[error(
        "{0:?} is no kind: use one of node, device, host, subsystem, namespace, listener, volume, operation"
    )]
    Kind(String),
    /// An NVMe qualified name breaks its rules.
    #[error(
        "{0:?} is no valid NVMe qualified name: {1}; write nqn.YYYY-MM.reverse.domain:name or nqn.2014-08.org.nvmexpress:uuid:UUID, at most 223 bytes"
    )]
    Nqn(String, &'static str),
}

const FORMS: &str = "nodes/{node}, nodes/{node}/devices/{device}, nodes/{node}/listeners/{listener}, \
subsystems/{subsystem}, subsystems/{subsystem}/namespaces/{namespace}, hosts/{host}, volumes/{volume}, \
operations/{uuid}";

/// Kinds of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A machine that serves storage.
    Node,
    /// A device of a node.
    Device,
    /// Who may connect.
    Host,
    /// What hosts connect to.
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
    /// All kinds.
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

    /// The word for it, as in a watch and in keys of the store: `node`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
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

    /// The collection in names: `nodes`.
    #[must_use]
    pub const fn collection(self) -> &'static str {
        match self {
            Kind::Node => "nodes",
            Kind::Device => "devices",
            Kind::Host => "hosts",
            Kind::Subsystem => "subsystems",
            Kind::Namespace => "namespaces",
            Kind::Listener => "listeners",
            Kind::Volume => "volumes",
            Kind::Operation => "operations",
        }
    }

    /// The kind it is under, if it is under one.
    #[must_use]
    pub const fn parent(self) -> Option<Kind> {
        match self {
            Kind::Device | Kind::Listener => Some(Kind::Node),
            Kind::Namespace => Some(Kind::Subsystem),
            Kind::Node | Kind::Host | Kind::Subsystem | Kind::Volume | Kind::Operation => None,
        }
    }

    /// How names of it look: `nodes/{node}`.
    #[must_use]
    pub const fn form(self) -> &'static str {
        match self {
            Kind::Node => "nodes/{node}",
            Kind::Device => "nodes/{node}/devices/{device}",
            Kind::Host => "hosts/{host}",
            Kind::Subsystem => "subsystems/{subsystem}",
            Kind::Namespace => "subsystems/{subsystem}/namespaces/{namespace}",
            Kind::Listener => "nodes/{node}/listeners/{listener}",
            Kind::Volume => "volumes/{volume}",
            Kind::Operation => "operations/{uuid}",
        }
    }

    /// Number of ids in a name of it, 1 or 2.
    #[must_use]
    pub const fn depth(self) -> usize {
        if self.parent().is_some() { 2 } else { 1 }
    }

    fn of_collection(word: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.collection() == word)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Kind::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| NameError::Kind(text.to_owned()))
    }
}

/// A resource's name, valid by construction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceName {
    kind: Kind,
    ids: Vec<String>,
}

impl ResourceName {
    /// The name of this kind with these ids, the parent's first.
    ///
    /// # Errors
    /// [`NameError::Id`] or [`NameError::OperationId`] where an id breaks the grammar,
    /// [`NameError::Form`] where there are too many or too few.
    pub fn new<I: AsRef<str>>(kind: Kind, ids: &[I]) -> Result<Self, NameError> {
        if ids.len() != kind.depth() {
            let text: Vec<&str> = ids.iter().map(AsRef::as_ref).collect();
            return Err(form(kind, &text.join("/")));
        }
        let mut owned = Vec::with_capacity(ids.len());
        for id in ids {
            let id = id.as_ref();
            if kind == Kind::Operation {
                check_operation_id(id)?;
            } else {
                check_id(id)?;
            }
            owned.push(id.to_owned());
        }
        Ok(Self { kind, ids: owned })
    }

    /// The name of this kind with this key (see [`ResourceName::key`]).
    ///
    /// # Errors
    /// As [`ResourceName::new`].
    pub fn from_key(kind: Kind, key: &str) -> Result<Self, NameError> {
        let ids: Vec<&str> = key.split('/').collect();
        Self::new(kind, &ids)
    }

    /// Reads a name that must be of this kind.
    ///
    /// # Errors
    /// [`NameError::Form`] where it is of another kind or of none; as [`ResourceName::new`].
    pub fn parse_as(kind: Kind, text: &str) -> Result<Self, NameError> {
        let parts: Vec<&str> = text.split('/').collect();
        let collections: Vec<&str> = match kind.parent() {
            Some(parent) => vec![parent.collection(), kind.collection()],
            None => vec![kind.collection()],
        };
        let fits = parts.len() == 2 * collections.len()
            && collections
                .iter()
                .zip(parts.iter().step_by(2))
                .all(|(want, has)| want == has);
        if !fits {
            return Err(form(kind, text));
        }
        let ids: Vec<&str> = parts.into_iter().skip(1).step_by(2).collect();
        Self::new(kind, &ids)
    }

    /// Reads the parent of a list of `kind`: `None` for all (`nodes/-`).
    ///
    /// # Errors
    /// [`NameError::Form`] where `kind` has no parent or the text is no name of one.
    pub fn parse_parent(kind: Kind, text: &str) -> Result<Option<Self>, NameError> {
        let parent = kind.parent().ok_or_else(|| form(kind, text))?;
        if text.strip_prefix(parent.collection()) == Some("/-") {
            return Ok(None);
        }
        Self::parse_as(parent, text).map(Some)
    }

    /// The name of something of `kind` under this.
    ///
    /// # Errors
    /// As [`ResourceName::new`]; [`NameError::Form`] where `kind` is not under this one's kind.
    pub fn child(&self, kind: Kind, id: &str) -> Result<Self, NameError> {
        if kind.parent() != Some(self.kind) {
            return Err(form(kind, &format!("{self}/{}/{id}", kind.collection())));
        }
        let mut ids: Vec<&str> = self.ids.iter().map(String::as_str).collect();
        ids.push(id);
        Self::new(kind, &ids)
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its ids, the parent's first.
    #[must_use]
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// Its own id, the last.
    #[must_use]
    pub fn id(&self) -> &str {
        self.ids.last().map_or("", String::as_str)
    }

    /// What tells it from others of its kind: the ids joined by `/`.
    #[must_use]
    pub fn key(&self) -> String {
        self.ids.join("/")
    }

    /// The name it is under, if it is under one.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let kind = self.kind.parent()?;
        let ids = self.ids.iter().take(kind.depth()).cloned().collect();
        Some(Self { kind, ids })
    }

    /// Whether it is `other` or under it.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self == other || self.parent().is_some_and(|parent| parent.is_within(other))
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent() {
            write!(f, "{parent}/")?;
        }
        write!(f, "{}/{}", self.kind.collection(), self.id())
    }
}

impl FromStr for ResourceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let parts: Vec<&str> = text.split('/').collect();
        let collection = match parts.as_slice() {
            [top, _] => top,
            [_, _, under, _] => under,
            _ => return Err(NameError::Unknown(text.to_owned())),
        };
        let kind =
            Kind::of_collection(collection).ok_or_else(|| NameError::Unknown(text.to_owned()))?;
        Self::parse_as(kind, text)
    }
}

fn form(kind: Kind, text: &str) -> NameError {
    NameError::Form {
        text: shorten(text),
        kind,
        form: kind.form(),
    }
}

/// So that a refusal of a megabyte is not a megabyte.
fn shorten(text: &str) -> String {
    const MOST: usize = 256;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(MOST).collect();
    short.push_str("...");
    short
}

/// Checks an id: 1 to 63 characters of a-z, 0-9 and -, a letter first, not ending with -.
///
/// # Errors
/// [`NameError::Id`] with the rule that is broken.
pub fn check_id(id: &str) -> Result<(), NameError> {
    let broken = |rule| Err(NameError::Id(shorten(id), rule));
    if id.is_empty() {
        return broken("it is empty");
    }
    if id.len() > ID_MAX_LEN {
        return broken("it is longer than 63 characters");
    }
    if !id.starts_with(|c: char| c.is_ascii_lowercase()) {
        return broken("it does not start with a letter a-z");
    }
    if !id
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    {
        return broken("it has a character other than a-z, 0-9 and -");
    }
    if id.ends_with('-') {
        return broken("it ends with -");
    }
    Ok(())
}

fn check_operation_id(id: &str) -> Result<(), NameError> {
    if is_uuid(id) && !id.bytes().any(|b| b.is_ascii_uppercase()) {
        Ok(())
    } else {
        Err(NameError::OperationId(shorten(id)))
    }
}

/// Whether this is a UUID in its usual form: 8-4-4-4-12 hexadecimal digits.
#[must_use]
pub fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

/// Checks an NVMe qualified name of a subsystem or host, NVMe Base 2.1, 4.7:
/// `nqn.YYYY-MM.reverse.domain:name`, or the form with a UUID, at most 223 bytes.
///
/// # Errors
/// [`NameError::Nqn`] with the rule that is broken.
pub fn check_nqn(nqn: &str) -> Result<(), NameError> {
    nqn_rule(nqn).map_or(Ok(()), |rule| Err(NameError::Nqn(shorten(nqn), rule)))
}

/// The rule that is broken, if one is.
fn nqn_rule(nqn: &str) -> Option<&'static str> {
    if nqn.is_empty() {
        return Some("it is empty");
    }
    if nqn.len() > NQN_MAX_BYTES {
        return Some("it is longer than 223 bytes");
    }
    if nqn.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Some("it has a space or control character");
    }
    if nqn == NQN_DISCOVERY {
        return Some("this is the name of discovery, which nothing else may have");
    }
    if let Some(uuid) = nqn.strip_prefix(NQN_UUID_PREFIX) {
        return (!is_uuid(uuid)).then_some("what follows uuid: is no UUID");
    }
    let Some(rest) = nqn.strip_prefix("nqn.") else {
        return Some("it does not start with nqn.");
    };
    let Some((date, rest)) = rest.split_once('.') else {
        return Some("there is no domain after the date");
    };
    if !is_year_month(date) {
        return Some("after nqn. there is no year and month YYYY-MM");
    }
    let Some((domain, name)) = rest.split_once(':') else {
        return Some("there is no colon after the domain");
    };
    let label =
        |l: &str| !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !domain.split('.').all(label) {
        return Some(
            "the domain has an empty part or a character other than letters, digits and -",
        );
    }
    name.is_empty()
        .then_some("there is no name after the colon")
}

fn is_year_month(text: &str) -> bool {
    let Some((year, month)) = text.split_once('-') else {
        return false;
    };
    let digits = |part: &str, len| part.len() == len && part.bytes().all(|b| b.is_ascii_digit());
    digits(year, 4) && digits(month, 2) && ("01"..="12").contains(&month)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "0190f1c2-1111-7222-8333-444455556666";

    #[test]
    fn names_are_read_and_written_back() {
        let operation = format!("operations/{UUID}");
        let table = [
            ("nodes/n1", Kind::Node, "n1"),
            ("nodes/n1/devices/d0", Kind::Device, "n1/d0"),
            ("nodes/n1/listeners/l1", Kind::Listener, "n1/l1"),
            ("subsystems/s1", Kind::Subsystem, "s1"),
            ("subsystems/s1/namespaces/x", Kind::Namespace, "s1/x"),
            ("hosts/h1", Kind::Host, "h1"),
            ("volumes/v1", Kind::Volume, "v1"),
            (operation.as_str(), Kind::Operation, UUID),
        ];
        for (text, kind, key) in table {
            let name: ResourceName = text.parse().unwrap();
            assert_eq!((name.kind(), name.key().as_str()), (kind, key));
            assert_eq!(name.to_string(), text);
            assert_eq!(ResourceName::from_key(kind, key).unwrap(), name);
            assert_eq!(ResourceName::parse_as(kind, text).unwrap(), name);
            assert_eq!(kind.as_str().parse::<Kind>().unwrap(), kind);
            assert_eq!(kind.depth(), name.ids().len());
        }
    }

    #[test]
    fn names_outside_the_grammar_are_refused_with_the_rule() {
        let long = format!("volumes/{}", "a".repeat(64));
        let table = [
            ("volumes/", "it is empty"),
            (long.as_str(), "longer than 63"),
            ("volumes/1a", "start with a letter"),
            ("volumes/-a", "start with a letter"),
            ("volumes/a-", "ends with -"),
            ("volumes/aB", "other than a-z"),
            ("volumes/a_b", "other than a-z"),
            ("volumes/é", "start with a letter"),
            ("volumes/aé", "other than a-z"),
            ("volumes", "no resource name"),
            ("", "no resource name"),
            ("disks/d1", "no resource name"),
            ("volumes/v1/", "no resource name"),
            ("/volumes/v1", "no resource name"),
            ("devices/d1", "write it as nodes/{node}/devices/{device}"),
            (
                "subsystems/s1/devices/d1",
                "write it as nodes/{node}/devices/{device}",
            ),
            ("nodes/n1/volumes/v1", "write it as volumes/{volume}"),
            ("nodes//devices/d1", "it is empty"),
            ("operations/o1", "must be a UUID"),
            (
                "operations/0190F1C2-1111-7222-8333-444455556666",
                "must be a UUID",
            ),
        ];
        for (text, rule) in table {
            let error = text.parse::<ResourceName>().unwrap_err().to_string();
            assert!(error.contains(rule), "{text}: {error}");
            assert!(error.len() < 1000, "{error}");
        }
    }

    #[test]
    fn the_longest_id_is_taken() {
        let id = "a".repeat(ID_MAX_LEN);
        assert_eq!(check_id(&id), Ok(()));
        assert_eq!(check_id("a"), Ok(()));
        assert_eq!(check_id("a--b"), Ok(()));
    }

    #[test]
    fn parents_and_children_fit() {
        let node: ResourceName = "nodes/n1".parse().unwrap();
        let device = node.child(Kind::Device, "d0").unwrap();
        assert_eq!(device.to_string(), "nodes/n1/devices/d0");
        assert_eq!(device.parent(), Some(node.clone()));
        assert_eq!(device.id(), "d0");
        assert!(device.is_within(&node));
        assert!(!node.is_within(&device));
        let other: ResourceName = "nodes/n10".parse().unwrap();
        assert!(!device.is_within(&other));
        assert!(node.child(Kind::Namespace, "x").is_err());
        assert_eq!(
            ResourceName::parse_parent(Kind::Device, "nodes/-"),
            Ok(None)
        );
        assert_eq!(
            ResourceName::parse_parent(Kind::Device, "nodes/n1"),
            Ok(Some(node))
        );
        assert!(ResourceName::parse_parent(Kind::Device, "subsystems/-").is_err());
        assert!(ResourceName::parse_parent(Kind::Volume, "volumes/-").is_err());
        assert!("watch".parse::<Kind>().is_err());
    }

    #[test]
    fn nqns_follow_the_rules() {
        let uuid = format!("{NQN_UUID_PREFIX}{UUID}");
        let longest = format!("nqn.2026-01.io.penstock:{}", "a".repeat(NQN_MAX_BYTES - 24));
        for good in [
            "nqn.2026-01.io.penstock:s1",
            "nqn.2014-08.com.example:a:b.c",
            &uuid,
            &longest,
        ] {
            assert_eq!(check_nqn(good), Ok(()), "{good}");
        }
        let too_long = format!("{longest}a");
        let table = [
            ("", "empty"),
            (too_long.as_str(), "longer than 223"),
            ("iqn.2026-01.io.penstock:s1", "start with nqn."),
            ("nqn.2026-13.io.penstock:s1", "YYYY-MM"),
            ("nqn.2026-00.io.penstock:s1", "YYYY-MM"),
            ("nqn.26-01.io.penstock:s1", "YYYY-MM"),
            ("nqn.2026-01", "no domain"),
            ("nqn.2026-01.io.penstock", "no colon"),
            ("nqn.2026-01.io..penstock:s1", "the domain"),
            ("nqn.2026-01.:s1", "the domain"),
            ("nqn.2026-01.io.penstock:", "no name"),
            ("nqn.2026-01.io.penstock:a b", "space"),
            ("nqn.2026-01.io.penstock:a\0b", "control"),
            (NQN_DISCOVERY, "discovery"),
            ("nqn.2014-08.org.nvmexpress:uuid:12", "no UUID"),
        ];
        for (nqn, rule) in table {
            let error = check_nqn(nqn).unwrap_err().to_string();
            assert!(error.contains(rule), "{nqn}: {error}");
        }
    }
}
