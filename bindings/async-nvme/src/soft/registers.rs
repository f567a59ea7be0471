//! Registers: enabling, reset and shutdown, controller memory (Base 2.1, 3.1.4, 3.5 to 3.7).

use std::sync::atomic::Ordering;

use penstock_nvme::pcie::{self, Aqa, Cmbloc, Cmbmsc, Cmbsz, Pmrcap};
use penstock_nvme::register::{
    self, Cc, Csts, OFFSET_CC, OFFSET_CSTS, OFFSET_NSSR, SHST_COMPLETE, SHST_OCCURRING, Shutdown,
};

use super::bus::Kind;
use super::machine::Machine;
use super::queue::{Cq, Place, Sq};

/// Where the controller is between disabled and ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Disabled,
    Enabling { at: u64 },
    Ready,
    Disabling { at: u64 },
}

fn offset(register: u32) -> usize {
    usize::try_from(register).unwrap_or(usize::MAX)
}

impl Machine {
    pub(super) fn get32(&self, register: u32) -> u32 {
        u32::from_le(
            self.registers
                .word(offset(register))
                .load(Ordering::Acquire),
        )
    }

    pub(super) fn set32(&self, register: u32, value: u32) {
        self.registers
            .word(offset(register))
            .store(value.to_le(), Ordering::Release);
    }

    pub(super) fn get64(&self, register: u32) -> u64 {
        u64::from(self.get32(register)) | u64::from(self.get32(register + 4)) << 32
    }

    pub(super) fn set64(&self, register: u32, value: u64) {
        let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
        self.set32(register, u32::from_le_bytes([a, b, c, d]));
        self.set32(register + 4, u32::from_le_bytes([e, f, g, h]));
    }

    pub(super) fn publish_status(&self) {
        self.set32(OFFSET_CSTS, self.csts.0);
    }

    /// All registers read alike, as when no device answers.
    pub(super) fn show_absence(&self) {
        for at in (0..self.registers.len()).step_by(4) {
            let value = self.absent_reads;
            self.registers.word(at).store(value, Ordering::Release);
        }
    }

    pub(super) fn look_at_registers(&mut self) {
        self.look_at_subsystem_reset();
        self.look_at_read_only();
        self.look_at_status();
        self.look_at_configuration();
        self.look_at_own_memory();
        self.let_time_pass();
    }

    /// Base 2.1, 3.1.4.7.
    fn look_at_subsystem_reset(&mut self) {
        let written = self.get32(OFFSET_NSSR);
        if written == 0 {
            return;
        }
        self.work += 1;
        self.set32(OFFSET_NSSR, 0);
        if written == register::NSSR_RESET && self.config.subsystem_reset {
            self.forget_commands();
            self.start_over();
            self.csts = Csts::default().with_nssro(true);
            self.publish_status();
        }
    }

    /// Registers that a host only reads, and what they say.
    const READ_ONLY: [u32; 7] = [
        register::OFFSET_CAP,
        register::OFFSET_CAP + 4,
        register::OFFSET_VS,
        register::OFFSET_CRTO,
        pcie::OFFSET_CMBLOC,
        pcie::OFFSET_CMBSZ,
        pcie::OFFSET_PMRCAP,
    ];

    /// Notes what the registers that a host only reads say now.
    pub(super) fn note_read_only(&mut self) {
        self.read_only = Self::READ_ONLY.map(|register| self.get32(register));
    }

    fn look_at_read_only(&mut self) {
        for (register, value) in Self::READ_ONLY.into_iter().zip(self.read_only) {
            let written = self.get32(register);
            if written != value {
                self.set32(register, value);
                let text =
                    format!("wrote {written:#x} to register {register:#x}, which is read only");
                self.violated(text, None);
            }
        }
    }

    /// CSTS is written to clear NSSRO only.
    fn look_at_status(&mut self) {
        let written = Csts(self.get32(OFFSET_CSTS));
        if written == self.csts {
            return;
        }
        if written.nssro() {
            self.csts = self.csts.with_nssro(false);
        } else {
            let text = format!("wrote {:#x} to CSTS, which is read only", written.0);
            self.violated(text, None);
        }
        self.publish_status();
    }

