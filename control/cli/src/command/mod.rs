//! The nouns and their verbs, as the API has them.

mod device;
mod host;
mod listener;
mod namespace;
mod node;
mod operation;
mod shared;
mod subsystem;
mod verbs;
mod volume;

use clap::Subcommand;

use crate::api::Api;
use crate::failure::Outcome;
use crate::output::Format;

/// What a command works with.
pub struct Session {
    /// The server.
    pub api: Api,
    /// How to answer.
    pub format: Format,
}

/// Nouns of the API.
#[derive(Subcommand, Debug)]
pub enum Noun {
    /// Machines that serve storage
    #[command(subcommand, visible_alias = "nodes")]
    Node(node::Verb),
    /// Drives, files and memory of nodes, which volumes are placed on
    #[command(subcommand, visible_alias = "devices")]
    Device(device::Verb),
    /// NVMe hosts, who may be allowed to connect
    #[command(subcommand, visible_alias = "hosts")]
    Host(host::Verb),
    /// NVM subsystems: what hosts connect to
    #[command(subcommand, visible_alias = "subsystems")]
    Subsystem(subsystem::Verb),
    /// Namespaces: volumes as the hosts of a subsystem see them
    #[command(subcommand, visible_alias = "namespaces")]
    Namespace(namespace::Verb),
    /// Addresses of nodes where hosts connect
    #[command(subcommand, visible_alias = "listeners")]
    Listener(listener::Verb),
    /// Volumes: pieces of storage
    #[command(subcommand, visible_alias = "volumes")]
    Volume(volume::Verb),
    /// Changes that take their time
    #[command(subcommand, visible_alias = "operations")]
    Operation(operation::Verb),
    /// Print changes of any kind as they happen
    Watch(verbs::WatchAll),
}

impl Noun {
    /// Does it.
    pub async fn run(self, session: &Session) -> Outcome {
        match self {
            Noun::Node(verb) => verb.run(session).await,
            Noun::Device(verb) => verb.run(session).await,
            Noun::Host(verb) => verb.run(session).await,
            Noun::Subsystem(verb) => verb.run(session).await,
            Noun::Namespace(verb) => verb.run(session).await,
            Noun::Listener(verb) => verb.run(session).await,
            Noun::Volume(verb) => verb.run(session).await,
            Noun::Operation(verb) => verb.run(session).await,
            Noun::Watch(all) => all.run(session).await,
        }
    }
}
