//! A controller: brought up, kept alive, reset, shut down.
//!
//! One thread keeps a controller: it may wait, so everything here does, through [`Pace`]. The queue
//! pairs that [`Controller::create_queue`] gives out belong to the reactors and go on by themselves;
//! keeper and queue pairs meet in a [`Link`] each.

mod admin;
pub(crate) mod cmb;
mod commands;
mod error;
mod identity;
mod pace;
mod pmr;
pub(crate) mod ready;

use std::sync::Arc;

use penstock_nvme::command::{Abort, SetFeatures};
use penstock_nvme::event::AsyncEvent;
use penstock_nvme::feature::FeatureId;
use penstock_nvme::identify::IdentifyController;
use penstock_nvme::log::{ErrorEntry, HealthLog};
use penstock_nvme::pcie::{
    Aqa, CreateQueue, OFFSET_ACQ, OFFSET_AQA, OFFSET_ASQ, cq_doorbell, delete_completion_queue,
    delete_submission_queue, doorbell_buffer_config, format_nvm, sq_doorbell,
};
use penstock_nvme::register::{Cap, OFFSET_VS};
use penstock_units::{Nsid, QueueId};

use crate::bar::Bar;
use crate::cmb::{CmbAbilities, CmbError, CmbLayout, ControllerMapping, ControllerMemoryPool};
use crate::dma::Regions;
use crate::event::Event;
use crate::memory::DeviceMemory;
use crate::queue::{Limits, Link, QueueParts, Shadow, Stage, memory_bytes, submission_bytes};
use admin::AdminQueue;
use commands::nonsense;
pub(crate) use commands::{Admin, Data};
pub use error::ControllerError;
pub use identity::{Format, Identity, Namespace};
pub use pace::{Pace, Sleeping};
pub use pmr::PmrLayout;

/// How a controller is used.
#[derive(Clone, Debug)]
pub struct ControllerConfig {
    /// I/O queue pairs that will be made at most.
    pub io_queues: u16,
    /// Entries of each, at least 2; cut to what the controller takes (CAP.MQES).
    pub queue_entries: u16,
    /// How long an I/O command may take before it is aborted, in milliseconds.
    pub io_timeout_ms: u32,
    /// How long an admin command may take before the controller is reset, in milliseconds.
    pub admin_timeout_ms: u32,
    /// NUMA node of the drive, for the memory of its queues.
    pub numa_node: Option<u32>,
    /// Whether submission queues go into controller memory where the drive takes them there.
    pub submission_in_controller: bool,
    /// Whether to use shadow doorbells where the drive offers them.
    pub shadow_doorbells: bool,
}

impl Default for ControllerConfig {
    /// One queue pair of 256 entries, 30 s for I/O, 60 s for admin commands, host memory, shadow
    /// doorbells where offered.
    fn default() -> ControllerConfig {
        ControllerConfig {
            io_queues: 1,
            queue_entries: 256,
            io_timeout_ms: 30_000,
            admin_timeout_ms: 60_000,
            numa_node: None,
            submission_in_controller: false,
            shadow_doorbells: true,
        }
    }
}

/// What the keeper learnt in a round of [`Controller::service`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The controller told of an event; its log page has been read, so that it may tell again.
    Event(AsyncEvent),
    /// A command that took too long was aborted; whether the controller says it did.
    Aborted {
        /// Its queue.
        queue: QueueId,
        /// Its identifier.
        cid: u16,
        /// Whether the controller aborted it.
        done: bool,
    },
    /// The controller was reset; requests that had not ended are sent again.
    Reset,
    /// The controller is gone for good; every request fails.
    Gone,
}

/// How a queue pair tells that commands have ended, to one who would rather sleep than look.
#[derive(Clone, Debug)]
pub struct QueueInterrupt {
    /// The MSI-X vector, whose number the admin queue's, 0, should not be.
    pub vector: u16,
    /// What the kernel signals when the vector is raised. The controller's keeper signals it too when
    /// it wants something of the queue pair.
    pub event: Event,
}

/// A queue pair as the controller knows it.
struct Pair {
    id: QueueId,
    entries: u16,
    vector: Option<u16>,
    submission_address: u64,
    completion_address: u64,
    link: Arc<Link>,
    /// Whether the controller has it: after a reset it has no more of those that were closed.
    known: bool,
}

/// Shadow doorbells and event indexes, a page each.
struct ShadowPages {
    memory: DeviceMemory,
}

