//! I/O commands (NVM 1.1, 3): validation, namespace, memory, device, reply.
//!
//! Everything here runs for each I/O of a host: no allocation, no lock, no atomic read-modify-write
//! on the way of a command that succeeds. Fused pairs are rare and may allocate.

mod fused;
#[cfg(test)]
mod fused_tests;
mod other;
mod quick;
mod rw;
#[cfg(test)]
mod tests;
mod two_leases;

pub(crate) use quick::Incoming;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use penstock_block::Outcome;
use penstock_buffer::{MemoryKind, Payload};
use penstock_nvme::command::BlockRange;
use penstock_nvme::{IoOpcode, Sqe, Status};
use penstock_seam::{Command, Link, Reply};
use penstock_units::Lba;

use crate::controller::{Controller, FLAG_READY, FLAG_WRITE_THROUGH, QueueShared};
use crate::local::Home;
use crate::metrics::IoKind;
use crate::namespace::{Namespace, NamespaceHere};
use crate::session::Session;
use crate::status::{Fail, at, error_class};
use crate::subsystem::Subsystem;

const FLUSH: u8 = IoOpcode::Flush as u8;
const WRITE: u8 = IoOpcode::Write as u8;
const READ: u8 = IoOpcode::Read as u8;
const COMPARE: u8 = IoOpcode::Compare as u8;
const WRITE_ZEROES: u8 = IoOpcode::WriteZeroes as u8;
const DATASET_MANAGEMENT: u8 = IoOpcode::DatasetManagement as u8;
const VERIFY: u8 = IoOpcode::Verify as u8;

/// PSDT 01b: an SGL, and no metadata SGL.
const PLAIN: u8 = 0x40;
const PSDT_MASK: u8 = 0xc0;
const FUSE_MASK: u8 = 0b11;

/// A namespace as a queue knows it.
enum Entry {
    /// Not used by this queue so far.
    Closed(Arc<Namespace>),
    /// In use.
    Open(Rc<NamespaceHere>),
}

impl Entry {
    fn namespace(&self) -> &Arc<Namespace> {
        match self {
            Entry::Closed(namespace) => namespace,
            Entry::Open(here) => here.namespace(),
        }
    }
}

/// One I/O queue.
pub struct IoQueue {
    id: u16,
    controller: Arc<Controller>,
    subsystem: Arc<Subsystem>,
    shared: Arc<QueueShared>,
    home: Home,
    mdts_bytes: u32,
    /// Version of the namespace table that `table` was made from.
    version: Cell<u64>,
    /// Indexed by the namespace identifier.
    table: RefCell<Vec<Option<Entry>>>,
    outstanding: Cell<u32>,
    busy_since: Cell<u64>,
    fused: fused::Waiting,
}

/// How a command that succeeded is counted, and its reply.
struct Done {
    reply: Reply,
    kind: IoKind,
    bytes: u64,
    memory: MemoryKind,
}

impl Done {
    fn without_data(kind: IoKind) -> Done {
        let reply = Reply::status(Status::SUCCESS.wire());
        Done {
            reply,
            kind,
            bytes: 0,
            memory: MemoryKind::Pool,
        }
    }
}

/// A range of blocks that lies within its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    lba: Lba,
    blocks: u64,
    bytes: u64,
}

/// One command outstanding, for the busy time.
struct Busy<'a>(&'a IoQueue);

impl Drop for Busy<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.outstanding.set(self.0.outstanding.get() - 1);
    }
}

impl IoQueue {
    /// I/O queue `id` of `controller`, on the session's reactor.
    pub(crate) fn new(id: u16, controller: &Arc<Controller>, session: &Session) -> IoQueue {
        let subsystem = Arc::clone(controller.subsystem());
        IoQueue {
            id,
            controller: Arc::clone(controller),
            shared: Arc::clone(session.shared()),
            home: session.home().clone(),
            mdts_bytes: subsystem.target().mdts_bytes,
            subsystem,
            version: Cell::new(0),
            table: RefCell::new(Vec::new()),
            outstanding: Cell::new(0),
            busy_since: Cell::new(0),
            fused: fused::Waiting::default(),
        }
    }

    /// Queue identifier.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// The controller it belongs to.
    pub fn controller(&self) -> &Arc<Controller> {
        &self.controller
    }

