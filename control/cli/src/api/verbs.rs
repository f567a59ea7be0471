//! Get, list, create, update and delete for every kind, and what only some have.

use penstock_api::v1::device_service_client::DeviceServiceClient;
use penstock_api::v1::host_service_client::HostServiceClient;
use penstock_api::v1::layout_service_client::LayoutServiceClient;
use penstock_api::v1::listener_service_client::ListenerServiceClient;
use penstock_api::v1::namespace_service_client::NamespaceServiceClient;
use penstock_api::v1::node_service_client::NodeServiceClient;
use penstock_api::v1::operation_service_client::OperationServiceClient;
use penstock_api::v1::subsystem_service_client::SubsystemServiceClient;
use penstock_api::v1::volume_service_client::VolumeServiceClient;
use penstock_api::v1::watch_service_client::WatchServiceClient;
use penstock_api::v1::{
    CreateHostRequest, CreateListenerRequest, CreateNamespaceRequest, CreateNodeRequest,
    CreateSubsystemRequest, CreateVolumeRequest, DeleteHostRequest, DeleteListenerRequest,
    DeleteNamespaceRequest, DeleteNodeRequest, DeleteSubsystemRequest, DeleteVolumeRequest,
    GetDeviceRequest, GetHostRequest, GetLayoutRequest, GetListenerRequest, GetNamespaceRequest,
    GetNodeRequest, GetOperationRequest, GetSubsystemRequest, GetVolumeRequest, ListDevicesRequest,
    ListHostsRequest, ListListenersRequest, ListNamespacesRequest, ListNodesRequest,
    ListOperationsRequest, ListSubsystemsRequest, ListVolumesRequest, Node, Operation,
    ResolveOrphanRequest, UpdateDeviceRequest, UpdateHostRequest, UpdateNamespaceRequest,
    UpdateNodeRequest, UpdateSubsystemRequest, UpdateVolumeRequest, VolumeLayout,
    WaitOperationRequest, WatchEvent, WatchRequest,
};
use penstock_api::well_known::FieldMask;
use std::time::Duration;

use super::Api;
use crate::failure::{Failure, Outcome};
use crate::name::{Kind, split};
use crate::object::{Common, Object};

/// Resources a page.
const PAGE: i32 = 1000;
/// How much later than the server this program gives up, so that the server's answer wins.
const GRACE: Duration = Duration::from_secs(5);

/// What a change gave back.
pub enum Changed {
    /// It is made.
    Done(Box<Object>),
    /// It is being made.
    Began(Box<Operation>),
    /// It is gone.
    Gone,
}

/// How a change is guarded.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// The version that is meant; empty for any.
    pub etag: String,
    /// Identity of the request: a repetition has no second effect.
    pub request_id: String,
    /// Only check.
    pub validate_only: bool,
    /// Deleting what does not exist succeeds.
    pub allow_missing: bool,
    /// Deleting does not wait for a node that never comes back.
    pub force: bool,
}

impl Guard {
    /// A guard with a request id of its own.
    pub fn new(validate_only: bool) -> Self {
        Self {
            request_id: uuid::Uuid::new_v4().to_string(),
            validate_only,
            ..Self::default()
        }
    }
}

macro_rules! change {
    ($api:expr, $client:ident, $method:ident, $request:expr) => {{
        let sent = |channel, request| async move { $client::new(channel).$method(request).await };
        $api.call($request, sent).await?
    }};
}

/// Get and list for every kind: its client, the two methods with their requests, the field of the
/// page, and the collection that its parents are in, where it has some.
macro_rules! reading {
    ($($kind:ident: $client:ident, $get:ident $get_request:ident,
        $list:ident $list_request:ident $field:ident $(under $parents:literal)?;)*) => {
        impl Api {
            /// One resource by its full name.
            pub async fn get(&self, kind: Kind, name: &str) -> Outcome<Object> {
                let name = name.to_owned();
                Ok(match kind {
                    $(Kind::$kind => {
                        let request = $get_request { name };
                        Object::$kind(change!(self, $client, $get, request))
                    })*
                })
            }

            /// All resources of a kind, page by page. `parent` is a full name, or empty for all.
            pub async fn list(&self, kind: Kind, parent: &str) -> Outcome<Vec<Object>> {
                let mut all = Vec::new();
                match kind {
                    $(Kind::$kind => {
                        let mut request = $list_request::default();
                        request.page_size = PAGE;
                        $(request.parent = under($parents, parent);)?
                        loop {
                            let page = change!(self, $client, $list, request.clone());
                            all.extend(page.$field.into_iter().map(Object::$kind));
                            if page.next_page_token.is_empty() {
                                break;
                            }
                            request.page_token = page.next_page_token;
                        }
                    })*
                }
                Ok(all)
            }
        }
    };
}

