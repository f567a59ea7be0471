//! A first-come-first-served line of tasks that wait for free slots.

use std::collections::VecDeque;
use std::task::Waker;

/// A place in the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(u64);

struct Waiter {
    place: Place,
    need: usize,
    waker: Waker,
}

/// Who waits for slots, in order.
pub(crate) struct Line {
    waiters: VecDeque<Waiter>,
    next: u64,
}

impl Line {
    pub(crate) fn with_capacity(capacity: usize) -> Line {
        Line {
            waiters: VecDeque::with_capacity(capacity),
            next: 0,
        }
    }

    /// Whether whoever holds `place` (or comes now, without one) may take its slots: nobody stands
    /// before it.
    pub(crate) fn is_turn_of(&self, place: Option<Place>) -> bool {
        self.waiters
            .front()
            .is_none_or(|first| Some(first.place) == place)
    }

    /// Stands in line for `need` slots, or renews the waker of a place held already.
    pub(crate) fn wait(&mut self, place: Option<Place>, need: usize, waker: &Waker) -> Place {
        if let Some(held) = place.and_then(|p| self.waiters.iter_mut().find(|w| w.place == p)) {
            held.waker.clone_from(waker);
            return held.place;
        }
        let place = Place(self.next);
        self.next += 1;
        self.waiters.push_back(Waiter {
            place,
            need,
            waker: waker.clone(),
        });
        place
    }

    /// Leaves the line, having got the slots or given up, then lets the next one know.
    pub(crate) fn leave(&mut self, place: Place, free: usize) {
        self.waiters.retain(|w| w.place != place);
        self.call(free);
    }

    /// Wakes the first in line if `free` slots are enough for it.
    pub(crate) fn call(&self, free: usize) {
        if let Some(first) = self.waiters.front()
            && first.need <= free
        {
            first.waker.wake_by_ref();
        }
    }

    /// Wakes everybody: the connection is gone.
    pub(crate) fn dismiss(&mut self) {
        for waiter in self.waiters.drain(..) {
            waiter.waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn woken(counted: &Arc<Counted>) -> usize {
        counted.0.load(Ordering::Relaxed)
    }

    #[test]
    fn the_first_in_line_goes_first_and_wants_all_it_needs() {
        let (a, b) = (Arc::new(Counted::default()), Arc::new(Counted::default()));
        let mut line = Line::with_capacity(4);
        assert!(line.is_turn_of(None));
        let first = line.wait(None, 2, &Waker::from(Arc::clone(&a)));
        let second = line.wait(None, 1, &Waker::from(Arc::clone(&b)));
        assert!(!line.is_turn_of(None) && !line.is_turn_of(Some(second)));
        line.call(1);
        assert_eq!(
            (woken(&a), woken(&b)),
            (0, 0),
            "one slot is not enough for the first"
        );
        line.call(2);
        assert_eq!((woken(&a), woken(&b)), (1, 0));
        assert!(line.is_turn_of(Some(first)));
        line.leave(first, 1);
        assert_eq!((woken(&a), woken(&b)), (1, 1));
    }

    #[test]
    fn a_place_is_kept_when_the_waker_changes() {
        let (a, b) = (Arc::new(Counted::default()), Arc::new(Counted::default()));
        let mut line = Line::with_capacity(4);
        let place = line.wait(None, 1, &Waker::from(Arc::clone(&a)));
        assert_eq!(
            line.wait(Some(place), 1, &Waker::from(Arc::clone(&b))),
            place
        );
        line.call(1);
        assert_eq!((woken(&a), woken(&b)), (0, 1));
        line.dismiss();
        assert!(line.is_turn_of(None));
    }
}
