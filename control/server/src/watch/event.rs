//! From changes of keys to events of resources.
//!
//! A resource lies in the store in parts: spec, status, and for a volume the claim of the namespace
//! that serves it. A change of one of them is an event of the whole.

use std::collections::BTreeMap;

use penstock_api::names::{Kind, ResourceName};
use penstock_api::resource::Resource;
use penstock_api::v1;
use penstock_api::v1::WatchEventType;
use penstock_api::v1::watch_event::Resource as AnyResource;
use penstock_store::{Change, Entry, Revision};

use super::filter::Filter;
use crate::fault::Result;
use crate::keys::Key;
use crate::repo::{Repo, decode, merge};

/// Most resources whose parts are remembered; those of others are read again.
const REMEMBERED: usize = 4_096;

/// A part of a resource, where it is known: there or not.
type Part = Option<Option<Entry>>;

/// What is known of the parts of a resource.
#[derive(Clone, Debug, Default)]
struct Known {
    spec: Part,
    status: Part,
    claim: Part,
}

/// Changes of the parts of a resource at one revision.
#[derive(Debug, Default)]
struct Changed {
    spec: Option<Change>,
    status: Option<Change>,
    claim: Option<Change>,
    operation: Option<Change>,
}

/// Parts of resources as they were told last.
#[derive(Debug, Default)]
pub struct Parts(BTreeMap<(Kind, String), Known>);

impl Parts {
    /// The events of one revision.
    ///
    /// # Errors
    /// The store's.
    pub async fn events(
        &mut self,
        repo: &Repo,
        filter: &Filter,
        revision: Revision,
        changes: Vec<Change>,
    ) -> Result<Vec<(WatchEventType, AnyResource)>> {
        let mut events = Vec::new();
        for ((kind, ids), changed) in group(repo, filter, changes) {
            let at = At {
                repo,
                filter,
                revision,
                ids: &ids,
            };
            let known = self.0.remove(&(kind, ids.clone())).unwrap_or_default();
            let (event, known) = match kind {
                Kind::Node => at.event::<v1::Node>(changed, known).await?,
                Kind::Device => at.event::<v1::Device>(changed, known).await?,
                Kind::Host => at.event::<v1::Host>(changed, known).await?,
                Kind::Subsystem => at.event::<v1::Subsystem>(changed, known).await?,
                Kind::Namespace => at.event::<v1::Namespace>(changed, known).await?,
                Kind::Listener => at.event::<v1::Listener>(changed, known).await?,
                Kind::Volume => at.event::<v1::Volume>(changed, known).await?,
                Kind::Operation => (at.operation(changed)?, None),
            };
            events.extend(event);
            if let Some(known) = known {
                self.0.insert((kind, ids), known);
            }
        }
        while self.0.len() > REMEMBERED {
            self.0.pop_first();
        }
        Ok(events)
    }
}

/// The changes of each resource that the filter may tell.
fn group(repo: &Repo, filter: &Filter, changes: Vec<Change>) -> BTreeMap<(Kind, String), Changed> {
    let mut groups: BTreeMap<(Kind, String), Changed> = BTreeMap::new();
    for change in changes {
        let key = match &change {
            Change::Put { entry, .. } => entry.key.clone(),
            Change::Delete { key, .. } => key.clone(),
        };
        let Some(parsed) = repo.keys().parse(&key) else {
            continue;
        };
        let (kind, ids) = match parsed {
            Key::Spec(kind, ids) | Key::Status(kind, ids) => (kind, ids),
            Key::Operation(id) => (Kind::Operation, id),
            Key::Claim(claim) => match claim.strip_prefix("volume/") {
                Some(volume) => (Kind::Volume, volume),
                None => continue,
            },
            _ => continue,
        };
        let name = name_of(kind, ids);
        if !filter.kind(kind) || !filter.name(&name) {
            continue;
        }
        let group = groups.entry((kind, ids.to_owned())).or_default();
        match parsed {
            Key::Spec(..) => group.spec = Some(change),
            Key::Status(..) => group.status = Some(change),
            Key::Operation(_) => group.operation = Some(change),
            _ => group.claim = Some(change),
        }
    }
    groups
}

fn name_of(kind: Kind, ids: &str) -> String {
    ResourceName::from_key(kind, ids).map_or_else(|_| ids.to_owned(), |name| name.to_string())
}

/// One resource at one revision.
struct At<'a> {
    repo: &'a Repo,
    filter: &'a Filter,
    revision: Revision,
    ids: &'a str,
}

type Event = (WatchEventType, AnyResource);

