//! Asynchronous events (Base 2.1, 5.1.2): requests that wait for them, and the other way round.

use std::collections::VecDeque;

use penstock_nvme::event::AsyncEvent;

pub(super) struct Events {
    requests_max: usize,
    requests: VecDeque<u16>,
    pending: VecDeque<AsyncEvent>,
    /// Reported, and not cleared by reading their log page: their types stay silent.
    masked: Vec<AsyncEvent>,
}

impl Events {
    pub(super) fn new(requests_max: u8) -> Events {
        Events {
            requests_max: usize::from(requests_max.max(1)),
            requests: VecDeque::new(),
            pending: VecDeque::new(),
            masked: Vec::new(),
        }
    }

    /// Takes a request; false where there are as many as allowed.
    pub(super) fn request(&mut self, cid: u16) -> bool {
        let room = self.requests.len() < self.requests_max;
        if room {
            self.requests.push_back(cid);
        }
        room
    }

    pub(super) fn is_request(&self, cid: u16) -> bool {
        self.requests.contains(&cid)
    }

    /// Takes a request back; whether it was there.
    pub(super) fn abort(&mut self, cid: u16) -> bool {
        let before = self.requests.len();
        self.requests.retain(|request| *request != cid);
        before != self.requests.len()
    }

    pub(super) fn add(&mut self, event: AsyncEvent) {
        if !self.pending.contains(&event) {
            self.pending.push_back(event);
        }
    }

    /// A request and the event to answer it with.
    pub(super) fn next(&mut self) -> Option<(u16, AsyncEvent)> {
        let cid = *self.requests.front()?;
        let silent = |event: &AsyncEvent| {
            let of_type = |masked: &AsyncEvent| masked.event_type == event.event_type;
            self.masked.iter().any(of_type)
        };
        let index = self.pending.iter().position(|event| !silent(event))?;
        let event = self.pending.remove(index)?;
        self.requests.pop_front();
        self.masked.push(event);
        Some((cid, event))
    }

    /// A log page was read without RAE: what it tells about is cleared.
    pub(super) fn clear(&mut self, log_page: u8) {
        self.masked.retain(|event| event.log_page != log_page);
        self.pending.retain(|event| event.log_page != log_page);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_silent_until_its_page_is_read() {
        let mut events = Events::new(2);
        assert!(events.request(7) && events.request(8) && !events.request(9));
        events.add(AsyncEvent::NAMESPACE_CHANGED);
        assert_eq!(events.next(), Some((7, AsyncEvent::NAMESPACE_CHANGED)));
        events.add(AsyncEvent::NAMESPACE_CHANGED);
        assert_eq!(events.next(), None);
        events.clear(4);
        events.add(AsyncEvent::NAMESPACE_CHANGED);
        assert_eq!(events.next(), Some((8, AsyncEvent::NAMESPACE_CHANGED)));
        assert!(events.request(9) && events.abort(9) && !events.abort(9));
    }
}
