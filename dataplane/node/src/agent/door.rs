//! The way to the daemon's thread, where the node is changed.

use std::sync::mpsc;

use tokio::sync::oneshot;

use crate::node::Node;
use crate::signals::Request;

/// Runs things on the daemon's thread. Clones lead to the same.
#[derive(Clone, Debug)]
pub(super) struct Door {
    requests: mpsc::Sender<Request>,
}

/// The daemon takes no requests any more: it is about to leave.
#[derive(Debug)]
pub(super) struct Leaving;

impl Door {
    pub(super) fn new(requests: mpsc::Sender<Request>) -> Door {
        Door { requests }
    }

    /// Runs `work` on the node and waits for its end without holding up this thread.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Node) -> T + Send + 'static,
    ) -> Result<T, Leaving> {
        let (answer, outcome) = oneshot::channel();
        let job = move |node: &mut Node| {
            // Who asked may have gone.
            let _ = answer.send(work(node));
        };
        let sent = self.requests.send(Request::Node(Box::new(job)));
        sent.map_err(|_| Leaving)?;
        outcome.await.map_err(|_| Leaving)
    }
}
