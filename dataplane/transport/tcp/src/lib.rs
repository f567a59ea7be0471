//! The controller's side of NVMe/TCP (TCP Transport 1.1): movement of capsules and payloads,
//! nothing about their meaning.
//!
//! [`serve`] takes a connected socket and a [`Handler`]; from then on the connection lives on this
//! reactor. Received bytes are parsed where the kernel put them (`rx`); each command takes a slot
//! (`slot`) whose persistent task is polled in line (`task`), so a command that needs nobody
//! else is answered before the next header is read. Replies collect in a gather batch (`tx`) that
//! leaves once a round of the reactor.
//!
//! Who owns memory: received bytes belong to the chunk until copied; a command's lease moves from
//! the handler to its slot while the host's data comes in and back; a reply's payload belongs to the
//! batch until the kernel has taken it. When the connection dies, each holder drops what it has;
//! what the kernel or a device still works on is dropped when it has finished.
//!
//! Back-pressure. A host that does not read stops being read; a host whose writes hold much memory
//! waits for its own data before it gets more; in-capsule data that finds no memory is set aside
//! within limits. While R2Ts are open the stream is read on in any case, because the data that frees
//! memory lies behind.
#![forbid(unsafe_code)]

mod capsule;
mod config;
mod conn;
mod data;
mod registry;
mod rx;
mod slot;
mod state;
mod stats;
mod task;
mod tx;

use std::rc::Rc;

use penstock_reactor::Socket;
use penstock_seam::Handler;

pub use config::{ConfigError, TcpConfig};
pub use registry::{
    ConnectionRef, close_all, connection_count, finish_all, for_each_connection, totals,
};
pub use stats::{ConnectionStats, Counter, StatsSnapshot};

/// Serves a host's connection on this reactor until either side ends it. The handler is attached
/// before the first command and told when the connection is gone.
///
/// # Panics
/// Outside a reactor's thread.
pub fn serve<H: Handler>(socket: Socket, config: Rc<TcpConfig>, handler: Rc<H>) -> ConnectionRef {
    let commands = Box::new(task::Served(Rc::clone(&handler)));
    let connection = conn::Connection::new(socket.peer(), config, commands);
    handler.attach(Rc::new(conn::Control(Rc::downgrade(&connection))));
    let reference = ConnectionRef::of(&connection);
    registry::add(Rc::clone(&connection));
    let stream = socket.start(Rc::clone(&connection) as _);
    *connection.stream.borrow_mut() = Some(stream);
    reference
}
