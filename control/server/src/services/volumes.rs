//! Volumes.

use std::sync::Arc;

use penstock_api::names::{Kind, ResourceName};
use penstock_api::v1::volume_service_server::VolumeService;
use penstock_api::v1::{
    CreateVolumeRequest, DeleteVolumeRequest, Device, GetVolumeRequest, ListVolumesRequest,
    ListVolumesResponse, Node, Operation, UpdateVolumeRequest, Volume, VolumeSpec, VolumeState,
    VolumeStatus,
};
use penstock_api::well_known::FieldMask;
use penstock_store::Compare;
use tonic::{Request, Response, Status};

use super::core::{Attempt, Call, Core};
use super::space;
use super::write::{id_in, in_use, no_such};
use crate::fault::{Fault, Result};
use crate::ops::{self, Verb};
use crate::quota::Amounts;
use crate::repo::Stored;
use crate::validate;

/// The service of volumes.
#[derive(Clone)]
pub struct Volumes {
    core: Arc<Core>,
    devices: Arc<space::Devices>,
}

impl Volumes {
    /// The service over what all share.
    pub(super) fn new(core: Arc<Core>) -> Volumes {
        Volumes {
            core,
            devices: Arc::default(),
        }
    }

    async fn create(&self, call: &Call, request: CreateVolumeRequest) -> Result<Operation> {
        let name = validate::new_name(Kind::Volume, None, &request.volume_id)?;
        let intent = self.core.intend(
            call,
            &name.to_string(),
            &request.request_id,
            request.validate_only,
            &request,
        )?;
        let given = request.volume.unwrap_or_default();
        validate::resource(&given)?;
        self.core
            .mutate(call, &intent, |_| {
                Box::pin(self.plan_create(call, &name, &given))
            })
            .await
    }

    async fn plan_create(
        &self,
        call: &Call,
        name: &ResourceName,
        given: &Volume,
    ) -> Result<Attempt<Operation>> {
        let core = &self.core;
        if let Some(stored) = core.existing(name, given).await? {
            let status = stored.resource.status.clone().unwrap_or_default();
            let ready = status.state() == VolumeState::Ready;
            return core.creation_of(call, &stored, ready).await;
        }
        let new = core.fresh(name, given);
        let spec = new.spec.clone().unwrap_or_default();
        let size = size_of(&spec);
        core.quota.volume_size(size)?;
        self.places_exist(&spec).await?;
        self.devices.could_hold(&core.repo, &spec).await?;
        let mut change = core.repo.change();
        let more = Amounts {
            count: 1,
            bytes: size,
        };
        core.quota
            .room(&core.repo, &mut change, Kind::Volume, more)
            .await?;
        core.put_new(call, &mut change, &name.key(), &new);
        let status = VolumeStatus {
            state: VolumeState::Pending.into(),
            ..VolumeStatus::default()
        };
        change.put_status::<Volume>(&name.key(), &status);
        let operation = ops::begin(&new, Verb::Create, &call.caller.name, core.now());
        core.put_begun(&mut change, &operation);
        Ok(Attempt::Write(change, operation))
    }

    /// Refuses a placement that names what is not there.
    async fn places_exist(&self, spec: &VolumeSpec) -> Result<()> {
        let Some(placement) = &spec.placement else {
            return Ok(());
        };
        let repo = &self.core.repo;
        if !placement.node.is_empty() {
            let field = "volume.spec.placement.node";
            let name = validate::name(Kind::Node, field, &placement.node)?;
            if repo.get::<Node>(&name.key()).await?.is_none() {
                return Err(no_such(field, &placement.node));
            }
        }
        for device in &placement.devices {
            let field = "volume.spec.placement.devices";
            let name = validate::name(Kind::Device, field, device)?;
            if repo.get::<Device>(&name.key()).await?.is_none() {
                return Err(no_such(field, device));
            }
        }
        Ok(())
    }

