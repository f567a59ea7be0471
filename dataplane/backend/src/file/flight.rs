//! One request on its way through the ring: which operation comes next, as a pure decision.

use penstock_block::{BlockError, ByteRange, Completer, Op};
use penstock_buffer::{Lease, Payload};
use penstock_reactor::FileOp;

use crate::errno::{self, Doing};

/// How often an operation that was interrupted is made again before the request fails.
const RETRIES_MAX: u8 = 64;

/// How blocks are made to read as zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ZeroBy {
    /// By deallocating them.
    Punch,
    /// By marking them.
    Range,
    /// By writing zeroes.
    Writing,
}

/// Which operation is with the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Read,
    Write { dsync: bool },
    Zero { by: ZeroBy, durable: bool },
    Deallocate,
    Sync,
}

/// A request in flight.
pub(super) struct Flight {
    pub(super) completer: Completer,
    pub(super) step: Step,
    pub(super) range: ByteRange,
    /// Bytes of the range moved so far.
    pub(super) done: u64,
    pub(super) retries: u8,
    /// What direct I/O needs offsets to be a multiple of.
    pub(super) alignment: u32,
    /// The request's payload, where the ring has another one or none.
    pub(super) kept: Option<Payload>,
    /// Aligned memory in the place of the payload.
    pub(super) bounce: Option<Lease>,
}

/// What follows on an operation.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The same or another operation, as `step` and `done` say now.
    Again,
    /// This way is closed, to all requests where `for_good`; `step` is unchanged.
    Refused { for_good: bool },
    /// The request is over.
    Over(Result<(), BlockError>),
}

impl Step {
    pub(super) fn doing(self) -> Doing {
        if self == Step::Read {
            Doing::Reading
        } else {
            Doing::Writing
        }
    }
}

impl Flight {
    /// The operation for the ring.
    pub(super) fn file_op(&self) -> FileOp {
        let ByteRange { offset, len } = self.range;
        let at = offset + self.done;
        match self.step {
            Step::Read => FileOp::Read { offset: at },
            Step::Write { dsync } => FileOp::Write { offset: at, dsync },
            Step::Zero {
                by: ZeroBy::Writing,
                ..
            } => FileOp::Write {
                offset: at,
                dsync: false,
            },
            Step::Zero {
                by: ZeroBy::Range, ..
            } => {
                let mode = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
                FileOp::Fallocate { mode, offset, len }
            }
            Step::Zero {
                by: ZeroBy::Punch, ..
            }
            | Step::Deallocate => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                FileOp::Fallocate { mode, offset, len }
            }
            Step::Sync => FileOp::Fdatasync,
        }
    }

    /// What follows when the operation failed with `errno`.
    pub(super) fn failed(&mut self, errno: i32) -> Next {
        if errno::is_transient(errno) && self.retries < RETRIES_MAX {
            self.retries += 1;
            return Next::Again;
        }
        let has_other_ways = match self.step {
            Step::Zero { by, .. } => by != ZeroBy::Writing,
            Step::Deallocate => true,
            _ => false,
        };
        // EINVAL: the range does not start or end where a drive's sectors do.
        if has_other_ways && (errno::is_unsupported(errno) || errno == libc::EINVAL) {
            return Next::Refused {
                for_good: errno != libc::EINVAL,
            };
        }
        Next::Over(Err(errno::block_error(errno, self.step.doing())))
    }

    /// What follows when the operation moved `moved` bytes.
    pub(super) fn succeeded(&mut self, moved: u32) -> Next {
        self.retries = 0;
        match self.step {
            Step::Read => self.moved(moved, BlockError::ReadMedia),
            Step::Write { .. } => self.moved(moved, BlockError::WriteMedia),
            Step::Zero { by, durable } => {
                let next = match by {
                    ZeroBy::Writing => self.moved(moved, BlockError::WriteMedia),
                    _ => Next::Over(Ok(())),
                };
                if durable && next == Next::Over(Ok(())) {
                    self.step = Step::Sync;
                    return Next::Again;
                }
                next
            }
            Step::Deallocate | Step::Sync => Next::Over(Ok(())),
        }
    }

    /// Nothing moved means that the file ends before the range does: somebody cut it.
    fn moved(&mut self, moved: u32, cut: BlockError) -> Next {
        self.done += u64::from(moved);
        if self.done >= self.range.len {
            return Next::Over(Ok(()));
        }
        if moved == 0 || !self.done.is_multiple_of(self.alignment.into()) {
            return Next::Over(Err(cut));
        }
        Next::Again
    }
}

/// The first step of a request. `punch` and `zero_range`: what has not been refused yet. `None` for
/// a request with nothing to do.
pub(super) fn first_step(op: Op, len: u64, punch: bool, zero_range: bool) -> Option<Step> {
    match op {
        Op::Flush => Some(Step::Sync),
        _ if len == 0 => None,
        Op::Read => Some(Step::Read),
        Op::Write { fua } => Some(Step::Write { dsync: fua }),
        Op::WriteZeroes {
            fua,
            may_deallocate,
        } => {
            let by = match (may_deallocate && punch, zero_range) {
                (true, _) => ZeroBy::Punch,
                (false, true) => ZeroBy::Range,
                (false, false) => ZeroBy::Writing,
            };
            Some(Step::Zero { by, durable: fua })
        }
        Op::Deallocate => punch.then_some(Step::Deallocate),
    }
}

/// The part of `payload` from byte `from` on.
pub(super) fn rest_of(payload: &Payload, from: u64) -> Payload {
    let mut skip = usize::try_from(from).unwrap_or(usize::MAX);
    let mut rest = Payload::none();
    for lease in payload.segments() {
        let part = skip.min(lease.len());
        skip -= part;
        if let Some(slice) = lease.slice(part, lease.len() - part)
            && !slice.is_empty()
        {
            rest.push(slice);
        }
    }
    rest
}
