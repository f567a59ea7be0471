//! Volumes and what serves them, from creation to removal.

use std::time::Duration;

use penstock_api::v1::listener_service_server::ListenerService;
use penstock_api::v1::namespace_service_server::NamespaceService;
use penstock_api::v1::node_service_server::NodeService;
use penstock_api::v1::volume_service_server::VolumeService;
use penstock_api::v1::{
    CreateListenerRequest, CreateNodeRequest, DeleteListenerRequest, DeleteNamespaceRequest,
    Listener, ListenerSpec, Node, Operation, UpdateVolumeRequest, Volume, VolumeSpec, VolumeState,
    VolumeStatus,
};
use penstock_control::control::Control;
use prost::Message;
use tonic::{Code, Request};

use crate::agent::Agent;
use crate::world::*;

#[tokio::test(start_paused = true)]
async fn a_volume_lives_and_dies() {
    let world = World::new();
    let control = world.server("a").await;
    let agent = Agent::new("n1", GIB);
    agent.connect(&control);
    until("online", || online(&control, "n1")).await;

    let done = wait(&control, &create_volume(&control, "v1", 64).await).await;
    assert_eq!(done.error, None);
    let volume = get_volume(&control, "v1").await.unwrap();
    let status = volume.status.unwrap();
    assert_eq!(status.state(), VolumeState::Ready);
    assert_eq!(status.observed_generation, 1);
    let layout = status.layout.unwrap();
    assert_eq!((layout.node.as_str(), layout.epoch), ("nodes/n1", 1));
    assert!(condition(&status.conditions, "Placed").is_some());

    create_subsystem(&control, "s1").await;
    let done = wait(
        &control,
        &create_namespace(&control, "s1", "ns1", "v1").await,
    )
    .await;
    assert_eq!(done.error, None);
    agent.with(|memory| {
        let subsystem = memory.subsystems.values().next().expect("told");
        assert_eq!(subsystem.controller_id_min, 1);
        assert_eq!(subsystem.controller_id_max, 1023);
        assert_eq!(memory.namespaces.len(), 1);
    });

    let request = DeleteNamespaceRequest {
        name: "subsystems/s1/namespaces/ns1".to_owned(),
        ..DeleteNamespaceRequest::default()
    };
    let deleted = control
        .services
        .namespaces
        .delete_namespace(Request::new(request));
    let done = wait(&control, &deleted.await.unwrap().into_inner()).await;
    assert_eq!(done.error, None);
    until("the subsystem is taken from the node", || {
        agent.with(|memory| memory.subsystems.is_empty())
    })
    .await;

    let done = wait(&control, &delete_volume(&control, "v1").await).await;
    assert_eq!(done.error, None);
    let gone = get_volume(&control, "v1").await.expect_err("gone");
    assert_eq!(gone.code(), Code::NotFound);
    let left: Vec<String> = world
        .sim
        .dump()
        .into_iter()
        .map(|entry| entry.key)
        .collect();
    for part in ["spec/volume", "status/volume", "claim/volume", "claim/nsid"] {
        assert!(
            !left.iter().any(|key| key.contains(part)),
            "{part}: {left:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_volume_waits_for_space_and_gets_it() {
    let world = World::new();
    let control = world.server("a").await;
    let agent = Agent::new("n1", GIB);
    agent.connect(&control);
    until("online", || online(&control, "n1")).await;
    wait(&control, &create_volume(&control, "first", 900).await).await;
    let second = create_volume(&control, "second", 900).await;
    until("the second is told why it waits", || {
        control.mirror.with(|view| {
            let volume = view.volumes.get("second");
            let status = volume.and_then(|held| held.resource.status.clone());
            let placed = status.and_then(|status| condition(&status.conditions, "Placed"));
            placed.is_some_and(|placed| placed.reason == "NoSpace")
        })
    })
    .await;
    let told = control.mirror.with(|view| {
        let waits = view.unfinished_of("volumes/second").next().cloned();
        waits.expect("the operation goes on").0.progress.clone()
    });
    assert!(told.contains("waits for a place"), "{told}");
    wait(&control, &delete_volume(&control, "first").await).await;
    assert_eq!(wait(&control, &second).await.error, None);
}

/// Asks for another size of `v1`.
async fn grow(control: &Control, mib: i64) -> Operation {
    let request = UpdateVolumeRequest {
        volume: Some(Volume {
            name: "volumes/v1".to_owned(),
            spec: Some(VolumeSpec { ..volume_spec(mib) }),
            ..Volume::default()
        }),
        update_mask: Some(penstock_api::well_known::FieldMask {
            paths: vec!["spec.size_bytes".to_owned()],
        }),
        ..UpdateVolumeRequest::default()
    };
    let volumes = &control.services.volumes;
    let grown = volumes.update_volume(Request::new(request)).await;
    grown.unwrap().into_inner()
}

#[tokio::test(start_paused = true)]
async fn growth_is_done_when_there_was_space_for_it() {
    let world = World::new();
    let control = world.server("a").await;
    let agent = Agent::new("n1", GIB);
    agent.connect(&control);
    until("online", || online(&control, "n1")).await;
    wait(&control, &create_volume(&control, "v1", 64).await).await;
    wait(&control, &create_volume(&control, "other", 800).await).await;
    let operations = [grow(&control, 512).await, grow(&control, 640).await];
    tokio::time::sleep(Duration::from_secs(10)).await;
    for operation in &operations {
        let unfinished = control.mirror.with(|view| {
            let mut all = view.unfinished_of("volumes/v1");
            all.any(|(waiting, _)| waiting.name == operation.name)
        });
        assert!(unfinished, "{operation:?}");
    }
    wait(&control, &delete_volume(&control, "other").await).await;
    for operation in &operations {
        assert_eq!(wait(&control, operation).await.error, None);
    }
    let status = get_volume(&control, "v1").await.unwrap().status.unwrap();
    assert_eq!(
        (status.size_bytes, status.observed_generation),
        (640 << 20, 3)
    );
}

#[tokio::test(start_paused = true)]
async fn a_volume_grows() {
    let world = World::new();
    let control = world.server("a").await;
    let agent = Agent::new("n1", GIB);
    agent.connect(&control);
    until("online", || online(&control, "n1")).await;
    wait(&control, &create_volume(&control, "v1", 64).await).await;
    let done = wait(&control, &grow(&control, 128).await).await;
    assert_eq!(done.error, None);
    let status = get_volume(&control, "v1").await.unwrap().status.unwrap();
    assert_eq!(status.size_bytes, 128 << 20);
    assert_eq!(status.layout.unwrap().epoch, 2);
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_no_node_ever_had_is_removed_at_once() {
    let world = World::new();
    let control = world.server("a").await;
    let created = create_volume(&control, "v1", 64).await;
    let deleted = delete_volume(&control, "v1").await;
    assert_eq!(wait(&control, &deleted).await.error, None);
    let error = wait(&control, &created)
        .await
        .error
        .expect("deleted meanwhile");
    assert_eq!(error.reason, "DELETED");
    let gone = get_volume(&control, "v1").await.expect_err("gone");
    assert_eq!(gone.code(), Code::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_no_node_ever_had_is_removed_at_once() {
    let world = World::new();
    let control = world.server("a").await;
    create_volume(&control, "v1", 64).await;
    create_subsystem(&control, "s1").await;
    create_namespace(&control, "s1", "ns1", "v1").await;
    let request = DeleteNamespaceRequest {
        name: "subsystems/s1/namespaces/ns1".to_owned(),
        ..DeleteNamespaceRequest::default()
    };
    let deleted = control
        .services
        .namespaces
        .delete_namespace(Request::new(request));
    let done = wait(&control, &deleted.await.unwrap().into_inner()).await;
    assert_eq!(done.error, None);
    // And with it what it claimed: the volume can be deleted.
    wait(&control, &delete_volume(&control, "v1").await).await;
}

#[tokio::test(start_paused = true)]
async fn a_listener_of_a_node_that_was_never_there_is_removed_at_once() {
    let world = World::new();
    let control = world.server("a").await;
    let request = CreateNodeRequest {
        node_id: "n1".to_owned(),
        node: Some(Node::default()),
        ..CreateNodeRequest::default()
    };
    let created = control.services.nodes.create_node(Request::new(request));
    created.await.expect("node");
    let request = CreateListenerRequest {
        parent: "nodes/n1".to_owned(),
        listener_id: "l1".to_owned(),
        listener: Some(Listener {
            spec: Some(ListenerSpec {
                address: "192.0.2.1".to_owned(),
                ..ListenerSpec::default()
            }),
            ..Listener::default()
        }),
        ..CreateListenerRequest::default()
    };
    let listeners = &control.services.listeners;
    listeners
        .create_listener(Request::new(request))
        .await
        .expect("listener");
    let request = DeleteListenerRequest {
        name: "nodes/n1/listeners/l1".to_owned(),
        ..DeleteListenerRequest::default()
    };
    let deleted = listeners.delete_listener(Request::new(request)).await;
    let done = wait(&control, &deleted.unwrap().into_inner()).await;
    assert_eq!(done.error, None);
}

#[tokio::test(start_paused = true)]
async fn a_listener_lives_and_dies() {
    let world = World::new();
    let control = world.server("a").await;
    let agent = Agent::new("n1", GIB);
    agent.connect(&control);
    until("online", || online(&control, "n1")).await;
    let request = CreateListenerRequest {
        parent: "nodes/n1".to_owned(),
        listener_id: "l1".to_owned(),
        listener: Some(Listener {
            spec: Some(ListenerSpec {
                address: "192.0.2.1".to_owned(),
                ..ListenerSpec::default()
            }),
            ..Listener::default()
        }),
        ..CreateListenerRequest::default()
    };
    let listeners = &control.services.listeners;
    let created = listeners.create_listener(Request::new(request)).await;
    let done = wait(&control, &created.expect("listener").into_inner()).await;
    assert_eq!(done.error, None);
    agent.with(|memory| assert_eq!(memory.listeners.len(), 1));
    let request = DeleteListenerRequest {
        name: "nodes/n1/listeners/l1".to_owned(),
        ..DeleteListenerRequest::default()
    };
    let deleted = listeners.delete_listener(Request::new(request)).await;
    let done = wait(&control, &deleted.unwrap().into_inner()).await;
    assert_eq!(done.error, None);
    agent.with(|memory| assert!(memory.listeners.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn a_subsystem_whose_places_were_lost_gets_them_again() {
    let world = World::new();
    let control = world.server("a").await;
    let agent = Agent::new("n1", GIB);
    agent.connect(&control);
    until("online", || online(&control, "n1")).await;
    create_subsystem(&control, "s1").await;
    wait(&control, &create_volume(&control, "v1", 8).await).await;
    let created = create_namespace(&control, "s1", "ns1", "v1").await;
    wait(&control, &created).await;
    let places = || {
        control.mirror.with(|view| {
            let status = view.subsystems["s1"].resource.status.clone();
            status.map_or_else(Vec::new, |status| status.nodes)
        })
    };
    assert_eq!(places(), ["nodes/n1"]);
    // As a store that was put back, unseen, to the moment before they were written.
    let status = || {
        let mut entries = world.sim.dump().into_iter();
        entries.find(|entry| entry.key.ends_with("/status/subsystem/s1"))
    };
    world.sim.delete(&status().expect("it is there").key);
    assert_eq!(status(), None);
    until("they are there again", || status().is_some()).await;
    until("they are seen", || places() == ["nodes/n1"]).await;
}

/// Waits until the status of `v1` is so, and puts the store back to the moment before, unseen: it is
/// written past where watches stand before these hear of it.
async fn lose(world: &World, so: impl Fn(&VolumeStatus) -> bool) {
    for _ in 0..60_000 {
        let backup = world.sim.snapshot();
        tokio::time::sleep(Duration::from_millis(1)).await;
        let entries = world.sim.dump();
        let status = entries
            .iter()
            .find(|entry| entry.key.ends_with("/status/volume/v1"))
            .and_then(|entry| VolumeStatus::decode(entry.value.as_slice()).ok());
        if status.is_some_and(|status| so(&status)) {
            let reached = world.sim.put("elsewhere", b"");
            world.sim.rewind(&backup);
            while world.sim.put("elsewhere", b"") < reached + 5 {}
            return;
        }
    }
    panic!("it does not come to be so");
}

#[tokio::test(start_paused = true)]
async fn what_a_store_put_back_has_lost_is_written_again() {
    let world = World::new();
    let control = world.server("a").await;
    let agent = Agent::new("n1", GIB);
    let stream = agent.connect(&control);
    until("online", || online(&control, "n1")).await;
    world
        .sim
        .set_watch_latency(Duration::from_secs(2), Duration::from_secs(2));
    create_volume(&control, "v1", 8).await;
    // First the leader's word is lost, then what the node reported.
    lose(&world, |status| status.layout.is_some()).await;
    lose(&world, |status| status.state() == VolumeState::Ready).await;
    let mut state = VolumeState::Unspecified;
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let volume = get_volume(&control, "v1").await.unwrap();
        state = volume.status.unwrap_or_default().state();
    }
    assert_eq!(state, VolumeState::Ready);
    assert_eq!(control.mirror.with(|view| view.regressions), 0);
    assert!(!stream.is_finished(), "nobody has noticed");
}
