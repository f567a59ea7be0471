//! Leaders come and go; none acts on an office that it has lost.

use std::time::Duration;

use penstock_control::election::{self, Term};
use penstock_control::signal::Signal;
use penstock_store::{Committed, Txn, Write};
use tokio::sync::watch;

use crate::agent::Agent;
use crate::world::*;

#[tokio::test(start_paused = true)]
async fn another_server_leads_when_the_leader_crashes() {
    let world = World::new();
    let one = world.server("a").await;
    until("a leads", || leads(&one)).await;
    let two = world.server("b").await;
    let agent = Agent::new("n1", GIB);
    agent.connect(&two);
    until("online", || online(&two, "n1")).await;
    wait(&two, &create_volume(&two, "v1", 8).await).await;
    assert!(leads(&one) && !leads(&two));
    drop(one);
    until("b leads", || leads(&two)).await;
    wait(&two, &create_volume(&two, "v2", 8).await).await;
    let place = |id: &str| {
        two.mirror.with(|view| {
            let status = view.volumes[id].resource.status.clone().unwrap();
            status.layout.unwrap().extents[0].offset_bytes
        })
    };
    assert_ne!(place("v1"), place("v2"));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_cut_off_steps_down_and_comes_back() {
    let world = World::new();
    let (one, two) = (world.server("a").await, world.server("b").await);
    until("one leads", || leads(&one) || leads(&two)).await;
    let (cut, other, name) = if leads(&one) {
        (&one, &two, "a")
    } else {
        (&two, &one, "b")
    };
    world.sim.partition(name, true);
    until("the other leads", || leads(other)).await;
    until("the first has stepped down", || !leads(cut)).await;
    let agent = Agent::new("n1", GIB);
    agent.connect(other);
    until("online", || online(other, "n1")).await;
    wait(other, &create_volume(other, "v1", 8).await).await;
    world.sim.partition(name, false);
    until("the first sees it", || {
        cut.mirror.with(|view| view.volumes.contains_key("v1"))
    })
    .await;
    assert!(!leads(cut) && leads(other));
}

#[tokio::test(start_paused = true)]
async fn a_stale_leaders_write_is_refused() {
    let world = World::new();
    let control = world.server("a").await;
    let (terms, mut elected) = watch::channel(None::<Term>);
    let stop = Signal::new(false);
    let (env, mirror) = (control.env.clone(), control.mirror.clone());
    tokio::spawn(async move {
        election::run(&env, &mirror, "other", &stop, |term| {
            terms.send_replace(Some(term));
            std::future::pending()
        })
        .await;
    });
    let term = elected
        .wait_for(Option::is_some)
        .await
        .unwrap()
        .clone()
        .unwrap();
    let key = "/penstock/v1/default/elect/other";
    let write = || Txn {
        compares: vec![term.compare()],
        writes: vec![Write::Put {
            key: "/penstock/v1/default/op/x".to_owned(),
            value: Vec::new(),
            lease: None,
        }],
        marker: None,
    };
    let store = &control.env.store;
    assert!(matches!(store.txn(write()).await, Ok(Committed::Yes(_))));
    // As if its lease had ended while it was stopped, and it had not noticed.
    world.sim.delete(key);
    world.sim.put(key, b"somebody else");
    assert!(matches!(store.txn(write()).await, Ok(Committed::No(_))));
    assert_eq!(term.holds(&control.env).await, Ok(false));
    world.sim.delete(key);
    elected.changed().await.expect("elected again");
    assert!(matches!(store.txn(write()).await, Ok(Committed::No(_))));
}

#[tokio::test(start_paused = true)]
async fn space_is_given_away_once_whatever_answers_are_lost() {
    let world = World::new();
    let control = world.server("a").await;
    let agent = Agent::new("n1", GIB);
    agent.connect(&control);
    until("online", || online(&control, "n1")).await;
    world.sim.set_lost_answers(0.3);
    for number in 0..20 {
        let id = format!("v{number}");
        loop {
            use penstock_api::v1::volume_service_server::VolumeService;
            let request = penstock_api::v1::CreateVolumeRequest {
                volume_id: id.clone(),
                volume: Some(penstock_api::v1::Volume {
                    spec: Some(volume_spec(16)),
                    ..Default::default()
                }),
                ..Default::default()
            };
            let created = control
                .services
                .volumes
                .create_volume(tonic::Request::new(request));
            if created.await.is_ok() {
                break;
            }
        }
    }
    until("all are ready", || {
        agent.with(|memory| memory.volumes.len() == 20)
    })
    .await;
    let mut places: Vec<u64> = control.mirror.with(|view| {
        let layouts = view.volumes.values().map(|held| {
            let status = held.resource.status.clone().unwrap();
            status.layout.unwrap().extents[0].offset_bytes
        });
        layouts.collect()
    });
    places.sort_unstable();
    assert!(
        places.windows(2).all(|pair| pair[1] - pair[0] >= 16 << 20),
        "{places:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_store_that_goes_away_and_comes_back_changes_nothing() {
    let world = World::new();
    let control = world.server("a").await;
    let agent = Agent::new("n1", GIB);
    let stream = agent.connect(&control);
    until("online", || online(&control, "n1")).await;
    wait(&control, &create_volume(&control, "v1", 8).await).await;
    world.sim.set_available(false);
    tokio::time::sleep(Duration::from_secs(60)).await;
    world.sim.set_available(true);
    if stream.is_finished() {
        agent.connect(&control);
    }
    until("ready again", || online(&control, "n1")).await;
    until("connected or told to connect again", || {
        stream.is_finished() || leads(&control)
    })
    .await;
    if stream.is_finished() {
        agent.connect(&control);
    }
    wait(&control, &create_volume(&control, "v2", 8).await).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_resigns_when_the_store_was_put_back() {
    // Under another identity, and under its own.
    for rewound in [false, true] {
        let world = World::new();
        let control = world.server("a").await;
        let (terms, mut elected) = watch::channel(None::<Term>);
        let (env, mirror) = (control.env.clone(), control.mirror.clone());
        // This one leads without writing anything that could be refused.
        tokio::spawn(async move {
            election::run(&env, &mirror, "other", &Signal::new(false), |term| {
                terms.send_replace(Some(term));
                std::future::pending()
            })
            .await;
        });
        let first = elected.wait_for(Option::is_some).await.unwrap().clone();
        let first = first.expect("a term");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(elected.has_changed().is_ok_and(|changed| !changed));
        // The backup has its office: only that the store went back tells that it is to be left.
        let backup = world.sim.snapshot();
        create_volume(&control, "v1", 8).await;
        until("it is seen", || {
            control.mirror.with(|view| view.volumes.contains_key("v1"))
        })
        .await;
        if rewound {
            world.sim.rewind(&backup);
        } else {
            world.sim.restore(&backup);
        }
        let again = tokio::time::timeout(Duration::from_secs(600), elected.changed());
        again.await.expect("resigns").expect("elected again");
        let second = elected.borrow().clone().expect("a term");
        assert!(second.revision() > first.revision(), "{second:?}");
        assert_eq!(first.holds(&control.env).await, Ok(false));
        assert_eq!(second.holds(&control.env).await, Ok(true));
    }
}
