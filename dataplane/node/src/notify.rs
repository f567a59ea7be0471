//! Telling the service manager how it goes: systemd's notification protocol, sd_notify(3).

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// The way to the service manager; does nothing where there is none.
pub struct Notifier {
    manager: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
    fed: Option<Instant>,
}

impl Notifier {
    /// Takes the manager's socket and watchdog interval from the environment.
    pub fn from_environment() -> Notifier {
        let manager = match std::env::var_os("NOTIFY_SOCKET").map(open) {
            Some(Ok(manager)) => Some(manager),
            Some(Err(error)) => {
                tracing::warn!(%error, "the service manager cannot be told of the node's state");
                None
            }
            None => None,
        };
        let for_us =
            std::env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
        let interval = std::env::var("WATCHDOG_USEC")
            .ok()
            .and_then(|usec| usec.parse().ok());
        let watchdog = interval.filter(|_| for_us).map(Duration::from_micros);
        Notifier {
            manager,
            watchdog,
            fed: None,
        }
    }

    /// The node serves.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}\n"));
    }

    /// How the node is, in a line for people; it is ready and stays so.
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={status}\n"));
    }

    /// The node reads its configuration anew; [`Notifier::ready`] must follow.
    pub fn reloading(&self) {
        let now = monotonic_usec();
        self.send(&format!(
            "RELOADING=1\nMONOTONIC_USEC={now}\nSTATUS=reloading\n"
        ));
    }

    /// The node is about to leave.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=finishing commands in flight\n");
    }

    /// The node is alive. Call it often; it speaks four times an interval.
    pub fn alive(&mut self) {
        let Some(interval) = self.watchdog else {
            return;
        };
        if self.fed.is_none_or(|fed| fed.elapsed() >= interval / 4) {
            self.send("WATCHDOG=1\n");
            self.fed = Some(Instant::now());
        }
    }

    fn send(&self, state: &str) {
        let Some((socket, manager)) = &self.manager else {
            return;
        };
        if let Err(error) = socket.send_to_addr(state.as_bytes(), manager) {
            tracing::warn!(%error, state = state.trim(), "the service manager was not told");
        }
    }
}

fn open(name: OsString) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name)?,
        None => SocketAddr::from_pathname(&name)?,
    };
    Ok((UnixDatagram::unbound()?, address))
}

/// CLOCK_MONOTONIC in microseconds, as systemd wants it with RELOADING.
fn monotonic_usec() -> u64 {
    // /proc/uptime counts CLOCK_BOOTTIME; the two differ by the time spent suspended only.
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds: f64 = uptime
        .split(' ')
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0.0);
    Duration::try_from_secs_f64(seconds).map_or(0, |uptime| {
        u64::try_from(uptime.as_micros()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notifier(path: &std::path::Path, watchdog: Option<Duration>) -> Notifier {
        let manager = open(path.as_os_str().to_owned()).expect("a socket address");
        Notifier {
            manager: Some(manager),
            watchdog,
            fed: None,
        }
    }

    fn heard(manager: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = manager.recv(&mut buffer).expect("a notification");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn speaks_the_protocol() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("a socket");
        manager.set_nonblocking(true).expect("non-blocking");
        let mut notifier = notifier(&path, Some(Duration::from_secs(3600)));
        notifier.ready("serving");
        assert_eq!(heard(&manager), "READY=1\nSTATUS=serving\n");
        notifier.reloading();
        assert!(heard(&manager).starts_with("RELOADING=1\nMONOTONIC_USEC="));
        notifier.alive();
        notifier.alive();
        assert_eq!(heard(&manager), "WATCHDOG=1\n");
        notifier.stopping();
        assert!(
            heard(&manager).starts_with("STOPPING=1\n"),
            "one WATCHDOG=1 an interval's quarter"
        );
    }

    #[test]
    fn abstract_names_are_understood() {
        let name = format!("penstock-notify-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("an abstract name");
        let manager = UnixDatagram::bind_addr(&address).expect("a socket");
        let notifier = notifier(std::path::Path::new(&format!("@{name}")), None);
        notifier.ready("x");
        assert_eq!(heard(&manager), "READY=1\nSTATUS=x\n");
    }
}
