//! One reactor's queue on a file: keeps what is in flight and does what [`Flight`] decides.

use std::cell::{OnceCell, RefCell};
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use penstock_block::{BlockDevice, BlockError, BlockQueue, Direction, Outcome, Request, Ticket};
use penstock_buffer::{Lease, Payload, Pool, PoolConfig};
use penstock_reactor::{FileOp, FileSink};
use penstock_units::Lba;

use super::flight::{Flight, Next, Step, ZeroBy, first_step, rest_of};
use super::{Abilities, FileDevice};
use crate::slab::Slab;

/// Memory for payloads that are not aligned and for zeroes, mapped when first needed.
const SPARE_BYTES: usize = 16 << 20;
const BOUNCE_MAX_BYTES: usize = 4 << 20;
/// How much is zeroed by one write.
const ZERO_PIECE_BYTES: usize = 1 << 20;

/// What the queue needs of the reactor: [`penstock_reactor::File`], or a script in tests.
pub(super) trait Ring {
    fn submit(&self, op: FileOp, payload: Payload, sink: Rc<dyn FileSink>, token: u64);
}

impl Ring for penstock_reactor::File {
    fn submit(&self, op: FileOp, payload: Payload, sink: Rc<dyn FileSink>, token: u64) {
        penstock_reactor::File::submit(self, op, payload, sink, token);
    }
}

pub(super) struct FileQueue<R> {
    device: Arc<FileDevice>,
    ring: R,
    flights: RefCell<Slab<Flight>>,
    spare: OnceCell<Option<Pool>>,
    zeroes: OnceCell<Option<Lease>>,
    this: Weak<FileQueue<R>>,
}

impl<R: Ring + 'static> FileQueue<R> {
    pub(super) fn new(device: Arc<FileDevice>, ring: R) -> Rc<FileQueue<R>> {
        Rc::new_cyclic(|this| FileQueue {
            device,
            ring,
            flights: RefCell::new(Slab::new()),
            spare: OnceCell::new(),
            zeroes: OnceCell::new(),
            this: Weak::clone(this),
        })
    }

    fn spare(&self) -> Option<&Pool> {
        let make = || {
            Pool::new(&PoolConfig {
                size_bytes: SPARE_BYTES,
                lease_max_bytes: BOUNCE_MAX_BYTES,
                hugepages: false,
                ..PoolConfig::default()
            })
            .inspect_err(|e| tracing::warn!(device = self.device.name(), error = %e))
            .ok()
        };
        self.spare.get_or_init(make).as_ref()
    }

    fn zeroes(&self) -> Option<&Lease> {
        let make = || {
            let lease = self.spare()?.try_lease(ZERO_PIECE_BYTES)?;
            lease.fill(0);
            Some(lease)
        };
        self.zeroes.get_or_init(make).as_ref()
    }

    fn is_aligned(&self, payload: &Payload) -> bool {
        let mask = self.device.alignment as usize - 1;
        payload
            .segments()
            .all(|lease| (lease.as_ptr() as usize | lease.len()) & mask == 0)
    }

    /// Aligned memory as long as the payload, with its bytes for a write.
    fn bounce(&self, step: Step, payload: &Payload) -> Result<Lease, BlockError> {
        let len = payload.len();
        if len > BOUNCE_MAX_BYTES {
            return Err(BlockError::Unsupported);
        }
        let lease = self.spare().and_then(|pool| pool.try_lease(len));
        let lease = lease.ok_or(BlockError::NoResources)?;
        if matches!(step, Step::Write { .. }) {
            let mut at = 0;
            for run in payload.segments() {
                at += lease.write_at(at, run.bytes());
            }
        }
        Ok(lease)
    }

    /// The payload of a flight's next operation.
    fn next_payload(&self, flight: &Flight) -> Result<Payload, BlockError> {
        match flight.step {
            Step::Read | Step::Write { .. } => Ok(match (&flight.bounce, &flight.kept) {
                (Some(bounce), _) => rest_of(&Payload::from(bounce.clone()), flight.done),
                (None, Some(kept)) => rest_of(kept, flight.done),
                (None, None) => Payload::none(),
            }),
            Step::Zero {
                by: ZeroBy::Writing,
                ..
            } => {
                let left = usize::try_from(flight.range.len - flight.done).unwrap_or(usize::MAX);
                let piece = left.min(ZERO_PIECE_BYTES);
                let zeroes = self.zeroes().and_then(|zeroes| zeroes.slice(0, piece));
                zeroes.map(Payload::from).ok_or(BlockError::NoResources)
            }
            _ => Ok(Payload::none()),
        }
    }

    fn launch(&self, flight: Flight, payload: Payload) {
        let Some(this) = self.this.upgrade() else {
            return; // Nobody can call a queue that is being dropped.
        };
        let op = flight.file_op();
        let token = self.flights.borrow_mut().insert(flight);
        self.ring.submit(op, payload, this, token as u64);
    }

    fn again(&self, flight: Flight) {
        match self.next_payload(&flight) {
            Ok(payload) => self.launch(flight, payload),
            Err(error) => finish(flight, Err(error), Payload::none()),
        }
    }

    /// Goes on in another way where the file system refused one, and remembers it if `for_good`.
    fn go_around(&self, mut flight: Flight, for_good: bool) {
        let abilities = &self.device.abilities;
        let name = self.device.name();
        match flight.step {
            Step::Zero {
                by: ZeroBy::Range,
                durable,
            } => {
                if for_good && abilities.zero_range.swap(false, Ordering::Relaxed) {
                    tracing::info!(device = name, "cannot zero a range; writing zeroes instead");
                }
                flight.step = Step::Zero {
                    by: ZeroBy::Writing,
                    durable,
                };
                self.again(flight);
            }
            step => {
                if for_good && abilities.punch.swap(false, Ordering::Relaxed) {
                    tracing::info!(
                        device = name,
                        "cannot deallocate; doing without from now on"
                    );
                }
                if let Step::Zero { durable, .. } = step {
                    flight.step = Step::Zero {
                        by: ZeroBy::Range,
                        durable,
                    };
                    return self.again(flight);
                }
                // To deallocate is advice; what is refused leaves the data as it was.
                finish(flight, Ok(()), Payload::none());
            }
        }
    }
}