reading! {
    Node: NodeServiceClient, get_node GetNodeRequest, list_nodes ListNodesRequest nodes;
    Device: DeviceServiceClient, get_device GetDeviceRequest,
        list_devices ListDevicesRequest devices under "nodes";
    Host: HostServiceClient, get_host GetHostRequest, list_hosts ListHostsRequest hosts;
    Subsystem: SubsystemServiceClient, get_subsystem GetSubsystemRequest,
        list_subsystems ListSubsystemsRequest subsystems;
    Namespace: NamespaceServiceClient, get_namespace GetNamespaceRequest,
        list_namespaces ListNamespacesRequest namespaces under "subsystems";
    Listener: ListenerServiceClient, get_listener GetListenerRequest,
        list_listeners ListListenersRequest listeners under "nodes";
    Volume: VolumeServiceClient, get_volume GetVolumeRequest,
        list_volumes ListVolumesRequest volumes;
    Operation: OperationServiceClient, get_operation GetOperationRequest,
        list_operations ListOperationsRequest operations;
}

/// The parent, or the word for all of them.
fn under(collection: &str, parent: &str) -> String {
    match parent {
        "" => format!("{collection}/-"),
        parent => parent.to_owned(),
    }
}

/// What a method's answer means: the resource, or an operation that makes it.
macro_rules! changed {
    (done $kind:ident $answer:expr) => {
        Changed::Done(Box::new(Object::$kind($answer)))
    };
    (began $kind:ident $answer:expr) => {
        Changed::Began(Box::new($answer))
    };
}

/// Create for every kind that is made by hand: fields of the request, client, method, answer.
macro_rules! creating {
    ($($kind:ident: $id:ident $field:ident $($parent:ident)?, $client:ident,
        $create:ident $request:ident $answer:ident;)*) => {
        impl Api {
            /// Makes a resource; its `name` says which.
            pub async fn create(&self, object: Object, guard: Guard) -> Outcome<Changed> {
                let (above, id) = split(object.name());
                Ok(match object {
                    $(Object::$kind(it) => {
                        $(let $parent = above;)?
                        let request = $request {
                            $($parent,)?
                            $id: id,
                            $field: Some(it),
                            request_id: guard.request_id,
                            validate_only: guard.validate_only,
                        };
                        changed!($answer $kind change!(self, $client, $create, request))
                    })*
                    other => return Err(not_by_hand(&other, "created")),
                })
            }
        }
    };
}

creating! {
    Node: node_id node, NodeServiceClient, create_node CreateNodeRequest done;
    Host: host_id host, HostServiceClient, create_host CreateHostRequest done;
    Subsystem: subsystem_id subsystem, SubsystemServiceClient,
        create_subsystem CreateSubsystemRequest done;
    Namespace: namespace_id namespace parent, NamespaceServiceClient,
        create_namespace CreateNamespaceRequest began;
    Listener: listener_id listener parent, ListenerServiceClient,
        create_listener CreateListenerRequest began;
    Volume: volume_id volume, VolumeServiceClient, create_volume CreateVolumeRequest began;
}

/// Update for every kind that can be changed: field of the request, client, method, answer.
macro_rules! updating {
    ($($kind:ident: $field:ident, $client:ident, $update:ident $request:ident $answer:ident;)*) => {
        impl Api {
            /// Changes the fields of the mask to what the object has.
            pub async fn update(
                &self,
                object: Object,
                mask: &[&str],
                guard: Guard,
            ) -> Outcome<Changed> {
                let paths = mask.iter().map(ToString::to_string).collect();
                let update_mask = Some(FieldMask { paths });
                Ok(match object {
                    $(Object::$kind(mut it) => {
                        it.etag = guard.etag;
                        let request = $request {
                            $field: Some(it),
                            update_mask,
                            request_id: guard.request_id,
                            validate_only: guard.validate_only,
                        };
                        changed!($answer $kind change!(self, $client, $update, request))
                    })*
                    other => return Err(not_by_hand(&other, "changed")),
                })
            }
        }
    };
}

