//! What the agent is to do, and how it went.

use penstock_api::v1::{
    DesiredListener, DesiredNamespace, DesiredSubsystem, DesiredVolume, Extent, RemotePort,
};

/// A small thing to do on the node. Each may be done again without harm until its end was told to
/// [`AgentState::done`](super::AgentState::done). Steps handed out together do not depend on one
/// another and may run at once.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Zero all extents of a volume that was never used. It is not open.
    ClearVolume {
        /// The volume.
        volume: DesiredVolume,
    },
    /// Make the volume usable for namespaces; no data is touched. Only the extents in the layout
    /// given here, which may be fewer than are wanted.
    OpenVolume {
        /// The volume.
        volume: DesiredVolume,
    },
    /// Zero these extents, which an open volume will grow by.
    ClearExtents {
        /// The volume with its new layout.
        volume: DesiredVolume,
        /// The new extents.
        extents: Vec<Extent>,
    },
    /// Give an open volume its new layout and size and tell hosts.
    GrowVolume {
        /// The volume with its new layout.
        volume: DesiredVolume,
    },
    /// Stop using the volume's devices; no namespace uses it any more. Its data stays.
    CloseVolume {
        /// Identity of the volume.
        uid: String,
    },
    /// Zero all extents of a closed volume that is deleted.
    ClearDeleted {
        /// The volume as it was.
        volume: DesiredVolume,
    },
    /// Serve a subsystem, or change who may use it.
    ServeSubsystem {
        /// The subsystem.
        subsystem: DesiredSubsystem,
    },
    /// Stop serving a subsystem; it has no namespace here any more.
    RemoveSubsystem {
        /// Identity of the subsystem.
        uid: String,
    },
    /// Give hosts a namespace. Its subsystem is served and its volume open. Where one is served that
    /// differs from it in identity and name only, it takes that over and hosts notice nothing.
    ServeNamespace {
        /// The namespace.
        namespace: DesiredNamespace,
    },
    /// Take a namespace from hosts.
    RemoveNamespace {
        /// Identity of the namespace.
        uid: String,
    },
    /// Listen.
    AddListener {
        /// The listener.
        listener: DesiredListener,
    },
    /// Stop listening.
    RemoveListener {
        /// Identity of the listener.
        uid: String,
    },
    /// Tell discovery of ports on other nodes: the whole list.
    SetRemotePorts {
        /// All of them.
        ports: Vec<RemotePort>,
    },
}

impl Step {
    /// A word for logs and metrics: `open_volume`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Step::ClearVolume { .. } => "clear_volume",
            Step::OpenVolume { .. } => "open_volume",
            Step::ClearExtents { .. } => "clear_extents",
            Step::GrowVolume { .. } => "grow_volume",
            Step::CloseVolume { .. } => "close_volume",
            Step::ClearDeleted { .. } => "clear_deleted",
            Step::ServeSubsystem { .. } => "serve_subsystem",
            Step::RemoveSubsystem { .. } => "remove_subsystem",
            Step::ServeNamespace { .. } => "serve_namespace",
            Step::RemoveNamespace { .. } => "remove_namespace",
            Step::AddListener { .. } => "add_listener",
            Step::RemoveListener { .. } => "remove_listener",
            Step::SetRemotePorts { .. } => "set_remote_ports",
        }
    }

    /// Identity of what it is done to; empty for the remote ports.
    #[must_use]
    pub fn uid(&self) -> &str {
        match self {
            Step::ClearVolume { volume }
            | Step::OpenVolume { volume }
            | Step::ClearExtents { volume, .. }
            | Step::GrowVolume { volume }
            | Step::ClearDeleted { volume } => &volume.uid,
            Step::ServeSubsystem { subsystem } => &subsystem.uid,
            Step::ServeNamespace { namespace } => &namespace.uid,
            Step::AddListener { listener } => &listener.uid,
            Step::CloseVolume { uid }
            | Step::RemoveSubsystem { uid }
            | Step::RemoveNamespace { uid }
            | Step::RemoveListener { uid } => uid,
            Step::SetRemotePorts { .. } => "",
        }
    }
}

/// Why a step failed. The step is handed out again after
/// [`AgentState::retry`](super::AgentState::retry).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({reason})")]
pub struct StepError {
    /// One CamelCase word, as it goes into reports: `DeviceMissing`, `DeviceError`.
    pub reason: String,
    /// For people, with the remedy.
    pub message: String,
}

/// One object of a desired state that was not taken, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Identity of the object.
    pub uid: String,
    /// `EpochBehind`, `DataDeleted`, `ExtentConflict`, `LayoutConflict`, `InvalidLayout`.
    pub reason: &'static str,
    /// For people, with the remedy.
    pub message: String,
}

/// What became of a desired state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// More parts of a complete state are to come; nothing has changed yet.
    pub incomplete: bool,
    /// It is of an older revision of the store than was accepted before, or of another store: a
    /// line for the log, for people.
    pub regression: Option<String>,
    /// What was not taken. It is reported as well.
    pub refusals: Vec<Refusal>,
    /// Identities of volumes that have become orphans.
    pub new_orphans: Vec<String>,
}

/// A moment in the state's history: everything up to it is in what was encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SaveMark(pub(super) u64);

/// Why a saved state cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damaged {
    /// It is no saved state.
    #[error(
        "this is no saved state of a node's agent: check the path, or take the copy kept beside it"
    )]
    Foreign,
    /// A newer version of the software wrote it.
    #[error(
        "the saved state has format {0}, but this version knows only up to {1}: run a newer penstock-node"
    )]
    Newer(u32, u32),
    /// It is cut off or changed.
    #[error(
        "the saved state is damaged ({0}): take the copy kept beside it, or let control send everything again"
    )]
    Content(String),
}
