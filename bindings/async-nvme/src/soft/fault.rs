//! What can be made to go wrong with a command.

use penstock_nvme::{Sqe, Status};

use super::random::Random;

/// A command that the model has fetched.
#[derive(Clone, Copy, Debug)]
pub struct Fetched<'a> {
    /// Submission queue; 0 is the admin queue.
    pub queue: u16,
    /// The command.
    pub sqe: &'a Sqe,
    /// How many commands were fetched before it, from all queues.
    pub number: u64,
}

/// What happens to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is executed and completed so much later.
    Delay {
        /// Time from fetching it, in nanoseconds of [`super::SoftController::step`].
        ns: u64,
    },
    /// It is never executed. Abort and a reset end it.
    Hang,
    /// It is executed, but nothing tells of its completion: to the controller it is done.
    LoseCompletion,
    /// It is not executed, and completed with this status.
    Status(Status),
    /// Its completion is posted twice.
    Twice,
    /// It is executed, and its completion names another command.
    WrongCid(u16),
    /// It is executed, and its completion has the wrong phase tag: the host does not see it.
    WrongPhase,
    /// The controller fails: CSTS.CFS, and nothing is executed until a reset.
    Fatal,
    /// The drive is pulled out; reads of its registers give `reads`, all ones as a rule.
    Remove {
        /// What every register reads as from then on.
        reads: u32,
    },
}

/// Decides what happens to a command; `None` is nothing special.
pub(super) type Rule = Box<dyn FnMut(&Fetched<'_>) -> Option<Fault> + Send>;

/// How often things go wrong with I/O commands, of 10000 each; the seed decides which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultRates {
    /// [`Fault::Delay`], by up to `delay_max_ns`.
    pub delay: u16,
    /// Longest delay in nanoseconds.
    pub delay_max_ns: u64,
    /// [`Fault::Hang`].
    pub hang: u16,
    /// [`Fault::LoseCompletion`].
    pub lose_completion: u16,
    /// [`Fault::Status`] with Internal Error, which a retry may mend.
    pub internal_error: u16,
    /// [`Fault::Status`] with Command Interrupted.
    pub interrupted: u16,
    /// [`Fault::Twice`].
    pub twice: u16,
    /// [`Fault::WrongCid`].
    pub wrong_cid: u16,
    /// [`Fault::WrongPhase`].
    pub wrong_phase: u16,
    /// [`Fault::Fatal`].
    pub fatal: u16,
}

impl FaultRates {
    pub(super) fn choose(&self, random: &mut Random) -> Option<Fault> {
        if *self == FaultRates::default() {
            return None;
        }
        let mut left = random.below(10_000);
        let mut is = |times: u16| {
            let hit = left < u64::from(times);
            left = left.saturating_sub(u64::from(times));
            if hit {
                left = u64::MAX;
            }
            hit
        };
        let fault = if is(self.delay) {
            Fault::Delay {
                ns: random.below(self.delay_max_ns.saturating_add(1)),
            }
        } else if is(self.hang) {
            Fault::Hang
        } else if is(self.lose_completion) {
            Fault::LoseCompletion
        } else if is(self.internal_error) {
            Fault::Status(Status::INTERNAL_ERROR)
        } else if is(self.interrupted) {
            Fault::Status(Status::COMMAND_INTERRUPTED)
        } else if is(self.twice) {
            Fault::Twice
        } else if is(self.wrong_cid) {
            // One that a young driver has not used: a wrong answer to another command of its
            // own it could not tell from a right one.
            Fault::WrongCid(0xff00 | u16::from(random.next().to_le_bytes()[0]))
        } else if is(self.wrong_phase) {
            Fault::WrongPhase
        } else if is(self.fatal) {
            Fault::Fatal
        } else {
            return None;
        };
        Some(fault)
    }
}

/// What can be made to go wrong with the controller itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControllerFaults {
    /// CSTS.RDY is never set.
    pub never_ready: bool,
    /// CSTS.RDY is never cleared.
    pub never_disabled: bool,
    /// A shutdown never completes.
    pub stuck_in_shutdown: bool,
    /// Abort commands end without aborting anything.
    pub aborts_nothing: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_kept() {
        let rates = FaultRates {
            hang: 1000,
            twice: 3000,
            ..FaultRates::default()
        };
        let mut random = Random::new(3);
        let chosen: Vec<_> = (0..10_000).map(|_| rates.choose(&mut random)).collect();
        let count = |fault| chosen.iter().filter(|f| **f == fault).count();
        assert!((900..1100).contains(&count(Some(Fault::Hang))));
        assert!((2800..3200).contains(&count(Some(Fault::Twice))));
        assert_eq!(
            count(None) + count(Some(Fault::Hang)) + count(Some(Fault::Twice)),
            10_000
        );
        assert_eq!(FaultRates::default().choose(&mut random), None);
    }
}
