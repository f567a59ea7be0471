//! The task of a command slot, and the link it gives to the handler.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use penstock_buffer::Lease;
use penstock_reactor::{TaskId, Ticks, spawn};
use penstock_seam::{Command, Handler, Link, LinkError};

use crate::conn::Connection;

/// The handler of a connection, its type forgotten: all it is needed for outside slot tasks.
pub(crate) trait Commands {
    /// Starts the task that executes the commands of one slot, one after the other.
    fn start(&self, connection: Rc<Connection>, slot: u16) -> TaskId;
    fn traffic(&self, now: Ticks);
    fn closed(&self);
    fn host_nqn(&self) -> Option<String>;
}

pub(crate) struct Served<H>(pub(crate) Rc<H>);

impl<H: Handler> Commands for Served<H> {
    fn start(&self, connection: Rc<Connection>, slot: u16) -> TaskId {
        let handler = Rc::clone(&self.0);
        spawn(async move {
            loop {
                let (command, generation) = Next {
                    connection: &connection,
                    slot,
                }
                .await;
                let link = TcpLink {
                    connection: Rc::clone(&connection),
                    slot,
                    generation,
                };
                let reply = Rc::clone(&handler).execute(command, link).await;
                connection.finish(slot, generation, reply);
            }
        })
    }

    fn traffic(&self, now: Ticks) {
        self.0.traffic(now);
    }

    fn closed(&self) {
        self.0.closed();
    }

    fn host_nqn(&self) -> Option<String> {
        self.0.host_nqn()
    }
}

/// The next command of a slot. Needs no waker: the connection polls the task when it has one.
struct Next<'a> {
    connection: &'a Connection,
    slot: u16,
}

impl Future for Next<'_> {
    type Output = (Command, u32);

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<(Command, u32)> {
        let mut slots = self.connection.slots.borrow_mut();
        match slots.take_command(self.slot) {
            Some(command) => Poll::Ready(command),
            None => Poll::Pending,
        }
    }
}

/// One command's way back to its connection.
pub(crate) struct TcpLink {
    connection: Rc<Connection>,
    slot: u16,
    generation: u32,
}

impl Link for TcpLink {
    fn needs_private_payload(&self) -> bool {
        self.connection.params.get().data_digest
    }

    fn committed(&self) {
        self.connection
            .slots
            .borrow_mut()
            .commit(self.slot, self.generation);
    }

    fn receive(&self, into: Lease) -> impl Future<Output = Result<Lease, LinkError>> {
        Receive {
            link: self,
            into: Some(into),
        }
    }
}

/// The host's data on its way into a lease.
struct Receive<'a> {
    link: &'a TcpLink,
    into: Option<Lease>,
}

impl Future for Receive<'_> {
    type Output = Result<Lease, LinkError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let TcpLink {
            connection,
            slot,
            generation,
        } = self.link;
        if let Some(into) = self.into.take()
            && let Poll::Ready(result) = connection.begin_receive(*slot, *generation, into)
        {
            return Poll::Ready(result);
        }
        connection.poll_receive(*slot, *generation, cx)
    }
}
