//! `dataset`: writes and reads a data set shaped as MLPerf Storage's 3D-UNet, the way a training
//! job would: whole samples, in shuffled order, epoch after epoch. Every byte read is checked.

mod index;
mod plan;
mod progress;
mod pump;
mod report;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use clap::{Args, Subcommand};
use penstock_buffer::Pool;
use penstock_client::IoQueue;
use penstock_units::{Lba, Nsid, QueueId};

use crate::cpu;
use crate::host::{Target, parse_nsid};
use crate::runtime::{Poll, Reactors, pool_for};
use crate::session::{Geometry, Opened, Session};
use crate::size;
use index::Index;
use plan::Shape;
use progress::{Display, Extent, Show};
use pump::{Direction, Done, Job, Part, Progress};
use report::Report;

/// Arguments of `dataset`.
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Write a data set; DESTROYS what the namespaces hold
    Write(WriteArguments),
    /// Read a data set in shuffled order and check every byte
    Read(ReadArguments),
}

#[derive(Args, Debug)]
struct Common {
    #[command(flatten)]
    target: Target,
    /// Subsystem NQN
    #[arg(long)]
    nqn: String,
    /// Namespaces, such as 1 or 1,2; samples are spread over them
    #[arg(long, default_value = "1", value_parser = parse_nsid, value_delimiter = ',')]
    nsid: Vec<Nsid>,
    /// I/O queue pairs (TCP connections), spread over the cores
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1024))]
    queue_pairs: u16,
    /// Requests in flight on each queue pair
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    queue_depth: u16,
    /// Bytes of one request, a multiple of 4096; the controller's MDTS where that is less
    #[arg(long, default_value = "1MiB", value_parser = size::parse, value_name = "BYTES")]
    block_size_bytes: u64,
    /// CPUs to run on, one reactor each; one reactor anywhere where not given
    #[arg(long, value_delimiter = ',', value_name = "CPUS")]
    cores: Vec<usize>,
    /// What idle reactors do
    #[arg(long, value_enum, default_value_t)]
    poll: Poll,
    /// How progress is shown
    #[arg(long, value_enum, default_value_t)]
    progress: Show,
    /// Write the result as one JSON object to this file
    #[arg(long, value_name = "FILE")]
    json_file: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(after_long_help = report::JSON_HELP)]
struct WriteArguments {
    #[command(flatten)]
    common: Common,
    /// Number of samples
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    samples: u32,
    /// Mean length of a sample
    #[arg(long, default_value = "32MiB", value_parser = size::parse, value_name = "BYTES")]
    sample_mean_bytes: u64,
    /// Standard deviation of the length in percent of the mean
    #[arg(long, default_value_t = 47.0, value_parser = percent)]
    sample_deviation_percent: f64,
    /// Seed of lengths and content
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Args, Debug)]
#[command(after_long_help = report::JSON_HELP)]
struct ReadArguments {
    #[command(flatten)]
    common: Common,
    /// How many times to read everything
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    epochs: u32,
    /// Seed of the order
    #[arg(long, default_value_t = 1)]
    shuffle_seed: u64,
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|n| (0.0..=200.0).contains(n));
    number.ok_or_else(|| format!("`{text}` is no percentage from 0 to 200"))
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match &arguments.action {
        Action::Write(arguments) => write(arguments),
        Action::Read(arguments) => read(arguments),
    }
}

/// Queue pairs for the index, besides those for the data: one before the data, one after it, each
/// with an identifier of its own so that none is used again while its end is still being handled.
const INDEX_QUEUES: u16 = 2;

/// What both directions work with.
struct Bench<'a> {
    common: &'a Common,
    reactors: Reactors,
    session: Session,
    request_bytes: u64,
}

