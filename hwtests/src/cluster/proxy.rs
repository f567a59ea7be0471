//! A TCP proxy that can cut and hold what goes through it.

use crate::error::{IoContext, Result};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const TICK: Duration = Duration::from_millis(20);

#[derive(Default)]
struct State {
    /// Nothing is passed on, in both directions, and nobody is told: a partition.
    held: AtomicBool,
    /// The proxy is gone.
    over: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

/// A proxy on 127.0.0.1; dropping it cuts everything.
pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

impl Proxy {
    /// Starts a proxy in front of `target` on 127.0.0.1.
    ///
    /// # Errors
    /// No port is free.
    pub fn start(target: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).doing(|| "start a proxy".into())?;
        let port = listener
            .local_addr()
            .doing(|| "start a proxy".into())?
            .port();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || accept(&listener, target, &shared));
        Ok(Self { port, state })
    }

    /// Where to connect.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Breaks every connection; new ones are let in.
    pub fn cut(&self) {
        for stream in locked(&self.state).drain(..) {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Holds back everything, as a network that drops packets would; `false` lets it flow again.
    pub fn hold(&self, held: bool) {
        self.state.held.store(held, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::Relaxed);
        self.cut();
        // The thread that accepts wakes up and sees that it is over.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn locked(state: &State) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
    state.open.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, target: u16, state: &Arc<State>) {
    for near in listener.incoming() {
        if state.over.load(Ordering::Relaxed) {
            return;
        }
        // A target that is down looks to the client as it would without the proxy.
        let (Ok(near), Ok(far)) = (near, TcpStream::connect(("127.0.0.1", target))) else {
            continue;
        };
        for (from, to) in [(&near, &far), (&far, &near)] {
            let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else {
                continue;
            };
            let state = Arc::clone(state);
            std::thread::spawn(move || pass(from, to, &state));
        }
        locked(state).extend([near, far]);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, state: &State) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        while state.held.load(Ordering::Relaxed) && !state.over.load(Ordering::Relaxed) {
            std::thread::sleep(TICK);
        }
        if to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    // The other side may be gone already.
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A target that sends back what it gets.
    fn echo() -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut to = stream.try_clone().unwrap();
                    std::io::copy(&mut &stream, &mut to)
                });
            }
        });
        port
    }

    fn client(proxy: &Proxy) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        stream
    }

    #[test]
    fn it_passes_holds_and_cuts() {
        let proxy = Proxy::start(echo()).unwrap();
        let mut stream = client(&proxy);
        let mut answer = [0; 2];
        stream.write_all(b"hi").unwrap();
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hi");
        proxy.hold(true);
        stream.write_all(b"ho").unwrap();
        assert!(stream.read_exact(&mut answer).is_err(), "it was held");
        proxy.hold(false);
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"ho");
        proxy.cut();
        assert_eq!(stream.read(&mut answer).unwrap_or(0), 0, "it was cut");
        let mut again = client(&proxy);
        again.write_all(b"ok").unwrap();
        again.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"ok");
    }
}
