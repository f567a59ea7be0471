//! `penstock device`.

use clap::{Args, Subcommand};

use super::Session;
use super::host::Update;
use super::shared::{EtagArgs, GuardArgs, WaitArgs};
use super::verbs::{Describe, Get, List, Watch, full_or_empty, update};
use crate::failure::Outcome;
use crate::name::Kind;
use crate::object::Object;

const KIND: Kind = Kind::Device;

/// What can be done with devices. Nodes report them: they are neither created nor deleted by hand.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Print devices by name
    Get(Get),
    /// Print the devices of a node, or all
    List(ListDevices),
    /// Tell everything about devices
    Describe(Describe),
    /// Change labels
    Update(Update),
    /// Place no new volume on a device; what is there stays
    Cordon(Cordon),
    /// Place volumes on a device again
    Uncordon(Cordon),
    /// Print changes of devices as they happen
    Watch(Watch),
}

/// `device list`.
#[derive(Args, Debug)]
pub struct ListDevices {
    /// Only of this node
    #[arg(long)]
    node: Option<String>,
    #[command(flatten)]
    list: List,
}

/// `cordon` and `uncordon`, of nodes too.
#[derive(Args, Debug)]
pub struct Cordon {
    /// Name, short or full
    name: String,
    #[command(flatten)]
    etag: EtagArgs,
    #[command(flatten)]
    guard: GuardArgs,
}

impl Verb {
    /// Does it.
    pub async fn run(self, session: &Session) -> Outcome {
        match self {
            Verb::Get(args) => args.run(KIND, session).await,
            Verb::List(args) => {
                let parent = full_or_empty(Kind::Node, args.node.as_ref())?;
                args.list.run(KIND, &parent, session, |_| true).await
            }
            Verb::Describe(args) => args.run(KIND, session).await,
            Verb::Update(args) => args.run(KIND, session).await,
            Verb::Cordon(args) => args.run(KIND, true, session).await,
            Verb::Uncordon(args) => args.run(KIND, false, session).await,
            Verb::Watch(args) => args.run(KIND, session).await,
        }
    }
}

impl Cordon {
    /// Does it, for nodes and devices.
    pub async fn run(self, kind: Kind, cordoned: bool, session: &Session) -> Outcome {
        let guards = (&self.etag, &WaitArgs { wait: false }, &self.guard);
        update(
            session,
            (kind, &self.name),
            &["spec.cordoned"],
            guards,
            |object| {
                match object {
                    Object::Node(node) => node.spec.get_or_insert_default().cordoned = cordoned,
                    Object::Device(device) => {
                        device.spec.get_or_insert_default().cordoned = cordoned
                    }
                    _ => {}
                }
                Ok(())
            },
        )
        .await
    }
}