updating! {
    Node: node, NodeServiceClient, update_node UpdateNodeRequest done;
    Device: device, DeviceServiceClient, update_device UpdateDeviceRequest done;
    Host: host, HostServiceClient, update_host UpdateHostRequest done;
    Subsystem: subsystem, SubsystemServiceClient, update_subsystem UpdateSubsystemRequest done;
    Namespace: namespace, NamespaceServiceClient, update_namespace UpdateNamespaceRequest done;
    Volume: volume, VolumeServiceClient, update_volume UpdateVolumeRequest began;
}

impl Api {
    /// Deletes a resource by its full name.
    pub async fn delete(&self, kind: Kind, name: &str, guard: Guard) -> Outcome<Changed> {
        macro_rules! delete {
            ($client:ident, $method:ident, $request:ident $($force:ident)?) => {{
                let request = $request {
                    name: name.to_owned(),
                    etag: guard.etag,
                    allow_missing: guard.allow_missing,
                    request_id: guard.request_id,
                    validate_only: guard.validate_only,
                    $($force: guard.force,)?
                };
                change!(self, $client, $method, request)
            }};
        }
        Ok(match kind {
            Kind::Node => {
                delete!(NodeServiceClient, delete_node, DeleteNodeRequest force);
                Changed::Gone
            }
            Kind::Host => {
                delete!(HostServiceClient, delete_host, DeleteHostRequest);
                Changed::Gone
            }
            Kind::Subsystem => {
                delete!(
                    SubsystemServiceClient,
                    delete_subsystem,
                    DeleteSubsystemRequest
                );
                Changed::Gone
            }
            Kind::Namespace => {
                let began = delete!(
                    NamespaceServiceClient,
                    delete_namespace,
                    DeleteNamespaceRequest force
                );
                Changed::Began(Box::new(began))
            }
            Kind::Listener => {
                let began = delete!(
                    ListenerServiceClient,
                    delete_listener,
                    DeleteListenerRequest force
                );
                Changed::Began(Box::new(began))
            }
            Kind::Volume => {
                let began = delete!(VolumeServiceClient, delete_volume, DeleteVolumeRequest force);
                Changed::Began(Box::new(began))
            }
            Kind::Device | Kind::Operation => {
                let told = format!("{name} cannot be deleted by hand: it goes by itself");
                return Err(Failure::usage(told));
            }
        })
    }

    /// Returns when the operation has ended or this time is over.
    pub async fn wait(&self, name: &str, longest: Duration) -> Outcome<Operation> {
        let timeout = Some(longest.into());
        let request = WaitOperationRequest {
            name: name.to_owned(),
            timeout,
        };
        let sent = |channel, request| async move {
            OperationServiceClient::new(channel)
                .wait_operation(request)
                .await
        };
        self.call_within(longest + GRACE, request, sent).await
    }

    /// Where a volume lies and how it is reached.
    pub async fn layout(&self, volume: &str) -> Outcome<VolumeLayout> {
        let request = GetLayoutRequest {
            volume: volume.to_owned(),
        };
        Ok(change!(self, LayoutServiceClient, get_layout, request))
    }

    /// A person's word on an orphan.
    pub async fn resolve_orphan(&self, request: ResolveOrphanRequest) -> Outcome<Node> {
        Ok(change!(self, NodeServiceClient, resolve_orphan, request))
    }

    /// Opens a watch.
    pub async fn watch(&self, request: WatchRequest) -> Outcome<tonic::Streaming<WatchEvent>> {
        let sent =
            |channel, request| async move { WatchServiceClient::new(channel).watch(request).await };
        self.open(request, sent).await
    }
}

fn not_by_hand(object: &Object, what: &str) -> Failure {
    let remedy = match object {
        Object::Device(_) => "its node reports it; name it in the node's configuration",
        Object::Listener(_) => "delete it and make another",
        _ => "it comes with a change of a resource",
    };
    Failure::usage(format!(
        "{} cannot be {what} by hand: {remedy}",
        object.name()
    ))
}
