//! Tries out what a drive, its machine and this driver can do together, step by step: for the lab,
//! and for new hardware.

#[cfg(feature = "spdk")]
mod spdk;
mod steps;
mod worker;

use std::time::Duration;

use crate::driver::DriverChoice;
use crate::pci::PciAddress;
use crate::vfio::OpenOptions;

/// What to try.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    /// Whose driver to try.
    pub driver: DriverChoice,
    /// How to open the drive.
    pub open: OpenOptions,
    /// Also write: what the drive holds is lost.
    pub write: bool,
    /// Go on reading until the drive is taken away, this long at most. Needs `write`.
    pub until_removed: Option<Duration>,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Passed,
    /// It could not be tried here.
    Skipped,
    /// Not as it should.
    Failed,
}

/// A step that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What was tried.
    pub name: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found, or why not.
    pub detail: String,
}

/// Why a step did not pass.
enum Stop {
    Skipped(String),
    Failed(String),
}

impl<E: std::error::Error> From<E> for Stop {
    fn from(err: E) -> Stop {
        Stop::Failed(err.to_string())
    }
}

/// Tries everything that `options` asks for on the drive at `address`, which must be bound to
/// vfio-pci. `tell` hears of each step as it ends. Whether none failed.
pub fn run(address: &PciAddress, options: &CheckOptions, tell: &mut dyn FnMut(&Step)) -> bool {
    let mut steps = Steps {
        tell,
        failed: false,
    };
    match options.driver {
        DriverChoice::Own => steps::all(address, options, &mut steps),
        #[cfg(feature = "spdk")]
        DriverChoice::Spdk(spdk) => spdk::all(address, options, spdk, &mut steps),
        #[cfg(not(feature = "spdk"))]
        DriverChoice::Spdk(_) => steps.tell("controller", Err(Stop::Failed(NO_SPDK.into()))),
    }
    !steps.failed
}

#[cfg(not(feature = "spdk"))]
const NO_SPDK: &str = "this build has no SPDK in it; build with `--features spdk`";

struct Steps<'a> {
    tell: &'a mut dyn FnMut(&Step),
    failed: bool,
}

impl Steps<'_> {
    /// Tells how a step ended, and passes on what later steps need of it.
    fn take<T>(&mut self, name: &'static str, result: Result<(T, String), Stop>) -> Option<T> {
        let (value, outcome, detail) = match result {
            Ok((value, detail)) => (Some(value), Outcome::Passed, detail),
            Err(Stop::Skipped(why)) => (None, Outcome::Skipped, why),
            Err(Stop::Failed(why)) => (None, Outcome::Failed, why),
        };
        self.failed |= outcome == Outcome::Failed;
        (self.tell)(&Step {
            name,
            outcome,
            detail,
        });
        value
    }

    fn tell(&mut self, name: &'static str, result: Result<String, Stop>) {
        self.take(name, result.map(|detail| ((), detail)));
    }
}
