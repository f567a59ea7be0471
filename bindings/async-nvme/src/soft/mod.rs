//! A software NVMe controller: the registers, doorbells, queues, controller memory and media of a
//! PCIe drive as a host sees them, in this process's memory and decided by a seed. Drivers run
//! against it in plain tests on any machine.
//!
//! The host writes registers and doorbells with plain stores; the model notices by looking
//! ([`SoftController::step`]): called between polls of the driver it makes one deterministic
//! sequence, called by a thread of its own ([`SoftController::run_thread`]) it is as concurrent as
//! a drive. It is strict: what a host must not do is told by [`SoftController::violations`].
//!
//! What it cannot do: a write of a register has its effect with the next look. So registers that
//! are written once for an effect (INTMS, INTMC) have none, CMBLOC and CMBSZ tell of the buffer
//! whatever CMBMSC.CRE says (data in it is reached only when CMBMSC says so), and what is written
//! to a drive that is gone reads back until the next look.
mod admin;
mod bus;
mod config;
mod doorbell;
mod event;
mod fault;
mod feature;
mod identify;
mod io;
mod iommu;
mod log;
mod machine;
mod media;
mod memory;
mod pointers;
mod queue;
mod random;
mod registers;
mod stats;
#[cfg(test)]
mod tests;

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use penstock_nvme::pcie::cq_doorbell;
use penstock_units::QueueId;

pub use config::{SoftCmb, SoftConfig, SoftNamespace, SoftSgl};
pub use fault::{ControllerFaults, Fault, FaultRates, Fetched};
pub use feature::SoftHealth;
pub use media::MediaFault;
pub use stats::SoftStats;

use crate::bar::Bar;
use crate::dma::Mapper;
use iommu::{SoftIommu, Violations};
use machine::{Machine, Parts};
use media::Media;
use memory::Memory;

/// First device address handed out: no address of this process is near.
const FIRST_ADDRESS: u64 = 0x1_0000_0000;

/// Looks without work after which the model's thread begins to sleep.
const IDLE_LOOKS: u32 = 2000;

struct Shared {
    machine: Mutex<Machine>,
    registers: Arc<Memory>,
    cmb: Option<Arc<Memory>>,
    pmr: Option<Arc<Memory>>,
    iommu: Arc<SoftIommu>,
    violations: Arc<Violations>,
}

/// A software controller. Clones are the same controller.
#[derive(Clone)]
pub struct SoftController {
    shared: Arc<Shared>,
}

impl SoftController {
    /// A controller after power on.
    #[must_use]
    pub fn new(config: SoftConfig) -> SoftController {
        let last = QueueId(config.io_queues_max.clamp(1, 255));
        let doorbells_end = cq_doorbell(last, config.dstrd) + 4;
        let registers = Arc::new(Memory::new(
            usize::try_from(doorbells_end).unwrap_or(usize::MAX),
        ));
        let cmb = config.cmb.as_ref();
        let cmb = cmb.map(|cmb| Arc::new(Memory::new(cmb.offset + cmb.bytes)));
        let pmr = config.pmr_bytes.map(|bytes| Arc::new(Memory::new(bytes)));
        let violations = Arc::new(Violations::default());
        let iommu = Arc::new(SoftIommu::new(
            FIRST_ADDRESS,
            config.address_bits,
            violations.clone(),
        ));
        let parts = Parts {
            registers: registers.clone(),
            cmb: cmb.clone(),
            pmr: pmr.clone(),
            iommu: iommu.clone(),
            violations: violations.clone(),
        };
        SoftController {
            shared: Arc::new(Shared {
                machine: Mutex::new(Machine::new(config, parts)),
                registers,
                cmb,
                pmr,
                iommu,
                violations,
            }),
        }
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.shared
            .machine
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers and doorbells.
    #[must_use]
    pub fn bar(&self) -> Bar {
        let registers = &self.shared.registers;
        // SAFETY: whole pages, which the owner keeps; the model reaches them by atomics only.
        unsafe { Bar::new(registers.base(), registers.len(), registers.clone()) }
    }

    /// The BAR that holds the controller memory buffer, bytes before the buffer included. Valid as
    /// long as the controller or a [`SoftController::bar`]-like owner of it lives: keep a clone.
    #[must_use]
    pub fn cmb_mapping(&self) -> Option<(NonNull<u8>, usize)> {
        let cmb = self.shared.cmb.as_ref()?;
        Some((cmb.base(), cmb.len()))
    }

    /// Where the bus has the BAR of the controller memory buffer.
    #[must_use]
    pub fn cmb_bus_address(&self) -> Option<u64> {
        let machine = self.machine();
        machine.config.cmb.as_ref().map(|cmb| cmb.bus_address)
    }

    /// The BAR that is the persistent memory region; as [`SoftController::cmb_mapping`].
    #[must_use]
    pub fn pmr_mapping(&self) -> Option<(NonNull<u8>, usize)> {
        let pmr = self.shared.pmr.as_ref()?;
        Some((pmr.base(), pmr.len()))
    }

    /// Makes memory reachable for the controller.
    #[must_use]
    pub fn mapper(&self) -> Arc<dyn Mapper> {
        self.shared.iommu.clone()
    }

    /// Mappings there are now.
    #[must_use]
    pub fn mapped_regions(&self) -> usize {
        self.shared.iommu.mapped()
    }

    /// One bounded look at registers and doorbells, and what follows from it. `now_ns` is the time
    /// of delays, from any start; it never goes back. What was done: 0 is nothing.
    pub fn step(&self, now_ns: u64) -> u32 {
        self.machine().step(now_ns)
    }

    /// Looks for ever, in a thread that ends with the guard. Time is that since this call.
    #[must_use]
    pub fn run_thread(&self) -> SoftThread {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, controller) = (stop.clone(), self.clone());
        let base = self.machine().now;
        let thread = std::thread::spawn(move || {
            let start = Instant::now();
            let mut idle = 0u32;
            while !stopped.load(Ordering::Acquire) {
                let passed = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
                let work = controller.step(base.saturating_add(passed));
                idle = if work > 0 { 0 } else { idle.saturating_add(1) };
                if idle > IDLE_LOOKS {
                    std::thread::sleep(Duration::from_micros(50));
                } else if idle > 0 {
                    std::thread::yield_now();
                }
            }
        });
        SoftThread {
            stop,
            thread: Some(thread),
        }
    }

