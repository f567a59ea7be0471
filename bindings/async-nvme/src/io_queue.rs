//! A queue pair with an `async fn` for each command, for code that is written in straight lines.
//!
//! Whoever owns it calls [`IoQueue::poll`] every round; the futures are woken from there. Dropping a
//! future does not take its command back: the memory stays with the queue pair until the drive is
//! done with it.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use penstock_units::Lba;

use crate::controller::Namespace;
use crate::dma::DmaError;
use crate::io::{Buffers, Done, Io, IoError, Verb};
use crate::queue::{Queue, QueueParts, QueueStats};

/// How a command ended, and its memory.
pub type Answer<M> = (Result<u64, IoError>, M);

enum Place<M> {
    Free,
    Waiting(Option<Waker>),
    /// Its future was dropped.
    Abandoned,
    Done(Answer<M>),
}

struct Places<M> {
    entries: Vec<Place<M>>,
    free: Vec<usize>,
}

impl<M> Places<M> {
    fn take(&mut self) -> usize {
        if let Some(token) = self.free.pop() {
            self.entries[token] = Place::Waiting(None);
            return token;
        }
        self.entries.push(Place::Waiting(None));
        // Room for every number at once, so that giving one back never allocates.
        self.free.reserve(self.entries.len());
        self.entries.len() - 1
    }

    fn give_back(&mut self, token: usize) -> Place<M> {
        self.free.push(token);
        std::mem::replace(&mut self.entries[token], Place::Free)
    }
}

/// One thread's queue pair. Cheap to share on its thread behind an [`Rc`].
pub struct IoQueue<M> {
    queue: RefCell<Queue<M, usize>>,
    places: RefCell<Places<M>>,
}

impl<M: Buffers> IoQueue<M> {
    /// Opens a queue pair on this thread.
    ///
    /// # Errors
    /// As [`Queue::open`].
    pub fn open(parts: QueueParts) -> Result<Rc<IoQueue<M>>, DmaError> {
        Ok(Rc::new(IoQueue {
            queue: RefCell::new(Queue::open(parts)?),
            places: RefCell::new(Places {
                entries: Vec::new(),
                free: Vec::new(),
            }),
        }))
    }

    /// A round: what ended wakes its future, what waits is sent. How many ended.
    pub fn poll(&self, now_ns: u64) -> usize {
        self.queue.borrow_mut().tick(now_ns);
        let mut count = 0;
        loop {
            // Not borrowed while a waker runs, which may submit.
            let done = self.queue.borrow_mut().next_done();
            let Some(done) = done else { break };
            self.finish(done);
            count += 1;
        }
        self.queue.borrow_mut().round_end();
        count
    }

    fn finish(&self, done: Done<M, usize>) {
        let token = done.tag;
        let answer = (done.result, done.memory);
        let waker = {
            let mut places = self.places.borrow_mut();
            match std::mem::replace(&mut places.entries[token], Place::Done(answer)) {
                Place::Waiting(waker) => waker,
                // Its memory is dropped here, now that the drive is done with it.
                _ => {
                    let left = places.give_back(token);
                    drop(places);
                    drop(left);
                    None
                }
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Commands and requests that have not ended.
    pub fn in_flight(&self) -> usize {
        self.queue.borrow().in_flight()
    }

    /// Counters.
    pub fn stats(&self) -> QueueStats {
        self.queue.borrow().stats()
    }

    fn submit(
        &self,
        namespace: &Namespace,
        verb: Verb,
        slba: Lba,
        blocks: u64,
        memory: M,
    ) -> Command<'_, M> {
        let token = self.places.borrow_mut().take();
        let io = Io {
            verb,
            nsid: namespace.nsid,
            slba,
            blocks,
            block_shift: namespace.block_size.map_or(0, |size| size.shift()),
            boundary_blocks: namespace.boundary_blocks,
        };
        self.queue.borrow_mut().submit(io, memory, token);
        Command { queue: self, token }
    }

    /// Reads `blocks` from `slba` into memory that is exactly as long.
    pub async fn read(
        &self,
        namespace: &Namespace,
        slba: Lba,
        blocks: u64,
        memory: M,
    ) -> Answer<M> {
        self.submit(namespace, Verb::Read, slba, blocks, memory)
            .await
    }

    /// Writes `blocks` from `slba`; durable when done with `fua`.
    pub async fn write(
        &self,
        namespace: &Namespace,
        slba: Lba,
        blocks: u64,
        fua: bool,
        memory: M,
    ) -> Answer<M> {
        self.submit(namespace, Verb::Write { fua }, slba, blocks, memory)
            .await
    }

    /// Compares `blocks` from `slba` with memory; Compare Failure is an error status.
    pub async fn compare(
        &self,
        namespace: &Namespace,
        slba: Lba,
        blocks: u64,
        memory: M,
    ) -> Answer<M> {
        self.submit(namespace, Verb::Compare, slba, blocks, memory)
            .await
    }

    /// Makes completed writes durable.
    pub async fn flush(&self, namespace: &Namespace, memory: M) -> Answer<M> {
        self.submit(namespace, Verb::Flush, Lba(0), 0, memory).await
    }

    /// Writes zeroes; with `deallocate` the drive may free the blocks instead.
    pub async fn write_zeroes(
        &self,
        namespace: &Namespace,
        slba: Lba,
        blocks: u64,
        deallocate: bool,
        memory: M,
    ) -> Answer<M> {
        let verb = Verb::WriteZeroes {
            fua: false,
            deallocate,
        };
        self.submit(namespace, verb, slba, blocks, memory).await
    }

    /// Tells the drive that the blocks are needed no more.
    pub async fn deallocate(
        &self,
        namespace: &Namespace,
        slba: Lba,
        blocks: u64,
        memory: M,
    ) -> Answer<M> {
        self.submit(namespace, Verb::Deallocate, slba, blocks, memory)
            .await
    }
}

/// A command that was submitted.
struct Command<'a, M: Buffers> {
    queue: &'a IoQueue<M>,
    token: usize,
}

/// No place is this one's any more.
const TAKEN: usize = usize::MAX;

impl<M: Buffers> Future for Command<'_, M> {
    type Output = Answer<M>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer<M>> {
        let mut places = self.queue.places.borrow_mut();
        let place = &mut places.entries[self.token];
        if let Place::Waiting(waker) = place {
            match waker {
                Some(waker) => waker.clone_from(context.waker()),
                None => *waker = Some(context.waker().clone()),
            }
            return Poll::Pending;
        }
        let Place::Done(answer) = places.give_back(self.token) else {
            // A place is this future's alone until it has taken its answer.
            unreachable!("a command's place was taken by another");
        };
        drop(places);
        self.token = TAKEN;
        Poll::Ready(answer)
    }
}

impl<M: Buffers> Drop for Command<'_, M> {
    fn drop(&mut self) {
        if self.token == TAKEN {
            return;
        }
        let mut places = self.queue.places.borrow_mut();
        if matches!(places.entries[self.token], Place::Done(_)) {
            let left = places.give_back(self.token);
            drop(places);
            drop(left);
        } else {
            places.entries[self.token] = Place::Abandoned;
        }
    }
}
