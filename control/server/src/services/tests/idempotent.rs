//! The same again has no further effect; something else under the same name or id is refused.

use penstock_store::sim::LostAnswer;

use super::*;

#[tokio::test(start_paused = true)]
async fn the_same_creation_again_is_the_same_resource() {
    let lab = Lab::new();
    lab.node("n1").await;
    lab.subsystem("s1").await;
    lab.host("h1").await;
    let volume = lab.volume("v1").await;
    let namespace = lab.namespace("s1", "a", "v1").await;
    let listener = ok(lab.create_listener("n1", "l", 0).await);
    let before = lab.content();
    assert_eq!(
        lab.node("n1").await,
        lab.stored::<Node>("nodes/n1").await.unwrap()
    );
    assert_eq!(
        lab.subsystem("s1").await,
        lab.stored::<Subsystem>("subsystems/s1").await.unwrap()
    );
    assert_eq!(
        lab.host("h1").await,
        lab.stored::<Host>("hosts/h1").await.unwrap()
    );
    assert_eq!(lab.volume("v1").await, volume);
    assert_eq!(lab.namespace("s1", "a", "v1").await, namespace);
    // The default written out is the same as left out.
    assert_eq!(ok(lab.create_listener("n1", "l", 4_420).await), listener);
    assert_eq!(lab.content(), before);

    let (code, reason, message) = refusal(lab.create_volume(volume_request("v1", 2 * MIB)).await);
    assert_eq!(
        (code, reason.as_str()),
        (Code::AlreadyExists, "ALREADY_EXISTS")
    );
    assert!(
        message.contains("spec.size_bytes is \"1048576\", not \"2097152\""),
        "{message}"
    );
    lab.volume("v2").await;
    let before = lab.content();
    let other = lab
        .create_namespace(namespace_request("s1", "a", "v2"))
        .await;
    assert_eq!(refusal(other).0, Code::AlreadyExists);
    assert_eq!(
        refusal(lab.create_listener("n1", "l", 1).await).0,
        Code::AlreadyExists
    );
    assert_eq!(lab.content(), before);
}

#[tokio::test(start_paused = true)]
async fn a_creation_whose_operation_is_forgotten_has_one_again() {
    let lab = Lab::new();
    let first = lab.volume("v1").await;
    lab.sim.delete(&lab.repo.keys().operation_of(&first.name));
    lab.set_status::<Volume>(
        "volumes/v1",
        &VolumeStatus {
            state: VolumeState::Ready.into(),
            ..Default::default()
        },
    )
    .await;
    let again = lab.volume("v1").await;
    assert_eq!(again.name, first.name);
    assert!(again.done && again.error.is_none());
    let get = GetOperationRequest {
        name: again.name.clone(),
    };
    let call = Request::new(get);
    assert_eq!(ok(lab.services.operations.get_operation(call).await), again);
}

#[tokio::test(start_paused = true)]
async fn request_ids_protect_for_a_day() {
    let lab = Lab::new();
    let request = CreateVolumeRequest {
        request_id: "r-1".to_owned(),
        ..volume_request("v1", MIB)
    };
    let first = ok(lab.create_volume(request.clone()).await);
    let before = lab.content();
    assert_eq!(ok(lab.create_volume(request.clone()).await), first);
    assert_eq!(lab.content(), before);
    let other = CreateVolumeRequest {
        request_id: "r-1".to_owned(),
        ..volume_request("v2", MIB)
    };
    let (code, reason, message) = refusal(lab.create_volume(other.clone()).await);
    assert_eq!(
        (code, reason.as_str()),
        (Code::InvalidArgument, "REQUEST_ID_REUSED")
    );
    assert!(message.contains("r-1"));
    // The same content to another method is another request, too.
    let call = Request::new(DeleteVolumeRequest {
        name: "volumes/v1".to_owned(),
        request_id: "r-1".to_owned(),
        ..Default::default()
    });
    let result = lab.services.volumes.delete_volume(call).await;
    assert_eq!(refusal(result).1, "REQUEST_ID_REUSED");
    assert_eq!(lab.content(), before);
    tokio::time::sleep(std::time::Duration::from_secs(26 * 3_600)).await;
    ok(lab.create_volume(other).await);
    // The id means the new request now.
    assert_eq!(
        refusal(lab.create_volume(request).await).1,
        "REQUEST_ID_REUSED"
    );
}

