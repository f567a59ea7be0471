//! Where things lie in the store.
//!
//! ```text
//! /penstock/v1/{cluster}/spec/{kind}/{ids}     the resource without status and etag
//!                       /status/{kind}/{ids}   its status
//!                       /claim/nqn/{nqn}       subsystem that has the name: `subsystems/s1`
//!                       /claim/hostnqn/{nqn}   host that has the name
//!                       /claim/nsid/{subsystem}/{nsid}   namespace that has the identifier
//!                       /claim/volume/{volume} namespace that serves the volume
//!                       /guard/{what}          see below
//!                       /op/{uuid}             operations; ended ones go with a lease
//!                       /request/{id}          what a request id was used for; go with a lease
//!                       /left/{node}/{uid}     see below
//!                       /session/{node}        which server holds the node's stream; leased
//!                       /elect/{role}          who leads; leased
//!                       /meta/schema           version of all this
//! ```
//!
//! **Guards.** A transaction cannot compare "no key with this prefix exists". So whoever makes a
//! thing refer to another puts the other's guard (`guard/use/{kind}/{ids}`), and whoever deletes the
//! other compares the guard's revision with what it was before it looked for users. Puts of a guard
//! do not conflict with each other.
//!
//! **Left.** A namespace or listener that was deleted by force, while its node was away, leaves behind
//! what the node is to be told when it comes back: a `Desired` of one object, deleted.

use penstock_api::names::Kind;
use penstock_api::resource::Resource;
use penstock_store::Compare;

/// Keys of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// Keys under this prefix, which ends with `/`: [`crate::config::Settings::prefix`].
    pub fn new(prefix: String) -> Keys {
        Keys { prefix }
    }

    /// What all keys of the cluster start with; ends with `/`.
    pub fn root(&self) -> &str {
        &self.prefix
    }

    /// What the specs of a kind start with.
    pub fn specs(&self, kind: Kind) -> String {
        format!("{}spec/{kind}/", self.prefix)
    }

    /// What the statuses of a kind start with.
    pub fn statuses(&self, kind: Kind) -> String {
        format!("{}status/{kind}/", self.prefix)
    }

    /// A resource without its status; `ids` as [`penstock_api::names::ResourceName::key`] gives them.
    pub fn spec(&self, kind: Kind, ids: &str) -> String {
        format!("{}spec/{kind}/{ids}", self.prefix)
    }

    /// A resource's status.
    pub fn status(&self, kind: Kind, ids: &str) -> String {
        format!("{}status/{kind}/{ids}", self.prefix)
    }

    /// Spec key of the resource that has this name. `None` where it is no name of the kind.
    pub fn spec_of<R: Resource>(&self, name: &str) -> Option<String> {
        Some(self.spec(R::KIND, &ids_of(R::KIND, name)?))
    }

    /// Status key of the resource that has this name. `None` where it is no name of the kind.
    pub fn status_of<R: Resource>(&self, name: &str) -> Option<String> {
        Some(self.status(R::KIND, &ids_of(R::KIND, name)?))
    }

    /// The subsystem that has an NVMe qualified name.
    pub fn claim_nqn(&self, nqn: &str) -> String {
        format!("{}claim/nqn/{nqn}", self.prefix)
    }

    /// The host that has an NVMe qualified name.
    pub fn claim_host_nqn(&self, nqn: &str) -> String {
        format!("{}claim/hostnqn/{nqn}", self.prefix)
    }

    /// The namespace that has an identifier in a subsystem (its id).
    pub fn claim_nsid(&self, subsystem: &str, nsid: u32) -> String {
        format!("{}{nsid}", self.claims_nsid(subsystem))
    }

    /// What the claims of namespace identifiers in a subsystem (its id) start with.
    pub fn claims_nsid(&self, subsystem: &str) -> String {
        format!("{}claim/nsid/{subsystem}/", self.prefix)
    }

    /// The namespace that serves a volume (its id).
    pub fn claim_volume(&self, volume: &str) -> String {
        format!("{}{volume}", self.claims_volume())
    }

    /// What the claims of volumes start with.
    pub fn claims_volume(&self) -> String {
        format!("{}claim/volume/", self.prefix)
    }

    /// Put by whoever makes something refer to this resource; compared by who deletes it.
    pub fn guard_use(&self, kind: Kind, ids: &str) -> String {
        format!("{}guard/use/{kind}/{ids}", self.prefix)
    }

    /// Put by whoever makes a subsystem grant access to hosts; compared by who deletes a host. One
    /// for all hosts: a subsystem may have more of them than a transaction has room for.
    pub fn guard_hosts_used(&self) -> String {
        format!("{}guard/hosts-used", self.prefix)
    }

    /// Put by whoever deletes a host; compared by who makes a subsystem grant access to hosts.
    pub fn guard_hosts_deleted(&self) -> String {
        format!("{}guard/hosts-deleted", self.prefix)
    }

    /// Put and compared by whoever gives space of nodes away, and by who deletes a node: either sees
    /// what the other did.
    pub fn guard_allocation(&self) -> String {
        format!("{}guard/allocation", self.prefix)
    }

    /// Compared by whoever creates a resource of a kind, and put by who does so close to its quota.
    pub fn guard_quota(&self, kind: Kind) -> String {
        format!("{}guard/quota/{kind}", self.prefix)
    }

    /// An operation, by its UUID.
    pub fn operation(&self, id: &str) -> String {
        format!("{}{id}", self.operations())
    }

    /// An operation, by its name `operations/{uuid}`.
    pub fn operation_of(&self, name: &str) -> String {
        self.operation(name.strip_prefix("operations/").unwrap_or(name))
    }

    /// What operations start with.
    pub fn operations(&self) -> String {
        format!("{}op/", self.prefix)
    }

    /// What a request id was used for.
    pub fn request(&self, id: &str) -> String {
        format!("{}request/{id}", self.prefix)
    }

    /// Which server holds the stream of a node (its id).
    pub fn session(&self, node: &str) -> String {
        format!("{}session/{node}", self.prefix)
    }

    /// What a node (its id) is still to be told of an object that was deleted without its word.
    pub fn left(&self, node: &str, uid: &str) -> String {
        format!("{}{uid}", self.all_left(node))
    }

    /// What all that a node (its id) is still to be told starts with.
    pub fn all_left(&self, node: &str) -> String {
        format!("{}left/{node}/", self.prefix)
    }

    /// Who has a role.
    pub fn elect(&self, role: &str) -> String {
        format!("{}elect/{role}", self.prefix)
    }

    /// Version of the layout of all keys and values, a decimal number.
    pub fn schema(&self) -> String {
        format!("{}meta/schema", self.prefix)
    }

    /// What a key of this cluster is. `None` for keys of others and of unknown kinds.
    pub fn parse<'k>(&self, key: &'k str) -> Option<Key<'k>> {
        let rest = key.strip_prefix(self.prefix.as_str())?;
        let (family, rest) = rest.split_once('/')?;
        Some(match family {
            "spec" | "status" => {
                let (kind, ids) = rest.split_once('/')?;
                let kind = kind.parse().ok()?;
                if family == "spec" {
                    Key::Spec(kind, ids)
                } else {
                    Key::Status(kind, ids)
                }
            }
            "op" => Key::Operation(rest),
            "session" => Key::Session(rest),
            "left" => {
                let (node, uid) = rest.split_once('/')?;
                Key::Left(node, uid)
            }
            "elect" => Key::Elect(rest),
            "claim" => Key::Claim(rest),
            "guard" => match rest.strip_prefix("quota/").map(str::parse) {
                Some(Ok(kind)) => Key::QuotaGuard(kind),
                _ => Key::Other,
            },
            _ => Key::Other,
        })
    }
}

