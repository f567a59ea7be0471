//! Tickets: single-threaded one-shot completions without an allocation each.
//!
//! A pending ticket and its completer share an entry of a slab that belongs to the thread; entries
//! are used again, so the slab grows to the most requests ever in flight and no further. Code that
//! is not ours (wakers, a payload's owner) never runs while the slab is borrowed.

use std::cell::RefCell;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use penstock_buffer::Payload;

use crate::gather::Gather;
use crate::{BlockError, Outcome};

enum State {
    Free {
        next: Option<u32>,
    },
    Waiting(Option<Waker>),
    Done(Outcome),
    /// The ticket was dropped; the completion is thrown away when it comes.
    Abandoned,
}

struct Slab {
    entries: Vec<State>,
    free: Option<u32>,
}

thread_local! {
    // One slab a reactor: tickets and completers never leave their thread.
    static SLAB: RefCell<Slab> = const { RefCell::new(Slab { entries: Vec::new(), free: None }) };
}

/// Runs `f` on this thread's slab; `None` when the thread is ending and its slab is gone already.
fn with_slab<T>(f: impl FnOnce(&mut Slab) -> T) -> Option<T> {
    SLAB.try_with(|slab| f(&mut slab.borrow_mut())).ok()
}

impl Slab {
    fn insert(&mut self, state: State) -> u32 {
        if let Some(index) = self.free
            && let State::Free { next } = self.entries[index as usize]
        {
            self.free = next;
            self.entries[index as usize] = state;
            return index;
        }
        self.entries.push(state);
        // 2^32 entries of some 100 bytes are more than there is memory.
        u32::try_from(self.entries.len() - 1).unwrap_or_else(|_| std::process::abort())
    }

    fn remove(&mut self, index: u32) -> State {
        let next = self.free;
        self.free = Some(index);
        std::mem::replace(&mut self.entries[index as usize], State::Free { next })
    }
}

/// A future of an [`Outcome`]. Dropping it does not cancel the request.
#[must_use = "the outcome arrives through the ticket"]
pub struct Ticket(Inner);

enum Inner {
    Ready(Option<Outcome>),
    Pending(u32),
    Gathered(Gather),
    Taken,
}

/// The other end of a pending [`Ticket`]. Dropped without an answer it reports an internal error.
pub struct Completer {
    index: u32,
    armed: bool,
    /// The index means something on its own thread only.
    not_send: PhantomData<Rc<()>>,
}

impl Ticket {
    /// A ticket whose outcome is known already.
    pub fn ready(outcome: Outcome) -> Ticket {
        Ticket(Inner::Ready(Some(outcome)))
    }

    /// A ticket that its completer resolves later, on the same thread.
    pub fn pending() -> (Ticket, Completer) {
        match with_slab(|slab| slab.insert(State::Waiting(None))) {
            Some(index) => (
                Ticket(Inner::Pending(index)),
                Completer {
                    index,
                    armed: true,
                    not_send: PhantomData,
                },
            ),
            // The thread is ending: nobody can resolve anything on it any more.
            None => (
                Ticket::ready(internal_error()),
                Completer {
                    index: 0,
                    armed: false,
                    not_send: PhantomData,
                },
            ),
        }
    }

    /// The outcome, where it is known already; otherwise the ticket to wait for. Spares callers that
    /// are no futures a poll.
    ///
    /// # Errors
    /// The ticket, unchanged.
    pub fn try_take(mut self) -> Result<Outcome, Ticket> {
        self.take_now().ok_or(self)
    }

    /// A ticket that is resolved when all its parts are.
    pub(crate) fn gather(parts: Gather) -> Ticket {
        Ticket(Inner::Gathered(parts))
    }

    /// The outcome, where it is known already.
    #[inline]
    pub(crate) fn take_now(&mut self) -> Option<Outcome> {
        let outcome = match &mut self.0 {
            Inner::Ready(outcome) => outcome.take(),
            Inner::Pending(index) => Some(take_done(*index)?),
            Inner::Gathered(parts) => Some(parts.take_now()?),
            Inner::Taken => return None,
        };
        self.0 = Inner::Taken;
        outcome
    }
}

fn internal_error() -> Outcome {
    Outcome {
        result: Err(BlockError::Internal),
        payload: Payload::none(),
    }
}

