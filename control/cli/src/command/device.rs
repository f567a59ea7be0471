//! `penstock device`.

use clap::{Args, Subcommand};

use super::Session;
use super::host::Update;
use super::shared::{EtagArgs, GuardArgs, WaitArgs};
use super::verbs::{Describe, Get, List, Watch, full_or_empty, update};
use crate::PassedOn;
use crate::failure::{Failure, Outcome};
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
    /// Take drives of this machine from the kernel, for the node's driver (run by penstock-device)
    #[command(disable_help_flag = true)]
    Bind(PassedOn),
    /// Give drives of this machine back to the kernel (run by penstock-device)
    #[command(disable_help_flag = true)]
    Unbind(PassedOn),
    /// Try out a drive of this machine bound to vfio-pci (run by penstock-device)
    #[command(disable_help_flag = true)]
    Check(PassedOn),
}

/// `device list`.
#[derive(Args, Debug)]
pub struct ListDevices {
    /// Only of this node
    #[arg(long)]
    node: Option<String>,
    /// The NVMe drives of this machine instead, without asking control (run by penstock-device)
    #[arg(long)]
    local: bool,
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
                if args.local {
                    return Err(local());
                }
                let parent = full_or_empty(Kind::Node, args.node.as_ref())?;
                args.list.run(KIND, &parent, session, |_| true).await
            }
            Verb::Describe(args) => args.run(KIND, session).await,
            Verb::Update(args) => args.run(KIND, session).await,
            Verb::Cordon(args) => args.run(KIND, true, session).await,
            Verb::Uncordon(args) => args.run(KIND, false, session).await,
            Verb::Watch(args) => args.run(KIND, session).await,
            Verb::Bind(_) | Verb::Unbind(_) | Verb::Check(_) => Err(local()),
        }
    }
}

/// Reached only where flags of this program stand before the command: else it is handed on before
/// anything is understood.
fn local() -> Failure {
    Failure::usage(
        "commands for the drives of this machine ask no server: \
         write them without flags in front, as in `penstock device bind 0000:3b:00.0`",
    )
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
