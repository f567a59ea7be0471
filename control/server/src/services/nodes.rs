//! Nodes.

use std::sync::Arc;

use penstock_api::names::{Kind, ResourceName};
use penstock_api::v1::node_service_server::NodeService;
use penstock_api::v1::{
    CreateNodeRequest, DeleteNodeRequest, Device, GetNodeRequest, ListNodesRequest,
    ListNodesResponse, Node, ResolveOrphanRequest, UpdateNodeRequest,
};
use penstock_api::well_known::Empty;
use tonic::{Request, Response, Status};

use super::core::{Attempt, Call, Core};
use super::force::OnNode;
use super::write::{in_use, note};
use crate::fault::Result;
use crate::keys::unchanged;
use crate::quota::Amounts;
use crate::repo::Stored;
use crate::validate;

/// Keys below a node that go in the same transaction as it; more go before it.
const KEYS_AT_ONCE: usize = 64;

/// The service of nodes.
#[derive(Clone)]
pub struct Nodes(pub(super) Arc<Core>);

impl Nodes {
    async fn create(&self, call: &Call, request: CreateNodeRequest) -> Result<Node> {
        let name = validate::new_name(Kind::Node, None, &request.node_id)?;
        let intent = self.0.intend(
            call,
            &name.to_string(),
            &request.request_id,
            request.validate_only,
            &request,
        )?;
        let given = request.node.unwrap_or_default();
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
        given: &Node,
    ) -> Result<Attempt<Node>> {
        if let Some(stored) = self.0.existing(name, given).await? {
            return Ok(Attempt::Nothing(stored.resource));
        }
        let mut change = self.0.repo.change();
        let new = self.0.fresh(name, given);
        self.0
            .quota
            .room(&self.0.repo, &mut change, Kind::Node, Amounts::ONE)
            .await?;
        self.0.put_new(call, &mut change, &name.key(), &new);
        Ok(Attempt::Write(change, new))
    }