impl<'a> Bench<'a> {
    fn open(common: &'a Common) -> anyhow::Result<Bench<'a>> {
        let options = common.target.options(&common.nqn)?;
        let reactors = Reactors::start(&common.cores, common.poll)?;
        ensure!(
            reactors.count() <= usize::from(common.queue_pairs),
            "{} cores have only {} queue pairs to serve: give at least as many --queue-pairs",
            reactors.count(),
            common.queue_pairs
        );
        let queues = common.queue_pairs.saturating_add(INDEX_QUEUES);
        let session = Session::open(&reactors, &options, queues, &common.nsid)?;
        let limit = session.opened.info.transfer_max_bytes.unwrap_or(u64::MAX);
        let request_bytes = common.block_size_bytes.min(limit);
        ensure!(
            request_bytes >= plan::ALIGN_BYTES && request_bytes.is_multiple_of(plan::ALIGN_BYTES),
            "requests of {request_bytes} bytes are no multiple of {}: choose another --block-size-bytes",
            plan::ALIGN_BYTES
        );
        for geometry in &session.opened.namespaces {
            let blocks = crate::session::blocks_of(request_bytes, geometry, &session.opened.info)?;
            tracing::debug!(nsid = %geometry.nsid, blocks, "blocks of a request");
        }
        Ok(Bench {
            common,
            reactors,
            session,
            request_bytes,
        })
    }

    fn opened(&self) -> &Opened {
        &self.session.opened
    }

    /// Runs work for the index on a queue pair of its own: `turn` 0 or 1.
    fn index_work<T: Send + 'static, F>(
        &self,
        turn: u16,
        work: impl FnOnce(IndexQueue) -> F + Send + 'static,
    ) -> anyhow::Result<T>
    where
        F: Future<Output = anyhow::Result<T>> + 'static,
    {
        let id = QueueId(self.common.queue_pairs + 1 + turn);
        let (info, request_bytes) = (self.opened().info.clone(), self.request_bytes);
        self.reactors.run_here(
            pool_for(2, request_bytes),
            Box::new(move |pool| {
                Box::pin(async move {
                    let queue = IoQueue::connect(&info, id, 2, &pool).await?;
                    let index = IndexQueue {
                        queue: queue.clone(),
                        pool,
                        request_bytes,
                    };
                    let result = work(index).await?;
                    queue.disconnect().await?;
                    Ok(result)
                })
            }),
        )
    }

    /// Moves the parts and shows progress; gives what was done and the CPU time it took.
    fn pump(
        &self,
        direction: Direction,
        parts: &Arc<Vec<Part>>,
        epochs: &[Vec<usize>],
    ) -> anyhow::Result<(Vec<Done>, Option<Duration>)> {
        let progress = Arc::new(Progress::default());
        let (common, count) = (self.common, self.reactors.count());
        let mut results = Vec::new();
        for index in 0..count {
            let ids: Vec<u16> = (1..=common.queue_pairs)
                .skip(index)
                .step_by(count)
                .collect();
            let own = epochs
                .iter()
                .map(|e| e.iter().copied().skip(index).step_by(count).collect());
            let job = Job {
                direction,
                parts: Arc::clone(parts),
                epochs: own.collect(),
                request_bytes: self.request_bytes,
                queue_depth: common.queue_depth,
            };
            let leases = ids.len() as u64 * u64::from(common.queue_depth);
            let (info, theirs) = (self.opened().info.clone(), Arc::clone(&progress));
            let work = move |pool: Pool| pump::work(job, info, ids, theirs, pool);
            let pool = pool_for(leases, self.request_bytes);
            let work = Box::new(move |pool| Box::pin(work(pool)) as _);
            results.push(self.reactors.run(index, pool, work)?);
        }
        let bytes: u64 = parts.iter().map(|p| p.entry.length).sum();
        let epoch_count = u32::try_from(epochs.len())?;
        let extent = Extent {
            phase: if direction == Direction::Write {
                "write"
            } else {
                "read"
            },
            epochs: epoch_count,
            samples: (parts.len() * epochs.len()) as u64,
            bytes: bytes * u64::from(epoch_count),
        };
        watch(&results, &progress, Display::new(common.progress, extent)?)
    }