/// A controller that is up.
pub struct Controller {
    bar: Bar,
    cap: Cap,
    regions: Arc<Regions>,
    pace: Arc<dyn Pace>,
    config: ControllerConfig,
    admin: AdminQueue,
    identity: Identity,
    limits: Limits,
    pairs: Vec<Pair>,
    shadow: Option<ShadowPages>,
    controller_memory: Option<Arc<ControllerMemoryPool>>,
    cmb_address: Option<u64>,
    pmr_address: Option<u64>,
    gone: bool,
}

impl Controller {
    /// Brings a controller up, whatever state it was left in.
    ///
    /// # Errors
    /// [`ControllerError`]; the controller is left disabled where it still answers.
    pub fn start(
        bar: Bar,
        regions: Arc<Regions>,
        pace: Arc<dyn Pace>,
        config: ControllerConfig,
    ) -> Result<Controller, ControllerError> {
        let cap = ready::capabilities(&bar)?;
        let need_bytes = cq_doorbell(QueueId(config.io_queues), cap.dstrd()) as usize + 4;
        if need_bytes > bar.len() {
            return Err(ControllerError::Registers {
                need_bytes,
                have_bytes: bar.len(),
            });
        }
        ready::disable(&bar, cap, &*pace)?;
        let timeout_ns = u64::from(config.admin_timeout_ms) * 1_000_000;
        let admin = AdminQueue::new(
            &bar,
            cap.dstrd(),
            &regions,
            config.numa_node,
            Arc::clone(&pace),
            timeout_ns,
        )?;
        let mut controller = Controller {
            limits: Limits {
                page_shift: 12,
                transfer_bytes_max: 4096,
                write_zeroes_bytes_max: None,
                sgl: false,
                timeout_ns: u64::from(config.io_timeout_ms) * 1_000_000,
            },
            identity: Identity::of(&IdentifyController::zeroed()),
            bar,
            cap,
            regions,
            pace,
            config,
            admin,
            pairs: Vec::new(),
            shadow: None,
            controller_memory: None,
            cmb_address: None,
            pmr_address: None,
            gone: false,
        };
        match controller.bring_up() {
            Ok(()) => Ok(controller),
            Err(error) => {
                // Whatever it answers now, the first error is what counts.
                let _ = ready::disable(&controller.bar, cap, &*controller.pace);
                Err(error)
            }
        }
    }

    fn bring_up(&mut self) -> Result<(), ControllerError> {
        self.enable()?;
        self.identity = self.admin.identity()?;
        self.limits.sgl = self.identity.sgl;
        self.limits.transfer_bytes_max = self.identity.command_bytes_max();
        self.limits.write_zeroes_bytes_max = self.admin.write_zeroes_bytes_max();
        if self.config.shadow_doorbells && self.identity.doorbell_buffer {
            let memory = DeviceMemory::new(&self.regions, 2 * 4096, self.config.numa_node)?;
            self.shadow = Some(ShadowPages { memory });
        }
        self.configure()
    }

    /// Programs the admin queue and enables the controller.
    fn enable(&mut self) -> Result<(), ControllerError> {
        let (submission, completion) = self.admin.addresses();
        let entries = admin::ENTRIES - 1;
        let aqa = Aqa::default().with_asqs(entries).with_acqs(entries);
        self.bar.write32(OFFSET_AQA, aqa.0);
        self.bar.write64(OFFSET_ASQ, submission);
        self.bar.write64(OFFSET_ACQ, completion);
        ready::enable(&self.bar, self.cap, &*self.pace)
    }

    /// What every start needs behind the identify data: number of queues, events, shadow doorbells.
    fn configure(&mut self) -> Result<(), ControllerError> {
        self.set_queue_count()?;
        if self.identity.events != 0 {
            let command = "Set Features (Asynchronous Event Configuration)";
            // Every event it knows and every critical warning.
            let value = self.identity.events | 0xff;
            self.set_feature(command, FeatureId::AsyncEvents, value)?;
        }
        self.admin.request_events(self.identity.event_requests_max);
        if let Some(shadow) = &self.shadow {
            shadow.memory.clear();
            let at = shadow.memory.device_address();
            let sqe = doorbell_buffer_config(at, at + 4096);
            self.admin
                .execute("Doorbell Buffer Config", sqe, Data::None)?;
        }
        Ok(())
    }

