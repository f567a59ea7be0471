//! Limits, with several servers on one store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use penstock_api::v1::volume_service_server::VolumeService;
use penstock_api::v1::{CreateVolumeRequest, Volume};
use penstock_control::config::{Quotas, Settings};
use penstock_control::control::Control;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::world::*;

const CLIENTS: usize = 48;

/// Creates a volume; where others are always faster, again.
async fn create(control: &Control, id: &str, mib: i64) -> Result<(), Status> {
    loop {
        let request = CreateVolumeRequest {
            volume_id: id.to_owned(),
            volume: Some(Volume {
                spec: Some(volume_spec(mib)),
                ..Volume::default()
            }),
            ..CreateVolumeRequest::default()
        };
        let volumes = &control.services.volumes;
        match volumes.create_volume(Request::new(request)).await {
            Err(status) if status.code() == Code::Aborted => {}
            answer => return answer.map(drop),
        }
    }
}

/// Two servers whose answers and watches take their time; the quotas are given.
async fn servers(world: &World, quotas: Quotas) -> Vec<Arc<Control>> {
    let mut servers = Vec::new();
    for name in ["a", "b"] {
        let settings = Settings {
            name: name.to_owned(),
            quotas: quotas.clone(),
            ..Settings::default()
        };
        servers.push(Arc::new(world.server_with(name, settings).await));
    }
    let ms = Duration::from_millis;
    world.sim.set_latency(ms(1), ms(5));
    world.sim.set_watch_latency(ms(5), ms(30));
    servers
}

/// Many clients at once ask both servers for `count` volumes of this size. How often each came of it:
/// empty for success, else the reason.
async fn all_at_once(servers: &[Arc<Control>], count: usize, mib: i64) -> BTreeMap<String, usize> {
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let control = Arc::clone(&servers[client % servers.len()]);
            tokio::spawn(async move {
                let mut outcomes = Vec::new();
                for number in (client..count).step_by(CLIENTS) {
                    let created = create(&control, &format!("v{number}"), mib).await;
                    outcomes.push(created.map_or_else(
                        |status| status.get_details_error_info().unwrap().reason,
                        |()| String::new(),
                    ));
                }
                outcomes
            })
        })
        .collect();
    let mut sums = BTreeMap::new();
    for client in clients {
        for outcome in client.await.unwrap() {
            *sums.entry(outcome).or_default() += 1;
        }
    }
    sums
}

fn volumes(world: &World) -> usize {
    let all = world.sim.dump();
    all.iter()
        .filter(|entry| entry.key.contains("/spec/volume/"))
        .count()
}

#[tokio::test(start_paused = true)]
async fn a_count_is_exact_over_several_servers() {
    let world = World::new();
    let quotas = Quotas {
        volumes_max: 2_000,
        ..Quotas::default()
    };
    let servers = servers(&world, quotas).await;
    let began = tokio::time::Instant::now();
    // With plenty of room nobody is in anybody's way: each creation takes a few answers of the store.
    let outcomes = all_at_once(&servers, 1_500, 1).await;
    assert_eq!(outcomes, [(String::new(), 1_500)].into());
    let each = began.elapsed() * u32::try_from(CLIENTS).unwrap() / 1_500;
    assert!(each < Duration::from_millis(60), "{each:?} for each");
    let outcomes = all_at_once(&servers, 2_100, 1).await;
    let wanted = [(String::new(), 2_000), ("QUOTA_EXCEEDED".to_owned(), 100)];
    assert_eq!(outcomes, wanted.into());
    assert_eq!(volumes(&world), 2_000);
}

#[tokio::test(start_paused = true)]
async fn bytes_are_exact_over_several_servers() {
    // Large volumes, of which few make the limit, and small ones.
    for (mib, fit) in [(64, 50), (1, 2_500)] {
        let world = World::new();
        let quotas = Quotas {
            volumes_total_bytes_max: u64::try_from(fit * mib * MIB).unwrap(),
            ..Quotas::default()
        };
        let servers = servers(&world, quotas).await;
        let fit = usize::try_from(fit).unwrap();
        let outcomes = all_at_once(&servers, fit + 70, mib).await;
        let wanted = [(String::new(), fit), ("QUOTA_EXCEEDED".to_owned(), 70)];
        assert_eq!(outcomes, wanted.into());
        assert_eq!(volumes(&world), fit);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_sees_nothing_of_the_others_still_counts() {
    let world = World::new();
    let quotas = Quotas {
        volumes_max: 2_000,
        ..Quotas::default()
    };
    let servers = servers(&world, quotas).await;
    all_at_once(&servers, 1_750, 1).await;
    // What the one knows of the store stays what it is now, but for what it reads itself.
    let hour = Duration::from_secs(3_600);
    world.sim.set_watch_latency(hour, hour);
    let outcomes = all_at_once(&servers[..1], 1_900, 1).await;
    assert_eq!(outcomes, [(String::new(), 1_900)].into());
    let outcomes = all_at_once(&servers[1..], 2_010, 1).await;
    let wanted = [(String::new(), 2_000), ("QUOTA_EXCEEDED".to_owned(), 10)];
    assert_eq!(outcomes, wanted.into());
}