    fn look_at_configuration(&mut self) {
        let (old, new) = (self.cc, Cc(self.get32(OFFSET_CC)));
        if new == old {
            return;
        }
        self.work += 1;
        self.cc = new;
        let shutdown = new.shutdown();
        if shutdown != old.shutdown() && shutdown != Shutdown::None {
            self.csts = self.csts.with_shst(SHST_OCCURRING);
            self.shutdown_at = Some(self.now.saturating_add(self.config.shutdown_after_ns));
            self.publish_status();
        }
        match (old.en(), new.en()) {
            (false, true) => self.enable(),
            (true, false) => self.disable(),
            (true, true) => {
                let fixed = |cc: Cc| (cc.mps(), cc.css(), cc.ams());
                if fixed(old) != fixed(new) {
                    let text = format!("changed CC from {:#x} to {:#x}", old.0, new.0);
                    self.violated(format!("{text} while enabled"), None);
                }
            }
            (false, false) => {}
        }
    }

    fn enable(&mut self) {
        if self.phase != Phase::Disabled {
            let text = "set CC.EN before CSTS.RDY was cleared".to_owned();
            self.violated(text, None);
        }
        if self.cc.shutdown() == Shutdown::None {
            // A shutdown while disabled ends here (Base 2.1, 3.6.1).
            self.shutdown_at = None;
            self.csts = self.csts.with_shst(register::SHST_NORMAL);
            self.publish_status();
        }
        self.forget_commands();
        self.phase = Phase::Enabling {
            at: self.now.saturating_add(self.config.ready_after_ns),
        };
        if let Err(text) = self.make_admin_queues() {
            self.violated(text, None);
            self.fail();
        }
    }

    /// Controller Reset: queues and commands are gone; AQA, ASQ, ACQ and controller memory stay
    /// (Base 2.1, 3.7.2).
    fn disable(&mut self) {
        self.forget_commands();
        self.phase = Phase::Disabling {
            at: self.now.saturating_add(self.config.disable_after_ns),
        };
    }

    fn make_admin_queues(&mut self) -> Result<(), String> {
        let (cc, cap) = (self.cc, self.cap);
        let css = match cc.css() {
            register::CC_CSS_NVM => true,
            register::CC_CSS_ALL => self.config.command_sets,
            _ => false,
        };
        if !css || cc.ams() != 0 || cc.crime() {
            return Err(format!("enabled with CC {:#x}, which CAP denies", cc.0));
        }
        if cc.mps() < cap.mpsmin() || cc.mps() > cap.mpsmax() {
            return Err(format!("enabled with CC.MPS {}, beyond CAP's", cc.mps()));
        }
        let aqa = Aqa(self.get32(pcie::OFFSET_AQA));
        let (asq, acq) = (self.get64(pcie::OFFSET_ASQ), self.get64(pcie::OFFSET_ACQ));
        let page = self.page_bytes();
        if aqa.asqs() == 0 || aqa.acqs() == 0 {
            return Err(format!("enabled with AQA {:#x}: too few entries", aqa.0));
        }
        if !asq.is_multiple_of(page) || !acq.is_multiple_of(page) {
            return Err(format!(
                "admin queues at {asq:#x} and {acq:#x}: not at pages"
            ));
        }
        let (sq, cq) = (u32::from(aqa.asqs()) + 1, u32::from(aqa.acqs()) + 1);
        let allowed = |address, own| match self.bus.kind(address) {
            Kind::Host => true,
            Kind::Cmb => own,
            Kind::Pmr => false,
        };
        let cmb = self.config.cmb.as_ref();
        if !allowed(asq, cmb.is_some_and(|cmb| cmb.sqs))
            || !allowed(acq, cmb.is_some_and(|cmb| cmb.cqs))
        {
            return Err("admin queue in controller memory that takes none".to_owned());
        }
        if !self.bus.reaches(asq, sq as usize * 64) || !self.bus.reaches(acq, cq as usize * 16) {
            return Err("admin queue in memory that is not mapped".to_owned());
        }
        self.sqs[0] = Some(Sq::new(Place::contiguous(asq), sq, 0, self.bus.kind(asq)));
        self.cqs[0] = Some(Cq::new(Place::contiguous(acq), cq, Some(0)));
        Ok(())
    }

    /// Bytes of a memory page.
    pub(super) fn page_bytes(&self) -> u64 {
        4096 << self.cc.mps()
    }

