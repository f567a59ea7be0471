//! A person's word on orphans.

use super::*;

const UID: &str = "01234567-89ab-4def-8123-456789abcdef";

fn layout(epoch: u64, offset: u64) -> Layout {
    Layout {
        node: "nodes/n1".to_owned(),
        epoch,
        extents: vec![extent("n1", offset)],
        stripe_width: 1,
        ..Default::default()
    }
}

/// A node that holds an orphan of this name.
async fn held(lab: &Lab, uid: &str, reason: &str, offset: u64) {
    lab.node("n1").await;
    let known = DesiredVolume {
        uid: uid.to_owned(),
        name: "volumes/v1".to_owned(),
        generation: 3,
        spec: Some(VolumeSpec {
            size_bytes: MIB,
            block_size: BlockSize::BlockSize512.into(),
            ..Default::default()
        }),
        labels: [("team".to_owned(), "a".to_owned())].into(),
        ..Default::default()
    };
    let orphan = Orphan {
        volume_uid: uid.to_owned(),
        volume: "volumes/v1".to_owned(),
        reason: reason.to_owned(),
        layout: Some(layout(7, offset)),
        size_bytes: 1 << 20,
        known: Some(known),
        ..Default::default()
    };
    let status = NodeStatus {
        orphans: vec![orphan],
        ..Default::default()
    };
    lab.set_status::<Node>("nodes/n1", &status).await;
}

async fn resolve(lab: &Lab, uid: &str, action: OrphanAction) -> Result<Response<Node>, Status> {
    let call = Request::new(ResolveOrphanRequest {
        name: "nodes/n1".to_owned(),
        volume_uid: uid.to_owned(),
        action: action.into(),
        ..Default::default()
    });
    lab.services.nodes.resolve_orphan(call).await
}

