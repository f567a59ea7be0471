//! One ticket for several requests: what a layer gives back that splits.
//!
//! The parts are polled by whoever polls the ticket; no task and no callback stands between. What a
//! gathering needs is kept for later ones of the thread, so that splitting allocates nothing once all
//! of them have been as wide before.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll};

use penstock_buffer::Payload;

use crate::{BlockError, Outcome, Ticket};

/// Gatherings kept for use again by a thread.
const KEPT_MAX: usize = 1024;

#[allow(
    clippy::vec_box,
    reason = "a ticket holds the box: one without parts stays small"
)]
type Kept = Vec<Box<Parts>>;

thread_local! {
    static KEPT: RefCell<Kept> = const { RefCell::new(Vec::new()) };
}

#[derive(Default)]
struct Parts {
    tickets: Vec<Ticket>,
    failed: Option<BlockError>,
    payload: Payload,
}

/// The parts of one request, and the worst that has become of any. Turns into a [`Ticket`].
pub struct Gather {
    /// `None` only while it is dropped.
    parts: Option<Box<Parts>>,
}

impl Default for Gather {
    fn default() -> Gather {
        Gather::new()
    }
}

impl Gather {
    /// Nothing to wait for yet.
    pub fn new() -> Gather {
        let kept = KEPT.try_with(|kept| kept.borrow_mut().pop());
        Gather {
            parts: Some(kept.ok().flatten().unwrap_or_default()),
        }
    }

    /// Waits for `ticket` too. Its payload is dropped with its outcome.
    pub fn add(&mut self, ticket: Ticket) {
        match ticket.try_take() {
            Ok(outcome) => self.note(outcome.result),
            Err(ticket) => {
                if let Some(parts) = &mut self.parts {
                    parts.tickets.push(ticket);
                }
            }
        }
    }

    /// Counts a part that ended already.
    pub fn note(&mut self, result: Result<(), BlockError>) {
        if let Some(parts) = &mut self.parts {
            parts.note(result);
        }
    }

    /// The ticket of the whole request, which gets `payload` back when every part has ended. Its
    /// result is the worst of the parts' ([`BlockError::worse`]).
    pub fn into_ticket(mut self, payload: Payload) -> Ticket {
        if let Some(parts) = &mut self.parts {
            parts.payload = payload;
        }
        match self.take_now() {
            Some(outcome) => Ticket::ready(outcome),
            None => Ticket::gather(self),
        }
    }

    /// The outcome, where every part has ended.
    pub(crate) fn take_now(&mut self) -> Option<Outcome> {
        self.each(|ticket| ticket.take_now())
    }

    /// Polls the parts that have not ended.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let outcome = self.each(|ticket| match Pin::new(ticket).poll(cx) {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => None,
        });
        outcome.map_or(Poll::Pending, Poll::Ready)
    }

    fn each(&mut self, mut ended: impl FnMut(&mut Ticket) -> Option<Outcome>) -> Option<Outcome> {
        let parts = self.parts.as_deref_mut()?;
        let mut at = 0;
        while let Some(ticket) = parts.tickets.get_mut(at) {
            match ended(ticket) {
                Some(outcome) => {
                    drop(parts.tickets.swap_remove(at));
                    parts.note(outcome.result);
                }
                None => at += 1,
            }
        }
        parts.tickets.is_empty().then(|| Outcome {
            result: parts.failed.take().map_or(Ok(()), Err),
            payload: std::mem::take(&mut parts.payload),
        })
    }
}

impl Parts {
    fn note(&mut self, result: Result<(), BlockError>) {
        if let Err(error) = result {
            self.failed = Some(self.failed.map_or(error, |known| known.worse(error)));
        }
    }
}

impl Drop for Gather {
    fn drop(&mut self) {
        let Some(mut parts) = self.parts.take() else {
            return;
        };
        // Their drops run code of others: before the list of the kept is borrowed.
        parts.tickets.clear();
        parts.failed = None;
        drop(std::mem::take(&mut parts.payload));
        // A thread that ends keeps nothing.
        let _ = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.len() < KEPT_MAX {
                kept.push(parts);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    fn over(result: Result<(), BlockError>) -> Outcome {
        Outcome {
            result,
            payload: Payload::none(),
        }
    }

    #[test]
    fn the_whole_ends_with_its_last_part_and_its_worst_result() {
        let (first, first_done) = Ticket::pending();
        let (second, second_done) = Ticket::pending();
        let mut gather = Gather::new();
        gather.add(first);
        gather.add(second);
        gather.add(Ticket::ready(over(Err(BlockError::NotReady))));
        let mut whole = gather.into_ticket(Payload::none());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut whole).poll(&mut cx).is_pending());
        second_done.complete(over(Err(BlockError::WriteMedia)));
        assert!(Pin::new(&mut whole).poll(&mut cx).is_pending());
        first_done.complete(over(Err(BlockError::Aborted)));
        match Pin::new(&mut whole).poll(&mut cx) {
            Poll::Ready(outcome) => assert_eq!(outcome.result, Err(BlockError::WriteMedia)),
            Poll::Pending => panic!("every part has ended"),
        }
    }

    #[test]
    fn parts_that_have_ended_need_no_poll() {
        let mut gather = Gather::new();
        gather.add(Ticket::ready(over(Ok(()))));
        assert!(gather.into_ticket(Payload::none()).try_take().is_ok());
        let (part, done) = Ticket::pending();
        let mut gather = Gather::default();
        gather.add(part);
        let Err(whole) = gather.into_ticket(Payload::none()).try_take() else {
            panic!("a part has not ended")
        };
        done.complete(over(Ok(())));
        assert!(whole.try_take().is_ok());
    }

    #[test]
    fn a_dropped_whole_leaves_nothing_of_itself_to_the_next() {
        let (part, done) = Ticket::pending();
        let mut gather = Gather::new();
        gather.add(part);
        gather.note(Err(BlockError::Gone));
        drop(gather.into_ticket(Payload::none()));
        done.complete(over(Ok(())));
        let outcome = Gather::new().into_ticket(Payload::none()).try_take();
        assert_eq!(outcome.ok().map(|o| o.result), Some(Ok(())));
    }
}