    /// Executes one command.
    #[inline]
    pub(crate) async fn run<L: Link>(
        &self,
        session: &Session,
        command: &Command,
        link: &L,
    ) -> Reply {
        let busy = self.begin(command.received_ticks);
        let sqe = Sqe::from_bytes(&command.sqe);
        let mut here = None;
        let result = if sqe.flags & FUSE_MASK == 0 && !self.fused.is_waiting() {
            self.dispatch(session, sqe, command, link, &mut here).await
        } else {
            Box::pin(fused::run(self, session, sqe, command, link, &mut here)).await
        };
        let now = session.now();
        let reply = match result {
            Ok(done) => {
                self.count(
                    &done,
                    here.as_deref(),
                    now.saturating_sub(command.received_ticks),
                );
                done.reply
            }
            Err(fail) => self.failed(session, sqe, &fail, here.as_deref()),
        };
        drop(busy);
        self.end(now);
        reply
    }

    async fn dispatch<L: Link>(
        &self,
        session: &Session,
        sqe: &Sqe,
        command: &Command,
        link: &L,
        found: &mut Option<Rc<NamespaceHere>>,
    ) -> Result<Done, Fail> {
        if self.controller.flags() & FLAG_READY == 0 {
            return Err(Fail::new(Status::COMMAND_SEQUENCE_ERROR.dnr()));
        }
        if sqe.opcode == FLUSH && sqe.nsid.get() == penstock_nvme::sqe::NSID_BROADCAST {
            return self.flush_all(session, link).await;
        }
        if !matches!(
            sqe.opcode,
            READ | WRITE | FLUSH | WRITE_ZEROES | DATASET_MANAGEMENT | COMPARE | VERIFY
        ) {
            return Err(Fail::field(Status::INVALID_OPCODE.dnr(), at::OPCODE));
        }
        let here = found.insert(self.namespace(sqe.nsid.get())?);
        match sqe.opcode {
            READ => self.read(session, here, sqe, command.data_len, link).await,
            WRITE => self.write(session, here, sqe, command.data_len, link).await,
            FLUSH => self.flush(here, link).await,
            WRITE_ZEROES => self.write_zeroes(here, sqe, link).await,
            DATASET_MANAGEMENT => {
                self.deallocate(session, here, sqe, command.data_len, link)
                    .await
            }
            COMPARE => {
                self.compare(session, here, sqe, command.data_len, link)
                    .await
            }
            _ => self.verify(session, here, sqe, link).await,
        }
    }

    /// Whether every write is to be durable when completed.
    #[inline]
    fn write_through(&self) -> bool {
        self.controller.flags() & FLAG_WRITE_THROUGH != 0
    }

    #[inline]
    fn begin(&self, received: u64) -> Busy<'_> {
        let outstanding = self.outstanding.get();
        if outstanding == 0 {
            self.busy_since.set(received);
        }
        self.outstanding.set(outstanding + 1);
        Busy(self)
    }

    #[inline]
    fn end(&self, now: u64) {
        if self.outstanding.get() == 0 {
            self.shared
                .counters
                .busy_ticks
                .add(now.saturating_sub(self.busy_since.get()));
        }
    }

    #[inline]
    fn count(&self, done: &Done, here: Option<&NamespaceHere>, ticks: u64) {
        let counters = &self.shared.counters;
        counters.commands.add(1);
        let Some(here) = here else { return };
        match done.kind {
            IoKind::Read => {
                counters.read_bytes.add(done.bytes);
                here.shard().read(done.bytes, done.memory, ticks);
            }
            IoKind::Write => {
                counters.written_bytes.add(done.bytes);
                here.shard().written(done.bytes, done.memory, ticks);
            }
            kind => here.shard().other(kind, ticks),
        }
    }

    #[cold]
    fn failed(
        &self,
        session: &Session,
        sqe: &Sqe,
        fail: &Fail,
        here: Option<&NamespaceHere>,
    ) -> Reply {
        self.shared.counters.commands.add(1);
        self.shared.counters.errors.add(1);
        if let Some(here) = here {
            here.shard().failed(error_class(fail.status));
        }
        session.note_error(sqe, fail);
        fail.reply()
    }

    /// The namespace of a command. One atomic load where nothing changed.
    #[inline]
    fn namespace(&self, nsid: u32) -> Result<Rc<NamespaceHere>, Fail> {
        if self.subsystem.version() != self.version.get() {
            self.refresh();
        }
        match self.table.borrow().get(nsid as usize) {
            Some(Some(Entry::Open(here))) => return Ok(Rc::clone(here)),
            Some(Some(Entry::Closed(_))) => {}
            _ => return Err(Fail::field(Status::INVALID_NAMESPACE.dnr(), at::NSID)),
        }
        self.open(nsid)
    }

    #[cold]
    fn open(&self, nsid: u32) -> Result<Rc<NamespaceHere>, Fail> {
        let mut table = self.table.borrow_mut();
        let Some(Some(entry)) = table.get_mut(nsid as usize) else {
            return Err(Fail::field(Status::INVALID_NAMESPACE.dnr(), at::NSID));
        };
        let here = NamespaceHere::open(entry.namespace(), &self.home).map_err(|error| {
            let device = entry.namespace().device().name();
            tracing::error!(nsid, device, %error, "cannot open the device on this reactor");
            Fail::from(error)
        })?;
        *entry = Entry::Open(Rc::clone(&here));
        Ok(here)
    }

    /// Takes over the namespace table as it is now; namespaces removed are let go.
    #[cold]
    pub(crate) fn refresh(&self) {
        // The version first: a change between the two is seen again next time.
        self.version.set(self.subsystem.version());
        let namespaces = self.subsystem.namespaces();
        let mut old = self.table.take();
        let last = namespaces
            .keys()
            .next_back()
            .map_or(0, |nsid| nsid.get() as usize);
        let mut table: Vec<Option<Entry>> = Vec::new();
        table.resize_with(last + 1, || None);
        for (nsid, namespace) in namespaces.iter() {
            let index = nsid.get() as usize;
            let known = old.get_mut(index).and_then(Option::take);
            table[index] = match known {
                Some(entry) if Arc::ptr_eq(entry.namespace(), namespace) => Some(entry),
                _ => Some(Entry::Closed(Arc::clone(namespace))),
            };
        }
        self.table.replace(table);
        // `old` may close devices as it goes; nothing is borrowed any more.
    }

    /// The connection is gone: devices are let go, a half of a fused pair is forgotten.
    pub(crate) fn let_go(&self) {
        self.version.set(0);
        drop(self.table.take());
        self.fused.forget();
    }
}

