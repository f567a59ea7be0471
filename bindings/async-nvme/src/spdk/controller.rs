//! A controller in SPDK's hands.

use std::ffi::c_void;
use std::io;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use penstock_nvme::event::AsyncEvent;
use penstock_nvme::log::{ErrorEntry, HealthLog};
use penstock_nvme::register::Cap;
use penstock_nvme::{Cqe, IntoBytes, Sqe};
use penstock_spdk_sys as sys;
use penstock_units::{Nsid, QueueId};

use super::env;
use super::error::SpdkError;
use super::mapper::Registered;
use super::wire::{Callbacks, Carrier, Notices};
use crate::bar::Bar;
use crate::cmb::{CmbError, ControllerMapping, ControllerMemoryPool};
use crate::controller::{
    Admin, ControllerConfig, ControllerError, Data, Identity, Namespace, Notice, Pace, Sleeping,
    cmb, ready,
};
use crate::dma::Regions;
use crate::driver::{Driver, PairParts, SpdkOptions};
use crate::io::Buffers;
use crate::memory::DeviceMemory;
use crate::pci::{Host, PciAddress};
use crate::queue::{Base, LIST_BYTES, Limits, Link, Queue, Stage};

/// Registers before the doorbells (Base 2.1, 3.1.4): all of them that are used here.
const REGISTERS_BYTES: usize = 0x1000;
/// How long the end of a controller waits for its queue pairs to let go.
const END_LIMIT: Duration = Duration::from_secs(5);
/// Bytes of data of an admin command.
const DATA_BYTES: usize = 4096;

/// SPDK attaches and detaches one controller at a time.
static ATTACHING: Mutex<()> = Mutex::new(());

/// A queue pair as the keeper knows it.
struct Pair {
    link: Arc<Link>,
    /// Kept until the controller is detached.
    _callbacks: Arc<Callbacks>,
}

/// A controller that SPDK has brought up.
pub struct SpdkController {
    address: PciAddress,
    /// `None` once it is detached.
    attached: Option<NonNull<sys::spdk_nvme_ctrlr>>,
    registers: Bar,
    cap: Cap,
    regions: Arc<Regions>,
    pace: Sleeping,
    config: ControllerConfig,
    identity: Identity,
    limits: Limits,
    data: DeviceMemory,
    notices: Arc<Notices>,
    pairs: Vec<Pair>,
    controller_memory: Option<Arc<ControllerMemoryPool>>,
    cmb_address: Option<u64>,
    gone: bool,
}

// SAFETY: SPDK's controller may be used by any thread; what must be one thread's goes through `&mut`.
unsafe impl Send for SpdkController {}

/// All that is needed to open a queue pair of SPDK's on the thread that will use it.
pub struct SpdkQueueParts {
    carrier: Carrier,
    base: Base,
}

impl SpdkQueueParts {
    pub(crate) fn open<M: Buffers, T>(self) -> Queue<M, T, Carrier> {
        Queue::on(self.carrier, self.base)
    }
}

/// The controller tells of an event.
unsafe extern "C" fn event(context: *mut c_void, cpl: *const sys::spdk_nvme_cpl) {
    // SAFETY: the notices live until the controller is detached; SPDK's completion lives for the call.
    let (notices, dwords) = unsafe {
        let dwords = cpl.cast::<[u32; 4]>().read_unaligned();
        (&*context.cast_const().cast::<Notices>(), dwords)
    };
    // An event request that was taken back, at the end or by a reset, has a status.
    if dwords[3] >> 17 == 0 {
        notices.put(Notice::Event(AsyncEvent::from_dword(dwords[0])));
    }
}

type Answer = Mutex<Option<[u64; 2]>>;

/// An admin command has ended.
unsafe extern "C" fn answered(context: *mut c_void, cpl: *const sys::spdk_nvme_cpl) {
    // SAFETY: made by `execute` for this call alone; SPDK's completion lives for the call.
    let (answer, words) = unsafe {
        let answer = Arc::from_raw(context.cast_const().cast::<Answer>());
        (answer, cpl.cast::<[u64; 2]>().read_unaligned())
    };
    *answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(words);
}

