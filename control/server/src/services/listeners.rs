//! Listeners.

use std::net::IpAddr;
use std::sync::Arc;

use penstock_api::names::{Kind, ResourceName};
use penstock_api::resource::Resource as _;
use penstock_api::v1::listener_service_server::ListenerService;
use penstock_api::v1::{
    CreateListenerRequest, DeleteListenerRequest, GetListenerRequest, ListListenersRequest,
    ListListenersResponse, Listener, ListenerSpec, Node, Operation,
};
use penstock_plan::observe::is_true;
use tonic::{Request, Response, Status};

use super::core::{Attempt, Call, Core};
use super::force::leave_listener;
use super::list::parent;
use super::write::not_deleting;
use crate::fault::{Fault, Result};
use crate::ops::{self, Verb};
use crate::quota::Amounts;
use crate::repo::Stored;
use crate::validate;

/// The service of listeners.
#[derive(Clone)]
pub struct Listeners(pub(super) Arc<Core>);

impl Listeners {
    async fn create(&self, call: &Call, request: CreateListenerRequest) -> Result<Operation> {
        let parent = validate::name(Kind::Node, "parent", &request.parent)?;
        let name = validate::new_name(Kind::Listener, Some(&parent), &request.listener_id)?;
        let intent = self.0.intend(
            call,
            &name.to_string(),
            &request.request_id,
            request.validate_only,
            &request,
        )?;
        let given = request.listener.unwrap_or_default();
        validate::resource(&given)?;
        self.0
            .mutate(call, &intent, |_| {
                Box::pin(self.plan_create(call, &parent, &name, &given))
            })
            .await
    }

    async fn plan_create(
        &self,
        call: &Call,
        parent: &ResourceName,
        name: &ResourceName,
        given: &Listener,
    ) -> Result<Attempt<Operation>> {
        let core = &self.0;
        if let Some(stored) = core.existing(name, given).await? {
            let ready = is_true(stored.resource.conditions(), "Ready");
            return core.creation_of(call, &stored, ready).await;
        }
        let node = core
            .repo
            .get::<Node>(&parent.key())
            .await?
            .ok_or_else(|| Fault::not_found(&parent.to_string()))?;
        not_deleting(&node.resource)?;
        let new = core.fresh(name, given);
        // Listeners of one node are created one after the other: either sees the other's address.
        let guard = core.repo.keys().guard_use(Kind::Node, &node.ids);
        let seen = core.repo.entry(&guard, None).await?;
        self.address_free(parent, &new).await?;
        let mut change = core.repo.change();
        core.quota
            .room(&core.repo, &mut change, Kind::Listener, Amounts::ONE)
            .await?;
        core.put_new(call, &mut change, &name.key(), &new);
        change
            .still_exists(&node)
            .unchanged(guard, seen.map_or(0, |entry| entry.mod_revision))
            .guard_use(Kind::Node, &node.ids);
        let operation = ops::begin(&new, Verb::Create, &call.caller.name, core.now());
        core.put_begun(&mut change, &operation);
        Ok(Attempt::Write(change, operation))
    }

    /// Refuses an address that another listener of the node has, alone or with all of its family.
    async fn address_free(&self, node: &ResourceName, new: &Listener) -> Result<()> {
        let prefix = format!("{}/", node.key());
        let others = self.0.repo.all::<Listener>(&prefix, None).await?.items;
        let spec = new.spec_or_default();
        let clashing = |other: &Stored<Listener>| clash(&other.resource.spec_or_default(), &spec);
        let Some(other) = others.iter().find(|other| clashing(other)) else {
            return Ok(());
        };
        Err(Fault::precondition(
            "ADDRESS_IN_USE",
            format!(
                "{} listens at {} port {} already; use another port or address, or that listener",
                other.resource.name,
                other.resource.spec_or_default().address,
                spec.port
            ),
        )
        .with("owner", &other.resource.name))
    }

