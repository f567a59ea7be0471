//! Watches against the simulated store.

use futures::StreamExt;
use penstock_api::resource::Resource as _;
use penstock_api::v1::*;
use penstock_store::sim::SimStore;
use tonic_types::StatusExt;

use super::*;
use crate::config::Settings;
use crate::env::Env;
use crate::repo::Repo;
use crate::services::Services;

struct Lab {
    sim: SimStore,
    repo: Repo,
    services: Services,
}

impl Lab {
    fn new() -> Lab {
        let sim = SimStore::new(1);
        Lab::on(&sim)
    }

    /// A server on this store: another one, or the same after a restart.
    fn on(sim: &SimStore) -> Lab {
        let env = Env::seeded(sim.client("a"), Settings::default(), 1);
        Lab {
            sim: sim.clone(),
            repo: Repo::new(&env),
            services: Services::new(&env, None),
        }
    }

    async fn put_volume(&self, id: &str, label: &str, size_bytes: i64) {
        let volume = Volume {
            name: format!("volumes/{id}"),
            uid: id.to_owned(),
            labels: [("l".to_owned(), label.to_owned())].into(),
            spec: Some(VolumeSpec {
                size_bytes,
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut change = self.repo.change();
        change.put_spec(id, &volume);
        self.repo.commit(change).await.unwrap().unwrap();
    }

    async fn put_status(&self, id: &str, state: VolumeState) {
        let status = VolumeStatus {
            state: state.into(),
            ..Default::default()
        };
        let mut change = self.repo.change();
        change.put_status::<Volume>(id, &status);
        self.repo.commit(change).await.unwrap().unwrap();
    }

    async fn delete_volume(&self, id: &str) {
        let mut change = self.repo.change();
        change.delete_resource::<Volume>(id);
        self.repo.commit(change).await.unwrap().unwrap();
    }

    async fn watch(&self, request: WatchRequest) -> Result<Events, Status> {
        let response = self.services.watches.watch(Request::new(request)).await?;
        Ok(response.into_inner())
    }
}

fn volumes(token: &str) -> WatchRequest {
    WatchRequest {
        kinds: vec!["volume".to_owned()],
        resume_token: token.to_owned(),
        ..Default::default()
    }
}

/// The next event that is no bookmark: what happened, to what, in which state, its size, and the
/// token.
async fn next(events: &mut Events) -> (WatchEventType, String, VolumeState, i64, String) {
    loop {
        let event = events.next().await.unwrap().unwrap();
        let kind = event.r#type();
        if kind == WatchEventType::Bookmark {
            continue;
        }
        let (name, state, size) = match event.resource {
            Some(AnyResource::Volume(volume)) => {
                let size = volume.spec.as_ref().map_or(0, |spec| spec.size_bytes);
                let state = volume.status_or_default().state();
                (volume.name, state, size)
            }
            Some(other) => panic!("{other:?}"),
            None => (String::new(), VolumeState::Unspecified, 0),
        };
        return (kind, name, state, size, event.resume_token);
    }
}

/// As [`next`], what happened to which volume only.
async fn brief(events: &mut Events) -> (WatchEventType, String) {
    let (kind, name, ..) = next(events).await;
    (kind, name)
}

async fn failure(events: Result<Events, Status>) -> (Code, String, String) {
    let status = match events {
        Err(status) => status,
        Ok(mut events) => loop {
            match events.next().await.expect("a failure") {
                Ok(_) => {}
                Err(status) => {
                    assert!(events.next().await.is_none());
                    break status;
                }
            }
        },
    };
    let info = status.get_details_error_info().unwrap();
    (status.code(), info.reason, status.message().to_owned())
}

use WatchEventType::{Added, Deleted, Modified, Synced};

fn named(kind: WatchEventType, id: &str) -> (WatchEventType, String) {
    (kind, format!("volumes/{id}"))
}

#[tokio::test(start_paused = true)]
async fn what_exists_then_every_change() {
    let lab = Lab::new();
    for i in 0..600 {
        lab.put_volume(&format!("v{i:03}"), "x", 1).await;
    }
    let mut events = lab.watch(volumes("")).await.unwrap();
    for i in 0..600 {
        let (kind, name, .., token) = next(&mut events).await;
        assert_eq!((kind, name), named(Added, &format!("v{i:03}")));
        // Who continued from here would miss the rest.
        assert_eq!(token, "");
        if i == 300 {
            lab.put_volume("new", "x", 1).await;
        }
    }
    let (kind, .., token) = next(&mut events).await;
    assert_eq!(kind, Synced);
    assert!(!token.is_empty());
    assert_eq!(brief(&mut events).await, named(Added, "new"));
    lab.put_status("v001", VolumeState::Ready).await;
    let (kind, name, state, size, _) = next(&mut events).await;
    // Spec and status come together, whichever changed.
    assert_eq!((kind, name), named(Modified, "v001"));
    assert_eq!((state, size), (VolumeState::Ready, 1));
    lab.put_volume("v001", "x", 2).await;
    let (_, _, state, size, _) = next(&mut events).await;
    assert_eq!((state, size), (VolumeState::Ready, 2));
    lab.delete_volume("v001").await;
    let (kind, name, state, size, _) = next(&mut events).await;
    assert_eq!((kind, name), named(Deleted, "v001"));
    assert_eq!((state, size), (VolumeState::Ready, 2));
}

#[tokio::test(start_paused = true)]
async fn a_token_outlives_the_server() {
    let lab = Lab::new();
    lab.put_volume("v1", "x", 1).await;
    let mut events = lab.watch(volumes("")).await.unwrap();
    assert_eq!(brief(&mut events).await, named(Added, "v1"));
    let (.., synced) = next(&mut events).await;
    lab.put_volume("v2", "x", 1).await;
    let (.., token) = next(&mut events).await;
    drop(events);
    lab.put_volume("v3", "x", 1).await;
    lab.put_status("v2", VolumeState::Ready).await;
    lab.delete_volume("v1").await;
    let restarted = Lab::on(&lab.sim);
    drop(lab);
    let expected = [
        named(Added, "v3"),
        named(Modified, "v2"),
        named(Deleted, "v1"),
    ];
    let mut events = restarted.watch(volumes(&token)).await.unwrap();
    for expected in &expected {
        assert_eq!(brief(&mut events).await, *expected);
    }
    let mut events = restarted.watch(volumes(&synced)).await.unwrap();
    assert_eq!(brief(&mut events).await, named(Added, "v2"));
    // A list's token is as good.
    let call = Request::new(ListVolumesRequest::default());
    use penstock_api::v1::volume_service_server::VolumeService as _;
    let listed = restarted
        .services
        .volumes
        .list_volumes(call)
        .await
        .unwrap()
        .into_inner();
    let mut events = restarted
        .watch(volumes(&listed.resume_token))
        .await
        .unwrap();
    restarted.put_volume("v4", "x", 1).await;
    assert_eq!(brief(&mut events).await, named(Added, "v4"));
}

#[tokio::test(start_paused = true)]
async fn tokens_that_are_of_no_use() {
    let lab = Lab::new();
    lab.put_volume("v1", "x", 1).await;
    let snapshot = lab.sim.snapshot();
    let mut events = lab.watch(volumes("")).await.unwrap();
    next(&mut events).await;
    let (.., early) = next(&mut events).await;
    for size in 2..10 {
        lab.put_volume("v1", "x", size).await;
    }
    let mut late = String::new();
    for _ in 2..10 {
        (.., late) = next(&mut events).await;
    }
    lab.sim.compact_all();
    let (code, reason, message) = failure(lab.watch(volumes(&early)).await).await;
    assert_eq!(
        (code, reason.as_str()),
        (Code::OutOfRange, "RESUME_TOKEN_TOO_OLD")
    );
    assert!(message.contains("list again"), "{message}");
    // The present is not compacted.
    drop(lab.watch(volumes(&late)).await.unwrap());
    lab.sim.rewind(&snapshot);
    let (code, reason, message) = failure(lab.watch(volumes(&late)).await).await;
    assert_eq!(
        (code, reason.as_str()),
        (Code::OutOfRange, "RESUME_TOKEN_TOO_OLD")
    );
    assert!(message.contains("restored"), "{message}");
    lab.sim.restore(&snapshot);
    let (_, reason, message) = failure(lab.watch(volumes(&early)).await).await;
    assert_eq!(reason, "RESUME_TOKEN_TOO_OLD");
    assert!(message.contains("another store"), "{message}");
    let (code, ..) = failure(lab.watch(volumes("nonsense")).await).await;
    assert_eq!(code, Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn a_watch_from_which_history_is_taken_says_so() {
    let lab = Lab::new();
    lab.put_volume("v1", "x", 1).await;
    let mut events = lab.watch(volumes("")).await.unwrap();
    next(&mut events).await;
    next(&mut events).await;
    lab.sim.disconnect_watches(Duration::from_secs(5));
    for size in 2..10 {
        lab.put_volume("v1", "x", size).await;
    }
    lab.sim.compact_all();
    let (code, reason, _) = failure(Ok(events)).await;
    assert_eq!(
        (code, reason.as_str()),
        (Code::OutOfRange, "RESUME_TOKEN_TOO_OLD")
    );
}

#[tokio::test(start_paused = true)]
async fn labels_let_resources_come_and_go() {
    let lab = Lab::new();
    lab.put_volume("other", "b", 1).await;
    lab.put_volume("v1", "a", 1).await;
    let request = WatchRequest {
        labels: [("l".to_owned(), "a".to_owned())].into(),
        ..volumes("")
    };
    let mut events = lab.watch(request).await.unwrap();
    assert_eq!(brief(&mut events).await, named(Added, "v1"));
    assert_eq!(brief(&mut events).await.0, Synced);
    lab.put_volume("other", "b", 2).await;
    lab.put_volume("other", "a", 2).await;
    assert_eq!(brief(&mut events).await, named(Added, "other"));
    lab.put_volume("other", "a", 3).await;
    assert_eq!(brief(&mut events).await, named(Modified, "other"));
    lab.put_volume("v1", "b", 1).await;
    assert_eq!(brief(&mut events).await, named(Deleted, "v1"));
    lab.put_status("v1", VolumeState::Ready).await;
    lab.delete_volume("v1").await;
    lab.delete_volume("other").await;
    assert_eq!(brief(&mut events).await, named(Deleted, "other"));
}

#[tokio::test(start_paused = true)]
async fn names_and_kinds_choose() {
    let lab = Lab::new();
    for id in ["v1", "v10", "v2"] {
        lab.put_volume(id, "a", 1).await;
    }
    let request = WatchRequest {
        name_prefix: "volumes/v1".to_owned(),
        ..Default::default()
    };
    let mut events = lab.watch(request).await.unwrap();
    assert_eq!(brief(&mut events).await, named(Added, "v1"));
    assert_eq!(brief(&mut events).await.0, Synced);
    let request = WatchRequest {
        kinds: vec!["node".to_owned(), "operation".to_owned()],
        ..Default::default()
    };
    let mut others = lab.watch(request).await.unwrap();
    assert_eq!(brief(&mut others).await.0, Synced);
    lab.put_volume("v10", "b", 1).await;
    lab.put_volume("v1", "b", 1).await;
    assert_eq!(brief(&mut events).await, named(Modified, "v1"));
    let operation = Operation {
        name: "operations/0".to_owned(),
        ..Default::default()
    };
    let mut change = lab.repo.change();
    change.put_operation(&operation, None);
    lab.repo.commit(change).await.unwrap();
    let event = others.next().await.unwrap().unwrap();
    assert_eq!(event.r#type(), Added);
    assert_eq!(event.resource, Some(AnyResource::Operation(operation)));
    let bad = WatchRequest {
        kinds: vec!["disk".to_owned()],
        ..Default::default()
    };
    assert_eq!(failure(lab.watch(bad).await).await.0, Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn a_volume_tells_its_namespace() {
    let lab = Lab::new();
    lab.put_volume("v1", "a", 1).await;
    let mut events = lab.watch(volumes("")).await.unwrap();
    next(&mut events).await;
    next(&mut events).await;
    let mut change = lab.repo.change();
    let key = lab.repo.keys().claim_volume("v1");
    change.claim(key, "subsystems/s/namespaces/a");
    lab.repo.commit(change).await.unwrap();
    let event = events.next().await.unwrap().unwrap();
    let Some(AnyResource::Volume(volume)) = event.resource else {
        panic!("{event:?}");
    };
    assert_eq!(
        volume.status.unwrap().namespace,
        "subsystems/s/namespaces/a"
    );
}

#[tokio::test(start_paused = true)]
async fn several_changes_at_once_are_not_lost_in_between() {
    let lab = Lab::new();
    let mut events = lab.watch(volumes("")).await.unwrap();
    next(&mut events).await;
    let mut change = lab.repo.change();
    for id in ["v1", "v2"] {
        let volume = Volume {
            name: format!("volumes/{id}"),
            ..Default::default()
        };
        change.put_spec(id, &volume);
    }
    lab.repo.commit(change).await.unwrap();
    let (.., between) = next(&mut events).await;
    let mut events = lab.watch(volumes(&between)).await.unwrap();
    assert_eq!(brief(&mut events).await, named(Added, "v1"));
    assert_eq!(brief(&mut events).await, named(Added, "v2"));
}

#[tokio::test(start_paused = true)]
async fn silence_moves_the_token_on() {
    let lab = Lab::new();
    let mut events = lab.watch(volumes("")).await.unwrap();
    let (.., first) = next(&mut events).await;
    let writer = tokio::spawn(async move {
        for i in 0..20 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let key = lab.repo.keys().request(&format!("r{i}"));
            let mut change = lab.repo.change();
            change.put(key, Vec::new(), None);
            lab.repo.commit(change).await.unwrap();
        }
        lab
    });
    let event = events.next().await.unwrap().unwrap();
    assert_eq!(event.r#type(), WatchEventType::Bookmark);
    assert_ne!(event.resume_token, first);
    let lab = writer.await.unwrap();
    drop(lab.watch(volumes(&event.resume_token)).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_a_watch_and_watches_are_counted() {
    let lab = Lab::new();
    let mut call = Request::new(volumes(""));
    call.set_timeout(Duration::from_secs(3));
    let gauge = &lab.services.watches.0.env.metrics.watchers;
    let events = lab.services.watches.watch(call).await.unwrap().into_inner();
    assert_eq!(gauge.get(), 1);
    let began = Instant::now();
    let (code, ..) = failure(Ok(events)).await;
    assert_eq!(
        (code, began.elapsed().as_secs()),
        (Code::DeadlineExceeded, 2)
    );
    assert_eq!(gauge.get(), 0);
}