/// Reads a command's range and checks it: fields this controller does not support (protection
/// information and directives: the namespaces have no metadata), then the namespace's size (NVM
/// 1.1, 3.3: LBA Out of Range).
#[inline]
fn range(here: &NamespaceHere, sqe: &Sqe) -> Result<(BlockRange, Range), Fail> {
    let asked = BlockRange::decode(sqe);
    if asked.prinfo != 0 || asked.storage_tag_check || asked.directive_type != 0 {
        return Err(unsupported_option(&asked));
    }
    let (lba, blocks) = (asked.slba, u64::from(asked.blocks));
    match lba.checked_add(blocks) {
        Some(end) if end.0 <= here.namespace().blocks() => {
            let bytes = blocks << here.block_size().shift();
            Ok((asked, Range { lba, blocks, bytes }))
        }
        _ => Err(Fail::field(Status::LBA_OUT_OF_RANGE.dnr(), at::CDW10).with_lba(lba.0)),
    }
}

#[cold]
fn unsupported_option(asked: &BlockRange) -> Fail {
    let location = match asked {
        BlockRange {
            storage_tag_check: true,
            ..
        } => at::bit(at::CDW12 + 3, 0),
        BlockRange {
            directive_type: 0, ..
        } => at::bit(at::CDW12 + 3, 2),
        _ => at::bit(at::CDW12 + 2, 4),
    };
    Fail::invalid_field(location).with_lba(asked.slba.0)
}

/// Checks that the SGL describes exactly the data of the command, and no more than MDTS. SGLS of
/// Identify says that longer SGLs are not supported, so they are refused as well.
#[inline]
fn transfer(range: &Range, data_len: u32, sqe: &Sqe, mdts_bytes: u32) -> Result<usize, Fail> {
    if range.bytes == u64::from(data_len)
        && data_len <= mdts_bytes
        && sqe.flags & PSDT_MASK == PLAIN
    {
        return Ok(data_len as usize);
    }
    Err(bad_transfer(range, sqe, mdts_bytes))
}

#[cold]
fn bad_transfer(range: &Range, sqe: &Sqe, mdts_bytes: u32) -> Fail {
    let fail = if range.bytes > u64::from(mdts_bytes) {
        Fail::invalid_field(at::CDW12)
    } else if sqe.flags & PSDT_MASK != PLAIN {
        Fail::invalid_field(at::bit(at::FLAGS, 6))
    } else {
        Fail::field(Status::DATA_SGL_LENGTH_INVALID.dnr(), at::SGL1_LENGTH)
    };
    fail.with_lba(range.lba.0)
}

/// Refuses writes to a namespace that takes none.
#[inline]
fn writable(here: &NamespaceHere, lba: Lba) -> Result<(), Fail> {
    if here.namespace().read_only() {
        return Err(Fail::new(Status::NAMESPACE_WRITE_PROTECTED.dnr()).with_lba(lba.0));
    }
    Ok(())
}

/// A device's answer to a request over `lba`.
#[inline]
fn checked(outcome: Outcome, lba: Lba) -> Result<Payload, Fail> {
    match outcome.result {
        Ok(()) => Ok(outcome.payload),
        Err(error) => Err(Fail::from(error).with_lba(lba.0)),
    }
}
