//! Listeners.

use std::sync::Arc;

use penstock_api::names::{Kind, ResourceName};
use penstock_api::resource::Resource as _;
use penstock_api::v1::listener_service_server::ListenerService;
use penstock_api::v1::{
    CreateListenerRequest, DeleteListenerRequest, GetListenerRequest, ListListenersRequest,
    ListListenersResponse, Listener, Node, Operation,
};
use penstock_plan::observe::is_true;
use tonic::{Request, Response, Status};

use super::core::{Attempt, Call, Core};
use super::list::parent;
use super::write::not_deleting;
use crate::fault::{Fault, Result};
use crate::ops::{self, Verb};
use crate::quota::Amounts;
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
        self.address_free(parent, &new).await?;
        let mut change = core.repo.change();
        core.quota
            .room(&core.repo, &mut change, Kind::Listener, Amounts::ONE)
            .await?;
        core.put_new(call, &mut change, &name.key(), &new);
        change.still_exists(&node).guard_use(Kind::Node, &node.ids);
        let operation = ops::begin(&new, Verb::Create, &call.caller.name, core.now());
        core.put_begun(&mut change, &operation);
        Ok(Attempt::Write(change, operation))
    }

    /// Refuses an address that another listener of the node has. Two that are created at the same
    /// time are told by their status.
    async fn address_free(&self, node: &ResourceName, new: &Listener) -> Result<()> {
        let prefix = format!("{}/", node.key());
        let others = self.0.repo.all::<Listener>(&prefix, None).await?.items;
        let Some(other) = others.iter().find(|other| other.resource.spec == new.spec) else {
            return Ok(());
        };
        let spec = new.spec.clone().unwrap_or_default();
        Err(Fault::precondition(
            "ADDRESS_IN_USE",
            format!(
                "{} listens at {} port {} already; use another port or address, or that listener",
                other.resource.name, spec.address, spec.port
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
        if connected {
            return core.begin_delete(call, change, &stored).await;
        }
        // The node's agent has never called: nobody was told of the listener.
        match &node {
            Some(node) => change.status_unchanged(node),
            None => change.unchanged(core.repo.keys().spec(Kind::Node, node_id), 0),
        };
        core.delete_now(call, change, &stored).await
    }
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
