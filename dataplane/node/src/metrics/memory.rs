//! Metrics of where the node's memory lies.

use super::text::Families;
use crate::memory::Account;
use crate::reactors::Fleet;

pub(super) fn of_memory(families: &mut Families, fleet: &Fleet) {
    // A kernel without NUMA keeps no account: there is nothing to tell then.
    let Ok(account) = Account::take(fleet) else {
        return;
    };
    for (reactor, bytes) in fleet.reactors().iter().zip(&account.reactors) {
        let id = reactor.id().to_string();
        for (node, bytes) in bytes {
            families.gauge(
                "penstock_reactor_memory_bytes",
                "Payload and receive memory of the reactor in use since the start, by the NUMA node \
                 that the kernel has it on.",
                &[("reactor", &id), ("numa_node", &node.to_string())],
                *bytes as f64,
            );
        }
    }
    let misplaced: u64 = account.misplaced.values().sum();
    families.gauge(
        "penstock_numa_misplaced_bytes",
        "Memory bound to one NUMA node that the kernel has on another: of reactors, drives' queues.",
        &[],
        misplaced as f64,
    );
}