fn io_error(rc: i32) -> io::Error {
    io::Error::from_raw_os_error(-rc)
}

impl SpdkController {
    /// Has SPDK bring up the drive at `address`, which must be bound to vfio-pci. The first starts
    /// SPDK's environment with `options`. May block.
    ///
    /// # Errors
    /// [`SpdkError`].
    pub fn start(
        address: PciAddress,
        host: &Host,
        options: SpdkOptions,
        config: ControllerConfig,
    ) -> Result<SpdkController, SpdkError> {
        crate::vfio::check(address, host)?;
        env::start(host, options)?;
        let attached = attach(address, &config).ok_or(SpdkError::Attach { address })?;
        // SAFETY: attached.
        let registers = unsafe { sys::spdk_nvme_ctrlr_get_registers(attached.as_ptr()) };
        let registers =
            NonNull::new(registers.cast::<u8>()).ok_or(SpdkError::Attach { address })?;
        // SAFETY: SPDK maps all registers, aligned to pages. The value stays with the controller,
        // which does not reach them once it has detached.
        let registers = unsafe { Bar::new(registers, REGISTERS_BYTES, Arc::new(())) };
        let regions = Arc::new(Regions::new(Arc::new(Registered)));
        let prepared = ready::capabilities(&registers).and_then(|cap| {
            let data = DeviceMemory::new(&regions, DATA_BYTES, config.numa_node)?;
            Ok((cap, data))
        });
        let (cap, data) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                detach(attached);
                return Err(error.into());
            }
        };
        let mut controller = SpdkController {
            address,
            attached: Some(attached),
            limits: Limits {
                page_shift: 12,
                transfer_bytes_max: 4096,
                write_zeroes_bytes_max: None,
                // SPDK lays every command of ours out by pages.
                sgl: false,
                timeout_ns: u64::from(config.io_timeout_ms) * 1_000_000,
            },
            identity: Identity::of(&penstock_nvme::FromZeros::new_zeroed()),
            registers,
            cap,
            regions,
            pace: Sleeping::default(),
            config,
            data,
            notices: Arc::default(),
            pairs: Vec::new(),
            controller_memory: None,
            cmb_address: None,
            gone: false,
        };
        controller.bring_up(attached)?;
        Ok(controller)
    }

    fn bring_up(&mut self, attached: NonNull<sys::spdk_nvme_ctrlr>) -> Result<(), ControllerError> {
        // SAFETY: attached.
        let granted = unsafe { (*sys::spdk_nvme_ctrlr_get_opts(attached.as_ptr())).num_io_queues };
        let (asked, granted) = (
            self.config.io_queues,
            u16::try_from(granted).unwrap_or(u16::MAX),
        );
        if granted < asked {
            return Err(ControllerError::Queues { asked, granted });
        }
        let context = Arc::as_ptr(&self.notices).cast_mut().cast();
        // SAFETY: attached; the notices live until the controller is detached.
        unsafe {
            sys::spdk_nvme_ctrlr_register_aer_callback(attached.as_ptr(), Some(event), context);
        }
        self.identity = Admin::identity(self)?;
        self.limits.transfer_bytes_max = self.identity.command_bytes_max();
        self.limits.write_zeroes_bytes_max = self.write_zeroes_bytes_max();
        self.use_controller_memory()
    }

    fn attached(&self) -> Result<NonNull<sys::spdk_nvme_ctrlr>, ControllerError> {
        self.attached.ok_or(ControllerError::Gone)
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> PciAddress {
        self.address
    }

    /// Takes the controller memory buffer into use where there is one; nothing else.
    ///
    /// SPDK's own calls for it (`spdk_nvme_ctrlr_map_cmb`) want CAP.CMBS set and never write CMBMSC, so
    /// they find no buffer on any controller whose registers are off until then, which is how those of
    /// NVMe 1.4 and later come out of a reset. So it is placed through the registers that SPDK maps,
    /// at its bus address, which is no address of this process's memory.
    fn use_controller_memory(&mut self) -> Result<(), ControllerError> {
        let Some(layout) = cmb::layout(&self.registers, self.cap, &self.pace) else {
            return Ok(());
        };
        let Some((base, bus_address, bar_bytes)) = self.map_bar(layout.bar_index)? else {
            tracing::warn!(drive = %self.address, "SPDK does not map the drive's memory; it is not used");
            return Ok(());
        };
        let end = layout.offset_bytes.checked_add(layout.len_bytes);
        let (Some(..), Ok(offset), Ok(len)) = (
            end.filter(|end| *end <= bar_bytes),
            usize::try_from(layout.offset_bytes),
            usize::try_from(layout.len_bytes),
        ) else {
            let what = "anything: it is not wholly inside its base address register";
            return Err(CmbError::Unable { what }.into());
        };
        let device_address = bus_address + layout.offset_bytes;
        cmb::place(&self.registers, self.cap, &self.pace, device_address)?;
        let mapping = ControllerMapping {
            // SAFETY: inside of the base address register's mapping, as just checked.
            base: unsafe { base.add(offset) },
            len,
            // SPDK keeps it mapped until `end`, which waits for all of it to be back.
            keeper: Arc::new(()),
            export: None,
        };
        let abilities = crate::cmb::CmbAbilities {
            // SPDK makes submission queues itself, and not there.
            submission_queues: false,
            ..layout.abilities
        };
        let pool = cmb::lend_volatile(&self.regions, mapping, device_address, abilities)?;
        self.cmb_address = Some(device_address);
        self.controller_memory = Some(pool);
        Ok(())
    }

    /// Start, bus address and length of a base address register.
    fn map_bar(&self, index: u8) -> Result<Option<(NonNull<u8>, u64, u64)>, ControllerError> {
        let attached = self.attached()?;
        let (mut base, mut bus_address, mut len) = (std::ptr::null_mut(), 0, 0);
        // SAFETY: attached; the results are ours.
        let rc = unsafe {
            let device = sys::spdk_nvme_ctrlr_get_pci_device(attached.as_ptr());
            sys::spdk_pci_device_map_bar(
                device,
                u32::from(index),
                &raw mut base,
                &raw mut bus_address,
                &raw mut len,
            )
        };
        let base = NonNull::new(base.cast::<u8>()).filter(|_| rc == 0);
        Ok(base.map(|base| (base, bus_address, len)))
    }

    fn look(&mut self) -> Result<Option<Notice>, ControllerError> {
        let attached = self.attached()?;
        // SAFETY: attached.
        let taken_away = unsafe {
            let device = sys::spdk_nvme_ctrlr_get_pci_device(attached.as_ptr());
            sys::spdk_pci_device_is_removed(device)
        };
        if taken_away {
            return Err(ControllerError::Gone);
        }
        ready::check_alive(&self.registers, "serving")?;
        if self.pairs.iter().any(|pair| pair.link.take_reset()) {
            self.reset()?;
            return Ok(Some(Notice::Reset));
        }
        self.poll("serving")?;
        let notice = self.notices.take();
        if let Some(Notice::Event(event)) = notice {
            self.clear(event)?;
        }
        Ok(notice)
    }

    /// Has SPDK take the completions of admin commands.
    fn poll(&self, doing: &'static str) -> Result<(), ControllerError> {
        let attached = self.attached()?;
        // SAFETY: attached.
        let rc = unsafe { sys::spdk_nvme_ctrlr_process_admin_completions(attached.as_ptr()) };
        if rc >= 0 {
            return Ok(());
        }
        ready::check_alive(&self.registers, doing)?;
        Err(ControllerError::Library {
            doing,
            source: io_error(rc),
        })
    }

    fn recover(&mut self, error: &ControllerError) -> Notice {
        tracing::warn!(drive = %self.address, %error, "the drive needs a reset");
        if error.calls_for_reset() && self.reset().is_ok() {
            return Notice::Reset;
        }
        if !self.gone {
            self.reach(Stage::Hold);
            self.end();
        }
        Notice::Gone
    }

    fn reach(&self, stage: Stage) {
        self.want(stage);
        while !self.has_reached_it() {
            self.pace.pause();
        }
    }

    fn want(&self, stage: Stage) {
        for pair in &self.pairs {
            pair.link.want(stage);
        }
    }

    fn has_reached_it(&self) -> bool {
        self.pairs.iter().all(|pair| pair.link.has_reached_it())
    }

    /// Lets go of the drive, which no queue pair touches any more, and has every request fail.
    ///
    /// SPDK unmaps controller memory then: while somebody has any of it, or may take some, the drive
    /// stays where it is.
    fn end(&mut self) {
        self.gone = true;
        if let Some(attached) = self.attached {
            if !self.is_memory_back() {
                tracing::error!(drive = %self.address, "its memory is still lent: the drive stays with SPDK");
                self.leave_to_spdk();
                return;
            }
            self.attached = None;
            detach(attached);
        }
        self.want(Stage::Gone);
    }

    /// Waits a little for controller memory to come back.
    fn is_memory_back(&mut self) -> bool {
        let start = self.pace.now_ns();
        while let Some(pool) = &mut self.controller_memory {
            if Arc::get_mut(pool).is_some() {
                self.controller_memory = None;
            } else if self.is_late(start) {
                return false;
            } else {
                self.pace.pause();
            }
        }
        true
    }

    /// Whether the end has waited long enough since `start`.
    fn is_late(&self, start: u64) -> bool {
        u128::from(self.pace.now_ns().saturating_sub(start)) > END_LIMIT.as_nanos()
    }

    /// Keeps for good what SPDK, and through it the drive, may still reach.
    fn leave_to_spdk(&mut self) {
        self.attached = None;
        std::mem::forget(std::mem::take(&mut self.pairs));
        std::mem::forget(Arc::clone(&self.notices));
        std::mem::forget(Arc::clone(&self.regions));
    }

    fn new_pair(
        &self,
        attached: NonNull<sys::spdk_nvme_ctrlr>,
        entries: u16,
    ) -> Result<NonNull<sys::spdk_nvme_qpair>, ControllerError> {
        let mut opts = sys::spdk_nvme_io_qpair_opts::default();
        let size = size_of::<sys::spdk_nvme_io_qpair_opts>();
        // SAFETY: attached; the options are as long as told and live to the end of the calls.
        let pair = unsafe {
            sys::spdk_nvme_ctrlr_get_default_io_qpair_opts(attached.as_ptr(), &raw mut opts, size);
            opts.io_queue_size = u32::from(entries);
            // One for each command, as none is split.
            opts.io_queue_requests = u32::from(entries);
            opts.__bindgen_anon_1.delay_cmd_submit = true;
            sys::spdk_nvme_ctrlr_alloc_io_qpair(attached.as_ptr(), &raw const opts, size)
        };
        NonNull::new(pair).ok_or_else(|| ControllerError::Library {
            doing: "making an I/O queue pair",
            source: io::Error::other(
                "SPDK gives no reason; give it more memory (spdk_memory_mib) or use fewer entries",
            ),
        })
    }
}

