use std::sync::Arc;

use penstock_api::names::Kind;
use penstock_api::v1::{
    Layout, Namespace, NamespaceSpec, Operation, Subsystem, Volume, VolumeStatus,
};
use penstock_store::sim::SimStore;
use prost::Message;

use super::*;
use crate::config::Settings;

struct World {
    sim: Arc<SimStore>,
    keys: Keys,
    mirror: Mirror,
}

impl World {
    async fn new() -> World {
        let sim = Arc::new(SimStore::new(3));
        let env = Env::seeded(sim.client("a"), Settings::default(), 3);
        let keys = Keys::new(env.settings.prefix());
        let mirror = Mirror::new(env);
        let running = mirror.clone();
        tokio::spawn(async move { running.run().await });
        mirror.reached(0).await;
        World { sim, keys, mirror }
    }

    /// A volume on a node, or on none.
    async fn volume(&self, id: &str, node: &str) {
        let volume = Volume {
            name: format!("volumes/{id}"),
            uid: format!("uid-{id}"),
            ..Volume::default()
        };
        let key = self.keys.spec(Kind::Volume, id);
        self.sim.put(&key, &volume.encode_to_vec());
        let mut status = VolumeStatus::default();
        if !node.is_empty() {
            status.layout = Some(Layout {
                node: format!("nodes/{node}"),
                ..Layout::default()
            });
        }
        let key = self.keys.status(Kind::Volume, id);
        let revision = self.sim.put(&key, &status.encode_to_vec());
        self.mirror.reached(revision).await;
    }

    async fn namespace(&self, key: &str, volume: &str) {
        let namespace = Namespace {
            uid: format!("uid-{key}"),
            spec: Some(NamespaceSpec {
                volume: format!("volumes/{volume}"),
                ..NamespaceSpec::default()
            }),
            ..Namespace::default()
        };
        let key = self.keys.spec(Kind::Namespace, key);
        let revision = self.sim.put(&key, &namespace.encode_to_vec());
        self.mirror.reached(revision).await;
    }
}

fn items(subscription: &Subscription) -> Vec<Item> {
    subscription.take().items.into_keys().collect()
}

