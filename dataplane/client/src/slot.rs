//! The fixed slots of a queue: one for each command that may be in flight. A slot's number is the
//! command identifier, so responses and transfer requests find their slot without a search.

use std::task::Waker;

use penstock_buffer::Lease;
use penstock_nvme::{Sqe, Status};
use penstock_reactor::Ticks;
use penstock_units::CommandId;

use crate::error::{CloseReason, CommandName};

/// A command, ready to be sent. Identifier and SGL are filled in by the connection.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) sqe: Sqe,
    pub(crate) command: CommandName,
    /// Memory to send from or to receive into; its length is the transfer's.
    pub(crate) lease: Option<Lease>,
    /// Limit in ticks; `None` for commands that may take for ever (event requests).
    pub(crate) limit: Option<Ticks>,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The controller answered, or sent its last data with the success flag.
    Answered { result: u64, status: Status },
    /// A data digest of the data received did not match.
    DataDamaged,
    /// The connection ended.
    Closed(CloseReason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Free,
    InFlight,
    /// The limit has passed; who waits has been woken to learn it.
    Expired,
    /// Nobody waits any more (dropped or timed out); the controller may still answer and use the
    /// memory, so that both stay as they are until it has.
    Abandoned,
    Done(Outcome),
}

/// One command's place.
pub(crate) struct Slot {
    pub(crate) state: State,
    pub(crate) sqe: Sqe,
    pub(crate) command: CommandName,
    pub(crate) lease: Option<Lease>,
    /// Bytes received so far (controller to host).
    pub(crate) received: u32,
    /// Whether a data digest did not match.
    pub(crate) damaged: bool,
    /// Bytes the controller has asked for so far (host to controller).
    pub(crate) requested: u32,
    /// Transfers the controller asked for that are not sent yet.
    pub(crate) transfers: u32,
    pub(crate) waker: Option<Waker>,
    pub(crate) started: Ticks,
    pub(crate) deadline: Option<Ticks>,
}

/// All slots of a connection.
pub(crate) struct Slots {
    slots: Vec<Slot>,
    /// Last in, first out: a queue that is not full touches few slots.
    free: Vec<u16>,
}

impl Slots {
    pub(crate) fn new(count: u16) -> Slots {
        let vacant = |_| Slot {
            state: State::Free,
            sqe: Sqe::new(0),
            command: CommandName {
                name: "",
                nsid: None,
            },
            lease: None,
            received: 0,
            damaged: false,
            requested: 0,
            transfers: 0,
            waker: None,
            started: 0,
            deadline: None,
        };
        Slots {
            slots: (0..count).map(vacant).collect(),
            free: (0..count).rev().collect(),
        }
    }

    pub(crate) fn free_count(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn count(&self) -> usize {
        self.slots.len()
    }

    /// The slot of a command in flight (waited for or not); `None` for an identifier that is not.
    pub(crate) fn in_flight(&mut self, id: CommandId) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(usize::from(id.0))?;
        matches!(
            slot.state,
            State::InFlight | State::Expired | State::Abandoned
        )
        .then_some(slot)
    }

    pub(crate) fn get(&mut self, id: CommandId) -> &mut Slot {
        &mut self.slots[usize::from(id.0)]
    }

    /// Takes a free slot for the request; `None` where all are taken.
    pub(crate) fn start(&mut self, request: Request, now: Ticks) -> Option<CommandId> {
        let id = self.free.pop()?;
        let slot = &mut self.slots[usize::from(id)];
        slot.state = State::InFlight;
        slot.sqe = request.sqe.with_cid(id);
        slot.command = request.command;
        slot.lease = request.lease;
        slot.received = 0;
        slot.damaged = false;
        slot.requested = 0;
        slot.transfers = 0;
        slot.started = now;
        slot.deadline = request.limit.map(|limit| now.saturating_add(limit));
        Some(CommandId(id))
    }

    /// The command is over: tells who waits, or frees the slot where nobody does.
    pub(crate) fn finish(&mut self, id: CommandId, outcome: Outcome) {
        let slot = &mut self.slots[usize::from(id.0)];
        match slot.state {
            State::InFlight | State::Expired => {
                slot.state = State::Done(outcome);
                if let Some(waker) = &slot.waker {
                    waker.wake_by_ref();
                }
            }
            State::Abandoned => self.free(id),
            State::Free | State::Done(_) => {}
        }
    }

    /// Gives the slot back.
    pub(crate) fn free(&mut self, id: CommandId) {
        let slot = &mut self.slots[usize::from(id.0)];
        slot.state = State::Free;
        slot.lease = None;
        self.free.push(id.0);
    }

    /// Ends everything that is in flight.
    pub(crate) fn finish_all(&mut self, outcome: Outcome) {
        for id in 0..u16::try_from(self.slots.len()).unwrap_or(u16::MAX) {
            self.finish(CommandId(id), outcome);
        }
    }

    /// Wakes those whose limit has passed. Their slots stay taken until the controller answers.
    pub(crate) fn expire(&mut self, now: Ticks) {
        for slot in &mut self.slots {
            if slot.state == State::InFlight && slot.deadline.is_some_and(|at| at <= now) {
                slot.state = State::Expired;
                if let Some(waker) = &slot.waker {
                    waker.wake_by_ref();
                }
            }
        }
    }

    /// Commands in flight: identifier, name and when they were sent.
    pub(crate) fn outstanding(&self) -> impl Iterator<Item = (CommandId, CommandName, Ticks)> + '_ {
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, s)| s.state == State::InFlight)
            .map(|(i, s)| {
                (
                    CommandId(u16::try_from(i).unwrap_or(u16::MAX)),
                    s.command,
                    s.started,
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(limit: Option<Ticks>) -> Request {
        let command = CommandName {
            name: "Flush",
            nsid: None,
        };
        Request {
            sqe: Sqe::new(0),
            command,
            lease: None,
            limit,
        }
    }

    const SUCCESS: Outcome = Outcome::Closed(CloseReason::Local);

    #[test]
    fn a_slot_is_free_again_only_after_it_was_collected_or_abandoned() {
        let mut slots = Slots::new(2);
        let a = slots.start(request(None), 1).unwrap();
        let b = slots.start(request(None), 1).unwrap();
        assert_ne!(a, b);
        assert!(slots.start(request(None), 1).is_none());
        slots.finish(a, SUCCESS);
        assert!(
            slots.in_flight(a).is_none(),
            "a second answer must find nothing"
        );
        assert_eq!(slots.free_count(), 0);
        slots.free(a);
        slots.get(b).state = State::Abandoned;
        assert!(slots.in_flight(b).is_some());
        slots.finish(b, SUCCESS);
        assert_eq!(slots.free_count(), 2);
    }

    #[test]
    fn only_what_is_overdue_expires() {
        let mut slots = Slots::new(3);
        let late = slots.start(request(Some(10)), 100).unwrap();
        let early = slots.start(request(Some(50)), 100).unwrap();
        let never = slots.start(request(None), 100).unwrap();
        slots.expire(110);
        assert_eq!(slots.get(late).state, State::Expired);
        assert!(
            slots.in_flight(late).is_some(),
            "a late answer must find its slot"
        );
        assert_eq!(slots.get(early).state, State::InFlight);
        assert_eq!(slots.get(never).state, State::InFlight);
        assert_eq!(slots.outstanding().count(), 2);
    }
}