    async fn update(&self, call: &Call, request: UpdateVolumeRequest) -> Result<Operation> {
        let new = request.volume.clone().unwrap_or_default();
        let name = validate::name(Kind::Volume, "volume.name", &new.name)?;
        let intent = self.core.intend(
            call,
            &new.name,
            &request.request_id,
            request.validate_only,
            &request,
        )?;
        let mask = request.update_mask.as_ref();
        self.core
            .mutate(call, &intent, |_| {
                Box::pin(self.plan_update(call, &name, &new, mask))
            })
            .await
    }

    async fn plan_update(
        &self,
        call: &Call,
        name: &ResourceName,
        new: &Volume,
        mask: Option<&FieldMask>,
    ) -> Result<Attempt<Operation>> {
        let core = &self.core;
        let (stored, updated) = core.updated(name, new, mask).await?;
        let spec = updated.spec.clone().unwrap_or_default();
        let before = stored.resource.spec.clone().unwrap_or_default();
        if spec.size_bytes < before.size_bytes {
            return Err(Fault::field(
                "volume.spec.size_bytes",
                format!(
                    "it is {}, but {name} has {} and cannot shrink; leave it, or make a smaller volume and copy the data",
                    spec.size_bytes, before.size_bytes
                ),
            ));
        }
        let mut change = core.repo.change();
        let grows = spec.size_bytes > before.size_bytes;
        if grows {
            core.quota.volume_size(size_of(&spec))?;
            self.devices.could_hold(&core.repo, &spec).await?;
            let more = Amounts {
                count: 0,
                bytes: size_of(&spec).saturating_sub(size_of(&before)),
            };
            core.quota
                .room(&core.repo, &mut change, Kind::Volume, more)
                .await?;
        }
        let verb = Verb::Update(updated.generation);
        let mut operation = ops::begin(&updated, verb, &call.caller.name, core.now());
        if updated != stored.resource {
            core.put_updated(call, &mut change, &stored, &updated);
        }
        if grows {
            core.put_begun(&mut change, &operation);
        } else {
            // Nothing that a node would have to do.
            operation.name = format!("operations/{}", core.env.ids.text());
            operation = core.put_ended(&mut change, operation).await?;
        }
        Ok(Attempt::Write(change, operation))
    }

    async fn delete(&self, call: &Call, request: DeleteVolumeRequest) -> Result<Operation> {
        let name = validate::name(Kind::Volume, "name", &request.name)?;
        let intent = self.core.intend(
            call,
            &request.name,
            &request.request_id,
            request.validate_only,
            &request,
        )?;
        self.core
            .mutate(call, &intent, |_| {
                Box::pin(self.plan_delete(call, &name, &request))
            })
            .await
    }

    async fn plan_delete(
        &self,
        call: &Call,
        name: &ResourceName,
        request: &DeleteVolumeRequest,
    ) -> Result<Attempt<Operation>> {
        let core = &self.core;
        let found = core
            .to_delete::<Volume>(name, &request.etag, request.allow_missing)
            .await?;
        let Some(stored) = found else {
            return core.nothing_to_delete(call, name).await;
        };
        let mut change = core.repo.change();
        let claim = change.keys().claim_volume(&stored.ids);
        core.not_served(&stored, &claim).await?;
        change.require(Compare::Absent(claim));
        let status = stored.resource.status.as_ref();
        if let Some(layout) = status.and_then(|status| status.layout.as_ref()) {
            let node = id_in(Kind::Node, &layout.node);
            if !request.force {
                return core.begin_delete(call, change, &stored, &node).await;
            }
            core.require_offline(&mut change, &node).await?;
        }
        // It has no place, so that no node was told of it; or its node does not come back.
        core.delete_now(call, change, &stored).await
    }

    async fn list(&self, request: ListVolumesRequest) -> Result<ListVolumesResponse> {
        let page = self
            .core
            .page::<Volume>(None, request.page_size, &request.page_token)
            .await?;
        let mut items = page.items;
        self.core.fill_namespaces(&mut items, page.revision).await?;
        Ok(ListVolumesResponse {
            volumes: items.into_iter().map(|item| item.resource).collect(),
            next_page_token: page.next_page_token,
            resume_token: page.resume_token,
        })
    }
}

