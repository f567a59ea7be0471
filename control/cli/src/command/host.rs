//! `penstock host`.

use clap::{Args, Subcommand};
use penstock_api::v1::{Host, HostSpec};

use super::Session;
use super::shared::{EtagArgs, GuardArgs, LabelArgs, RelabelArgs, WaitArgs};
use super::verbs::{Delete, Describe, Get, List, Watch, create, something_given, update};
use crate::failure::Outcome;
use crate::name::Kind;
use crate::object::{Common, Object};

const KIND: Kind = Kind::Host;

/// What can be done with hosts.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Make a host known
    Create(Create),
    /// Print hosts by name
    Get(Get),
    /// Print all hosts
    List(List),
    /// Tell everything about hosts
    Describe(Describe),
    /// Change labels
    Update(Update),
    /// Forget hosts
    Delete(Delete),
    /// Print changes of hosts as they happen
    Watch(Watch),
}

/// `host create`.
#[derive(Args, Debug)]
pub struct Create {
    /// Name: a-z, 0-9 and -, up to 63 characters
    name: String,
    /// NVMe qualified name, as in the host's /etc/nvme/hostnqn
    #[arg(long)]
    nqn: String,
    #[command(flatten)]
    labels: LabelArgs,
    #[command(flatten)]
    guard: GuardArgs,
}

/// An update of labels, all that can be changed.
#[derive(Args, Debug)]
pub struct Update {
    /// Name, short or full
    name: String,
    #[command(flatten)]
    labels: RelabelArgs,
    #[command(flatten)]
    etag: EtagArgs,
    #[command(flatten)]
    guard: GuardArgs,
}

impl Verb {
    /// Does it.
    pub async fn run(self, session: &Session) -> Outcome {
        match self {
            Verb::Create(args) => args.run(session).await,
            Verb::Get(args) => args.run(KIND, session).await,
            Verb::List(args) => args.run(KIND, "", session, |_| true).await,
            Verb::Describe(args) => args.run(KIND, session).await,
            Verb::Update(args) => args.run(KIND, session).await,
            Verb::Delete(args) => args.run(KIND, session).await,
            Verb::Watch(args) => args.run(KIND, session).await,
        }
    }
}

impl Create {
    async fn run(self, session: &Session) -> Outcome {
        let host = Host {
            name: KIND.full(&self.name)?,
            labels: self.labels.map()?,
            spec: Some(HostSpec { nqn: self.nqn }),
            ..Host::default()
        };
        create(session, Object::Host(host), false, &self.guard).await
    }
}

impl Update {
    /// Does it, for any kind of which only the labels can be changed.
    pub async fn run(self, kind: Kind, session: &Session) -> Outcome {
        something_given(self.labels.given(), "--label or --remove-label")?;
        let guards = (&self.etag, &WaitArgs { wait: false }, &self.guard);
        update(session, (kind, &self.name), &["labels"], guards, |object| {
            object
                .labels_mut()
                .map_or(Ok(()), |labels| self.labels.apply(labels))
        })
        .await
    }
}
