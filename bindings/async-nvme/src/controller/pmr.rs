//! The persistent memory region (Base 2.1, 8.2.4): controller memory that outlives a loss of power.

use std::sync::Arc;

use penstock_nvme::pcie::{
    OFFSET_PMRCAP, OFFSET_PMRCTL, OFFSET_PMRMSCL, OFFSET_PMRMSCU, OFFSET_PMRSTS, PMRCTL_EN,
    PMRMSCL_CMSE, PMRSTS_CBAI, PMRSTS_NRDY, Pmrcap,
};
use penstock_nvme::register::OFFSET_CSTS;

use super::{Controller, ControllerError, cmb};
use crate::cmb::{CmbAbilities, CmbError, ControllerMapping, ControllerMemoryPool};

/// Unit of PMRCAP.PMRTO (Base 2.1, 3.1.4.22): 500 ms, or minutes.
const HALF_SECOND_NS: u64 = 500_000_000;
const MINUTE_NS: u64 = 60_000_000_000;
/// PMRCAP.PMRWBM bit: a read of PMRSTS makes writes before it persistent.
const BARRIER_BY_STATUS: u8 = 1 << 1;
/// PMRSTS.ERR (Base 2.1, 3.1.4.24): what was written may not have become persistent.
const STATUS_ERROR: u32 = 0xff;

/// Where a persistent memory region is and what it can do (Base 2.1, 3.1.4.22). It is as long as
/// its base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PmrLayout {
    /// Base address register that is the region.
    pub bar_index: u8,
    /// What may lie in it; never queues nor lists.
    pub abilities: CmbAbilities,
    /// How long it may take to become ready, in nanoseconds.
    pub timeout_ns: u64,
    /// Whether [`Controller::persist`] makes writes persistent; otherwise a read of the region does.
    pub barrier_by_status: bool,
}

impl PmrLayout {
    /// From the register.
    #[must_use]
    pub fn of(capabilities: Pmrcap) -> PmrLayout {
        let unit = match capabilities.pmrtu() {
            0 => HALF_SECOND_NS,
            _ => MINUTE_NS,
        };
        // Commands can address the region only by PMRMSC.
        let data = capabilities.cmss();
        PmrLayout {
            bar_index: capabilities.bir(),
            abilities: CmbAbilities {
                read_data: data && capabilities.rds(),
                write_data: data && capabilities.wds(),
                ..CmbAbilities::default()
            },
            timeout_ns: u64::from(capabilities.pmrto()).max(1) * unit,
            barrier_by_status: capabilities.pmrwbm() & BARRIER_BY_STATUS != 0,
        }
    }
}

impl Controller {
    /// Where the persistent memory region is and what it can do; `None` where there is none.
    #[must_use]
    pub fn persistent_memory_layout(&self) -> Option<PmrLayout> {
        let capabilities = || Pmrcap(self.bar.read32(OFFSET_PMRCAP));
        self.cap.pmrs().then(|| PmrLayout::of(capabilities()))
    }

    /// Enables the persistent memory region: `mapping` is where it is mapped here, `device_address`
    /// where commands shall address it.
    ///
    /// # Errors
    /// [`CmbError::Unable`] where the controller has none or refuses the address,
    /// [`ControllerError::NeverReady`].
    pub fn use_persistent_memory(
        &mut self,
        mapping: ControllerMapping,
        device_address: u64,
    ) -> Result<Arc<ControllerMemoryPool>, ControllerError> {
        let layout = self
            .persistent_memory_layout()
            .ok_or(CmbError::Unable { what: "anything" })?;
        self.program_pmr(layout, device_address)?;
        self.pmr_address = Some(device_address);
        cmb::lend(&self.regions, mapping, device_address, layout.abilities).map_err(Into::into)
    }

    /// After a reset: the region as it was used before.
    pub(super) fn program_pmr_again(&self) -> Result<(), ControllerError> {
        match (self.persistent_memory_layout(), self.pmr_address) {
            (Some(layout), Some(address)) => self.program_pmr(layout, address),
            _ => Ok(()),
        }
    }

    fn program_pmr(&self, layout: PmrLayout, device_address: u64) -> Result<(), ControllerError> {
        let commands = layout.abilities.read_data || layout.abilities.write_data;
        if commands {
            let [a, b, c, d, e, f, g, h] = device_address.to_le_bytes();
            let low = u32::from_le_bytes([a, b, c, d]) & !0xfff;
            self.bar
                .write32(OFFSET_PMRMSCU, u32::from_le_bytes([e, f, g, h]));
            self.bar.write32(OFFSET_PMRMSCL, low | PMRMSCL_CMSE);
        }
        self.bar.write32(OFFSET_PMRCTL, PMRCTL_EN);
        let start = self.pace.now_ns();
        loop {
            let status = self.bar.read32(OFFSET_PMRSTS);
            if status == u32::MAX {
                return Err(ControllerError::Gone);
            }
            if status & PMRSTS_NRDY == 0 {
                if commands && status & PMRSTS_CBAI != 0 {
                    let what = "anything at the address it was given";
                    return Err(CmbError::Unable { what }.into());
                }
                return Ok(());
            }
            let waited_ns = self.pace.now_ns().saturating_sub(start);
            if waited_ns > layout.timeout_ns {
                return Err(ControllerError::NeverReady {
                    what: "ready with its persistent memory",
                    waited_ms: waited_ns / 1_000_000,
                    csts: self.bar.read32(OFFSET_CSTS),
                });
            }
            self.pace.pause();
        }
    }

    /// Makes what was written to the persistent memory region so far persistent, where
    /// [`PmrLayout::barrier_by_status`]; whether it says that all of it is.
    #[must_use]
    pub fn persist(&self) -> bool {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        let status = self.bar.read32(OFFSET_PMRSTS);
        status & (STATUS_ERROR | PMRSTS_NRDY) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_register_tells_the_layout() {
        let all = Pmrcap::default()
            .with_bir(4)
            .with_rds(true)
            .with_wds(true)
            .with_pmrto(3)
            .with_pmrwbm(2);
        let layout = PmrLayout::of(all);
        assert_eq!((layout.bar_index, layout.timeout_ns), (4, 1_500_000_000));
        assert!(layout.barrier_by_status);
        // Commands have no address for it.
        assert_eq!(layout.abilities, CmbAbilities::default());
        let layout = PmrLayout::of(all.with_cmss(true).with_wds(false).with_pmrtu(1));
        assert!(layout.abilities.read_data && !layout.abilities.write_data);
        assert_eq!(layout.timeout_ns, 180_000_000_000);
    }
}
