//! The controller memory buffer's registers, and lending what lies behind them.

use std::sync::Arc;

use penstock_nvme::pcie::{
    CMBSTS_CBAI, Cmbloc, Cmbmsc, Cmbsz, OFFSET_CMBLOC, OFFSET_CMBMSC, OFFSET_CMBSTS, OFFSET_CMBSZ,
};
use penstock_nvme::register::Cap;

use super::pace::Pace;
use crate::bar::Bar;
use crate::cmb::{CmbAbilities, CmbError, CmbLayout, ControllerMapping, ControllerMemoryPool};
use crate::dma::{DmaError, Region, Regions};

/// Pauses that a register gets to follow another.
const REGISTER_PAUSES: u32 = 10;
/// Memory is given out by these: the driver's page size.
const PAGE_BYTES: usize = 4096;

/// Where the buffer lies and what it can do. Turns its registers on where the controller is of NVMe
/// 1.4 or later (Base 2.1, 8.2.1).
pub(crate) fn layout(bar: &Bar, cap: Cap, pace: &dyn Pace) -> Option<CmbLayout> {
    let layout = || {
        CmbLayout::of(
            Cmbloc(bar.read32(OFFSET_CMBLOC)),
            Cmbsz(bar.read32(OFFSET_CMBSZ)),
        )
    };
    if !cap.cmbs() {
        return layout();
    }
    let control = Cmbmsc(bar.read64(OFFSET_CMBMSC));
    if !control.cre() {
        bar.write64(OFFSET_CMBMSC, control.with_cre(true).0);
    }
    // The specification gives no time within which the registers must follow.
    for _ in 0..REGISTER_PAUSES {
        if let Some(layout) = layout() {
            return Some(layout);
        }
        pace.pause();
    }
    None
}

/// Tells the controller where commands address its buffer; nothing before NVMe 1.4.
pub(crate) fn place(
    bar: &Bar,
    cap: Cap,
    pace: &dyn Pace,
    device_address: u64,
) -> Result<(), CmbError> {
    if !cap.cmbs() {
        return Ok(());
    }
    let control = Cmbmsc::default()
        .with_cba(device_address >> 12)
        .with_cre(true);
    // Switched on only when the whole address is there: it is written by halves, and controllers
    // (QEMU's is one) look at the first that says CMSE.
    bar.write64(OFFSET_CMBMSC, control.0);
    bar.write64(OFFSET_CMBMSC, control.with_cmse(true).0);
    pace.pause();
    if bar.read32(OFFSET_CMBSTS) & CMBSTS_CBAI != 0 {
        let what = "anything at the address it was given";
        return Err(CmbError::Unable { what });
    }
    Ok(())
}

/// Gives out memory of the controller that commands address from `device_address`.
pub(crate) fn lend(
    regions: &Regions,
    mapping: ControllerMapping,
    device_address: u64,
    abilities: CmbAbilities,
) -> Result<Arc<ControllerMemoryPool>, DmaError> {
    if abilities.read_data || abilities.write_data {
        regions.add_own(region(&mapping, device_address))?;
    }
    Ok(ControllerMemoryPool::new(
        mapping,
        device_address,
        abilities,
        PAGE_BYTES,
    ))
}

/// As [`lend`], of memory whose contents no reset outlives.
pub(crate) fn lend_volatile(
    regions: &Regions,
    mapping: ControllerMapping,
    device_address: u64,
    abilities: CmbAbilities,
) -> Result<Arc<ControllerMemoryPool>, DmaError> {
    regions.set_volatile(region(&mapping, device_address));
    lend(regions, mapping, device_address, abilities)
}

fn region(mapping: &ControllerMapping, device_address: u64) -> Region {
    Region {
        start: mapping.base.addr().get(),
        len: mapping.len,
        device_address,
    }
}
