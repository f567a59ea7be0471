//! Checks of how many reactors there are, and on which cores.

use std::collections::{BTreeMap, BTreeSet};

use toml::Spanned;

use super::super::schema;
use super::super::{Cores, Machine};
use super::{Checker, offset};

impl Checker<'_> {
    /// Named cores, or a count for the node to place; one to place where neither is given.
    pub(super) fn cores(
        &mut self,
        given: &schema::Reactors,
        pin: bool,
        machine: &Machine,
    ) -> Cores {
        if let (Some(_), Some(count)) = (&given.cores, &given.count) {
            let what = "reactors.cores says already how many reactors there are".to_owned();
            let remedy = "remove count to name the cores yourself, or cores to have them chosen";
            self.refuse(offset(count), "reactors.count", what, remedy);
        }
        match (&given.cores, &given.count) {
            (Some(cores), _) => Cores::Named(self.named_cores(cores, pin, machine)),
            (None, Some(count)) => Cores::Placed(self.count(count, machine)),
            (None, None) => Cores::Placed(1),
        }
    }

    fn count(&mut self, given: &Spanned<u64>, machine: &Machine) -> usize {
        let most = machine.cores_allowed.len().max(1);
        match usize::try_from(*given.get_ref()) {
            Ok(count) if (1..=most).contains(&count) => count,
            _ => {
                let what = format!(
                    "{} reactors on the {most} core(s) that this process may run on ({})",
                    given.get_ref(),
                    ranges(&machine.cores_allowed)
                );
                let remedy = format!(
                    "give a value from 1 to {most}, or widen the process's CPU set (AllowedCPUs=, \
                     taskset)"
                );
                self.refuse(offset(given), "reactors.count", what, remedy);
                1
            }
        }
    }

    fn named_cores(
        &mut self,
        given: &Spanned<Vec<Spanned<u64>>>,
        pin: bool,
        machine: &Machine,
    ) -> Vec<usize> {
        let key = "reactors.cores";
        if given.get_ref().is_empty() {
            let what = "no core is named".to_owned();
            self.refuse(
                offset(given),
                key,
                what,
                "name at least one core, such as [0]",
            );
        }
        let mut seen = BTreeMap::new();
        for core in given.get_ref() {
            let number = usize::try_from(*core.get_ref()).unwrap_or(usize::MAX);
            if seen.insert(number, ()).is_some() {
                let what = format!("core {number} is named twice");
                self.refuse(
                    offset(core),
                    key,
                    what,
                    "name every core once: a reactor owns its core",
                );
            } else if pin && !machine.cores_online.contains(&number) {
                let what = format!("core {number} is not online on this machine");
                let remedy = format!("use cores among {}", ranges(&machine.cores_online));
                self.refuse(offset(core), key, what, remedy);
            } else if pin && !machine.cores_allowed.contains(&number) {
                let what = format!("this process may not run on core {number}");
                let remedy = format!(
                    "use cores among {}, or widen the process's CPU set (AllowedCPUs=, taskset)",
                    ranges(&machine.cores_allowed)
                );
                self.refuse(offset(core), key, what, remedy);
            }
        }
        seen.into_keys().collect()
    }
}

/// A set of cores as the kernel writes it: `0-3,8`.
fn ranges(cores: &BTreeSet<usize>) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for core in cores {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *core => *last = *core,
            _ => runs.push((*core, *core)),
        }
    }
    let text = |(first, last): &(usize, usize)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    };
    runs.iter().map(text).collect::<Vec<_>>().join(",")
}
