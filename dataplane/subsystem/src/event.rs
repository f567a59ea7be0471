//! Asynchronous events of one controller (Base 2.1, 5.1.2 and 3.1.3.6, feature 0Bh in 5.1.25.1.5).
//!
//! An event waits here until the host has a request outstanding. Once reported, further events of
//! the same kind are masked until the host reads the log page that tells about it (without Retain
//! Asynchronous Event): what happened meanwhile is in that page.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use penstock_nvme::event::AsyncEvent;

use crate::controller::Controller;

/// Kinds of events this subsystem reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EventKind {
    /// A namespace was added, removed, or resized.
    NamespaceChanged,
    /// The asymmetric namespace access log changed.
    AnaChanged,
    /// The discovery log changed (discovery controllers).
    DiscoveryChanged,
    /// The subsystem is being shut down in order.
    Shutdown,
    /// A critical warning of SMART: the subsystem's reliability is degraded.
    Health,
    /// An internal error that persists.
    InternalError,
}

impl EventKind {
    /// Every kind, in the order they are reported.
    pub const ALL: [EventKind; 6] = [
        EventKind::Shutdown,
        EventKind::InternalError,
        EventKind::Health,
        EventKind::NamespaceChanged,
        EventKind::AnaChanged,
        EventKind::DiscoveryChanged,
    ];

    /// As a completion reports it.
    pub const fn event(self) -> AsyncEvent {
        match self {
            EventKind::NamespaceChanged => AsyncEvent::NAMESPACE_CHANGED,
            EventKind::AnaChanged => AsyncEvent::ANA_CHANGED,
            EventKind::DiscoveryChanged => AsyncEvent::DISCOVERY_CHANGED,
            EventKind::Shutdown => AsyncEvent::SUBSYSTEM_NORMAL_SHUTDOWN,
            EventKind::Health => AsyncEvent::SUBSYSTEM_RELIABILITY,
            EventKind::InternalError => AsyncEvent::PERSISTENT_INTERNAL_ERROR,
        }
    }

