//! `penstock subsystem`.

use clap::{Args, Subcommand};
use penstock_api::v1::{Subsystem, SubsystemSpec};

use super::Session;
use super::shared::{EtagArgs, GuardArgs, LabelArgs, RelabelArgs, WaitArgs};
use super::verbs::{
    Delete, Describe, Get, List, Watch, create, full_names, something_given, update,
};
use crate::failure::Outcome;
use crate::name::Kind;
use crate::object::{Common, Object};

const KIND: Kind = Kind::Subsystem;

/// What can be done with subsystems.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Make a subsystem
    Create(Create),
    /// Print subsystems by name
    Get(Get),
    /// Print all subsystems
    List(List),
    /// Tell everything about subsystems
    Describe(Describe),
    /// Change labels, or whether every host may connect
    Update(Update),
    /// Let hosts connect
    Allow(Access),
    /// Let hosts connect no more; those that are connected are disconnected
    Deny(Access),
    /// Delete subsystems
    Delete(Delete),
    /// Print changes of subsystems as they happen
    Watch(Watch),
}

/// `subsystem create`.
#[derive(Args, Debug)]
pub struct Create {
    /// Name: a-z, 0-9 and -, up to 63 characters
    name: String,
    /// NVMe qualified name [default: made from the name]
    #[arg(long)]
    nqn: Option<String>,
    /// Serial number, up to 20 characters [default: from the identity]
    #[arg(long)]
    serial: Option<String>,
    /// Model number, up to 40 characters [default: Penstock]
    #[arg(long)]
    model: Option<String>,
    /// Every host may connect
    #[arg(long)]
    allow_any_host: bool,
    /// This host may connect; may be repeated
    #[arg(long, value_name = "HOST")]
    host: Vec<String>,
    /// Highest namespace identifier, 1 to 4096 [default: 1024]
    #[arg(long, value_name = "NSID")]
    namespaces_max: Option<u32>,
    #[command(flatten)]
    labels: LabelArgs,
    #[command(flatten)]
    guard: GuardArgs,
}

/// `subsystem update`.
#[derive(Args, Debug)]
pub struct Update {
    /// Name, short or full
    name: String,
    /// Whether every host may connect
    #[arg(long, value_name = "BOOL")]
    allow_any_host: Option<bool>,
    #[command(flatten)]
    labels: RelabelArgs,
    #[command(flatten)]
    etag: EtagArgs,
    #[command(flatten)]
    guard: GuardArgs,
}

/// `subsystem allow` and `subsystem deny`.
#[derive(Args, Debug)]
pub struct Access {
    /// Name of the subsystem, short or full
    name: String,
    /// The host; may be repeated
    #[arg(long, value_name = "HOST", required_unless_present = "any_host")]
    host: Vec<String>,
    /// Every host that is not named
    #[arg(long)]
    any_host: bool,
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
            Verb::Update(args) => args.run(session).await,
            Verb::Allow(args) => args.run(true, session).await,
            Verb::Deny(args) => args.run(false, session).await,
            Verb::Delete(args) => args.run(KIND, session).await,
            Verb::Watch(args) => args.run(KIND, session).await,
        }
    }
}

impl Create {
    async fn run(self, session: &Session) -> Outcome {
        let spec = SubsystemSpec {
            nqn: self.nqn.unwrap_or_default(),
            serial: self.serial.unwrap_or_default(),
            model: self.model.unwrap_or_default(),
            allow_any_host: self.allow_any_host,
            hosts: full_names(Kind::Host, &self.host)?,
            namespaces_max: self.namespaces_max.unwrap_or_default(),
        };
        let subsystem = Subsystem {
            name: KIND.full(&self.name)?,
            labels: self.labels.map()?,
            spec: Some(spec),
            ..Subsystem::default()
        };
        create(session, Object::Subsystem(subsystem), false, &self.guard).await
    }
}

impl Update {
    async fn run(self, session: &Session) -> Outcome {
        let given = self.labels.given() || self.allow_any_host.is_some();
        something_given(given, "--label, --remove-label or --allow-any-host")?;
        let mut mask = Vec::new();
        if self.labels.given() {
            mask.push("labels");
        }
        if self.allow_any_host.is_some() {
            mask.push("spec.allow_any_host");
        }
        let guards = (&self.etag, &WaitArgs { wait: false }, &self.guard);
        update(session, (KIND, &self.name), &mask, guards, |object| {
            if let (Object::Subsystem(subsystem), Some(any)) = (&mut *object, self.allow_any_host) {
                subsystem.spec.get_or_insert_default().allow_any_host = any;
            }
            object
                .labels_mut()
                .map_or(Ok(()), |labels| self.labels.apply(labels))
        })
        .await
    }
}

impl Access {
    async fn run(self, allow: bool, session: &Session) -> Outcome {
        let hosts = full_names(Kind::Host, &self.host)?;
        let mut mask = Vec::new();
        if !hosts.is_empty() {
            mask.push("spec.hosts");
        }
        if self.any_host {
            mask.push("spec.allow_any_host");
        }
        let guards = (&self.etag, &WaitArgs { wait: false }, &self.guard);
        update(session, (KIND, &self.name), &mask, guards, |object| {
            let Object::Subsystem(subsystem) = object else {
                return Ok(());
            };
            let spec = subsystem.spec.get_or_insert_default();
            spec.hosts.retain(|host| !hosts.contains(host));
            if allow {
                spec.hosts.extend(hosts.iter().cloned());
                spec.hosts.sort();
                spec.hosts.dedup();
            }
            if self.any_host {
                spec.allow_any_host = allow;
            }
            Ok(())
        })
        .await
    }
}
