//! A person's word on volumes that a node holds without the store's knowledge.

use penstock_api::names::{Kind, ResourceName};
use penstock_api::v1::{
    ConditionStatus, Layout, Node, Orphan, OrphanAction, ResolveOrphanRequest, Volume, VolumeState,
    VolumeStatus,
};
use penstock_plan::observe::{NODE_FINALIZER, set_condition};
use penstock_store::Compare;

use super::core::{Attempt, Call, Core};
use super::write::note;
use crate::fault::{Fault, Result};
use crate::ops::{self, Verb};
use crate::repo::{Change, Stored};
use crate::validate;

impl Core {
    /// What is to be written to resolve an orphan. The node's own report takes it off the node's
    /// list, once the node has carried it out.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION; the store's.
    pub async fn plan_resolve(
        &self,
        call: &Call,
        name: &ResourceName,
        request: &ResolveOrphanRequest,
    ) -> Result<Attempt<Node>> {
        let action = match request.action() {
            OrphanAction::Unspecified => {
                return Err(Fault::field(
                    "action",
                    "it is not set; use ORPHAN_ACTION_ADOPT or ORPHAN_ACTION_DELETE",
                ));
            }
            action => action,
        };
        let node = self
            .repo
            .get::<Node>(&name.key())
            .await?
            .ok_or_else(|| Fault::not_found(&name.to_string()))?;
        let orphans = node.resource.status.as_ref().map(|status| &status.orphans);
        let orphan = orphans
            .and_then(|orphans| orphans.iter().find(|o| o.volume_uid == request.volume_uid))
            .ok_or_else(|| Fault::not_found(&format!("orphan {} of {name}", request.volume_uid)))?;
        let volumes = self.repo.all::<Volume>("", None).await?.items;
        let (own, elsewhere) = of_identity(&volumes, &node.resource.name, &orphan.volume_uid);
        if resolved(own, orphan, action) {
            return Ok(Attempt::Nothing(node.resource));
        }
        let mut change = self.repo.change();
        change.still_exists(&node).guard_use(Kind::Node, &node.ids);
        let volume = match action {
            OrphanAction::Delete => {
                let place = (node.resource.name.as_str(), elsewhere.is_some());
                self.delete_orphan(call, &mut change, orphan, own, place)
                    .await?
            }
            _ => {
                if let Some(other) = elsewhere {
                    return Err(placed_elsewhere(&node.resource, other, orphan));
                }
                self.adopt_orphan(&mut change, orphan, own, &volumes)
                    .await?
            }
        };
        note(call, own.map(|own| &own.resource), Some(&volume));
        Ok(Attempt::Write(change, node.resource.clone()))
    }

    /// Puts an orphan into the store, at an epoch above the node's.
    async fn adopt_orphan(
        &self,
        change: &mut Change,
        orphan: &Orphan,
        own: Option<&Stored<Volume>>,
        volumes: &[Stored<Volume>],
    ) -> Result<Volume> {
        let overlapping: Vec<String> = volumes
            .iter()
            .filter(|other| other.resource.uid != orphan.volume_uid)
            .filter(|other| {
                let layout = other
                    .resource
                    .status
                    .as_ref()
                    .and_then(|s| s.layout.as_ref());
                overlap(layout, orphan.layout.as_ref())
            })
            .map(|other| other.resource.name.clone())
            .collect();
        if !overlapping.is_empty() {
            return Err(Fault::precondition(
                "EXTENT_CONFLICT",
                format!(
                    "the orphan {} lies where the store has placed {}; delete those volumes first, or delete the orphan",
                    orphan.volume_uid,
                    validate::some_of(&overlapping, overlapping.len())
                ),
            )
            .with("volumes", overlapping.join(",")));
        }
        let name = match own {
            Some(own) => own.resource.name.clone(),
            None => self.free_name(orphan).await?.ok_or_else(|| {
                Fault::precondition(
                    "NAME_TAKEN",
                    format!(
                        "another volume has the name {}; delete that one first, or delete the orphan {}",
                        orphan.volume, orphan.volume_uid
                    ),
                )
                .with("resource", &orphan.volume)
            })?,
        };
        let (volume, status) = self.of_orphan(orphan, own, name);
        self.put_resolved(change, own, &volume, &status)?;
        Ok(volume)
    }

    /// Puts an orphan into the store as something that is being deleted. Told are its node, and
    /// whether the store's volume of the same identity lies elsewhere: that one stays as it is.
    async fn delete_orphan(
        &self,
        call: &Call,
        change: &mut Change,
        orphan: &Orphan,
        own: Option<&Stored<Volume>>,
        (node, elsewhere): (&str, bool),
    ) -> Result<Volume> {
        let name = match own {
            None if elsewhere => format!("volumes/orphan-{}", orphan.volume_uid),
            Some(own) => {
                let claim = change.keys().claim_volume(&own.ids);
                self.not_served(own, &claim).await?;
                change.require(Compare::Absent(claim));
                own.resource.name.clone()
            }
            None => match self.free_name(orphan).await? {
                Some(name) => name,
                None => format!("volumes/orphan-{}", orphan.volume_uid),
            },
        };
        let (mut volume, mut status) = self.of_orphan(orphan, own, name);
        volume.delete_time = Some(self.now());
        status.state = VolumeState::Deleting.into();
        self.put_resolved(change, own, &volume, &status)?;
        let mut operation = ops::begin(&volume, Verb::Delete, &call.caller.name, self.now());
        if elsewhere {
            // The other's deletion has the name that follows from the identity alone.
            operation.name = ops::name(&format!("{node}/{}", volume.uid), Verb::Delete);
        }
        change.put_operation(&operation, None);
        Ok(volume)
    }