impl Admin for SpdkController {
    fn execute(
        &mut self,
        command: &'static str,
        sqe: Sqe,
        data: Data<'_>,
    ) -> Result<Cqe, ControllerError> {
        let attached = self.attached()?;
        let mut words = [0_u64; 8];
        words.as_mut_bytes().copy_from_slice(sqe.as_bytes());
        let (at, len) = match &data {
            Data::None => (std::ptr::null_mut(), 0),
            Data::In(into) => {
                let len = into.len().min(DATA_BYTES);
                (
                    self.data.base().as_ptr().cast(),
                    u32::try_from(len).unwrap_or(0),
                )
            }
        };
        let answer = Arc::new(Answer::default());
        let context = Arc::into_raw(Arc::clone(&answer));
        // SAFETY: attached; the command is copied, and its data is memory that SPDK knows.
        let rc = unsafe {
            sys::spdk_nvme_ctrlr_cmd_admin_raw(
                attached.as_ptr(),
                words.as_mut_ptr().cast(),
                at,
                len,
                Some(answered),
                context.cast_mut().cast(),
            )
        };
        if rc != 0 {
            // SAFETY: nobody will call back: it is ours again.
            drop(unsafe { Arc::from_raw(context) });
            ready::check_alive(&self.registers, command)?;
            return Err(ControllerError::Library {
                doing: command,
                source: io_error(rc),
            });
        }
        let cqe = self.wait(command, &answer)?;
        let status = cqe.status();
        if !status.is_success() {
            return Err(ControllerError::Refused { command, status });
        }
        if let Data::In(into) = data {
            self.data.read(0, into);
        }
        Ok(cqe)
    }
}

