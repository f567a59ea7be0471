//! Whatever control says and whenever the node stops, no data is harmed (the node of memory checks
//! each step) and work goes on.

use penstock_api::v1::{Desired, DesiredNamespace, DesiredVolume};
use penstock_plan::agent::Step;
use proptest::prelude::*;

use super::node::{Node, deleted, extents, namespace, subsystem, volume};

#[derive(Clone, Debug)]
enum Event {
    /// Volumes by number, with the variant of their layout; which are deleted.
    Desired {
        complete: bool,
        other_store: bool,
        revision: i64,
        volumes: Vec<(u8, u8, bool)>,
    },
    /// Namespaces by number of the volume; which are deleted.
    Namespaces {
        complete: bool,
        namespaces: Vec<(u8, bool)>,
    },
    Save {
        told: bool,
    },
    /// Fetch steps; keep some for later.
    Steps,
    /// Carry out the step that waits at this place, telling its end or not (it stays).
    Run {
        which: usize,
        ends: bool,
    },
    Fail {
        which: usize,
    },
    Retry,
    Report,
    Crash,
    LoseNewest,
}

fn event() -> impl Strategy<Value = Event> {
    let volumes = || prop::collection::vec((0u8..5, 0u8..8, prop::bool::weighted(0.2)), 0..5);
    let desired = (
        prop::bool::weighted(0.4),
        prop::bool::weighted(0.1),
        0i64..50,
        volumes(),
    );
    let namespaces = prop::collection::vec((0u8..5, prop::bool::weighted(0.3)), 0..4);
    prop_oneof![
        6 => desired.prop_map(|(complete, other_store, revision, volumes)| Event::Desired {
            complete, other_store, revision, volumes,
        }),
        2 => (any::<bool>(), namespaces)
            .prop_map(|(complete, namespaces)| Event::Namespaces { complete, namespaces }),
        8 => prop::bool::weighted(0.9).prop_map(|told| Event::Save { told }),
        8 => Just(Event::Steps),
        12 => (0usize..8, prop::bool::weighted(0.9))
            .prop_map(|(which, ends)| Event::Run { which, ends }),
        1 => (0usize..8).prop_map(|which| Event::Fail { which }),
        1 => Just(Event::Retry),
        2 => Just(Event::Report),
        2 => Just(Event::Crash),
        1 => Just(Event::LoseNewest),
    ]
}

/// One of eight layouts of a volume: places overlap those of its neighbours, epochs rise and fall,
/// some are grown versions of others.
fn variant(number: u8, variant: u8) -> DesiredVolume {
    let at = u64::from(number) * 4;
    let uid = format!("v{number}");
    match variant {
        0 | 1 => volume(&uid, 1, &[(at, 3)]),
        2 => volume(&uid, 2, &[(at, 3)]),
        3 => volume(&uid, 3, &[(at, 3), (at + 22, 2)]),
        4 => volume(&uid, 3, &[(at + 2, 4)]),
        5 => volume(&uid, 4, &[(at, 3), (at + 22, 2), (at + 3, 1)]),
        6 => volume(&uid, 1, &[(at + 1, 5)]),
        _ => volume(&uid, 5, &[(at, 3), (at + 22, 2), (at + 3, 1), (at + 24, 2)]),
    }
}

/// What the store knows to be ready, where the layout is that of the data.
fn with_ready(node: &Node, mut volume: DesiredVolume) -> DesiredVolume {
    let held = node.agent.hello_volumes();
    let told = node.told_ready.get(&volume.uid).copied().unwrap_or(0);
    let same = held
        .iter()
        .find(|held| held.uid == volume.uid)
        .is_none_or(|held| {
            extents(&volume).starts_with(extents(held))
                || extents(held).starts_with(extents(&volume))
        });
    if same {
        volume.ready_extents = told;
    }
    volume
}

