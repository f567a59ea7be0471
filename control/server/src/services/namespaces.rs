//! Namespaces.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use penstock_api::names::{Kind, ResourceName};
use penstock_api::resource::Resource as _;
use penstock_api::v1::namespace_service_server::NamespaceService;
use penstock_api::v1::{
    CreateNamespaceRequest, DeleteNamespaceRequest, GetNamespaceRequest, ListNamespacesRequest,
    ListNamespacesResponse, Namespace, Operation, Subsystem, UpdateNamespaceRequest, Volume,
};
use penstock_plan::observe::is_true;
use tonic::{Code, Request, Response, Status};

use super::core::{Attempt, Call, Core};
use super::list::parent;
use super::write::{id_in, no_such, not_deleting};
use crate::fault::{Fault, Result};
use crate::ops::{self, Verb};
use crate::quota::Amounts;
use crate::repo::{Change, Stored};
use crate::validate;

/// The service of namespaces.
#[derive(Clone)]
pub struct Namespaces(pub(super) Arc<Core>, Reserved);

/// Identifiers that calls in progress have chosen, by subsystem, so that those who create at the
/// same time do not choose the same. Only saves retries: the claim in the store decides.
#[derive(Clone, Default)]
struct Reserved(Arc<Mutex<BTreeMap<String, BTreeSet<u32>>>>);

/// The identifier that one call has chosen.
struct Reservation<'a> {
    all: &'a Reserved,
    subsystem: String,
    nsid: Mutex<Option<u32>>,
}

impl Reservation<'_> {
    /// Chooses anew, apart from what is taken and what others have chosen.
    fn renew(&self, taken: &BTreeSet<u32>, most: u32, round: u32, spread: u128) -> Option<u32> {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut own = self.nsid.lock().unwrap_or_else(PoisonError::into_inner);
        let others = all.entry(self.subsystem.clone()).or_default();
        if let Some(before) = own.take() {
            others.remove(&before);
        }
        let apart = taken.union(others).copied().collect();
        // The last free ones may be given back by those who have chosen them.
        let chosen =
            choose(&apart, most, round, spread).or_else(|| choose(taken, most, round, spread))?;
        if others.insert(chosen) {
            *own = Some(chosen);
        }
        Some(chosen)
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = self.nsid.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(others) = all.get_mut(&self.subsystem) {
            own.map(|nsid| others.remove(&nsid));
            if others.is_empty() {
                all.remove(&self.subsystem);
            }
        }
    }
}

impl Namespaces {
    /// The service over what all share.
    pub(super) fn new(core: Arc<Core>) -> Namespaces {
        Namespaces(core, Reserved::default())
    }

    async fn create(&self, call: &Call, request: CreateNamespaceRequest) -> Result<Operation> {
        let parent = validate::name(Kind::Subsystem, "parent", &request.parent)?;
        let name = validate::new_name(Kind::Namespace, Some(&parent), &request.namespace_id)?;
        let intent = self.0.intend(
            call,
            &name.to_string(),
            &request.request_id,
            request.validate_only,
            &request,
        )?;
        let given = request.namespace.unwrap_or_default();
        validate::resource(&given)?;
        let reservation = Reservation {
            all: &self.1,
            subsystem: parent.key(),
            nsid: Mutex::new(None),
        };
        let (name, reservation) = (&name, &reservation);
        self.0
            .mutate(call, &intent, |round| {
                Box::pin(self.plan_create(call, name, &given, reservation, round))
            })
            .await
    }

    async fn plan_create(
        &self,
        call: &Call,
        name: &ResourceName,
        given: &Namespace,
        reservation: &Reservation<'_>,
        round: u32,
    ) -> Result<Attempt<Operation>> {
        let core = &self.0;
        if let Some(stored) = core.existing(name, given).await? {
            let ready = is_true(stored.resource.conditions(), "Ready");
            return core.creation_of(call, &stored, ready).await;
        }
        let mut change = core.repo.change();
        let mut new = core.fresh(name, given);
        let subsystem = core
            .repo
            .get::<Subsystem>(&reservation.subsystem)
            .await?
            .ok_or_else(|| Fault::not_found(&format!("subsystems/{}", reservation.subsystem)))?;
        not_deleting(&subsystem.resource)?;
        let mut spec = new.spec.clone().unwrap_or_default();
        let volume_id = id_in(Kind::Volume, &spec.volume);
        let volume = core
            .repo
            .get::<Volume>(&volume_id)
            .await?
            .ok_or_else(|| no_such("namespace.spec.volume", &spec.volume))?;
        not_deleting(&volume.resource)?;
        let claim_volume = change.keys().claim_volume(&volume_id);
        core.unclaimed(
            &claim_volume,
            "namespace.spec.volume",
            &spec.volume,
            "a volume is in one namespace at most: name another volume, or delete that namespace",
        )
        .await?;
        spec.nsid = self.nsid(&subsystem, &new, reservation, round).await?;
        if spec.uuid.is_empty() {
            spec.uuid.clone_from(&volume.resource.uid);
        }
        let claim_nsid = change.keys().claim_nsid(&subsystem.ids, spec.nsid);
        new.spec = Some(spec);
        core.quota
            .room(&core.repo, &mut change, Kind::Namespace, Amounts::ONE)
            .await?;
        core.put_new(call, &mut change, &name.key(), &new);
        change
            .still_exists(&subsystem)
            .guard_use(Kind::Subsystem, &subsystem.ids)
            // Its deletion may be asked for meanwhile.
            .spec_unchanged(&volume)
            .claim(claim_volume, &new.name)
            .claim(claim_nsid, &new.name);
        let operation = ops::begin(&new, Verb::Create, &call.caller.name, core.now());
        core.put_begun(&mut change, &operation);
        Ok(Attempt::Write(change, operation))
    }

