//! A drive: its controller, its keeper, and a queue pair for every reactor.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use penstock_async_nvme::pci::{Host, PciAddress};
use penstock_async_nvme::vfio::{Device, DeviceError, Interrupts, OpenError, OpenOptions};
use penstock_async_nvme::{
    CmbError, Controller, ControllerConfig, ControllerError, ControllerMemory, Driver,
    DriverChoice, Identity, Namespace, QueueInterrupt, Regions, Sleeping, SpdkOptions,
};
use penstock_block::BlockError;
use penstock_reactor::{Polled, Poller, PollerGuard};
use penstock_units::{BlockSize, Nsid};

use super::NvmeDevice;
use super::keeper::{Keeper, Kept, Share};
use super::queue::Pair;

/// How a drive is used.
#[derive(Clone, Debug)]
pub struct NvmeDriveConfig {
    /// Whose driver drives it.
    pub driver: DriverChoice,
    /// Reactors that will use it: as many queue pairs are made.
    pub reactors: u16,
    /// Entries of each queue pair.
    pub queue_entries: u16,
    /// How long a command may take before it is aborted, in milliseconds.
    pub io_timeout_ms: u32,
    /// Whether submission queues go into the drive's own memory where it takes them there.
    pub submission_in_controller: bool,
    /// How much of the drive's own memory is for what hosts write, in bytes, all reactors together; 0
    /// for none.
    pub payload_in_controller_bytes: u64,
    /// Whether the drive interrupts, so that reactors may sleep while it works. They poll where it
    /// has too few interrupts.
    pub interrupts: bool,
}

impl Default for NvmeDriveConfig {
    /// Our own driver, one reactor, 1024 entries, 30 s, queues and payload in host memory, no
    /// interrupts.
    fn default() -> NvmeDriveConfig {
        NvmeDriveConfig {
            driver: DriverChoice::Own,
            reactors: 1,
            queue_entries: 1024,
            io_timeout_ms: 30_000,
            submission_in_controller: false,
            payload_in_controller_bytes: 0,
            interrupts: false,
        }
    }
}

/// Why a drive or one of its namespaces cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// The controller.
    #[error("drive {name}: {source}")]
    Controller {
        /// Name of the drive.
        name: String,
        /// What it says.
        source: ControllerError,
    },
    /// The driver asked for is not part of this program.
    #[error(
        "drive {name}: this program was built without SPDK; build it with `--features spdk`, or use driver = \"penstock\" in [nvme]"
    )]
    NoSpdk {
        /// Name of the drive.
        name: String,
    },
    /// SPDK cannot drive it.
    #[cfg(feature = "spdk")]
    #[error(transparent)]
    Spdk(#[from] penstock_async_nvme::spdk::SpdkError),
    /// The kernel does not hand it over.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its own memory cannot be reached.
    #[error(
        "drive {name}: its controller memory cannot be mapped: {source}; switch its use off, or use another drive"
    )]
    ControllerMemory {
        /// Name of the drive.
        name: String,
        /// What the kernel said.
        source: DeviceError,
    },
    /// No such namespace.
    #[error("drive {name} has no namespace {nsid}; it has {}", list(.has))]
    NoNamespace {
        /// Name of the drive.
        name: String,
        /// The namespace asked for.
        nsid: Nsid,
        /// Those there are.
        has: Vec<u32>,
    },
    /// A format this project does not serve.
    #[error(
        "drive {name}, namespace {nsid}: blocks of {block_bytes} bytes with {metadata_bytes} bytes of metadata cannot be served; format it with one of {}", list(.usable)
    )]
    Format {
        /// Name of the drive.
        name: String,
        /// The namespace.
        nsid: Nsid,
        /// Its block size.
        block_bytes: u64,
        /// Its metadata.
        metadata_bytes: u16,
        /// LBA formats that could be served.
        usable: Vec<u32>,
    },
    /// The keeper's thread could not be started.
    #[error("drive {name}: cannot start its thread: {source}; raise the limit on threads")]
    Thread {
        /// Name of the drive.
        name: String,
        /// What the kernel said.
        source: std::io::Error,
    },
}

fn list(numbers: &[u32]) -> String {
    if numbers.is_empty() {
        return "none".to_owned();
    }
    let words: Vec<String> = numbers.iter().map(u32::to_string).collect();
    words.join(", ")
}

/// A controller in use.
pub struct NvmeDrive {
    name: String,
    identity: Identity,
    regions: Arc<Regions>,
    memory: DriveMemory,
    kept: Arc<Kept>,
    keeper: Keeper,
}