fn volume(id: &str) -> Item {
    Item::Of(Kind::Volume, id.to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_node_hears_of_what_is_its_own_and_of_what_leaves_it() {
    let world = World::new().await;
    let one = world.mirror.subscribe(Interest::Node("n1".to_owned()));
    let two = world.mirror.subscribe(Interest::Node("n2".to_owned()));
    world.volume("v1", "n1").await;
    assert_eq!(items(&one), [volume("v1")]);
    assert!(items(&two).is_empty());

    world.namespace("s1/ns1", "v1").await;
    let namespace = Item::Of(Kind::Namespace, "s1/ns1".to_owned());
    let subsystem = Item::Of(Kind::Subsystem, "s1".to_owned());
    assert_eq!(items(&one), [subsystem.clone(), namespace.clone()]);
    assert!(world.mirror.with(|view| view.serves("n1", "s1")));
    let pending = two.take();
    assert!(pending.items.is_empty() && pending.ports);

    // A volume's change concerns what is served of it.
    world.volume("v1", "n1").await;
    assert_eq!(items(&one), [subsystem, namespace, volume("v1")]);
    assert!(!two.take().ports, "nothing about ports has changed");

    let revision = world.sim.delete(&world.keys.spec(Kind::Volume, "v1"));
    world.mirror.reached(revision).await;
    assert!(items(&one).contains(&volume("v1")));
    assert!(!world.mirror.with(|view| view.serves("n1", "s1")));
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_is_found_by_comparison() {
    let world = World::new().await;
    world.volume("stays", "n1").await;
    world.volume("goes", "n1").await;
    let one = world.mirror.subscribe(Interest::Node("n1".to_owned()));
    world
        .sim
        .set_watch_latency(Duration::from_secs(60), Duration::from_secs(60));
    world.sim.delete(&world.keys.spec(Kind::Volume, "goes"));
    let volume_key = world.keys.spec(Kind::Volume, "comes");
    world
        .sim
        .put(&volume_key, &Volume::default().encode_to_vec());
    let status = VolumeStatus {
        layout: Some(Layout {
            node: "nodes/n1".to_owned(),
            ..Layout::default()
        }),
        ..VolumeStatus::default()
    };
    let key = world.keys.status(Kind::Volume, "comes");
    let revision = world.sim.put(&key, &status.encode_to_vec());
    world.sim.compact_all();
    world.sim.disconnect_watches(Duration::from_millis(1));
    world.sim.set_watch_latency(Duration::ZERO, Duration::ZERO);
    world.mirror.reached(revision).await;
    assert_eq!(items(&one), [volume("comes"), volume("goes")]);
    world.mirror.with(|view| {
        let on_node: Vec<&String> = view.volumes_of_node("n1").collect();
        assert_eq!(on_node, ["comes", "stays"]);
        assert_eq!(view.regressions, 0);
    });
}

#[tokio::test(start_paused = true)]
async fn unfinished_operations_are_counted_by_target() {
    let world = World::new().await;
    let mut operation = Operation {
        name: "operations/o1".to_owned(),
        target: "volumes/v1".to_owned(),
        ..Operation::default()
    };
    let key = world.keys.operation("o1");
    let revision = world.sim.put(&key, &operation.encode_to_vec());
    world.mirror.reached(revision).await;
    world.mirror.with(|view| {
        assert_eq!(view.unfinished_of("volumes/v1").count(), 1);
        assert_eq!(view.unfinished(), 1);
    });
    operation.done = true;
    let revision = world.sim.put(&key, &operation.encode_to_vec());
    world.mirror.reached(revision).await;
    world.mirror.with(|view| {
        assert_eq!(view.unfinished_of("volumes/v1").count(), 0);
        assert_eq!(view.unfinished(), 0);
    });
}

#[tokio::test(start_paused = true)]
async fn damaged_values_are_left_out_and_disturb_nothing() {
    let world = World::new().await;
    world
        .sim
        .put(&world.keys.spec(Kind::Subsystem, "bad"), b"\xff\xff\xff");
    let good = Subsystem {
        name: "subsystems/good".to_owned(),
        ..Subsystem::default()
    };
    let key = world.keys.spec(Kind::Subsystem, "good");
    let revision = world.sim.put(&key, &good.encode_to_vec());
    world.mirror.reached(revision).await;
    world.mirror.with(|view| {
        let known: Vec<&String> = view.subsystems.keys().collect();
        assert_eq!(known, ["good"]);
    });
}

#[tokio::test(start_paused = true)]
async fn an_older_store_is_noticed() {
    let world = World::new().await;
    let backup = world.sim.snapshot();
    world.volume("v1", "n1").await;
    world.sim.restore(&backup);
    let progress = world.mirror.progress();
    for _ in 0..1_000 {
        if world.mirror.with(|view| view.regressions) == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(
        world
            .mirror
            .with(|view| (view.regressions, view.volumes.len())),
        (1, 0)
    );
    assert!(progress.get().synced);
}

#[tokio::test(start_paused = true)]
async fn what_no_watch_tells_is_found_when_all_is_listed_anew() {
    let world = World::new().await;
    world.volume("kept", "n1").await;
    let backup = world.sim.snapshot();
    world.volume("lost", "n1").await;
    let one = world.mirror.subscribe(Interest::Node("n1".to_owned()));
    // While nobody looks, the store goes back, and past where the watch stands.
    world.sim.partition("a", true);
    world.sim.rewind(&backup);
    let reached = world.mirror.with(|view| view.revision);
    while world.sim.put("elsewhere", b"") < reached + 3 {}
    world.sim.partition("a", false);
    tokio::time::sleep(ANEW / 2).await;
    let known = |world: &World| -> Vec<String> {
        world.mirror.with(|v| v.volumes.keys().cloned().collect())
    };
    assert_eq!(known(&world), ["kept", "lost"], "the watch goes on");
    assert!(items(&one).is_empty());
    tokio::time::sleep(ANEW).await;
    assert_eq!(known(&world), ["kept"]);
    assert_eq!(items(&one), [volume("lost")]);
    let progress = world.mirror.progress().get();
    assert!(progress.synced && progress.problem.is_empty());
}
