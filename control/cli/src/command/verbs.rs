//! The verbs that every noun has.

use std::collections::BTreeMap;

use clap::Args;
use penstock_api::v1::Operation;
use tonic::Code;

use super::Session;
use super::shared::{EtagArgs, GuardArgs, WaitArgs, parse_pair, to_map};
use crate::api::{Changed, Guard};
use crate::failure::{Failure, Outcome};
use crate::name::Kind;
use crate::object::{Common, Object};
use crate::output::{self, Format, line, note, to_value};
use crate::quantity::size;
use crate::view;
use crate::wait::wait;
use crate::watch::{Watched, watch};

/// Tries to change what somebody else changes at the same time.
const UPDATE_TRIES: usize = 5;

/// Print resources by name
#[derive(Args, Debug)]
pub struct Get {
    /// Names, short or full
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

impl Get {
    /// Does it. Several names are printed as a list.
    pub async fn run(&self, kind: Kind, session: &Session) -> Outcome {
        let mut objects = Vec::new();
        for name in &self.names {
            objects.push(session.api.get(kind, &kind.full(name)?).await?);
        }
        match objects.as_slice() {
            [object] => output::one(session.format, object),
            objects => output::many(session.format, kind, objects),
        }
    }
}

/// Which to list.
#[derive(Args, Debug)]
pub struct List {
    /// Only those with this label; may be repeated
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE", value_parser = parse_pair)]
    labels: Vec<(String, String)>,
}

impl List {
    /// Lists those under `parent` (a full name; empty: all) that also pass `keep`.
    pub async fn run(
        &self,
        kind: Kind,
        parent: &str,
        session: &Session,
        keep: impl Fn(&Object) -> bool,
    ) -> Outcome {
        let wanted = to_map(&self.labels)?;
        let mut objects = session.api.list(kind, parent).await?;
        objects.retain(|object| {
            let labels = object.labels();
            keep(object)
                && wanted
                    .iter()
                    .all(|(key, value)| labels.get(key) == Some(value))
        });
        output::many(session.format, kind, &objects)
    }
}

/// Tell everything about resources: what is wanted, what is seen, and what happened
#[derive(Args, Debug)]
pub struct Describe {
    /// Names, short or full
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

impl Describe {
    /// Does it.
    pub async fn run(&self, kind: Kind, session: &Session) -> Outcome {
        for (index, name) in self.names.iter().enumerate() {
            let name = kind.full(name)?;
            let object = session.api.get(kind, &name).await?;
            if session.format != Format::Table {
                output::one(session.format, &object)?;
                continue;
            }
            let operations = concerning(session, &name).await?;
            let layout = match &object {
                Object::Volume(volume) if placed(volume) => session.api.layout(&name).await.ok(),
                _ => None,
            };
            if index > 0 {
                line("")?;
            }
            line(&view::describe(&object, &operations, layout.as_ref()))?;
        }
        Ok(())
    }
}

fn placed(volume: &penstock_api::v1::Volume) -> bool {
    volume
        .status
        .as_ref()
        .is_some_and(|status| status.layout.is_some())
}

async fn concerning(session: &Session, name: &str) -> Outcome<Vec<Operation>> {
    let all = session.api.list(Kind::Operation, "").await?;
    let concerning = all.into_iter().filter_map(|object| match object {
        Object::Operation(operation) if operation.target == name => Some(operation),
        _ => None,
    });
    Ok(concerning.collect())
}

/// Delete resources
#[derive(Args, Debug)]
pub struct Delete {
    /// Names, short or full
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Succeed where it does not exist
    #[arg(long)]
    allow_missing: bool,
    /// Do not wait for a node that never comes back: what only it could end is forgotten at once.
    /// Refused while the node is connected
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    etag: EtagArgs,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    guard: GuardArgs,
}

impl Delete {
    /// Does it: first asks for all, then waits.
    pub async fn run(&self, kind: Kind, session: &Session) -> Outcome {
        if self.names.len() > 1 && (self.etag.etag.is_some() || self.guard.request_id.is_some()) {
            return Err(Failure::usage(
                "--etag and --request-id go with one name only",
            ));
        }
        let names: Vec<String> = self
            .names
            .iter()
            .map(|n| kind.full(n))
            .collect::<Outcome<_>>()?;
        if self.force && matches!(kind, Kind::Host | Kind::Subsystem) {
            let noun = kind.noun();
            let told = format!("no {noun} waits for a node to be deleted; leave --force out");
            return Err(Failure::usage(told));
        }
        let mut changes = Vec::new();
        for name in names {
            let mut guard = self.guard.guard();
            guard.force = self.force;
            guard.allow_missing = self.allow_missing;
            guard.etag = self.etag.etag.clone().unwrap_or_default();
            if self.force {
                // What is refused loses nothing.
                let only_check = Guard {
                    validate_only: true,
                    ..guard.clone()
                };
                session.api.delete(kind, &name, only_check).await?;
                warn_of_loss(session, kind, &name, self.guard.dry_run).await?;
            }
            let change = session.api.delete(kind, &name, guard).await?;
            changes.push((name, change));
        }
        for (name, change) in changes {
            conclude(
                session,
                &name,
                change,
                "deleted",
                &self.wait,
                self.guard.dry_run,
            )
            .await?;
        }
        Ok(())
    }
}

/// Says what is lost with a deletion by force.
async fn warn_of_loss(session: &Session, kind: Kind, name: &str, dry_run: bool) -> Outcome {
    let tense = if dry_run { "would be" } else { "is" };
    let held = match kind {
        Kind::Node => lost_with_node(session, name).await?,
        Kind::Volume => vec![format!(
            "{name} (its data, on a node that is not connected)"
        )],
        _ => return Ok(()),
    };
    if held.is_empty() {
        return Ok(());
    }
    note(&format!("warning: this {tense} lost with {name}:"));
    held.iter().for_each(|held| note(&format!("  {held}")));
    note(
        "should the node come back (create it again), its volumes are orphans with their data: \
         penstock node orphans",
    );
    Ok(())
}

/// What a node takes with it, a line each: volumes with their size and namespace, then listeners.
async fn lost_with_node(session: &Session, name: &str) -> Outcome<Vec<String>> {
    let mut lost = Vec::new();
    for object in session.api.list(Kind::Volume, "").await? {
        let Object::Volume(volume) = object else {
            continue;
        };
        let status = volume.status.unwrap_or_default();
        if status.layout.is_none_or(|layout| layout.node != name) {
            continue;
        }
        let bytes = volume.spec.map_or(0, |spec| spec.size_bytes);
        let data = size(u64::try_from(bytes).unwrap_or(0));
        let served = match status.namespace.as_str() {
            "" => String::new(),
            namespace => format!(", and {namespace}"),
        };
        lost.push(format!("{} ({data} of data){served}", volume.name));
    }
    let listeners = session.api.list(Kind::Listener, name).await?;
    lost.extend(listeners.iter().map(|listener| listener.name().to_owned()));
    Ok(lost)
}

/// Print changes as they happen
#[derive(Args, Debug)]
pub struct Watch {
    /// Only this one and what is under it
    #[arg(value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    common: WatchArgs,
}

/// How to watch.
#[derive(Args, Debug)]
struct WatchArgs {
    /// Only those with this label; may be repeated
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE", value_parser = parse_pair)]
    labels: Vec<(String, String)>,
    /// Say nothing of what exists already
    #[arg(long)]
    changes_only: bool,
    /// Continue from this token (of `-o json`, of a list or an earlier watch)
    #[arg(long, value_name = "TOKEN")]
    resume_token: Option<String>,
}

impl WatchArgs {
    async fn run(&self, kinds: Vec<Kind>, name_prefix: String, session: &Session) -> Outcome {
        let watched = Watched {
            kinds,
            name_prefix,
            labels: to_map(&self.labels)?,
            resume_token: self.resume_token.clone().unwrap_or_default(),
            changes_only: self.changes_only,
        };
        watch(&session.api, session.format, watched).await
    }
}

impl Watch {
    /// Does it.
    pub async fn run(&self, kind: Kind, session: &Session) -> Outcome {
        let name = self
            .name
            .as_deref()
            .map(|name| kind.full(name))
            .transpose()?;
        self.common
            .run(vec![kind], name.unwrap_or_default(), session)
            .await
    }
}

/// Watching all kinds.
#[derive(Args, Debug)]
pub struct WatchAll {
    /// Only this kind: node, device, host, ...; may be repeated
    #[arg(long = "kind", value_name = "KIND")]
    kinds: Vec<String>,
    /// Only this resource and those under it, by full name: nodes/n1
    #[arg(value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    common: WatchArgs,
}

impl WatchAll {
    /// Does it.
    pub async fn run(&self, session: &Session) -> Outcome {
        let kinds = self.kinds.iter().map(|word| {
            Kind::called(word).ok_or_else(|| {
                let known: Vec<&str> = Kind::ALL.iter().map(|kind| kind.noun()).collect();
                Failure::usage(format!("\"{word}\" is no kind: {}", known.join(", ")))
            })
        });
        let kinds = kinds.collect::<Outcome<_>>()?;
        let name = self.name.clone().unwrap_or_default();
        if !name.is_empty() && Kind::of(&name).is_none() {
            let told = format!("\"{name}\" is no full name: write it like volumes/v1 or nodes/n1");
            return Err(Failure::usage(told));
        }
        self.common.run(kinds, name, session).await
    }
}

/// Creates and says so.
pub async fn create(session: &Session, object: Object, wait: bool, guard: &GuardArgs) -> Outcome {
    let name = object.name().to_owned();
    let change = session.api.create(object, guard.guard()).await?;
    conclude(
        session,
        &name,
        change,
        "created",
        &WaitArgs { wait },
        guard.dry_run,
    )
    .await
}

/// Reads a resource, changes it and sends the change, again where somebody else was faster.
pub async fn update(
    session: &Session,
    (kind, name): (Kind, &str),
    mask: &[&str],
    (etag, wait, guard): (&EtagArgs, &WaitArgs, &GuardArgs),
    edit: impl Fn(&mut Object) -> Outcome,
) -> Outcome {
    let name = kind.full(name)?;
    let mut tries = 0;
    let change = loop {
        tries += 1;
        let mut object = session.api.get(kind, &name).await?;
        edit(&mut object)?;
        let read = object.etag().to_owned();
        let etag_meant = etag.etag.clone().unwrap_or(read);
        let guard = Guard {
            etag: etag_meant,
            ..guard.guard()
        };
        match session.api.update(object, mask, guard).await {
            Ok(change) => break change,
            Err(failure)
                if failure.code() == Some(Code::Aborted)
                    && etag.etag.is_none()
                    && tries < UPDATE_TRIES => {}
            Err(failure) => return Err(failure),
        }
    };
    conclude(session, &name, change, "changed", wait, guard.dry_run).await
}

/// Says how a change stands, after waiting for it where that is wanted.
async fn conclude(
    session: &Session,
    name: &str,
    change: Changed,
    done: &str,
    wait_args: &WaitArgs,
    dry_run: bool,
) -> Outcome {
    if dry_run {
        return line(&format!("{name} could be {done}; nothing is changed"));
    }
    let format = session.format;
    let operation = match change {
        Changed::Gone if format == Format::Table => return line(&format!("{name} {done}")),
        Changed::Gone if format == Format::Name => return line(name),
        Changed::Gone => return Ok(()),
        Changed::Done(_) if format == Format::Table => return line(&format!("{name} {done}")),
        Changed::Done(object) => return output::one(format, &object),
        Changed::Began(operation) => *operation,
    };
    if operation.target_uid.is_empty() && operation.verb == "delete" && format == Format::Table {
        return line(&format!(
            "{name} does not exist; there is nothing to delete"
        ));
    }
    if !wait_args.wait {
        return match format {
            Format::Table => line(&began(&operation, name, done)),
            Format::Name => line(&operation.name),
            _ => output::value(format, &to_value(&operation)),
        };
    }
    let operation = wait(&session.api, operation).await?;
    match (format, Kind::of(name)) {
        (Format::Table, _) => line(&format!("{name} {done}")),
        (Format::Name, _) => line(name),
        (_, Some(kind)) if done != "deleted" => {
            output::one(format, &session.api.get(kind, name).await?)
        }
        _ => output::value(format, &to_value(&operation)),
    }
}

/// How an operation that was not waited for stands.
pub fn began(operation: &Operation, name: &str, done: &str) -> String {
    if operation.done && operation.error.is_none() {
        return format!("{name} {done}");
    }
    let id = operation.name.trim_start_matches("operations/");
    let waits = match operation.progress.as_str() {
        "" => String::new(),
        progress => format!(" ({progress})"),
    };
    format!("{name} is being {done}{waits}: penstock operation wait {id}")
}

/// Full names of what was written short.
pub fn full_names(kind: Kind, names: &[String]) -> Outcome<Vec<String>> {
    names.iter().map(|name| kind.full(name)).collect()
}

/// A full name, or an empty one where nothing was written.
pub fn full_or_empty(kind: Kind, name: Option<&String>) -> Outcome<String> {
    name.map(|name| kind.full(name))
        .transpose()
        .map(Option::unwrap_or_default)
}

/// Merges pairs into a map and notes what would be lost.
pub fn with_pairs(
    mut map: BTreeMap<String, String>,
    pairs: &[(&str, Option<&String>)],
) -> BTreeMap<String, String> {
    for (key, value) in pairs {
        if let Some(value) = value {
            map.insert((*key).to_owned(), (*value).clone());
        }
    }
    map
}

/// Refuses an update that names nothing to change.
pub fn something_given(given: bool, flags: &str) -> Outcome {
    if given {
        return Ok(());
    }
    Err(Failure::usage(format!("nothing to change: give {flags}")))
}
