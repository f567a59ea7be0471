//! `penstock listener`.

use clap::{Args, Subcommand};
use penstock_api::v1::{Listener, ListenerSpec};

use super::Session;
use super::shared::{GuardArgs, LabelArgs, WaitArgs};
use super::verbs::{Delete, Describe, Get, List, Watch, create, full_or_empty};
use crate::failure::Outcome;
use crate::name::Kind;
use crate::object::Object;

const KIND: Kind = Kind::Listener;

/// What can be done with listeners.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Let hosts connect at an address of a node
    Create(Create),
    /// Print listeners by name
    Get(Get),
    /// Print the listeners of a node, or all
    List(ListListeners),
    /// Tell everything about listeners
    Describe(Describe),
    /// Stop accepting hosts there
    Delete(Delete),
    /// Print changes of listeners as they happen
    Watch(Watch),
}

/// `listener create`. A listener cannot be changed: delete it and make another.
#[derive(Args, Debug)]
pub struct Create {
    /// Node and name, like n1/l1
    #[arg(value_name = "NODE/NAME")]
    name: String,
    /// IP address of the node; 0.0.0.0 or :: for all of a family
    #[arg(long)]
    address: String,
    /// Port [default: 4420]
    #[arg(long)]
    port: Option<u16>,
    /// Transport
    #[arg(long, default_value = "tcp")]
    transport: String,
    #[command(flatten)]
    labels: LabelArgs,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    guard: GuardArgs,
}

/// `listener list`.
#[derive(Args, Debug)]
pub struct ListListeners {
    /// Only of this node
    #[arg(long)]
    node: Option<String>,
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
                let parent = full_or_empty(Kind::Node, args.node.as_ref())?;
                args.list.run(KIND, &parent, session, |_| true).await
            }
            Verb::Describe(args) => args.run(KIND, session).await,
            Verb::Delete(args) => args.run(KIND, session).await,
            Verb::Watch(args) => args.run(KIND, session).await,
        }
    }
}

impl Create {
    async fn run(self, session: &Session) -> Outcome {
        let spec = ListenerSpec {
            transport: self.transport,
            address: self.address,
            port: self.port.map(u32::from).unwrap_or_default(),
        };
        let listener = Listener {
            name: KIND.full(&self.name)?,
            labels: self.labels.map()?,
            spec: Some(spec),
            ..Listener::default()
        };
        create(
            session,
            Object::Listener(listener),
            self.wait.wait,
            &self.guard,
        )
        .await
    }
}
