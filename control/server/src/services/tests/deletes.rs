//! Deletions: what is used stays, what a node holds goes when the node says so.

use super::*;

#[tokio::test(start_paused = true)]
async fn things_in_use_stay() {
    let lab = Lab::new();
    lab.node("n1").await;
    lab.host("h1").await;
    lab.subsystem("s1").await;
    for i in 0..7 {
        lab.volume(&format!("v{i}")).await;
        lab.place(&format!("v{i}"), "n1").await;
        lab.namespace("s1", &format!("a{i}"), &format!("v{i}"))
            .await;
    }
    ok(lab.create_listener("n1", "l", 0).await);
    let call = Request::new(UpdateSubsystemRequest {
        subsystem: Some(Subsystem {
            name: "subsystems/s1".to_owned(),
            spec: Some(SubsystemSpec {
                hosts: vec!["hosts/h1".to_owned()],
                ..Default::default()
            }),
            ..Default::default()
        }),
        update_mask: mask(&["spec.hosts"]),
        ..Default::default()
    });
    ok(lab.services.subsystems.update_subsystem(call).await);
    let before = lab.content();
    let volume = refusal(lab.delete_volume("v3").await);
    let node = refusal(delete_node(&lab, "n1").await);
    let subsystem = refusal(delete_subsystem(&lab, "s1").await);
    let host = refusal(delete_host(&lab, "h1").await);
    for ((code, reason, message), user) in [
        (volume, "subsystems/s1/namespaces/a3"),
        (
            node,
            "volumes/v0, volumes/v1, volumes/v2, volumes/v3, volumes/v4 and 3 more",
        ),
        (subsystem, "subsystems/s1/namespaces/a4 and 2 more"),
        (host, "subsystems/s1"),
    ] {
        assert_eq!(
            (code, reason.as_str()),
            (Code::FailedPrecondition, "IN_USE")
        );
        assert!(message.contains(user), "{message}");
    }
    assert_eq!(lab.content(), before);
}

async fn delete_node(
    lab: &Lab,
    id: &str,
) -> Result<Response<penstock_api::well_known::Empty>, Status> {
    let call = Request::new(DeleteNodeRequest {
        name: format!("nodes/{id}"),
        ..Default::default()
    });
    lab.services.nodes.delete_node(call).await
}

async fn delete_subsystem(
    lab: &Lab,
    id: &str,
) -> Result<Response<penstock_api::well_known::Empty>, Status> {
    let call = Request::new(DeleteSubsystemRequest {
        name: format!("subsystems/{id}"),
        ..Default::default()
    });
    lab.services.subsystems.delete_subsystem(call).await
}

async fn delete_host(
    lab: &Lab,
    id: &str,
) -> Result<Response<penstock_api::well_known::Empty>, Status> {
    let call = Request::new(DeleteHostRequest {
        name: format!("hosts/{id}"),
        ..Default::default()
    });
    lab.services.hosts.delete_host(call).await
}

async fn delete_namespace(lab: &Lab, name: &str) -> Result<Response<Operation>, Status> {
    let call = Request::new(DeleteNamespaceRequest {
        name: name.to_owned(),
        ..Default::default()
    });
    lab.services.namespaces.delete_namespace(call).await
}

#[tokio::test(start_paused = true)]
async fn what_no_node_knows_goes_at_once() {
    let lab = Lab::new();
    let create = lab.volume("v1").await;
    lab.subsystem("s1").await;
    lab.node("n1").await;
    lab.device("n1", "d0", 1 << 30).await;
    lab.host("h1").await;
    lab.namespace("s1", "a", "v1").await;
    ok(lab.create_listener("n1", "l", 0).await);
    let ended = ok(delete_namespace(&lab, "subsystems/s1/namespaces/a").await);
    assert!(ended.done && ended.error.is_none());
    let ended = ok(lab.delete_volume("v1").await);
    assert!(ended.done);
    let call = Request::new(GetOperationRequest { name: create.name });
    let create = ok(lab.services.operations.get_operation(call).await);
    assert!(create.done);
    assert_eq!(create.error.unwrap().reason, "DELETED");
    let call = Request::new(DeleteListenerRequest {
        name: "nodes/n1/listeners/l".to_owned(),
        ..Default::default()
    });
    assert!(ok(lab.services.listeners.delete_listener(call).await).done);
    ok(delete_subsystem(&lab, "s1").await);
    ok(delete_host(&lab, "h1").await);
    ok(delete_node(&lab, "n1").await);
    let left: Vec<String> = lab.content().into_iter().map(|entry| entry.key).collect();
    for family in ["/spec/", "/status/", "/claim/", "/guard/use/"] {
        assert!(!left.iter().any(|key| key.contains(family)), "{left:?}");
    }
    // All of it can be made again.
    lab.volume("v1").await;
    lab.subsystem("s1").await;
    lab.namespace("s1", "a", "v1").await;
    lab.host("h1").await;
}