impl SpdkController {
    fn wait(&self, command: &'static str, answer: &Answer) -> Result<Cqe, ControllerError> {
        let start = self.pace.now_ns();
        loop {
            self.poll(command)?;
            let words = *answer.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(words) = words {
                return Ok(Cqe::from_words(words));
            }
            let waited_ms = self.pace.now_ns().saturating_sub(start) / 1_000_000;
            if waited_ms > u64::from(self.config.admin_timeout_ms) {
                return Err(ControllerError::TimedOut { command, waited_ms });
            }
            self.pace.pause();
        }
    }
}

impl Driver for SpdkController {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn regions(&self) -> &Arc<Regions> {
        &self.regions
    }

    fn namespaces(&mut self) -> Result<Vec<Namespace>, ControllerError> {
        Admin::namespaces(self)
    }

    fn namespace(&mut self, nsid: Nsid) -> Result<Option<Namespace>, ControllerError> {
        Admin::namespace(self, nsid)
    }

    fn health(&mut self) -> Result<HealthLog, ControllerError> {
        Admin::health(self)
    }

    fn error_log(&mut self) -> Result<Vec<ErrorEntry>, ControllerError> {
        let entries_max = self.identity.error_entries_max;
        Admin::error_log(self, entries_max)
    }

    fn service(&mut self) -> Option<Notice> {
        if self.gone {
            return None;
        }
        match self.look() {
            Ok(notice) => notice,
            Err(error) => Some(self.recover(&error)),
        }
    }

