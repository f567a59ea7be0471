//! Updates: masks, versions, growth.

use penstock_api::v1::device_service_server::DeviceService as _;

use super::*;

fn node_update(etag: &str, cordoned: bool, paths: &[&str]) -> Request<UpdateNodeRequest> {
    Request::new(UpdateNodeRequest {
        node: Some(Node {
            name: "nodes/n1".to_owned(),
            etag: etag.to_owned(),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            spec: Some(NodeSpec {
                cordoned,
                ..Default::default()
            }),
            ..Default::default()
        }),
        update_mask: mask(paths),
        ..Default::default()
    })
}

#[tokio::test(start_paused = true)]
async fn etags_and_masks() {
    let lab = Lab::new();
    let node = lab.node("n1").await;
    let nodes = &lab.services.nodes;
    let first = ok(nodes
        .update_node(node_update(&node.etag, true, &["spec.cordoned"]))
        .await);
    assert!(first.labels.is_empty());
    assert_eq!(first.generation, 2);
    let before = lab.content();
    let stale = nodes
        .update_node(node_update(&node.etag, false, &["spec.cordoned"]))
        .await;
    let (code, reason, message) = refusal(stale);
    assert_eq!((code, reason.as_str()), (Code::Aborted, "ETAG_MISMATCH"));
    assert!(message.contains(&first.etag), "{message}");
    // Nothing to change is no change.
    let same = ok(nodes
        .update_node(node_update("", true, &["spec.cordoned"]))
        .await);
    assert_eq!(same, first);
    for bad in [&["spec.colour"][..], &[], &["status"], &["name"]] {
        let result = nodes.update_node(node_update("", true, bad)).await;
        assert_eq!(fields(result), ["update_mask"], "{bad:?}");
    }
    assert_eq!(lab.content(), before);
    // Labels are no part of the spec, but of the version.
    let labelled = ok(nodes.update_node(node_update("", false, &["labels"])).await);
    assert_eq!((labelled.generation, labelled.labels.len()), (2, 1));
    assert_ne!(labelled.etag, first.etag);
    assert!(labelled.spec.unwrap().cordoned);
    let call = Request::new(DeleteNodeRequest {
        name: "nodes/n1".to_owned(),
        etag: first.etag,
        ..Default::default()
    });
    assert_eq!(refusal(nodes.delete_node(call).await).1, "ETAG_MISMATCH");
    let missing = UpdateNodeRequest {
        node: Some(Node {
            name: "nodes/n9".to_owned(),
            ..Default::default()
        }),
        update_mask: mask(&["*"]),
        ..Default::default()
    };
    let result = nodes.update_node(Request::new(missing)).await;
    assert_eq!(refusal(result).0, Code::NotFound);
}

async fn resize(lab: &Lab, size: i64, paths: &[&str]) -> Result<Response<Operation>, Status> {
    let request = UpdateVolumeRequest {
        volume: Some(Volume {
            name: "volumes/v1".to_owned(),
            ..volume_request("", size).volume.unwrap()
        }),
        update_mask: mask(paths),
        ..Default::default()
    };
    let call = Request::new(request);
    lab.services.volumes.update_volume(call).await
}

#[tokio::test(start_paused = true)]
async fn volumes_grow_and_never_shrink() {
    let lab = Lab::new();
    ok(lab.create_volume(volume_request("v1", 2 * MIB)).await);
    let before = lab.content();
    assert_eq!(
        fields(resize(&lab, MIB, &["spec.size_bytes"]).await),
        ["volume.spec.size_bytes"]
    );
    assert_eq!(
        fields(resize(&lab, MIB + 1, &["*"]).await),
        ["volume.spec.size_bytes"]
    );
    assert_eq!(lab.content(), before);
    let grown = ok(resize(&lab, 3 * MIB, &["spec.size_bytes"]).await);
    assert_eq!(
        (grown.verb.as_str(), grown.target_generation, grown.done),
        ("update", 2, false)
    );
    let volume = lab.stored::<Volume>("volumes/v1").await.unwrap();
    assert_eq!(
        (volume.generation, volume.spec.unwrap().size_bytes),
        (2, 3 * MIB)
    );
    // Nothing that a node would have to do is done at once, and can still be read.
    let same = ok(resize(&lab, 3 * MIB, &["spec.size_bytes"]).await);
    assert!(same.done);
    let call = Request::new(GetOperationRequest {
        name: same.name.clone(),
    });
    assert_eq!(ok(lab.services.operations.get_operation(call).await), same);
}

#[tokio::test(start_paused = true)]
async fn access_is_granted_to_hosts_that_exist() {
    let lab = Lab::new();
    lab.subsystem("s1").await;
    lab.host("h1").await;
    let grant = |hosts: &[&str]| {
        let request = UpdateSubsystemRequest {
            subsystem: Some(Subsystem {
                name: "subsystems/s1".to_owned(),
                spec: Some(SubsystemSpec {
                    hosts: hosts.iter().map(ToString::to_string).collect(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            update_mask: mask(&["spec.hosts"]),
            ..Default::default()
        };
        lab.services
            .subsystems
            .update_subsystem(Request::new(request))
    };
    let granted = ok(grant(&["hosts/h1"]).await);
    assert_eq!(granted.spec.unwrap().hosts, ["hosts/h1"]);
    let (_, reason, message) = refusal(grant(&["hosts/h1", "hosts/h2"]).await);
    assert_eq!(reason, "REFERENCE_NOT_FOUND");
    assert!(message.contains("hosts/h2"));
}

#[tokio::test(start_paused = true)]
async fn devices_are_cordoned_and_told_with_their_space() {
    let lab = Lab::new();
    lab.node("n1").await;
    lab.device("n1", "d0", 100 << 20).await;
    let call = Request::new(UpdateDeviceRequest {
        device: Some(Device {
            name: "nodes/n1/devices/d0".to_owned(),
            spec: Some(DeviceSpec { cordoned: true }),
            ..Default::default()
        }),
        update_mask: mask(&["spec.cordoned"]),
        ..Default::default()
    });
    let device = ok(lab.services.devices.update_device(call).await);
    assert!(device.spec.unwrap().cordoned);
    lab.volume("v1").await;
    lab.place("v1", "n1").await;
    let call = Request::new(ListDevicesRequest {
        parent: "nodes/-".to_owned(),
        ..Default::default()
    });
    let listed = ok(lab.services.devices.list_devices(call).await);
    let status = listed.devices[0].status.clone().unwrap();
    assert_eq!(status.allocated_bytes, 1 << 20);
    assert!(status.free_bytes <= 99 << 20);
}
