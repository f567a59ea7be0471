//! The controller's state: what writes to CC do to CSTS, as a table (Base 2.1, 3.1.4.5, 3.1.4.6,
//! 3.5.1 and 3.6).

use std::fmt;

/// Where a controller stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// CC.EN is 0 and CSTS.RDY is 0: connected, not enabled.
    Disabled,
    /// CC.EN is 1, CSTS.RDY still 0: writes of this host's earlier connections are ending.
    Enabling,
    /// CC.EN and CSTS.RDY are 1: I/O queues may be made and used.
    Ready,
    /// CC.EN is 0, CSTS.RDY still 1: I/O queues are being torn down.
    Resetting,
    /// CC.SHN was written, CSTS.SHST is 01b: I/O queues are being torn down.
    ShuttingDown,
    /// CSTS.SHST is 10b.
    ShutDown,
    /// CSTS.CFS is 1: only a reset (or the end of the connection) leads out.
    Failed,
}

/// What happens to a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// CC.EN went from 0 to 1 with values this controller supports.
    Enable,
    /// CC.EN went from 0 to 1 with an unsupported value beside it.
    EnableInvalid,
    /// CC.EN went from 1 to 0.
    Disable,
    /// CC.SHN was written: normal (01b) or abrupt (10b).
    Shutdown,
    /// Nothing is left of what the state waits for.
    Drained,
    /// Keep alive ran out, or another fatal condition.
    Fail,
}

/// An event that a state has no answer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} is not valid for a controller that is {state:?}")]
pub(crate) struct Illegal {
    /// The state.
    pub state: State,
    /// The event.
    pub event: Event,
}

impl State {
    /// Every state, for tables.
    pub const ALL: [State; 7] = [
        State::Disabled,
        State::Enabling,
        State::Ready,
        State::Resetting,
        State::ShuttingDown,
        State::ShutDown,
        State::Failed,
    ];

    /// The state after an event.
    ///
    /// # Errors
    /// [`Illegal`] where the event makes no sense; the state stays.
    pub(crate) fn after(self, event: Event) -> Result<State, Illegal> {
        use State::*;
        let next = match (self, event) {
            (Disabled, Event::Enable) => Enabling,
            (Disabled, Event::EnableInvalid) => Failed,
            // A shutdown may be asked for whether or not the controller is enabled.
            (Disabled | Enabling | Ready, Event::Shutdown) => ShuttingDown,
            (ShuttingDown | ShutDown, Event::Shutdown) => self,
            (Enabling, Event::Drained) => Ready,
            (Resetting, Event::Drained) => Disabled,
            (ShuttingDown, Event::Drained) => ShutDown,
            (Enabling | Ready | ShuttingDown | ShutDown | Failed, Event::Disable) => Resetting,
            (Failed, Event::Fail) => Failed,
            (_, Event::Fail) => Failed,
            (state, event) => return Err(Illegal { state, event }),
        };
        Ok(next)
    }

    /// From its number, as an atomic keeps it.
    pub fn from_u8(value: u8) -> State {
        State::ALL
            .get(usize::from(value))
            .copied()
            .unwrap_or(State::Failed)
    }

    /// CSTS.RDY.
    pub fn ready(self) -> bool {
        matches!(self, State::Ready | State::Resetting)
    }

    /// CSTS.CFS.
    pub fn fatal(self) -> bool {
        self == State::Failed
    }

    /// CSTS.SHST: 00b, 01b or 10b.
    pub fn shutdown_status(self) -> u8 {
        match self {
            State::ShuttingDown => 1,
            State::ShutDown => 2,
            _ => 0,
        }
    }

    /// CSTS as a property (bit 0 RDY, bit 1 CFS, bits 3:2 SHST).
    pub fn csts(self) -> u32 {
        u32::from(self.ready())
            | u32::from(self.fatal()) << 1
            | u32::from(self.shutdown_status()) << 2
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Disabled => "disabled",
            State::Enabling => "enabling",
            State::Ready => "ready",
            State::Resetting => "resetting",
            State::ShuttingDown => "shutting down",
            State::ShutDown => "shut down",
            State::Failed => "failed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use State::*;

    const EVENTS: [Event; 6] = [
        Event::Enable,
        Event::EnableInvalid,
        Event::Disable,
        Event::Shutdown,
        Event::Drained,
        Event::Fail,
    ];

    /// The whole matrix: a row a state, a column an event in the order of `EVENTS`.
    const MATRIX: [(State, [Option<State>; 6]); 7] = [
        (
            Disabled,
            [
                Some(Enabling),
                Some(Failed),
                None,
                Some(ShuttingDown),
                None,
                Some(Failed),
            ],
        ),
        (
            Enabling,
            [
                None,
                None,
                Some(Resetting),
                Some(ShuttingDown),
                Some(Ready),
                Some(Failed),
            ],
        ),
        (
            Ready,
            [
                None,
                None,
                Some(Resetting),
                Some(ShuttingDown),
                None,
                Some(Failed),
            ],
        ),
        (
            Resetting,
            [None, None, None, None, Some(Disabled), Some(Failed)],
        ),
        (
            ShuttingDown,
            [
                None,
                None,
                Some(Resetting),
                Some(ShuttingDown),
                Some(ShutDown),
                Some(Failed),
            ],
        ),
        (
            ShutDown,
            [
                None,
                None,
                Some(Resetting),
                Some(ShutDown),
                None,
                Some(Failed),
            ],
        ),
        (
            Failed,
            [None, None, Some(Resetting), None, None, Some(Failed)],
        ),
    ];

    #[test]
    fn every_state_answers_every_event_as_the_matrix_says() {
        assert_eq!(MATRIX.map(|(state, _)| state), State::ALL);
        for (state, row) in MATRIX {
            for (event, expected) in EVENTS.into_iter().zip(row) {
                let expected = expected.ok_or(Illegal { state, event });
                assert_eq!(state.after(event), expected, "{state} x {event:?}");
            }
        }
    }

    #[test]
    fn csts_shows_the_state() {
        // RDY bit 0, CFS bit 1, SHST bits 3:2 (Base 2.1, 3.1.4.6).
        let expected = [0b0000, 0b0000, 0b0001, 0b0001, 0b0100, 0b1000, 0b0010];
        assert_eq!(State::ALL.map(State::csts), expected);
    }

    #[test]
    fn numbers_round_trip() {
        for state in State::ALL {
            assert_eq!(State::from_u8(state as u8), state);
        }
        assert_eq!(State::from_u8(200), Failed);
    }
}