    fn create_queue(&mut self) -> Result<PairParts, ControllerError> {
        let attached = self.attached()?;
        let asked = u16::try_from(self.pairs.len() + 1).unwrap_or(u16::MAX);
        if asked > self.config.io_queues {
            return Err(ControllerError::Queues {
                asked,
                granted: self.config.io_queues,
            });
        }
        // SAFETY: attached.
        let most = unsafe { (*sys::spdk_nvme_ctrlr_get_opts(attached.as_ptr())).io_queue_size };
        let most = u16::try_from(most).unwrap_or(u16::MAX).max(2);
        let entries = self.config.queue_entries.clamp(2, most);
        let lists = usize::from(entries) * LIST_BYTES;
        let memory = DeviceMemory::new(&self.regions, lists, self.config.numa_node)?;
        let pair = self.new_pair(attached, entries)?;
        // SAFETY: the queue pair just made.
        let id = QueueId(unsafe { sys::spdk_nvme_qpair_get_id(pair.as_ptr()) });
        let link = Arc::<Link>::default();
        let callbacks = Callbacks::new(entries);
        self.pairs.push(Pair {
            link: Arc::clone(&link),
            _callbacks: Arc::clone(&callbacks),
        });
        Ok(PairParts::Spdk(SpdkQueueParts {
            carrier: Carrier {
                controller: attached.as_ptr(),
                pair: pair.as_ptr(),
                id,
                link: Arc::clone(&link),
                notices: Arc::clone(&self.notices),
                callbacks,
                untold: false,
            },
            base: Base {
                id,
                entries,
                regions: Arc::clone(&self.regions),
                limits: self.limits,
                link,
                memory,
                lists_offset: 0,
            },
        }))
    }