    /// The identifier that is asked for, if it is free, or a free one.
    async fn nsid(
        &self,
        subsystem: &Stored<Subsystem>,
        new: &Namespace,
        reservation: &Reservation<'_>,
        round: u32,
    ) -> Result<u32> {
        let core = &self.0;
        let wanted = new.spec.as_ref().map_or(0, |spec| spec.nsid);
        let most = subsystem
            .resource
            .spec
            .as_ref()
            .map_or(0, |spec| spec.namespaces_max);
        if wanted > most {
            return Err(Fault::field(
                "namespace.spec.nsid",
                format!(
                    "it is {wanted}; {} has namespace identifiers up to {most} (namespaces_max): use 1 to {most}, or 0 to let the server choose",
                    subsystem.resource.name
                ),
            ));
        }
        if wanted != 0 {
            let claim = core.repo.keys().claim_nsid(&subsystem.ids, wanted);
            let remedy = "choose another, or 0 to let the server choose";
            core.unclaimed(&claim, "namespace.spec.nsid", &wanted.to_string(), remedy)
                .await?;
            return Ok(wanted);
        }
        let taken = core.nsids(&subsystem.ids).await?;
        let spread = uuid::Uuid::parse_str(&new.uid).map_or(0, |uid| uid.as_u128());
        reservation.renew(&taken, most, round, spread).ok_or_else(|| {
            Fault::new(
                Code::ResourceExhausted,
                "NO_NAMESPACE_IDENTIFIER",
                format!(
                    "all {most} namespace identifiers of {} are taken; delete a namespace, or use another subsystem",
                    subsystem.resource.name
                ),
            )
            .with("limit", most)
        })
    }

    async fn update(&self, call: &Call, request: UpdateNamespaceRequest) -> Result<Namespace> {
        let new = request.namespace.clone().unwrap_or_default();
        let name = validate::name(Kind::Namespace, "namespace.name", &new.name)?;
        let intent = self.0.intend(
            call,
            &new.name,
            &request.request_id,
            request.validate_only,
            &request,
        )?;
        let mask = request.update_mask.as_ref();
        self.0
            .mutate(call, &intent, |_| {
                Box::pin(self.0.plan_update(call, &name, &new, mask))
            })
            .await
    }

    async fn delete(&self, call: &Call, request: DeleteNamespaceRequest) -> Result<Operation> {
        let name = validate::name(Kind::Namespace, "name", &request.name)?;
        let intent = self.0.intend(
            call,
            &request.name,
            &request.request_id,
            request.validate_only,
            &request,
        )?;
        self.0
            .mutate(call, &intent, |_| {
                Box::pin(self.plan_delete(call, &name, &request))
            })
            .await
    }

    async fn plan_delete(
        &self,
        call: &Call,
        name: &ResourceName,
        request: &DeleteNamespaceRequest,
    ) -> Result<Attempt<Operation>> {
        let core = &self.0;
        let found = core
            .to_delete::<Namespace>(name, &request.etag, request.allow_missing)
            .await?;
        let Some(stored) = found else {
            return core.nothing_to_delete(call, name).await;
        };
        let mut change = core.repo.change();
        let spec = stored.resource.spec.clone().unwrap_or_default();
        let volume_id = id_in(Kind::Volume, &spec.volume);
        let volume = core.repo.get::<Volume>(&volume_id).await?;
        let layout = volume
            .as_ref()
            .and_then(|volume| volume.resource.status.as_ref()?.layout.as_ref());
        let told = stored.resource.status.as_ref().map(|status| &status.node);
        let node = layout.map(|layout| &layout.node).or(told);
        if let Some(node) = node.filter(|node| !node.is_empty()) {
            let node = id_in(Kind::Node, node);
            if !request.force {
                return core.begin_delete(call, change, &stored, &node).await;
            }
            core.require_offline(&mut change, &node).await?;
            let uid = volume.as_ref().map(|volume| volume.resource.uid.as_str());
            core.leave_namespace(
                &mut change,
                &node,
                &stored.resource,
                uid.unwrap_or_default(),
            )
            .await?;
        }
        // As long as its volume has no place no node was told of it.
        match &volume {
            Some(volume) => change.status_unchanged(volume),
            None => change.unchanged(core.repo.keys().spec(Kind::Volume, &volume_id), 0),
        };
        remove_claims(&mut change, &stored.resource);
        core.delete_now(call, change, &stored).await
    }
}

