//! Deletions by force: only while the node is away, and nothing is left behind but for the node.

use penstock_api::well_known::Empty;

use super::*;

/// What can be deleted by force of a node `n1` that serves `v1` as `s1/a` and listens.
const NAMES: [&str; 4] = [
    "nodes/n1/listeners/l",
    "subsystems/s1/namespaces/a",
    "volumes/v1",
    "nodes/n1",
];

/// A node with one of everything on it, whose agent has been there.
async fn lab() -> Lab {
    let lab = Lab::new();
    lab.node("n1").await;
    lab.device("n1", "d0", 1 << 30).await;
    lab.subsystem("s1").await;
    lab.volume("v1").await;
    lab.place("v1", "n1").await;
    lab.namespace("s1", "a", "v1").await;
    ok(lab.create_listener("n1", "l", 0).await);
    let status = NodeStatus {
        observed_generation: 1,
        ..Default::default()
    };
    lab.set_status::<Node>("nodes/n1", &status).await;
    lab
}

async fn set_online(lab: &Lab, online: bool) {
    let mut change = lab.repo.change();
    let session = change.keys().session("n1");
    if online {
        change.put(session, b"server".to_vec(), None);
    } else {
        change.delete(session);
    }
    lab.repo.commit(change).await.unwrap().unwrap();
}

async fn delete_node(lab: &Lab, force: bool, only_check: bool) -> Result<Response<Empty>, Status> {
    let call = Request::new(DeleteNodeRequest {
        name: "nodes/n1".to_owned(),
        force,
        validate_only: only_check,
        ..Default::default()
    });
    lab.services.nodes.delete_node(call).await
}

/// Deletes one of [`NAMES`], or another volume. `None` in place of a node's operation.
async fn delete(lab: &Lab, name: &str, force: bool) -> Result<Option<Operation>, Status> {
    let name = name.to_owned();
    let (etag, request_id) = (String::new(), String::new());
    let (allow_missing, validate_only) = (false, false);
    macro_rules! delete {
        ($service:ident, $method:ident, $request:ident) => {{
            let request = Request::new($request {
                name,
                etag,
                allow_missing,
                request_id,
                validate_only,
                force,
            });
            lab.services.$service.$method(request).await
        }};
    }
    let deleted = if name.contains("/listeners/") {
        delete!(listeners, delete_listener, DeleteListenerRequest)
    } else if name.contains("/namespaces/") {
        delete!(namespaces, delete_namespace, DeleteNamespaceRequest)
    } else if name.starts_with("volumes/") {
        delete!(volumes, delete_volume, DeleteVolumeRequest)
    } else {
        return delete!(nodes, delete_node, DeleteNodeRequest).map(|_| None);
    };
    deleted.map(|operation| Some(operation.into_inner()))
}

