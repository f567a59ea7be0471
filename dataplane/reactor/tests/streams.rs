//! Streams on a real reactor against plain blocking sockets.
#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used, clippy::panic)]

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use penstock_buffer::{Lease, LeaseOwner, MemoryKind};
use penstock_reactor::{
    AcceptSink, PollMode, ReactorConfig, ReactorHandle, RecvChunk, SendBatch, Socket, Stream,
    StreamSink, TcpListener,
};

/// Memory for direct receives: one boxed block, freed with the owner.
struct Block {
    memory: RefCell<Vec<u8>>,
}

impl LeaseOwner for Block {
    fn retain(&self, _key: u32) {}
    fn release(&self, _key: u32) {}
    fn kind(&self) -> MemoryKind {
        MemoryKind::Pool
    }
}

fn lease(len: usize) -> Lease {
    let block = Rc::new(Block {
        memory: RefCell::new(vec![0; len]),
    });
    let pointer = std::ptr::NonNull::new(block.memory.borrow_mut().as_mut_ptr()).expect("memory");
    // SAFETY: the lease holds the block, whose vector is never changed again.
    unsafe { Lease::from_raw(pointer, u32::try_from(len).expect("len"), 0, block) }
}

/// Protocol of the test: a 4-byte little-endian length, then as many bytes, received directly where
/// they are many; answered by the same bytes.
struct Echo {
    stream: RefCell<Option<Stream>>,
    pending: RefCell<Vec<u8>>,
    out: RefCell<SendBatch>,
    closed: Cell<bool>,
    report: mpsc::Sender<&'static str>,
    stop_at: usize,
}

impl Echo {
    fn flush(&self) {
        let stream = self.stream.borrow();
        let Some(stream) = stream.as_ref() else {
            return;
        };
        if !stream.sending() && !self.out.borrow().is_empty() {
            stream.send(self.out.replace(SendBatch::new()));
        }
    }
}

impl StreamSink for Echo {
    fn on_data(&self, chunk: RecvChunk) {
        self.pending.borrow_mut().extend_from_slice(&chunk);
        loop {
            let mut pending = self.pending.borrow_mut();
            if pending.len() < 4 {
                break;
            }
            let len = u32::from_le_bytes(pending[..4].try_into().expect("4")) as usize;
            let have = pending.len() - 4;
            if have >= len {
                let body: Vec<u8> = pending.drain(..4 + len).skip(4).collect();
                let copy = lease(len);
                copy.write_at(0, &body);
                assert!(self.out.borrow_mut().push_lease(copy));
                continue;
            }
            if len > self.stop_at {
                let whole = lease(len);
                whole.write_at(0, &pending[4..]);
                pending.clear();
                let rest = whole.slice(have, len - have).expect("rest");
                assert!(
                    self.out
                        .borrow_mut()
                        .push_lease(whole.slice(0, have).expect("head"))
                );
                drop(pending);
                self.stream
                    .borrow()
                    .as_ref()
                    .expect("stream")
                    .recv_direct(rest);
            }
            break;
        }
        self.flush();
    }

    fn on_direct(&self, lease: Lease) {
        assert!(self.out.borrow_mut().push_lease(lease));
        self.flush();
    }

    fn on_sent(&self, result: std::io::Result<()>) {
        if result.is_ok() {
            self.flush();
        }
    }

    fn on_closed(&self, _error: Option<std::io::Error>) {
        assert!(!self.closed.replace(true), "closed twice");
        self.stream.borrow_mut().take();
        self.report.send("closed").expect("report");
    }
}

struct Accept {
    report: mpsc::Sender<&'static str>,
    stop_at: usize,
}

impl AcceptSink for Accept {
    fn on_accept(&self, socket: Socket) {
        let echo = Rc::new(Echo {
            stream: RefCell::new(None),
            pending: RefCell::default(),
            out: RefCell::new(SendBatch::new()),
            closed: Cell::new(false),
            report: self.report.clone(),
            stop_at: self.stop_at,
        });
        let stream = socket.start(Rc::clone(&echo) as Rc<dyn StreamSink>);
        *echo.stream.borrow_mut() = Some(stream);
    }

    fn on_error(&self, error: std::io::Error) {
        panic!("accept: {error}");
    }
}