    async fn update(&self, call: &Call, request: UpdateNodeRequest) -> Result<Node> {
        let new = request.node.clone().unwrap_or_default();
        let name = validate::name(Kind::Node, "node.name", &new.name)?;
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

    async fn delete(&self, call: &Call, request: DeleteNodeRequest) -> Result<Empty> {
        let name = validate::name(Kind::Node, "name", &request.name)?;
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
        request: &DeleteNodeRequest,
    ) -> Result<Attempt<Empty>> {
        let core = &self.0;
        let found = core
            .to_delete::<Node>(name, &request.etag, request.allow_missing)
            .await?;
        let Some(stored) = found else {
            return Ok(Attempt::Nothing(Empty {}));
        };
        let used = core.repo.keys().guard_use(Kind::Node, &stored.ids);
        let seen = core.repo.entry(&used, None).await?;
        let allocation = core.repo.keys().guard_allocation();
        let allocated = core.repo.entry(&allocation, None).await?;
        if !request.force {
            self.unused(&stored).await?;
        } else {
            core.require_offline(&mut core.repo.change(), &stored.ids)
                .await?;
            if !request.validate_only {
                core.end_all_on(call, &stored).await?;
            }
        }
        let mut keys = self.keys_below(&stored).await?;
        if !request.validate_only {
            while keys.len() > KEYS_AT_ONCE {
                let mut change = core.repo.change();
                change.spec_unchanged(&stored);
                for key in keys.drain(..KEYS_AT_ONCE) {
                    change.delete(key);
                }
                core.repo.commit(change).await?;
            }
        }
        let mut change = core.repo.change();
        if request.force {
            core.require_offline(&mut change, &stored.ids).await?;
        }
        let revision = seen.map_or(0, |entry| entry.mod_revision);
        change
            .require(unchanged(used.clone(), revision))
            .spec_unchanged(&stored)
            // Placement has to look again, and finds the node gone.
            .require(unchanged(
                allocation.clone(),
                allocated.map_or(0, |entry| entry.mod_revision),
            ))
            .put(allocation, core.env.ids.text().into_bytes(), None)
            .delete_resource::<Node>(&stored.ids)
            .delete(used)
            // Ends the stream of its agent, which must not write of the node any more.
            .delete(core.repo.keys().session(&stored.ids));
        for key in keys {
            change.delete(key);
        }
        note(call, Some(&stored.resource), None);
        Ok(Attempt::Write(change, Empty {}))
    }

    /// Keys of the node's devices, and of what it was still to be told.
    async fn keys_below(&self, node: &Stored<Node>) -> Result<Vec<String>> {
        let repo = &self.0.repo;
        let mut keys = self.0.left(&node.ids).await?;
        let devices = repo.all::<Device>(&format!("{}/", node.ids), None).await?;
        for device in devices.items {
            keys.push(repo.keys().spec(Kind::Device, &device.ids));
            keys.push(repo.keys().status(Kind::Device, &device.ids));
        }
        Ok(keys)
    }

    /// Refuses to forget a node that something is on.
    async fn unused(&self, stored: &Stored<Node>) -> Result<()> {
        let node = &stored.resource;
        let on = self.0.on_node(stored).await?;
        let mut users = on.names();
        let orphans = node.status.iter().flat_map(|status| &status.orphans);
        users.extend(orphans.map(|orphan| format!("the orphan {}", orphan.volume_uid)));
        if users.is_empty() {
            return Ok(());
        }
        let mut remedy =
            "delete the volumes and listeners, and resolve the orphans, that are on it first"
                .to_owned();
        if !self.0.is_online(&stored.ids).await? {
            remedy.push_str(&by_force(&stored.ids, &on));
        }
        Err(in_use(&node.name, &users, users.len(), &remedy))
    }

    async fn resolve(&self, call: &Call, request: ResolveOrphanRequest) -> Result<Node> {
        let name = validate::name(Kind::Node, "name", &request.name)?;
        let intent = self
            .0
            .intend(call, &request.name, &request.request_id, false, &request)?;
        self.0
            .mutate(call, &intent, |_| {
                Box::pin(self.0.plan_resolve(call, &name, &request))
            })
            .await?;
        self.0.get::<Node>(&request.name).await
    }
}

/// What to do about a node (its id) that never comes back, and what that costs.
fn by_force(node: &str, on: &OnNode) -> String {
    let lost = |what: &str, names: Vec<String>| match names.len() {
        0 => String::new(),
        count => {
            let names = validate::some_of(&names, count);
            format!("; lost with it: {what} {names}")
        }
    };
    let volumes = on.volumes.iter().map(|item| item.resource.name.clone());
    let namespaces = on.namespaces.iter().map(|item| item.resource.name.clone());
    format!(
        ". It is not connected: if it never comes back, delete it by force (penstock node delete \
         {node} --force; with --dry-run it lists what is lost){}{}",
        lost("the data of", volumes.collect()),
        lost("the namespaces", namespaces.collect())
    )
}

#[tonic::async_trait]
impl NodeService for Nodes {
    async fn create_node(
        &self,
        request: Request<CreateNodeRequest>,
    ) -> Result<Response<Node>, Status> {
        let call = self.0.enter("CreateNode", &request)?;
        call.run(self.create(&call, request.into_inner())).await
    }

    async fn get_node(&self, request: Request<GetNodeRequest>) -> Result<Response<Node>, Status> {
        let call = self.0.enter("GetNode", &request)?;
        call.run(self.0.get::<Node>(&request.into_inner().name))
            .await
    }

    async fn list_nodes(
        &self,
        request: Request<ListNodesRequest>,
    ) -> Result<Response<ListNodesResponse>, Status> {
        let call = self.0.enter("ListNodes", &request)?;
        let request = request.into_inner();
        call.run(async {
            let page = self
                .0
                .page::<Node>(None, request.page_size, &request.page_token)
                .await?;
            Ok(ListNodesResponse {
                nodes: page.items.into_iter().map(|item| item.resource).collect(),
                next_page_token: page.next_page_token,
                resume_token: page.resume_token,
            })
        })
        .await
    }

    async fn update_node(
        &self,
        request: Request<UpdateNodeRequest>,
    ) -> Result<Response<Node>, Status> {
        let call = self.0.enter("UpdateNode", &request)?;
        call.run(self.update(&call, request.into_inner())).await
    }

    async fn delete_node(
        &self,
        request: Request<DeleteNodeRequest>,
    ) -> Result<Response<Empty>, Status> {
        let call = self.0.enter("DeleteNode", &request)?;
        call.run(self.delete(&call, request.into_inner())).await
    }

    async fn resolve_orphan(
        &self,
        request: Request<ResolveOrphanRequest>,
    ) -> Result<Response<Node>, Status> {
        let call = self.0.enter("ResolveOrphan", &request)?;
        call.run(self.resolve(&call, request.into_inner())).await
    }
}