    fn controller_memory(&self) -> Option<&Arc<ControllerMemoryPool>> {
        self.controller_memory.as_ref()
    }

    fn reset(&mut self) -> Result<(), ControllerError> {
        let attached = self.attached()?;
        // SPDK makes the queue pairs anew on this thread.
        self.reach(Stage::Hold);
        // SAFETY: attached, and no queue pair is in use.
        let rc = unsafe { sys::spdk_nvme_ctrlr_reset(attached.as_ptr()) };
        let placed = match (rc, self.cmb_address) {
            (0, Some(address)) => {
                cmb::place(&self.registers, self.cap, &self.pace, address).map_err(Into::into)
            }
            (0, None) => Ok(()),
            (rc, _) => Err(ControllerError::Library {
                doing: "resetting the controller",
                source: io_error(rc),
            }),
        };
        match &placed {
            Ok(()) => self.reach(Stage::Run),
            Err(error) => {
                tracing::error!(drive = %self.address, %error, "the drive could not be reset and is given up");
                self.end();
            }
        }
        placed
    }

    fn shut_down(&mut self) -> Result<(), ControllerError> {
        self.attached()?;
        self.reach(Stage::Hold);
        self.end();
        Ok(())
    }
}

impl Drop for SpdkController {
    fn drop(&mut self) {
        if self.attached.is_none() {
            return;
        }
        self.want(Stage::Hold);
        let start = self.pace.now_ns();
        while !self.has_reached_it() {
            if self.is_late(start) {
                tracing::error!(drive = %self.address, "a queue pair does not let go: the drive stays with SPDK");
                self.leave_to_spdk();
                return;
            }
            self.pace.pause();
        }
        self.end();
    }
}

fn attach(address: PciAddress, config: &ControllerConfig) -> Option<NonNull<sys::spdk_nvme_ctrlr>> {
    let _attaching = ATTACHING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut id = sys::spdk_nvme_transport_id {
        trtype: sys::spdk_nvme_transport_type_SPDK_NVME_TRANSPORT_PCIE,
        ..Default::default()
    };
    put_text(&mut id.trstring, "PCIE");
    put_text(&mut id.traddr, &address.to_string());
    let mut opts = sys::spdk_nvme_ctrlr_opts::default();
    let size = size_of::<sys::spdk_nvme_ctrlr_opts>();
    // SAFETY: both structures live to the end of the calls, and the options are as long as told.
    let attached = unsafe {
        sys::spdk_nvme_ctrlr_get_default_ctrlr_opts(&raw mut opts, size);
        opts.num_io_queues = u32::from(config.io_queues);
        opts.io_queue_size = u32::from(config.queue_entries);
        opts.io_queue_requests = u32::from(config.queue_entries);
        opts.admin_timeout_ms = config.admin_timeout_ms;
        opts.use_cmb_sqs = false;
        // Those above tell what a drive answers.
        opts.disable_error_logging = true;
        sys::spdk_nvme_connect(&raw const id, &raw const opts, size)
    };
    NonNull::new(attached)
}

fn detach(attached: NonNull<sys::spdk_nvme_ctrlr>) {
    let _attaching = ATTACHING.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: attached, and reached by nobody any more.
    let rc = unsafe { sys::spdk_nvme_detach(attached.as_ptr()) };
    if rc != 0 {
        tracing::warn!(rc, "SPDK did not detach a drive");
    }
}

/// Puts text into a field that ends with a zero; what does not fit is left out.
fn put_text(field: &mut [std::ffi::c_char], text: &str) {
    let room = field.len().saturating_sub(1);
    for (to, from) in field.iter_mut().take(room).zip(text.bytes()) {
        *to = from.cast_signed();
    }
}
