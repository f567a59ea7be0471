//! `penstock node`.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use penstock_api::v1::{Node, NodeSpec, Orphan, OrphanAction, OrphanObject, ResolveOrphanRequest};

use super::Session;
use super::device::Cordon;
use super::shared::{EtagArgs, GuardArgs, LabelArgs, RelabelArgs, WaitArgs, parse_pair, to_map};
use super::verbs::{
    Delete, Describe, Get, List, Watch, create, something_given, update, with_pairs,
};
use crate::failure::{Exit, Failure, Outcome};
use crate::name::{Kind, short};
use crate::object::{Common, Object};
use crate::output::{self, Format, line, note, to_value};
use crate::quantity::size;
use crate::view::{Column, Table};

const KIND: Kind = Kind::Node;

/// What can be done with nodes.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Make a node known, so that its agent is let in
    Create(Create),
    /// Print nodes by name
    Get(Get),
    /// Print all nodes
    List(List),
    /// Tell everything about nodes
    Describe(Describe),
    /// Change labels or failure domains
    Update(Update),
    /// Place no new volume on a node; what is there stays
    Cordon(Cordon),
    /// Place volumes on a node again
    Uncordon(Cordon),
    /// Print the volumes that a node holds and the store does not know
    Orphans(Orphans),
    /// Decide what becomes of such a volume
    ResolveOrphan(ResolveOrphan),
    /// Forget nodes
    Delete(Delete),
    /// Print changes of nodes as they happen
    Watch(Watch),
}

/// Where a node stands.
#[derive(Args, Debug)]
struct Domains {
    /// Rack it stands in: a failure domain for placement
    #[arg(long)]
    rack: Option<String>,
    /// Machine it is on, where several nodes share one [default: the node's name]
    #[arg(long, value_name = "NAME")]
    host_domain: Option<String>,
    /// Any other failure domain; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    failure_domain: Vec<(String, String)>,
}

impl Domains {
    fn map(&self) -> Outcome<BTreeMap<String, String>> {
        let named = [
            ("rack", self.rack.as_ref()),
            ("host", self.host_domain.as_ref()),
        ];
        Ok(with_pairs(to_map(&self.failure_domain)?, &named))
    }
}

/// `node create`.
#[derive(Args, Debug)]
pub struct Create {
    /// Name, as the node's certificate and configuration have it
    name: String,
    #[command(flatten)]
    domains: Domains,
    /// Place no volume there yet
    #[arg(long)]
    cordoned: bool,
    #[command(flatten)]
    labels: LabelArgs,
    #[command(flatten)]
    guard: GuardArgs,
}

/// `node update`.
#[derive(Args, Debug)]
pub struct Update {
    /// Name, short or full
    name: String,
    #[command(flatten)]
    domains: Domains,
    /// Take this failure domain away; may be repeated
    #[arg(long, value_name = "KEY")]
    remove_failure_domain: Vec<String>,
    #[command(flatten)]
    labels: RelabelArgs,
    #[command(flatten)]
    etag: EtagArgs,
    #[command(flatten)]
    guard: GuardArgs,
}

/// `node orphans`.
#[derive(Args, Debug)]
pub struct Orphans {
    /// Name of the node [default: all nodes]
    name: Option<String>,
}

/// `node resolve-orphan`.
#[derive(Args, Debug)]
pub struct ResolveOrphan {
    /// Name of the node
    node: String,
    /// Identity of the volume, as `node orphans` prints it
    volume_uid: String,
    /// Put the volume into the store again; namespaces of it that the store does not know are served
    /// on, and are to be created again
    #[arg(long, conflicts_with = "delete", required_unless_present = "delete")]
    adopt: bool,
    /// Delete the volume and its data for ever
    #[arg(long)]
    delete: bool,
    /// Unique text for this request [default: a new UUID]
    #[arg(long, value_name = "TEXT")]
    request_id: Option<String>,
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
            Verb::Cordon(args) => args.run(KIND, true, session).await,
            Verb::Uncordon(args) => args.run(KIND, false, session).await,
            Verb::Orphans(args) => args.run(session).await,
            Verb::ResolveOrphan(args) => args.run(session).await,
            Verb::Delete(args) => args.run(KIND, session).await,
            Verb::Watch(args) => args.run(KIND, session).await,
        }
    }
}

impl Create {
    async fn run(self, session: &Session) -> Outcome {
        let spec = NodeSpec {
            failure_domains: self.domains.map()?,
            cordoned: self.cordoned,
        };
        let node = Node {
            name: KIND.full(&self.name)?,
            labels: self.labels.map()?,
            spec: Some(spec),
            ..Node::default()
        };
        create(session, Object::Node(node), false, &self.guard).await
    }
}