fn serve(
    id: u32,
    poll: PollMode,
    stop_at: usize,
) -> (ReactorHandle, SocketAddr, mpsc::Receiver<&'static str>) {
    let listener = TcpListener::bind("127.0.0.1:0".parse().expect("address")).expect("bind");
    let address = listener.local_addr().expect("address");
    let (report, reports) = mpsc::channel();
    let config = ReactorConfig {
        id,
        poll,
        ..ReactorConfig::default()
    };
    let reactor = ReactorHandle::start(config, move || {
        let guard = listener.start(Rc::new(Accept { report, stop_at }));
        std::mem::forget(guard);
    })
    .expect("reactor");
    (reactor, address, reports)
}

fn exchange(address: SocketAddr, sizes: &[usize]) {
    let mut socket = TcpStream::connect(address).expect("connect");
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("timeout");
    let mut sender = socket.try_clone().expect("clone");
    let messages: Vec<Vec<u8>> = sizes
        .iter()
        .map(|&size| {
            (0..size)
                .map(|i| u8::try_from((i * 7 + size) % 251).expect("byte"))
                .collect()
        })
        .collect();
    let expected: Vec<u8> = messages.concat();
    let writer = std::thread::spawn(move || {
        for message in messages {
            let len = u32::try_from(message.len()).expect("len").to_le_bytes();
            sender.write_all(&len).expect("send");
            sender.write_all(&message).expect("send");
        }
    });
    let mut got = vec![0; expected.len()];
    socket.read_exact(&mut got).expect("echo");
    assert!(got == expected, "echo differs");
    writer.join().expect("writer");
}

#[test]
fn small_and_large_messages_come_back_whole() {
    for (id, stop_at) in [(100, usize::MAX), (101, 8192)] {
        let (reactor, address, reports) = serve(id, PollMode::Adaptive { idle_us: 50 }, stop_at);
        exchange(
            address,
            &[
                1, 4, 100, 4096, 72, 40_000, 500_000, 3, 1_000_000, 131_072, 131_072, 10,
            ],
        );
        exchange(address, &vec![4096; 500]);
        exchange(address, &vec![131_072; 100]);
        for _ in 0..3 {
            assert_eq!(reports.recv_timeout(Duration::from_secs(5)), Ok("closed"));
        }
        let stats = reactor.stats().snapshot();
        assert_eq!(stats.open_streams, 0);
        assert_eq!(stats.recv_direct_bytes > 0, stop_at == 8192);
        reactor.stop();
        assert!(reactor.join());
    }
}

#[test]
fn an_idle_adaptive_reactor_sleeps() {
    let (reactor, _address, _reports) = serve(102, PollMode::Adaptive { idle_us: 50 }, 1);
    std::thread::sleep(Duration::from_millis(200));
    let before = reactor.stats().snapshot();
    std::thread::sleep(Duration::from_millis(500));
    let after = reactor.stats().snapshot();
    assert!(
        after.rounds - before.rounds < 100,
        "{} rounds while idle",
        after.rounds - before.rounds
    );
    reactor.stop();
    assert!(reactor.join());
}

#[test]
fn a_thousand_connections_leave_nothing_behind() {
    let (reactor, address, reports) = serve(103, PollMode::Adaptive { idle_us: 50 }, 8192);
    let descriptors = || std::fs::read_dir("/proc/self/fd").expect("fds").count();
    exchange(address, &[10]);
    assert_eq!(reports.recv_timeout(Duration::from_secs(5)), Ok("closed"));
    let before = descriptors();
    for round in 0..1000 {
        let mut socket = TcpStream::connect(address).expect("connect");
        // Half of them die in the middle of a message.
        socket
            .write_all(&[0, 0, u8::from(round % 2 == 0), 0, 1, 2, 3])
            .expect("send");
        drop(socket);
    }
    for _ in 0..1000 {
        assert_eq!(reports.recv_timeout(Duration::from_secs(5)), Ok("closed"));
    }
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(reactor.stats().snapshot().open_streams, 0);
    assert!(
        descriptors() <= before + 2,
        "{} descriptors, {before} before",
        descriptors()
    );
    reactor.stop();
    assert!(reactor.join());
}