    async fn delete(&self, call: &Call, request: DeleteListenerRequest) -> Result<Operation> {
        let name = validate::name(Kind::Listener, "name", &request.name)?;
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
        request: &DeleteListenerRequest,
    ) -> Result<Attempt<Operation>> {
        let core = &self.0;
        let found = core
            .to_delete::<Listener>(name, &request.etag, request.allow_missing)
            .await?;
        let Some(stored) = found else {
            return core.nothing_to_delete(call, name).await;
        };
        let mut change = core.repo.change();
        let node_id = stored.ids.split('/').next().unwrap_or_default();
        let node = core.repo.get::<Node>(node_id).await?;
        let connected = node
            .as_ref()
            .is_some_and(|node| node.resource.status.is_some());
        if connected && !request.force {
            return core.begin_delete(call, change, &stored, node_id).await;
        }
        if connected {
            core.require_offline(&mut change, node_id).await?;
            leave_listener(&mut change, node_id, &stored.resource);
            return core.delete_now(call, change, &stored).await;
        }
        // The node's agent has never called: nobody was told of the listener.
        match &node {
            Some(node) => change.status_unchanged(node),
            None => change.unchanged(core.repo.keys().spec(Kind::Node, node_id), 0),
        };
        core.delete_now(call, change, &stored).await
    }
}

/// Whether two listeners of one node cannot both listen. The wildcard of a family takes all of its
/// addresses.
fn clash(one: &ListenerSpec, other: &ListenerSpec) -> bool {
    let address = |spec: &ListenerSpec| spec.address.parse::<IpAddr>().ok();
    let same = match (address(one), address(other)) {
        (Some(one), Some(other)) => {
            let any = one.is_unspecified() || other.is_unspecified();
            one == other || (any && one.is_ipv4() == other.is_ipv4())
        }
        _ => one.address == other.address,
    };
    same && one.port == other.port && one.transport == other.transport
}

#[tonic::async_trait]
impl ListenerService for Listeners {
    async fn create_listener(
        &self,
        request: Request<CreateListenerRequest>,
    ) -> Result<Response<Operation>, Status> {
        let call = self.0.enter("CreateListener", &request)?;
        call.run(self.create(&call, request.into_inner())).await
    }

    async fn get_listener(
        &self,
        request: Request<GetListenerRequest>,
    ) -> Result<Response<Listener>, Status> {
        let call = self.0.enter("GetListener", &request)?;
        call.run(self.0.get::<Listener>(&request.into_inner().name))
            .await
    }

    async fn list_listeners(
        &self,
        request: Request<ListListenersRequest>,
    ) -> Result<Response<ListListenersResponse>, Status> {
        let call = self.0.enter("ListListeners", &request)?;
        let request = request.into_inner();
        call.run(async {
            let parent = parent(Kind::Listener, &request.parent)?;
            let page = self
                .0
                .page::<Listener>(parent.as_ref(), request.page_size, &request.page_token)
                .await?;
            Ok(ListListenersResponse {
                listeners: page.items.into_iter().map(|item| item.resource).collect(),
                next_page_token: page.next_page_token,
                resume_token: page.resume_token,
            })
        })
        .await
    }

    async fn delete_listener(
        &self,
        request: Request<DeleteListenerRequest>,
    ) -> Result<Response<Operation>, Status> {
        let call = self.0.enter("DeleteListener", &request)?;
        call.run(self.delete(&call, request.into_inner())).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_clash_where_one_takes_what_the_other_has() {
        let spec = |address: &str, port| ListenerSpec {
            transport: "tcp".to_owned(),
            address: address.to_owned(),
            port,
        };
        for (one, other, clashes) in [
            (("10.0.0.1", 4420), ("10.0.0.1", 4420), true),
            (("10.0.0.1", 4420), ("10.0.0.1", 4421), false),
            (("10.0.0.1", 4420), ("10.0.0.2", 4420), false),
            (("0.0.0.0", 4420), ("10.0.0.2", 4420), true),
            (("fd00::1", 4420), ("::", 4420), true),
            (("fd00::1", 4420), ("FD00:0::1", 4420), true),
            (("0.0.0.0", 4420), ("fd00::1", 4420), false),
        ] {
            let (one, other) = (spec(one.0, one.1), spec(other.0, other.1));
            assert_eq!(clash(&one, &other), clashes, "{one:?} {other:?}");
            assert_eq!(clash(&other, &one), clashes, "{one:?} {other:?}");
        }
    }
}
