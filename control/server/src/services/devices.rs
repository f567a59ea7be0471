//! Devices.

use std::sync::Arc;

use penstock_api::names::Kind;
use penstock_api::v1::device_service_server::DeviceService;
use penstock_api::v1::{
    Device, GetDeviceRequest, ListDevicesRequest, ListDevicesResponse, UpdateDeviceRequest,
};
use tonic::{Request, Response, Status};

use super::core::{Call, Core};
use super::list::parent;
use crate::fault::Result;
use crate::validate;

/// The service of devices.
#[derive(Clone)]
pub struct Devices(pub(super) Arc<Core>);

impl Devices {
    async fn update(&self, call: &Call, request: UpdateDeviceRequest) -> Result<Device> {
        let new = request.device.clone().unwrap_or_default();
        let name = validate::name(Kind::Device, "device.name", &new.name)?;
        let intent = self.0.intend(
            call,
            &new.name,
            &request.request_id,
            request.validate_only,
            &request,
        )?;
        let mask = request.update_mask.as_ref();
        let mut device = self
            .0
            .mutate(call, &intent, |_| {
                Box::pin(self.0.plan_update(call, &name, &new, mask))
            })
            .await?;
        self.0.fill_usage(std::slice::from_mut(&mut device)).await?;
        Ok(device)
    }

    async fn list(&self, request: ListDevicesRequest) -> Result<ListDevicesResponse> {
        let parent = parent(Kind::Device, &request.parent)?;
        let page = self
            .0
            .page::<Device>(parent.as_ref(), request.page_size, &request.page_token)
            .await?;
        let mut devices: Vec<Device> = page.items.into_iter().map(|item| item.resource).collect();
        self.0.fill_usage(&mut devices).await?;
        Ok(ListDevicesResponse {
            devices,
            next_page_token: page.next_page_token,
            resume_token: page.resume_token,
        })
    }
}

#[tonic::async_trait]
impl DeviceService for Devices {
    async fn get_device(
        &self,
        request: Request<GetDeviceRequest>,
    ) -> Result<Response<Device>, Status> {
        let call = self.0.enter("GetDevice", &request)?;
        let request = request.into_inner();
        call.run(async {
            let mut device = self.0.get::<Device>(&request.name).await?;
            self.0.fill_usage(std::slice::from_mut(&mut device)).await?;
            Ok(device)
        })
        .await
    }

    async fn list_devices(
        &self,
        request: Request<ListDevicesRequest>,
    ) -> Result<Response<ListDevicesResponse>, Status> {
        let call = self.0.enter("ListDevices", &request)?;
        call.run(self.list(request.into_inner())).await
    }

    async fn update_device(
        &self,
        request: Request<UpdateDeviceRequest>,
    ) -> Result<Response<Device>, Status> {
        let call = self.0.enter("UpdateDevice", &request)?;
        call.run(self.update(&call, request.into_inner())).await
    }
}