impl Core {
    /// Refuses to delete a volume that a namespace serves.
    ///
    /// # Errors
    /// FAILED_PRECONDITION; the store's.
    pub async fn not_served(&self, stored: &Stored<Volume>, claim: &str) -> Result<()> {
        let Some(entry) = self.repo.entry(claim, None).await? else {
            return Ok(());
        };
        let user = String::from_utf8_lossy(&entry.value).into_owned();
        Err(in_use(
            &stored.resource.name,
            &[user],
            1,
            "delete that namespace first",
        ))
    }

    /// Fills in through which namespaces these volumes, in the order of their names, are served.
    ///
    /// # Errors
    /// The store's.
    pub async fn fill_namespaces(
        &self,
        volumes: &mut [Stored<Volume>],
        revision: penstock_store::Revision,
    ) -> Result<()> {
        let (Some(first), Some(last)) = (volumes.first(), volumes.last()) else {
            return Ok(());
        };
        let claims = self.repo.keys().claims_volume();
        let (limit, first, last) = (volumes.len(), first.ids.clone(), last.ids.clone());
        let mut namespaces = std::collections::BTreeMap::new();
        // What follows a key does not include the key itself.
        let own = self
            .repo
            .entry(&format!("{claims}{first}"), Some(revision))
            .await?;
        namespaces.extend(own.map(|entry| (first.clone(), entry)));
        if first != last {
            let found = self
                .repo
                .entries(&claims, "", Some(&first), &last, limit, revision)
                .await?;
            namespaces.extend(found);
        }
        for stored in volumes {
            if let Some(entry) = namespaces.get(&stored.ids) {
                stored.resource.status.get_or_insert_default().namespace =
                    String::from_utf8_lossy(&entry.value).into_owned();
            }
        }
        Ok(())
    }

    /// A volume with the namespace that it is served through.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, NOT_FOUND; the store's.
    pub async fn volume(&self, field: &str, name: &str) -> Result<Volume> {
        let mut stored = self.stored::<Volume>(field, name).await?;
        let claim = self.repo.keys().claim_volume(&stored.ids);
        if let Some(entry) = self.repo.entry(&claim, None).await? {
            stored.resource.status.get_or_insert_default().namespace =
                String::from_utf8_lossy(&entry.value).into_owned();
        }
        Ok(stored.resource)
    }
}

/// The size of a volume whose spec is good.
fn size_of(spec: &VolumeSpec) -> u64 {
    u64::try_from(spec.size_bytes).unwrap_or(0)
}

#[tonic::async_trait]
impl VolumeService for Volumes {
    async fn create_volume(
        &self,
        request: Request<CreateVolumeRequest>,
    ) -> Result<Response<Operation>, Status> {
        let call = self.core.enter("CreateVolume", &request)?;
        call.run(self.create(&call, request.into_inner())).await
    }

    async fn get_volume(
        &self,
        request: Request<GetVolumeRequest>,
    ) -> Result<Response<Volume>, Status> {
        let call = self.core.enter("GetVolume", &request)?;
        call.run(self.core.volume("name", &request.into_inner().name))
            .await
    }

    async fn list_volumes(
        &self,
        request: Request<ListVolumesRequest>,
    ) -> Result<Response<ListVolumesResponse>, Status> {
        let call = self.core.enter("ListVolumes", &request)?;
        call.run(self.list(request.into_inner())).await
    }

    async fn update_volume(
        &self,
        request: Request<UpdateVolumeRequest>,
    ) -> Result<Response<Operation>, Status> {
        let call = self.core.enter("UpdateVolume", &request)?;
        call.run(self.update(&call, request.into_inner())).await
    }

    async fn delete_volume(
        &self,
        request: Request<DeleteVolumeRequest>,
    ) -> Result<Response<Operation>, Status> {
        let call = self.core.enter("DeleteVolume", &request)?;
        call.run(self.delete(&call, request.into_inner())).await
    }
}