/// What a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'k> {
    /// A resource without its status: kind and ids.
    Spec(Kind, &'k str),
    /// A resource's status: kind and ids.
    Status(Kind, &'k str),
    /// An operation's UUID.
    Operation(&'k str),
    /// A node's id.
    Session(&'k str),
    /// What a node is still to be told: its id, and the identity of the object.
    Left(&'k str, &'k str),
    /// A role.
    Elect(&'k str),
    /// `nqn/..`, `hostnqn/..`, `nsid/../..` or `volume/..`.
    Claim(&'k str),
    /// The guard of a kind's quota.
    QuotaGuard(Kind),
    /// Requests, other guards, the schema.
    Other,
}

/// Holds while the key is as it was read: at this revision, or absent (0).
pub fn unchanged(key: String, mod_revision: i64) -> Compare {
    if mod_revision == 0 {
        Compare::Absent(key)
    } else {
        Compare::ModRevision(key, mod_revision)
    }
}

/// The ids of a name joined by `/`. `None` where it is no valid name of the kind.
pub fn ids_of(kind: Kind, name: &str) -> Option<String> {
    penstock_api::names::ResourceName::parse_as(kind, name)
        .ok()
        .map(|name| name.key())
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_api::v1;

    #[test]
    fn keys_are_read_back() {
        let keys = Keys::new("/penstock/v1/c/".to_owned());
        let spec = keys.spec_of::<v1::Device>("nodes/n1/devices/d0").unwrap();
        assert_eq!(spec, "/penstock/v1/c/spec/device/n1/d0");
        assert_eq!(keys.parse(&spec), Some(Key::Spec(Kind::Device, "n1/d0")));
        let status = keys.status_of::<v1::Volume>("volumes/v").unwrap();
        assert_eq!(keys.parse(&status), Some(Key::Status(Kind::Volume, "v")));
        assert_eq!(keys.spec_of::<v1::Volume>("nodes/n1"), None);
        assert_eq!(
            keys.parse(&keys.operation_of("operations/x")),
            Some(Key::Operation("x"))
        );
        assert_eq!(
            keys.parse(&keys.claim_nsid("s", 3)),
            Some(Key::Claim("nsid/s/3"))
        );
        assert_eq!(keys.parse(&keys.schema()), Some(Key::Other));
        assert_eq!(
            keys.parse(&keys.guard_quota(Kind::Volume)),
            Some(Key::QuotaGuard(Kind::Volume))
        );
        assert_eq!(keys.parse(&keys.guard_allocation()), Some(Key::Other));
        assert_eq!(
            keys.parse(&keys.left("n1", "u")),
            Some(Key::Left("n1", "u"))
        );
        assert_eq!(keys.parse("/penstock/v1/other/op/x"), None);
        assert_eq!(keys.parse("/penstock/v1/c/spec/nonsense/x"), None);
    }
}
