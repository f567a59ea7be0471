//! Subsystems.

use std::sync::Arc;

use penstock_api::names::{Kind, ResourceName};
use penstock_api::v1::subsystem_service_server::SubsystemService;
use penstock_api::v1::{
    CreateSubsystemRequest, DeleteSubsystemRequest, GetSubsystemRequest, Host,
    ListSubsystemsRequest, ListSubsystemsResponse, Namespace, Subsystem, UpdateSubsystemRequest,
};
use penstock_api::well_known::{Empty, FieldMask};
use penstock_store::Range;
use tonic::{Request, Response, Status};

use super::core::{Attempt, Call, Core};
use super::write::{in_use, no_such, note};
use crate::fault::Result;
use crate::keys::unchanged;
use crate::quota::Amounts;
use crate::repo::Change;
use crate::validate;

/// Namespaces of which users are told.
const NAMED: usize = 1_000;

/// The service of subsystems.
#[derive(Clone)]
pub struct Subsystems(pub(super) Arc<Core>);

impl Subsystems {
    async fn create(&self, call: &Call, request: CreateSubsystemRequest) -> Result<Subsystem> {
        let name = validate::new_name(Kind::Subsystem, None, &request.subsystem_id)?;
        let intent = self.0.intend(
            call,
            &name.to_string(),
            &request.request_id,
            request.validate_only,
            &request,
        )?;
        let given = request.subsystem.unwrap_or_default();
        validate::resource(&given)?;
        self.0
            .mutate(call, &intent, |_| {
                Box::pin(self.plan_create(call, &name, &given))
            })
            .await
    }

    async fn plan_create(
        &self,
        call: &Call,
        name: &ResourceName,
        given: &Subsystem,
    ) -> Result<Attempt<Subsystem>> {
        if let Some(stored) = self.0.existing(name, given).await? {
            return Ok(Attempt::Nothing(stored.resource));
        }
        let mut change = self.0.repo.change();
        let new = self.0.fresh(name, given);
        // A long cluster name and a long id may make a name that is too long.
        validate::resource(&new)?;
        let spec = new.spec.clone().unwrap_or_default();
        let claim = change.keys().claim_nqn(&spec.nqn);
        self.0
            .unclaimed(
                &claim,
                "subsystem.spec.nqn",
                &spec.nqn,
                "choose another, or delete that subsystem",
            )
            .await?;
        self.grant(&mut change, &[], &spec.hosts).await?;
        self.0
            .quota
            .room(&self.0.repo, &mut change, Kind::Subsystem, Amounts::ONE)
            .await?;
        self.0.put_new(call, &mut change, &name.key(), &new);
        change.claim(claim, &new.name);
        Ok(Attempt::Write(change, new))
    }

