//! A command from its start to its answer, as futures that allocate nothing.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use penstock_buffer::Lease;
use penstock_nvme::DataDirection;
use penstock_reactor::{now, ticks_to_ns};
use penstock_units::CommandId;

use crate::connection::Connection;
use crate::error::{ClientError, CommandName};
use crate::line::Place;
use crate::remedy;
use crate::slot::{Outcome, Request, Slot, State};

/// A successful answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Completion dwords 0 and 1.
    pub(crate) result: u64,
    /// The command's memory.
    pub(crate) lease: Option<Lease>,
}

impl Connection {
    /// Executes one command; waits in line while all slots are taken.
    pub(crate) async fn execute(&self, request: Request) -> Result<Answer, ClientError> {
        let [id] = self.started([request]).await?;
        self.answered(id).await
    }

    /// Executes two commands that follow each other without another between them.
    pub(crate) async fn execute_pair(
        &self,
        first: Request,
        second: Request,
    ) -> (Result<Answer, ClientError>, Result<Answer, ClientError>) {
        let command = second.command;
        match self.started([first, second]).await {
            Ok([first, second]) => {
                let (mut first, mut second) = (self.answered(first), self.answered(second));
                let one = (&mut first).await;
                (one, (&mut second).await)
            }
            Err(ClientError::Closed {
                address,
                reason,
                command: first,
            }) => (
                Err(ClientError::Closed {
                    address,
                    reason,
                    command: first,
                }),
                Err(ClientError::Closed {
                    address,
                    reason,
                    command,
                }),
            ),
            Err(other) => (Err(other), Err(invalid(command))),
        }
    }

    /// Starts the commands, one behind the other, as soon as it is their turn.
    fn started<const N: usize>(&self, requests: [Request; N]) -> Started<'_, N> {
        Started {
            connection: self,
            requests: Some(requests),
            place: None,
        }
    }

    fn answered(&self, id: CommandId) -> Answered<'_> {
        Answered {
            connection: self,
            id,
            over: false,
        }
    }
}

fn invalid(command: CommandName) -> ClientError {
    ClientError::Invalid {
        command,
        what: "the queue has no slot for it".into(),
    }
}

struct Started<'a, const N: usize> {
    connection: &'a Connection,
    requests: Option<[Request; N]>,
    place: Option<Place>,
}

impl<const N: usize> Unpin for Started<'_, N> {}

impl<const N: usize> Future for Started<'_, N> {
    type Output = Result<[CommandId; N], ClientError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let Some(command) = this
            .requests
            .as_ref()
            .and_then(|r| r.first())
            .map(|r| r.command)
        else {
            return Poll::Pending;
        };
        let ids = this.connection.with_core(|core| {
            if let Some(reason) = core.why_closed() {
                return Some(Err(this.connection.closed_error(reason, command)));
            }
            if core.slots.count() < N {
                return Some(Err(invalid(command)));
            }
            if core.slots.free_count() < N || !core.line.is_turn_of(this.place) {
                this.place = Some(core.line.wait(this.place, N, cx.waker()));
                return None;
            }
            let now = now();
            let ids = this
                .requests
                .take()?
                .map(|request| core.start(request, now));
            if let Some(place) = this.place.take() {
                core.line.leave(place, core.slots.free_count());
            }
            // All are there: their number was looked at above.
            let mut all = [CommandId(0); N];
            for (to, id) in all.iter_mut().zip(ids) {
                *to = id?;
            }
            Some(Ok(all))
        });
        match ids {
            Some(ids) => {
                this.connection.flush_at_round_end();
                Poll::Ready(ids)
            }
            None => Poll::Pending,
        }
    }
}

impl<const N: usize> Drop for Started<'_, N> {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.connection
                .with_core(|core| core.line.leave(place, core.slots.free_count()));
        }
    }
}

struct Answered<'a> {
    connection: &'a Connection,
    id: CommandId,
    over: bool,
}

impl Future for Answered<'_> {
    type Output = Result<Answer, ClientError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.over {
            return Poll::Pending;
        }
        let (connection, id) = (self.connection, self.id);
        let result = connection.with_core(|core| {
            let slot = core.slots.get(id);
            match slot.state {
                State::Done(outcome) => {
                    let result = conclude(connection, slot, outcome);
                    core.slots.free(id);
                    core.line.call(core.slots.free_count());
                    Some(result)
                }
                State::Expired => {
                    slot.state = State::Abandoned;
                    let after = slot
                        .deadline
                        .map_or(0, |at| at.saturating_sub(slot.started));
                    let after_ms = ticks_to_ns(after) / 1_000_000;
                    Some(Err(ClientError::TimedOut {
                        command: slot.command,
                        after_ms,
                    }))
                }
                State::Free | State::InFlight | State::Abandoned => {
                    match &mut slot.waker {
                        Some(known) if known.will_wake(cx.waker()) => {}
                        other => *other = Some(cx.waker().clone()),
                    }
                    None
                }
            }
        });
        match result {
            Some(result) => {
                self.over = true;
                Poll::Ready(result)
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for Answered<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        self.connection
            .with_core(|core| match core.slots.get(self.id).state {
                State::InFlight | State::Expired => {
                    core.slots.get(self.id).state = State::Abandoned
                }
                State::Done(_) => {
                    core.slots.free(self.id);
                    core.line.call(core.slots.free_count());
                }
                State::Free | State::Abandoned => {}
            });
    }
}

/// Turns a slot's outcome into what the caller gets.
fn conclude(
    connection: &Connection,
    slot: &mut Slot,
    outcome: Outcome,
) -> Result<Answer, ClientError> {
    let command = slot.command;
    match outcome {
        Outcome::Closed(reason) => Err(connection.closed_error(reason, command)),
        Outcome::DataDamaged => Err(ClientError::DataDigest { command }),
        Outcome::Answered { result, status } if status.is_success() => {
            let lease = slot.lease.take();
            let expected = lease.as_ref().map_or(0, Lease::len);
            let received = slot.received as usize;
            let to_host = slot.sqe.direction() == DataDirection::ControllerToHost;
            if to_host && received != expected {
                return Err(ClientError::ShortData {
                    command,
                    expected,
                    received,
                });
            }
            Ok(Answer { result, lease })
        }
        Outcome::Answered { status, .. } => Err(ClientError::Status {
            command,
            status,
            remedy: remedy::of(status),
        }),
    }
}
