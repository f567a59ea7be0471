//! Where the node's memory really is: the kernel's account, watched for what lies on a wrong node.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use penstock_topology::Residence;

use crate::reactors::Fleet;

/// When the first look is taken, and how long after each the next.
const FIRST_LOOK: Duration = Duration::from_secs(2);
const BETWEEN_LOOKS: Duration = Duration::from_secs(30);

/// One look at the kernel's account.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Bytes of each reactor's payload and receive memory that have a page, by node; in the order of
    /// the reactors.
    pub reactors: Vec<BTreeMap<u32, u64>>,
    /// Bytes of all memory bound to one node that lie on another, by the node they are meant for.
    pub misplaced: BTreeMap<u32, u64>,
}

impl Account {
    /// Asks the kernel. Takes as long as it takes to walk the page tables: not for reactors.
    ///
    /// # Errors
    /// A kernel without NUMA keeps no account.
    pub fn take(fleet: &Fleet) -> io::Result<Account> {
        let residence = Residence::read()?;
        let reactors = fleet.reactors().iter();
        Ok(Account {
            reactors: reactors
                .map(|reactor| residence.within(reactor.memory()))
                .collect(),
            misplaced: residence.misplaced(),
        })
    }

    /// What lies on another node than it should, by the node it should lie on: what is bound, and of a
    /// reactor of a known node everything, bound or not.
    fn elsewhere(&self, nodes: &[Option<u32>]) -> BTreeMap<u32, u64> {
        let mut elsewhere = BTreeMap::new();
        for (bytes, own) in self.reactors.iter().zip(nodes) {
            let Some(own) = own else { continue };
            let far = bytes.iter().filter(|(node, _)| *node != own);
            let far: u64 = far.map(|(_, bytes)| bytes).sum();
            *elsewhere.entry(*own).or_insert(0) += far;
        }
        for (meant, bytes) in &self.misplaced {
            let sum = elsewhere.entry(*meant).or_insert(0);
            *sum = (*sum).max(*bytes);
        }
        elsewhere.retain(|_, bytes| *bytes > 0);
        elsewhere
    }
}

/// Looks at the account now and then on a thread of its own, and warns. Ends when dropped.
pub struct MemoryWatch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl MemoryWatch {
    /// Starts watching.
    ///
    /// # Errors
    /// The system refuses the thread.
    pub fn start(fleet: Fleet) -> io::Result<MemoryWatch> {
        let (stop, stopped) = mpsc::channel();
        let nodes: Vec<Option<u32>> = fleet.reactors().iter().map(|r| r.numa_node()).collect();
        let watch = move || {
            let mut told = BTreeMap::new();
            let mut pause = FIRST_LOOK;
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                pause = BETWEEN_LOOKS;
                match Account::take(&fleet) {
                    Ok(account) => warn(&account.elsewhere(&nodes), &mut told),
                    Err(error) => {
                        tracing::warn!(%error, "the kernel does not tell where memory lies");
                        return;
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("memory-watch".to_owned());
        Ok(MemoryWatch {
            stop: Some(stop),
            thread: Some(thread.spawn(watch)?),
        })
    }
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// Warns where something lies elsewhere, and again each time that it has doubled.
fn warn(elsewhere: &BTreeMap<u32, u64>, told: &mut BTreeMap<u32, u64>) {
    for (numa_node, bytes) in elsewhere {
        let before = told.get(numa_node).copied().unwrap_or(0);
        if *bytes < before.saturating_mul(2).max(1) {
            continue;
        }
        told.insert(*numa_node, *bytes);
        tracing::warn!(
            numa_node,
            bytes,
            "memory meant for this NUMA node lies on another: it had none free when the memory was \
             first used; see `numastat -m` and /sys/devices/system/node/node*/hugepages, free some \
             there, and restart the node"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_elsewhere_is_told_by_the_node_it_is_meant_for() {
        let account = Account {
            reactors: vec![
                BTreeMap::from([(0, 100)]),
                BTreeMap::from([(0, 7), (1, 50)]),
                BTreeMap::from([(0, 9)]),
            ],
            misplaced: BTreeMap::from([(1, 5), (2, 3)]),
        };
        let nodes = [Some(0), Some(1), None];
        assert_eq!(account.elsewhere(&nodes), BTreeMap::from([(1, 7), (2, 3)]));
        assert_eq!(Account::default().elsewhere(&nodes), BTreeMap::new());
    }

    #[test]
    fn a_warning_is_repeated_when_it_has_doubled_only() {
        let mut told = BTreeMap::new();
        for (bytes, expected) in [(10, 10), (19, 10), (20, 20), (5, 20), (40, 40)] {
            warn(&BTreeMap::from([(1, bytes)]), &mut told);
            assert_eq!(told[&1], expected, "{bytes}");
        }
    }
}