    /// The bits of Asynchronous Event Configuration that enable it; 0 where it cannot be disabled
    /// (Base 2.1, 5.1.25.1.5). The same bits announce it in OAES.
    pub const fn config_bits(self) -> u32 {
        match self {
            EventKind::NamespaceChanged => 1 << 8,
            EventKind::AnaChanged => 1 << 11,
            EventKind::Shutdown => 1 << 15,
            EventKind::DiscoveryChanged => 1 << 31,
            // Critical warning bit 2: reliability degraded.
            EventKind::Health => 1 << 2,
            EventKind::InternalError => 0,
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The events of one controller.
#[derive(Debug, Default)]
pub struct Events {
    config: u32,
    pending: u8,
    masked: u8,
    outstanding: u16,
    /// Counts resets: requests of before one end as aborted.
    epoch: u64,
    wakers: Vec<Waker>,
}

impl Events {
    /// Asynchronous Event Configuration.
    pub fn config(&self) -> u32 {
        self.config
    }

    /// Sets Asynchronous Event Configuration.
    pub fn set_config(&mut self, config: u32) {
        self.config = config;
    }

    /// Something happened. Whoever is returned must be woken once the lock is let go.
    #[must_use]
    pub fn post(&mut self, kind: EventKind) -> Vec<Waker> {
        let bits = kind.config_bits();
        let enabled = bits == 0 || self.config & bits != 0;
        if !enabled || self.masked & kind.bit() != 0 {
            return Vec::new();
        }
        self.pending |= kind.bit();
        std::mem::take(&mut self.wakers)
    }

    /// The host read log page `lid` and lets go of the event.
    pub fn clear(&mut self, lid: u8) {
        for kind in EventKind::ALL {
            // The shutdown event has no log page; its field is 0, as of Supported Log Pages.
            if kind.event().log_page == lid && kind != EventKind::Shutdown {
                self.masked &= !kind.bit();
                self.pending &= !kind.bit();
            }
        }
    }

    /// A controller reset: nothing pending, nothing masked, outstanding requests end as aborted.
    #[must_use]
    pub fn reset(&mut self) -> Vec<Waker> {
        self.config = 0;
        self.pending = 0;
        self.masked = 0;
        self.epoch += 1;
        std::mem::take(&mut self.wakers)
    }

    fn take(&mut self) -> Option<AsyncEvent> {
        let kind = EventKind::ALL
            .into_iter()
            .find(|kind| self.pending & kind.bit() != 0)?;
        self.pending &= !kind.bit();
        self.masked |= kind.bit();
        Some(kind.event())
    }
}

/// How an Asynchronous Event Request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventOutcome {
    /// An event to report.
    Event(AsyncEvent),
    /// The controller was reset.
    Aborted,
}

/// One Asynchronous Event Request, outstanding until dropped or resolved.
pub struct EventRequest {
    controller: Arc<Controller>,
    epoch: u64,
}

impl EventRequest {
    /// Begins a request; `None` where `limit` are outstanding already.
    pub fn begin(controller: &Arc<Controller>, limit: u16) -> Option<EventRequest> {
        let epoch = controller.with_events(|events| {
            if events.outstanding >= limit {
                return None;
            }
            events.outstanding += 1;
            Some(events.epoch)
        })?;
        Some(EventRequest {
            controller: Arc::clone(controller),
            epoch,
        })
    }
}

impl Future for EventRequest {
    type Output = EventOutcome;

    fn poll(self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<EventOutcome> {
        self.controller.with_events(|events| {
            if events.epoch != self.epoch {
                return Poll::Ready(EventOutcome::Aborted);
            }
            match events.take() {
                Some(event) => Poll::Ready(EventOutcome::Event(event)),
                None => {
                    // At most one waker for each request that waits; stale ones go at each event.
                    if !events
                        .wakers
                        .iter()
                        .any(|known| known.will_wake(cx.waker()))
                    {
                        events.wakers.push(cx.waker().clone());
                    }
                    Poll::Pending
                }
            }
        })
    }
}

impl Drop for EventRequest {
    fn drop(&mut self) {
        self.controller
            .with_events(|events| events.outstanding -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enabled() -> Events {
        Events {
            config: u32::MAX,
            ..Events::default()
        }
    }

    #[test]
    fn events_are_reported_once_until_their_log_is_read() {
        let mut events = enabled();
        let _ = events.post(EventKind::NamespaceChanged);
        let _ = events.post(EventKind::NamespaceChanged);
        assert_eq!(events.take(), Some(AsyncEvent::NAMESPACE_CHANGED));
        assert_eq!(events.take(), None);
        let _ = events.post(EventKind::NamespaceChanged);
        assert_eq!(events.take(), None, "masked until the log is read");
        events.clear(0x0c);
        let _ = events.post(EventKind::NamespaceChanged);
        assert_eq!(events.take(), None, "another log was read");
        events.clear(0x04);
        let _ = events.post(EventKind::NamespaceChanged);
        assert_eq!(events.take(), Some(AsyncEvent::NAMESPACE_CHANGED));
    }

    #[test]
    fn only_enabled_kinds_are_kept() {
        for kind in EventKind::ALL {
            let mut events = Events::default();
            let _ = events.post(kind);
            let without = events.take();
            assert_eq!(without.is_some(), kind.config_bits() == 0, "{kind:?}");
            let mut events = Events {
                config: kind.config_bits(),
                ..Events::default()
            };
            let _ = events.post(kind);
            assert_eq!(events.take(), Some(kind.event()), "{kind:?}");
        }
    }

    #[test]
    fn a_log_read_clears_an_event_not_yet_reported() {
        let mut events = enabled();
        let _ = events.post(EventKind::AnaChanged);
        events.clear(0x0c);
        assert_eq!(events.take(), None);
    }

    #[test]
    fn several_kinds_come_out_in_order_of_urgency() {
        let mut events = enabled();
        for kind in EventKind::ALL.into_iter().rev() {
            let _ = events.post(kind);
        }
        for kind in EventKind::ALL {
            assert_eq!(events.take(), Some(kind.event()));
        }
    }
}
