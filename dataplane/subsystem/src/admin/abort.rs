//! Abort, across queues (Base 2.1, 5.1.1).

use penstock_nvme::Status;
use penstock_nvme::command::Abort;
use penstock_seam::Reply;

use super::{ABORTS_MAX, Admin, success};
use crate::controller::Controller;
use crate::status::Fail;

/// One Abort in progress.
struct InProgress<'a>(&'a Controller);

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        self.0.end_abort();
    }
}

impl Admin<'_> {
    /// Takes a command back that waits for memory, for the host's data or for an event. What a
    /// device works on already goes on: bit 0 of the result then says "not aborted".
    pub(super) async fn abort(&self) -> Result<Reply, Fail> {
        if !self.controller.begin_abort(ABORTS_MAX) {
            return Err(Fail::new(Status::ABORT_LIMIT_EXCEEDED));
        }
        let _in_progress = InProgress(self.controller);
        let Abort { sqid, cid } = Abort::decode(self.sqe);
        let itself = sqid == 0 && cid == self.sqe.cid.get();
        let aborted = match self.controller.queue(sqid) {
            // The queue may live on another reactor.
            Some(queue) if !itself => queue.ask(move |session| session.abort(cid)).await,
            _ => None,
        };
        let result = if aborted == Some(true) {
            0
        } else {
            Abort::NOT_ABORTED
        };
        Ok(success(u64::from(result)))
    }
}
