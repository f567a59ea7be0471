//! Making a TCP connection without stopping the reactor.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use penstock_reactor::Socket;

#[derive(Default)]
struct Shared {
    result: Option<io::Result<Socket>>,
    waker: Option<Waker>,
}

/// Connects on a thread of its own: connections are rare, and a slow one must not hold up others.
pub(crate) fn dial(
    address: SocketAddr,
    timeout: Duration,
) -> impl Future<Output = io::Result<Socket>> {
    let shared = Arc::new(Mutex::new(Shared::default()));
    let theirs = Arc::clone(&shared);
    let thread = std::thread::Builder::new()
        .name("penstock-dial".into())
        .spawn(move || {
            let result = Socket::connect_blocking(address, timeout);
            let mut shared = theirs.lock().unwrap_or_else(PoisonError::into_inner);
            shared.result = Some(result);
            if let Some(waker) = shared.waker.take() {
                waker.wake();
            }
        });
    let mut failed = thread.err();
    poll_fn(move |cx| {
        if let Some(error) = failed.take() {
            return Poll::Ready(Err(error));
        }
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        match shared.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                shared.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    })
}