/// What control says with such an event.
fn told(node: &Node, event: &Event) -> Option<Desired> {
    let base = Desired {
        store_id: "a".to_owned(),
        revision: 7,
        subsystems: vec![subsystem("s")],
        ..Desired::default()
    };
    match event {
        Event::Desired {
            complete,
            other_store,
            revision,
            volumes,
        } => {
            let volumes = volumes.iter().map(|(number, kind, gone)| {
                let volume = with_ready(node, variant(*number, *kind));
                if *gone { deleted(volume) } else { volume }
            });
            let store_id = if *other_store { "b" } else { "a" }.to_owned();
            let (complete, revision) = (*complete, *revision);
            Some(Desired {
                revision,
                store_id,
                complete,
                volumes: volumes.collect(),
                ..base
            })
        }
        Event::Namespaces {
            complete,
            namespaces,
        } => {
            let namespaces = namespaces.iter().map(|(number, gone)| {
                let (uid, volume) = (format!("n{number}"), format!("v{number}"));
                let made = namespace(&uid, "s", &volume, u32::from(*number) + 1);
                DesiredNamespace {
                    deleted: *gone,
                    ..made
                }
            });
            let namespaces = namespaces.collect();
            Some(Desired {
                complete: *complete,
                namespaces,
                ..base
            })
        }
        _ => None,
    }
}

fn apply(node: &mut Node, waiting: &mut Vec<Step>, event: Event) {
    match event {
        Event::Desired { .. } | Event::Namespaces { .. } => {
            let desired = told(node, &event);
            desired
                .into_iter()
                .for_each(|desired| drop(node.accept(desired)));
        }
        Event::Save { told } => node.save(told),
        Event::Steps => waiting.extend(node.agent.steps()),
        Event::Run { which, ends } => {
            if which < waiting.len() {
                if ends {
                    let step = waiting.remove(which);
                    node.run(&step);
                } else {
                    // Done, but the node stops before its end is told.
                    let step = waiting[which].clone();
                    let _ = node.perform(&step);
                    waiting.clear();
                    node.crash();
                }
            }
        }
        Event::Fail { which } => {
            if which < waiting.len() {
                let step = waiting.remove(which);
                let error = penstock_plan::agent::StepError {
                    reason: "DeviceError".to_owned(),
                    message: "as told".to_owned(),
                };
                node.agent.done(&step, Err(error));
            }
        }
        Event::Retry => node.agent.retry(),
        Event::Report => drop(node.report(false)),
        Event::Crash => {
            waiting.clear();
            node.crash();
        }
        Event::LoseNewest => {
            // Control has heard how things stood: losing that as well is losing two things at once.
            node.save(true);
            drop(node.report(true));
            waiting.clear();
            node.crash_and_lose_newest();
        }
    }
}

/// After healing: everything named exists or is reported, without a hand.
fn heal(node: &mut Node, mut waiting: Vec<Step>) -> Result<(), TestCaseError> {
    for step in waiting.drain(..) {
        node.run(&step);
    }
    node.agent.retry();
    node.settle();
    let report = node.report(true).expect("a full report");
    for held in node.agent.hello_volumes() {
        prop_assert!(report.volumes.iter().any(|seen| seen.uid == held.uid));
    }
    for seen in &report.volumes {
        let waits = !seen.reason.is_empty();
        let open = node.open.contains_key(&seen.uid);
        prop_assert!(
            open || waits || seen.gone,
            "{seen:?} is neither open nor explained"
        );
    }
    let bytes = node.agent.encode();
    let mut again =
        penstock_plan::agent::AgentState::decode(&bytes).expect("it reads what it writes");
    prop_assert_eq!(again.hello_volumes(), node.agent.hello_volumes());
    prop_assert_eq!(again.deleted_uids(), node.agent.deleted_uids());
    prop_assert_eq!(again.encode(), bytes, "what was copied is stale");
    node.crash();
    node.settle();
    // What goes but is in use is served until the node stops, and not again after that.
    let going = |uid: &str| {
        let held = node.agent.hello_volumes();
        held.iter()
            .any(|volume| volume.uid == uid && volume.deleted)
    };
    let before: Vec<&str> = report
        .volumes
        .iter()
        .filter(|seen| seen.size_bytes > 0 && !going(&seen.uid))
        .map(|seen| seen.uid.as_str())
        .collect();
    let after: Vec<&str> = node.open.keys().map(String::as_str).collect();
    prop_assert_eq!(before, after, "a restart changes what is open");
    Ok(())
}

/// 2,000, or as many as `PROPTEST_CASES` asks for beyond that.
fn cases() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig {
        cases: default.cases.max(2000),
        ..default
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn no_data_is_harmed(events in prop::collection::vec(event(), 1..80)) {
        let mut node = Node::new();
        let mut waiting = Vec::new();
        for event in events {
            apply(&mut node, &mut waiting, event);
        }
        heal(&mut node, waiting)?;
    }
}
