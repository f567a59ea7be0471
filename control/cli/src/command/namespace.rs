//! `penstock namespace`.

use clap::{Args, Subcommand};
use penstock_api::v1::{Namespace, NamespaceSpec};

use super::Session;
use super::host::Update;
use super::shared::{GuardArgs, LabelArgs, WaitArgs};
use super::verbs::{Delete, Describe, Get, List, Watch, create, full_or_empty};
use crate::failure::Outcome;
use crate::name::Kind;
use crate::object::Object;

const KIND: Kind = Kind::Namespace;

/// What can be done with namespaces.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Serve a volume in a subsystem
    Create(Create),
    /// Print namespaces by name
    Get(Get),
    /// Print the namespaces of a subsystem, or all
    List(ListNamespaces),
    /// Tell everything about namespaces
    Describe(Describe),
    /// Change labels
    Update(Update),
    /// Take namespaces from the hosts; the volumes stay
    Delete(Delete),
    /// Print changes of namespaces as they happen
    Watch(Watch),
}

/// `namespace create`.
#[derive(Args, Debug)]
pub struct Create {
    /// Subsystem and name, like s1/ns1
    #[arg(value_name = "SUBSYSTEM/NAME")]
    name: String,
    /// The volume to serve
    #[arg(long)]
    volume: String,
    /// Namespace identifier [default: a free one]
    #[arg(long)]
    nsid: Option<u32>,
    /// Identity that hosts see, a UUID [default: the volume's]
    #[arg(long)]
    uuid: Option<String>,
    #[command(flatten)]
    labels: LabelArgs,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    guard: GuardArgs,
}

/// `namespace list`.
#[derive(Args, Debug)]
pub struct ListNamespaces {
    /// Only of this subsystem
    #[arg(long)]
    subsystem: Option<String>,
    #[command(flatten)]
    list: List,
}

impl Verb {
    /// Does it.
    pub async fn run(self, session: &Session) -> Outcome {
        match self {
            Verb::Create(args) => args.run(session).await,
            Verb::Get(args) => args.run(KIND, session).await,
            Verb::List(args) => {
                let parent = full_or_empty(Kind::Subsystem, args.subsystem.as_ref())?;
                args.list.run(KIND, &parent, session, |_| true).await
            }
            Verb::Describe(args) => args.run(KIND, session).await,
            Verb::Update(args) => args.run(KIND, session).await,
            Verb::Delete(args) => args.run(KIND, session).await,
            Verb::Watch(args) => args.run(KIND, session).await,
        }
    }
}

impl Create {
    async fn run(self, session: &Session) -> Outcome {
        let spec = NamespaceSpec {
            volume: Kind::Volume.full(&self.volume)?,
            nsid: self.nsid.unwrap_or_default(),
            uuid: self.uuid.unwrap_or_default(),
        };
        let namespace = Namespace {
            name: KIND.full(&self.name)?,
            labels: self.labels.map()?,
            spec: Some(spec),
            ..Namespace::default()
        };
        create(
            session,
            Object::Namespace(namespace),
            self.wait.wait,
            &self.guard,
        )
        .await
    }
}