impl Update {
    async fn run(self, session: &Session) -> Outcome {
        let domains = self.domains.map()?;
        let moved = !domains.is_empty() || !self.remove_failure_domain.is_empty();
        let flags = "--label, --remove-label, --rack, --host-domain, --failure-domain or \
                     --remove-failure-domain";
        something_given(moved || self.labels.given(), flags)?;
        let mut mask = Vec::new();
        if self.labels.given() {
            mask.push("labels");
        }
        if moved {
            mask.push("spec.failure_domains");
        }
        let guards = (&self.etag, &WaitArgs { wait: false }, &self.guard);
        update(session, (KIND, &self.name), &mask, guards, |object| {
            if let Object::Node(node) = object {
                let known = &mut node.spec.get_or_insert_default().failure_domains;
                known.extend(domains.clone());
                known.retain(|key, _| !self.remove_failure_domain.contains(key));
            }
            object
                .labels_mut()
                .map_or(Ok(()), |labels| self.labels.apply(labels))
        })
        .await
    }
}

impl Orphans {
    async fn run(self, session: &Session) -> Outcome {
        let nodes = match &self.name {
            Some(name) => vec![session.api.get(KIND, &KIND.full(name)?).await?],
            None => session.api.list(KIND, "").await?,
        };
        let mut found = Vec::new();
        for object in nodes {
            let Object::Node(node) = object else { continue };
            let status = node.status.unwrap_or_default();
            let orphans = status.orphans.into_iter();
            found.extend(orphans.map(|orphan| (node.name.clone(), orphan)));
            for object in status.orphan_objects {
                note(&unknown(&node.name, &object));
            }
        }
        print(session.format, &found)
    }
}

/// What to say of a namespace or listener that only the node knows.
fn unknown(node: &str, object: &OrphanObject) -> String {
    let (name, same) = match object.volume.as_str() {
        "" => (object.name.clone(), "at the same address".to_owned()),
        volume => (object.name.clone(), format!("of {volume}")),
    };
    format!(
        "{node} serves {name} without the store's knowledge: create it again ({same}), and delete it \
         then where it is not wanted"
    )
}

fn print(format: Format, found: &[(String, Orphan)]) -> Outcome {
    match format {
        Format::Table => {}
        Format::Name => {
            return found
                .iter()
                .try_for_each(|(_, orphan)| line(&orphan.volume_uid));
        }
        format => {
            let orphans: Vec<&Orphan> = found.iter().map(|(_, orphan)| orphan).collect();
            return output::value(format, &to_value(&orphans));
        }
    }
    if found.is_empty() {
        note("no orphans");
        return Ok(());
    }
    let mut table = Table::new(&[
        Column::left("NODE"),
        Column::left("VOLUME UID"),
        Column::left("VOLUME"),
        Column::left("REASON"),
        Column::right("SIZE"),
        Column::left("NAMESPACES"),
    ]);
    for (node, orphan) in found {
        let namespaces: Vec<String> = orphan.namespaces.iter().map(|name| short(name)).collect();
        table.push(vec![
            short(node),
            orphan.volume_uid.clone(),
            short(&orphan.volume),
            orphan.reason.clone(),
            size(orphan.size_bytes),
            namespaces.join(","),
        ]);
    }
    line(&table.to_string())?;
    note("decide with: penstock node resolve-orphan NODE UID --adopt, or --delete (and its data)");
    Ok(())
}

impl ResolveOrphan {
    async fn run(self, session: &Session) -> Outcome {
        let name = KIND.full(&self.node)?;
        let node = session.api.get(KIND, &name).await?;
        let Object::Node(node) = node else {
            return Ok(());
        };
        let orphans = node.status.unwrap_or_default().orphans;
        let known = orphans
            .iter()
            .find(|orphan| orphan.volume_uid == self.volume_uid);
        let Some(orphan) = known else {
            let told = format!(
                "{name} holds no orphan {}: `penstock node orphans {}` lists them",
                self.volume_uid, self.node
            );
            return Err(Failure::new(Exit::NotFound, told));
        };
        let action = if self.adopt {
            OrphanAction::Adopt
        } else {
            OrphanAction::Delete
        };
        let request_id = self
            .request_id
            .unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        let volume_uid = self.volume_uid.clone();
        let request = ResolveOrphanRequest {
            name,
            volume_uid,
            action: action.into(),
            request_id,
        };
        let node = session.api.resolve_orphan(request).await?;
        if self.adopt && !orphan.namespaces.is_empty() {
            note(&format!(
                "served on through {}: where `penstock node orphans {}` still names them then, create \
                 them again",
                orphan.namespaces.join(", "),
                self.node
            ));
        }
        let done = if self.adopt {
            "is being adopted"
        } else {
            "is being deleted with its data"
        };
        match session.format {
            Format::Table => line(&format!("{} ({}) {done}", orphan.volume, self.volume_uid)),
            format => output::one(format, &Object::Node(node)),
        }
    }
}
