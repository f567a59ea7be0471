//! Fused Compare-and-Write (Base 2.1, 3.4.2; NVM 1.1, 3.3.1).
//!
//! The first half leases memory for both, takes in its data and waits; the second half takes in its
//! own, and only then shuts other writers out ([`crate::fence`]), reads, compares, writes, and tells
//! the first half how it went. So no slow host holds up anybody's writes. A pair covers one logical
//! block at most: Identify's ACWU is 0.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Poll, Waker};

use penstock_block::{Op, Request};
use penstock_buffer::{Lease, MemoryKind, Payload};
use penstock_nvme::sqe::Fuse;
use penstock_nvme::{Sqe, Status};
use penstock_seam::{Command, Link, Reply};

use super::other::{read_into, same_bytes};
use super::{COMPARE, Done, IoQueue, Range, WRITE, checked, range, transfer, writable};
use crate::metrics::IoKind;
use crate::namespace::{DeviceOp, NamespaceHere};
use crate::session::Session;
use crate::status::{Fail, at};

/// Blocks a fused pair may cover (Identify's ACWU, counted from one).
const BLOCKS_MAX: u64 = 1;

/// The first half of a pair that waits for its second, of one queue.
#[derive(Default)]
pub(super) struct Waiting {
    present: Cell<bool>,
    pair: RefCell<Option<Rc<Pair>>>,
}

impl Waiting {
    /// Whether a first half waits for the next command.
    #[inline]
    pub(super) fn is_waiting(&self) -> bool {
        self.present.get()
    }

    fn put(&self, pair: Rc<Pair>) {
        self.present.set(true);
        self.pair.replace(Some(pair));
    }

    fn take(&self) -> Option<Rc<Pair>> {
        self.present.set(false);
        self.pair.take()
    }

    /// Forgets a first half; the queue is going.
    pub(super) fn forget(&self) {
        self.take();
    }
}

/// How the first half ended, as the second knows it.
type Verdict = Result<(), Fail>;

/// Two halves that meet.
#[derive(Default)]
struct Pair {
    /// What the first half covers; `None` until it is known to be valid.
    range: Cell<Option<(u32, Range)>>,
    /// Memory of the pair: expected data, data found, data to write.
    expected: RefCell<Option<Lease>>,
    found: RefCell<Option<Lease>>,
    new: RefCell<Option<Lease>>,
    /// The first half is over before its time: refused, aborted, or without its partner.
    first_lost: Cell<bool>,
    /// The second half has all it needs; the first is to commit itself.
    starting: Cell<bool>,
    /// The first half can no longer be taken back.
    committed: Cell<bool>,
    /// Set by the second half: the first half's end.
    verdict: Cell<Option<Verdict>>,
    /// The first half has given its reply.
    first_done: Cell<bool>,
    wakers: RefCell<Vec<Waker>>,
}

impl Pair {
    fn wake(&self) {
        for waker in self.wakers.take() {
            waker.wake();
        }
    }

