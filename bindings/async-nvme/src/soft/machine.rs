//! The controller's state and one look of it at the world.

use std::collections::BTreeMap;
use std::sync::Arc;

use penstock_nvme::event::AsyncEvent;
use penstock_nvme::register::{Cap, Cc, Csts, OFFSET_CAP, OFFSET_CRTO, OFFSET_VS};
use penstock_nvme::{Sqe, Status, register};

use super::bus::{Bus, Moved, Window};
use super::config::SoftConfig;
use super::event::Events;
use super::fault::{ControllerFaults, Fault, FaultRates, Rule};
use super::feature::{Features, SoftHealth};
use super::iommu::{SoftIommu, Violations};
use super::log::{Changed, ErrorLog};
use super::media::Media;
use super::memory::Memory;
use super::pointers::Segment;
use super::queue::{Cq, Sq};
use super::random::Random;
use super::registers::Phase;
use super::stats::SoftStats;

/// Result of a command: dword 0 of its completion, or its status.
pub(super) type Answer = Result<u32, Status>;

/// A command fetched and not completed.
pub(super) struct Running {
    pub(super) queue: u16,
    pub(super) sqe: Sqe,
    /// The second command of a fused operation.
    pub(super) second: Option<Sqe>,
    /// When it is executed and completed.
    pub(super) due: u64,
    pub(super) fault: Option<Fault>,
}

pub(super) struct Machine {
    pub(super) config: SoftConfig,
    pub(super) registers: Arc<Memory>,
    pub(super) bus: Bus,
    pub(super) random: Random,
    pub(super) now: u64,
    pub(super) cap: Cap,
    pub(super) cc: Cc,
    pub(super) csts: Csts,
    pub(super) phase: Phase,
    pub(super) shutdown_at: Option<u64>,
    /// CMBMSC, PMRCTL and PMRMSC as last looked at.
    pub(super) own_memory_seen: [u64; 3],
    /// What the registers say that a host only reads.
    pub(super) read_only: [u32; 7],
    pub(super) sqs: Vec<Option<Sq>>,
    pub(super) cqs: Vec<Option<Cq>>,
    pub(super) running: Vec<Running>,
    pub(super) features: Features,
    pub(super) events: Events,
    pub(super) errors: ErrorLog,
    pub(super) media: BTreeMap<u32, Media>,
    /// Shadow doorbells and event indexes (Base 2.1, 5.2.5).
    pub(super) shadow: Option<(u64, u64)>,
    pub(super) rule: Option<Rule>,
    pub(super) rates: FaultRates,
    pub(super) faults: ControllerFaults,
    pub(super) stats: SoftStats,
    /// What registers read as once the drive is pulled out.
    pub(super) absent_reads: u32,
    /// Data of the command at work.
    pub(super) scratch: Vec<u8>,
    pub(super) segments: Vec<Segment>,
    pub(super) interrupts: BTreeMap<u16, Box<dyn Fn() + Send>>,
    pub(super) health: SoftHealth,
    /// Critical warnings that events told of.
    pub(super) warned: u8,
    /// Namespaces that changed since the host read the log page.
    pub(super) changed: Changed,
    pub(super) bytes_read: u64,
    pub(super) bytes_written: u64,
    pub(super) media_errors: u64,
    pub(super) power_cycles: u64,
    /// What the look at work did.
    pub(super) work: u32,
}

impl Machine {
    pub(super) fn new(config: SoftConfig, parts: Parts) -> Machine {
        let queues = usize::from(config.io_queues_max.clamp(1, 255)) + 1;
        let cmb = config.cmb.as_ref().zip(parts.cmb);
        let cmb = cmb.map(|(cmb, memory)| Window {
            memory,
            offset: cmb.offset,
            len: cmb.bytes,
            address: cmb.legacy.then_some(cmb.bus_address + cmb.offset as u64),
        });
        let pmr = config.pmr_bytes.zip(parts.pmr);
        let pmr = pmr.map(|(len, memory)| Window {
            memory,
            offset: 0,
            len,
            address: None,
        });
        let mut machine = Machine {
            registers: parts.registers,
            bus: Bus {
                iommu: parts.iommu,
                violations: parts.violations,
                cmb,
                pmr,
                removed: false,
                moved: Moved::default(),
            },
            random: Random::new(config.seed),
            now: 0,
            cap: config.cap(),
            cc: Cc::default(),
            csts: Csts::default(),
            phase: Phase::Disabled,
            shutdown_at: None,
            own_memory_seen: [0; 3],
            read_only: [0; 7],
            sqs: (0..queues).map(|_| None).collect(),
            cqs: (0..queues).map(|_| None).collect(),
            running: Vec::new(),
            features: Features::new(&config),
            events: Events::new(config.event_requests_max),
            errors: ErrorLog::default(),
            media: (1..)
                .zip(config.namespaces.iter().map(Media::new))
                .collect(),
            shadow: None,
            rule: None,
            rates: FaultRates::default(),
            faults: ControllerFaults::default(),
            stats: SoftStats::default(),
            absent_reads: u32::MAX,
            scratch: Vec::new(),
            segments: Vec::new(),
            interrupts: BTreeMap::new(),
            health: SoftHealth::default(),
            warned: 0,
            changed: Changed::new(),
            bytes_read: 0,
            bytes_written: 0,
            media_errors: 0,
            power_cycles: 1,
            work: 0,
            config,
        };
        machine.place_registers();
        machine
    }

