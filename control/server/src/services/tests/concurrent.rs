//! Many at once.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::config::Quotas;

const TASKS: usize = 16;

/// Servers on one store, whose answers take some time, so that their calls interleave.
fn servers(settings: &Settings) -> Vec<Arc<Lab>> {
    let sim = SimStore::new(7);
    sim.set_latency(Duration::from_micros(100), Duration::from_millis(3));
    (1..=3)
        .map(|seed| Arc::new(Lab::on(&sim, settings.clone(), seed)))
        .collect()
}

/// Runs a call in each of many tasks, over all servers in turn.
async fn all_at_once<T, F>(
    labs: &[Arc<Lab>],
    call: impl Fn(Arc<Lab>, usize) -> F,
) -> Vec<Result<Response<T>, Status>>
where
    T: Send + 'static,
    F: Future<Output = Result<Response<T>, Status>> + Send + 'static,
{
    let tasks: Vec<_> = (0..TASKS)
        .map(|index| tokio::spawn(call(Arc::clone(&labs[index % labs.len()]), index)))
        .collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}

#[tokio::test(start_paused = true)]
async fn the_same_volume_is_created_once() {
    let labs = servers(&Settings::default());
    let results = all_at_once(&labs, |lab, _| async move {
        lab.create_volume(volume_request("v1", MIB)).await
    })
    .await;
    let names: BTreeSet<String> = results.into_iter().map(|result| ok(result).name).collect();
    assert_eq!(names.len(), 1);
    // With sixteen sizes one wins, and the others are told.
    let results = all_at_once(&labs, |lab, index| async move {
        let size = MIB * i64::try_from(index + 1).unwrap();
        lab.create_volume(volume_request("v2", size)).await
    })
    .await;
    let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, TASKS - 1));
    for result in lost {
        assert_eq!(refusal(result).1, "ALREADY_EXISTS");
    }
}

#[tokio::test(start_paused = true)]
async fn namespaces_get_identifiers_of_their_own() {
    let labs = servers(&Settings::default());
    labs[0].subsystem("s1").await;
    for index in 0..TASKS {
        labs[0].volume(&format!("v{index}")).await;
    }
    let results = all_at_once(&labs, |lab, index| async move {
        let request = namespace_request("s1", &format!("a{index}"), &format!("v{index}"));
        lab.create_namespace(request).await
    })
    .await;
    for result in results {
        ok(result);
    }
    let namespaces = labs[0].repo.all::<Namespace>("", None).await.unwrap();
    let nsids: BTreeSet<u32> = namespaces
        .items
        .iter()
        .map(|item| item.resource.spec.clone().unwrap().nsid)
        .collect();
    assert_eq!(nsids.len(), TASKS);
    // A volume is served once, whoever asks.
    labs[0].volume("shared").await;
    let results = all_at_once(&labs, |lab, index| async move {
        lab.create_namespace(namespace_request("s1", &format!("b{index}"), "shared"))
            .await
    })
    .await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn quotas_hold_under_pressure() {
    let settings = Settings {
        quotas: Quotas {
            volumes_max: 5,
            ..Quotas::default()
        },
        ..Settings::default()
    };
    let labs = servers(&settings);
    let results = all_at_once(&labs, |lab, index| async move {
        lab.create_volume(volume_request(&format!("v{index}"), MIB))
            .await
    })
    .await;
    let volumes = labs[0].repo.all::<Volume>("", None).await.unwrap().items;
    assert_eq!(volumes.len(), 5);
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 5);
    for refused in results.into_iter().filter(Result::is_err) {
        let (_, reason, _) = refusal(refused);
        assert!(
            ["QUOTA_EXCEEDED", "CONTENTION"].contains(&reason.as_str()),
            "{reason}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_subsystem_is_never_deleted_from_under_a_namespace() {
    for round in 0..20 {
        let labs = servers(&Settings::default());
        labs[0].subsystem("s1").await;
        labs[0].host("h1").await;
        labs[0].volume("v1").await;
        let creator = Arc::clone(&labs[1]);
        let deleter = Arc::clone(&labs[2]);
        let pause = Duration::from_micros(300 * round);
        let creating = tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            creator
                .create_namespace(namespace_request("s1", "a", "v1"))
                .await
        });
        let deleting = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(3)).await;
            let call = Request::new(DeleteSubsystemRequest {
                name: "subsystems/s1".to_owned(),
                ..Default::default()
            });
            deleter.services.subsystems.delete_subsystem(call).await
        });
        let (created, deleted) = (creating.await.unwrap(), deleting.await.unwrap());
        assert_ne!(created.is_ok(), deleted.is_ok(), "{created:?} {deleted:?}");
        let subsystem = labs[0].stored::<Subsystem>("subsystems/s1").await;
        let namespace = labs[0]
            .stored::<Namespace>("subsystems/s1/namespaces/a")
            .await;
        assert_eq!(subsystem.is_some(), namespace.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_is_never_deleted_from_under_a_grant() {
    for round in 0..20 {
        let labs = servers(&Settings::default());
        labs[0].host("h1").await;
        let (granter, deleter) = (Arc::clone(&labs[1]), Arc::clone(&labs[2]));
        let pause = Duration::from_micros(300 * round);
        let granting = tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let call = Request::new(CreateSubsystemRequest {
                subsystem_id: "s1".to_owned(),
                subsystem: Some(Subsystem {
                    spec: Some(SubsystemSpec {
                        hosts: vec!["hosts/h1".to_owned()],
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            });
            granter.services.subsystems.create_subsystem(call).await
        });
        let deleting = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(3)).await;
            let call = Request::new(DeleteHostRequest {
                name: "hosts/h1".to_owned(),
                ..Default::default()
            });
            deleter.services.hosts.delete_host(call).await
        });
        let (granted, deleted) = (granting.await.unwrap(), deleting.await.unwrap());
        assert_ne!(granted.is_ok(), deleted.is_ok(), "{granted:?} {deleted:?}");
    }
}