fn take_done(index: u32) -> Option<Outcome> {
    with_slab(|slab| {
        if !matches!(slab.entries[index as usize], State::Done(_)) {
            return None;
        }
        match slab.remove(index) {
            State::Done(outcome) => Some(outcome),
            _ => None,
        }
    })
    .flatten()
}

impl Completer {
    /// Resolves the ticket and wakes who waits for it.
    pub fn complete(mut self, outcome: Outcome) {
        self.resolve(outcome);
    }

    fn resolve(&mut self, outcome: Outcome) {
        if !std::mem::replace(&mut self.armed, false) {
            return;
        }
        let index = self.index;
        let waker = with_slab(|slab| {
            let entry = &mut slab.entries[index as usize];
            if let State::Waiting(waker) = entry {
                let waker = waker.take();
                *entry = State::Done(outcome);
                Ok(waker)
            } else {
                slab.remove(index);
                // Handed out, as dropping its payload runs its owner's code.
                Err(outcome)
            }
        });
        if let Some(Ok(Some(waker))) = waker {
            waker.wake();
        }
    }
}

impl Drop for Completer {
    fn drop(&mut self) {
        self.resolve(internal_error());
    }
}

impl Future for Ticket {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let index = match &mut self.0 {
            Inner::Ready(outcome) => {
                let outcome = outcome.take();
                self.0 = Inner::Taken;
                return outcome.map_or(Poll::Pending, Poll::Ready);
            }
            Inner::Taken => return Poll::Pending,
            Inner::Gathered(parts) => {
                let outcome = parts.poll(cx);
                if outcome.is_ready() {
                    self.0 = Inner::Taken;
                }
                return outcome;
            }
            Inner::Pending(index) => *index,
        };
        if let Some(outcome) = take_done(index) {
            self.0 = Inner::Taken;
            return Poll::Ready(outcome);
        }
        let known = with_slab(|slab| match &slab.entries[index as usize] {
            State::Waiting(Some(known)) => known.will_wake(cx.waker()),
            _ => false,
        });
        if known == Some(false) {
            let waker = cx.waker().clone();
            // The old waker is dropped after the borrow.
            let _old = with_slab(|slab| match &mut slab.entries[index as usize] {
                State::Waiting(slot) => slot.replace(waker),
                _ => Some(waker),
            });
        }
        Poll::Pending
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Inner::Pending(index) = self.0 {
            // The old state may hold a payload or a waker: dropped after the borrow.
            let _old = with_slab(|slab| match &slab.entries[index as usize] {
                State::Done(_) => slab.remove(index),
                _ => std::mem::replace(&mut slab.entries[index as usize], State::Abandoned),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    fn ok() -> Outcome {
        Outcome {
            result: Ok(()),
            payload: Payload::none(),
        }
    }

    fn poll(ticket: &mut Ticket) -> Option<Outcome> {
        match Pin::new(ticket).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => None,
        }
    }

    fn entries_and_free() -> (usize, usize) {
        SLAB.with_borrow(|slab| {
            let free = slab
                .entries
                .iter()
                .filter(|s| matches!(s, State::Free { .. }))
                .count();
            (slab.entries.len(), free)
        })
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn ready_resolves_once() {
        let mut ticket = Ticket::ready(ok());
        assert_eq!(poll(&mut ticket).map(|o| o.result), Some(Ok(())));
        assert!(poll(&mut ticket).is_none());
    }

    #[test]
    fn completing_wakes_the_last_waker_once() {
        let (first, last) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
        let (ticket, completer) = Ticket::pending();
        let mut ticket = pin!(ticket);
        for woken in [&first, &last, &last] {
            let waker = Waker::from(Arc::clone(woken));
            assert!(
                ticket
                    .as_mut()
                    .poll(&mut Context::from_waker(&waker))
                    .is_pending()
            );
        }
        completer.complete(Outcome {
            result: Err(BlockError::Gone),
            payload: Payload::none(),
        });
        assert_eq!(
            (
                first.0.load(Ordering::Relaxed),
                last.0.load(Ordering::Relaxed)
            ),
            (0, 1)
        );
        match ticket
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(outcome) => assert_eq!(outcome.result, Err(BlockError::Gone)),
            Poll::Pending => panic!("completed"),
        }
    }

    #[test]
    fn a_dropped_completer_reports_an_internal_error() {
        let (mut ticket, completer) = Ticket::pending();
        drop(completer);
        assert_eq!(
            poll(&mut ticket).map(|o| o.result),
            Some(Err(BlockError::Internal))
        );
    }

    #[test]
    fn entries_are_used_again_whichever_end_goes_first() {
        for _ in 0..10 {
            let (ticket, completer) = Ticket::pending();
            drop(ticket);
            completer.complete(ok());
            let (ticket, completer) = Ticket::pending();
            completer.complete(ok());
            drop(ticket);
            let (ticket, completer) = Ticket::pending();
            completer.complete(ok());
            assert!(ticket.try_take().is_ok());
        }
        assert_eq!(entries_and_free(), (1, 1));
    }

    #[test]
    fn try_take_leaves_an_unresolved_ticket_alive() {
        let (ticket, completer) = Ticket::pending();
        let Err(ticket) = ticket.try_take() else {
            panic!("not resolved yet")
        };
        completer.complete(ok());
        assert!(ticket.try_take().is_ok());
        assert!(Ticket::ready(ok()).try_take().is_ok());
    }

    /// A waker whose drop uses tickets, as dropping a task that holds one does.
    struct DropsTickets;
    impl Wake for DropsTickets {
        fn wake(self: Arc<Self>) {}
    }
    impl Drop for DropsTickets {
        fn drop(&mut self) {
            let (ticket, completer) = Ticket::pending();
            drop(ticket);
            drop(completer);
        }
    }

    #[test]
    fn wakers_may_use_tickets_while_they_are_dropped() {
        let (mut ticket, completer) = Ticket::pending();
        let waker = Waker::from(Arc::new(DropsTickets));
        assert!(
            Pin::new(&mut ticket)
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        drop(waker);
        assert!(
            poll(&mut ticket).is_none(),
            "the first waker is dropped here"
        );
        let waker = Waker::from(Arc::new(DropsTickets));
        assert!(
            Pin::new(&mut ticket)
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        drop(waker);
        drop(ticket);
        drop(completer);
    }

    #[test]
    fn tickets_may_end_after_their_threads_slab() {
        thread_local! {
            static LATE: RefCell<Vec<(Ticket, Completer)>> = const { RefCell::new(Vec::new()) };
        }
        let thread = std::thread::spawn(|| {
            // Destroyed in the reverse order of first use.
            LATE.with_borrow_mut(|late| late.push(Ticket::pending()));
        });
        assert!(thread.join().is_ok());
    }

    proptest! {
        #[test]
        fn every_ticket_gets_its_own_outcome(
            steps in prop::collection::vec((0_u8..5, any::<prop::sample::Index>()), 1..300),
        ) {
            const ERRORS: [BlockError; 4] =
                [BlockError::Gone, BlockError::Aborted, BlockError::TimedOut, BlockError::NotReady];
            let mut completers: Vec<(usize, Completer)> = Vec::new();
            let mut tickets: Vec<(usize, bool, Ticket)> = Vec::new();
            for (n, (what, pick)) in steps.into_iter().enumerate() {
                match what {
                    0 | 1 => {
                        let (ticket, completer) = Ticket::pending();
                        tickets.push((n, false, ticket));
                        completers.push((n, completer));
                    }
                    2 if !completers.is_empty() => {
                        let (id, completer) = completers.swap_remove(pick.index(completers.len()));
                        let result = Err(ERRORS[id % 4]);
                        completer.complete(Outcome { result, payload: Payload::none() });
                        tickets.iter_mut().filter(|t| t.0 == id).for_each(|t| t.1 = true);
                    }
                    3 if !tickets.is_empty() => {
                        let at = pick.index(tickets.len());
                        let outcome = poll(&mut tickets[at].2);
                        prop_assert_eq!(outcome.is_some(), tickets[at].1);
                        if let Some(outcome) = outcome {
                            prop_assert_eq!(outcome.result, Err(ERRORS[tickets[at].0 % 4]));
                            drop(tickets.swap_remove(at));
                        }
                    }
                    4 if !tickets.is_empty() => {
                        drop(tickets.swap_remove(pick.index(tickets.len())));
                    }
                    _ => {}
                }
            }
            drop(tickets);
            drop(completers);
            let (entries, free) = entries_and_free();
            prop_assert_eq!(entries, free);
        }
    }
}