    /// The orphan's own name, if no other volume has it.
    async fn free_name(&self, orphan: &Orphan) -> Result<Option<String>> {
        let parsed = validate::name(Kind::Volume, "volume", &orphan.volume);
        let Ok(name) = parsed else {
            return Ok(Some(format!("volumes/orphan-{}", orphan.volume_uid)));
        };
        let taken = self.repo.get::<Volume>(&name.key()).await?.is_some();
        Ok((!taken).then(|| name.to_string()))
    }

    /// The volume as the node knows it, one epoch on.
    fn of_orphan(
        &self,
        orphan: &Orphan,
        own: Option<&Stored<Volume>>,
        name: String,
    ) -> (Volume, VolumeStatus) {
        let now = self.now();
        let known = orphan.known.clone().unwrap_or_default();
        let mut volume = match own {
            Some(own) => own.resource.clone(),
            None => Volume {
                create_time: Some(now),
                labels: known.labels.clone(),
                ..Volume::default()
            },
        };
        volume.name = name;
        volume.uid.clone_from(&orphan.volume_uid);
        // The store may have forgotten generations that the node has carried out.
        volume.generation = volume.generation.max(known.generation).saturating_add(1);
        volume.update_time = Some(now);
        let mut spec = known.spec.or(volume.spec).unwrap_or_default();
        let size = i64::try_from(orphan.size_bytes).unwrap_or(i64::MAX);
        spec.size_bytes = spec.size_bytes.max(size);
        volume.spec = Some(spec);
        let mut status = own
            .and_then(|own| own.resource.status.clone())
            .unwrap_or_default();
        let stored_epoch = status.layout.as_ref().map_or(0, |layout| layout.epoch);
        let mut layout = orphan.layout.clone().unwrap_or_default();
        layout.epoch = layout.epoch.max(stored_epoch).saturating_add(1);
        status.layout = Some(layout);
        status.state = VolumeState::Ready.into();
        status.size_bytes = orphan.size_bytes;
        status.namespace.clear();
        status.finalizers = vec![NODE_FINALIZER.to_owned()];
        set_condition(
            &mut status.conditions,
            "Placed",
            ConditionStatus::True,
            "Adopted",
            "its node held it without the store's knowledge, and somebody decided about it",
            &now,
        );
        (volume, status)
    }

    fn put_resolved(
        &self,
        change: &mut Change,
        own: Option<&Stored<Volume>>,
        volume: &Volume,
        status: &VolumeStatus,
    ) -> Result<()> {
        let ids = validate::name(Kind::Volume, "volume", &volume.name)?.key();
        match own {
            Some(own) => change.spec_unchanged(own).status_unchanged(own),
            None => change.spec_absent::<Volume>(&ids),
        };
        change
            .put_spec(&ids, volume)
            .put_status::<Volume>(&ids, status);
        let marker = change.keys().spec(Kind::Volume, &ids);
        change.marker(marker);
        Ok(())
    }
}

/// The store's volume of this identity that is the node's or has no place yet, else the one that
/// lies elsewhere.
fn of_identity<'a>(
    volumes: &'a [Stored<Volume>],
    node: &str,
    uid: &str,
) -> (Option<&'a Stored<Volume>>, Option<&'a Stored<Volume>>) {
    let node_of = |volume: &Stored<Volume>| {
        let status = volume.resource.status.as_ref()?;
        Some(status.layout.as_ref()?.node.clone())
    };
    let of = |wanted: &dyn Fn(Option<&str>) -> bool| {
        volumes
            .iter()
            .find(|volume| volume.resource.uid == uid && wanted(node_of(volume).as_deref()))
    };
    let own = of(&|at| at == Some(node)).or_else(|| of(&|at| at.is_none()));
    let elsewhere = if own.is_none() { of(&|_| true) } else { None };
    (own, elsewhere)
}

fn placed_elsewhere(node: &Node, other: &Stored<Volume>, orphan: &Orphan) -> Fault {
    let status = other.resource.status.as_ref();
    let layout = status.and_then(|status| status.layout.as_ref());
    let (volume, place) = (
        &other.resource.name,
        layout.map_or("", |layout| &layout.node),
    );
    let (holder, uid) = (&node.name, &orphan.volume_uid);
    let id = holder.trim_start_matches("nodes/");
    Fault::precondition(
        "PLACED_ELSEWHERE",
        format!(
            "the store has placed {volume} on {place}, and cannot have what {holder} holds of it as \
             well: delete {volume} first and adopt the orphan then, or delete the orphan (penstock \
             node resolve-orphan {id} {uid} --delete)"
        ),
    )
    .with("volume", &other.resource.name)
}

/// Whether the store has what was decided already, and the node only has to carry it out.
fn resolved(own: Option<&Stored<Volume>>, orphan: &Orphan, action: OrphanAction) -> bool {
    let Some(own) = own else {
        return false;
    };
    let layout = own.resource.status.as_ref().and_then(|s| s.layout.as_ref());
    let ahead = layout.map(|layout| layout.epoch) > orphan.layout.as_ref().map(|l| l.epoch);
    let deleting = own.resource.delete_time.is_some();
    ahead && (action == OrphanAction::Adopt || deleting)
}

/// Whether two layouts share space.
fn overlap(one: Option<&Layout>, other: Option<&Layout>) -> bool {
    let (Some(one), Some(other)) = (one, other) else {
        return false;
    };
    one.extents.iter().any(|a| {
        other.extents.iter().any(|b| {
            a.device == b.device
                && a.offset_bytes < b.offset_bytes.saturating_add(b.length_bytes)
                && b.offset_bytes < a.offset_bytes.saturating_add(a.length_bytes)
        })
    })
}