    fn set_queue_count(&mut self) -> Result<(), ControllerError> {
        let command = "Set Features (Number of Queues)";
        let asked = self.config.io_queues.max(1);
        let count = u32::from(asked - 1);
        let dword = self.set_feature(command, FeatureId::NumberOfQueues, count << 16 | count)?;
        // Both counts are 0's based (Base 2.1, 5.1.25.2.1).
        let [s0, s1, c0, c1] = dword.to_le_bytes();
        let pairs = u16::from_le_bytes([s0, s1]).min(u16::from_le_bytes([c0, c1]));
        let granted = pairs.saturating_add(1);
        if granted < asked {
            return Err(ControllerError::Queues { asked, granted });
        }
        Ok(())
    }

    fn set_feature(
        &mut self,
        command: &'static str,
        feature: FeatureId,
        value: u32,
    ) -> Result<u32, ControllerError> {
        let sqe = SetFeatures::new(feature, value).encode().with_prps(0, 0);
        Ok(self.admin.execute(command, sqe, Data::None)?.dw0())
    }

    /// What the controller is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Limits of its commands.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// What the device reaches; payload memory is added here.
    #[must_use]
    pub fn regions(&self) -> &Arc<Regions> {
        &self.regions
    }

    /// Version of the specification the controller keeps to, as the VS register has it.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.bar.read32(OFFSET_VS)
    }

    /// Namespaces attached to the controller (Base 2.1, 5.1.13.2.2; NVM 1.1, 4.1.5.1).
    ///
    /// # Errors
    /// [`ControllerError`].
    pub fn namespaces(&mut self) -> Result<Vec<Namespace>, ControllerError> {
        self.admin.namespaces()
    }

    /// One namespace as it is now; `None` where it is not attached.
    ///
    /// # Errors
    /// [`ControllerError`].
    pub fn namespace(&mut self, nsid: Nsid) -> Result<Option<Namespace>, ControllerError> {
        self.admin.namespace(nsid)
    }

    /// Formats a namespace with LBA format `format`; everything in it is lost. Its queues must be
    /// idle (Base 2.1, 5.1.10).
    ///
    /// # Errors
    /// [`ControllerError`].
    pub fn format(&mut self, nsid: Nsid, format: u8) -> Result<(), ControllerError> {
        let sqe = format_nvm(nsid.get(), format, 0);
        self.admin
            .execute("Format NVM", sqe, Data::None)
            .map(|_| ())
    }

    /// Health of the drive (Base 2.1, 5.1.12.1.3).
    ///
    /// # Errors
    /// [`ControllerError`].
    pub fn health(&mut self) -> Result<HealthLog, ControllerError> {
        self.admin.health()
    }

    /// The drive's error log, the newest entry first, 64 entries at most (Base 2.1, 5.1.12.1.2).
    ///
    /// # Errors
    /// [`ControllerError`].
    pub fn error_log(&mut self) -> Result<Vec<ErrorEntry>, ControllerError> {
        self.admin.error_log(self.identity.error_entries_max)
    }

    /// Makes an I/O queue pair; to be opened on the thread that will use it.
    ///
    /// # Errors
    /// [`ControllerError`]: [`ControllerError::Queues`] where all are in use.
    pub fn create_queue(&mut self) -> Result<QueueParts, ControllerError> {
        self.create_queue_with(None)
    }

    /// Makes an I/O queue pair that tells by an interrupt what has ended.
    ///
    /// # Errors
    /// As [`Controller::create_queue`]; [`ControllerError::Refused`] for a vector that the drive does
    /// not have.
    pub fn create_queue_with_interrupt(
        &mut self,
        interrupt: QueueInterrupt,
    ) -> Result<QueueParts, ControllerError> {
        self.create_queue_with(Some(interrupt))
    }

    fn create_queue_with(
        &mut self,
        interrupt: Option<QueueInterrupt>,
    ) -> Result<QueueParts, ControllerError> {
        let asked = u16::try_from(self.pairs.len() + 1).unwrap_or(u16::MAX);
        if asked > self.config.io_queues {
            return Err(ControllerError::Queues {
                asked,
                granted: self.config.io_queues,
            });
        }
        let id = QueueId(asked);
        let most = u16::try_from(self.cap.queue_entries_max()).unwrap_or(u16::MAX);
        let entries = self.config.queue_entries.clamp(2, most.max(2));
        let memory =
            DeviceMemory::new(&self.regions, memory_bytes(entries), self.config.numa_node)?;
        let mut parts = QueueParts {
            id,
            entries,
            bar: self.bar.clone(),
            doorbells: (
                sq_doorbell(id, self.cap.dstrd()),
                cq_doorbell(id, self.cap.dstrd()),
            ),
            submission: None,
            memory,
            regions: Arc::clone(&self.regions),
            limits: self.limits,
            link: Arc::new(Link::new(interrupt.as_ref().map(|it| it.event.clone()))),
            shadow: self.shadow_of(id),
        };
        if self.config.submission_in_controller
            && let Some(pool) = &self.controller_memory
            && pool.abilities().submission_queues
        {
            parts.submission = Some(pool.take(submission_bytes(entries))?);
        }
        let pair = Pair {
            id,
            entries,
            vector: interrupt.map(|interrupt| interrupt.vector),
            submission_address: parts.submission_address(),
            completion_address: parts.memory.device_address(),
            link: Arc::clone(&parts.link),
            known: true,
        };
        self.make(&pair)?;
        self.pairs.push(pair);
        Ok(parts)
    }

    fn shadow_of(&self, id: QueueId) -> Option<Shadow> {
        let shadow = self.shadow.as_ref()?;
        let stride = 4_usize << self.cap.dstrd();
        let tail = 2 * usize::from(id.0) * stride;
        // Both doorbells of the queue must lie in the page.
        (tail + stride + 4 <= 4096).then(|| Shadow {
            page: shadow.memory.base(),
            tail_offset: tail,
            head_offset: tail + stride,
        })
    }

    /// Tells the controller of a queue pair.
    fn make(&mut self, pair: &Pair) -> Result<(), ControllerError> {
        let command = "Create I/O Completion Queue";
        let queue = |address| CreateQueue {
            queue: pair.id,
            entries: u32::from(pair.entries),
            address,
        };
        let sqe = queue(pair.completion_address)
            .completion(pair.vector)
            .ok_or_else(|| nonsense(command))?;
        self.admin.execute(command, sqe, Data::None)?;
        let command = "Create I/O Submission Queue";
        let sqe = queue(pair.submission_address)
            .submission(pair.id)
            .ok_or_else(|| nonsense(command))?;
        self.admin.execute(command, sqe, Data::None).map(|_| ())
    }

    /// Where the controller memory buffer lies and what it can do. Turns its registers on where the
    /// controller is of NVMe 1.4 or later (Base 2.1, 8.2.1).
    #[must_use]
    pub fn controller_memory_layout(&self) -> Option<CmbLayout> {
        cmb::layout(&self.bar, self.cap, &*self.pace)
    }

    /// Takes the controller memory buffer into use: `mapping` is where it is mapped here,
    /// `device_address` where commands shall address it. For controllers before NVMe 1.4, which have
    /// no CMBMSC, that is its bus address.
    ///
    /// # Errors
    /// [`CmbError::Unable`] where the controller has none or refuses the address.
    pub fn use_controller_memory(
        &mut self,
        mapping: ControllerMapping,
        device_address: u64,
    ) -> Result<Arc<ControllerMemoryPool>, ControllerError> {
        let layout = self
            .controller_memory_layout()
            .ok_or(CmbError::Unable { what: "anything" })?;
        cmb::place(&self.bar, self.cap, &*self.pace, device_address)?;
        self.cmb_address = Some(device_address);
        let pool = cmb::lend_volatile(&self.regions, mapping, device_address, layout.abilities)?;
        self.controller_memory = Some(Arc::clone(&pool));
        Ok(pool)
    }

    /// The controller memory in use.
    #[must_use]
    pub fn controller_memory(&self) -> Option<&Arc<ControllerMemoryPool>> {
        self.controller_memory.as_ref()
    }

    /// What the controller memory in use can hold; nothing where there is none.
    #[must_use]
    pub fn controller_memory_abilities(&self) -> CmbAbilities {
        self.controller_memory
            .as_ref()
            .map_or(CmbAbilities::default(), |pool| pool.abilities())
    }

    /// A round of keeping the controller: events, late commands, resets. Waits only where something
    /// has to be done about it. The next thing to tell, `None` where there is nothing.
    pub fn service(&mut self) -> Option<Notice> {
        if self.gone {
            return None;
        }
        match self.look() {
            Ok(notice) => notice,
            Err(error) => Some(self.recover(&error)),
        }
    }

    fn look(&mut self) -> Result<Option<Notice>, ControllerError> {
        ready::check_ready(&self.bar, "serving")?;
        if self.pairs.iter().any(|pair| pair.link.take_reset()) {
            self.reset()?;
            return Ok(Some(Notice::Reset));
        }
        let late = self
            .pairs
            .iter()
            .find_map(|pair| Some((pair.id, pair.link.take_late()?)));
        if let Some((queue, cid)) = late {
            let done = self.abort(queue, cid)?;
            return Ok(Some(Notice::Aborted { queue, cid, done }));
        }
        let Some(event) = self.admin.next_event()? else {
            return Ok(None);
        };
        self.admin.clear(event)?;
        self.admin.request_events(self.identity.event_requests_max);
        Ok(Some(Notice::Event(event)))
    }

    /// Asks for a command to be aborted; whether the controller says it was.
    fn abort(&mut self, queue: QueueId, cid: u16) -> Result<bool, ControllerError> {
        let sqe = Abort { sqid: queue.0, cid }.encode().with_prps(0, 0);
        let cqe = self.admin.execute("Abort", sqe, Data::None);
        match cqe {
            Ok(cqe) => Ok(cqe.dw0() & Abort::NOT_ABORTED == 0),
            Err(ControllerError::Refused { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn recover(&mut self, error: &ControllerError) -> Notice {
        tracing::warn!(%error, "the drive needs a reset");
        if error.calls_for_reset() && self.reset().is_ok() {
            return Notice::Reset;
        }
        self.give_up();
        Notice::Gone
    }

    /// Every request on every queue fails from now on.
    fn give_up(&mut self) {
        self.gone = true;
        for pair in &self.pairs {
            pair.link.want(Stage::Gone);
        }
    }

    /// Resets the controller. Requests wait and are sent again afterwards.
    ///
    /// # Errors
    /// [`ControllerError`]: the controller is gone for good then.
    pub fn reset(&mut self) -> Result<(), ControllerError> {
        // A queue pair must not touch a doorbell while its queue is being made anew.
        self.reach(Stage::Hold);
        let result = self.start_anew();
        match &result {
            Ok(()) => self.reach(Stage::Run),
            Err(error) => {
                tracing::error!(%error, "the drive could not be reset and is given up");
                self.give_up();
            }
        }
        result
    }

    fn reach(&self, stage: Stage) {
        for pair in &self.pairs {
            pair.link.want(stage);
        }
        while !self.pairs.iter().all(|pair| pair.link.has_reached_it()) {
            self.pace.pause();
        }
    }

    fn start_anew(&mut self) -> Result<(), ControllerError> {
        ready::disable(&self.bar, self.cap, &*self.pace)?;
        self.admin.restart();
        self.enable()?;
        if let Some(address) = self.cmb_address {
            cmb::place(&self.bar, self.cap, &*self.pace, address)?;
        }
        self.program_pmr_again()?;
        self.configure()?;
        let mut pairs = std::mem::take(&mut self.pairs);
        for pair in &mut pairs {
            pair.known = !pair.link.is_closed();
        }
        let made = pairs
            .iter()
            .filter(|pair| pair.known)
            .try_for_each(|pair| self.make(pair));
        self.pairs = pairs;
        made
    }

    /// Takes the queues down and tells the drive that power may go. Queue pairs should be idle: what
    /// they still hold fails, but only after the controller has let go of its memory.
    ///
    /// # Errors
    /// [`ControllerError`]; also where it is gone or was shut down already.
    pub fn shut_down(&mut self) -> Result<(), ControllerError> {
        if self.gone {
            return Err(ControllerError::Gone);
        }
        self.reach(Stage::Hold);
        self.gone = true;
        let result = self.take_down();
        // Shut down or not: disabled it reaches no memory any more.
        let disabled = ready::disable(&self.bar, self.cap, &*self.pace);
        self.give_up();
        result.and(disabled)
    }

    fn take_down(&mut self) -> Result<(), ControllerError> {
        let known = self.pairs.iter().filter(|pair| pair.known);
        for id in known.map(|pair| pair.id).collect::<Vec<_>>() {
            let command = "Delete I/O Submission Queue";
            self.admin
                .execute(command, delete_submission_queue(id), Data::None)?;
            let command = "Delete I/O Completion Queue";
            self.admin
                .execute(command, delete_completion_queue(id), Data::None)?;
        }
        // Some drives say 0; the specification then leaves it open.
        let told_ns = u64::from(self.identity.shutdown_us) * 1000;
        let timeout_ns = told_ns.max(10_000_000_000);
        ready::shut_down(&self.bar, &*self.pace, timeout_ns)
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.give_up();
        // The controller must not reach memory that goes away with us.
        let _ = ready::disable(&self.bar, self.cap, &*self.pace);
    }
}
