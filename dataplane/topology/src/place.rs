//! Choosing cores for reactors.
//!
//! The payload of a command crosses the machine twice: between network interface and memory, and
//! between memory and drive. A reactor's memory lies on its own node, so a reactor on the drive's node
//! leaves at most the first of the two to cross, and queues, completions and payload stay near.
//! Therefore drives come first, network interfaces second. In order:
//!
//! 1. every node with drives gets a reactor, the node with most drives first;
//! 2. every node with network interfaces of listeners alone gets one;
//! 3. what is left is dealt out in proportion to drives and interfaces.
//!
//! On a node, whole physical cores are taken before the second hardware thread of any, and where there
//! are at least four, the physical core of CPU 0 last: interrupts that nobody has moved land there, and
//! the node's own ordinary threads (the agent, metrics) get what the reactors leave. A smaller machine
//! has no core to leave.

use std::collections::BTreeSet;

use crate::machine::{Core, Topology};

/// Physical cores from which on that of CPU 0 is left for last.
const SPARING_LEAST: usize = 4;

/// What reactors are placed for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// How many reactors.
    pub count: usize,
    /// Cores that the process may run on.
    pub allowed: BTreeSet<usize>,
    /// The node of each drive to be served; drives of unknown place left out.
    pub drives: Vec<u32>,
    /// The node of each network interface that hosts come by; unknown ones left out.
    pub networks: Vec<u32>,
}

/// Where a reactor runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its core.
    pub core: usize,
    /// The core's node; `None` where the topology does not know the core.
    pub node: Option<u32>,
}

/// Where all reactors run; a reactor's number is its index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// One a reactor.
    pub seats: Vec<Seat>,
}

/// Which reactors a device's node is near to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Reactors on the device's node.
    pub local: Vec<usize>,
    /// Reactors on other nodes.
    pub crossing: Vec<usize>,
}

impl Reach {
    /// Whether no reactor is near, so that every command crosses nodes.
    pub fn is_cross_node(&self) -> bool {
        self.local.is_empty() && !self.crossing.is_empty()
    }
}

impl Placement {
    /// Reactors on the cores that somebody named.
    pub fn on(topology: &Topology, cores: &[usize]) -> Placement {
        let seat = |core: &usize| Seat {
            core: *core,
            node: topology.node_of_core(*core),
        };
        Placement {
            seats: cores.iter().map(seat).collect(),
        }
    }

    /// Which reactors are near to a device on `node`. A reactor whose node is unknown is neither.
    pub fn reach(&self, node: u32) -> Reach {
        let mut reach = Reach::default();
        for (reactor, seat) in self.seats.iter().enumerate() {
            match seat.node {
                Some(own) if own == node => reach.local.push(reactor),
                Some(_) => reach.crossing.push(reactor),
                None => {}
            }
        }
        reach
    }
}

/// Chooses a core for every reactor: as many as asked for, or as there are cores allowed. The same
/// input gives the same placement.
pub fn place(topology: &Topology, needs: &Needs) -> Placement {
    let mut free: Vec<Core> = needs.allowed.iter().map(|id| core(topology, *id)).collect();
    let physical: BTreeSet<usize> = free.iter().map(|core| core.physical).collect();
    let spare = (physical.len() >= SPARING_LEAST).then(|| core(topology, 0).physical);
    let mut busy = BTreeSet::new();
    let mut seats = Vec::new();
    for wanted in wanted_nodes(topology, needs) {
        let best = free
            .iter()
            .enumerate()
            .min_by_key(|(_, core)| {
                (
                    topology.distance(wanted, core.node),
                    busy.contains(&core.physical),
                    Some(core.physical) == spare,
                    core.id,
                )
            })
            .map(|(index, _)| index);
        let Some(index) = best else { break };
        let core = free.remove(index);
        busy.insert(core.physical);
        seats.push(Seat {
            core: core.id,
            node: topology.node_of_core(core.id),
        });
    }
    Placement { seats }
}

/// A core as the topology knows it; one that it does not know shares nothing and is far from all.
fn core(topology: &Topology, id: usize) -> Core {
    let known = topology.cores.iter().find(|core| core.id == id);
    known.copied().unwrap_or(Core {
        id,
        physical: usize::MAX - id,
        node: u32::MAX,
    })
}

/// How much there is to serve on a node.
struct Demand {
    node: u32,
    drives: usize,
    networks: usize,
    /// Sum of the distances to all that is to be served.
    way: u64,
    /// Reactors meant for it so far.
    given: usize,
}

/// The node that each reactor is meant for.
fn wanted_nodes(topology: &Topology, needs: &Needs) -> Vec<u32> {
    let mut demands = demands(topology, needs);
    if demands.is_empty() {
        // Nothing pulls: together on the node with most room.
        let room = |node: u32| {
            let own = |id: &&usize| topology.node_of_core(**id) == Some(node);
            needs.allowed.iter().filter(own).count()
        };
        let ids = topology.nodes.iter().map(|node| node.id);
        let roomy = ids.max_by_key(|id| (room(*id), std::cmp::Reverse(*id)));
        return vec![roomy.unwrap_or(0); needs.count];
    }
    let mut wanted = Vec::new();
    for _ in 0..needs.count {
        let Some(next) = next(&mut demands) else {
            break;
        };
        next.given += 1;
        wanted.push(next.node);
    }
    wanted
}

/// In order of urgency: nodes without a reactor, those with most drives first, before the one where
/// each reactor has most to do.
fn next(demands: &mut [Demand]) -> Option<&mut Demand> {
    let bare = |demand: &Demand| demand.given == 0;
    let index = if demands.iter().any(bare) {
        demands.iter().position(bare)?
    } else {
        // A drive takes both ways of a payload, an interface one of them.
        let weight = |demand: &Demand| 2 * demand.drives + demand.networks;
        // Shares are compared crosswise: whole numbers only. Of equals the first stays.
        (1..demands.len()).fold(0, |best, other| {
            let (a, b) = (&demands[best], &demands[other]);
            if weight(b) * (a.given + 1) > weight(a) * (b.given + 1) {
                other
            } else {
                best
            }
        })
    };
    demands.get_mut(index)
}

/// Nodes with something to serve, the most urgent first.
fn demands(topology: &Topology, needs: &Needs) -> Vec<Demand> {
    let all = || needs.drives.iter().chain(&needs.networks);
    let count = |of: &[u32], node| of.iter().filter(|other| **other == node).count();
    let nodes: BTreeSet<u32> = all().copied().collect();
    let mut demands: Vec<Demand> = nodes
        .into_iter()
        .map(|node| Demand {
            node,
            drives: count(&needs.drives, node),
            networks: count(&needs.networks, node),
            way: all().map(|other| topology.distance(node, *other)).sum(),
            given: 0,
        })
        .collect();
    demands.sort_by_key(|d| {
        let most = std::cmp::Reverse;
        (most(d.drives), most(d.networks), d.way, d.node)
    });
    demands
}

#[cfg(test)]
#[path = "place_tests.rs"]
mod tests;
