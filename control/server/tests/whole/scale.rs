//! Many things at once, and one change among many things.

use std::sync::Arc;

use crate::agent::Agent;
use crate::world::*;

#[tokio::test(start_paused = true)]
async fn a_thousand_volumes_by_sixteen_clients_reach_their_node() {
    let world = World::new();
    let control = Arc::new(world.server("a").await);
    let agent = Agent::new("n1", 64 * GIB);
    agent.connect(&control);
    until("online", || online(&control, "n1")).await;
    let before = world.sim.revision();
    let clients: Vec<_> = (0..16)
        .map(|client| {
            let control = Arc::clone(&control);
            tokio::spawn(async move {
                for number in (client..1_000).step_by(16) {
                    let id = format!("v{number}");
                    let done = wait(&control, &create_volume(&control, &id, 8).await).await;
                    assert_eq!(done.error, None, "{id}");
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let (volumes, messages) = agent.with(|memory| (memory.volumes.len(), memory.messages));
    assert_eq!(volumes, 1_000);
    assert!(messages <= 1_000, "{messages} messages for 1,000 volumes");
    let transactions = world.sim.revision() - before;
    assert!(transactions < 4_000, "{transactions} transactions");
    let waiting = control.env.metrics.operations_unfinished.get();
    assert_eq!(waiting, 0);
}

/// Median time in milliseconds of creating a volume that becomes ready.
async fn median_ms(control: &penstock_control::control::Control, prefix: &str) -> f64 {
    let mut times = Vec::new();
    for number in 0..21 {
        let id = format!("{prefix}{number}");
        let began = std::time::Instant::now();
        let done = wait(control, &create_volume(control, &id, 8).await).await;
        assert_eq!(done.error, None);
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Real time: what is measured is the work of the machine, and so only proportions are asserted.
#[tokio::test]
async fn one_change_among_ten_thousand_volumes_is_as_quick_as_among_none() {
    let world = World::new();
    let control = world.server("a").await;
    let agent = Agent::new("n1", 256 * GIB);
    agent.connect(&control);
    until("online", || online(&control, "n1")).await;
    let alone = median_ms(&control, "a").await;
    for number in 0..10_000 {
        create_volume(&control, &format!("many{number}"), 8).await;
    }
    until("all are ready", || {
        control.env.metrics.operations_unfinished.get() == 0
    })
    .await;
    let among = median_ms(&control, "b").await;
    // The floor keeps the machine's own noise out of the proportion.
    assert!(
        among < 2.0 * alone.max(10.0),
        "{alone:.1} ms alone, {among:.1} ms among 10,000"
    );
}
