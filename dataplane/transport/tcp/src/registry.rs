//! The connections of a reactor, and the periodic look at them.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use penstock_reactor::{now, sleep, spawn};

use crate::conn::Connection;
use crate::state::Phase;
use crate::stats::{ConnectionStats, StatsSnapshot};

/// How often connections are looked at for hosts that owe something.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

thread_local! {
    static CONNECTIONS: RefCell<Vec<Rc<Connection>>> = const { RefCell::new(Vec::new()) };
    static SWEEPING: Cell<bool> = const { Cell::new(false) };
    static GONE: Cell<Option<StatsSnapshot>> = const { Cell::new(None) };
}

pub(crate) fn add(connection: Rc<Connection>) {
    CONNECTIONS.with_borrow_mut(|all| all.push(connection));
    if !SWEEPING.replace(true) {
        spawn(sweep());
    }
}

pub(crate) fn remove(connection: &Connection) {
    let _ = GONE.try_with(|gone| {
        let mut sum = gone.get().unwrap_or_default();
        sum += connection.stats.snapshot();
        gone.set(Some(sum));
    });
    // The reference is dropped after the list is free again. During thread exit there is no list.
    let _removed = CONNECTIONS.try_with(|all| {
        let mut all = all.borrow_mut();
        let at = all
            .iter()
            .position(|c| std::ptr::eq(Rc::as_ptr(c), connection))?;
        Some(all.swap_remove(at))
    });
}

/// Looks at every connection now and then; ends with the last one.
async fn sweep() {
    let _ended = Sweeping;
    loop {
        sleep(SWEEP_INTERVAL).await;
        let all = CONNECTIONS.with_borrow(Clone::clone);
        if all.is_empty() {
            return;
        }
        let at = now();
        for connection in all {
            connection.sweep(at);
        }
    }
}

/// Notes that no sweep runs any more, also where its task is dropped.
struct Sweeping;

impl Drop for Sweeping {
    fn drop(&mut self) {
        let _ = SWEEPING.try_with(|sweeping| sweeping.set(false));
    }
}

/// How many connections this reactor serves.
pub fn connection_count() -> usize {
    CONNECTIONS.with_borrow(Vec::len)
}

/// Calls `f` with each connection of this reactor.
pub fn for_each_connection(mut f: impl FnMut(&ConnectionRef)) {
    let all = CONNECTIONS.with_borrow(Clone::clone);
    for connection in &all {
        f(&ConnectionRef::of(connection));
    }
}

/// The counters of all connections this reactor has ever served, added up.
pub fn totals() -> StatsSnapshot {
    let mut sum = GONE.get().unwrap_or_default();
    CONNECTIONS.with_borrow(|all| all.iter().for_each(|c| sum += c.stats.snapshot()));
    sum
}

/// Lets every connection of this reactor take no further command and close as soon as no device
/// works on one of its commands; replies given by then are sent. For an orderly shutdown: follow
/// [`connection_count`] and call [`close_all`] when patience ends.
pub fn finish_all(reason: &'static str) {
    let all = CONNECTIONS.with_borrow(Clone::clone);
    for connection in &all {
        connection.finish_soon(reason);
    }
}

/// Closes every connection of this reactor, each after the replies already given are sent.
pub fn close_all(reason: &'static str) {
    let all = CONNECTIONS.with_borrow(Clone::clone);
    for connection in &all {
        connection.begin_close(reason);
    }
}

/// A connection that is served, for whoever accepted it. Does not keep it alive.
#[derive(Clone)]
pub struct ConnectionRef {
    connection: Weak<Connection>,
    peer: SocketAddr,
    stats: Arc<ConnectionStats>,
}

impl ConnectionRef {
    pub(crate) fn of(connection: &Rc<Connection>) -> ConnectionRef {
        ConnectionRef {
            connection: Rc::downgrade(connection),
            peer: connection.peer,
            stats: Arc::clone(&connection.stats),
        }
    }

    /// The host's address.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Its counters; readable from any thread, also after the connection is gone.
    pub fn stats(&self) -> &Arc<ConnectionStats> {
        &self.stats
    }

    /// NQN of the host, once it has connected to a queue.
    pub fn host_nqn(&self) -> Option<String> {
        self.connection
            .upgrade()
            .and_then(|connection| connection.commands.host_nqn())
    }

    /// Whether the connection is gone.
    pub fn is_closed(&self) -> bool {
        self.connection
            .upgrade()
            .is_none_or(|c| c.phase.get() == Phase::Closed)
    }

    /// Commands outstanding now, Asynchronous Event Requests included.
    pub fn outstanding_commands(&self) -> u16 {
        self.connection
            .upgrade()
            .map_or(0, |c| c.slots.borrow().outstanding)
    }

    /// Closes it after the replies already given are sent; nothing more is read.
    pub fn close(&self, reason: &'static str) {
        if let Some(connection) = self.connection.upgrade() {
            connection.begin_close(reason);
        }
    }
}
