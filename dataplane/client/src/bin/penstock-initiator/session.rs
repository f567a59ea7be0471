//! A controller held by the first reactor for as long as a tool works.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{anyhow, bail};
use penstock_buffer::{Pool, PoolConfig};
use penstock_client::{ConnectOptions, Controller, ControllerInfo, IoQueue};
use penstock_reactor::sleep;
use penstock_units::{BlockSize, Nsid, QueueId};

use crate::runtime::{Reactors, pool_for};
use crate::size;

/// How often the reactor looks whether the tool is done.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Size and format of a namespace.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    pub nsid: Nsid,
    pub block_size: BlockSize,
    pub blocks: u64,
}

impl Geometry {
    pub fn bytes(&self) -> u64 {
        self.blocks * self.block_size.bytes_u64()
    }
}

/// What the queues need to know.
#[derive(Clone, Debug)]
pub struct Opened {
    pub info: ControllerInfo,
    pub namespaces: Vec<Geometry>,
}

/// An open controller. Dropping it without [`Session::close`] ends the connection abruptly.
pub struct Session {
    pub opened: Opened,
    stop: Arc<AtomicBool>,
    result: Receiver<anyhow::Result<()>>,
}

impl Session {
    /// Connects, asks for `queue_pairs`, and identifies the namespaces (all active ones where none
    /// is named).
    pub fn open(
        reactors: &Reactors,
        options: &ConnectOptions,
        queue_pairs: u16,
        nsids: &[Nsid],
    ) -> anyhow::Result<Session> {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, opened) = channel();
        let (options, nsids, theirs) = (options.clone(), nsids.to_vec(), Arc::clone(&stop));
        let config: PoolConfig = pool_for(0, 0);
        let result = reactors.run(
            0,
            config,
            Box::new(move |pool| {
                Box::pin(
                    async move { hold(options, queue_pairs, nsids, pool, theirs, sender).await },
                )
            }),
        )?;
        match opened.recv() {
            Ok(opened) => Ok(Session {
                opened,
                stop,
                result,
            }),
            // The sender is gone: the holder has failed and says why.
            Err(_) => match result.recv() {
                Ok(Err(error)) => Err(error),
                _ => bail!("the reactor ended while connecting"),
            },
        }
    }

    /// Shuts the controller down in order.
    pub fn close(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.result
            .recv()
            .map_err(|_| anyhow!("the reactor ended before the shutdown was done"))?
    }
}

async fn hold(
    options: ConnectOptions,
    queue_pairs: u16,
    nsids: Vec<Nsid>,
    pool: Pool,
    stop: Arc<AtomicBool>,
    sender: Sender<Opened>,
) -> anyhow::Result<()> {
    let controller = Controller::connect(&options, &pool).await?;
    let granted = controller.request_io_queues(queue_pairs).await?;
    if granted < queue_pairs {
        bail!(
            "the controller grants {granted} I/O queue pairs, not {queue_pairs}: ask for fewer with --queue-pairs"
        );
    }
    let nsids = if nsids.is_empty() {
        controller.active_namespaces().await?
    } else {
        nsids
    };
    let mut namespaces = Vec::new();
    for nsid in nsids {
        let found = controller.identify_namespace(nsid).await?;
        namespaces.push(Geometry {
            nsid,
            block_size: found.block_size,
            blocks: found.blocks,
        });
    }
    // A receiver that is gone means that the tool has given up: then there is nothing to hold.
    if sender
        .send(Opened {
            info: controller.info().clone(),
            namespaces,
        })
        .is_ok()
    {
        while !stop.load(Ordering::Relaxed) {
            sleep(LOOK_INTERVAL).await;
        }
    }
    controller.shut_down().await?;
    Ok(())
}

/// Connects the queues with these identifiers on this reactor.
pub async fn connect_queues(
    info: &ControllerInfo,
    ids: &[u16],
    depth: u16,
    pool: &Pool,
) -> anyhow::Result<Vec<Rc<IoQueue>>> {
    let mut queues = Vec::new();
    for id in ids {
        queues.push(Rc::new(
            IoQueue::connect(info, QueueId(*id), depth, pool).await?,
        ));
    }
    Ok(queues)
}

/// Refuses I/O sizes that the namespace or the controller cannot take; gives the blocks of one I/O.
pub fn blocks_of(io_bytes: u64, geometry: &Geometry, info: &ControllerInfo) -> anyhow::Result<u32> {
    let block = geometry.block_size.bytes_u64();
    if io_bytes == 0 || !io_bytes.is_multiple_of(block) {
        bail!(
            "{} is no multiple of namespace {}'s block size of {block} bytes: choose another --block-size-bytes",
            size::show(io_bytes),
            geometry.nsid
        );
    }
    if let Some(max) = info.transfer_max_bytes
        && io_bytes > max
    {
        bail!(
            "{} is more than the controller takes in one command (MDTS {}): choose a smaller --block-size-bytes",
            size::show(io_bytes),
            size::show(max)
        );
    }
    if io_bytes > geometry.bytes() {
        bail!(
            "namespace {} has only {}: choose a smaller --block-size-bytes",
            geometry.nsid,
            size::show(geometry.bytes())
        );
    }
    match u32::try_from(io_bytes / block) {
        Ok(blocks) if blocks <= 65536 => Ok(blocks),
        _ => bail!(
            "{} are more than 65536 blocks: choose a smaller --block-size-bytes",
            size::show(io_bytes)
        ),
    }
}