/// Does what the leader does: gives a volume a place on a node, if both are as it saw them.
async fn place(lab: &Lab, node: &str) -> bool {
    let guard = lab.repo.keys().guard_allocation();
    let seen = lab.repo.entry(&guard, None).await.unwrap();
    if lab.stored::<Node>(&format!("nodes/{node}")).await.is_none() {
        return false;
    }
    let status = VolumeStatus {
        layout: Some(Layout {
            node: format!("nodes/{node}"),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut change = lab.repo.change();
    change
        .unchanged(guard.clone(), seen.map_or(0, |entry| entry.mod_revision))
        .put(guard, lab.env.ids.text().into_bytes(), None)
        .put_status::<Volume>("v1", &status);
    lab.repo.commit(change).await.unwrap().is_some()
}

#[tokio::test(start_paused = true)]
async fn an_address_is_listened_at_once() {
    let labs = servers(&Settings::default());
    labs[0].node("n1").await;
    let results = all_at_once(&labs, |lab, index| async move {
        lab.create_listener("n1", &format!("l{index}"), 4_420).await
    })
    .await;
    let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, TASKS - 1));
    for result in lost {
        let (code, reason, message) = refusal(result);
        assert_eq!(
            (code, reason.as_str()),
            (Code::FailedPrecondition, "ADDRESS_IN_USE")
        );
        assert!(message.contains("use another port"), "{message}");
    }
    let listeners = labs[0].repo.all::<Listener>("", None).await.unwrap().items;
    assert_eq!(listeners.len(), 1);
    // Other ports are not in each other's way, however many come at once.
    let results = all_at_once(&labs, |lab, index| async move {
        let port = 5_000 + u32::try_from(index).unwrap();
        lab.create_listener("n1", &format!("m{index}"), port).await
    })
    .await;
    results.into_iter().for_each(|result| drop(ok(result)));
}

#[tokio::test(start_paused = true)]
async fn a_node_is_never_deleted_from_under_a_volume() {
    let (mut placed_first, mut deleted_first) = (0, 0);
    for round in 0..30 {
        let labs = servers(&Settings::default());
        labs[0].node("n1").await;
        labs[0].volume("v1").await;
        let (leader, deleter) = (Arc::clone(&labs[1]), Arc::clone(&labs[2]));
        let pause = Duration::from_millis(2 * round);
        let placing = tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            place(&leader, "n1").await
        });
        let deleting = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(3)).await;
            let call = Request::new(DeleteNodeRequest {
                name: "nodes/n1".to_owned(),
                ..Default::default()
            });
            deleter.services.nodes.delete_node(call).await
        });
        let (placed, deleted) = (placing.await.unwrap(), deleting.await.unwrap());
        assert!(!(placed && deleted.is_ok()), "{deleted:?}");
        placed_first += usize::from(placed);
        deleted_first += usize::from(deleted.is_ok());
    }
    assert!(placed_first > 0 && deleted_first > 0);
}
