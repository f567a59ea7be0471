//! Clearing extents: zeroes, durable, in the background.
//!
//! Pieces go one after the other through the device's own queue on a reactor, so that commands of
//! hosts get their turn between them; few extents are cleared at a time. Before the first piece every
//! write to a namespace that was taken away has ended: none can land on top of the zeroes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use penstock_api::v1::Extent;
use penstock_block::{BlockError, BlockQueue, DeviceRange, Op, Request};
use penstock_buffer::Payload;
use penstock_subsystem::Namespace;
use penstock_units::Lba;

use super::layout::Range;
use super::{Done, Managed, ManagedError};
use crate::node::Node;
use crate::reactors::Fleet;

/// Extents cleared at the same time, over all devices.
const JOBS_MAX: usize = 4;

/// Piece of a device that gives space back: a file system holds other I/O to the file up meanwhile.
const PIECE_BYTES: u64 = 16 << 20;

/// Piece of a device that has to write the zeroes.
const WRITTEN_PIECE_BYTES: u64 = 4 << 20;

/// What is to be cleared.
struct Job {
    id: u64,
    ranges: Vec<DeviceRange>,
    /// Namespaces that may have writes under way.
    before: Vec<Weak<Namespace>>,
    done: Done,
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<Job>,
    /// Everything not cleared yet, those waiting included.
    ranges: BTreeMap<u64, Vec<Range>>,
    workers: usize,
    next: u64,
}

/// Extents that are being cleared.
#[derive(Clone, Default)]
pub(super) struct Clearing(Arc<Mutex<Inner>>);

impl Clearing {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics between two changes that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A range that is being cleared and overlaps `range`.
    pub(super) fn overlap(&self, range: &Range) -> Option<Range> {
        let inner = self.inner();
        let mut all = inner.ranges.values().flatten();
        all.find(|known| known.overlaps(range)).cloned()
    }

    /// Takes a job, and a reactor to work on it where not enough do.
    fn add(&self, fleet: &Fleet, names: Vec<Range>, make: impl FnOnce(u64) -> Job) {
        let (worker, id) = {
            let mut inner = self.inner();
            let id = inner.next;
            inner.next += 1;
            inner.ranges.insert(id, names);
            inner.waiting.push_back(make(id));
            if inner.workers >= JOBS_MAX {
                return;
            }
            inner.workers += 1;
            (self.clone(), id)
        };
        let unfinished = Worker(worker);
        let reactors = fleet.reactors();
        let turn = usize::try_from(id).unwrap_or(0) % reactors.len().max(1);
        let sent = reactors.get(turn).is_some_and(|reactor| {
            reactor.run(move || {
                penstock_reactor::spawn(unfinished.work());
            })
        });
        if !sent {
            // The worker is counted out by its drop; another job's worker, or the next, goes on.
            tracing::error!("no reactor takes the work of clearing extents");
            if self.inner().workers == 0 {
                self.fail_all();
            }
        }
    }

    fn fail_all(&self) {
        let jobs = std::mem::take(&mut self.inner().waiting);
        for job in jobs {
            let message = "no reactor takes the work of clearing; see the log";
            self.end(job, Err(ManagedError::new("DeviceError", message)));
        }
    }

    fn end(&self, job: Job, result: Result<(), ManagedError>) {
        self.inner().ranges.remove(&job.id);
        (job.done)(result);
    }
}

/// Works on jobs while there are any; counted out when it is dropped.
struct Worker(Clearing);

impl Worker {
    async fn work(self) {
        loop {
            let job = {
                let mut inner = self.0.inner();
                inner.waiting.pop_front()
            };
            let Some(job) = job else { return };
            let result = clear(&job).await;
            self.0.end(job, result);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.inner().workers -= 1;
    }
}

async fn clear(job: &Job) -> Result<(), ManagedError> {
    for namespace in job.before.iter().filter_map(Weak::upgrade) {
        if !namespace.drained().await {
            let message = "writes to a namespace that was removed could not be waited for; try \
                           again";
            return Err(ManagedError::new("DeviceError", message));
        }
    }
    for range in &job.ranges {
        zero(range).await.map_err(|error| {
            let message = format!(
                "{} bytes at {} of device {} could not be cleared: {error}; see the node's log",
                range.length_bytes,
                range.offset_bytes,
                range.device.name()
            );
            ManagedError::new("DeviceError", message)
        })?;
    }
    Ok(())
}

/// Makes a range read as zeroes, durable when it returns.
async fn zero(range: &DeviceRange) -> Result<(), BlockError> {
    let geometry = range.device.geometry();
    let queue = Arc::clone(&range.device).open()?;
    let gives_back = geometry.deallocate && geometry.deallocated_reads_zero;
    let piece_bytes = match gives_back {
        true => PIECE_BYTES,
        false => WRITTEN_PIECE_BYTES,
    };
    let size = geometry.block_size;
    let lba = |bytes: u64| Lba(bytes >> size.shift());
    let zeroes = Op::WriteZeroes {
        fua: false,
        may_deallocate: true,
    };
    let mut done = 0;
    while done < range.length_bytes {
        let piece = piece_bytes.min(range.length_bytes - done);
        let at = lba(range.offset_bytes + done);
        submit(queue.as_ref(), zeroes, at, piece >> size.shift()).await?;
        done += piece;
        yield_now().await;
    }
    submit(queue.as_ref(), Op::Flush, Lba(0), 0).await
}

async fn submit(queue: &dyn BlockQueue, op: Op, lba: Lba, blocks: u64) -> Result<(), BlockError> {
    let request = Request {
        op,
        lba,
        blocks,
        payload: Payload::none(),
    };
    queue.submit(request).await.result
}

/// Lets the reactor do everything else first.
async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(move |cx| {
        if std::mem::replace(&mut yielded, true) {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

impl Managed {
    /// Namespaces taken away whose memory is still held somewhere.
    fn retired(&mut self) -> Vec<Weak<Namespace>> {
        self.retired.retain(|known| known.strong_count() > 0);
        self.retired.clone()
    }
}

impl Node {
    /// Clears extents that no open volume has: of a volume that is not open yet, or was closed, or
    /// that one is to grow by. `done` is called on a reactor's thread (or at once where this is
    /// refused): `ExtentConflict`, `LayoutInvalid`, `DeviceMissing`, `DeviceError`. It is dropped
    /// uncalled where the node stops before.
    pub fn clear_extents(&mut self, extents: &[Extent], done: Done) {
        let names = Range::all(extents);
        let checked = names.and_then(|names| Ok((self.managed.to_clear(&names)?, names)));
        let (ranges, names) = match checked {
            Ok(checked) => checked,
            Err(error) => return done(Err(error)),
        };
        let before = self.managed.retired();
        self.managed.clearing.add(&self.fleet, names, |id| Job {
            id,
            ranges,
            before,
            done,
        });
    }
}

impl Managed {
    /// Ranges on their devices, which must have them, and which no open volume may have.
    fn to_clear(&self, names: &[Range]) -> Result<Vec<DeviceRange>, ManagedError> {
        let ranges = self.device_ranges(names)?;
        for (range, name) in ranges.iter().zip(names) {
            self.check_not_in_use(name, None)?;
            let size = range.device.geometry().size_bytes();
            if range.offset_bytes + range.length_bytes > size {
                let message = format!("{name} are outside the device's {size} bytes");
                return Err(ManagedError::new("LayoutInvalid", message));
            }
        }
        Ok(ranges)
    }
}
