//! Something to sleep on until a device, or another thread, has something to tell.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::sync::Arc;
use std::time::Duration;

/// A counter of the kernel that can be waited for (`eventfd`). Clones share it.
#[derive(Clone, Debug)]
pub struct Event(Arc<File>);

impl Event {
    /// One that nobody has signalled.
    ///
    /// # Errors
    /// What the kernel says: too many open files, mostly.
    pub fn new() -> io::Result<Event> {
        // SAFETY: a new descriptor, checked below.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor just made, owned by nobody else.
        Ok(Event(Arc::new(unsafe { File::from_raw_fd(fd) })))
    }

    /// Wakes whoever waits for it now or next.
    pub fn signal(&self) {
        // It fails where the counter is full, and whoever waits is woken by that as well.
        let _ = (&*self.0).write(&1_u64.to_ne_bytes());
    }

    /// How often it was signalled since the last call. Never blocks.
    pub fn take(&self) -> u64 {
        let mut count = [0; 8];
        match (&*self.0).read_exact(&mut count) {
            Ok(()) => u64::from_ne_bytes(count),
            // Nothing there: it would block.
            Err(_) => 0,
        }
    }

    /// Sleeps until it is signalled, `limit` at most. Whether it was.
    pub fn wait(&self, limit: Duration) -> bool {
        let mut wanted = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let limit_ms = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one entry, which outlives the call.
        unsafe { libc::poll(&raw mut wanted, 1, limit_ms) > 0 }
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_and_only_waiting_for_it_waits() {
        let event = Event::new().unwrap();
        assert_eq!(event.take(), 0);
        assert!(!event.wait(Duration::ZERO));
        let other = event.clone();
        let thread = std::thread::spawn(move || (0..3).for_each(|_| other.signal()));
        assert!(event.wait(Duration::from_secs(10)));
        thread.join().unwrap();
        assert_eq!((event.take(), event.take()), (3, 0));
    }
}
