//! What the seven kinds of resources share, as one trait: identity, version, labels, spec and status.

use std::collections::BTreeMap;

use pbjson_types::Timestamp;
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::names::Kind;
use crate::v1;
use crate::v1::watch_event::Resource as AnyResource;

/// The kinds that have a spec and a status, those that others lie under or refer to before those
/// that do so.
pub const KINDS: [Kind; 7] = [
    Kind::Node,
    Kind::Device,
    Kind::Host,
    Kind::Subsystem,
    Kind::Volume,
    Kind::Namespace,
    Kind::Listener,
];

/// A resource: what a user wants of something (`spec`), and what is seen of it (`status`).
pub trait Resource:
    Message + Default + Clone + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// Which kind it is.
    const KIND: Kind;
    /// What users decide.
    type Spec: Message + Default + Clone + PartialEq + Serialize + Send + Sync + 'static;
    /// What is seen.
    type Status: Message + Default + Clone + PartialEq + Serialize + Send + Sync + 'static;

    /// The resource's name: `nodes/n1`.
    fn name(&self) -> &str;
    /// The name, to be set.
    fn name_mut(&mut self) -> &mut String;
    /// Identity for ever, a UUID.
    fn uid(&self) -> &str;
    /// The identity, to be set.
    fn uid_mut(&mut self) -> &mut String;
    /// Version of spec and labels; empty within the store.
    fn etag(&self) -> &str;
    /// The version, to be set.
    fn etag_mut(&mut self) -> &mut String;
    /// Counts changes of the spec, from 1.
    fn generation(&self) -> i64;
    /// The count, to be set.
    fn generation_mut(&mut self) -> &mut i64;
    /// When it was created.
    fn create_time(&self) -> Option<&Timestamp>;
    /// The time of creation, to be set.
    fn create_time_mut(&mut self) -> &mut Option<Timestamp>;
    /// When spec or labels last changed.
    fn update_time(&self) -> Option<&Timestamp>;
    /// The time of the last change, to be set.
    fn update_time_mut(&mut self) -> &mut Option<Timestamp>;
    /// When its deletion was asked for.
    fn delete_time(&self) -> Option<&Timestamp>;
    /// The time of deletion, to be set.
    fn delete_time_mut(&mut self) -> &mut Option<Timestamp>;
    /// The user's labels.
    fn labels(&self) -> &BTreeMap<String, String>;
    /// The labels, to be changed.
    fn labels_mut(&mut self) -> &mut BTreeMap<String, String>;
    /// What is wanted.
    fn spec(&self) -> Option<&Self::Spec>;
    /// What is wanted, to be set.
    fn spec_mut(&mut self) -> &mut Option<Self::Spec>;
    /// What is seen.
    fn status(&self) -> Option<&Self::Status>;
    /// What is seen, to be set.
    fn status_mut(&mut self) -> &mut Option<Self::Status>;
    /// The conditions of the status; none without one.
    fn conditions(&self) -> &[v1::Condition];
    /// The resource as a watch's event carries it.
    fn into_any(self) -> AnyResource;

    /// What is wanted; all defaults where it is not set.
    fn spec_or_default(&self) -> Self::Spec {
        self.spec().cloned().unwrap_or_default()
    }

    /// What is seen; all defaults where it is not set.
    fn status_or_default(&self) -> Self::Status {
        self.status().cloned().unwrap_or_default()
    }

    /// Takes the status out, leaving what is stored apart from it.
    fn take_status(&mut self) -> Option<Self::Status> {
        self.status_mut().take()
    }

    /// Its deletion was asked for and is not finished.
    fn deleting(&self) -> bool {
        self.delete_time().is_some()
    }

    /// The condition of this type.
    fn condition(&self, kind: &str) -> Option<&v1::Condition> {
        self.conditions()
            .iter()
            .find(|condition| condition.r#type == kind)
    }
}

macro_rules! resource {
    ($kind:ident, $spec:ident, $status:ident) => {
        impl Resource for v1::$kind {
            const KIND: Kind = Kind::$kind;
            type Spec = v1::$spec;
            type Status = v1::$status;

            fn name(&self) -> &str {
                &self.name
            }
            fn name_mut(&mut self) -> &mut String {
                &mut self.name
            }
            fn uid(&self) -> &str {
                &self.uid
            }
            fn uid_mut(&mut self) -> &mut String {
                &mut self.uid
            }
            fn etag(&self) -> &str {
                &self.etag
            }
            fn etag_mut(&mut self) -> &mut String {
                &mut self.etag
            }
            fn generation(&self) -> i64 {
                self.generation
            }
            fn generation_mut(&mut self) -> &mut i64 {
                &mut self.generation
            }
            fn create_time(&self) -> Option<&Timestamp> {
                self.create_time.as_ref()
            }
            fn create_time_mut(&mut self) -> &mut Option<Timestamp> {
                &mut self.create_time
            }
            fn update_time(&self) -> Option<&Timestamp> {
                self.update_time.as_ref()
            }
            fn update_time_mut(&mut self) -> &mut Option<Timestamp> {
                &mut self.update_time
            }
            fn delete_time(&self) -> Option<&Timestamp> {
                self.delete_time.as_ref()
            }
            fn delete_time_mut(&mut self) -> &mut Option<Timestamp> {
                &mut self.delete_time
            }
            fn labels(&self) -> &BTreeMap<String, String> {
                &self.labels
            }
            fn labels_mut(&mut self) -> &mut BTreeMap<String, String> {
                &mut self.labels
            }
            fn spec(&self) -> Option<&Self::Spec> {
                self.spec.as_ref()
            }
            fn spec_mut(&mut self) -> &mut Option<Self::Spec> {
                &mut self.spec
            }
            fn status(&self) -> Option<&Self::Status> {
                self.status.as_ref()
            }
            fn status_mut(&mut self) -> &mut Option<Self::Status> {
                &mut self.status
            }
            fn conditions(&self) -> &[v1::Condition] {
                self.status
                    .as_ref()
                    .map_or(&[], |status| &status.conditions)
            }
            fn into_any(self) -> AnyResource {
                AnyResource::$kind(self)
            }
        }

        impl From<v1::$kind> for AnyResource {
            fn from(resource: v1::$kind) -> AnyResource {
                AnyResource::$kind(resource)
            }
        }
    };
}

resource!(Node, NodeSpec, NodeStatus);
resource!(Device, DeviceSpec, DeviceStatus);
resource!(Host, HostSpec, HostStatus);
resource!(Subsystem, SubsystemSpec, SubsystemStatus);
resource!(Namespace, NamespaceSpec, NamespaceStatus);
resource!(Listener, ListenerSpec, ListenerStatus);
resource!(Volume, VolumeSpec, VolumeStatus);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_kept_apart() {
        let mut volume = v1::Volume {
            status: Some(v1::VolumeStatus {
                size_bytes: 7,
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(
            volume.take_status().map(|status| status.size_bytes),
            Some(7)
        );
        assert_eq!(volume.status(), None);
        assert!(volume.conditions().is_empty());
        assert!(matches!(volume.into_any(), AnyResource::Volume(_)));
    }
}