/// What is held open of a PCI device, to be given back in this order.
pub struct Held {
    pub(super) interrupts: Option<Interrupts>,
    pub(super) device: Device,
}

impl Held {
    /// Gives it back, behind the reactors: none of them may be the last to let go. May block.
    pub(super) fn close(self, limit: Duration) {
        drop(self.interrupts);
        self.device.close(limit);
    }
}

thread_local! {
    /// This reactor's queue pairs, each with what keeps it polled.
    static PAIRS: RefCell<Vec<(Rc<Pair>, PollerGuard)>> = const { RefCell::new(Vec::new()) };
}

impl NvmeDrive {
    /// Opens the drive at a PCI address, which must be bound to vfio-pci. May block.
    ///
    /// # Errors
    /// [`DriveError`].
    pub fn open_pci(
        address: PciAddress,
        config: &NvmeDriveConfig,
    ) -> Result<Arc<NvmeDrive>, DriveError> {
        let name = address.to_string();
        let options = OpenOptions::default();
        if let DriverChoice::Spdk(spdk) = config.driver {
            return open_spdk(address, &options.host, spdk, config);
        }
        let device = Device::open(&address, &options)?;
        let error = |source| DriveError::Controller {
            name: name.clone(),
            source,
        };
        let mut controller = Controller::start(
            device.bar0(),
            Arc::new(Regions::new(device.mapper())),
            Arc::new(Sleeping::default()),
            controller_config(address, &options.host, config),
        )
        .map_err(error)?;
        if config.submission_in_controller || config.payload_in_controller_bytes > 0 {
            use_controller_memory(&name, &device, &mut controller)?;
        }
        let interrupts = config
            .interrupts
            .then(|| interrupts(&name, &device, config.reactors))
            .flatten();
        let of_queues = interrupts.as_ref().map_or_else(Vec::new, of_queues);
        let held = Held { interrupts, device };
        NvmeDrive::start(name, controller, Some(held), of_queues, config)
    }

    /// Takes a controller into use, which must have been started for as many queue pairs as there
    /// are reactors, and with its own memory in use if any of it is asked for. `held` is where it
    /// came from, if it is a PCI device. The queue pairs interrupt as `interrupts` has it; those that
    /// it is too short for are polled. May block.
    ///
    /// # Errors
    /// [`DriveError`].
    pub fn start(
        name: String,
        mut controller: impl Driver + 'static,
        held: Option<Held>,
        interrupts: Vec<QueueInterrupt>,
        config: &NvmeDriveConfig,
    ) -> Result<Arc<NvmeDrive>, DriveError> {
        let (shares, memory) =
            shares(&name, &mut controller, interrupts, config).map_err(|source| {
                DriveError::Controller {
                    name: name.clone(),
                    source,
                }
            })?;
        let interrupted = shares.iter().filter(|it| it.parts.event().is_some());
        let with_interrupts = interrupted.count();
        let identity = controller.identity().clone();
        let regions = Arc::clone(controller.regions());
        let kept = Arc::new(Kept::new(name.clone(), Box::new(controller), held, shares));
        let keeper = Keeper::start(Arc::clone(&kept)).map_err(|source| DriveError::Thread {
            name: name.clone(),
            source,
        })?;
        tracing::info!(
            drive = name,
            model = identity.model,
            serial = identity.serial,
            firmware = identity.firmware,
            queues = config.reactors,
            with_interrupts,
            payload_in_drive_memory_bytes = memory.payload_bytes,
            "drive in use"
        );
        Ok(Arc::new(NvmeDrive {
            name,
            identity,
            regions,
            memory,
            kept,
            keeper,
        }))
    }

    /// Name for logs and metrics.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the controller is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What there is of the drive's own memory, and who has it.
    pub fn memory(&self) -> DriveMemory {
        self.memory
    }

    /// What the keeper knows: health, resets, errors.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// The namespaces attached to the controller now. May block.
    ///
    /// # Errors
    /// [`DriveError::Controller`].
    pub fn namespaces(&self) -> Result<Vec<Namespace>, DriveError> {
        self.kept
            .with_controller(|controller| controller.namespaces())
            .map_err(|source| self.error(source))
    }

    /// Opens a namespace. May block.
    ///
    /// # Errors
    /// [`DriveError`].
    pub fn open(self: &Arc<Self>, nsid: Nsid) -> Result<Arc<NvmeDevice>, DriveError> {
        let found = self
            .kept
            .namespace(nsid)
            .map_err(|source| self.error(source))?;
        let Some(namespace) = found else {
            let all = self.namespaces()?;
            return Err(DriveError::NoNamespace {
                name: self.name.clone(),
                nsid,
                has: all.iter().map(|namespace| namespace.nsid.get()).collect(),
            });
        };
        let block_size = namespace
            .block_size
            .ok_or_else(|| self.unusable(&namespace))?;
        let blocks = Arc::new(AtomicU64::new(namespace.blocks));
        self.kept.watch(nsid, Arc::clone(&blocks));
        Ok(Arc::new(NvmeDevice {
            name: format!("{}/{nsid}", self.name),
            drive: Arc::clone(self),
            namespace,
            block_size,
            blocks,
        }))
    }

