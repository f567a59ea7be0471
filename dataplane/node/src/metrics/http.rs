//! The HTTP endpoint for metrics and health: one ordinary thread, one request at a time.
//!
//! It speaks just enough HTTP/1.1 for Prometheus, a load balancer and curl: GET and HEAD, one
//! request a connection, small heads, short patience. It never touches a reactor's thread.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Longest request head in bytes.
const HEAD_BYTES_MAX: usize = 8192;

/// How long a client may take for one request, all in all.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the endpoint tells.
pub trait Pages: Send + Sync + 'static {
    /// The metrics in Prometheus' text format.
    fn metrics(&self) -> String;
    /// Whether the node works; otherwise why not.
    fn healthy(&self) -> Result<(), String>;
    /// Whether hosts may connect; otherwise why not.
    fn ready(&self) -> Result<(), String>;
}

/// A bound endpoint, not serving yet.
pub struct Endpoint {
    listener: TcpListener,
}

/// A serving endpoint; dropping it ends it.
pub struct Serving {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Endpoint {
    /// Binds the address.
    ///
    /// # Errors
    /// What the kernel says, for instance that the port is in use.
    pub fn bind(address: SocketAddr) -> io::Result<Endpoint> {
        Ok(Endpoint {
            listener: TcpListener::bind(address)?,
        })
    }

    /// The address that is bound; tells the port where 0 was asked for.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves `pages` on a thread of its own.
    ///
    /// # Errors
    /// Where the thread cannot be started.
    pub fn serve(self, pages: Arc<dyn Pages>) -> io::Result<Serving> {
        let address = self.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("metrics".to_owned())
            .spawn(move || {
                for client in self.listener.incoming() {
                    if stopped.load(Ordering::Acquire) {
                        return;
                    }
                    match client.and_then(|client| answer(client, pages.as_ref())) {
                        Ok(()) => {}
                        Err(error) => tracing::debug!(%error, "a metrics client went away"),
                    }
                }
            })?;
        Ok(Serving {
            address,
            stop,
            thread: Some(thread),
        })
    }
}

impl Serving {
    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // The thread sits in accept(): a connection of our own wakes it.
        let mut wake = self.address;
        if wake.ip().is_unspecified() {
            wake.set_ip(match wake {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        let woken = TcpStream::connect_timeout(&wake, PATIENCE).is_ok();
        let thread = self.thread.take().filter(|_| woken);
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the metrics thread had panicked");
        }
    }
}

fn answer(mut client: TcpStream, pages: &dyn Pages) -> io::Result<()> {
    client.set_write_timeout(Some(PATIENCE))?;
    let Some(head) = read_head(&mut client)? else {
        return respond(
            &mut client,
            "431 Request Header Fields Too Large",
            "too long\n",
            true,
        );
    };
    let mut words = head.lines().next().unwrap_or("").split(' ');
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let with_body = match method {
        "GET" => true,
        "HEAD" => false,
        _ => return respond(&mut client, "405 Method Not Allowed", "use GET\n", true),
    };
    let (status, body) = match path.split('?').next().unwrap_or("") {
        "/metrics" => ("200 OK", pages.metrics()),
        "/healthz" => state(pages.healthy()),
        "/readyz" => state(pages.ready()),
        _ => (
            "404 Not Found",
            "try /metrics, /healthz or /readyz\n".to_owned(),
        ),
    };
    respond(&mut client, status, &body, with_body)
}

fn state(state: Result<(), String>) -> (&'static str, String) {
    match state {
        Ok(()) => ("200 OK", "ok\n".to_owned()),
        Err(why) => ("503 Service Unavailable", format!("{why}\n")),
    }
}

/// The request's head; `None` where it is too long.
fn read_head(client: &mut TcpStream) -> io::Result<Option<String>> {
    let deadline = Instant::now() + PATIENCE;
    let mut head = Vec::with_capacity(1024);
    let mut piece = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > HEAD_BYTES_MAX {
            return Ok(None);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        client.set_read_timeout(Some(left))?;
        match client.read(&mut piece)? {
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            count => head.extend_from_slice(&piece[..count]),
        }
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

fn respond(client: &mut TcpStream, status: &str, body: &str, with_body: bool) -> io::Result<()> {
    let mut text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    if with_body {
        text.push_str(body);
    }
    client.write_all(text.as_bytes())?;
    client.shutdown(Shutdown::Write)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed {
        ready: bool,
    }

    impl Pages for Fixed {
        fn metrics(&self) -> String {
            "penstock_up 1\n".to_owned()
        }
        fn healthy(&self) -> Result<(), String> {
            Ok(())
        }
        fn ready(&self) -> Result<(), String> {
            if self.ready {
                Ok(())
            } else {
                Err("stopping".to_owned())
            }
        }
    }

    fn serve(ready: bool) -> Serving {
        let endpoint = Endpoint::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("bound");
        endpoint.serve(Arc::new(Fixed { ready })).expect("a thread")
    }

    fn ask(serving: &Serving, request: &str) -> String {
        let mut client = TcpStream::connect(serving.address()).expect("connected");
        client.write_all(request.as_bytes()).expect("sent");
        let mut reply = String::new();
        // A server that refuses early may reset the connection after its reply.
        let _ = client.read_to_string(&mut reply);
        reply
    }

    #[test]
    fn answers_its_three_pages() {
        let serving = serve(false);
        let metrics = ask(&serving, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
        assert!(metrics.contains("Content-Length: 14\r\n"), "{metrics}");
        assert!(metrics.ends_with("\r\n\r\npenstock_up 1\n"), "{metrics}");
        assert!(ask(&serving, "GET /healthz HTTP/1.1\r\n\r\n").ends_with("\r\n\r\nok\n"));
        let ready = ask(&serving, "GET /readyz HTTP/1.1\r\n\r\n");
        assert!(
            ready.starts_with("HTTP/1.1 503 ") && ready.ends_with("stopping\n"),
            "{ready}"
        );
    }

    #[test]
    fn refuses_the_rest() {
        let serving = serve(true);
        assert!(ask(&serving, "GET /x HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
        assert!(ask(&serving, "POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
        let head = ask(&serving, "HEAD /metrics HTTP/1.1\r\n\r\n");
        assert!(
            head.starts_with("HTTP/1.1 200 OK") && head.ends_with("\r\n\r\n"),
            "{head}"
        );
        let long = format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(HEAD_BYTES_MAX));
        assert!(ask(&serving, &long).starts_with("HTTP/1.1 431 "));
    }

    #[test]
    fn a_silent_client_does_not_hold_the_others_for_long() {
        let serving = serve(true);
        let _silent = TcpStream::connect(serving.address()).expect("connected");
        let begun = Instant::now();
        assert!(ask(&serving, "GET /readyz HTTP/1.1\r\n\r\n").ends_with("ok\n"));
        assert!(begun.elapsed() < PATIENCE * 3);
    }

    #[test]
    fn ends_when_dropped() {
        let serving = serve(true);
        let address = serving.address();
        drop(serving);
        assert!(TcpStream::connect(address).is_err());
    }
}
