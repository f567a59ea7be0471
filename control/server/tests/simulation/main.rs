//! The whole control plane in one seeded simulation: store, clock and network are simulated, the
//! servers and the agents' state machines are the real ones.
//!
//! A run does random things (volumes and namespaces made, grown and deleted; servers and nodes
//! crashed; links and the store cut, slowed, compacted, its answers lost), then heals everything and
//! judges what is left against what was acknowledged. Nodes keep their data in a model of their
//! devices, so that data cleared or handed to another volume is seen the moment it happens.
//!
//! `PENSTOCK_SIM_SEEDS=N` runs N seeds of each kind, `PENSTOCK_SIM_SEED=S` one, with its story. A
//! seed repeats exactly. The soak, after changes of server or agent:
//! `PENSTOCK_SIM_SEEDS=20000 cargo test -p penstock-control --test simulation`.
#![forbid(unsafe_code)]
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a simulation that cannot go on has failed"
)]

mod disk;
mod judge;
mod node;
mod story;
mod users;
mod world;

use std::time::Duration;

use world::{Plan, World};

/// Seeds without a wish of the environment: about half a minute on two cores.
fn seeds_of(plan: Plan) -> u64 {
    match plan {
        Plan::Outages => 1_500,
        Plan::Restores => 800,
    }
}

/// Simulated time that a run may take.
const RUN_MAX: Duration = Duration::from_secs(7_200);

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text}: give a number")),
    )
}

/// One run; its story, or what went wrong and the story up to there.
fn run(seed: u64, plan: Plan) -> (Result<(), String>, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let world = World::new(seed, plan);
        let story = world.story.clone();
        let result = tokio::time::timeout(RUN_MAX, story::tell(world)).await;
        let result = result.unwrap_or_else(|_| Err("the run does not end".to_owned()));
        (result, story.lines())
    })
}

fn seeds(plan: Plan) -> std::ops::Range<u64> {
    match number("PENSTOCK_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("PENSTOCK_SIM_SEEDS").unwrap_or(seeds_of(plan)),
    }
}

fn all(plan: Plan) {
    for seed in seeds(plan) {
        let (result, lines) = run(seed, plan);
        if number("PENSTOCK_SIM_SEED").is_some() || result.is_err() {
            lines.iter().for_each(|line| eprintln!("{line}"));
        }
        if let Err(wrong) = result {
            panic!("seed {seed} ({plan:?}): {wrong}; PENSTOCK_SIM_SEED={seed} repeats it");
        }
    }
}

/// Crashes, cuts and lost answers: after healing, what is wanted is what is.
#[test]
fn what_was_acknowledged_is_there_after_every_outage() {
    all(Plan::Outages);
}

/// The store goes back to a backup now and then: no data of a volume goes without a person's word.
#[test]
fn a_restored_store_deletes_nothing() {
    all(Plan::Restores);
}

#[test]
fn a_seed_repeats_exactly() {
    let mut told = 0;
    for seed in 1..=6 {
        let plan = if seed % 2 == 0 {
            Plan::Restores
        } else {
            Plan::Outages
        };
        let (first, second) = (run(seed, plan), run(seed, plan));
        assert_eq!(first.1, second.1, "seed {seed}");
        told += first.1.len();
    }
    assert!(told > 120, "these seeds do little: {told} lines");
}
