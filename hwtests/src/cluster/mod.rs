//! A control plane of real processes on this machine: etcd, `penstock-control`, `penstock-node`.
//!
//! Ports and files are each one's own and stay the same over a restart. What all of them say is in
//! the test's log.

mod api;
mod control;
mod etcd;
mod proxy;
mod service;
mod storage;
mod wire;

pub use api::{Answer, Api, Refusal, Watcher};
pub use control::{Control, Store};
pub use etcd::{Etcd, Identity, Key, Options};
pub use proxy::Proxy;
pub use service::Service;
pub use storage::{Device, Storage};
pub use wire::Exchange;

use crate::error::{LabError, Result};
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(50);

/// Waits until `holds` says yes; an error of it counts as no, and the last one is told at the limit.
/// Returns how long it took.
///
/// # Errors
/// [`LabError::Check`] at the limit.
pub fn until(
    what: &str,
    limit: Duration,
    mut holds: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let begun = Instant::now();
    loop {
        let answer = holds();
        if matches!(answer, Ok(true)) {
            return Ok(begun.elapsed());
        }
        if begun.elapsed() >= limit {
            let last = answer.err().map(|err| format!(", at last: {err}"));
            return Err(LabError::Check(format!(
                "{what}: not within {} ms{}",
                limit.as_millis(),
                last.unwrap_or_default()
            )));
        }
        std::thread::sleep(POLL);
    }
}