fn keys(lab: &Lab, families: &[&str]) -> Vec<String> {
    let all = lab.content().into_iter().map(|entry| entry.key);
    all.filter(|key| families.iter().any(|family| key.contains(family)))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_connected_node_is_not_forced() {
    let lab = lab().await;
    set_online(&lab, true).await;
    let before = lab.content();
    for name in NAMES {
        if name == "volumes/v1" {
            // Its namespace is told first, whether by force or not.
            continue;
        }
        let status = delete(&lab, name, true).await.unwrap_err();
        let (code, reason, message) = refusal::<()>(Err(status));
        assert_eq!(
            (code, reason.as_str()),
            (Code::FailedPrecondition, "NODE_ONLINE"),
            "{name}"
        );
        assert!(message.contains("nodes/n1 is connected"), "{message}");
    }
    assert_eq!(lab.content(), before);
    // The words about force are for nodes that are away.
    let (_, _, message) = refusal(delete_node(&lab, false, false).await);
    assert!(!message.contains("--force"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn what_is_on_a_node_that_is_away_goes_one_by_one() {
    let lab = lab().await;
    let creation = lab.stored::<Volume>("volumes/v1").await.unwrap();
    let creation = crate::ops::name(&creation.uid, crate::ops::Verb::Create);
    for name in &NAMES[..3] {
        let waits = delete(&lab, name, false).await.unwrap().unwrap();
        assert!(!waits.done);
        let progress = &waits.progress;
        assert!(
            progress.contains("waits for nodes/n1") && progress.contains("--force"),
            "{progress}"
        );
        let forced = delete(&lab, name, true).await.unwrap().unwrap();
        assert!(forced.done && forced.error.is_none(), "{forced:?}");
        // Whoever waits for the one has the other.
        assert_eq!(forced.name, waits.name);
    }
    let left = keys(
        &lab,
        &[
            "/spec/volume",
            "/spec/namespace",
            "/spec/listener",
            "/claim/n",
            "/claim/volume",
        ],
    );
    assert_eq!(left.len(), 1, "the claim of the subsystem's NQN: {left:?}");
    let call = Request::new(GetOperationRequest { name: creation });
    let ended = ok(lab.services.operations.get_operation(call).await);
    assert_eq!(ended.error.unwrap().reason, "DELETED");
    // The node is to be told of what holds no data.
    assert_eq!(keys(&lab, &["/left/n1/"]).len(), 2);
    // All of it can be made again.
    lab.volume("v1").await;
    lab.namespace("s1", "a", "v1").await;
    ok(lab.create_listener("n1", "l", 0).await);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_away_goes_with_all_that_is_on_it() {
    let lab = lab().await;
    for index in 0..40 {
        let id = format!("w{index}");
        lab.volume(&id).await;
        lab.place(&id, "n1").await;
        lab.namespace("s1", &id, &id).await;
    }
    // One is being deleted, one listener was ended by force before; neither is in the way.
    delete(&lab, "subsystems/s1/namespaces/w0", false)
        .await
        .unwrap();
    delete(&lab, "volumes/w1", false).await.unwrap_err();
    delete(&lab, "nodes/n1/listeners/l", true).await.unwrap();
    lab.node("n2").await;
    lab.volume("elsewhere").await;
    lab.place("elsewhere", "n2").await;
    let before = lab.content();
    let (code, reason, message) = refusal(delete_node(&lab, false, false).await);
    assert_eq!(
        (code, reason.as_str()),
        (Code::FailedPrecondition, "IN_USE")
    );
    for part in [
        "penstock node delete n1 --force",
        "lost with it: the data of volumes/v1, volumes/w0",
        "and 36 more; lost with it: the namespaces subsystems/s1/namespaces/a",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    ok(delete_node(&lab, true, true).await);
    assert_eq!(lab.content(), before);
    ok(delete_node(&lab, true, false).await);
    let left = keys(
        &lab,
        &["/spec/", "/status/", "/claim/", "/left/", "/guard/use/"],
    );
    let kept = ["node/n2", "volume/elsewhere", "subsystem/s1", "claim/nqn/"];
    for key in &left {
        assert!(kept.iter().any(|kept| key.contains(kept)), "{key}");
    }
    let operations = lab.repo.store().list(penstock_store::Range {
        prefix: lab.repo.keys().operations(),
        ..Default::default()
    });
    let operations = operations.await.unwrap().entries;
    assert!(operations.len() > 80);
    for entry in operations {
        let operation: Operation = crate::repo::decode(&entry).unwrap();
        let elsewhere = operation.target == "volumes/elsewhere";
        assert_eq!(operation.done, !elsewhere, "{operation:?}");
        let error = operation.error.map(|error| error.reason);
        let failed = operation.verb == "create" && !elsewhere;
        assert_eq!(error.as_deref(), failed.then_some("DELETED"));
    }
    lab.node("n1").await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_back_meanwhile_stays() {
    let lab = lab().await;
    set_online(&lab, true).await;
    assert_eq!(
        refusal(delete_node(&lab, true, false).await).1,
        "NODE_ONLINE"
    );
    set_online(&lab, false).await;
    ok(delete_node(&lab, true, false).await);
    assert_eq!(lab.stored::<Node>("nodes/n1").await, None);
}