    /// Waits until `ready` gives a value; looked at whenever the other half moves.
    async fn wait<T>(&self, ready: impl Fn() -> Option<T>) -> T {
        std::future::poll_fn(|cx| match ready() {
            Some(value) => Poll::Ready(value),
            None => {
                self.wakers.borrow_mut().push(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    fn decide(&self, verdict: Verdict) {
        if self.verdict.get().is_none() {
            self.verdict.set(Some(verdict));
        }
        self.wake();
    }
}

/// Ends a half when its future is dropped or returns.
struct FirstHalf(Rc<Pair>);

impl Drop for FirstHalf {
    fn drop(&mut self) {
        if self.0.verdict.get().is_none() {
            self.0.first_lost.set(true);
        }
        self.0.first_done.set(true);
        self.0.wake();
    }
}

struct SecondHalf(Rc<Pair>);

impl Drop for SecondHalf {
    fn drop(&mut self) {
        self.0.decide(Err(Fail::new(Status::ABORT_FAILED_FUSED)));
    }
}

const MISSING: Fail = Fail::field(Status::ABORT_MISSING_FUSED.dnr(), at::FLAGS);
const FAILED: Fail = Fail::field(Status::ABORT_FAILED_FUSED.dnr(), at::FLAGS);

/// A command that is part of a pair, or that comes where a second half was due.
pub(super) async fn run<L: Link>(
    queue: &IoQueue,
    session: &Session,
    sqe: &Sqe,
    command: &Command,
    link: &L,
    found: &mut Option<Rc<NamespaceHere>>,
) -> Result<Done, Fail> {
    let waiting = queue.fused.take();
    if sqe.fuse() != Fuse::Second
        && let Some(pair) = &waiting
    {
        pair.decide(Err(MISSING));
    }
    match (sqe.fuse(), waiting) {
        (Fuse::Normal, _) => queue.dispatch(session, sqe, command, link, found).await,
        (Fuse::Reserved, _) => Err(Fail::invalid_field(at::FLAGS)),
        (Fuse::Second, None) => Err(MISSING),
        (Fuse::First, _) => {
            let pair = Rc::new(Pair::default());
            queue.fused.put(Rc::clone(&pair));
            let half = FirstHalf(pair);
            first(queue, session, sqe, command, link, found, &half.0).await
        }
        (Fuse::Second, Some(pair)) => {
            let half = SecondHalf(pair);
            second(queue, sqe, command, link, found, &half.0).await
        }
    }
}

/// What both halves must fulfil.
fn validate(
    queue: &IoQueue,
    sqe: &Sqe,
    command: &Command,
    opcode: u8,
) -> Result<(Rc<NamespaceHere>, Range, bool), Fail> {
    if queue.controller.flags() & crate::controller::FLAG_READY == 0 {
        return Err(Fail::new(Status::COMMAND_SEQUENCE_ERROR.dnr()));
    }
    if sqe.opcode != opcode {
        return Err(Fail::invalid_field(at::FLAGS));
    }
    let here = queue.namespace(sqe.nsid.get())?;
    let (asked, range) = range(&here, sqe)?;
    writable(&here, range.lba)?;
    if range.blocks > BLOCKS_MAX {
        let fail = Fail::field(Status::ATOMIC_WRITE_UNIT_EXCEEDED.dnr(), at::CDW12);
        return Err(fail.with_lba(range.lba.0));
    }
    transfer(&range, command.data_len, sqe, queue.mdts_bytes)?;
    Ok((here, range, asked.fua))
}

async fn first<L: Link>(
    queue: &IoQueue,
    session: &Session,
    sqe: &Sqe,
    command: &Command,
    link: &L,
    found: &mut Option<Rc<NamespaceHere>>,
    pair: &Pair,
) -> Result<Done, Fail> {
    let (here, range, _) = validate(queue, sqe, command, COMPARE)?;
    found.replace(here);
    let len = command.data_len as usize;
    // All of the pair's memory at once: a half that has some never waits for more.
    let lease = session.pool().lease(len * 3).await;
    let slice = |index: usize| {
        lease
            .slice(index * len, len)
            .ok_or(Fail::new(Status::INTERNAL_ERROR))
    };
    let (expected, read, new) = (slice(0)?, slice(1)?, slice(2)?);
    drop(lease);
    pair.found.replace(Some(read));
    pair.new.replace(Some(new));
    pair.range.set(Some((sqe.nsid.get(), range)));
    pair.wake();
    let expected = link.receive(expected).await?;
    pair.expected.replace(Some(expected));
    pair.wake();
    pair.wait(|| (pair.starting.get() || pair.verdict.get().is_some()).then_some(()))
        .await;
    // From here on neither half can be aborted alone.
    link.committed();
    pair.committed.set(true);
    pair.wake();
    pair.wait(|| pair.verdict.get()).await?;
    Ok(Done::without_data(IoKind::Compare))
}

async fn second<L: Link>(
    queue: &IoQueue,
    sqe: &Sqe,
    command: &Command,
    link: &L,
    found: &mut Option<Rc<NamespaceHere>>,
    pair: &Pair,
) -> Result<Done, Fail> {
    let (here, range, fua) = validate(queue, sqe, command, WRITE)?;
    let here = Rc::clone(found.insert(here));
    let lost = || pair.first_lost.get() || pair.verdict.get().is_some();
    let memory = pair
        .wait(|| {
            if lost() {
                Some(None)
            } else {
                pair.new.take().map(Some)
            }
        })
        .await
        .ok_or(FAILED)?;
    if pair.range.get() != Some((sqe.nsid.get(), range)) {
        // Both halves name the same blocks, or neither is done (Base 2.1, 3.4.2).
        let fail = Fail::invalid_field(at::CDW10).with_lba(range.lba.0);
        pair.decide(Err(fail));
        return Err(fail);
    }
    let new = link.receive(memory).await?;
    let take = || pair.expected.take().zip(pair.found.take());
    // Both leases at once, or neither: `found` is there as soon as `new` is.
    let ready = || pair.expected.borrow().is_some();
    let (expected, read) = pair
        .wait(|| {
            if lost() {
                Some(None)
            } else {
                ready().then(take)
            }
        })
        .await
        .ok_or(FAILED)?;
    pair.starting.set(true);
    pair.wake();
    let go = pair.wait(|| {
        if lost() {
            Some(false)
        } else {
            pair.committed.get().then_some(true)
        }
    });
    if !go.await {
        return Err(FAILED);
    }
    link.committed();
    let result = exchange(queue, &here, range, fua, (expected, read, new)).await;
    let (verdict, mine) = match result {
        Ok(done) => (Ok(()), Ok(done)),
        Err(fail) => (Err(fail), Err(FAILED.with_lba(range.lba.0))),
    };
    pair.decide(verdict);
    // The first half's completion comes first.
    pair.wait(|| pair.first_done.get().then_some(())).await;
    mine
}

/// Compares and writes, alone with the namespace.
async fn exchange(
    queue: &IoQueue,
    here: &Rc<NamespaceHere>,
    range: Range,
    fua: bool,
    (expected, read, new): (Lease, Lease, Lease),
) -> Result<Done, Fail> {
    let alone = here.exclusive().await;
    let Ok(_alone) = alone else {
        return Err(Fail::new(Status::COMMAND_INTERRUPTED));
    };
    let found = read_into(here, range.lba, range.blocks, read).await?;
    if !same_bytes(&Payload::from(expected), &found) {
        return Err(Fail::new(Status::COMPARE_FAILURE.dnr()).with_lba(range.lba.0));
    }
    let Range { lba, blocks, bytes } = range;
    let op = Op::Write {
        fua: fua || queue.write_through(),
    };
    let request = Request {
        op,
        lba,
        blocks,
        payload: Payload::from(new),
    };
    let writing = here.begin_write_fenced();
    let op = DeviceOp::write(here, request, writing, queue.controller.debt());
    checked(op.await, lba)?;
    let reply = Reply::status(Status::SUCCESS.wire());
    Ok(Done {
        reply,
        kind: IoKind::Write,
        bytes,
        memory: MemoryKind::Pool,
    })
}
