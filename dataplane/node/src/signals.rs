//! Signals as a queue of requests for the main thread.

use std::io;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// SIGTERM, SIGINT: finish and leave.
    Stop,
    /// SIGHUP: read the configuration again.
    Reload,
}

/// Starts to take signals; each comes out of the queue once.
///
/// # Errors
/// Where the kernel refuses the handlers or the thread.
pub fn listen() -> io::Result<Receiver<Request>> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                let request = if signal == SIGHUP {
                    Request::Reload
                } else {
                    Request::Stop
                };
                if sender.send(request).is_err() {
                    return;
                }
            }
        })?;
    Ok(receiver)
}
