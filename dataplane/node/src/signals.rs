//! Signals, and what other threads want of the node, as a queue of requests for the main thread.

use std::io;
use std::sync::mpsc::Sender;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::node::Node;

/// Work on the node, for the main thread. It holds up signals: keep it short.
pub type NodeJob = Box<dyn FnOnce(&mut Node) + Send>;

/// What the main thread is asked for.
pub enum Request {
    /// SIGTERM, SIGINT: finish and leave.
    Stop,
    /// SIGHUP: read the configuration again.
    Reload,
    /// Another thread changes or looks at the node.
    Node(NodeJob),
}

/// Starts to take signals; each goes into the queue once.
///
/// # Errors
/// Where the kernel refuses the handlers or the thread.
pub fn listen(sender: Sender<Request>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
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
    Ok(())
}
