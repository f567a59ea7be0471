//! Bad input gets the right code and a message with the remedy, and changes nothing.

use penstock_api::v1::device_service_server::DeviceService as _;
use penstock_api::v1::layout_service_server::LayoutService as _;

use super::*;
use crate::config::Quotas;
use crate::identity::{Caller, METHODS, Role};

#[tokio::test(start_paused = true)]
async fn names_and_sizes_out_of_bounds() {
    let lab = Lab::new();
    let before = lab.content();
    for id in ["", "V1", "1v", "v1-", "v 1", "v/1", &"v".repeat(64)] {
        let result = lab.create_volume(volume_request(id, MIB)).await;
        assert_eq!(fields(result), ["volume_id"], "{id}");
    }
    for size in [0, -1, i64::MIN, MIB + 1, i64::MAX] {
        let result = lab.create_volume(volume_request("v1", size)).await;
        assert_eq!(fields(result), ["volume.spec.size_bytes"], "{size}");
    }
    let all = CreateVolumeRequest {
        volume: Some(Volume {
            labels: [("k".repeat(64), String::new())].into(),
            spec: Some(VolumeSpec {
                size_bytes: 5,
                block_size: 77,
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..volume_request("v1", 0)
    };
    assert_eq!(
        fields(lab.create_volume(all).await),
        [
            "volume.labels",
            "volume.spec.size_bytes",
            "volume.spec.block_size"
        ]
    );
    for name in ["", "v1", "nodes/v1", "volumes/V1", "volumes/v1/x"] {
        let get = GetVolumeRequest {
            name: name.to_owned(),
        };
        let result = lab.services.volumes.get_volume(Request::new(get)).await;
        assert_eq!(fields(result), ["name"], "{name}");
    }
    let reused = CreateVolumeRequest {
        request_id: "r".repeat(65),
        ..volume_request("v1", MIB)
    };
    assert_eq!(fields(lab.create_volume(reused).await), ["request_id"]);
    assert_eq!(lab.content(), before);
}

#[tokio::test(start_paused = true)]
async fn a_size_that_no_device_could_ever_hold() {
    let lab = Lab::new();
    lab.node("n1").await;
    // No agent has told of any device: nobody knows.
    lab.volume("early").await;
    lab.device("n1", "d0", 100 << 20).await;
    tokio::time::advance(std::time::Duration::from_secs(2)).await;
    let before = lab.content();
    let result = lab.create_volume(volume_request("v1", 200 * MIB)).await;
    let (code, reason, message) = refusal(result);
    assert_eq!(
        (code, reason.as_str()),
        (Code::OutOfRange, "SIZE_BEYOND_POOL")
    );
    assert!(!message.is_empty());
    assert_eq!(lab.content(), before);
    lab.volume("v2").await;
}

#[tokio::test(start_paused = true)]
async fn things_that_are_not_there() {
    let lab = Lab::new();
    lab.subsystem("s1").await;
    lab.volume("v1").await;
    let before = lab.content();
    let get = GetNodeRequest {
        name: "nodes/n9".to_owned(),
    };
    let (code, reason, message) = refusal(lab.services.nodes.get_node(Request::new(get)).await);
    assert_eq!((code, reason.as_str()), (Code::NotFound, "NOT_FOUND"));
    assert!(message.contains("nodes/n9"));
    let parent = lab
        .create_namespace(namespace_request("s9", "a", "v1"))
        .await;
    assert_eq!(refusal(parent).0, Code::NotFound);
    let volume = lab
        .create_namespace(namespace_request("s1", "a", "v9"))
        .await;
    let (code, reason, message) = refusal(volume);
    assert_eq!(
        (code, reason.as_str()),
        (Code::FailedPrecondition, "REFERENCE_NOT_FOUND")
    );
    assert!(message.contains("volumes/v9"));
    assert_eq!(
        refusal(lab.create_listener("n9", "l", 0).await).0,
        Code::NotFound
    );
    let mut placed = volume_request("v2", MIB);
    placed
        .volume
        .as_mut()
        .unwrap()
        .spec
        .as_mut()
        .unwrap()
        .placement = Some(Placement {
        node: "nodes/n9".to_owned(),
        ..Default::default()
    });
    assert_eq!(
        refusal(lab.create_volume(placed).await).1,
        "REFERENCE_NOT_FOUND"
    );
    let granting = CreateSubsystemRequest {
        subsystem_id: "s2".to_owned(),
        subsystem: Some(Subsystem {
            spec: Some(SubsystemSpec {
                hosts: vec!["hosts/h9".to_owned()],
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let call = Request::new(granting);
    let result = lab.services.subsystems.create_subsystem(call).await;
    assert_eq!(refusal(result).1, "REFERENCE_NOT_FOUND");
    let get = GetLayoutRequest {
        volume: "volumes/v1".to_owned(),
    };
    let result = lab.services.layouts.get_layout(Request::new(get)).await;
    assert_eq!(refusal(result).1, "NOT_PLACED");
    assert_eq!(lab.content(), before);
}

#[tokio::test(start_paused = true)]
async fn what_others_have_is_not_given_twice() {
    let lab = Lab::new();
    lab.node("n1").await;
    lab.host("h1").await;
    lab.subsystem("s1").await;
    lab.volume("v1").await;
    lab.volume("v2").await;
    lab.namespace("s1", "a", "v1").await;
    ok(lab.create_listener("n1", "l1", 0).await);
    let before = lab.content();
    let (_, reason, message) = refusal(
        lab.create_namespace(namespace_request("s1", "b", "v1"))
            .await,
    );
    assert_eq!(reason, "CLAIMED");
    assert!(message.contains("subsystems/s1/namespaces/a"), "{message}");
    let mut taken = namespace_request("s1", "b", "v2");
    let spec = taken.namespace.as_mut().unwrap().spec.as_mut().unwrap();
    spec.nsid = 1;
    assert_eq!(
        refusal(lab.create_namespace(taken.clone()).await).1,
        "CLAIMED"
    );
    taken
        .namespace
        .as_mut()
        .unwrap()
        .spec
        .as_mut()
        .unwrap()
        .nsid = 1_025;
    assert_eq!(
        fields(lab.create_namespace(taken).await),
        ["namespace.spec.nsid"]
    );
    assert_eq!(
        refusal(lab.create_listener("n1", "l2", 4_420).await).1,
        "ADDRESS_IN_USE"
    );
    let twin = CreateHostRequest {
        host_id: "h2".to_owned(),
        host: Some(Host {
            spec: Some(HostSpec {
                nqn: "nqn.2014-08.org.example:h1".to_owned(),
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let result = lab.services.hosts.create_host(Request::new(twin)).await;
    assert_eq!(refusal(result).1, "CLAIMED");
    let twin = CreateSubsystemRequest {
        subsystem_id: "s2".to_owned(),
        subsystem: Some(Subsystem {
            spec: Some(SubsystemSpec {
                nqn: "nqn.2026-01.io.penstock:default:s1".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let call = Request::new(twin);
    let result = lab.services.subsystems.create_subsystem(call).await;
    assert_eq!(refusal(result).1, "CLAIMED");
    assert_eq!(lab.content(), before);
}

#[tokio::test(start_paused = true)]
async fn quotas_are_kept_exactly() {
    let quotas = Quotas {
        volumes_max: 3,
        volume_size_bytes_max: 8 << 20,
        volumes_total_bytes_max: 10 << 20,
        hosts_max: 0,
        ..Quotas::default()
    };
    let lab = Lab::with(Settings {
        quotas,
        ..Settings::default()
    });
    let (code, reason, message) = refusal(lab.create_volume(volume_request("v", 9 * MIB)).await);
    assert_eq!(
        (code, reason.as_str()),
        (Code::ResourceExhausted, "QUOTA_EXCEEDED")
    );
    assert!(message.contains("8388608") && message.contains("volume_size_bytes_max"));
    ok(lab.create_volume(volume_request("v1", 8 * MIB)).await);
    let (_, reason, message) = refusal(lab.create_volume(volume_request("v2", 3 * MIB)).await);
    assert_eq!(reason, "QUOTA_EXCEEDED");
    assert!(message.contains("volumes_total_bytes_max"), "{message}");
    ok(lab.create_volume(volume_request("v2", MIB)).await);
    ok(lab.create_volume(volume_request("v3", MIB)).await);
    let (_, _, message) = refusal(lab.create_volume(volume_request("v4", MIB)).await);
    assert!(message.contains("volumes_max"), "{message}");
    // The same again is no more than there is.
    ok(lab.create_volume(volume_request("v3", MIB)).await);
    let grow = UpdateVolumeRequest {
        volume: Some(Volume {
            name: "volumes/v3".to_owned(),
            ..volume_request("v3", 2 * MIB).volume.unwrap()
        }),
        update_mask: mask(&["spec.size_bytes"]),
        ..Default::default()
    };
    let call = Request::new(grow);
    assert_eq!(
        refusal(lab.services.volumes.update_volume(call).await).1,
        "QUOTA_EXCEEDED"
    );
    ok(lab.delete_volume("v1").await);
    ok(lab.create_volume(volume_request("v4", MIB)).await);
}

#[tokio::test(start_paused = true)]
async fn callers_without_the_role_change_nothing() {
    let lab = Lab::new();
    let before = lab.content();
    let viewer = Caller {
        name: "vera".to_owned(),
        role: Role::Viewer,
    };
    let mut call = Request::new(volume_request("v1", MIB));
    call.extensions_mut().insert(viewer.clone());
    let (code, reason, message) = refusal(lab.services.volumes.create_volume(call).await);
    assert_eq!(
        (code, reason.as_str()),
        (Code::PermissionDenied, "ROLE_TOO_LOW")
    );
    assert!(message.contains("vera") && message.contains("operator"));
    let operator = Caller {
        name: "otto".to_owned(),
        role: Role::Operator,
    };
    let mut call = Request::new(UpdateDeviceRequest::default());
    call.extensions_mut().insert(operator.clone());
    let result = lab.services.devices.update_device(call).await;
    assert_eq!(refusal(result).0, Code::PermissionDenied);
    let mut call = Request::new(ListVolumesRequest::default());
    call.extensions_mut().insert(viewer);
    ok(lab.services.volumes.list_volumes(call).await);
    assert_eq!(lab.content(), before);
    let mut call = Request::new(volume_request("v1", MIB));
    call.extensions_mut().insert(operator);
    let operation = ok(lab.services.volumes.create_volume(call).await);
    assert_eq!(operation.requester, "otto");
    assert!(METHODS.iter().any(|method| method.name == "CreateVolume"));
}
