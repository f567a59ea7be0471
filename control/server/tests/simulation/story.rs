//! A run: users act while things break; then everything is healed and judged.

use std::sync::atomic::Ordering;
use std::time::Duration;

use penstock_store::sim::Snapshot;

use crate::judge;
use crate::users::Users;
use crate::world::{NODES, Plan, SERVERS, World};

/// Things that happen in a run.
const EVENTS: u64 = 60;
/// How long healing may take, simulated.
const HEALING_MAX: Duration = Duration::from_secs(600);

/// Tells a run of this world.
///
/// # Errors
/// What was wrong.
pub async fn tell(mut world: World) -> Result<(), String> {
    let mut users = Users::default();
    let mut backup = None;
    let mut restored = false;
    let events = 10 + world.dice.below(EVENTS);
    for _ in 0..events {
        tokio::time::sleep(world.dice.millis(0, 1_500)).await;
        if world.dice.below(3) == 0 {
            for _ in 0..=world.dice.below(3) {
                disturb(&mut world).await;
            }
        } else {
            users.act(&world).await;
        }
        if world.plan == Plan::Restores {
            restored |= backups(&mut world, &mut backup).await;
        }
        world.wrong()?;
    }
    world.story.note("everything is healed");
    world.heal();
    if restored {
        judge::settle(&world, HEALING_MAX, Some(&mut judge::Person::default())).await?;
    } else {
        judge::settle(&world, HEALING_MAX, None).await?;
        judge::promises(&world, &users).await?;
    }
    world.wrong()
}

/// Makes a backup, or puts one back.
async fn backups(world: &mut World, backup: &mut Option<Snapshot>) -> bool {
    match (backup.as_ref(), world.dice.below(12)) {
        (_, 0) => {
            world.story.note("a backup is made");
            *backup = Some(world.store.snapshot());
            false
        }
        (Some(old), 1) => {
            let same_identity = world.dice.below(2) == 0;
            world
                .story
                .note(&format!("the backup is put back ({same_identity})"));
            if same_identity {
                world.store.rewind(old);
            } else {
                world.store.restore(old);
            }
            true
        }
        _ => false,
    }
}

/// Breaks something or lets it work again; things work more often than not.
async fn disturb(world: &mut World) {
    let pick = |n: usize| usize::try_from(world.dice.below(n as u64)).unwrap();
    let (server, node) = (pick(SERVERS), pick(NODES));
    let client = format!("c{server}");
    let broken = world.dice.below(3) == 0;
    let (what, percent) = (world.dice.below(15), world.dice.below(30));
    let millis = world.dice.millis(0, 2_000);
    world.story.note(&format!(
        "disturbance {what}: server {server}, node {node}, {broken}"
    ));
    match what {
        0 => world.crash_server(server),
        1 | 2 => world.start_server(server),
        3 => world.crash_node(node),
        4 | 5 => world.start_node(node),
        6 => world.cut(node, server, broken),
        7 => world.store.partition(&client, broken),
        8 => {
            let percent = if broken { percent } else { 0 };
            let share = f64::from(u32::try_from(percent).unwrap()) / 100.0;
            world.store.set_lost_answers(share);
        }
        9 => world.store.disconnect_watches(millis),
        10 => {
            world.store.compact_all();
            world.store.set_latency(Duration::ZERO, millis / 20);
            world.store.set_watch_latency(Duration::ZERO, millis / 10);
        }
        11 => world.store.set_full(broken),
        12 => pause_leader(world).await,
        13 => {
            let percent = if broken { 3 * percent } else { 0 };
            world.machines[node]
                .failing
                .store(percent, Ordering::Relaxed);
        }
        _ => world.store.set_available(!broken),
    }
}

/// The leader does not reach the store for longer than its lease, and then again: another leads
/// meanwhile, and it must not write what it had in mind.
async fn pause_leader(world: &World) {
    let Some(leader) = world.leader() else {
        return;
    };
    world
        .story
        .note(&format!("server {leader}, the leader, is cut off for long"));
    let client = format!("c{leader}");
    world.store.partition(&client, true);
    tokio::time::sleep(world.dice.millis(1_000, 30_000)).await;
    world.store.partition(&client, false);
}
