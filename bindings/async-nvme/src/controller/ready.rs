//! Enabling, disabling and shutting down (Base 2.1, 3.5 and 3.6).

use penstock_nvme::register::{
    CC_CSS_ALL, CC_CSS_NVM, CSS_IO_COMMAND_SETS, CSS_NVM, Cap, Cc, Crto, Csts, OFFSET_CAP,
    OFFSET_CC, OFFSET_CRTO, OFFSET_CSTS, OFFSET_VS, SHST_COMPLETE,
};

use super::error::ControllerError;
use super::pace::Pace;
use crate::bar::Bar;

/// Time-outs of CAP and CRTO count in these.
const UNIT_NS: u64 = 500_000_000;
/// log2 of the entry sizes of the NVM command set (Base 2.1, 3.1.4.5).
const SQE_SHIFT: u8 = 6;
const CQE_SHIFT: u8 = 4;

/// The status, where somebody answers. Of a drive that was pulled out reads give all ones as a rule,
/// and zeroes on some machines (QEMU's among them). A status of zeroes is also that of a controller
/// that is disabled, but no controller's version is (Base 2.1, 3.1.4.2).
fn status(bar: &Bar) -> Result<Csts, ControllerError> {
    match bar.read32(OFFSET_CSTS) {
        u32::MAX => Err(ControllerError::Gone),
        0 if matches!(bar.read32(OFFSET_VS), 0 | u32::MAX) => Err(ControllerError::Gone),
        csts => Ok(Csts(csts)),
    }
}

/// Fails where the controller is gone or says that it failed.
pub(crate) fn check_alive(bar: &Bar, doing: &'static str) -> Result<Csts, ControllerError> {
    let csts = status(bar)?;
    if csts.cfs() {
        return Err(ControllerError::Fatal { doing });
    }
    Ok(csts)
}

/// As [`check_alive`], of a controller that was enabled and must still be: one that something else
/// reset has forgotten its queues.
pub(super) fn check_ready(bar: &Bar, doing: &'static str) -> Result<(), ControllerError> {
    if check_alive(bar, doing)?.rdy() {
        return Ok(());
    }
    Err(ControllerError::Forgot { doing })
}

/// Reads and checks the capabilities.
pub(crate) fn capabilities(bar: &Bar) -> Result<Cap, ControllerError> {
    status(bar)?;
    let value = bar.read64(OFFSET_CAP);
    let cap = Cap(value);
    if cap.mpsmin() > 0 {
        return Err(ControllerError::PageSize {
            page_min_bytes: 4096 << cap.mpsmin(),
        });
    }
    if cap.css() & (CSS_NVM | CSS_IO_COMMAND_SETS) == 0 {
        return Err(ControllerError::CommandSet { css: cap.css() });
    }
    Ok(cap)
}

/// How long the controller may take to become ready, nanoseconds (Base 2.1, 3.1.4.1 TO, 3.1.4.21).
fn ready_timeout_ns(bar: &Bar, cap: Cap) -> u64 {
    let with_media = if cap.crms() & 1 != 0 {
        u64::from(Crto(bar.read32(OFFSET_CRTO)).crwmt())
    } else {
        0
    };
    with_media.max(u64::from(cap.to())).max(1) * UNIT_NS
}

fn wait_for(
    bar: &Bar,
    pace: &dyn Pace,
    timeout_ns: u64,
    what: &'static str,
    reached: impl Fn(Csts) -> bool,
) -> Result<(), ControllerError> {
    let start = pace.now_ns();
    loop {
        let csts = status(bar)?;
        if reached(csts) {
            return Ok(());
        }
        let waited_ns = pace.now_ns().saturating_sub(start);
        if waited_ns > timeout_ns {
            return Err(ControllerError::NeverReady {
                what,
                waited_ms: waited_ns / 1_000_000,
                csts: csts.0,
            });
        }
        pace.pause();
    }
}

/// Disables the controller, whatever state it was left in: when this returns it reaches no memory
/// any more (Base 2.1, 3.5.1 and 3.7.2).
pub(super) fn disable(bar: &Bar, cap: Cap, pace: &dyn Pace) -> Result<(), ControllerError> {
    let timeout_ns = ready_timeout_ns(bar, cap);
    let cc = Cc(bar.read32(OFFSET_CC));
    if cc.0 == u32::MAX {
        return Err(ControllerError::Gone);
    }
    if cc.en() {
        // It must have become ready before it may be disabled, unless it failed.
        wait_for(bar, pace, timeout_ns, "ready to be disabled", |csts| {
            csts.rdy() || csts.cfs()
        })?;
        bar.write32(OFFSET_CC, cc.with_en(false).with_shn(0).0);
    }
    wait_for(bar, pace, timeout_ns, "disabled", |csts| !csts.rdy())
}

/// Enables the controller with pages of 4 KiB; its admin queue must have been programmed.
pub(super) fn enable(bar: &Bar, cap: Cap, pace: &dyn Pace) -> Result<(), ControllerError> {
    let css = if cap.css() & CSS_IO_COMMAND_SETS != 0 {
        CC_CSS_ALL
    } else {
        CC_CSS_NVM
    };
    let cc = Cc::default()
        .with_css(css)
        .with_mps(0)
        .with_iosqes(SQE_SHIFT)
        .with_iocqes(CQE_SHIFT)
        .with_en(true);
    bar.write32(OFFSET_CC, cc.0);
    let timeout_ns = ready_timeout_ns(bar, cap);
    wait_for(bar, pace, timeout_ns, "ready", |csts| {
        csts.rdy() || csts.cfs()
    })?;
    check_alive(bar, "being enabled").map(|_| ())
}

/// Tells the controller that power may go, and waits until it is ready for it (Base 2.1, 3.6.1).
pub(super) fn shut_down(
    bar: &Bar,
    pace: &dyn Pace,
    timeout_ns: u64,
) -> Result<(), ControllerError> {
    let cc = Cc(bar.read32(OFFSET_CC));
    if cc.0 == u32::MAX {
        return Err(ControllerError::Gone);
    }
    bar.write32(OFFSET_CC, cc.with_shn(1).0);
    wait_for(bar, pace, timeout_ns, "shut down", |csts| {
        csts.shst() == SHST_COMPLETE
    })
}