    fn error(&self, source: ControllerError) -> DriveError {
        DriveError::Controller {
            name: self.name.clone(),
            source,
        }
    }

    fn unusable(&self, namespace: &Namespace) -> DriveError {
        let can_serve = |format: &&penstock_async_nvme::Format| {
            format.metadata_bytes == 0
                && u32::try_from(format.block_bytes)
                    .ok()
                    .and_then(BlockSize::from_bytes)
                    .is_some()
        };
        DriveError::Format {
            name: self.name.clone(),
            nsid: namespace.nsid,
            block_bytes: namespace.format.block_bytes,
            metadata_bytes: namespace.format.metadata_bytes,
            usable: namespace
                .formats
                .iter()
                .filter(can_serve)
                .map(|format| u32::from(format.index))
                .collect(),
        }
    }

    /// This reactor's queue pair on the drive, opened when first asked for.
    pub(super) fn queue_of_this_reactor(self: &Arc<Self>) -> Result<Rc<Pair>, BlockError> {
        let known = PAIRS.with_borrow(|pairs| {
            let mut pairs = pairs.iter().map(|(pair, _)| pair);
            pairs.find(|pair| pair.is_of(&self.kept)).map(Rc::clone)
        });
        if let Some(pair) = known {
            return Ok(pair);
        }
        let Some(share) = self.kept.take_share() else {
            if self.kept.is_gone() {
                return Err(BlockError::Gone);
            }
            tracing::error!(drive = self.name, "no queue pair is left for this reactor");
            return Err(BlockError::NoResources);
        };
        let event = share.parts.event().cloned();
        let pair = Pair::open(share, &self.kept, &self.regions, self.identity.write_zeroes)?;
        self.kept.add_reactor(penstock_reactor::current());
        let poller = Rc::new(PairPoller(Rc::clone(&pair)));
        let guard = match event {
            Some(event) => penstock_reactor::add_poller_with_event(poller, event),
            None => penstock_reactor::add_poller(poller),
        };
        PAIRS.with_borrow_mut(|pairs| pairs.push((Rc::clone(&pair), guard)));
        Ok(pair)
    }

    /// Takes the drive out of use: requests in flight fail, the controller is shut down. May block
    /// for as long as the drive takes. Dropping the last handle does the same, without a word on what
    /// went wrong.
    ///
    /// # Errors
    /// [`DriveError::Controller`].
    pub fn shut_down(&self) -> Result<(), DriveError> {
        self.keeper.stop();
        self.kept.shut_down().map_err(|source| self.error(source))
    }
}

impl Drop for NvmeDrive {
    fn drop(&mut self) {
        let (keeper, kept) = (self.keeper.clone(), Arc::clone(&self.kept));
        let take_down = move || {
            keeper.stop();
            if let Err(error) = kept.shut_down() {
                tracing::warn!(drive = kept.name(), %error, "the drive was not shut down in order");
            }
        };
        if penstock_reactor::current_id().is_none() {
            take_down();
            return;
        }
        // A reactor must not wait, least of all for itself to let go of its queue pair.
        let thread = std::thread::Builder::new().name("nvme-shutdown".to_owned());
        if let Err(error) = thread.spawn(take_down) {
            tracing::error!(drive = self.name, %error, "the drive stays up: no thread to end it");
        }
    }
}

/// Memory of a drive's own, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriveMemory {
    /// All that is in use of it: 0 where the drive has none, or is not to use it.
    pub total_bytes: usize,
    /// For submission queues.
    pub queue_bytes: usize,
    /// For payload.
    pub payload_bytes: usize,
}