    fn report(&self, report: &Report) -> anyhow::Result<()> {
        let common = self.common;
        if let Some(file) = &common.json_file {
            std::fs::write(file, serde_json::to_string_pretty(report)? + "\n")
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        report.print(common.progress == Show::Json)
    }
}

/// Waits for the reactors and shows progress meanwhile.
fn watch(
    results: &[Receiver<anyhow::Result<Done>>],
    progress: &Progress,
    mut display: Display,
) -> anyhow::Result<(Vec<Done>, Option<Duration>)> {
    const INTERVAL: Duration = Duration::from_millis(20);
    let mut done: Vec<Option<Done>> = results.iter().map(|_| None).collect();
    let mut failure = None;
    let mut before = None;
    let mut after = None;
    let mut left = results.len();
    while left > 0 {
        if before.is_none() && progress.ready.load(Ordering::Acquire) == results.len() {
            before = Some(cpu::used());
            progress.go.store(true, Ordering::Release);
        }
        for (result, done) in results
            .iter()
            .zip(done.iter_mut())
            .filter(|(_, d)| d.is_none())
        {
            match result.try_recv() {
                Ok(Ok(found)) => {
                    *done = Some(found);
                    left -= 1;
                }
                // The others stop at their next request.
                Ok(Err(error)) => {
                    failure.get_or_insert(error);
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => {
                    failure.get_or_insert_with(|| anyhow!("a reactor ended early"));
                }
            }
        }
        if let Some(failure) = failure {
            progress.failed.store(true, Ordering::Relaxed);
            return Err(failure);
        }
        after = cpu::used();
        display.update(progress)?;
        if left > 0 {
            std::thread::sleep(INTERVAL);
        }
    }
    display.finish(progress)?;
    let cpu = before
        .flatten()
        .zip(after)
        .map(|(before, after)| after.saturating_sub(before));
    Ok((done.into_iter().flatten().collect(), cpu))
}

fn write(arguments: &WriteArguments) -> anyhow::Result<()> {
    let bench = Bench::open(&arguments.common)?;
    let shape = Shape {
        samples: arguments.samples,
        mean_bytes: arguments.sample_mean_bytes,
        deviation_percent: arguments.sample_deviation_percent,
        seed: arguments.seed,
    };
    let namespaces = bench.opened().namespaces.clone();
    let layout = plan::lay_out(&shape, &namespaces)?;
    let mut parts = Vec::new();
    for (geometry, entries) in namespaces.iter().zip(layout) {
        parts.extend(entries.into_iter().map(|entry| Part {
            geometry: *geometry,
            entry,
        }));
    }
    parts.sort_by_key(|part| part.entry.sample);
    let parts = Arc::new(parts);
    let places = namespaces.clone();
    bench.index_work(
        0,
        move |queue| async move { queue.invalidate(&places).await },
    )?;
    let order: Vec<usize> = (0..parts.len()).collect();
    let (done, cpu) = bench.pump(Direction::Write, &parts, &[order])?;
    let mut parts = parts.to_vec();
    for (part, checksum) in done.iter().flat_map(|done| &done.checksums) {
        parts[*part].entry.crc32c = *checksum;
    }
    let indexes = indexes_of(&shape, &namespaces, &parts)?;
    bench.index_work(
        1,
        move |queue| async move { queue.write_all(&indexes).await },
    )?;
    let report = Report::new(&bench, "write", &parts, &done, cpu)?;
    bench.report(&report)?;
    bench.session.close()
}

fn indexes_of(
    shape: &Shape,
    namespaces: &[Geometry],
    parts: &[Part],
) -> anyhow::Result<Vec<(Geometry, Vec<u8>)>> {
    let mut indexes = Vec::new();
    for (ordinal, geometry) in (0..).zip(namespaces) {
        let own = parts
            .iter()
            .filter(|part| part.geometry.nsid == geometry.nsid);
        let index = Index {
            samples: shape.samples,
            ordinal,
            namespaces: u32::try_from(namespaces.len())?,
            seed: shape.seed,
            entries: own.map(|part| part.entry).collect(),
        };
        indexes.push((*geometry, index.encode()?));
    }
    Ok(indexes)
}

fn read(arguments: &ReadArguments) -> anyhow::Result<()> {
    let bench = Bench::open(&arguments.common)?;
    let namespaces = bench.opened().namespaces.clone();
    let found = bench.index_work(
        0,
        move |queue| async move { queue.read_all(&namespaces).await },
    )?;
    let mut parts = Vec::new();
    let count = u32::try_from(found.len())?;
    let samples = found.first().map_or(0, |(_, index)| index.samples);
    for (geometry, index) in &found {
        ensure!(
            index.namespaces == count && index.samples == samples,
            "namespace {} belongs to a data set of {} samples on {} namespaces: name the same --nsid as when writing",
            geometry.nsid,
            index.samples,
            index.namespaces
        );
        parts.extend(index.entries.iter().map(|entry| Part {
            geometry: *geometry,
            entry: *entry,
        }));
    }
    parts.sort_by_key(|part| part.entry.sample);
    let whole = (0..samples).eq(parts.iter().map(|part| part.entry.sample));
    ensure!(
        whole,
        "the indexes do not make up one data set of {samples} samples: write it anew"
    );
    for part in &parts {
        let end = part.entry.offset.checked_add(part.entry.length);
        ensure!(
            part.entry.length > 0 && end.is_some_and(|end| end <= part.geometry.bytes()),
            "sample {} lies outside namespace {}: write the data set anew",
            part.entry.sample,
            part.geometry.nsid
        );
    }
    let parts = Arc::new(parts);
    let order =
        |epoch: u32| plan::shuffled(parts.len(), arguments.shuffle_seed ^ u64::from(epoch) << 32);
    let epochs: Vec<Vec<usize>> = (1..=arguments.epochs).map(order).collect();
    let (done, cpu) = bench.pump(Direction::Read, &parts, &epochs)?;
    let report = Report::new(&bench, "read", &parts, &done, cpu)?;
    bench.report(&report)?;
    bench.session.close()
}

/// A queue pair for indexes.
struct IndexQueue {
    queue: IoQueue,
    pool: Pool,
    request_bytes: u64,
}

impl IndexQueue {
    /// Makes sure that no old index describes what is about to be overwritten.
    async fn invalidate(&self, namespaces: &[Geometry]) -> anyhow::Result<()> {
        for geometry in namespaces {
            let zeroes = vec![0; geometry.block_size.bytes() as usize];
            self.write(geometry, &zeroes).await?;
            self.queue.flush(geometry.nsid).await?;
        }
        Ok(())
    }

    /// Makes the data durable, then the indexes.
    async fn write_all(&self, indexes: &[(Geometry, Vec<u8>)]) -> anyhow::Result<()> {
        for (geometry, bytes) in indexes {
            self.queue.flush(geometry.nsid).await?;
            self.write(geometry, bytes).await?;
            self.queue.flush(geometry.nsid).await?;
        }
        Ok(())
    }

    async fn write(&self, geometry: &Geometry, bytes: &[u8]) -> anyhow::Result<()> {
        let piece_bytes = usize::try_from(self.request_bytes)?;
        let block = geometry.block_size.bytes() as usize;
        for (number, piece) in bytes.chunks(piece_bytes).enumerate() {
            let len = piece.len().next_multiple_of(block);
            let lease = self.pool.lease(len).await;
            lease.fill(0);
            lease.write_at(0, piece);
            let lba = Lba((number * piece_bytes / block) as u64);
            let blocks = u32::try_from(len / block)?;
            self.queue
                .write(geometry.nsid, lba, blocks, lease, true)
                .await?;
        }
        Ok(())
    }

    async fn read_all(&self, namespaces: &[Geometry]) -> anyhow::Result<Vec<(Geometry, Index)>> {
        let mut all = Vec::new();
        for geometry in namespaces {
            let read = async {
                let first = self.read(geometry, plan::ALIGN_BYTES).await?;
                Index::decode(&self.read(geometry, Index::region_of(&first)?).await?)
            };
            let context = || format!("namespace {}", geometry.nsid);
            all.push((*geometry, read.await.with_context(context)?));
        }
        Ok(all)
    }

    async fn read(&self, geometry: &Geometry, len: u64) -> anyhow::Result<Vec<u8>> {
        let block = geometry.block_size.bytes_u64();
        let len = len.next_multiple_of(block);
        if len > geometry.bytes() {
            bail!("it is too small for the index it claims to have");
        }
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < len {
            let done = bytes.len() as u64;
            let piece = (len - done).min(self.request_bytes);
            let lease = self.pool.lease(usize::try_from(piece)?).await;
            let blocks = u32::try_from(piece / block)?;
            let lease = self
                .queue
                .read(geometry.nsid, Lba(done / block), blocks, lease)
                .await?;
            bytes.extend_from_slice(lease.bytes());
        }
        Ok(bytes)
    }
}