/// Ends a request; `payload` is what the ring had.
fn finish(mut flight: Flight, result: Result<(), BlockError>, payload: Payload) {
    if let (Some(bounce), Some(kept)) = (&flight.bounce, &flight.kept)
        && flight.step == Step::Read
        && result.is_ok()
    {
        kept.write_at(0, bounce.bytes());
    }
    let payload = flight.kept.take().unwrap_or(payload);
    flight.completer.complete(Outcome { result, payload });
}

impl<R: Ring + 'static> BlockQueue for FileQueue<R> {
    fn submit(&self, request: Request) -> Ticket {
        let ready = |result, payload| Ticket::ready(Outcome { result, payload });
        let range = match self.device.geometry().check(&request) {
            Ok(range) => range,
            Err(error) => return ready(Err(error), request.payload),
        };
        let abilities = &self.device.abilities;
        let punch = Abilities::has(&abilities.punch);
        let zero_range = Abilities::has(&abilities.zero_range);
        let Some(step) = first_step(request.op, range.len, punch, zero_range) else {
            return ready(Ok(()), request.payload);
        };
        let moves = matches!(step, Step::Read | Step::Write { .. });
        let bounce = if moves && !self.is_aligned(&request.payload) {
            match self.bounce(step, &request.payload) {
                Ok(lease) => Some(lease),
                Err(error) => return ready(Err(error), request.payload),
            }
        } else {
            None
        };
        let (ticket, completer) = Ticket::pending();
        let alignment = self.device.alignment;
        let flight = Flight {
            completer,
            step,
            range,
            done: 0,
            retries: 0,
            alignment,
            kept: None,
            bounce,
        };
        if moves && flight.bounce.is_none() {
            // The usual way: the ring has the payload itself.
            self.launch(flight, request.payload);
        } else {
            self.again(Flight {
                kept: Some(request.payload),
                ..flight
            });
        }
        ticket
    }

    fn lend(&self, _direction: Direction, _lba: Lba, _blocks: u64) -> Option<Lease> {
        None
    }
}

impl<R: Ring + 'static> FileSink for FileQueue<R> {
    fn on_done(&self, token: u64, result: io::Result<u32>, payload: Payload) {
        let index = usize::try_from(token).unwrap_or(usize::MAX);
        let Some(mut flight) = self.flights.borrow_mut().remove(index) else {
            tracing::error!(token, "a completion that nobody waits for");
            return;
        };
        let next = match &result {
            Ok(moved) => flight.succeeded(*moved),
            Err(error) => flight.failed(error.raw_os_error().unwrap_or(0)),
        };
        let moves = matches!(flight.step, Step::Read | Step::Write { .. });
        match next {
            Next::Over(ended) => {
                if let Err(error) = ended {
                    tracing::warn!(
                        path = %self.device.config.path.display(),
                        step = ?flight.step,
                        offset = flight.range.offset + flight.done,
                        len = flight.range.len,
                        ?result,
                        %error,
                        "I/O failed"
                    );
                }
                finish(flight, ended, payload);
            }
            Next::Refused { for_good } => self.go_around(flight, for_good),
            Next::Again => {
                if moves && flight.bounce.is_none() && flight.kept.is_none() {
                    // `rest_of` shares the memory; this keeps it for the outcome.
                    flight.kept = Some(payload);
                }
                self.again(flight);
            }
        }
    }
}