/// What each reactor gets of a drive: a queue pair, and as much of its memory as all others.
fn shares(
    name: &str,
    controller: &mut impl Driver,
    interrupts: Vec<QueueInterrupt>,
    config: &NvmeDriveConfig,
) -> Result<(Vec<Share>, DriveMemory), ControllerError> {
    let mut interrupts = interrupts.into_iter();
    let parts = (0..config.reactors)
        .map(|_| match interrupts.next() {
            Some(interrupt) => controller.create_queue_with_interrupt(interrupt),
            None => controller.create_queue(),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let own = controller.controller_memory().map(Arc::clone);
    let mut memory = DriveMemory::default();
    if let Some(own) = &own {
        memory.total_bytes = own.len_bytes();
        memory.queue_bytes = own.len_bytes() - own.free_bytes();
    }
    let asked = usize::try_from(config.payload_in_controller_bytes).unwrap_or(usize::MAX);
    let own = own.filter(|own| asked > 0 && own.abilities().write_data);
    if asked > 0 && own.is_none() {
        tracing::warn!(
            drive = name,
            "the drive has no memory that takes what hosts write; it goes through host memory"
        );
    }
    let each = asked / usize::from(config.reactors.max(1));
    let share = |parts| {
        let memory = own.as_ref().map(|own| own.take(each)).transpose()?;
        Ok(Share { parts, memory })
    };
    let shares = parts
        .into_iter()
        .map(share)
        .collect::<Result<Vec<_>, CmbError>>()?;
    let runs = shares.iter().filter_map(|share| share.memory.as_ref());
    memory.payload_bytes = runs.map(ControllerMemory::len).sum();
    Ok((shares, memory))
}

/// Switches a vector on for every queue pair. `None`, and a word on it, where that cannot be: then
/// the queue pairs are polled.
fn interrupts(name: &str, device: &Device, reactors: u16) -> Option<Interrupts> {
    // The first is the admin queue's.
    match device.interrupts(u32::from(reactors) + 1) {
        Ok(interrupts) => Some(interrupts),
        Err(error) => {
            tracing::warn!(
                drive = name,
                %error,
                "no interrupts from the drive: reactors poll while it works"
            );
            None
        }
    }
}

/// One vector a queue pair.
fn of_queues(interrupts: &Interrupts) -> Vec<QueueInterrupt> {
    (1..)
        .map_while(|vector: u16| {
            let event = interrupts.event(usize::from(vector))?.clone();
            Some(QueueInterrupt { vector, event })
        })
        .collect()
}

fn controller_config(
    address: PciAddress,
    host: &Host,
    config: &NvmeDriveConfig,
) -> ControllerConfig {
    ControllerConfig {
        io_queues: config.reactors,
        queue_entries: config.queue_entries,
        io_timeout_ms: config.io_timeout_ms,
        numa_node: host.drive(address).ok().and_then(|drive| drive.numa_node),
        submission_in_controller: config.submission_in_controller,
        ..ControllerConfig::default()
    }
}

#[cfg(feature = "spdk")]
fn open_spdk(
    address: PciAddress,
    host: &Host,
    spdk: SpdkOptions,
    config: &NvmeDriveConfig,
) -> Result<Arc<NvmeDrive>, DriveError> {
    let of_controller = controller_config(address, host, config);
    let controller =
        penstock_async_nvme::spdk::SpdkController::start(address, host, spdk, of_controller)?;
    NvmeDrive::start(address.to_string(), controller, None, Vec::new(), config)
}

#[cfg(not(feature = "spdk"))]
fn open_spdk(
    address: PciAddress,
    _host: &Host,
    _spdk: SpdkOptions,
    _config: &NvmeDriveConfig,
) -> Result<Arc<NvmeDrive>, DriveError> {
    Err(DriveError::NoSpdk {
        name: address.to_string(),
    })
}

/// Maps the controller memory buffer and gives it to the controller; nothing where there is none.
fn use_controller_memory(
    name: &str,
    device: &Device,
    controller: &mut Controller,
) -> Result<(), DriveError> {
    let Some(layout) = controller.controller_memory_layout() else {
        tracing::info!(drive = name, "the drive has no controller memory buffer");
        return Ok(());
    };
    let (mapping, address) =
        device
            .controller_memory(&layout)
            .map_err(|source| DriveError::ControllerMemory {
                name: name.to_owned(),
                source,
            })?;
    controller
        .use_controller_memory(mapping, address)
        .map(|_| ())
        .map_err(|source| DriveError::Controller {
            name: name.to_owned(),
            source,
        })
}

/// Polls a pair until its drive is gone and nothing is left to answer.
struct PairPoller(Rc<Pair>);

impl Poller for PairPoller {
    fn poll(&self) -> Polled {
        let polled = self.0.poll();
        if self.0.is_over() {
            let over = PAIRS.with_borrow_mut(|pairs| {
                let index = pairs.iter().position(|(pair, _)| Rc::ptr_eq(pair, &self.0));
                index.map(|index| pairs.swap_remove(index))
            });
            drop(over);
        }
        polled
    }

    fn may_sleep_ns(&self) -> Option<u64> {
        self.0.may_sleep_ns()
    }
}
