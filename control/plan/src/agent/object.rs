//! What the node serves beside volumes: subsystems, namespaces, listeners.

use penstock_api::v1::{DesiredListener, DesiredNamespace, DesiredSubsystem};

use super::codec::Encoded;
use super::step::StepError;

/// What is common to what a node is told to serve.
pub(super) trait Object: Clone + PartialEq + std::fmt::Debug {
    /// Identity.
    fn uid(&self) -> &str;
    /// It is to be taken away.
    fn deleted(&self) -> bool;
    /// Generation of its spec; 0 where it has none.
    fn generation(&self) -> i64;
    /// Whether the node need not do anything to make one of the other.
    fn serves(&self, other: &Self) -> bool;
}

impl Object for DesiredSubsystem {
    fn uid(&self) -> &str {
        &self.uid
    }
    fn deleted(&self) -> bool {
        self.deleted
    }
    fn generation(&self) -> i64 {
        0
    }
    fn serves(&self, other: &Self) -> bool {
        self == other
    }
}

impl Object for DesiredNamespace {
    fn uid(&self) -> &str {
        &self.uid
    }
    fn deleted(&self) -> bool {
        self.deleted
    }
    fn generation(&self) -> i64 {
        self.generation
    }
    fn serves(&self, other: &Self) -> bool {
        self.subsystem_uid == other.subsystem_uid
            && self.volume_uid == other.volume_uid
            && self.nsid == other.nsid
            && self.uuid == other.uuid
    }
}

impl Object for DesiredListener {
    fn uid(&self) -> &str {
        &self.uid
    }
    fn deleted(&self) -> bool {
        self.deleted
    }
    fn generation(&self) -> i64 {
        self.generation
    }
    fn serves(&self, other: &Self) -> bool {
        self.address == other.address
    }
}

/// Something that the node was told to serve.
#[derive(Debug)]
pub(super) struct Held<D> {
    /// As it was accepted last.
    pub(super) desired: D,
    /// As it is served now.
    pub(super) served: Option<D>,
    /// A step of it runs.
    pub(super) running: bool,
    /// How the last step failed.
    pub(super) error: Option<StepError>,
    /// The last complete state lacks it: served on. A subsystem: not wanted for itself any more.
    pub(super) orphan: bool,
    /// The version of the state that first has it as it is.
    pub(super) since: u64,
    pub(super) encoded: Encoded,
}

impl Held<DesiredSubsystem> {
    /// It is not wanted any more, and goes with the last namespace in it. Whether that is news.
    pub(super) fn end(&mut self, version: u64) -> bool {
        let news = !std::mem::replace(&mut self.orphan, true);
        if news {
            self.error = None;
            self.since = version;
        }
        news
    }
}

impl Held<DesiredNamespace> {
    /// It is an orphan that goes, and what it serves is what the other is to serve.
    pub(super) fn leaves_to(&self, other: &DesiredNamespace) -> bool {
        let served = self.served.as_ref();
        let goes = self.orphan && self.desired.deleted && !self.running;
        goes && served.is_some_and(|served| served.serves(other))
    }
}

impl<D: Object> Held<D> {
    pub(super) fn new(desired: D, since: u64) -> Self {
        Self {
            desired,
            served: None,
            running: false,
            error: None,
            orphan: false,
            since,
            encoded: None,
        }
    }

    /// It is served without the store's knowledge.
    pub(super) fn is_loose(&self) -> bool {
        self.orphan && !self.desired.deleted()
    }

    /// A step can be thought of.
    pub(super) fn is_idle(&self) -> bool {
        !self.running && self.error.is_none()
    }

    /// It is as it should be.
    pub(super) fn is_settled(&self) -> bool {
        self.is_idle()
            && !self.desired.deleted()
            && self
                .served
                .as_ref()
                .is_some_and(|served| served.serves(&self.desired))
    }
}
