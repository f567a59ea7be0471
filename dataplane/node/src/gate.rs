//! The gate between transport and subsystem: lets the node finish what it has begun before it goes.
//!
//! While the gate is open commands pass. Once it is closed, commands on I/O queues that come in are
//! parked, unanswered: the host sees its connection close and sends them again elsewhere or later,
//! which is its ordinary path of recovery, while an error status could reach an application. What
//! passed before the gate closed is counted until it is answered.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;

use penstock_seam::{Command, ConnectionControl, Handler, Link, Reply};

/// One reactor's gate.
#[derive(Default)]
pub struct Gate {
    closed: Cell<bool>,
    in_flight: Cell<usize>,
}

impl Gate {
    /// Lets no further I/O command pass.
    pub fn close(&self) {
        self.closed.set(true);
    }

    /// I/O commands that passed and are not answered yet.
    pub fn in_flight(&self) -> usize {
        self.in_flight.get()
    }
}

/// A handler behind a gate.
pub struct Gated<H> {
    gate: Rc<Gate>,
    inner: Rc<H>,
    /// Set by the reply to Connect. Commands of the admin queue always pass, and are not waited
    /// for: asynchronous event requests stay open for good.
    is_io_queue: Cell<bool>,
}

impl<H: Handler> Gated<H> {
    /// Puts `inner` behind `gate`.
    pub fn new(gate: Rc<Gate>, inner: Rc<H>) -> Gated<H> {
        Gated {
            gate,
            inner,
            is_io_queue: Cell::new(false),
        }
    }
}

/// Counts a command while it lives, also where its future is dropped.
struct InFlight(Rc<Gate>);

impl InFlight {
    fn enter(gate: &Rc<Gate>) -> InFlight {
        gate.in_flight.set(gate.in_flight.get() + 1);
        InFlight(Rc::clone(gate))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0
            .in_flight
            .set(self.0.in_flight.get().saturating_sub(1));
    }
}

impl<H: Handler> Handler for Gated<H> {
    fn execute<L: Link + 'static>(
        self: Rc<Self>,
        command: Command,
        link: L,
    ) -> impl Future<Output = Reply> + 'static {
        let io = self.is_io_queue.get();
        let parked = io && self.gate.closed.get();
        let counted = (io && !parked).then(|| InFlight::enter(&self.gate));
        let answer = (!parked).then(|| Rc::clone(&self.inner).execute(command, link));
        async move {
            let reply = match answer {
                Some(answer) => answer.await,
                None => std::future::pending().await,
            };
            if let Some(established) = &reply.established {
                self.is_io_queue.set(established.queue_id != 0);
            }
            drop(counted);
            reply
        }
    }

    fn attach(&self, control: Rc<dyn ConnectionControl>) {
        self.inner.attach(control);
    }

    fn traffic(&self, now_ticks: u64) {
        self.inner.traffic(now_ticks);
    }

    fn closed(&self) {
        self.inner.closed();
    }

    fn host_nqn(&self) -> Option<String> {
        self.inner.host_nqn()
    }
}