    /// What the host did that no host may do: accesses of memory that is not mapped, doorbells
    /// that are wrong... The first 64 of them, and how many more.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.shared.violations.list()
    }

    /// What the model has seen so far.
    #[must_use]
    pub fn stats(&self) -> SoftStats {
        let machine = self.machine();
        let mut stats = machine.stats.clone();
        stats.host_bytes = machine.bus.moved.host.get();
        stats.own_bytes = machine.bus.moved.own.get();
        stats
    }

    /// Commands fetched and not completed.
    #[must_use]
    pub fn running(&self) -> usize {
        self.machine().running.len()
    }

    /// Has `rule` decide what happens to each command fetched from now on; before any
    /// [`FaultRates`].
    pub fn set_rule(&self, rule: impl FnMut(&Fetched<'_>) -> Option<Fault> + Send + 'static) {
        self.machine().rule = Some(Box::new(rule));
    }

    /// No rule any more.
    pub fn clear_rule(&self) {
        self.machine().rule = None;
    }

    /// Has I/O commands go wrong at random.
    pub fn set_fault_rates(&self, rates: FaultRates) {
        self.machine().rates = rates;
    }

    /// Has the controller itself go wrong.
    pub fn set_controller_faults(&self, faults: ControllerFaults) {
        self.machine().faults = faults;
    }

    /// Has a block go wrong, or heals it.
    pub fn set_media_fault(&self, nsid: u32, lba: u64, fault: Option<MediaFault>) {
        if let Some(media) = self.machine().media.get_mut(&nsid) {
            media.set_fault(lba, fault);
        }
    }

    /// Controller fatal status from now on.
    pub fn fail(&self) {
        self.machine().fail();
    }

    /// Pulls the drive out. What its cache held is lost in part; it never comes back.
    pub fn remove(&self) {
        self.machine().remove(u32::MAX);
    }

    /// Cuts the power and gives it back: each block of the write cache had reached the media, or
    /// not, as the seed decides. Registers are as after power on.
    pub fn lose_power(&self) {
        let mut machine = self.machine();
        machine.power_cycles += 1;
        machine.lose_power();
    }

    /// Another size of a namespace, in bytes of media; an event tells the host where it asked.
    pub fn resize_namespace(&self, nsid: u32, bytes: u64) {
        let mut machine = self.machine();
        if let Some(media) = machine.media.get_mut(&nsid) {
            media.resize(bytes);
            machine.namespace_changed(nsid);
        }
    }

    /// Attaches another namespace with the lowest free identifier, which is returned.
    pub fn add_namespace(&self, namespace: &SoftNamespace) -> u32 {
        let mut machine = self.machine();
        let free = (1..).find(|nsid| !machine.media.contains_key(nsid));
        let nsid = free.unwrap_or(u32::MAX);
        machine.media.insert(nsid, Media::new(namespace));
        machine.namespace_changed(nsid);
        nsid
    }

    /// Detaches a namespace, with what it holds.
    pub fn remove_namespace(&self, nsid: u32) {
        let mut machine = self.machine();
        if machine.media.remove(&nsid).is_some() {
            machine.namespace_changed(nsid);
        }
    }

    /// Changes the drive's health; events tell the host what it asked for.
    pub fn set_health(&self, health: SoftHealth) {
        let mut machine = self.machine();
        machine.health = health;
        machine.tell_health();
    }

    /// Whole blocks from `lba` on as a read would give them now. Nothing where there is no such
    /// namespace.
    pub fn read_media(&self, nsid: u32, lba: u64, to: &mut [u8]) {
        if let Some(media) = self.machine().media.get(&nsid) {
            media.read(lba, to);
        }
    }

    /// Calls `notify` after completions were posted to a queue of that interrupt vector, once a
    /// look. It must not call the controller.
    pub fn set_interrupt(&self, vector: u16, notify: impl Fn() + Send + 'static) {
        self.machine().interrupts.insert(vector, Box::new(notify));
    }
}

/// A thread that looks for a [`SoftController`]; ends, and waits for the end, when dropped.
pub struct SoftThread {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for SoftThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // The model's own panic is shown by its thread; dropping must not panic again.
            let _ = thread.join();
        }
    }
}
