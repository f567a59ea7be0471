//! Hosts.

use std::sync::Arc;

use penstock_api::names::{Kind, ResourceName};
use penstock_api::v1::host_service_server::HostService;
use penstock_api::v1::{
    CreateHostRequest, DeleteHostRequest, GetHostRequest, Host, ListHostsRequest,
    ListHostsResponse, Subsystem, UpdateHostRequest,
};
use penstock_api::well_known::Empty;
use tonic::{Code, Request, Response, Status};

use super::core::{Attempt, Call, Core};
use super::write::{in_use, note};
use crate::fault::{Fault, Result};
use crate::keys::unchanged;
use crate::quota::Amounts;
use crate::validate;

/// The service of hosts.
#[derive(Clone)]
pub struct Hosts(pub(super) Arc<Core>);

impl Hosts {
    async fn create(&self, call: &Call, request: CreateHostRequest) -> Result<Host> {
        let name = validate::new_name(Kind::Host, None, &request.host_id)?;
        let intent = self.0.intend(
            call,
            &name.to_string(),
            &request.request_id,
            request.validate_only,
            &request,
        )?;
        let given = request.host.unwrap_or_default();
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
        given: &Host,
    ) -> Result<Attempt<Host>> {
        if let Some(stored) = self.0.existing(name, given).await? {
            return Ok(Attempt::Nothing(stored.resource));
        }
        let mut change = self.0.repo.change();
        let new = self.0.fresh(name, given);
        let nqn = new.spec.as_ref().map_or("", |spec| spec.nqn.as_str());
        let claim = change.keys().claim_host_nqn(nqn);
        self.0
            .unclaimed(
                &claim,
                "host.spec.nqn",
                nqn,
                "choose another, or delete that host",
            )
            .await?;
        self.0
            .quota
            .room(&self.0.repo, &mut change, Kind::Host, Amounts::ONE)
            .await?;
        self.0.put_new(call, &mut change, &name.key(), &new);
        change.claim(claim, &new.name);
        Ok(Attempt::Write(change, new))
    }

    async fn update(&self, call: &Call, request: UpdateHostRequest) -> Result<Host> {
        let new = request.host.clone().unwrap_or_default();
        let name = validate::name(Kind::Host, "host.name", &new.name)?;
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

    async fn delete(&self, call: &Call, request: DeleteHostRequest) -> Result<Empty> {
        let name = validate::name(Kind::Host, "name", &request.name)?;
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
        request: &DeleteHostRequest,
    ) -> Result<Attempt<Empty>> {
        let core = &self.0;
        let found = core
            .to_delete::<Host>(name, &request.etag, request.allow_missing)
            .await?;
        let Some(stored) = found else {
            return Ok(Attempt::Nothing(Empty {}));
        };
        let used = core.repo.keys().guard_hosts_used();
        let seen = core.repo.entry(&used, None).await?;
        let users: Vec<String> = core
            .repo
            .all::<Subsystem>("", None)
            .await?
            .items
            .into_iter()
            .map(|subsystem| subsystem.resource)
            .filter(|subsystem| {
                let hosts = subsystem.spec.as_ref().map_or(&[][..], |spec| &spec.hosts);
                hosts.contains(&stored.resource.name)
            })
            .map(|subsystem| subsystem.name)
            .collect();
        if !users.is_empty() {
            let remedy = "take it out of their spec.hosts first";
            return Err(in_use(&stored.resource.name, &users, users.len(), remedy));
        }
        let mut change = core.repo.change();
        let deleted = change.keys().guard_hosts_deleted();
        let nqn = stored.resource.spec.clone().unwrap_or_default().nqn;
        let claim = change.keys().claim_host_nqn(&nqn);
        change
            .require(unchanged(used, seen.map_or(0, |entry| entry.mod_revision)))
            .spec_unchanged(&stored)
            .delete_resource::<Host>(&stored.ids)
            .delete(claim)
            .put(deleted, Vec::new(), None);
        note(call, Some(&stored.resource), None);
        Ok(Attempt::Write(change, Empty {}))
    }
}

impl Core {
    /// Refuses a value of a field that somebody else has claimed.
    ///
    /// # Errors
    /// FAILED_PRECONDITION with who has it; the store's.
    pub async fn unclaimed(&self, key: &str, field: &str, value: &str, remedy: &str) -> Result<()> {
        let Some(entry) = self.repo.entry(key, None).await? else {
            return Ok(());
        };
        let owner = String::from_utf8_lossy(&entry.value);
        Err(Fault::new(
            Code::FailedPrecondition,
            "CLAIMED",
            format!("{field} is {value}, which {owner} has; {remedy}"),
        )
        .with("field", field)
        .with("owner", owner))
    }
}

#[tonic::async_trait]
impl HostService for Hosts {
    async fn create_host(
        &self,
        request: Request<CreateHostRequest>,
    ) -> Result<Response<Host>, Status> {
        let call = self.0.enter("CreateHost", &request)?;
        call.run(self.create(&call, request.into_inner())).await
    }

    async fn get_host(&self, request: Request<GetHostRequest>) -> Result<Response<Host>, Status> {
        let call = self.0.enter("GetHost", &request)?;
        call.run(self.0.get::<Host>(&request.into_inner().name))
            .await
    }

    async fn list_hosts(
        &self,
        request: Request<ListHostsRequest>,
    ) -> Result<Response<ListHostsResponse>, Status> {
        let call = self.0.enter("ListHosts", &request)?;
        let request = request.into_inner();
        call.run(async {
            let page = self
                .0
                .page::<Host>(None, request.page_size, &request.page_token)
                .await?;
            Ok(ListHostsResponse {
                hosts: page.items.into_iter().map(|item| item.resource).collect(),
                next_page_token: page.next_page_token,
                resume_token: page.resume_token,
            })
        })
        .await
    }

    async fn update_host(
        &self,
        request: Request<UpdateHostRequest>,
    ) -> Result<Response<Host>, Status> {
        let call = self.0.enter("UpdateHost", &request)?;
        call.run(self.update(&call, request.into_inner())).await
    }

    async fn delete_host(
        &self,
        request: Request<DeleteHostRequest>,
    ) -> Result<Response<Empty>, Status> {
        let call = self.0.enter("DeleteHost", &request)?;
        call.run(self.delete(&call, request.into_inner())).await
    }
}
