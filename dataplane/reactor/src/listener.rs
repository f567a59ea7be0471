//! Listening sockets and connected sockets that have no reactor yet.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use io_uring::{opcode, types};

use crate::core::{self, Core};
use crate::ring::{Op, OpId};
use crate::stream::{Stream, StreamSink};

/// How long a listener waits after running out of descriptors before it accepts again.
const RETRY_AFTER: Duration = Duration::from_millis(100);
const BACKLOG: i32 = 1024;

/// Gets the connections of a listener.
pub trait AcceptSink {
    /// A host connected.
    fn on_accept(&self, socket: Socket);
    /// Accepting failed; the listener tries again by itself.
    fn on_error(&self, error: io::Error);
}

/// A listening TCP socket, not yet on a reactor.
#[derive(Debug)]
pub struct TcpListener(std::net::TcpListener);

impl TcpListener {
    /// Binds and listens. IPv6 sockets take IPv6 only. Usable from any thread.
    ///
    /// # Errors
    /// What the kernel says, `AddrInUse` for a port that is taken.
    pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
        let family = if address.is_ipv4() {
            libc::AF_INET
        } else {
            libc::AF_INET6
        };
        // SAFETY: socket takes plain integers; the result is checked.
        let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        if address.is_ipv6() {
            set_option(&fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
        }
        bind_fd(&fd, address)?;
        // SAFETY: listen takes plain integers on a descriptor we own.
        if unsafe { libc::listen(fd.as_raw_fd(), BACKLOG) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(TcpListener(fd.into()))
    }

    /// Chooses the congestion control of connections accepted from now on, by the kernel's name.
    ///
    /// # Errors
    /// `NotFound` where the kernel has no such algorithm, `PermissionDenied` where it is not among
    /// `net.ipv4.tcp_allowed_congestion_control`.
    pub fn set_congestion_control(&self, name: &str) -> io::Result<()> {
        let size = libc::socklen_t::try_from(name.len()).map_err(io::Error::other)?;
        let fd = self.0.as_raw_fd();
        // SAFETY: the name is live and of the size given; the kernel copies it.
        let result = unsafe {
            libc::setsockopt(
                fd,
                libc::IPPROTO_TCP,
                libc::TCP_CONGESTION,
                name.as_ptr().cast(),
                size,
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// The bound address.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Accepts on this reactor until the guard is dropped.
    pub fn start(self, sink: Rc<dyn AcceptSink>) -> ListenerGuard {
        let inner = Rc::new(Inner {
            socket: self.0,
            sink: RefCell::new(Some(sink)),
            op: Cell::new(None),
        });
        core::with(|core| inner.arm(core));
        ListenerGuard(inner)
    }
}

fn set_option(fd: &OwnedFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<i32>()).unwrap_or(4);
    // SAFETY: the value is a live i32 of the size given.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), size) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn bind_fd(fd: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    let result = match address {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: u16::try_from(libc::AF_INET).unwrap_or(2),
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(v4.ip().octets()),
                },
                sin_zero: [0; 8],
            };
            let size = u32::try_from(size_of_val(&raw)).unwrap_or(0);
            // SAFETY: the address is live and of the size given.
            unsafe { libc::bind(fd.as_raw_fd(), (&raw const raw).cast(), size) }
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: u16::try_from(libc::AF_INET6).unwrap_or(10),
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr {
                    s6_addr: v6.ip().octets(),
                },
                sin6_scope_id: v6.scope_id(),
            };
            let size = u32::try_from(size_of_val(&raw)).unwrap_or(0);
            // SAFETY: the address is live and of the size given.
            unsafe { libc::bind(fd.as_raw_fd(), (&raw const raw).cast(), size) }
        }
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

struct Inner {
    socket: std::net::TcpListener,
    sink: RefCell<Option<Rc<dyn AcceptSink>>>,
    op: Cell<Option<OpId>>,
}

/// A listener an operation refers to.
#[derive(Clone)]
pub(crate) struct ListenerRef(Rc<Inner>);

impl ListenerRef {
    pub(crate) fn on_accept(&self, core: &Core, result: i32, more: bool) {
        if !more {
            self.0.op.set(None);
        }
        let sink = self.0.sink.borrow().clone();
        let Some(sink) = sink else {
            if result >= 0 {
                // SAFETY: the kernel just gave us this descriptor; dropping it closes it.
                drop(unsafe { OwnedFd::from_raw_fd(result) });
            }
            return;
        };
        if result >= 0 {
            // SAFETY: the kernel just gave us this descriptor and nobody else owns it.
            let stream: StdStream = unsafe { OwnedFd::from_raw_fd(result) }.into();
            match Socket::new(stream) {
                Ok(socket) => sink.on_accept(socket),
                Err(error) => sink.on_error(error),
            }
        } else if result != -libc::ECANCELED {
            sink.on_error(io::Error::from_raw_os_error(-result));
            let again = Rc::clone(&self.0);
            core.executor.spawn(
                &crate::stall::ACCEPT,
                Box::pin(async move {
                    crate::timer::sleep(RETRY_AFTER).await;
                    core::with(|core| again.arm(core));
                }),
            );
            return;
        }
        if !more {
            self.0.arm(core);
        }
    }
}

impl Inner {
    fn arm(self: &Rc<Self>, core: &Core) {
        let stopping = core.shared.stop.load(Relaxed);
        if stopping || self.sink.borrow().is_none() || self.op.get().is_some() {
            return;
        }
        let id = core.ops.insert(Op::Accept(ListenerRef(Rc::clone(self))));
        self.op.set(Some(id));
        let entry = opcode::AcceptMulti::new(types::Fd(self.socket.as_raw_fd()))
            .flags(libc::SOCK_CLOEXEC)
            .build()
            .user_data(id.0);
        // SAFETY: the entry points to no memory; the operation holds the socket open.
        unsafe { core.ring.push(entry) };
    }
}

/// Stops accepting when dropped.
pub struct ListenerGuard(Rc<Inner>);

impl Drop for ListenerGuard {
    fn drop(&mut self) {
        self.0.sink.borrow_mut().take();
        if let Some(op) = self.0.op.get() {
            core::try_with(|core| {
                let id = core.ops.insert(Op::Ignored);
                core.ring.cancel(op, id);
            });
        }
    }
}

/// A connected socket that has no reactor yet; may move to any thread.
#[derive(Debug)]
pub struct Socket {
    stream: StdStream,
    peer: SocketAddr,
    local: SocketAddr,
}

impl Socket {
    fn new(stream: StdStream) -> io::Result<Socket> {
        // Replies are gathered by us, a round at a time: waiting for more would only add latency.
        stream.set_nodelay(true)?;
        let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
        Ok(Socket {
            stream,
            peer,
            local,
        })
    }

    /// Connects, blocking up to `timeout`. For start-up and tools, not for a reactor under load.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn connect_blocking(address: SocketAddr, timeout: Duration) -> io::Result<Socket> {
        Socket::new(StdStream::connect_timeout(&address, timeout)?)
    }

    /// The other side's address.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// This side's address.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Starts receiving on this reactor.
    pub fn start(self, sink: Rc<dyn StreamSink>) -> Stream {
        Stream::start(self.stream.into(), self.peer, self.local, sink)
    }
}