impl At<'_> {
    /// The event that the changes of a resource's parts make, and what is known of it then.
    async fn event<R: Resource>(
        &self,
        changed: Changed,
        known: Known,
    ) -> Result<(Option<Event>, Option<Known>)> {
        let keys = self.repo.keys();
        let spec_changed = changed.spec.is_some();
        let (spec, spec_before) = split(changed.spec, known.spec);
        let (status, status_before) = split(changed.status, known.status);
        let (claim, _) = split(changed.claim, known.claim);
        let Some(spec) = self.part(spec, keys.spec(R::KIND, self.ids)).await? else {
            // Otherwise its end was told before, or is told later.
            let event = if spec_changed {
                self.gone::<R>(spec_before.flatten(), status_before.flatten().as_ref())?
            } else {
                None
            };
            return Ok((event, None));
        };
        let status = self.part(status, keys.status(R::KIND, self.ids)).await?;
        let claim = if R::KIND == Kind::Volume {
            self.part(claim, keys.claim_volume(self.ids)).await?
        } else {
            None
        };
        let resource = self.whole::<R>(&spec, status.as_ref())?;
        let created = spec.create_revision == self.revision;
        let now = self.filter.labels(resource.labels());
        let before = match spec_before.flatten() {
            _ if created => false,
            _ if !spec_changed => now,
            Some(before) => self.filter.labels(decode::<R>(&before)?.labels()),
            // Not known: what does not belong here now is taken away to be sure.
            None => true,
        };
        let kind = match (before, now) {
            (false, true) => Some(WatchEventType::Added),
            (true, true) => Some(WatchEventType::Modified),
            (true, false) => Some(WatchEventType::Deleted),
            (false, false) => None,
        };
        let told = with_namespace(resource.into_any(), claim.as_ref());
        let known = Known {
            spec: Some(Some(spec)),
            status: Some(status),
            claim: Some(claim),
        };
        Ok((kind.map(|kind| (kind, told)), Some(known)))
    }

    /// A part as it is now: as told, or as the store has it.
    async fn part(&self, part: Part, key: String) -> Result<Option<Entry>> {
        match part {
            Some(part) => Ok(part),
            None => match self.repo.entry(&key, Some(self.revision)).await {
                // Later is as good, the rest follows.
                Err(fault) if fault.reason == "HISTORY_COMPACTED" => {
                    self.repo.entry(&key, None).await
                }
                other => other,
            },
        }
    }

    fn whole<R: Resource>(&self, spec: &Entry, status: Option<&Entry>) -> Result<R> {
        Ok(merge::<R>(self.ids, spec, status, self.revision)?.resource)
    }

    /// The event of a resource's end, as it was last; where history has lost that, its name alone.
    fn gone<R: Resource>(
        &self,
        last: Option<Entry>,
        status: Option<&Entry>,
    ) -> Result<Option<Event>> {
        let resource = match last {
            Some(spec) => self.whole::<R>(&spec, status)?,
            None => {
                let mut resource = R::default();
                *resource.name_mut() = name_of(R::KIND, self.ids);
                return Ok(Some((WatchEventType::Deleted, resource.into_any())));
            }
        };
        let told = self.filter.labels(resource.labels());
        Ok(told.then(|| (WatchEventType::Deleted, resource.into_any())))
    }

    fn operation(&self, changed: Changed) -> Result<Option<Event>> {
        Ok(match changed.operation {
            None => None,
            Some(Change::Put { entry, .. }) => {
                let kind = if entry.create_revision == self.revision {
                    WatchEventType::Added
                } else {
                    WatchEventType::Modified
                };
                Some((kind, AnyResource::Operation(decode(&entry)?)))
            }
            Some(Change::Delete { previous, .. }) => {
                let operation = match previous {
                    Some(entry) => decode(&entry)?,
                    None => v1::Operation {
                        name: name_of(Kind::Operation, self.ids),
                        ..v1::Operation::default()
                    },
                };
                Some((WatchEventType::Deleted, AnyResource::Operation(operation)))
            }
        })
    }
}

/// A part after its change, and before it, where that is known.
fn split(change: Option<Change>, known: Part) -> (Part, Part) {
    match change {
        None => (known, None),
        Some(Change::Put { entry, previous }) => {
            let before = previous.map(Some).or(known);
            (Some(Some(entry)), before)
        }
        Some(Change::Delete { previous, .. }) => {
            let before = previous.map(Some).or(known);
            (Some(None), before)
        }
    }
}

fn with_namespace(resource: AnyResource, claim: Option<&Entry>) -> AnyResource {
    match (resource, claim) {
        (AnyResource::Volume(mut volume), Some(claim)) => {
            volume.status.get_or_insert_default().namespace =
                String::from_utf8_lossy(&claim.value).into_owned();
            AnyResource::Volume(volume)
        }
        (resource, _) => resource,
    }
}