#[tokio::test(start_paused = true)]
async fn adopted_it_is_in_the_store_again() {
    let lab = Lab::new();
    held(&lab, UID, "MissingInStore", 0).await;
    ok(resolve(&lab, UID, OrphanAction::Adopt).await);
    let volume = lab.stored::<Volume>("volumes/v1").await.unwrap();
    assert_eq!((volume.uid.as_str(), volume.generation), (UID, 4));
    assert_eq!(volume.labels.len(), 1);
    assert_eq!(volume.spec.unwrap().block_size(), BlockSize::BlockSize512);
    let status = volume.status.unwrap();
    assert_eq!(status.layout.unwrap(), layout(8, 0));
    assert_eq!(status.finalizers, ["node"]);
    // Again, before the node has reported: nothing more to do.
    let before = lab.content();
    ok(resolve(&lab, UID, OrphanAction::Adopt).await);
    assert_eq!(lab.content(), before);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_behind_catches_up() {
    let lab = Lab::new();
    let operation = lab.volume("v1").await;
    held(&lab, &operation.target_uid, "EpochBehind", 0).await;
    lab.place("v1", "n1").await;
    ok(resolve(&lab, &operation.target_uid, OrphanAction::Adopt).await);
    let volume = lab.stored::<Volume>("volumes/v1").await.unwrap();
    assert_eq!((volume.uid, volume.generation), (operation.target_uid, 4));
    assert_eq!(volume.status.unwrap().layout.unwrap().epoch, 8);
}

#[tokio::test(start_paused = true)]
async fn deleted_it_goes_through_the_node() {
    let lab = Lab::new();
    held(&lab, UID, "MissingInStore", 0).await;
    ok(resolve(&lab, UID, OrphanAction::Delete).await);
    let volume = lab.stored::<Volume>("volumes/v1").await.unwrap();
    assert!(volume.delete_time.is_some());
    let status = volume.status.unwrap();
    assert_eq!(status.state(), VolumeState::Deleting);
    assert_eq!(status.layout.unwrap().epoch, 8);
    let name = crate::ops::name(UID, crate::ops::Verb::Delete);
    assert!(crate::ops::find(&lab.repo, &name).await.unwrap().is_some());
    let before = lab.content();
    ok(resolve(&lab, UID, OrphanAction::Delete).await);
    assert_eq!(lab.content(), before);
}

#[tokio::test(start_paused = true)]
async fn another_of_its_name_stays_untouched() {
    let lab = Lab::new();
    lab.volume("v1").await;
    held(&lab, UID, "MissingInStore", 0).await;
    let before = lab.content();
    let (_, reason, message) = refusal(resolve(&lab, UID, OrphanAction::Adopt).await);
    assert_eq!(reason, "NAME_TAKEN");
    assert!(message.contains("volumes/v1"));
    assert_eq!(lab.content(), before);
    ok(resolve(&lab, UID, OrphanAction::Delete).await);
    let other = lab.stored::<Volume>("volumes/v1").await.unwrap();
    assert!(other.delete_time.is_none());
    let orphan = lab
        .stored::<Volume>(&format!("volumes/orphan-{UID}"))
        .await
        .unwrap();
    assert!(orphan.delete_time.is_some());
}

#[tokio::test(start_paused = true)]
async fn the_stores_volume_on_another_node_stays_untouched() {
    let lab = Lab::new();
    let uid = lab.volume("v1").await.target_uid;
    lab.node("n2").await;
    lab.place("v1", "n2").await;
    held(&lab, &uid, "MissingInStore", 0).await;
    let before = lab.stored::<Volume>("volumes/v1").await;
    let (_, reason, message) = refusal(resolve(&lab, &uid, OrphanAction::Adopt).await);
    assert_eq!(reason, "PLACED_ELSEWHERE");
    assert!(
        message.contains("volumes/v1") && message.contains("nodes/n2"),
        "{message}"
    );
    ok(resolve(&lab, &uid, OrphanAction::Delete).await);
    assert_eq!(lab.stored::<Volume>("volumes/v1").await, before);
    let name = format!("volumes/orphan-{uid}");
    let orphan = lab.stored::<Volume>(&name).await.unwrap();
    assert!(orphan.delete_time.is_some());
    assert_eq!(orphan.status.unwrap().layout.unwrap().node, "nodes/n1");
    // Again, before the node has reported: nothing more to do.
    let before = lab.content();
    ok(resolve(&lab, &uid, OrphanAction::Delete).await);
    assert_eq!(lab.content(), before);
}

#[tokio::test(start_paused = true)]
async fn what_is_served_is_not_deleted() {
    let lab = Lab::new();
    let uid = lab.volume("v1").await.target_uid;
    lab.subsystem("s1").await;
    lab.namespace("s1", "ns1", "v1").await;
    held(&lab, &uid, "EpochBehind", 0).await;
    lab.place("v1", "n1").await;
    let before = lab.content();
    let (code, reason, message) = refusal(resolve(&lab, &uid, OrphanAction::Delete).await);
    assert_eq!(
        (code, reason.as_str()),
        (Code::FailedPrecondition, "IN_USE")
    );
    assert!(
        message.contains("subsystems/s1/namespaces/ns1"),
        "{message}"
    );
    assert_eq!(lab.content(), before);
}

#[tokio::test(start_paused = true)]
async fn the_stores_volume_without_a_place_takes_its_own() {
    let lab = Lab::new();
    let uid = lab.volume("v1").await.target_uid;
    held(&lab, &uid, "MissingInStore", 0).await;
    ok(resolve(&lab, &uid, OrphanAction::Adopt).await);
    let volume = lab.stored::<Volume>("volumes/v1").await.unwrap();
    assert_eq!(volume.uid, uid);
    assert_eq!(volume.status.unwrap().layout.unwrap().epoch, 8);
}

#[tokio::test(start_paused = true)]
async fn refusals_change_nothing() {
    let lab = Lab::new();
    held(&lab, UID, "ExtentConflict", 0).await;
    lab.volume("v2").await;
    lab.place("v2", "n1").await;
    let before = lab.content();
    let (_, reason, message) = refusal(resolve(&lab, UID, OrphanAction::Adopt).await);
    assert_eq!(reason, "EXTENT_CONFLICT");
    assert!(message.contains("volumes/v2"));
    let result = resolve(&lab, UID, OrphanAction::Unspecified).await;
    assert_eq!(fields(result), ["action"]);
    let unknown = "ffffffff-89ab-4def-8123-456789abcdef";
    let result = resolve(&lab, unknown, OrphanAction::Adopt).await;
    assert_eq!(refusal(result).0, Code::NotFound);
    assert_eq!(lab.content(), before);
}