    fn let_time_pass(&mut self) {
        match self.phase {
            Phase::Enabling { at }
                if self.now >= at && !self.csts.cfs() && !self.faults.never_ready =>
            {
                self.phase = Phase::Ready;
                self.csts = self.csts.with_rdy(true);
                self.stats.enabled += 1;
                self.publish_status();
                self.work += 1;
            }
            Phase::Disabling { at } if self.now >= at && !self.faults.never_disabled => {
                self.phase = Phase::Disabled;
                self.csts = Csts::default().with_nssro(self.csts.nssro());
                self.shutdown_at = None;
                self.publish_status();
                self.work += 1;
            }
            _ => {}
        }
        let done = self.shutdown_at.is_some_and(|at| self.now >= at);
        if done && !self.faults.stuck_in_shutdown {
            self.shutdown_at = None;
            self.media.values_mut().for_each(|media| media.flush());
            self.csts = self.csts.with_shst(SHST_COMPLETE);
            self.publish_status();
            self.work += 1;
        }
    }

    fn look_at_own_memory(&mut self) {
        let seen = [
            self.get64(pcie::OFFSET_CMBMSC),
            u64::from(self.get32(pcie::OFFSET_PMRCTL)),
            u64::from(self.get32(pcie::OFFSET_PMRMSCL))
                | u64::from(self.get32(pcie::OFFSET_PMRMSCU)) << 32,
        ];
        if seen != self.own_memory_seen {
            self.own_memory_seen = seen;
            self.work += 1;
            self.place_own_memory();
        }
    }

    /// Makes registers and windows what CMBMSC, PMRCTL and PMRMSC say.
    pub(super) fn place_own_memory(&mut self) {
        let [msc, pmrctl, pmrmsc] = self.own_memory_seen;
        if self.cap.pmrs() {
            self.place_pmr(pmrctl, pmrmsc);
        }
        let Some(cmb) = self.config.cmb.clone() else {
            return;
        };
        let msc = Cmbmsc(msc);
        let units = |bytes: usize| u32::try_from(bytes / 4096).unwrap_or(0);
        let location = Cmbloc::default()
            .with_bir(2)
            .with_ofst(units(cmb.offset))
            .with_cdpmls(cmb.lists)
            .with_cdpcils(true)
            .with_cdmmms(cmb.mixed_data);
        let size = Cmbsz::default()
            .with_sqs(cmb.sqs)
            .with_cqs(cmb.cqs)
            .with_lists(cmb.lists)
            .with_rds(cmb.rds)
            .with_wds(cmb.wds)
            .with_sz(units(cmb.bytes));
        // Whatever CMBMSC.CRE says: a host reads them right after it has set the bit, before the
        // next look.
        self.set32(pcie::OFFSET_CMBLOC, location.0);
        self.set32(pcie::OFFSET_CMBSZ, size.0);
        if cmb.legacy {
            return;
        }
        let base = msc.cba() << 12;
        let asked = msc.cre() && msc.cmse();
        let fits = base.checked_add(cmb.bytes as u64).is_some();
        if let Some(window) = self.bus.cmb.as_mut() {
            window.address = (asked && fits).then_some(base);
        }
        let invalid = asked && !fits;
        self.set32(
            pcie::OFFSET_CMBSTS,
            if invalid { pcie::CMBSTS_CBAI } else { 0 },
        );
    }

    fn place_pmr(&mut self, pmrctl: u64, pmrmsc: u64) {
        let capabilities = Pmrcap::default()
            .with_bir(4)
            .with_rds(true)
            .with_wds(true)
            .with_cmss(true)
            .with_pmrwbm(0b11)
            .with_pmrto(self.config.timeout);
        self.set32(pcie::OFFSET_PMRCAP, capabilities.0);
        let enabled = pmrctl & u64::from(pcie::PMRCTL_EN) != 0;
        let mut status = if enabled { 0 } else { pcie::PMRSTS_NRDY };
        let asked = pmrmsc & u64::from(pcie::PMRMSCL_CMSE) != 0;
        let base = pmrmsc & !0xfff;
        if let Some(window) = self.bus.pmr.as_mut() {
            let fits = base.checked_add(window.len as u64).is_some();
            if asked && !fits {
                status |= pcie::PMRSTS_CBAI;
            }
            window.address = (enabled && asked && fits).then_some(base);
        }
        self.set32(pcie::OFFSET_PMRSTS, status);
    }
}
