//! Streams of agents: who is let in, what they are told, what becomes of them.

use std::time::Duration;

use penstock_api::v1::node_service_server::NodeService;
use penstock_api::v1::{ConditionStatus, OrphanAction, ResolveOrphanRequest, Volume};
use penstock_control::config::Settings;
use penstock_control::control::Control;
use penstock_control::identity::{Caller, Role};
use tonic::{Code, Request};

use crate::agent::Agent;
use crate::world::*;

#[tokio::test(start_paused = true)]
async fn an_unknown_node_is_refused_and_told_the_remedy() {
    let world = World::new();
    let control = world.server_with("a", Settings::default()).await;
    let ended = Agent::new("n1", GIB).connect(&control).await.unwrap();
    let status = ended.expect("refused");
    assert_eq!(status.code(), Code::NotFound);
    assert!(
        status.message().contains("penstock node create n1"),
        "{status}"
    );
    assert!(get_node(&control, "n1").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_certificate_speaks_for_its_own_node_only() {
    let world = World::new();
    let control = world.server("a").await;
    let caller = Caller {
        name: "n2".to_owned(),
        role: Role::Node,
    };
    let agent = Agent::new("n1", GIB);
    let ended = agent.connect_as(&control, caller).await.unwrap();
    assert_eq!(ended.expect("refused").code(), Code::PermissionDenied);
    assert!(get_node(&control, "n1").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_node_registers_with_its_devices_and_goes_offline() {
    let world = World::new();
    let control = world.server("a").await;
    let agent = Agent::new("n1", GIB);
    let stream = agent.connect(&control);
    until("online", || online(&control, "n1")).await;
    let node = get_node(&control, "n1").await.unwrap();
    let inventory = node.status.unwrap().inventory.unwrap();
    assert_eq!(inventory.version, "test");
    control.mirror.with(|view| {
        let device = &view.devices["n1/d0"].resource;
        assert_eq!(device.name, "nodes/n1/devices/d0");
        let status = device.status.clone().unwrap();
        assert_eq!(status.inventory.unwrap().size_bytes, GIB);
    });
    until("synced", || {
        control.mirror.with(|view| {
            let status = view.nodes["n1"].resource.status.clone().unwrap();
            penstock_plan::observe::is_true(&status.conditions, "Synced")
        })
    })
    .await;
    stream.abort();
    until("offline", || !online(&control, "n1")).await;
    assert!(control.mirror.with(|view| view.sessions.is_empty()));
    assert_eq!(control.env.metrics.agents_connected.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reconnect_is_told_everything_and_nothing_is_lost_meanwhile() {
    let world = World::new();
    let control = world.server("a").await;
    let agent = Agent::new("n1", GIB);
    let stream = agent.connect(&control);
    until("online", || online(&control, "n1")).await;
    agent.with(|memory| memory.ignores.insert("volumes/v2".to_owned()));
    wait(&control, &create_volume(&control, "v1", 8).await).await;
    let second = create_volume(&control, "v2", 8).await;
    until("v2 is told", || {
        agent.with(|memory| memory.volumes.len() == 2)
    })
    .await;
    stream.abort();
    until("offline", || !online(&control, "n1")).await;

    // While it is away: v1 is deleted, and v2 is still wanted.
    let deleted = delete_volume(&control, "v1").await;
    agent.with(|memory| memory.ignores.clear());
    agent.connect(&control);
    assert_eq!(wait(&control, &second).await.error, None);
    assert_eq!(wait(&control, &deleted).await.error, None);
    agent.with(|memory| assert_eq!(memory.volumes.len(), 1));
}

#[tokio::test(start_paused = true)]
async fn a_newer_stream_ends_the_older_also_at_another_server() {
    let world = World::new();
    let (one, two) = (world.server("a").await, world.server("b").await);
    let agent = Agent::new("n1", GIB);
    let older = agent.connect(&one);
    until("online", || online(&one, "n1")).await;
    let newer = agent.connect(&two);
    let ended = older.await.unwrap().expect("ended");
    assert_eq!(ended.code(), Code::Aborted);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!newer.is_finished());
    assert!(
        online(&two, "n1"),
        "the older stream's end must not say that the node is offline"
    );
    // What is wanted reaches the node by the newer stream, whoever was asked.
    wait(&one, &create_volume(&one, "v1", 8).await).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_of_a_server_that_crashed_is_offline_after_its_session() {
    let world = World::new();
    let (one, two) = (world.server("a").await, world.server("b").await);
    let agent = Agent::new("n1", GIB);
    agent.connect(&one);
    until("online", || online(&two, "n1")).await;
    drop(one);
    until("offline", || !online(&two, "n1")).await;
    agent.connect(&two);
    until("online again", || online(&two, "n1")).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_sends_its_agents_away() {
    let world = World::new();
    let control = world.server("a").await;
    let agent = Agent::new("n1", GIB);
    let stream = agent.connect(&control);
    until("online", || online(&control, "n1")).await;
    control.stop(Duration::from_secs(5)).await;
    let ended = stream.await.unwrap().expect("told");
    assert_eq!(ended.code(), Code::Unavailable);
    let left = world.sim.dump();
    assert!(!left.iter().any(|entry| entry.key.contains("/session/")));
    assert!(!left.iter().any(|entry| entry.key.contains("/elect/")));
}

#[tokio::test(start_paused = true)]
async fn nodes_learn_where_others_serve() {
    let world = World::new();
    let control = world.server("a").await;
    let (one, two) = (Agent::new("n1", GIB), Agent::new("n2", GIB / 2));
    one.connect(&control);
    two.connect(&control);
    until("online", || {
        online(&control, "n1") && online(&control, "n2")
    })
    .await;
    let subsystem = create_subsystem(&control, "s1").await;
    wait(&control, &create_volume(&control, "v1", 8).await).await;
    wait(
        &control,
        &create_namespace(&control, "s1", "ns1", "v1").await,
    )
    .await;
    let volume = get_volume(&control, "v1").await.unwrap();
    let place = volume.status.unwrap().layout.unwrap().node;
    let (server, other) = if place == "nodes/n1" {
        (one, two)
    } else {
        (two, one)
    };
    until("the other node is told", || {
        other.with(|memory| memory.ports.len() == 1)
    })
    .await;
    let port = other.with(|memory| memory.ports[0].clone());
    assert_eq!(port.nqn, subsystem.spec.unwrap().nqn);
    assert_eq!(port.address.unwrap().address, "192.0.2.1");
    assert!(port.allow_any_host);
    assert!(server.with(|memory| memory.ports.is_empty()));
}

/// Whether the node's status says that it has one orphan and that the store went back.
fn has_orphan(control: &Control) -> bool {
    control.mirror.with(|view| {
        let node = view.nodes.get("n1");
        let status = node.and_then(|held| held.resource.status.clone());
        status.is_some_and(|status| {
            status.orphans.len() == 1
                && penstock_plan::observe::is_true(&status.conditions, "StoreRegressed")
        })
    })
}

#[tokio::test(start_paused = true)]
async fn a_restored_store_makes_orphans_and_deletes_nothing() {
    // Under another identity, and under its own.
    for rewound in [false, true] {
        let world = World::new();
        let control = world.server("a").await;
        let agent = Agent::new("n1", GIB);
        let stream = agent.connect(&control);
        until("online", || online(&control, "n1")).await;
        wait(&control, &create_volume(&control, "old", 8).await).await;
        let backup = world.sim.snapshot();
        wait(&control, &create_volume(&control, "new", 8).await).await;
        if rewound {
            world.sim.rewind(&backup);
        } else {
            world.sim.restore(&backup);
        }
        until("the stream ends", || stream.is_finished()).await;
        assert_eq!(agent.with(|memory| memory.volumes.len()), 2);
        agent.connect(&control);
        until("the orphan is known", || has_orphan(&control)).await;
        let orphans = get_node(&control, "n1")
            .await
            .unwrap()
            .status
            .unwrap()
            .orphans;
        assert_eq!(orphans[0].volume, "volumes/new");

        // Its space is not given to another.
        let taken = orphans[0].layout.clone().unwrap().extents[0].clone();
        wait(&control, &create_volume(&control, "next", 8).await).await;
        let next = get_volume(&control, "next").await.unwrap();
        let given = next.status.unwrap().layout.unwrap().extents[0].clone();
        assert!(
            given.offset_bytes >= taken.offset_bytes + taken.length_bytes
                || taken.offset_bytes >= given.offset_bytes + given.length_bytes,
            "{given:?} overlaps {taken:?}"
        );
        agent.with(|memory| assert_eq!(memory.volumes.len(), 3));
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_put_back_unseen_is_noticed_by_what_vanishes() {
    let world = World::new();
    let control = world.server("a").await;
    let agent = Agent::new("n1", GIB);
    let stream = agent.connect(&control);
    until("online", || online(&control, "n1")).await;
    let backup = world.sim.snapshot();
    wait(&control, &create_volume(&control, "new", 8).await).await;
    // While the server does not reach it, the store goes back and past where the server saw it: its
    // watch goes on as if nothing had been.
    world.sim.partition("a", true);
    world.sim.rewind(&backup);
    let revision = control.mirror.with(|view| view.revision);
    while world.sim.put("elsewhere", b"") < revision + 5 {}
    world.sim.partition("a", false);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(!stream.is_finished(), "nothing tells it so far");
    assert_eq!(control.mirror.with(|view| view.regressions), 0);
    // It lists everything anew now and then, and what is gone then was never deleted.
    tokio::time::sleep(Duration::from_secs(300)).await;
    let ended = stream.await.unwrap().expect("told");
    assert!(ended.message().contains("put back"), "{ended}");
    agent.connect(&control);
    until("the orphan is known", || has_orphan(&control)).await;
    assert_eq!(agent.with(|memory| memory.volumes.len()), 1);
}

#[tokio::test(start_paused = true)]
async fn a_volume_gets_no_place_while_a_node_holds_it_as_an_orphan() {
    let world = World::new();
    let control = world.server("a").await;
    let agent = Agent::new("n1", GIB);
    let creation = create_volume(&control, "v1", 8).await;
    let backup = world.sim.snapshot();
    agent.connect(&control);
    wait(&control, &creation).await;
    let place = |volume: &Volume| volume.status.clone().unwrap().layout.unwrap().extents;
    let held = place(&get_volume(&control, "v1").await.unwrap());
    // The store has the volume without a place again; the node holds it, with its data.
    world.sim.restore(&backup);
    let placed = || {
        control.mirror.with(|view| {
            let status = view.volumes["v1"].resource.status.clone();
            condition(&status.unwrap_or_default().conditions, "Placed")
        })
    };
    until("the node is sent away", || !online(&control, "n1")).await;
    agent.connect(&control);
    until("the leader says why", || {
        placed().is_some_and(|placed| placed.reason == "OrphanExists")
    })
    .await;
    let placed = placed().expect("said");
    assert_eq!(placed.status(), ConditionStatus::False);
    assert!(
        placed.message.contains("resolve-orphan n1"),
        "{}",
        placed.message
    );
    let request = ResolveOrphanRequest {
        name: "nodes/n1".to_owned(),
        volume_uid: creation.target_uid.clone(),
        action: OrphanAction::Adopt.into(),
        ..ResolveOrphanRequest::default()
    };
    let resolved = control.services.nodes.resolve_orphan(Request::new(request));
    resolved.await.expect("adopted");
    wait(&control, &creation).await;
    let volume = get_volume(&control, "v1").await.unwrap();
    assert_eq!(place(&volume), held, "it stays where it is");
}
