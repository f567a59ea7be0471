//! Host data of commands: from the capsule or through R2Ts into the lease the command names.

use std::task::{Context, Poll};

use penstock_buffer::Lease;
use penstock_reactor::now;
use penstock_seam::LinkError;

use crate::conn::Connection;
use crate::slot::{Capsule, Fill, SlotState, Source, Transfer};

impl Connection {
    /// A command names the memory for its data. Ready where all of it is here already.
    pub(crate) fn begin_receive(
        &self,
        index: u16,
        generation: u32,
        into: Lease,
    ) -> Poll<Result<Lease, LinkError>> {
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.current(index, generation) else {
            return Poll::Ready(Err(self.gone()));
        };
        if slot.state != SlotState::Running || slot.received {
            return Poll::Ready(Err(LinkError::Aborted));
        }
        slot.received = true;
        if slot.source == Source::None || into.is_empty() {
            return Poll::Ready(Ok(into));
        }
        if slot.source == Source::Fetch {
            slot.fill = Some(Fill {
                lease: into,
                done: false,
                waker: None,
            });
            slot.transfer_ticks = now();
            drop(slots);
            self.ask_for_data(index);
            return Poll::Pending;
        }
        let capsule = std::mem::replace(&mut slot.capsule, Capsule::Taken);
        let (copied, unstashed) = match &capsule {
            Capsule::Taken => (0, 0),
            Capsule::Chunk(chunk) => (into.write_at(0, chunk), 0),
            Capsule::Stash(stash) => (into.write_at(0, stash), stash.len()),
        };
        self.stats.in_capsule_copied_bytes.add_len(copied);
        let outcome = if slot.arriving {
            slot.fill = Some(Fill {
                lease: into,
                done: false,
                waker: None,
            });
            Poll::Pending
        } else if slot.digest_error {
            Poll::Ready(Err(LinkError::DataDigest))
        } else {
            Poll::Ready(Ok(into))
        };
        if unstashed > 0 {
            slots.stash_bytes = slots.stash_bytes.saturating_sub(unstashed);
            drop(slots);
            self.hook();
        }
        outcome
    }

    /// Whether the data a command waits for is all there.
    pub(crate) fn poll_receive(
        &self,
        index: u16,
        generation: u32,
        cx: &Context<'_>,
    ) -> Poll<Result<Lease, LinkError>> {
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.current(index, generation) else {
            return Poll::Ready(Err(self.gone()));
        };
        let Some(fill) = &mut slot.fill else {
            return Poll::Ready(Err(LinkError::Aborted));
        };
        if !fill.done {
            match &fill.waker {
                Some(known) if known.will_wake(cx.waker()) => {}
                _ => fill.waker = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        let digest_error = slot.digest_error;
        match slot.fill.take() {
            Some(fill) if !digest_error => Poll::Ready(Ok(fill.lease)),
            _ => Poll::Ready(Err(LinkError::DataDigest)),
        }
    }

    fn gone(&self) -> LinkError {
        if self.is_closing() {
            LinkError::Closed
        } else {
            LinkError::Aborted
        }
    }

    /// Sends as many R2Ts for a command as it needs and the host takes at once.
    fn ask_for_data(&self, index: u16) {
        let mut slots = self.slots.borrow_mut();
        let mut tx = self.tx.borrow_mut();
        let open_max = self.config.r2t_outstanding_max.min(tx.wire.r2t_max);
        while let Some(r2t) = slots.next_r2t(index, self.config.r2t_max_bytes, open_max) {
            tx.r2t(&r2t);
        }
        drop((slots, tx));
        self.hook();
    }

    /// The in-capsule data of a command is all there.
    pub(crate) fn capsule_complete(&self, index: u16) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(index) {
            slot.arriving = false;
        }
        self.data_complete(index);
    }

    /// A PDU's data for an R2T is all there.
    pub(crate) fn transfer_complete(&self, transfer: Transfer) {
        let index = transfer.slot;
        let complete = {
            let mut slots = self.slots.borrow_mut();
            if !slots.end_transfer(transfer) {
                return;
            }
            slots.get_mut(index).is_some_and(|slot| match slot.state {
                SlotState::Running => slot.asked_for_all() && !slot.fetching(),
                _ => !slot.fetching(),
            })
        };
        if complete {
            self.data_complete(index);
        } else {
            self.ask_for_data(index);
        }
    }

    /// The host owes a command nothing more: it goes on, or its held reply goes out.
    fn data_complete(&self, index: u16) {
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get_mut(index) else {
            return;
        };
        if slot.state == SlotState::Draining {
            if let Some(reply) = slot.held.take() {
                self.conclude(slots, index, reply);
            }
            return;
        }
        let waker = slot.fill.as_mut().and_then(|fill| {
            fill.done = true;
            fill.waker.take()
        });
        drop(slots);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
