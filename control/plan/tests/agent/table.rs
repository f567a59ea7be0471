//! Every state of a volume with every event: what is told, and which steps follow.

use penstock_api::v1::{Desired, VolumeState};
use penstock_plan::agent::{Step, StepError};

use super::node::{Node, deleted, desired, namespace, subsystem, volume, volumes};

/// A node in a state of volume `v`, with the step that runs then, if one does.
type Setup = (Node, Option<Step>);

/// A state's name, and how to come there.
type State = (&'static str, fn() -> Setup);

const STATES: [State; 9] = [
    ("unknown", || (Node::new(), None)),
    ("new, not saved", || {
        let mut node = Node::new();
        node.accept(volumes(1, true, vec![volume("v", 2, &[(0, 4)])]));
        (node, None)
    }),
    ("new, being cleared", clearing),
    ("new, waits for space", || {
        let mut node = Node::new();
        node.accept(volumes(1, true, vec![volume("a", 1, &[(3, 1)])]));
        node.settle();
        node.accept(volumes(2, false, vec![volume("v", 2, &[(0, 4)])]));
        node.settle();
        (node, None)
    }),
    ("ready, not open", || {
        let (mut node, step) = clearing();
        node.run(&step.expect("a step"));
        node.save(true);
        (node, None)
    }),
    ("open", || (open(), None)),
    ("open and served", || {
        let mut node = open();
        let subsystems = vec![subsystem("s")];
        let namespaces = vec![namespace("n", "s", "v", 1)];
        node.accept(Desired {
            subsystems,
            namespaces,
            ..desired(2, false)
        });
        node.settle();
        (node, None)
    }),
    ("deleting, being cleared", || {
        let mut node = open();
        node.accept(volumes(2, false, vec![deleted(volume("v", 2, &[(0, 4)]))]));
        node.save(true);
        let close = node.agent.steps().remove(0);
        node.run(&close);
        let clear = node.agent.steps().remove(0);
        (node, Some(clear))
    }),
    ("gone", || {
        let mut node = open();
        node.accept(volumes(2, false, vec![deleted(volume("v", 2, &[(0, 4)]))]));
        node.settle();
        (node, None)
    }),
];

fn clearing() -> Setup {
    let mut node = Node::new();
    node.accept(volumes(1, true, vec![volume("v", 2, &[(0, 4)])]));
    node.save(true);
    let step = node.agent.steps().remove(0);
    (node, Some(step))
}

fn open() -> Node {
    let mut node = Node::new();
    node.accept(volumes(1, true, vec![volume("v", 2, &[(0, 4)])]));
    node.settle();
    node
}

type Event = fn(&mut Node, &mut Option<Step>);

const EVENTS: [(&str, Event); 12] = [
    ("nothing", |_, _| {}),
    ("the same", |node, _| send(node, volume("v", 2, &[(0, 4)]))),
    ("higher epoch", |node, _| {
        send(node, volume("v", 3, &[(0, 4)]))
    }),
    ("grown", |node, _| {
        send(node, volume("v", 3, &[(0, 4), (8, 1)]))
    }),
    ("moved", |node, _| send(node, volume("v", 3, &[(12, 4)]))),
    ("moved, same epoch", |node, _| {
        send(node, volume("v", 2, &[(12, 4)]))
    }),
    ("lower epoch", |node, _| {
        send(node, volume("v", 1, &[(0, 4)]))
    }),
    ("deleted", |node, _| {
        send(node, deleted(volume("v", 2, &[(0, 4)])))
    }),
    ("deleted, lower epoch", |node, _| {
        send(node, deleted(volume("v", 1, &[(0, 4)])))
    }),
    ("missing", |node, _| {
        drop(node.accept(volumes(9, true, vec![])))
    }),
    ("step fails", |node, step| {
        if let Some(step) = step.take() {
            let error = StepError {
                reason: "DeviceError".into(),
                message: "as told".into(),
            };
            node.agent.done(&step, Err(error));
        }
    }),
    ("crash", |node, step| {
        *step = None;
        node.crash();
    }),
];

fn send(node: &mut Node, volume: penstock_api::v1::DesiredVolume) {
    node.accept(volumes(9, false, vec![volume]));
}

/// What is told of `v` in the end, and the steps that were done.
fn outcome(node: &mut Node, step: Option<Step>) -> String {
    if let Some(step) = step {
        node.run(&step);
    }
    node.settle();
    let report = node.report(true).expect("a full report");
    let told = report.volumes.iter().find(|seen| seen.uid == "v");
    let told = told.map_or("nothing".to_owned(), |seen| {
        let state = match seen.state() {
            _ if seen.gone => "GONE",
            VolumeState::Ready => "READY",
            VolumeState::Failed => "FAILED",
            VolumeState::Deleting => "DELETING",
            VolumeState::Creating => "CREATING",
            _ => "?",
        };
        let told = format!("{state} {} epoch {}", seen.reason, seen.epoch);
        told.split_whitespace().collect::<Vec<_>>().join(" ")
    });
    let orphan = report
        .orphans
        .iter()
        .find(|orphan| orphan.volume_uid == "v");
    let orphan = orphan.map_or(String::new(), |orphan| {
        format!(", orphan {}", orphan.reason)
    });
    let tomb = if node.agent.deleted_uids().is_empty() {
        ""
    } else {
        ", remembered as deleted"
    };
    let steps: Vec<&str> = node
        .log
        .iter()
        .filter_map(|step| step.strip_suffix(" v"))
        .collect();
    format!("{told}{orphan}{tomb} [{}]", steps.join(", "))
}

#[test]
fn every_state_with_every_event() {
    let mut text = String::new();
    for (state, setup) in STATES {
        text.push_str(&format!("{state}\n"));
        for (event, happen) in EVENTS {
            let (mut node, mut step) = setup();
            node.log.clear();
            happen(&mut node, &mut step);
            let told = outcome(&mut node, step);
            text.push_str(&format!("    {event}: {told}\n"));
        }
    }
    let wanted = include_str!("table.txt");
    assert!(text == wanted, "the table has changed; it is now:\n{text}");
}