/// Gives back what a namespace has claimed.
pub fn remove_claims(change: &mut Change, namespace: &Namespace) {
    let spec = namespace.spec.clone().unwrap_or_default();
    let volume = id_in(Kind::Volume, &spec.volume);
    let ids = id_in(Kind::Namespace, &namespace.name);
    let subsystem = ids.split('/').next().unwrap_or_default();
    let nsid = change.keys().claim_nsid(subsystem, spec.nsid);
    let volume = change.keys().claim_volume(&volume);
    change.delete(nsid).delete(volume);
}

/// A free identifier: the lowest at first; where others were faster, one of the next free ones by
/// chance, of more with each round.
fn choose(taken: &BTreeSet<u32>, most: u32, round: u32, spread: u128) -> Option<u32> {
    const WIDER: u128 = 8;
    let mut free = (1..=most).filter(|nsid| !taken.contains(nsid));
    let choices = 1 + u128::from(round) * WIDER;
    let skip = usize::try_from(spread % choices).ok()?;
    let lowest = free.next()?;
    Some(match skip.checked_sub(1) {
        None => lowest,
        Some(skip) => free.nth(skip).unwrap_or(lowest),
    })
}

#[tonic::async_trait]
impl NamespaceService for Namespaces {
    async fn create_namespace(
        &self,
        request: Request<CreateNamespaceRequest>,
    ) -> Result<Response<Operation>, Status> {
        let call = self.0.enter("CreateNamespace", &request)?;
        call.run(self.create(&call, request.into_inner())).await
    }

    async fn get_namespace(
        &self,
        request: Request<GetNamespaceRequest>,
    ) -> Result<Response<Namespace>, Status> {
        let call = self.0.enter("GetNamespace", &request)?;
        call.run(self.0.get::<Namespace>(&request.into_inner().name))
            .await
    }

    async fn list_namespaces(
        &self,
        request: Request<ListNamespacesRequest>,
    ) -> Result<Response<ListNamespacesResponse>, Status> {
        let call = self.0.enter("ListNamespaces", &request)?;
        let request = request.into_inner();
        call.run(async {
            let parent = parent(Kind::Namespace, &request.parent)?;
            let page = self
                .0
                .page::<Namespace>(parent.as_ref(), request.page_size, &request.page_token)
                .await?;
            Ok(ListNamespacesResponse {
                namespaces: page.items.into_iter().map(|item| item.resource).collect(),
                next_page_token: page.next_page_token,
                resume_token: page.resume_token,
            })
        })
        .await
    }

    async fn update_namespace(
        &self,
        request: Request<UpdateNamespaceRequest>,
    ) -> Result<Response<Namespace>, Status> {
        let call = self.0.enter("UpdateNamespace", &request)?;
        call.run(self.update(&call, request.into_inner())).await
    }

    async fn delete_namespace(
        &self,
        request: Request<DeleteNamespaceRequest>,
    ) -> Result<Response<Operation>, Status> {
        let call = self.0.enter("DeleteNamespace", &request)?;
        call.run(self.delete(&call, request.into_inner())).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_in_progress_choose_apart() {
        let all = Reserved::default();
        let reserve = || Reservation {
            all: &all,
            subsystem: "s".to_owned(),
            nsid: Mutex::new(None),
        };
        let none = BTreeSet::new();
        let (one, two, three) = (reserve(), reserve(), reserve());
        assert_eq!(one.renew(&none, 2, 0, 0), Some(1));
        assert_eq!(two.renew(&none, 2, 0, 0), Some(2));
        // One of the two may fail yet.
        assert_eq!(three.renew(&none, 2, 0, 0), Some(1));
        drop(three);
        assert_eq!(two.renew(&none, 2, 0, 0), Some(2));
        drop(one);
        assert_eq!(two.renew(&none, 2, 0, 0), Some(1));
        drop(two);
        assert!(all.0.lock().unwrap().is_empty());
    }

    #[test]
    fn free_identifiers_are_chosen() {
        let taken = |ids: &[u32]| ids.iter().copied().collect::<BTreeSet<u32>>();
        assert_eq!(choose(&taken(&[]), 4, 0, 77), Some(1));
        assert_eq!(choose(&taken(&[1, 3]), 4, 0, 77), Some(2));
        assert_eq!(choose(&taken(&[1, 2, 3, 4]), 4, 0, 0), None);
        assert_eq!(choose(&taken(&[1, 2, 3, 4]), 4, 3, 9), None);
        // The only free one, however far the chance would skip.
        assert_eq!(choose(&taken(&[1, 2, 4]), 4, 3, 8), Some(3));
        let second: BTreeSet<_> = (0..9)
            .filter_map(|chance| choose(&taken(&[]), 100, 1, chance))
            .collect();
        assert_eq!(second, (1..=9).collect());
    }
}