    /// Makes sure that the hosts that are named now, and were not before, exist and stay.
    async fn grant(&self, change: &mut Change, before: &[String], now: &[String]) -> Result<()> {
        let core = &self.0;
        let new: Vec<&String> = now.iter().filter(|host| !before.contains(host)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let deleted = core.repo.keys().guard_hosts_deleted();
        let seen = core.repo.entry(&deleted, None).await?;
        let hosts = core.repo.all::<Host>("", None).await?.items;
        for host in new {
            if !hosts.iter().any(|known| known.resource.name == *host) {
                return Err(no_such("subsystem.spec.hosts", host));
            }
        }
        let used = core.repo.keys().guard_hosts_used();
        change.require(unchanged(
            deleted,
            seen.map_or(0, |entry| entry.mod_revision),
        ));
        change.put(used, Vec::new(), None);
        Ok(())
    }

    async fn update(&self, call: &Call, request: UpdateSubsystemRequest) -> Result<Subsystem> {
        let new = request.subsystem.clone().unwrap_or_default();
        let name = validate::name(Kind::Subsystem, "subsystem.name", &new.name)?;
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
                Box::pin(self.plan_update(call, &name, &new, mask))
            })
            .await
    }

    async fn plan_update(
        &self,
        call: &Call,
        name: &ResourceName,
        new: &Subsystem,
        mask: Option<&FieldMask>,
    ) -> Result<Attempt<Subsystem>> {
        let (stored, updated) = self.0.updated(name, new, mask).await?;
        if updated == stored.resource {
            return Ok(Attempt::Nothing(updated));
        }
        let mut change = self.0.repo.change();
        let hosts = |subsystem: &Subsystem| subsystem.spec.clone().unwrap_or_default().hosts;
        self.grant(&mut change, &hosts(&stored.resource), &hosts(&updated))
            .await?;
        self.0.put_updated(call, &mut change, &stored, &updated);
        Ok(Attempt::Write(change, updated))
    }

    async fn delete(&self, call: &Call, request: DeleteSubsystemRequest) -> Result<Empty> {
        let name = validate::name(Kind::Subsystem, "name", &request.name)?;
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
        request: &DeleteSubsystemRequest,
    ) -> Result<Attempt<Empty>> {
        let core = &self.0;
        let found = core
            .to_delete::<Subsystem>(name, &request.etag, request.allow_missing)
            .await?;
        let Some(stored) = found else {
            return Ok(Attempt::Nothing(Empty {}));
        };
        let used = core.repo.keys().guard_use(Kind::Subsystem, &stored.ids);
        let seen = core.repo.entry(&used, None).await?;
        let users: Vec<String> = core
            .repo
            .list::<Namespace>(&format!("{}/", stored.ids), None, NAMED, None)
            .await?
            .items
            .into_iter()
            .map(|item| item.resource.name)
            .collect();
        if !users.is_empty() {
            return Err(in_use(
                &stored.resource.name,
                &users,
                users.len(),
                "delete its namespaces first",
            ));
        }
        let mut change = core.repo.change();
        let nqn = stored.resource.spec.clone().unwrap_or_default().nqn;
        let claim = change.keys().claim_nqn(&nqn);
        let revision = seen.map_or(0, |entry| entry.mod_revision);
        change
            .require(unchanged(used.clone(), revision))
            .spec_unchanged(&stored)
            .delete_resource::<Subsystem>(&stored.ids)
            .delete(used)
            .delete(claim);
        note(call, Some(&stored.resource), None);
        Ok(Attempt::Write(change, Empty {}))
    }
}

impl Core {
    /// Identifiers that namespaces of a subsystem (its id) have.
    ///
    /// # Errors
    /// The store's.
    pub async fn nsids(&self, subsystem: &str) -> Result<std::collections::BTreeSet<u32>> {
        let prefix = self.repo.keys().claims_nsid(subsystem);
        let range = Range {
            prefix: prefix.clone(),
            keys_only: true,
            ..Range::default()
        };
        let page = self.repo.store().list(range).await?;
        Ok(page
            .entries
            .iter()
            .filter_map(|entry| entry.key.strip_prefix(&prefix)?.parse().ok())
            .collect())
    }
}

#[tonic::async_trait]
impl SubsystemService for Subsystems {
    async fn create_subsystem(
        &self,
        request: Request<CreateSubsystemRequest>,
    ) -> Result<Response<Subsystem>, Status> {
        let call = self.0.enter("CreateSubsystem", &request)?;
        call.run(self.create(&call, request.into_inner())).await
    }

    async fn get_subsystem(
        &self,
        request: Request<GetSubsystemRequest>,
    ) -> Result<Response<Subsystem>, Status> {
        let call = self.0.enter("GetSubsystem", &request)?;
        call.run(self.0.get::<Subsystem>(&request.into_inner().name))
            .await
    }

    async fn list_subsystems(
        &self,
        request: Request<ListSubsystemsRequest>,
    ) -> Result<Response<ListSubsystemsResponse>, Status> {
        let call = self.0.enter("ListSubsystems", &request)?;
        let request = request.into_inner();
        call.run(async {
            let page = self
                .0
                .page::<Subsystem>(None, request.page_size, &request.page_token)
                .await?;
            Ok(ListSubsystemsResponse {
                subsystems: page.items.into_iter().map(|item| item.resource).collect(),
                next_page_token: page.next_page_token,
                resume_token: page.resume_token,
            })
        })
        .await
    }

    async fn update_subsystem(
        &self,
        request: Request<UpdateSubsystemRequest>,
    ) -> Result<Response<Subsystem>, Status> {
        let call = self.0.enter("UpdateSubsystem", &request)?;
        call.run(self.update(&call, request.into_inner())).await
    }

    async fn delete_subsystem(
        &self,
        request: Request<DeleteSubsystemRequest>,
    ) -> Result<Response<Empty>, Status> {
        let call = self.0.enter("DeleteSubsystem", &request)?;
        call.run(self.delete(&call, request.into_inner())).await
    }
}