#[tokio::test(start_paused = true)]
async fn a_repeated_request_tells_how_things_are_now() {
    let lab = Lab::new();
    let create = CreateNodeRequest {
        node_id: "n1".to_owned(),
        request_id: "r-1".to_owned(),
        ..Default::default()
    };
    let first = ok(lab
        .services
        .nodes
        .create_node(Request::new(create.clone()))
        .await);
    let update = UpdateNodeRequest {
        node: Some(Node {
            name: "nodes/n1".to_owned(),
            spec: Some(NodeSpec {
                cordoned: true,
                ..Default::default()
            }),
            ..Default::default()
        }),
        update_mask: mask(&["spec.cordoned"]),
        ..Default::default()
    };
    let updated = ok(lab.services.nodes.update_node(Request::new(update)).await);
    assert_ne!(updated.etag, first.etag);
    let again = ok(lab.services.nodes.create_node(Request::new(create)).await);
    assert_eq!(again, updated);
}

#[tokio::test(start_paused = true)]
async fn lost_answers_do_not_double_anything() {
    let lab = Lab::new();
    for (round, what) in [LostAnswer::Applied, LostAnswer::NotApplied]
        .into_iter()
        .enumerate()
    {
        let id = format!("v{round}");
        lab.sim.lose_next_answer(what);
        let request = CreateVolumeRequest {
            request_id: format!("r{round}"),
            ..volume_request(&id, MIB)
        };
        // The store finds out by the marker, or says that nobody knows; then the client repeats.
        let mut result = lab.create_volume(request.clone()).await;
        while result
            .as_ref()
            .is_err_and(|status| status.code() == Code::Unavailable)
        {
            result = lab.create_volume(request.clone()).await;
        }
        let operation = ok(result);
        let volume = lab
            .stored::<Volume>(&format!("volumes/{id}"))
            .await
            .unwrap();
        assert_eq!(operation.target_uid, volume.uid);
        assert_eq!(ok(lab.create_volume(request).await), operation);
    }
    let volumes = lab.repo.all::<Volume>("", None).await.unwrap();
    assert_eq!(volumes.items.len(), 2);
    // A deletion, too, though it leaves no trace of its own.
    lab.host("h1").await;
    lab.sim.lose_next_answer(LostAnswer::Applied);
    let call = Request::new(DeleteHostRequest {
        name: "hosts/h1".to_owned(),
        ..Default::default()
    });
    ok(lab.services.hosts.delete_host(call).await);
    assert_eq!(lab.stored::<Host>("hosts/h1").await, None);
}

#[tokio::test(start_paused = true)]
async fn validate_only_changes_nothing() {
    let lab = Lab::new();
    lab.volume("v0").await;
    let before = lab.content();
    let check = CreateVolumeRequest {
        validate_only: true,
        request_id: "r".to_owned(),
        ..volume_request("v1", MIB)
    };
    let operation = ok(lab.create_volume(check.clone()).await);
    assert_eq!(
        (operation.name.as_str(), operation.target.as_str()),
        ("", "volumes/v1")
    );
    let bad = CreateVolumeRequest {
        validate_only: true,
        ..volume_request("v1", 0)
    };
    assert_eq!(
        fields(lab.create_volume(bad).await),
        ["volume.spec.size_bytes"]
    );
    let call = Request::new(DeleteVolumeRequest {
        name: "volumes/v0".to_owned(),
        validate_only: true,
        ..Default::default()
    });
    ok(lab.services.volumes.delete_volume(call).await);
    let call = Request::new(CreateNodeRequest {
        node_id: "n1".to_owned(),
        validate_only: true,
        ..Default::default()
    });
    let node = ok(lab.services.nodes.create_node(call).await);
    assert_eq!((node.name.as_str(), node.etag.as_str()), ("nodes/n1", ""));
    assert_eq!(lab.content(), before);
    // Checking first does not use the request id up.
    let real = CreateVolumeRequest {
        validate_only: false,
        ..check
    };
    assert!(!ok(lab.create_volume(real).await).name.is_empty());
}