    /// Writes all registers as they are after power on.
    pub(super) fn place_registers(&mut self) {
        for offset in (0..self.registers.len()).step_by(4) {
            self.registers
                .word(offset)
                .store(0, std::sync::atomic::Ordering::Relaxed);
        }
        self.set64(OFFSET_CAP, self.cap.0);
        self.set32(OFFSET_VS, self.config.version);
        if self.cap.crms() != 0 {
            let crto = register::Crto::default().with_crwmt(u16::from(self.config.timeout));
            self.set32(OFFSET_CRTO, crto.0);
        }
        self.own_memory_seen = [0; 3];
        self.place_own_memory();
        self.note_read_only();
        self.clear_doorbells();
        self.publish_status();
    }

    /// One look: registers, doorbells, commands, events. What was done: 0 is nothing.
    pub(super) fn step(&mut self, now_ns: u64) -> u32 {
        self.now = self.now.max(now_ns);
        self.work = 0;
        if self.bus.removed {
            self.show_absence();
            return 0;
        }
        self.look_at_registers();
        if self.works() {
            self.look_at_doorbells();
            self.fetch();
            self.run();
            self.deliver_events();
            self.interrupt();
        }
        self.work
    }

    /// Whether commands are processed.
    pub(super) fn works(&self) -> bool {
        self.phase == Phase::Ready
            && !self.bus.removed
            && !self.csts.cfs()
            && self.csts.shst() == register::SHST_NORMAL
    }

    /// What a controller level reset does whatever its cause (Base 2.1, 3.7.2).
    pub(super) fn forget_commands(&mut self) {
        self.sqs.iter_mut().for_each(|sq| *sq = None);
        self.cqs.iter_mut().for_each(|cq| *cq = None);
        self.running.clear();
        self.events = Events::new(self.config.event_requests_max);
        self.features = Features::new(&self.config);
        self.shadow = None;
        self.bus.scramble_cmb();
        self.clear_doorbells();
    }

    /// The controller cannot go on: CSTS.CFS (Base 2.1, 9.5).
    pub(super) fn fail(&mut self) {
        self.csts = self.csts.with_cfs(true);
        self.publish_status();
    }

    /// The drive is pulled out: what was not durable is lost, and no access gets anywhere.
    pub(super) fn remove(&mut self, reads: u32) {
        self.lose_power();
        self.bus.removed = true;
        self.absent_reads = reads;
        self.show_absence();
    }

    /// The power goes and comes back.
    pub(super) fn lose_power(&mut self) {
        for media in self.media.values_mut() {
            media.lose_power(&mut self.random);
        }
        self.forget_commands();
        self.start_over();
    }

    /// Registers and state as after power on.
    pub(super) fn start_over(&mut self) {
        self.cc = Cc::default();
        self.csts = Csts::default();
        self.phase = Phase::Disabled;
        self.shutdown_at = None;
        self.place_registers();
    }

    /// The host did what it must not; `event` tells it, where there is one.
    pub(super) fn violated(&mut self, text: String, event: Option<AsyncEvent>) {
        self.bus.violations.add(text);
        if let Some(event) = event {
            self.events.add(event);
        }
    }
}

/// What the model shares with its users.
pub(super) struct Parts {
    pub(super) registers: Arc<Memory>,
    pub(super) cmb: Option<Arc<Memory>>,
    pub(super) pmr: Option<Arc<Memory>>,
    pub(super) iommu: Arc<SoftIommu>,
    pub(super) violations: Arc<Violations>,
}