#[tokio::test(start_paused = true)]
async fn what_a_node_holds_waits_for_the_node() {
    let lab = Lab::new();
    lab.node("n1").await;
    lab.subsystem("s1").await;
    lab.volume("v1").await;
    lab.place("v1", "n1").await;
    lab.namespace("s1", "a", "v1").await;
    let name = "subsystems/s1/namespaces/a";
    let operation = ok(delete_namespace(&lab, name).await);
    assert!(!operation.done);
    let namespace = lab.stored::<Namespace>(name).await.unwrap();
    assert!(namespace.delete_time.is_some());
    // Asked again, also with the version from before: the same operation.
    let before = lab.content();
    assert_eq!(ok(delete_namespace(&lab, name).await), operation);
    let call = Request::new(DeleteNamespaceRequest {
        name: name.to_owned(),
        etag: "1".to_owned(),
        ..Default::default()
    });
    assert_eq!(
        ok(lab.services.namespaces.delete_namespace(call).await),
        operation
    );
    let again = lab
        .create_namespace(namespace_request("s1", "a", "v1"))
        .await;
    let (code, reason, message) = refusal(again);
    assert_eq!(
        (code, reason.as_str()),
        (Code::FailedPrecondition, "BEING_DELETED")
    );
    assert!(message.contains(&operation.name), "{message}");
    assert_eq!(lab.content(), before);
    // The volume is held by its namespace until that is gone.
    assert_eq!(refusal(lab.delete_volume("v1").await).1, "IN_USE");
    let mut change = lab.repo.change();
    change.delete_resource::<Namespace>("s1/a");
    crate::services::remove_claims(&mut change, &namespace);
    lab.repo.commit(change).await.unwrap();
    let operation = ok(lab.delete_volume("v1").await);
    assert!(!operation.done);
    let volume = lab.stored::<Volume>("volumes/v1").await.unwrap();
    assert!(volume.delete_time.is_some() && volume.generation == 1);
    let grow = UpdateVolumeRequest {
        volume: Some(Volume {
            name: "volumes/v1".to_owned(),
            ..volume_request("", 2 * MIB).volume.unwrap()
        }),
        update_mask: mask(&["spec.size_bytes"]),
        ..Default::default()
    };
    let result = lab.services.volumes.update_volume(Request::new(grow)).await;
    assert_eq!(refusal(result).1, "BEING_DELETED");
    let used = lab
        .create_namespace(namespace_request("s1", "b", "v1"))
        .await;
    assert_eq!(refusal(used).1, "BEING_DELETED");
}

#[tokio::test(start_paused = true)]
async fn deletions_of_nothing() {
    let lab = Lab::new();
    let before = lab.content();
    assert_eq!(refusal(lab.delete_volume("v1").await).0, Code::NotFound);
    assert_eq!(refusal(delete_host(&lab, "h1").await).0, Code::NotFound);
    assert_eq!(refusal(delete_node(&lab, "n1").await).0, Code::NotFound);
    assert_eq!(
        refusal(delete_subsystem(&lab, "s1").await).0,
        Code::NotFound
    );
    let call = Request::new(DeleteHostRequest {
        name: "hosts/h1".to_owned(),
        allow_missing: true,
        ..Default::default()
    });
    ok(lab.services.hosts.delete_host(call).await);
    assert_eq!(lab.content(), before);
    let call = Request::new(DeleteVolumeRequest {
        name: "volumes/v1".to_owned(),
        allow_missing: true,
        ..Default::default()
    });
    let operation = ok(lab.services.volumes.delete_volume(call).await);
    assert!(operation.done && operation.error.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_node_with_many_devices_goes_whole() {
    let lab = Lab::new();
    lab.node("n1").await;
    for i in 0..80 {
        lab.device("n1", &format!("d{i}"), 1 << 30).await;
    }
    ok(delete_node(&lab, "n1").await);
    let left = lab.repo.all::<Device>("", None).await.unwrap().items;
    assert!(left.is_empty());
    assert!(
        lab.content()
            .iter()
            .all(|entry| !entry.key.contains("/device/"))
    );
}
