//! A TCP proxy that can cut, hold and record what goes through it.

use super::wire::{self, Exchange};
use crate::error::{IoContext, Result};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(20);

#[derive(Default)]
struct State {
    /// Nothing is passed on, in both directions, and nobody is told: a partition.
    held: AtomicBool,
    /// Only what arrived before this is passed on to the target; `None` passes everything.
    requests_until: Mutex<Option<Instant>>,
    /// The proxy is gone.
    over: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
    /// What went through since the proxy began, a pair for each connection.
    record: Option<Mutex<Vec<Recorded>>>,
}

/// All bytes of a connection, as they arrived.
#[derive(Default)]
struct Recorded {
    requests: Vec<u8>,
    answers: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Request,
    Answer,
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
        Self::with(target, State::default())
    }

    /// The same, and keeps what goes through it for [`Self::exchanges`].
    ///
    /// # Errors
    /// No port is free.
    pub fn recording(target: u16) -> Result<Self> {
        let record = Some(Mutex::default());
        let state = State {
            record,
            ..State::default()
        };
        Self::with(target, state)
    }

    fn with(target: u16, state: State) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).doing(|| "start a proxy".into())?;
        let port = listener
            .local_addr()
            .doing(|| "start a proxy".into())?
            .port();
        let state = Arc::new(state);
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
        for stream in locked(&self.state.open).drain(..) {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Holds back everything, as a network that drops packets would; `false` lets it flow again.
    pub fn hold(&self, held: bool) {
        self.state.held.store(held, Ordering::Relaxed);
    }

    /// Passes on to the target only what arrived before `until`, and everything with `None`. What
    /// the target says is passed on as ever.
    pub fn pass_requests(&self, until: Option<Instant>) {
        *locked(&self.state.requests_until) = until;
    }

    /// Calls in gRPC that have arrived so far, answered or not; none where it does not record.
    #[must_use]
    pub fn exchanges(&self) -> Vec<Exchange> {
        let Some(record) = &self.state.record else {
            return Vec::new();
        };
        let pairs = locked(record);
        pairs
            .iter()
            .flat_map(|pair| wire::exchanges(&pair.requests, &pair.answers))
            .collect()
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

impl State {
    fn passes(&self, way: Way, arrived: Instant) -> bool {
        let until = *locked(&self.requests_until);
        let late = until.is_some_and(|until| arrived >= until);
        let waits = self.held.load(Ordering::Relaxed) || (way == Way::Request && late);
        !waits || self.over.load(Ordering::Relaxed)
    }

    fn note(&self, connection: usize, way: Way, bytes: &[u8]) {
        if let Some(record) = &self.record
            && let Some(recorded) = locked(record).get_mut(connection)
        {
            match way {
                Way::Request => recorded.requests.extend_from_slice(bytes),
                Way::Answer => recorded.answers.extend_from_slice(bytes),
            }
        }
    }

    fn connection(&self) -> usize {
        self.record.as_ref().map_or(0, |record| {
            let mut pairs = locked(record);
            pairs.push(Recorded::default());
            pairs.len() - 1
        })
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        let connection = state.connection();
        for (way, from, to) in [(Way::Request, &near, &far), (Way::Answer, &far, &near)] {
            let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else {
                continue;
            };
            let (sender, receiver) = channel();
            let shared = Arc::clone(state);
            std::thread::spawn(move || take(from, connection, way, &sender, &shared));
            let shared = Arc::clone(state);
            std::thread::spawn(move || pass(&receiver, to, way, &shared));
        }
        locked(&state.open).extend([near, far]);
    }
}

type Arrived = (Instant, Vec<u8>);

/// Reads all the time: what is held has arrived, whatever comes after it.
fn take(mut from: TcpStream, connection: usize, way: Way, to: &Sender<Arrived>, state: &State) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        let arrived = Instant::now();
        state.note(connection, way, &bytes[..length]);
        if to.send((arrived, bytes[..length].to_vec())).is_err() {
            break;
        }
    }
}

fn pass(from: &Receiver<Arrived>, mut to: TcpStream, way: Way, state: &State) {
    let mut gone = false;
    for (arrived, bytes) in from {
        while !state.passes(way, arrived) {
            std::thread::sleep(TICK);
        }
        // Whoever does not read any more may still have sent something that is on its way.
        gone = gone || to.write_all(&bytes).is_err();
    }
    // The other side may be gone already. It may have an answer to what it got.
    let _ = to.shutdown(Shutdown::Write);
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
    fn held_requests_pass_by_their_arrival() {
        let proxy = Proxy::start(echo()).unwrap();
        let mut stream = client(&proxy);
        let mut answer = [0; 2];
        let pause = || std::thread::sleep(Duration::from_millis(100));
        proxy.pass_requests(Some(Instant::now()));
        stream.write_all(b"hi").unwrap();
        pause();
        let between = Instant::now();
        stream.write_all(b"ho").unwrap();
        pause();
        assert!(stream.read_exact(&mut answer).is_err(), "it was held");
        proxy.pass_requests(Some(between));
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hi");
        assert!(stream.read_exact(&mut answer).is_err(), "it came later");
        proxy.pass_requests(None);
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"ho");
    }

    #[test]
    fn what_is_held_arrives_though_its_sender_is_gone() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let proxy = Proxy::start(listener.local_addr().unwrap().port()).unwrap();
        let mut stream = client(&proxy);
        proxy.pass_requests(Some(Instant::now()));
        stream.write_all(b"hi").unwrap();
        drop(stream);
        std::thread::sleep(Duration::from_millis(100));
        proxy.pass_requests(None);
        let mut got = String::new();
        let (mut far, _) = listener.accept().unwrap();
        far.read_to_string(&mut got).unwrap();
        assert_eq!(got, "hi");
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
